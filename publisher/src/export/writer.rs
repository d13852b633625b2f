//! One file from its first row to its committed blob.

use std::{collections::BTreeMap, fmt, mem, sync::Arc};

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Serialize;
use waybill_azure::{
    Service,
    blob::{BlobError, BlobHeaders, Upload},
};
use waybill_contracts::{BlobPath, Snapshot};
use waybill_formats::{Compression, Field, Finished, Row, Segment, SegmentWriter, WriterOptions, Written};

use super::{
    Exported,
    blocks::Blocks,
    error::ExportError,
    fields::fields_of,
    packer::Packer,
    settle::{Settled, settle},
};
use crate::{
    context::{Context, Step},
    figures::Figure,
    outbox::{Attempt, ExportRow, FileFacts, Outbox, Plan, Planned, SqliteOutbox},
    relay::chain,
};

/// Rows between two looks at whether other tasks want to run.
const ROWS_AT_A_STRETCH: u64 = 256;

/// What a metadata header carries as it is; the rest is percent-encoded UTF-8.
const HEADER: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// Whether a type is `Result`, or a reference to one: serde takes it for an enum, so that the compiler cannot tell.
fn is_result<T>() -> bool {
    std::any::type_name::<T>().trim_start_matches('&').starts_with("core::result::Result<")
}

/// Writes one export: rows go in, and [`finish`](Self::finish) makes them durable. What is staged before that is never
/// committed unless it finishes; dropped, the export is void.
///
/// When an export of this id was uploaded before, the writer takes rows and drops them, and `finish` answers with that
/// earlier one: [`already_exported`](Self::already_exported) tells in time.
pub struct ExportWriter<O: Outbox = SqliteOutbox>(Writing<O>);

enum Writing<O: Outbox> {
    New(Box<Open<O>>),
    Known(Box<Exported>),
}

struct Open<O: Outbox> {
    attempt: Unfinished<O>,
    plan: Plan,
    rows: SegmentWriter,
    packer: Packer,
    blocks: Blocks,
    /// Bytes are written as they are: only the caller can know the rows.
    raw: bool,
    rows_of_raw: Option<u64>,
    since_yield: u64,
    failed: bool,
}

/// A try; when it is dropped before its end is known, the recovery looks after it.
struct Unfinished<O: Outbox> {
    context: Arc<Context<O>>,
    attempt: Option<Attempt>,
}

impl<O: Outbox> Unfinished<O> {
    fn get(&self) -> &Attempt {
        self.attempt.as_ref().expect("it is taken when the end is known")
    }

    fn ended(mut self) {
        self.attempt = None;
    }
}

impl<O: Outbox> Drop for Unfinished<O> {
    fn drop(&mut self) {
        if let Some(attempt) = self.attempt.take() {
            self.context.leave(attempt);
        }
    }
}

impl<O: Outbox> ExportWriter<O> {
    pub(super) async fn start(
        context: Arc<Context<O>>,
        plan: Plan,
        options: WriterOptions,
        compression: Compression,
    ) -> Result<Self, ExportError> {
        let (attempt, blob) = match planned(&context, &plan).await? {
            Ok(begun) => begun,
            Err(known) => return Ok(Self(Writing::Known(Box::new(Exported::of(&known, true))))),
        };
        let attempt = Unfinished { context: Arc::clone(&context), attempt: Some(attempt) };
        context.reached(Step::Planned);
        let raw = options == WriterOptions::Raw;
        let blocks = Blocks::new(context.container.upload(blob.as_str()), &context.limits, &context.uploads);
        let packer = Packer::new(compression, &context.packing, context.limits.segments_at_once_max.get());
        let plan = Plan { blob, ..plan };
        let mut rows = SegmentWriter::new(options, compression);
        rows.set_segment_bytes(context.uploads.segment_bytes());
        Ok(Self(Writing::New(Box::new(Open {
            attempt,
            plan,
            rows,
            packer,
            blocks,
            raw,
            rows_of_raw: None,
            since_yield: 0,
            failed: false,
        }))))
    }

    /// The export of this id that was made before, if there is one.
    #[must_use]
    pub fn already_exported(&self) -> Option<&Exported> {
        match &self.0 {
            Writing::New(_) => None,
            Writing::Known(known) => Some(known),
        }
    }

