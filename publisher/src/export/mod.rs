//! Rows or bytes to a committed blob.
//!
//! A plan in the outbox, segments packed and blocks staged while rows are still being written, a number when the last block
//! is staged, and one conditional commit. What a crash leaves at any step is settled by looking at the container: see `settle`.

mod blocks;
mod error;
mod fields;
mod packer;
mod settle;
mod source;
mod writer;

use std::{
    convert::Infallible,
    fmt,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{Stream, StreamExt};
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::{io::AsyncRead, sync::mpsc};
use tokio_util::io::SyncIoBridge;
use uuid::Uuid;
use waybill_contracts::{BlobPath, BlobType, ExportId, Extras, Format, MANIFEST_TYPE, Metadata, Snapshot};
use waybill_formats::{Charset, Compression, Segment, WriterOptions, Written};

pub(crate) use blocks::Uploads;
pub use error::ExportError;
pub(crate) use settle::{is_ours, settle};
pub(crate) use source::bad_rows;
use source::{Counted, Gone, PackError, Packing, Treatment};
pub use writer::ExportWriter;
pub(crate) use writer::{Staged, address};

use crate::{
    context::Context,
    outbox::{ExportRow, ListFilter, Outbox, Plan, SqliteOutbox, State},
    snapshot::{SnapshotOptions, SnapshotWriter},
    tasks::{blocking, joined},
};

/// Longest `properties`: with the rest, a message stays within the 256 KiB that the standard tier takes. Source: Microsoft,
/// "Service Bus quotas".
const PROPERTIES_BYTES_MAX: usize = 192 * 1024;
/// Of an id or a trace that a message carries.
const CHARACTERS_MAX: usize = 256;
/// Segments that wait for a place among those being packed.
const SEGMENTS_WAITING: usize = 1;
/// Of a file whose name was taken or whose block was lost, how many tries in all: neither happens twice by chance.
const VOID_TRIES_MAX: u32 = 3;

/// An export that is durable: its blob is committed, and its message is sent or will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    /// Its identity, and the message-id.
    pub export_id: String,
    /// What its rows are.
    pub blob_type: String,
    /// Who publishes.
    pub publisher: String,
    /// The epoch of its number.
    pub epoch: String,
    /// 1, 2, 3 … per publisher, epoch and blobType.
    pub sequence: u64,
    /// For tracking.
    pub correlation_id: String,
    /// The blob's address.
    pub uri: String,
    /// Rows; `None` for a format that is not read.
    pub rows: Option<u64>,
    /// Bytes as stored.
    pub bytes: u64,
    /// Bytes after unpacking.
    pub plain_bytes: u64,
    /// SHA-256 of the plain bytes, lower-case hex.
    pub plain_sha256: String,
    /// The full export that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
    /// It had been exported before, and nothing was done now.
    pub repeated: bool,
}

impl Exported {
    pub(crate) fn of(row: &ExportRow, repeated: bool) -> Self {
        Self {
            export_id: row.export_id.as_str().to_owned(),
            blob_type: row.blob_type.clone(),
            publisher: row.publisher.clone(),
            epoch: row.epoch.clone(),
            sequence: row.sequence.unwrap_or_default(),
            correlation_id: row.correlation_id.clone(),
            uri: row.uri.clone().unwrap_or_default(),
            rows: row.rows,
            bytes: row.bytes.unwrap_or_default(),
            plain_bytes: row.plain_bytes.unwrap_or_default(),
            plain_sha256: row.plain_sha256.clone().unwrap_or_default(),
            snapshot: row.snapshot.clone(),
            repeated,
        }
    }
}

/// An export to be made. JSON Lines and gzip unless told otherwise.
#[must_use = "an export begins with `start`, `rows`, `file` or `reader`"]
pub struct ExportBuilder<O: Outbox = SqliteOutbox> {
    context: Arc<Context<O>>,
    blob_type: BlobType,
    export_id: Option<ExportId>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    traceparent: Option<String>,
    properties: Option<Box<RawValue>>,
    schema: Option<String>,
    expires_at: Option<OffsetDateTime>,
    compression: Compression,
    format: Option<Format>,
    charset: Option<Charset>,
    columns: Option<Vec<String>>,
    bytes_read: Arc<AtomicU64>,
}

