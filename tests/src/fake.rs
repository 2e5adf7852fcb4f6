//! Orders for the fake worker (`tests/src/bin/fake_worker/`), shared with the tests that start a
//! supervisor with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{fixtures, home::Home};

/// File in the home directory that names the fault.
const ORDER: &str = "fake_worker.order";
/// File in the home directory that the misbehaving process creates to claim its role.
pub const CLAIM: &str = "fake_worker.claim";
/// File that the process writes once it has misbehaved.
pub const DONE: &str = "fake_worker.done";

/// The order for a fake worker.
#[derive(Clone, Debug)]
pub struct Order {
    /// The real worker's executable.
    pub real: PathBuf,
    /// The fault.
    pub fault: String,
    /// The home directory.
    pub home: PathBuf,
}

impl Order {
    /// Writes the order for the fake workers of this home.
    ///
    /// # Panics
    /// Panics on an I/O error.
    pub fn give(home: &Home, fault: &str) {
        let real = fixtures::onnxd_worker();
        let text = format!("{}\n{fault}", real.display());
        fs::write(home.root().join(ORDER), text).unwrap();
    }

    /// Reads the order.
    ///
    /// # Errors
    /// Fails if there is no order.
    pub fn read(home: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(home.join(ORDER))?;
        let (real, fault) = text.split_once('\n').ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { real: real.into(), fault: fault.into(), home: home.into() })
    }

    /// Returns the result that a fake worker wrote, once it has misbehaved.
    pub fn done(home: &Home) -> Option<String> {
        fs::read_to_string(home.root().join(DONE)).ok()
    }
}
