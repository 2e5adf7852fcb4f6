//! Resolves the content of an update: stages a source or finds a kept version, and looks up its facts.
//! Called by a model's [`driver`](crate::models::update::driver) on a thread that may block.

use std::sync::Arc;

use onnxd_proto::{
    domain::{Facts, Output, Record, Refusal, RefusalKind, SourceUri, Task},
    generation::Generation,
};

use crate::models::{
    machine::events::{Candidate, Content, Job, Target},
    registry::Model,
    sources::{Progress, selection},
    store::{Staged, Store, unreadable},
    update::{
        checker::Requirements,
        payload::{CheckedFacts, Versions},
    },
};

/// The resolved content of a job.
#[derive(Debug)]
pub(super) struct ResolvedContent {
    pub candidate: Candidate<Versions>,
    /// Bytes of the source's content, or 0 if no source was read.
    pub bytes: u64,
}

/// Checks that a candidate keeps what clients rely on: its task, its output including the dimension of
/// embeddings, and its input and output tensors.
///
/// # Errors
/// `Contract` if one of them changes and `allow_change` is false.
pub(super) fn require_compatible(
    candidate: &Facts,
    serving: &Facts,
    allow_change: bool,
) -> Result<(), Refusal> {
    const OVERRIDE: &str = "pass --allow-dimension-change to accept it";
    let refuse = |message: String| Err(RefusalKind::Contract.because(message));
    let task = candidate.task;
    if allow_change {
        return Ok(());
    }
    if task != serving.task {
        return refuse(format!(
            "the candidate's task is {}, the serving version's is {}; existing clients would fail; {OVERRIDE}",
            task.as_str(),
            serving.task.as_str()
        ));
    }
    match (candidate.output(), serving.output()) {
        (output, before) if output == before => {}
        (Output::Scores { labels }, Output::Scores { labels: before }) => {
            return refuse(format!(
                "the candidate has {labels} labels, the serving version has {before}; {OVERRIDE}"
            ));
        }
        (Output::Dense { dimension }, Output::Dense { dimension: before }) => {
            return refuse(format!(
                "the candidate has {dimension} dimensions, the serving version has {before}; existing vectors would become unusable; {OVERRIDE}"
            ));
        }
        _ => {
            return refuse(format!(
                "the candidate's kind of output differs from the serving version's; existing clients would fail; {OVERRIDE}"
            ));
        }
    }
    if candidate.signature != serving.signature {
        return refuse(format!(
            "the candidate's input or output tensors differ from the serving version's; existing clients would fail; {OVERRIDE}"
        ));
    }
    Ok(())
}

/// Checks that a candidate has the files that the serving version has and that change its output if
/// they are missing, as during an upload. `files` and `serving` are paths; `model_file` is the model
/// file of the serving version.
///
/// # Errors
/// `Contract` if some are missing.
fn require_complete(files: &[String], serving: &[String], model_file: &str) -> Result<(), Refusal> {
    // A model file of another name may have other weights, or none outside of it.
    let keeps_model_file = files.iter().any(|path| path == model_file);
    let is_needed = |path: &&String| {
        selection::changes_output(path)
            || keeps_model_file && *path != model_file && !selection::includes(path, true)
    };
    let missing = |path: &&String| is_needed(path) && !files.contains(path);
    let missing: Vec<&str> = serving.iter().filter(missing).map(String::as_str).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(RefusalKind::Contract.because(format!(
        "the candidate lacks files of the serving version: {}; is an upload running? Pass --force if they are not needed any more",
        missing.join(", ")
    )))
}

