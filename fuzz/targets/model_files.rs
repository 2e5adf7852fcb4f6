#![no_main]
#![allow(dead_code, unreachable_pub, reason = "files of an executable, taken in by their paths")]

#[path = "../../crates/worker/src/config.rs"]
mod config;
#[path = "../../crates/worker/src/properties.rs"]
mod properties;
#[path = "../../crates/worker/src/task.rs"]
mod task;

thread_local! {
    static DIR: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder");
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    DIR.with(|dir| properties::model_files(dir.path(), bytes));
});
