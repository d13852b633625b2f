//! Arbitrary bytes as a file of XML: the children of its element are rows, or the elements `row` wherever they are.
#![no_main]

mod reader;

use libfuzzer_sys::fuzz_target;
use waybill_formats::Source;

fuzz_target!(|data: &[u8]| reader::read(data, |choice| Source::Xml {
    row: (choice & 0x10 != 0).then(|| "row".to_owned())
}));
