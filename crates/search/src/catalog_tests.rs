use std::time::Duration;

use onnxd_engine::tasks::EssentialTasks;
use onnxd_telemetry::metrics::Metrics;
use tokio::time;

use super::*;
use crate::executable::IndexExecutable;

/// Returns the collections of a process that ends at once, since this is no index.
fn catalog() -> Catalog {
    let executable = std::env::current_exe().unwrap();
    let directory = std::env::temp_dir();
    let executable = IndexExecutable::embedded(&executable, &directory, false).unwrap();
    let guard = EssentialTasks::default().guard("index");
    let metrics = Arc::new(Metrics::new(&[]));
    let index = Index::start(executable, Duration::from_secs(60), metrics, guard).unwrap();
    Catalog::new(index, HashMap::new())
}

#[tokio::test]
async fn a_change_whose_caller_has_gone_is_not_forgotten() {
    let catalog = catalog();
    let known = || catalog.listed.known.read().unwrap().clone();
    *catalog.listed.known.write().unwrap() = Some(Arc::default());
    let change = catalog.change(ToIndex::Drop("a".to_owned()));
    assert!(time::timeout(Duration::from_millis(1), change).await.is_err());
    // Unless the process has ended already, the list is as it was.
    let forgotten = async {
        while known().is_some() {
            time::sleep(Duration::from_millis(10)).await;
        }
    };
    time::timeout(Duration::from_secs(30), forgotten).await.unwrap();
    assert!(catalog.listed.changes.load(Ordering::Acquire) > 0);
}

#[tokio::test]
async fn collections_are_released_when_no_call_is_left() {
    let catalog = Arc::new(catalog());
    let first = catalog.enter().unwrap();
    let released = tokio::spawn({
        let catalog = Arc::clone(&catalog);
        async move { catalog.release().await }
    });
    time::sleep(Duration::from_millis(50)).await;
    assert!(!released.is_finished());
    // What a call does is part of it.
    let nested = catalog.enter().unwrap();
    drop(first);
    time::sleep(Duration::from_millis(50)).await;
    assert!(!released.is_finished());
    drop(nested);
    time::timeout(Duration::from_secs(30), released).await.unwrap().unwrap();
    let refused = catalog.enter().unwrap_err();
    assert!(refused.message.contains("connect again"), "{refused}");
}
