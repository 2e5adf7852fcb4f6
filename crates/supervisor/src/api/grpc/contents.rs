//! Converts typed tensor contents of a message to raw bytes. Pure.

use bytes::{BufMut, Bytes, BytesMut};
use onnxd_proto::domain::tensor::DataType;

use crate::api::grpc::pb::InferTensorContents;

/// Returns the elements of a tensor as raw little-endian bytes.
///
/// # Errors
/// Elements are in the field of another type, or one does not fit the type; the message says which.
pub(crate) fn raw(datatype: DataType, contents: InferTensorContents) -> Result<Bytes, String> {
    let field = field(datatype).ok_or_else(|| {
        format!("{} elements must be sent in raw_input_contents", datatype.name())
    })?;
    if let Some((other, _)) =
        filled(&contents).into_iter().find(|(name, filled)| *filled && *name != field)
    {
        let datatype = datatype.name();
        return Err(format!("{datatype} elements belong in {field}, but {other} is not empty"));
    }
    let InferTensorContents {
        bool_contents,
        int_contents,
        int64_contents,
        uint_contents,
        uint64_contents,
        fp32_contents,
        fp64_contents,
        bytes_contents,
    } = contents;
    Ok(match datatype {
        DataType::Bool => bool_contents.into_iter().map(u8::from).collect(),
        DataType::Int8 => small(&int_contents, datatype, i8::to_le_bytes)?,
        DataType::Int16 => small(&int_contents, datatype, i16::to_le_bytes)?,
        DataType::Int32 => large(&int_contents, |value| value.to_le_bytes()),
        DataType::Int64 => large(&int64_contents, |value| value.to_le_bytes()),
        DataType::Uint8 => small(&uint_contents, datatype, u8::to_le_bytes)?,
        DataType::Uint16 => small(&uint_contents, datatype, u16::to_le_bytes)?,
        DataType::Uint32 => large(&uint_contents, |value| value.to_le_bytes()),
        DataType::Uint64 => large(&uint64_contents, |value| value.to_le_bytes()),
        DataType::Fp32 => large(&fp32_contents, |value| value.to_le_bytes()),
        DataType::Fp64 => large(&fp64_contents, |value| value.to_le_bytes()),
        DataType::Bytes => strings(&bytes_contents)?,
        // Refused above.
        DataType::Fp16 | DataType::Bf16 => Bytes::new(),
    })
}

/// Returns the field for the elements of a type, or `None` if the type must be sent raw.
fn field(datatype: DataType) -> Option<&'static str> {
    Some(match datatype {
        DataType::Bool => "bool_contents",
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int_contents",
        DataType::Int64 => "int64_contents",
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => "uint_contents",
        DataType::Uint64 => "uint64_contents",
        DataType::Fp32 => "fp32_contents",
        DataType::Fp64 => "fp64_contents",
        DataType::Bytes => "bytes_contents",
        DataType::Fp16 | DataType::Bf16 => return None,
    })
}

