//! `clipserve tune`: its arguments.
//!
//! Owns the flags and their ranges. Does not own the tuning (`crate::tune`).

use std::{ffi::OsString, fs, path::PathBuf, time::Duration};

use clap::Args;

use super::ConfigArgs;
use crate::{
    config::{self, ConfigErrors, Loaded},
    tune::TuneOptions,
};

/// What `tune` takes.
#[derive(Debug, Args)]
pub struct TuneArgs {
    /// Seconds of each trial, besides the start of the model.
    #[arg(long, value_name = "N", default_value = "4", value_parser = parse_seconds)]
    seconds: Duration,
    /// How often each combination is tried; a noisy machine wants more.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: u8,
    /// The picture to embed, of the size that you will serve [default: a photograph of 640x480].
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl TuneArgs {
    /// The configuration of this command line in `environment`.
    ///
    /// # Errors
    /// As [`config::load`].
    pub fn load(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, ConfigErrors> {
        config::load(&self.config.overrides(), environment)
    }

    /// How to measure.
    ///
    /// # Errors
    /// When the picture's file cannot be read; one line that names it.
    pub fn options(&self) -> Result<TuneOptions, String> {
        let read = |path: &PathBuf| fs::read(path).map_err(|error| format!("--image {}: {error}", path.display()));
        let picture = self.image.as_ref().map(read).transpose()?;
        Ok(TuneOptions { seconds: self.seconds, rounds: usize::from(self.rounds), picture })
    }
}

fn parse_seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.01..=600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("must be a number from 0.01 to 600")
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse};
    use super::*;

    fn tune(args: &[&str]) -> Result<TuneArgs, clap::Error> {
        match parse(["clipserve", "tune"].iter().chain(args).map(OsString::from))? {
            Command::Tune(args) => Ok(args),
            other => panic!("not tune: {other:?}"),
        }
    }

    #[test]
    fn tune_takes_the_flags_of_the_configuration_and_its_own() {
        let args = tune(&["--model", "m", "--precision", "int8", "--seconds", "0.5", "--rounds", "7"]).unwrap();
        let options = args.options().unwrap();
        assert_eq!((options.seconds, options.rounds), (Duration::from_millis(500), 7));
        assert!(options.picture.is_none());
        assert_eq!(args.load([]).unwrap().config.engine.precision, config::PrecisionChoice::Int8);
    }

    #[test]
    fn values_out_of_range_and_a_missing_picture_are_refused() {
        for args in [["--seconds", "0"], ["--seconds", "601"], ["--seconds", "NaN"], ["--rounds", "0"]] {
            assert!(tune(&args).unwrap_err().use_stderr(), "{args:?}");
        }
        let error = tune(&["--image", "/absent.jpg"]).unwrap().options().unwrap_err();
        assert!(error.starts_with("--image /absent.jpg: "), "{error}");
    }
}
