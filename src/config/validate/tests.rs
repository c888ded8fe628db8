//! Every key's default, good values and bad values, and the checks across keys.

use super::*;
use crate::config::{CorsOrigins, Loaded, LogFormat, Overrides, Provider, load};

fn loaded(set: &[&str]) -> Result<Loaded, ConfigErrors> {
    load(&Overrides { set: set.iter().map(ToString::to_string).collect(), ..Overrides::default() }, [])
}

fn config(set: &[&str]) -> Config {
    loaded(&[&["model.path=m"], set].concat()).unwrap().config
}

/// The lines of all errors, none where there are none; a model is given.
fn errors(set: &[&str]) -> Vec<String> {
    match loaded(&[&["model.path=m"], set].concat()) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn the_default_file_holds_the_defaults() {
    let Config { server, limits, web, model, preprocess, engine, batch, cache, telemetry } = config(&[]);
    let seconds = Duration::from_secs;
    assert_eq!(server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!((server.admin_listen, server.api_key.is_none(), server.max_connections), (None, true, 1024));
    assert_eq!((server.page, server.cors_origins), (true, CorsOrigins::Own));
    assert_eq!((server.header_timeout, server.keep_alive_timeout), (seconds(10), seconds(75)));
    assert_eq!((server.body_idle_timeout, server.body_timeout), (seconds(10), seconds(30)));
    assert_eq!((server.write_timeout, server.request_timeout), (seconds(30), seconds(30)));
    assert_eq!((server.shutdown_delay, server.drain_timeout), (seconds(1), seconds(7)));
    assert_eq!((limits.max_body_bytes, limits.max_inflight_requests), (32 << 20, 512));
    assert_eq!((limits.max_inflight_body_bytes, limits.max_images, limits.max_texts), (256 << 20, 64, 1024));
    assert_eq!((limits.max_pixels, limits.max_text_bytes), (50_000_000, 16 << 10));
    assert_eq!((limits.max_output_bytes, limits.max_inflight_output_bytes), (64 << 20, 256 << 20));
    assert_eq!(limits.max_inflight_answer_bytes, 256 << 20);
    assert!(web.allow_hosts.is_empty() && web.allow_networks.is_empty());
    assert_eq!((web.timeout, web.connect_timeout, web.max_redirects), (seconds(5), seconds(2), 0));
    assert_eq!((web.max_bytes, web.max_connections, web.max_connections_per_host), (32 << 20, 32, 8));
    assert_eq!((model.path, &*model.revision), ("m".into(), "main"));
    assert_eq!((model.name, model.cache_dir), (None, None));
    assert_eq!((model.vision, model.text, model.variant), (None, None, None));
    assert_eq!((preprocess.threads, preprocess.exif_orientation), (parallelism(), true));
    assert!(!preprocess.fast_decode);
    assert_eq!((engine.provider, engine.precision, engine.library), (Provider::Auto, PrecisionChoice::F32, None));
    assert_eq!((engine.device_id, engine.intra_threads), (0, parallelism()));
    assert_eq!((engine.stall_timeout, engine.vision_sessions, engine.text_sessions), (seconds(60), 1, 1));
    assert_eq!(engine.threads, Threads::Latency);
    assert_eq!((batch.vision.max_batch_size, batch.vision.max_batch_tokens), (None, usize::MAX));
    assert_eq!((batch.vision.max_queue_delay, batch.vision.max_queue_size), (Duration::ZERO, 256));
    assert_eq!((batch.text.max_batch_size, batch.text.max_batch_tokens), (None, 2048));
    assert_eq!((batch.text.max_queue_delay, batch.text.max_queue_size), (Duration::ZERO, 2048));
    assert_eq!(cache.max_bytes, 64 << 20);
    assert_eq!((telemetry.log_level.as_str(), telemetry.log_format), ("info", LogFormat::Text));
}

#[test]
fn threads_are_asked_for_by_any_of_their_keys() {
    for key in ["engine.intra_threads", "engine.vision.sessions", "engine.text.sessions"] {
        let threads = |value: &str| config(&["model.path=m", &format!("{key}={value}")]).engine.threads;
        assert_eq!((threads("1"), threads("auto")), (Threads::Asked, Threads::Latency), "{key}");
    }
}

#[test]
fn every_key_of_the_default_file_is_read_once() {
    let (settings, errors) =
        Settings::merge(&Overrides { set: vec!["model.path=m".into()], ..Overrides::default() }, []);
    let environment = std::collections::BTreeMap::new();
    let hub = HubConfig::from_environment(&environment);
    let (_, entries) = read_config(&settings, hub, &Variables::new(&environment), errors).unwrap();
    let mut read: Vec<_> = entries.iter().map(|entry| entry.key).collect();
    read.sort_unstable();
    assert_eq!(read, settings.keys().collect::<Vec<_>>());
}

#[test]
fn good_values_arrive_in_their_fields() {
    let config = config(&[
        "server.listen=[::]:0",
        "server.admin_listen=127.0.0.1:0",
        "server.api_key=s3cret/+=",
        "server.page=false",
        "server.cors_origins=https://a.example, http://localhost:3000",
        "server.header_timeout=1h",
        "server.shutdown_delay=0s",
        "limits.max_body_bytes=1",
        "limits.max_pixels=1_000",
        "limits.max_text_bytes=512B",
        "model.name=Näme",
        "preprocess.threads=7",
        "preprocess.exif_orientation=false",
        "preprocess.fast_decode=true",
        "engine.provider=cuda",
        "engine.precision=f16",
        "engine.library=/lib/x.so",
        "engine.device_id=127",
        "engine.intra_threads=5",
        "engine.vision.sessions=3",
        "engine.text.sessions=2",
        "batch.vision.max_queue_delay=500us",
        "cache.max_bytes=0",
        "telemetry.log_level=warn,clipserve::batch=trace,[request]=info",
        "telemetry.log_format=json",
    ]);
    assert_eq!(config.server.listen.to_string(), "[::]:0");
    assert_eq!(config.server.admin_listen.unwrap().to_string(), "127.0.0.1:0");
    assert_eq!(config.server.api_key.unwrap().expose(), "s3cret/+=");
    assert!(!config.server.page);
    let origins = ["https://a.example", "http://localhost:3000"].map(str::to_owned).to_vec();
    assert_eq!(config.server.cors_origins, CorsOrigins::Listed(origins));
    assert_eq!((config.server.header_timeout, config.server.shutdown_delay), (HOUR, Duration::ZERO));
    assert_eq!(config.cache.max_bytes, 0);
    assert_eq!((config.limits.max_body_bytes, config.limits.max_pixels, config.limits.max_text_bytes), (1, 1000, 512));
    assert_eq!(config.model.name.as_deref(), Some("Näme"));
    let preprocess = &config.preprocess;
    assert_eq!((preprocess.threads, preprocess.exif_orientation, preprocess.fast_decode), (7, false, true));
    assert_eq!((config.engine.provider, config.engine.precision), (Provider::Cuda, PrecisionChoice::F16));
    assert_eq!((config.engine.library, config.engine.device_id), (Some("/lib/x.so".into()), 127));
    assert_eq!((config.engine.intra_threads, config.engine.vision_sessions, config.engine.text_sessions), (5, 3, 2));
    assert_eq!(config.batch.vision.max_queue_delay, Duration::from_micros(500));
    assert_eq!(config.telemetry.log_level, "warn,clipserve::batch=trace,[request]=info");
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
}

/// For every key: values that it refuses, each alone and named with its key, its origin and what is allowed.
const BAD: &[(&str, &[&str])] = &[
    ("server.listen", &["", "8080", "localhost:8080", "127.0.0.1", "127.0.0.1:65536", "::1:80", "http://127.0.0.1:80"]),
    ("server.admin_listen", &["8081", "off", " "]),
    ("server.open_paths", &["predict", "/a,,/b", "*,/a", "*"]),
    ("server.open_networks", &["10.1.2.3/16", "10.1.2.3", "10.0.0.0/8"]),
    ("server.tls_client_ca", &["ca.pem"]),
    ("server.page", &["", "1", "off"]),
    (
        "server.cors_origins",
        &[
            "app.example.com",
            "https://a/",
            "https://A",
            "https://a:443",
            "*,https://a",
            "https://a,",
            "null",
            "https://*.a",
        ],
    ),
    ("server.max_connections", &["", "0", "-1", "1000001", "1.5", "many", "auto", "1k"]),
    ("server.header_timeout", &["", "0", "0ms", "10", "-1s", "999us", "3601s", "2h", "1.5s"]),
    ("server.keep_alive_timeout", &["0s", "75"]),
    ("server.body_idle_timeout", &["0s", "10"]),
    ("server.body_timeout", &["0s", "30"]),
    ("server.write_timeout", &["0s", "30"]),
    ("server.request_timeout", &["0s", "30"]),
    ("server.shutdown_delay", &["1", "61m", "soon"]),
    ("server.drain_timeout", &["7", "61m"]),
    ("limits.max_body_bytes", &["0", "", "32MB", "5GiB", "-1", "1.5MiB"]),
    ("limits.max_inflight_requests", &["0", "1000001"]),
    ("limits.max_queue_wait", &["0ms", "2h", "500"]),
    ("limits.max_inflight_body_bytes", &["0", "2TiB", "256M"]),
    ("limits.max_images", &["0", "65537", "64KiB"]),
    ("limits.max_texts", &["0", "1048577"]),
    ("limits.max_pixels", &["0", "1000000001", "50MP", "18446744073709551616"]),
    ("limits.max_text_bytes", &["0", "17MiB"]),
    ("limits.max_output_bytes", &["0", "5GiB", "64M"]),
    ("limits.max_inflight_output_bytes", &["0", "2TiB"]),
    ("limits.max_inflight_answer_bytes", &["0", "2TiB", "256M"]),
    ("web.allow_hosts", &["*", "https://a.example", "a.example/b", "a,,b", "a:0", "u@a", "a.", "127.1"]),
    ("web.allow_networks", &["10.0.0.1/8", "10.0.0.0", "10/8", "internal", "10.0.0.0/33"]),
    ("web.timeout", &["0s", "5"]),
    ("web.connect_timeout", &["0s", "2"]),
    ("web.max_redirects", &["4", "-1"]),
    ("web.max_bytes", &["0", "5GiB", "32MB"]),
    ("web.max_connections", &["0", "1025"]),
    ("web.max_connections_per_host", &["0", "1025"]),
    ("model.revision", &["", "a b", "../main", "/main"]),
    ("model.name", &["a\u{7}b"]),
    ("model.aliases", &["a,b\u{7}"]),
    ("model.variant", &["_q4", "a/b", "a b", "ü"]),
    ("preprocess.threads", &["0", "1025", "Auto", ""]),
    ("preprocess.exif_orientation", &["", "1", "yes", "True"]),
    ("preprocess.fast_decode", &["", "0", "on"]),
    ("engine.provider", &["", "gpu", "CPU", "tensor-rt", "open_vino"]),
    ("engine.precision", &["", "fp16", "BF16", "int4"]),
    ("engine.device_id", &["-1", "128", "cuda:0"]),
    ("engine.intra_threads", &["0", "1025"]),
    ("engine.stall_timeout", &["0s", "60"]),
    ("engine.vision.sessions", &["0", "65"]),
    ("engine.text.sessions", &["0", "65"]),
    ("batch.vision.max_batch_size", &["0", "4097", "automatic"]),
    ("batch.vision.max_queue_delay", &["0", "11s", "5"]),
    ("batch.vision.max_queue_size", &["0", "1000001"]),
    ("batch.text.max_batch_size", &["0", "4097"]),
    ("batch.text.max_batch_tokens", &["0", "16777217"]),
    ("batch.text.max_queue_delay", &["0", "11s"]),
    ("batch.text.max_queue_size", &["0", "1000001"]),
    ("cache.max_bytes", &["", "off", "-1", "64MB", "2TiB"]),
    ("telemetry.log_level", &["", "verbose", "inf", "info,", "clipserve=loud", "info,hyper", "a=b=c"]),
    ("telemetry.log_format", &["", "pretty", "JSON"]),
    ("telemetry.otlp_endpoint", &["localhost:4318", "grpc://localhost:4317", "http://", "http://a/?key=1", "off"]),
    ("telemetry.otlp_sample_ratio", &["", "-0.1", "1.1", "NaN", "all"]),
];

#[test]
fn every_bad_value_is_one_line_with_its_key_value_origin_and_what_is_allowed() {
    for (key, values) in BAD {
        for value in *values {
            let lines = errors(&[&format!("{key}={value}")]);
            let [line] = &lines[..] else { panic!("{key} = {value:?}: {lines:?}") };
            let (given, allowed) = line.split_once(": must be ").unwrap();
            assert_eq!(given, format!("{key} = {value:?} (--set)"));
            assert!(allowed.len() > 10, "{line}");
        }
    }
}

#[test]
fn the_table_of_bad_values_has_every_key_that_refuses_any() {
    let (settings, _) = Settings::merge(&Overrides::default(), []);
    // Any text names a file or folder, and none the model in the box; a bad secret is not shown, so it has a test of its own.
    let any = ["engine.library", "model.path", "model.cache_dir", "model.vision", "model.text", "server.api_key"];
    let more = ["server.api_keys_file", "server.tls_certificate", "server.tls_key"];
    let tested = |key: &str| BAD.iter().any(|(bad, _)| *bad == key) || any.contains(&key) || more.contains(&key);
    let missing: Vec<_> = settings.keys().filter(|key| !tested(key)).collect();
    assert_eq!(missing, [""; 0]);
}

#[test]
fn a_model_is_a_directory_or_a_place_for_a_tower() {
    for set in ["model.vision=v", "model.text=t"] {
        assert_eq!(loaded(&[set]).unwrap().config.model.path.as_os_str(), "");
    }
}

#[test]
fn a_certificate_and_its_key_go_together_and_so_do_paths_and_networks() {
    let (certificate, key) = ("server.tls_certificate=c", "server.tls_key=k");
    assert!(config(&[]).server.tls.is_none());
    let tls = config(&[certificate, key, "server.tls_client_ca=a"]).server.tls.unwrap();
    assert_eq!((tls.certificate, tls.key, tls.client_ca), ("c".into(), "k".into(), Some("a".into())));
    for (given, lacking) in [(certificate, "server.tls_key = \"\""), (key, "server.tls_certificate = \"\"")] {
        let lines = errors(&[given]);
        assert!(lines.len() == 1 && lines[0].starts_with(lacking), "{lines:?}");
    }
    let networks = "server.open_networks=10.1.0.0/16";
    let server = config(&["server.api_key=k", "server.open_paths=/predict", networks]).server;
    assert_eq!((server.open_paths.iter().count(), server.open_networks.len()), (1, 1));
    assert!(config(&["server.api_keys_file=f", "server.open_paths=*", networks]).server.open_paths.are_all());
    for (given, allowed) in [
        (&["server.open_paths=/predict", networks][..], "without server.api_key"),
        (&["server.api_key=k", "server.open_paths=*"], "beside server.open_networks"),
        (&["server.api_key=k", networks], "without server.open_paths"),
    ] {
        let lines = errors(given);
        assert!(lines.len() == 1 && lines[0].contains(allowed), "{lines:?}");
    }
}

#[test]
fn a_variant_and_a_precision_are_at_odds() {
    assert_eq!(config(&["model.variant=q4f16"]).model.variant.as_deref(), Some("q4f16"));
    for precision in ["f16", "int8", "bf16", "auto"] {
        let lines = errors(&["model.variant=q4f16", &format!("engine.precision={precision}")]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("model.variant") && lines[0].contains("engine.precision"), "{lines:?}");
    }
}

#[test]
fn the_default_file_documents_every_range() {
    let mut comment = String::new();
    let mut section = "";
    let mut ranges = 0;
    for line in crate::config::layers::DEFAULT_TOML.lines() {
        if let Some(header) = line.strip_prefix('[') {
            section = header.trim_end_matches(']');
        } else if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
            comment.push(' ');
            continue;
        } else if let Some((name, _)) = line.split_once(" = ") {
            let key = format!("{section}.{name}");
            assert!(comment.len() > 20, "{key} has no comment above it");
            let bad = BAD.iter().find(|(bad, _)| *bad == key).and_then(|(_, values)| values.first());
            if let Some((_, range)) = bad.and_then(|bad| {
                errors(&[&format!("{key}={bad}")]).first()?.split_once(" from ").map(|(_, rest)| ((), rest.to_owned()))
            }) {
                let range = range.split(',').next().unwrap();
                assert!(comment.contains(range), "{key}: {comment:?} does not say {range:?}");
                ranges += 1;
            }
        }
        comment.clear();
    }
    assert!(ranges > 25, "{ranges}");
}

#[test]
fn values_of_the_wrong_toml_type_are_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[server]\nlisten = 8080\nmax_connections = '5'\nbody_timeout = 30\nwrite_timeout = 1.5\napi_key = 5\n\
                header_timeout = { secs = 1 }\n[model]\npath = ['m']\n[limits]\nmax_images = -1\nmax_body_bytes = -1\n\
                [preprocess]\nexif_orientation = 'true'\nthreads = true\n[engine]\nprovider = 1\n[telemetry]\nlog_level = 3";
    std::fs::write(file.path(), text).unwrap();
    let overrides = Overrides { file: Some(file.path().to_owned()), ..Overrides::default() };
    let errors = load(&overrides, []).unwrap_err().to_string();
    let given: Vec<_> = errors.lines().map(|line| line.split(" (file ").next().unwrap()).collect();
    assert_eq!(
        given,
        [
            "server.listen = 8080",
            "server.api_key = [redacted]",
            "server.max_connections = \"5\"",
            "server.header_timeout = { secs = 1 }",
            "server.body_timeout = 30",
            "server.write_timeout = 1.5",
            "limits.max_body_bytes = -1",
            "limits.max_images = -1",
            "model.path = [\"m\"]",
            "preprocess.threads = true",
            "preprocess.exif_orientation = \"true\"",
            "engine.provider = 1",
            "telemetry.log_level = 3",
        ]
    );
}

