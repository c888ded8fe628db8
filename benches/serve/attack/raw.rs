//! One request by hand on a connection of its own, and probes of that kind while something else goes on.
//!
//! Owns bytes that a well-behaved client would not send, and the time until their answer. Invariants: everything ends by its
//! limit; the answer is read while the request is still being written, as it may come early.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::finding::percentile;
use crate::Result;

/// How long a probe may take before it counts as this.
const PROBE: Duration = Duration::from_secs(2);

/// Between two rounds of probes.
const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// How long an embedding may take.
const EMBEDDING: Duration = Duration::from_secs(10);

/// So much of an answer is kept.
const KEPT: usize = 256 * 1024;

/// An answer, as much as is of interest.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// Bytes of head and body.
    pub(crate) length: usize,
    /// Head and body, at most the first 256 KiB.
    pub(crate) text: String,
    /// From the start of the request to the end of the answer.
    pub(crate) took: Duration,
}

/// `GET path`, and the connection ends.
pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").into_bytes()
}

/// `POST path` with `body`, and the connection ends.
pub(crate) fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let mut request = post_head(path, content_type, body.len());
    request.extend_from_slice(body);
    request
}

/// The head of such a request.
pub(crate) fn post_head(path: &str, content_type: &str, length: usize) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {content_type}");
    format!("{head}\r\ncontent-length: {length}\r\n\r\n").into_bytes()
}

/// Sends `request` and takes its answer; with `half_close` the sending side is closed behind it.
///
/// # Errors
/// When there is no whole answer within `limit`.
pub(crate) fn exchange(address: SocketAddr, request: &[u8], limit: Duration, half_close: bool) -> Result<Answer> {
    let started = Instant::now();
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_nodelay(true)?;
    // Also ends a writer whose answer came early, or never.
    stream.set_write_timeout(Some(limit))?;
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(move || {
            // An answer that came early may end the connection before the request does; the reader says what came of it.
            if writer.write_all(request).is_ok() && half_close {
                let _ = writer.shutdown(Shutdown::Write);
            }
        });
        let answer = read(&mut stream, started, limit);
        let _ = stream.shutdown(Shutdown::Both);
        answer
    })
}

/// The `embeddings` of the answer to `request`, as they stand there: equal where they are equal to the bit.
///
/// # Errors
/// When it has none.
pub(crate) fn embeddings(address: SocketAddr, request: &[u8]) -> Result<serde_json::Value> {
    let answer = exchange(address, request, EMBEDDING, false)?;
    let body = answer.text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let mut body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    match body["embeddings"].take() {
        serde_json::Value::Null => Err(format!("no embeddings: {}", answer.text).into()),
        embeddings => Ok(embeddings),
    }
}

fn read(stream: &mut TcpStream, started: Instant, limit: Duration) -> Result<Answer> {
    let (mut start, mut length, mut expected) = (Vec::new(), 0, None);
    let mut piece = vec![0; 64 * 1024];
    while expected.is_none_or(|expected| length < expected) {
        let left = limit.checked_sub(started.elapsed()).filter(|left| !left.is_zero());
        stream.set_read_timeout(Some(left.ok_or_else(|| format!("no answer within {limit:?}"))?))?;
        let read = match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(format!("after {length} bytes of an answer: {error}").into()),
        };
        length += read;
        start.extend_from_slice(&piece[..read.min(KEPT - start.len().min(KEPT))]);
        expected = expected.or_else(|| whole(&start));
    }
    let text = String::from_utf8_lossy(&start).into_owned();
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| format!("closed after {length} bytes of an answer"))?;
    if expected.is_some_and(|expected| length < expected) {
        return Err(format!("closed after {length} bytes of an answer").into());
    }
    Ok(Answer { status, length, text, took: started.elapsed() })
}

/// The bytes of an answer whose head is complete and says it.
fn whole(start: &[u8]) -> Option<usize> {
    let end = start.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&start[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok())?;
    Some(end + length)
}

/// Probes on new connections, one after the other, until it is stopped.
pub(crate) struct Prober {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Vec<(&'static str, Duration, bool)>>,
}

/// What came of them.
pub(crate) struct Probes(Vec<(&'static str, Duration, bool)>);

impl Prober {
    /// Asks each of `paths` in turn.
    pub(crate) fn start(address: SocketAddr, paths: &'static [&'static str]) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut probes = Vec::new();
            while stopped.recv_timeout(PROBE_PAUSE) == Err(mpsc::RecvTimeoutError::Timeout) {
                for path in paths {
                    let started = Instant::now();
                    let well = exchange(address, &get(path), PROBE, false).is_ok_and(|answer| answer.status == 200);
                    probes.push((*path, if well { started.elapsed() } else { PROBE }, well));
                }
            }
            probes
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<Probes> {
        drop(self.stop);
        Ok(Probes(self.thread.join().map_err(|_| "the probes failed")?))
    }
}

impl Probes {
    /// The 99th percentile over all of them, those that failed counted as two seconds.
    pub(crate) fn p99(&self) -> Duration {
        let times: Vec<_> = self.0.iter().map(|(_, time, _)| *time).collect();
        if times.is_empty() { PROBE } else { percentile(&times, 0.99) }
    }

    /// How many failed.
    pub(crate) fn failed(&self) -> usize {
        self.0.iter().filter(|probe| !probe.2).count()
    }

    /// `/livez 2.1 ms, /readyz 2.3 ms (p99 of 120; 0 failed)`.
    pub(crate) fn describe(&self) -> String {
        let mut paths: Vec<_> = self.0.iter().map(|(path, ..)| *path).collect();
        paths.sort_unstable();
        paths.dedup();
        let each = paths.iter().map(|path| {
            let times: Vec<_> = self.0.iter().filter(|probe| probe.0 == *path).map(|probe| probe.1).collect();
            format!("{path} {:.1} ms", percentile(&times, 0.99).as_secs_f64() * 1e3)
        });
        format!("{} (p99 of {}; {} failed)", each.collect::<Vec<_>>().join(", "), self.0.len(), self.failed())
    }
}
