//! Each request, through the socket.

use std::fs;

use onnxd_proto::search::{
    COLLECTIONS_MAX, CatalogEntry, Condition, Distance, Document, DocumentId, Filter, FromIndex,
    IndexErrorKind, PayloadChange, Query, Scalar, Selection, Settings, Shown, Source, ToIndex,
};
use tempfile::tempdir;

use crate::{
    process::{Index, bytes, document, embedded_as, hits, ids, query, settings},
    start,
};

fn failure(answer: FromIndex) -> IndexErrorKind {
    match answer {
        FromIndex::Failed(error) => {
            assert!(!error.message.is_empty());
            error.kind
        }
        other => panic!("unexpected {other:?}"),
    }
}

fn create(index: &mut Index, name: &str) {
    let created = index.ask(&ToIndex::Create(name.into(), settings(Distance::Cosine)));
    assert_eq!(created, FromIndex::Done);
}

fn of(key: &str, value: &str) -> Filter {
    let condition = Condition::Any(key.into(), vec![Scalar::Text(value.into())]);
    Filter { must: vec![condition], ..Filter::default() }
}

fn scroll(index: &mut Index, filter: Filter, from: Option<u64>, limit: usize) -> FromIndex {
    let from = from.map(DocumentId::Number);
    let shown = Shown { text: true, payload: true, vector: None };
    index.ask(&ToIndex::Scroll { collection: "docs".into(), filter, from, limit, shown })
}