/// Returns each field with whether it has elements.
fn filled(contents: &InferTensorContents) -> [(&'static str, bool); 8] {
    [
        ("bool_contents", !contents.bool_contents.is_empty()),
        ("int_contents", !contents.int_contents.is_empty()),
        ("int64_contents", !contents.int64_contents.is_empty()),
        ("uint_contents", !contents.uint_contents.is_empty()),
        ("uint64_contents", !contents.uint64_contents.is_empty()),
        ("fp32_contents", !contents.fp32_contents.is_empty()),
        ("fp64_contents", !contents.fp64_contents.is_empty()),
        ("bytes_contents", !contents.bytes_contents.is_empty()),
    ]
}

/// Returns the number of elements in all fields.
pub(crate) fn elements(contents: &InferTensorContents) -> usize {
    contents.bool_contents.len()
        + contents.int_contents.len()
        + contents.int64_contents.len()
        + contents.uint_contents.len()
        + contents.uint64_contents.len()
        + contents.fp32_contents.len()
        + contents.fp64_contents.len()
        + contents.bytes_contents.len()
}

/// Returns whether all fields are empty.
pub(super) fn is_empty(contents: &InferTensorContents) -> bool {
    elements(contents) == 0
}

/// Converts elements that the message carries in a wider type.
fn small<W, N, const BYTES: usize>(
    values: &[W],
    datatype: DataType,
    bytes: impl Fn(N) -> [u8; BYTES],
) -> Result<Bytes, String>
where
    W: Copy + std::fmt::Display,
    N: TryFrom<W>,
{
    let mut raw = BytesMut::with_capacity(values.len() * BYTES);
    for &value in values {
        let number = N::try_from(value)
            .map_err(|_| format!("{value} is not a valid {} element", datatype.name()))?;
        raw.put_slice(&bytes(number));
    }
    Ok(raw.freeze())
}

/// Converts elements that the message carries in their own type.
fn large<N: Copy, const BYTES: usize>(values: &[N], bytes: impl Fn(N) -> [u8; BYTES]) -> Bytes {
    let mut raw = BytesMut::with_capacity(values.len() * BYTES);
    values.iter().for_each(|&value| raw.put_slice(&bytes(value)));
    raw.freeze()
}

/// Prefixes each element with its length.
fn strings(values: &[Bytes]) -> Result<Bytes, String> {
    let mut raw = BytesMut::with_capacity(values.iter().map(|value| value.len() + 4).sum());
    for value in values {
        let length = u32::try_from(value.len()).map_err(|_| "an element is longer than 4 GiB")?;
        raw.put_u32_le(length);
        raw.put_slice(value);
    }
    Ok(raw.freeze())
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::tensor::split_bytes;
    use proptest::prelude::*;

    use super::*;

    fn none() -> InferTensorContents {
        InferTensorContents::default()
    }

    proptest! {
        #[test]
        fn integers_outside_the_range_of_the_type_are_rejected(values: Vec<i32>) {
            let contents = || InferTensorContents { int_contents: values.clone(), ..none() };
            let all = |fits: fn(i32) -> bool| values.iter().all(|&value| fits(value));
            let back = raw(DataType::Int32, contents()).unwrap();
            let back: Vec<_> = back.as_chunks().0.iter().map(|chunk| i32::from_le_bytes(*chunk)).collect();
            prop_assert_eq!(&back, &values);
            let small = raw(DataType::Int16, contents());
            prop_assert_eq!(small.is_ok(), all(|value| i16::try_from(value).is_ok()));
            let small = raw(DataType::Int8, contents());
            prop_assert_eq!(small.is_ok(), all(|value| i8::try_from(value).is_ok()));
        }

        #[test]
        fn small_integers_keep_their_value(values: Vec<(i8, u16)>) {
            let int_contents = values.iter().map(|value| value.0.into()).collect();
            let uint_contents = values.iter().map(|value| value.1.into()).collect();
            let signed = raw(DataType::Int8, InferTensorContents { int_contents, ..none() }).unwrap();
            let unsigned = raw(DataType::Uint16, InferTensorContents { uint_contents, ..none() }).unwrap();
            let expected: Vec<u8> = values.iter().flat_map(|value| value.0.to_le_bytes()).collect();
            prop_assert_eq!(&signed[..], expected);
            let expected: Vec<u8> = values.iter().flat_map(|value| value.1.to_le_bytes()).collect();
            prop_assert_eq!(&unsigned[..], expected);
        }

        #[test]
        fn floats_keep_every_bit(bits: Vec<u64>) {
            let fp64_contents = bits.iter().map(|&bits| f64::from_bits(bits)).collect();
            let back = raw(DataType::Fp64, InferTensorContents { fp64_contents, ..none() }).unwrap();
            let back: Vec<_> = back.as_chunks().0.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
            prop_assert_eq!(back, bits);
        }

        #[test]
        fn strings_are_prefixed_with_their_length(texts: Vec<Vec<u8>>) {
            let bytes_contents = texts.iter().cloned().map(Bytes::from).collect();
            let back = raw(DataType::Bytes, InferTensorContents { bytes_contents, ..none() }).unwrap();
            prop_assert_eq!(split_bytes(&back, texts.len()).unwrap(), texts);
        }
    }

    #[test]
    fn elements_in_the_field_of_another_type_are_rejected() {
        let contents = InferTensorContents { fp32_contents: vec![1.0], ..none() };
        let error = raw(DataType::Int64, contents.clone()).unwrap_err();
        assert!(error.contains("int64_contents") && error.contains("fp32_contents"), "{error}");
        assert_eq!(raw(DataType::Fp32, contents).unwrap(), 1.0_f32.to_le_bytes()[..]);
    }

    #[test]
    fn half_precision_must_be_raw() {
        for datatype in [DataType::Fp16, DataType::Bf16] {
            let error = raw(datatype, none()).unwrap_err();
            assert!(error.contains("raw_input_contents"), "{error}");
        }
    }

    #[test]
    fn booleans_are_one_byte() {
        let contents = InferTensorContents { bool_contents: vec![true, false], ..none() };
        assert!(!is_empty(&contents));
        assert_eq!(raw(DataType::Bool, contents).unwrap(), [1, 0][..]);
        assert!(is_empty(&none()));
    }
}
