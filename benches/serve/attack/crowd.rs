//! Many connections at once that are no good clients: idle, dripping, deaf, or only greedy.
//!
//! Owns a thread with all of them. Invariants: it comes in within some seconds, or says how many did not; it is gone when its
//! value is.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::LocalSet,
    time::{interval, sleep, timeout},
};

use super::{raw, target::wait};
use crate::{
    Result,
    load::{connection::Connection, request::Template},
};

/// Connections that are being opened at once: a backlog holds them.
const OPENING: usize = 256;

/// How long a connection may take to open and to be taken.
const OPEN: Duration = Duration::from_secs(3);

/// How long all of them may take, and how long none may come until the rest is given up.
const GATHER: Duration = Duration::from_secs(10);
const NOBODY: Duration = Duration::from_secs(3);

/// How often is looked whether those of one kind are in.
const LOOK: Duration = Duration::from_millis(10);

/// What the kernel of a deaf client takes of an answer.
const DEAF_BUFFER: u32 = 4096;

/// What one connection does.
#[derive(Clone)]
pub(crate) enum Guest {
    /// Asks `/livez` once and stays.
    Idle,
    /// Uploads a picture of `length` bytes, `piece` bytes at a time.
    Drips {
        /// The length that it announces.
        length: usize,
        /// Bytes at a time.
        piece: usize,
        /// Between them.
        every: Duration,
    },
    /// Sends this request and reads nothing.
    Deaf(Bytes),
    /// Asks, takes the answer, asks again.
    Asks(Template),
}

/// They.
pub(crate) struct Crowd {
    leave: Option<watch::Sender<()>>,
    seen: Arc<Mutex<Seen>>,
    guests: usize,
    thread: Option<JoinHandle<()>>,
}

/// What they have seen.
#[derive(Default)]
struct Seen {
    came: usize,
    stayed_out: usize,
    answers: BTreeMap<String, u64>,
}

impl Crowd {
    /// Lets so many of each come, one kind after the other, and waits until they are in.
    pub(crate) fn gather(address: SocketAddr, guests: Vec<(usize, Guest)>) -> Result<Self> {
        let (leave, left) = watch::channel(());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let count = guests.iter().map(|(count, _)| count).sum();
        let shared = Arc::clone(&seen);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || LocalSet::new().block_on(&runtime, host(address, guests, shared, left)));
        let crowd = Self { leave: Some(leave), seen, guests: count, thread: Some(thread) };
        let (mut came, mut last) = (0, Instant::now());
        wait(GATHER, || {
            let seen = crowd.seen();
            if seen.came > came {
                (came, last) = (seen.came, Instant::now());
            }
            seen.came + seen.stayed_out >= crowd.guests || last.elapsed() > NOBODY
        });
        Ok(crowd)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `3200 of 3200 connections; 12x 200, 3x 429`.
    pub(crate) fn describe(&self) -> String {
        let seen = self.seen();
        let answers = seen.answers.iter().map(|(answer, count)| format!("{count}x {answer}"));
        let answers = answers.collect::<Vec<_>>().join(", ");
        format!("{} of {} connections{}{answers}", seen.came, self.guests, if answers.is_empty() { "" } else { "; " })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.leave.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn host(address: SocketAddr, guests: Vec<(usize, Guest)>, seen: Arc<Mutex<Seen>>, mut left: watch::Receiver<()>) {
    let opening = Rc::new(Semaphore::new(OPENING));
    let mut called = 0;
    for (count, guest) in guests {
        called += count;
        for _ in 0..count {
            let (opening, seen, guest) = (Rc::clone(&opening), Arc::clone(&seen), guest.clone());
            tokio::task::spawn_local(async move {
                let place = opening.acquire().await;
                let opened = timeout(OPEN, open(address, &guest)).await;
                drop(place);
                let note = |note: &dyn Fn(&mut Seen)| note(&mut seen.lock().unwrap_or_else(PoisonError::into_inner));
                let stream = match opened {
                    Ok(Ok(stream)) => stream,
                    _ => return note(&|seen| seen.stayed_out += 1),
                };
                note(&|seen| seen.came += 1);
                let answered = |answer: &str| note(&|seen| *seen.answers.entry(answer.to_owned()).or_insert(0) += 1);
                stay(address, stream, guest, answered).await;
            });
        }
        // The next kind comes when these are in.
        while seen.lock().is_ok_and(|seen| seen.came + seen.stayed_out < called) {
            if timeout(LOOK, left.changed()).await.is_ok() {
                return;
            }
        }
    }
    // The sender is dropped: what is still here goes with the runtime.
    let _ = left.changed().await;
}

/// Connects, and does what makes the service take notice.
async fn open(address: SocketAddr, guest: &Guest) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if matches!(guest, Guest::Deaf(_)) {
        socket.set_recv_buffer_size(DEAF_BUFFER)?;
    }
    let mut stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    match guest {
        Guest::Idle => {
            stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
            if stream.read(&mut [0; 1024]).await? == 0 {
                return Err("closed".into());
            }
        }
        Guest::Drips { length, .. } => {
            stream.write_all(&raw::post_head("/embed/image", "image/jpeg", *length)).await?;
        }
        Guest::Deaf(request) => stream.write_all(request).await?,
        Guest::Asks(_) => {}
    }
    Ok(stream)
}

async fn stay(address: SocketAddr, mut stream: TcpStream, guest: Guest, answered: impl Fn(&str)) {
    match guest {
        Guest::Idle => {
            let _ = stream.read(&mut [0; 1024]).await;
            answered("closed");
            std::future::pending().await
        }
        Guest::Deaf(_) => std::future::pending().await,
        Guest::Drips { length, piece, every } => {
            let (mut reader, mut writer) = stream.split();
            let piece = vec![0xff; piece];
            let drip = async {
                let mut clock = interval(every);
                for _ in 0..length / piece.len() {
                    clock.tick().await;
                    if writer.write_all(&piece).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await
            };
            let mut head = [0; 12];
            let answer = tokio::select! {
                () = drip => return,
                read = reader.read_exact(&mut head) => read,
            };
            match answer {
                Ok(_) => answered(&String::from_utf8_lossy(&head[9..])),
                Err(_) => answered("closed"),
            }
        }
        Guest::Asks(template) => {
            drop(stream);
            let mut number = 0;
            let mut connection = None;
            loop {
                number += 1;
                let answer = async {
                    if connection.as_ref().is_none_or(Connection::is_closed) {
                        connection = Some(Connection::open(address).await?);
                    }
                    connection.as_mut().ok_or("just opened")?.ask(template.request(number)).await
                };
                match answer.await {
                    Ok(answer) => {
                        answered(answer.status.as_str());
                        if answer.status != http::StatusCode::OK {
                            sleep(Duration::from_millis(100)).await;
                        }
                    }
                    Err(_) => {
                        connection = None;
                        answered("failed");
                        sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }
}
