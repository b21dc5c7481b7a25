#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| qwen3_vl_testing::fuzz::template(bytes));
