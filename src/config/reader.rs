//! One reader for each kind of value: an integer in a range, a size, a duration, one of several names...
//!
//! Owns the kinds, the words in which an error says what they take, and the collecting of errors. Does not own which key is of
//! which kind and range (`validate`), nor how values are spelt (`units`).
//!
//! Invariants: a reader never fails; a refused value is one error, and a stand-in takes its place, which is why a caller must
//! drop everything read when there are errors in the end.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use clap::ValueEnum;
use ipnet::IpNet;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{
    AllowedHosts, CorsOrigins, OpenPaths, OtlpConfig, Secret,
    address::without_passwords,
    cors::parse_origins,
    effective::{Effective, Entry},
    error::ConfigError,
    given::Given,
    hosts::{parse_hosts, parse_networks},
    hub::is_revision,
    layers::{Setting, Settings},
    open_paths::parse_open_paths,
    otlp::{Variables, traces_at},
    units::{format_bytes, format_duration, parse_bytes, parse_duration},
};

/// The key whose value is never shown.
const SECRET_KEY: &str = "server.api_key";

/// The key whose value may hold a password, although that is refused.
const ADDRESS_KEY: &str = "telemetry.otlp_endpoint";

/// Stands in for an address that could not be read.
const NO_ADDRESS: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));

/// What has been read so far, and what was wrong with it.
pub(super) struct Reader<'a> {
    settings: &'a Settings,
    /// In the order they were found.
    pub(super) errors: Vec<ConfigError>,
    /// In the order they were read.
    pub(super) entries: Vec<Entry>,
}

impl<'a> Reader<'a> {
    /// `errors` are those of the layers, which come first.
    pub(super) fn new(settings: &'a Settings, errors: Vec<ConfigError>) -> Self {
        Self { settings, errors, entries: Vec::new() }
    }