#[test]
fn a_bad_secret_is_refused_without_being_shown() {
    for value in ["hunter 2", "hünter", "hunter\n", &"hunter".repeat(200)] {
        let lines = errors(&[&format!("server.api_key={value}")]);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].starts_with("server.api_key = [redacted] (--set): must be printable"), "{}", lines[0]);
        assert!(!lines[0].contains("unter"));
    }
}

#[test]
fn keys_at_odds_are_errors_that_name_both_keys() {
    for (set, wants) in [
        (
            &["limits.max_images=257"][..],
            "batch.vision.max_queue_size = 256 (default): must be at least limits.max_images = \"257\" (--set), or a \
             request with that many could never be admitted",
        ),
        (
            &["batch.text.max_queue_size=1023"],
            "batch.text.max_queue_size = \"1023\" (--set): must be at least limits.max_texts = 1024 (default), or a request \
             with that many could never be admitted",
        ),
        (
            &["limits.max_body_bytes=2KiB", "limits.max_inflight_body_bytes=1KiB"],
            "limits.max_inflight_body_bytes = \"1KiB\" (--set): must be at least limits.max_body_bytes = \"2KiB\" (--set), or \
             a body of that size could never be admitted",
        ),
        (
            &["web.allow_hosts=a.example", "web.max_bytes=1GiB"],
            "limits.max_inflight_body_bytes = \"256MiB\" (default): must be at least web.max_bytes = \"1GiB\" (--set), or a \
             picture of that size could never be fetched",
        ),
        (
            &["server.admin_listen=127.0.0.1:8080"],
            "server.admin_listen = \"127.0.0.1:8080\" (--set): must be another port than server.listen = \
             \"127.0.0.1:8080\" (default)",
        ),
    ] {
        assert_eq!(errors(set), [wants]);
    }
}

