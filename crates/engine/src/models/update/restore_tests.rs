//! Tests which models a start loads, in which order, and what it waits for. Loads are scripted.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, VecDeque},
};

use onnxd_proto::domain::RefusalKind;

use super::*;
use crate::models::{registry::ModelSource, sources::SourceRules};

const REMOTE: &str = "https://host/m/";
const LOCAL: &str = "/m";

/// A loader that answers as scripted, and then with success.
#[derive(Default)]
struct Script {
    kept: HashSet<String>,
    answers: RefCell<HashMap<String, VecDeque<Refusal>>>,
    /// What happened, in order.
    calls: RefCell<Vec<String>>,
}

impl Script {
    fn refuse(self, model: &str, times: usize, refusal: Refusal) -> Self {
        let answers = vec![refusal; times].into();
        self.answers.borrow_mut().insert(model.to_owned(), answers);
        self
    }

    fn kept(mut self, model: &str) -> Self {
        self.kept.insert(model.to_owned());
        self
    }

    fn calls(&self) -> String {
        self.calls.borrow().join(" ")
    }
}

impl Loader for Script {
    fn was_kept(&self, model: &Model) -> bool {
        self.kept.contains(model.name.as_str())
    }

    async fn load(&self, model: &Model) -> Result<(), CallError> {
        self.calls.borrow_mut().push(model.name.to_string());
        let mut answers = self.answers.borrow_mut();
        match answers.get_mut(model.name.as_str()).and_then(VecDeque::pop_front) {
            Some(refusal) => Err(CallError::Refused(refusal)),
            None => Ok(()),
        }
    }

    async fn start_workers(&self) {
        self.calls.borrow_mut().push("workers".to_owned());
    }
}

fn models(sources: &[(&str, &str)]) -> Vec<Model> {
    let model = |(slot, (name, uri)): (u16, &(&str, &str))| {
        let source = ModelSource {
            name: name.parse().unwrap(),
            aliases: Vec::new(),
            uri: uri.parse().unwrap(),
            preload: true,
            required: name.starts_with("required"),
            rules: SourceRules::default(),
        };
        Model::new(slot, source)
    };
    (0..).zip(sources).map(model).collect()
}

/// Runs a start and returns its result.
async fn start(script: &Script, models: &[Model]) -> (Result<(), RestoreError>, Startup) {
    let startup = Startup::new(Phase::Begun);
    let result = Restore::new(script, &startup).run(models.iter().collect()).await;
    (result, startup)
}

fn unreachable() -> Refusal {
    RefusalKind::Unreachable.because("nobody answers")
}

fn broken() -> Refusal {
    RefusalKind::Load.because("this is no model")
}

#[tokio::test]
async fn kept_models_serve_while_the_others_are_checked() {
    let models = models(&[("new", LOCAL), ("old", LOCAL), ("newer", LOCAL)]);
    let script = Script::default().kept("old");
    let (result, startup) = start(&script, &models).await;
    assert!(result.is_ok() && startup.is_done());
    assert_eq!(script.calls(), "old workers new workers newer workers");
}

#[tokio::test]
async fn a_broken_model_does_not_stop_the_others() {
    let models = models(&[("broken", LOCAL), ("good", LOCAL)]);
    let script = Script::default().refuse("broken", 1, broken());
    let (result, startup) = start(&script, &models).await;
    assert!(result.is_ok() && startup.is_done());
    assert_eq!(script.calls(), "broken good workers");
    assert_eq!(models[0].failure(), Some(broken()));
    assert_eq!(models[1].failure(), None);
}

#[tokio::test]
async fn a_start_fails_if_no_model_can_be_served_or_a_required_one_cannot() {
    let alone = models(&[("broken", LOCAL)]);
    let script = Script::default().refuse("broken", 1, broken());
    let refused =
        |model: &str| Err(RestoreError::Refused { model: model.to_owned(), refusal: broken() });
    assert_eq!(start(&script, &alone).await.0, refused("broken"));
    let required = models(&[("good", LOCAL), ("required", LOCAL)]);
    let script = Script::default().refuse("required", 1, broken());
    assert_eq!(start(&script, &required).await.0, refused("required"));
    // A directory does not come back by itself.
    let missing = models(&[("missing", LOCAL)]);
    let script = Script::default().refuse("missing", 1, RefusalKind::NotFound.because("gone"));
    assert!(start(&script, &missing).await.0.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_away_is_waited_for_if_nothing_else_serves() {
    let alone = models(&[("remote", REMOTE)]);
    let script = Script::default().refuse("remote", 2, unreachable());
    let begin = time::Instant::now();
    assert!(start(&script, &alone).await.0.is_ok());
    let pauses = begin.elapsed().as_secs_f64();
    assert!((5.3..6.7).contains(&pauses), "2 s and 4 s with jitter: {pauses}");
    assert_eq!(script.calls(), "remote remote remote workers");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_away_is_not_waited_for_if_another_model_serves() {
    let both = models(&[("remote", REMOTE), ("good", LOCAL)]);
    let script = Script::default().refuse("remote", 9, unreachable());
    assert!(start(&script, &both).await.0.is_ok());
    assert_eq!(script.calls(), "remote good workers");
    assert_eq!(both[0].failure(), Some(unreachable()));
}

#[tokio::test(start_paused = true)]
async fn a_required_source_is_waited_for_and_says_so() {
    let models = models(&[("good", LOCAL), ("required", REMOTE)]);
    let script = Script::default().refuse("required", 3, unreachable());
    let startup = Startup::new(Phase::Begun);
    let mut phases = startup.subscribe();
    let run = Restore::new(&script, &startup).run(models.iter().collect());
    let watch = phases.wait_for(|phase| matches!(phase, Phase::Waiting { .. }));
    let (result, phase) = tokio::join!(run, async { watch.await.unwrap().in_full() });
    assert!(result.is_ok());
    assert_eq!(phase, "waiting for the source of model required: nobody answers");
    assert_eq!(script.calls(), "good workers required required required required workers");
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_source_turns_out_to_be_broken() {
    let alone = models(&[("remote", REMOTE)]);
    let script = Script::default();
    let answers = VecDeque::from([unreachable(), broken()]);
    script.answers.borrow_mut().insert("remote".to_owned(), answers);
    assert!(start(&script, &alone).await.0.is_err());
    assert_eq!(script.calls(), "remote remote");
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_the_server_asks_for_is_kept() {
    let refusal = Refusal { retry_after: Some(Duration::from_secs(300)), ..unreachable() };
    let alone = models(&[("remote", REMOTE)]);
    let script = Script::default().refuse("remote", 1, refusal);
    let begin = time::Instant::now();
    assert!(start(&script, &alone).await.0.is_ok());
    assert!((299..=300).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_start_ends_when_an_operator_updates_another_model() {
    let both = models(&[("remote", REMOTE), ("broken", LOCAL)]);
    let script =
        Script::default().refuse("remote", 99, unreachable()).refuse("broken", 1, broken());
    let update = async {
        time::sleep(Duration::from_secs(30)).await;
        both[1].gate.set(Presence::Loaded);
    };
    let begin = time::Instant::now();
    let ((result, startup), ()) = tokio::join!(start(&script, &both), update);
    assert!(result.is_ok() && startup.is_done());
    assert!((30..=32).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
}
