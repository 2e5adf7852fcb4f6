//! The executable `onnxd-index`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxd_index::main()
}
