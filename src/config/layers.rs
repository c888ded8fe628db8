//! The layers of configuration, laid over each other: default, file, environment, `--set`, flags; a later one wins.
//!
//! Owns which key was given where and by whom. Does not own what a value means: `validate` reads the merged [`Settings`]. The
//! keys of the compiled-in default file are the keys there are; any other one, in any layer, is an error. A value that a later
//! layer replaces is not looked at.
//!
//! Invariants: every known key has a value; nothing here reads the process environment, it is handed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{
    error::{ConfigError, Origin},
    given::Given,
};

/// `config/default.toml`: every key, its default and its meaning.
pub(super) const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// Two underscores, so that variables which orchestrators make from a service's name (`CLIPSERVE_PORT`) are left alone.
const PREFIX: &str = "CLIPSERVE__";

/// ONNX Runtime's own variable; fills `engine.library` where no layer did.
const LIBRARY_VARIABLE: &str = "ORT_DYLIB_PATH";
const LIBRARY_KEY: &str = "engine.library";

/// The folder of caches by the XDG base directory specification, the first one that is set; fill `model.cache_dir` where no
/// layer did. Second: what to add to the variable.
const CACHE_VARIABLES: [(&str, &str); 2] = [("XDG_CACHE_HOME", "clipserve"), ("HOME", ".cache/clipserve")];
const CACHE_KEY: &str = "model.cache_dir";

/// Bytes of a file of configuration; the default one has some thousands.
const MAX_FILE: u64 = 1 << 20;

/// What the command line says about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// The file layer.
    pub file: Option<PathBuf>,
    /// `section.key=value`, each; of two for the same key the later one wins.
    pub set: Vec<String>,
    /// The last layer.
    pub flags: Vec<FlagValue>,
}

/// A key that was given by a flag of its own.
#[derive(Clone, Debug)]
pub struct FlagValue {
    /// As typed, such as `--listen`.
    pub flag: &'static str,
    /// The key it sets, such as `server.listen`.
    pub key: &'static str,
    /// The value as typed.
    pub value: String,
}

/// A value and who gave it.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) given: Given,
    pub(super) origin: Origin,
}

/// Every key with its winning value.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    values: BTreeMap<String, Setting>,
}

