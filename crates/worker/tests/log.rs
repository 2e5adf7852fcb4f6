//! A worker with invalid log settings explains why and exits like for a configuration error.

#![allow(clippy::unwrap_used)] // In tests, a panic is how to fail.

use std::process::Command;

#[test]
fn invalid_log_settings_exit_78_with_a_hint() {
    for (variable, value, remedy) in
        [("ONNXD_LOG", "debgu", "TARGET=LEVEL"), ("ONNXD_LOG_FORMAT", "xml", "text or json")]
    {
        let mut worker = Command::new(env!("CARGO_BIN_EXE_onnxd-worker"));
        worker.args(["serve", "--worker", "0", "--cpu", "0"]).env(variable, value);
        let output = worker.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{stderr}");
        for word in [variable, value, remedy] {
            assert!(stderr.contains(word), "{word}: {stderr}");
        }
    }
}
