//! Bodies: of answers, and of requests, whose client may not keep us waiting.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::line::Line;

/// How long a client may let us wait for the bytes of a body, all pauses together. Bytes that come win time back.
const PATIENCE: Duration = Duration::from_secs(30);
/// So many bytes win back a second: a client that is slower in the long run is given up.
const BYTES_PER_SECOND_MIN: u64 = 1024;

/// A response's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is known whole.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A request's body. It fails when its client is too slow; only the time that we wait for the client counts.
pub(crate) struct Upload {
    body: Incoming,
    line: Line,
    /// How long the client may still let us wait.
    left: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Upload {
    pub(super) fn new(body: Incoming, line: Line) -> Self {
        Self { body, line, left: PATIENCE, waiting: None }
    }

    /// Reads and forgets up to so many bytes; whether that was all of it.
    pub(crate) async fn read_away(&mut self, most: u64) -> bool {
        let mut left = most;
        while left > 0 {
            match self.frame().await {
                Some(Ok(frame)) => left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64)),
                Some(Err(_)) => return false,
                None => return true,
            }
        }
        false
    }

    /// Accounts for the time until this frame came.
    fn came(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.left = self.left.saturating_sub(since.elapsed());
        }
        let won = Duration::from_secs(bytes as u64) / BYTES_PER_SECOND_MIN as u32;
        self.left = PATIENCE.min(self.left + won);
    }
}

impl hyper::body::Body for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            self.came(data.map_or(0, Bytes::len));
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        loop {
            let left = self.left;
            let (_, patience) = self.waiting.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(left))));
            ready!(patience.as_mut().poll(cx));
            self.waiting = None;
            // What a script swallows does not come, and that is not the client's fault.
            if !self.line.swallows() {
                let text = "the client sends the body too slowly";
                return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, text))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body that says when hyper has taken all of it, or has given it up.
pub(super) struct Answer {
    body: Body,
    line: Line,
}

impl Answer {
    pub(super) fn new(body: Body, line: Line) -> Self {
        Self { body, line }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.line.answered();
    }
}
