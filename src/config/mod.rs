//! The validated configuration: every value the service is built from, resolved, in range, with its unit in its type.
//!
//! Owns the typed [`Config`] that the rest of the crate reads. Does not own where values come from: `layers` merges default, file,
//! environment, `--set` and flags into one map of keys, `validate` turns that into a `Config`, `effective` prints it back.
//!
//! Invariants: a `Config` that [`load`] returns is valid; nothing outside this module reads settings from the environment, and
//! this module gets the environment handed in.

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;

mod address;
mod cors;
mod effective;
mod error;
mod given;
mod hosts;
mod hub;
mod layers;
mod open_paths;
mod otlp;
mod process;
mod reader;
mod secret;
mod units;
mod validate;

pub use address::{Address, without_passwords};
pub use cors::CorsOrigins;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use hosts::AllowedHosts;
pub use hub::HubConfig;
pub use layers::{FlagValue, Overrides};
pub use open_paths::OpenPaths;
pub use otlp::OtlpConfig;
pub use process::bundled_pictures;
pub use secret::Secret;

/// A configuration and its printed form.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What the service is built from.
    pub config: Config,
    /// What `--print-config` prints: TOML with every key, fit to be given as `--config`; secrets are left out.
    pub effective: String,
}

/// The configuration of a process started with `overrides` in `environment` (all of it: what is not ours is skipped).
///
/// # Errors
/// Everything that is wrong in any layer, all at once: unknown keys, an unreadable file, bad values, values at odds.
pub fn load(
    overrides: &Overrides,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, ConfigErrors> {
    let environment: BTreeMap<OsString, OsString> = environment.into_iter().collect();
    let hub = HubConfig::from_environment(&environment);
    let (settings, errors) = layers::Settings::merge(overrides, environment.clone());
    let (config, entries) = validate::read_config(&settings, hub, &otlp::Variables::new(&environment), errors)?;
    Ok(Loaded { config, effective: effective::render(&entries) })
}

/// Where that process answers probes: its admin listener, else its main one, and whether it speaks TLS there. Asks for no more of the
/// configuration than that, so that a health check needs no `--model`.
///
/// # Errors
/// Everything that is wrong with the layers and with the keys of listeners and TLS; where only clients with a certificate are answered.
pub fn probe_listener(
    overrides: &Overrides,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(SocketAddr, bool), ConfigErrors> {
    let (settings, errors) = layers::Settings::merge(overrides, environment);
    validate::read_probe_listener(&settings, errors)
}

/// Everything, by section, as in `config/default.toml` (which documents every key).
#[derive(Clone, Debug)]
pub struct Config {
    /// Listeners, connections, timeouts, drain.
    pub server: ServerConfig,
    /// What one request, and all of them together, may bring.
    pub limits: LimitsConfig,
    /// Pictures that are fetched from the web.
    pub web: WebConfig,
    /// Which model.
    pub model: ModelConfig,
    /// Decoding and resizing.
    pub preprocess: PreprocessConfig,
    /// ONNX Runtime.
    pub engine: EngineConfig,
    /// The two batching queues.
    pub batch: BatchConfig,
    /// What is remembered.
    pub cache: CacheConfig,
    /// Logs and spans.
    pub telemetry: TelemetryConfig,
}

/// `[server]`
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where the service listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// A second listener for `/livez`, `/readyz` and `/metrics` alone, on a thread of its own.
    pub admin_listen: Option<SocketAddr>,
    /// When set, every route but the probes and metrics wants `Authorization: Bearer <key>`, this one or one of the file.
    pub api_key: Option<Secret>,
    /// A file of further keys.
    pub api_keys_file: Option<PathBuf>,
    /// What wants no key although there are keys.
    pub open_paths: OpenPaths,
    /// From where that is so; none: from everywhere.
    pub open_networks: Vec<IpNet>,
    /// What the main listener speaks TLS with, where it does.
    pub tls: Option<TlsFiles>,
    /// Whether a browser finds a page at `/`.
    pub page: bool,
    /// Whose web pages may call the service.
    pub cors_origins: CorsOrigins,
    /// Open connections on the main listener, besides a small reserve for probes.
    pub max_connections: usize,
    /// From the first byte of a request head to its end.
    pub header_timeout: Duration,
    /// How long a connection may stay idle between requests (longer than the load balancer's own idle timeout).
    pub keep_alive_timeout: Duration,
    /// The longest gap between two pieces of a request body.
    pub body_idle_timeout: Duration,
    /// The longest time for a whole request body.
    pub body_timeout: Duration,
    /// How long a client may take no byte of an answer.
    pub write_timeout: Duration,
    /// From the head of a request to its answer; work still queued by then is dropped and answered 504.
    pub request_timeout: Duration,
    /// After SIGTERM: how long requests are still accepted while `/readyz` already answers 503.
    pub shutdown_delay: Duration,
    /// After that: how long requests in flight may take to finish.
    pub drain_timeout: Duration,
}

/// The files of TLS, all in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Our certificate, and those between it and its issuer's root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who issues our clients' certificates; `None`: they need none.
    pub client_ca: Option<PathBuf>,
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// One request's body, bytes.
    pub max_body_bytes: usize,
    /// Requests between their head and the end of their answer.
    pub max_inflight_requests: usize,
    /// How much later than alone a request may be expected to be answered.
    pub max_queue_wait: Duration,
    /// Body bytes of all those requests together.
    pub max_inflight_body_bytes: usize,
    /// Images in one request.
    pub max_images: usize,
    /// Texts in one request (for `/classify`: labels x templates).
    pub max_texts: usize,
    /// Width x height of one picture, checked from its header before any pixel is decoded.
    pub max_pixels: u64,
    /// UTF-8 bytes of one text, checked before it is tokenized.
    pub max_text_bytes: usize,
    /// The `outputs` of one request, bytes of f32.
    pub max_output_bytes: usize,
    /// The `outputs` of all requests together, from admission until they are written, bytes of f32.
    pub max_inflight_output_bytes: usize,
    /// The answers of all requests together, from before they are computed until their clients have taken them, bytes.
    pub max_inflight_answer_bytes: usize,
}

