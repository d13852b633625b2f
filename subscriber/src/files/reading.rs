//! A file's rows, fetched as they are asked for.

use std::fmt;

use waybill_azure::blob::BlobError;
use waybill_contracts::Extras;
use waybill_formats::{DecodeOptions, FileStats, RowBatch, seek::Checkpoint};

use super::file::{File, FileError, Trouble};
use crate::{
    Blame, OnBadRow, Verdict,
    apply::Sieve,
    fetch::{Claim, FetchError},
    inbox::{BlobSeen, FileDone, Inbox},
    look::{FileRows, LookError},
    receive::chain,
    rows::{self, Way},
    schedule::{CHECKPOINT_BYTES, Dependency, WorkStats},
};

/// The rows of a [`File`], batch by batch, in the file's order.
///
/// The download goes on at the next byte when a token dies or a connection is lost, and always of the same blob. Segments of
/// a blob of ours are decoded on all processors; and after a crash, [`File::rows_after`](super::File::rows_after) a row begins the download at the last segment
/// before it that was noted: each 4 MiB, when the rows after it are asked for.
/// That the file is whole, and what its message announced, is known at its end: only `None` says that every row before was good.
pub struct Rows<'f, I> {
    file: &'f mut File<I>,
    /// The last row of an earlier try.
    from: u64,
    /// The last row that was given out, here or then.
    after: u64,
    /// Read through once before anything is given out: whether it is what its message announced, and its rows are good.
    is_looking: bool,
    /// The blob to read.
    etag: Option<String>,
    open: Option<FileRows>,
    /// Its segments, or the place to go on at, were not what they said.
    in_one_go: bool,
    /// Stored bytes up to the place that was noted last.
    noted: u64,
    is_over: bool,
}

impl<I> fmt::Debug for Rows<'_, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rows")
            .field("file", &self.file.leased.waybill.key)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

impl<'f, I: Inbox + Clone> Rows<'f, I> {
    pub(super) fn new(file: &'f mut File<I>, from: u64) -> Self {
        file.read = FileDone { rows: from, ..FileDone::default() };
        file.trouble = None;
        let mut rows = Self {
            file,
            from,
            after: from,
            is_looking: false,
            etag: None,
            open: None,
            in_one_go: false,
            noted: 0,
            is_over: false,
        };
        if rows.is_of_before() {
            // Where none was noted, none is the same.
            rows.etag = Some(rows.file.blob.as_ref().map(|blob| blob.etag.clone()).unwrap_or_default());
        } else {
            rows.is_looking = from > 0 || rows.file.source.on_bad_row == OnBadRow::Fail;
        }
        rows
    }

    /// Rows of one content must not follow rows of another. A hash tells whether another blob has the same content; without
    /// one, only the blob of before will do.
    fn is_of_before(&self) -> bool {
        self.from > 0 && extras(self.file).plain_sha256.is_none()
    }

    /// The next rows, the malformed ones of this stretch with them as `OnBadRow` asks; `None` after the file's end.
    ///
    /// # Errors
    /// [`FileError`]. Asked again after an error, it fetches the same blob once more and goes on after the last row that was
    /// given out.
    ///
    /// # Cancel safety
    /// Cancel-safe: no row is lost or repeated with a call that was dropped.
    pub async fn next(&mut self) -> Result<Option<RowBatch>, FileError> {
        let ends = self.file.hold.end();
        let next = tokio::select! {
            // First, so that whoever slept past it, as a frozen process does, goes no further.
            biased;
            () = ends => Err(FileError::Lapsed),
            next = self.read_on() => next,
        };
        let next = next.map_err(|error| {
            if self.is_of_before() && error.is_of_another_blob() { self.content_changed() } else { error }
        });
        self.file.trouble = None;
        if let Err(error) = &next {
            self.open = None;
            self.note(error);
        }
        next
    }

