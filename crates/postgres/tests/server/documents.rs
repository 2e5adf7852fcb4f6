//! Documents are written, found, changed and deleted.

use onnxd_proto::search::{
    CatalogEntry, CollectionInfo, Condition, Document, DocumentId, Filter, FromIndex,
    IndexErrorKind, PayloadChange, Query, Scalar, Selection, Shown, ToIndex,
};

use crate::{
    database::Database,
    process::{Process, document, embed, hits, query, settings, upsert},
};

fn number(number: u64) -> DocumentId {
    DocumentId::Number(number)
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn documents_are_found_by_vector_filter_and_text() {
    let database = Database::start();
    let mut process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let documents = vec![
        document(1, "red fox", r#"{"lang":"en","z":1.0,"a":[1,"x"]}"#),
        document(2, "blue whale", r#"{"lang":"en"}"#),
        document(3, "roter Fuchs", r#"{"lang":"de"}"#),
    ];
    process.upsert("docs", "v1", documents);
    for _ in 0..2 {
        let shown = Shown { text: true, payload: true, vector: Some("v1".into()) };
        let search = Query { shown, ..query("v1", 2) };
        let found = process.search("docs", search, embed("v1", "blue whale"));
        assert_eq!(found[0].id, number(2));
        assert!((found[0].score - 1.0).abs() < 1e-6);
        assert_eq!(found[0].text.as_deref(), Some("blue whale"));
        assert_eq!(found[0].payload.as_deref(), Some(r#"{"lang":"en"}"#));
        assert_eq!(found[0].vector.as_ref().map(Vec::len), Some(4));

        let german = Condition::Any("lang".into(), vec![Scalar::Text("de".into())]);
        let filter = Filter { must: vec![german], ..Filter::default() };
        let search = Query { filter, ..query("v1", 5) };
        let found = process.search("docs", search, embed("v1", "blue whale"));
        assert_eq!((found.len(), &found[0].id), (1, &number(3)));

        let hybrid = Query { text: Some("Whale & (".into()), ..query("v1", 1) };
        let found = process.search("docs", hybrid, embed("v1", "red fox"));
        assert_eq!(found[0].id, number(2), "first by text and not last by vector");
        let above = Query { score_threshold: Some(0.999), ..query("v1", 5) };
        assert_eq!(process.search("docs", above, embed("v1", "red fox")).len(), 1);
        let second = Query { offset: 1, ..query("v1", 5) };
        assert_eq!(process.search("docs", second, embed("v1", "red fox")).len(), 2);
        // Everything is in the database.
        process = Process::postgres(&database.url());
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_search_never_compares_vectors_of_two_versions() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    assert_eq!(process.nearest("docs", "v2", "one"), []);
    process.upsert("docs", "v1", vec![document(1, "one", "{}"), document(2, "two", "{}")]);
    let search =
        |version: &str| ToIndex::Search { collection: "docs".into(), query: query(version, 1) };
    let vector = vec![embed("v2", "one")];
    assert_eq!(process.refused(&search("v2"), &vector), IndexErrorKind::Version);
    assert_eq!(process.unembedded("docs", "v2").1, 2);
    process.reembed("docs", "v2");
    assert_eq!(process.nearest("docs", "v2", "two")[0], number(2));
    // A write with vectors of one version leaves the other incomplete, until its text is embedded.
    process.upsert("docs", "v1", vec![document(2, "changed", "{}")]);
    assert_eq!(process.refused(&search("v2"), &vector), IndexErrorKind::Version);
    let (texts, left) = process.unembedded("docs", "v2");
    assert_eq!((texts[0].text.as_str(), left), ("changed", 1));
    // A vector of the text before the change is not taken.
    let stale = ToIndex::Embedded {
        collection: "docs".into(),
        embedded_as: settings("{}").embedded_as(),
        version: "v2".into(),
        documents: vec![(texts[0].key, texts[0].edition - 1)],
    };
    assert_eq!(process.ask(&stale, &vector), FromIndex::Changed(0));
    assert_eq!(process.reembed("docs", "v2"), 1);
    assert_eq!(process.nearest("docs", "v2", "changed")[0], number(2));
    // The same text needs no new vectors.
    process.upsert("docs", "v1", vec![document(2, "changed", r#"{"a":1}"#)]);
    assert_eq!(process.unembedded("docs", "v2").1, 0);
    process.done(&ToIndex::Keep { collection: "docs".into(), versions: vec!["v2".into()] });
    assert_eq!(process.refused(&search("v1"), &vector), IndexErrorKind::Version);
    let wrong = upsert("docs", "v2", vec![document(9, "x", "{}")]);
    assert_eq!(process.refused(&wrong, &[vec![1.0; 5]]), IndexErrorKind::Invalid);
    assert_eq!(process.nearest("docs", "v2", "x").len(), 2);
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn names_of_all_kinds_are_collections_with_aliases() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    let names =
        ["docs", "Ünï \"x\"; --", "_collections", "select", &"long".repeat(40), &"é".repeat(32)];
    for name in names {
        process.create(name, "{}");
        process.upsert(name, "v1", vec![document(1, name, "{}")]);
        let again = ToIndex::Create(name.to_owned(), settings("{}"));
        assert_eq!(process.refused(&again, &[]), IndexErrorKind::Exists);
    }
    let alias = |alias: &str, name: &str| (alias.to_owned(), name.to_owned());
    process.done(&ToIndex::SetAliases(vec![], vec![alias("now", "docs")]));
    process.done(&ToIndex::SetAliases(vec!["now".into()], vec![alias("now", "select")]));
    assert_eq!(process.nearest("now", "v1", "x"), [number(1)]);
    for (removed, added, kind) in [
        (vec!["unknown".to_owned()], vec![], IndexErrorKind::NotFound),
        (vec![], vec![alias("a", "nothing")], IndexErrorKind::NotFound),
        (vec![], vec![alias("docs", "select")], IndexErrorKind::Exists),
    ] {
        assert_eq!(process.refused(&ToIndex::SetAliases(removed, added), &[]), kind);
    }
    let FromIndex::Collections(list) = process.ask(&ToIndex::List, &[]) else { panic!() };
    assert_eq!(list.len(), names.len());
    let FromIndex::Names(known) = process.ask(&ToIndex::Names, &[]) else { panic!() };
    let told = |one: &CollectionInfo| CatalogEntry {
        name: one.name.clone(),
        aliases: one.aliases.clone(),
        settings: one.settings.clone(),
    };
    assert_eq!(known, list.iter().map(told).collect::<Vec<_>>());
    let select = list.iter().find(|one| one.name == "select").unwrap();
    let described = process.ask(&ToIndex::Describe("now".into()), &[]);
    assert_eq!(described, FromIndex::Collections(vec![select.clone()]));
    let unknown = ToIndex::Describe("unknown".into());
    assert_eq!(process.refused(&unknown, &[]), IndexErrorKind::NotFound);
    assert_eq!((select.documents, select.versions[0].documents), (1, 1));
    assert_eq!(
        (select.aliases.as_slice(), select.versions[0].dimension),
        (&["now".to_owned()][..], 4)
    );
    for name in names {
        process.done(&ToIndex::Drop(name.to_owned()));
        let gone = ToIndex::Count { collection: name.to_owned(), filter: Filter::default() };
        assert_eq!(process.refused(&gone, &[]), IndexErrorKind::NotFound);
    }
    assert_eq!(process.ask(&ToIndex::List, &[]), FromIndex::Collections(vec![]));
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_refused_write_changes_nothing() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    process.upsert("docs", "v1", vec![document(1, "one", "{}")]);
    let two = || vec![document(1, "changed", "{}"), document(2, "new", "{}")];
    let nul = vec![document(2, "new", "{}"), document(1, "nul \0", "{}")];
    let wrong = vec![document(2, "new", "{}"), document(1, "x", "[]")];
    for (documents, vectors) in [
        (two(), vec![vec![1.0; 4], vec![f32::NAN, 1.0, 1.0, 1.0]]),
        (two(), vec![vec![1.0; 5], vec![1.0; 5]]),
        (two(), vec![vec![1.0; 3]]),
        (nul, vec![vec![1.0; 4]; 2]),
        (wrong, vec![vec![1.0; 4]; 2]),
    ] {
        process.refused(&upsert("docs", "v1", documents), &vectors);
        let shown = Shown { text: true, ..Shown::default() };
        let all = ToIndex::Scroll {
            collection: "docs".into(),
            filter: Filter::default(),
            from: None,
            limit: 10,
            shown,
        };
        let found = hits(process.ask(&all, &[]));
        assert_eq!((found.len(), found[0].text.as_deref()), (1, Some("one")));
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn vectors_of_every_dimension_are_stored_whole() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    for dimension in [1, 1500, 2000, 2001, 4000, 4001] {
        let name = format!("d{dimension}");
        process.create(&name, "{}");
        let vector = |seed: u16| -> Vec<f32> {
            (0..dimension).map(|place| f32::from(seed) + (place % 7) as f32).collect()
        };
        let documents = (0..3).map(|id| document(id, "text", "{}")).collect();
        let vectors: Vec<_> = (0..3).map(|seed| vector(seed * 5)).collect();
        let answer = process.ask(&upsert(&name, "v1", documents), &vectors);
        assert_eq!(answer, FromIndex::Changed(3), "{dimension}");
        let shown = Shown { vector: Some("v1".into()), ..Shown::default() };
        let found = process.search(&name, Query { shown, ..query("v1", 3) }, vector(5));
        assert_eq!(found.len(), 3, "{dimension}");
        let stored = found[0].vector.as_ref().unwrap();
        let norm: f32 = stored.iter().map(|value| value * value).sum();
        assert!((norm - 1.0).abs() < 1e-4 && stored.len() == dimension);
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn payloads_change_and_ids_keep_their_order() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let text = |id: &str| DocumentId::Text(id.to_owned());
    let ids = [number(0), number(9), number(u64::MAX), text(""), text("10"), text("é")];
    let documents = ids.iter().rev().map(|id| Document {
        id: id.clone(),
        text: "text".into(),
        payload: r#"{"a":{"b":1},"c":[1]}"#.into(),
    });
    process.upsert("docs", "v1", documents.collect());
    let change = |which: Selection, change: PayloadChange| {
        let change = ToIndex::ChangePayload { collection: "docs".into(), which, change };
        process.ask(&change, &[])
    };
    let all = || Selection::Matching(Filter::default());
    let set = PayloadChange::Set(r#"{"a":2,"d":"x"}"#.into());
    assert_eq!(change(all(), set), FromIndex::Changed(6));
    let first = Selection::Ids(vec![ids[0].clone(), number(77)]);
    let replaced = change(first, PayloadChange::Replace(r#"{"e":null}"#.into()));
    assert_eq!(replaced, FromIndex::Changed(1));
    assert_eq!(change(all(), PayloadChange::Remove(vec!["c".into()])), FromIndex::Changed(6));
    let large = format!(r#"{{"x":"{}"}}"#, "y".repeat(262_140));
    let FromIndex::Failed(error) = change(all(), PayloadChange::Set(large)) else { panic!() };
    assert_eq!(error.kind, IndexErrorKind::Full);
    // A payload may show the text that is searched, and no other.
    let show = |text: &str| PayloadChange::Set(format!(r#"{{"page_content":"{text}"}}"#));
    assert_eq!(change(all(), show("text")), FromIndex::Changed(6));
    let FromIndex::Failed(error) = change(all(), show("other")) else { panic!() };
    assert_eq!(error.kind, IndexErrorKind::Invalid);
    assert!(error.message.contains("holds the text of document"), "{error}");
    let removed = PayloadChange::Remove(vec!["page_content".into()]);
    assert_eq!(change(all(), removed), FromIndex::Changed(6));
    let (mut from, mut found) = (None, Vec::new());
    loop {
        let shown = Shown { payload: true, ..Shown::default() };
        let (collection, filter) = ("docs".to_owned(), Filter::default());
        let scroll = ToIndex::Scroll { collection, filter, from, limit: 4, shown };
        let FromIndex::Page(hits, next) = process.ask(&scroll, &[]) else { panic!() };
        found.extend(hits);
        from = next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(found.iter().map(|hit| hit.id.clone()).collect::<Vec<_>>(), ids);
    assert_eq!(found[0].payload.as_deref(), Some(r#"{"e":null}"#));
    assert_eq!(found[1].payload.as_deref(), Some(r#"{"a":2,"d":"x"}"#));
    let reversed: Vec<_> = ids.iter().rev().cloned().collect();
    let shown = Shown::default();
    let retrieve = ToIndex::Retrieve { collection: "docs".into(), ids: reversed.clone(), shown };
    let found = hits(process.ask(&retrieve, &[]));
    assert_eq!(found.iter().map(|hit| hit.id.clone()).collect::<Vec<_>>(), reversed);
    let delete = ToIndex::Delete { collection: "docs".into(), which: Selection::Ids(reversed) };
    assert_eq!(process.ask(&delete, &[]), FromIndex::Changed(6));
    assert_eq!(process.ask(&delete, &[]), FromIndex::Changed(0));
    assert_eq!(process.nearest("docs", "v1", "text"), []);
}
