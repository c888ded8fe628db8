//! `clipserve healthcheck`: one GET, for containers that have no curl.
//!
//! Owns the URL it asks and the few bytes of HTTP/1.1 that need no client: a request without a body, and the status line of its
//! answer; inside TLS whoever answers is believed (`tls`). Does not own which address that is by default: `config` does.
//!
//! Invariant: [`probe`] takes no longer than [`TIMEOUT`], whatever the other side does (looking up a host's name excepted).

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    str::FromStr,
    time::{Duration, Instant},
};

use http::Uri;

use crate::tls;

/// From connecting to the answer's status line.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// `HTTP/1.1 200`: all of the answer that matters.
const STATUS_BYTES: usize = "HTTP/1.1 200".len();

/// A URL that [`probe`] can ask: `http` or `https`, with a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeUrl(Uri);

impl ProbeUrl {
    /// `/readyz` of a listener bound to `listen`, inside TLS or not; for a wildcard address the loopback of its family.
    pub fn readyz(listen: SocketAddr, tls: bool) -> Self {
        let ip = match listen.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        // Built from the parts that a URL has (a scope id it has not).
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}/readyz", SocketAddr::new(ip, listen.port()));
        Self(Uri::try_from(url).expect("an address and a fixed path make a URL"))
    }
}

impl fmt::Display for ProbeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ProbeUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = "must be http://HOST:PORT/PATH or https://HOST:PORT/PATH, without a user name";
        let uri: Uri = text.parse().map_err(|_| allowed)?;
        let authority = uri.authority().ok_or(allowed)?;
        let host = authority.host();
        // Nothing but a host and a number: `Uri` itself lets user names and any word for a port through.
        let plain = match authority.port_u16() {
            Some(port) => authority.as_str() == format!("{host}:{port}"),
            None => authority.as_str() == host,
        };
        if matches!(uri.scheme_str(), Some("http" | "https")) && plain && !host.is_empty() {
            Ok(Self(uri))
        } else {
            Err(allowed)
        }
    }
}

/// Why a service is not healthy; one line.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It answered, with another status than 200.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked.
        url: ProbeUrl,
        /// What it said.
        status: u16,
    },
    /// What came back is not HTTP.
    #[error("{url} did not answer in HTTP/1")]
    NotHttp {
        /// What was asked.
        url: ProbeUrl,
    },
    /// It could not be asked, or the answer did not come in time.
    #[error("{url}: {error}")]
    Io {
        /// What was asked.
        url: ProbeUrl,
        /// The system's reason.
        error: io::Error,
    },
}

/// Asks `url`; `Ok` is a 200.
///
/// # Errors
/// Anything else, [`TIMEOUT`] included.
pub fn probe(url: &ProbeUrl) -> Result<(), ProbeError> {
    let deadline = Instant::now() + TIMEOUT;
    let head = ask(&url.0, deadline).map_err(|error| ProbeError::Io { url: url.clone(), error })?;
    match status(&head) {
        Some(200) => Ok(()),
        Some(status) => Err(ProbeError::Status { url: url.clone(), status }),
        None => Err(ProbeError::NotHttp { url: url.clone() }),
    }
}

/// The first [`STATUS_BYTES`] of the answer, fewer where it ends sooner.
fn ask(uri: &Uri, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut stream = Until { stream: connect(uri, deadline)?, deadline };
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: clipserve-healthcheck\r\nconnection: close\r\n\r\n"
    );
    if uri.scheme_str() == Some("https") {
        let mut session = tls::unverified_client(host_of(uri)).map_err(io::Error::other)?;
        return exchange(&mut rustls::Stream::new(&mut session, &mut stream), &request);
    }
    exchange(&mut stream, &request)
}

/// Sends `request` and reads as much of the answer as matters.
fn exchange(stream: &mut (impl Read + Write), request: &str) -> io::Result<Vec<u8>> {
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let mut head = [0; STATUS_BYTES];
    let mut filled = 0;
    // Byte by byte if the other side wishes, but no longer than the deadline.
    while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(head.into_iter().take(filled).collect())
}

/// A connection whose every wait ends at the deadline.
struct Until {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Until {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(bytes).map_err(|error| in_words(error, "did not answer"))
    }
}

