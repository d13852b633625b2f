//! A file's segments decoded beside each other: for files whose gzip header has an index, and whose rows can be read from
//! any row on.
//!
//! [`SegmentDecoder`] takes stored bytes and gives jobs, which need nothing else and run wherever there is a free thread; their
//! outcomes come back in the order of the jobs, and become batches, numbered through the file.
//!
//! # Invariants
//! What comes out is what [`RowDecoder`] makes of the same bytes, or [`Doubt`]: the index only says where to cut.
//! 1. A segment is taken if, from an empty window, it inflates to its plain length, ends at a block's end on a byte, and none
//!    of its blocks is final: then the next one begins where it would in the one stream.
//! 2. Its rows are taken if no part of a row is left at its end: then the next one begins with a row.
//! 3. What comes before a doubt is right by 1 and 2. The file's checksum and length are compared at the end, as always.
//!
//! One difference is left: of streams that break RFC 1951's rules for codes `libdeflate` reads some that `zlib` refuses. Such a
//! file, which no packer writes, may be read by segments and be malformed when it is read in one go.

use std::{mem, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    DecodeOptions, FileStats, Limits, RowBatch, RowDecoder, Source, Step,
    csv::Columns,
    gzip::{
        alone::inflate,
        index::{Entry, Index, Look, TAIL_BYTES, look},
    },
};

/// Plain bytes of an entry that one job may hold, besides the tables of its rows. A longer one is of a file of more than 14 GiB,
/// or has very long rows: then the file is read in the ordinary way.
const ENTRY_BYTES_MAX: u64 = 8 << 20;
/// Stored bytes of an entry beyond its plain ones: many short segments may have been merged into it.
const STORED_SLACK: u64 = 64 << 10;
/// Text per batch at least: a segment is one, mostly.
const BATCH_BYTES: usize = 2 << 20;
/// An empty final block.
const FINAL_BLOCK: [u8; 2] = [3, 0];

/// Decodes a file of segments. Holds what was fed and not yet given out as jobs.
#[derive(Debug)]
pub struct SegmentDecoder {
    /// Of each segment's decoder.
    options: DecodeOptions,
    /// Of the whole file.
    limits: Limits,
    /// Stored bytes of the file.
    length: u64,
    /// Stored bytes from `taken` on.
    input: Vec<Bytes>,
    input_bytes: u64,
    state: State,
    /// Jobs that were given out.
    begun: usize,
    /// Outcomes that were taken.
    done: usize,
    so_far: SoFar,
    /// Of a CSV with a header row.
    columns: Option<Arc<Columns>>,
}

#[derive(Debug)]
enum State {
    /// Before the index is complete.
    Begin,
    Segments(Index),
    Done(FileStats),
    Ordinary,
}

/// The file up to the last outcome that was taken.
#[derive(Debug, Clone)]
struct SoFar {
    stored: u64,
    plain: u64,
    rows: u64,
    bad_rows: u64,
    crc: crc32fast::Hasher,
}

/// A place between two segments, everything before which was decoded and found right: [`RowDecoder::go_on`] begins there, in
/// another process too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoint {
    /// Stored bytes before it.
    pub stored: u64,
    /// Plain bytes before it.
    pub plain: u64,
    /// Rows before it, good and bad.
    pub rows: u64,
    /// Bad ones among them.
    pub bad_rows: u64,
    /// CRC-32 of the plain bytes before it.
    pub crc: u32,
    /// Columns of a CSV that has them in its header row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
}

/// What is next.
#[derive(Debug)]
pub enum Part {
    /// Feed more bytes.
    NeedInput,
    /// A job to be run anywhere.
    Job(SegmentJob),
    /// The outcome of a job is needed first.
    NeedRows,
    /// The end, everything checked.
    Done(FileStats),
    /// The file has no index, or none of use here; no job was given out. What was fed is to be fed to a [`RowDecoder`].
    Ordinary(Vec<Bytes>),
}

/// The index, or a segment, is not what it should be, or the file ends in an error. What came before is right. The file is to
/// be read in the ordinary way, from its begin; that tells what is wrong, if anything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doubt;

/// A segment to be inflated and decoded.
#[derive(Debug)]
pub struct SegmentJob {
    options: DecodeOptions,
    entry: Entry,
    stored: Vec<Bytes>,
    is_first: bool,
    is_last: bool,
    columns: Option<Arc<Columns>>,
}

