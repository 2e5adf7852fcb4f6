//! The executable `onnxd-fetch`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxd_fetch::main()
}
