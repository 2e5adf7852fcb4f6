//! Requests of every kind. Each answer reveals the content that produced it: the answers of each
//! content are learned beforehand on an idle server.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use crate::{
    client::{Client, Response, Unanswered},
    corpus::{TOLERANCE, distance},
    history::{Label, Outcome, Request},
    load::Shared,
};

/// Number of inputs in the request that exceeds one group.
const MANY: usize = 300;

/// A request as sent.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Bytes,
}

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/embed` with a list of texts.
    Embed,
    /// `/embed` with token ids.
    TokenIds,
    /// `/embed_all`.
    EmbedAll,
    /// `/similarity`, or `POST /` if it is the first model.
    Similarity,
    /// `/v1/embeddings` with many inputs.
    OpenAi,
    /// `/v1/embeddings` in base64.
    Base64,
    /// Text tensors.
    TextTensor,
    /// `/predict`.
    Predict,
    /// `/rerank` with texts.
    Rerank,
    /// `/v1/rerank`.
    Cohere,
    /// JSON tensors.
    Tensor,
    /// Binary tensors.
    RawTensor,
}

impl Kind {
    /// Kinds for an embedding model.
    pub const OF_EMBEDDERS: [Self; 7] = [
        Self::Embed,
        Self::TokenIds,
        Self::EmbedAll,
        Self::Similarity,
        Self::OpenAi,
        Self::Base64,
        Self::TextTensor,
    ];
    /// Kinds for a classifier.
    pub const OF_CLASSIFIERS: [Self; 1] = [Self::Predict];
    /// Kinds for a reranker.
    pub const OF_RERANKERS: [Self; 2] = [Self::Rerank, Self::Cohere];
    /// Kinds for a tensor model with an input x of four columns.
    pub const OF_TENSORS: [Self; 2] = [Self::Tensor, Self::RawTensor];

    /// Returns the path template, as named in the server's metrics.
    pub fn route(self) -> &'static str {
        match self {
            Self::Embed | Self::TokenIds => "/embed",
            Self::EmbedAll => "/embed_all",
            Self::Similarity => "/similarity",
            Self::OpenAi | Self::Base64 => "/v1/embeddings",
            Self::TextTensor | Self::Tensor | Self::RawTensor => "/v2/models/{model}/infer",
            Self::Predict => "/predict",
            Self::Rerank => "/rerank",
            Self::Cohere => "/v1/rerank",
        }
    }

    /// Returns the request.
    pub fn request(self, model: &str) -> HttpRequest {
        let texts = ["how big is london", "hello world", "a", "the model server"];
        let body = match self {
            Self::Embed | Self::EmbedAll => json!({"inputs": texts, "model": model}),
            Self::TokenIds => json!({"inputs": [[2, 40, 50, 3], [2, 60, 3]], "model": model}),
            Self::Similarity => {
                let inputs = json!({"source_sentence": texts[0], "sentences": texts[1..]});
                json!({"inputs": inputs, "model": model})
            }
            Self::OpenAi => {
                let many: Vec<&str> = texts.into_iter().cycle().take(MANY).collect();
                json!({"input": many, "model": model})
            }
            Self::Base64 => json!({"input": texts, "model": model, "encoding_format": "base64"}),
            Self::TextTensor => {
                json!({"inputs":
                    [{"name": "text", "shape": [4], "datatype": "BYTES", "data": texts}]})
            }
            Self::Predict => json!({"inputs": [[texts[0]], texts[1..3]], "model": model}),
            Self::Rerank => json!({"query": texts[0], "texts": texts, "model": model}),
            Self::Cohere => json!({"query": texts[0], "documents": texts, "model": model}),
            Self::Tensor => {
                json!({"inputs": [{"name": "x", "shape": [2, 4], "datatype": "FP32",
                    "data": [1, 2, 3, 4, -5, 6, 7, 8]}]})
            }
            Self::RawTensor => return raw(&self.path(model), &[1.0, 2.0, 3.0, 4.0]),
        };
        let headers = vec![("content-type", "application/json".to_owned())];
        HttpRequest { path: self.path(model), headers, body: body.to_string().into() }
    }

    fn path(self, model: &str) -> String {
        self.route().replace("{model}", model)
    }

    /// Sends the request.
    ///
    /// # Errors
    /// Fails if no answer arrives.
    pub async fn send(self, client: &mut Client, model: &str) -> Result<Response, Unanswered> {
        self.request(model).send(client).await
    }

    /// Returns the numbers of an answer, in an order that does not depend on their values.
    ///
    /// # Errors
    /// Fails if the answer does not have the expected form.
    pub fn numbers(self, response: &Response) -> Result<Vec<f32>, String> {
        let unexpected = || format!("{self:?}: {}", response.text());
        let mut numbers = Vec::new();
        if self == Self::RawTensor {
            let length = response.header("inference-header-content-length");
            let length: usize =
                length.and_then(|length| length.parse().ok()).ok_or_else(unexpected)?;
            return Ok(floats(response.body.get(length..).ok_or_else(unexpected)?));
        }
        let body: Value = serde_json::from_slice(&response.body).map_err(|_| unexpected())?;
        match self {
            Self::Embed | Self::TokenIds | Self::EmbedAll | Self::Similarity => {
                flatten(&body, &mut numbers);
            }
            Self::OpenAi => {
                let data = body["data"].as_array().ok_or_else(unexpected)?;
                data.iter().for_each(|one| flatten(&one["embedding"], &mut numbers));
            }
            Self::Base64 => {
                for one in body["data"].as_array().ok_or_else(unexpected)? {
                    let encoded = one["embedding"].as_str().ok_or_else(unexpected)?;
                    numbers.extend(floats(
                        &BASE64_STANDARD.decode(encoded).map_err(|_| unexpected())?,
                    ));
                }
            }
            Self::TextTensor | Self::Tensor => flatten(&body["outputs"][0]["data"], &mut numbers),
            Self::Predict => {
                for one in body.as_array().ok_or_else(unexpected)? {
                    numbers.extend(in_order(one, "label", "score").ok_or_else(unexpected)?);
                }
            }
            Self::Rerank => numbers = in_order(&body, "index", "score").ok_or_else(unexpected)?,
            Self::Cohere => {
                let results = in_order(&body["results"], "index", "relevance_score");
                numbers = results.ok_or_else(unexpected)?;
            }
            Self::RawTensor => {}
        }
        if numbers.is_empty() { Err(unexpected()) } else { Ok(numbers) }
    }

    /// Classifies a 200 response. `known` are the answers by content.
    pub fn label(self, response: &Response, known: &BTreeMap<String, Vec<f32>>) -> Outcome {
        label(response, self.numbers(response), known)
    }

    /// Returns the answer of the content that is serving now.
    ///
    /// # Panics
    /// Panics if the request fails.
    pub async fn learn(self, client: &mut Client, model: &str) -> Vec<f32> {
        let response = self.send(client, model).await.unwrap();
        assert_eq!(response.status, 200, "{self:?}: {}", response.text());
        self.numbers(&response).unwrap()
    }
}

impl HttpRequest {
    /// Sends the request.
    ///
    /// # Errors
    /// Fails if no answer arrives.
    pub async fn send(&self, client: &mut Client) -> Result<Response, Unanswered> {
        let headers: Vec<(&str, &str)> =
            self.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        client.send_with(Method::POST, &self.path, &headers, self.body.clone()).await
    }
}

/// Returns a request with rows of four numbers as a binary tensor, and a binary answer.
///
/// # Panics
/// Panics if the rows are not of four numbers.
pub fn raw(path: &str, numbers: &[f32]) -> HttpRequest {
    assert!(numbers.len().is_multiple_of(4));
    let x: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let json = json!({
        "inputs": [{"name": "x", "shape": [numbers.len() / 4, 4], "datatype": "FP32",
            "parameters": {"binary_data_size": x.len()}}],
        "parameters": {"binary_data_output": true},
    })
    .to_string();
    let headers = vec![("inference-header-content-length", json.len().to_string())];
    HttpRequest { path: path.to_owned(), headers, body: [json.as_bytes(), &x].concat().into() }
}

/// Classifies a 200 response with these numbers. `known` are the answers by content.
pub fn label(
    response: &Response,
    numbers: Result<Vec<f32>, String>,
    known: &BTreeMap<String, Vec<f32>>,
) -> Outcome {
    let (Some(generation), Some(version)) = (response.generation(), response.version()) else {
        return Outcome::Failed(
            200,
            format!("missing generation or version: {:?}", response.headers),
        );
    };
    let content = numbers.and_then(|numbers| {
        let is = |(_, known): &(&String, &Vec<f32>)| distance(known, &numbers) <= TOLERANCE;
        let content = known.iter().find(is).map(|(content, _)| content.clone());
        content.ok_or_else(|| format!("{numbers:.4?} matches no content"))
    });
    Outcome::Answered(Label { generation, version: version.to_owned(), content })
}

/// Decodes a raw FP32 tensor.
pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

fn flatten(value: &Value, numbers: &mut Vec<f32>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, numbers)),
        number => numbers.extend(serde_json::from_value::<f32>(number.clone())),
    }
}

/// Returns the numbers in `field` of a list of objects, sorted by the values in `by`.
fn in_order(list: &Value, by: &str, field: &str) -> Option<Vec<f32>> {
    let mut all = Vec::new();
    for one in list.as_array()? {
        all.push((one[by].to_string(), serde_json::from_value(one[field].clone()).ok()?));
    }
    all.sort_by(|one, other| one.0.cmp(&other.0));
    Some(all.into_iter().map(|(_, number)| number).collect())
}

/// A client that sends one kind of request continuously.
pub(crate) struct KindClient {
    pub(crate) number: usize,
    pub(crate) client: Client,
    pub(crate) kind: Kind,
    pub(crate) model: String,
    /// The answers, by content name.
    pub(crate) known: BTreeMap<String, Vec<f32>>,
    pub(crate) started: Instant,
    pub(crate) shared: Arc<Shared>,
}

impl KindClient {
    pub(crate) async fn run(mut self) -> Vec<Request> {
        let mut requests = Vec::new();
        while !self.shared.stop.load(Ordering::Relaxed) {
            let start = self.started.elapsed();
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
            let outcome = match self.kind.send(&mut self.client, &self.model).await {
                Ok(response) if response.status == 200 => self.kind.label(&response, &self.known),
                Ok(response) => Outcome::Failed(response.status, response.text()),
                Err(Unanswered(reason)) => Outcome::Lost(reason),
            };
            let (client, sequence, end) = (self.number, requests.len(), self.started.elapsed());
            let lost = matches!(outcome, Outcome::Lost(_));
            requests.push(Request { client, sequence, texts: 1, start, end, outcome });
            self.shared.answered.fetch_add(usize::from(!lost), Ordering::Relaxed);
            if lost {
                let Ok(client) = Client::connect(self.client.address()).await else { break };
                self.client = client;
            }
        }
        requests
    }
}
