//! What a version is for, by its files: a small `onnxd.toml` of its own, what sentence-transformers
//! lists, or the architecture that `config.json` names. Knows nothing of the model itself.

use std::{collections::BTreeMap, fs, io, path::Path};

use onnxd_proto::domain::{Activation, Pooling, Refusal, RefusalKind, Task};
use serde::Deserialize;

use crate::families::text::config::JsonFile;

/// The file in which a version says what others do not, or say wrongly.
const OWN: &str = "onnxd.toml";
/// A directory without any of these is a model for tensors.
const TEXT_FILES: [&str; 3] = ["tokenizer.json", "config.json", "modules.json"];
/// How the names of architectures end that give a score for each label.
const SCORING: &str = "ForSequenceClassification";
/// Labels of one model.
const LABELS_MAX: usize = 65_536;

/// What `onnxd.toml` may say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case", default)]
pub(crate) struct Own {
    /// What the model is for.
    pub(crate) task: Option<Task>,
    /// How token embeddings become one.
    pub(crate) pooling: Option<Pooling>,
    /// Whether embeddings have length 1.
    pub(crate) normalize: Option<bool>,
    /// How scores become numbers between 0 and 1.
    pub(crate) activation: Option<Activation>,
    /// Tokens of the longest text.
    pub(crate) max_tokens: Option<u32>,
    /// The prompt for texts whose request names none.
    pub(crate) default_prompt_name: Option<String>,
    /// `false`: tensors of different requests never run together.
    pub(crate) batch: Option<bool>,
}

impl Own {
    /// Reads the file in `dir`, if there is one.
    ///
    /// # Errors
    /// It is malformed.
    pub(crate) fn read(dir: &Path) -> Result<Self, Refusal> {
        match fs::read_to_string(dir.join(OWN)) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| RefusalKind::Contract.because(format!("{OWN}: {error}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(RefusalKind::Internal.because(format!("{OWN}: {error}"))),
        }
    }
}

/// What the version in `dir` is for.
///
/// # Errors
/// A file is malformed.
pub(crate) fn of(dir: &Path, own: &Own) -> Result<Task, Refusal> {
    if let Some(task) = own.task {
        return Ok(task);
    }
    if !TEXT_FILES.iter().any(|file| dir.join(file).is_file()) {
        return Ok(Task::Tensor);
    }
    let config = JsonFile::read(dir, "config.json")?;
    let scores = match &config {
        Some(config) => {
            let architectures: Vec<String> = config.get("architectures")?.unwrap_or_default();
            architectures.iter().any(|name| name.ends_with(SCORING))
        }
        None => false,
    };
    if dir.join("modules.json").is_file() || !scores {
        return Ok(Task::Embed);
    }
    Ok(if labels(dir)?.len() == 1 { Task::Rerank } else { Task::Classify })
}

/// What the scores of a model are of, by `id2label`; none where the file does not say it.
///
/// # Errors
/// The labels are not numbered from 0 on.
pub(crate) fn labels(dir: &Path) -> Result<Vec<String>, Refusal> {
    let Some(config) = JsonFile::read(dir, "config.json")? else { return Ok(Vec::new()) };
    let named: BTreeMap<String, String> = config.get("id2label")?.unwrap_or_default();
    let wrong =
        |what: &str| Err(RefusalKind::Contract.because(format!("config.json: id2label {what}")));
    if named.len() > LABELS_MAX {
        return wrong("has too many labels");
    }
    let mut labels = vec![None; named.len()];
    for (number, label) in named {
        let place = number.parse().ok().and_then(|place: usize| labels.get_mut(place));
        let Some(place) = place else {
            return wrong("is not numbered from 0 on");
        };
        *place = Some(label);
    }
    match labels.into_iter().collect() {
        Some(labels) => Ok(labels),
        None => wrong("names a number twice"),
    }
}

/// How scores become numbers between 0 and 1, if nothing else is said: as the model was trained.
///
/// # Errors
/// A file is malformed.
pub(crate) fn activation(dir: &Path, task: Task, labels: usize) -> Result<Activation, Refusal> {
    let config = JsonFile::read(dir, "config.json")?;
    let problem: Option<String> = match &config {
        Some(config) => config.get("problem_type")?,
        None => None,
    };
    let each = problem.as_deref() == Some("multi_label_classification");
    let sigmoid = each || labels == 1 || task == Task::Rerank;
    Ok(if sigmoid { Activation::Sigmoid } else { Activation::Softmax })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir_with(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    fn task(files: &[(&str, &str)]) -> Result<Task, Refusal> {
        let dir = dir_with(files);
        of(dir.path(), &Own::read(dir.path())?)
    }

    const SCORES: &str =
        r#"{"architectures": ["BertForSequenceClassification"], "id2label": LABELS}"#;

    #[test]
    fn the_files_say_what_a_model_is_for() {
        let one = SCORES.replace("LABELS", r#"{"0": "a"}"#);
        let two = SCORES.replace("LABELS", r#"{"1": "b", "0": "a"}"#);
        assert_eq!(task(&[("model.onnx", "")]).unwrap(), Task::Tensor);
        assert_eq!(task(&[("tokenizer.json", "{}")]).unwrap(), Task::Embed);
        assert_eq!(
            task(&[("config.json", r#"{"architectures": ["BertModel"]}"#)]).unwrap(),
            Task::Embed
        );
        assert_eq!(task(&[("config.json", &one)]).unwrap(), Task::Rerank);
        assert_eq!(task(&[("config.json", &two)]).unwrap(), Task::Classify);
        assert_eq!(task(&[("config.json", &two), ("modules.json", "[]")]).unwrap(), Task::Embed);
        assert_eq!(
            task(&[("config.json", &two), (OWN, "task = \"rerank\"")]).unwrap(),
            Task::Rerank
        );
    }

    #[test]
    fn labels_come_in_the_order_of_their_numbers_or_are_refused() {
        let labels_of = |given: &str| {
            let config = SCORES.replace("LABELS", given);
            labels(dir_with(&[("config.json", &config)]).path())
        };
        assert_eq!(labels_of(r#"{"1": "b", "0": "a"}"#).unwrap(), ["a", "b"]);
        assert!(labels_of("{}").unwrap().is_empty());
        for wrong in
            [r#"{"1": "b"}"#, r#"{"0": "a", "00": "b"}"#, r#"{"x": "a"}"#, r#"{"0": 1}"#, "[]"]
        {
            assert!(labels_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_onnxd_toml_does_not_know_is_refused_by_name() {
        let refusal = task(&[(OWN, "tasks = \"embed\"")]).unwrap_err();
        assert!(refusal.message.contains("tasks"), "{refusal}");
        assert!(task(&[(OWN, "task = \"talk\"")]).is_err());
    }
}
