//! Names and paths of models are accepted as clients and hubs write them.

use std::{path::PathBuf, process::Command, sync::Arc};

use e2e::{control::Control, fixtures::model, home::Home, server::Server};
use serde_json::{Value, json};

use crate::{check, entries, valid};

/// Copies a model into a directory of this name.
fn named(home: &Home, name: &str) -> PathBuf {
    let directory = home.root().join(name);
    let copied = Command::new("cp").arg("-rL").arg(model("tiny/a")).arg(&directory).status();
    assert!(copied.unwrap().success());
    directory
}

async fn embeds(server: &Server, name: &str) -> Value {
    let body = json!({"model": name, "input": "hello"});
    let response = server.client().await.post("/v1/embeddings", &body).await.unwrap();
    assert_eq!(response.status, 200, "{name}: {response:?}");
    response.json()["model"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_with_capitals_and_slashes_work_everywhere() {
    let home = Arc::new(Home::new());
    let plain = named(&home, "all-MiniLM-L6-v2");
    let builder = Server::builder().home(&home).model("BAAI/bge-m3", &model("tiny/a"));
    let server = builder.argument("--model").argument(plain.to_str().unwrap()).start().await;
    assert_eq!(embeds(&server, "BAAI/bge-m3").await, "BAAI/bge-m3");
    assert_eq!(embeds(&server, "all-MiniLM-L6-v2").await, "all-MiniLM-L6-v2");
    // The name that earlier releases gave it.
    assert_eq!(embeds(&server, "all-minilm-l6-v2").await, "all-MiniLM-L6-v2");
    let mut client = server.client().await;
    for path in ["/v2/models/BAAI%2Fbge-m3", "/v2/models/BAAI%2Fbge-m3/ready"] {
        let response = client.get(path).await.unwrap();
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.json()["name"], "BAAI/bge-m3");
    }
    for path in ["/v1/models/BAAI/bge-m3", "/v1/models/BAAI%2Fbge-m3"] {
        let response = client.get(path).await.unwrap();
        assert_eq!(response.status, 200, "{path}");
        assert_eq!(response.json()["id"], "BAAI/bge-m3");
    }
    let metrics = client.get("/metrics").await.unwrap();
    assert!(metrics.text().contains("model=\"BAAI/bge-m3\""));
    let updated = server.cli(&["update", "BAAI/bge-m3", "--json"]).await;
    let outcome: Value = serde_json::from_slice(&updated.stdout).unwrap();
    assert_eq!((&outcome["model"], &outcome["generation"]), (&json!("BAAI/bge-m3"), &json!(2)));
    let load = "/v2/repository/models/BAAI%2Fbge-m3/load";
    assert_eq!(Control::new(&server).post(load, "{}").await.0, 200);
    let folders = entries(&home.state().join("generations"));
    assert_eq!(folders, ["BAAI%2Fbge-m3", "all-MiniLM-L6-v2"]);
    server.stop().await;
    // The kept generations are found again.
    let builder = Server::builder().home(&home).model("BAAI/bge-m3", &model("tiny/a"));
    let server = builder.start().await;
    assert_eq!(server.status().await.models[0].generation, 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_of_the_former_lower_case_name_continue() {
    let home = Arc::new(Home::new());
    let directory = named(&home, "MiniLM");
    // As the previous release named it.
    let server = Server::builder().home(&home).model("minilm", &directory).start().await;
    assert!(server.cli(&["update", "minilm"]).await.status.success());
    server.stop().await;
    let builder = Server::builder().home(&home).argument("--model");
    let server = builder.argument(directory.to_str().unwrap()).start().await;
    let status = server.status().await;
    assert_eq!((status.models[0].name.as_str(), status.models[0].generation), ("MiniLM", 2));
    let outcome = server.cli(&["update", "minilm", "--json"]).await;
    let outcome: Value = serde_json::from_slice(&outcome.stdout).unwrap();
    assert_eq!((&outcome["model"], &outcome["generation"]), (&json!("MiniLM"), &json!(3)));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_with_commas_are_served() {
    let home = Arc::new(Home::new());
    let directory = named(&home, "a,b=c");
    let server = Server::builder().home(&home).model("m", &directory).start().await;
    assert_eq!(embeds(&server, "m").await, "m");
    server.stop().await;
    let escaped = directory.to_str().unwrap().replace(',', "\\,");
    let list = format!("m={escaped},n={}", model("tiny/a").display());
    let server = Server::builder().home(&home).variable("ONNXD_MODEL", &list).start().await;
    for name in ["m", "n"] {
        assert_eq!(embeds(&server, name).await, name);
    }
    server.stop().await;
    let lines = format!("m={}\nn={}\n", model("tiny/a").display(), model("tiny/b").display());
    valid(&check(&home, &[("ONNXD_MODEL", &lines)], &["--require", "m,n"]));
}