    /// Writes a row of names and values.
    ///
    /// # Errors
    /// [`ExportError::Row`] for a row that the format cannot hold: a repeated name, in CSV a field that is no column or a
    /// nested value; the row is left out and the writer goes on. [`ExportError::Storage`] ends it.
    pub async fn row(&mut self, fields: &[(&str, Field<'_>)]) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.usable()?;
        open.rows.row(fields).map_err(|source| ExportError::Row { export_id: open.id(), source })?;
        open.wrote_row().await
    }

    /// Writes a row that was read from another file, in this file's format.
    ///
    /// # Errors
    /// As [`ExportWriter::row`].
    pub async fn copy(&mut self, row: &Row<'_>) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.usable()?;
        open.rows.copy(row).map_err(|source| ExportError::Row { export_id: open.id(), source })?;
        open.wrote_row().await
    }

    /// Writes a value that serialises as a JSON object. Convenient, and slower than [`ExportWriter::row`].
    ///
    /// # Errors
    /// As [`ExportWriter::row`]; [`ExportError::Invalid`] when it is no object, or a `Result`, which would be published as
    /// `{"Ok":{…}}` or `{"Err":{…}}`.
    pub async fn serialize<T: Serialize>(&mut self, row: &T) -> Result<(), ExportError> {
        let unfit = |problem: String| ExportError::Invalid { what: "row", problem };
        if is_result::<T>() {
            return Err(unfit("it is a Result, and no row; take what is in it, or use `try_rows`".to_owned()));
        }
        let json = serde_json::to_string(row).map_err(|error| unfit(error.to_string()))?;
        let fields = fields_of(&json).map_err(unfit)?;
        let fields: Vec<(&str, Field<'_>)> =
            fields.iter().map(|(name, field)| (name.as_ref(), field.clone())).collect();
        self.row(&fields).await
    }

    /// Writes bytes as they are, for a writer that was started for such.
    ///
    /// # Errors
    /// As [`ExportWriter::row`].
    pub async fn bytes(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.usable()?;
        open.rows.raw(bytes);
        open.drain().await
    }

    /// Says how many rows bytes written as they are hold, where the caller knows it.
    pub fn set_rows(&mut self, rows: u64) {
        if let Writing::New(open) = &mut self.0 {
            open.rows_of_raw = Some(rows);
        }
    }

    /// Takes a segment that was written elsewhere.
    pub(super) async fn segment(&mut self, segment: Segment) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.usable()?;
        open.pack(segment).await
    }

    /// Ends the file: when this returns, its blob is committed and its message will be sent, whatever happens to this
    /// process.
    ///
    /// # Errors
    /// Nothing is published, except after [`ExportError::Unsettled`] and [`ExportError::Outbox`], when the blob may be
    /// there: then `run`, or exporting again with the same id, finds out.
    ///
    /// # Cancel safety
    /// Dropping the call is like a crash: nothing is published twice, and `run` settles what was begun.
    pub async fn finish(self) -> Result<Exported, ExportError> {
        match self.0 {
            Writing::Known(known) => Ok(*known),
            Writing::New(open) => open.stage().await?.commit(None).await,
        }
    }

    /// Stages all there is of a file with an id of its own, and commits nothing.
    pub(crate) async fn stage(self) -> Result<Staged<O>, ExportError> {
        match self.0 {
            Writing::Known(known) => Err(ExportError::Failed { export_id: known.export_id }),
            Writing::New(open) => open.stage().await,
        }
    }

    /// As [`ExportWriter::finish`], for segments that were written elsewhere.
    pub(super) async fn finish_written(self, written: Written) -> Result<Exported, ExportError> {
        match self.0 {
            Writing::Known(known) => Ok(*known),
            Writing::New(open) => open.stage_written(written).await?.commit(None).await,
        }
    }

    /// As [`ExportWriter::stage`], for segments that were written elsewhere.
    pub(super) async fn stage_written(self, written: Written) -> Result<Staged<O>, ExportError> {
        match self.0 {
            Writing::Known(known) => Err(ExportError::Failed { export_id: known.export_id }),
            Writing::New(open) => open.stage_written(written).await,
        }
    }

    /// Rows and plain bytes so far.
    pub(crate) fn size(&self) -> (u64, u64) {
        match &self.0 {
            Writing::New(open) => open.rows.size(),
            Writing::Known(known) => (known.rows.unwrap_or_default(), known.plain_bytes),
        }
    }

    /// Gives the export up: it is void, for this reason.
    ///
    /// # Errors
    /// When the outbox cannot be written; the export is void all the same, for another reason.
    pub async fn abandon(self, reason: &str) -> Result<(), ExportError> {
        let Writing::New(open) = self.0 else { return Ok(()) };
        let Open { attempt, blocks, .. } = *open;
        drop(blocks);
        void(attempt, reason).await
    }

    /// Gives the export up for this error, which stays the one to tell: when the outbox cannot be written either, the
    /// recovery does it later.
    pub(crate) async fn failed(self, error: ExportError) -> ExportError {
        if let Err(failed) = self.abandon(&chain(&error)).await {
            tracing::debug!(error = chain(&failed), "a failed export is still planned");
        }
        error
    }
}

impl<O: Outbox> Open<O> {
    fn id(&self) -> String {
        self.plan.export_id.as_str().to_owned()
    }

    fn usable(&self) -> Result<(), ExportError> {
        if self.failed { Err(ExportError::Failed { export_id: self.id() }) } else { Ok(()) }
    }

    async fn wrote_row(&mut self) -> Result<(), ExportError> {
        self.since_yield += 1;
        if self.since_yield >= ROWS_AT_A_STRETCH {
            self.since_yield = 0;
            tokio::task::yield_now().await;
        }
        self.drain().await
    }

    async fn drain(&mut self) -> Result<(), ExportError> {
        while let Some(segment) = self.rows.segment() {
            self.rows.set_segment_bytes(self.attempt.context.uploads.segment_bytes());
            self.pack(segment).await?;
        }
        Ok(())
    }

    /// Has a segment packed, and stages the blocks that are full.
    async fn pack(&mut self, segment: Segment) -> Result<(), ExportError> {
        // Set until all is done, so that a call that is dropped halfway ends the writer as well.
        self.failed = true;
        self.packer.add(segment).await;
        while let Some(block) = self.packer.take(self.blocks.size()) {
            self.blocks.stage(block).await.map_err(|source| ExportError::Storage { export_id: self.id(), source })?;
            self.attempt.context.reached(Step::BlockStaged);
        }
        self.failed = false;
        Ok(())
    }

    async fn stage(mut self) -> Result<Staged<O>, ExportError> {
        self.usable()?;
        let (options, compression) = (WriterOptions::Raw, Compression::None);
        let rows = mem::replace(&mut self.rows, SegmentWriter::new(options, compression));
        let (last, written) = rows.finish();
        for segment in last {
            self.pack(segment).await?;
        }
        let rows = if self.raw { self.rows_of_raw } else { Some(written.rows) };
        self.stage_rest(written, rows).await
    }

    async fn stage_written(self, written: Written) -> Result<Staged<O>, ExportError> {
        self.usable()?;
        let rows = written.rows;
        self.stage_rest(written, Some(rows)).await
    }

    async fn stage_rest(self, written: Written, rows: Option<u64>) -> Result<Staged<O>, ExportError> {
        let Self { attempt, plan, packer, mut blocks, .. } = self;
        let Finished { head, rest, stats } = packer.finish(written).await;
        let context = Arc::clone(&attempt.context);
        let id = plan.export_id.as_str().to_owned();
        let staged = async {
            blocks.stage(rest).await?;
            context.reached(Step::BlockStaged);
            // The index is known now: the file's first block is its last to be staged.
            blocks.stage_first(head).await?;
            let upload = blocks.all_staged().await?;
            let grant = context.tokens.grant(Service::Blob, None).await?;
            Ok::<_, BlobError>((upload, address(&grant.endpoint, &grant.entity, &plan.blob)))
        };
        let (upload, uri) = match staged.await {
            Ok(staged) => staged,
            Err(source) => {
                if let Err(error) = void(attempt, &format!("storage did not take the file: {source}")).await {
                    tracing::debug!(error = chain(&error), "a failed export is still planned");
                }
                return Err(ExportError::Storage { export_id: id, source });
            }
        };
        context.reached(Step::Staged);
        let facts = FileFacts {
            uri,
            rows,
            bytes: stats.stored_bytes,
            plain_bytes: stats.plain_bytes,
            plain_sha256: hex(&stats.plain_sha256),
            sha256: stats.sha256.map(|hash| hex(&hash)),
            snapshot: None,
        };
        Ok(Staged { attempt, plan, upload, facts })
    }
}

/// A file all of which is staged, and nothing committed: no number is taken yet. Dropped, it is void.
pub(crate) struct Staged<O: Outbox> {
    attempt: Unfinished<O>,
    plan: Plan,
    upload: Upload,
    facts: FileFacts,
}

impl<O: Outbox> Staged<O> {
    /// Numbers the file, and commits it. `snapshot`: the full export that it is a part of.
    pub(crate) async fn commit(self, snapshot: Option<Snapshot>) -> Result<Exported, ExportError> {
        let Self { attempt, plan, upload, facts } = self;
        let facts = FileFacts { snapshot, ..facts };
        let context = Arc::clone(&attempt.context);
        let id = plan.export_id.as_str().to_owned();
        let headers_of = facts.clone();
        let outbox_failed = |source| ExportError::Outbox { export_id: id.clone(), source };
        let number = context.outbox.number(attempt.get(), facts).await.map_err(outbox_failed)?;
        context.reached(Step::Numbered);
        let headers = headers(&plan, &headers_of, context.outbox.epoch(), number);
        match upload.commit(&headers).await {
            Ok(_) => {
                context.reached(Step::Committed);
                let row = context.outbox.uploaded(attempt.get()).await.map_err(outbox_failed)?;
                attempt.ended();
                context.counting.add(Figure::ExportsUploaded, 1);
                context.counting.add(Figure::RowsUploaded, row.rows.unwrap_or_default());
                context.counting.add(Figure::BytesUploaded, row.bytes.unwrap_or_default());
                context.uploaded.notify_one();
                context.reached(Step::Uploaded);
                Ok(Exported::of(&row, false))
            }
            // Whatever it met, only the container knows whether the blob is there: an answer may have been lost.
            Err(error) => {
                tracing::debug!(export_id = id, %error, "commit met something; looking for the blob");
                let row = context.outbox.get(attempt.get().row).await.map_err(outbox_failed)?;
                let row = row.filter(|row| row.attempt == attempt.get().number).ok_or_else(|| {
                    let export_id = id.clone();
                    outbox_failed(crate::outbox::OutboxError::Overtaken { export_id })
                })?;
                let settled = settle(&context, &row, Some(&error)).await?;
                attempt.ended();
                match settled {
                    Settled::Uploaded(row) => Ok(Exported::of(&row, false)),
                    Settled::Void(reason) => Err(ExportError::Void { export_id: id, number, reason }),
                }
            }
        }
    }
}

/// A try to begin with, or the row of what is exported already. What an earlier try left is settled first.
async fn planned<O: Outbox>(
    context: &Arc<Context<O>>,
    plan: &Plan,
) -> Result<Result<(Attempt, BlobPath), Box<ExportRow>>, ExportError> {
    loop {
        let failed = |source| ExportError::Outbox { export_id: plan.export_id.as_str().to_owned(), source };
        match context.outbox.plan(plan.clone()).await.map_err(failed)? {
            Planned::Begin(attempt, blob) => return Ok(Ok((attempt, blob))),
            Planned::Exported(row) => return Ok(Err(row)),
            Planned::Settle(attempt, row) => {
                let unsettled = Unfinished { context: Arc::clone(context), attempt: Some(attempt) };
                settle(context, &row, None).await?;
                unsettled.ended();
            }
        }
    }
}

async fn void<O: Outbox>(attempt: Unfinished<O>, reason: &str) -> Result<(), ExportError> {
    let done = attempt.context.outbox.void(attempt.get(), reason).await;
    let export_id = attempt.get().export_id.as_str().to_owned();
    done.map_err(|source| ExportError::Outbox { export_id, source })?;
    attempt.ended();
    Ok(())
}

/// What the blob carries, so that a file whose message is lost can still be admitted.
fn headers(plan: &Plan, facts: &FileFacts, epoch: &str, number: u64) -> BlobHeaders {
    let mut metadata = BTreeMap::from([
        ("exportid".to_owned(), plan.export_id.as_str().to_owned()),
        ("publisher".to_owned(), plan.publisher.clone()),
        ("epoch".to_owned(), epoch.to_owned()),
        ("sequence".to_owned(), number.to_string()),
        ("correlationid".to_owned(), utf8_percent_encode(&plan.correlation_id, HEADER).to_string()),
        ("plainsha256".to_owned(), facts.plain_sha256.clone()),
    ]);
    if let Some(rows) = facts.rows {
        metadata.insert("rows".to_owned(), rows.to_string());
    }
    if let Some(Snapshot { id, part, of, as_of }) = &facts.snapshot {
        metadata.insert("snapshotid".to_owned(), utf8_percent_encode(id, HEADER).to_string());
        metadata.insert("snapshotpart".to_owned(), part.to_string());
        metadata.insert("snapshotof".to_owned(), of.to_string());
        metadata.insert("snapshotasof".to_owned(), as_of.to_string());
    }
    BlobHeaders { content_type: plan.content_type.clone(), metadata }
}

/// Where a blob is, without a query.
pub(crate) fn address(endpoint: &url::Url, container: &str, blob: &BlobPath) -> String {
    format!("{}/{container}/{}", endpoint.as_str().trim_end_matches('/'), blob.encoded())
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

impl<O: Outbox> fmt::Debug for ExportWriter<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Writing::New(open) => f.debug_struct("ExportWriter").field("plan", &open.plan).finish_non_exhaustive(),
            Writing::Known(known) => f.debug_struct("ExportWriter").field("already_exported", known).finish(),
        }
    }
}
