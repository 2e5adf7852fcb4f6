//! Completes an index of a [`FakeIndex`] while documents are written.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use onnxd_engine::models::indexes::DocumentOptions;
use onnxd_proto::{domain::Task, search::DocumentId};

use super::*;
use crate::process::fake::FakeIndex;

/// Who writes a document with each call that embeds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Writes {
    None,
    /// Clients, which the fence holds back.
    Held,
    /// Other programs.
    Free,
}

/// A version that embeds all texts but `unusable`.
#[derive(Debug)]
struct Candidate {
    catalog: Arc<Catalog>,
    index: Arc<FakeIndex>,
    writes: Writes,
}

impl Embedder for Candidate {
    fn version(&self) -> &str {
        "v"
    }

    fn embed(
        &self,
        texts: Vec<String>,
        _: DocumentOptions,
    ) -> Boxed<'_, Result<Vec<Bytes>, Refusal>> {
        let may_write = match self.writes {
            Writes::None => false,
            Writes::Held => self.catalog.hold_commits("m").now_or_never().is_some(),
            Writes::Free => true,
        };
        if may_write {
            self.index.write("new");
        }
        let is_unusable = texts.iter().any(|text| text == "unusable");
        Box::pin(future::ready(match is_unusable {
            true => Err(RefusalKind::Contract.because("it is unusable")),
            false => Ok(vec![Bytes::from_static(&[0; 4]); texts.len()]),
        }))
    }

    fn task(&self) -> Task {
        Task::Embed
    }

    fn concurrency(&self) -> usize {
        2
    }
}

struct Setup {
    index: Arc<FakeIndex>,
    catalog: Arc<Catalog>,
    candidate: Candidate,
    reported: Mutex<Vec<IndexProgress>>,
}

impl Setup {
    fn new(metadata: &str, documents: usize, writes: Writes) -> Self {
        let (index, handle) = FakeIndex::start(metadata, documents);
        let catalog = Arc::new(Catalog::new(handle));
        let of = (Arc::clone(&catalog), Arc::clone(&index));
        let candidate = Candidate { catalog: of.0, index: of.1, writes };
        Self { index, catalog, candidate, reported: Mutex::default() }
    }

    /// Completes the index, which must not take long.
    async fn complete(&self) -> Result<Fence, Refusal> {
        let progress = |progress| self.reported.lock().unwrap().push(progress);
        let completed = self.catalog.complete("m", &self.candidate, None, &progress);
        let completed = time::timeout(Duration::from_secs(10), completed).await;
        completed.expect("it ends")
    }
}

#[tokio::test]
async fn steady_writes_do_not_keep_an_update_from_its_commit() {
    let setup = Setup::new("{}", 3000, Writes::Held);
    let _fence = setup.complete().await.unwrap();
    let (documents, embedded) = setup.index.counts("v");
    assert!(documents > 3000 && embedded == documents, "{embedded} of {documents}");
}

#[tokio::test]
async fn writes_of_a_table_do_not_keep_an_update_from_its_commit() {
    let setup = Setup::new(r#"{"table": "t"}"#, 3000, Writes::Free);
    let _fence = setup.complete().await.unwrap();
    let (documents, embedded) = setup.index.counts("v");
    assert!(embedded >= 3000 && documents - embedded < 256, "{embedded} of {documents}");
}

#[tokio::test]
async fn progress_counts_each_batch_without_listing_the_collections() {
    let setup = Setup::new("{}", 3000, Writes::None);
    let _fence = setup.complete().await.unwrap();
    // One batch has at most 512 texts.
    let reported = setup.reported.lock().unwrap();
    let done: Vec<u64> = reported.iter().map(|progress| progress.done).collect();
    assert_eq!(done[..7], [0, 512, 1024, 1536, 2048, 2560, 3000]);
    assert!(done[7..].iter().all(|&done| done == 3000), "{done:?}");
    assert!(reported.iter().all(|progress| progress.total == 3000), "{reported:?}");
    assert_eq!(setup.index.lists(), 5, "two for each pass, and one after them");
}

#[tokio::test]
async fn refusal_names_the_document_that_cannot_be_embedded() {
    let setup = Setup::new("{}", 40, Writes::None);
    setup.index.write("unusable");
    let refusal = setup.complete().await.err().unwrap();
    assert_eq!(refusal.kind, RefusalKind::Contract);
    let expected = "the version cannot embed document 40 of collection notes: it is unusable";
    assert_eq!(refusal.message, expected);
}

#[test]
fn document_without_an_id_is_named_by_its_text() {
    let text = |id| Unembedded { key: 0, edition: 0, text: "ä".repeat(81), id };
    assert_eq!(name(&text(None)), format!("`{}`", "ä".repeat(80)));
    assert_eq!(name(&text(Some(DocumentId::Text("a".into())))), "`a`");
}
