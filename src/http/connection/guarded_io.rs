//! A socket with clocks: no peer holds a connection by sending or taking nothing.
//!
//! Owns the waiting: a read that stays pending past the limit that [`ConnState`] gives, a write that stays pending for
//! `write_timeout`, and the linger at the end. Does not own the state machine (see [`exchange`](super::exchange)), to
//! which it shows the bytes, and never looks at one itself.
//!
//! * **Read.** Bytes are reported to the state, which starts the head clock with the first of them. While a read is pending the
//!   state's limit is watched: past the limit of a head the read fails with `TimedOut`, past that of an idle connection it says
//!   "end of stream", which hyper takes for a client that has gone, and closes. The idle clock is started by the flush of the
//!   answer: hyper reads again only when the socket wakes it.
//! * **End.** A client that ends its side is told to hyper when the state says so, not before.
//! * **Write.** The clock starts when a write first stays pending and stops with any byte taken, so a slow reader lives and one
//!   that reads nothing gets `TimedOut` from its next poll.
//! * **Linger.** To close a socket whose receive buffer still holds bytes is to reset it, and the reset destroys an answer that
//!   is still on its way (RFC 9112, section 9.6). So when a request is answered without reading all of its body (413, 429), or a
//!   head is refused (400, 431), the shutdown ends our side and then reads and drops what comes, until the client
//!   ends its side or [`LINGER`] is over.
//!
//! Invariants: one timer for reads and one for writes per connection, made when first needed and moved afterwards; a read or a
//! write that is ready at once touches no timer. A timer left running from an earlier wait only causes one idle wake-up.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::exchange::{ConnState, ReadLimit, TellsEnd};

/// How long input nobody wants is read and dropped before the socket is closed; below the default drain timeout.
const LINGER: Duration = Duration::from_secs(5);
/// How long a service that has all of a body may take to come to its turn and read it.
const TURN: Duration = Duration::from_millis(50);

/// Bytes dropped per read while lingering.
const LINGER_CHUNK: usize = 8 * 1024;

/// A stream `T` watched by the clocks above.
pub(super) struct GuardedIo<T> {
    io: T,
    state: Arc<ConnState>,
    write_timeout: Duration,
    read_clock: Clock,
    write_clock: Clock,
    /// Set while a write is pending.
    write_limit: Option<Instant>,
    /// Set once our side is shut down.
    linger_limit: Option<Instant>,
    /// Whether the client has ended its side.
    read_ended: bool,
    /// Until when the service may take the end of a body behind which the client has ended its side.
    end_limit: Option<Instant>,
}

impl<T> GuardedIo<T> {
    pub(super) fn new(io: T, state: Arc<ConnState>, write_timeout: Duration) -> Self {
        Self {
            io,
            state,
            write_timeout,
            read_clock: Clock::default(),
            write_clock: Clock::default(),
            write_limit: None,
            linger_limit: None,
            read_ended: false,
            end_limit: None,
        }
    }

    /// Tells the state what the client took of `offered` bytes.
    fn tell_taken(&self, polled: &Poll<io::Result<usize>>, offered: usize) {
        match polled {
            Poll::Ready(Ok(taken)) => self.state.bytes_taken(*taken, *taken < offered),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.state.bytes_taken(0, true),
        }
    }