impl Settings {
    /// All layers, and what is wrong with the layers themselves (unknown keys, an unreadable file). `environment` is the whole
    /// environment; variables that are not ours are skipped.
    pub(super) fn merge(
        overrides: &Overrides,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> (Self, Vec<ConfigError>) {
        // Sorted, so that errors come in the same order at every start.
        let environment: BTreeMap<OsString, OsString> = environment.into_iter().collect();
        let mut settings = Self::defaults();
        let mut errors = Vec::new();
        if let Some(path) = &overrides.file {
            match read_file(path) {
                Ok(table) => settings.set_table(table, &Origin::File(path.clone()), &mut errors),
                Err(error) => errors.push(error),
            }
        }
        for (name, value) in &environment {
            let name = name.to_string_lossy();
            if let Some(rest) = name.strip_prefix(PREFIX) {
                settings.set_variable(&name, rest, value, &mut errors);
            } else if let Some(key) = settings.meant_by(&name) {
                errors.push(misspelt(key.to_owned(), &name));
            }
        }
        for argument in &overrides.set {
            settings.set_argument(argument, &mut errors);
        }
        for FlagValue { flag, key, value } in &overrides.flags {
            settings.set(key, Given::Text(value.clone()), Origin::Flag(flag), &mut errors);
        }
        if let Some(path) = environment.get(OsStr::new(LIBRARY_VARIABLE))
            && settings.get(LIBRARY_KEY).given.text() == Some("")
        {
            settings.set_from_environment(LIBRARY_KEY, LIBRARY_VARIABLE, path, &mut errors);
        }
        if settings.get(CACHE_KEY).given.text() == Some("") {
            // A relative path is to be ignored, says the specification.
            let set = CACHE_VARIABLES.iter().find_map(|(variable, rest)| {
                let folder = environment.get(OsStr::new(variable)).map(Path::new).filter(|path| path.is_absolute())?;
                Some((variable, folder.join(rest)))
            });
            if let Some((variable, path)) = set {
                settings.set_from_environment(CACHE_KEY, variable, path.as_os_str(), &mut errors);
            }
        }
        (settings, errors)
    }

    /// The value of a key of the default file.
    ///
    /// # Panics
    /// For a key that the default file lacks; a test reads them all.
    pub(super) fn get(&self, key: &str) -> &Setting {
        &self.values[key]
    }

    /// The keys there are, in alphabetical order.
    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    fn defaults() -> Self {
        let table: toml::Table = DEFAULT_TOML.parse().expect("the compiled-in default file is TOML; a test reads it");
        let mut leaves = Vec::new();
        flatten("", table, &|_| false, &mut leaves);
        let setting = |given| Setting { given: Given::Toml(given), origin: Origin::Default };
        Self { values: leaves.into_iter().map(|(key, given)| (key, setting(given))).collect() }
    }

    fn set_table(&mut self, table: toml::Table, origin: &Origin, errors: &mut Vec<ConfigError>) {
        let mut leaves = Vec::new();
        flatten("", table, &|key| self.values.contains_key(key), &mut leaves);
        for (key, value) in leaves {
            let empty_section = value.as_table().is_some_and(toml::Table::is_empty) && !self.names_in(&key).is_empty();
            if !empty_section {
                self.set(&key, Given::Toml(value), origin.clone(), errors);
            }
        }
    }

    /// One of our variables, `name` whole and `rest` without the prefix.
    fn set_variable(&mut self, name: &str, rest: &str, value: &OsStr, errors: &mut Vec<ConfigError>) {
        let key = rest.replace("__", ".").to_ascii_lowercase();
        if self.values.contains_key(&key) && variable(&key) != name {
            errors.push(misspelt(key, name));
        } else {
            self.set_from_environment(&key, name, value, errors);
        }
    }

    /// The key whose variable `name` is but for an underscore.
    fn meant_by(&self, name: &str) -> Option<&str> {
        let single = |name: &str| name.replace("__", "_");
        let keys = name.starts_with("CLIPSERVE_").then(|| self.values.keys())?;
        keys.map(String::as_str).find(|key| single(&variable(key)) == single(name))
    }

    fn set_from_environment(&mut self, key: &str, name: &str, value: &OsStr, errors: &mut Vec<ConfigError>) {
        match value.to_str() {
            Some(value) => {
                self.set(key, Given::Text(value.to_owned()), Origin::Environment(name.to_owned()), errors);
            }
            None => errors.push(ConfigError::NotUtf8 { key: key.to_owned(), variable: name.to_owned() }),
        }
    }

    fn set_argument(&mut self, argument: &str, errors: &mut Vec<ConfigError>) {
        match argument.split_once('=') {
            Some((key, value)) => self.set(key, Given::Text(value.to_owned()), Origin::Set, errors),
            None => {
                let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
                let key = argument.split(|c| !is_key(c)).next().unwrap_or_default().to_owned();
                errors.push(ConfigError::SetWithoutValue { key });
            }
        }
    }

    fn set(&mut self, key: &str, given: Given, origin: Origin, errors: &mut Vec<ConfigError>) {
        match self.values.get_mut(key) {
            Some(setting) => *setting = Setting { given, origin },
            None => errors.push(ConfigError::UnknownKey { key: key.to_owned(), origin, hint: self.hint(key) }),
        }
    }

    /// What there is instead of the unknown `key`: the names in the innermost section of it that exists.
    fn hint(&self, key: &str) -> String {
        let names = self.names_in(key);
        if !names.is_empty() {
            return format!("this is a section, with {}", names.join(", "));
        }
        let mut section = key;
        while let Some((parent, _)) = section.rsplit_once('.') {
            let names = self.names_in(parent);
            if !names.is_empty() {
                return format!("no such key; [{parent}] has {}", names.join(", "));
            }
            section = parent;
        }
        format!("no such section; there are {}", self.names_in("").join(", "))
    }

    fn names_in(&self, section: &str) -> Vec<&str> {
        let below = self.values.keys().filter_map(|key| match section {
            "" => Some(key.as_str()),
            _ => key.strip_prefix(section)?.strip_prefix('.'),
        });
        let names: BTreeSet<&str> = below.filter_map(|rest| rest.split('.').next()).collect();
        names.into_iter().collect()
    }
}

/// The environment variable that sets `key`.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_ascii_uppercase())
}

