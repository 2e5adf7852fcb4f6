//! Converts raw tensors to ONNX Runtime values and back. Does not copy bytes that are aligned for
//! the CPU.

use std::borrow::Cow;

use half::{bf16, f16};
use onnxd_proto::domain::tensor::{DataType, split_bytes};
use ort::{
    session::SessionInputValue,
    value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, TensorRef},
};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use super::error::{SessionError, run_failed};

/// Returns our name for an element type, or `None` if the protocol has none.
pub(super) fn datatype(element: TensorElementType) -> Option<DataType> {
    Some(match element {
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::String => DataType::Bytes,
        _ => return None,
    })
}

/// Builds an input of ONNX Runtime. `bytes` must match the type and shape.
pub(super) fn feed<'a>(
    datatype: DataType,
    shape: Vec<i64>,
    bytes: &'a [u8],
) -> Result<SessionInputValue<'a>, SessionError> {
    match datatype {
        DataType::Bool => feed_bools(shape, bytes),
        DataType::Int8 => feed_slice::<i8>(shape, bytes),
        DataType::Int16 => feed_slice::<i16>(shape, bytes),
        DataType::Int32 => feed_slice::<i32>(shape, bytes),
        DataType::Int64 => feed_slice::<i64>(shape, bytes),
        DataType::Uint8 => feed_slice::<u8>(shape, bytes),
        DataType::Uint16 => feed_slice::<u16>(shape, bytes),
        DataType::Uint32 => feed_slice::<u32>(shape, bytes),
        DataType::Uint64 => feed_slice::<u64>(shape, bytes),
        DataType::Fp16 => feed_slice::<f16>(shape, bytes),
        DataType::Bf16 => feed_slice::<bf16>(shape, bytes),
        DataType::Fp32 => feed_slice::<f32>(shape, bytes),
        DataType::Fp64 => feed_slice::<f64>(shape, bytes),
        DataType::Bytes => feed_strings(shape, bytes),
    }
}

fn feed_slice<'a, T>(
    shape: Vec<i64>,
    bytes: &'a [u8],
) -> Result<SessionInputValue<'a>, SessionError>
where
    T: PrimitiveTensorElementType
        + std::fmt::Debug
        + Clone
        + FromBytes
        + IntoBytes
        + Immutable
        + KnownLayout
        + 'static,
{
    if let Ok(values) = <[T]>::ref_from_bytes(bytes) {
        let tensor = TensorRef::from_array_view((shape, values)).map_err(run_failed)?;
        return Ok(tensor.into());
    }
    let mut values = vec![T::new_zeroed(); bytes.len() / size_of::<T>()];
    let whole = values.len() * size_of::<T>();
    values.as_mut_bytes().copy_from_slice(&bytes[..whole]);
    Ok(Tensor::from_array((shape, values)).map_err(run_failed)?.into())
}

fn feed_bools<'a>(shape: Vec<i64>, bytes: &'a [u8]) -> Result<SessionInputValue<'a>, SessionError> {
    let values = <[bool]>::try_ref_from_bytes(bytes)
        .map_err(|_| SessionError::Input("BOOL elements must be 0 or 1".into()))?;
    Ok(TensorRef::from_array_view((shape, values)).map_err(run_failed)?.into())
}

fn feed_strings<'a>(
    shape: Vec<i64>,
    bytes: &'a [u8],
) -> Result<SessionInputValue<'a>, SessionError> {
    let elements = shape.iter().product::<i64>();
    let elements = usize::try_from(elements).unwrap_or(usize::MAX);
    let split = split_bytes(bytes, elements).map_err(SessionError::Input)?;
    let strings = split.into_iter().map(text).collect::<Result<Vec<String>, _>>()?;
    Ok(Tensor::from_string_array((shape, &strings[..])).map_err(run_failed)?.into())
}

fn text(element: &[u8]) -> Result<String, SessionError> {
    match str::from_utf8(element) {
        // ONNX Runtime takes C strings.
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(SessionError::Input(
            "BYTES elements must be UTF-8 text without NUL characters".into(),
        )),
    }
}

/// An output tensor.
pub(super) struct Raw<'a> {
    pub(super) datatype: DataType,
    pub(super) shape: Vec<u64>,
    pub(super) bytes: Cow<'a, [u8]>,
}

/// Reads an output tensor.
pub(super) fn read(value: &DynValue) -> Result<Raw<'_>, SessionError> {
    let unsupported =
        || SessionError::Contract("an output is not a tensor of a supported type".into());
    let ort::value::ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(unsupported());
    };
    let datatype = datatype(*ty).ok_or_else(unsupported)?;
    let bytes = match datatype {
        DataType::Bool => slice::<bool>(value)?,
        DataType::Int8 => slice::<i8>(value)?,
        DataType::Int16 => slice::<i16>(value)?,
        DataType::Int32 => slice::<i32>(value)?,
        DataType::Int64 => slice::<i64>(value)?,
        DataType::Uint8 => slice::<u8>(value)?,
        DataType::Uint16 => slice::<u16>(value)?,
        DataType::Uint32 => slice::<u32>(value)?,
        DataType::Uint64 => slice::<u64>(value)?,
        DataType::Fp16 => slice::<f16>(value)?,
        DataType::Bf16 => slice::<bf16>(value)?,
        DataType::Fp32 => slice::<f32>(value)?,
        DataType::Fp64 => slice::<f64>(value)?,
        DataType::Bytes => Cow::Owned(strings(value)?),
    };
    let shape = shape.iter().map(|&size| u64::try_from(size).unwrap_or(0)).collect();
    Ok(Raw { datatype, shape, bytes })
}

fn slice<T>(value: &DynValue) -> Result<Cow<'_, [u8]>, SessionError>
where
    T: PrimitiveTensorElementType + IntoBytes + Immutable + 'static,
{
    let (_, values) = value.try_extract_tensor::<T>().map_err(run_failed)?;
    Ok(Cow::Borrowed(values.as_bytes()))
}

fn strings(value: &DynValue) -> Result<Vec<u8>, SessionError> {
    let (_, strings) = value.try_extract_strings().map_err(run_failed)?;
    let mut bytes = Vec::with_capacity(strings.iter().map(|string| 4 + string.len()).sum());
    for string in strings {
        let length = u32::try_from(string.len())
            .map_err(|_| SessionError::Contract("an output string is longer than 4 GiB".into()))?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(string.as_bytes());
    }
    Ok(bytes)
}
