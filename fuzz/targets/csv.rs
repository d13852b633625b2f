//! Arbitrary bytes as a file of CSV, with a header or without.
#![no_main]

mod reader;

use libfuzzer_sys::fuzz_target;
use waybill_formats::Source;

fuzz_target!(|data: &[u8]| reader::read(data, |choice| Source::Csv {
    columns: (choice & 0x10 != 0).then(|| vec!["a".to_owned(), "b".to_owned()]),
    delimiter: b',',
}));