/// `[web]`
#[derive(Clone, Debug)]
pub struct WebConfig {
    /// From which hosts; none: nothing is fetched.
    pub allow_hosts: AllowedHosts,
    /// Addresses that may be dialled although they are none of the public internet.
    pub allow_networks: Vec<IpNet>,
    /// From the request for one picture to its last byte, with all redirects; and how long it may wait for a connection before.
    pub timeout: Duration,
    /// The part of it in which a connection must be there.
    pub connect_timeout: Duration,
    /// How many redirects of one picture are followed.
    pub max_redirects: usize,
    /// One picture, bytes.
    pub max_bytes: usize,
    /// Connections at a time, a thread each.
    pub max_connections: usize,
    /// Those of them to one host.
    pub max_connections_per_host: usize,
}

/// `[model]`
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The model's directory, or its id on the hub (`owner/name`); empty when a tower has a place of its own.
    pub path: PathBuf,
    /// Of every place on the hub: a branch, a tag or a commit.
    pub revision: String,
    /// The name that answers carry; by default that of the first place of `path`, `vision` and `text`: its directory's name, or
    /// its id on the hub.
    pub name: Option<String>,
    /// Further names that requests may call the model by.
    pub aliases: Vec<String>,
    /// Where exports of checkpoints are kept: `model.cache_dir`, else `$XDG_CACHE_HOME/clipserve`, else `~/.cache/clipserve`;
    /// `None` where none of them is set.
    pub cache_dir: Option<PathBuf>,
    /// How the hub is reached.
    pub hub: HubConfig,
    /// The image encoder's own place, a directory, a graph, or an id on the hub; wins over `path`.
    pub vision: Option<PathBuf>,
    /// The text encoder's own place, a directory, a graph, or an id on the hub; wins over `path`.
    pub text: Option<PathBuf>,
    /// What stands between `_` and `.onnx` in the names of the graphs, in place of the precision's suffix.
    pub variant: Option<String>,
}

/// `[preprocess]`
#[derive(Clone, Debug)]
pub struct PreprocessConfig {
    /// Threads that decode and resize.
    pub threads: usize,
    /// Whether a picture is turned as its EXIF orientation says, where the library does so whose rules the model follows.
    pub exif_orientation: bool,
    /// Whether a large JPEG is decoded at a part of its size, which changes embeddings a little.
    pub fast_decode: bool,
}

/// `[engine]`
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Which execution provider runs the encoders.
    pub provider: Provider,
    /// Which arithmetic the encoders use.
    pub precision: PrecisionChoice,
    /// The ONNX Runtime library, in the order of search: `engine.library`, `ORT_DYLIB_PATH`; `None`: beside the executable.
    pub library: Option<PathBuf>,
    /// The folder of the running executable, where the library is looked for when none is given.
    pub executable_dir: Option<PathBuf>,
    /// Which CUDA device.
    pub device_id: i32,
    /// What TensorRT alone asks of other sections.
    pub tensorrt: TensorRtConfig,
    /// Threads inside one run of one session (intra-op threads).
    pub intra_threads: usize,
    /// A run longer than this is aborted and turns `/livez` to 503 until the worker is back.
    pub stall_timeout: Duration,
    /// Sessions of the vision encoder.
    pub vision_sessions: usize,
    /// Sessions of the text encoder.
    pub text_sessions: usize,
    /// Whether these three were asked for.
    pub threads: Threads,
}

/// What the numbers of threads and of sessions are there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// For whatever they were asked for.
    Asked,
    /// All are automatic: a single client has all CPUs.
    Latency,
    /// All are automatic, and nobody waits for a single run, so that on the CPU provider each CPU has one of its own. Bulk work sets it.
    Throughput,
}

