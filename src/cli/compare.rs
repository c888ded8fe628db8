//! `clipserve compare`: its arguments.
//!
//! Owns the flags, their ranges and what is compared where nothing is named. Does not own the comparison (`crate::compare`).

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::Args;

use super::ConfigArgs;
use crate::{
    compare::{CompareOptions, KEY_VARIABLE, Kind, PeerUrl},
    config::{self, ConfigErrors, Loaded, Secret},
};

/// What `compare` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 the index may be kept (with care, too), 2 it cannot be kept, 1 there is no comparison, 64 a \
                        wrong command line or configuration. The other service's key is read from CLIPSERVE_COMPARE_API_KEY."
)]
pub struct CompareArgs {
    /// Folders and files of pictures to embed [default: the drawings in the box].
    #[arg(value_name = "FILE|FOLDER")]
    pictures: Vec<PathBuf>,
    /// The base URL of the other service.
    #[arg(long, value_name = "URL")]
    url: PeerUrl,
    /// Whose routes it speaks.
    #[arg(long, value_enum)]
    kind: Kind,
    /// The name that its requests give the model, where they have one.
    #[arg(long, value_name = "NAME", required_if_eq("kind", "immich"))]
    model_name: Option<String>,
    /// A file of texts to embed, one a line [default: 40 that are built in].
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// Pictures, and texts, at most; of more, some at even distances are taken.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=4096))]
    samples: u16,
    /// Print one JSON object in place of the report.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl CompareArgs {
    /// The configuration of this command line in `environment`.
    ///
    /// # Errors
    /// As [`config::load`].
    pub fn load(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, ConfigErrors> {
        config::load(&self.config.overrides(), environment)
    }

    /// What is compared, with the key in `environment`.
    ///
    /// # Errors
    /// When the key cannot be sent; one line that does not repeat it.
    pub fn options(
        &self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<CompareOptions, String> {
        let key = environment.into_iter().find(|(name, value)| name == KEY_VARIABLE && !value.is_empty());
        let key = key.map(|(_, value)| secret(&value)).transpose()?;
        let pictures = match (&*self.pictures, config::bundled_pictures()) {
            ([], Some(folder)) => vec![folder],
            (given, _) => given.to_vec(),
        };
        Ok(CompareOptions {
            url: self.url.clone(),
            kind: self.kind,
            model: self.model_name.clone(),
            key,
            pictures,
            texts: self.texts.clone(),
            samples: usize::from(self.samples),
        })
    }
}

fn secret(value: &OsStr) -> Result<Secret, String> {
    let text = value.to_str().map(str::trim).filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()));
    text.map(|text| Secret::new(text.to_owned()))
        .ok_or_else(|| format!("{KEY_VARIABLE}: the key is not printable ASCII without blanks"))
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse};
    use super::*;

    fn compare(args: &[&str]) -> Result<CompareArgs, clap::Error> {
        match parse(["clipserve", "compare"].iter().chain(args).map(OsString::from))? {
            Command::Compare(args) => Ok(args),
            other => panic!("not compare: {other:?}"),
        }
    }

    #[test]
    fn compare_takes_the_flags_of_the_configuration_and_its_own() {
        let args = ["--url", "http://h:1/v1", "--kind", "openai", "--model", "m", "--model-name", "clip", "a", "b"];
        let args = compare(&[&args[..], &["--texts", "t", "--samples", "7", "--json"]].concat()).unwrap();
        let environment = |value: &str| [(KEY_VARIABLE.into(), value.into()), ("PATH".into(), "/bin".into())];
        let options = args.options(environment("sk-1")).unwrap();
        assert_eq!((options.url.to_string(), options.kind), ("http://h:1/v1".to_owned(), Kind::Openai));
        assert_eq!((options.model.as_deref(), options.samples, args.json), (Some("clip"), 7, true));
        assert_eq!(options.pictures, [PathBuf::from("a"), "b".into()]);
        assert_eq!(options.texts, Some("t".into()));
        assert_eq!(options.key, Some(Secret::new("sk-1".to_owned())));
        assert_eq!(args.options(environment("")).unwrap().key, None);
        let error = args.options(environment("two words")).unwrap_err();
        assert!(error.starts_with(KEY_VARIABLE) && !error.contains("two"), "{error}");
        assert_eq!(args.load([]).unwrap().config.model.path, PathBuf::from("m"));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        let good = ["--url", "http://h", "--kind", "tei"];
        compare(&good).unwrap();
        for args in [
            &["--url", "http://h"][..],
            &["--kind", "tei"],
            &["--url", "h", "--kind", "tei"],
            &["--url", "http://h", "--kind", "tie"],
            &["--url", "http://h", "--kind", "immich"],
            &["--samples", "0"],
            &["--samples", "5000"],
        ] {
            let args = if args[0] == "--samples" { [&good[..], args].concat() } else { args.to_vec() };
            assert!(compare(&args).unwrap_err().use_stderr(), "{args:?}");
        }
    }
}
