//! The view of a collection, as other programs see it.

use std::sync::atomic::{AtomicBool, Ordering};

use onnxd_proto::search::{Document, DocumentId, FromIndex, Selection, Settings, ToIndex};

use crate::{
    database::{Database, block_on},
    process::{Process, document, embed, settings, upsert},
};

fn committed(version: &str) -> ToIndex {
    ToIndex::Committed { collection: "docs".into(), version: version.into() }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_view_shows_documents_with_vectors_of_the_committed_version() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    block_on(async {
        let client = database.client().await;
        let read = async || {
            let query = "SELECT id, text, payload::text, vector::text FROM docs ORDER BY id";
            let rows = client.query(query, &[]).await.unwrap();
            let row = |row: &tokio_postgres::Row| -> (String, String, String, Option<String>) {
                (row.get(0), row.get(1), row.get(2), row.get(3))
            };
            rows.iter().map(row).collect::<Vec<_>>()
        };
        assert_eq!(read().await, []);
        let text_id = Document { id: DocumentId::Text("é-1".into()), ..document(0, "b", "{}") };
        let large = document(u64::MAX, "a", r#"{"n":1}"#);
        process.upsert("docs", "v1", vec![text_id, large]);
        let found = read().await;
        assert_eq!(found.len(), 2, "the first version is shown at once");
        assert_eq!(found[0].0, u64::MAX.to_string());
        assert_eq!((found[0].1.as_str(), found[0].2.as_str()), ("a", r#"{"n": 1}"#));
        assert_eq!(found[1].0, "é-1");
        // A version of another dimension, embedded and not committed yet.
        let (texts, _) = process.unembedded("docs", "v2");
        let documents = texts.iter().map(|text| (text.key, text.edition)).collect();
        let embedded = ToIndex::Embedded {
            collection: "docs".into(),
            embedded_as: settings("{}").embedded_as(),
            version: "v2".into(),
            documents,
        };
        process.ask(&embedded, &[vec![1.0, 0.0], vec![0.0, 1.0]]);
        assert_eq!(read().await, found);
        client.batch_execute("CREATE ROLE reader; GRANT SELECT ON docs TO reader").await.unwrap();
        process.done(&committed("v2"));
        let now = read().await;
        assert!(now.iter().all(|row| row.3.as_ref().unwrap().matches(',').count() == 1), "{now:?}");
        let may = "SELECT has_table_privilege('reader', 'docs', 'SELECT')";
        assert!(client.query_one(may, &[]).await.unwrap().get::<_, bool>(0));
        process.done(&committed("v2"));
        process.done(&committed("v1"));
        assert_eq!(read().await, found);
        process.done(&ToIndex::Keep { collection: "docs".into(), versions: vec!["v2".into()] });
        assert!(read().await.iter().all(|row| row.3.is_none()));
        assert_eq!(
            process.refused(&committed("v3"), &[]),
            onnxd_proto::search::IndexErrorKind::Version
        );
        process.done(&ToIndex::Drop("docs".into()));
        let left = "SELECT count(*) FROM pg_class WHERE relnamespace = '\"my docs\"'::regnamespace
            AND relname ~ '_1|docs'";
        assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_reader_never_sees_two_versions_at_once() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let documents = || (0..50).map(|id| document(id, "text", "{}")).collect::<Vec<_>>();
    process.ask(&upsert("docs", "v1", documents()), &vec![vec![1.0, 0.0, 0.0]; 50]);
    process.ask(&upsert("docs", "v2", documents()), &vec![vec![0.0, 1.0]; 50]);
    let stop = AtomicBool::new(false);
    let (mut seen, mut total) = ([0, 0], 0);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            block_on(async {
                let client = database.client().await;
                let (mut seen, mut total) = ([0, 0], 0);
                while !stop.load(Ordering::Relaxed) {
                    let query = "SELECT count(*), min(vector_dims(vector)), max(vector_dims(vector)) FROM docs";
                    let row = client.query_one(query, &[]).await.unwrap();
                    let (count, min, max): (i64, i32, i32) = (row.get(0), row.get(1), row.get(2));
                    assert_eq!((count, min), (50, max));
                    seen[usize::from(max == 2)] += 1;
                    total += 1;
                }
                (seen, total)
            })
        });
        for round in 0..100 {
            process.done(&committed(if round % 2 == 0 { "v2" } else { "v1" }));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        (seen, total) = reader.join().unwrap();
    });
    assert!(seen[0] > 5 && seen[1] > 5 && total > 50, "{seen:?}");
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_query_of_the_view_follows_the_graph() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let texts = |from: u64| (from..from + 2000).map(|id| document(id, &format!("text {id}"), "{}"));
    process.upsert("docs", "v1", texts(0).collect());
    process.upsert("docs", "v1", texts(2000).collect());
    process.upsert("docs", "v1", texts(4000).collect());
    process.wait_for_graph("docs", "v1");
    block_on(async {
        let client = database.client().await;
        client
            .batch_execute("ANALYZE; SET enable_seqscan = off; SET enable_sort = off")
            .await
            .unwrap();
        let explain = "EXPLAIN SELECT id FROM docs ORDER BY vector <=> '[1,2,3,4]' LIMIT 3";
        let plan = client.query(explain, &[]).await.unwrap();
        let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains("_graph") && plan.contains("Order By"), "{plan}");
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn vectors_of_an_equal_version_are_copied_and_get_a_graph() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let texts = |from: u64| (from..from + 2000).map(|id| document(id, &format!("text {id}"), "{}"));
    for from in [0, 2000, 4000, 6000] {
        process.upsert("docs", "v1", texts(from).take(1900).collect());
    }
    let reuse = || ToIndex::Reuse { collection: "docs".into(), from: "v1".into(), to: "v2".into() };
    assert_eq!(process.ask(&reuse(), &[]), FromIndex::Changed(7600));
    assert_eq!(process.ask(&reuse(), &[]), FromIndex::Changed(0));
    assert_eq!(process.unembedded("docs", "v2").1, 0);
    let reused_from = || {
        let FromIndex::Collections(all) = process.ask(&ToIndex::List, &[]) else { panic!() };
        let known = all[0].versions.iter().find(|known| known.version == "v2");
        known.and_then(|known| known.reused_from.clone())
    };
    assert_eq!(reused_from().as_deref(), Some("v1"));
    let discard = ToIndex::Discard { collection: "docs".into(), version: "v2".into() };
    process.done(&discard);
    assert_eq!((process.unembedded("docs", "v2").1, reused_from()), (7600, None));
    assert_eq!(process.ask(&reuse(), &[]), FromIndex::Changed(7600));
    // A write does not wait for the graph.
    let one = upsert("docs", "v2", vec![document(9000, "text", "{}")]);
    assert_eq!(process.ask(&one, &[embed("v1", "text")]), FromIndex::Changed(1));
    process.reembed("docs", "v1");
    process.wait_for_graph("docs", "v1");
    process.wait_for_graph("docs", "v2");
    process.done(&ToIndex::Keep { collection: "docs".into(), versions: vec!["v2".into()] });
    process.done(&ToIndex::Drop("docs".into()));
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn what_a_collection_is_bound_to_changes_only_if_its_vectors_stay_right() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    process.upsert("docs", "v1", vec![document(1, "a", "{}")]);
    let configure = |settings: Settings| ToIndex::Configure("docs".into(), settings);
    process.done(&configure(settings(r#"{"a":1}"#)));
    let other = Settings { model: Some("other".into()), ..settings("{}") };
    let shorter = Settings { dimensions: Some(2), ..settings("{}") };
    let prompt = Settings { document_prompt: Some("p".into()), ..settings("{}") };
    let dot = Settings { distance: onnxd_proto::search::Distance::Dot, ..settings("{}") };
    let table = settings(r#"{"table":"t","id":"id","text":"x"}"#);
    for wrong in [other, shorter.clone(), prompt, dot, table] {
        let kind = process.refused(&configure(wrong), &[]);
        assert_eq!(kind, onnxd_proto::search::IndexErrorKind::Invalid);
    }
    assert_eq!(process.nearest("docs", "v1", "a").len(), 1);
    // Without documents, everything may change.
    let which = Selection::Ids(vec![DocumentId::Number(1)]);
    process.ask(&ToIndex::Delete { collection: "docs".into(), which }, &[]);
    let now = shorter.embedded_as();
    process.done(&configure(shorter));
    let mut two = upsert("docs", "v1", vec![document(1, "a", "{}")]);
    let kind = process.refused(&two, &[vec![1.0, 0.0]]);
    assert_eq!(kind, onnxd_proto::search::IndexErrorKind::Changed, "embedded as before");
    if let ToIndex::Upsert { embedded_as, .. } = &mut two {
        *embedded_as = now;
    }
    assert_eq!(process.ask(&two, &[vec![1.0, 0.0]]), FromIndex::Changed(1));
}
