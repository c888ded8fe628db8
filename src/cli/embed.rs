//! `clipserve embed`: its arguments.
//!
//! Owns the flags, their ranges, and what the scheduler's variables say. Does not own the run (`crate::bulk`).

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::Args;

use super::ConfigArgs;
use crate::{
    bulk::{BulkOptions, Columns, Dtype, Format, Modalities, Shard, ShardArg, SourceArgs},
    config::{self, ConfigErrors, FlagValue, Loaded},
};

/// Where schedulers say which of several processes this is, from 0: Kubernetes in an Indexed Job, Slurm in an array.
const INDEX_VARIABLES: [&str; 2] = ["JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"];

/// What `embed` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 everything is embedded, 2 all is done and some items have no embedding (errors.jsonl says why), 1 the \
                        run did not come to its end, 130 or 143 Ctrl-C or SIGTERM has ended it, 64 a wrong command line or \
                        configuration. Run the same command again to go on. \
                        docs/bulk.md has the rest."
)]
pub struct EmbedArgs {
    /// Folders, patterns, pictures, tar shards (.tar), Parquet (.parquet), JSON lines (.jsonl), text files (.txt).
    #[arg(value_name = "SOURCE", required_unless_present = "from_file")]
    sources: Vec<String>,
    /// Read the paths of sources from a file, one a line; - is standard input.
    #[arg(long, value_name = "FILE|-", conflicts_with = "sources")]
    from_file: Option<PathBuf>,
    /// The folder to fill: a new one, or that of the same command, which then goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What of each sample is embedded [default: text where all sources are .txt, else image].
    #[arg(long, value_enum)]
    modality: Option<Modalities>,
    /// The files to write; npy is what clip-retrieval and autofaiss read.
    #[arg(long, value_enum, default_value_t = Format::Parquet)]
    format: Format,
    /// The type of an embedding's values.
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Rows of one part.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    part_rows: u64,
    /// End the run when more items than this have no embedding [default: go on].
    #[arg(long, value_name = "N")]
    max_errors: Option<u64>,
    /// Embed one of N equal parts, into a folder of its own below --out; auto takes JOB_COMPLETION_INDEX or SLURM_ARRAY_TASK_ID.
    #[arg(long, value_name = "I/N|auto/N")]
    shard: Option<ShardArg>,
    /// The column or key of the picture, in Parquet and JSON lines.
    #[arg(long, value_name = "NAME")]
    image_column: Option<String>,
    /// The column or key of the text.
    #[arg(long, value_name = "NAME")]
    text_column: Option<String>,
    /// The column or key of the id.
    #[arg(long, value_name = "NAME")]
    id_column: Option<String>,
    /// Write a page about the run at its end: speed over time, errors by kind, the slowest and the failed pictures.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Answer /metrics, /livez and /readyz on an address while the run lasts [server.admin_listen].
    #[arg(long, value_name = "IP:PORT")]
    metrics_listen: Option<String>,
    #[command(flatten)]
    config: ConfigArgs,
}

