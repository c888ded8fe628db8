//! The bytes of a connection as they are, or inside TLS, in one type.
//!
//! Owns what makes the second look like the first to all that stand above it. Does not own the handshake (`tls`), nor a clock.
//!
//! * **Written is sent.** A write takes bytes only when the socket has them, encrypted: TLS itself would take them into a buffer of its
//!   own, and what is held until an answer is written would be let go of too soon. So bytes that are encrypted and not all sent are a write
//!   that is pending.
//! * **The end is the end.** A client that closes its connection without saying so inside TLS has ended its side all the same: a request or
//!   an answer that was cut shows in its own framing.
//!
//! Invariant: whoever writes offers the same bytes again until they are taken, as hyper does.

use std::{
    io::{self, IoSlice, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// Bytes that are encrypted at a time, at most; so much more memory a connection inside TLS takes while it writes.
const ENCRYPTED: usize = 32 << 10;

/// A connection of `T`.
pub(super) enum Transport<T> {
    /// As it is.
    Plain(T),
    /// Inside TLS.
    Tls(Box<Sealed<T>>),
}

/// The inside of TLS.
pub(super) struct Sealed<T> {
    stream: TlsStream<T>,
    /// Bytes that are encrypted and not all sent.
    pending: usize,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Transport<T> {
    /// Inside `stream`, whose handshake is done.
    pub(super) fn sealed(mut stream: TlsStream<T>) -> Self {
        stream.get_mut().1.set_buffer_limit(Some(ENCRYPTED));
        Self::Tls(Box::new(Sealed { stream, pending: 0 }))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Sealed<T> {
    /// Encrypts of `bufs` behind the first `skipped` bytes what there is room for.
    fn encrypt(&mut self, bufs: &[IoSlice<'_>], mut skipped: usize) -> io::Result<usize> {
        let mut writer = self.stream.get_mut().1.writer();
        let mut encrypted = 0;
        for buf in bufs {
            let rest = buf.get(skipped..).unwrap_or_default();
            skipped = skipped.saturating_sub(buf.len());
            let taken = writer.write(rest)?;
            encrypted += taken;
            if taken < rest.len() {
                break;
            }
        }
        Ok(encrypted)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        let mut sent = 0;
        loop {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => sent += std::mem::take(&mut self.pending),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if sent > 0 => return Poll::Ready(Ok(sent)),
                Poll::Pending => return Poll::Pending,
            }
            if sent >= all {
                return Poll::Ready(Ok(sent.min(all)));
            }
            self.pending = self.encrypt(bufs, sent)?;
            if self.pending == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            read => Poll::Ready(read),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Transport<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(sealed) => sealed.poll_read(cx, buf),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Transport<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(sealed) => sealed.poll_write(cx, &[IoSlice::new(buf)]),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(sealed) => sealed.poll_write(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            // Else hyper would copy an answer and let go of what is held for it.
            Self::Tls(_) => true,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(sealed) => Pin::new(&mut sealed.stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(sealed) => Pin::new(&mut sealed.stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::timeout,
    };

    use super::*;
    use crate::tls::testing;

    /// Far above what anything here takes.
    const HANG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn bytes_are_taken_only_when_they_are_sent() {
        let (near, far) = duplex(1024);
        let (server, mut client) = testing::handshake(near, far).await;
        let mut server = Transport::sealed(server);
        let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let head = b"head";
        tokio::select! {
            biased;
            taken = poll_fn(|cx| {
                let bufs = [IoSlice::new(head), IoSlice::new(&data)];
                Pin::new(&mut server).poll_write_vectored(cx, &bufs)
            }) => panic!("{taken:?} taken, of which the socket has a KiB"),
            () = std::future::ready(()) => {}
        }
        let all = [&head[..], &data].concat();
        let mut read = vec![0; all.len()];
        let written = async {
            server.write_all(&all).await.expect("written");
            server.flush().await.expect("sent");
        };
        let (_, got) = tokio::join!(written, timeout(HANG, client.read_exact(&mut read)));
        got.expect("in time").expect("all of it");
        assert!(read == all, "each byte once, in order");
    }

    #[tokio::test]
    async fn a_client_that_goes_without_a_word_has_ended_its_side() {
        let (near, far) = duplex(64 << 10);
        let (server, mut client) = testing::handshake(near, far).await;
        let mut server = Transport::sealed(server);
        client.write_all(b"last").await.expect("sent");
        client.flush().await.expect("sent");
        // Not the end inside TLS, which a shutdown of the client would be.
        drop(client);
        let mut read = Vec::new();
        timeout(HANG, server.read_to_end(&mut read)).await.expect("in time").expect("an end, and no error");
        assert_eq!(read, b"last");
    }
}
