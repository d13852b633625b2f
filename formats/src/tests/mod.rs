//! Whole files, through every way in which their bytes may come.

mod charsets;
mod csv;
mod fields;
mod gather;
mod gzip;
mod json;
mod jsonl;
mod limits;
mod seek;
mod segments;
mod splits;
mod torture;
mod write;
mod xml;

use std::{borrow::Cow, io::Write};

use bytes::Bytes;
use flate2::{GzBuilder, write::GzEncoder};
use waybill_contracts::Reason;

use crate::{DecodeError, DecodeOptions, Field, FileStats, Row, RowBatch, RowDecoder, Source, Step};

/// A row of either kind, as far as it can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Good { row: u64, offset: u64, raw: Vec<u8> },
    Bad { row: u64, offset: u64, problem: String, bytes: Vec<u8> },
}

/// What came of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    rows: Vec<Seen>,
    /// The first and last row of every batch.
    batches: Vec<(u64, u64)>,
    end: Result<FileStats, (Reason, u64, u64, String)>,
}

impl Outcome {
    fn good(&self) -> Vec<&[u8]> {
        let good = |seen: &'_ Seen| matches!(seen, Seen::Good { .. });
        self.rows.iter().filter(|seen| good(seen)).map(Seen::bytes).collect()
    }

    fn bad(&self) -> Vec<(u64, u64, &str)> {
        self.rows
            .iter()
            .filter_map(|seen| match seen {
                Seen::Bad { row, offset, problem, .. } => Some((*row, *offset, problem.as_str())),
                Seen::Good { .. } => None,
            })
            .collect()
    }

    fn reason(&self) -> Reason {
        self.end.as_ref().unwrap_err().0
    }

    fn problem(&self) -> &str {
        &self.end.as_ref().unwrap_err().3
    }
}

impl Seen {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Good { raw, .. } => raw,
            Self::Bad { bytes, .. } => bytes,
        }
    }

    fn offset(&self) -> u64 {
        match self {
            Self::Good { offset, .. } | Self::Bad { offset, .. } => *offset,
        }
    }
}

fn json_lines() -> DecodeOptions {
    DecodeOptions::new(Source::JsonLines)
}

fn json() -> DecodeOptions {
    DecodeOptions::new(Source::Json)
}

fn xml() -> DecodeOptions {
    DecodeOptions::new(Source::Xml { row: None })
}

fn xml_of(row: &str) -> DecodeOptions {
    DecodeOptions::new(Source::Xml { row: Some(row.to_owned()) })
}

fn xml_lines() -> DecodeOptions {
    DecodeOptions::new(Source::XmlLines)
}

fn csv() -> DecodeOptions {
    DecodeOptions::new(Source::Csv { columns: None, delimiter: b',' })
}

fn csv_of(columns: &[&str]) -> DecodeOptions {
    let columns = columns.iter().map(|&name| name.to_owned()).collect();
    DecodeOptions::new(Source::Csv { columns: Some(columns), delimiter: b',' })
}

/// Decodes chunks, each fed when the one before is used up.
fn decode_batches<'c>(
    options: DecodeOptions,
    chunks: impl IntoIterator<Item = &'c [u8]>,
) -> (Vec<RowBatch>, Result<FileStats, DecodeError>) {
    let mut chunks = chunks.into_iter();
    let mut decoder = RowDecoder::new(options);
    let mut batches = Vec::new();
    let end = loop {
        match decoder.next() {
            Ok(Step::Batch(batch)) => batches.push(batch),
            Ok(Step::NeedInput) => match chunks.next() {
                Some(chunk) => decoder.feed(Bytes::copy_from_slice(chunk)),
                None => decoder.end(),
            },
            Ok(Step::Done(stats)) => break Ok(stats),
            Err(error) => break Err(error),
        }
    };
    // What it ended with, it goes on to end with.
    match (&end, decoder.next()) {
        (Ok(stats), Ok(Step::Done(again))) => assert_eq!(*stats, again),
        (Err(error), Err(again)) => assert_eq!(error.to_string(), again.to_string()),
        (end, next) => panic!("first {end:?}, then {next:?}"),
    }
    (batches, end)
}

/// As [`decode_batches`], but after some chunks gzip is undone apart from the rows.
fn decode_apart(
    options: DecodeOptions,
    chunks: &[&[u8]],
    together: usize,
) -> (Vec<RowBatch>, Result<FileStats, DecodeError>) {
    let mut decoder = RowDecoder::new(options);
    let (mut unpacking, mut batches, mut fed) = (None, Vec::new(), 0);
    loop {
        match decoder.next() {
            Ok(Step::Batch(batch)) => batches.push(batch),
            Ok(Step::Done(stats)) => return (batches, Ok(stats)),
            Err(error) => return (batches, Err(error)),
            Ok(Step::NeedInput) if fed < together => {
                decoder.feed(Bytes::copy_from_slice(chunks[fed]));
                fed += 1;
            }
            Ok(Step::NeedInput) => {
                let unpacking = unpacking.get_or_insert_with(|| decoder.unpacked_elsewhere());
                loop {
                    match (unpacking.next(), chunks.get(fed)) {
                        (Some(piece), _) => break decoder.hand(piece),
                        (None, Some(chunk)) => unpacking.feed(Bytes::copy_from_slice(chunk)),
                        (None, None) => unpacking.end(),
                    }
                    fed += 1;
                }
            }
        }
    }
}

