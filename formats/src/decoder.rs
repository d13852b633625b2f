//! Bytes fed in, batches of rows out. Undoes gzip (one member or many, or none: magic bytes decide), makes UTF-8 of other
//! charsets, frames rows, validates each.
//!
//! Plain bytes are inflated straight into the batch that they become part of; of each batch only the incomplete row at
//! its end is copied, to the next one. A batch is handed out when the next row would pass one of its limits, and at the
//! file's end: so a small file is one batch however it comes, and where batches are cut depends on the bytes and the
//! options alone. A caller that will wait long for more bytes calls [`RowDecoder::flush`] to get what is complete.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use waybill_contracts::{Format, Reason};

use crate::{
    Charset, RowBatch,
    batch::Growing,
    charset::{self, Look, Transcoder},
    csv::{Columns, Csv},
    gzip::reader::{Filled, Unpacker},
    json_document::JsonDocument,
    jsonl::JsonLines,
    row::Layout,
    seek::Checkpoint,
    unpack::{Input, Unpacked, Unpacking},
    xml::{XmlDocument, XmlLines},
};

/// The rows' layout in the plain bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A JSON object per line.
    JsonLines,
    /// An array of objects, or one object. What is no JSON ends the file there (`malformed-file`); an element that is JSON
    /// and no row is a bad row.
    Json,
    /// RFC 4180: fields in quotes may hold line breaks and, doubled, quotes. A bare empty field is null, a
    /// quoted one is the text "". A blank line is no row, except in a file of one column: there its field is null.
    Csv {
        /// Names when the file has no header row; `None`: the first row is names. They are distinct and not empty,
        /// else the file is refused as `malformed-file`.
        columns: Option<Vec<String>>,
        /// ASCII, neither a quote nor a line end; usually `,`.
        delimiter: u8,
    },
    /// An XML 1.0 document without DOCTYPE, well-formed as that and by Namespaces in XML 1.0; what is not ends the file
    /// there (`malformed-file`).
    Xml {
        /// The local name of the elements that are rows, wherever they are; within a row it means nothing. `None`: the
        /// children of the document's element are rows, whatever their names.
        row: Option<String>,
    },
    /// An XML element per line.
    XmlLines,
}

impl Source {
    /// How a format is read when nothing more is said about a file.
    #[must_use]
    pub fn of(format: Format) -> Self {
        match format {
            Format::JsonLines => Self::JsonLines,
            Format::Json => Self::Json,
            Format::Csv => Self::Csv { columns: None, delimiter: b',' },
            Format::Xml => Self::Xml { row: None },
            Format::XmlLines => Self::XmlLines,
        }
    }

    fn look(&self) -> Look {
        match self {
            Self::Csv { .. } => Look::Mark,
            Self::JsonLines | Self::Json => Look::Zeros,
            Self::Xml { .. } | Self::XmlLines => Look::Xml,
        }
    }
}

/// What a file may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a row without its line end; default 16 MiB, at most 1 GiB. A longer row is a bad row, of which only the
    /// first 64 KiB are kept. (A CSV row that holds a line break within quotes besides is `malformed-file`: it may be
    /// many rows that lack a quote.)
    pub row_bytes_max: usize,
    /// Levels of objects and arrays in a JSON row, or of elements in an XML row, with the row's own; default 128, in XML
    /// at most 256. A deeper row is a bad row.
    pub nesting_max: usize,
    /// Columns that a CSV header may name; fields of a JSON or XML row, beyond which it is a bad row; default 4,096.
    pub columns_max: usize,
    /// Plain bytes of the file; default 1 TiB.
    pub plain_bytes_max: u64,
    /// Plain bytes per compressed byte (checked beyond the first plain MiB); default 1,000. Deflate can reach 1,032.
    pub ratio_max: u64,
}

