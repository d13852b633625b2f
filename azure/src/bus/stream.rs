//! The byte stream under a connection, with two guards that the AMQP engine lacks.
//!
//! The engine writes and reads in one task, so a peer that stops reading would also stop the engine's idle timer: a write
//! that makes no progress fails here after the idle timeout. And the stream can be cut from outside, which ends the
//! engine's tasks at once, whatever they wait for.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// A duplex byte stream.
pub(super) trait Duplex: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Duplex for T {}

/// When the peer was heard last, over all connections of a bus: also an idle peer says something, as AMQP's idle time-out
/// asks of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Contact(Arc<Mutex<Option<Instant>>>);

impl Contact {
    /// `None` before the first time.
    pub(super) fn last(&self) -> Option<Instant> {
        *self.0.lock().expect("no panic while it is held")
    }

    fn heard(&self) {
        *self.0.lock().expect("no panic while it is held") = Some(Instant::now());
    }
}

/// A stream that can be cut from outside, whose writes cannot stall for ever, and that tells when it is dropped.
pub(super) struct GuardedStream {
    inner: Box<dyn Duplex>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    stall_max: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    contact: Contact,
    _gone: DropGuard,
}

impl fmt::Debug for GuardedStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// The two ends of the guard that the connection keeps.
#[derive(Debug)]
pub(super) struct StreamGuard {
    /// Cuts the stream when dropped.
    pub(super) _cut: DropGuard,
    /// Fires once the stream is dropped, which is when the engine has ended.
    pub(super) gone: CancellationToken,
}

/// Puts a stream under guard.
pub(super) fn guard(inner: Box<dyn Duplex>, stall_max: Duration) -> (GuardedStream, StreamGuard) {
    let (cut, gone) = (CancellationToken::new(), CancellationToken::new());
    let stream = GuardedStream {
        inner,
        cut: Box::pin(cut.clone().cancelled_owned()),
        stall_max,
        stalled: None,
        contact: Contact::default(),
        _gone: gone.clone().drop_guard(),
    };
    (stream, StreamGuard { _cut: cut.drop_guard(), gone })
}

impl GuardedStream {
    /// Notes there when the peer is heard.
    pub(super) fn noting(mut self, contact: Contact) -> Self {
        self.contact = contact;
        self
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => {
                Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was cut on this side"))
            }
            Poll::Pending => Ok(()),
        }
    }

    /// Passes on what a write gave, and fails once it has waited for too long.
    fn watch_stall<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall_max = self.stall_max;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall_max)));
        stalled
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, format!("the peer took no bytes for {stall_max:?}"))))
    }
}

impl AsyncRead for GuardedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            self.contact.heard();
        }
        read
    }
}

impl AsyncWrite for GuardedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.watch_stall(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch_stall(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watch_stall(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn pair(capacity: usize) -> (GuardedStream, StreamGuard, DuplexStream) {
        let (near, far) = tokio::io::duplex(capacity);
        let (stream, guard) = guard(Box::new(near), Duration::from_secs(60));
        (stream, guard, far)
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_the_peer_does_not_take_fails_after_the_idle_timeout() {
        let (mut stream, _guard, mut far) = pair(4);
        stream.write_all(b"1234").await.unwrap();
        let started = tokio::time::Instant::now();
        let error = stream.write_all(b"5").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 60);

        // Progress in between starts the clock anew.
        let mut four = [0; 4];
        far.read_exact(&mut four).await.unwrap();
        stream.write_all(b"5678").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_peer_says_is_contact_and_what_is_said_to_it_is_not() {
        let (stream, _guard, mut far) = pair(4);
        let contact = Contact::default();
        let mut stream = stream.noting(contact.clone());
        stream.write_all(b"12").await.unwrap();
        assert_eq!(contact.last(), None);
        far.write_all(b"1").await.unwrap();
        stream.read_u8().await.unwrap();
        let heard = contact.last().unwrap();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(contact.last(), Some(heard));
        far.write_all(b"2").await.unwrap();
        stream.read_u8().await.unwrap();
        assert_eq!(contact.last().unwrap() - heard, Duration::from_secs(5));
    }

    #[tokio::test]
    async fn a_cut_ends_a_read_that_waits() {
        let (mut stream, guard, _far) = pair(4);
        let mut byte = [0; 1];
        let (read, ()) = tokio::join!(stream.read(&mut byte), async { drop(guard) });
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(stream.write(b"x").await.is_err());
    }

    #[tokio::test]
    async fn the_end_of_the_stream_is_told() {
        let (stream, guard, _far) = pair(4);
        assert!(!guard.gone.is_cancelled());
        drop(stream);
        guard.gone.cancelled().await;
    }
}