/// A segment's rows, numbered from 1.
#[derive(Debug)]
pub struct SegmentRows {
    outcome: Result<Decoded, Doubt>,
}

#[derive(Debug)]
struct Decoded {
    batches: Vec<RowBatch>,
    rows: u64,
    entry: Entry,
    crc: crc32fast::Hasher,
    columns: Option<Arc<Columns>>,
}

impl SegmentDecoder {
    /// Begins a file of `length` stored bytes.
    #[must_use]
    pub fn new(options: DecodeOptions, length: u64) -> Self {
        let is_line_based = matches!(options.source, Source::JsonLines | Source::XmlLines | Source::Csv { .. });
        let is_utf8 = options.charset.is_none_or(|charset| charset.is_utf8());
        // A hash of the plain bytes wants them in their order.
        let state = if is_line_based && is_utf8 && !options.hash_plain { State::Begin } else { State::Ordinary };
        let batch_bytes = options.batch_bytes.max(BATCH_BYTES);
        let so_far = SoFar { stored: 0, plain: 0, rows: 0, bad_rows: 0, crc: crc32fast::Hasher::new() };
        let limits = options.limits.clone();
        let of_segment = Limits { plain_bytes_max: u64::MAX, ..options.limits };
        Self {
            options: DecodeOptions { batch_bytes, limits: of_segment, ..options },
            limits,
            length,
            input: Vec::new(),
            input_bytes: 0,
            state,
            begun: 0,
            done: 0,
            so_far,
            columns: None,
        }
    }

    /// Hands over the next stored bytes. Call [`SegmentDecoder::next`] until it needs input before feeding more.
    pub fn feed(&mut self, input: Bytes) {
        self.input_bytes += input.len() as u64;
        self.input.push(input);
    }

    /// What is to be done now.
    ///
    /// # Errors
    /// [`Doubt`].
    #[allow(clippy::should_implement_trait, reason = "it is a step of a state machine, not an iterator")]
    pub fn next(&mut self) -> Result<Part, Doubt> {
        loop {
            match &self.state {
                State::Begin => {
                    let first = self.input.concat();
                    match look(&first, self.length) {
                        Look::More if self.input_bytes < self.length => return Ok(Part::NeedInput),
                        Look::Index(index) if self.can_use(&index) => {
                            self.so_far.stored = index.header;
                            self.input = vec![Bytes::from(first)];
                            self.take(index.header);
                            self.state = State::Segments(index);
                        }
                        Look::More | Look::Ordinary | Look::Index(_) => self.state = State::Ordinary,
                    }
                }
                State::Segments(index) => {
                    let Some(&entry) = index.entries.get(self.begun) else { return Ok(Part::NeedRows) };
                    // Without the header row nothing can be read, and it may not be in the first segment.
                    if self.begun > self.done && self.awaits_columns() {
                        return Ok(Part::NeedRows);
                    }
                    let (is_first, is_last) = (self.begun == 0, self.begun + 1 == index.entries.len());
                    let needed = if is_last { entry.stored + TAIL_BYTES } else { entry.stored };
                    if self.input_bytes < needed {
                        return Ok(Part::NeedInput);
                    }
                    self.begun += 1;
                    let stored = self.take(entry.stored);
                    let (options, columns) = (self.options.clone(), self.columns.clone());
                    return Ok(Part::Job(SegmentJob { options, entry, stored, is_first, is_last, columns }));
                }
                State::Done(stats) => return Ok(Part::Done(stats.clone())),
                State::Ordinary => return Ok(Part::Ordinary(mem::take(&mut self.input))),
            }
        }
    }

    /// Takes the outcome of the next job, in the order in which they were given out, and gives its batches: those of the last
    /// one only if the file's checksum and length are right.
    ///
    /// # Errors
    /// [`Doubt`].
    pub fn put(&mut self, rows: SegmentRows) -> Result<Vec<RowBatch>, Doubt> {
        let Decoded { mut batches, rows, entry, crc, columns } = rows.outcome?;
        let so_far = &mut self.so_far;
        for batch in &mut batches {
            batch.shift(so_far.rows, so_far.plain);
        }
        so_far.stored += entry.stored;
        so_far.plain += entry.plain;
        so_far.rows += rows;
        so_far.bad_rows += batches.iter().map(|batch| batch.bad().len() as u64).sum::<u64>();
        so_far.crc.combine(&crc);
        self.columns = self.columns.take().or(columns);
        self.done += 1;
        let (limits, so_far) = (&self.limits, &self.so_far);
        let is_bomb = so_far.plain > 1 << 20 && so_far.plain > so_far.stored.saturating_mul(limits.ratio_max);
        if is_bomb || so_far.plain > limits.plain_bytes_max {
            return Err(Doubt);
        }
        if let State::Segments(index) = &self.state
            && self.done == index.entries.len()
        {
            self.state = State::Done(self.end()?);
        }
        Ok(batches)
    }

