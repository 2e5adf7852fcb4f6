//! Sends good and bad updates and checks their results.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use e2e::{
    admin::{Committed, Refusal},
    fixtures,
    processes::Signal,
};

use crate::{
    models::{self, Content, MODELS, Model, SPARE},
    rules::EventCounts,
    schedule::Fault,
    world::World,
};

/// A call that has not returned by then is a violation.
const CALL_TIMEOUT: Duration = Duration::from_secs(150);

/// Required result of an update.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// A commit of this content.
    Content(Content),
    /// A commit of one of the known versions.
    Known,
    /// A commit of a consistent snapshot, or a refusal.
    Whole,
    /// A refusal of one of these kinds.
    Refused(&'static [&'static str]),
}

/// An update call and its required result.
struct Call<'a> {
    model: &'static str,
    from: &'a Path,
    lazy: bool,
    expected: Expected,
}

pub(crate) async fn cause(world: &Arc<World>, fault: Fault) {
    match fault {
        Fault::Update { model, to, lazy, fresh } => {
            good_update(world, at(model), to, (lazy, fresh)).await
        }
        Fault::Bad { model, candidate, lazy } => {
            bad_update(world, at(model), candidate, lazy).await
        }
        Fault::Rollback { model } => rollback(world, at(model)).await,
        Fault::HangupAndUpdate { model, to } => {
            let now = world.now();
            world.ledger().event_counts().hangup(now);
            world.server.signal(Signal::SIGHUP);
            good_update(world, at(model), to, (false, false)).await;
        }
        Fault::UpdateStorm { model, calls } => storm(world, at(model), calls).await,
        Fault::Swapped { model } => swapped(world, at(model)).await,
        Fault::Torn { pause_millis } => replace_files(world, pause_millis).await,
        Fault::Unload { millis, to } => unload(world, millis, to).await,
        other => world.violated(&format!("no handler for {other:?}")),
    }
}

fn at(index: usize) -> Model {
    MODELS[index % MODELS.len()]
}

async fn good_update(world: &World, model: Model, to: Content, (lazy, fresh): (bool, bool)) {
    let home = world.server.home();
    let made = if fresh { model.fresh(to, home) } else { None };
    let from = made.clone().unwrap_or_else(|| model.directory(to));
    let expected = Expected::Content(to);
    update(world, Call { model: model.name, from: &from, lazy, expected }).await;
    if let Some(made) = made {
        let _ = fs::remove_dir_all(made);
    }
}

async fn bad_update(world: &World, model: Model, candidate: usize, lazy: bool) {
    let (from, kinds) = models::refused_directory(candidate, world.server.home());
    // All bad candidates resemble the first model. For the others, a different task may be noticed
    // first.
    let kinds = if model.name == MODELS[0].name {
        kinds
    } else {
        &["not_found", "contract", "load", "checksum", "canary"]
    };
    let expected = Expected::Refused(kinds);
    update(world, Call { model: model.name, from: &from, lazy, expected }).await;
}

/// Sends an update whose check never ends.
pub(crate) async fn slow(world: &World) {
    let from = fixtures::model("tiny/slow");
    let expected = Expected::Refused(&["crash", "timeout"]);
    update(world, Call { model: MODELS[0].name, from: &from, lazy: false, expected }).await;
}

async fn storm(world: &Arc<World>, model: Model, calls: usize) {
    let tasks = (0..calls).map(|number| {
        let world = Arc::clone(world);
        let to = Content::ALL[number % 2];
        tokio::spawn(async move { good_update(&world, model, to, (number % 3 == 0, false)).await })
    });
    for task in tasks.collect::<Vec<_>>() {
        if let Err(error) = task.await {
            world.violated(&format!("a call of a storm: {error}"));
        }
    }
}

