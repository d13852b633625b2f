//! Torture: files that the specifications of the five formats ask about, and what suites of well-known parsers test.
//!
//! Each is judged by its standard: which rows it has, which are bad and where, or at which byte it cannot be read on. It comes to
//! the same however it is cut. The cases are our own. The suites were read for what they ask: JSONTestSuite; csv-spectrum, the
//! tests of Python's `csv` and of the `csv` crate, W3C's tests of CSV on the Web; W3C's conformance suite for XML.

mod csv;
mod json;
mod lines;
mod text;
mod xml;

use std::path::Path;

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

/// A file and what its standard says of it.
#[derive(Debug)]
struct Case {
    options: DecodeOptions,
    file: Vec<u8>,
    rows: Rows,
    end: End,
}

/// A good one as JSON; where a bad one begins, and why it is bad.
type Told = Result<String, (u64, String)>;

/// In their order.
type Rows = Vec<Told>;

/// Why it cannot be read on, and at which byte.
type End = Result<(), (Reason, u64)>;

/// A file, so far without rows, that is read to its end.
fn case(options: DecodeOptions, file: impl AsRef<[u8]>) -> Case {
    Case { options, file: file.as_ref().to_vec(), rows: Vec::new(), end: Ok(()) }
}

impl Case {
    /// A good row follows.
    fn row(mut self, json: impl Into<String>) -> Self {
        self.rows.push(Ok(json.into()));
        self
    }

    /// A bad row follows, which begins at this byte; this is a part of why.
    fn bad(mut self, offset: usize, why: impl Into<String>) -> Self {
        self.rows.push(Err((offset as u64, why.into())));
        self
    }

    /// There it stops to be of its format.
    fn malformed(self, at: usize) -> Self {
        self.ends(Reason::MalformedFile, at)
    }

    /// There it ends too early.
    fn truncated(self, at: usize) -> Self {
        self.ends(Reason::TruncatedFile, at)
    }

    fn ends(mut self, reason: Reason, at: usize) -> Self {
        self.end = Err((reason, at as u64));
        self
    }

    fn is(&self, rows: &Rows, end: &End) -> bool {
        let same = |(expected, found): (&Told, &Told)| match (expected, found) {
            (Ok(expected), Ok(found)) => expected == found,
            (Err((expected, why)), Err((found, problem))) => expected == found && problem.contains(why),
            _ => false,
        };
        rows.len() == self.rows.len() && self.rows.iter().zip(rows).all(same) && *end == self.end
    }

    /// Its bytes in pieces: one by one, a few at a time, and at random.
    fn pieces(&self, random: &mut StdRng) -> Vec<Vec<&[u8]>> {
        let mut all: Vec<Vec<&[u8]>> = [1, 2, 3, 7].map(|size| self.file.chunks(size).collect()).into();
        for cuts in 1..6 {
            let mut places: Vec<usize> = (0..cuts).map(|_| random.random_range(0..=self.file.len())).collect();
            places.extend([0, self.file.len()]);
            places.sort_unstable();
            all.push(places.windows(2).map(|cut| &self.file[cut[0]..cut[1]]).collect());
        }
        all
    }
}

/// The rows and the end of a file that comes in these pieces.
fn read(options: &DecodeOptions, pieces: &[&[u8]]) -> (Rows, End) {
    let (batches, end) = decode_batches(options.clone(), pieces.iter().copied());
    let mut rows: Vec<(u64, Told)> = Vec::new();
    for batch in &batches {
        rows.extend(batch.rows().map(|row| (row.number(), Ok(row.to_json().into_owned()))));
        rows.extend(batch.bad().iter().map(|bad| (bad.row, Err((bad.offset, bad.problem.clone())))));
    }
    rows.sort_by_key(|(number, _)| *number);
    let rows = rows.into_iter().map(|(_, row)| row).collect();
    (rows, end.map(drop).map_err(|error| (error.reason, error.offset)))
}

/// How a unit of UTF-16 is stored.
type Unit = fn(u16) -> [u8; 2];

fn utf16(text: &str, unit: Unit) -> Vec<u8> {
    text.encode_utf16().flat_map(unit).collect()
}

