//! What the real binary does when nobody takes its log, and what signals do to it.
//!
//! Owns what only a process can show; how a line looks and what the queue does have their tests beside their code.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read},
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use clipserve::{
    embedder::Embedder,
    encoder::{Embeddings, EncodeError, Encoder, OutputSet, PixelBuf, Tokens, TowerOutputs},
    signals, telemetry,
};
use serde_json::json;

use crate::{
    lifecycle,
    support::{TestServer, configuration, fixture, parts, pause},
};

/// When a process that should have ended, or answered, counts as hung.
const HUNG: Duration = Duration::from_secs(120);

const DROPPED: &str = "clipserve_log_lines_dropped_total";

/// The fixture model by the real binary, whose standard error is the test's; killed when dropped.
struct Service {
    child: Child,
    address: String,
    client: reqwest::Client,
}

impl Service {
    /// Starts it and reads its log until it is ready; what comes then is left to the test.
    fn start(set: &[&str]) -> (Self, BufReader<ChildStderr>) {
        let mut child = Self::command(set).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let line = until(&mut log, "listening");
        until(&mut log, "ready");
        let (_, port) = line.trim_end().rsplit_once("127.0.0.1:").expect("an address");
        (Self::of(child, &format!("127.0.0.1:{port}")), log)
    }

    /// Starts it with `stderr`, which tells nothing, and waits until it is ready.
    async fn start_silent(set: &[&str], stderr: File) -> Self {
        let mut child = Self::command(set).stderr(stderr).spawn().expect("the binary starts");
        let port = loop {
            assert!(child.try_wait().expect("a child of ours").is_none(), "it ended");
            if let Some(port) = listening_port(child.id()) {
                break port;
            }
            thread::yield_now();
        };
        let service = Self::of(child, &format!("127.0.0.1:{port}"));
        while service.get("/readyz").await.0 != 200 {
            pause().await;
        }
        service
    }

    fn command(set: &[&str]) -> Command {
        let mut command = lifecycle::serve(&fixture("tiny-clip"), &[]);
        command.args(set.iter().flat_map(|pair| ["--set", pair])).stdout(Stdio::null());
        command
    }

