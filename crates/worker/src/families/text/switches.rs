//! Switches: integer inputs that change what a graph computes, such as the choice of an adapter.
//! Resolves their names and their values for a request. Pure.

use std::collections::BTreeMap;

use onnxd_proto::{
    domain::{Guess, Refusal, SwitchFacts},
    wire::operation::{Rejection, Switch, SwitchValue},
};

use super::files::{guess, json::contract};
use crate::families::config::{ModelConfig, Number};

/// The default value if no file sets one: Jina's task for both sides of a search.
const USUAL: &str = "text-matching";

/// The switches of a graph, in the graph's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Switches(Vec<SwitchFacts>);

impl Switches {
    /// Builds the switches with these names. `words` name the values if there is a single switch.
    ///
    /// # Errors
    /// `onnxd.toml` names an unknown input or value.
    pub(crate) fn new(
        names: Vec<String>,
        words: &[String],
        model_config: &ModelConfig,
        guesses: &mut Vec<Guess>,
    ) -> Result<Self, Refusal> {
        if let Some(unknown) = model_config.inputs.keys().find(|name| !names.contains(name)) {
            return Err(contract(format!(
                "onnxd.toml: inputs: the graph has no switch {unknown:?}; its switches are {}",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            )));
        }
        let values: BTreeMap<String, i64> = match names.len() {
            1 => words.iter().cloned().zip(0..).collect(),
            _ => BTreeMap::new(),
        };
        let mut switches = Vec::with_capacity(names.len());
        for name in names {
            let default = match model_config.inputs.get(&name) {
                Some(Number::Number(number)) => Some(*number),
                Some(Number::Name(word)) => Some(
                    value(&values, &name, word)
                        .map_err(|message| contract(format!("onnxd.toml: inputs: {message}")))?,
                ),
                None => {
                    let usual = values.get(USUAL).copied();
                    if usual.is_some() {
                        let reason = format!("no file sets a default for {name}");
                        guesses.push(guess("inputs", format!("{name} = {USUAL:?}"), reason));
                    }
                    usual
                }
            };
            switches.push(SwitchFacts { name, default, values: values.clone() });
        }
        Ok(Self(switches))
    }

    /// Resolves the values for a request that sets some switches and uses this prompt.
    ///
    /// # Errors
    /// The request sets an unknown switch, or omits one without a default.
    pub(crate) fn resolve(
        &self,
        set: &[Switch],
        prompt: Option<&str>,
    ) -> Result<Vec<i64>, Rejection> {
        if let Some(unknown) =
            set.iter().find(|set| self.0.iter().all(|switch| switch.name != set.name))
        {
            let known: Vec<&str> = self.0.iter().map(|switch| switch.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let name = &unknown.name;
            return Err(Rejection::Unfit(format!(
                "the model has no switch `{name}`; its switches are {known}"
            )));
        }
        let mut fed = Vec::with_capacity(self.0.len());
        for switch in &self.0 {
            let set = set.iter().find(|set| set.name == switch.name).map(|set| &set.value);
            let number = match set {
                Some(SwitchValue::Number(number)) => {
                    let is_known = switch.values.values().any(|value| value == number);
                    if !switch.values.is_empty() && !is_known {
                        return Err(Rejection::Unfit(format!(
                            "switch `{}` does not accept {number}{}",
                            switch.name,
                            list_names(&switch.values)
                        )));
                    }
                    Some(*number)
                }
                Some(SwitchValue::Name(word)) => {
                    Some(value(&switch.values, &switch.name, word).map_err(Rejection::Unfit)?)
                }
                None => prompt.and_then(|name| switch.values.get(name)).copied().or(switch.default),
            };
            fed.push(number.ok_or_else(|| {
                Rejection::Unfit(format!(
                    "the model needs a value for the switch `{}`: set it in the request, or set \
                     inputs = {{ {} = … }} in onnxd.toml{}",
                    switch.name,
                    switch.name,
                    list_names(&switch.values)
                ))
            })?);
        }
        Ok(fed)
    }

    /// Returns values for a trial: the default, else the lowest named value, else 0.
    pub(crate) fn any(&self) -> Vec<i64> {
        let any = |switch: &SwitchFacts| {
            switch.default.or(switch.values.values().min().copied()).unwrap_or(0)
        };
        self.0.iter().map(any).collect()
    }

    /// Returns the named value that a request sets, if any.
    pub(crate) fn word(set: &[Switch]) -> Option<&str> {
        set.iter().find_map(|set| match &set.value {
            SwitchValue::Name(word) => Some(word.as_str()),
            SwitchValue::Number(_) => None,
        })
    }

    /// Returns the switches for the record.
    pub(crate) fn facts(&self) -> &[SwitchFacts] {
        &self.0
    }
}

fn value(values: &BTreeMap<String, i64>, name: &str, word: &str) -> Result<i64, String> {
    let found = values.get(word).copied();
    found.ok_or_else(|| format!("switch `{name}` does not accept {word:?}{}", list_names(values)))
}

fn list_names(values: &BTreeMap<String, i64>) -> String {
    if values.is_empty() {
        return String::new();
    }
    let words: Vec<&str> = values.keys().map(String::as_str).collect();
    format!("; accepted values: {}", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: SwitchValue) -> Vec<Switch> {
        vec![Switch { name: name.into(), value }]
    }

    fn switches(words: &[&str], model_config: &ModelConfig) -> (Switches, Vec<Guess>) {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let mut guesses = Vec::new();
        let switches =
            Switches::new(vec!["task_id".into()], &words, model_config, &mut guesses).unwrap();
        (switches, guesses)
    }

    #[test]
    fn switch_is_set_by_number_word_prompt_or_default() {
        let model_config = ModelConfig {
            inputs: [("task_id".into(), Number::Name("b".into()))].into(),
            ..ModelConfig::default()
        };
        let (switches, guesses) = switches(&["a", "b"], &model_config);
        assert_eq!(guesses, []);
        assert_eq!(switches.resolve(&[], None), Ok(vec![1]));
        assert_eq!(switches.resolve(&[], Some("a")), Ok(vec![0]));
        assert_eq!(
            switches.resolve(&set("task_id", SwitchValue::Number(0)), Some("a")),
            Ok(vec![0])
        );
        assert!(switches.resolve(&set("task_id", SwitchValue::Number(-1)), None).is_err());
        let word = set("task_id", SwitchValue::Name("a".into()));
        assert_eq!(switches.resolve(&word, None), Ok(vec![0]));
    }

    #[test]
    fn missing_switch_is_refused_or_guessed() {
        let (none, guesses) = switches(&["a", "b"], &ModelConfig::default());
        assert_eq!(guesses, []);
        let Err(Rejection::Unfit(message)) = none.resolve(&[], None) else { panic!() };
        assert!(message.contains("task_id") && message.contains("a, b"), "{message}");
        let (jina, guesses) = switches(&["separation", USUAL], &ModelConfig::default());
        assert_eq!((jina.resolve(&[], None), guesses.len()), (Ok(vec![1]), 1));
        let unknown = set("other", SwitchValue::Number(1));
        let Err(Rejection::Unfit(message)) = jina.resolve(&unknown, None) else { panic!() };
        assert!(message.contains("other") && message.contains("task_id"), "{message}");
        let word = set("task_id", SwitchValue::Name("x".into()));
        assert!(matches!(jina.resolve(&word, None), Err(Rejection::Unfit(_))));
    }
}
