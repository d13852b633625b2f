//! Where a file's segments lie: the subfield `WB` of the gzip header's extra field.
//!
//! After the version and the flags comes an entry for each segment, up to the subfield's end: stored bytes, plain bytes,
//! and, with `ROWS`, rows, each a varint (LEB128). Segments follow each other from the header's end; the final empty block
//! and the trailer come after them.
//!
//! # Invariants
//! 1. The extra field stays within `EXTRA_BYTES_MAX`, whatever the file's size, and so does what the index takes while
//!    it grows: beyond that, neighbours share an entry. The flush points stay.
//! 2. An index is a hint. It is taken only if it explains the file's length to the byte, and then each segment is checked
//!    against what inflates.
//! # Sources
//! RFC 1952, section 2.3.1.1 (extra field); LEB128 as in DWARF 5, section 7.6.

use super::{DEFLATE, EXTRA, MAGIC};
use crate::varint;

/// busybox's gunzip refuses a longer extra field.
pub(crate) const EXTRA_BYTES_MAX: usize = 16_384;
const SUBFIELD: [u8; 2] = *b"WB";
const VERSION: u8 = 1;
/// Segments end where rows end, and entries say how many rows.
const ROWS: u8 = 0b1;
/// Up to the extra field's length: magic, method, flags, time, hint, system.
const FIXED: usize = 10;
/// The final empty block and the trailer.
pub(crate) const TAIL_BYTES: u64 = 10;
/// Deflate makes no more plain bytes than this of a stored one.
const RATIO_MAX: u64 = 1032;

/// A stretch of the file that can be inflated with nothing before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// Stored bytes.
    pub stored: u64,
    /// Bytes that they become.
    pub plain: u64,
    /// Rows that end in it; 0 where nobody counted them.
    pub rows: u64,
}

impl Entry {
    fn and(self, next: Self) -> Self {
        Self { stored: self.stored + next.stored, plain: self.plain + next.plain, rows: self.rows + next.rows }
    }

    /// Bytes that it takes in the index.
    fn length(&self) -> usize {
        [self.stored, self.plain, self.rows].map(varint::length).iter().sum()
    }
}

/// An index that grows with the file.
#[derive(Debug)]
pub(crate) struct IndexWriter {
    entries: Vec<Entry>,
    /// Bytes of the entries.
    length: usize,
    /// Segments of an entry, the last one's apart.
    together: u64,
    /// Segments of the last entry.
    in_last: u64,
    segments: u64,
    rows: bool,
}

impl IndexWriter {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), length: 0, together: 1, in_last: 0, segments: 0, rows: true }
    }

    /// Adds the next segment; `rows` if it ends where a row ends.
    pub(crate) fn add(&mut self, stored: u64, plain: u64, rows: Option<u64>) {
        self.rows &= rows.is_some();
        self.segments += 1;
        let entry = Entry { stored, plain, rows: rows.unwrap_or_default() };
        match self.entries.last_mut() {
            Some(last) if self.in_last < self.together => {
                self.length -= last.length();
                *last = last.and(entry);
                self.length += last.length();
                self.in_last += 1;
            }
            _ => {
                self.length += entry.length();
                self.entries.push(entry);
                self.in_last = 1;
            }
        }
        // Four bytes name the subfield, two begin it.
        while self.length > EXTRA_BYTES_MAX - 6 {
            self.halve();
        }
    }

    fn halve(&mut self) {
        // A last entry that stands alone is half full from now on.
        if self.entries.len().is_multiple_of(2) {
            self.in_last += self.together;
        }
        self.together *= 2;
        self.entries =
            self.entries.chunks(2).map(|pair| pair.iter().copied().fold(Entry::default(), Entry::and)).collect();
        self.length = self.entries.iter().map(Entry::length).sum();
    }

    /// The member's header. Of one segment there is nothing to say.
    pub(crate) fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(FIXED + 8 + self.length);
        header.extend_from_slice(&MAGIC);
        header.push(DEFLATE);
        header.push(if self.segments > 1 { EXTRA } else { 0 });
        // No time; no hint about the level; system 255: unknown.
        header.extend_from_slice(&[0, 0, 0, 0, 0, 255]);
        if self.segments > 1 {
            let mut index = vec![VERSION, if self.rows { ROWS } else { 0 }];
            for entry in &self.entries {
                varint::write(entry.stored, &mut index);
                varint::write(entry.plain, &mut index);
                if self.rows {
                    varint::write(entry.rows, &mut index);
                }
            }
            let length = |bytes: usize| u16::try_from(bytes).expect("the index was kept short").to_le_bytes();
            header.extend_from_slice(&length(index.len() + 4));
            header.extend_from_slice(&SUBFIELD);
            header.extend_from_slice(&length(index.len()));
            header.extend_from_slice(&index);
        }
        header
    }
}

