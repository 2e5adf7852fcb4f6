//! What a model for texts is for, by its files: its own `onnxd.toml`, what sentence-transformers
//! lists, or the architecture that `config.json` names. Knows nothing of the model itself.

use std::{collections::BTreeMap, path::Path};

use onnxd_proto::domain::{Activation, Refusal, RefusalKind, Task};

use super::json::JsonFile;
use crate::families::own::Own;

/// How the names of architectures end that give a score for each label.
const SCORING: &str = "ForSequenceClassification";
/// Labels of one model.
const LABELS_MAX: usize = 65_536;

/// What the model for texts in `dir` is for.
///
/// # Errors
/// A file is malformed.
pub(crate) fn of(dir: &Path, own: &Own) -> Result<Task, Refusal> {
    if let Some(task) = own.task {
        return Ok(task);
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
    use std::fs;

    use super::*;

    const OWN: &str = "onnxd.toml";

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
