//! The record of a generation, as the state directory keeps it.

use serde::{Deserialize, Serialize};

use super::{Drift, Facts, SourceUri};

/// What a generation is. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version's directory name: the SHA-256 of its manifest, in hex.
    pub version: String,
    /// The source that the model was configured with when this was committed. Where the
    /// configuration names another one at the next start, that one is staged. Earlier releases
    /// wrote the path of a directory, which is the same text.
    pub configured_source: SourceUri,
    /// What the checker found out about the version.
    pub facts: Facts,
    /// How far it was from what served before, where that was measured.
    #[serde(default)]
    pub drift: Option<Drift>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Task;

    #[test]
    fn records_of_the_previous_release_are_read_and_written_the_same() {
        let facts = serde_json::to_string(&Facts::of(Task::Embed)).unwrap();
        let old =
            format!(r#"{{"version":"v","configured_source":"/m","facts":{facts},"drift":null}}"#);
        let record: Record = serde_json::from_str(&old).unwrap();
        assert_eq!(record.configured_source, "file:///m".parse().unwrap());
        assert_eq!(serde_json::to_string(&record).unwrap(), old);
    }
}