impl Limits {
    /// Places in a batch are 31 bits.
    pub(crate) fn row_bytes_max(&self) -> usize {
        self.row_bytes_max.min(1 << 30)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { row_bytes_max: 16 << 20, nesting_max: 128, columns_max: 4096, plain_bytes_max: 1 << 40, ratio_max: 1000 }
    }
}

/// How to decode.
#[derive(Debug, Clone)]
pub struct DecodeOptions {
    /// The layout.
    pub source: Source,
    /// The charset that the file is said to be in; a byte order mark counts more. `None` (the default): by the byte order
    /// mark, or for XML by its declaration, else UTF-8.
    pub charset: Option<Charset>,
    /// The limits.
    pub limits: Limits,
    /// Plain bytes per batch at most; default 1 MiB, at most 512 MiB. A longer row is a batch of its own.
    pub batch_bytes: usize,
    /// Rows per batch at most, good and bad; default 10,000.
    pub batch_rows: usize,
    /// Compute SHA-256 of the plain bytes; default false.
    pub hash_plain: bool,
}

impl DecodeOptions {
    /// The defaults for a layout.
    #[must_use]
    pub fn new(source: Source) -> Self {
        let limits = Limits::default();
        Self { source, charset: None, limits, batch_bytes: 1 << 20, batch_rows: 10_000, hash_plain: false }
    }
}

/// Bytes fed in, batches out. `Send + 'static`; holds at most what was fed, inflate's window and one batch.
#[derive(Debug)]
pub struct RowDecoder {
    input: Input,
    batch: Growing,
    framer: Framer,
    begin: Begin,
    look: Look,
    charset: Option<Charset>,
    transcoder: Option<Box<Recoding>>,
    plain_bytes: u64,
    plain_sha256: Option<Sha256>,
    limits: Limits,
    bad_rows: u64,
    flush: bool,
    phase: Phase,
}

/// Whether charset and byte order mark have been looked for.
#[derive(Debug, PartialEq, Eq)]
enum Begin {
    Unseen,
    /// The charset is known, the mark is passed over when it is there as a character.
    Mark,
    Seen,
}

/// What makes UTF-8 of another charset, and the plain bytes that it is fed with.
#[derive(Debug)]
struct Recoding {
    transcoder: Transcoder,
    plain: Vec<u8>,
}

/// Plain bytes of another charset that are taken at once.
const RECODED_AT_ONCE: usize = 32 << 10;

#[derive(Debug)]
enum Phase {
    Reading,
    /// The plain bytes are complete.
    Ended,
    /// No more plain bytes come; rows that are complete still do.
    Broken(Broken),
    Failed(DecodeError),
}

/// Why reading cannot go on.
#[derive(Debug, Clone)]
pub(crate) struct Broken {
    /// Where in the text; `None`: where the row begins.
    pub(crate) at: Option<usize>,
    pub(crate) reason: Reason,
    pub(crate) problem: String,
}

impl Broken {
    pub(crate) fn at_row(reason: Reason, problem: impl Into<String>) -> Self {
        Self { at: None, reason, problem: problem.into() }
    }
}

#[derive(Debug)]
enum Framer {
    JsonLines(JsonLines),
    Json(JsonDocument),
    Csv(Csv),
    Xml(Box<XmlDocument>),
    XmlLines(Box<XmlLines>),
    /// The options cannot be used.
    Refused,
}

/// What [`RowDecoder::next`] came to.
#[derive(Debug)]
pub enum Step {
    /// Rows: at least one, good or bad.
    Batch(RowBatch),
    /// Feed more, or say that it ends.
    NeedInput,
    /// The end, everything checked. Afterwards the same again.
    Done(FileStats),
}

/// What the whole file was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStats {
    /// Rows, good and bad.
    pub rows: u64,
    /// Bad ones among them.
    pub bad_rows: u64,
    /// Bytes fed.
    pub stored_bytes: u64,
    /// Bytes after unpacking.
    pub plain_bytes: u64,
    /// SHA-256 of the plain bytes, if asked for.
    pub plain_sha256: Option<[u8; 32]>,
    /// Whether the bytes were gzip.
    pub gzip: bool,
}

