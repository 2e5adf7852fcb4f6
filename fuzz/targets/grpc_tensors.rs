#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| onnxd::properties::grpc_tensors(bytes));