impl EmbedArgs {
    /// The configuration of this command line in `environment`.
    ///
    /// # Errors
    /// As [`config::load`].
    pub fn load(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, ConfigErrors> {
        let mut overrides = self.config.overrides();
        let (flag, key) = ("--metrics-listen", "server.admin_listen");
        if let Some(value) = self.metrics_listen.clone() {
            overrides.flags.push(FlagValue { flag, key, value });
            // Nothing listens there, so that its port is free: the address is at odds with none.
            overrides.flags.push(FlagValue { flag, key: "server.listen", value: "127.0.0.1:0".to_owned() });
        }
        config::load(&overrides, environment)
    }

    /// What is embedded, by the scheduler's variables in `environment`.
    ///
    /// # Errors
    /// When they do not say which shard is this process's; one line.
    pub fn options(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<BulkOptions, String> {
        let shard = match self.shard {
            None => None,
            Some(ShardArg::Given(shard)) => Some(shard),
            Some(ShardArg::Auto { count }) => Some(scheduled(count, environment)?),
        };
        Ok(BulkOptions {
            sources: match &self.from_file {
                Some(path) => SourceArgs::List(path.clone()),
                None => SourceArgs::Places(self.sources.clone()),
            },
            out: self.out.clone(),
            modality: self.modality,
            format: self.format,
            dtype: self.dtype,
            part_rows: self.part_rows,
            max_errors: self.max_errors,
            shard,
            columns: Columns {
                image: self.image_column.clone(),
                text: self.text_column.clone(),
                id: self.id_column.clone(),
            },
            report: self.report.clone(),
        })
    }
}

/// The shard that the scheduler gave this process.
fn scheduled(count: u64, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Shard, String> {
    let environment: Vec<_> = environment.into_iter().collect();
    let value =
        |name: &&str| environment.iter().find(|(variable, _)| variable == OsStr::new(name)).map(|(_, value)| value);
    let (name, value) = INDEX_VARIABLES
        .iter()
        .find_map(|name| Some((name, value(name)?)))
        .ok_or_else(|| format!("--shard auto/{count}: none of {} is set", INDEX_VARIABLES.join(", ")))?;
    let index = value.to_str().and_then(|value| value.parse().ok());
    let index = index.ok_or_else(|| format!("--shard auto/{count}: {name} is {}, not a number", value.display()))?;
    Shard::new(index, count).map_err(|error| format!("--shard auto/{count}: by {name} {error}"))
}

#[cfg(test)]
mod tests {
    use super::super::{Command, parse};
    use super::*;

    fn embed(args: &[&str]) -> Result<EmbedArgs, clap::Error> {
        match parse(["clipserve", "embed"].iter().chain(args).map(OsString::from))? {
            Command::Embed(args) => Ok(args),
            other => panic!("not embed: {other:?}"),
        }
    }

    #[test]
    fn embed_takes_the_flags_of_the_configuration_and_its_own() {
        let args = ["a", "b", "--out", "o", "--model", "m", "--format", "npy", "--dtype", "f16", "--modality", "both"];
        let args = [
            &args[..],
            &[
                "--part-rows",
                "7",
                "--max-errors",
                "0",
                "--shard",
                "1/2",
                "--metrics-listen",
                "127.0.0.1:9",
                "--text-column",
                "t",
                "--report",
                "r.html",
            ],
        ]
        .concat();
        let args = embed(&args).unwrap();
        let options = args.options([]).unwrap();
        assert!(matches!(&options.sources, SourceArgs::Places(places) if places[..] == ["a", "b"]));
        assert_eq!(
            (options.format, options.dtype, options.modality),
            (Format::Npy, Dtype::F16, Some(Modalities::Both))
        );
        assert_eq!(
            (options.part_rows, options.max_errors, options.shard),
            (7, Some(0), Some(Shard::new(1, 2).unwrap()))
        );
        assert_eq!(options.columns.text.as_deref(), Some("t"));
        assert_eq!(options.report, Some(PathBuf::from("r.html")));
        let config = args.load([]).unwrap().config;
        assert_eq!(config.model.path, PathBuf::from("m"));
        assert_eq!(config.server.admin_listen.map(|address| address.port()), Some(9));
        let of_serve = embed(&["a", "--out", "o", "--model", "m", "--metrics-listen", "127.0.0.1:8080"]).unwrap();
        assert_eq!(of_serve.load([]).unwrap().config.server.admin_listen.map(|address| address.port()), Some(8080));
        let list = embed(&["--from-file", "-", "--out", "o"]).unwrap().options([]).unwrap();
        assert!(matches!(list.sources, SourceArgs::List(path) if path.as_os_str() == "-"));
    }

    #[test]
    fn what_cannot_be_asked_is_refused() {
        for args in [
            &["a"][..],
            &["--out", "o"],
            &["a", "--from-file", "f", "--out", "o"],
            &["a", "--out", "o", "--format", "csv"],
            &["a", "--out", "o", "--part-rows", "0"],
            &["a", "--out", "o", "--shard", "2/2"],
        ] {
            assert!(embed(args).unwrap_err().use_stderr(), "{args:?}");
        }
    }

    #[test]
    fn the_scheduler_says_which_shard_it_is() {
        let args = embed(&["a", "--out", "o", "--shard", "auto/4"]).unwrap();
        let shard = |name: &str, value: &str| args.options([(name.into(), value.into())]).map(|options| options.shard);
        for name in INDEX_VARIABLES {
            assert_eq!(shard(name, "3"), Ok(Some(Shard::new(3, 4).unwrap())), "{name}");
            assert!(shard(name, "4").unwrap_err().contains(name), "from 0 to 3");
            assert!(shard(name, "x").unwrap_err().contains("not a number"));
        }
        assert!(args.options([]).unwrap_err().contains("none of JOB_COMPLETION_INDEX, SLURM_ARRAY_TASK_ID is set"));
    }
}