/// Stages or finds the content of a job. Blocking.
pub(super) fn resolve(
    store: &Store,
    model: &Model,
    job: &Job,
    requirements: Requirements,
    progress: Progress<'_>,
) -> Result<ResolvedContent, Refusal> {
    // Also set after an unload: vectors from before must stay comparable with the next generation.
    let serving = model.last().map(|(_, record)| record);
    let stage = |from: &SourceUri| {
        let conditions = model.rules.conditions(job.requester, *from == model.source);
        let staged = store.stage(from, &conditions, progress)?;
        let bytes = staged.bytes;
        Ok((staged, bytes))
    };
    let (staged, bytes) = match &job.target {
        Target::Source(from) => stage(from.as_ref().unwrap_or(&model.source))?,
        Target::Last => match last(store, model)? {
            Some((generation, record)) if !requirements.strict || record.facts.is_certain() => {
                return Ok(durable(store, generation, record));
            }
            // It was accepted without --strict; a new check names the guesses that --strict refuses.
            _ => stage(&model.source)?,
        },
        Target::Nothing => {
            return Err(
                RefusalKind::Internal.because("internal error: an unload has no content to stage")
            );
        }
        Target::Generation(to) => {
            let serving = serving.as_ref().map(|record| record.version.as_str());
            (Staged::kept(&store.earlier(&model.name, *to, serving)?), 0)
        }
        Target::Version(version) => (Staged::kept(version), 0),
    };
    let version = store.pin(&staged.version);
    let is_kept = staged.folder().is_none();
    let is_present = match &job.target {
        Target::Version(version) => store.is_whole(version),
        // The others have just been compared.
        _ => store.has(&staged.version),
    };
    if is_kept && !is_present {
        let version = &staged.version;
        let message = format!("version {version} was removed or is damaged; retry the update");
        return Err(RefusalKind::NotFound.because(message));
    }
    let facts = if is_kept { store.known_facts(&model.name, &staged.version) } else { None };
    let changes = serving.as_ref().is_some_and(|serving| serving.version != staged.version);
    if let (Target::Source(_), Some(facts), Some(serving)) = (&job.target, &facts, &serving) {
        require_compatible(facts, &serving.facts, job.allow_dimension_change)?;
    }
    if let (Target::Source(_), Some(serving), false) = (&job.target, &serving, job.force) {
        require_complete(&store.files(&staged), &store.files_of(serving), &serving.facts.file)?;
    }
    // A version that served once may be far from the one serving now.
    let is_drift_needed = requirements.min_cosine || job.reuse_index;
    let needs_drift = is_drift_needed && changes && matches!(job.target, Target::Source(_));
    let quarantined = store.is_quarantined(&model.name, &staged.version);
    // Facts of an earlier release may be incomplete, and text limits may have been raised since. A
    // restart uses the stored facts; an update checks again.
    let is_outdated = |facts: &Facts| {
        let is_described =
            facts.output.is_some() && (facts.task == Task::Tensor || !facts.pipeline.is_empty());
        (!is_described || facts.shortened.is_some()) && matches!(job.target, Target::Source(_))
            || requirements.strict && !facts.is_certain()
    };
    let content = match facts {
        Some(facts) if !needs_drift && !is_outdated(&facts) => {
            Content::Checked(CheckedFacts { facts: Box::new(facts), drift: None })
        }
        _ => Content::Unchecked(staged),
    };
    Ok(ResolvedContent { candidate: Candidate { version, quarantined, content }, bytes })
}

/// Returns the generation that served last before the start, if the configuration still names the
/// same source.
fn last(store: &Store, model: &Model) -> Result<Option<(Generation, Record)>, Refusal> {
    let newest = store.newest(&model.name);
    let newest = newest.map_err(|error| unreadable(store.layout(), &model.name, &error))?;
    Ok(newest.filter(|(_, record)| record.configured_source == model.source))
}

fn durable(store: &Store, generation: Generation, record: Record) -> ResolvedContent {
    let version = store.pin(&record.version);
    let content = Content::Durable(generation, Arc::new(record));
    ResolvedContent { candidate: Candidate { version, quarantined: false, content }, bytes: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(files: &[&str], serving: &[&str]) -> Option<String> {
        let owned = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
        let result = require_complete(&owned(files), &owned(serving), "onnx/model.onnx");
        result.err().map(|refusal| refusal.message)
    }

    #[test]
    fn candidate_must_have_the_files_that_change_the_output() {
        let serving = [
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "config.json",
            "config_sentence_transformers.json",
            "modules.json",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "tokenizer.json",
            "vocab.txt",
        ];
        let without = |path: &str| -> Vec<&str> {
            serving.into_iter().filter(|other| *other != path).collect()
        };
        assert_eq!(missing(&serving, &serving), None);
        assert_eq!(missing(&[&serving[..], &["extra.json"]].concat(), &serving), None);
        for path in [
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
            "config_sentence_transformers.json",
            "modules.json",
            "onnx/model.onnx_data",
        ] {
            let message = missing(&without(path), &serving).expect(path);
            assert!(message.contains(&format!("version: {path};")), "{message}");
        }
        assert_eq!(missing(&without("vocab.txt"), &serving), None, "other files may replace it");
        let other_file = ["onnx/model_int8.onnx", "modules.json"];
        let served = ["modules.json", "onnx/model.onnx", "onnx/model.onnx_data"];
        assert_eq!(missing(&other_file, &served), None, "another file has other weights");
    }
}
