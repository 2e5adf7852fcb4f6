//! `/embed_sparse`: sparse embeddings, as weights of vocabulary tokens.

use axum::{
    body::Body,
    extract::State,
    http::{Request, Response},
};
use onnxd_engine::RequestContext;
use onnxd_proto::wire::ask::SPARSE_ENTRY_BYTES;
use serde::{Serialize, Serializer};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use crate::{
    api::{
        answer,
        app::App,
        error::Fault,
        numbers::{Finite, array},
        request::{check_count, context, parse},
        tei::{
            embed::{Call, EmbedRequest},
            error::{TeiErrors, respond},
        },
    },
    transport::bodies::read_body,
};

/// Approximate length of one entry in JSON.
const ENTRY_BYTES: usize = 36;

/// A token of the vocabulary, and its weight.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub(crate) struct SparseValue {
    /// The token's id.
    index: u32,
    #[schema(value_type = f32)]
    value: Finite<f32>,
}

/// Entries in the workers' format, serialized as a list of objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SparseVector<'v>(&'v [u8]);

impl Serialize for SparseVector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entry = |entry: &[u8; SPARSE_ENTRY_BYTES]| {
            let [a, b, c, d, weight @ ..] = *entry;
            let index = u32::from_le_bytes([a, b, c, d]);
            SparseValue { index, value: Finite(f32::from_le_bytes(weight)) }
        };
        array(serializer, self.0.as_chunks::<SPARSE_ENTRY_BYTES>().0.iter().map(entry))
    }
}

/// Described as a list of entries.
impl PartialSchema for SparseVector<'_> {
    fn schema() -> RefOr<Schema> {
        Vec::<SparseValue>::schema()
    }
}

impl ToSchema for SparseVector<'_> {}

/// Returns a sparse embedding per input, in a list even for a single input. Ignores `normalize` and
/// `dimensions`.
#[utoipa::path(
    post, path = "/embed_sparse", tag = "text-embeddings-inference", request_body = EmbedRequest,
    responses((status = 200, description = "Weighted tokens per input, in ascending token order", body = Vec<Vec<SparseValue>>), TeiErrors)
)]
pub(crate) async fn embed_sparse(State(app): State<App>, request: Request<Body>) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let body = read_body(app.engine.memory(), request).await?;
        embed_sparse_body(&app, &context, &body).await
    })
    .await
}

/// Handles the body of `/embed_sparse`.
pub(crate) async fn embed_sparse_body(
    app: &App,
    context: &RequestContext,
    body: &[u8],
) -> Result<Response<Body>, Fault> {
    let Call { embed, model } = parse::<EmbedRequest>(body)?.into_call();
    let model = app.engine.find(model.as_deref())?;
    check_count(embed.texts.len(), app.client_batch, "inputs")?;
    let answer = app.engine.embed_sparse(context, model, embed).await?;
    let vectors: Vec<SparseVector<'_>> =
        answer.output.iter().map(|bytes| SparseVector(bytes)).collect();
    let entries: usize = answer.output.iter().map(|bytes| bytes.len() / SPARSE_ENTRY_BYTES).sum();
    answer::json(app.engine.memory(), &answer.origin, &vectors, entries * ENTRY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_serialize_as_token_and_weight() {
        let entry = |token: u32, weight: f32| [token.to_le_bytes(), weight.to_le_bytes()].concat();
        let bytes = [entry(7, 0.5), entry(30_000, 1.25)].concat();
        let json = serde_json::to_value(SparseVector(&bytes)).unwrap();
        let expected =
            serde_json::json!([{"index": 7, "value": 0.5}, {"index": 30_000, "value": 1.25}]);
        assert_eq!(json, expected);
        assert!(serde_json::to_value(SparseVector(&entry(1, f32::NAN))).is_err());
    }
}
