//! Writes numbers as JSON arrays. Each number has the shortest form that parses back to the same
//! value. Pure.

use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeSeq},
};
use thiserror::Error;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

/// Approximate length of one component in JSON: a sign, nine digits, a point, a comma.
const COMPONENT_BYTES: usize = 13;

/// JSON cannot represent a number that is not finite.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the model's output contains NaN or infinity")]
pub(crate) struct NotFinite;

/// Serializes a value as JSON. `bytes` is the expected length.
///
/// # Errors
/// A number is not finite; nothing else fails.
pub(crate) fn to_json(value: &impl Serialize, bytes: usize) -> Result<Vec<u8>, NotFinite> {
    let mut json = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut json, value).map_err(|_| NotFinite)?;
    Ok(json)
}

/// Returns the approximate JSON length of `raw` bytes of f32.
pub(crate) fn json_bytes(raw: usize) -> usize {
    raw / size_of::<f32>() * COMPONENT_BYTES
}

/// A vector of little-endian f32, serialized as an array of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector<'v>(pub &'v [u8]);

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = self.0.as_chunks::<4>().0.iter();
        array(serializer, numbers.map(|number| Finite(f32::from_le_bytes(*number))))
    }
}

/// Described as a list of numbers.
impl PartialSchema for Vector<'_> {
    fn schema() -> RefOr<Schema> {
        Vec::<f32>::schema()
    }
}

impl ToSchema for Vector<'_> {}

/// Concatenated vectors, serialized as an array of arrays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors<'v> {
    /// Little-endian f32.
    pub bytes: &'v [u8],
    /// Components per vector.
    pub dimension: usize,
}

impl Serialize for Vectors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.dimension * size_of::<f32>();
        array(serializer, self.bytes.chunks_exact(row.max(1)).map(Vector))
    }
}

/// A number that fails to serialize unless it is finite.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finite<F>(pub F);

impl<F: Serialize + Into<f64> + Copy> Serialize for Finite<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.0.into().is_finite() {
            return Err(S::Error::custom(NotFinite));
        }
        self.0.serialize(serializer)
    }
}

/// Serializes an array of unknown length.
pub(crate) fn array<S: Serializer, T: Serialize>(
    serializer: S,
    elements: impl Iterator<Item = T>,
) -> Result<S::Ok, S::Error> {
    let mut array = serializer.serialize_seq(None)?;
    for element in elements {
        array.serialize_element(&element)?;
    }
    array.end()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_parse_back_to_the_same_value(
            numbers in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 0..50),
        ) {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let body = to_json(&Vector(&bytes), 0).unwrap();
            let read: Vec<f32> = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(read, numbers);
        }
    }

    #[test]
    fn non_finite_numbers_are_an_error() {
        for number in [f32::NAN, f32::INFINITY] {
            assert_eq!(to_json(&Vector(&number.to_le_bytes()), 0), Err(NotFinite));
        }
    }

    #[test]
    fn rows_are_arrays_within_an_array() {
        let bytes: Vec<u8> =
            [1.0_f32, -0.5, 2.0, 0.0].iter().flat_map(|n| n.to_le_bytes()).collect();
        let rows = to_json(&Vectors { bytes: &bytes, dimension: 2 }, 0).unwrap();
        assert_eq!(rows, b"[[1.0,-0.5],[2.0,0.0]]");
        assert_eq!(to_json(&Vectors { bytes: &[], dimension: 0 }, 0).unwrap(), b"[]");
    }
}
