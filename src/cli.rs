//! The command line.
//!
//! Owns the subcommands, their flags and help texts. Does not own what the flags' values may be: those that set a key of the
//! configuration are handed on as typed, and `config` lists what is wrong with them beside everything else.
//!
//! Invariant: `clipserve --model X` is `clipserve serve --model X`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand};

use crate::config::{self, ConfigErrors, FlagValue, Loaded, Overrides, Precision};

mod compare;
mod embed;
pub mod healthcheck;
mod tune;

pub use compare::CompareArgs;
pub use embed::EmbedArgs;
use healthcheck::ProbeUrl;
pub use tune::TuneArgs;

/// The exit code for a wrong command line or configuration (`EX_USAGE` of sysexits).
pub const EX_USAGE: u8 = 64;

/// CLIP embeddings and logits over HTTP.
#[derive(Debug, Parser)]
#[command(name = "clipserve", version, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model (what happens when no command is given).
    Serve(ServeArgs),
    /// Make ONNX graphs from a checkpoint of transformers, open_clip or OpenAI, without Python.
    Export(ExportArgs),
    /// Embed pictures and texts from folders, tar shards, Parquet and lists into files.
    Embed(EmbedArgs),
    /// Find the threads, sessions and batches that are best for a model on this machine.
    Tune(TuneArgs),
    /// Ask another service and ours for the same embeddings, and say whether an index of its may be kept.
    Compare(CompareArgs),
    /// Ask a running service whether it is ready: exit 0 when it is, 1 when it is not.
    Healthcheck(HealthcheckArgs),
}

/// What `serve` takes.
#[derive(Debug, Args)]
pub struct ServeArgs {
    #[command(flatten)]
    config: ServiceArgs,
    /// Print the configuration in effect, as TOML, and exit.
    #[arg(long, conflicts_with = "check_config")]
    pub print_config: bool,
    /// Check the configuration and exit.
    #[arg(long)]
    pub check_config: bool,
}

/// What `export` takes.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The checkpoint's directory, or OpenAI's .pt file.
    pub checkpoint: PathBuf,
    /// The directory to make; `serve --model` takes it. It must not exist, or be empty.
    pub out: PathBuf,
    /// Arithmetic of the graphs; bf16 is served from those in f32.
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
}

/// What `healthcheck` takes.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// What to ask; by default /readyz of the address in the configuration (the admin listener's, where there is one).
    #[arg(long, value_name = "URL")]
    url: Option<ProbeUrl>,
    #[command(flatten)]
    config: ServiceArgs,
}

/// Where the configuration of a service comes from, on the commands that run one or ask it.
#[derive(Debug, Args)]
struct ServiceArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where to listen [server.listen].
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<String>,
}

/// Where the configuration comes from, on every command that needs it.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// A TOML file of settings; config/default.toml documents every key.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key of the configuration; may be given several times.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// The model's directory, or its id on the Hugging Face Hub; by default the model in the box [model.path].
    #[arg(long, value_name = "DIR|OWNER/NAME")]
    model: Option<String>,
    /// Branch, tag or commit of what is on the hub [model.revision].
    #[arg(long)]
    revision: Option<String>,
    /// Where graphs that were made from a checkpoint are kept [model.cache_dir].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<String>,
    /// The image encoder's own directory, graph, or id on the hub [model.vision].
    #[arg(long, value_name = "DIR|FILE|OWNER/NAME")]
    vision_model: Option<String>,
    /// The text encoder's own directory, graph, or id on the hub [model.text].
    #[arg(long, value_name = "DIR|FILE|OWNER/NAME")]
    text_model: Option<String>,
    /// The suffix of the graphs' files, such as q4f16 [model.variant].
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Execution provider [engine.provider].
    #[arg(long, value_name = "auto|cpu|openvino|cuda|tensorrt")]
    provider: Option<String>,
    /// Arithmetic of the encoders [engine.precision].
    #[arg(long, value_name = "f32|bf16|f16|int8|auto")]
    precision: Option<String>,
    /// How a log line looks [telemetry.log_format].
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
}

/// Reads a command line, the program's own name first.
///
/// # Errors
/// A wrong command line, or a request for `--help` or `--version`; `clap::Error::print` shows either, and `use_stderr` tells
/// them apart: [`EX_USAGE`] or 0.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let line = CommandLine::try_parse_from(args)?;
    Ok(line.command.unwrap_or(Command::Serve(line.serve)))
}

