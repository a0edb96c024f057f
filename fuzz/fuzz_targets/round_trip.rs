//! See `lb_testbed::fuzzing::round_trip`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_testbed::fuzzing::round_trip(data));