#[test]
fn keys_that_just_agree_are_taken() {
    config(&["limits.max_images=256", "limits.max_texts=2048", "limits.max_inflight_body_bytes=32MiB"]);
    // Nothing is fetched.
    config(&["web.max_bytes=1GiB"]);
    config(&["server.admin_listen=127.0.0.1:8081"]);
    config(&["server.admin_listen=127.0.0.2:8080"]);
    config(&["server.listen=0.0.0.0:0", "server.admin_listen=0.0.0.0:0"]);
    assert_eq!(errors(&["server.listen=0.0.0.0:81", "server.admin_listen=127.0.0.1:81"]).len(), 1);
}

#[test]
fn a_failed_value_is_not_compared_with_another_key() {
    assert_eq!(errors(&["batch.vision.max_queue_size=0"]).len(), 1);
    assert_eq!(errors(&["limits.max_body_bytes=x", "server.listen=x", "server.admin_listen=127.0.0.1:0"]).len(), 2);
}

#[test]
fn all_errors_of_all_kinds_are_listed_in_one_go() {
    let errors = loaded(&["no.such=1", "limits.max_texts=5000", "engine.provider=tpu", "server.drain_timeout=7"]);
    let errors = errors.unwrap_err().to_string();
    let keys: Vec<_> = errors.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(keys, ["no.such", "server.drain_timeout", "engine.provider", "batch.text.max_queue_size"], "{errors}");
}

