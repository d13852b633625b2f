//! A blob's bytes in ranges, from any byte on, resumed wherever they break off.
//!
//! The first range that is not over is handed out as it comes. Those behind it, if there are any (see
//! [`ahead`](super::ahead)), fill memory until it is their turn. A range ahead that fails keeps what it has, and what it lacks
//! is asked for when it is its turn, by the first range's rules: so a range more can never make a download fail.
//!
//! A reader may stop asking for as long as it likes. So what holds something that others wait for, asking for a range up to its
//! headers, with the renewal of a token in it, runs in a task of its own, which ends with its range.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    num::NonZero,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use azure_core::http::AsyncResponseBody;
use azure_storage_blob::models::{BlobClientDownloadOptions, BlobClientDownloadResult, HttpRange};
use bytes::Bytes;
use futures::Stream;
use tokio::{
    task::JoinSet,
    time::{Instant, Sleep, sleep_until},
};
use tracing::Instrument as _;

use super::{
    BlobError, BlobFacts, BlobHeaders, Container,
    ahead::{AheadPlace, Width},
    error::{Failure, sort},
    retry::{Stalls, retried},
    transport::{CONTENT_RANGE, ContentRange},
};
/// A download under way.
pub struct Download {
    container: Container,
    blob: Arc<str>,
    facts: BlobFacts,
    position: u64,
    /// In the blob's order, without overlap. The first of them is the one that is handed out, if it has the next byte.
    ranges: VecDeque<Range>,
    width: Width,
    stalls: Stalls,
    pause: Option<Pin<Box<Sleep>>>,
    /// Since when the reader waits.
    waits_since: Option<Instant>,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("blob", &self.blob)
            .field("facts", &self.facts)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Download {
    pub(super) async fn open(
        container: Container,
        blob: &str,
        from: u64,
        etag: Option<&str>,
    ) -> Result<Self, BlobError> {
        let begun = Instant::now();
        let name: Arc<str> = blob.into();
        let wanted = (from, container.options.range_bytes);
        let (facts, first) = match retried(|| request(&container, blob, wanted, etag)).await {
            Ok((facts, _)) if etag.is_some_and(|etag| etag != facts.etag) => {
                return Err(BlobError::Changed { blob: blob.to_owned() });
            }
            Ok((facts, body)) => (facts, Some(Range::new(&name, (from, body.end), State::Comes(body), None))),
            // No byte is left at the end, and storage calls that a range that it cannot satisfy.
            Err(BlobError::Refused { status: 416, code, blob }) => {
                let facts = container.head(&blob).await?;
                if etag.is_some_and(|etag| etag != facts.etag) {
                    return Err(BlobError::Changed { blob });
                }
                if facts.length != from {
                    return Err(BlobError::Refused { blob, status: 416, code });
                }
                (facts, None)
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            width: Width::new(&container.ahead, begun),
            container,
            blob: name,
            facts,
            position: from,
            ranges: first.into_iter().collect(),
            stalls: Stalls::default(),
            pause: None,
            waits_since: None,
        })
    }

    /// What the first answer said of the whole blob.
    #[must_use]
    pub fn facts(&self) -> &BlobFacts {
        &self.facts
    }

    /// How many bytes have been handed out, counted from the blob's begin: where to go on.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes as they arrive, never empty; `None` at the end, which is exactly `facts().length`. Lost connections,
    /// bodies that are cut short, 429, 5xx and refused tokens are retried from the next byte with `If-Match`, with backoff,
    /// 5 tries without a single byte of progress.
    ///
    /// # Errors
    /// [`BlobError::Changed`] when the blob is another one now; what the last try met otherwise. The download may be asked
    /// again after an error, and goes on at [`position`](Self::position).
    ///
    /// # Cancel safety
    /// Cancel-safe: bytes are returned or come again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        // Nobody waited since a call that was dropped.
        self.waits_since = None;
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BlobError>> {
        if let Some(since) = self.waits_since.take() {
            self.width.waited(since.elapsed());
        }
        let next = loop {
            if self.position >= self.facts.length {
                self.ranges.clear();
                return Poll::Ready(Ok(None));
            }
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    break Poll::Pending;
                }
                self.pause = None;
            }
            let range = self.current();
            if range.begin == range.end {
                self.ranges.pop_front();
                continue;
            }
            if let Some(bytes) = range.kept.pop_front() {
                break Poll::Ready(Ok(Some(self.handed_out(bytes))));
            }
            // Nothing of it fills memory any more: it needs no place, as the first one does.
            range.place = None;
            match range.poll_come(cx) {
                Poll::Ready(Ok(bytes)) => {
                    self.width.came(bytes.len(), Instant::now());
                    break Poll::Ready(Ok(Some(self.handed_out(bytes))));
                }
                Poll::Ready(Err(error)) => {
                    self.ranges.pop_front();
                    if let Err(error) = self.put_off(error) {
                        break Poll::Ready(Err(error));
                    }
                }
                Poll::Pending => break Poll::Pending,
            }
        };
        self.poll_ahead(cx, next.is_pending());
        if next.is_pending() {
            self.waits_since = Some(Instant::now());
        }
        next
    }

    fn handed_out(&mut self, bytes: Bytes) -> Bytes {
        self.position += bytes.len() as u64;
        if let Some(range) = self.ranges.front_mut() {
            range.begin = self.position;
        }
        self.stalls.end();
        bytes
    }

    /// Whether the range that has the next byte is there. It is not while it is put off, and then all of them are ahead.
    fn has_current(&self) -> bool {
        self.ranges.front().is_some_and(|range| range.begin == self.position)
    }

    /// The range that has the next byte.
    fn current(&mut self) -> &mut Range {
        if !self.has_current() {
            // Up to those that are there, if one before them broke off.
            let next = self.ranges.front().map_or(self.facts.length, |range| range.begin);
            let end = next.min(self.position.saturating_add(self.container.options.range_bytes.max(1)));
            let range = self.ask(self.position, end, None);
            self.ranges.push_front(range);
        }
        self.ranges.front_mut().expect("it was put there")
    }

    /// Lets those behind the current one go on: all that they can while it `waits`, else a piece each.
    fn poll_ahead(&mut self, cx: &mut Context<'_>, waits: bool) {
        let now = Instant::now();
        let mut look_again = true;
        while std::mem::take(&mut look_again) {
            self.look_ahead();
            let current = usize::from(self.has_current());
            for range in self.ranges.iter_mut().skip(current) {
                while let Some(came) = range.poll_fill(cx) {
                    match came {
                        Ok(bytes) => look_again |= self.width.came(bytes, now),
                        Err(error) => {
                            tracing::debug!(blob = &*self.blob, at = range.at, problem = %error, "a range ahead broke off");
                            range.end = range.at;
                            if let BlobError::Busy { retry_after, .. } = error {
                                self.container.ahead.throttled(retry_after);
                            }
                            self.width.broke_off(now);
                        }
                    }
                    if !waits {
                        break;
                    }
                }
            }
        }
    }

    /// Asks for as many ranges as are of use and may be.
    fn look_ahead(&mut self) {
        let Some(mut last) = self.ranges.back().map(|range| range.end) else { return };
        // While the current one is put off, its place among them is kept.
        let missing = usize::from(!self.has_current());
        while self.ranges.len() + missing < self.width.ranges() && last < self.facts.length {
            let has = self.ranges.iter().filter(|range| range.place.is_some()).count();
            let Some(place) = self.container.ahead.place(has) else {
                self.width.lacks();
                return;
            };
            let end = self.facts.length.min(last + self.container.ahead.range_bytes());
            let range = self.ask(last, end, Some(place));
            self.ranges.push_back(range);
            last = end;
        }
    }

    fn ask(&self, begin: u64, end: u64, place: Option<AheadPlace>) -> Range {
        let (container, blob) = (self.container.clone(), Arc::clone(&self.blob));
        let (etag, length) = (self.facts.etag.clone(), self.facts.length);
        let asked = async move {
            let (facts, body) = request(&container, &blob, (begin, end - begin), Some(&etag)).await?;
            // Whoever does not look at `If-Match` gives another blob's bytes away by its ETag.
            if facts.etag != etag {
                return Err(BlobError::Changed { blob: blob.as_ref().to_owned() });
            }
            if facts.length == length {
                return Ok(body);
            }
            let problem = format!("one ETag, but {length} bytes and then {}", facts.length);
            Err(BlobError::BadAnswer { blob: blob.as_ref().to_owned(), problem })
        };
        let mut task = JoinSet::new();
        task.spawn(asked.in_current_span());
        Range::new(&self.blob, (begin, end), State::Asked(task), place)
    }

    /// The current range broke off: it is asked for again after a pause, from the next byte.
    fn put_off(&mut self, error: BlobError) -> Result<(), BlobError> {
        let (blob, position, length) = (&*self.blob, self.position, self.facts.length);
        tracing::debug!(blob, position, length, problem = %error, "the download will resume here");
        let now = Instant::now();
        if let BlobError::Busy { retry_after, .. } = &error {
            self.container.ahead.throttled(*retry_after);
            self.width.alone(now);
        }
        let pause = self.stalls.after(error)?;
        self.pause = Some(Box::pin(sleep_until(now + pause)));
        Ok(())
    }
}