/// The file as a whole cannot be read on. Rows that came out before match the format; with `corrupt-gzip` their bytes
/// may still be other than those written, because a member's checksum comes after its rows.
#[derive(Debug, Clone, thiserror::Error)]
#[error("row {row}, byte {offset}: {problem}")]
pub struct DecodeError {
    /// For the inbox: `corrupt-gzip`, `truncated-file`, `too-large`, `malformed-file`, `unsupported-format`.
    pub reason: Reason,
    /// The row (1-based) that was being read.
    pub row: u64,
    /// Where that row begins, in plain bytes from the file's begin; where JSON or XML is malformed, the very byte.
    pub offset: u64,
    pub(crate) problem: String,
}

impl DecodeError {
    /// What is wrong, without the place.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

impl RowDecoder {
    /// Begins a file.
    #[must_use]
    pub fn new(options: DecodeOptions) -> Self {
        let batch = Growing::new(&options);
        let look = options.source.look();
        let limits = options.limits;
        let (framer, phase) = match options.source {
            Source::JsonLines => (Framer::JsonLines(JsonLines::new(&limits)), Phase::Reading),
            Source::Json => (Framer::Json(JsonDocument::new(&limits)), Phase::Reading),
            Source::Xml { row } => (Framer::Xml(Box::new(XmlDocument::new(row, &limits))), Phase::Reading),
            Source::XmlLines => (Framer::XmlLines(Box::new(XmlLines::new(&limits))), Phase::Reading),
            Source::Csv { columns, delimiter } => match Csv::new(columns, delimiter, &limits) {
                Ok(csv) => (Framer::Csv(csv), Phase::Reading),
                Err(broken) => (Framer::Refused, Phase::Broken(broken)),
            },
        };
        Self {
            input: Input::new(Unpacker::new()),
            batch,
            framer,
            begin: Begin::Unseen,
            look,
            charset: options.charset,
            transcoder: None,
            plain_bytes: 0,
            plain_sha256: options.hash_plain.then(Sha256::new),
            limits,
            bad_rows: 0,
            flush: false,
            phase,
        }
    }

    /// Begins with the plain bytes of a segment, all of which are there. The file's first one begins like a file; columns are
    /// those of its header row.
    pub(crate) fn of_segment(
        options: DecodeOptions,
        plain: Vec<u8>,
        is_first: bool,
        columns: Option<Arc<Columns>>,
    ) -> Self {
        let known_from_outside = options.charset.is_some();
        let mut this = Self::new(options);
        this.input = Input::new(Unpacker::of_nothing());
        this.plain_bytes = plain.len() as u64;
        this.batch.wrote(plain.len());
        this.batch.text = plain;
        if !is_first {
            this.begin_at_a_row(columns, known_from_outside);
        }
        this
    }

    /// Goes on with a file at a checkpoint: to be fed with the stored bytes from there on. Statistics are of the whole file,
    /// whose checksum and length are compared as always; there is no hash. Should a later segment refer to bytes before the
    /// checkpoint, it ends in an error, although the file may be read from its begin.
    #[must_use]
    pub fn go_on(options: DecodeOptions, checkpoint: &Checkpoint) -> Self {
        let known_from_outside = options.charset.is_some();
        let mut this = Self::new(DecodeOptions { hash_plain: false, ..options });
        let &Checkpoint { stored, plain, rows, bad_rows, crc, ref columns } = checkpoint;
        this.input = Input::new(Unpacker::within_a_member(stored, plain, crc));
        this.batch.go_on(rows, plain);
        (this.plain_bytes, this.bad_rows) = (plain, bad_rows);
        match columns.clone().map(Columns::new).transpose() {
            Ok(columns) => this.begin_at_a_row(columns.map(Arc::new), known_from_outside),
            Err(problem) => this.phase = Phase::Broken(Broken::at_row(Reason::MalformedFile, problem)),
        }
        this
    }

