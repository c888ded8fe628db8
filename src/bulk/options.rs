//! What a run is asked for.
//!
//! Owns the choices and their names, which the command line, the run's own record and the output share. Does not own what they do.

use std::{fmt, path::PathBuf, str::FromStr};

use clap::ValueEnum;
use serde::Serialize;

/// What is embedded, from where, and into which files.
#[derive(Clone, Debug)]
pub struct BulkOptions {
    /// Where samples come from.
    pub sources: SourceArgs,
    /// The folder to fill.
    pub out: PathBuf,
    /// What of each sample is embedded; `None`: texts where all sources are text files, else pictures.
    pub modality: Option<Modalities>,
    /// The files that are written.
    pub format: Format,
    /// The type of an embedding's values in them.
    pub dtype: Dtype,
    /// Rows of one part.
    pub part_rows: u64,
    /// Items that may fail before the run ends; `None`: all of them.
    pub max_errors: Option<u64>,
    /// The part of the samples that is this process's.
    pub shard: Option<Shard>,
    /// What columns are called.
    pub columns: Columns,
    /// Where a page about the run is written at its end.
    pub report: Option<PathBuf>,
}

/// Where samples come from.
#[derive(Clone, Debug)]
pub enum SourceArgs {
    /// Folders, files and patterns.
    Places(Vec<String>),
    /// A file whose lines are paths; `-` is standard input.
    List(PathBuf),
}

/// The columns of Parquet, and the keys of JSON lines, that are read where the usual ones are not meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Columns {
    /// The picture.
    pub image: Option<String>,
    /// The text.
    pub text: Option<String>,
    /// What a row is known by.
    pub id: Option<String>,
}

/// What of each sample is embedded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Modalities {
    /// Its picture.
    Image,
    /// Its text.
    Text,
    /// Its picture and its text, into two columns.
    Both,
}

impl Modalities {
    /// Whether pictures are embedded.
    pub fn has_images(self) -> bool {
        self != Self::Text
    }

    /// Whether texts are.
    pub fn has_texts(self) -> bool {
        self != Self::Image
    }
}

/// The files that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Parquet, a row for each sample.
    Parquet,
    /// NumPy arrays beside Parquet metadata, in the folders that clip-retrieval writes.
    Npy,
    /// JSON lines, one for each sample.
    Jsonl,
}

/// The type of an embedding's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// As the model gives them.
    F32,
    /// The nearest f16.
    F16,
    /// By one scale for all (`ModelInfo::int8_scale`), which the files name.
    Int8,
}

/// One of `count` equal parts of all samples: those whose number leaves `index` when it is divided by `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u64,
    count: u64,
}

impl Shard {
    /// The part with number `index` of `count`.
    ///
    /// # Errors
    /// When there is no such part; one line that says which there are.
    pub fn new(index: u64, count: u64) -> Result<Self, String> {
        if index < count {
            return Ok(Self { index, count });
        }
        Err(format!("shard {index} of {count}: shards are numbered from 0 to {}", count.saturating_sub(1)))
    }

    /// How many parts there are.
    pub fn count(self) -> u64 {
        self.count
    }

    /// What its files and folders are called.
    pub(super) fn name(self) -> String {
        format!("shard-{}-of-{}", self.index, self.count)
    }

    /// The shard whose folder is called so.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (index, count) = name.strip_prefix("shard-")?.split_once("-of-")?;
        Self::new(index.parse().ok()?, count.parse().ok()?).ok()
    }

    /// Whether sample or file `number`, from 0, belongs to it.
    pub fn has(self, number: u64) -> bool {
        number % self.count == self.index
    }

    /// How many of `total` belong to it.
    pub fn of(self, total: u64) -> u64 {
        (total + self.count - 1 - self.index) / self.count
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

/// `--shard`: a part by its number, or by that which the scheduler gave this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardArg {
    /// `I/N`.
    Given(Shard),
    /// `auto/N`.
    Auto {
        /// How many parts there are.
        count: u64,
    },
}

impl FromStr for ShardArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "must be I/N with I from 0 to N-1, such as 3/8, or auto/N".to_owned();
        let (index, count) = text.split_once('/').ok_or_else(wrong)?;
        let count = count.parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
        if index == "auto" {
            return Ok(Self::Auto { count });
        }
        Ok(Self::Given(Shard::new(index.parse().map_err(|_| wrong())?, count)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_disjoint_cover_everything_and_differ_by_one_at_most() {
        for (total, count) in [(0, 3), (1, 3), (10, 3), (12, 4), (7, 1)] {
            let shards: Vec<_> = (0..count).map(|index| Shard::new(index, count).unwrap()).collect();
            for number in 0..total {
                assert_eq!(shards.iter().filter(|shard| shard.has(number)).count(), 1, "{number} of {total}");
            }
            for shard in &shards {
                assert_eq!(shard.of(total), (0..total).filter(|&number| shard.has(number)).count() as u64, "{shard}");
            }
        }
    }

    #[test]
    fn a_shard_is_numbered_from_0_and_named_as_it_is_given() {
        assert_eq!("2/3".parse(), Ok(ShardArg::Given(Shard::new(2, 3).unwrap())));
        assert_eq!("auto/3".parse(), Ok(ShardArg::Auto { count: 3 }));
        assert_eq!(Shard::new(2, 3).unwrap().to_string(), "2/3");
        for wrong in ["3/3", "1", "1/0", "auto", "-1/2", "a/b", "auto/0"] {
            assert!(wrong.parse::<ShardArg>().is_err(), "{wrong}");
        }
    }
}
