//! Arbitrary bytes to the AMQP endpoint of `waybill-local`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| waybill_local::fuzzing::frames(data));