/// An index that was read, and fits the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// Stored bytes before the first entry's.
    pub header: u64,
    /// In the file's order, without gaps.
    pub entries: Vec<Entry>,
    /// Whether entries are said to end where rows end.
    pub rows: bool,
}

/// What a file's first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Too few to tell.
    More,
    /// A file without index, or with one that cannot be right: to be read in the ordinary way.
    Ordinary,
    /// A file whose index explains its length. What it says of the segments is still to be checked.
    Index(Index),
}

/// Looks for the index of a file of `length` stored bytes, of which `first` are the first.
#[must_use]
pub fn look(first: &[u8], length: u64) -> Look {
    let fixed = [MAGIC[0], MAGIC[1], DEFLATE, EXTRA];
    let same = first.len().min(fixed.len());
    // With a name, a comment or a checksum of the header it is not our file.
    if first[..same] != fixed[..same] || length < (FIXED as u64 + 2 + TAIL_BYTES) {
        return Look::Ordinary;
    }
    let Some(&[low, high]) = first.get(FIXED..FIXED + 2) else { return Look::More };
    let header = FIXED + 2 + usize::from(u16::from_le_bytes([low, high]));
    if header as u64 + TAIL_BYTES > length {
        return Look::Ordinary;
    }
    let Some(extra) = first.get(FIXED + 2..header) else { return Look::More };
    match subfield(extra).and_then(|index| parse(index, header as u64, length)) {
        Some(index) => Look::Index(index),
        None => Look::Ordinary,
    }
}

