//! A hub for tests: the protocol of the Hugging Face Hub as far as a download needs it, with faults to order.
//!
//! Owns answering; what was asked is kept for the test to look at. Large files are redirected to another host (another port),
//! small ones are answered at once, as on the real one.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use clipserve::config::Address;
use sha1::Digest as _;

/// The model's id.
pub(crate) const ID: &str = "someone/tiny-clip";
/// What it was called before: requests for that are redirected.
pub(crate) const FORMER_ID: &str = "someone/small-clip";
/// What its revision `main` is.
pub(crate) const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";
/// Files from this size on are redirected.
const LARGE: usize = 100_000;

/// One request that came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// Whether it came to the host that large files are on.
    pub(crate) elsewhere: bool,
}

/// What goes wrong with one answer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// This status, and `x-error-code` where there is one.
    Status(u16, &'static str),
    /// The connection closes after so many bytes of the body.
    Cut(usize),
    /// Other contents of the same length.
    Garbage,
    /// The whole file for a request of a range.
    NoRange,
    /// Half of the body, then nothing, until the stand-in is dropped.
    Hang,
}

/// A running stand-in.
pub(crate) struct HubStandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Dropped with the stand-in, which ends what hangs.
    _alive: mpsc::Sender<()>,
}

/// The names of a repository's files, and their contents.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

struct Shared {
    repositories: BTreeMap<String, Files>,
    elsewhere: SocketAddr,
    requests: Mutex<Vec<Request>>,
    faults: Mutex<Vec<(String, Fault)>>,
    token: Mutex<Option<String>>,
    dropped: Mutex<mpsc::Receiver<()>>,
}

impl HubStandIn {
    /// Serves a repository of these files, by [`ID`].
    pub(crate) fn start(files: Files) -> Self {
        Self::start_with([(ID, files)])
    }

    /// Serves these repositories, by their ids.
    pub(crate) fn start_with<'a>(repositories: impl IntoIterator<Item = (&'a str, Files)>) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (main, other) = (bind(), bind());
        let (alive, dropped) = mpsc::channel();
        let shared = Arc::new(Shared {
            repositories: repositories.into_iter().map(|(id, files)| (id.to_owned(), files)).collect(),
            elsewhere: other.local_addr().expect("an address"),
            requests: Mutex::default(),
            faults: Mutex::default(),
            token: Mutex::default(),
            dropped: Mutex::new(dropped),
        });
        let address = main.local_addr().expect("an address");
        for (listener, elsewhere) in [(main, false), (other, true)] {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let shared = Arc::clone(&shared);
                    // A client that goes away in the middle is what some tests are about.
                    thread::spawn(move || shared.answer(stream, elsewhere));
                }
            });
        }
        Self { address, shared, _alive: alive }
    }

    /// What `HF_ENDPOINT` is set to.
    pub(crate) fn endpoint(&self) -> Address {
        Address::new(format!("http://{}", self.address))
    }

    /// From now on only requests with this token are answered.
    pub(crate) fn require_token(&self, token: &str) {
        *self.shared.token.lock().expect("not poisoned") = Some(token.to_owned());
    }

    /// The next GET whose path ends with `path` goes wrong like this; several for one path come one after the other.
    pub(crate) fn fail(&self, path: &str, fault: Fault) {
        self.shared.faults.lock().expect("not poisoned").push((path.to_owned(), fault));
    }

    /// Everything that was asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }

    /// The `range` headers (empty where there was none) of the transfers of `file`, one for each.
    pub(crate) fn ranges(&self, file: &str) -> Vec<String> {
        let last = |request: &Request| {
            let size = self.shared.repositories[ID].get(file).map_or(0, Vec::len);
            request.method == "GET" && request.path.ends_with(file) && request.elsewhere == (size >= LARGE)
        };
        let requests = self.requests().into_iter().filter(last);
        requests.map(|request| request.headers.get("range").cloned().unwrap_or_default()).collect()
    }

    /// The names of the files of [`ID`] whose contents were asked for.
    pub(crate) fn downloaded(&self) -> Vec<String> {
        self.downloaded_of(ID)
    }

    /// The names of the files of `id` whose contents were asked for.
    pub(crate) fn downloaded_of(&self, id: &str) -> Vec<String> {
        let prefix = format!("/{id}/resolve/{COMMIT}/");
        let gets = self.requests().into_iter().filter(|request| request.method == "GET");
        let mut names: Vec<String> =
            gets.filter_map(|request| Some(request.path.strip_prefix(&prefix)?.to_owned())).collect();
        names.sort();
        names
    }
}

/// The hash that the hub names contents by, which is their blob's name in the cache.
pub(crate) fn etag(bytes: &[u8]) -> String {
    let hex = |hash: &[u8]| hash.iter().map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() >= LARGE {
        return hex(&sha2::Sha256::digest(bytes));
    }
    let mut git = sha1::Sha1::new();
    git.update(format!("blob {}\0", bytes.len()));
    git.update(bytes);
    hex(&git.finalize())
}

