//! Models by their id on the hub, against a stand-in of its protocol.
//!
//! Owns what only a download can show; the choice of files, the cache's layout and the hashes have their tests beside their code.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use clipserve::{
    config::{Address, ModelConfig, Precision, Secret},
    embedder,
    model::hub::{self, HubError},
};
use serde_json::json;
use tempfile::TempDir;

use crate::{
    hub_stand_in::{COMMIT, FORMER_ID, Fault, HubStandIn, ID, etag},
    lifecycle::Running,
    support::{TestServer, configuration, fixture, json},
};

const NEEDED: [&str; 5] =
    ["config.json", "onnx/text_model.onnx", "onnx/vision_model.onnx", "preprocessor_config.json", "tokenizer.json"];
/// A large file and a small one.
const LARGE: &str = "onnx/text_model.onnx";
const SMALL: &str = "preprocessor_config.json";

/// The fixture model among files that nobody needs.
fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<String, Vec<u8>> = NEEDED.iter().map(|name| ((*name).to_owned(), contents(name))).collect();
    for other in [
        "README.md",
        "open_clip_model.safetensors",
        "onnx/model.onnx",
        "onnx/text_model_fp16.onnx",
        "pytorch_model.bin",
    ] {
        files.insert(other.to_owned(), other.into());
    }
    files
}

fn contents(name: &str) -> Vec<u8> {
    fs::read(fixture("tiny-clip").join(name)).expect("the fixture")
}

/// A stand-in with the fixture model, and a cache that has nothing.
struct Case {
    hub: HubStandIn,
    cache: TempDir,
    model: ModelConfig,
}

impl Case {
    fn new() -> Self {
        let (hub, cache) = (HubStandIn::start(files()), tempfile::tempdir().expect("a folder"));
        let mut model = configuration(&[&format!("model.path={ID}")]).model;
        model.hub.endpoint = hub.endpoint();
        model.hub.cache = Some(cache.path().to_owned());
        model.hub.retry_delay = Duration::from_millis(1);
        Self { hub, cache, model }
    }

    fn download(&self) -> Result<ModelConfig, HubError> {
        Ok(hub::local(&self.model, Precision::F32)?.config)
    }

    fn error(&self) -> String {
        self.download().expect_err("a fault").to_string()
    }

    fn repo(&self) -> PathBuf {
        self.cache.path().join("models--someone--tiny-clip")
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.repo().join("blobs").join(etag(&contents(name)))
    }

    fn partial(&self, name: &str) -> PathBuf {
        self.blob(name).with_extension("incomplete")
    }

