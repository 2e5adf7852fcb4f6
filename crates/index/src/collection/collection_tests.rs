//! Collections are compared with a plain map of documents that searches exhaustively.

use std::collections::BTreeMap;

use onnxd_proto::search::{
    Condition, Document, DocumentId, Filter, FromIndex, Hit, PayloadChange, Query, Scalar,
    Selection, Shown, Unembedded,
};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

use super::*;

/// A collection in its own directory.
pub(super) struct Fixture {
    folder: TempDir,
    pub(super) collection: Collection,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let folder = tempdir().unwrap();
        let collection = open(&folder);
        Self { folder, collection }
    }

    /// Closes the collection and opens it again.
    pub(super) fn reopen(self) -> Self {
        drop(self.collection);
        let collection = open(&self.folder);
        Self { folder: self.folder, collection }
    }
}

fn open(folder: &TempDir) -> Collection {
    let path = folder.path().join("1.db");
    if !path.exists() {
        Collection::create(&path, (1, "docs")).unwrap();
    }
    Collection::open(&path, (1, "docs"), &settings()).unwrap()
}

pub(super) fn settings() -> Settings {
    Settings { distance: Distance::Cosine, ..crate::catalog::unknown_settings() }
}

pub(super) fn document(id: u64, text: &str, payload: &str) -> Document {
    Document { id: DocumentId::Number(id), text: text.to_owned(), payload: payload.to_owned() }
}

/// "Embeds" a text. Each version has its own space.
pub(super) fn embed(version: &str, text: &str) -> Vector {
    let turn = if version == "v1" { 1.0 } else { -1.0 };
    let mut vector = vec![0.1, turn, 0.0, 0.0];
    for (place, byte) in text.bytes().enumerate() {
        vector[place % 4] += turn * f32::from(byte) / 64.0;
    }
    Vector::Dense(vector)
}

pub(super) fn query(version: &str, limit: usize) -> Query {
    Query {
        version: version.to_owned(),
        filter: Filter::default(),
        limit,
        offset: 0,
        score_threshold: None,
        text: None,
        shown: Shown::default(),
    }
}

pub(super) fn hits(answer: FromIndex) -> Vec<Hit> {
    match answer {
        FromIndex::Hits { hits, .. } | FromIndex::Page(hits, _) => hits,
        other => panic!("unexpected {other:?}"),
    }
}

pub(super) fn ids(hits: &[Hit]) -> Vec<u64> {
    let number = |hit: &Hit| match hit.id {
        DocumentId::Number(number) => number,
        DocumentId::Text(_) => panic!("the id is a text"),
    };
    hits.iter().map(number).collect()
}

pub(super) fn upsert(collection: &Collection, version: &str, documents: Vec<Document>) {
    let vectors = documents.iter().map(|document| embed(version, &document.text)).collect();
    collection.upsert((&settings().embedded_as(), version), documents, vectors).unwrap();
}

/// Embeds what lacks a vector of a version.
fn reembed(collection: &Collection, version: &str) {
    loop {
        let (texts, left) = collection.unembedded(version, 3).unwrap();
        if left == 0 {
            return;
        }
        let keys: Vec<(u32, u64)> = texts.iter().map(|text| (text.key, text.edition)).collect();
        let vectors = texts.iter().map(|text| embed(version, &text.text)).collect();
        assert_eq!(
            collection.embedded((&settings().embedded_as(), version), &keys, vectors).unwrap(),
            keys.len() as u64
        );
    }
}

