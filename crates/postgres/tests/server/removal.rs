//! Tables are removed: by deleting a collection, or by other programs.

use std::time::{Duration, Instant};

use onnxd_proto::search::{DocumentId, Filter, FromIndex, IndexErrorKind, Shown, ToIndex};

use crate::{
    database::{Database, block_on},
    process::{Process, document, settings},
};

/// Creates a collection that is large enough for a graph.
fn fill(process: &Process) {
    process.create("docs", "{}");
    for from in [0, 2000, 4000] {
        let texts = (from..from + 2000).map(|id| document(id, &format!("text {id}"), "{}"));
        process.upsert("docs", "v1", texts.collect());
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_graph_that_is_being_made_does_not_keep_its_collection() {
    let database = Database::start();
    for removal in [
        ToIndex::Keep { collection: "docs".into(), versions: vec![] },
        ToIndex::Drop("docs".into()),
    ] {
        let process = Process::postgres(&database.url());
        if matches!(removal, ToIndex::Drop(_)) {
            process.done(&ToIndex::Drop("docs".into()));
        }
        block_on(async {
            // The making of a graph waits for transactions that began before.
            let client = database.client().await;
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM pg_class LIMIT 1";
            client.batch_execute(begin).await.unwrap();
            fill(&process);
            let start = Instant::now();
            let phases = "SELECT string_agg(phase, ',') FROM pg_stat_progress_create_index";
            while database.sql(phases) != "waiting for old snapshots" {
                assert!(start.elapsed() < Duration::from_secs(60), "no graph is being made");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let start = Instant::now();
            process.done(&removal);
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
            let tables = "SELECT count(*) FROM pg_class WHERE relname ~ '^_vectors_[0-9_]+$'";
            assert_eq!(database.sql(tables), "0");
        });
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_schema_that_others_removed_is_created_by_a_restart() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    process.upsert("docs", "v1", vec![document(1, "a", "{}")]);
    database.sql("DROP SCHEMA \"my docs\" CASCADE");
    for request in [ToIndex::List, ToIndex::Create("more".into(), settings("{}"))] {
        let error = process.error(&request);
        assert_eq!(error.kind, IndexErrorKind::Storage);
        for part in ["schema my docs was removed", "restart onnxd", "from a backup"] {
            assert!(error.message.contains(part), "{error}");
        }
    }
    drop(process);
    let process = Process::postgres(&database.url());
    assert_eq!(process.ask(&ToIndex::List, &[]), FromIndex::Collections(vec![]));
    process.create("docs", "{}");
    process.upsert("docs", "v1", vec![document(1, "a", "{}")]);
    assert_eq!(process.nearest("docs", "v1", "a").len(), 1);
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_collection_whose_tables_others_removed_can_be_deleted() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    for tables in ["_documents_1", "_documents_2, \"my docs\"._vectors_2_2"] {
        process.create("docs", "{}");
        process.upsert("docs", "v1", vec![document(1, "a", "{}")]);
        database.sql(&format!("DROP TABLE \"my docs\".{tables} CASCADE"));
        let (collection, shown) = ("docs".to_owned(), Shown { text: true, ..Shown::default() });
        let ids = vec![DocumentId::Number(1)];
        let error = process.error(&ToIndex::Retrieve { collection, ids, shown });
        for part in ["_documents_", "delete the collection", "from a backup"] {
            assert!(error.message.contains(part), "{error}");
        }
        process.done(&ToIndex::Drop("docs".into()));
        assert_eq!(process.ask(&ToIndex::List, &[]), FromIndex::Collections(vec![]));
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_table_that_a_collection_shows_is_kept_until_the_collection_is_deleted() {
    let database = Database::start();
    let process = Process::postgres(&database.url_with("articles"));
    let table = "CREATE TABLE articles (id bigint PRIMARY KEY, body text);
        INSERT INTO articles VALUES (1, 'a text')";
    let metadata = r#"{"table": "articles", "id": "id", "text": "body"}"#;
    for removal in ["DROP TABLE articles", "DROP TABLE articles CASCADE"] {
        database.sql(table);
        process.create("docs", metadata);
        if removal.ends_with("CASCADE") {
            database.sql(removal);
            let filter = Filter::default();
            let (collection, shown) = ("docs".to_owned(), Shown::default());
            let all = ToIndex::Scroll { collection, filter, from: None, limit: 9, shown };
            let error = process.error(&all);
            assert!(error.message.contains("delete the collection"), "{error}");
        } else {
            database.sql(&format!(
                "DO $$ BEGIN {removal}; RAISE 'it was removed';
                EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END $$"
            ));
        }
        process.done(&ToIndex::Drop("docs".into()));
        database.sql("DROP TABLE IF EXISTS articles");
    }
}
