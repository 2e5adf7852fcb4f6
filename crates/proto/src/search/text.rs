//! Which field of a payload holds the text of its document, the same in every store. Pure.

use serde_json::{Map, Value};

use super::{DocumentId, IndexError, IndexErrorKind, PayloadChange};

/// Payload fields that clients put texts in, in the order in which they are tried.
pub const TEXT_FIELDS: [&str; 5] =
    ["page_content", "text", "content", "document", LLAMA_INDEX_FIELD];
/// LlamaIndex stores the whole node as JSON.
const LLAMA_INDEX_FIELD: &str = "_node_content";

/// Returns the text in a payload: that of `field`, see [`Settings::text_field`], or of the first usual
/// one that has a text.
///
/// [`Settings::text_field`]: super::Settings::text_field
pub fn text_in(payload: &Map<String, Value>, field: Option<&str>) -> Option<String> {
    fields(field).find_map(|name| text_of(payload, name, field.is_some()))
}

/// The texts that a change of payloads sets in fields that may hold the texts of documents. A payload
/// that shows another text than the one that is searched would be wrong, and a change of payloads
/// embeds nothing.
#[derive(Debug)]
pub struct TextChange<'c> {
    /// By field.
    texts: Vec<(&'c str, String)>,
    /// Whether the collection's settings name the field.
    is_named: bool,
}

impl<'c> TextChange<'c> {
    /// Returns the texts that a change sets. `field` is that of the collection's settings.
    pub fn of(change: &PayloadChange, field: Option<&'c str>) -> Self {
        let is_named = field.is_some();
        let texts = match change {
            PayloadChange::Set(fields_set) | PayloadChange::Replace(fields_set) => {
                let set = object(fields_set);
                let given = |name: &'c str| Some((name, text_of(&set, name, is_named)?));
                fields(field).filter_map(given).collect()
            }
            // Without the field, nothing wrong is shown.
            PayloadChange::Remove(_) => Vec::new(),
        };
        Self { texts, is_named }
    }

    /// Returns whether no document can be affected, so that none has to be read.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Checks the change against a document. A usual field that did not hold the document's text is an
    /// ordinary one.
    ///
    /// # Errors
    /// The payload holds the text of the document, and would hold another one.
    pub fn check(&self, id: &DocumentId, text: &str, payload: &str) -> Result<(), IndexError> {
        let payload = object(payload);
        let differs = |(name, new): &&(&str, String)| {
            let old = text_of(&payload, name, self.is_named);
            new != text
                && old.as_ref() != Some(new)
                && (self.is_named || old.as_deref() == Some(text))
        };
        let Some((name, _)) = self.texts.iter().find(differs) else { return Ok(()) };
        let id = match id {
            DocumentId::Number(number) => number.to_string(),
            DocumentId::Text(text) => format!("`{text:.100}`"),
        };
        Err(IndexErrorKind::Invalid.because(format!(
            "payload field `{name:.100}` holds the text of document {id}, and a change of the payload does not embed another text; upsert the document with its new text"
        )))
    }
}

/// Returns the names of the fields that may hold texts.
fn fields(field: Option<&str>) -> impl Iterator<Item = &str> {
    let usual: &[&str] = if field.is_some() { &[] } else { &TEXT_FIELDS };
    field.into_iter().chain(usual.iter().copied())
}

fn text_of(payload: &Map<String, Value>, name: &str, is_named: bool) -> Option<String> {
    let text = payload.get(name)?.as_str()?;
    if is_named || name != LLAMA_INDEX_FIELD {
        return Some(text.to_owned());
    }
    let node: Value = serde_json::from_str(text).ok()?;
    node.get("text")?.as_str().map(str::to_owned)
}

fn object(payload: &str) -> Map<String, Value> {
    serde_json::from_str(payload).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts_are_found_where_clients_put_them() {
        let find = |payload: Value, field| text_in(payload.as_object().unwrap(), field);
        let node = json!({"text": "a", "metadata": {}}).to_string();
        for (payload, field, text) in [
            (json!({"page_content": "a", "text": "b"}), None, Some("a")),
            (json!({"document": "b", "content": "a"}), None, Some("a")),
            (json!({"text": 1, "document": "a"}), None, Some("a")),
            (json!({"_node_content": node}), None, Some("a")),
            (json!({"_node_content": "a"}), None, None),
            (json!({"_node_content": "a"}), Some("_node_content"), Some("a")),
            (json!({"body": "a", "text": "b"}), Some("body"), Some("a")),
            (json!({"text": "b"}), Some("body"), None),
            (json!({"other": "b"}), None, None),
        ] {
            assert_eq!(find(payload.clone(), field).as_deref(), text, "{payload}");
        }
    }

    #[test]
    fn a_change_may_not_show_another_text_than_the_searched_one() {
        let node = |text: &str, of: u32| json!({"text": text, "of": of}).to_string();
        let is_refused = |field, payload: Value, set: Value| {
            let change = [PayloadChange::Set, PayloadChange::Replace].map(|kind| {
                let change = kind(set.to_string());
                let id = DocumentId::Number(7);
                TextChange::of(&change, field).check(&id, "a", &payload.to_string())
            });
            assert_eq!(change[0], change[1], "{payload} {set}");
            change[0].as_ref().is_err_and(|error| {
                error.message.contains("document 7") && error.message.contains("upsert")
            })
        };
        let langchain = json!({"page_content": "a", "metadata": {}});
        let llama_index = json!({"_node_content": node("a", 1)});
        for (field, payload, set) in [
            (None, &langchain, json!({"page_content": "b"})),
            (None, &llama_index, json!({"_node_content": node("b", 1)})),
            (Some("body"), &json!({"body": "a"}), json!({"body": "b", "x": 1})),
            // The settings say that the field holds the text.
            (Some("body"), &json!({}), json!({"body": "b"})),
        ] {
            assert!(is_refused(field, payload.clone(), set.clone()), "{payload} {set}");
        }
        for (field, payload, set) in [
            (None, &langchain, json!({"page_content": "a", "metadata": {"x": 1}})),
            (None, &langchain, json!({"content": "b"})),
            (None, &llama_index, json!({"_node_content": node("a", 2)})),
            // Its text was sent beside the payload.
            (None, &json!({"document": "x.pdf"}), json!({"document": "y.pdf"})),
            (None, &json!({}), json!({"document": "y.pdf"})),
            (Some("body"), &json!({"body": "b"}), json!({"body": "b", "x": 1})),
            (Some("body"), &json!({"body": "a"}), json!({"text": "b"})),
        ] {
            assert!(!is_refused(field, payload.clone(), set.clone()), "{payload} {set}");
        }
        let removed = PayloadChange::Remove(vec!["page_content".into()]);
        assert!(TextChange::of(&removed, None).is_empty());
    }
}
