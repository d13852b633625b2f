//! What every reader must hold to, whatever the bytes: shared by the targets of the five formats.

use bytes::Bytes;
use serde_json::value::RawValue;
use waybill_formats::{Charset, DecodeError, DecodeOptions, FieldPath, Limits, RowDecoder, Source, Step};

/// What came of a file.
#[derive(Debug, PartialEq)]
struct Read {
    /// Number, offset, JSON.
    rows: Vec<(u64, u64, String)>,
    bad: Vec<(u64, u64, String)>,
    /// Rows and bad rows, or where and why it ended.
    end: Result<(u64, u64), (u64, u64, String)>,
}

/// Decodes a file whose first byte chooses how. Where it is cut into pieces must not matter.
pub fn read(data: &[u8], source: impl Fn(u8) -> Source) {
    let Some((&choice, file)) = data.split_first() else { return };
    let charset = match choice >> 6 {
        0 | 1 => None,
        2 => Charset::from_label("windows-1252"),
        _ => Charset::from_label("utf-16le"),
    };
    let limits = Limits { row_bytes_max: 4096, nesting_max: 12, columns_max: 32, ..Limits::default() };
    let batch_rows = if choice & 0x20 == 0 { 10_000 } else { 2 };
    let options =
        || DecodeOptions { charset, limits: limits.clone(), batch_rows, ..DecodeOptions::new(source(choice)) };
    let whole = decode(options(), file, usize::MAX);
    let pieces = decode(options(), file, 1 + usize::from(choice & 0x0f));
    assert_eq!(whole, pieces, "it depends on the pieces");
}

fn decode(options: DecodeOptions, file: &[u8], piece: usize) -> Read {
    let mut decoder = RowDecoder::new(options);
    let mut pieces = file.chunks(piece.min(file.len().max(1)));
    let mut read = Read { rows: Vec::new(), bad: Vec::new(), end: Ok((0, 0)) };
    let mut number = 0;
    loop {
        match decoder.next() {
            Ok(Step::NeedInput) => match pieces.next() {
                Some(piece) => decoder.feed(Bytes::copy_from_slice(piece)),
                None => decoder.end(),
            },
            Ok(Step::Batch(batch)) => {
                assert_eq!(batch.first_row(), number + 1, "batches follow each other");
                number = batch.last_row();
                for row in batch.rows() {
                    let json = row.to_json().into_owned();
                    assert!(
                        !json.contains('\n') && json.trim_ascii_start().starts_with('{'),
                        "{json:?} is a line of JSON"
                    );
                    let _: &RawValue = serde_json::from_str(&json).expect("it is JSON");
                    // One accessor for all at once, and for one alone.
                    let mut names = Vec::new();
                    row.for_each(&mut |name, value| names.push((FieldPath::name(&name), value)));
                    let paths: Vec<_> = names.iter().map(|(path, _)| path.clone()).collect();
                    let mut values = Vec::new();
                    row.get_many(&paths, &mut values);
                    for ((path, value), many) in names.iter().zip(&values) {
                        assert_eq!(value, many, "{path}");
                        assert_eq!(value, &row.get(path), "{path}");
                    }
                    read.rows.push((row.number(), row.offset(), json));
                }
                read.bad.extend(batch.bad().iter().map(|bad| (bad.row, bad.offset, bad.problem.clone())));
            }
            Ok(Step::Done(stats)) => {
                assert_eq!((stats.rows, stats.bad_rows), (number, read.bad.len() as u64));
                assert_eq!(stats.rows, (read.rows.len() + read.bad.len()) as u64);
                read.end = Ok((stats.rows, stats.bad_rows));
                return read;
            }
            Err(error) => {
                let DecodeError { row, offset, .. } = error;
                // Where deflate notices depends on how much it looks at.
                let problem = match error.problem() {
                    problem if problem.starts_with("the gzip stream is damaged") => "the gzip stream is damaged",
                    problem => problem,
                };
                read.end = Err((row, offset, problem.to_owned()));
                return read;
            }
        }
    }
}
