//! Retries the first load of a model whose source is away. Without a durable generation nothing else
//! could serve, and an exit would only make the service manager try again. Called at start.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use onnxd_proto::domain::Refusal;
use tokio::time;

use crate::models::{registry::Model, schedule::Schedule, update::CallError};

/// Pause after the first failure.
const INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause: nothing serves until the source answers.
const LONGEST: Duration = Duration::from_secs(60);

/// Loads a model from a source on another server until another attempt cannot succeed.
///
/// # Errors
/// Those of `load` that are not transient, and all of a directory.
pub(super) async fn retry(
    model: &Model,
    load: impl AsyncFn() -> Result<(), CallError>,
) -> Result<(), CallError> {
    let seed = RandomState::new().hash_one(model.name.as_str());
    let mut schedule = Schedule::of_attempts(Instant::now(), INTERVAL, LONGEST, seed);
    let mut last: Option<String> = None;
    loop {
        let refusal = match load().await {
            Err(CallError::Refused(refusal)) if is_worth_waiting(model, &refusal) => refusal,
            result => return result,
        };
        schedule.failed(Instant::now(), refusal.retry_after);
        let pause = schedule.due().saturating_duration_since(Instant::now());
        if last.as_ref() != Some(&refusal.message) {
            let (source, kind, reason) = (&model.source, refusal.kind, refusal.message.as_str());
            tracing::warn!(model = %model.name, %source, ?kind, reason, "waiting for the source: no generation can serve yet");
            last = Some(refusal.message);
        }
        time::sleep(pause).await;
    }
}

/// Returns whether the source is on another server and may become usable.
fn is_worth_waiting(model: &Model, refusal: &Refusal) -> bool {
    model.source.directory().is_none() && refusal.kind.is_transient()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use onnxd_proto::domain::RefusalKind;

    use super::*;
    use crate::models::{registry::ModelSource, sources::SourceRules};

    fn model(uri: &str) -> Model {
        let (name, uri) = ("m".parse().unwrap(), uri.parse().unwrap());
        Model::new(
            0,
            ModelSource {
                name,
                aliases: Vec::new(),
                uri,
                preload: true,
                rules: SourceRules::default(),
            },
        )
    }

    /// Returns the result of loading from a source that fails twice, and the number of attempts.
    async fn load(uri: &str, kind: RefusalKind) -> (bool, u32) {
        let attempts = Cell::new(0);
        let load = async || {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                3.. => Ok(()),
                _ => Err(CallError::Refused(kind.because("x"))),
            }
        };
        (retry(&model(uri), load).await.is_ok(), attempts.get())
    }

    #[tokio::test(start_paused = true)]
    async fn only_transient_failures_of_other_servers_are_retried() {
        let remote = "https://host/m/";
        let start = time::Instant::now();
        assert_eq!(load(remote, RefusalKind::Unreachable).await, (true, 3));
        let pauses = start.elapsed().as_secs_f64();
        assert!((5.3..6.7).contains(&pauses), "2 s and 4 s with jitter: {pauses}");
        assert_eq!(load(remote, RefusalKind::Contract).await, (false, 1));
        assert_eq!(load("/m", RefusalKind::NotFound).await, (false, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_that_the_server_asks_for_is_kept() {
        let attempts = Cell::new(0);
        let load = async || {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                2.. => Ok(()),
                _ => {
                    let retry_after = Some(Duration::from_secs(300));
                    let refusal = RefusalKind::Unreachable.because("429");
                    Err(CallError::Refused(Refusal { retry_after, ..refusal }))
                }
            }
        };
        let start = time::Instant::now();
        assert!(retry(&model("hf://org/name"), load).await.is_ok());
        assert!((299..=300).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }
}
