//! The prompt template of a generative reranker, which asks whether a document answers a query. It
//! is rendered once when the model is loaded and filled in for each pair.

use minijinja::{Environment, Error, Value, context};
use onnxd_proto::domain::{Guess, Refusal};
use serde_json::json;

use super::files::{Files, assume, guess, json::contract};

/// Maximum size of a template, and of its rendered result, in bytes.
const BYTES_MAX: usize = 64 * 1024;
/// Maximum number of rendering steps.
const FUEL: u64 = 100_000;
/// The name of a chat template in messages.
const CHAT: &str = "chat_template";
/// Placeholders for the texts while a template is rendered. They use private-use characters, which
/// no template contains.
const QUERY: &str = "\u{e000}query\u{e001}";
const DOCUMENT: &str = "\u{e000}document\u{e001}";
/// The template that the authors of Qwen3-Reranker publish; the model's files do not contain it.
const QWEN3: &str = "<|im_start|>system\nJudge whether the Document meets the requirements based on \
    the Query and the Instruct provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n\
    <|im_start|>user\n<Instruct>: {{ instruction }}\n<Query>: {{ query }}\n<Document>: {{ document }}\
    <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
/// Values of `template` in onnxd.toml that select this template, or none.
const QWEN3_NAME: &str = "qwen3-reranker";
const NONE: &str = "none";
const INSTRUCTION: &str =
    "Given a web search query, retrieve relevant passages that answer the query";

/// A rendered template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    /// The text after the query and the document, which is never cut off.
    end: String,
    /// Whether the template strips whitespace around the query and the document.
    trims: (bool, bool),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Query,
    Document,
}

impl Template {
    /// Reads the template of a reranker. Returns `None` if pairs go to the tokenizer unchanged.
    /// Adds assumptions to `guesses`.
    ///
    /// # Errors
    /// The template is malformed or omits a text, or the model needs a template and has none.
    pub(crate) fn read(
        files: &Files<'_>,
        is_generative: bool,
        guesses: &mut Vec<Guess>,
    ) -> Result<Option<Self>, Refusal> {
        let instruction = instruction(files)?;
        let configured = files.model_config.template.as_deref();
        if configured == Some(NONE) {
            return Ok(None);
        }
        if configured == Some(QWEN3_NAME) {
            return Self::qwen3(instruction).map(Some);
        }
        if let Some(source) = configured {
            return Self::render("onnxd.toml: template", source, &|query, document| {
                context! { query, document, instruction => instruction.clone() }
            })
            .map(Some);
        }
        let chat = files.chat_template()?.filter(|source| has_roles(source));
        if let Some(source) = chat {
            let begin = files.special_token("bos_token")?.unwrap_or_default();
            let end = files.special_token("eos_token")?.unwrap_or_default();
            return Self::render(CHAT, &source, &|query, document| {
                let mut messages = vec![
                    json!({ "role": "query", "content": query }),
                    json!({ "role": "document", "content": document }),
                ];
                if let Some(instruction) = &instruction {
                    messages.insert(0, json!({ "role": "system", "content": instruction }));
                }
                context! {
                    messages => Value::from_serialize(messages),
                    add_generation_prompt => true,
                    bos_token => begin.clone(),
                    eos_token => end.clone(),
                }
            })
            .map(Some);
        }
        if !is_generative {
            if assume::is_decoder(&files.config)? {
                let reason = "no file sets how a query and a document are joined";
                guesses.push(guess("template", NONE, reason));
            }
            return Ok(None);
        }
        if files.config.get::<String>("model_type")?.as_deref() == Some("qwen3") {
            let reason = "no file has a template for a query and a document; this is the template \
                          that the authors of Qwen3-Reranker publish";
            guesses.push(guess("template", QWEN3_NAME, reason));
            return Self::qwen3(instruction).map(Some);
        }
        Err(contract(
            "the model answers with a token, but no file sets its prompt: chat_template.jinja has \
             no roles query and document. Set template in onnxd.toml, containing {{ query }} and \
             {{ document }}, together with true_token and false_token",
        ))
    }

    fn qwen3(instruction: Option<String>) -> Result<Self, Refusal> {
        let instruction = instruction.unwrap_or_else(|| INSTRUCTION.to_owned());
        Self::render(QWEN3_NAME, QWEN3, &|query, document| {
            context! { query, document, instruction => instruction.clone() }
        })
    }

    fn render(
        name: &str,
        source: &str,
        values: &dyn Fn(&str, &str) -> Value,
    ) -> Result<Self, Refusal> {
        if source.len() > BYTES_MAX {
            return Err(contract(format!("{name}: the template has more than {BYTES_MAX} bytes")));
        }
        let malformed = |error: Error| contract(format!("{name}: {error}"));
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        // Chat templates are rendered as in transformers; other templates keep their whitespace.
        let is_chat = name == CHAT;
        environment.set_trim_blocks(is_chat);
        environment.set_lstrip_blocks(is_chat);
        environment.set_keep_trailing_newline(!is_chat);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        let template = environment.template_from_str(source).map_err(malformed)?;
        let text = template.render(values(QUERY, DOCUMENT)).map_err(malformed)?;
        if text.len() > BYTES_MAX {
            return Err(contract(format!(
                "{name}: the template renders to more than {BYTES_MAX} bytes"
            )));
        }
        // Whitespace around the texts reveals what the template does to them.
        let (query, document) = (format!(" {QUERY}\n"), format!("\n{DOCUMENT} "));
        let spaced = template.render(values(&query, &document)).map_err(malformed)?;
        let trims = (!spaced.contains(&query), !spaced.contains(&document));
        let plain = |kept: bool, given: &str, mark: &str, text: &str| match kept {
            true => text.replace(given, mark),
            false => text.to_owned(),
        };
        let without = plain(!trims.0, &query, QUERY, &spaced);
        if plain(!trims.1, &document, DOCUMENT, &without) != text {
            return Err(contract(format!(
                "{name}: the template changes the texts in an unsupported way; only stripping \
                 whitespace is supported"
            )));
        }
        let cut = Self::cut(&text).ok_or_else(|| {
            contract(format!(
                "{name}: the template must contain the query and the document exactly once each"
            ))
        })?;
        Ok(Self { trims, ..cut })
    }