    /// Leaves what an earlier process would have downloaded of a file.
    fn leave(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.repo().join("blobs")).expect("a folder");
        fs::write(self.partial(name), bytes).expect("written");
    }

    /// Checks that every needed file is there, whole.
    fn assert_whole(&self, path: &Path) {
        for name in NEEDED {
            assert_eq!(fs::read(path.join(name)).expect(name), contents(name), "{name}");
            assert!(!self.partial(name).exists(), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_downloaded_and_served_and_the_next_start_asks_only_for_the_commit() {
    let case = Case::new();
    let mut config = configuration(&[]);
    config.model = case.model.clone();
    let start = async || {
        let config = config.clone();
        let server =
            TestServer::bind(config.clone(), move |context| embedder::start(&config, context.metrics, &context.health));
        let server = server.await;
        server.ready().await;
        server
    };
    let server = start().await;
    let local = TestServer::start(&[]).await;
    let texts = json!({ "texts": ["a photo of a cat", "a rocket"] });
    let downloaded = json(server.post_json("/embed/text", &texts).await, 200).await;
    let expected = json(local.post_json("/embed/text", &texts).await, 200).await;
    assert_eq!(downloaded["embeddings"], expected["embeddings"]);
    assert_eq!(downloaded["model"], ID);
    assert_eq!(case.hub.downloaded(), NEEDED, "what is needed and nothing more");
    assert_eq!(fs::read_to_string(case.repo().join("refs/main")).expect("a ref"), COMMIT);
    case.assert_whole(&case.repo().join("snapshots").join(COMMIT));
    server.stop().await;
    local.stop().await;

    let before = case.hub.requests().len();
    start().await.stop().await;
    assert_eq!(case.hub.requests().len(), before + 1);
}

#[test]
fn a_directory_of_that_name_goes_before_the_hub_and_what_is_neither_is_refused() {
    let mut case = Case::new();
    case.model.path = fixture("tiny-clip");
    assert_eq!(case.download().expect("a directory").path, fixture("tiny-clip"));
    case.model.path = "models/no/such".into();
    let error = case.error();
    assert!(error.contains("models/no/such") && error.contains("owner/name"), "{error}");
    assert_eq!(case.hub.requests().len(), 0);
}

#[test]
fn a_broken_transfer_goes_on_where_it_broke() {
    for name in [LARGE, SMALL] {
        let case = Case::new();
        case.hub.fail(name, Fault::Cut(100));
        case.hub.fail(name, Fault::Cut(50));
        case.assert_whole(&case.download().expect("downloaded").path);
        assert_eq!(case.hub.ranges(name), ["", "bytes=100-", "bytes=150-"], "{name}");
    }
}

#[test]
fn what_an_earlier_process_left_is_resumed() {
    let case = Case::new();
    let half = contents(LARGE).len() / 2;
    case.leave(LARGE, &contents(LARGE)[..half]);
    case.leave(SMALL, &contents(SMALL));
    case.assert_whole(&case.download().expect("downloaded").path);
    assert_eq!(case.hub.ranges(LARGE), [format!("bytes={half}-")]);
    assert_eq!(case.hub.ranges(SMALL), [""; 0], "it was whole");
}

#[test]
fn what_an_earlier_process_left_damaged_is_downloaded_again() {
    for damaged in [vec![0; 100], vec![0; contents(LARGE).len()], vec![0; contents(LARGE).len() + 1]] {
        let case = Case::new();
        case.leave(LARGE, &damaged);
        case.assert_whole(&case.download().expect("downloaded").path);
    }
}

#[test]
fn a_server_without_ranges_is_taken_from_the_start() {
    let case = Case::new();
    case.leave(LARGE, &contents(LARGE)[..1000]);
    case.hub.fail(LARGE, Fault::NoRange);
    case.assert_whole(&case.download().expect("downloaded").path);
    assert_eq!(case.hub.ranges(LARGE), ["bytes=1000-"]);
}

#[test]
fn contents_with_another_hash_are_refused_and_thrown_away() {
    for name in [LARGE, SMALL] {
        let case = Case::new();
        case.hub.fail(name, Fault::Garbage);
        let error = case.error();
        assert!(error.contains(name) && error.contains(&etag(&contents(name))), "{error}");
        assert!(!case.partial(name).exists() && !case.blob(name).exists());
        assert!(!case.repo().join("snapshots").exists(), "nothing is linked before all is there");
        case.assert_whole(&case.download().expect("the next time").path);
    }
}

#[test]
fn faults_of_the_server_that_pass_are_waited_out_and_others_are_not() {
    let case = Case::new();
    for path in ["revision/main", LARGE, SMALL] {
        case.hub.fail(path, Fault::Status(503, ""));
        case.hub.fail(path, Fault::Status(429, ""));
    }
    case.assert_whole(&case.download().expect("downloaded").path);

    let case = Case::new();
    case.hub.fail(LARGE, Fault::Status(418, ""));
    let error = case.error();
    assert!(error.contains("418") && error.contains(LARGE), "{error}");
    assert_eq!(case.hub.ranges(LARGE).len(), 1);
}

#[test]
fn refusals_say_what_to_do() {
    type Change = fn(&mut Case);
    let cases: [(Change, &[&str]); 7] = [
        (|case| case.model.path = "no/such".into(), &["no/such", "neither a file or directory nor a model on http://"]),
        (|case| case.model.revision = "v9".to_owned(), &["someone/tiny-clip has no revision v9"]),
        (|case| case.hub.require_token("hf_right"), &["(401)", "private", "give a token in HF_TOKEN"]),
        (
            |case| {
                case.hub.require_token("hf_right");
                case.model.hub.token = Some(Secret::new("hf_wrong".to_owned()));
            },
            &["(401)", "the token", "not valid"],
        ),
        (|case| case.hub.fail(SMALL, Fault::Status(403, "GatedRepo")), &["(403)", "gated", "accept its terms"]),
        (
            |case| case.model.hub.certificates = Some(fixture("tiny-clip/config.json")),
            &["SSL_CERT_FILE: there is no certificate in", "config.json"],
        ),
        (|case| case.model.hub.endpoint = Address::new("nonsense"), &["nonsense/api/models", "HF_ENDPOINT"]),
    ];
    for (change, expected) in cases {
        let mut case = Case::new();
        change(&mut case);
        let error = case.error();
        assert!(expected.iter().all(|part| error.contains(part)), "{expected:?}: {error}");
        assert!(!error.contains("hf_") && error.lines().count() == 1, "{error}");
        assert!(case.hub.requests().len() < 12, "not tried again: {:?}", case.hub.requests());
    }
}

#[test]
fn a_model_without_anything_to_serve_is_refused_before_anything_is_downloaded() {
    let mut case = Case::new();
    case.hub = HubStandIn::start([("config.json".to_owned(), b"{}".to_vec())].into());
    case.model.hub.endpoint = case.hub.endpoint();
    let error = case.error();
    assert!(error.contains(ID) && error.contains("model.safetensors"), "{error}");
    assert_eq!(case.hub.requests().len(), 1);
}

#[test]
fn a_revision_is_a_branch_or_a_commit_and_both_share_a_snapshot() {
    let mut case = Case::new();
    case.model.revision = "refs/pr/1".to_owned();
    let branch = case.download().expect("a branch").path;
    assert_eq!(fs::read_to_string(case.repo().join("refs/refs/pr/1")).expect("a ref"), COMMIT);
    let before = case.hub.requests().len();
    case.model.revision = COMMIT.to_owned();
    assert_eq!(case.download().expect("a commit").path, branch);
    assert_eq!(case.hub.requests().len(), before + 1);
    assert!(!case.repo().join("refs").join(COMMIT).exists());
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    for from_file in [false, true] {
        let mut case = Case::new();
        case.hub.require_token("hf_right");
        let file = case.cache.path().join("token");
        fs::write(&file, "hf_right\n").expect("written");
        if from_file {
            case.model.hub.token_file = Some(file);
        } else {
            case.model.hub.token = Some(Secret::new("hf_right".to_owned()));
        }
        case.assert_whole(&case.download().expect("downloaded").path);
        let (elsewhere, here): (Vec<_>, Vec<_>) =
            case.hub.requests().into_iter().partition(|request| request.elsewhere);
        assert!(
            !elsewhere.is_empty() && elsewhere.iter().all(|request| !request.headers.contains_key("authorization"))
        );
        assert!(here.iter().all(|request| request.headers["authorization"] == "Bearer hf_right"));
    }
}

#[test]
fn a_model_that_was_renamed_is_found_under_its_former_id_with_the_token() {
    let mut case = Case::new();
    case.hub.require_token("hf_right");
    case.model.hub.token = Some(Secret::new("hf_right".to_owned()));
    case.model.path = FORMER_ID.into();
    let local = case.download().expect("downloaded");
    for name in NEEDED {
        assert_eq!(fs::read(local.path.join(name)).expect(name), contents(name), "{name}");
    }
    assert_eq!(local.name.as_deref(), Some(FORMER_ID));
}

#[test]
fn offline_the_cache_serves_or_the_start_fails_and_nothing_is_asked() {
    let mut case = Case::new();
    case.model.hub.offline = true;
    let error = case.error();
    for part in [ID, "main", "HF_HUB_OFFLINE", case.cache.path().to_str().expect("UTF-8")] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(case.hub.requests().len(), 0);
    case.model.hub.offline = false;
    case.download().expect("downloaded");
    let before = case.hub.requests().len();
    case.model.hub.offline = true;
    case.assert_whole(&case.download().expect("cached").path);
    hub::local(&case.model, Precision::F16).expect_err("other files, which are not there");
    case.model.revision = "v2".to_owned();
    case.download().expect_err("another revision");
    assert_eq!(case.hub.requests().len(), before);
}

#[test]
fn when_the_hub_cannot_be_reached_the_cache_serves() {
    let mut case = Case::new();
    case.download().expect("downloaded");
    let gone = HubStandIn::start(BTreeMap::new());
    for _ in 0..20 {
        gone.fail("revision/main", Fault::Status(502, ""));
    }
    case.model.hub.endpoint = gone.endpoint();
    case.assert_whole(&case.download().expect("cached").path);
    case.model.revision = "v2".to_owned();
    for _ in 0..20 {
        gone.fail("revision/v2", Fault::Status(502, ""));
    }
    let error = case.error();
    assert!(error.contains("502") && error.contains("revision/v2"), "{error}");
}

#[test]
fn several_starts_at_once_download_each_file_once() {
    let case = Case::new();
    thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| case.download())).collect();
        for start in starts {
            case.assert_whole(&start.join().expect("no panic").expect("downloaded").path);
        }
    });
    assert_eq!(case.hub.downloaded(), NEEDED);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut case = Case::new();
    let file = case.cache.path().join("file");
    fs::write(&file, "").expect("written");
    case.model.hub.cache = Some(file.clone());
    let error = case.error();
    assert!(error.contains(file.to_str().expect("UTF-8")) && error.contains("HF_HOME"), "{error}");
    case.model.hub.cache = None;
    assert!(case.error().contains("HF_HOME"));
}

