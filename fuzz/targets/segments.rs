//! A file of segments with any index in front, decoded by segments and in one go: the same, or a doubt.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use waybill_formats::{
    DecodeOptions, FileStats, RowBatch, RowDecoder, Source, Step,
    seek::{Part, SegmentDecoder, SegmentJob},
};

fuzz_target!(|data: &[u8]| {
    let Some((&choice, file)) = data.split_first() else { return };
    let source = match choice & 3 {
        0 => Source::JsonLines,
        1 => Source::XmlLines,
        2 => Source::Csv { columns: None, delimiter: b',' },
        _ => Source::Csv { columns: Some(vec!["a".to_owned(), "b".to_owned()]), delimiter: b',' },
    };
    // Half of the inputs are an index and plain text: few mutations of packed bytes are sound.
    let stored = if choice & 4 == 0 { file.to_vec() } else { packed(file) };
    let options = || DecodeOptions::new(source.clone());
    let (whole, end) = in_one_go(options(), &stored);
    let (rows, outcome) = beside(options(), &stored, 1 + usize::from(choice >> 4));
    match outcome {
        Outcome::Done(stats) => {
            assert_eq!(rows, whole);
            assert_eq!(Some(stats), end);
        }
        Outcome::Doubt => assert!(whole.starts_with(&rows), "{rows:?}, not {whole:?}"),
        Outcome::Ordinary => assert!(rows.is_empty()),
    }
});

/// Cuts text into segments behind lengths that it gives itself, and packs them with a true index.
fn packed(file: &[u8]) -> Vec<u8> {
    use waybill_formats::{Compression, FileAssembler, SegmentWriter, WriterOptions};
    let (lengths, mut plain) = file.split_at(file.len().min(4));
    let compression = Compression::Gzip(1);
    let mut assembler = FileAssembler::new(compression);
    let whole = {
        let mut writer = SegmentWriter::new(WriterOptions::Raw, compression);
        writer.raw(plain);
        writer.finish().1
    };
    for (at, &length) in lengths.iter().enumerate() {
        let last = at + 1 == lengths.len();
        let length = if last { plain.len() } else { usize::from(length).min(plain.len()) };
        let (piece, rest) = plain.split_at(length);
        plain = rest;
        let mut writer = SegmentWriter::new(WriterOptions::Raw, compression).telling_row_ends();
        writer.raw(piece);
        writer.row_end(piece.len() as u64, 1);
        writer.finish().0.for_each(|segment| assembler.add(segment.pack()));
    }
    if lengths.is_empty() {
        return Vec::new();
    }
    assembler.finish(whole).rest.to_vec()
}

type Rows = Vec<(u64, u64, Vec<u8>)>;

fn rows_of(batch: &RowBatch, into: &mut Rows) {
    let good = batch.rows().map(|row| (row.number(), row.offset(), row.raw().to_vec()));
    let bad = batch.bad().iter().map(|bad| (bad.row, bad.offset, bad.bytes.to_vec()));
    let from = into.len();
    into.extend(good.chain(bad));
    into[from..].sort();
}

fn in_one_go(options: DecodeOptions, stored: &[u8]) -> (Rows, Option<FileStats>) {
    let mut decoder = RowDecoder::new(options);
    decoder.feed(Bytes::copy_from_slice(stored));
    decoder.end();
    let mut rows = Rows::new();
    loop {
        match decoder.next() {
            Ok(Step::Batch(batch)) => rows_of(&batch, &mut rows),
            Ok(Step::Done(stats)) => return (rows, Some(stats)),
            Ok(Step::NeedInput) => unreachable!("it ended"),
            Err(_) => return (rows, None),
        }
    }
}

enum Outcome {
    Done(FileStats),
    Doubt,
    Ordinary,
}

fn beside(options: DecodeOptions, stored: &[u8], at_once: usize) -> (Rows, Outcome) {
    let mut decoder = SegmentDecoder::new(options, stored.len() as u64);
    decoder.feed(Bytes::copy_from_slice(stored));
    let (mut rows, mut jobs) = (Rows::new(), Vec::<SegmentJob>::new());
    loop {
        let part = if jobs.len() == at_once { Ok(Part::NeedRows) } else { decoder.next() };
        match part {
            Ok(Part::Job(job)) => jobs.push(job),
            Ok(Part::NeedRows) => {
                for job in jobs.drain(..) {
                    let Ok(batches) = decoder.put(job.decode()) else { return (rows, Outcome::Doubt) };
                    batches.iter().for_each(|batch| rows_of(batch, &mut rows));
                }
            }
            Ok(Part::NeedInput) => panic!("all of it was fed"),
            Ok(Part::Done(stats)) => return (rows, Outcome::Done(stats)),
            Ok(Part::Ordinary(_)) => return (rows, Outcome::Ordinary),
            Err(_) => return (rows, Outcome::Doubt),
        }
    }
}
