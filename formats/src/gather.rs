//! Rows out of their batches, as bytes that can lie in a file meanwhile, and batches of them in another order.
//!
//! A packed row is whole: its number, its offset, its text as it stands, and in CSV and XML where its fields lie, which rows around
//! it may have decided. Fields of JSON are found again, which takes no longer than to note them. What packed rows mean is decided
//! by the file that they are of: see [`Gathering::like`].

use std::{mem, sync::Arc};

use bytes::Bytes;

use crate::{
    BadRow, Row, RowBatch,
    csv::{self, Columns},
    json::{Checker, FieldSpan},
    row::{Fields, Layout, RowSpan},
    varint,
    xml::XmlTable,
};

/// What a packed row begins with.
const GOOD: u8 = 0;
const BAD: u8 = 1;
/// Text in one batch at most: places in it have to fit.
const TEXT_BYTES_MAX: usize = 512 << 20;

/// What should be a packed row is none: the bytes were changed since, or are of another file.
#[derive(Debug, thiserror::Error)]
#[error("not a packed row of this file")]
pub struct NotPacked;

impl Row<'_> {
    /// Appends the row, packed.
    pub fn pack(&self, into: &mut Vec<u8>) {
        into.push(GOOD);
        pack_place(self.number(), self.offset(), self.raw(), into);
        match self.fields() {
            Fields::Json(_) => {}
            Fields::Csv { start, ends, .. } => {
                let (mut before, start) = (0, small(start));
                for end in ends {
                    let (place, is_marked) = csv::end_place(*end, start);
                    pack_step(&mut before, place, is_marked, into);
                }
            }
            Fields::Xml(row) => row.pack(into),
        }
    }
}

impl BadRow {
    /// Appends the row, packed.
    pub fn pack(&self, into: &mut Vec<u8>) {
        into.push(BAD);
        pack_place(self.row, self.offset, &self.bytes, into);
        into.extend_from_slice(self.problem.as_bytes());
    }
}

/// Makes batches of packed rows, in whatever order they come. Their rows keep the numbers and offsets that they have in their
/// file; what these batches say of a stretch ([`RowBatch::end_offset`], [`RowBatch::after`]) is said of none.
#[derive(Debug)]
pub struct Gathering {
    layout: Gathered,
    text: Vec<u8>,
    rows: Vec<RowSpan>,
    numbers: Vec<u64>,
    offsets: Vec<u64>,
    bad: Vec<BadRow>,
    /// What the bad rows take.
    bad_bytes: usize,
    /// Batches that are full.
    done: Vec<RowBatch>,
    done_bytes: usize,
}

#[derive(Debug)]
enum Gathered {
    Json { spans: Vec<FieldSpan>, checker: Checker },
    Csv { columns: Arc<Columns>, ends: Vec<u32> },
    Xml(XmlTable),
}

impl Gathering {
    /// For rows of the file that this batch is of.
    #[must_use]
    pub fn like(batch: &RowBatch) -> Self {
        let layout = match batch.layout() {
            // Limits were kept when the row was read first.
            Layout::Json(_) => {
                Gathered::Json { spans: Vec::new(), checker: Checker::new(usize::MAX, u32::MAX as usize) }
            }
            Layout::Csv { columns, .. } => Gathered::Csv { columns: Arc::clone(columns), ends: Vec::new() },
            Layout::Xml(_) => Gathered::Xml(XmlTable::new()),
        };
        Self::of(layout)
    }

    fn of(layout: Gathered) -> Self {
        Self {
            layout,
            text: Vec::new(),
            rows: Vec::new(),
            numbers: Vec::new(),
            offsets: Vec::new(),
            bad: Vec::new(),
            bad_bytes: 0,
            done: Vec::new(),
            done_bytes: 0,
        }
    }

    /// Adds a row, good or bad. It is taken as it was packed: whoever keeps packed rows anywhere keeps a checksum with them. What was
    /// changed is refused where that is seen; else what is read of it may be anything, or panic.
    ///
    /// # Errors
    /// [`NotPacked`]; then nothing of what was gathered is to be used.
    pub fn add(&mut self, packed: &[u8]) -> Result<(), NotPacked> {
        self.unpack(packed).ok_or(NotPacked)
    }

    fn unpack(&mut self, mut packed: &[u8]) -> Option<()> {
        let from = &mut packed;
        let (&kind, rest) = from.split_first()?;
        *from = rest;
        let (number, offset) = (varint::read(from)?, varint::read(from)?);
        let length = usize::try_from(varint::read(from)?).ok()?;
        let (raw, rest) = from.split_at_checked(length)?;
        match kind {
            GOOD => self.unpack_good(number, offset, raw, rest),
            BAD => {
                let problem = std::str::from_utf8(rest).ok()?.to_owned();
                self.bad_bytes += mem::size_of::<BadRow>() + rest.len() + raw.len();
                self.bad.push(BadRow { row: number, offset, problem, bytes: Bytes::copy_from_slice(raw) });
                Some(())
            }
            _ => None,
        }
    }

