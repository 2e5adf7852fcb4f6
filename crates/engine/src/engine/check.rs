//! What holds for the tensors of every request, checked before anything is made of them. Pure.

use std::collections::HashSet;

use onnxd_proto::{
    domain::tensor::{AXES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX, elements},
    limits::TENSORS_BYTES_MAX,
};

use super::tensors::{Tensor, TensorError, TensorRequest};

/// Elements of a BYTES tensor: each takes far more memory than the four bytes that it may have.
const STRINGS_MAX: usize = 1 << 20;

/// Checks the tensors of a request against the bounds of every model.
///
/// # Errors
/// What is wrong first.
pub(super) fn check(request: &TensorRequest) -> Result<(), TensorError> {
    if request.inputs.is_empty() {
        return Err(TensorError::NoInputs);
    }
    if request.inputs.len() > TENSORS_MAX || request.outputs.len() > TENSORS_MAX {
        return Err(invalid(format!("there are at most {TENSORS_MAX} inputs and outputs")));
    }
    let names = request.inputs.iter().map(|input| &input.name).chain(&request.outputs);
    if names.map(String::len).max() > Some(TENSOR_NAME_BYTES_MAX) {
        return Err(invalid(format!("a name has more than {TENSOR_NAME_BYTES_MAX} bytes")));
    }
    let inputs = request.inputs.iter().map(|input| input.name.as_str());
    if let Some(name) = twice(inputs) {
        return Err(invalid(format!("the input `{name}` is given twice")));
    }
    if let Some(name) = twice(request.outputs.iter().map(String::as_str)) {
        return Err(invalid(format!("the output `{name}` is asked for twice")));
    }
    let mut bytes = 0_usize;
    for input in &request.inputs {
        bytes = bytes.saturating_add(tensor_bytes(input)?);
    }
    if bytes > TENSORS_BYTES_MAX {
        return Err(TensorError::TooLarge { bytes });
    }
    Ok(())
}

/// Checks one tensor and returns its bytes.
fn tensor_bytes(input: &Tensor) -> Result<usize, TensorError> {
    let Tensor { name, datatype, shape, data } = input;
    if shape.len() > AXES_MAX {
        return Err(invalid(format!("the input `{name}` has more than {AXES_MAX} axes")));
    }
    let count = elements(shape)
        .ok_or_else(|| invalid(format!("the input `{name}` has a shape that no memory holds")))?;
    // A tensor without elements costs its sender nothing, but an output without its empty axis
    // would cost a worker as much as the other axes say.
    let others: u64 = shape.iter().filter(|&&size| size > 0).product();
    if count == 0 && others > TENSORS_BYTES_MAX as u64 {
        return Err(invalid(format!("the input `{name}` is empty, and its other axes too large")));
    }
    match datatype.element_bytes() {
        Some(size) if count.checked_mul(size) != Some(data.len()) => Err(invalid(format!(
            "the input `{name}` has {} bytes, and its shape says {count} elements of {size}",
            data.len()
        ))),
        None if count > STRINGS_MAX => Err(invalid(format!(
            "the input `{name}` has {count} elements, at most {STRINGS_MAX} of BYTES are taken"
        ))),
        _ => Ok(data.len()),
    }
}

fn invalid(message: String) -> TensorError {
    TensorError::Invalid(message)
}

/// The first name that is there twice.
fn twice<'n>(names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}
