//! `cargo xtask soak`: builds everything, in release mode by default, and runs package
//! `onnxd-soak`.

use std::process::ExitCode;

use crate::{bench, error::Error, layout::Layout, test};

/// The only argument that xtask itself interprets.
const DEV: &str = "--dev";

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    if args.iter().any(|arg| arg == DEV) {
        // The same build as `cargo xtask test`, so nothing is rebuilt.
        bench::build_and_run(layout, &layout.debug().join("soak"), &test::BUILD, args)
    } else {
        bench::build_and_run(
            layout,
            &layout.release("soak"),
            &bench::release(&["onnxd-soak"]),
            args,
        )
    }
}
