#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| onnxd::properties::binary_tensors(bytes));
