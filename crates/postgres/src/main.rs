//! The executable `onnxd-postgres`; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    onnxd_postgres::main()
}