    /// In UTF-8, after what may stand at a file's begin only.
    fn begin_at_a_row(&mut self, columns: Option<Arc<Columns>>, known_from_outside: bool) {
        self.begin = Begin::Seen;
        match &mut self.framer {
            Framer::XmlLines(lines) => lines.goes_on(Charset::UTF_8, known_from_outside),
            Framer::Csv(csv) => csv.goes_on(columns),
            _ => {}
        }
    }

    /// Whether no part of a row is left, and the text is UTF-8 as it stands.
    pub(crate) fn is_between_rows(&self) -> bool {
        self.begin == Begin::Seen && self.transcoder.is_none() && self.batch.is_between_rows()
    }

    /// Whether the plain bytes are in another charset than UTF-8: then places in batches are not theirs. Known with the first
    /// batch.
    #[must_use]
    pub fn is_of_another_charset(&self) -> bool {
        self.transcoder.is_some()
    }

    /// Of a CSV.
    pub(crate) fn columns(&self) -> Option<Arc<Columns>> {
        match &self.framer {
            Framer::Csv(csv) => csv.columns(),
            _ => None,
        }
    }

    /// Hands over the next bytes, without copying them. Call [`RowDecoder::next`] until it needs input before feeding
    /// more: what is fed earlier is kept until then.
    ///
    /// # Panics
    /// After [`RowDecoder::end`], and when the bytes are [unpacked elsewhere](RowDecoder::unpacked_elsewhere).
    pub fn feed(&mut self, input: Bytes) {
        let unpacker = self.input.stored();
        assert!(!unpacker.has_ended(), "bytes were fed after the end");
        unpacker.feed(input);
    }

    /// Gives away the half that undoes gzip, with what was fed and not used, so that it can be worked on another thread: from
    /// now on stored bytes are fed to it, and what it makes of them is [handed](RowDecoder::hand) back. What comes out is the
    /// same.
    ///
    /// # Panics
    /// When it was given away before.
    pub fn unpacked_elsewhere(&mut self) -> Unpacking {
        self.input.give()
    }

    /// Takes the next piece of what is unpacked elsewhere. As with [`RowDecoder::feed`], call [`RowDecoder::next`] until it
    /// needs input before the next one.
    ///
    /// # Panics
    /// When nothing is unpacked elsewhere.
    pub fn hand(&mut self, piece: Unpacked) {
        self.input.hand(piece);
    }

    /// Says that no more bytes come.
    ///
    /// # Panics
    /// When the bytes are unpacked elsewhere.
    pub fn end(&mut self) {
        self.input.stored().end();
    }

    /// Asks for what is complete once the bytes that were fed are used up, although the batch is not full: for a caller
    /// that will wait long for more bytes. Holds until the next [`Step::NeedInput`].
    pub fn flush(&mut self) {
        self.flush = true;
    }

    /// Works on until a batch is full, the input is used up, or the file is done.
    ///
    /// # Errors
    /// [`DecodeError`]; afterwards the same error again. Rows read before it are handed out first.
    #[allow(clippy::should_implement_trait, reason = "it is a step of a state machine, not an iterator")]
    pub fn next(&mut self) -> Result<Step, DecodeError> {
        loop {
            self.frame();
            if self.batch.is_full() || self.batch.must_go_first() {
                return Ok(Step::Batch(self.take_batch()));
            }
            match &self.phase {
                Phase::Reading => {}
                _ if !self.batch.is_empty() => return Ok(Step::Batch(self.take_batch())),
                Phase::Ended => return Ok(Step::Done(self.stats())),
                Phase::Broken(broken) => self.phase = Phase::Failed(self.error(broken.clone())),
                Phase::Failed(error) => return Err(error.clone()),
            }
            if !matches!(self.phase, Phase::Reading) {
                continue;
            }
            match self.fill() {
                Ok(Filled::Some) => {}
                Ok(Filled::NeedInput) => {
                    if self.flush && !self.batch.is_empty() {
                        return Ok(Step::Batch(self.take_batch()));
                    }
                    self.flush = false;
                    return Ok(Step::NeedInput);
                }
                Ok(Filled::End) => self.end_of_text(),
                Err(broken) => self.phase = Phase::Broken(broken),
            }
        }
    }

