//! Checks the limits that apply to the tensors of every request, before anything is built from
//! them. Pure.

use std::collections::HashSet;

use onnxd_proto::{
    domain::tensor::{AXES_MAX, TENSOR_NAME_BYTES_MAX, TENSORS_MAX, elements},
    limits::TENSORS_BYTES_MAX,
};

use super::tensors::{Tensor, TensorError, TensorRequest};

/// Maximum elements of a BYTES tensor. An element takes at least four bytes on the wire, but far
/// more in memory.
const STRINGS_MAX: usize = 1 << 20;

/// Checks the tensors of a request against the limits for every model.
///
/// # Errors
/// The first violation.
pub(super) fn check(request: &TensorRequest) -> Result<(), TensorError> {
    if request.inputs.is_empty() {
        return Err(TensorError::NoInputs);
    }
    if request.inputs.len() > TENSORS_MAX || request.outputs.len() > TENSORS_MAX {
        return Err(invalid(format!(
            "a request may have at most {TENSORS_MAX} inputs and {TENSORS_MAX} outputs"
        )));
    }
    let names = request.inputs.iter().map(|input| &input.name).chain(&request.outputs);
    if names.map(String::len).max() > Some(TENSOR_NAME_BYTES_MAX) {
        return Err(invalid(format!(
            "tensor names may have at most {TENSOR_NAME_BYTES_MAX} bytes"
        )));
    }
    let inputs = request.inputs.iter().map(|input| input.name.as_str());
    if let Some(name) = find_duplicate(inputs) {
        return Err(invalid(format!("input `{name}` is given twice")));
    }
    if let Some(name) = find_duplicate(request.outputs.iter().map(String::as_str)) {
        return Err(invalid(format!("output `{name}` is requested twice")));
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

/// Checks one tensor and returns its size in bytes.
fn tensor_bytes(input: &Tensor) -> Result<usize, TensorError> {
    let Tensor { name, datatype, shape, data } = input;
    if shape.len() > AXES_MAX {
        return Err(invalid(format!(
            "input `{name}` has {} axes, at most {AXES_MAX} are allowed",
            shape.len()
        )));
    }
    let count = elements(shape).ok_or_else(|| {
        invalid(format!("input `{name}` has a shape that is too large: {shape:?}"))
    })?;
    // An empty tensor costs its sender nothing. But an output without the empty axis could cost a
    // worker as much as the other axes imply.
    let others: u64 = shape.iter().filter(|&&size| size > 0).product();
    if count == 0 && others > TENSORS_BYTES_MAX as u64 {
        return Err(invalid(format!("input `{name}` is empty, but its other axes are too large")));
    }
    match datatype.element_bytes() {
        Some(size) if count.checked_mul(size) != Some(data.len()) => Err(invalid(format!(
            "input `{name}` has {} bytes, but its shape {shape:?} needs {count} elements of {size} \
             bytes",
            data.len()
        ))),
        None if count > STRINGS_MAX => Err(invalid(format!(
            "input `{name}` has {count} elements, at most {STRINGS_MAX} are allowed for BYTES"
        ))),
        _ => Ok(data.len()),
    }
}

fn invalid(message: String) -> TensorError {
    TensorError::Invalid(message)
}

/// Returns the first name that occurs twice.
fn find_duplicate<'n>(names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}