#[test]
fn documents_are_found_by_vector_filter_and_text_also_after_a_restart() {
    let fixture = Fixture::new();
    let documents = vec![
        document(1, "red fox", r#"{"lang":"en"}"#),
        document(2, "blue whale", r#"{"lang":"en"}"#),
        document(3, "roter Fuchs", r#"{"lang":"de"}"#),
    ];
    upsert(&fixture.collection, "v1", documents);
    let mut fixture = fixture;
    for _ in 0..2 {
        let collection = &fixture.collection;
        let shown = Shown { text: true, payload: true, vector: Some("v1".into()) };
        let search = Query { shown, ..query("v1", 2) };
        let found = hits(collection.search(&search, embed("v1", "blue whale")).unwrap());
        assert_eq!(ids(&found)[0], 2);
        assert!((found[0].score - 1.0).abs() < 1e-6);
        assert_eq!(found[0].text.as_deref(), Some("blue whale"));
        assert_eq!(found[0].payload.as_deref(), Some(r#"{"lang":"en"}"#));
        assert_eq!(found[0].vector.as_ref().map(Vec::len), Some(4));

        let german = Condition::Any("lang".into(), vec![Scalar::Text("de".into())]);
        let filter = Filter { must: vec![german], ..Filter::default() };
        let filtered = Query { filter: filter.clone(), ..query("v1", 5) };
        let found = hits(collection.search(&filtered, embed("v1", "blue whale")).unwrap());
        assert_eq!(ids(&found), [3]);
        assert_eq!(collection.count(&filter).unwrap(), 1);

        let hybrid = Query { text: Some("whale".into()), ..query("v1", 1) };
        let found = hits(collection.search(&hybrid, embed("v1", "red fox")).unwrap());
        assert_eq!(ids(&found), [2], "first by text and not last by vector");
        fixture = fixture.reopen();
    }
}

#[test]
fn a_search_never_compares_vectors_of_two_versions() {
    let Fixture { collection, folder: _folder } = Fixture::new();
    upsert(&collection, "v1", vec![document(1, "one", "{}"), document(2, "two", "{}")]);
    let refused = collection.search(&query("v2", 1), embed("v2", "one")).unwrap_err();
    assert_eq!(refused.kind, IndexErrorKind::Version);
    assert_eq!(collection.unembedded("v2", 10).unwrap().1, 2);
    reembed(&collection, "v2");
    let found = hits(collection.search(&query("v2", 1), embed("v2", "two")).unwrap());
    assert_eq!(ids(&found), [2]);
    // A write with vectors of one version leaves the other incomplete, until its text is embedded.
    upsert(&collection, "v1", vec![document(2, "changed", "{}")]);
    assert!(collection.search(&query("v2", 1), embed("v2", "one")).is_err());
    let (texts, left) = collection.unembedded("v2", 10).unwrap();
    assert_eq!((texts[0].text.as_str(), left), ("changed", 1));
    // A vector of the text before the change is not taken.
    let stale = [(texts[0].key, texts[0].edition - 1)];
    assert_eq!(
        collection
            .embedded((&settings().embedded_as(), "v2"), &stale, vec![embed("v2", "two")])
            .unwrap(),
        0
    );
    reembed(&collection, "v2");
    let found = hits(collection.search(&query("v2", 1), embed("v2", "changed")).unwrap());
    assert_eq!(ids(&found), [2]);
    // The same text needs no new vectors.
    upsert(&collection, "v1", vec![document(2, "changed", r#"{"a":1}"#)]);
    assert_eq!(collection.unembedded("v2", 10).unwrap().1, 0);
    collection.keep(&["v2".to_owned()]).unwrap();
    assert!(collection.search(&query("v1", 1), embed("v1", "one")).is_err());
}

#[test]
fn a_document_named_twice_is_deleted_once() {
    let fixture = Fixture::new();
    let collection = &fixture.collection;
    upsert(collection, "v1", vec![document(1, "one", "{}"), document(2, "two", "{}")]);
    let twice = Selection::Ids([1, 1, 3].map(DocumentId::Number).to_vec());
    assert_eq!(collection.delete(&twice).unwrap(), 1);
    // The full-text index would be damaged by now.
    upsert(collection, "v1", vec![document(1, "one", "{}")]);
    let query = Query { text: Some("one".to_owned()), ..query("v1", 1) };
    let found = collection.search(&query, embed("v1", "one")).unwrap();
    assert_eq!(ids(&hits(found)), [1]);
}

#[test]
fn sparse_vectors_are_searched_also_after_a_restart() {
    let mut fixture = Fixture::new();
    let sparse = |entries: &[(u32, f32)]| Vector::Sparse(entries.to_vec());
    let documents = vec![document(1, "a", "{}"), document(2, "b", "{}"), document(3, "c", "{}")];
    let vectors = vec![sparse(&[(5, 1.0), (9, 2.0)]), sparse(&[(9, 1.0)]), sparse(&[])];
    fixture.collection.upsert((&settings().embedded_as(), "s1"), documents, vectors).unwrap();
    for _ in 0..2 {
        let search = |entries, limit| {
            let found = fixture.collection.search(&query("s1", limit), sparse(entries)).unwrap();
            hits(found).iter().map(|hit| (hit.id.clone(), hit.score)).collect::<Vec<_>>()
        };
        let (one, two) = (DocumentId::Number(1), DocumentId::Number(2));
        assert_eq!(search(&[(9, 3.0), (5, 1.0)], 5), [(one.clone(), 7.0), (two, 3.0)]);
        assert_eq!(search(&[(5, 1.0)], 5), [(one, 1.0)]);
        assert_eq!(search(&[(77, 1.0)], 5), []);
        let refused = fixture.collection.search(&query("s1", 1), embed("s1", "a")).unwrap_err();
        assert_eq!(refused.kind, IndexErrorKind::Invalid);
        let document = vec![document(4, "d", "{}")];
        let refused = fixture.collection.upsert(
            (&settings().embedded_as(), "s1"),
            document,
            vec![embed("s1", "a")],
        );
        assert_eq!(refused.unwrap_err().kind, IndexErrorKind::Invalid);
        fixture = fixture.reopen();
    }
}

#[test]
fn a_refused_write_changes_nothing() {
    let Fixture { collection, folder: _folder } = Fixture::new();
    upsert(&collection, "v1", vec![document(1, "one", "{}")]);
    for (version, vectors) in [
        ("v1", vec![vec![1.0; 4], vec![1.0; 3]]),
        ("v1", vec![vec![1.0; 4], vec![f32::NAN; 4]]),
        ("v1", vec![vec![1.0; 4]]),
        ("v1", vec![vec![1.0; 5], vec![1.0; 5]]),
        ("v2", vec![vec![1.0; 5], vec![1.0; 4]]),
    ] {
        let documents = vec![document(1, "changed", "{}"), document(2, "new", "{}")];
        let vectors = vectors.into_iter().map(Vector::Dense).collect();
        assert!(
            collection.upsert((&settings().embedded_as(), version), documents, vectors).is_err()
        );
        let (documents, versions) = collection.count_versions();
        assert_eq!((documents, versions.len(), versions[0].documents), (1, 1, 1));
        let shown = Shown { text: true, ..Shown::default() };
        let found = hits(collection.retrieve(&[DocumentId::Number(1)], &shown).unwrap());
        assert_eq!(found[0].text.as_deref(), Some("one"));
    }
}

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Upsert(u64, String, i64),
    Delete(u64),
    DeleteWhere(i64),
    Set(u64, i64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..12, "[a-c]{1,6}", 0_i64..3).prop_map(|(id, text, n)| Step::Upsert(id, text, n)),
        2 => (0_u64..12).prop_map(Step::Delete),
        1 => (0_i64..3).prop_map(Step::DeleteWhere),
        2 => (0_u64..12, 0_i64..3).prop_map(|(id, n)| Step::Set(id, n)),
        1 => Just(Step::Reopen),
    ]
}

fn number_is(number: i64) -> Filter {
    let condition = Condition::Any("n".into(), vec![Scalar::Integer(number)]);
    Filter { must: vec![condition], ..Filter::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_history_gives_what_an_exhaustive_search_gives(
        steps in prop::collection::vec(step(), 1..25), wanted in "[a-c]{1,6}",
    ) {
        let mut fixture = Fixture::new();
        let mut expected: BTreeMap<u64, (String, i64)> = BTreeMap::new();
        for step in steps {
            let collection = &fixture.collection;
            let one = |id| Selection::Ids(vec![DocumentId::Number(id)]);
            match step {
                Step::Upsert(id, text, n) => {
                    upsert(collection, "v1", vec![document(id, &text, &format!("{{\"n\":{n}}}"))]);
                    expected.insert(id, (text, n));
                }
                Step::Delete(id) => {
                    let count = collection.delete(&one(id)).unwrap();
                    prop_assert_eq!(count, u64::from(expected.remove(&id).is_some()));
                }
                Step::DeleteWhere(n) => {
                    collection.delete(&Selection::Matching(number_is(n))).unwrap();
                    expected.retain(|_, (_, number)| *number != n);
                }
                Step::Set(id, n) => {
                    let change = PayloadChange::Set(format!("{{\"n\":{n}}}"));
                    collection.change_payload(&one(id), &change, None).unwrap();
                    if let Some(known) = expected.get_mut(&id) {
                        known.1 = n;
                    }
                }
                Step::Reopen => fixture = fixture.reopen(),
            }
        }
        reembed(&fixture.collection, "v2");
        for version in ["v1", "v2"] {
            let cosine = |text: &str| {
                let unit = |vector| {
                    fixture.collection.comparable(vector).unwrap().into_dense().unwrap()
                };
                let (one, other) = (unit(embed(version, &wanted)), unit(embed(version, text)));
                one.iter().zip(&other).map(|(a, b)| a * b).sum::<f32>()
            };
            for filter in [Filter::default(), number_is(1)] {
                let all = expected.iter().filter(|(_, (_, n))| filter.is_empty() || *n == 1);
                let mut scores: Vec<f32> = all.map(|(_, (text, _))| cosine(text)).collect();
                scores.sort_by(|one, other| other.total_cmp(one));
                scores.truncate(4);
                let search = Query { filter, ..query(version, 4) };
                let found = fixture.collection.search(&search, embed(version, &wanted)).unwrap();
                let found: Vec<f32> = hits(found).iter().map(|hit| hit.score).collect();
                prop_assert_eq!(found.len(), scores.len());
                for (found, expected) in found.iter().zip(&scores) {
                    prop_assert!((found - expected).abs() < 1e-5, "{} {}", found, expected);
                }
            }
        }
        let page = fixture.collection.scroll(&Filter::default(), None, 100, &Shown::default());
        prop_assert_eq!(ids(&hits(page.unwrap())), expected.keys().copied().collect::<Vec<_>>());
    }
}

#[test]
fn pages_continue_where_the_last_one_ended() {
    let Fixture { collection, folder: _folder } = Fixture::new();
    upsert(&collection, "v1", (0..5).map(|id| document(id, "text", "{}")).collect());
    let (mut from, mut all) = (None, Vec::new());
    loop {
        let page = collection.scroll(&Filter::default(), from.as_ref(), 2, &Shown::default());
        let FromIndex::Page(hits, next) = page.unwrap() else { panic!("not a page") };
        all.extend(ids(&hits));
        match next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    assert_eq!(all, [0, 1, 2, 3, 4]);
}

#[test]
fn pages_of_large_documents_are_short() {
    let Fixture { collection, folder: _folder } = Fixture::new();
    let long = "x".repeat(1 << 20);
    upsert(&collection, "v1", (0..5).map(|id| document(id, &long, "{}")).collect());
    let page = |shown: &Shown| {
        let page = collection.scroll(&Filter::default(), None, 10, shown).unwrap();
        let FromIndex::Page(hits, next) = page else { panic!("not a page") };
        (hits.len(), next)
    };
    let texts = Shown { text: true, ..Shown::default() };
    assert_eq!(page(&texts), (2, Some(DocumentId::Number(2))));
    // Only what is returned counts.
    assert_eq!(page(&Shown::default()), (5, None));
}

#[test]
fn texts_to_embed_come_in_bounded_portions() {
    let Fixture { collection, folder: _folder } = Fixture::new();
    let long = "x".repeat(1 << 20);
    upsert(&collection, "v1", (0..5).map(|id| document(id, &long, "{}")).collect());
    let (texts, left): (Vec<Unembedded>, u64) = collection.unembedded("v2", 100).unwrap();
    assert_eq!((texts.len(), left), (2, 5));
}

#[test]
fn a_vector_of_a_deleted_document_is_not_given_to_the_next_one() {
    let mut fixture = Fixture::new();
    upsert(&fixture.collection, "v1", vec![document(1, "one", "{}")]);
    let pending = fixture.collection.unembedded("v2", 1).unwrap().0;
    let pending = [(pending[0].key, pending[0].edition)];
    let which = Selection::Ids(vec![DocumentId::Number(1)]);
    fixture.collection.delete(&which).unwrap();
    fixture = fixture.reopen();
    // The new document has the key of the deleted one.
    upsert(&fixture.collection, "v1", vec![document(2, "two", "{}")]);
    let next = fixture.collection.unembedded("v2", 1).unwrap().0;
    assert_eq!(next[0].key, pending[0].0);
    let added = fixture.collection.embedded(
        (&settings().embedded_as(), "v2"),
        &pending,
        vec![embed("v2", "one")],
    );
    assert_eq!(added.unwrap(), 0, "the vector of another text");
}

#[test]
fn a_document_that_is_named_twice_is_deleted_once() {
    let Fixture { collection, folder: _folder } = Fixture::new();
    upsert(&collection, "v1", vec![document(1, "one", "{}"), document(2, "two", "{}")]);
    let twice = Selection::Ids(vec![DocumentId::Number(1), DocumentId::Number(1)]);
    assert_eq!(collection.delete(&twice).unwrap(), 1);
    assert_eq!(collection.count(&Filter::default()).unwrap(), 1);
}
