//! The executable `onnxd-worker`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxd_worker::main()
}