#[test]
fn a_precision_that_the_provider_does_not_have_is_refused() {
    let errors_of = |provider: &str, precision: &str| {
        errors(&[&format!("engine.provider={provider}"), &format!("engine.precision={precision}")])
    };
    for (provider, precision, expected) in [
        ("cpu", "bf16", "\"openvino\" or \"auto\""),
        ("cuda", "bf16", "\"openvino\" or \"auto\""),
        ("cuda", "int8", "\"cpu\", \"openvino\" or \"auto\""),
        ("openvino", "f16", "another provider"),
    ] {
        let line = format!(
            "engine.provider = \"{provider}\" (--set): must be {expected} beside engine.precision = \"{precision}\" (--set)"
        );
        assert_eq!(errors_of(provider, precision), [line]);
    }
    for precision in ["f32", "bf16", "int8", "auto"] {
        let line = format!(
            "engine.precision = \"{precision}\" (--set): must be \"f16\" beside engine.provider = \"tensorrt\" (--set)"
        );
        assert_eq!(errors_of("tensorrt", precision), [line]);
    }
    for (provider, precision) in [
        ("auto", "bf16"),
        ("auto", "int8"),
        ("openvino", "bf16"),
        ("openvino", "int8"),
        ("openvino", "f32"),
        ("openvino", "auto"),
        ("cpu", "auto"),
        ("cuda", "f32"),
        ("cuda", "f16"),
        ("cuda", "auto"),
        ("tensorrt", "f16"),
    ] {
        config(&[&format!("engine.provider={provider}"), &format!("engine.precision={precision}")]);
    }
}
