//! Vectors that clients send, and the sizes that they declare.

use e2e::client::{Client, Response};
use hyper::Method;
use serde_json::{Value, json};

use crate::{builder, create, put, tiny};

const TEXTS: [&str; 4] = ["hello world", "london is big", "the model server", "good day"];

async fn send(client: &mut Client, method: Method, path: &str, body: Value) -> Response {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    client.send(method, path, body.into()).await.expect("an answer")
}

#[track_caller]
fn result(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["result"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn returned_vectors_may_be_sent_back() {
    let home = builder().directories();
    let server = builder().home(&home).start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &TEXTS).await;
    server.stop().await;

    // This server has embedded none of the documents, so it knows only the vectors that it returns.
    let server = builder().home(&home).start().await;
    let mut client = server.client().await;
    let points = "/collections/notes/points";
    let diverse = json!({"nearest": {"text": TEXTS[3]}, "mmr": {"candidates_limit": 4}});
    for (id, method, path, body, place) in [
        (0, Method::GET, "/0", Value::Null, "/vector"),
        (1, Method::POST, "", json!({"ids": [1], "with_vector": true}), "/0/vector"),
        (
            2,
            Method::POST,
            "/scroll",
            json!({"offset": 2, "limit": 1, "with_vector": true}),
            "/points/0/vector",
        ),
        (
            3,
            Method::POST,
            "/query",
            json!({"query": diverse, "limit": 1, "with_vector": true}),
            "/points/0/vector",
        ),
    ] {
        let answer = result(&send(&mut client, method, &format!("{points}{path}"), body).await);
        let vector = answer.pointer(place).expect("a vector").clone();
        let query = json!({"query": vector, "limit": 1});
        let found = send(&mut client, Method::POST, &format!("{points}/query"), query).await;
        assert_eq!(result(&found)["points"][0]["id"], id, "{path}");
        let point = json!({"id": 10 + id, "vector": vector, "payload": {"text": "a copy"}});
        let stored = send(&mut client, Method::PUT, points, json!({ "points": [point] })).await;
        assert_eq!(result(&stored)["status"], "completed", "{path}");
    }
    let group = json!({"query": {"text": "a"}, "group_by": "text", "limit": 1, "group_size": 1,
        "with_vector": true});
    let groups = send(&mut client, Method::POST, &format!("{points}/query/groups"), group).await;
    let vector = result(&groups)["groups"][0]["hits"][0]["vector"].clone();
    let query = json!({"query": vector, "limit": 1});
    result(&send(&mut client, Method::POST, &format!("{points}/query"), query).await);
    // A vector that this server did not return is still unknown.
    let mut changed = vector;
    changed[0] = json!(0.123_456);
    let query = json!({"query": changed, "limit": 1});
    let unknown = send(&mut client, Method::POST, &format!("{points}/query"), query).await;
    assert_eq!(unknown.status, 409, "{}", unknown.text());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_declared_size_is_compared_when_the_model_is_known() {
    // A model that is not loaded is loaded, since its dimension is unknown.
    for arguments in [&[][..], &["--preload=none"]] {
        let server = arguments.iter().fold(builder(), |builder, one| builder.argument(one));
        let server = server.start().await;
        let mut client = server.client().await;
        let notes = "/collections/notes";
        let declare = |size: u32| json!({"vectors": {"size": size, "distance": "Cosine"}});
        result(&send(&mut client, Method::PUT, notes, declare(3)).await);
        let points = json!({"points": [{"id": 1, "vector": {"text": "hello", "model": "m"}}]});
        let points_path = format!("{notes}/points");
        let by_text = send(&mut client, Method::PUT, &points_path, points.clone()).await;
        let metadata = json!({"metadata": {"model": "m"}});
        let by_name = send(&mut client, Method::PATCH, notes, metadata).await;
        let mut named = declare(3);
        named["metadata"] = json!({"model": "m"});
        let created = send(&mut client, Method::PUT, "/collections/named", named).await;
        let embedded = client.post("/embed", &json!({"inputs": "a"})).await.expect("an answer");
        let own = embedded.json()[0].as_array().expect("a vector").len();
        for refused in [by_text, by_name, created] {
            let message = refused.text();
            assert_eq!(refused.status, 400, "{message}");
            for words in [&format!("of {own} components"), "size 3", &format!("with size {own}")] {
                assert!(message.contains(words), "{words}: {message}");
            }
        }
        let info = result(&send(&mut client, Method::GET, notes, Value::Null).await);
        assert_eq!((&info["config"]["metadata"], &info["points_count"]), (&json!({}), &json!(0)));

        let own = declare(own.try_into().expect("a small number"));
        result(&send(&mut client, Method::DELETE, notes, Value::Null).await);
        result(&send(&mut client, Method::PUT, notes, own).await);
        result(&send(&mut client, Method::PUT, &points_path, points).await);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_of_an_unserved_model_names_the_remedies() {
    let home = builder().directories();
    let server = builder().home(&home).start().await;
    let mut client = server.client().await;
    create(&mut client, "notes").await;
    put(&mut client, "notes", &TEXTS).await;
    server.stop().await;
    let renamed = || e2e::server::Server::builder().model("n", &tiny("a")).home(&home);
    let server = renamed().start().await;
    let mut client = server.client().await;
    for (path, body) in [
        ("/search", json!({"collection": "notes", "query": "a"})),
        ("/collections/notes/points/query", json!({"query": {"text": "a"}})),
        ("/collections/notes/points", json!({"ids": [1], "with_vector": true})),
    ] {
        let refused = send(&mut client, Method::POST, path, body).await;
        let message = refused.text();
        assert_eq!(refused.status, 404, "{path}: {message}");
        for words in ["collection `notes`", "model `m`", "served: n", "--model-alias m=NAME"] {
            assert!(message.contains(words), "{path}: {message}");
        }
    }
    server.stop().await;
    let server = renamed().argument("--model-alias=m=n").start().await;
    let mut client = server.client().await;
    let body = json!({"collection": "notes", "query": TEXTS[1], "limit": 1});
    let found = client.post("/search", &body).await.expect("an answer");
    assert_eq!(found.json()["hits"][0]["id"], 1, "{}", found.text());
    server.stop().await;
}
