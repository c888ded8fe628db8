//! The real binary from start to end: what stops it from starting, and how it stops.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::json;

use crate::support::{fixture, pause};

/// When a process that should have ended counts as hung. Far above what is promised (a fault is told within 5 s, a stop takes
/// 9 s at most), because a loaded machine is no fault of the code.
const HUNG: Duration = Duration::from_secs(120);

pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CLIPSERVE__")) {
        command.env_remove(name);
    }
    command
}

/// A running binary whose log is read line by line; killed when dropped.
pub(crate) struct Running {
    child: Child,
    log: mpsc::Receiver<String>,
}

impl Running {
    fn start(args: &[&str]) -> Self {
        Self::spawn(command(args))
    }

    /// Starts a command whose standard error is piped.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        let (send, log) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, log }
    }

    /// The first line that has `what`.
    pub(crate) fn until(&self, what: &str) -> String {
        let mut seen = Vec::new();
        for line in self.log.iter() {
            if line.contains(what) {
                return line;
            }
            seen.push(line);
        }
        panic!("the binary ended without saying {what:?}: {seen:#?}");
    }

    /// Starts the fixture model on a free port; the address it took, once it is ready.
    pub(crate) fn serve(set: &[&str]) -> (Self, String) {
        let model = fixture("tiny-clip");
        let mut args = vec!["serve", "--model", model.to_str().expect("UTF-8"), "--listen", "127.0.0.1:0"];
        args.extend(["--provider", "cpu"]);
        args.extend(set.iter().flat_map(|pair| ["--set", pair]));
        let running = Self::start(&args);
        let address = running.address();
        running.until("ready");
        (running, address)
    }

    /// Waits until it listens on 127.0.0.1; the address.
    pub(crate) fn address(&self) -> String {
        let line = self.until("listening");
        let start = line.find("127.0.0.1:").expect("an address");
        let address = line[start..].trim_end_matches(|c: char| !c.is_ascii_digit());
        address.split('"').next().unwrap_or_default().to_owned()
    }

    /// The process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // SAFETY: sends a signal to a child of ours that has not been waited for.
        #[expect(unsafe_code, reason = "no safe crate among the dependencies sends signals")]
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0);
    }

    /// Waits for the end; the exit code.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        // The log ends when the process has closed it, which is just before it is gone.
        while self.log.recv_timeout(HUNG).is_ok() {}
        self.child.wait().expect("a child of ours").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a start that must fail.
pub(crate) fn fault(mut command: Command) -> Output {
    let child = command.spawn().expect("the binary starts");
    let (done, output) = mpsc::channel();
    thread::spawn(move || done.send(child.wait_with_output()));
    output.recv_timeout(HUNG).expect("it ends").expect("readable")
}

pub(crate) fn assert_fault(name: &str, command: Command, code: i32, expected: &[&str]) {
    let output = fault(command);
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(code), "{name}: {stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("clipserve: "), "{name}: the last line is the reason: {stderr}");
    for part in expected {
        assert!(last.contains(part), "{name}: {part:?} is not in {last:?}");
    }
    for never in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        assert!(!stderr.contains(never), "{name}: {stderr}");
    }
}

/// A copy of the fixture model that a test may damage.
fn model() -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    fs::create_dir(copy.path().join("onnx")).expect("a folder");
    for file in [
        "config.json",
        "preprocessor_config.json",
        "tokenizer.json",
        "onnx/vision_model.onnx",
        "onnx/text_model.onnx",
        "model.safetensors",
    ] {
        fs::copy(fixture("tiny-clip").join(file), copy.path().join(file)).expect("a copy");
    }
    copy
}

pub(crate) fn serve(model: &Path, more: &[&str]) -> Command {
    // By --set, so that a case can say otherwise by a flag.
    let free = ["--set", "server.listen=127.0.0.1:0", "--set", "engine.provider=cpu"];
    command(&[&["serve", "--model", model.to_str().expect("UTF-8")], &free[..], more].concat())
}