impl Write for Until {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(bytes).map_err(|error| in_words(error, "could not be sent the request"))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// A name or an address, as it stands in no URL.
fn host_of(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

/// The first of the host's addresses that takes the connection.
fn connect(uri: &Uri, deadline: Instant) -> io::Result<TcpStream> {
    let default_port = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in (host_of(uri), uri.port_u16().unwrap_or(default_port)).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = in_words(error, "did not take the connection"),
        }
    }
    Err(last)
}

/// The time until `deadline`; never zero, which sockets do not take.
fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(in_words(io::ErrorKind::TimedOut.into(), "did not answer")) } else { Ok(left) }
}

/// A timed-out socket says "resource temporarily unavailable", which tells nobody anything.
fn in_words(error: io::Error, what: &str) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", TIMEOUT.as_secs()))
        }
        _ => error,
    }
}

/// The status in `HTTP/1.x NNN`.
fn status(head: &[u8]) -> Option<u16> {
    let (minor, status) = head.strip_prefix(b"HTTP/1.")?.split_first()?;
    let digits =
        status.strip_prefix(b" ").filter(|digits| digits.len() == 3 && digits.iter().all(u8::is_ascii_digit))?;
    if minor.is_ascii_digit() { str::from_utf8(digits).ok()?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// A server that reads one request's head, answers in the pieces between `|` and closes; its URL, and the head it read.
    fn server(answer: &'static str) -> (ProbeUrl, thread::JoinHandle<String>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = ProbeUrl::readyz(listener.local_addr().unwrap(), false);
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
                request.push(byte[0]);
            }
            for piece in answer.split('|') {
                stream.write_all(piece.as_bytes()).unwrap();
                stream.flush().unwrap();
            }
            String::from_utf8(request).unwrap()
        });
        (url, thread)
    }

    #[test]
    fn a_200_is_healthy_in_whatever_pieces_it_comes() {
        for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "HT|TP/1.|1 |20|0 OK\r\n\r\n", "HTTP/1.0 200"] {
            let (url, server) = server(answer);
            probe(&url).unwrap();
            server.join().unwrap();
        }
    }

    #[test]
    fn the_request_names_the_path_and_the_host() {
        let (url, server) = server("HTTP/1.1 200 OK\r\n\r\n");
        probe(&url).unwrap();
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("\r\nhost: {}\r\n", url.0.authority().unwrap())), "{request}");
        assert!(request.contains("\r\nconnection: close\r\n"), "{request}");
    }

    #[test]
    fn every_other_answer_is_unhealthy_in_one_line() {
        for (answer, wants) in [
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", "/readyz answered 503"),
            ("HTTP/1.1 204 No Content\r\n\r\n", "/readyz answered 204"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "did not answer in HTTP/1"),
            ("HTTP/1.1 20", "did not answer in HTTP/1"),
            ("", "did not answer in HTTP/1"),
        ] {
            let (url, server) = server(answer);
            let result = probe(&url);
            server.join().unwrap();
            let line = result.unwrap_err().to_string();
            assert!(line.contains(wants) && line.lines().count() == 1, "{line}");
        }
    }

    #[test]
    fn a_closed_port_is_unhealthy() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = ProbeUrl::readyz(listener.local_addr().unwrap(), false);
        drop(listener);
        let line = probe(&url).unwrap_err().to_string();
        assert!(line.starts_with(&url.to_string()) && line.contains("refused"), "{line}");
    }

    #[test]
    fn a_server_that_never_answers_is_given_up_at_the_deadline() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = ProbeUrl::readyz(listener.local_addr().unwrap(), false);
        // Accepted by the kernel, read by nobody.
        let error = ask(&url.0, Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "did not answer within 3 s");
        drop(listener);
    }

    #[test]
    fn urls_that_could_not_be_asked_are_refused() {
        for url in [
            "",
            "readyz",
            "/readyz",
            "localhost:80",
            "ftp://localhost/",
            "https://",
            "http://",
            "http://u:p@h/",
            "http://h:x/",
        ] {
            assert!(url.parse::<ProbeUrl>().is_err(), "{url:?}");
        }
        for url in [
            "http://localhost/",
            "https://localhost:8443/readyz",
            "http://[::1]:8080/readyz",
            "http://10.0.0.1:1/readyz?verbose",
        ] {
            assert_eq!(url.parse::<ProbeUrl>().unwrap().to_string(), url);
        }
    }
}
