//! The record of a generation in the state directory.

use serde::{Deserialize, Serialize};

use super::{Drift, Facts, SourceUri};

/// Describes a generation. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The version's directory name: the SHA-256 of its manifest, in hex.
    pub version: String,
    /// The model's configured source at the time of the commit. If the configuration names a
    /// different one at the next start, that source is staged. Earlier releases wrote a directory
    /// path, which is the same text.
    pub configured_source: SourceUri,
    /// The checker's findings about the version.
    pub facts: Facts,
    /// Drift from the previously served generation, if measured.
    #[serde(default)]
    pub drift: Option<Drift>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Task;

    #[test]
    fn records_of_the_previous_release_round_trip() {
        let facts = serde_json::to_string(&Facts::new(Task::Embed)).unwrap();
        let old =
            format!(r#"{{"version":"v","configured_source":"/m","facts":{facts},"drift":null}}"#);
        let record: Record = serde_json::from_str(&old).unwrap();
        assert_eq!(record.configured_source, "file:///m".parse().unwrap());
        assert_eq!(serde_json::to_string(&record).unwrap(), old);
    }
}
