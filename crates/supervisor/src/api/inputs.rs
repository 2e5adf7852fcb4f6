//! Inputs of requests as clients write them: texts, token ids, pairs. Pure.

use onnxd_engine::engine::texts::Text;
use serde::Deserialize;
use utoipa::ToSchema;

/// A text, or its token ids in the model's vocabulary.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of token ids")]
pub(crate) enum TextOrIds {
    /// A text.
    Text(String),
    /// Token ids as the model receives them, special tokens included.
    Ids(Vec<u32>),
}

/// One text or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string, a list of strings, a list of token ids, or a list of such lists"
)]
pub(crate) enum Inputs {
    /// A text.
    Text(String),
    /// The token ids of one text.
    Ids(Vec<u32>),
    /// Several texts or lists of token ids.
    Several(Vec<TextOrIds>),
}

impl Inputs {
    /// Converts to the engine's texts.
    pub(crate) fn into_texts(self) -> Vec<Text> {
        let text = |input| match input {
            TextOrIds::Text(text) => Text::Text(text),
            TextOrIds::Ids(ids) => Text::Ids(ids),
        };
        self.into_list().into_iter().map(text).collect()
    }

    fn into_list(self) -> Vec<TextOrIds> {
        match self {
            Self::Text(text) => vec![TextOrIds::Text(text)],
            // An empty list means no inputs, not one text without tokens.
            Self::Ids(ids) if ids.is_empty() => Vec::new(),
            Self::Ids(ids) => vec![TextOrIds::Ids(ids)],
            Self::Several(several) => several,
        }
    }
}

/// One text or several, without token ids.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of strings")]
pub(crate) enum Texts {
    /// A text.
    One(String),
    /// Several texts.
    Several(Vec<String>),
}

impl Texts {
    pub(crate) fn into_list(self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text],
            Self::Several(texts) => texts,
        }
    }
}

/// A text, or a pair of texts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string, a list of one string, or a list of two strings")]
pub(crate) enum TextOrPair {
    /// A text.
    Text(String),
    /// A list of one or two texts.
    List(Vec<String>),
}

/// Inputs of a classifier. A list of one or two strings is one input: a text or a pair.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "a string, a pair of strings, or a list of lists of one or two strings"
)]
pub(crate) enum Classified {
    /// A text.
    Text(String),
    /// A text or a pair.
    One(Vec<String>),
    /// Several texts or pairs.
    Several(Vec<TextOrPair>),
}

/// The token ids of one or several texts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a list of token ids or a list of such lists")]
pub(crate) enum TokenIds {
    /// Token ids of one text.
    One(Vec<u32>),
    /// Token ids of several texts.
    Several(Vec<Vec<u32>>),
}

impl TokenIds {
    pub(crate) fn into_list(self) -> Vec<Vec<u32>> {
        match self {
            Self::One(ids) if ids.is_empty() => Vec::new(),
            Self::One(ids) => vec![ids],
            Self::Several(several) => several,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(json: &str) -> Result<Vec<TextOrIds>, serde_json::Error> {
        serde_json::from_str(json).map(Inputs::into_list)
    }

    #[test]
    fn inputs_may_be_single_or_lists() {
        let text = |text: &str| TextOrIds::Text(text.into());
        let ids = |ids: &[u32]| TextOrIds::Ids(ids.into());
        assert_eq!(inputs(r#""a""#).unwrap(), [text("a")]);
        assert_eq!(inputs(r#"["a", "b"]"#).unwrap(), [text("a"), text("b")]);
        assert_eq!(inputs("[1, 2]").unwrap(), [ids(&[1, 2])]);
        assert_eq!(inputs(r#"[[1, 2], [3], "a"]"#).unwrap(), [ids(&[1, 2]), ids(&[3]), text("a")]);
        assert!(inputs("[]").unwrap().is_empty());
        for wrong in ["1", "null", "{}", r#"["a", 1]"#, "[-1]", "[1.5]", "[4294967296]", "[[[1]]]"]
        {
            let said = inputs(wrong).unwrap_err().to_string();
            assert!(said.contains("list of token ids"), "{wrong}: {said}");
        }
    }

    #[test]
    fn two_strings_are_one_pair_for_a_classifier() {
        let classified = |json| serde_json::from_str::<Classified>(json).unwrap();
        assert_eq!(classified(r#"["a", "b"]"#), Classified::One(vec!["a".into(), "b".into()]));
        let several = [TextOrPair::List(vec!["a".into()]), TextOrPair::Text("b".into())];
        assert_eq!(classified(r#"[["a"], "b"]"#), Classified::Several(several.into()));
    }
}