/// All that are judged wrongly are told together.
#[track_caller]
fn judge(cases: &[Case]) {
    let mut random = StdRng::seed_from_u64(5);
    let mut wrong = Vec::new();
    for case in cases {
        let file = String::from_utf8_lossy(&case.file);
        let file: String = file.chars().take(200).collect();
        let (rows, end) = read(&case.options, &[&case.file]);
        if !case.is(&rows, &end) {
            let (expected, expected_end) = (&case.rows, &case.end);
            wrong.push(format!("{file:?}\n    is {rows:?} {end:?}\n    not {expected:?} {expected_end:?}"));
            continue;
        }
        // With all that is looked at in the other tests: numbers, places, problems.
        let whole = decode(case.options.clone(), &case.file);
        for pieces in case.pieces(&mut random) {
            if decode_chunks(case.options.clone(), pieces.iter().copied()) != whole {
                wrong.push(format!("{file:?} is another one in {} pieces", pieces.len()));
            }
        }
        let one_by_one = DecodeOptions { batch_rows: 1, batch_bytes: 1, ..case.options.clone() };
        if read(&one_by_one, &case.file.chunks(2).collect::<Vec<_>>()) != (rows, end) {
            wrong.push(format!("{file:?} is another one in batches of a row"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// All cases that are files.
fn cases() -> Vec<Case> {
    [json::cases(), lines::cases(), csv::cases(), xml::cases(), text::cases()].into_iter().flatten().collect()
}

/// The targets that a case is a seed of, each with what its inputs begin with.
fn targets(case: &Case) -> Vec<(&'static str, Vec<u8>)> {
    let charset = match case.options.charset {
        None => 0x00,
        Some(charset) if charset.name() == "windows-1252" => 0x80,
        Some(charset) if charset.name() == "UTF-16LE" => 0xc0,
        Some(_) => return Vec::new(),
    };
    let has = b"has(row.a)\n".to_vec();
    // See `fuzz/targets`: what the first bytes choose.
    match &case.options.source {
        Source::JsonLines => {
            vec![("jsonl", vec![charset]), ("gather", vec![0, 3, 0, 0]), ("filter", has)]
        }
        Source::Json => vec![("json", vec![charset]), ("gather", vec![2, 3, 0, 0])],
        Source::Csv { columns, delimiter: b',' } => {
            let choice = if columns.is_some() { 0x10 } else { 0 };
            let layout = if columns.is_some() { 4 } else { 3 };
            vec![("csv", vec![charset | choice]), ("gather", vec![layout, 3, 0, 0]), ("filter", has)]
        }
        Source::Csv { .. } => Vec::new(),
        Source::Xml { row } => {
            let choice = if row.is_some() { 0x10 } else { 0 };
            vec![("xml", vec![charset | choice]), ("gather", vec![5, 3, 0, 0])]
        }
        Source::XmlLines => {
            vec![("xmllines", vec![charset]), ("gather", vec![7, 3, 0, 0]), ("filter", has)]
        }
    }
}

/// Into the folder that `WAYBILL_FUZZ_SEEDS` names, a folder in it for each target.
#[test]
#[ignore = "it writes files: `cargo xtask fuzz` runs it with a folder"]
fn write_seeds_of_fuzz_targets() {
    let folder = std::env::var_os("WAYBILL_FUZZ_SEEDS").expect("run it by `cargo xtask fuzz`");
    for (number, case) in cases().iter().enumerate() {
        for (target, mut seed) in targets(case) {
            let folder = Path::new(&folder).join(target);
            std::fs::create_dir_all(&folder).unwrap();
            seed.extend_from_slice(&case.file);
            std::fs::write(folder.join(format!("torture-{number:04}")), seed).unwrap();
        }
    }
}

#[test]
fn torture_files_are_seeds_of_every_target_that_reads_files() {
    let cases = cases();
    assert!(cases.len() > 600, "{} cases", cases.len());
    let mut named: Vec<&str> = cases.iter().flat_map(targets).map(|(target, _)| target).collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named, ["csv", "filter", "gather", "json", "jsonl", "xml", "xmllines"]);
}
