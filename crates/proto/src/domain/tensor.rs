//! Tensors on the wire: the inputs and outputs of a model, and the heads of raw tensors. Types and
//! their names follow the Open Inference Protocol; bytes are little-endian and row-major. Pure.

use serde::{Deserialize, Serialize};

/// Maximum number of inputs or outputs of one model.
pub const TENSORS_MAX: usize = 64;
/// Maximum bytes of a tensor's name.
pub const TENSOR_NAME_BYTES_MAX: usize = 256;
/// Maximum number of axes of a tensor.
pub const AXES_MAX: usize = 16;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool,
    /// One byte.
    Int8,
    /// Two bytes.
    Int16,
    /// Four bytes.
    Int32,
    /// Eight bytes.
    Int64,
    /// One byte.
    Uint8,
    /// Two bytes.
    Uint16,
    /// Four bytes.
    Uint32,
    /// Eight bytes.
    Uint64,
    /// IEEE 754 half precision.
    Fp16,
    /// The upper half of an [`DataType::Fp32`].
    Bf16,
    /// IEEE 754 single precision.
    Fp32,
    /// IEEE 754 double precision.
    Fp64,
    /// Each element is a four-byte length followed by that many bytes.
    Bytes,
}

impl DataType {
    /// Every type.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
        Self::Bytes,
    ];

    /// Returns the type's name in the Open Inference Protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Returns the type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|datatype| datatype.name() == name)
    }

    /// Returns the bytes of one element; `None` if elements vary in length.
    pub fn element_bytes(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Int8 | Self::Uint8 => Some(1),
            Self::Int16 | Self::Uint16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Int32 | Self::Uint32 | Self::Fp32 => Some(4),
            Self::Int64 | Self::Uint64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }
}

/// An input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the model file.
    pub name: String,
    /// Type of the elements.
    pub datatype: DataType,
    /// Sizes of the axes; -1 means any.
    pub shape: Vec<i64>,
}

/// A raw tensor in a payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorHead {
    /// Name in the model file.
    pub name: String,
    /// Type of the elements.
    pub datatype: DataType,
    /// Sizes of the axes.
    pub shape: Vec<u64>,
    /// Length in the payload.
    pub bytes: u32,
}

/// Returns the number of elements of a tensor of this shape; `None` if memory could not hold that
/// many. An empty axis does not exempt the other axes from this limit, because code that skips the
/// empty axis computes with the others.
pub fn elements(shape: &[u64]) -> Option<usize> {
    let product =
        shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size.max(1)))?;
    let product = usize::try_from(product).ok().filter(|&all| isize::try_from(all).is_ok())?;
    Some(if shape.contains(&0) { 0 } else { product })
}

/// Splits a BYTES tensor into its elements.
///
/// # Errors
/// Returns the reason if the bytes are malformed or do not contain `elements` elements.
pub fn split_bytes(mut raw: &[u8], elements: usize) -> Result<Vec<&[u8]>, String> {
    // Each element takes at least four bytes for its length.
    if elements > raw.len() / 4 {
        return Err(format!("{elements} elements do not fit into {} bytes", raw.len()));
    }
    let mut split = Vec::with_capacity(elements);
    while let Some((length, rest)) = raw.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((element, rest)) = rest.split_at_checked(length) else {
            return Err(format!("an element claims {length} bytes, but {} follow", rest.len()));
        };
        split.push(element);
        raw = rest;
    }
    match (raw.len(), split.len()) {
        (0, count) if count == elements => Ok(split),
        (0, count) => Err(format!("{count} elements, but the shape says {elements}")),
        (rest, _) => Err(format!("{rest} bytes follow the last element")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_names_match_the_protocol_in_code_and_json() {
        for datatype in DataType::ALL {
            assert_eq!(DataType::from_name(datatype.name()), Some(datatype));
            assert_eq!(serde_json::to_value(datatype).unwrap(), datatype.name());
        }
        assert_eq!(DataType::from_name("fp32"), None);
    }

    #[test]
    fn element_bytes_match_the_bits_in_the_type_name() {
        for datatype in DataType::ALL {
            let bits: Option<usize> = match datatype {
                DataType::Bool => Some(8),
                other => other.name().trim_start_matches(char::is_alphabetic).parse().ok(),
            };
            assert_eq!(datatype.element_bytes(), bits.map(|bits| bits / 8), "{datatype:?}");
        }
    }

    #[test]
    fn a_shape_that_overflows_has_no_element_count() {
        assert_eq!(elements(&[]), Some(1));
        assert_eq!(elements(&[2, 3, 0]), Some(0));
        assert_eq!(elements(&[u64::MAX, 2]), None);
        assert_eq!(elements(&[1 << 32, 1 << 32]), None);
        assert_eq!(elements(&[1 << 63]), None);
        assert_eq!(elements(&[0, u64::MAX]), None);
        assert_eq!(elements(&[1 << 32, 0, 1 << 32]), None);
    }

    #[test]
    fn a_bytes_tensor_is_split_or_refused() {
        let raw = b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c";
        assert_eq!(split_bytes(raw, 3).unwrap(), [&b"ab"[..], b"", b"c"]);
        assert!(split_bytes(b"", 0).unwrap().is_empty());
        assert_eq!(split_bytes(&[0; 16], 4).unwrap(), [b""; 4]);
        assert_eq!(split_bytes(&[0; 16], 5).unwrap_err(), "5 elements do not fit into 16 bytes");
        for (raw, elements) in
            [(&raw[..], 2), (&raw[..], 1 << 40), (&raw[..9], 2), (b"\x05\0\0\0a", 1)]
        {
            assert!(split_bytes(raw, elements).is_err(), "{raw:?} {elements}");
        }
    }
}
