//! Rows out of their batches and together again in another order, as large files are sorted: nothing of them is another. Packed rows
//! that were changed are refused, or gathered, and nothing breaks there.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use waybill_formats::{DecodeOptions, Gathering, RowBatch, RowDecoder, Source, Step};

fuzz_target!(|data: &[u8]| {
    // How it is read, how many rows are in a batch and taken at once, and what becomes of the first packed row.
    let [choice, cut, at, with, file @ ..] = data else { return };
    let source = match choice & 7 {
        0 | 1 => Source::JsonLines,
        2 => Source::Json,
        3 => Source::Csv { columns: None, delimiter: b',' },
        4 => Source::Csv { columns: Some(vec!["a".to_owned(), "b".to_owned()]), delimiter: b',' },
        5 | 6 => Source::Xml { row: None },
        _ => Source::XmlLines,
    };
    let batch_rows = if choice & 8 == 0 { 10_000 } else { 2 };
    let batches = decode(DecodeOptions { batch_rows, ..DecodeOptions::new(source) }, file);
    let Some(first) = batches.first() else { return };
    let mut rows = packed(&batches);
    // Any order will do that is not the file's, and those of one byte are many.
    rows.sort_by_key(|(number, _)| (number.wrapping_mul(u64::from(*choice) | 1) & 0xff, *number));
    let mut gathering = Gathering::like(first);
    let mut gathered = Vec::new();
    for some in rows.chunks(usize::from(*cut).max(1)) {
        for (_, packed) in some {
            gathering.add(packed).expect("it was packed just now");
        }
        assert_eq!(gathering.len(), some.len());
        gathered.extend(gathering.take().expect("all of it was packed"));
    }
    assert_eq!(shown(&gathered), shown(&batches));

    let mut changed = rows.swap_remove(0).1;
    let place = usize::from(*at) % changed.len();
    changed[place] = *with;
    let mut gathering = Gathering::like(first);
    // It may be a packed row still. What it says then is for its checksum to tell, which is kept with it.
    if gathering.add(&changed).is_ok() {
        drop(gathering.take());
    }
});

/// All rows before the end, whatever that is.
fn decode(options: DecodeOptions, file: &[u8]) -> Vec<RowBatch> {
    let mut decoder = RowDecoder::new(options);
    decoder.feed(Bytes::copy_from_slice(file));
    decoder.end();
    let mut batches = Vec::new();
    while let Ok(Step::Batch(batch)) = decoder.next() {
        batches.push(batch);
    }
    batches
}

/// Good rows and bad ones, by their numbers.
fn packed(batches: &[RowBatch]) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    for batch in batches {
        for row in batch.rows() {
            let mut into = Vec::new();
            row.pack(&mut into);
            all.push((row.number(), into));
        }
        for bad in batch.bad() {
            let mut into = Vec::new();
            bad.pack(&mut into);
            all.push((bad.row, into));
        }
    }
    all
}

/// All that can be read of them, by their numbers.
fn shown(batches: &[RowBatch]) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for batch in batches {
        for row in batch.rows() {
            let mut fields = String::new();
            row.for_each(&mut |name, value| fields.push_str(&format!("{name}={value:?};")));
            row.for_each_written(&mut |name, value| fields.push_str(&format!("{name}={value:?};")));
            let raw = String::from_utf8_lossy(row.raw());
            all.push((row.number(), format!("{} {raw} {} {fields}", row.offset(), row.to_json())));
        }
        all.extend(batch.bad().iter().map(|bad| (bad.row, format!("{bad:?}"))));
    }
    all.sort();
    all
}
