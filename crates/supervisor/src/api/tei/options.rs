//! How requests of text-embeddings-inference say what happens to texts that are too long.

use onnxd_engine::engine::texts::{Side, TextOptions};
use serde::Deserialize;
use utoipa::ToSchema;

/// Which end of a text that is too long is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub(crate) enum TruncationDirection {
    /// Its beginning.
    #[serde(alias = "left")]
    Left,
    /// Its end.
    #[default]
    #[serde(alias = "right")]
    Right,
}

/// The options of a request; texts that are too long are cut unless `truncate` is false.
pub(super) fn options(
    truncate: Option<bool>,
    direction: Option<TruncationDirection>,
    prompt: Option<String>,
) -> TextOptions {
    let side = match direction.unwrap_or_default() {
        TruncationDirection::Left => Side::Left,
        TruncationDirection::Right => Side::Right,
    };
    TextOptions { truncate: truncate.unwrap_or(true).then_some(side), prompt }
}