    /// Frames the rows that are complete, as far as they fit.
    fn frame(&mut self) {
        let last = match self.phase {
            Phase::Reading | Phase::Broken(_) => false,
            Phase::Ended => true,
            Phase::Failed(_) => return,
        };
        if self.begin != Begin::Seen && !self.begin_text(last) {
            return;
        }
        while !self.batch.is_full() {
            let framed = match &mut self.framer {
                Framer::JsonLines(lines) => Ok(lines.next_row(&mut self.batch, last)),
                Framer::Json(document) => document.next_row(&mut self.batch, last),
                Framer::Csv(csv) => csv.next_row(&mut self.batch, last),
                Framer::Xml(document) => document.next_row(&mut self.batch, last),
                Framer::XmlLines(lines) => Ok(lines.next_row(&mut self.batch, last)),
                Framer::Refused => Ok(false),
            };
            match framed {
                Ok(true) => {}
                Ok(false) => break,
                Err(broken) => {
                    self.phase = Phase::Failed(self.error(broken));
                    break;
                }
            }
        }
    }

    /// Finds out the charset, and passes over a byte order mark. `false`: there is too little of the file.
    fn begin_text(&mut self, last: bool) -> bool {
        const MARK: &[u8] = b"\xef\xbb\xbf";
        if self.begin == Begin::Unseen {
            match charset::begin(&self.batch.text, self.charset, self.look, last) {
                charset::Begin::More => return false,
                charset::Begin::Refused(problem) => {
                    self.phase = Phase::Failed(self.error(Broken::at_row(Reason::UnsupportedFormat, problem)));
                    return false;
                }
                charset::Begin::Is(charset) => {
                    if !charset.is_utf8() {
                        let plain = std::mem::take(&mut self.batch.text);
                        self.batch.is_transcoded(charset);
                        let mut transcoder = Transcoder::new(charset);
                        transcoder.decode(&plain, &mut self.batch.text);
                        if last {
                            transcoder.finish(&mut self.batch.text);
                        }
                        self.batch.wrote(self.batch.text.len());
                        self.transcoder = Some(Box::new(Recoding { transcoder, plain: Vec::new() }));
                    }
                    // Somebody outside of the file knows it better than the file.
                    let known_from_outside = self.charset.is_some();
                    if let (Framer::Xml(document), false) = (&mut self.framer, known_from_outside) {
                        document.is_in(charset);
                    }
                    if let (Framer::XmlLines(lines), false) = (&mut self.framer, known_from_outside) {
                        lines.is_in(charset);
                    }
                    self.begin = Begin::Mark;
                }
            }
        }
        let text = &self.batch.text;
        if text.len() < MARK.len() && MARK.starts_with(text) && !last {
            return false;
        }
        if text.starts_with(MARK) {
            self.batch.pass(MARK.len());
        }
        self.begin = Begin::Seen;
        true
    }

    /// The plain bytes are complete.
    fn end_of_text(&mut self) {
        if let Some(recoding) = &mut self.transcoder {
            let before = self.batch.text.len();
            recoding.transcoder.finish(&mut self.batch.text);
            self.batch.wrote(self.batch.text.len() - before);
        }
        self.phase = Phase::Ended;
    }

