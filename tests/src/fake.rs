//! What the fake worker (`tests/src/bin/fake_worker/`) is told, and how a supervisor is started
//! with it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{fixtures, home::Home};

/// The file below the home that says what to do.
const ORDER: &str = "fake_worker.order";
/// The file that the one process that misbehaves leaves below the home.
pub const CLAIM: &str = "fake_worker.claim";
/// The file that it leaves once it has misbehaved.
pub const DONE: &str = "fake_worker.done";

/// What a fake worker is told.
#[derive(Clone, Debug)]
pub struct Order {
    /// The real worker's executable.
    pub real: PathBuf,
    /// What to do wrong.
    pub wrong: String,
    /// The directory that all of it is in.
    pub home: PathBuf,
}

impl Order {
    /// Tells fake workers of this home what to do wrong.
    ///
    /// # Panics
    /// The disk refuses.
    pub fn give(home: &Home, wrong: &str) {
        let real = fixtures::onnxd_worker();
        let text = format!("{}\n{wrong}", real.display());
        fs::write(home.root().join(ORDER), text).unwrap();
    }

    /// What was ordered.
    ///
    /// # Errors
    /// Nothing was.
    pub fn read(home: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(home.join(ORDER))?;
        let (real, wrong) = text.split_once('\n').ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { real: real.into(), wrong: wrong.into(), home: home.into() })
    }

    /// What a fake worker has left to say that it misbehaved: how that went.
    pub fn done(home: &Home) -> Option<String> {
        fs::read_to_string(home.root().join(DONE)).ok()
    }
}