impl Shared {
    fn answer(&self, stream: TcpStream, elsewhere: bool) -> Option<()> {
        let request = read(&stream, elsewhere)?;
        self.requests.lock().expect("not poisoned").push(request.clone());
        let token = self.token.lock().expect("not poisoned").clone();
        let allowed =
            token.is_none_or(|token| request.headers.get("authorization") == Some(&format!("Bearer {token}")));
        if !elsewhere && !allowed {
            return status(&stream, 401, "");
        }
        if request.path.contains(FORMER_ID) {
            let location = request.path.replacen(FORMER_ID, ID, 1);
            let head =
                format!("HTTP/1.1 307 X\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            return (&stream).write_all(head.as_bytes()).ok();
        }
        let fault = (request.method == "GET").then(|| self.fault(&request)).flatten();
        if let Some(Fault::Status(code, error)) = fault {
            return status(&stream, code, error);
        }
        if let Some(rest) = request.path.strip_prefix("/contents/") {
            return send(&stream, &request, "", self.file(rest.split_once("//")?)?, fault, &self.dropped);
        }
        if let Some(rest) = request.path.strip_prefix("/api/models/") {
            let (id, revision) = rest.split_once("/revision/")?;
            let Some(files) = self.repositories.get(id) else { return status(&stream, 404, "RepoNotFound") };
            if ![COMMIT, "main", "refs%2Fpr%2F1"].contains(&revision) {
                return status(&stream, 404, "RevisionNotFound");
            }
            let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
            let body = serde_json::json!({ "id": id, "sha": COMMIT, "siblings": siblings }).to_string();
            return send(&stream, &request, "", body.as_bytes(), fault, &self.dropped);
        }
        let (id, name) = request.path.strip_prefix('/')?.split_once(&format!("/resolve/{COMMIT}/"))?;
        let Some(body) = self.file((id, name)) else { return status(&stream, 404, "EntryNotFound") };
        let (etag, size) = (etag(body), body.len());
        if size < LARGE {
            let headers = format!("etag: \"{etag}\"\r\nx-repo-commit: {COMMIT}\r\n");
            return send(&stream, &request, &headers, body, fault, &self.dropped);
        }
        let head = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{}/contents/{id}//{name}\r\nx-linked-etag: \"{etag}\"\r\nx-linked-size: {size}\r\n\
             etag: \"a-hash-of-something-else\"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            self.elsewhere
        );
        (&stream).write_all(head.as_bytes()).ok()
    }

    /// The contents of a file, by the id of its repository and its name.
    fn file(&self, (id, name): (&str, &str)) -> Option<&Vec<u8>> {
        self.repositories.get(id)?.get(name)
    }

    /// The next fault ordered for this path; those of large files happen where their contents are.
    fn fault(&self, request: &Request) -> Option<Fault> {
        let mut faults = self.faults.lock().expect("not poisoned");
        let large = self
            .repositories
            .values()
            .flatten()
            .any(|(name, body)| request.path.ends_with(name) && body.len() >= LARGE);
        let at = faults.iter().position(|(path, _)| request.path.ends_with(path) && large == request.elsewhere)?;
        Some(faults.remove(at).1)
    }
}

fn read(stream: &TcpStream, elsewhere: bool) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect();
    Some(Request { method, path, headers, elsewhere })
}

fn status(mut stream: &TcpStream, code: u16, error: &str) -> Option<()> {
    let error = if error.is_empty() { String::new() } else { format!("x-error-code: {error}\r\n") };
    let head = format!("HTTP/1.1 {code} X\r\n{error}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()
}

fn send(
    mut stream: &TcpStream,
    request: &Request,
    headers: &str,
    body: &[u8],
    fault: Option<Fault>,
    dropped: &Mutex<mpsc::Receiver<()>>,
) -> Option<()> {
    let range =
        request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let range = range.filter(|_| !matches!(fault, Some(Fault::NoRange)));
    let from: usize = range.unwrap_or(0);
    let mut part = body.get(from..)?.to_vec();
    if matches!(fault, Some(Fault::Garbage)) {
        part.fill(b'?');
    }
    let (code, range) = match range {
        Some(from) => (206, format!("content-range: bytes {from}-{}/{}\r\n", body.len() - 1, body.len())),
        None => (200, String::new()),
    };
    let length = part.len();
    let head = format!("HTTP/1.1 {code} X\r\n{headers}{range}content-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    if request.method == "HEAD" {
        return Some(());
    }
    match fault {
        Some(Fault::Cut(bytes)) => stream.write_all(part.get(..bytes)?).ok(),
        Some(Fault::Hang) => {
            stream.write_all(part.get(..length / 2)?).ok()?;
            let _ = dropped.lock().expect("not poisoned").recv();
            Some(())
        }
        _ => stream.write_all(&part).ok(),
    }
}
