#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| clawstead_fuzz::checks::config(bytes));
