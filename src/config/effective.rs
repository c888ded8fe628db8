//! What `--print-config` prints: every key with the value in effect, as TOML that can be fed back.
//!
//! Owns the rendering of what `validate` read. Values that are not defaults say where they came from, `auto` stays `auto` (the
//! file may go to another machine) and says what it means here, unless only the engine knows, a secret is left out.
//!
//! Invariant: the text, given as `--config` to a process with the same CPUs, yields the same configuration, but for the secrets.

use std::fmt::Write;

use super::error::Origin;

/// One key, as read.
pub(super) struct Entry {
    pub(super) key: &'static str,
    pub(super) effective: Effective,
    pub(super) origin: Origin,
}

/// How a value is shown.
pub(super) enum Effective {
    /// As it is.
    Value(toml::Value),
    /// `"auto"`, and what that came to.
    Auto(usize),
    /// Not at all.
    Secret,
}

impl Effective {
    pub(super) fn text(text: String) -> Self {
        Self::Value(toml::Value::String(text))
    }

    /// `None` past the range of TOML's integers.
    pub(super) fn integer(integer: u64) -> Option<Self> {
        i64::try_from(integer).ok().map(|integer| Self::Value(toml::Value::Integer(integer)))
    }
}

/// The entries under their sections' headers, in their own order, which keeps a section together.
pub(super) fn render(entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut current = "";
    for Entry { key, effective, origin } in entries {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        if section != current {
            let blank = if current.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{blank}[{section}]");
            current = section;
        }
        let mut notes = Vec::new();
        let line = match effective {
            Effective::Value(value) => format!("{name} = {value}"),
            Effective::Auto(value) => {
                notes.push(format!("{value} here"));
                format!("{name} = \"auto\"")
            }
            Effective::Secret => {
                notes.push("set, not shown".to_owned());
                format!("# {name} = \"\"")
            }
        };
        if *origin != Origin::Default {
            notes.push(format!("from {origin}").replace(char::is_control, " "));
        }
        let note = if notes.is_empty() { String::new() } else { format!(" # {}", notes.join(", ")) };
        let _ = writeln!(text, "{line}{note}");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsString, path::Path};

    use tempfile::NamedTempFile;

    use crate::config::{Loaded, Overrides, load};

    fn with(file: Option<&Path>, set: &[&str]) -> Loaded {
        let set = set.iter().map(ToString::to_string).collect();
        load(&Overrides { file: file.map(Path::to_owned), set, ..Overrides::default() }, []).unwrap()
    }

    const CHANGES: &[&str] = &[
        "model.path=/models/it's \"a\" \\ path",
        "model.name=Näme # 1",
        "server.listen=[::1]:0",
        "server.admin_listen=127.0.0.1:0",
        "limits.max_body_bytes=1000",
        "limits.max_pixels=123456789",
        "preprocess.threads=3",
        "preprocess.exif_orientation=false",
        "engine.precision=f16",
        "engine.library=/lib/x.so",
        "batch.vision.max_queue_delay=1500us",
        "telemetry.log_level=info,ort=warn",
    ];

    #[test]
    fn what_is_printed_and_fed_back_is_the_same_configuration() {
        for set in [&["model.path=m"][..], CHANGES] {
            let first = with(None, set);
            let file = NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &first.effective).unwrap();
            let second = with(Some(file.path()), &[]);
            assert_eq!(format!("{:?}", second.config), format!("{:?}", first.config));
        }
    }

    #[test]
    fn the_keys_and_sections_stand_in_the_order_of_the_default_file() {
        let names = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            lines.map(|line| line.split(" = ").next().unwrap_or_default().to_owned()).collect()
        };
        let default = names(crate::config::layers::DEFAULT_TOML);
        assert_eq!(names(&with(None, &["model.path=m"]).effective), default);
    }

    #[test]
    fn values_say_where_they_came_from_unless_they_are_defaults() {
        let env = [("CLIPSERVE__LIMITS__MAX_IMAGES", "5"), ("ORT_DYLIB_PATH", "/lib/x.so")];
        let overrides = Overrides { set: vec!["model.path=m".into()], ..Overrides::default() };
        let loaded = load(&overrides, env.map(|(name, value)| (OsString::from(name), OsString::from(value)))).unwrap();
        let lines: Vec<_> = loaded.effective.lines().collect();
        for line in [
            "max_images = 5 # from environment variable CLIPSERVE__LIMITS__MAX_IMAGES",
            "library = \"/lib/x.so\" # from environment variable ORT_DYLIB_PATH",
            "path = \"m\" # from --set",
            "sessions = \"auto\" # 1 here",
            "max_texts = 1024",
            "max_body_bytes = \"32MiB\"",
        ] {
            assert!(lines.contains(&line), "{line}\n{}", loaded.effective);
        }
    }

    #[test]
    fn a_secret_is_left_out() {
        let loaded = with(None, &["model.path=m", "server.api_key=hunter2"]);
        assert!(loaded.effective.contains("\n# api_key = \"\" # set, not shown, from --set\n"), "{}", loaded.effective);
        assert!(!loaded.effective.contains("hunter2") && !format!("{:?}", loaded.config).contains("hunter2"));
    }
}
