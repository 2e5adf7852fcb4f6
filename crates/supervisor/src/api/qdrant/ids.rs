//! Ids of points: numbers, UUIDs, or any other texts, which Qdrant does not have.

use onnxd_proto::search::{BATCH_MAX, DocumentId, ID_BYTES_MAX};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::{error::Fault, qdrant::error::wrong};

/// The id of a point.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected an id, which is an unsigned number or a text")]
pub(crate) enum PointId {
    /// A number.
    Number(u64),
    /// A UUID or another text.
    Text(String),
}

impl PointId {
    /// Reads the id of a path. Digits are a number, as in Qdrant.
    pub(super) fn of_path(segment: &str) -> Self {
        segment.parse().map_or_else(|_| Self::Text(segment.to_owned()), Self::Number)
    }

    /// Converts to the index's id. All spellings of a UUID are one id.
    ///
    /// # Errors
    /// The text is empty or too long.
    pub(crate) fn into_document(self) -> Result<DocumentId, Fault> {
        match self {
            Self::Number(number) => Ok(DocumentId::Number(number)),
            Self::Text(text) if text.is_empty() || text.len() > ID_BYTES_MAX => Err(wrong(
                format!("an id has {} bytes, 1 to {ID_BYTES_MAX} are allowed", text.len()),
            )),
            Self::Text(text) => Ok(DocumentId::Text(canonical_uuid(&text).unwrap_or(text))),
        }
    }
}

impl From<DocumentId> for PointId {
    fn from(id: DocumentId) -> Self {
        match id {
            DocumentId::Number(number) => Self::Number(number),
            DocumentId::Text(text) => Self::Text(text),
        }
    }
}

/// Converts several ids.
///
/// # Errors
/// There are too many, or one of them is empty or too long.
pub(super) fn into_documents(ids: Vec<PointId>) -> Result<Vec<DocumentId>, Fault> {
    if ids.len() > BATCH_MAX {
        return Err(wrong(format!(
            "{} ids in one request, at most {BATCH_MAX} are allowed; send them in several",
            ids.len()
        )));
    }
    ids.into_iter().map(PointId::into_document).collect()
}

/// Returns a UUID in lower case with hyphens; `None` if the text is not one.
fn canonical_uuid(text: &str) -> Option<String> {
    let bare = text.strip_prefix("urn:uuid:").unwrap_or(text);
    let digits = match bare.len() {
        32 => bare.to_owned(),
        36 if [8, 13, 18, 23].iter().all(|&at| bare.as_bytes()[at] == b'-') => {
            bare.replace('-', "")
        }
        _ => return None,
    };
    if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let digits = digits.to_ascii_lowercase();
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    Some(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DocumentId {
        PointId::Text(text.to_owned()).into_document().unwrap()
    }

    #[test]
    fn spellings_of_a_uuid_are_one_id() {
        let plain = id("936da01f-9abd-4d9d-80c7-02af85c822a8");
        for spelling in [
            "936DA01F-9ABD-4D9D-80C7-02AF85C822A8",
            "936da01f9abd4d9d80c702af85c822a8",
            "urn:uuid:936da01f-9abd-4d9d-80c7-02af85c822a8",
        ] {
            assert_eq!(id(spelling), plain);
        }
        for other in ["A", "936DA01F", "936DA01F9ABD-4D9D-80C7-02AF85C822A8-", &"ä".repeat(16)] {
            assert_eq!(id(other), DocumentId::Text(other.to_owned()));
        }
    }

    #[test]
    fn ids_of_paths_are_numbers_if_they_are_digits() {
        assert_eq!(PointId::of_path("17"), PointId::Number(17));
        assert_eq!(PointId::of_path("-1"), PointId::Text("-1".to_owned()));
        assert!(PointId::Text(String::new()).into_document().is_err());
        assert!(PointId::Text("a".repeat(ID_BYTES_MAX + 1)).into_document().is_err());
    }
}
