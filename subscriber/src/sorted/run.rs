//! Runs: rows in order, in blocks of a temporary file.
//!
//! A block is its length, its CRC-32 and its records; a record is the row's place in the order and the packed row. Blocks are
//! ended by the first record beyond `BLOCK_BYTES`, so that a reader holds one block, whatever the run's length.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use waybill_formats::{Field, FieldPath, Row, RowBatch};

use crate::apply::EntityPlan;

/// A block has so many bytes, and then to the end of its last record.
const BLOCK_BYTES: usize = 64 << 10;
/// Length and checksum.
const HEAD_BYTES: usize = 8;

/// A row's place in the order: whether it has a key, the key, the row's number. `prefix` sorts as the key does, and quicker. Text is
/// compared as its bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place<'k> {
    pub(super) has_key: bool,
    pub(super) prefix: u64,
    pub(super) key: &'k [u8],
    pub(super) number: u64,
}

/// Rows of the next run, in the file's order.
#[derive(Debug)]
pub(super) struct Collected {
    key_fields: Vec<FieldPath>,
    batches: Vec<RowBatch>,
    entries: Vec<Entry>,
    keys: String,
    bytes: usize,
}

/// A row that was collected.
#[derive(Debug)]
struct Entry {
    has_key: bool,
    prefix: u64,
    number: u64,
    key: (usize, usize),
    batch: u32,
    row: Which,
}

#[derive(Debug, Clone, Copy)]
enum Which {
    Good(u32),
    Bad(u32),
    /// Nobody wants it: it is packed as nothing.
    Dropped,
}

impl Collected {
    pub(super) fn new(plan: &EntityPlan) -> Self {
        let key_fields = plan.key().map(|(field, _)| FieldPath::name(field)).collect();
        Self { key_fields, batches: Vec::new(), entries: Vec::new(), keys: String::new(), bytes: 0 }
    }

    /// What it takes in memory, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.keys.len() + size_of_val(self.entries.as_slice())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn add(&mut self, plan: &EntityPlan, batch: RowBatch) {
        let at = u32::try_from(self.batches.len()).expect("a run has fewer batches than rows");
        let place = |index: usize| u32::try_from(index).expect("a batch has fewer rows than bytes");
        let mut fields = Vec::new();
        let mut sieve = plan.dropping();
        for (index, row) in batch.rows().enumerate() {
            if matches!(sieve.ask(&row), Ok(false)) {
                let (number, row) = (row.number(), Which::Dropped);
                self.entries.push(Entry { has_key: false, prefix: 0, number, key: (0, 0), batch: at, row });
                continue;
            }
            let begin = self.keys.len();
            let has_key = self.push_key(plan, &row, &mut fields);
            let prefix = if has_key { plan.key_form().sort_prefix(self.key((begin, self.keys.len()))) } else { 0 };
            let key = (begin, self.keys.len());
            let row_at = Which::Good(place(index));
            self.entries.push(Entry { has_key, prefix, number: row.number(), key, batch: at, row: row_at });
        }
        for (index, bad) in batch.bad().iter().enumerate() {
            let row = Which::Bad(place(index));
            self.entries.push(Entry { has_key: false, prefix: 0, number: bad.row, key: (0, 0), batch: at, row });
        }
        self.bytes += batch.size();
        self.batches.push(batch);
    }

    fn push_key<'r>(&mut self, plan: &EntityPlan, row: &Row<'r>, fields: &mut Vec<Field<'r>>) -> bool {
        let begin = self.keys.len();
        row.get_many(&self.key_fields, fields);
        let has_key = plan.key_form().push(fields.iter(), &mut self.keys).is_ok();
        if !has_key {
            self.keys.truncate(begin);
        }
        has_key
    }

    fn key(&self, (begin, end): (usize, usize)) -> &str {
        self.keys.get(begin..end).expect("the place was taken here")
    }

    fn place(&self, entry: &Entry) -> Place<'_> {
        let Entry { has_key, prefix, number, key, .. } = *entry;
        Place { has_key, prefix, key: self.key(key).as_bytes(), number }
    }

    /// Writes them in order.
    pub(super) fn write(mut self, spill: &Arc<Spill>) -> io::Result<Run> {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by(|a, b| self.place(a).cmp(&self.place(b)));
        let mut writer = RunWriter::new(spill)?;
        let mut packed = Vec::new();
        for entry in &entries {
            packed.clear();
            let batch = &self.batches[entry.batch as usize];
            match entry.row {
                Which::Good(index) => batch.row(index as usize).pack(&mut packed),
                Which::Bad(index) => batch.bad()[index as usize].pack(&mut packed),
                Which::Dropped => {}
            }
            writer.write(self.place(entry), &packed)?;
        }
        writer.finish()
    }
}

/// A temporary file of runs. It has no name, or loses it at once, and is for nobody else to read.
#[derive(Debug)]
pub(super) struct Spill {
    file: Mutex<File>,
}

impl Spill {
    pub(super) fn new(folder: &Path) -> io::Result<Arc<Self>> {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        Ok(Arc::new(Self { file: Mutex::new(tempfile::tempfile_in(folder)?) }))
    }

    pub(super) fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(into)
    }

    pub(super) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }

    fn end(&self) -> io::Result<u64> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).seek(SeekFrom::End(0))
    }
}

