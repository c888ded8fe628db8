//! Where spans are sent, and what stands beside them.
//!
//! Owns the address of the collector, and the variables of OpenTelemetry's own libraries that say what no key does: who this process
//! is, and what a collector wants to see before it takes anything. As with those of the hub, a deployment that has set them for its other
//! services need not say them again, and a secret has no key that `--print-config` would have to leave out. Does not own what the libraries
//! themselves read of their variables: compression and the limits of a span.
//!
//! Invariants: no endpoint, no tracing, whatever the variables hold, and nothing in them is an error then; a value of a header is never
//! shown; reads the environment that it is handed.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use percent_encoding::percent_decode_str;
use url::Url;

use super::{error::ConfigError, secret::Secret};

/// Goes with every request to the collector; the second where the first is not there, as the libraries have it.
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
/// The attribute [`NAME`] alone.
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
/// What else is said of this process.
const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// What a collector tells services apart by.
const NAME: &str = "service.name";
const DEFAULT_NAME: &str = "clipserve";

/// Which spans are sent, and where.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    /// Where they are posted: `telemetry.otlp_endpoint`, with the path of traces behind it.
    pub endpoint: String,
    /// `telemetry.otlp_sample_ratio`: the part of the requests that come without a trace of which there are any.
    pub sample_ratio: f64,
    /// Names in lower case, and their values.
    pub headers: Vec<(String, Secret)>,
    /// `service.name` and whatever else is said of this process, by name.
    pub resource: BTreeMap<String, String>,
}

/// The variables, unread.
#[derive(Clone, Debug)]
pub(super) struct Variables<'a> {
    environment: &'a BTreeMap<OsString, OsString>,
}

impl<'a> Variables<'a> {
    pub(super) fn new(environment: &'a BTreeMap<OsString, OsString>) -> Self {
        Self { environment }
    }

    /// The configuration for an address that [`traces_at`] has made.
    ///
    /// # Errors
    /// One for each variable that cannot be read.
    pub(super) fn read(&self, endpoint: String, sample_ratio: f64) -> Result<OtlpConfig, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let variable = HEADERS.into_iter().find(|name| self.environment.contains_key(OsStr::new(name)));
        let variable = variable.unwrap_or(HEADERS[1]);
        let headers = self.pairs(variable, is_header);
        let headers =
            or_refuse(headers, variable, "headers such as \"authorization=Bearer%20token,x-tenant=a\"", &mut errors);
        let resource = self.pairs(RESOURCE, |name, _| !name.is_empty());
        let resource = or_refuse(resource, RESOURCE, "attributes such as \"k8s.pod.name=clipserve-0\"", &mut errors);
        let name = or_refuse(self.text(SERVICE_NAME), SERVICE_NAME, "a name", &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let mut resource: BTreeMap<String, String> = resource.into_iter().collect();
        if name.is_empty() {
            resource.entry(NAME.to_owned()).or_insert_with(|| DEFAULT_NAME.to_owned());
        } else {
            // Says more than the attribute does, as everywhere.
            resource.insert(NAME.to_owned(), name);
        }
        let headers = headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), Secret::new(value)));
        Ok(OtlpConfig { endpoint, sample_ratio, headers: headers.collect(), resource })
    }

    /// A variable's text, "" where there is none; `None` where it is not UTF-8.
    fn text(&self, variable: &str) -> Option<String> {
        let value = self.environment.get(OsStr::new(variable)).map(OsString::as_os_str).unwrap_or_default();
        Some(value.to_str()?.trim().to_owned())
    }

    /// The pairs in a variable, whose values are percent-encoded as W3C's baggage has them.
    fn pairs(&self, variable: &str, is_sound: impl Fn(&str, &str) -> bool) -> Option<Vec<(String, String)>> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode_str(value.trim()).decode_utf8().ok()?.into_owned();
            let name = name.trim().to_owned();
            is_sound(&name, &value).then_some((name, value))
        };
        self.text(variable)?.split(',').filter(|text| !text.trim().is_empty()).map(pair).collect()
    }
}

