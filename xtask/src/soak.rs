//! `cargo xtask soak`: builds everything, for release unless told otherwise, and runs the soak of package `e2e`.

use std::process::ExitCode;

use crate::bench;
use crate::error::Error;
use crate::layout::Layout;

pub(crate) fn run(layout: &Layout, dev: bool, args: &[String]) -> Result<ExitCode, Error> {
    if dev {
        bench::build_and_run(layout, &layout.debug().join("soak"), &[], args)
    } else {
        bench::build_and_run(layout, &layout.release("soak"), &["--release"], args)
    }
}
