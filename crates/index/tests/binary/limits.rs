//! Requests at each limit are answered, and beyond it refused with the limit. Those of collections and
//! open files are in [`crate::serving`].

use onnxd_proto::{
    limits::TEXT_BYTES_MAX,
    search::{
        BATCH_MAX, COLLECTION_NAME_BYTES_MAX, CONDITIONS_MAX, Condition, Distance, Document,
        DocumentId, FILTER_DEPTH_MAX, Filter, FromIndex, HITS_MAX, ID_BYTES_MAX, PAYLOAD_BYTES_MAX,
        PayloadChange, Query, Selection, ToIndex, VECTOR_COMPONENTS_MAX,
    },
};
use tempfile::{TempDir, tempdir};

use crate::{
    process::{Index, document, query, settings},
    start,
};

/// A process with an empty collection.
fn prepared() -> (TempDir, Index) {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    index.ask(&ToIndex::Create("docs".into(), settings(Distance::Cosine)));
    (folder, index)
}

/// Expects a refusal that names the limit.
fn refused(answer: &FromIndex, limit: usize) {
    let FromIndex::Failed(error) = answer else { panic!("not refused: {limit}") };
    assert!(error.message.contains(&limit.to_string()), "{error}");
}

#[test]
fn names_and_documents_are_limited() {
    let (_folder, mut index) = prepared();
    let create = |length| ToIndex::Create("n".repeat(length), settings(Distance::Cosine));
    assert_eq!(index.ask(&create(COLLECTION_NAME_BYTES_MAX)), FromIndex::Done);
    refused(&index.ask(&create(COLLECTION_NAME_BYTES_MAX + 1)), COLLECTION_NAME_BYTES_MAX);
    refused(&index.ask(&create(0)), COLLECTION_NAME_BYTES_MAX);
    let alias = ("a".repeat(COLLECTION_NAME_BYTES_MAX + 1), "docs".to_owned());
    refused(&index.ask(&ToIndex::SetAliases(vec![], vec![alias])), COLLECTION_NAME_BYTES_MAX);

    let payload = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    let sized = |id: usize, text: usize, bytes: usize| Document {
        id: DocumentId::Text("i".repeat(id)),
        text: "t".repeat(text),
        payload: payload(bytes),
    };
    let mut add = |document| index.upsert("docs", "v", vec![(document, vec![1.0])]);
    assert_eq!(add(sized(ID_BYTES_MAX, TEXT_BYTES_MAX, PAYLOAD_BYTES_MAX)), FromIndex::Changed(1));
    refused(&add(sized(ID_BYTES_MAX + 1, 1, 10)), ID_BYTES_MAX);
    refused(&add(sized(1, TEXT_BYTES_MAX + 1, 10)), TEXT_BYTES_MAX);
    refused(&add(sized(1, 1, PAYLOAD_BYTES_MAX + 1)), PAYLOAD_BYTES_MAX);
    let which = Selection::Matching(Filter::default());
    let change = PayloadChange::Set("{\"b\":1}".into());
    let grow = ToIndex::ChangePayload { collection: "docs".into(), which, change };
    let answer = index.ask(&grow);
    assert!(matches!(answer, FromIndex::Failed(_)), "{answer:?}");
}

#[test]
fn batches_and_vectors_are_limited() {
    let (_folder, mut index) = prepared();
    let batch =
        |count: usize| (0..count).map(|id| (document(id as u64, "", "{}"), vec![1.0])).collect();
    assert_eq!(index.upsert("docs", "v", batch(BATCH_MAX)), FromIndex::Changed(BATCH_MAX as u64));
    refused(&index.upsert("docs", "v", batch(BATCH_MAX + 1)), BATCH_MAX);
    let ids = (0..=BATCH_MAX as u64).map(DocumentId::Number).collect();
    let delete = ToIndex::Delete { collection: "docs".into(), which: Selection::Ids(ids) };
    refused(&index.ask(&delete), BATCH_MAX);
    index.ask(&ToIndex::Create("wide".into(), settings(Distance::Cosine)));
    let wide = |width| vec![(document(1, "", "{}"), vec![1.0; width])];
    let added = index.upsert("wide", "v", wide(VECTOR_COMPONENTS_MAX));
    assert_eq!(added, FromIndex::Changed(1));
    let found = index.search("wide", query("v", 1), &vec![1.0; VECTOR_COMPONENTS_MAX]);
    let FromIndex::Hits { hits, .. } = found else { panic!("unexpected {found:?}") };
    assert!((hits[0].score - 1.0).abs() < 1e-4, "{}", hits[0].score);
    refused(&index.upsert("wide", "v", wide(VECTOR_COMPONENTS_MAX + 1)), VECTOR_COMPONENTS_MAX);
}

#[test]
fn filters_and_hits_are_limited() {
    let (_folder, mut index) = prepared();
    let mut count = |filter| index.ask(&ToIndex::Count { collection: "docs".into(), filter });
    let wide = |conditions| Filter {
        must: vec![Condition::IsNull("a".into()); conditions],
        ..Filter::default()
    };
    assert_eq!(count(wide(CONDITIONS_MAX)), FromIndex::Changed(0));
    refused(&count(wide(CONDITIONS_MAX + 1)), CONDITIONS_MAX);
    let deep = |levels| {
        (1..levels).fold(wide(1), |filter, _| Filter {
            must: vec![Condition::Nested(Box::new(filter))],
            ..Filter::default()
        })
    };
    assert_eq!(count(deep(FILTER_DEPTH_MAX)), FromIndex::Changed(0));
    refused(&count(deep(FILTER_DEPTH_MAX + 1)), FILTER_DEPTH_MAX);
    let found = index.search("docs", query("v", HITS_MAX), &[1.0]);
    assert!(matches!(found, FromIndex::Hits { .. }), "{found:?}");
    let beyond = Query { offset: 1, ..query("v", HITS_MAX) };
    refused(&index.search("docs", beyond, &[1.0]), HITS_MAX);
}

#[test]
fn answers_larger_than_a_frame_are_refused() {
    let (_folder, mut index) = prepared();
    let payload = format!("{{\"a\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX - 8));
    for id in 0..20 {
        index.upsert("docs", "v", vec![(document(id, "", &payload), vec![1.0])]);
    }
    let mut everything = query("v", 20);
    everything.shown.payload = true;
    let answer = index.search("docs", everything.clone(), &[1.0]);
    let FromIndex::Failed(error) = answer else { panic!("not refused") };
    assert!(error.message.contains("ask for fewer documents"), "{error}");
    everything.limit = 10;
    assert!(matches!(index.search("docs", everything, &[1.0]), FromIndex::Hits { .. }));
}