/// What was read; where nothing was, its default and an error.
fn or_refuse<T: Default>(read: Option<T>, variable: &'static str, allowed: &str, errors: &mut Vec<ConfigError>) -> T {
    read.unwrap_or_else(|| {
        let allowed = format!("{allowed}, percent-encoded where a value has a comma or is not printable ASCII");
        errors.push(ConfigError::Variable { variable, allowed });
        T::default()
    })
}

/// Whether HTTP can carry it.
fn is_header(name: &str, value: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token) && value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ')
}

/// Where a collector at the address `text` takes traces; `None` where that is no address, or has more in it than a host and a path.
pub(super) fn traces_at(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let is_plain =
        url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
    (is_plain && is_http).then(|| format!("{}/v1/traces", url.as_str().trim_end_matches('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(environment: &[(&str, &str)]) -> Result<OtlpConfig, Vec<String>> {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        let read = Variables::new(&environment).read("http://c/v1/traces".to_owned(), 1.0);
        read.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_endpoint_is_the_collectors_address_and_traces_go_below_it() {
        for (text, expected) in [
            ("http://localhost:4318", Some("http://localhost:4318/v1/traces")),
            ("http://localhost:4318/", Some("http://localhost:4318/v1/traces")),
            ("https://otlp.example.com/api/otlp/", Some("https://otlp.example.com/api/otlp/v1/traces")),
            ("http://[::1]:4318", Some("http://[::1]:4318/v1/traces")),
            ("localhost:4318", None),
            ("grpc://localhost:4317", None),
            ("http://", None),
            ("http://user:hunter2@localhost", None),
            ("http://localhost/?key=hunter2", None),
            ("http://localhost/#x", None),
        ] {
            assert_eq!(traces_at(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn headers_are_percent_decoded_and_never_shown() {
        let config = read(&[(HEADERS[1], " Authorization=Bearer%20hunter2 , x-tenant=a=b,")]).expect("sound");
        let headers: Vec<_> = config.headers.iter().map(|(name, value)| (name.as_str(), value.expose())).collect();
        assert_eq!(headers, [("authorization", "Bearer hunter2"), ("x-tenant", "a=b")]);
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        let config = read(&[(HEADERS[1], "a=1"), (HEADERS[0], "b=2")]).expect("sound");
        let names: Vec<_> = config.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b"], "what is for traces alone goes before what is for all");
    }

    #[test]
    fn the_service_has_a_name_whoever_gives_it() {
        let named = "service.name=attribute,deployment.environment.name=a%2Cb";
        for (environment, name) in [
            (&[][..], "clipserve"),
            (&[(RESOURCE, named)], "attribute"),
            (&[(RESOURCE, named), (SERVICE_NAME, "clip-l14")], "clip-l14"),
            (&[(RESOURCE, named), (SERVICE_NAME, "")], "attribute"),
        ] {
            let config = read(environment).expect("sound");
            assert_eq!(config.resource["service.name"], name, "{environment:?}");
            let deployment = config.resource.get("deployment.environment.name").map(String::as_str);
            assert_eq!(deployment, (!environment.is_empty()).then_some("a,b"));
        }
    }

    #[test]
    fn what_cannot_be_read_is_one_line_each_without_its_value() {
        for value in ["hunter2", "a b=hunter2", "=hunter2", "a=hunter2%0a", "a=hunter2%ff"] {
            let errors = read(&[(HEADERS[1], value), (RESOURCE, "hunter2")]).expect_err(value);
            assert_eq!(errors.len(), 2, "{errors:?}");
            assert!(errors[0].starts_with("environment variable OTEL_EXPORTER_OTLP_HEADERS: must be "), "{errors:?}");
            assert!(errors[1].starts_with("environment variable OTEL_RESOURCE_ATTRIBUTES: must be "), "{errors:?}");
            assert!(!errors.concat().contains("hunter2"), "{errors:?}");
        }
    }
}