    /// What asks rows whether they pass the filter of their entity or type: here they come as they are in the file.
    #[must_use]
    pub fn sieve<'r>(&self) -> Sieve<'_, 'r> {
        let (source, blob_type) = (&self.file.source, &self.file.metadata().blob_type);
        match source.plans.for_type(blob_type) {
            Some(entity) => Sieve::of_entity(entity.filter()),
            None => Sieve::of_type(source.filters.get(blob_type).map(std::ops::Deref::deref)),
        }
    }

    async fn read_on(&mut self) -> Result<Option<RowBatch>, FileError> {
        self.note_place().await?;
        while !self.is_over {
            if self.open.is_none() {
                self.open = Some(self.open().await?);
            }
            let Some(open) = &mut self.open else { continue };
            let batch = open.next().await.map_err(of_look)?;
            let fail = self.file.source.on_bad_row == OnBadRow::Fail;
            match batch {
                Some(batch) if self.is_looking => {
                    if fail
                        && self.from == 0
                        && let Some(bad) = batch.bad().first()
                    {
                        let (row, offset, problem) = (bad.row, bad.offset, bad.problem.clone());
                        return Err(FileError::BadRow { row, offset, problem });
                    }
                }
                Some(batch) => {
                    if let Some(batch) = batch.after(self.after) {
                        return Ok(Some(self.given_out(batch)));
                    }
                }
                None if open.is_doubted() => {
                    tracing::warn!(
                        blob = open.name(),
                        "something in its segments cannot be right; reading it in one go"
                    );
                    (self.open, self.in_one_go) = (None, true);
                }
                None => self.at_the_end().await?,
            }
        }
        Ok(None)
    }

    async fn open(&mut self) -> Result<FileRows, FileError> {
        let File { source, leased, .. } = &*self.file;
        let metadata = &leased.waybill.metadata;
        // The packing is decided by the file's first bytes; here it is only checked that we know its name.
        metadata.encoding()?;
        let entity = source.entities.for_type(&metadata.blob_type);
        let options = rows::decode_options(metadata.media()?, &metadata.blob_type, entity, &source.limits)?;
        // After a try that ended early the file may be another one: then it is looked at closely.
        let closely = source.verify_hash || self.from > 0 || leased.attempts > 0;
        let hash_plain = closely && extras(self.file).plain_sha256.is_some();
        let (claim, now) = (Claim::of(leased), (source.now)());
        let blob = source.storage.locate(&source.inbox, claim, now).await?;
        let options = DecodeOptions { hash_plain, ..options };
        if let Some((etag, place)) = self.place_before() {
            match blob.open(claim, (place.stored, Some(&etag)), now).await {
                Ok(rest) => {
                    (self.etag, self.is_looking, self.noted) = (Some(etag), false, place.stored);
                    return Ok(FileRows::of_download(blob.name().to_owned(), rest, options, Way::From(place)));
                }
                // From the begin, by the rules of another blob.
                Err(FetchError::Blob(BlobError::Changed { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let download = blob.open(claim, (0, self.etag.as_deref()), now).await?;
        // Looked through before any row of it is given out.
        self.is_looking |= download.is_unsure();
        let options = DecodeOptions { hash_plain: options.hash_plain || download.is_unsure(), ..options };
        let seen = BlobSeen::new(download.facts());
        let way = if self.in_one_go { Way::InOneGo } else { Way::BySegments(seen.length) };
        // Told to whoever goes on with the file after us.
        if !self.is_looking && !self.file.blob.as_ref().is_some_and(|noted| noted.is(&seen)) {
            if !source.inbox.note_blob(&self.file.hold.lease, &seen).await? {
                return Err(FileError::Lapsed);
            }
            self.file.blob = Some(seen.clone());
        }
        self.etag = Some(seen.etag);
        Ok(FileRows::of_download(blob.name().to_owned(), download, options, way))
    }

    /// The noted place and the ETag of its blob, if no row after it was given out and it need not be read from its begin: whoever wants the
    /// hash reads all of it.
    fn place_before(&self) -> Option<(String, Checkpoint)> {
        let seen = self.file.blob.as_ref().filter(|seen| self.etag.as_ref().is_none_or(|etag| *etag == seen.etag))?;
        let place = seen.checkpoint.as_ref()?;
        let is_before = place.rows <= self.after && !self.in_one_go && !self.file.source.verify_hash;
        is_before.then(|| (seen.etag.clone(), place.clone()))
    }

    /// Notes how far whoever asks for more is with the rows that were given out: where the download goes on after a crash.
    async fn note_place(&mut self) -> Result<(), FileError> {
        let (Some(open), Some(blob), false) = (&self.open, &self.file.blob, self.is_looking) else { return Ok(()) };
        let Some(place) = open.checkpoint() else { return Ok(()) };
        if place.rows > self.after || place.stored < self.noted + CHECKPOINT_BYTES {
            return Ok(());
        }
        let (stored, seen) = (place.stored, BlobSeen { checkpoint: Some(place.clone()), ..blob.clone() });
        if !self.file.source.inbox.note_blob(&self.file.hold.lease, &seen).await? {
            return Err(FileError::Lapsed);
        }
        (self.noted, self.file.blob) = (stored, Some(seen));
        Ok(())
    }

    fn given_out(&mut self, mut batch: RowBatch) -> RowBatch {
        let stats = &self.file.source.stats;
        let (good, bad) = (batch.len() as u64, batch.bad().len() as u64);
        WorkStats::add(&stats.rows, good + bad);
        if self.file.source.on_bad_row == OnBadRow::Skip {
            batch.forget_bad();
            WorkStats::add(&stats.left_out, bad);
        } else {
            WorkStats::add(&stats.bad_rows, bad);
        }
        self.after = batch.last_row();
        self.file.read.rows = self.after;
        self.file.read.bad_rows += bad;
        self.file.hold.at(self.after);
        batch
    }

    async fn at_the_end(&mut self) -> Result<(), FileError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let Some(stats) = open.stats().cloned() else { return Ok(()) };
        if let Err(error) = rows::check_figures(open.name(), &extras(self.file), &stats) {
            // What fitted when the first rows took effect does not fit any more.
            return Err(if self.is_looking && self.from > 0 { self.content_changed() } else { error.into() });
        }
        // Only now, because a storage that opens every file and then dies has not worked.
        if open.is_from_storage() {
            self.file.source.circuits.of(Dependency::Storage).worked();
        }
        open.keep().await;
        if self.is_looking {
            self.is_looking = false;
        } else {
            self.is_over = true;
            let FileStats { rows, bad_rows, stored_bytes, plain_bytes, .. } = stats;
            self.file.read = FileDone { rows, bad_rows, filtered_rows: None, stored_bytes, plain_bytes };
        }
        Ok(())
    }

    /// Keeps what an error means for the clocks that files share, and for the file's end.
    fn note(&mut self, error: &FileError) {
        let circuits = &self.file.source.circuits;
        let worked_before = match error.verdict() {
            Some(Verdict::Retry { after, blame: Blame::Dependency }) => circuits.of(error.dependency()).failed(after),
            _ => false,
        };
        if let FileError::Fetch(error) = error
            && error.is_answer()
        {
            circuits.of(Dependency::Storage).worked();
        }
        self.file.trouble = Some(Trouble { problem: chain(error), worked_before });
    }

    fn content_changed(&self) -> FileError {
        FileError::ContentChanged { row: self.from }
    }
}

fn extras<I>(file: &File<I>) -> Extras {
    file.leased.waybill.metadata.extras().unwrap_or_default()
}

fn of_look(error: LookError) -> FileError {
    match error {
        LookError::Fetch(error) => error.into(),
        LookError::Rows(error) => error.into(),
        LookError::Inbox(error) => error.into(),
        // Of files on this machine, and of files that nobody knows.
        other => unreachable!("{other}"),
    }
}
