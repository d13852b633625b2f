//! A batch of raw rows: one buffer, a span per row, and the layout that says how to read them.

use std::{borrow::Cow, collections::HashSet, fmt, mem::size_of, ops::Range, sync::Arc};

use bytes::Bytes;
use faststr::FastStr;

use crate::{
    Field, FieldPath,
    csv::{self, Columns},
    json::{self, FieldSpan},
    xml::{XmlRow, XmlTable},
};

/// Rows as they stand in the file. A row costs no allocation, a clone of the batch neither: clones share the rows.
#[derive(Clone)]
pub struct RowBatch {
    rows: Range<usize>,
    bad: Range<usize>,
    first_row: u64,
    inner: Arc<Inner>,
}

/// One row, borrowed from its batch.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    inner: &'a Inner,
    index: usize,
}

/// A row that does not match its format; kept with its error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// 1-based, counting every row of the file, good or bad; a CSV header is not a row.
    pub row: u64,
    /// Where the row begins, in plain bytes from the file's begin.
    pub offset: u64,
    /// What is wrong, and where within the row (0-based, in bytes of its UTF-8).
    pub problem: String,
    /// The raw bytes, cut at 64 KiB. Of a file in another charset their UTF-8, with 0xFF or a lone surrogate where there is
    /// no character.
    pub bytes: Bytes,
}

struct Inner {
    text: FastStr,
    /// Bytes that it takes.
    text_size: usize,
    layout: Layout,
    rows: Vec<RowSpan>,
    bad: Vec<BadRow>,
    place: Place,
    /// Of rows that are not in the file's order, each one's; else empty.
    numbers: Vec<u64>,
    first_row: u64,
    last_row: u64,
    end_offset: u64,
}

/// Where the good rows begin in the file's plain bytes.
pub(crate) enum Place {
    /// As far from this as in the text, which is a part of those bytes.
    From(u64),
    /// For a file in another charset.
    Each(Vec<u64>),
}

/// How to read the rows, with the table of where their fields lie.
pub(crate) enum Layout {
    Json(Vec<FieldSpan>),
    Csv { columns: Arc<Columns>, ends: Vec<u32> },
    Xml(XmlTable),
}

/// Where a good row lies in the text, where its fields begin in the layout's table, and which it is in the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowSpan {
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) fields: u32,
    pub(crate) number: u32,
}

impl RowBatch {
    pub(crate) fn new(
        text: Vec<u8>,
        layout: Layout,
        rows: Vec<RowSpan>,
        bad: Vec<BadRow>,
        place: Place,
        (first_row, last_row): (u64, u64),
        end_offset: u64,
    ) -> Self {
        let (good, refused) = (0..rows.len(), 0..bad.len());
        let text_size = text.capacity();
        let text = FastStr::from_vec_u8(text).expect("every row was checked, and what is between rows is ASCII");
        let numbers = Vec::new();
        let inner = Inner { text, text_size, layout, rows, bad, place, numbers, first_row, last_row, end_offset };
        Self { rows: good, bad: refused, first_row, inner: Arc::new(inner) }
    }

    /// Rows from anywhere in their file, each with its number and its offset there. `None` when the text is none.
    pub(crate) fn gathered(
        text: Vec<u8>,
        layout: Layout,
        rows: Vec<RowSpan>,
        bad: Vec<BadRow>,
        (numbers, offsets): (Vec<u64>, Vec<u64>),
    ) -> Option<Self> {
        let all = || numbers.iter().copied().chain(bad.iter().map(|bad| bad.row));
        let (first_row, last_row) = (all().min().unwrap_or(1), all().max().unwrap_or(0));
        let (good, refused) = (0..rows.len(), 0..bad.len());
        let text_size = text.capacity();
        let text = FastStr::from_vec_u8(text).ok()?;
        let (place, end_offset) = (Place::Each(offsets), 0);
        let inner = Inner { text, text_size, layout, rows, bad, place, numbers, first_row, last_row, end_offset };
        Some(Self { rows: good, bad: refused, first_row, inner: Arc::new(inner) })
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.inner.layout
    }

