//! Requests that clients send repeatedly over HTTP or gRPC, and their expected answers.

use std::time::Duration;

use e2e::{
    client::{Client, Response, Unanswered},
    grpc::{self, pb::ModelInferRequest},
    history::Outcome,
    kinds::{self, HttpRequest, Kind},
    server::Server,
};

use crate::models::{Known, Model, SPARE};

/// A request and its valid answers by content.
#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub model: &'static str,
    pub transport: Transport,
    pub known: Known,
    /// Relative frequency.
    pub weight: u64,
}

/// The protocol, with the request itself.
#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Http(Kind, HttpRequest),
    Grpc(ModelInferRequest),
}

/// One connection for each protocol.
#[derive(Debug)]
pub(crate) struct Connections {
    pub http: Client,
    grpc: grpc::Client,
}

impl Connections {
    pub(crate) async fn open(server: &Server) -> Self {
        Self { http: server.client().await, grpc: grpc::client(server).await }
    }
}

impl Probe {
    /// Returns every request sent to a model.
    pub(crate) fn all(model: Model) -> Vec<Self> {
        let probe =
            |transport, weight| Self { model: model.name, transport, known: Known::new(), weight };
        let http = model.kinds.iter().map(|kind| {
            let weight = match kind {
                // This request has three hundred texts, so it costs as much as the others together.
                Kind::OpenAi => 1,
                Kind::Embed if model.name == SPARE.name => 8,
                Kind::Embed | Kind::RawTensor => 20,
                Kind::TokenIds | Kind::Predict | Kind::Tensor => 12,
                _ => 8,
            };
            probe(Transport::Http(*kind, kind.request(model.name)), weight)
        });
        let grpc = message(model).map(|message| probe(Transport::Grpc(message), 12));
        http.chain(grpc).collect()
    }

    /// Returns the route under which the server counts it.
    pub(crate) fn route(&self) -> &'static str {
        match self.transport {
            Transport::Http(kind, _) => kind.route(),
            Transport::Grpc(_) => grpc::INFER,
        }
    }

    /// Returns whether two of these at a time would overload the server.
    pub(crate) fn is_large(&self) -> bool {
        matches!(self.transport, Transport::Http(Kind::OpenAi, _))
    }

    /// Sends the request, with a deadline in `within` or the server's default.
    pub(crate) async fn send(
        &self,
        connections: &mut Connections,
        within: Option<Duration>,
    ) -> Result<Response, Unanswered> {
        match &self.transport {
            Transport::Http(_, request) => {
                let mut request = request.clone();
                let millis = within.map(|within| within.as_millis().to_string());
                request.headers.extend(millis.map(|millis| ("x-request-timeout-ms", millis)));
                request.send(&mut connections.http).await
            }
            Transport::Grpc(message) => {
                grpc::infer(&mut connections.grpc, message.clone(), within).await
            }
        }
    }

    /// Records the answer of the content that is serving now.
    pub(crate) async fn learn(&mut self, connections: &mut Connections, content: &str) {
        let response = self.send(connections, None).await.expect("an answer");
        assert_eq!(response.status, 200, "{:?}: {}", self.transport, response.text());
        let numbers = self.numbers(&response).expect("numbers");
        self.known.insert(content.to_owned(), numbers);
    }

    /// Classifies a 200 response by its stated generation and its actual content.
    pub(crate) fn label(&self, response: &Response) -> Outcome {
        kinds::label(response, self.numbers(response), &self.known)
    }

    fn numbers(&self, response: &Response) -> Result<Vec<f32>, String> {
        match self.transport {
            Transport::Http(kind, _) => kind.numbers(response),
            Transport::Grpc(_) => Ok(kinds::floats(&response.body)),
        }
    }
}

/// Returns the model's gRPC request, if it has one.
fn message(model: Model) -> Option<ModelInferRequest> {
    let has = |kind| model.kinds.contains(&kind);
    if has(Kind::TextTensor) {
        Some(grpc::texts(model.name, &[("text", &["hello world", "how big is london", "a"])]))
    } else if has(Kind::RawTensor) {
        let x = [1.0_f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        Some(grpc::raw(model.name, &[("x", "FP32", &[1, 4], x)]))
    } else {
        None
    }
}
