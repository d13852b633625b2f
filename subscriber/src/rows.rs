//! Chunks of a blob to groups of rows, each as large as one commit of the sink should be.
//!
//! A file of segments is decoded as jobs beside each other (`segments`), any other in one go on a thread of its own
//! (`in_one_go`). Both are work for a processor, so no more of it is done at once than there are places (`pool`). The queues on
//! both sides hold a fixed number of pieces: memory does not grow with the file.

mod in_one_go;
mod pool;
mod segments;

use bytes::Bytes;
use tokio::sync::mpsc;
use waybill_contracts::{Entity, Extras, Format, HeaderRow, Media, MediaError, Reason};
use waybill_formats::{
    Charset, DecodeError, DecodeOptions, FileStats, Limits, RowBatch, RowDecoder, SegmentDecoder, Source,
    seek::Checkpoint,
};

pub(crate) use self::pool::Pool;
use self::{in_one_go::Reading, segments::Segments};
use crate::{Verdict, sink::Stretch, tasks::on_a_thread};

/// Pieces between download and decoder: enough to keep both busy.
pub(crate) const CHUNKS_QUEUED: usize = 8;
/// Groups between decoder and sink: one waits while one is read ahead and one is applied.
pub(crate) const GROUPS_QUEUED: usize = 1;

/// A piece of the download.
#[derive(Debug)]
pub(crate) enum Chunk {
    /// More bytes.
    Bytes(Bytes),
    /// The whole blob has been handed over. A queue that closes without it was cut.
    End,
}

/// Rows for one commit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    /// In the file's order.
    pub(crate) batches: Vec<RowBatch>,
    /// The number of the last row, good or bad.
    pub(crate) to: u64,
    /// Good and bad rows.
    pub(crate) rows: u64,
    /// The file ends here.
    pub(crate) end: Option<FileStats>,
    /// A place within these rows, or before them, where the file can be gone on with once they took effect.
    pub(crate) checkpoint: Option<Checkpoint>,
    /// The rows are in the order of their keys, and `to` counts them in it.
    pub(crate) sorted: Option<Stretch>,
    bytes: usize,
}

impl Group {
    /// Of rows in the order of their keys: how many there are, and how many up to the last of them.
    pub(crate) fn sorted(
        batches: Vec<RowBatch>,
        (rows, to): (u64, u64),
        end: Option<FileStats>,
        stretch: Stretch,
    ) -> Self {
        Self { batches, to, rows, end, sorted: Some(stretch), ..Self::default() }
    }
}

/// How large a group grows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupLimits {
    /// Rows.
    pub(crate) rows_max: u64,
    /// Plain bytes.
    pub(crate) bytes_max: usize,
}

/// Why a file's bytes are not rows.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// `contentType` or `contentEncoding` cannot be used.
    #[error("the file cannot be read")]
    Media(#[from] MediaError),
    /// The format is known, this version does not read it.
    #[error("{what} cannot be read by this version")]
    Unsupported {
        /// What.
        what: String,
    },
    /// A CSV without header, of which nothing says what its columns are called.
    #[error(
        "a CSV without header (header=absent) has the names of its columns from `columns` of its entity, and {of}; declare them \
         in entities.toml (--entities)"
    )]
    NoColumns {
        /// Why there are none.
        of: String,
    },
    /// The bytes are damaged, or are not what they claim to be.
    #[error("{blob}: the file cannot be read on")]
    Decode {
        /// The blob's name.
        blob: String,
        /// Where and why.
        source: DecodeError,
    },
    /// The plain bytes are not those that the message announced.
    #[error("{blob}: {what} is {found}, its message says {announced}; ask the publisher")]
    Differs {
        /// The blob's name.
        blob: String,
        /// What differs.
        what: &'static str,
        /// By the message.
        announced: String,
        /// By the file.
        found: String,
    },
}

impl RowsError {
    /// Where the file goes: the bytes will not get better by themselves.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        Verdict::Quarantine(match self {
            Self::Media(error) => error.reason,
            Self::Unsupported { .. } | Self::NoColumns { .. } => Reason::UnsupportedFormat,
            Self::Decode { source, .. } => source.reason,
            Self::Differs { .. } => Reason::HashMismatch,
        })
    }
}

/// How to decode a file of this media; `entity` gives the columns of a CSV without header.
///
/// # Errors
/// [`RowsError::Unsupported`], [`RowsError::NoColumns`].
pub(crate) fn decode_options(
    media: Media,
    blob_type: &str,
    entity: Option<&Entity>,
    limits: &Limits,
) -> Result<DecodeOptions, RowsError> {
    let Media { format, charset, header, delimiter, row } = media;
    let unknown = |label: String| RowsError::Unsupported { what: format!("charset {label}") };
    let charset = charset.map(|label| Charset::from_label(&label).ok_or_else(|| unknown(label))).transpose()?;
    let source = match (format, header) {
        (Format::JsonLines, _) => Source::JsonLines,
        (Format::Json, _) => Source::Json,
        (Format::Xml, _) => Source::Xml { row },
        (Format::XmlLines, _) => Source::XmlLines,
        (Format::Csv, HeaderRow::Present) => Source::Csv { columns: None, delimiter },
        (Format::Csv, HeaderRow::Absent) => {
            let columns: Vec<String> =
                entity.into_iter().flat_map(|entity| &entity.columns).map(|column| column.name.clone()).collect();
            if columns.is_empty() {
                return Err(RowsError::NoColumns {
                    of: match (entity, blob_type) {
                        (None, "") => "no type is named that has one (--type)".to_owned(),
                        (None, blob_type) => format!("the type {blob_type:?} has none"),
                        (Some(entity), _) => format!("{:?} declares none", entity.name),
                    },
                });
            }
            Source::Csv { columns: Some(columns), delimiter }
        }
    };
    Ok(DecodeOptions { charset, limits: limits.clone(), ..DecodeOptions::new(source) })
}