    /// Moves the stretch behind `rows` rows and `bytes` plain bytes.
    ///
    /// # Panics
    /// When it is shared.
    pub(crate) fn shift(&mut self, rows: u64, bytes: u64) {
        let inner = Arc::get_mut(&mut self.inner).expect("nobody has it yet");
        self.first_row += rows;
        inner.first_row += rows;
        inner.last_row += rows;
        inner.end_offset += bytes;
        match &mut inner.place {
            Place::From(base) => *base += bytes,
            Place::Each(places) => places.iter_mut().for_each(|place| *place += bytes),
        }
        for bad in &mut inner.bad {
            bad.row += rows;
            bad.offset += bytes;
        }
    }

    /// How many good rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    /// Whether there is no good row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// The good rows in their order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> + '_ {
        (0..self.len()).map(|index| self.row(index))
    }
    /// The good row at `index` (0-based in this batch).
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn row(&self, index: usize) -> Row<'_> {
        assert!(index < self.len(), "row {index} of a batch of {}", self.len());
        Row { inner: &self.inner, index: self.rows.start + index }
    }
    /// The rows of this stretch of the file that do not match its format.
    #[must_use]
    pub fn bad(&self) -> &[BadRow] {
        self.inner.bad.get(self.bad.clone()).unwrap_or_default()
    }
    /// The number (1-based) of the last row of this stretch of the file, good or bad: progress after this batch.
    #[must_use]
    pub fn last_row(&self) -> u64 {
        self.inner.last_row
    }
    /// The number (1-based) of the first row of this stretch, good or bad.
    #[must_use]
    pub fn first_row(&self) -> u64 {
        self.first_row
    }
    /// Where this stretch ends, in plain bytes from the file's begin: behind its last row and that row's line end.
    #[must_use]
    pub fn end_offset(&self) -> u64 {
        self.inner.end_offset
    }
    /// Bytes held: for memory limits. Parts of one batch hold all of it.
    #[must_use]
    pub fn size(&self) -> usize {
        let inner = &*self.inner;
        let fields = match &inner.layout {
            Layout::Json(spans) => spans.capacity() * size_of::<FieldSpan>(),
            Layout::Csv { ends, .. } => ends.capacity() * size_of::<u32>(),
            Layout::Xml(table) => table.size(),
        };
        let places = match &inner.place {
            Place::From(_) => 0,
            Place::Each(places) => places.capacity() * size_of::<u64>(),
        };
        let bad = inner.bad.iter().map(|bad| size_of::<BadRow>() + bad.problem.len() + bad.bytes.len()).sum::<usize>();
        let numbers = inner.numbers.capacity() * size_of::<u64>();
        inner.text_size + inner.rows.capacity() * size_of::<RowSpan>() + fields + places + numbers + bad
    }
    /// The part of this batch after row number `row` (1-based, in the file), to go on where an earlier try stopped;
    /// `None` when nothing is after it. Shares the rows.
    ///
    /// # Panics
    /// When its rows are not in the file's order, and some of them are after it: see [`Gathering`](crate::Gathering).
    #[must_use]
    pub fn after(&self, row: u64) -> Option<Self> {
        if row < self.first_row {
            return Some(self.clone());
        }
        if row >= self.last_row() {
            return None;
        }
        let inner = &self.inner;
        assert!(inner.numbers.is_empty(), "gathered rows are in no order of numbers");
        let good = inner.rows.partition_point(|span| inner.first_row + u64::from(span.number) <= row);
        let bad = inner.bad.partition_point(|bad| bad.row <= row);
        Some(Self { rows: good..self.rows.end, bad: bad..self.bad.end, first_row: row + 1, inner: Arc::clone(inner) })
    }
    /// Leaves the bad rows out: for readers that only count them.
    pub fn forget_bad(&mut self) {
        self.bad = self.bad.end..self.bad.end;
    }
}