impl<O: Outbox> ExportBuilder<O> {
    pub(crate) fn new(context: Arc<Context<O>>, blob_type: &str) -> Result<Self, ExportError> {
        let blob_type = BlobType::new(blob_type).map_err(|error| invalid("blobType", error))?;
        if blob_type.as_str() == MANIFEST_TYPE {
            return Err(invalid("blobType", format!("{MANIFEST_TYPE} is for the publisher's own files; take another")));
        }
        Ok(Self::of(context, blob_type))
    }

    /// Of the one type that is the publisher's own.
    pub(crate) fn of_manifest(context: Arc<Context<O>>) -> Self {
        Self::of(context, BlobType::new(MANIFEST_TYPE).expect("it is one"))
    }

    fn of(context: Arc<Context<O>>, blob_type: BlobType) -> Self {
        let compression = context.limits.compression;
        Self {
            context,
            blob_type,
            export_id: None,
            correlation_id: None,
            causation_id: None,
            traceparent: None,
            properties: None,
            schema: None,
            expires_at: None,
            compression,
            format: None,
            charset: None,
            columns: None,
            bytes_read: Arc::default(),
        }
    }

    /// The export's identity: exporting the same one again is answered with what was made before. Default: a new UUID.
    ///
    /// # Errors
    /// When it is not 1–128 characters of `[A-Za-z0-9._-]`.
    pub fn id(mut self, id: &str) -> Result<Self, ExportError> {
        self.export_id = Some(ExportId::new(id).map_err(|error| invalid("exportId", error))?);
        Ok(self)
    }

    /// For tracking; default: a new UUID.
    ///
    /// # Errors
    /// When it is not 1–256 characters.
    pub fn correlation_id(mut self, id: &str) -> Result<Self, ExportError> {
        let characters = id.chars().count();
        if !(1..=256).contains(&characters) {
            return Err(invalid("correlationId", format!("it has {characters} characters; it needs 1 to 256")));
        }
        self.correlation_id = Some(id.to_owned());
        Ok(self)
    }

    /// The message or command that caused these changes.
    pub fn causation_id(mut self, id: &str) -> Self {
        self.causation_id = Some(id.to_owned());
        self
    }

    /// The W3C trace context to pass on.
    pub fn traceparent(mut self, traceparent: &str) -> Self {
        self.traceparent = Some(traceparent.to_owned());
        self
    }

    /// The message's `properties`: whatever serialises as a JSON object. Numbers given as `RawValue` stay as written. The
    /// field `waybill` is ours.
    ///
    /// # Errors
    /// When it is no object, has a field `waybill`, or is longer than 192 KiB.
    pub fn properties(mut self, properties: &impl Serialize) -> Result<Self, ExportError> {
        let json = serde_json::value::to_raw_value(properties).map_err(|error| invalid("properties", error))?;
        if json.get().len() > PROPERTIES_BYTES_MAX {
            let problem = format!("{} bytes; a message has room for {PROPERTIES_BYTES_MAX}", json.get().len());
            return Err(invalid("properties", problem));
        }
        let fields = fields::fields_of(json.get()).map_err(|problem| invalid("properties", problem))?;
        if fields.iter().any(|(name, _)| name == "waybill") {
            return Err(invalid("properties", "the field `waybill` is set by the publisher; give yours another name"));
        }
        self.properties = Some(json);
        Ok(self)
    }

    /// A name or address of the rows' schema.
    pub fn schema(mut self, schema: &str) -> Self {
        self.schema = Some(schema.to_owned());
        self
    }

    /// When the blob may be deleted; no message outlives it. Default: never.
    pub fn expires_at(mut self, at: OffsetDateTime) -> Self {
        self.expires_at = Some(at);
        self
    }

    /// How the file is packed; default: the publisher's.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Rows as CSV with these columns (from [`ExportBuilder::start`] on), instead of JSON Lines.
    pub fn csv<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.format = Some(Format::Csv);
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// For [`ExportBuilder::file`] and [`ExportBuilder::reader`]: writes the source's rows in this format (without
    /// [`columns`](Self::columns), CSV has those of the first rows). Default: the same bytes as the source.
    /// For [`ExportBuilder::start`]: the format of the rows that are written.
    pub fn convert_to(mut self, format: Format) -> Self {
        self.format = Some(format);
        self
    }

