#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| onnxd_worker::properties::graphs(bytes));
