#![no_main]

use onnxd_worker::properties;

thread_local! {
    static DIR: tempfile::TempDir = tempfile::tempdir().expect("create a temporary folder");
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    DIR.with(|dir| properties::model_files(dir.path(), bytes));
});
