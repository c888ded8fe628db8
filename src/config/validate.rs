//! From merged settings to a [`Config`]: types, ranges, and the checks across keys.
//!
//! Owns which kind and range each key takes; the reading order of [`read_config`] is the order of `config/default.toml` and of
//! `--print-config`. Does not own where values come from (`layers`) or how a kind is read (`reader`).
//!
//! Invariants: every key of the default file is read exactly once; a `Config` leaves this module only when no error was found;
//! all errors are found in one go, a failed key taking a stand-in value until the end.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use super::{
    BatchConfig, CacheConfig, Config, EngineConfig, HubConfig, LaneConfig, LimitsConfig, ModelConfig, PrecisionChoice,
    PreprocessConfig, Provider, ServerConfig, TelemetryConfig, TensorRtConfig, Threads, TlsFiles, WebConfig,
    effective::Entry,
    error::{ConfigError, ConfigErrors},
    layers::Settings,
    otlp::Variables,
    process::{bundled_model, executable_dir, parallelism},
    reader::Reader,
};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Never zero: then nothing would be served, or something could hang for ever.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;
const SHUTDOWN: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const QUEUE_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(10);
/// What `model.vision` and `model.text` take.
const TOWER_PATH: &str = "a directory, a graph's file or an id on the hub, or \"\" for the model's directory";
const MAX_THREADS: u64 = 1024;
const MAX_BATCH_SIZE: u64 = 4096;
const MAX_SESSIONS: u64 = 64;
const MAX_QUEUE_SIZE: u64 = 1_000_000;

/// Reads every key. `errors` are those of the layers; they come first in the answer.
pub(super) fn read_config(
    settings: &Settings,
    hub: HubConfig,
    variables: &Variables<'_>,
    errors: Vec<ConfigError>,
) -> Result<(Config, Vec<Entry>), ConfigErrors> {
    let mut reader = Reader::new(settings, errors);
    let read = &mut reader;
    let mut all_automatic = true;
    let mut threads = |read: &mut Reader<'_>, key, most, automatic| {
        let asked = read.asked(key, most, automatic);
        all_automatic &= asked.is_none();
        asked.unwrap_or(automatic)
    };
    // The fields of a struct literal are evaluated as written: this is the order of the default file.
    let mut config = Config {
        server: ServerConfig {
            listen: read.address("server.listen"),
            admin_listen: read.optional_address("server.admin_listen"),
            api_key: read.secret(),
            api_keys_file: read.optional_path("server.api_keys_file", "the path of a file of keys, or \"\" for none"),
            open_paths: read.open_paths("server.open_paths"),
            open_networks: read.networks("server.open_networks"),
            tls: read_tls(read),
            page: read.boolean("server.page"),
            cors_origins: read.origins("server.cors_origins"),
            max_connections: read.integer("server.max_connections", 1..=1_000_000),
            header_timeout: read.duration("server.header_timeout", TIMEOUT),
            keep_alive_timeout: read.duration("server.keep_alive_timeout", TIMEOUT),
            body_idle_timeout: read.duration("server.body_idle_timeout", TIMEOUT),
            body_timeout: read.duration("server.body_timeout", TIMEOUT),
            write_timeout: read.duration("server.write_timeout", TIMEOUT),
            request_timeout: read.duration("server.request_timeout", TIMEOUT),
            shutdown_delay: read.duration("server.shutdown_delay", SHUTDOWN),
            drain_timeout: read.duration("server.drain_timeout", SHUTDOWN),
        },
        limits: LimitsConfig {
            max_body_bytes: read.bytes("limits.max_body_bytes", 1..=4 << 30),
            max_inflight_requests: read.integer("limits.max_inflight_requests", 1..=1_000_000),
            max_queue_wait: read.duration("limits.max_queue_wait", TIMEOUT),
            max_inflight_body_bytes: read.bytes("limits.max_inflight_body_bytes", 1..=1 << 40),
            max_images: read.integer("limits.max_images", 1..=1 << 16),
            max_texts: read.integer("limits.max_texts", 1..=1 << 20),
            max_pixels: read.integer("limits.max_pixels", 1..=1_000_000_000),
            max_text_bytes: read.bytes("limits.max_text_bytes", 1..=16 << 20),
            max_output_bytes: read.bytes("limits.max_output_bytes", 1..=4 << 30),
            max_inflight_output_bytes: read.bytes("limits.max_inflight_output_bytes", 1..=1 << 40),
            max_inflight_answer_bytes: read.bytes("limits.max_inflight_answer_bytes", 1..=1 << 40),
        },
        web: WebConfig {
            allow_hosts: read.hosts("web.allow_hosts"),
            allow_networks: read.networks("web.allow_networks"),
            timeout: read.duration("web.timeout", TIMEOUT),
            connect_timeout: read.duration("web.connect_timeout", TIMEOUT),
            max_redirects: read.integer("web.max_redirects", 0..=3),
            max_bytes: read.bytes("web.max_bytes", 1..=4 << 30),
            max_connections: read.integer("web.max_connections", 1..=MAX_THREADS),
            max_connections_per_host: read.integer("web.max_connections_per_host", 1..=MAX_THREADS),
        },
        model: ModelConfig {
            path: read.model_path("model.path", executable_dir().as_deref().and_then(bundled_model)),
            revision: read.revision("model.revision"),
            name: read.model_name("model.name"),
            aliases: read.names("model.aliases"),
            cache_dir: read.optional_path("model.cache_dir", "a directory, or \"\" for the one of the user's account"),
            hub,
            vision: read.optional_path("model.vision", TOWER_PATH),
            text: read.optional_path("model.text", TOWER_PATH),
            variant: read.variant("model.variant"),
        },
        preprocess: PreprocessConfig {
            threads: read.auto("preprocess.threads", MAX_THREADS, parallelism()),
            exif_orientation: read.boolean("preprocess.exif_orientation"),
            fast_decode: read.boolean("preprocess.fast_decode"),
        },
        engine: EngineConfig {
            provider: read.choice("engine.provider"),
            precision: read.choice("engine.precision"),
            library: read.optional_path(
                "engine.library",
                "the path of the ONNX Runtime library, or \"\" for the one beside the executable",
            ),
            executable_dir: executable_dir(),
            device_id: read.integer("engine.device_id", 0..=127),
            tensorrt: TensorRtConfig::default(),
            intra_threads: threads(read, "engine.intra_threads", MAX_THREADS, parallelism()),
            stall_timeout: read.duration("engine.stall_timeout", TIMEOUT),
            vision_sessions: threads(read, "engine.vision.sessions", MAX_SESSIONS, 1),
            text_sessions: threads(read, "engine.text.sessions", MAX_SESSIONS, 1),
            threads: if all_automatic { Threads::Latency } else { Threads::Asked },
        },
        batch: BatchConfig {
            vision: LaneConfig {
                max_batch_size: read.auto_later("batch.vision.max_batch_size", MAX_BATCH_SIZE),
                max_batch_tokens: usize::MAX,
                max_queue_delay: read.duration("batch.vision.max_queue_delay", QUEUE_DELAY),
                max_queue_size: read.integer("batch.vision.max_queue_size", 1..=MAX_QUEUE_SIZE),
            },
            text: LaneConfig {
                max_batch_size: read.auto_later("batch.text.max_batch_size", MAX_BATCH_SIZE),
                max_batch_tokens: read.integer("batch.text.max_batch_tokens", 1..=1 << 24),
                max_queue_delay: read.duration("batch.text.max_queue_delay", QUEUE_DELAY),
                max_queue_size: read.integer("batch.text.max_queue_size", 1..=MAX_QUEUE_SIZE),
            },
        },
        cache: CacheConfig { max_bytes: read.bytes("cache.max_bytes", 0..=1 << 40) },
        telemetry: TelemetryConfig {
            log_level: read.log_level("telemetry.log_level"),
            log_format: read.choice("telemetry.log_format"),
            otlp: read.otlp("telemetry.otlp_endpoint", "telemetry.otlp_sample_ratio", variables),
        },
    };
    config.engine.tensorrt = TensorRtConfig {
        cache: config.model.cache_dir.as_ref().map(|cache| cache.join("tensorrt")),
        max_images: config.batch.vision.max_batch_size,
        max_texts: config.batch.text.max_batch_size,
    };
    check_across(read, &config);
    if reader.errors.is_empty() { Ok((config, reader.entries)) } else { Err(ConfigErrors(reader.errors)) }
}