#[test]
fn documents_are_added_found_changed_and_deleted() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    create(&mut index, "docs");
    let documents = vec![
        (document(1, "red fox", r#"{"lang":"en"}"#), vec![1.0, 0.0]),
        (document(2, "blue whale", r#"{"lang":"en"}"#), vec![0.0, 2.0]),
        (document(3, "roter Fuchs", r#"{"lang":"de"}"#), vec![0.9, 0.1]),
    ];
    assert_eq!(index.upsert("docs", "v1", documents), FromIndex::Changed(3));
    let answer = index.search("docs", query("v1", 2), &[1.0, 0.0]);
    let FromIndex::Hits { source: Source::Exact, hits: found, .. } = answer else {
        panic!("unexpected {answer:?}")
    };
    assert_eq!(ids(&found), [1, 3]);
    let filtered = Query { filter: of("lang", "de"), ..query("v1", 2) };
    assert_eq!(ids(&hits(index.search("docs", filtered, &[0.0, 1.0]))), [3]);
    let hybrid = Query { text: Some("whale".into()), ..query("v1", 1) };
    assert_eq!(ids(&hits(index.search("docs", hybrid, &[0.9, 0.1]))), [2]);
    let paged = Query { offset: 1, limit: 1, score_threshold: Some(0.5), ..query("v1", 1) };
    assert_eq!(ids(&hits(index.search("docs", paged, &[1.0, 0.0]))), [3]);

    let FromIndex::Page(first, Some(next)) = scroll(&mut index, Filter::default(), None, 2) else {
        panic!("no further page")
    };
    assert_eq!((ids(&first), next), (vec![1, 2], DocumentId::Number(3)));
    assert_eq!(ids(&hits(scroll(&mut index, Filter::default(), Some(3), 2))), [3]);

    let one = |id| Selection::Ids(vec![DocumentId::Number(id)]);
    let change = PayloadChange::Set(r#"{"lang":"fr"}"#.into());
    let message = ToIndex::ChangePayload { collection: "docs".into(), which: one(2), change };
    assert_eq!(index.ask(&message), FromIndex::Changed(1));
    assert_eq!(ids(&hits(scroll(&mut index, of("lang", "fr"), None, 9))), [2]);
    let count = ToIndex::Count { collection: "docs".into(), filter: of("lang", "en") };
    assert_eq!(index.ask(&count), FromIndex::Changed(1));
    let which = Selection::Matching(of("lang", "de"));
    let delete = ToIndex::Delete { collection: "docs".into(), which };
    assert_eq!(index.ask(&delete), FromIndex::Changed(1));
    assert_eq!(ids(&hits(index.search("docs", query("v1", 9), &[1.0, 0.0]))), [1, 2]);
    let retrieve = ToIndex::Retrieve {
        collection: "docs".into(),
        ids: vec![DocumentId::Number(3), DocumentId::Number(2)],
        shown: Shown { vector: Some("v1".into()), ..Shown::default() },
    };
    let found = hits(index.ask(&retrieve));
    assert_eq!((ids(&found), found[0].vector.clone()), (vec![2], Some(vec![0.0, 1.0])));
    assert!(index.close().success());
}

#[test]
fn a_search_fails_until_its_version_has_all_vectors() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    create(&mut index, "docs");
    assert_eq!(
        hits(index.search("docs", query("any", 5), &[1.0])),
        [],
        "no documents, any version"
    );
    let documents =
        vec![(document(1, "a", "{}"), vec![1.0, 0.0]), (document(2, "b", "{}"), vec![0.0, 1.0])];
    index.upsert("docs", "v1", documents);
    assert_eq!(failure(index.search("docs", query("v2", 1), &[1.0, 0.0])), IndexErrorKind::Version);
    let unembedded =
        |limit| ToIndex::Unembedded { collection: "docs".into(), version: "v2".into(), limit };
    let embed = |index: &mut Index, limit| {
        let FromIndex::Unembedded(texts, left) = index.ask(&unembedded(limit)) else { panic!() };
        let vectors: Vec<f32> = texts
            .iter()
            .flat_map(|text| if text.text == "a" { [0.0, 1.0] } else { [1.0, 0.0] })
            .collect();
        let documents = texts.iter().map(|text| (text.key, text.edition)).collect();
        let message = ToIndex::Embedded {
            collection: "docs".into(),
            embedded_as: embedded_as(),
            version: "v2".into(),
            documents,
        };
        assert_eq!(
            index.ask_with(&message, &bytes(&vectors)),
            FromIndex::Changed(texts.len() as u64)
        );
        left
    };
    assert_eq!(embed(&mut index, 1), 2);
    assert_eq!(failure(index.search("docs", query("v2", 1), &[1.0, 0.0])), IndexErrorKind::Version);
    assert_eq!(embed(&mut index, 1), 1);
    assert_eq!(ids(&hits(index.search("docs", query("v2", 1), &[1.0, 0.0]))), [2]);
    assert_eq!(ids(&hits(index.search("docs", query("v1", 1), &[1.0, 0.0]))), [1]);
    assert_eq!(failure(index.search("docs", query("v1", 1), &[1.0])), IndexErrorKind::Invalid);

    let reuse = |from: &str| ToIndex::Reuse {
        collection: "docs".into(),
        from: from.into(),
        to: "v3".into(),
    };
    assert_eq!(index.ask(&reuse("v0")), FromIndex::Changed(0));
    assert_eq!(index.ask(&reuse("v2")), FromIndex::Changed(2));
    let discard = ToIndex::Discard { collection: "docs".into(), version: "v3".into() };
    assert_eq!(index.ask(&discard), FromIndex::Done);
    assert_eq!(index.ask(&reuse("v2")), FromIndex::Changed(2));
    let keep = ToIndex::Keep { collection: "docs".into(), versions: vec!["v3".into()] };
    assert_eq!(index.ask(&keep), FromIndex::Done);
    assert_eq!(ids(&hits(index.search("docs", query("v3", 1), &[1.0, 0.0]))), [2]);
    assert_eq!(failure(index.search("docs", query("v1", 1), &[1.0, 0.0])), IndexErrorKind::Version);
}

#[test]
fn sparse_vectors_are_added_embedded_and_searched() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    create(&mut index, "docs");
    let sparse = |entries: &[(u32, f32)]| {
        let mut bytes = u32::try_from(entries.len()).unwrap().to_le_bytes().to_vec();
        entries.iter().for_each(|(token, weight)| {
            bytes.extend(token.to_le_bytes());
            bytes.extend(weight.to_le_bytes());
        });
        bytes
    };
    let documents: Vec<Document> = vec![document(1, "a", "{}"), document(2, "b", "{}")];
    let vectors = [sparse(&[(7, 2.0), (3, 1.0)]), sparse(&[(7, 1.0)])].concat();
    let add = ToIndex::UpsertSparse {
        collection: "docs".into(),
        embedded_as: embedded_as(),
        version: "s1".into(),
        documents,
    };
    assert_eq!(index.ask_with(&add, &vectors), FromIndex::Changed(2));
    let search =
        |version| ToIndex::SearchSparse { collection: "docs".into(), query: query(version, 9) };
    let found = hits(index.ask_with(&search("s1"), &sparse(&[(7, 3.0)])));
    assert_eq!(found.iter().map(|hit| hit.score).collect::<Vec<_>>(), [6.0, 3.0]);
    assert_eq!(ids(&hits(index.ask_with(&search("s1"), &sparse(&[(3, 1.0)])))), [1]);
    assert_eq!(
        failure(index.ask_with(&search("s2"), &sparse(&[(3, 1.0)]))),
        IndexErrorKind::Version
    );
    assert_eq!(failure(index.ask_with(&search("s1"), &[1, 2, 3])), IndexErrorKind::Invalid);
    let version = "s2".to_owned();
    let unembedded =
        ToIndex::Unembedded { collection: "docs".into(), version: version.clone(), limit: 9 };
    let FromIndex::Unembedded(texts, _) = index.ask(&unembedded) else { panic!() };
    let documents = texts.iter().map(|text| (text.key, text.edition)).collect();
    let message = ToIndex::EmbeddedSparse {
        collection: "docs".into(),
        embedded_as: embedded_as(),
        version,
        documents,
    };
    assert_eq!(
        index.ask_with(&message, &[sparse(&[]), sparse(&[(9, 1.0)])].concat()),
        FromIndex::Changed(2)
    );
    assert_eq!(ids(&hits(index.ask_with(&search("s2"), &sparse(&[(9, 1.0)])))), [2]);
    let FromIndex::Collections(list) = index.ask(&ToIndex::List) else { panic!() };
    assert_eq!(
        list[0].versions.iter().map(|version| version.dimension).collect::<Vec<_>>(),
        [0, 0]
    );
}

#[test]
fn collections_and_aliases_are_named_listed_and_removed() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    create(&mut index, "docs");
    create(&mut index, "other");
    let alias = |removed: &[&str], added: &[(&str, &str)]| {
        let added = added.iter().map(|(alias, name)| ((*alias).into(), (*name).into())).collect();
        ToIndex::SetAliases(removed.iter().map(|alias| (*alias).into()).collect(), added)
    };
    assert_eq!(index.ask(&alias(&[], &[("now", "docs")])), FromIndex::Done);
    index.upsert("now", "v1", vec![(document(1, "a", "{}"), vec![1.0])]);
    assert_eq!(ids(&hits(index.search("docs", query("v1", 5), &[1.0]))), [1]);
    assert_eq!(index.ask(&alias(&["now"], &[("now", "other")])), FromIndex::Done);
    assert_eq!(hits(index.search("now", query("v1", 5), &[1.0])), []);
    for (message, expected) in [
        (alias(&[], &[("docs", "other")]), IndexErrorKind::Exists),
        (alias(&[], &[("new", "missing")]), IndexErrorKind::NotFound),
        (alias(&["now", "missing"], &[]), IndexErrorKind::NotFound),
        (ToIndex::Create("now".into(), settings(Distance::Dot)), IndexErrorKind::Exists),
        (ToIndex::Create("docs".into(), settings(Distance::Dot)), IndexErrorKind::Exists),
        (ToIndex::Configure("docs".into(), settings(Distance::Dot)), IndexErrorKind::Invalid),
        (ToIndex::Drop("missing".into()), IndexErrorKind::NotFound),
    ] {
        assert_eq!(failure(index.ask(&message)), expected, "{message:?}");
    }
    assert_eq!(
        hits(index.search("now", query("v1", 5), &[1.0])),
        [],
        "a refused change of aliases"
    );
    let plain = || settings(Distance::Cosine);
    let bound = Settings { metadata: r#"{"a":1}"#.into(), ..plain() };
    let configure = |settings: &Settings| ToIndex::Configure("docs".into(), settings.clone());
    for other in [
        Settings { model: Some("m".into()), ..plain() },
        Settings { dimensions: Some(1), ..plain() },
        Settings { document_prompt: Some("p".into()), ..plain() },
    ] {
        // Vectors of documents would not fit.
        assert_eq!(failure(index.ask(&configure(&other))), IndexErrorKind::Invalid);
    }
    assert_eq!(index.ask(&configure(&bound)), FromIndex::Done);
    index.upsert("other", "v1", vec![(document(1, "a", "{}"), vec![1.0])]);
    let which = Selection::Ids(vec![DocumentId::Number(1)]);
    index.ask(&ToIndex::Delete { collection: "other".into(), which });
    let shorter = Settings { dimensions: Some(2), ..plain() };
    let embedded_as = shorter.embedded_as();
    assert_eq!(index.ask(&ToIndex::Configure("other".into(), shorter)), FromIndex::Done);
    let vectors = vec![(document(1, "a", "{}"), vec![1.0])];
    assert_eq!(failure(index.upsert("other", "v1", vectors)), IndexErrorKind::Changed);
    let documents = vec![document(1, "a", "{}")];
    let (collection, version) = ("other".to_owned(), "v1".to_owned());
    let add = ToIndex::Upsert { collection, embedded_as, version, documents };
    let added = index.ask_with(&add, &bytes(&[1.0, 0.0]));
    assert_eq!(added, FromIndex::Changed(1), "without documents, everything may change");
    assert_eq!(index.ask(&ToIndex::Drop("other".into())), FromIndex::Done);
    assert!(index.close().success());

    let mut index = start(folder.path());
    let FromIndex::Collections(list) = index.ask(&ToIndex::List) else { panic!() };
    assert_eq!(list.len(), 1);
    assert_eq!(
        (&list[0].name, &list[0].settings, list[0].documents),
        (&"docs".to_owned(), &bound, 1)
    );
    assert_eq!(
        (&list[0].aliases, &list[0].damaged),
        (&vec![], &None),
        "aliases go with their collection"
    );
    assert!(!folder.path().join("2.db").exists());
}

/// Returns the names of the databases that the process has open.
fn open_databases(index: &Index) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{}/fd", index.child.id())).unwrap();
    let mut names: Vec<String> = descriptors
        .filter_map(|file| fs::read_link(file.unwrap().path()).ok())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .filter(|name| name.ends_with(".db"))
        .collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn names_are_listed_without_opening_a_collection() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    for name in ["other", "docs"] {
        create(&mut index, name);
        index.upsert(name, "v1", vec![(document(1, "a", "{}"), vec![1.0])]);
    }
    let added = vec![("now".to_owned(), "docs".to_owned())];
    assert_eq!(index.ask(&ToIndex::SetAliases(Vec::new(), added)), FromIndex::Done);
    assert!(index.close().success());

    let mut index = start(folder.path());
    let names = |name: &str, aliases: &[&str]| CatalogEntry {
        name: name.into(),
        aliases: aliases.iter().map(|&alias| alias.into()).collect(),
        settings: settings(Distance::Cosine),
    };
    let expected = FromIndex::Names(vec![names("docs", &["now"]), names("other", &[])]);
    assert_eq!(index.ask(&ToIndex::Names), expected);
    assert_eq!(open_databases(&index), ["catalog.db"]);
    let answer = index.ask(&ToIndex::Describe("now".into()));
    let FromIndex::Collections(described) = answer else { panic!("unexpected {answer:?}") };
    let [docs] = described.as_slice() else { panic!("unexpected {described:?}") };
    assert_eq!((docs.name.as_str(), docs.documents, docs.aliases.len()), ("docs", 1, 1));
    assert_eq!(open_databases(&index), ["2.db", "catalog.db"], "only the one that is described");
    assert_eq!(failure(index.ask(&ToIndex::Describe("missing".into()))), IndexErrorKind::NotFound);
}

#[test]
fn a_payload_never_shows_another_text_than_the_searched_one() {
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    create(&mut index, "docs");
    let documents = vec![
        (document(1, "a", r#"{"page_content":"a"}"#), vec![1.0]),
        (document(2, "b", r#"{"page_content":"b"}"#), vec![1.0]),
    ];
    index.upsert("docs", "v1", documents);
    let mut change = |change| {
        let which = Selection::Matching(Filter::default());
        index.ask(&ToIndex::ChangePayload { collection: "docs".into(), which, change })
    };
    let text = r#"{"page_content":"a","x":1}"#;
    for given in [PayloadChange::Set(text.into()), PayloadChange::Replace(text.into())] {
        // The second document has another text, so the first one is not changed either.
        assert_eq!(failure(change(given)), IndexErrorKind::Invalid);
    }
    let removed = PayloadChange::Remove(vec!["page_content".into()]);
    assert_eq!(change(removed), FromIndex::Changed(2));
    let answer = scroll(&mut index, Filter::default(), None, 9);
    let FromIndex::Page(page, _) = answer else { panic!("unexpected {answer:?}") };
    for (hit, text) in page.iter().zip(["a", "b"]) {
        assert_eq!((hit.text.as_deref(), hit.payload.as_deref()), (Some(text), Some("{}")));
    }
    // In settings that name the field, it always holds the text.
    let named = Settings { text_field: Some("body".into()), ..settings(Distance::Cosine) };
    assert_eq!(index.ask(&ToIndex::Configure("docs".into(), named)), FromIndex::Done);
    let which = Selection::Ids(vec![DocumentId::Number(1)]);
    for (payload, answer) in [(r#"{"body":"c"}"#, None), (r#"{"body":"a"}"#, Some(1))] {
        let change = PayloadChange::Set(payload.into());
        let collection = "docs".into();
        let message = ToIndex::ChangePayload { collection, which: which.clone(), change };
        match answer {
            None => assert_eq!(failure(index.ask(&message)), IndexErrorKind::Invalid),
            Some(count) => assert_eq!(index.ask(&message), FromIndex::Changed(count)),
        }
    }
}

#[test]
fn a_thousand_collections_share_the_descriptors() {
    const USED: usize = 350;
    let folder = tempdir().unwrap();
    let mut index = start(folder.path());
    for number in 0..COLLECTIONS_MAX {
        create(&mut index, &format!("c{number}"));
    }
    let more = ToIndex::Create("more".into(), settings(Distance::Cosine));
    assert_eq!(failure(index.ask(&more)), IndexErrorKind::Full);
    // More than could be open at once.
    for number in 0..USED {
        let vector = vec![(document(number as u64, "a", "{}"), vec![1.0])];
        assert_eq!(index.upsert(&format!("c{number}"), "v", vector), FromIndex::Changed(1));
    }
    for number in 0..USED {
        let found = index.search(&format!("c{number}"), query("v", 1), &[1.0]);
        assert_eq!(ids(&hits(found)), [number as u64]);
    }
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", index.child.id())).unwrap().count();
    assert!(descriptors < 800, "{descriptors} descriptors");
}
