//! The transport-independent inference request.

use onnxd_engine::engine::tensors::TensorRequest;

/// Maximum length of a request's id in bytes.
const ID_BYTES_MAX: usize = 1024;

/// An inference request.
#[derive(Clone, Debug, Default)]
pub(crate) struct InferRequest {
    /// The model's name.
    pub model: String,
    /// Returned with the response.
    pub id: Option<String>,
    /// The tensors, and the generation that must answer.
    pub tensors: TensorRequest,
}

/// Checks the length of a request's id.
///
/// # Errors
/// The id is too long.
pub(crate) fn check_id(id: Option<&String>) -> Result<(), String> {
    match id {
        Some(id) if id.len() > ID_BYTES_MAX => {
            Err(format!("`id` is longer than {ID_BYTES_MAX} bytes"))
        }
        _ => Ok(()),
    }
}