/// Three keys, of which two go together and the third goes with them.
fn read_tls(read: &mut Reader<'_>) -> Option<TlsFiles> {
    let (certificate_key, key_key, ca_key) = ("server.tls_certificate", "server.tls_key", "server.tls_client_ca");
    let allowed = "the path of a file in PEM, or \"\" for none";
    let [certificate, key, client_ca] = [certificate_key, key_key, ca_key].map(|key| read.optional_path(key, allowed));
    match (certificate, key) {
        (Some(certificate), Some(key)) => return Some(TlsFiles { certificate, key, client_ca }),
        (Some(_), None) => read.refuse(key_key, format!("the path of its key beside {certificate_key}")),
        (None, Some(_)) => read.refuse(certificate_key, format!("the path of its certificate beside {key_key}")),
        (None, None) if client_ca.is_some() => {
            read.refuse(
                ca_key,
                format!("\"\" without {certificate_key}: there is no TLS in which a client could show its own"),
            );
        }
        (None, None) => {}
    }
    None
}

/// Reads the listeners and what of TLS concerns a probe. What is wrong with other values does not matter here.
pub(super) fn read_probe_listener(
    settings: &Settings,
    errors: Vec<ConfigError>,
) -> Result<(SocketAddr, bool), ConfigErrors> {
    let mut reader = Reader::new(settings, errors);
    let (listen, admin_listen) = (reader.address("server.listen"), reader.optional_address("server.admin_listen"));
    let tls = if admin_listen.is_some() { None } else { read_tls(&mut reader) };
    if tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()) {
        let allowed = "beside server.admin_listen, for a health check: it has no certificate to show";
        reader.refuse("server.tls_client_ca", allowed.to_owned());
    }
    let listener = (admin_listen.unwrap_or(listen), tls.is_some());
    if reader.errors.is_empty() { Ok(listener) } else { Err(ConfigErrors(reader.errors)) }
}