impl ServeArgs {
    /// The configuration of this command line in `environment`.
    ///
    /// # Errors
    /// As [`config::load`].
    pub fn load(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Loaded, ConfigErrors> {
        config::load(&self.config.overrides(), environment)
    }
}

impl HealthcheckArgs {
    /// What to ask.
    ///
    /// # Errors
    /// As [`config::probe_listener`]; none when `--url` is given, which needs no configuration.
    pub fn url(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<ProbeUrl, ConfigErrors> {
        match &self.url {
            Some(url) => Ok(url.clone()),
            None => {
                let (listen, tls) = config::probe_listener(&self.config.overrides(), environment)?;
                Ok(ProbeUrl::readyz(listen, tls))
            }
        }
    }
}

impl ServiceArgs {
    fn overrides(&self) -> Overrides {
        let mut overrides = self.config.overrides();
        let listen = self.listen.clone().map(|value| FlagValue { flag: "--listen", key: "server.listen", value });
        overrides.flags.extend(listen);
        overrides
    }
}

impl ConfigArgs {
    fn overrides(&self) -> Overrides {
        let flags = [
            ("--model", "model.path", &self.model),
            ("--revision", "model.revision", &self.revision),
            ("--cache-dir", "model.cache_dir", &self.cache_dir),
            ("--vision-model", "model.vision", &self.vision_model),
            ("--text-model", "model.text", &self.text_model),
            ("--variant", "model.variant", &self.variant),
            ("--provider", "engine.provider", &self.provider),
            ("--precision", "engine.precision", &self.precision),
            ("--log-format", "telemetry.log_format", &self.log_format),
        ];
        let flags =
            flags.into_iter().filter_map(|(flag, key, value)| Some(FlagValue { flag, key, value: value.clone()? }));
        Overrides { file: self.config.clone(), set: self.set.clone(), flags: flags.collect() }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::{CommandFactory, error::ErrorKind};

    use super::*;
    use crate::config::{LogFormat, Precision, PrecisionChoice, Provider};

    fn parsed(args: &[&str]) -> Result<Command, clap::Error> {
        parse(["clipserve"].iter().chain(args).map(OsString::from))
    }

    fn serve(args: &[&str]) -> ServeArgs {
        match parsed(args) {
            Ok(Command::Serve(args)) => args,
            other => panic!("not serve: {other:?}"),
        }
    }

    fn healthcheck_url(args: &[&str]) -> Result<String, ConfigErrors> {
        match parsed(args) {
            Ok(Command::Healthcheck(args)) => args.url([]).map(|url| url.to_string()),
            other => panic!("not healthcheck: {other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn serve_is_the_default_command() {
        let args = [
            ["--model", "m", "--revision", "v1"],
            ["--listen", "[::1]:9", "--provider", "cpu"],
            ["--precision", "f16", "--log-format", "json"],
        ]
        .concat();
        let with_command = [&["serve"], &args[..]].concat();
        for args in [&args[..], &with_command] {
            let config = serve(args).load([]).unwrap().config;
            assert_eq!((&*config.model.path, &*config.model.revision), (Path::new("m"), "v1"));
            assert_eq!(config.server.listen.to_string(), "[::1]:9");
            assert_eq!(config.engine.provider, Provider::Cpu);
            assert_eq!(config.engine.precision, PrecisionChoice::F16);
            assert_eq!(config.telemetry.log_format, LogFormat::Json);
        }
    }

    #[test]
    fn export_takes_two_directories_and_a_precision() {
        for (more, precision) in [(&[][..], Precision::F32), (&["--precision", "int8"], Precision::Int8)] {
            let Ok(Command::Export(args)) = parsed(&[&["export", "from", "to"], more].concat()) else {
                panic!("{more:?}")
            };
            assert_eq!((args.checkpoint, args.out, args.precision), ("from".into(), "to".into(), precision));
        }
    }

    #[test]
    fn each_tower_and_the_variant_have_flags() {
        let args = serve(&["--vision-model", "v", "--text-model", "t/model.onnx", "--variant", "q4f16"]);
        let model = args.load([]).unwrap().config.model;
        assert_eq!((model.vision, model.text), (Some("v".into()), Some("t/model.onnx".into())));
        assert_eq!(model.variant.as_deref(), Some("q4f16"));
    }

    #[test]
    fn set_may_be_repeated_and_the_later_one_wins() {
        let args =
            serve(&["--model=m", "--set", "limits.max_images=3", "--set=limits.max_images=4", "--set=model.name=a=b"]);
        let config = args.load([]).unwrap().config;
        assert_eq!(config.limits.max_images, 4);
        assert_eq!(config.model.name.as_deref(), Some("a=b"));
    }

    #[test]
    fn bad_values_of_flags_are_listed_with_the_other_errors_of_the_configuration() {
        let args = serve(&["--provider", "tpu", "--listen", "here", "--set", "limits.max_images=0"]);
        let errors = args.load([]).unwrap_err().to_string();
        assert_eq!(
            errors.lines().collect::<Vec<_>>(),
            [
                r#"server.listen = "here" (--listen): must be an IP address and port, such as "127.0.0.1:8080" or "[::]:8080""#,
                r#"limits.max_images = "0" (--set): must be an integer from 1 to 65536"#,
                r#"engine.provider = "tpu" (--provider): must be one of "auto", "cpu", "cuda", "tensorrt", "openvino""#,
            ]
        );
    }

    #[test]
    fn usage_errors_go_to_stderr_and_help_and_version_to_stdout() {
        for args in [
            &["--modle", "m"][..],
            &["sevre"],
            &["--model"],
            &["--model", "a", "--model", "b"],
            &["serve", "extra"],
            &["--print-config", "--check-config"],
            &["export", "checkpoint"],
            &["export", "checkpoint", "out", "--precision", "bf16"],
            &["--model", "m", "healthcheck"],
            &["healthcheck", "--url", "ftp://localhost/readyz"],
            &["healthcheck", "--print-config"],
            &["tune", "--print-config"],
        ] {
            assert!(parsed(args).unwrap_err().use_stderr(), "{args:?}");
        }
        for (args, kind) in [
            (&["--help"][..], ErrorKind::DisplayHelp),
            (&["serve", "--help"], ErrorKind::DisplayHelp),
            (&["--version"], ErrorKind::DisplayVersion),
        ] {
            let error = parsed(args).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(!error.use_stderr());
        }
    }

    #[test]
    fn an_address_to_listen_on_is_refused_where_nothing_listens() {
        for command in [&["embed", "photos", "--out", "out"][..], &["tune"]] {
            parsed(command).unwrap();
            let error = parsed(&[command, &["--listen", "127.0.0.1:1"]].concat()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnknownArgument, "{error}");
        }
    }

    #[test]
    fn healthcheck_asks_the_admin_listener_of_the_same_configuration_and_needs_no_model() {
        assert_eq!(healthcheck_url(&["healthcheck"]).unwrap(), "http://127.0.0.1:8080/readyz");
        assert_eq!(healthcheck_url(&["healthcheck", "--listen", "0.0.0.0:81"]).unwrap(), "http://127.0.0.1:81/readyz");
        assert_eq!(healthcheck_url(&["healthcheck", "--listen", "[::]:81"]).unwrap(), "http://[::1]:81/readyz");
        let admin = ["healthcheck", "--listen", "0.0.0.0:81", "--set", "server.admin_listen=10.0.0.1:82"];
        assert_eq!(healthcheck_url(&admin).unwrap(), "http://10.0.0.1:82/readyz");
        let tls = ["healthcheck", "--set", "server.tls_certificate=c", "--set", "server.tls_key=k"];
        assert_eq!(healthcheck_url(&tls).unwrap(), "https://127.0.0.1:8080/readyz");
        let admin =
            [&tls[..], &["--set", "server.tls_client_ca=a", "--set", "server.admin_listen=127.0.0.1:82"]].concat();
        assert_eq!(healthcheck_url(&admin).unwrap(), "http://127.0.0.1:82/readyz", "which is never inside TLS");
        let strict =
            healthcheck_url(&[&tls[..], &["--set", "server.tls_client_ca=a"]].concat()).unwrap_err().to_string();
        assert!(
            strict.starts_with("server.tls_client_ca = \"a\" (--set): must be beside server.admin_listen"),
            "{strict}"
        );
        assert_eq!(
            healthcheck_url(&["healthcheck", "--set", "limits.max_images=0"]).unwrap(),
            "http://127.0.0.1:8080/readyz"
        );
    }

    #[test]
    fn healthcheck_reports_what_is_wrong_with_the_addresses() {
        let errors = healthcheck_url(&["healthcheck", "--listen", "here", "--set", "server.port=1"]).unwrap_err();
        assert_eq!(errors.iter().count(), 2, "{errors}");
    }

    #[test]
    fn healthcheck_takes_a_url_as_it_is() {
        let url = "http://localhost:8082/livez?verbose=1";
        assert_eq!(healthcheck_url(&["healthcheck", "--url", url]).unwrap(), url);
    }
}