    /// Unpacks more plain bytes to the end of the batch.
    fn fill(&mut self) -> Result<Filled, Broken> {
        if self.batch.make_room(self.input.expected()) {
            self.restart();
        }
        let text_before = self.batch.text.len();
        // Mostly the file's bytes are the text.
        let (plain, before) = match &mut self.transcoder {
            None => (&mut self.batch.text, text_before),
            Some(recoding) => {
                recoding.plain.clear();
                recoding.plain.reserve_exact(RECODED_AT_ONCE);
                (&mut recoding.plain, 0)
            }
        };
        let filled = self.input.fill(plain);
        // A file that goes on at a checkpoint may be past a limit that was lowered since.
        let allowed = self.limits.plain_bytes_max.saturating_sub(self.plain_bytes);
        let wrote = plain.len() - before;
        let over = wrote as u64 > allowed;
        let wrote = if over { usize::try_from(allowed).expect("less than was written") } else { wrote };
        plain.truncate(before + wrote);
        self.plain_bytes += wrote as u64;
        if let Some(hash) = &mut self.plain_sha256 {
            hash.update(&plain[before..]);
        }
        if let Some(recoding) = &mut self.transcoder {
            recoding.transcoder.decode(&recoding.plain, &mut self.batch.text);
        }
        self.batch.wrote(self.batch.text.len() - text_before);
        let too_large = |problem: String| Err(Broken::at_row(Reason::TooLarge, problem));
        if over {
            let limit = self.limits.plain_bytes_max;
            return too_large(format!("the file is larger than the limit of {limit} plain bytes (plain_bytes_max)"));
        }
        let (plain, stored) = (self.plain_bytes, self.input.read());
        if self.input.is_gzip() && plain > (1 << 20) && plain > stored.saturating_mul(self.limits.ratio_max) {
            let limit = self.limits.ratio_max;
            return too_large(format!(
                "{stored} stored bytes became {plain} plain ones, over the limit of {limit} for each (ratio_max)"
            ));
        }
        filled
    }

    fn restart(&mut self) {
        match &mut self.framer {
            Framer::JsonLines(lines) => lines.restart(),
            Framer::Csv(csv) => csv.restart(&self.batch),
            Framer::XmlLines(lines) => lines.restart(),
            // Their places are counted from where the row begins.
            Framer::Json(_) | Framer::Xml(_) => {}
            Framer::Refused => {}
        }
    }

    fn take_batch(&mut self) -> RowBatch {
        let layout: Layout = match &mut self.framer {
            Framer::JsonLines(lines) => lines.take_layout(),
            Framer::Json(document) => document.take_layout(),
            Framer::Csv(csv) => csv.take_layout(),
            Framer::Xml(document) => document.take_layout(),
            Framer::XmlLines(lines) => lines.take_layout(),
            Framer::Refused => unreachable!("rows come from a framer"),
        };
        let batch = self.batch.take(layout);
        self.bad_rows += batch.bad().len() as u64;
        self.restart();
        batch
    }

    /// Bytes held besides what was fed.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let table = match &self.framer {
            Framer::JsonLines(lines) => lines.held(),
            Framer::Json(document) => document.held(),
            Framer::Csv(csv) => csv.held(),
            Framer::Xml(document) => document.held(),
            Framer::XmlLines(lines) => lines.held(),
            Framer::Refused => 0,
        };
        let recoded = self.transcoder.as_ref().map_or(0, |recoding| recoding.plain.capacity());
        self.batch.held() + table + recoded
    }

    fn error(&self, broken: Broken) -> DecodeError {
        let Broken { at, reason, problem } = broken;
        let offset = at.map_or_else(|| self.batch.offset(), |at| self.batch.offset_of(at));
        DecodeError { reason, row: self.batch.row(), offset, problem }
    }

    fn stats(&self) -> FileStats {
        FileStats {
            rows: self.batch.row() - 1,
            bad_rows: self.bad_rows,
            stored_bytes: self.input.read(),
            plain_bytes: self.plain_bytes,
            plain_sha256: self.plain_sha256.clone().map(|hash| hash.finalize().into()),
            gzip: self.input.is_gzip(),
        }
    }
}
