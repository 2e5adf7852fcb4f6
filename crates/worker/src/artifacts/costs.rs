//! What running a version costs on this machine: measured once, when its compiled form is made,
//! and kept beside it. A file that cannot be read is as good as none: then nothing is assumed.

use std::{fs, io, path::Path, time::Duration};

use onnxd_proto::domain::cost::CostTable;
use serde::{Deserialize, Serialize};

/// The file beside the compiled model.
const FILE: &str = "costs";
/// Measuring takes no longer than about this; larger shapes are left out.
pub(crate) const BUDGET: Duration = Duration::from_millis(400);

/// What is known of a version's runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Costs {
    /// By shape.
    pub(crate) table: CostTable,
    /// In which company a text gives the same embedding as alone.
    pub(crate) company: Company,
}

/// With which others a text may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Company {
    /// With none.
    Alone,
    /// With those that are as long.
    #[default]
    EqualLength,
    /// With all: it is padded.
    Padded,
}

impl Costs {
    /// Reads what was measured for the compiled form in `dir`.
    pub(crate) fn read(dir: &Path) -> Option<Self> {
        let costs: Self = serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()?;
        costs.table.is_sound().then_some(costs)
    }

    /// Puts it where [`Costs::read`] finds it.
    pub(crate) fn write(&self, dir: &Path) -> io::Result<()> {
        fs::write(dir.join(FILE), serde_json::to_vec(self)?)
    }

    /// What the supervisor is told: what cannot run together gains nothing by it.
    pub(crate) fn table_to_tell(&self) -> CostTable {
        if self.company == Company::Padded { self.table.clone() } else { self.table.apart() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Costs::read(dir.path()), None);
        let written = Costs { company: Company::Padded, ..Costs::default() };
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