#[test]
fn each_fault_of_a_model_is_one_line_that_names_the_file() {
    type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a [&'a str]);
    let cases: &[Case<'_>] = &[
        ("no directory", &|dir| fs::remove_dir_all(dir).expect("removed"), &["model directory", "No such file"]),
        ("no vision graph", &|dir| remove(dir, "onnx/vision_model.onnx"), &["onnx/vision_model.onnx"]),
        ("no tokenizer", &|dir| remove(dir, "tokenizer.json"), &["tokenizer.json"]),
        ("no preprocessor", &|dir| remove(dir, "preprocessor_config.json"), &["preprocessor_config.json"]),
        ("empty graph", &|dir| write(dir, "onnx/vision_model.onnx", ""), &["vision encoder", "vision_model.onnx"]),
        ("garbage graph", &|dir| write(dir, "onnx/text_model.onnx", "garbage"), &["text encoder", "text_model.onnx"]),
        ("truncated graph", &|dir| truncate(dir, "onnx/vision_model.onnx"), &["vision encoder", "vision_model.onnx"]),
        (
            "the text graph as vision",
            &|dir| swap(dir),
            &["vision encoder", "pixel_values f32 [batch, 3, height, width]"],
        ),
        ("broken tokenizer", &|dir| truncate(dir, "tokenizer.json"), &["tokenizer.json"]),
        ("broken config", &|dir| write(dir, "config.json", "{"), &["config.json"]),
        ("wrong config", &|dir| write(dir, "config.json", r#"{"text_config": 3}"#), &["config.json", "text_config"]),
        ("broken preprocessor", &|dir| write(dir, "preprocessor_config.json", "[]"), &["preprocessor_config.json"]),
        ("other image size", &|dir| replace(dir, "preprocessor_config.json", "224", "96"), &["96x96", "224x224"]),
        ("truncated weights", &|dir| write(dir, "model.safetensors", "abc"), &["model.safetensors"]),
    ];
    for (name, damage, expected) in cases {
        let copy = model();
        damage(copy.path());
        assert_fault(name, serve(copy.path(), &[]), 1, expected);
    }
}

fn remove(dir: &Path, file: &str) {
    fs::remove_file(dir.join(file)).expect("removed");
}

fn write(dir: &Path, file: &str, text: &str) {
    fs::write(dir.join(file), text).expect("written");
}

fn truncate(dir: &Path, file: &str) {
    let bytes = fs::read(dir.join(file)).expect("readable");
    fs::write(dir.join(file), &bytes[..bytes.len() / 2]).expect("written");
}

fn replace(dir: &Path, file: &str, from: &str, to: &str) {
    let text = fs::read_to_string(dir.join(file)).expect("readable");
    assert!(text.contains(from));
    write(dir, file, &text.replace(from, to));
}

fn swap(dir: &Path) {
    fs::copy(dir.join("onnx/text_model.onnx"), dir.join("onnx/vision_model.onnx")).expect("copied");
}

#[test]
fn an_explicit_provider_precision_or_library_that_cannot_be_had_is_refused() {
    let model = fixture("tiny-clip");
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("cuda on a CPU build", &["--provider", "cuda"], &["engine.provider = \"cuda\" cannot start", "CUDA"]),
        ("no library", &["--set", "engine.library=/no/such/lib.so"], &["/no/such/lib.so"]),
        (
            "not a library",
            &["--set", concat!("engine.library=", env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")],
            &["Cargo.toml"],
        ),
    ];
    for (name, more, expected) in cases {
        assert_fault(name, serve(&model, more), 1, expected);
    }
    let graphs_alone = self::model();
    fs::remove_file(graphs_alone.path().join("model.safetensors")).expect("removed");
    let expected = &["vision_model_fp16.onnx", "engine.precision"];
    assert_fault("f16 without its files", serve(graphs_alone.path(), &["--precision", "f16"]), 1, expected);
}

/// The fixture model on a free port, by a process that may have so many files open.
fn serve_with_files(files: u32) -> Command {
    let serve = serve(&fixture("tiny-clip"), &[]);
    let mut limited = Command::new("sh");
    limited
        .args(["-c", &format!("ulimit -n {files}; exec \"$0\" \"$@\"")])
        .arg(serve.get_program())
        .args(serve.get_args());
    limited.stdout(Stdio::piped()).stderr(Stdio::piped());
    limited
}

#[test]
fn too_few_open_files_are_one_line_and_few_make_fewer_connections() {
    assert_fault("64 files", serve_with_files(64), 1, &["64 open files", "97 at least", "ulimit -n"]);
    let running = Running::spawn(serve_with_files(104));
    let line = running.until("fewer connections are taken");
    assert!(line.contains("limit=104") && line.contains("connections=8"), "{line}");
    let address = running.address();
    running.until("ready");
    // More than there are places, all at work: without the limit they would take every file.
    let connections: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(&address).expect("a connection")).collect();
    running.until("as many connections as there may be");
    drop(connections);
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let model = fixture("tiny-clip");
    assert_fault("port", serve(&model, &["--listen", &address]), 1, &["server.listen", &address, "in use"]);
    let admin = format!("server.admin_listen={address}");
    assert_fault("admin port", serve(&model, &["--set", &admin]), 1, &["server.admin_listen", &address]);
}

#[test]
fn bad_values_and_unknown_keys_are_all_listed_and_exit_64() {
    let output = fault(serve(&fixture("tiny-clip"), &["--set", "server.listn=x", "--set", "limits.max_images=none"]));
    let stderr = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("server.listn") && stderr.contains("limits.max_images"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_sigterm_requests_in_flight_finish_and_the_exit_code_is_0() {
    let (mut running, address) = Running::serve(&["server.shutdown_delay=300ms"]);
    let client = reqwest::Client::new();
    let url = |path: &str| format!("http://{address}{path}");
    // The end of the last body comes only after the signal, so this request is in flight through the whole drain.
    let (piece, pieces) = futures_channel();
    let slow = tokio::spawn(
        client
            .post(url("/embed/text"))
            .header("content-type", "application/json")
            .body(reqwest::Body::wrap_stream(pieces))
            .send(),
    );
    piece.send(br#"{"texts": ["a photo "#.to_vec()).await.expect("sent");
    loop {
        let metrics = client.get(url("/metrics")).send().await.expect("an answer").text().await.expect("text");
        if metrics.contains("clipserve_http_requests_in_flight 2") {
            break;
        }
        pause().await;
    }
    running.signal(libc::SIGTERM);
    running.until("draining");
    let probe = client.get(url("/readyz")).send().await.expect("an answer");
    assert_eq!((probe.status().as_u16(), &*probe.text().await.expect("text")), (503, "draining\n"));
    let late = client.post(url("/embed/text")).json(&json!({"texts": "still served"})).send().await.expect("an answer");
    assert_eq!(late.status(), 200);
    assert_eq!(late.headers()["connection"], "close");
    running.until("the listener closes");
    piece.send(br#"of a cat"]}"#.to_vec()).await.expect("sent");
    drop(piece);
    let answer = slow.await.expect("sent").expect("an answer");
    assert_eq!(answer.status(), 200);
    running.until("drained");
    assert_eq!(running.exit_code(), Some(0));
}

/// A request body that is fed piece by piece.
fn futures_channel() -> (tokio::sync::mpsc::Sender<Vec<u8>>, impl futures_util::Stream<Item = std::io::Result<Vec<u8>>>)
{
    let (send, receive) = tokio::sync::mpsc::channel::<Vec<u8>>(1);
    let next = |mut receive: tokio::sync::mpsc::Receiver<Vec<u8>>| async move {
        receive.recv().await.map(|piece| (Ok(piece), receive))
    };
    (send, futures_util::stream::unfold(receive, next))
}

#[test]
fn a_request_longer_than_the_drain_is_cut_and_the_exit_code_is_1() {
    use std::io::Write as _;
    let (mut running, address) = Running::serve(&["server.shutdown_delay=0ms", "server.drain_timeout=100ms"]);
    let mut socket = std::net::TcpStream::connect(&address).expect("a connection");
    let head = "POST /embed/text HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\ncontent-length: 10\r\nexpect: 100-continue\r\n\r\n";
    socket.write_all(head.as_bytes()).expect("sent");
    // "100 Continue" says that the handler reads the body.
    let mut interim = [0; 12];
    socket.read_exact(&mut interim).expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100");
    running.signal(libc::SIGTERM);
    let line = running.until("clipserve: ");
    assert!(line.contains("1 requests were still running"), "{line}");
    assert_eq!(running.exit_code(), Some(1));
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let (mut running, _) = Running::serve(&["server.shutdown_delay=1h"]);
    running.signal(libc::SIGTERM);
    running.until("draining");
    running.signal(libc::SIGINT);
    assert_eq!(running.exit_code(), Some(1));
}

#[test]
fn logs_can_be_json_with_the_request_id() {
    let (running, address) = Running::serve(&["telemetry.log_format=json"]);
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    client.block_on(async {
        let request = reqwest::Client::new().get(format!("http://{address}/nowhere")).header("x-request-id", "find-me");
        assert_eq!(request.send().await.expect("an answer").status(), 404);
    });
    let line = running.until("find-me");
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(line["span"]["request_id"], "find-me", "{line}");
    assert_eq!(line["code"], "not_found", "{line}");
}
