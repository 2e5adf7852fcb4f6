//! Documents as clients send them: their bounds, and where their texts are. Called by
//! [`crate::service`] and [`crate::writes`].

use onnxd_proto::{
    limits::TEXT_BYTES_MAX,
    search::{
        Document, DocumentId, ID_BYTES_MAX, PAYLOAD_BYTES_MAX, Settings, TEXT_FIELDS, text_in,
    },
};
use serde_json::{Map, Value};

use crate::error::SearchError;

/// A document to add, or to replace the one with its id.
#[derive(Clone, Debug)]
pub struct NewDocument {
    pub id: DocumentId,
    pub content: Content,
    /// The client's own fields.
    pub payload: Map<String, Value>,
}

/// What is embedded.
#[derive(Clone, Debug)]
pub enum Content {
    /// This text.
    Text(String),
    /// A vector that the client got from this server. The text is the payload's; see
    /// [`Settings::text_field`].
    Vector(RawVector),
}

/// A vector that a client sends.
#[derive(Clone, Debug)]
pub struct RawVector {
    pub components: Vec<f32>,
    /// The version that made it, if the client says so. Otherwise this server must have issued it
    /// recently.
    pub version: Option<String>,
}

/// Checks the bounds of a document, before its text is embedded. The index refuses the same, since it
/// trusts no message; the numbers are those of [`onnxd_proto`].
///
/// # Errors
/// Its id, its text or its payload is too long.
pub(crate) fn check(document: &NewDocument) -> Result<(), SearchError> {
    if let DocumentId::Text(id) = &document.id
        && (id.is_empty() || id.len() > ID_BYTES_MAX)
    {
        let message = format!(
            "the id of a document has {} bytes, 1 to {ID_BYTES_MAX} are allowed; use a shorter one, or a number",
            id.len()
        );
        return Err(SearchError::invalid(message));
    }
    if let Content::Text(text) = &document.content
        && text.len() > TEXT_BYTES_MAX
    {
        let message = format!(
            "the text of document {} has {} bytes, at most {TEXT_BYTES_MAX} are allowed; split it into several documents",
            shown(&document.id),
            text.len()
        );
        return Err(SearchError::invalid(message));
    }
    // As it is stored.
    let bytes = serde_json::to_string(&document.payload).map_or(0, |payload| payload.len());
    if bytes > PAYLOAD_BYTES_MAX {
        let message = format!(
            "the payload of document {} has {bytes} bytes as JSON, at most {PAYLOAD_BYTES_MAX} are allowed; keep large data elsewhere, and its address in the payload",
            shown(&document.id)
        );
        return Err(SearchError::invalid(message));
    }
    Ok(())
}

/// Returns an id for an error, shortened if it is long.
pub(crate) fn shown(id: &DocumentId) -> String {
    match id {
        DocumentId::Number(number) => number.to_string(),
        DocumentId::Text(text) => format!("`{text:.100}`"),
    }
}

/// Returns a document with its text, and its vector if the client sent one.
pub(crate) fn with_text(
    settings: &Settings,
    document: NewDocument,
) -> Result<(Document, Option<RawVector>), SearchError> {
    let NewDocument { id, content, payload } = document;
    let (text, vector) = match content {
        Content::Text(text) => (text, None),
        Content::Vector(vector) => {
            let text = text_in(&payload, settings.text_field.as_deref());
            (text.ok_or_else(|| no_text(settings, &payload))?, Some(vector))
        }
    };
    let payload = Value::Object(payload).to_string();
    Ok((Document { id, text, payload }, vector))
}

fn no_text(settings: &Settings, payload: &Map<String, Value>) -> SearchError {
    let fields: Vec<&str> = payload.keys().take(10).map(String::as_str).collect();
    let wanted = match &settings.text_field {
        Some(field) => format!("field `{field}`"),
        None => format!("one of the fields {}", TEXT_FIELDS.join(", ")),
    };
    SearchError::invalid(format!(
        "a vector without its text cannot be embedded again when the model is updated: {wanted} of the payload must hold it, and the payload has {}; name the field in the collection's metadata, {{\"text\": \"FIELD\"}}",
        if fields.is_empty() { "none".to_owned() } else { fields.join(", ") }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(id: DocumentId, payload: Value) -> Option<String> {
        let payload = payload.as_object().cloned().unwrap_or_default();
        let document = NewDocument { id, content: Content::Text("a".into()), payload };
        check(&document).err().map(|error| error.to_string())
    }

    #[test]
    fn integers_of_64_bits_are_kept_and_larger_ones_rounded() {
        for (given, stored) in [
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551615", "18446744073709551615"),
            ("18446744073709551617", "1.8446744073709552e+19"),
        ] {
            let payload: Map<String, Value> =
                serde_json::from_str(&format!("{{\"n\":{given}}}")).unwrap();
            let content = Content::Text("a".into());
            let document = NewDocument { id: DocumentId::Number(1), content, payload };
            let settings = crate::process::fake::settings("{}");
            let (document, _) = with_text(&settings, document).unwrap();
            assert_eq!(document.payload, format!("{{\"n\":{stored}}}"));
        }
    }

    #[test]
    fn documents_at_a_limit_are_accepted_and_beyond_it_refused() {
        let text = |bytes| DocumentId::Text("x".repeat(bytes));
        // {"a":""} has 8 bytes.
        let payload = |bytes| serde_json::json!({ "a": "x".repeat(bytes - 8) });
        assert_eq!(refused(text(ID_BYTES_MAX), payload(PAYLOAD_BYTES_MAX)), None);
        let long = refused(text(ID_BYTES_MAX + 1), payload(8)).unwrap();
        assert!(long.contains("513 bytes, 1 to 512 are allowed"), "{long}");
        assert!(refused(text(0), payload(8)).is_some());
        let large = refused(DocumentId::Number(7), payload(PAYLOAD_BYTES_MAX + 1)).unwrap();
        assert!(large.contains("document 7 has 262145 bytes as JSON"), "{large}");
        let text = |bytes| {
            let (id, content) = (DocumentId::Number(7), Content::Text("x".repeat(bytes)));
            check(&NewDocument { id, content, payload: Map::new() })
        };
        assert!(text(TEXT_BYTES_MAX).is_ok());
        let long = text(TEXT_BYTES_MAX + 1).unwrap_err().to_string();
        assert!(long.contains("document 7 has 262145 bytes"), "{long}");
    }
}