    fn unpack_good(&mut self, number: u64, offset: u64, raw: &[u8], mut fields: &[u8]) -> Option<()> {
        if self.text.len() + raw.len() > TEXT_BYTES_MAX {
            self.end_batch()?;
        }
        let start = small(self.text.len());
        self.text.extend_from_slice(raw);
        let end = small(self.text.len());
        let from = &mut fields;
        let mut before = 0;
        let first_field = match &mut self.layout {
            Gathered::Json { spans, checker } => {
                let first = spans.len();
                checker.row(raw, start as usize, spans).ok()?;
                first
            }
            Gathered::Csv { columns, ends } => {
                let first = ends.len();
                for _ in 0..columns.len() {
                    ends.push(csv::end_of_place(unpack_step(&mut before, raw.len(), from)?, start));
                }
                first
            }
            Gathered::Xml(table) => {
                let first = table.len();
                table.unpack(from)?;
                first
            }
        };
        self.rows.push(RowSpan { start, end, fields: small(first_field), number: 0 });
        self.numbers.push(number);
        self.offsets.push(offset);
        Some(())
    }

    /// How many rows were gathered, good and bad, since they were taken last.
    #[must_use]
    pub fn len(&self) -> usize {
        self.done.iter().map(|batch| batch.len() + batch.bad().len()).sum::<usize>() + self.rows.len() + self.bad.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes held, as [`RowBatch::size`] will say.
    #[must_use]
    pub fn size(&self) -> usize {
        let fields = match &self.layout {
            Gathered::Json { spans, .. } => mem::size_of_val(spans.as_slice()),
            Gathered::Csv { ends, .. } => mem::size_of_val(ends.as_slice()),
            Gathered::Xml(table) => table.size(),
        };
        let row = mem::size_of::<RowSpan>() + 2 * mem::size_of::<u64>();
        self.done_bytes + self.text.len() + self.rows.len() * row + fields + self.bad_bytes
    }

    /// What was gathered, in batches.
    ///
    /// # Errors
    /// [`NotPacked`].
    pub fn take(&mut self) -> Result<Vec<RowBatch>, NotPacked> {
        self.end_batch().ok_or(NotPacked)?;
        self.done_bytes = 0;
        Ok(mem::take(&mut self.done))
    }

    fn end_batch(&mut self) -> Option<()> {
        if self.rows.is_empty() && self.bad.is_empty() {
            return Some(());
        }
        // The next batch is about as large.
        let (text, rows) = (room_of(&self.text), room_of(&self.rows));
        let (numbers, offsets) = (room_of(&self.numbers), room_of(&self.offsets));
        let layout = match &mut self.layout {
            Gathered::Json { spans, .. } => {
                let room = room_of(spans);
                Layout::Json(mem::replace(spans, room))
            }
            Gathered::Csv { columns, ends } => {
                let room = room_of(ends);
                Layout::Csv { columns: Arc::clone(columns), ends: mem::replace(ends, room) }
            }
            Gathered::Xml(table) => Layout::Xml(mem::replace(table, XmlTable::new())),
        };
        let batch = RowBatch::gathered(
            mem::replace(&mut self.text, text),
            layout,
            mem::replace(&mut self.rows, rows),
            mem::take(&mut self.bad),
            (mem::replace(&mut self.numbers, numbers), mem::replace(&mut self.offsets, offsets)),
        )?;
        self.bad_bytes = 0;
        self.done_bytes += batch.size();
        self.done.push(batch);
        Some(())
    }
}

fn room_of<T>(before: &[T]) -> Vec<T> {
    Vec::with_capacity(before.len() + before.len() / 32)
}

fn small(place: usize) -> u32 {
    u32::try_from(place).expect("a batch holds less than 1 GiB")
}

fn pack_place(number: u64, offset: u64, raw: &[u8], into: &mut Vec<u8>) {
    varint::write(number, into);
    varint::write(offset, into);
    varint::write(raw.len() as u64, into);
    into.extend_from_slice(raw);
}

/// A place that is not before the last one, as the way from there: mostly one byte.
fn pack_step(before: &mut u32, place: u32, is_marked: bool, into: &mut Vec<u8>) {
    varint::write(u64::from(place - *before) << 1 | u64::from(is_marked), into);
    *before = place;
}

/// A place within a row of `length` bytes.
fn unpack_step(before: &mut u32, length: usize, from: &mut &[u8]) -> Option<(u32, bool)> {
    let step = varint::read(from)?;
    let place = u64::from(*before) + (step >> 1);
    *before = u32::try_from(place).ok().filter(|place| *place as usize <= length)?;
    Some((*before, step & 1 == 1))
}