/// Decodes, also with gzip undone apart, which comes to the same.
fn decode_chunks<'c>(options: DecodeOptions, chunks: impl IntoIterator<Item = &'c [u8]>) -> Outcome {
    let chunks: Vec<&[u8]> = chunks.into_iter().collect();
    let together = outcome(decode_batches(options.clone(), chunks.iter().copied()));
    for begin in [0, chunks.len() / 2] {
        let apart = outcome(decode_apart(options.clone(), &chunks, begin));
        assert!(apart.rows == together.rows && apart.batches == together.batches, "apart from chunk {begin} on");
        // Where deflate notices depends on how much it looks at.
        let place = |end: &Result<FileStats, (Reason, u64, u64, String)>| {
            end.clone().map_err(|(reason, row, offset, _)| (reason, row, offset))
        };
        assert_eq!(place(&apart.end), place(&together.end), "apart from chunk {begin} on");
    }
    together
}

fn outcome((batches, end): (Vec<RowBatch>, Result<FileStats, DecodeError>)) -> Outcome {
    let mut rows = Vec::new();
    let mut cuts = Vec::new();
    for batch in batches {
        assert!(!batch.is_empty() || !batch.bad().is_empty(), "a batch has rows");
        assert_eq!(batch.len(), batch.rows().count());
        cuts.push((batch.first_row(), batch.last_row()));
        let mut seen: Vec<(u64, Seen)> = Vec::new();
        for row in batch.rows() {
            seen.push((row.number(), Seen::Good { row: row.number(), offset: row.offset(), raw: row.raw().to_vec() }));
        }
        for bad in batch.bad() {
            let (row, offset, problem) = (bad.row, bad.offset, bad.problem.clone());
            seen.push((row, Seen::Bad { row, offset, problem, bytes: bad.bytes.to_vec() }));
        }
        seen.sort_by_key(|(row, _)| *row);
        let last = seen.last().map(|(_, seen)| seen.offset() + 1);
        assert!(last.is_some_and(|last| last <= batch.end_offset()), "{last:?} and {}", batch.end_offset());
        let numbers: Vec<u64> = seen.iter().map(|(row, _)| *row).collect();
        let expected: Vec<u64> = (batch.first_row()..=batch.last_row()).collect();
        assert_eq!(numbers, expected, "a batch has each row of its stretch once");
        assert_eq!(batch.first_row(), rows.len() as u64 + 1, "batches follow each other without gaps");
        rows.extend(seen.into_iter().map(|(_, seen)| seen));
    }
    if let Ok(stats) = &end {
        let bad = rows.iter().filter(|seen| matches!(seen, Seen::Bad { .. })).count();
        assert_eq!((stats.rows, stats.bad_rows), (rows.len() as u64, bad as u64));
    }
    let end = end.map_err(|error| (error.reason, error.row, error.offset, error.problem));
    Outcome { rows, batches: cuts, end }
}

fn decode(options: DecodeOptions, bytes: &[u8]) -> Outcome {
    decode_chunks(options, [bytes])
}

/// The rows of a file that has neither bad rows nor an error.
fn all_rows(options: DecodeOptions, bytes: &[u8]) -> Vec<RowBatch> {
    let (batches, end) = decode_batches(options, [bytes]);
    let stats = end.unwrap();
    assert_eq!(stats.bad_rows, 0, "{batches:?}");
    batches
}

/// Reads the first row of a file.
fn first_row<T>(options: DecodeOptions, bytes: &[u8], read: impl FnOnce(Row<'_>) -> T) -> T {
    let batches = all_rows(options, bytes);
    read(batches[0].row(0))
}

fn text(text: &str) -> Field<'_> {
    Field::Text(Cow::Borrowed(text))
}

fn member(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// A member with every optional part of a header that `flate2` writes.
fn member_with_names(plain: &[u8]) -> Vec<u8> {
    let builder = GzBuilder::new().filename("rows.jsonl").comment("made by a test").extra(vec![b'W', b'B', 2, 0, 7, 7]);
    let mut encoder = builder.mtime(1_700_000_000).write(Vec::new(), flate2::Compression::best());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Adds a header checksum, which `flate2` cannot write.
fn with_header_crc(member: &[u8], header: usize) -> Vec<u8> {
    let mut head = member[..header].to_vec();
    head[3] |= 0x02;
    let crc = crc32fast::hash(&head) as u16;
    [&head, &crc.to_le_bytes()[..], &member[header..]].concat()
}