    /// The value of `key` as `parse` sees it, with what `--print-config` shows; `None` (and an error) where `parse` refuses.
    fn read<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        parse: impl FnOnce(&Given) -> Option<(T, Effective)>,
    ) -> Option<T> {
        let setting = self.settings.get(key);
        match parse(&setting.given) {
            Some((value, effective)) => {
                self.entries.push(Entry { key, effective, origin: setting.origin.clone() });
                Some(value)
            }
            None => {
                self.refuse(key, allowed.to_owned());
                None
            }
        }
    }

    /// Records that the value of `key` is not `allowed`.
    pub(super) fn refuse(&mut self, key: &'static str, allowed: String) {
        let Setting { given, origin } = self.settings.get(key);
        let value = match key {
            SECRET_KEY => "[redacted]".to_owned(),
            ADDRESS_KEY => without_passwords(&given.describe()),
            _ => given.describe(),
        };
        self.errors.push(ConfigError::Invalid { key, value, origin: origin.clone(), allowed });
    }

    pub(super) fn integer<T: TryFrom<u64> + Default>(&mut self, key: &'static str, range: RangeInclusive<u64>) -> T {
        let allowed = format!("an integer from {} to {}", range.start(), range.end());
        let value = self.read(key, &allowed, |given| {
            let integer = given.integer().filter(|integer| range.contains(integer))?;
            Some((T::try_from(integer).ok()?, Effective::integer(integer)?))
        });
        value.unwrap_or_default()
    }

    pub(super) fn auto(&mut self, key: &'static str, max: u64, automatic: usize) -> usize {
        self.asked(key, max, automatic).unwrap_or(automatic)
    }

    /// As [`Self::auto`]; `None` where nobody asked for a number.
    pub(super) fn asked(&mut self, key: &'static str, max: u64, automatic: usize) -> Option<usize> {
        self.auto_or(key, max, Effective::Auto(automatic))
    }

    /// As [`Self::auto`], of what is known only when the engine has started: `None` is automatic.
    pub(super) fn auto_later(&mut self, key: &'static str, max: u64) -> Option<usize> {
        self.auto_or(key, max, Effective::text("auto".to_owned()))
    }

    /// `None` is automatic, which is shown as `automatic`.
    fn auto_or(&mut self, key: &'static str, max: u64, automatic: Effective) -> Option<usize> {
        let allowed = format!("\"auto\" or an integer from 1 to {max}");
        let value = self.read(key, &allowed, |given| {
            if given.text() == Some("auto") {
                return Some((None, automatic));
            }
            let integer = given.integer().filter(|integer| (1..=max).contains(integer))?;
            Some((Some(usize::try_from(integer).ok()?), Effective::integer(integer)?))
        });
        value.flatten()
    }

    pub(super) fn bytes(&mut self, key: &'static str, range: RangeInclusive<u64>) -> usize {
        let (min, max) = (format_bytes(*range.start()), format_bytes(*range.end()));
        let allowed = format!("a size from {min} to {max}, in bytes or with a unit (B, KiB, MiB, GiB, TiB)");
        let value = self.read(key, &allowed, |given| {
            let bytes = given.integer().or_else(|| given.text().and_then(parse_bytes));
            let bytes = bytes.filter(|bytes| range.contains(bytes))?;
            Some((usize::try_from(bytes).ok()?, Effective::text(format_bytes(bytes))))
        });
        value.unwrap_or_default()
    }

    pub(super) fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>) -> Duration {
        let (min, max) = (format_duration(*range.start()), format_duration(*range.end()));
        let allowed = format!("a duration from {min} to {max}, with a unit (us, ms, s, m, h)");
        let value = self.read(key, &allowed, |given| {
            let duration = given.text().and_then(parse_duration).filter(|duration| range.contains(duration))?;
            Some((duration, Effective::text(format_duration(duration))))
        });
        value.unwrap_or_default()
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> bool {
        let value = self.read(key, "true or false", |given| {
            let boolean = given.boolean()?;
            Some((boolean, Effective::Value(toml::Value::Boolean(boolean))))
        });
        value.unwrap_or_default()
    }

    fn ratio(&mut self, key: &'static str) -> f64 {
        let value = self.read(key, "a number from 0 to 1", |given| {
            let ratio = given.number().filter(|ratio| (0.0..=1.0).contains(ratio))?;
            Some((ratio, Effective::Value(toml::Value::Float(ratio))))
        });
        value.unwrap_or_default()
    }

    fn text(&mut self, key: &'static str, allowed: &str, accept: impl FnOnce(&str) -> bool) -> String {
        let value = self.read(key, allowed, |given| {
            let text = given.text().filter(|text| accept(text))?.to_owned();
            Some((text.clone(), Effective::text(text)))
        });
        value.unwrap_or_default()
    }

    /// One of the variants, under the names that clap and serde know them by.
    pub(super) fn choice<T: ValueEnum>(&mut self, key: &'static str) -> T {
        let [first, ..] = T::value_variants() else { unreachable!("an enum of the configuration has variants") };
        let names = T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = names.map(|value| format!("{:?}", value.get_name())).collect();
        let value = self.read(key, &format!("one of {}", names.join(", ")), |given| {
            let name = given.text()?;
            Some((T::from_str(name, false).ok()?, Effective::text(name.to_owned())))
        });
        value.unwrap_or_else(|| first.clone())
    }

    pub(super) fn address(&mut self, key: &'static str) -> SocketAddr {
        let allowed = "an IP address and port, such as \"127.0.0.1:8080\" or \"[::]:8080\"";
        let value = self.read(key, allowed, |given| {
            let address: SocketAddr = given.text()?.parse().ok()?;
            Some((address, Effective::text(address.to_string())))
        });
        value.unwrap_or(NO_ADDRESS)
    }

    pub(super) fn optional_address(&mut self, key: &'static str) -> Option<SocketAddr> {
        if self.settings.get(key).given.text() == Some("") {
            return self.read(key, "", |_| Some((None, Effective::text(String::new())))).flatten();
        }
        Some(self.address(key))
    }

    /// [`SECRET_KEY`], which neither an error nor `--print-config` shows.
    pub(super) fn secret(&mut self) -> Option<Secret> {
        let allowed = "printable ASCII without blanks, 1024 bytes at most, or \"\" for none";
        let value = self.read(SECRET_KEY, allowed, |given| match given.text()? {
            "" => Some((None, Effective::text(String::new()))),
            // What a header can carry, so that the key can be presented at all.
            text if text.len() <= 1024 && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Some((Some(Secret::new(text.to_owned())), Effective::Secret))
            }
            _ => None,
        });
        value.flatten()
    }

    /// `bundled` is the model in the box, which "" stands for.
    pub(super) fn model_path(&mut self, key: &'static str, bundled: Option<PathBuf>) -> PathBuf {
        let allowed = "the model's directory or its id on the hub: give --model, model.path or CLIPSERVE__MODEL__PATH (there \
                       is no model in the box beside this executable)";
        // A tower that has a place of its own is a model, too.
        let settings = self.settings;
        let has_tower = ["model.vision", "model.text"].iter().any(|key| settings.get(key).given.text() != Some(""));
        let bundled = if has_tower { Some(PathBuf::new()) } else { bundled };
        let path = self.text(key, allowed, |text| !text.is_empty() || bundled.is_some());
        if path.is_empty() { bundled.unwrap_or_default() } else { path.into() }
    }

    pub(super) fn revision(&mut self, key: &'static str) -> String {
        self.text(key, "a branch, a tag or a commit on the hub", is_revision)
    }

    /// Part of a file's name, and of `/info`.
    pub(super) fn variant(&mut self, key: &'static str) -> Option<String> {
        let allowed =
            "letters, digits, \"_\", \"-\" and \".\", the first one a letter or digit, 64 at most; or \"\" for none";
        let variant = self.text(key, allowed, |text| {
            let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            text.len() <= 64 && text.bytes().all(known) && !text.starts_with(['_', '-', '.'])
        });
        Some(variant).filter(|variant| !variant.is_empty())
    }

    /// Names with commas between them.
    pub(super) fn names(&mut self, key: &'static str) -> Vec<String> {
        let allowed = "names of 256 bytes at most without control characters, with commas between them";
        let names = |text: &str| -> Vec<String> {
            text.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
        };
        let is_well = |text: &str| names(text).iter().all(|name| name.len() <= 256 && !name.contains(char::is_control));
        names(&self.text(key, allowed, is_well))
    }

    /// Origins of web pages.
    pub(super) fn origins(&mut self, key: &'static str) -> CorsOrigins {
        let allowed = "origins as browsers send them, such as \"https://app.example.com\" or \"http://localhost:3000\" (lower case, \
                       nothing behind the host but a port that is not the scheme's own), with commas between them; \"*\" alone for \
                       all of them, or \"\" for none";
        let value = self.read(key, allowed, |given| {
            let text = given.text()?;
            Some((parse_origins(text)?, Effective::text(text.to_owned())))
        });
        value.unwrap_or_default()
    }

    /// Hosts that pictures are fetched from.
    pub(super) fn hosts(&mut self, key: &'static str) -> AllowedHosts {
        self.list(key, "hosts such as \"images.example.com\", \"minio:9000\" or \"*.example.com\"", parse_hosts)
    }

    /// Paths that want no key.
    pub(super) fn open_paths(&mut self, key: &'static str) -> OpenPaths {
        self.list(key, "paths such as \"/predict\" or \"/v2/models/*\", or \"*\" alone", parse_open_paths)
    }

    /// Networks.
    pub(super) fn networks(&mut self, key: &'static str) -> Vec<IpNet> {
        self.list(key, "networks such as \"10.1.0.0/16\" or \"fd00:1::/64\"", parse_networks)
    }

    /// A list whose parser says what is wrong with it.
    fn list<T: Default>(&mut self, key: &'static str, of: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> T {
        let parsed = self.settings.get(key).given.text().map(parse);
        let fault = match &parsed {
            Some(Err(fault)) => format!(" ({fault})"),
            _ => String::new(),
        };
        let allowed = format!("{of}, with commas between them, or \"\" for none{fault}");
        let value = self.read(key, &allowed, |given| {
            Some((parsed.and_then(Result::ok)?, Effective::text(given.text()?.to_owned())))
        });
        value.unwrap_or_default()
    }

    /// Where spans are sent, and which of them; beside an endpoint the variables are read as well.
    pub(super) fn otlp(
        &mut self,
        endpoint: &'static str,
        sample_ratio: &'static str,
        variables: &Variables<'_>,
    ) -> Option<OtlpConfig> {
        let allowed = "the address of a collector, such as \"http://localhost:4318\", http or https and without a user, a query or a \
                       fragment (the key of a collector goes into OTEL_EXPORTER_OTLP_HEADERS), or \"\" for none";
        let text = self.text(endpoint, allowed, |text| text.is_empty() || traces_at(text).is_some());
        let sample_ratio = self.ratio(sample_ratio);
        match variables.read(traces_at(&text)?, sample_ratio) {
            Ok(otlp) => Some(otlp),
            Err(errors) => {
                self.errors.extend(errors);
                None
            }
        }
    }

    pub(super) fn model_name(&mut self, key: &'static str) -> Option<String> {
        let allowed =
            "a name of 256 bytes at most without control characters, or \"\" for the directory's name or the hub's id";
        let name = self.text(key, allowed, |text| text.len() <= 256 && !text.contains(char::is_control));
        Some(name).filter(|name| !name.is_empty())
    }

    pub(super) fn optional_path(&mut self, key: &'static str, allowed: &str) -> Option<PathBuf> {
        let path = self.text(key, allowed, |_| true);
        if path.is_empty() { None } else { Some(path.into()) }
    }

    pub(super) fn log_level(&mut self, key: &'static str) -> String {
        let allowed =
            "a level (off, error, warn, info, debug, trace) or a list such as \"info,ort=warn,clipserve=debug\"";
        self.text(key, allowed, |text| {
            // The filter takes any bare word for the name of a target, so that a misspelt level would silence everything else.
            let mut words = text.split(',').map(str::trim).filter(|part| !part.contains(['=', '[']));
            words.all(|word| !word.is_empty() && word.parse::<LevelFilter>().is_ok())
                && EnvFilter::try_new(text).is_ok()
        })
    }

    /// Whether neither of two keys has been refused.
    pub(super) fn are_sound(&self, one: &str, other: &str) -> bool {
        let failed =
            |error: &ConfigError| matches!(error, ConfigError::Invalid { key, .. } if *key == one || *key == other);
        !self.errors.iter().any(failed)
    }

    /// The value of `key` as given, and who gave it.
    pub(super) fn describe(&self, key: &str) -> String {
        let setting = self.settings.get(key);
        format!("{} ({})", setting.given.describe(), setting.origin)
    }
}
