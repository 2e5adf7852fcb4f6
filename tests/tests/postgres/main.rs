//! Collections in the user's PostgreSQL, with the real supervisor and a real server. Ignored by
//! default; `cargo xtask test-postgres` runs them.

use std::{fs, path::PathBuf, time::Duration};

use e2e::{
    client::Client,
    eventually, fixtures,
    launch::Builder,
    postgres::{Database, SECRET},
    search::requests::{self, Answer},
    server::Server,
};
use hyper::Method;
use serde_json::json;

const TIMEOUT: Duration = Duration::from_secs(60);
const TEXTS: [&str; 4] = ["hello world", "london is big", "the model server", "good day"];

fn tiny(name: &str) -> PathBuf {
    fixtures::model(&format!("tiny/{name}"))
}

/// Returns a server of model `m` that keeps its collections in a database.
fn builder(database: &Database, model: &str) -> Builder {
    let url = format!("{}?tables=articles", database.url());
    Server::builder().model("m", &tiny(model)).variable("ONNXD_SEARCH", &url)
}

/// Starts a server that keeps its collections in a database.
async fn serve(database: &Database) -> Server {
    builder(database, "a").start().await
}

async fn create(client: &mut Client, metadata: &serde_json::Value) {
    let body = json!({ "metadata": metadata }).to_string();
    let created =
        client.send(Method::PUT, "/collections/notes", body.into()).await.expect("an answer");
    assert_eq!(created.status, 200, "{}", created.text());
}

/// Creates the collection and stores all texts, whose ids count up from 0.
async fn fill(client: &mut Client) {
    create(client, &json!({"model": "m"})).await;
    let stored = requests::put(client, "notes", (0..).zip(TEXTS)).await.expect("an answer");
    assert_eq!(stored.status, 200, "{}", stored.text());
}

async fn found(client: &mut Client, query: &str) -> Answer {
    let response = requests::search(client, "notes", query, 10).await.expect("an answer");
    assert_eq!(response.status, 200, "{}", response.text());
    Answer::read(&response).expect("an answer of a search")
}

/// Returns the first component of a text's embedding.
async fn first_component(client: &mut Client, text: &str) -> f64 {
    let embedded = client.post("/embed", &json!({ "inputs": text })).await.expect("an answer");
    embedded.json()[0][0].as_f64().expect("a number")
}