    /// The charset that a source is in, such as `windows-1252` or `utf-16le`; a byte order mark counts more. Default: by the
    /// byte order mark, in XML by its declaration, else UTF-8. What is converted becomes UTF-8; what is not keeps its bytes,
    /// and the message says the charset too.
    ///
    /// # Errors
    /// When it is none that this version reads.
    pub fn charset(mut self, label: &str) -> Result<Self, ExportError> {
        let known = Charset::from_label(label);
        let unknown = || invalid("charset", format!("{label:?} is none that is read; name one such as windows-1252"));
        self.charset = Some(known.ok_or_else(unknown)?);
        Ok(self)
    }

    /// The columns of CSV that is converted to.
    pub fn columns<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.columns = Some(columns.into_iter().map(Into::into).collect());
        self
    }

    /// For [`ExportBuilder::file`]: counts its bytes as they are read, as stored, so that progress can be shown. A further
    /// try begins at 0 again.
    pub fn progress(mut self, bytes_read: Arc<AtomicU64>) -> Self {
        self.bytes_read = bytes_read;
        self
    }

    /// Begins a file that is written row by row.
    ///
    /// # Errors
    /// [`ExportError::Outbox`]; [`ExportError::Invalid`] for a format that cannot be written;
    /// [`ExportError::Unsettled`] when an earlier try of this id left a blob that cannot be looked for now.
    pub async fn start(self) -> Result<ExportWriter<O>, ExportError> {
        let format = self.format.unwrap_or(Format::JsonLines);
        let csv = || self.columns.clone().map(|columns| WriterOptions::Csv { columns });
        let Some(options) = WriterOptions::of(format).or_else(csv) else {
            return Err(invalid("format", "CSV needs its columns; use `csv`"));
        };
        // What is written row by row is UTF-8.
        Self { charset: None, ..self }.start_as(options, format).await
    }

    /// Begins a file whose bytes are written as they are, in `format`.
    ///
    /// # Errors
    /// As [`ExportBuilder::start`].
    pub async fn start_bytes(self, format: Format) -> Result<ExportWriter<O>, ExportError> {
        self.start_as(WriterOptions::Raw, format).await
    }

    async fn start_as(self, options: WriterOptions, format: Format) -> Result<ExportWriter<O>, ExportError> {
        let plan = self.plan(format);
        check(&plan)?;
        ExportWriter::start(self.context, plan, options, self.compression).await
    }

    /// Writes every row of a stream, each of which serialises as a JSON object, and finishes. A stream that may fail is for
    /// [`try_rows`](Self::try_rows): an item that is a `Result` is no row, and refused.
    ///
    /// # Errors
    /// The first [`ExportError`]; then nothing of it is published.
    pub async fn rows<T: Serialize>(self, rows: impl Stream<Item = T>) -> Result<Exported, ExportError> {
        self.try_rows(rows.map(Ok::<T, Infallible>)).await
    }

    /// Writes every row of a stream that may fail, as [`rows`](Self::rows) does, and finishes. A stream that fails ends the export:
    /// what came before is not published either.
    ///
    /// # Errors
    /// [`ExportError::Read`] with the stream's own error; the first [`ExportError`] else. Then nothing of it is published.
    pub async fn try_rows<T: Serialize, E: Into<Box<dyn std::error::Error + Send + Sync>>>(
        self,
        rows: impl Stream<Item = Result<T, E>>,
    ) -> Result<Exported, ExportError> {
        let name = format!("the rows of {}", self.blob_type);
        let mut writer = self.start().await?;
        if writer.already_exported().is_none() {
            let mut rows = std::pin::pin!(rows);
            while let Some(row) = rows.next().await {
                let written = match row {
                    Ok(row) => writer.serialize(&row).await,
                    Err(error) => Err(ExportError::Read { name: name.clone(), source: std::io::Error::other(error) }),
                };
                if let Err(error) = written {
                    return Err(writer.failed(error).await);
                }
            }
        }
        writer.finish().await
    }

    /// Publishes a file: plain or gzip, its format named by its suffix (`jsonl`, `ndjson`, `json`, `csv`, `xml`,
    /// `xmll`). Its rows are read and counted, and a file with a bad row is refused. What
    /// subscribers unpack is the same, byte for byte, unless it is converted.
    ///
    /// A passing fault of storage is tried again, up to the publisher's `storage_patience`.
    ///
    /// # Errors
    /// [`ExportError::Source`] and [`ExportError::Read`] before anything is published; the others as
    /// [`ExportWriter::finish`].
    pub async fn file(self, path: &Path) -> Result<Exported, ExportError> {
        let format = format_of(path)?;
        let mut this = self;
        // Fixed here, so that every try is the same export.
        let id = this.export_id.get_or_insert_with(ExportId::random).as_str().to_owned();
        this.correlation_id.get_or_insert_with(|| Uuid::new_v4().to_string());
        let patience = this.context.limits.storage_patience;
        let mut delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(30))
            .with_total_delay(Some(patience))
            .without_max_times()
            .with_jitter()
            .build();
        let mut voids = 0;
        loop {
            let source = PathBuf::from(path);
            let read = Arc::clone(&this.bytes_read);
            let open = move || Counted::open(&source, read);
            let error = match this.again().publish(path.display().to_string(), format, open).await {
                Ok(exported) => return Ok(exported),
                Err(error) => error,
            };
            let delay = match &error {
                ExportError::Void { .. } if voids + 1 < VOID_TRIES_MAX => {
                    voids += 1;
                    Some(Duration::ZERO)
                }
                ExportError::Storage { source, .. } | ExportError::Unsettled { source, .. } if error.is_transient() => {
                    // As long as storage asks for, unless that is longer than anybody here waits.
                    let asked = source.retry_after().unwrap_or_default();
                    delays.next().map(|delay| delay.max(asked)).filter(|delay| *delay <= patience)
                }
                _ => None,
            };
            let Some(delay) = delay else { return Err(error) };
            tracing::warn!(export_id = id, error = &error as &dyn std::error::Error, ?delay, "exporting again");
            tokio::time::sleep(delay).await;
        }
    }

    /// Begins a full export with this builder's type, properties and format: all rows of the type as they are at one place of its
    /// sequence, in parts. `id` is its identity, such as the night's date: made again, the same one is answered with what was made
    /// before. Read the rows after this returns, so that they hold all that was published until then. An export id that was
    /// set does not count: parts have their own.
    ///
    /// # Errors
    /// [`ExportError::Outbox`]; [`ExportError::Invalid`] for an id that is not 1–120 characters, and for a place that no file has
    /// reached.
    pub async fn snapshot(self, id: &str, options: SnapshotOptions) -> Result<SnapshotWriter<O>, ExportError> {
        let correlation_id = self.correlation_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let part = Self { export_id: None, correlation_id: Some(correlation_id), ..self };
        SnapshotWriter::begin(part, id, options).await
    }

    /// The columns of CSV, unless they were given.
    pub(crate) fn columns_of(&mut self, columns: Vec<String>) {
        self.columns.get_or_insert(columns);
    }

    pub(crate) fn context(&self) -> &Context<O> {
        &self.context
    }

    pub(crate) fn blob_type(&self) -> &BlobType {
        &self.blob_type
    }

    /// Publishes what a reader gives, as [`ExportBuilder::file`] does a file, except that it is read once: what fails
    /// must be begun again by the caller. `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`ExportBuilder::file`].
    pub async fn reader(
        self,
        name: &str,
        format: Format,
        reader: impl AsyncRead + Send + Unpin + 'static,
    ) -> Result<Exported, ExportError> {
        let bridge = SyncIoBridge::new(reader);
        self.publish(name.to_owned(), format, move || Ok(bridge)).await
    }

    async fn publish<R: Read + Send + 'static>(
        self,
        name: String,
        format: Format,
        open: impl FnOnce() -> std::io::Result<R> + Send + 'static,
    ) -> Result<Exported, ExportError> {
        match self.pack(name, format, open).await? {
            Packed::Now(writer, written) => writer.finish_written(*written).await,
            Packed::Before(exported) => Ok(*exported),
        }
    }

    /// Stages what a reader gives as one file, and commits nothing.
    pub(crate) async fn stage<R: Read + Send + 'static>(
        self,
        name: String,
        format: Format,
        open: impl FnOnce() -> std::io::Result<R> + Send + 'static,
    ) -> Result<Staged<O>, ExportError> {
        match self.pack(name, format, open).await? {
            Packed::Now(writer, written) => writer.stage_written(*written).await,
            Packed::Before(exported) => Err(ExportError::Failed { export_id: exported.export_id }),
        }
    }

    /// As [`stage`](Self::stage), of a file.
    pub(crate) async fn stage_file(self, path: &Path) -> Result<Staged<O>, ExportError> {
        let format = format_of(path)?;
        let (source, read) = (path.to_owned(), Arc::clone(&self.bytes_read));
        self.stage(path.display().to_string(), format, move || Counted::open(&source, read)).await
    }

    /// Reads on a thread for such work; segments come over, are packed and staged.
    async fn pack<R: Read + Send + 'static>(
        self,
        name: String,
        format: Format,
        open: impl FnOnce() -> std::io::Result<R> + Send + 'static,
    ) -> Result<Packed<O>, ExportError> {
        let (treatment, written) = match self.format {
            None => (Treatment::Verbatim, format),
            Some(target) => (Treatment::Convert(target, self.columns.clone()), target),
        };
        let (charset, compression) = (self.charset, self.compression);
        let packing = Packing { name: name.clone(), format, charset, treatment, compression };
        let context = Arc::clone(&self.context);
        // Where readers had all threads, none would be left to pack what they read, and they would wait for ever.
        let _reading = context.reading.acquire().await.expect("the places are never closed");
        // Before anything is planned: a source that is not there leaves no trace.
        let input = match blocking(open).await {
            Ok(input) => input,
            Err(source) => match self.exported_before().await? {
                Some(known) => return Ok(Packed::Before(Box::new(known))),
                None => return Err(ExportError::Read { name, source }),
            },
        };
        let mut writer = self.start_as(WriterOptions::Raw, written).await?;
        if let Some(known) = writer.already_exported() {
            return Ok(Packed::Before(Box::new(known.clone())));
        }
        let (sender, mut segments) = mpsc::channel::<Segment>(SEGMENTS_WAITING);
        let uploads = Arc::clone(&context.uploads);
        let reader = tokio::task::spawn_blocking(move || {
            packing.run(input, || uploads.segment_bytes(), |segment| sender.blocking_send(segment).map_err(|_| Gone))
        });
        while let Some(segment) = segments.recv().await {
            if let Err(error) = writer.segment(segment).await {
                // The reader ends at its next segment.
                return Err(writer.failed(error).await);
            }
        }
        match joined(reader.await).await {
            Ok(written) => Ok(Packed::Now(writer, Box::new(written))),
            Err(PackError::Export(error)) => Err(writer.failed(error).await),
            Err(PackError::Gone) => unreachable!("its receiver lives as long as this call"),
        }
    }

    /// What was exported with this id and type, for a caller whose source is gone since.
    async fn exported_before(&self) -> Result<Option<Exported>, ExportError> {
        let Some(id) = &self.export_id else { return Ok(None) };
        let filter = ListFilter { export_id: Some(id.as_str().to_owned()), most: 1, ..ListFilter::default() };
        let rows = self.context.outbox.list(&filter).await;
        let rows = rows.map_err(|source| ExportError::Outbox { export_id: id.as_str().to_owned(), source })?;
        let known = rows
            .iter()
            .find(|row| row.blob_type == self.blob_type.as_str() && matches!(row.state, State::Uploaded | State::Sent));
        Ok(known.map(|row| Exported::of(row, true)))
    }

    /// The same export once more.
    pub(crate) fn again(&self) -> Self {
        Self {
            context: Arc::clone(&self.context),
            blob_type: self.blob_type.clone(),
            export_id: self.export_id.clone(),
            correlation_id: self.correlation_id.clone(),
            causation_id: self.causation_id.clone(),
            traceparent: self.traceparent.clone(),
            properties: self.properties.clone(),
            schema: self.schema.clone(),
            expires_at: self.expires_at,
            compression: self.compression,
            format: self.format,
            charset: self.charset,
            columns: self.columns.clone(),
            bytes_read: Arc::clone(&self.bytes_read),
        }
    }

    fn plan(&self, format: Format) -> Plan {
        let correlation_id = self.correlation_id.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let packed = self.compression != Compression::None;
        let date = (self.context.now)().to_offset(time::UtcOffset::UTC).date();
        let unique = Uuid::new_v4();
        let name = BlobPath::for_export(&self.blob_type, date, &correlation_id, unique, format.suffix());
        let plain_name =
            name.as_str().strip_suffix(".gz").filter(|_| !packed).and_then(|name| BlobPath::new(name).ok());
        let content_type = match self.charset.filter(|_| self.format.is_none()) {
            Some(charset) => format!("{}; charset={}", format.content_type(), charset.name().to_ascii_lowercase()),
            None => format.content_type().to_owned(),
        };
        Plan {
            export_id: self.export_id.clone().unwrap_or_else(ExportId::random),
            publisher: self.context.publisher.clone(),
            blob: plain_name.unwrap_or(name),
            blob_type: self.blob_type.clone(),
            correlation_id,
            causation_id: self.causation_id.clone(),
            traceparent: self.traceparent.clone(),
            content_type,
            content_encoding: packed.then(|| "gzip".to_owned()),
            properties: self.properties.clone(),
            schema: self.schema.clone(),
            expires_at: self.expires_at,
        }
    }
}

