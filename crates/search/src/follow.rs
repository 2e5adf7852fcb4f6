//! Keeps collections in a database in step with what others do: tells it which version serves, so
//! that other programs see the vectors of that version, and embeds rows that others have written.
//! Called by [`crate::service`].

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use onnxd_engine::Engine;
use onnxd_proto::search::{IndexErrorKind, ToIndex};
use onnxd_telemetry::log_limit::LogLimit;
use tokio::time;

use crate::{
    catalog::{Bound, Catalog},
    error::SearchError,
    repair::Repairs,
    writes::{model_of, serving},
};

/// How often rows that others have written are looked for.
const PERIOD: Duration = Duration::from_secs(1);

/// Keeps a database in step for as long as the service exists.
pub(crate) async fn follow((catalog, engine, repairs): (Arc<Catalog>, Arc<Engine>, Arc<Repairs>)) {
    // Versions, by collection.
    let mut told: HashMap<String, String> = HashMap::new();
    let failures = LogLimit::new();
    loop {
        // A commit ends the wait early.
        let _ = time::timeout(PERIOD, catalog.wait_for_fence()).await;
        let Ok(known) = catalog.known().await else { continue };
        forget_removed(&mut told, &known);
        for (name, bound) in known.iter().filter(|(name, bound)| **name == bound.name) {
            let done = keep_in_step((&catalog, &engine, &repairs), bound, told.get(name)).await;
            match done {
                Ok(Some(version)) => {
                    told.insert(name.clone(), version);
                }
                Ok(None) => {}
                Err(error) => {
                    if let Some(suppressed) = failures.admit() {
                        tracing::warn!(collection = name, %error, suppressed, "failed to keep the database in step");
                    }
                }
            }
        }
    }
}

/// Tells the version that serves if it is another than the one told last, and embeds new rows.
/// Returns the version, if it was told.
async fn keep_in_step(
    (catalog, engine, repairs): (&Arc<Catalog>, &Arc<Engine>, &Arc<Repairs>),
    bound: &Bound,
    told: Option<&String>,
) -> Result<Option<String>, SearchError> {
    let Ok(model) = model_of(engine, bound) else { return Ok(None) };
    let version = serving(model);
    if version.is_empty() {
        return Ok(None);
    }
    if bound.shows_table() {
        // Goes on meanwhile, and logs its failure itself.
        repairs.start((catalog, engine), (bound, model)).await?;
    }
    if told == Some(&version) {
        return Ok(None);
    }
    let message = ToIndex::Committed { collection: bound.name.clone(), version: version.clone() };
    match catalog.ask(message, Bytes::new()).await {
        Ok(_) => Ok(Some(version)),
        // The first rows are being embedded.
        Err(error) if error.kind == IndexErrorKind::Version && bound.shows_table() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Forgets what was told of collections that are removed: another of the same name must be told again.
fn forget_removed(told: &mut HashMap<String, String>, known: &HashMap<String, Bound>) {
    told.retain(|name, _| known.get(name).is_some_and(|bound| bound.name == *name));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::fake::settings;

    #[test]
    fn versions_told_of_removed_collections_are_forgotten() {
        let bound = |name: &str| Bound { name: name.into(), settings: settings("{}") };
        // `b` is an alias by now.
        let known = HashMap::from(["a", "b"].map(|name| (name.to_owned(), bound("a"))));
        let mut told = HashMap::from(["a", "b", "c"].map(|name| (name.into(), "v".into())));
        forget_removed(&mut told, &known);
        assert_eq!(told, HashMap::from([("a".to_owned(), "v".to_owned())]));
    }
}
