//! Arbitrary bytes as a file of JSON.
#![no_main]

mod reader;

use libfuzzer_sys::fuzz_target;
use waybill_formats::Source;

fuzz_target!(|data: &[u8]| reader::read(data, |_| Source::Json));
