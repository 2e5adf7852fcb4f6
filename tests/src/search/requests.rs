//! Requests and answers of search.

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::{Client, Response, Unanswered};

/// A document that a search found.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Hit {
    /// Its id.
    pub id: u64,
    /// Its score.
    pub score: f32,
    /// Its text.
    pub text: String,
}

/// The answer of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The generation and the version that embedded the query.
    pub generation: u64,
    /// The version.
    pub version: String,
    /// The best documents, best first.
    pub hits: Vec<Hit>,
}

/// A document of an import or an export.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Document {
    /// Its id.
    pub id: u64,
    /// Its text.
    pub text: String,
}

/// Creates a collection that is bound to a model.
///
/// # Errors
/// Fails if no answer arrives.
pub async fn create(
    client: &mut Client,
    collection: &str,
    model: &str,
) -> Result<Response, Unanswered> {
    let body = json!({"metadata": {"model": model}}).to_string();
    client.send(Method::PUT, &format!("/collections/{collection}"), body.into()).await
}

/// Adds or replaces documents.
///
/// # Errors
/// Fails if no answer arrives.
pub async fn put(
    client: &mut Client,
    collection: &str,
    documents: impl IntoIterator<Item = (u64, &str)>,
) -> Result<Response, Unanswered> {
    let line = |(id, text): (u64, &str)| format!("{}\n", json!({"id": id, "text": text}));
    let lines: String = documents.into_iter().map(line).collect();
    client.send(Method::POST, &documents_path(collection), lines.into()).await
}

/// Deletes documents.
///
/// # Errors
/// Fails if no answer arrives.
pub async fn delete(
    client: &mut Client,
    collection: &str,
    ids: &[u64],
) -> Result<Response, Unanswered> {
    // Answered once it is done.
    let path = format!("/collections/{collection}/points/delete?wait=true");
    client.post(&path, &json!({"points": ids})).await
}

/// Searches by a text.
///
/// # Errors
/// Fails if no answer arrives.
pub async fn search(
    client: &mut Client,
    collection: &str,
    query: &str,
    limit: usize,
) -> Result<Response, Unanswered> {
    let body = json!({"collection": collection, "query": query, "limit": limit});
    client.post("/search", &body).await
}

/// Returns all documents, sorted by id.
///
/// # Panics
/// Panics if they cannot be exported.
pub async fn export(client: &mut Client, collection: &str) -> Vec<Document> {
    let response = client.get(&documents_path(collection)).await.unwrap();
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.text();
    let mut documents: Vec<Document> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    documents.sort();
    documents
}

fn documents_path(collection: &str) -> String {
    format!("/collections/{collection}/documents")
}

impl Answer {
    /// Reads the answer of a search.
    ///
    /// # Errors
    /// It is not one, or its headers and its body name different generations.
    pub fn read(response: &Response) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Body {
            model: Model,
            hits: Vec<Hit>,
        }
        #[derive(Deserialize)]
        struct Model {
            generation: u64,
            version: String,
        }
        let body: Result<Body, _> = serde_json::from_slice(&response.body);
        let Body { model: Model { generation, version }, hits } =
            body.map_err(|error| format!("{error}: {}", response.text()))?;
        let headers = (response.generation(), response.version());
        if headers != (Some(generation), Some(&version)) {
            return Err(format!("the headers say {headers:?}, the body {generation}, {version}"));
        }
        Ok(Self { generation, version, hits })
    }

    /// Returns the ids of the hits, best first.
    pub fn ids(&self) -> Vec<u64> {
        self.hits.iter().map(|hit| hit.id).collect()
    }
}

/// Returns the message of an error.
///
/// # Panics
/// Panics if the response has none.
pub fn error(response: &Response) -> String {
    match &response.json()["error"] {
        Value::String(message) => message.clone(),
        other => panic!("{other}"),
    }
}