/// A range of the blob under way.
struct Range {
    /// The first byte that was not handed out.
    begin: u64,
    /// The next byte that comes.
    at: u64,
    end: u64,
    /// What came and was not handed out.
    kept: VecDeque<Bytes>,
    state: State,
    blob: Arc<str>,
    place: Option<AheadPlace>,
}

enum State {
    /// One task, which ends when this is dropped.
    Asked(JoinSet<Result<Body, BlobError>>),
    Comes(Body),
}

/// The body of an answer.
struct Body {
    bytes: Pin<Box<AsyncResponseBody>>,
    end: u64,
}

impl Range {
    fn new(blob: &Arc<str>, (begin, end): (u64, u64), state: State, place: Option<AheadPlace>) -> Self {
        Self { begin, at: begin, end, kept: VecDeque::new(), state, blob: Arc::clone(blob), place }
    }

    /// Keeps the next bytes, and says how many; `None` when there are none now, or none any more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Option<Result<usize, BlobError>> {
        if self.at == self.end {
            return None;
        }
        match self.poll_come(cx) {
            Poll::Pending => None,
            Poll::Ready(came) => Some(came.map(|bytes| {
                let length = bytes.len();
                self.kept.push_back(bytes);
                length
            })),
        }
    }

    /// The next bytes from the network, of which there are some.
    fn poll_come(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BlobError>> {
        let body = loop {
            match &mut self.state {
                State::Asked(task) => {
                    self.state = State::Comes(match ready!(task.poll_join_next(cx)) {
                        Some(Ok(asked)) => asked?,
                        Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                        Some(Err(_)) | None => {
                            let problem = "the runtime that it runs on is shutting down".to_owned();
                            return Poll::Ready(Err(BlobError::Lost { blob: self.blob.as_ref().to_owned(), problem }));
                        }
                    });
                }
                State::Comes(body) => break body,
            }
        };
        let bytes = ready!(body.poll_next(cx, self.at)).map_err(|error| error.of(&self.blob))?;
        self.at += bytes.len() as u64;
        Poll::Ready(Ok(bytes))
    }
}

