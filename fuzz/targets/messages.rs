#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| onnxd_proto::properties::messages(bytes));