fn misspelt(key: String, name: &str) -> ConfigError {
    let hint = format!("the variable of this key is {}", variable(&key));
    ConfigError::UnknownKey { key, origin: Origin::Environment(name.to_owned()), hint }
}

fn read_file(path: &Path) -> Result<toml::Table, ConfigError> {
    let fault = |reason: String| ConfigError::Unreadable { path: path.to_owned(), reason };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| fault(error.to_string()))?;
    // It may be a pipe, or something without an end.
    file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|error| fault(error.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(fault(format!("it has more than {MAX_FILE} bytes")));
    }
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigError::Syntax { path: path.to_owned(), line, reason: error.message().replace('\n', " ") }
    })
}

/// Appends the dotted path of every value in `table`. A table under the path of a key is that key's (bad) value; any other is
/// a section and walked into, unless it is empty: then it stands for itself, so that an unknown one does not go unseen.
fn flatten(prefix: &str, table: toml::Table, is_key: &dyn Fn(&str) -> bool, leaves: &mut Vec<(String, toml::Value)>) {
    for (name, value) in table {
        // A quoted name keeps its quotes: "server.listen" in quotes is not the key listen of [server].
        let bare = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        let name = if bare { name } else { format!("{name:?}") };
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() && !is_key(&key) => flatten(&key, inner, is_key, leaves),
            value => leaves.push((key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::ffi::OsStringExt};

    use tempfile::NamedTempFile;

    use super::*;

    fn file(text: &str) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn merged(file: Option<&Path>, env: &[(&str, &str)], set: &[&str], flags: &[FlagValue]) -> (Settings, Vec<String>) {
        let overrides = Overrides {
            file: file.map(Path::to_owned),
            set: set.iter().map(ToString::to_string).collect(),
            flags: flags.to_vec(),
        };
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let (settings, errors) = Settings::merge(&overrides, env);
        (settings, errors.iter().map(ToString::to_string).collect())
    }

    fn errors_of_file(text: &str) -> Vec<String> {
        let file = file(text);
        let path = file.path().display().to_string();
        let (_, errors) = merged(Some(file.path()), &[], &[], &[]);
        errors.into_iter().map(|error| error.replace(&path, "FILE")).collect()
    }

    #[test]
    fn each_layer_wins_over_the_ones_before_it() {
        let file = file("[server]\nlisten = '1.1.1.1:1'");
        let env = [("CLIPSERVE__SERVER__LISTEN", "2.2.2.2:2")];
        let set = ["server.listen=3.3.3.3:3"];
        let flag = [FlagValue { flag: "--listen", key: "server.listen", value: "4.4.4.4:4".to_owned() }];
        for (layers, value, origin) in [
            (0, "127.0.0.1:8080", Origin::Default),
            (1, "1.1.1.1:1", Origin::File(file.path().to_owned())),
            (2, "2.2.2.2:2", Origin::Environment("CLIPSERVE__SERVER__LISTEN".to_owned())),
            (3, "3.3.3.3:3", Origin::Set),
            (4, "4.4.4.4:4", Origin::Flag("--listen")),
        ] {
            let (settings, errors) = merged(
                (layers >= 1).then_some(file.path()),
                if layers >= 2 { &env } else { &[] },
                if layers >= 3 { &set } else { &[] },
                if layers >= 4 { &flag } else { &[] },
            );
            assert_eq!(errors, [""; 0]);
            let setting = settings.get("server.listen");
            assert_eq!((setting.given.text(), &setting.origin), (Some(value), &origin));
            assert_eq!(settings.get("server.admin_listen").origin, Origin::Default);
        }
    }

    #[test]
    fn a_variable_reaches_every_key() {
        let (settings, _) = merged(None, &[], &[], &[]);
        for key in settings.keys() {
            let (settings, errors) = merged(None, &[(&variable(key), "x")], &[], &[]);
            assert_eq!(errors, [""; 0]);
            assert_eq!(settings.get(key).given.text(), Some("x"), "{key}");
        }
        assert_eq!(variable("batch.vision.max_batch_size"), "CLIPSERVE__BATCH__VISION__MAX_BATCH_SIZE");
    }

    #[test]
    fn the_rest_of_the_environment_is_left_alone() {
        let env =
            [("CLIPSERVE_PORT", "tcp://10.0.0.1:80"), ("CLIPSERVE", "x"), ("PATH", "/bin"), ("MODEL", "x"), ("", "")];
        let (settings, errors) = merged(None, &env, &[], &[]);
        assert_eq!(errors, [""; 0]);
        assert!(settings.keys().all(|key| settings.get(key).origin == Origin::Default));
    }

    #[test]
    fn unknown_variables_say_what_there_is_instead_and_never_show_their_value() {
        let env = [
            ("CLIPSERVE_MODEL_PATH", "hunter2"),
            ("CLIPSERVE__", "hunter2"),
            ("CLIPSERVE__BATCH__TEXT", "hunter2"),
            ("CLIPSERVE__MODEL__PAHT", "hunter2"),
            ("CLIPSERVE__SERVRE__LISTEN", "hunter2"),
            ("CLIPSERVE__model__path", "hunter2"),
        ];
        let (_, errors) = merged(None, &env, &[], &[]);
        let sections = "batch, cache, engine, limits, model, preprocess, server, telemetry, web";
        assert_eq!(
            errors,
            [
                "model.path (environment variable CLIPSERVE_MODEL_PATH): the variable of this key is CLIPSERVE__MODEL__PATH"
                    .to_owned(),
                format!(" (environment variable CLIPSERVE__): this is a section, with {sections}"),
                "batch.text (environment variable CLIPSERVE__BATCH__TEXT): this is a section, with max_batch_size, \
                 max_batch_tokens, max_queue_delay, max_queue_size"
                    .to_owned(),
                "model.paht (environment variable CLIPSERVE__MODEL__PAHT): no such key; [model] has aliases, cache_dir, name, path, \
                 revision, text, variant, vision"
                    .to_owned(),
                format!(
                    "servre.listen (environment variable CLIPSERVE__SERVRE__LISTEN): no such section; there are {sections}"
                ),
                "model.path (environment variable CLIPSERVE__model__path): the variable of this key is \
                 CLIPSERVE__MODEL__PATH"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn a_variable_that_is_not_text_is_an_error_that_names_it() {
        let broken = OsString::from_vec(vec![b'x', 0xff]);
        for (variable, key) in [("CLIPSERVE__MODEL__PATH", "model.path"), (LIBRARY_VARIABLE, LIBRARY_KEY)] {
            let (_, errors) = Settings::merge(&Overrides::default(), [(variable.into(), broken.clone())]);
            let wants = ConfigError::NotUtf8 { key: key.to_owned(), variable: variable.to_owned() };
            assert_eq!(errors, [wants]);
        }
    }

    #[test]
    fn ort_dylib_path_fills_the_library_only_where_no_layer_names_one() {
        let env = [(LIBRARY_VARIABLE, "/lib/a.so")];
        let (settings, _) = merged(None, &env, &[], &[]);
        let setting = settings.get(LIBRARY_KEY);
        assert_eq!(setting.given.text(), Some("/lib/a.so"));
        assert_eq!(setting.origin, Origin::Environment(LIBRARY_VARIABLE.to_owned()));
        let (settings, _) = merged(None, &env, &["engine.library=/lib/b.so"], &[]);
        assert_eq!(settings.get(LIBRARY_KEY).given.text(), Some("/lib/b.so"));
    }

    #[test]
    fn the_cache_lies_where_the_account_keeps_its_caches_unless_a_layer_says_otherwise() {
        let (xdg, home) = (("XDG_CACHE_HOME", "/x"), ("HOME", "/home/me"));
        for (env, set, path) in [
            (&[][..], &[][..], ""),
            (&[home], &[], "/home/me/.cache/clipserve"),
            (&[home, xdg], &[], "/x/clipserve"),
            (&[home, ("XDG_CACHE_HOME", "relative")], &[], "/home/me/.cache/clipserve"),
            (&[home, xdg], &["model.cache_dir=/c"], "/c"),
        ] {
            let (settings, errors) = merged(None, env, set, &[]);
            assert_eq!(errors, [""; 0]);
            assert_eq!(settings.get(CACHE_KEY).given.text(), Some(path), "{env:?} {set:?}");
        }
    }

    #[test]
    fn a_set_without_a_value_or_with_an_unknown_key_is_an_error() {
        let (_, errors) =
            merged(None, &[], &["server.api_key: hunter2", "", "=1", "limits.max=1", "server.api_kye=hunter2"], &[]);
        assert_eq!(errors.len(), 5);
        assert_eq!(errors[0], "--set server.api_key: must be section.key=value");
        assert_eq!(
            errors[3],
            "limits.max (--set): no such key; [limits] has max_body_bytes, max_images, max_inflight_answer_bytes, \
             max_inflight_body_bytes, max_inflight_output_bytes, max_inflight_requests, max_output_bytes, max_pixels, max_queue_wait, \
             max_text_bytes, max_texts"
        );
        assert!(!errors.concat().contains("hunter2"));
    }

    #[test]
    fn every_unknown_key_of_a_file_is_listed() {
        let errors = errors_of_file(
            "listen = 1\n'server.listen' = 1\n[server]\nport = 1\n[srever]\na = 1\nb = 1\n[empty]\n[batch]\nvision = 3\n\
             [telemetry]\n[limits]\n",
        );
        let keys: Vec<_> = errors.iter().map(|error| error.split(':').next().unwrap()).collect();
        assert_eq!(
            keys,
            [
                "batch.vision (file FILE)",
                "empty (file FILE)",
                "listen (file FILE)",
                "server.port (file FILE)",
                "\"server.listen\" (file FILE)",
                "srever.a (file FILE)",
                "srever.b (file FILE)",
            ]
        );
    }

    #[test]
    fn a_table_in_the_place_of_a_value_is_that_keys_value() {
        let file = file("[server.listen]\nport = 1");
        let (settings, errors) = merged(Some(file.path()), &[], &[], &[]);
        assert_eq!(errors, [""; 0]);
        assert!(matches!(settings.get("server.listen").given, Given::Toml(toml::Value::Table(_))));
    }

    #[test]
    fn a_file_that_is_not_toml_is_an_error_with_its_line_and_without_its_text() {
        let errors = errors_of_file("[server]\n\napi_key = hunter2\n");
        assert_eq!(errors.len(), 1);
        assert!(errors[0].starts_with("--config FILE: line 3: not valid TOML: "), "{}", errors[0]);
        assert!(!errors[0].contains("hunter2") && !errors[0].contains('\n'), "{}", errors[0]);
        assert!(errors_of_file("[server]\nlisten = 'a'\nlisten = 'b'\n")[0].contains("line 3"));
    }

    #[test]
    fn an_unreadable_file_is_an_error_beside_those_of_the_other_layers() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().join("absent.toml"), directory.path().to_owned()] {
            let (_, errors) = merged(Some(&path), &[], &["x=1"], &[]);
            assert_eq!(errors.len(), 2);
            assert!(
                errors[0].starts_with(&format!("--config {}: cannot read the file: ", path.display())),
                "{}",
                errors[0]
            );
        }
    }
}