    /// Compares the trailer with all that was taken.
    fn end(&mut self) -> Result<FileStats, Doubt> {
        let tail = self.take(TAIL_BYTES).concat();
        let SoFar { plain: plain_bytes, rows, bad_rows, crc, .. } = self.so_far.clone();
        // A member's length is stored modulo 2^32.
        let expected = [&FINAL_BLOCK[..], &crc.finalize().to_le_bytes(), &(plain_bytes as u32).to_le_bytes()].concat();
        let stored_bytes = self.length;
        let stats = FileStats { rows, bad_rows, stored_bytes, plain_bytes, plain_sha256: None, gzip: true };
        if tail == expected { Ok(stats) } else { Err(Doubt) }
    }

    /// Where the file can be gone on with, once the batches that were given are safe.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let State::Segments(_) = &self.state else { return None };
        let SoFar { stored, plain, rows, bad_rows, crc } = self.so_far.clone();
        let columns =
            self.columns.as_ref().filter(|_| matches!(self.options.source, Source::Csv { columns: None, .. }));
        let columns = columns.map(|columns| columns.names().map(str::to_owned).collect());
        (self.done > 0).then(|| Checkpoint { stored, plain, rows, bad_rows, crc: crc.finalize(), columns })
    }

    fn can_use(&self, index: &Index) -> bool {
        let ratio = self.limits.ratio_max;
        let fits = |entry: &Entry| {
            entry.plain <= ENTRY_BYTES_MAX
                // An entry's bytes are held until they are complete; what cannot be packed is stored, hardly longer.
                && entry.stored <= entry.plain + entry.plain / 8 + STORED_SLACK
                && (entry.plain <= 1 << 20 || entry.plain / entry.stored <= ratio)
        };
        // What is special about a file's first bytes has to be in its first segment.
        let begins_with_more_than_a_mark = index.entries.first().is_some_and(|first| first.plain > 3);
        index.rows && index.entries.len() > 1 && begins_with_more_than_a_mark && index.entries.iter().all(fits)
    }

    fn awaits_columns(&self) -> bool {
        matches!(self.options.source, Source::Csv { columns: None, .. }) && self.columns.is_none()
    }

    /// Takes bytes that are there.
    fn take(&mut self, bytes: u64) -> Vec<Bytes> {
        self.input_bytes -= bytes;
        let mut left = usize::try_from(bytes).expect("no more than was fed");
        let mut taken = Vec::new();
        let mut input = mem::take(&mut self.input).into_iter();
        for mut piece in input.by_ref() {
            if piece.len() > left {
                taken.push(piece.split_to(left));
                self.input.push(piece);
                break;
            }
            left -= piece.len();
            taken.push(piece);
        }
        self.input.extend(input);
        taken
    }
}

impl SegmentJob {
    /// Inflates and decodes: milliseconds of work for a processor.
    #[must_use]
    pub fn decode(self) -> SegmentRows {
        SegmentRows { outcome: self.try_decode() }
    }

    fn try_decode(self) -> Result<Decoded, Doubt> {
        let Self { options, entry, stored, is_first, is_last, columns } = self;
        let plain = inflate(&stored, entry).ok_or(Doubt)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&plain);
        let mut decoder = RowDecoder::of_segment(options, plain, is_first, columns);
        if is_last {
            decoder.end();
        }
        let (mut batches, mut rows) = (Vec::new(), 0);
        loop {
            decoder.flush();
            match decoder.next().map_err(|_| Doubt)? {
                Step::Batch(batch) => {
                    rows = batch.last_row();
                    batches.push(batch);
                }
                Step::NeedInput => break,
                Step::Done(stats) => {
                    rows = stats.rows;
                    break;
                }
            }
        }
        if !decoder.is_between_rows() {
            return Err(Doubt);
        }
        Ok(Decoded { batches, rows, entry, crc, columns: decoder.columns() })
    }
}
