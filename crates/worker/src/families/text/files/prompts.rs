//! Reads the prompts that can be put before a text, and maps their names to the sides of a search.

use std::collections::BTreeMap;

use onnxd_proto::{
    domain::Refusal,
    wire::operation::{PROMPT_NAME_BYTES_MAX, Role},
};

use super::{Files, json::contract};

/// Maximum prompts of one model, and maximum bytes of one prompt.
const PROMPTS_MAX: usize = 256;
const PROMPT_BYTES_MAX: usize = 16 * 1024;
/// Common names of the prompt for each side of a search, the most common first.
const QUERY: [&str; 8] = [
    "query",
    "retrieval.query",
    "search_query",
    "s2p_query",
    "retrieval_query",
    "web_search_query",
    "Retrieval-query",
    "queries",
];
const DOCUMENT: [&str; 9] = [
    "document",
    "doc",
    "passage",
    "retrieval.passage",
    "search_document",
    "retrieval_document",
    "Retrieval-document",
    "corpus",
    "documents",
];

/// Prompts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prompts {
    pub(crate) named: BTreeMap<String, String>,
    /// The prompt for requests that name none.
    pub(crate) default: Option<String>,
}

impl Prompts {
    /// Reads the prompts of sentence-transformers' file and of `onnxd.toml`, which overrides it.
    ///
    /// # Errors
    /// The prompts are malformed, too many or too long, or the default one does not exist.
    pub(crate) fn read(files: &Files<'_>) -> Result<Self, Refusal> {
        let file = "config_sentence_transformers.json";
        let default_name: Option<String> = files.sentence.get("default_prompt_name")?;
        let mut named: BTreeMap<String, String> =
            files.sentence.get("prompts")?.unwrap_or_default();
        if let Some(instructions) =
            files.config.get::<BTreeMap<String, String>>("task_instructions")?
        {
            instructions.into_iter().for_each(|(name, text)| {
                named.entry(name).or_insert(text);
            });
        }
        named.extend(files.model_config.prompts.clone());
        let too_long = named.iter().any(|(name, prompt)| {
            name.len() > PROMPT_NAME_BYTES_MAX || prompt.len() > PROMPT_BYTES_MAX
        });
        if named.len() > PROMPTS_MAX || too_long {
            return Err(contract(format!(
                "{file} or onnxd.toml: at most {PROMPTS_MAX} prompts are allowed, each at most \
                 {PROMPT_BYTES_MAX} bytes long with a name of at most {PROMPT_NAME_BYTES_MAX} \
                 bytes"
            )));
        }
        let default = files.model_config.default_prompt_name.clone().or(default_name);
        if let Some(name) = default.as_ref().filter(|name| !named.contains_key(*name)) {
            return Err(contract(format!(
                "{file} or onnxd.toml: default_prompt_name {name:?} is not among the prompts"
            )));
        }
        Ok(Self { named, default })
    }

    /// Returns the name of the prompt for a side of a search, if the model has one.
    pub(crate) fn for_role(&self, role: Role) -> Option<&str> {
        let names = match role {
            Role::Query => &QUERY[..],
            Role::Document => &DOCUMENT[..],
        };
        names.iter().copied().find(|name| self.named.contains_key(*name))
    }
}

/// Returns the side of a search that a prompt of this name is for.
pub(crate) fn role_of(name: &str) -> Option<Role> {
    match name {
        name if QUERY.contains(&name) => Some(Role::Query),
        name if DOCUMENT.contains(&name) => Some(Role::Document),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_uses_the_first_common_prompt_name() {
        let named = |names: &[&str]| {
            let named = names.iter().map(|name| ((*name).to_owned(), String::new())).collect();
            Prompts { named, default: None }
        };
        let jina = named(&["retrieval.passage", "retrieval.query", "separation"]);
        assert_eq!(jina.for_role(Role::Query), Some("retrieval.query"));
        assert_eq!(jina.for_role(Role::Document), Some("retrieval.passage"));
        assert_eq!(named(&["sts"]).for_role(Role::Query), None);
        assert_eq!(role_of("passage"), Some(Role::Document));
        assert_eq!(role_of("sts"), None);
    }
}
