//! Text options that several contracts share: truncation, prompts, and values of scalar inputs.
//! Pure.

use std::collections::BTreeMap;

use onnxd_engine::engine::texts::{Purpose, Side, Switch, SwitchValue, TextOptions};
use serde::Deserialize;
use utoipa::ToSchema;

/// The end at which a text that is too long is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub(crate) enum TruncationDirection {
    /// Cut the beginning.
    #[serde(alias = "left")]
    Left,
    /// Cut the end.
    #[default]
    #[serde(alias = "right")]
    Right,
}

/// Values for scalar inputs of the model's graph, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(transparent)]
pub(crate) struct Switches(BTreeMap<String, SwitchInput>);

/// A number, or a word that the model maps to one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged, expecting = "an integer or a string")]
enum SwitchInput {
    /// The value itself.
    Number(i64),
    /// A word that the model defines.
    Word(String),
}

impl Switches {
    /// Converts to the engine's switches.
    pub(crate) fn into_list(self) -> Vec<Switch> {
        let value = |input| match input {
            SwitchInput::Number(number) => SwitchValue::Number(number),
            SwitchInput::Word(word) => SwitchValue::Word(word),
        };
        self.0.into_iter().map(|(name, input)| Switch { name, value: value(input) }).collect()
    }
}

/// Options of a request. Each field is set if the request has it.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Truncate texts that are too long instead of rejecting them. Default: true.
    pub truncate: Option<bool>,
    pub truncation_direction: Option<TruncationDirection>,
    pub prompt_name: Option<String>,
    pub input_type: Option<String>,
    pub switches: Option<Switches>,
}

impl From<Options> for TextOptions {
    fn from(options: Options) -> Self {
        let side = match options.truncation_direction {
            None => Side::Model,
            Some(TruncationDirection::Left) => Side::Left,
            Some(TruncationDirection::Right) => Side::Right,
        };
        Self {
            truncate: options.truncate.unwrap_or(true).then_some(side),
            prompt: options.prompt_name,
            purpose: options.input_type.map(|name| Purpose::new(name, "input_type")),
            switches: options.switches.unwrap_or_default().into_list(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_integers_or_words() {
        let read = |json| serde_json::from_str::<Switches>(json);
        let switches = read(r#"{"task_id": 4, "b": "text-matching"}"#).unwrap().into_list();
        let switch = |name: &str, value| Switch { name: name.into(), value };
        let word = SwitchValue::Word("text-matching".into());
        assert_eq!(switches, [switch("b", word), switch("task_id", SwitchValue::Number(4))]);
        for wrong in [r#"{"a": 1.5}"#, r#"{"a": null}"#, r#"{"a": [1]}"#, "[]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn texts_are_truncated_unless_the_request_refuses() {
        assert_eq!(TextOptions::from(Options::default()).truncate, Some(Side::Model));
        let refuse = Options { truncate: Some(false), ..Options::default() };
        assert_eq!(TextOptions::from(refuse).truncate, None);
    }
}