    /// Passes on what a write answered, or fails it when it has been pending for too long.
    fn watch_write<R>(&mut self, polled: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.write_limit = None;
            return polled;
        }
        let limit = *self.write_limit.get_or_insert_with(|| Instant::now() + self.write_timeout);
        ready!(self.write_clock.poll(limit, cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client took no byte of the answer in time")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        if !this.read_ended
            && let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, buf)
        {
            let bytes = &buf.filled()[before..];
            if !bytes.is_empty() {
                this.state.bytes_arrived(bytes);
            }
            this.read_ended = bytes.is_empty() && result.is_ok() && buf.remaining() > 0;
            if !this.read_ended {
                return Poll::Ready(result);
            }
        }
        if this.read_ended {
            return match this.state.tells_end(cx.waker()) {
                TellsEnd::Now => Poll::Ready(Ok(())),
                TellsEnd::Later => Poll::Pending,
                TellsEnd::UnlessRead => {
                    let limit = *this.end_limit.get_or_insert_with(|| Instant::now() + TURN);
                    ready!(this.read_clock.poll(limit, cx));
                    Poll::Ready(Ok(()))
                }
            };
        }
        match this.state.read_limit() {
            None => Poll::Pending,
            Some(ReadLimit::Head(limit)) => {
                ready!(this.read_clock.poll(limit, cx));
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the request head did not arrive in time")))
            }
            Some(ReadLimit::Idle(limit)) => {
                ready!(this.read_clock.poll(limit, cx));
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        self.tell_taken(&polled, buf.len());
        self.watch_write(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.tell_taken(&polled, bufs.iter().map(|buf| buf.len()).sum());
        self.watch_write(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(cx);
        // A read that was pending during the request is not polled again after the answer, so nobody else starts this clock.
        if let Some(ReadLimit::Idle(limit)) = self.state.read_limit()
            && self.read_clock.poll(limit, cx).is_ready()
        {
            cx.waker().wake_by_ref();
        }
        self.watch_write(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let limit = match this.linger_limit {
            Some(limit) => limit,
            None => {
                let polled = Pin::new(&mut this.io).poll_shutdown(cx);
                ready!(this.watch_write(polled, cx))?;
                if !this.state.has_unread_input() {
                    return Poll::Ready(Ok(()));
                }
                *this.linger_limit.insert(Instant::now() + LINGER)
            }
        };
        // Asked for directly, because a sender that is always ready would never let the timer be polled.
        while Instant::now() < limit {
            let mut scratch = [MaybeUninit::uninit(); LINGER_CHUNK];
            let mut dropped = ReadBuf::uninit(&mut scratch);
            match Pin::new(&mut this.io).poll_read(cx, &mut dropped) {
                Poll::Ready(Ok(())) if !dropped.filled().is_empty() => {}
                // The client ended its side, or is gone: either way nothing is left to lose.
                Poll::Ready(_) => break,
                Poll::Pending => ready!(this.read_clock.poll(limit, cx)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// A timer made when first waited for, and moved for every later wait.
#[derive(Default)]
struct Clock {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// Ready once `limit` has passed.
    fn poll(&mut self, limit: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(limit)));
        if sleep.deadline() != limit {
            sleep.as_mut().reset(limit);
        }
        sleep.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{advance, timeout},
    };

    use super::*;
    use crate::http::connection::{peers::Peers, seat::Seat};

    const HEAD: Duration = Duration::from_secs(10);
    const KEEP_ALIVE: Duration = Duration::from_secs(75);
    const WRITE: Duration = Duration::from_secs(30);

    /// A guarded server side, its state, and the client side of a pipe that holds `capacity` bytes each way.
    fn pipe(capacity: usize) -> (GuardedIo<DuplexStream>, Arc<ConnState>, DuplexStream) {
        let (server, client) = duplex(capacity);
        let state = ConnState::new((HEAD, KEEP_ALIVE), &Peers::new(Arc::default(), KEEP_ALIVE), Seat::of_a_test());
        (GuardedIo::new(server, Arc::clone(&state), WRITE), state, client)
    }

    fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_sends_nothing_fails_after_the_header_timeout() {
        let (mut server, _, _client) = pipe(64);
        let start = Instant::now();
        assert_eq!(kind(server.read_u8().await), Some(io::ErrorKind::TimedOut));
        assert_eq!(start.elapsed().as_secs(), HEAD.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_drips_fails_after_the_header_timeout() {
        let (mut server, _, mut client) = pipe(64);
        let start = Instant::now();
        let drip = async {
            loop {
                client.write_all(b"G").await.unwrap();
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        };
        let read = async {
            loop {
                if let Err(error) = server.read_u8().await {
                    break error;
                }
            }
        };
        tokio::select! {
            error = read => assert_eq!(error.kind(), io::ErrorKind::TimedOut),
            () = drip => unreachable!("it drips for ever"),
        }
        assert_eq!(start.elapsed().as_secs(), HEAD.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_outlives_the_header_timeout_and_ends_quietly_after_keep_alive() {
        let (mut server, state, mut client) = pipe(64);
        client.write_all(b"G").await.unwrap();
        server.read_u8().await.unwrap();
        drop(state.begin(false, None));
        let start = Instant::now();
        let mut byte = [0];
        assert_eq!(server.read(&mut byte).await.unwrap(), 0, "end of stream, not an error");
        assert_eq!(start.elapsed().as_secs(), KEEP_ALIVE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_work_may_wait_for_its_client_as_long_as_it_likes() {
        let (mut server, state, _client) = pipe(64);
        let _exchange = state.begin(true, None);
        assert!(timeout(Duration::from_secs(3600), server.read_u8()).await.is_err(), "still pending");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_fails_the_write_and_a_slow_one_does_not() {
        let (mut server, _, mut client) = pipe(4);
        let slow = async {
            let mut byte = [0];
            for _ in 0..8 {
                tokio::time::sleep(WRITE - Duration::from_secs(1)).await;
                client.read_exact(&mut byte).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(server.write_all(&[0; 12]), slow);
        written.unwrap();

        let start = Instant::now();
        assert_eq!(kind(server.write_all(&[0; 12]).await), Some(io::ErrorKind::TimedOut));
        assert_eq!(start.elapsed().as_secs(), WRITE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_drops_the_rest_of_an_unread_body_until_the_client_ends() {
        let (mut server, state, mut client) = pipe(1024);
        drop(state.begin(true, None));
        let upload = async {
            client.write_all(&vec![0; 100_000]).await.unwrap();
            advance(Duration::from_secs(1)).await;
            drop(client);
        };
        let start = Instant::now();
        let (ended, ()) = tokio::join!(server.shutdown(), upload);
        ended.unwrap();
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_waits_no_longer_than_the_linger_time_and_not_at_all_when_all_was_read() {
        let (mut server, state, _client) = pipe(64);
        drop(state.begin(true, None));
        let start = Instant::now();
        server.shutdown().await.unwrap();
        assert_eq!(start.elapsed().as_secs(), LINGER.as_secs());

        let (mut server, state, _client) = pipe(64);
        drop(state.begin(false, None));
        let start = Instant::now();
        server.shutdown().await.unwrap();
        assert!(start.elapsed().is_zero());
    }
}