/// Compares the file with what its message announced, before its last rows are applied.
///
/// # Errors
/// [`RowsError::Differs`].
pub(crate) fn check_figures(blob: &str, extras: &Extras, stats: &FileStats) -> Result<(), RowsError> {
    let differs = |what, announced: String, found: String| {
        Err(RowsError::Differs { blob: blob.to_owned(), what, announced, found })
    };
    if let Some(announced) = extras.plain_bytes
        && announced != stats.plain_bytes
    {
        return differs("its plain length", announced.to_string(), stats.plain_bytes.to_string());
    }
    if let Some(announced) = extras.rows
        && announced != stats.rows
    {
        return differs("its number of rows", announced.to_string(), stats.rows.to_string());
    }
    if let (Some(announced), Some(found)) = (&extras.plain_sha256, &stats.plain_sha256) {
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        if !announced.eq_ignore_ascii_case(&found) {
            return differs("the SHA-256 of its plain bytes", announced.clone(), found);
        }
    }
    Ok(())
}

/// How a file is decoded.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// From its begin to its end.
    InOneGo,
    /// By segments, if the file of so many stored bytes has any.
    BySegments(u64),
    /// From a checkpoint on.
    From(Checkpoint),
}

/// What decoding came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// The file's end, the end of a download that was cut, or nobody takes the groups any more.
    Over,
    /// The index of the file's segments or the checkpoint cannot be right, or something in the file is wrong. The rows up to
    /// this one were handed on: the file is to be read again in one go, from the next one on.
    Doubt {
        /// Number of the last row that was handed on.
        to: u64,
    },
}

/// Decodes what comes through `chunks` and hands on groups of the rows that are wanted.
///
/// # Errors
/// What the decoder found; the full groups before it have been handed on.
pub(crate) async fn decode(
    options: DecodeOptions,
    way: Way,
    grouping: Grouping,
    pool: Pool,
    mut chunks: mpsc::Receiver<Chunk>,
    groups: mpsc::Sender<Group>,
) -> Result<Decoded, DecodeError> {
    let decoder = match &way {
        Way::From(checkpoint) => RowDecoder::go_on(options.clone(), checkpoint),
        Way::InOneGo | Way::BySegments(_) => RowDecoder::new(options.clone()),
    };
    let mut looked_at = Vec::new();
    if let Way::BySegments(length) = way {
        let segments = SegmentDecoder::new(options, length);
        match segments::decode(segments, grouping.clone(), &pool, &mut chunks, &groups).await {
            Segments::Over => return Ok(Decoded::Over),
            Segments::Doubt { to } => return Ok(Decoded::Doubt { to }),
            Segments::Ordinary { fed, ended } => {
                looked_at.extend(fed.into_iter().map(Chunk::Bytes));
                looked_at.extend(ended.then_some(Chunk::End));
            }
        }
    }
    let is_gone_on_with = matches!(way, Way::From(_));
    let reading = Reading::new(decoder, grouping, is_gone_on_with, pool, groups);
    on_a_thread("waybill-rows", move || reading.work(looked_at, chunks)).await.unwrap_or(Ok(Decoded::Over))
}

/// Batches on their way into groups.
#[derive(Debug, Clone)]
pub(crate) struct Grouping {
    group: Group,
    from: u64,
    limits: GroupLimits,
}

impl Grouping {
    /// Groups of the rows after `from`.
    pub(crate) fn new(from: u64, limits: GroupLimits) -> Self {
        Self { group: Group::default(), from, limits }
    }

    /// Whether the group is full now.
    fn add(&mut self, batch: &RowBatch) -> bool {
        let Some(batch) = batch.after(self.from) else { return false };
        self.group.to = batch.last_row();
        self.group.rows += (batch.len() + batch.bad().len()) as u64;
        self.group.bytes += batch.size();
        self.group.batches.push(batch);
        self.group.rows >= self.limits.rows_max || self.group.bytes >= self.limits.bytes_max
    }

    /// All batches of the rows before the checkpoint were added.
    fn passed(&mut self, checkpoint: Option<Checkpoint>) {
        self.group.checkpoint = checkpoint.or(self.group.checkpoint.take());
    }

    /// The last group is complete.
    fn end(&mut self, stats: FileStats) {
        self.group.to = self.group.to.max(stats.rows);
        self.group.end = Some(stats);
    }

    fn take(&mut self) -> Group {
        let next = Group { to: self.group.to, ..Group::default() };
        std::mem::replace(&mut self.group, next)
    }
}
