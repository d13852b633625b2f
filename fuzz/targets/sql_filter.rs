//! Arbitrary text as the SQL filter of a rule.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| waybill_local::fuzzing::sql_filter(data));
