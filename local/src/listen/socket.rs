//! The stream below hyper: swallows, cuts and resets as fault scripts want, and does not wait for ever for a client that
//! reads nothing.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::line::Line;
use crate::door::Stream;

/// How long a client may read nothing while bytes wait for it: long enough for one whose own sink stands still.
const READ_PATIENCE: Duration = Duration::from_secs(600);
/// How long what a client still sends is read away after the answer, and how much of it.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_BYTES: u64 = 256 << 20;

/// A connection's bytes. hyper flushes them only when its own buffers are empty, which is the moment to cut.
pub(super) struct Socket {
    stream: Stream,
    line: Line,
    /// Ends when the client has read nothing for too long; runs while a write is held up.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Our side is over, and what still comes is read away: until when, and how much.
    ending: Option<(Pin<Box<Sleep>>, u64)>,
}

impl Socket {
    pub(super) fn new(stream: Stream, line: Line) -> Self {
        Self { stream, line, stalled: None, ending: None }
    }

    /// Gives a write's outcome on, unless it was held up for too long.
    fn in_time(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(READ_PATIENCE)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.line.is_reset()
            && let Err(error) = self.stream.reset()
        {
            tracing::debug!(%error, "a connection will be closed rather than reset");
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.line.swallows() {
            let mut swallowed = [0; 4096];
            let mut swallowed = ReadBuf::new(&mut swallowed);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut swallowed))?;
            if swallowed.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.line.swallows() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.line.swallows() {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        if self.line.is_cut() {
            return Poll::Ready(Err(io::Error::other("cut by a fault script")));
        }
        self.line.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
            if !self.line.lingers() {
                return Poll::Ready(Ok(()));
            }
        }
        let Self { stream, ending, .. } = &mut *self;
        let (until, left) = ending.get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut piece = [0; 16 * 1024];
        while *left > 0 && until.as_mut().poll(cx).is_pending() {
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut piece))?;
            match piece.filled().len() as u64 {
                0 => break,
                read => *left = left.saturating_sub(read),
            }
        }
        Poll::Ready(Ok(()))
    }
}
