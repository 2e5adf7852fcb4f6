//! Metadata in every response of Cohere's API.

use serde::Serialize;
use utoipa::ToSchema;

/// Metadata of a response.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Meta {
    api_version: ApiVersion,
    tokens: MetaTokens,
}

#[derive(Debug, Serialize, ToSchema)]
struct ApiVersion {
    version: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
struct MetaTokens {
    input_tokens: u64,
}

impl Meta {
    pub(super) fn new(input_tokens: u64) -> Self {
        Self { api_version: ApiVersion { version: "2" }, tokens: MetaTokens { input_tokens } }
    }
}