/// Returns the first component that the view shows for a document.
fn shown(database: &Database, id: u64) -> f64 {
    let statement = format!(
        "SELECT (vector::real[])[1] FROM onnxd.notes WHERE text = '{}'",
        TEXTS[usize::try_from(id).expect("a small id")]
    );
    database.sql(&statement).parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run cargo xtask test-postgres"]
async fn an_update_embeds_the_documents_and_the_view_follows_the_commit() {
    let database = Database::start();
    let server = serve(&database).await;
    let mut client = server.client().await;
    fill(&mut client).await;
    let before = found(&mut client, TEXTS[1]).await;
    assert_eq!((before.generation, before.hits[0].id), (1, 1));

    for (generation, rolls_back) in [(2, false), (3, true)] {
        match rolls_back {
            false => server.update("m", Some(&tiny("b"))).await.expect("a commit"),
            true => server.rollback("m", None).await.expect("a commit"),
        };
        let answer = found(&mut client, TEXTS[1]).await;
        assert_eq!((answer.generation, answer.hits[0].id), (generation, 1));
        let expected = first_component(&mut client, TEXTS[1]).await;
        eventually("the view of the committed version", TIMEOUT, async || {
            ((shown(&database, 1) - expected).abs() < 1e-5).then_some(())
        })
        .await;
    }
    assert_eq!(found(&mut client, TEXTS[1]).await.hits, before.hits, "the index of the rollback");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run cargo xtask test-postgres"]
async fn rows_that_others_write_are_found() {
    let database = Database::start();
    database.sql("CREATE TABLE articles (id bigint PRIMARY KEY, body text, stars int)");
    database.sql("INSERT INTO articles VALUES (1, 'hello world', 5)");
    let server = serve(&database).await;
    let mut client = server.client().await;
    let metadata = json!({"model": "m", "table": "articles", "id": "id", "text": "body"});
    create(&mut client, &metadata).await;
    database.sql("INSERT INTO articles VALUES (2, 'london is big', 3)");
    let ids = async |client: &mut Client, query: &str| found(client, query).await.ids();
    eventually("both rows", TIMEOUT, async || {
        (ids(&mut client, "london is big").await == [2, 1]).then_some(())
    })
    .await;
    database.sql("UPDATE articles SET body = 'good day' WHERE id = 2");
    eventually("the changed row", TIMEOUT, async || {
        let hits = found(&mut client, "good day").await.hits;
        (hits.first()?.text == "good day").then_some(())
    })
    .await;
    server.update("m", Some(&tiny("b"))).await.expect("a commit");
    assert_eq!(found(&mut client, "good day").await.hits[0].text, "good day");
    database.sql("DELETE FROM articles WHERE id = 2");
    assert_eq!(ids(&mut client, "good day").await, [1]);
    let refused = requests::put(&mut client, "notes", [(3, "more")]).await.expect("an answer");
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert_eq!(database.sql("SELECT id, body, stars FROM articles"), "1|hello world|5");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run cargo xtask test-postgres"]
async fn embedding_goes_on_while_the_database_is_gone() {
    let database = Database::start();
    let server = serve(&database).await;
    let mut client = server.client().await;
    fill(&mut client).await;
    database.stop("immediate");
    let search = requests::search(&mut client, "notes", "hello", 1).await.expect("an answer");
    assert_eq!(search.status, 503, "{}", search.text());
    let write = requests::put(&mut client, "notes", [(9, "more")]).await.expect("an answer");
    assert_eq!(write.status, 503, "{}", write.text());
    let embedded = client.post("/embed", &json!({"inputs": "hello"})).await.expect("an answer");
    assert_eq!(embedded.status, 200, "{}", embedded.text());
    database.resume();
    eventually("a search", TIMEOUT, async || {
        let search = requests::search(&mut client, "notes", "hello", 9).await.expect("an answer");
        (search.status == 200).then(|| Answer::read(&search).expect("an answer").hits.len())
    })
    .await;
    assert!(found(&mut client, "hello").await.ids().len() >= TEXTS.len());
    for process in fs::read_dir("/proc").expect("/proc").flatten() {
        let arguments = fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&arguments).contains(SECRET), "{process:?}");
    }
    assert!(!server.stderr().contains(SECRET));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run cargo xtask test-postgres"]
async fn new_models_start_while_the_database_is_gone() {
    let database = Database::start();
    let server = serve(&database).await;
    fill(&mut server.client().await).await;
    server.stop().await;
    database.stop("immediate");

    // With another state directory, no model has served before.
    let server = builder(&database, "b").model("n", &tiny("a")).start().await;
    let mut client = server.client().await;
    let address = database.address().to_string();
    let stderr = server.stderr();
    assert!(
        stderr.contains(&address) && stderr.contains("search requests are answered 503"),
        "{stderr}"
    );
    let embedded = client.post("/embed", &json!({"inputs": "hello"})).await.expect("an answer");
    assert_eq!(embedded.status, 200, "{}", embedded.text());
    let search = requests::search(&mut client, "notes", "hello", 1).await.expect("an answer");
    assert_eq!(search.status, 503, "{}", search.text());
    let refusal = server.update("n", Some(&tiny("b"))).await.expect_err("nothing was listed");
    assert!(refusal.message.contains("unknown whether collections are bound to n"), "{refusal:?}");

    database.resume();
    eventually("a search", TIMEOUT, async || {
        let search = requests::search(&mut client, "notes", TEXTS[1], 9).await.expect("an answer");
        (search.status == 200).then_some(())
    })
    .await;
    let answer = found(&mut client, TEXTS[1]).await;
    assert_eq!((answer.hits[0].id, answer.hits.len()), (1, TEXTS.len()));

    database.stop("immediate");
    server.update("n", Some(&tiny("b"))).await.expect("no collection is bound to it");
    let refusal = server.update("m", Some(&tiny("a"))).await.expect_err("a collection is");
    assert!(refusal.message.contains(&address), "{refusal:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL; run cargo xtask test-postgres"]
async fn a_database_that_refuses_the_url_ends_the_start() {
    let database = Database::start();
    let checked = async |builder: Builder| {
        builder.argument("--check-config").try_start().await.expect_err("it only checks")
    };
    let wrong = database.url().replace(SECRET, "wrong");
    let builder = builder(&database, "a");
    let refused = builder.clone().variable("ONNXD_SEARCH", &wrong);
    let started = refused.clone().try_start().await.expect_err("the password is wrong");
    for exited in [started, checked(refused).await] {
        let cause = "--search (set by ONNXD_SEARCH): the database server at 127.0.0.1:";
        assert_eq!(exited.code, Some(78), "{}", exited.stderr);
        for part in [cause, "refuses user owner", "correct the user and the password"] {
            assert!(exited.stderr.contains(part), "{}", exited.stderr);
        }
    }
    let usable = checked(builder.clone()).await;
    assert_eq!(usable.code, Some(0), "{}", usable.stderr);
    assert!(!usable.stderr.contains("--search"), "{}", usable.stderr);
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'onnxd'";
    assert_eq!(database.sql(schemas), "0", "nothing is left behind");
    database.stop("fast");
    let away = checked(builder).await;
    assert_eq!(away.code, Some(0), "{}", away.stderr);
    let address = database.address().to_string();
    assert!(away.stderr.contains(&address) && away.stderr.contains("503"), "{}", away.stderr);
}
