//! The command `onnxd`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxd::main()
}