/// The real binary on the stand-in, in an environment of nothing else.
fn binary(case: &Case) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.args(["serve", "--model", ID, "--revision", "main", "--listen", "127.0.0.1:0", "--provider", "cpu"]);
    command.args(["--set", "server.shutdown_delay=0ms"]);
    command.env_clear().env("HF_ENDPOINT", case.hub.endpoint().expose()).env("HF_HUB_CACHE", case.cache.path());
    command.envs(std::env::var_os("ORT_DYLIB_PATH").map(|path| ("ORT_DYLIB_PATH", path)));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn on_a_full_disk_the_path_and_the_size_are_named_and_the_next_start_goes_on() {
    let case = Case::new();
    let limit: u64 = 150_000;
    let size = contents(LARGE).len();
    let mut command = binary(&case);
    let limited = move || {
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: two plain system calls, between fork and exec. A write past the limit then fails instead of ending the process.
        #[expect(unsafe_code, reason = "a limit of a child can only be set there")]
        let failed = unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) != 0
        };
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: `limited` makes system calls only and allocates nothing.
    #[expect(unsafe_code, reason = "runs between fork and exec")]
    let output = unsafe { command.pre_exec(limited) }.output().expect("it starts");
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    for part in ["clipserve: ", case.cache.path().to_str().expect("UTF-8"), "of ", "bytes", "make room", "HF_HOME"] {
        assert!(last.contains(part), "{part}: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    let left: Vec<_> = NEEDED.into_iter().filter(|name| case.partial(name).is_file()).collect();
    let [left] = left[..] else { panic!("{left:?} of {size}") };
    assert!(last.contains(&contents(left).len().to_string()), "{last}");
    case.assert_whole(&case.download().expect("there is room now").path);
    assert!(case.hub.ranges(left).iter().any(|range| range.starts_with("bytes=")), "it was resumed");
}

#[test]
fn probes_are_answered_while_it_downloads_and_a_signal_stops_it_at_once() {
    let case = Case::new();
    case.hub.fail("tokenizer.json", Fault::Hang);
    let mut running = Running::spawn(binary(&case));
    let address = running.address();
    running.until("downloading");
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let readyz = async { reqwest::get(format!("http://{address}/readyz")).await.expect("an answer").status().as_u16() };
    assert_eq!(client.block_on(readyz), 503);
    running.signal(libc::SIGTERM);
    running.until("drained");
    assert_eq!(running.exit_code(), Some(0));
}
