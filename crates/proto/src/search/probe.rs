//! What `onnxd-postgres --probe` finds.

use serde::{Deserialize, Serialize};

/// Whether a database can keep collections. Printed by `onnxd-postgres --probe` as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DatabaseProbe {
    /// It can.
    Usable,
    /// It cannot be reached now, for this reason.
    Unavailable(String),
    /// It refuses, until the URL or the database is changed. The text has the cause and the remedy.
    Refused(String),
}