/// A stretch of a spill, in order.
#[derive(Debug, Clone)]
pub(super) struct Run {
    spill: Arc<Spill>,
    begin: u64,
    end: u64,
    /// Bytes of its longest block.
    pub(super) block_bytes: usize,
}

/// Writes a run behind what the spill has: one at a time.
pub(super) struct RunWriter {
    run: Run,
    block: Vec<u8>,
}

impl RunWriter {
    pub(super) fn new(spill: &Arc<Spill>) -> io::Result<Self> {
        let end = spill.end()?;
        let run = Run { spill: Arc::clone(spill), begin: end, end, block_bytes: 0 };
        Ok(Self { run, block: vec![0; HEAD_BYTES] })
    }

    pub(super) fn write(&mut self, place: Place<'_>, packed: &[u8]) -> io::Result<()> {
        let Place { has_key, prefix, key, number } = place;
        let length = |bytes: usize| {
            let length = u32::try_from(bytes).map_err(|_| io::Error::other("a row of more than 4 GiB"))?;
            Ok::<_, io::Error>(length.to_le_bytes())
        };
        self.block.push(u8::from(has_key));
        self.block.extend_from_slice(&prefix.to_le_bytes());
        self.block.extend_from_slice(&number.to_le_bytes());
        self.block.extend_from_slice(&length(key.len())?);
        self.block.extend_from_slice(&length(packed.len())?);
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(packed);
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        let (head, records) = self.block.split_at_mut(HEAD_BYTES);
        if records.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(records.len()).map_err(|_| io::Error::other("a block of more than 4 GiB"))?;
        let (length_at, checksum_at) = head.split_at_mut(4);
        length_at.copy_from_slice(&length.to_le_bytes());
        checksum_at.copy_from_slice(&crc32fast::hash(records).to_le_bytes());
        self.run.spill.write(self.run.end, &self.block)?;
        self.run.end += self.block.len() as u64;
        self.run.block_bytes = self.run.block_bytes.max(self.block.len());
        self.block.truncate(HEAD_BYTES);
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Run> {
        self.end_block()?;
        Ok(self.run)
    }
}

/// Reads a run from its begin, a record at a time.
#[derive(Debug)]
pub(super) struct RunReader {
    run: Run,
    /// Of the next block.
    at: u64,
    block: Vec<u8>,
    /// Where the record after this one begins.
    next: usize,
    record: Option<Record>,
}

#[derive(Debug)]
struct Record {
    has_key: bool,
    prefix: u64,
    number: u64,
    key: (usize, usize),
    packed: (usize, usize),
}

/// Why a run cannot be read on.
#[derive(Debug)]
pub(super) enum ReadError {
    File(io::Error),
    Damaged,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        // It was longer once.
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Damaged } else { Self::File(error) }
    }
}

impl RunReader {
    /// At the first record.
    pub(super) fn new(run: Run) -> Result<Self, ReadError> {
        let mut reader = Self { at: run.begin, run, block: Vec::new(), next: 0, record: None };
        reader.advance()?;
        Ok(reader)
    }

    /// Where the record stands in the order; `None` behind the last one.
    pub(super) fn place(&self) -> Option<Place<'_>> {
        let record = self.record.as_ref()?;
        let (begin, end) = record.key;
        let key = self.block.get(begin..end).unwrap_or_default();
        Some(Place { has_key: record.has_key, prefix: record.prefix, key, number: record.number })
    }

    /// The record's packed row.
    pub(super) fn packed(&self) -> &[u8] {
        let (begin, end) = self.record.as_ref().map_or((0, 0), |record| record.packed);
        self.block.get(begin..end).unwrap_or_default()
    }

    /// Goes to the next record.
    pub(super) fn advance(&mut self) -> Result<(), ReadError> {
        if self.next >= self.block.len() {
            self.record = None;
            if self.at >= self.run.end {
                return Ok(());
            }
            self.read_block()?;
        }
        self.record = Some(self.read_record().ok_or(ReadError::Damaged)?);
        Ok(())
    }

    fn read_block(&mut self) -> Result<(), ReadError> {
        let mut head = [0; HEAD_BYTES];
        self.run.spill.read(self.at, &mut head)?;
        let (length, checksum) = head.split_at(4);
        let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let (length, checksum) = (number(length) as usize, number(checksum));
        if length + HEAD_BYTES > self.run.block_bytes {
            return Err(ReadError::Damaged);
        }
        self.block.resize(length, 0);
        self.run.spill.read(self.at + HEAD_BYTES as u64, &mut self.block)?;
        if crc32fast::hash(&self.block) != checksum {
            return Err(ReadError::Damaged);
        }
        (self.at, self.next) = (self.at + (HEAD_BYTES + length) as u64, 0);
        Ok(())
    }

    fn read_record(&mut self) -> Option<Record> {
        let (has_key, rest) = self.block.get(self.next..)?.split_first()?;
        let (prefix, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (packed, rest) = rest.split_first_chunk()?;
        let (key, packed) = (u32::from_le_bytes(*key) as usize, u32::from_le_bytes(*packed) as usize);
        let begin = self.block.len() - rest.len();
        let record = Record {
            has_key: *has_key != 0,
            prefix: u64::from_le_bytes(*prefix),
            number: u64::from_le_bytes(*number),
            key: (begin, begin + key),
            packed: (begin + key, begin + key + packed),
        };
        self.next = begin + key + packed;
        (self.next <= self.block.len()).then_some(record)
    }
}
