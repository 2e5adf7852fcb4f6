//! Collections that show a table of the user.

use std::time::{Duration, Instant};

use onnxd_proto::search::{
    Condition, DocumentId, Filter, FromIndex, IndexErrorKind, PayloadChange, Query, Scalar,
    Selection, Shown, ToIndex,
};
use tokio_postgres::Client;

use crate::{
    database::{Database, block_on},
    process::{Process, document, embed, query, settings, upsert},
};

const METADATA: &str = r#"{"table": "news.Ar\"ti'cles", "id": "no", "text": "the body"}"#;
/// The table in a URL.
const ARTICLES: &str = "news.Ar%22ti%27cles";
const TABLE: &str = r#"
    CREATE SCHEMA news;
    CREATE TABLE news."Ar""ti'cles" (
        no integer PRIMARY KEY, "the body" varchar(200), lang text, at timestamptz DEFAULT now(),
        size numeric
    );
    INSERT INTO news."Ar""ti'cles" (no, "the body", lang, size) VALUES
        (1, 'one', 'en', 1), (2, 'zwei', 'de', 1e400), (-3, 'three', 'en', NULL), (4, NULL, 'en', 2)
"#;

fn number(number: u64) -> DocumentId {
    DocumentId::Number(number)
}

/// Waits until this many texts are unembedded, as a supervisor that asks repeatedly would see it.
fn wait_for(process: &Process, count: u64) -> Duration {
    let start = Instant::now();
    loop {
        let (_, all) = process.unembedded("articles", "v1");
        if all == count {
            return start.elapsed();
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{all} texts, not {count}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

async fn change(client: &Client, sql: &str) {
    client.batch_execute(&sql.replace("$ARTICLES", r#"news."Ar""ti'cles""#)).await.unwrap();
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn rows_that_any_program_changes_are_embedded_and_found() {
    let database = Database::start();
    let process = Process::postgres(&database.url_with(ARTICLES));
    block_on(async {
        let client = database.client().await;
        client.batch_execute(TABLE).await.unwrap();
        process.create("articles", METADATA);
        assert_eq!(
            process.unembedded("articles", "v1").1,
            3,
            "a row without a text is no document"
        );
        assert_eq!(process.reembed("articles", "v1"), 3);
        assert_eq!(process.nearest("articles", "v1", "zwei")[0], number(2));
        // Unchanged: many questions, which are answered without the database.
        wait_for(&process, 0);

        change(&client, "INSERT INTO $ARTICLES VALUES (5, 'five', 'en')").await;
        let waited = wait_for(&process, 1);
        assert!(waited < Duration::from_secs(2), "{waited:?}");
        // Not embedded yet, so not found, and the others are.
        assert_eq!(process.nearest("articles", "v1", "five").len(), 3);
        assert_eq!(process.reembed("articles", "v1"), 1);
        assert_eq!(process.nearest("articles", "v1", "five")[0], number(5));

        change(&client, "UPDATE $ARTICLES SET lang = 'fr', size = 7 WHERE no = 5").await;
        change(&client, r#"UPDATE $ARTICLES SET "the body" = 'changed' WHERE no = 1"#).await;
        wait_for(&process, 1);
        assert!(!process.nearest("articles", "v1", "one").contains(&number(1)), "an old text");
        assert_eq!(process.reembed("articles", "v1"), 1);
        assert_eq!(process.nearest("articles", "v1", "changed")[0], number(1));

        change(&client, r#"UPDATE $ARTICLES SET "the body" = 'four' WHERE no = 4"#).await;
        change(&client, r#"UPDATE $ARTICLES SET "the body" = NULL WHERE no = 2"#).await;
        change(&client, "UPDATE $ARTICLES SET no = 50 WHERE no = 5").await;
        change(&client, "DELETE FROM $ARTICLES WHERE no = -3").await;
        wait_for(&process, 2);
        process.reembed("articles", "v1");
        let mut found = process.nearest("articles", "v1", "x");
        found.sort();
        assert_eq!(found, [number(1), number(4), number(50)]);

        let shown = Shown { text: true, payload: true, vector: Some("v1".into()) };
        let french = Condition::Any("lang".into(), vec![Scalar::Text("fr".into())]);
        let filter = Filter { must: vec![french], ..Filter::default() };
        let search = Query { filter, shown, text: Some("five".into()), ..query("v1", 5) };
        let found = process.search("articles", search, embed("v1", "five"));
        assert_eq!(
            (found.len(), &found[0].id, found[0].text.as_deref()),
            (1, &number(50), Some("five"))
        );
        let payload = found[0].payload.as_ref().unwrap();
        assert!(payload.contains(r#""size":7"#) && !payload.contains("five"), "{payload}");

        let view = "SELECT id FROM articles ORDER BY vector <=> '[1,2,3,4]'";
        assert_eq!(client.query(view, &[]).await.unwrap().len(), 3);
        change(&client, "TRUNCATE $ARTICLES").await;
        assert_eq!(process.nearest("articles", "v1", "x"), []);
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn the_users_table_keeps_its_rows_and_loses_the_triggers() {
    let database = Database::start();
    let process = Process::postgres(&database.url_with(ARTICLES));
    block_on(async {
        let client = database.client().await;
        client.batch_execute(TABLE).await.unwrap();
        let whole = r#"SELECT md5(string_agg(t::text, ',' ORDER BY no)) FROM news."Ar""ti'cles" t"#;
        let before: String = client.query_one(whole, &[]).await.unwrap().get(0);
        process.create("articles", METADATA);
        process.reembed("articles", "v1");
        let which = || Selection::Ids(vec![number(1)]);
        let collection = || "articles".to_owned();
        let replace = PayloadChange::Replace("{}".into());
        for (write, vectors) in [
            (upsert("articles", "v1", vec![document(1, "x", "{}")]), vec![embed("v1", "x")]),
            (ToIndex::Delete { collection: collection(), which: which() }, vec![]),
            (
                ToIndex::ChangePayload {
                    collection: collection(),
                    which: which(),
                    change: replace,
                },
                vec![],
            ),
        ] {
            assert_eq!(process.refused(&write, &vectors), IndexErrorKind::Invalid);
        }
        let after: String = client.query_one(whole, &[]).await.unwrap().get(0);
        assert_eq!(before, after);
        process.done(&ToIndex::Drop(collection()));
        let triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'onnxd%'";
        assert_eq!(client.query_one(triggers, &[]).await.unwrap().get::<_, i64>(0), 0);
        change(&client, "INSERT INTO $ARTICLES VALUES (7, 'seven')").await;

        // A table that is gone does not keep its collection from going.
        process.create("articles", METADATA);
        change(&client, "DROP TABLE $ARTICLES CASCADE").await;
        process.done(&ToIndex::Drop(collection()));
        assert_eq!(process.ask(&ToIndex::List, &[]), FromIndex::Collections(vec![]));
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn tables_that_cannot_be_shown_are_refused() {
    let database = Database::start();
    let process = Process::postgres(&database.url_with("public.t,missing"));
    block_on(async {
        let client = database.client().await;
        let tables = "CREATE TABLE public.t (id bigint PRIMARY KEY, body text, half numeric UNIQUE NOT NULL, loose int)";
        client.batch_execute(tables).await.unwrap();
        for metadata in [
            r#"{"table": "t"}"#,
            r#"{"table": "missing", "id": "id", "text": "body"}"#,
            r#"{"table": "t", "id": "id", "text": "missing"}"#,
            r#"{"table": "t", "id": "half", "text": "body"}"#,
            r#"{"table": "t", "id": "loose", "text": "body"}"#,
        ] {
            let create = ToIndex::Create("bad".into(), settings(metadata));
            assert_eq!(process.refused(&create, &[]), IndexErrorKind::Invalid, "{metadata}");
        }
        process.create("bad", r#"{"table": "t", "id": "id", "text": "body"}"#);
        // Two collections may show one table.
        process.create("too", r#"{"table": "t", "id": "id", "text": "body"}"#);
        client
            .batch_execute("INSERT INTO public.t (id, body, half) VALUES (1, 'a', 1)")
            .await
            .unwrap();
        for name in ["bad", "too"] {
            assert_eq!(process.reembed(name, "v1"), 1, "{name}");
        }
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_user_with_few_privileges_is_enough() {
    let database = Database::start();
    block_on(async {
        let client = database.client().await;
        let roles = "CREATE ROLE app LOGIN PASSWORD 'app'; CREATE ROLE writer;
            CREATE TABLE public.t (id text PRIMARY KEY, body text);
            GRANT INSERT, SELECT ON public.t TO writer";
        client.batch_execute(roles).await.unwrap();
        let url = format!("{}&tables=t", database.url_of("app", "app", "postgres"));
        let expect = |kind, process: &Process| {
            let metadata = r#"{"table": "t", "id": "id", "text": "body"}"#;
            let create = ToIndex::Create("docs".into(), settings(metadata));
            match process.ask(&create, &[]) {
                FromIndex::Failed(error) => assert_eq!(Some(error.kind), kind, "{error}"),
                other => assert_eq!((FromIndex::Done, None), (other, kind)),
            }
        };
        let storage = Some(IndexErrorKind::Storage);
        // Without pgvector, without a schema, and without the table.
        expect(storage, &Process::postgres(&url));
        client.batch_execute("CREATE EXTENSION vector").await.unwrap();
        expect(storage, &Process::postgres(&url));
        client.batch_execute("GRANT CREATE ON DATABASE postgres TO app").await.unwrap();
        let process = Process::postgres(&url);
        expect(storage, &process);
        client.batch_execute("GRANT SELECT, TRIGGER ON public.t TO app").await.unwrap();
        expect(None, &process);
        // Another user's rows are noted, though that user may not use onnxd's tables.
        let insert = "SET ROLE writer; INSERT INTO public.t VALUES ('x', 'a text'); RESET ROLE";
        client.batch_execute(insert).await.unwrap();
        assert_eq!(process.reembed("docs", "v1"), 1);
        assert_eq!(process.nearest("docs", "v1", "a text"), [DocumentId::Text("x".into())]);
        process.done(&ToIndex::Drop("docs".into()));
        client.batch_execute(insert.replace("'x'", "'y'").as_str()).await.unwrap();
    });
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_table_that_the_operator_has_not_named_is_not_shown() {
    let database = Database::start();
    block_on(async {
        let client = database.client().await;
        let tables = "CREATE TABLE public.t (id bigint PRIMARY KEY, body text);
            CREATE SCHEMA private;
            CREATE TABLE private.t (id bigint PRIMARY KEY, body text, secret text)";
        client.batch_execute(tables).await.unwrap();
    });
    let create = |table: &str| {
        let metadata = format!(r#"{{"table": "{table}", "id": "id", "text": "body"}}"#);
        ToIndex::Create("docs".into(), settings(&metadata))
    };
    let refused = |process: &Process, table: &str| {
        let answer = process.ask(&create(table), &[]);
        let FromIndex::Failed(error) = answer else { panic!("{table}: {answer:?}") };
        assert_eq!(error.kind, IndexErrorKind::Invalid);
        assert!(error.message.contains(&format!("tables={table}")), "{error}");
    };
    let process = Process::postgres(&database.url());
    refused(&process, "t");
    drop(process);
    let process = Process::postgres(&database.url_with("t"));
    refused(&process, "private.t");
    process.done(&create("public.t"));
}
