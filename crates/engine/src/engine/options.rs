//! How texts are tokenized, as contracts specify it, and how that applies to the answering model:
//! which prompt, which side of a search, which values of scalar inputs. Pure.

use onnxd_proto::{
    domain::Facts,
    wire::operation::{
        Operation, PROMPT_NAME_BYTES_MAX, Role, SWITCH_BYTES_MAX, SWITCHES_MAX, Side, Switch,
        SwitchValue, TextOperation,
    },
};

use super::EngineError;
use crate::dispatch::Input;

/// How texts are tokenized.
#[derive(Clone, Debug, Default)]
pub struct TextOptions {
    /// The end at which a text that is too long is truncated; `None` rejects it.
    pub truncate: Option<Side>,
    /// The name of the model's prompt to put before each text.
    pub prompt: Option<String>,
    /// What the vectors are for. An explicit prompt or switch takes precedence.
    pub purpose: Option<Purpose>,
    /// Values for scalar inputs of the model's graph.
    pub switches: Vec<Switch>,
}

/// What vectors are for: the name of one of the model's prompts, a word for the value of one of its
/// switches, or a side of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Purpose {
    /// The client's word for it, which is tried first.
    name: String,
    /// The caller's name for it, for errors.
    field: &'static str,
    /// Synonyms.
    words: &'static [&'static str],
    /// The side of a search, if it is one.
    role: Option<Role>,
    /// Whether to reject the request if the model has none of the words.
    is_required: bool,
}

/// Known purposes with their synonyms, and the side of a search that they mean. Each synonym may be
/// the name of a prompt or a word for a switch.
const PURPOSES: [(&[&str], Option<Role>); 5] = [
    (&["query", "search_query", "retrieval.query"], Some(Role::Query)),
    (&["document", "passage", "search_document", "retrieval.passage"], Some(Role::Document)),
    (&["classification"], None),
    (&["clustering", "separation"], None),
    (&["text-matching", "sts"], None),
];

/// The options as they apply to one version of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    prompt: Option<String>,
    role: Option<Role>,
    switches: Vec<Switch>,
}

impl TextOptions {
    /// Truncates overlong texts at the end that the model cuts, usually the right one.
    pub fn cut() -> Self {
        Self { truncate: Some(Side::Model), ..Self::default() }
    }

