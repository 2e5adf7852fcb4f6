//! Which content an update is about: stages a source, or finds a version that is kept, and says
//! what is known of it. Called by a model's [`driver`](crate::models::update::driver), on a thread that may block.

use std::sync::Arc;

use onnxd_proto::{
    domain::{Facts, Output, Record, Refusal, RefusalKind, SourceUri, Task},
    generation::Generation,
};

use crate::models::{
    machine::events::{Candidate, Content, Job, Target},
    registry::Model,
    store::{Staged, Store},
    update::{
        checker::Demands,
        payload::{Known, Versions},
    },
};

/// What staging brings to light.
#[derive(Debug)]
pub(super) struct Found {
    pub candidate: Candidate<Versions>,
    /// Bytes that the source holds, where it was looked at.
    pub bytes: u64,
}

/// What clients rely on stays: what the model is for, the dimension of its embeddings, since vectors
/// of another cannot be compared with what was made before, and what tensors it takes and gives.
pub(super) fn require_alike(
    candidate: &Facts,
    serving: &Facts,
    allow_change: bool,
) -> Result<(), Refusal> {
    const ANYWAY: &str = "--allow-dimension-change serves it nevertheless";
    let refuse = |message: String| Err(RefusalKind::Contract.because(message));
    let task = candidate.task;
    if allow_change {
        return Ok(());
    }
    if task != serving.task {
        return refuse(format!(
            "the candidate is for {}, the serving generation for {}: its clients would fail; {ANYWAY}",
            task.as_str(),
            serving.task.as_str()
        ));
    }
    match (candidate.output(), serving.output()) {
        (output, before) if output == before => {}
        (Output::Scores { labels }, Output::Scores { labels: before }) => {
            return refuse(format!(
                "the candidate has {labels} labels, the serving generation {before}; {ANYWAY}"
            ));
        }
        (Output::Dense { dimension }, Output::Dense { dimension: before }) => {
            return refuse(format!(
                "the candidate's embeddings have {dimension} components, those of the serving generation {before}: vectors of both cannot be compared; {ANYWAY}"
            ));
        }
        _ => {
            return refuse(format!(
                "the candidate returns another kind of output than the serving generation: its clients would fail; {ANYWAY}"
            ));
        }
    }
    if candidate.signature != serving.signature {
        return refuse(format!(
            "the candidate takes or gives other tensors than the serving generation: its clients would fail; {ANYWAY}"
        ));
    }
    Ok(())
}

/// Finds or stages the content of a job. Blocking.
pub(super) fn find(
    store: &Store,
    model: &Model,
    job: &Job,
    demands: Demands,
    progress: &dyn Fn(u64, u64),
) -> Result<Found, Refusal> {
    // Vectors that an unloaded model made are compared with those of its next generation, too.
    let serving = model.last().map(|(_, record)| record);
    let stage = |from: &SourceUri| {
        let staged = store.stage(from, progress)?;
        let bytes = staged.bytes;
        Ok((staged, bytes))
    };
    let (staged, bytes) = match &job.target {
        Target::Source(from) => stage(from.as_ref().unwrap_or(&model.source))?,
        Target::Last => match last(store, model)? {
            Some((generation, record)) if !demands.certainty || record.facts.is_certain() => {
                return Ok(found_again(store, generation, record));
            }
            // Without --strict it was accepted; the check says why it is not any more.
            _ => stage(&model.source)?,
        },
        Target::Nothing => {
            return Err(RefusalKind::Internal.because("internal error: no content to find"));
        }
        Target::Generation(to) => {
            let serving = serving.as_ref().map(|record| record.version.as_str());
            (Staged::kept(&store.earlier(&model.name, *to, serving)?), 0)
        }
        Target::Version(version) => (Staged::kept(version), 0),
    };
    let version = store.pin(&staged.version);
    let is_kept = staged.folder().is_none();
    if is_kept && !store.has(&staged.version) {
        let message = format!("version {} was removed meanwhile", staged.version);
        return Err(RefusalKind::NotFound.because(message));
    }
    let facts = if is_kept { store.known_facts(&model.name, &staged.version) } else { None };
    let changes = serving.as_ref().is_some_and(|serving| serving.version != staged.version);
    if let (Target::Source(_), Some(facts), Some(serving)) = (&job.target, &facts, &serving) {
        require_alike(facts, &serving.facts, job.allow_dimension_change)?;
    }
    // A source that was served once may be far from what serves now.
    let is_far = demands.nearness && changes && matches!(job.target, Target::Source(_));
    let quarantined = store.is_quarantined(&model.name, &staged.version);
    // An earlier release found out less, and limits on texts may have been raised: a restart serves
    // by what was known, an update checks again.
    let is_outdated = |facts: &Facts| {
        let is_described =
            facts.output.is_some() && (facts.task == Task::Tensor || !facts.pipeline.is_empty());
        (!is_described || facts.shortened.is_some()) && matches!(job.target, Target::Source(_))
            || demands.certainty && !facts.is_certain()
    };
    let content = match facts {
        Some(facts) if !is_far && !is_outdated(&facts) => {
            Content::Checked(Known { facts: Box::new(facts), drift: None })
        }
        _ => Content::Unchecked(staged),
    };
    Ok(Found { candidate: Candidate { version, quarantined, content }, bytes })
}

/// What served last before the start, if the configuration still names the same source: another
/// source is another model to stage.
fn last(store: &Store, model: &Model) -> Result<Option<(Generation, Record)>, Refusal> {
    let newest = store.newest(&model.name).map_err(|error| {
        RefusalKind::Internal.because(format!("the state directory is damaged: {error}"))
    })?;
    Ok(newest.filter(|(_, record)| record.configured_source == model.source))
}

fn found_again(store: &Store, generation: Generation, record: Record) -> Found {
    let version = store.pin(&record.version);
    let content = Content::Durable(generation, Arc::new(record));
    Found { candidate: Candidate { version, quarantined: false, content }, bytes: 0 }
}