/// No section: TensorRT builds an engine of its own from a graph, for sizes that it is told.
#[derive(Clone, Debug, Default)]
pub struct TensorRtConfig {
    /// Where it keeps them: below `model.cache_dir`; `None` where there is none.
    pub cache: Option<PathBuf>,
    /// Images in one run at most, as `[batch.vision]` says.
    pub max_images: Option<usize>,
    /// Texts in one run at most, as `[batch.text]` says.
    pub max_texts: Option<usize>,
}

/// `[batch.vision]` and `[batch.text]`
#[derive(Clone, Debug)]
pub struct BatchConfig {
    /// Images.
    pub vision: LaneConfig,
    /// Texts.
    pub text: LaneConfig,
}

/// One batching queue.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// Items in one run at most; `None`: as many as measure best with the provider.
    pub max_batch_size: Option<usize>,
    /// Padded tokens (longest x count) in one run at most; `usize::MAX` for images.
    pub max_batch_tokens: usize,
    /// How long a batch may wait to fill up; zero: a free session takes what is there.
    pub max_queue_delay: Duration,
    /// Items admitted and not yet answered, in all requests together.
    pub max_queue_size: usize,
}

/// `[cache]`
#[derive(Clone, Debug)]
pub struct CacheConfig {
    /// What may be kept, keys and values; 0: nothing is, and equal items are computed as often as they come.
    pub max_bytes: usize,
}

/// `[telemetry]`
#[derive(Clone, Debug)]
pub struct TelemetryConfig {
    /// A `tracing` filter, such as `info` or `clipserve=debug,ort=warn`.
    pub log_level: String,
    /// How a line looks.
    pub log_format: LogFormat,
    /// Where spans are sent; `None`: there are none.
    pub otlp: Option<OtlpConfig>,
}

/// Which execution provider runs the encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Provider {
    /// CUDA where it starts, else the CPU; says which in the log, `/info` and `build_info`.
    Auto,
    /// ONNX Runtime's CPU provider.
    Cpu,
    /// NVIDIA CUDA; refuses to start where CUDA does not.
    Cuda,
    /// NVIDIA TensorRT over CUDA; refuses to start where it does not.
    TensorRt,
    /// OpenVINO on the CPU; refuses to start where it does not.
    OpenVino,
}

/// Which arithmetic the encoders use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PrecisionChoice {
    /// bf16 where the CPU is faster in it (AMX, or AMD since Zen 4) and OpenVINO is there, else f32; says which in the log and `/info`.
    Auto,
    /// 32-bit floats: the reference's numbers.
    F32,
    /// 16-bit floats of 8 bits' precision, by OpenVINO from the graphs of f32; refuses to start where that cannot be.
    Bf16,
    /// The model's own half-precision files.
    F16,
    /// The model's own 8-bit quantised files.
    Int8,
}

impl EngineConfig {
    /// What the graphs that are loaded hold.
    pub fn graphs(&self) -> Precision {
        match (self.precision, self.provider) {
            (PrecisionChoice::Auto | PrecisionChoice::F32 | PrecisionChoice::Bf16, _) => Precision::F32,
            (PrecisionChoice::F16, _) => Precision::F16,
            (PrecisionChoice::Int8, Provider::OpenVino) => Precision::Int8Weights,
            (PrecisionChoice::Int8, _) => Precision::Int8,
        }
    }
}

/// What a graph holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// Half-precision floats.
    F16,
    /// 8-bit integers: weights, and activations that are quantised as the graph says.
    Int8,
    /// 8-bit weights, from which OpenVINO makes products of 8-bit integers; others would compute in f32.
    Int8Weights,
}

impl Precision {
    /// As the configuration, the command line and `/info` spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int8Weights => "int8-weights",
        }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shipped(name: &str, precision: &str) -> Config {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
        let set = vec!["model.path=m".to_owned(), format!("engine.precision={precision}")];
        let overrides = Overrides { file: Some(file), set, ..Overrides::default() };
        load(&overrides, []).unwrap_or_else(|errors| panic!("{name}: {errors}")).config
    }

    #[test]
    fn the_shipped_files_are_valid() {
        assert_eq!(shipped("default.toml", "f32").engine.provider, Provider::Auto);
        assert_eq!(shipped("cuda.toml", "f32").engine.provider, Provider::Cuda);
        for precision in ["auto", "f32", "bf16", "int8"] {
            assert_eq!(shipped("cpu.toml", precision).engine.provider, Provider::Auto, "{precision}");
        }
        for name in ["default.toml", "cpu.toml", "cuda.toml"] {
            let Config { server, limits, .. } = shipped(name, "f32");
            assert!(
                server.max_connections > limits.max_inflight_requests,
                "{name}: max_inflight_requests is out of reach"
            );
        }
    }
}