    /// Checks the limits that apply to every model.
    ///
    /// # Errors
    /// A name is too long, or there are too many switches.
    pub(super) fn check(&self) -> Result<(), EngineError> {
        check_prompt(self.prompt.as_ref())?;
        if self.switches.len() > SWITCHES_MAX {
            let count = self.switches.len();
            return Err(EngineError::Switches(format!(
                "`switches` has {count} entries, at most {SWITCHES_MAX} are allowed"
            )));
        }
        let word = |switch: &Switch| match &switch.value {
            SwitchValue::Name(word) => word.len(),
            SwitchValue::Number(_) => 0,
        };
        let bytes = |switch: &Switch| switch.name.len().max(word(switch));
        if self.switches.iter().map(bytes).max() > Some(SWITCH_BYTES_MAX) {
            return Err(EngineError::Switches(format!(
                "names and words in `switches` may have at most {SWITCH_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }

    /// Returns the options as far as they are known without the model.
    pub(super) fn operation(&self) -> TextOperation {
        let (prompt, switches) = (self.prompt.clone(), self.switches.clone());
        let role = self.purpose.as_ref().and_then(|purpose| purpose.role);
        TextOperation {
            truncate: self.truncate,
            prompt,
            role,
            switches,
            ..TextOperation::default()
        }
    }

    /// Returns the options as they apply to a model.
    ///
    /// # Errors
    /// The model has no word for the purpose, and the purpose requires one.
    pub(super) fn resolve(&self, facts: &Facts) -> Result<Resolved, EngineError> {
        let TextOperation { prompt, role, switches, .. } = self.operation();
        let mut resolved = Resolved { prompt, role, switches };
        let Some(purpose) = &self.purpose else { return Ok(resolved) };
        let is_set = resolved.prompt.is_some() || !resolved.switches.is_empty();
        if let Some(switch) = purpose.switch(facts) {
            if !resolved.switches.iter().any(|given| given.name == switch.name) {
                resolved.switches.push(switch);
            }
        } else if let Some(prompt) = purpose.prompt(facts) {
            resolved.prompt.get_or_insert(prompt);
        } else if purpose.is_required && purpose.role.is_none() && !is_set {
            return Err(purpose.unknown(facts));
        }
        Ok(resolved)
    }
}

impl Purpose {
    /// Creates the purpose with that name, which may be a word of Cohere, Jina or another API. An
    /// unknown name must be a word of the model.
    pub fn new(name: impl Into<String>, field: &'static str) -> Self {
        let name = name.into();
        let known = PURPOSES.iter().find(|(names, _)| names.contains(&name.as_str()));
        let is_required = known.is_none();
        let (words, role) = known.copied().unwrap_or((&[], None));
        Self { name, field, words, role, is_required }
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.name.as_str()).chain(self.words.iter().copied())
    }

    /// Returns the switch value that matches one of the words.
    fn switch(&self, facts: &Facts) -> Option<Switch> {
        self.words().find_map(|word| {
            facts.switches.iter().find_map(|switch| {
                let value = switch.values.keys().find(|value| value.eq_ignore_ascii_case(word))?;
                let value = SwitchValue::Name(value.clone());
                Some(Switch { name: switch.name.clone(), value })
            })
        })
    }

    /// Returns the prompt that matches one of the words.
    fn prompt(&self, facts: &Facts) -> Option<String> {
        self.words().find_map(|word| {
            facts.prompts.iter().find(|prompt| prompt.eq_ignore_ascii_case(word)).cloned()
        })
    }

    fn unknown(&self, facts: &Facts) -> EngineError {
        let values = facts.switches.iter().flat_map(|switch| switch.values.keys());
        let known: Vec<&str> = values.chain(&facts.prompts).map(String::as_str).collect();
        let known = match &known[..] {
            [] => "none".to_owned(),
            known => known.join(", "),
        };
        EngineError::Purpose { field: self.field, name: self.name.clone(), known }
    }
}

impl Resolved {
    /// Writes the options into the items of a request.
    pub(super) fn apply(&self, inputs: &mut [Input]) {
        for input in inputs {
            if let Operation::Text { text, .. } = &mut input.operation {
                text.prompt.clone_from(&self.prompt);
                text.role = self.role;
                text.switches.clone_from(&self.switches);
            }
        }
    }
}

/// Checks the length of a prompt name.
///
/// # Errors
/// The name is too long.
pub(super) fn check_prompt(name: Option<&String>) -> Result<(), EngineError> {
    let max = PROMPT_NAME_BYTES_MAX;
    if name.is_some_and(|name| name.len() > max) {
        return Err(EngineError::PromptName { max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::{SwitchFacts, Task};

    use super::*;

    fn query() -> Purpose {
        Purpose::new("search_query", "input_type")
    }

    fn options(purpose: Purpose) -> TextOptions {
        TextOptions { purpose: Some(purpose), ..TextOptions::cut() }
    }

    fn with_prompts(prompts: &[&str]) -> Facts {
        let prompts = prompts.iter().map(|&prompt| prompt.to_owned()).collect();
        Facts { prompts, ..Facts::new(Task::Embed) }
    }

    fn with_switch() -> Facts {
        let values = [("retrieval.query".to_owned(), 0), ("text-matching".to_owned(), 4)].into();
        let switch = SwitchFacts { name: "task_id".into(), default: Some(4), values };
        Facts { switches: vec![switch], ..with_prompts(&["search_query"]) }
    }

    #[test]
    fn purpose_selects_a_switch_then_a_prompt_then_a_role() {
        let resolved = options(query()).resolve(&with_switch()).unwrap();
        let switch =
            Switch { name: "task_id".into(), value: SwitchValue::Name("retrieval.query".into()) };
        assert_eq!((resolved.prompt, &resolved.switches[..]), (None, &[switch][..]));
        let resolved = options(query()).resolve(&with_prompts(&["Search_Query"])).unwrap();
        assert_eq!(resolved.prompt.as_deref(), Some("Search_Query"));
        assert_eq!(resolved.role, Some(Role::Query));
        let resolved = options(query()).resolve(&with_prompts(&["query"])).unwrap();
        assert_eq!(resolved.prompt.as_deref(), Some("query"));
        let resolved = options(query()).resolve(&with_prompts(&["other"])).unwrap();
        assert_eq!((resolved.prompt, resolved.role), (None, Some(Role::Query)));
    }

    #[test]
    fn explicit_options_take_precedence_over_a_purpose() {
        let number = Switch { name: "task_id".into(), value: SwitchValue::Number(1) };
        let named = TextOptions { switches: vec![number.clone()], ..options(query()) };
        assert_eq!(named.resolve(&with_switch()).unwrap().switches, [number]);
        let named = TextOptions { prompt: Some("mine".into()), ..options(query()) };
        let resolved = named.resolve(&with_prompts(&["search_query"])).unwrap();
        assert_eq!(resolved.prompt.as_deref(), Some("mine"));
    }

    #[test]
    fn an_unknown_purpose_is_rejected_with_the_known_words() {
        let message = options(Purpose::new("poetry", "task"))
            .resolve(&with_switch())
            .unwrap_err()
            .to_string();
        for part in ["task", "poetry", "retrieval.query, text-matching, search_query"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(options(Purpose::new("Text-Matching", "task")).resolve(&with_switch()).is_ok());
    }

    #[test]
    fn switches_are_limited() {
        let switch = |name: &str| Switch { name: name.into(), value: SwitchValue::Number(0) };
        let with = |switches| TextOptions { switches, ..TextOptions::cut() }.check();
        assert!(with(vec![switch(&"a".repeat(SWITCH_BYTES_MAX)); SWITCHES_MAX]).is_ok());
        assert!(with(vec![switch("a"); SWITCHES_MAX + 1]).is_err());
        assert!(with(vec![switch(&"a".repeat(SWITCH_BYTES_MAX + 1))]).is_err());
    }
}
