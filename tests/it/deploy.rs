//! The files that run the service elsewhere (`Dockerfile`, `deploy/`), held to what the service is, without Docker or a cluster.
//!
//! Owns what two files say of one thing: keys, metrics, times, stages, names of files. Does not own whether the files work:
//! `make test-containers` runs them.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use regex::Regex;
use walkdir::WalkDir;

use crate::support::{TestServer, configuration};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below `deploy/` that are text for people or machines.
fn files() -> Vec<PathBuf> {
    let files = WalkDir::new(root().join("deploy")).into_iter().map(|entry| entry.unwrap().into_path());
    let files: Vec<_> =
        files.filter(|path| path.is_file() && path.extension().is_none_or(|kind| kind != "pyc")).collect();
    assert!(files.len() > 20, "{files:?}");
    files
}

/// The first group of every match.
fn all(pattern: &str, text: &str) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    pattern.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

/// The first group of the one match.
fn one(pattern: &str, path: &str) -> String {
    let found = all(pattern, &read(path));
    assert_eq!(found.len(), 1, "{path}: {pattern}: {found:?}");
    found[0].clone()
}

fn seconds(pattern: &str, path: &str) -> Duration {
    Duration::from_secs(one(pattern, path).parse().unwrap())
}

#[test]
fn every_variable_is_a_key_of_the_configuration() {
    let defaults: toml::Table = include_str!("../../config/default.toml").parse().unwrap();
    let mut seen = 0;
    for path in files().into_iter().chain([root().join("Dockerfile")]) {
        let text = fs::read_to_string(&path).unwrap();
        for variable in all(r"CLIPSERVE__([A-Z0-9_]+[A-Z0-9])", &text) {
            if variable == "SECTION__KEY" {
                continue;
            }
            seen += 1;
            let keys = variable.to_lowercase();
            let mut value = Some(toml::Value::Table(defaults.clone()));
            for key in keys.split("__") {
                value = value.and_then(|value| value.get(key).cloned());
            }
            assert!(value.is_some_and(|value| !value.is_table()), "{}: CLIPSERVE__{variable}", path.display());
        }
    }
    assert!(seen > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_that_is_watched_is_one_that_is_served() {
    let server = TestServer::start(&[]).await;
    // What has labels that are not known before it happens is there once it has happened: a request, when its answer is written.
    server.post_json("/embed/text", &serde_json::json!({"texts": ["a cat"]})).await;
    let mut served = String::new();
    for _ in 0..1000 {
        served = server.get("/metrics").await.text().await.unwrap();
        if served.contains("clipserve_http_requests_total{") {
            break;
        }
    }
    let served: BTreeSet<String> = all(r"(?m)^# TYPE (\S+)", &served).into_iter().collect();
    for path in ["deploy/alerts.yml", "deploy/grafana-dashboard.json", "deploy/test/alerts_test.yml"] {
        let watched = all(r"\b((?:clipserve|process)_[a-z_]+)\b", &read(path));
        assert!(watched.len() > 5, "{path}");
        for name in watched {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            assert!(served.contains(family) || served.contains(&name), "{path}: {name}");
        }
    }
    server.stop().await;
}

#[test]
fn every_alert_has_a_test_of_its_fault() {
    let alerts = all(r"(?m)^ *- alert: (\w+)", &read("deploy/alerts.yml"));
    let tests = read("deploy/test/alerts_test.yml");
    let tested = all(r"(?m)^  - name: (Clipserve\w+), ", &tests);
    assert_eq!(alerts.iter().collect::<BTreeSet<_>>(), tested.iter().collect::<BTreeSet<_>>());
    // Of each it is said when it does not fire yet, and that it fires alone.
    for name in alerts {
        assert!(
            tests.contains(&format!("exp_samples: [{{ labels: '{{alertname=\"{name}\"}}', value: 1 }}]")),
            "{name}"
        );
    }
}

#[test]
fn the_dockerfile_is_for_every_builder_and_of_this_version() {
    let text = read("Dockerfile");
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    assert!(!Regex::new(r"(?m)^# *syntax *=").unwrap().is_match(&text), "it pulls an image");
    assert!(lines().all(|line| !line.contains("--mount") && !line.contains("<<")), "the classic builder knows neither");
    assert_eq!(one(r"(?m)^ARG VERSION=(.*)$", "Dockerfile"), env!("CARGO_PKG_VERSION"));
    let toolchain = one(r"(?m)^FROM rust:(\d+\.\d+)\.", "Dockerfile");
    let number = |version: &str| version.split('.').map(|part| part.parse().unwrap()).collect::<Vec<u32>>();
    assert!(number(&toolchain) >= number(env!("CARGO_PKG_RUST_VERSION")), "{toolchain}");
    // Without a target it is the CPU's, which is the last stage; what is named as a target is one.
    let stages: BTreeSet<String> = all(r"(?m)^FROM \S+ AS (\S+)$", &text).into_iter().collect();
    assert_eq!(lines().rfind(|line| line.starts_with("FROM ")), Some("FROM cpu"));
    let compose = one(r"(?m)^ +target: (\S+)$", "deploy/compose.yaml");
    let documents = ["README.md", "deploy/README.md", "Dockerfile", "deploy/test/conftest.py"].map(read).concat();
    for target in all(r"--target (\w+)", &documents).into_iter().chain([compose]) {
        assert!(stages.contains(&target), "{target}");
    }
}

/// What the program is compiled from, by `include_bytes!` and its like, is what the image's build copies.
#[test]
fn the_image_is_built_from_all_that_the_sources_take_in() {
    let sources: Vec<PathBuf> = all(r"(?m)^COPY ([^-$\n].*) \S+$", &read("Dockerfile"))
        .iter()
        .flat_map(|sources| sources.split(' '))
        .map(|source| root().join(source).canonicalize().unwrap_or_else(|error| panic!("COPY {source}: {error}")))
        .collect();
    let mut seen = 0;
    for entry in WalkDir::new(root().join("src")) {
        let path = entry.unwrap().into_path();
        if path.extension().is_none_or(|kind| kind != "rs") || path.file_name().is_some_and(|name| name == "tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let program = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for name in all(r#"include_(?:bytes|str)!\(\s*"([^"]+)"\)"#, program) {
            seen += 1;
            let file = path.parent().unwrap().join(&name).canonicalize().unwrap();
            assert!(sources.iter().any(|source| file.starts_with(source)), "{}: {name}", path.display());
        }
    }
    assert!(seen > 15, "{seen}");
}

#[test]
fn kustomizations_name_every_file_and_no_other() {
    let folder = root().join("deploy/kubernetes");
    let mut folders = 0;
    for entry in WalkDir::new(&folder) {
        let path = entry.unwrap().into_path();
        if path.file_name().is_none_or(|name| name != "kustomization.yaml") {
            continue;
        }
        folders += 1;
        let (here, text) = (path.parent().unwrap(), fs::read_to_string(&path).unwrap());
        let lists = all(r"(?m)^(?:resources|components): \[(.*)\]$", &text).join(", ");
        let named: BTreeSet<_> = lists
            .split(", ")
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .chain(all(r"(?m)^  - path: (\S+)$", &text))
            .collect();
        for name in &named {
            assert!(here.join(name).exists(), "{}: {name}", path.display());
        }
        for file in fs::read_dir(here).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            assert!(name == "kustomization.yaml" || named.contains(&name), "{}: {name}", path.display());
        }
    }
    assert_eq!(folders, 7);
}

