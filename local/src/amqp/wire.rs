//! Moves bytes between a socket and an [`Engine`], and wakes it.
//!
//! Reading and writing go on side by side in one task: a client that does not read is still heard, until so much waits for
//! it that reading stops too; no buffer grows beyond that.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    sync::watch,
    task::yield_now,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::connection::{Ending, Engine, FRAME_MAX, TURN_MAX};
use crate::door::Stream;

/// Where a connection's in-buffer starts; it grows to what a burst of frames needs.
const INPUT_START: usize = 8 * 1024;

/// Two of the largest frames, so that a read brings whole ones.
const INPUT_MAX: usize = 2 * FRAME_MAX as usize;

/// How long what the client still sends is read away after our last frame: a socket that closes over unread input sends
/// RST, which may take our `close` with it.
const LINGER: Duration = Duration::from_millis(500);

/// What a connection is spoken over.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// What lies below, if it is more than a pipe.
    fn below(&self) -> Option<&Stream>;
}

impl Socket for Stream {
    fn below(&self) -> Option<&Stream> {
        Some(self)
    }
}

#[cfg(test)]
impl Socket for tokio::io::DuplexStream {
    fn below(&self) -> Option<&Stream> {
        None
    }
}

/// What the socket has brought.
#[derive(Debug)]
struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    fn unread(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn is_full(&self) -> bool {
        self.end - self.start >= INPUT_MAX
    }

    fn used(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room to read into. A buffer that a read filled to its end was too small.
    fn room(&mut self) -> &mut [u8] {
        if self.end == self.buffer.len() {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            if self.end * 2 > self.buffer.len() && self.buffer.len() < INPUT_MAX {
                self.buffer.resize((self.buffer.len() * 4).min(INPUT_MAX), 0);
            }
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }
}

/// What one round of reading and writing did.
#[derive(Debug, Default)]
struct Moved {
    read: usize,
    wrote: usize,
    eof: bool,
    /// The client has ended its side, and not everything that it sent is read.
    gone: bool,
}

/// Serves one connection until it ends.
pub(crate) async fn serve<S>(
    stream: &mut S,
    engine: &mut Engine,
    mut revocations: watch::Receiver<u64>,
    stop: &CancellationToken,
) -> Ending
where
    S: Socket,
{
    let mut input = Input { buffer: vec![0; INPUT_START], start: 0, end: 0 };
    let mut stopping = false;
    let mut worked_from = Instant::now();
    loop {
        // A socket that always takes and brings something never makes this task wait.
        if worked_from.elapsed() >= TURN_MAX {
            yield_now().await;
            worked_from = Instant::now();
        }
        engine.turn(Instant::now());
        if engine.input_waits() {
            let used = engine.consume(input.unread(), Instant::now());
            input.used(used);
            engine.turn(Instant::now());
        }
        match engine.ending() {
            Some(Ending::Reset) => return Ending::Reset,
            Some(Ending::Close) => {
                linger(stream).await;
                return Ending::Close;
            }
            None => {}
        }
        let deadline = engine.deadline();
        let peer = std::sync::Arc::clone(engine.peer());
        tokio::select! {
            moved = async {
                // While the engine stands still what comes is read as far as it fits, so that the client's end is seen.
                if engine.is_stalled() && input.is_full() {
                    gone(stream).await;
                    return Ok(Moved { gone: true, ..Moved::default() });
                }
                move_bytes(stream, engine, &mut input).await
            } => match moved {
                Ok(moved) => {
                    let at = Instant::now();
                    if moved.gone {
                        engine.client_gone(at);
                    }
                    engine.wrote(moved.wrote, at);
                    if moved.read > 0 {
                        let used = engine.consume(input.unread(), at);
                        input.used(used);
                    }
                    if moved.eof {
                        engine.ended(input.unread(), at);
                        return Ending::Close;
                    }
                }
                Err(error) => {
                    engine.broke(&error);
                    if error.kind() == io::ErrorKind::InvalidData {
                        linger(stream).await;
                    }
                    return Ending::Close;
                }
            },
            () = yield_now(), if engine.input_waits() => {}
            () = peer.woken() => {}
            // An error means that no more revocations can come.
            Ok(()) = revocations.changed() => {}
            () = sleep_until(deadline) => {}
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                engine.stop(Instant::now());
            }
        }
    }
}

/// Writes and reads what the socket takes and has; waits only when it is neither. Cancel safe: nothing is kept here.
async fn move_bytes<S>(stream: &mut S, engine: &Engine, input: &mut Input) -> io::Result<Moved>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    poll_fn(|cx| {
        let mut moved = Moved::default();
        write_some(stream, cx, engine.output(), &mut moved)?;
        // TLS and WebSocket hold bytes back; whatever is left of them goes out as soon as the socket takes it.
        if let Poll::Ready(flushed) = Pin::new(&mut *stream).poll_flush(cx) {
            flushed?;
        }
        let room = input.room();
        if engine.wants_input() && !room.is_empty() {
            let mut room = ReadBuf::new(room);
            if let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, &mut room) {
                read?;
                moved.read = room.filled().len();
                moved.eof = moved.read == 0;
                input.end += moved.read;
            }
        }
        if moved.read > 0 || moved.wrote > 0 || moved.eof { Poll::Ready(Ok(moved)) } else { Poll::Pending }
    })
    .await
}

/// Returns once the client has ended its side.
async fn gone<S: Socket>(stream: &S) {
    match stream.below() {
        Some(stream) => stream.ended().await,
        None => std::future::pending().await,
    }
}

fn write_some<S>(stream: &mut S, cx: &mut Context<'_>, mut output: &[u8], moved: &mut Moved) -> io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    while !output.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, output) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(bytes)) => {
                moved.wrote += bytes;
                output = output.get(bytes..).unwrap_or_default();
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    Ok(())
}

/// Ends our side and reads away what is still under way.
pub(super) async fn linger<S>(stream: &mut S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let gone = timeout(LINGER, async {
        stream.shutdown().await?;
        let mut rest = [0_u8; 4096];
        while tokio::io::AsyncReadExt::read(stream, &mut rest).await? > 0 {}
        io::Result::Ok(())
    });
    if !matches!(gone.await, Ok(Ok(()))) {
        tracing::trace!("a client did not close its side in time");
    }
}
