//! See `lb_testbed::fuzzing::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_testbed::fuzzing::frames(data));