impl<O: Outbox> fmt::Debug for ExportBuilder<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportBuilder")
            .field("blob_type", &self.blob_type)
            .field("export_id", &self.export_id)
            .finish_non_exhaustive()
    }
}

/// What became of a source.
enum Packed<O: Outbox> {
    /// All segments are packed, and the last of them is not staged yet.
    Now(ExportWriter<O>, Box<Written>),
    /// It was exported with this id before.
    Before(Box<Exported>),
}

fn invalid(what: &'static str, problem: impl fmt::Display) -> ExportError {
    ExportError::Invalid { what, problem: problem.to_string() }
}

/// Whether a message can carry this as an id or a trace (W3C's has 55 characters; later versions may have more).
pub(crate) fn fits_a_message(text: &str) -> bool {
    (1..=CHARACTERS_MAX).contains(&text.chars().count())
}

/// Whether the plan can become a message: later would be too late.
fn check(plan: &Plan) -> Result<(), ExportError> {
    let mut metadata = Metadata {
        blob_type: plan.blob_type.as_str().to_owned(),
        correlation_id: plan.correlation_id.clone(),
        content_type: plan.content_type.clone(),
        content_encoding: plan.content_encoding.clone(),
        uri: "https://host.example/container/blob".to_owned(),
        properties: plan.properties.clone(),
        unknown: Vec::new(),
    };
    let extras = Extras {
        export_id: Some(plan.export_id.clone()),
        publisher: Some(plan.publisher.clone()),
        schema: plan.schema.clone(),
        expires_at: plan.expires_at,
        causation_id: plan.causation_id.clone(),
        ..Extras::default()
    };
    metadata.set_extras(&extras).map_err(|error| invalid("message", error))?;
    metadata.to_json().map_err(|error| invalid("message", error))?;
    if let Some(trace) = plan.traceparent.as_ref().filter(|trace| !fits_a_message(trace)) {
        let problem = format!("it has {} characters; it needs 1 to {CHARACTERS_MAX}", trace.chars().count());
        return Err(invalid("traceparent", problem));
    }
    Ok(())
}

/// The format that a file's suffix names, with or without `.gz` behind it.
fn format_of(path: &Path) -> Result<Format, ExportError> {
    let is_gz = path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("gz"));
    let named = if is_gz { path.with_extension("") } else { path.to_owned() };
    let suffix = named.extension().and_then(|suffix| suffix.to_str()).unwrap_or_default();
    Format::from_suffix(suffix).ok_or_else(|| {
        let problem = format!(
            "{}: its suffix names no format; it should be jsonl, ndjson, csv, json, xml or xmll, and may have .gz behind it",
            path.display()
        );
        invalid("file", problem)
    })
}
