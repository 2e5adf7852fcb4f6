//! The executable `onnxd`. The library has the code.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxd::main()
}
