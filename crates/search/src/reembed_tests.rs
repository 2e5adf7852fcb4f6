//! Completes an index of a [`FakeIndex`] while documents are written.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use futures_util::FutureExt;
use onnxd_engine::models::indexes::DocumentOptions;
use onnxd_proto::{domain::Task, search::DocumentId};

use super::*;
use crate::process::fake::{FakeIndex, settings};

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
    /// The collection is deleted while texts are embedded.
    deletes: AtomicBool,
    /// Texts that were embedded.
    embedded: AtomicUsize,
}

impl Candidate {
    fn of(catalog: &Arc<Catalog>, index: &Arc<FakeIndex>, writes: Writes) -> Self {
        let (catalog, index) = (Arc::clone(catalog), Arc::clone(index));
        let (deletes, embedded) = (AtomicBool::default(), AtomicUsize::default());
        Self { catalog, index, writes, deletes, embedded }
    }
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
        if self.deletes.load(Ordering::Relaxed) {
            self.index.delete();
        }
        self.embedded.fetch_add(texts.len(), Ordering::Relaxed);
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
        let catalog = Arc::new(Catalog::new(handle, HashMap::new()));
        let candidate = Candidate::of(&catalog, &index, writes);
        Self { index, catalog, candidate, reported: Mutex::default() }
    }

    async fn complete(&self) -> Result<Fence, Refusal> {
        self.complete_with(Copies::Removed).await
    }

    async fn complete_with(&self, copies: Copies<'_>) -> Result<Fence, Refusal> {
        self.complete_of("m", copies).await
    }

    /// Completes the index of a model, which must not take long.
    async fn complete_of(&self, model: &str, copies: Copies<'_>) -> Result<Fence, Refusal> {
        let progress = |progress| self.reported.lock().unwrap().push(progress);
        let completed = self.catalog.complete(model, &self.candidate, copies, &progress);
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
    assert_eq!(setup.index.lists(), 6, "one before, two for each pass, and one after them");
}

#[tokio::test]
async fn copies_of_vectors_are_replaced_unless_the_update_may_keep_them() {
    let setup = Setup::new("{}", 10, Writes::None);
    let embedded = || setup.candidate.embedded.swap(0, Ordering::Relaxed);
    for key in 0..10 {
        setup.index.embed("earlier", key);
    }
    setup.complete_with(Copies::From("earlier")).await.unwrap();
    assert_eq!((setup.index.counts("v"), embedded()), ((10, 10), 0), "all are copied");
    setup.complete_with(Copies::Kept).await.unwrap();
    assert_eq!(embedded(), 0, "a rollback keeps them");
    // Its vectors were copies themselves, and it has others since.
    setup.index.lose("earlier", 3);
    setup.complete_with(Copies::From("earlier")).await.unwrap();
    assert_eq!((setup.index.counts("v"), embedded()), ((10, 10), 1), "they are copied anew");
    setup.complete_with(Copies::From("another")).await.unwrap();
    assert_eq!((setup.index.counts("v"), embedded()), ((10, 10), 10), "it has none to copy");
    setup.complete_with(Copies::From("earlier")).await.unwrap();
    embedded();
    setup.complete_with(Copies::Removed).await.unwrap();
    assert_eq!((setup.index.counts("v"), embedded()), ((10, 10), 10));
    setup.complete().await.unwrap();
    assert_eq!(embedded(), 0, "they are its own now");
}

#[tokio::test]
async fn collection_deleted_during_an_update_does_not_refuse_it() {
    let setup = Setup::new("{}", 3000, Writes::None);
    setup.candidate.deletes.store(true, Ordering::Relaxed);
    let _fence = setup.complete().await.unwrap();
}

#[tokio::test]
async fn documents_are_embedded_again_if_their_collection_was_bound_anew_meanwhile() {
    let setup = Setup::new("{}", 100, Writes::None);
    setup.index.fail(IndexErrorKind::Changed);
    let _fence = setup.complete().await.unwrap();
    assert_eq!(setup.index.counts("v"), (100, 100));
    assert!(setup.candidate.embedded.load(Ordering::Relaxed) > 100);
}

#[tokio::test]
async fn update_is_refused_if_vectors_cannot_be_stored() {
    let setup = Setup::new("{}", 100, Writes::None);
    setup.index.fail(IndexErrorKind::Full);
    let refusal = setup.complete().await.err().unwrap();
    assert!(refusal.message.ends_with("it cannot be stored"), "{refusal}");
}

#[tokio::test]
async fn collections_bound_to_an_alias_belong_to_the_model() {
    // The collection is bound to `m`, which is served as `new` now.
    let (index, handle) = FakeIndex::start("{}", 10);
    let aliases = HashMap::from([("m".to_owned(), "new".to_owned())]);
    let catalog = Arc::new(Catalog::new(handle, aliases));
    let candidate = Candidate::of(&catalog, &index, Writes::None);
    assert!(catalog.has_documents("new"));
    let _fence = catalog.complete("new", &candidate, Copies::Removed, &|_| {}).await.unwrap();
    assert_eq!(index.counts("v"), (10, 10));
    catalog.known().await.unwrap();
    assert!(catalog.has_documents("new") && !catalog.has_documents("m"));
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

#[tokio::test]
async fn model_without_collections_is_updated_while_the_index_is_away() {
    let setup = Setup::new("{}", 1, Writes::None);
    setup.catalog.known().await.unwrap();
    setup.index.set_away(true);
    let fence = setup.complete_of("other", Copies::Removed).await.unwrap();
    assert!(setup.catalog.hold_commits("other").now_or_never().is_none(), "writes wait");
    drop(fence);
    let refusal = setup.complete_of("m", Copies::Removed).await.err().unwrap();
    let expected = "the index of the documents cannot be completed: the database cannot be reached";
    assert_eq!(refusal.message, expected);
    assert!(setup.catalog.hold_commits("m").now_or_never().is_some(), "writes go on");
}

#[tokio::test]
async fn update_is_refused_if_no_list_says_what_is_bound() {
    let setup = Setup::new("{}", 1, Writes::None);
    setup.index.set_away(true);
    let refused = async || setup.complete_of("other", Copies::Removed).await.err().unwrap().message;
    let unknown = "it is unknown whether collections are bound to other, because they cannot be listed: the database cannot be reached; once they can, update again";
    assert_eq!(refused().await, unknown);
    setup.index.set_away(false);
    setup.catalog.known().await.unwrap();
    setup.index.set_away(true);
    assert!(setup.complete_of("other", Copies::Removed).await.is_ok());
    // It may have created a collection of the model.
    let created = ToIndex::Create("more".to_owned(), settings("{}"));
    setup.catalog.change(created).await.unwrap_err();
    assert_eq!(refused().await, unknown);
}

#[test]
fn document_without_an_id_is_named_by_its_text() {
    let text = |id| Unembedded { key: 0, edition: 0, text: "ä".repeat(81), id };
    assert_eq!(name(&text(None)), format!("`{}`", "ä".repeat(80)));
    assert_eq!(name(&text(Some(DocumentId::Text("a".into())))), "`a`");
}
