//! A collection of the measured server: its routes, and the bodies of requests.

use std::net::SocketAddr;

use bytes::Bytes;
use e2e::{
    client::{Client, Response},
    server::Server,
};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::search::{
    HITS,
    clients::Route,
    documents::{Document, lines},
    exact::Vectors,
};

/// Texts in one request, the default limit of text-embeddings-inference.
pub(super) const BATCH: usize = 32;

/// Vectors that are read at once.
const PAGE: usize = 1000;

/// A page of points, as Qdrant's clients read it.
#[derive(Debug, Deserialize)]
struct Scrolled {
    result: Points,
}

#[derive(Debug, Deserialize)]
struct Points {
    points: Vec<Point>,
}

#[derive(Debug, Deserialize)]
struct Point {
    id: usize,
    vector: Vec<f32>,
}

/// A collection bound to a model.
#[derive(Clone, Debug)]
pub(super) struct Collection {
    address: SocketAddr,
    model: String,
    name: String,
}

impl Collection {
    /// Creates an empty collection.
    pub(super) async fn create(server: &Server, model: &str, name: &str) -> Result<Self, String> {
        let body = json!({"metadata": {"model": model}}).to_string();
        let mut client = server.client().await;
        let path = format!("/collections/{name}");
        let answer = client.send(Method::PUT, &path, body.into()).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status != 200 {
            return Err(format!("{path}: {}: {}", answer.status, answer.text()));
        }
        let (model, name) = (model.to_owned(), name.to_owned());
        Ok(Self { address: server.address(), model, name })
    }

    /// Where documents are added.
    pub(super) fn adding(&self) -> Route {
        Route::new(self.address, format!("/collections/{}/documents", self.name))
    }

    /// Where texts are embedded, without storing anything.
    pub(super) fn embedding(&self) -> Route {
        Route::new(self.address, "/embed")
    }

    /// Where one call embeds a query and finds documents.
    pub(super) fn searching(&self) -> Route {
        Route::new(self.address, "/search")
    }

    /// Where a query that is already embedded finds documents, as Qdrant's clients ask.
    pub(super) fn querying(&self, version: &str) -> Route {
        let path = format!("/collections/{}/points/query", self.name);
        Route { version: Some(version.to_owned()), ..Route::new(self.address, path) }
    }

    /// Reads the vectors of all documents from `vectors.len()` on, whose ids count up.
    pub(super) async fn vectors(
        &self,
        mut vectors: Vectors,
        count: usize,
    ) -> Result<Vectors, String> {
        let client = Client::connect(self.address).await;
        let mut client = client.map_err(|error| error.to_string())?;
        let path = format!("/collections/{}/points/scroll", self.name);
        while vectors.len() < count {
            let body = json!({
                "offset": vectors.len(),
                "limit": PAGE.min(count - vectors.len()),
                "with_vector": true,
                "with_payload": false,
            });
            let answer = client.post(&path, &body).await.map_err(|error| error.to_string())?;
            let page: Scrolled = serde_json::from_slice(&answer.body)
                .map_err(|error| format!("{path}: {error}: {}", answer.text()))?;
            for point in page.result.points {
                if point.id != vectors.len() {
                    return Err(format!("document {} is missing", vectors.len()));
                }
                vectors.add(point.vector);
            }
        }
        Ok(vectors)
    }

    /// Returns requests that add documents.
    pub(super) fn additions(documents: &[Document]) -> Vec<Bytes> {
        documents.chunks(BATCH).map(lines).collect()
    }

    /// Returns requests that embed the documents' texts.
    pub(super) fn embeddings(&self, documents: &[Document]) -> Vec<Bytes> {
        let body = |documents: &[Document]| {
            let texts: Vec<&str> = documents.iter().map(|one| one.text.as_str()).collect();
            json!({"inputs": texts, "model": self.model}).to_string().into()
        };
        documents.chunks(BATCH).map(body).collect()
    }

    /// Returns a request for each query that embeds it.
    pub(super) fn query_embeddings(&self, queries: &[String]) -> Vec<Bytes> {
        let body = |query: &String| json!({"inputs": query, "model": self.model});
        queries.iter().map(|query| body(query).to_string().into()).collect()
    }

    /// Returns a request for each query that embeds it and searches.
    pub(super) fn searches(&self, queries: &[String]) -> Vec<Bytes> {
        let body = |query: &String| {
            json!({"collection": self.name, "query": query, "limit": HITS}).to_string().into()
        };
        queries.iter().map(body).collect()
    }

    /// Returns a request for each embedded query that searches.
    pub(super) fn vector_queries(vectors: &[Vec<f32>]) -> Vec<Bytes> {
        let body = |vector: &Vec<f32>| {
            json!({"query": vector, "limit": HITS, "with_payload": true}).to_string().into()
        };
        vectors.iter().map(body).collect()
    }
}

/// Returns the ids of the documents that a search found.
pub(super) fn found(response: &Response) -> Result<Vec<usize>, String> {
    let body: Value = serde_json::from_slice(&response.body).map_err(|error| error.to_string())?;
    let hits = body["hits"].as_array().or_else(|| body["result"]["points"].as_array());
    let id = |hit: &Value| usize::try_from(hit["id"].as_u64()?).ok();
    let ids = hits.and_then(|hits| hits.iter().map(id).collect::<Option<Vec<usize>>>());
    ids.ok_or_else(|| format!("not the result of a search: {}", response.text()))
}