#[test]
fn jobs_deal_their_sources_out_among_as_many_as_they_start() {
    let (job, script) = ("deploy/kubernetes/embed-job.yaml", "deploy/slurm/embed.sbatch");
    let shards = one(r"--shard, auto/(\d+)", job);
    assert_eq!([one(r"(?m)^  completions: (\d+)", job), one(r"(?m)^  parallelism: (\d+)", job)], [&*shards, &shards]);
    let last: usize = one(r"--array=0-(\d+)", script).parse().unwrap();
    assert_eq!(one(r"--shard auto/(\d+)", script), (last + 1).to_string());
}

#[test]
fn platforms_wait_for_the_drain_and_balancers_are_sooner_than_the_service() {
    let server = configuration(&[]).server;
    for (delay, grace) in [
        (
            seconds(r"SHUTDOWN_DELAY: (\d+)s", "deploy/compose.yaml"),
            seconds(r"stop_grace_period: (\d+)s", "deploy/compose.yaml"),
        ),
        (
            seconds(r#"SHUTDOWN_DELAY, value: "(\d+)s""#, "deploy/kubernetes/base/deployment.yaml"),
            seconds(r"terminationGracePeriodSeconds: (\d+)", "deploy/kubernetes/base/deployment.yaml"),
        ),
        (
            seconds(r#"(?m)^shutdown_delay = "(\d+)s""#, "config/default.toml"),
            seconds(r"TimeoutStopSec=(\d+)", "deploy/clipserve.service"),
        ),
    ] {
        assert!(grace > delay + server.drain_timeout, "{grace:?} for {delay:?}");
    }
    let (haproxy, nginx) = ("deploy/haproxy.cfg", "deploy/nginx.conf");
    // The health check that marks a replica as down, twice, is within the delay.
    let check = seconds(r"inter (\d+)s fall 2", haproxy);
    assert!(2 * check < seconds(r"SHUTDOWN_DELAY: (\d+)s", "deploy/compose.yaml"));
    assert!(seconds(r"timeout http-keep-alive (\d+)s", haproxy) < server.keep_alive_timeout);
    for idle in all(r"keepalive_timeout (\d+)s", &read(nginx)) {
        assert!(Duration::from_secs(idle.parse().unwrap()) < server.keep_alive_timeout);
    }
    assert!(seconds(r"timeout server (\d+)s", haproxy) > server.request_timeout);
    assert!(seconds(r"proxy_read_timeout (\d+)s", nginx) > server.request_timeout);
    let most: usize = one(r"client_max_body_size (\d+)m;", nginx).parse().unwrap();
    assert_eq!(most << 20, configuration(&[]).limits.max_body_bytes);
    // 429 is the client's, with its Retry-After.
    assert!(!one(r"(?m)^ *(retry-on .*)$", haproxy).contains("429"));
    assert!(!one(r"(?m)^ *(proxy_next_upstream .*);$", nginx).contains("429"));
}
