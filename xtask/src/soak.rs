//! `cargo xtask soak`: builds everything, for release unless told otherwise, and runs package `onnxd-soak`.

use std::process::ExitCode;

use crate::{bench, error::Error, layout::Layout, test};

/// The one of its arguments that is for us.
const DEV: &str = "--dev";

pub(crate) fn run(layout: &Layout, args: &[String]) -> Result<ExitCode, Error> {
    if args.iter().any(|arg| arg == DEV) {
        // As `cargo xtask test` does, so that nothing is built again.
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
