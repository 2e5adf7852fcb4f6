//! Which content an update is about: stages a source, or finds a version that is kept, and says
//! what is known of it. Called by a model's [`driver`](crate::models::update::driver), on a thread that may block.

use std::path::Path;

use onnxd_proto::{
    domain::{Facts, Record, Refusal, RefusalKind, Task},
    generation::Generation,
};

use crate::models::{
    machine::events::{Candidate, Job, Target},
    registry::Model,
    sources::directory::Directory,
    store::{Hold, Staged, Store},
};

/// What staging brings to light.
#[derive(Debug)]
pub(super) struct Found {
    pub candidate: Candidate,
    /// Where it stands, unless it was kept before.
    pub staged: Option<Staged>,
    pub bytes: u64,
    /// What an earlier check found out.
    pub facts: Option<Facts>,
    /// Its record, where it is durable already.
    pub record: Option<Record>,
    /// Keeps it from being removed meanwhile.
    pub hold: Hold,
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
    let (task, dimension) = (candidate.task, candidate.dimension);
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
    if dimension != serving.dimension {
        let serving = serving.dimension;
        return refuse(match task {
            Task::Embed => format!(
                "the candidate's embeddings have {dimension} components, those of the serving generation {serving}: vectors of both cannot be compared; {ANYWAY}"
            ),
            _ => format!(
                "the candidate has {dimension} labels, the serving generation {serving}; {ANYWAY}"
            ),
        });
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
    demands_nearness: bool,
    copied: &dyn Fn(u64, u64),
) -> Result<Found, Refusal> {
    // Vectors that an unloaded model made are compared with those of its next generation, too.
    let serving = model.last().map(|(_, record)| record);
    let stage = |from: &Path| {
        let staged = store.stage(&Directory::open(from)?, copied)?;
        let (version, bytes) = (staged.version.clone(), staged.bytes);
        Ok((Some(staged), version, bytes))
    };
    let (staged, version, bytes) = match job.target.clone() {
        Target::Source(from) => stage(from.as_deref().unwrap_or(&model.source))?,
        Target::Last => match last(store, model)? {
            Some((generation, record)) => return Ok(found_again(store, generation, record)),
            None => stage(&model.source)?,
        },
        Target::Nothing => {
            return Err(RefusalKind::Internal.because("nothing has no content to find"));
        }
        Target::Generation(to) => {
            let serving = serving.as_ref().map(|record| record.version.as_str());
            let version = store.earlier(&model.name, to, serving)?;
            (Some(Staged::kept(&version)), version, 0)
        }
        Target::Version(version) => (Some(Staged::kept(&version)), version, 0),
    };
    let hold = store.hold(&version);
    let is_kept = staged.as_ref().is_none_or(|staged| staged.folder().is_none());
    if is_kept && !store.layout().version(&version).exists() {
        let message = format!("version {version} was removed meanwhile");
        return Err(RefusalKind::NotFound.because(message));
    }
    let facts = if is_kept { store.known_facts(&model.name, &version) } else { None };
    let changes = serving.as_ref().is_some_and(|serving| serving.version != version);
    if let (Target::Source(_), Some(facts), Some(serving)) = (&job.target, &facts, &serving) {
        require_alike(facts, &serving.facts, job.allow_dimension_change)?;
    }
    // A source that was served once may be far from what serves now.
    let is_far = demands_nearness && changes && matches!(job.target, Target::Source(_));
    let candidate = Candidate {
        durable: None,
        quarantined: store.is_quarantined(&model.name, &version),
        unchecked: facts.is_none() || is_far,
        version,
    };
    Ok(Found { candidate, staged, bytes, facts, record: None, hold })
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
    let version = record.version.clone();
    let hold = store.hold(&version);
    let durable = Some(generation);
    Found {
        candidate: Candidate { version, unchecked: false, quarantined: false, durable },
        staged: None,
        bytes: 0,
        facts: Some(record.facts.clone()),
        record: Some(record),
        hold,
    }
}