/// Why a body ended before its range did.
enum BodyError {
    Sdk(azure_core::Error),
    Cut { position: u64, end: u64 },
    TooLong { end: u64 },
}

impl BodyError {
    fn of(self, blob: &str) -> BlobError {
        let name = blob.to_owned();
        match self {
            Self::Sdk(error) => match sort(&error, blob) {
                Failure::Other(error) => error,
                Failure::Token { code } => {
                    BlobError::AccessRefused { blob: name, code, advice: "it had answered with a part of it" }
                }
            },
            Self::Cut { position, end } => {
                BlobError::Lost { blob: name, problem: format!("the answer ended at byte {position} of {end}") }
            }
            Self::TooLong { end } => {
                BlobError::BadAnswer { blob: name, problem: format!("the answer goes on after byte {end}") }
            }
        }
    }
}

impl Body {
    /// The next bytes after `position`, which is before the range's end.
    fn poll_next(&mut self, cx: &mut Context<'_>, position: u64) -> Poll<Result<Bytes, BodyError>> {
        loop {
            return Poll::Ready(match ready!(self.bytes.as_mut().poll_next(cx)) {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) if bytes.len() as u64 > self.end - position => {
                    Err(BodyError::TooLong { end: self.end })
                }
                Some(Ok(bytes)) => Ok(bytes),
                Some(Err(error)) => Err(BodyError::Sdk(error)),
                None => Err(BodyError::Cut { position, end: self.end }),
            });
        }
    }
}

/// Asks for so many bytes from a place on, up to the answer's headers.
async fn request(
    container: &Container,
    blob: &str,
    (from, length): (u64, u64),
    etag: Option<&str>,
) -> Result<(BlobFacts, Body), BlobError> {
    let length = length.max(1);
    let options = BlobClientDownloadOptions {
        range: Some(HttpRange::new(from, length)),
        // One partition: else the SDK would fetch several by itself, buffered whole.
        partition_size: NonZero::new(usize::try_from(length).unwrap_or(usize::MAX)),
        parallel: NonZero::new(1),
        if_match: etag.map(Into::into),
        ..Default::default()
    };
    let answer = container
        .call(blob, |client| {
            let options = options.clone();
            async move { client.download(Some(options)).await }
        })
        .await?;
    let BlobClientDownloadResult { body, properties, headers, .. } = answer;
    let (end, total) = match headers.get_optional_str(&CONTENT_RANGE).and_then(ContentRange::parse) {
        Some(range) => (Some(range.end), Some(range.total)),
        // The SDK asks for an empty blob once more without a range.
        None => (properties.content_length, properties.content_length),
    };
    let blob_headers = BlobHeaders {
        content_type: properties.content_type.unwrap_or_default(),
        metadata: properties.metadata.into_iter().collect(),
    };
    let facts = BlobFacts::new(blob, properties.etag, total, blob_headers, properties.content_encoding)?;
    Ok((facts, Body { bytes: Box::pin(body), end: end.unwrap_or(0) }))
}