/// Our subfield's bytes.
fn subfield(mut extra: &[u8]) -> Option<&[u8]> {
    while let Some((&[one, other, low, high], rest)) = extra.split_first_chunk() {
        let (field, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
        if [one, other] == SUBFIELD {
            return Some(field);
        }
        extra = rest;
    }
    None
}

fn parse(index: &[u8], header: u64, length: u64) -> Option<Index> {
    let (&[version, flags], mut rest) = index.split_first_chunk()?;
    if version != VERSION || flags & !ROWS != 0 {
        return None;
    }
    let rows = flags & ROWS != 0;
    let (mut entries, mut end) = (Vec::new(), header.checked_add(TAIL_BYTES)?);
    let (mut plain_bytes, mut all_rows) = (0_u64, 0_u64);
    while !rest.is_empty() {
        let mut next = || varint::read(&mut rest);
        let entry = Entry { stored: next()?, plain: next()?, rows: if rows { next()? } else { 0 } };
        if entry.stored == 0 || entry.plain == 0 || entry.plain > entry.stored.checked_mul(RATIO_MAX)? {
            return None;
        }
        end = end.checked_add(entry.stored)?;
        plain_bytes = plain_bytes.checked_add(entry.plain)?;
        all_rows = all_rows.checked_add(entry.rows)?;
        entries.push(entry);
    }
    (end == length && !entries.is_empty()).then_some(Index { header, entries, rows })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(segments: &[(u64, u64, Option<u64>)]) -> (Vec<u8>, u64) {
        let mut writer = IndexWriter::new();
        for &(stored, plain, rows) in segments {
            writer.add(stored, plain, rows);
        }
        let header = writer.header();
        let length = header.len() as u64 + TAIL_BYTES + segments.iter().map(|segment| segment.0).sum::<u64>();
        (header, length)
    }

    #[test]
    fn the_bytes_of_an_index() {
        let (header, length) = written(&[(300, 1000, Some(10)), (5, 127, Some(0))]);
        let expected: &[u8] =
            &[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 14, 0, b'W', b'B', 10, 0, 1, 1, 0xac, 2, 0xe8, 7, 10, 5, 127, 0];
        assert_eq!(header, expected);
        let entries = vec![Entry { stored: 300, plain: 1000, rows: 10 }, Entry { stored: 5, plain: 127, rows: 0 }];
        assert_eq!(look(&header, length), Look::Index(Index { header: 26, entries, rows: true }));
        for cut in 0..header.len() {
            assert_eq!(look(&header[..cut], length), Look::More, "{cut}");
        }
        for wrong in [length - 1, length + 1, 0, 30] {
            assert_eq!(look(&header, wrong), Look::Ordinary, "{wrong}");
        }
    }

    #[test]
    fn a_file_of_one_segment_has_an_ordinary_header() {
        let (header, length) = written(&[(300, 1000, Some(10))]);
        assert_eq!(header, [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        assert_eq!(look(&header, length), Look::Ordinary);
    }

    #[test]
    fn a_long_file_has_a_short_index_with_entries_of_about_one_size() {
        let mut writer = IndexWriter::new();
        for number in 1..=1_000_000_u64 {
            writer.add(170_000 + number % 7, 1 << 20, Some(4000));
            assert!(writer.length <= EXTRA_BYTES_MAX - 6);
            assert!(writer.entries.len() < 4096);
            if number.is_power_of_two() {
                let of_segments = writer.entries.iter().map(|entry| entry.plain >> 20);
                assert_eq!(of_segments.clone().sum::<u64>(), number);
                let (last, rest) = writer.entries.split_last().unwrap();
                assert!(rest.iter().all(|entry| entry.plain >> 20 == writer.together), "{:?}", writer.entries);
                assert_eq!(last.plain >> 20, writer.in_last);
            }
        }
        assert!(writer.header().len() <= 12 + EXTRA_BYTES_MAX);
        assert!(writer.entries.len() > 900, "{}", writer.entries.len());
    }

    #[test]
    fn what_is_no_index_of_ours_is_passed_over() {
        let (good, length) = written(&[(300, 1000, Some(10)), (5, 127, Some(0))]);
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let cases = [
            (with(0, 0x1e), "magic"),
            (with(2, 7), "method"),
            (with(3, 4 | 8), "with a name"),
            (with(3, 4 | 2), "with a checksum of the header"),
            (with(12, b'X'), "a foreign subfield"),
            (with(14, 11), "a subfield longer than the field"),
            (with(14, 9), "a subfield that is cut within an entry"),
            (with(16, 2), "a later version"),
            (with(17, 3), "an unknown flag"),
            (with(17, 0), "no rows, so that numbers mean something else"),
            (with(18, 0xad), "a byte more than the file has"),
            (with(23, 0), "an empty segment"),
            (with(24, 0), "a segment that is empty text"),
            (with(25, 0x80), "a number that does not end"),
        ];
        for (bytes, what) in cases {
            assert_eq!(look(&bytes, length), Look::Ordinary, "{what}");
        }
        // Deflate could not make so much of so little.
        let (bytes, length) = written(&[(300, 300 * RATIO_MAX + 1, None), (5, 127, None)]);
        assert_eq!(look(&bytes, length), Look::Ordinary);
    }

    #[test]
    fn other_subfields_may_stand_before_ours() {
        let (mut bytes, length) = written(&[(300, 1000, None), (5, 127, None)]);
        let other = [b'A', b'p', 3, 0, 1, 2, 3];
        bytes.splice(12..12, other);
        bytes[10] += other.len() as u8;
        let Look::Index(index) = look(&bytes, length + other.len() as u64) else { panic!("it is there") };
        assert_eq!((index.header, index.rows), (bytes.len() as u64, false));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(segments in prop::collection::vec((1_u64..1 << 40, any::<u16>(), prop::option::weighted(0.9, 0_u64..1 << 33)), 2..40)) {
            let segments: Vec<_> = segments.into_iter().map(|(stored, part, rows)| (stored, (stored * u64::from(part) / 100).max(1), rows)).collect();
            let (header, length) = written(&segments);
            let Look::Index(index) = look(&header, length) else { panic!("{header:?}") };
            prop_assert_eq!(index.rows, segments.iter().all(|segment| segment.2.is_some()));
            let expected: Vec<Entry> = segments.iter().map(|&(stored, plain, rows)| Entry { stored, plain, rows: if index.rows { rows.unwrap_or_default() } else { 0 } }).collect();
            prop_assert_eq!(index.entries, expected);
        }

        #[test]
        fn any_bytes_are_looked_at_without_harm(extra in prop::collection::vec(any::<u8>(), 0..300), length in 0_u64..2000) {
            let mut bytes = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
            bytes.extend_from_slice(&(extra.len() as u16 + 6).to_le_bytes());
            bytes.extend_from_slice(b"WB");
            bytes.extend_from_slice(&(extra.len() as u16 + 2).to_le_bytes());
            bytes.extend_from_slice(&[1, 1]);
            bytes.extend_from_slice(&extra);
            if let Look::Index(index) = look(&bytes, length) {
                let stored: u64 = index.entries.iter().map(|entry| entry.stored).sum();
                prop_assert_eq!(index.header + stored + TAIL_BYTES, length);
            }
        }
    }
}
