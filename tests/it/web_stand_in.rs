//! A host of pictures for tests, and who says where it is.
//!
//! Owns answering on every address of this machine, so that a test sees by which one it was reached: 127.0.0.2 stands for a public address
//! (the test's `web.allow_networks` has it), 127.0.0.1 for one that is never dialled. Nothing leaves the machine.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Write},
    net::{IpAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use clipserve::web::Names;

/// The address that may be dialled.
pub(crate) const ALLOWED: &str = "127.0.0.2";
/// One that may not.
pub(crate) const FORBIDDEN: &str = "127.0.0.1";

/// What a path is answered with.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// These bytes, and the connection closes.
    Bytes(Vec<u8>),
    /// The same, and then nothing until the stand-in is dropped.
    Hang(Vec<u8>),
    /// A head with this status and these lines, and a body with its length.
    Whole(u16, &'static str, Vec<u8>),
    /// Redirects to there.
    To(u16, String),
}

/// One connection: by which address it came, and the head of its request.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) by: IpAddr,
    pub(crate) head: String,
}

/// A running host.
pub(crate) struct WebStandIn {
    port: u16,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    calls: Arc<Mutex<Vec<Call>>>,
    /// Dropped with the stand-in, or before: ends what hangs.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl WebStandIn {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (answers, calls) = (Arc::<Mutex<BTreeMap<String, Answer>>>::default(), Arc::<Mutex<Vec<Call>>>::default());
        let (alive, dropped) = mpsc::channel();
        let dropped = Arc::new(Mutex::new(dropped));
        let shared = (Arc::clone(&answers), Arc::clone(&calls));
        thread::spawn(move || {
            for connection in listener.incoming() {
                let (answers, calls) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
                let dropped = Arc::clone(&dropped);
                thread::spawn(move || {
                    let connection = connection.expect("a connection");
                    // Who is asked hangs up when it likes.
                    let _ = answer(connection, &answers, &calls, &dropped);
                });
            }
        });
        Self { port, answers, calls, alive: Mutex::new(Some(alive)) }
    }

    /// What stands in `web.allow_hosts` for `host`.
    pub(crate) fn authority(&self, host: &str) -> String {
        format!("{host}:{}", self.port)
    }

    pub(crate) fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.port)
    }

    pub(crate) fn put(&self, path: &str, answer: Answer) {
        self.answers.lock().expect("no panic").insert(path.to_owned(), answer);
    }

    /// What hangs ends.
    pub(crate) fn release(&self) {
        self.alive.lock().expect("no panic").take();
    }

    /// All connections so far.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no panic").clone()
    }
}

fn answer(
    connection: TcpStream,
    answers: &Mutex<BTreeMap<String, Answer>>,
    calls: &Mutex<Vec<Call>>,
    dropped: &Mutex<mpsc::Receiver<()>>,
) -> io::Result<()> {
    let by = connection.local_addr()?.ip();
    let (mut head, mut reader) = (String::new(), BufReader::new(connection.try_clone()?));
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    calls.lock().expect("no panic").push(Call { by, head });
    let found = answers.lock().expect("no panic").get(&path).cloned();
    let mut connection = connection;
    match found.unwrap_or_else(|| Answer::Whole(404, "", b"a secret of the host".to_vec())) {
        Answer::Bytes(bytes) => connection.write_all(&bytes),
        Answer::Hang(bytes) => {
            connection.write_all(&bytes)?;
            let _ = dropped.lock().expect("no panic").recv();
            Ok(())
        }
        Answer::Whole(status, lines, body) => {
            let head = format!("HTTP/1.1 {status} X\r\n{lines}content-length: {}\r\n\r\n", body.len());
            connection.write_all(&[head.as_bytes(), &body].concat())
        }
        Answer::To(status, location) => {
            let head = format!("HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 6\r\n\r\nsecret");
            connection.write_all(head.as_bytes())
        }
    }
}

/// Says for each host what comes next in its list, the last one for ever; and counts.
#[derive(Debug, Default)]
pub(crate) struct TestNames {
    lists: Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
    /// What hangs waits for its other end.
    hang: Mutex<Option<mpsc::Receiver<()>>>,
}

impl TestNames {
    /// Each host with its answers, one after the other.
    pub(crate) fn new(hosts: &[(&str, &[&[&str]])]) -> Arc<Self> {
        let address = |address: &&str| address.parse().expect("an address");
        let answers = |lists: &[&[&str]]| lists.iter().map(|list| list.iter().map(address).collect()).collect();
        let lists = hosts.iter().map(|(host, lists)| ((*host).to_owned(), answers(lists))).collect();
        Arc::new(Self { lists: Mutex::new(lists), ..Self::default() })
    }

    /// From now on a host that has no answers is waited for, until what is answered here is dropped.
    pub(crate) fn hang(&self) -> mpsc::Sender<()> {
        let (end, ended) = mpsc::channel();
        *self.hang.lock().expect("no panic") = Some(ended);
        end
    }

    /// Whoever was asked for so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic").clone()
    }
}

impl Names for TestNames {
    fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().expect("no panic").push(host.to_owned());
        let mut lists = self.lists.lock().expect("no panic");
        let Some(list) = lists.get_mut(host) else {
            drop(lists);
            if let Some(hang) = &*self.hang.lock().expect("no panic") {
                let _ = hang.recv();
            }
            return Err(io::Error::other("no such host"));
        };
        Ok(if list.len() > 1 { list.remove(0) } else { list[0].clone() })
    }
}