    fn of(child: Child, address: &str) -> Self {
        let client = reqwest::Client::builder().timeout(HUNG).build().expect("a client");
        Self { child, address: address.to_owned(), client }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.client.get(self.url(path)).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("text"))
    }

    async fn dropped(&self) -> u64 {
        let (_, metrics) = self.get("/metrics").await;
        let value = metrics.lines().find_map(|line| line.strip_prefix(DROPPED)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {DROPPED} in {metrics}")).parse().expect("a number")
    }

    /// Asks until lines of the log are lost.
    async fn until_dropped(&self) {
        let before = self.dropped().await;
        while self.dropped().await == before {
            for _ in 0..100 {
                assert_eq!(self.get("/livez").await.0, 200);
            }
        }
    }

    /// Checks that the main listener does its work.
    async fn assert_well(&self) {
        let texts = json!({ "texts": ["a photo of a cat"] });
        let answer = self.client.post(self.url("/embed/text")).json(&texts).send().await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert_eq!(self.get("/livez").await.0, 200);
        assert_eq!(self.get("/readyz").await.0, 200);
        assert_eq!(self.get("/nowhere").await.0, 404);
    }

    fn signal(&self, signal: i32) {
        kill(self.child.id(), signal);
    }

    /// Waits for the end; the exit code.
    fn exit_code(mut self) -> Option<i32> {
        let (pid, (done, ended)) = (self.child.id(), mpsc::channel());
        thread::spawn(move || done.send(self.child.wait()));
        let Ok(status) = ended.recv_timeout(HUNG) else {
            kill(pid, libc::SIGKILL);
            panic!("it does not end");
        };
        status.expect("a child of ours").code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(pid: u32, signal: i32) {
    let pid = i32::try_from(pid).expect("a pid");
    // SAFETY: sends a signal to a child of ours that has not been waited for.
    #[expect(unsafe_code, reason = "no safe crate among the dependencies sends signals")]
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0);
}

/// The first line that has `what`.
fn until(log: &mut impl BufRead, what: &str) -> String {
    let mut seen = String::new();
    loop {
        let start = seen.len();
        assert_ne!(log.read_line(&mut seen).expect("readable"), 0, "{what:?} is not in:\n{seen}");
        if seen[start..].contains(what) {
            return seen.split_off(start);
        }
    }
}

/// The port of the socket on which a process listens, as the kernel lists it.
fn listening_port(pid: u32) -> Option<u16> {
    let links =
        fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let inodes: Vec<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
    let port = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let ours = *state == "0A" && inodes.iter().any(|own| own == inode);
        ours.then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
    };
    table.lines().find_map(port)
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_reader_of_its_log_the_service_goes_on_and_counts_the_lines() {
    let (service, log) = Service::start(&["telemetry.log_level=debug", "server.shutdown_delay=0ms"]);
    assert_eq!(service.dropped().await, 0);
    drop(log);
    service.until_dropped().await;
    service.assert_well().await;
    service.signal(libc::SIGTERM);
    assert_eq!(service.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_blocks_neither_requests_nor_the_drain() {
    let (service, _unread) = Service::start(&["telemetry.log_level=debug", "server.shutdown_delay=0ms"]);
    service.until_dropped().await;
    service.assert_well().await;
    service.signal(libc::SIGTERM);
    assert_eq!(service.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_does_not_block_the_second_signal() {
    let (service, _unread) = Service::start(&["telemetry.log_level=debug", "server.shutdown_delay=1h"]);
    service.until_dropped().await;
    service.signal(libc::SIGTERM);
    while service.get("/readyz").await.0 != 503 {
        pause().await;
    }
    service.signal(libc::SIGTERM);
    assert_eq!(service.exit_code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_read_again_goes_on_and_says_how_large_the_gap_was() {
    let (service, mut log) = Service::start(&["telemetry.log_level=debug", "server.shutdown_delay=0ms"]);
    service.until_dropped().await;
    let (line, mut log) = thread::spawn(move || (until(&mut log, "the log has a gap"), log)).join().expect("read");
    let (_, lines) = line.trim_end().rsplit_once("lines=").expect("how many");
    assert_eq!(lines.parse::<u64>().expect("a number"), service.dropped().await);
    let request = service.client.get(service.url("/livez")).header("x-request-id", "after-the-gap");
    request.send().await.expect("an answer");
    until(&mut log, "after-the-gap");
    service.signal(libc::SIGTERM);
    until(&mut log, "drained");
    assert_eq!(service.exit_code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_log_stops_nothing() {
    let full = OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let service = Service::start_silent(&["telemetry.log_level=debug", "server.shutdown_delay=0ms"], full).await;
    service.until_dropped().await;
    service.assert_well().await;
    service.signal(libc::SIGTERM);
    assert_eq!(service.exit_code(), Some(0));
}

#[test]
fn a_start_that_fails_ends_with_its_code_also_when_it_cannot_say_why() {
    let full = || OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    for (args, code) in [(&["--set", "limits.max_images=0"][..], 64), (&["--set", "engine.library=/no/such.so"], 1)] {
        let mut command = lifecycle::serve(&fixture("tiny-clip"), args);
        assert_eq!(command.stderr(full()).status().expect("it starts").code(), Some(code), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_send_cannot_forge_a_line() {
    let (service, mut log) = Service::start(&["telemetry.log_level=debug"]);
    let request = service.client.post(service.url("/embed/text")).header("x-request-id", "forger");
    let answer = request.json(&json!({ "texts": ["x"], "a\nERROR forged \u{1b}[31m": 1 })).send().await;
    assert_eq!(answer.expect("an answer").status(), 400);
    let line = until(&mut log, "forger");
    assert!(line.contains(r"a\nERROR forged \u{1b}[31m") && !line.contains('\u{1b}'), "{line:?}");
    service.signal(libc::SIGKILL);
    assert_eq!(service.exit_code(), None);
}

#[test]
fn sighup_and_sigquit_drain_and_do_not_cut_the_drain_short() {
    for (signal, name) in [(libc::SIGHUP, "SIGHUP"), (libc::SIGQUIT, "SIGQUIT")] {
        let (service, mut log) = Service::start(&["server.shutdown_delay=100ms"]);
        service.signal(signal);
        until(&mut log, name);
        for also in [libc::SIGHUP, libc::SIGQUIT] {
            service.signal(also);
        }
        until(&mut log, "drained");
        assert_eq!(service.exit_code(), Some(0), "{name}");

        let (service, mut log) = Service::start(&["server.shutdown_delay=1h"]);
        service.signal(signal);
        until(&mut log, "draining");
        service.signal(libc::SIGTERM);
        assert_eq!(service.exit_code(), Some(1), "{name}");
    }
}

/// This program again, as a process of its own that does what the ignored test `name` does.
fn child(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn a_second_signal_ends_a_process_whose_runtime_is_stuck() {
    let mut child = child("logs::stuck").spawn().expect("it starts");
    until(&mut BufReader::new(child.stdout.take().expect("piped")), "stuck now");
    // Two that come at once count as one, so until it has ended there is one more.
    let started = std::time::Instant::now();
    let status = loop {
        kill(child.id(), libc::SIGTERM);
        if let Some(status) = child.try_wait().expect("a child of ours") {
            break status;
        }
        assert!(started.elapsed() < HUNG, "it does not end");
        thread::yield_now();
    };
    assert_eq!(status.code(), Some(1));
}

#[test]
#[ignore = "another test starts it: the only thread of its runtime waits for the end of standard input"]
fn stuck() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let _stop = signals::stop().expect("handlers");
        println!("stuck now");
        let _ = io::stdin().read_to_end(&mut Vec::new());
    });
}

#[test]
fn a_panic_is_two_lines_of_which_one_has_the_place_and_one_the_request() {
    let running = child("logs::panics").output().expect("it starts");
    let log = String::from_utf8(running.stderr).expect("UTF-8");
    assert!(running.status.success(), "{log}");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("broken on purpose")).collect();
    let [place, request] = lines[..] else { panic!("{log}") };
    assert!(place.contains("panicked: broken on purpose thread=\"text-0\" at=tests/it/logs.rs:"), "{place}");
    assert!(request.contains("request_id=\"find-me\"") && request.contains("code=\"internal\""), "{request}");
    assert!(!log.contains("backtrace"), "{log}");
}

/// Panics in its first run.
struct Broken<I>(std::marker::PhantomData<fn(I)>);

impl<I: Send + 'static> Encoder for Broken<I> {
    type Input = I;

    fn encode(&mut self, _: &[I]) -> Result<Embeddings, EncodeError> {
        panic!("broken on purpose")
    }

    fn encode_outputs(&mut self, _: &[I], _: OutputSet) -> Result<Vec<TowerOutputs>, EncodeError> {
        panic!("broken on purpose")
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "another test starts it and reads its log: the hook for panics is that of the process"]
async fn panics() {
    let config = configuration(&[]);
    telemetry::init(&config.telemetry).expect("the first");
    let parts = parts(&config, Broken::<PixelBuf>(Default::default()), Broken::<Tokens>(Default::default()));
    let server = TestServer::bind(config.clone(), move |context| {
        Embedder::assemble(parts, &config, context.metrics, &context.health)
    })
    .await;
    server.ready().await;
    let request = server.post("/embed/text").header("x-request-id", "find-me").json(&json!({ "texts": ["x"] }));
    assert_eq!(request.send().await.expect("an answer").status(), 500);
    server.stop().await;
    telemetry::flush();
}

#[test]
fn the_passwords_of_addresses_are_in_no_line_and_still_reach_the_hub() {
    let mut command = lifecycle::command(&["serve", "--model", "someone/no-such", "--listen", "127.0.0.1:0"]);
    let hub = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = hub.local_addr().expect("an address");
    command.args(["--set", "telemetry.log_level=trace"]).env_remove("HF_TOKEN").env_remove("HF_HUB_OFFLINE");
    let home = tempfile::tempdir().expect("a folder");
    command.env("HF_HOME", home.path()).env("HF_ENDPOINT", format!("http://user:hunter2@{address}/"));
    let asked = thread::spawn(move || {
        let (stream, _) = hub.accept().expect("a request");
        let head: Vec<String> =
            BufReader::new(&stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
        io::Write::write_all(&mut &stream, b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            .expect("sent");
        head
    });
    let output = lifecycle::fault(command);
    let head = asked.join().expect("a request");
    // `user:hunter2` in base64.
    assert!(head.iter().any(|line| line.eq_ignore_ascii_case("authorization: Basic dXNlcjpodW50ZXIy")), "{head:?}");
    let log = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains(&format!("on http://[redacted]@{address}")), "{log}");
    // The last one is how the HTTP client shows the bytes that it sends: `GET `.
    for secret in ["hunter2", "dXNlcjpodW50ZXIy", "4745 5420"] {
        assert!(!log.contains(secret), "{log}");
    }
}