    /// Splits a rendered template at the texts.
    fn cut(text: &str) -> Option<Self> {
        let (query, document) = (text.find(QUERY)?, text.find(DOCUMENT)?);
        let once = |mark: &str| text.matches(mark).count() == 1;
        if !once(QUERY) || !once(DOCUMENT) {
            return None;
        }
        let ((first, first_mark, one), (second, second_mark, two)) = if query < document {
            ((query, QUERY, Part::Query), (document, DOCUMENT, Part::Document))
        } else {
            ((document, DOCUMENT, Part::Document), (query, QUERY, Part::Query))
        };
        let between = &text[first + first_mark.len()..second];
        let parts =
            vec![Part::Literal(text[..first].into()), one, Part::Literal(between.into()), two];
        let end = text[second + second_mark.len()..].to_owned();
        Some(Self { parts, end, trims: (false, false) })
    }

    /// Returns the text for a pair, without the template's end.
    pub(crate) fn fill(&self, query: &str, document: &str) -> String {
        let query = if self.trims.0 { query.trim() } else { query };
        let document = if self.trims.1 { document.trim() } else { document };
        let mut text = String::new();
        for part in &self.parts {
            text.push_str(match part {
                Part::Literal(literal) => literal,
                Part::Query => query,
                Part::Document => document,
            });
        }
        text
    }

    /// Returns the text after the query and the document.
    pub(crate) fn end(&self) -> &str {
        &self.end
    }
}

/// Returns whether a chat template distinguishes the two sides of a search. Other templates would
/// render such a pair to nothing, or to a prompt that the model was not trained with.
fn has_roles(source: &str) -> bool {
    let mentions = |word: &str| {
        source.contains(&format!("'{word}'")) || source.contains(&format!("\"{word}\""))
    };
    mentions("query") && mentions("document")
}

/// Returns the model's search instruction, if its files set one.
fn instruction(files: &Files<'_>) -> Result<Option<String>, Refusal> {
    let prompts = super::files::prompts::Prompts::read(files)?;
    Ok(prompts.default.and_then(|name| prompts.named.get(&name).cloned()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::families::config::ModelConfig;

    const ROLES: &str = "{%- for m in messages %}{%- if m.role == 'query' %}Q:{{ m.content }}|\
        {%- elif m.role == 'document' %}D:{{ m.content.strip() }}{%- endif %}{%- endfor %}<end>";

    fn read(
        files: &[(&str, &str)],
        is_generative: bool,
    ) -> Result<(Option<Template>, usize), Refusal> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let model_config = ModelConfig::read(dir.path())?;
        let mut guesses = Vec::new();
        let files = Files::read(dir.path(), &model_config)?;
        Ok((Template::read(&files, is_generative, &mut guesses)?, guesses.len()))
    }

    #[test]
    fn chat_template_with_query_and_document_roles_is_used() {
        let (template, guesses) = read(&[("chat_template.jinja", ROLES)], true).unwrap();
        let template = template.unwrap();
        assert_eq!(template.fill(" a {{ b }}", " c "), "Q: a {{ b }}|D:c");
        assert_eq!((template.end(), guesses), ("<end>", 0));
    }

    #[test]
    fn template_in_onnxd_toml_overrides_the_chat_template() {
        let onnxd_toml = ("onnxd.toml", "template = \"{{ document }} / {{ query }}?\"");
        let template =
            read(&[("chat_template.jinja", ROLES), onnxd_toml], true).unwrap().0.unwrap();
        assert_eq!((&*template.fill("q", "d"), template.end()), ("d / q", "?"));
    }

    #[test]
    fn incomplete_or_endless_template_is_refused() {
        for source in ["{{ query }}", "{{ query }}{{ query }}{{ document }}", "{% if %}"] {
            let onnxd_toml = format!("template = {source:?}");
            let message = read(&[("onnxd.toml", &onnxd_toml)], true).unwrap_err().message;
            assert!(message.contains("template"), "{message}");
        }
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
        assert!(read(&[("onnxd.toml", &format!("template = {endless:?}"))], true).is_err());
    }

    #[test]
    fn missing_template_is_guessed_for_known_models_only() {
        let qwen3 = ("config.json", r#"{"model_type": "qwen3"}"#);
        let (template, guesses) = read(&[qwen3], true).unwrap();
        assert!(template.unwrap().end().ends_with("</think>\n\n"));
        assert_eq!(guesses, 1);
        let message =
            read(&[("config.json", r#"{"model_type": "llama"}"#)], true).unwrap_err().message;
        assert!(message.contains("true_token"), "{message}");
        assert_eq!(read(&[], false).unwrap(), (None, 0));
    }
}
