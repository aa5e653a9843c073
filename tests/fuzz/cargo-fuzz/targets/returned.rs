#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| (landbridge_fuzz::target("returned").run)(input));
