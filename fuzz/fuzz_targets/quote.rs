//! See `lb_testbed::fuzzing::quote`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| lb_testbed::fuzzing::quote(data));
