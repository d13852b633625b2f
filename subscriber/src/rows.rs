//! Chunks of a blob to groups of rows, each as large as one commit of the sink should be.
//!
//! Decoding is work for a processor, so it runs on the blocking pool, a chunk at a time, and no more chunks at once than
//! there are permits. The queues on both sides hold a fixed number of pieces: memory does not grow with the file.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc};
use waybill_contracts::{Entity, Extras, Format, HeaderRow, Media, MediaError, Reason};
use waybill_formats::{Charset, DecodeError, DecodeOptions, FileStats, Limits, RowBatch, RowDecoder, Source, Step};

use crate::Verdict;

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
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// In the file's order.
    pub(crate) batches: Vec<RowBatch>,
    /// The number of the last row, good or bad.
    pub(crate) to: u64,
    /// Good and bad rows.
    pub(crate) rows: u64,
    /// The file ends here.
    pub(crate) end: Option<FileStats>,
    bytes: usize,
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
            Self::Unsupported { .. } => Reason::UnsupportedFormat,
            Self::Decode { source, .. } => source.reason,
            Self::Differs { .. } => Reason::HashMismatch,
        })
    }
}

/// How to decode a file of this media; `entity` gives the columns of a CSV without header.
///
/// # Errors
/// [`RowsError::Unsupported`].
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
                let what = format!("a CSV without header of type {blob_type:?}, whose entity declares no columns,");
                return Err(RowsError::Unsupported { what });
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

/// Decodes what comes through `chunks` and hands on groups of the rows after `from`. Returns at the file's end, when the
/// download was cut, or when nobody takes the groups any more.
///
/// # Errors
/// What the decoder found; the full groups before it have been handed on.
pub(crate) async fn decode(
    options: DecodeOptions,
    from: u64,
    limits: GroupLimits,
    cpu: Arc<Semaphore>,
    mut chunks: mpsc::Receiver<Chunk>,
    groups: mpsc::Sender<Group>,
) -> Result<(), DecodeError> {
    let mut state = Decoding { decoder: RowDecoder::new(options), group: Group::default(), from, limits };
    loop {
        let Some(chunk) = chunks.recv().await else { return Ok(()) };
        let permit = Arc::clone(&cpu).acquire_owned().await.expect("the pool is never closed");
        state.feed(chunk);
        // What has arrived meanwhile goes along: fewer changes of thread, and no more than the queue holds.
        while let Ok(chunk) = chunks.try_recv() {
            state.feed(chunk);
        }
        // The decoder may have many groups in what it was fed; each leaves before the next is made.
        let mut permit = Some(permit);
        loop {
            let held = match permit.take() {
                Some(permit) => permit,
                None => Arc::clone(&cpu).acquire_owned().await.expect("the pool is never closed"),
            };
            let (back, stop) = tokio::task::spawn_blocking(move || {
                let _held = held;
                let stop = state.fill();
                (state, stop)
            })
            .await
            .expect("the decoder does not panic");
            state = back;
            match stop {
                Fill::NeedInput => break,
                Fill::Full => {
                    if groups.send(state.take_group()).await.is_err() {
                        return Ok(());
                    }
                }
                Fill::Done => {
                    // An error here means that the sink failed and will say so itself.
                    let _nobody_listens = groups.send(state.take_group()).await;
                    return Ok(());
                }
                // The unfinished group goes nowhere: what is wrong with the file may be wrong with these rows already, as
                // when a turned bit made one number another and only the checksum tells.
                Fill::Failed(error) => return Err(error),
            }
        }
    }
}

struct Decoding {
    decoder: RowDecoder,
    group: Group,
    from: u64,
    limits: GroupLimits,
}

enum Fill {
    NeedInput,
    Full,
    Done,
    Failed(DecodeError),
}

impl Decoding {
    fn feed(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Bytes(bytes) => self.decoder.feed(bytes),
            Chunk::End => self.decoder.end(),
        }
    }

    /// Works until the group is full, the input used up, or the file done.
    fn fill(&mut self) -> Fill {
        loop {
            match self.decoder.next() {
                Ok(Step::NeedInput) => return Fill::NeedInput,
                Ok(Step::Done(stats)) => {
                    self.group.to = self.group.to.max(stats.rows);
                    self.group.end = Some(stats);
                    return Fill::Done;
                }
                Ok(Step::Batch(batch)) => {
                    let Some(batch) = batch.after(self.from) else { continue };
                    self.group.to = batch.last_row();
                    self.group.rows += (batch.len() + batch.bad().len()) as u64;
                    self.group.bytes += batch.size();
                    self.group.batches.push(batch);
                    if self.group.rows >= self.limits.rows_max || self.group.bytes >= self.limits.bytes_max {
                        return Fill::Full;
                    }
                }
                Err(error) => return Fill::Failed(error),
            }
        }
    }

    fn take_group(&mut self) -> Group {
        let next = Group { to: self.group.to, ..Group::default() };
        std::mem::replace(&mut self.group, next)
    }
}