/// Its extent, not its rows: they are other people's data.
impl fmt::Debug for RowBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowBatch")
            .field("first_row", &self.first_row())
            .field("last_row", &self.last_row())
            .field("good", &self.len())
            .field("bad", &self.bad.len())
            .field("size", &self.size())
            .finish()
    }
}

/// Its place, not its values: they are other people's data.
impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("number", &self.number()).field("offset", &self.offset()).finish_non_exhaustive()
    }
}

/// How the fields of one row lie.
pub(crate) enum Fields<'a> {
    Json(&'a [FieldSpan]),
    Csv { columns: &'a Columns, start: usize, ends: &'a [u32] },
    Xml(XmlRow<'a>),
}

impl<'a> Row<'a> {
    fn span(&self) -> RowSpan {
        self.inner.rows[self.index]
    }

    pub(crate) fn text(&self) -> &'a str {
        &self.inner.text
    }

    pub(crate) fn raw_text(&self) -> &'a str {
        let span = self.span();
        self.text().get(span.start as usize..span.end as usize).expect("a row begins and ends at characters")
    }

    pub(crate) fn fields(&self) -> Fields<'a> {
        let span = self.span();
        let from = span.fields as usize;
        let to = |end: usize| self.inner.rows.get(self.index + 1).map_or(end, |next| next.fields as usize);
        match &self.inner.layout {
            Layout::Json(spans) => Fields::Json(&spans[from..to(spans.len())]),
            Layout::Xml(table) => Fields::Xml(table.row(self.raw_text(), from, to(table.len()))),
            Layout::Csv { columns, ends } => {
                Fields::Csv { columns, start: span.start as usize, ends: &ends[from..from + columns.len()] }
            }
        }
    }

    pub(crate) fn is_xml(&self) -> bool {
        matches!(self.inner.layout, Layout::Xml(_))
    }

    /// 1-based, in the file.
    #[must_use]
    pub fn number(&self) -> u64 {
        match self.inner.numbers.get(self.index) {
            Some(number) => *number,
            None => self.inner.first_row + u64::from(self.span().number),
        }
    }
    /// Where it begins, in plain bytes from the file's begin.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match &self.inner.place {
            Place::From(base) => base + u64::from(self.span().start),
            Place::Each(places) => places[self.index],
        }
    }
    /// Its bytes, without the line end; in UTF-8, whatever the file's charset.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw_text().as_bytes()
    }
    /// One field. With repeated names the first one wins.
    #[must_use]
    pub fn get(&self, path: &FieldPath) -> Field<'a> {
        match self.fields() {
            Fields::Json(spans) => spans
                .iter()
                .find(|span| span.is_named(self.text(), path.head()))
                .map_or(Field::Missing, |span| self.resolve(*span, path)),
            Fields::Csv { columns, start, ends } => self.cell(columns, start, ends, path, &mut 0),
            Fields::Xml(row) => row.get(path),
        }
    }
    /// Several fields in one pass over the row: `into[i]` becomes the value of `paths[i]` ([`Field::Missing`] if absent).
    /// Quickest when the paths are in the row's order.
    pub fn get_many(&self, paths: &[FieldPath], into: &mut Vec<Field<'a>>) {
        into.clear();
        match self.fields() {
            Fields::Json(_) if paths.len() == 1 => into.extend(paths.iter().map(|path| self.get(path))),
            Fields::Json(spans) => {
                into.resize(paths.len(), Field::Missing);
                for (paths, into) in paths.chunks(64).zip(into.chunks_mut(64)) {
                    self.get_some(spans, paths, into);
                }
            }
            Fields::Xml(row) => {
                into.resize(paths.len(), Field::Missing);
                for (paths, into) in paths.chunks(64).zip(into.chunks_mut(64)) {
                    row.get_some(paths, into);
                }
            }
            Fields::Csv { columns, start, ends } => {
                let mut hint = 0;
                into.extend(paths.iter().map(|path| self.cell(columns, start, ends, path, &mut hint)));
            }
        }
    }

    /// At most 64 paths: `wanted` has a bit for each that was not met yet.
    fn get_some(&self, spans: &[FieldSpan], paths: &[FieldPath], into: &mut [Field<'a>]) {
        let mut wanted = u64::MAX >> (64 - paths.len());
        for span in spans {
            let mut left = wanted;
            while left != 0 {
                let index = left.trailing_zeros() as usize;
                left &= left - 1;
                if span.is_named(self.text(), paths[index].head()) {
                    into[index] = self.resolve(*span, &paths[index]);
                    wanted &= !(1 << index);
                }
            }
            if wanted == 0 {
                break;
            }
        }
    }

    fn resolve(&self, span: FieldSpan, path: &FieldPath) -> Field<'a> {
        if path.rest().is_empty() {
            span.value(self.text())
        } else {
            json::walk(span.raw_value(self.text()), path.rest())
        }
    }

    /// `hint` is the column to look at first; afterwards the one that follows.
    fn cell(&self, columns: &Columns, start: usize, ends: &[u32], path: &FieldPath, hint: &mut usize) -> Field<'a> {
        if !path.rest().is_empty() {
            return Field::Missing;
        }
        match columns.position(path.head(), *hint) {
            Some(index) => {
                *hint = index + 1;
                csv::cell(self.text(), start, ends, index)
            }
            None => Field::Missing,
        }
    }

    /// All top-level fields in the row's order; repeated names only once, the first.
    pub fn for_each(&self, visit: &mut dyn FnMut(Cow<'a, str>, Field<'a>)) {
        match self.fields() {
            Fields::Json(spans) => {
                // Names are compared with those before, and in a row with very many fields remembered.
                let mut seen = (spans.len() > 64).then(HashSet::new);
                for (index, span) in spans.iter().enumerate() {
                    let name = span.name(self.text());
                    let is_first = match &mut seen {
                        Some(seen) => seen.insert(name.clone()),
                        None => !spans[..index].iter().any(|before| before.is_named(self.text(), &name)),
                    };
                    if is_first {
                        visit(name, span.value(self.text()));
                    }
                }
            }
            Fields::Csv { columns, start, ends } => {
                for (index, name) in columns.names().enumerate() {
                    visit(Cow::Borrowed(name), csv::cell(self.text(), start, ends, index));
                }
            }
            Fields::Xml(row) => row.for_each(visit),
        }
    }
    /// All top-level fields as they stand in the row, a repeated name each time: for callers that keep the first one
    /// themselves. Quicker than [`Row::for_each`].
    pub fn for_each_written(&self, visit: &mut dyn FnMut(Cow<'a, str>, Field<'a>)) {
        match self.fields() {
            Fields::Json(spans) => {
                for span in spans {
                    visit(span.name(self.text()), span.value(self.text()));
                }
            }
            Fields::Csv { .. } | Fields::Xml(_) => self.for_each(visit),
        }
    }
    /// The row as one line of JSON, whatever its format: for parking, quarantine and `rows`. JSON is unchanged, but for line
    /// breaks between its tokens; CSV and XML: texts and nulls.
    #[must_use]
    pub fn to_json(&self) -> Cow<'a, str> {
        match self.fields() {
            Fields::Json(_) => json::one_line(self.raw_text()),
            Fields::Xml(row) => {
                let mut json = Vec::with_capacity(self.raw().len());
                row.write_json(&mut json);
                Cow::Owned(String::from_utf8(json).expect("made of texts"))
            }
            Fields::Csv { columns, start, ends } => {
                let mut json = Vec::with_capacity(2 * self.raw().len());
                csv::write_json(self.text(), columns, start, ends, &mut json);
                Cow::Owned(String::from_utf8(json).expect("made of texts"))
            }
        }
    }
}
