//! The settings that `tune` turns, and their spelling as keys of the configuration.
//!
//! Owns which settings these are and the TOML that sets them. Does not own which values are tried (`search`).
//!
//! Invariant: the TOML of any [`Knobs`] is a file that `--config` takes.

use std::{
    fmt::Write,
    ops::{Index, IndexMut},
};

use crate::{
    config::{self, Config, ConfigErrors, Overrides},
    encoder::BatchSizes,
};

/// One setting. None of them changes what is answered, only how fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    /// Threads that decode and resize.
    PreprocessThreads,
    /// Threads inside one run, of both encoders.
    IntraThreads,
    /// Sessions of the vision encoder.
    VisionSessions,
    /// Sessions of the text encoder.
    TextSessions,
    /// Images in one run at most.
    VisionBatch,
    /// Texts in one run at most.
    TextBatch,
}

impl Knob {
    /// All of them, in the order of `config/default.toml`.
    pub const ALL: [Self; 6] = [
        Self::PreprocessThreads,
        Self::IntraThreads,
        Self::VisionSessions,
        Self::TextSessions,
        Self::VisionBatch,
        Self::TextBatch,
    ];

    /// Its key in the configuration.
    pub fn key(self) -> &'static str {
        match self {
            Self::PreprocessThreads => "preprocess.threads",
            Self::IntraThreads => "engine.intra_threads",
            Self::VisionSessions => "engine.vision.sessions",
            Self::TextSessions => "engine.text.sessions",
            Self::VisionBatch => "batch.vision.max_batch_size",
            Self::TextBatch => "batch.text.max_batch_size",
        }
    }

    /// `automatic` is what the batches are where the configuration leaves them open.
    fn get(self, config: &Config, automatic: BatchSizes) -> usize {
        match self {
            Self::PreprocessThreads => config.preprocess.threads,
            Self::IntraThreads => config.engine.intra_threads,
            Self::VisionSessions => config.engine.vision_sessions,
            Self::TextSessions => config.engine.text_sessions,
            Self::VisionBatch => config.batch.vision.max_batch_size.unwrap_or(automatic.images),
            Self::TextBatch => config.batch.text.max_batch_size.unwrap_or(automatic.texts),
        }
    }

    fn set(self, config: &mut Config, value: usize) {
        match self {
            Self::PreprocessThreads => config.preprocess.threads = value,
            Self::IntraThreads => config.engine.intra_threads = value,
            Self::VisionSessions => config.engine.vision_sessions = value,
            Self::TextSessions => config.engine.text_sessions = value,
            Self::VisionBatch => config.batch.vision.max_batch_size = Some(value),
            Self::TextBatch => config.batch.text.max_batch_size = Some(value),
        }
    }
}

/// A value for each [`Knob`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knobs([usize; Knob::ALL.len()]);

impl Index<Knob> for Knobs {
    type Output = usize;

    fn index(&self, knob: Knob) -> &usize {
        &self.0[knob as usize]
    }
}

impl IndexMut<Knob> for Knobs {
    fn index_mut(&mut self, knob: Knob) -> &mut usize {
        &mut self.0[knob as usize]
    }
}

impl Knobs {
    /// The values of `config`, whose open batches are `automatic`.
    pub fn of(config: &Config, automatic: BatchSizes) -> Self {
        Self(Knob::ALL.map(|knob| knob.get(config, automatic)))
    }

    /// The values of the configuration that nobody has changed, on this machine, with a provider whose batches are `automatic`.
    ///
    /// # Errors
    /// Never in practice: the compiled-in defaults are valid.
    pub fn defaults(automatic: BatchSizes) -> Result<Self, ConfigErrors> {
        // Where there is no model in the box a path has to be given; it is not looked at.
        let set = vec!["model.path=.".to_owned()];
        Ok(Self::of(&config::load(&Overrides { set, ..Overrides::default() }, [])?.config, automatic))
    }

    /// These values, and `value` for `knob`.
    pub fn with(mut self, knob: Knob, value: usize) -> Self {
        self[knob] = value;
        self
    }

    /// `config` with these values.
    pub fn apply(&self, config: &Config) -> Config {
        let mut config = config.clone();
        for knob in Knob::ALL {
            knob.set(&mut config, self[knob]);
        }
        config
    }

    /// TOML of the keys whose value is not that of `defaults`, or not that of `given`, which a file of the operator's may have set.
    pub fn toml(&self, defaults: &Self, given: &Self) -> String {
        let (mut text, mut section) = (String::new(), "");
        for knob in Knob::ALL {
            if self[knob] == defaults[knob] && self[knob] == given[knob] {
                continue;
            }
            let (table, name) = knob.key().rsplit_once('.').unwrap_or(("", knob.key()));
            if table != section {
                let blank = if section.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{blank}[{table}]");
                section = table;
            }
            let _ = writeln!(text, "{name} = {}", self[knob]);
        }
        if text.is_empty() { "# Nothing: the defaults are the best here.\n".to_owned() } else { text }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::NamedTempFile;

    use super::*;

    const AUTOMATIC: BatchSizes = BatchSizes { images: 8, texts: 64 };

    fn load(toml: &str) -> Knobs {
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), toml).unwrap();
        let set = vec!["model.path=m".to_owned()];
        let overrides = Overrides { file: Some(file.path().to_owned()), set, ..Overrides::default() };
        Knobs::of(&config::load(&overrides, []).unwrap_or_else(|errors| panic!("{errors}\n{toml}")).config, AUTOMATIC)
    }

    #[test]
    fn the_toml_of_any_values_is_a_configuration_that_has_them() {
        let defaults = Knobs::defaults(AUTOMATIC).unwrap();
        let mut all = defaults;
        for (at, knob) in Knob::ALL.into_iter().enumerate() {
            let one = defaults.with(knob, defaults[knob] + at + 1);
            all[knob] = one[knob];
            assert_eq!(load(&one.toml(&defaults, &defaults)), one, "{knob:?}");
        }
        assert_eq!(load(&all.toml(&defaults, &defaults)), all);
        assert_eq!(load(&defaults.toml(&defaults, &defaults)), defaults);
    }

    #[test]
    fn a_default_is_named_only_where_it_replaces_another_value() {
        let defaults = Knobs::defaults(AUTOMATIC).unwrap();
        let given = defaults.with(Knob::VisionBatch, 64).with(Knob::IntraThreads, 77);
        let best = given.with(Knob::VisionBatch, defaults[Knob::VisionBatch]);
        let expected = "[engine]\nintra_threads = 77\n\n[batch.vision]\nmax_batch_size = 8\n";
        assert_eq!(best.toml(&defaults, &given), expected);
        assert_eq!(defaults.toml(&defaults, &defaults), "# Nothing: the defaults are the best here.\n");
    }

    #[test]
    fn values_go_into_a_configuration_and_come_out_of_it() {
        let set = vec!["model.path=m".to_owned()];
        let config = config::load(&Overrides { set, ..Overrides::default() }, []).unwrap().config;
        let changed = Knob::ALL
            .into_iter()
            .enumerate()
            .fold(Knobs::of(&config, AUTOMATIC), |k, (at, knob)| k.with(knob, at + 41));
        let applied = changed.apply(&config);
        assert_eq!(Knobs::of(&applied, AUTOMATIC), changed);
        assert_eq!((applied.engine.text_sessions, applied.batch.vision.max_batch_size), (44, Some(45)));
    }
}
