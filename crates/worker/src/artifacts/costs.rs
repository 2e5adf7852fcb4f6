//! The measured costs of running a version on this machine. Measured when the compiled form is
//! built, and stored next to it. An unreadable file counts as missing.

use std::{fs, io, path::Path, time::Duration};

use onnxd_proto::{domain::cost::CostTable, regular};
use serde::{Deserialize, Serialize};

/// The file beside the compiled model.
const FILE: &str = "costs";
/// Maximum bytes of the file.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Approximate time limit for measuring. Larger shapes are skipped.
pub(crate) const BUDGET: Duration = Duration::from_millis(400);

/// The measured properties of a version's runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Costs {
    /// The cost of a run by shape.
    pub(crate) table: CostTable,
    /// Which texts may share a run without changing their embeddings.
    #[serde(rename = "company")]
    pub(crate) batching: Batching,
}

/// Which texts may run together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Batching {
    /// None: each text runs separately.
    #[serde(rename = "alone")]
    Separate,
    /// Texts of equal length.
    #[default]
    EqualLength,
    /// All texts, padded to the same length.
    Padded,
}

impl Costs {
    /// Reads the costs of the compiled form in `dir`, or `None` if they are missing or damaged.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        let text = regular::read(&dir.join(FILE), FILE_BYTES_MAX).ok()?;
        let costs: Self = serde_json::from_slice(&text).ok()?;
        costs.table.is_plausible().then_some(costs)
    }

    /// Writes the costs to the place read by [`Costs::read`].
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(FILE), serde_json::to_vec(self)?)
    }

    /// Returns the table for the supervisor, without batching gains unless all texts may run together.
    pub(crate) fn reported_table(&self) -> CostTable {
        if self.batching == Batching::Padded {
            self.table.clone()
        } else {
            self.table.one_at_a_time()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_read_back_and_damaged_files_are_ignored() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Costs::read(dir.path()), None);
        let written = Costs { batching: Batching::Padded, ..Costs::default() };
        written.write(dir.path()).unwrap();
        assert_eq!(Costs::read(dir.path()), Some(written));
        let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
        for damaged in
            [&text[1..], &text.replace("3000.0", "-1.0"), &text.replace("3000.0", "null")]
        {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            assert_eq!(Costs::read(dir.path()), None, "{damaged}");
        }
    }
}