/// The checks that need two keys; skipped where one of them has failed already.
fn check_across(read: &mut Reader<'_>, config: &Config) {
    let (limits, batch) = (&config.limits, &config.batch);
    check_at_least(
        read,
        ("limits.max_inflight_body_bytes", limits.max_inflight_body_bytes),
        ("limits.max_body_bytes", limits.max_body_bytes),
        "or a body of that size could never be admitted",
    );
    check_at_least(
        read,
        ("limits.max_inflight_output_bytes", limits.max_inflight_output_bytes),
        ("limits.max_output_bytes", limits.max_output_bytes),
        "or outputs of that size could never be admitted",
    );
    if !config.web.allow_hosts.is_empty() {
        check_at_least(
            read,
            ("limits.max_inflight_body_bytes", limits.max_inflight_body_bytes),
            ("web.max_bytes", config.web.max_bytes),
            "or a picture of that size could never be fetched",
        );
    }
    let never_admitted = "or a request with that many could never be admitted";
    check_at_least(
        read,
        ("batch.vision.max_queue_size", batch.vision.max_queue_size),
        ("limits.max_images", limits.max_images),
        never_admitted,
    );
    check_at_least(
        read,
        ("batch.text.max_queue_size", batch.text.max_queue_size),
        ("limits.max_texts", limits.max_texts),
        never_admitted,
    );
    check_open(read, &config.server);
    check_precision(read, config.engine.provider, config.engine.precision);
    if config.model.variant.is_some() && config.engine.precision != PrecisionChoice::F32 {
        let precision = read.describe("engine.precision");
        let allowed = format!("\"\" beside engine.precision = {precision}: a variant's files have their own");
        read.refuse("model.variant", allowed);
    }
    let (listen_key, admin_key) = ("server.listen", "server.admin_listen");
    if let Some(admin) = config.server.admin_listen
        && read.are_sound(listen_key, admin_key)
        && collide(config.server.listen, admin)
    {
        let allowed = format!("another port than {listen_key} = {}", read.describe(listen_key));
        read.refuse(admin_key, allowed);
    }
}

/// What is open without a key is said by path, and from where by network.
fn check_open(read: &mut Reader<'_>, server: &ServerConfig) {
    let (paths_key, networks_key) = ("server.open_paths", "server.open_networks");
    if !read.are_sound(paths_key, networks_key) {
        return;
    }
    if server.open_paths.is_empty() && !server.open_networks.is_empty() {
        let allowed = format!("\"\" without {paths_key}, which says what these networks may ask (\"*\" is all)");
        read.refuse(networks_key, allowed);
    }
    // Whoever says from where a path is open believes that it is closed to the rest.
    if !server.open_paths.is_empty() && server.api_key.is_none() && server.api_keys_file.is_none() {
        let allowed = "\"\" without server.api_key or server.api_keys_file: without a key all is open to everybody";
        read.refuse(paths_key, allowed.to_owned());
    } else if server.open_paths.are_all() && server.open_networks.is_empty() {
        let allowed = format!("paths, or \"*\" beside {networks_key}: all for everybody is what no key at all does");
        read.refuse(paths_key, allowed);
    }
}

/// The pairs that no machine can have.
fn check_precision(read: &mut Reader<'_>, provider: Provider, precision: PrecisionChoice) {
    let (key, allowed, beside) = match (provider, precision) {
        // It plans for ranges of sizes, and those inside our text graphs hang on what the texts are, but for f16.
        (Provider::TensorRt, PrecisionChoice::F16) => return,
        (Provider::TensorRt, _) => ("engine.precision", "\"f16\"", "engine.provider"),
        (Provider::Cpu | Provider::Cuda, PrecisionChoice::Bf16) => {
            ("engine.provider", "\"openvino\" or \"auto\"", "engine.precision")
        }
        // CUDA has no product of unsigned and signed 8-bit integers: the CPU provider would compute every layer, unasked.
        (Provider::Cuda, PrecisionChoice::Int8) => {
            ("engine.provider", "\"cpu\", \"openvino\" or \"auto\"", "engine.precision")
        }
        (Provider::OpenVino, PrecisionChoice::F16) => ("engine.provider", "another provider", "engine.precision"),
        _ => return,
    };
    let allowed = format!("{allowed} beside {beside} = {}", read.describe(beside));
    read.refuse(key, allowed);
}

fn check_at_least(read: &mut Reader<'_>, large: (&'static str, usize), small: (&'static str, usize), why: &str) {
    if read.are_sound(large.0, small.0) && large.1 < small.1 {
        let allowed = format!("at least {} = {}, {why}", small.0, read.describe(small.0));
        read.refuse(large.0, allowed);
    }
}

/// Whether the second of two listeners could not be bound: the same port, on the same address or with a wildcard among them.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let same_address = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_address
}

#[cfg(test)]
mod tests;