async fn swapped(world: &World, model: Model) {
    let link = models::unique(world.server.home(), "swapped");
    models::repoint(&link, &model.directory(Content::A));
    let repoint_link = async {
        for turn in 0..40 {
            models::repoint(&link, &model.directory(Content::ALL[turn % 2]));
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    };
    let expected = Expected::Known;
    let call = Call { model: model.name, from: &link, lazy: false, expected };
    tokio::join!(update(world, call), repoint_link);
    let _ = fs::remove_file(link);
}

/// Replaces the files of one content with those of the other, one by one, while they are copied.
async fn replace_files(world: &World, pause_millis: u64) {
    let home = world.server.home();
    let (one, other) = (models::with_sums(Content::A, home), models::with_sums(Content::B, home));
    let rewrite_files = async {
        for name in ["model.onnx", "config.json", "tokenizer.json", "SHA256SUMS"] {
            tokio::time::sleep(Duration::from_millis(pause_millis)).await;
            let _ = fs::copy(other.join(name), one.join(name));
        }
    };
    let expected = Expected::Whole;
    let call = Call { model: MODELS[0].name, from: &one, lazy: false, expected };
    tokio::join!(update(world, call), rewrite_files);
    for made in [one, other] {
        let _ = fs::remove_dir_all(made);
    }
}

async fn update(world: &World, call: Call<'_>) {
    let (start, then) = (world.now(), world.ledger().event_counts().clone());
    let load = if call.lazy { "lazy" } else { "ahead" };
    let update =
        async { world.control.forced_update(call.model, call.from, load).await.end().await.1 };
    let Ok(outcome) = tokio::time::timeout(CALL_TIMEOUT, update).await else {
        return world.violated(&format!("an update of {} did not return", call.model));
    };
    take(world, &call, (start, then), outcome);
}

fn take(
    world: &World,
    call: &Call<'_>,
    (start, then): (Duration, EventCounts),
    outcome: Result<Committed, Refusal>,
) {
    let Call { model, from, expected, .. } = call;
    let now = world.now();
    let mut ledger = world.ledger();
    let shown = format!("{model} from {}: {outcome:?}", from.display());
    ledger.note(now, &format!("called {:.3} {shown}", start.as_secs_f64()));
    match outcome {
        Ok(committed) => {
            ledger.serves(&committed.version, now);
            let known = world.versions[model].contains(&committed.version);
            let content = match expected {
                Expected::Content(content) => Some(content.name()),
                Expected::Known if known => None,
                Expected::Whole => None,
                Expected::Known | Expected::Refused(_) => {
                    ledger.violated(format!("a bad candidate was committed: {shown}"));
                    None
                }
            };
            let generation = committed.generation;
            let live = ledger.history(model);
            let found = live.committed(start, generation..=generation, &committed.version, content);
            ledger.found(model, found);
        }
        Err(refusal) => {
            let allowed = match expected {
                Expected::Whole => true,
                Expected::Refused(kinds) => kinds.contains(&refusal.kind.as_str()),
                Expected::Content(_) | Expected::Known => false,
            };
            if !allowed && !then.may_refuse(ledger.event_counts(), &refusal.kind) {
                ledger.violated(format!("{:.3}: refused: {shown}", now.as_secs_f64()));
            }
            *ledger.refused.entry(refusal.kind).or_default() += 1;
        }
    }
}

async fn rollback(world: &World, model: Model) {
    let (start, then) = (world.now(), world.ledger().event_counts().clone());
    let rollback = async { world.control.rollback(model.name).await.end().await.1 };
    let Ok(outcome) = tokio::time::timeout(CALL_TIMEOUT, rollback).await else {
        return world.violated(&format!("a rollback of {} did not return", model.name));
    };
    let now = world.now();
    let mut ledger = world.ledger();
    ledger.note(now, &format!("called {:.3} rollback: {outcome:?}", start.as_secs_f64()));
    match outcome {
        Ok(Committed { generation, version, .. }) => {
            ledger.serves(&version, now);
            let live = ledger.history(model.name);
            let found = live.committed(start, generation..=generation, &version, None);
            ledger.found(model.name, found);
        }
        Err(refusal) => {
            // The previous version may have failed its probation.
            let nothing = refusal.kind == "not_found";
            if !nothing && !then.may_refuse(ledger.event_counts(), &refusal.kind) {
                ledger.violated(format!("a rollback of {} was refused: {refusal:?}", model.name));
            }
            *ledger.refused.entry(refusal.kind).or_default() += 1;
        }
    }
}

/// Time during which a SIGHUP may still have an effect.
const SIGNAL_LASTS: Duration = Duration::from_secs(10);

async fn unload(world: &World, millis: u64, to: Content) {
    // One unload at a time, so that the time of each is known.
    static UNLOADING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let _one = UNLOADING.lock().await;
    let hangups = world.ledger().event_counts().hangups;
    let quiet = world.ledger().event_counts().quiet_since(world.now().saturating_sub(SIGNAL_LASTS));
    world.ledger().history(SPARE.name).unload_called();
    let outcome = world.control.unload(SPARE.name).await.end().await;
    let certain = quiet && world.ledger().event_counts().hangups == hangups && outcome.is_ok();
    world.note(&format!("unload: {outcome:?}, certain: {certain}"));
    world.ledger().history(SPARE.name).unloaded(certain);
    tokio::time::sleep(Duration::from_millis(millis)).await;
    world.ledger().history(SPARE.name).load_called();
    let (from, called): (PathBuf, _) = (SPARE.directory(to), world.now());
    while world.control.status().await.model(SPARE.name).state != "loaded" {
        if world.now() - called > CALL_TIMEOUT {
            return world.violated("the spare model was not loaded again");
        }
        // Retry: all workers that loaded it may have been killed.
        let expected = Expected::Content(to);
        update(world, Call { model: SPARE.name, from: &from, lazy: false, expected }).await;
    }
    world.ledger().history(SPARE.name).loaded();
}
