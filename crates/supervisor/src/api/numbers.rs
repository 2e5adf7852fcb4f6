//! Numbers as JSON: the one writer of their arrays. Each number is written in its shortest form
//! that reads back as the same one. Pure.

use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeSeq},
};
use thiserror::Error;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

/// Bytes of a printed component, about: a sign, nine digits, a point, a comma.
const COMPONENT_BYTES: usize = 13;

/// JSON has no number for what is not finite.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the model's output is not finite")]
pub(crate) struct NotFinite;

/// Writes a value as JSON, in about so many bytes.
///
/// # Errors
/// A number is not finite; nothing else can fail.
pub(crate) fn to_json(value: &impl Serialize, bytes: usize) -> Result<Vec<u8>, NotFinite> {
    let mut json = Vec::with_capacity(bytes);
    serde_json::to_writer(&mut json, value).map_err(|_| NotFinite)?;
    Ok(json)
}

/// About how many bytes so many bytes of f32 take as JSON.
pub(crate) fn json_bytes(raw: usize) -> usize {
    raw / size_of::<f32>() * COMPONENT_BYTES
}

/// A vector of little-endian f32, written as an array of numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector<'v>(pub &'v [u8]);

impl Serialize for Vector<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = self.0.as_chunks::<4>().0.iter();
        array(serializer, numbers.map(|number| Finite(f32::from_le_bytes(*number))))
    }
}

/// As a list of numbers.
impl PartialSchema for Vector<'_> {
    fn schema() -> RefOr<Schema> {
        Vec::<f32>::schema()
    }
}

impl ToSchema for Vector<'_> {}

/// Vectors one after the other, written as an array of arrays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors<'v> {
    /// Little-endian f32.
    pub bytes: &'v [u8],
    /// Components of each.
    pub dimension: usize,
}

impl Serialize for Vectors<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = self.dimension * size_of::<f32>();
        array(serializer, self.bytes.chunks_exact(row.max(1)).map(Vector))
    }
}

/// A number that must be finite.
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

/// Writes an array without knowing its length beforehand.
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
        fn what_is_printed_reads_back_as_the_same_numbers(
            numbers in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 0..50),
        ) {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            let body = to_json(&Vector(&bytes), 0).unwrap();
            let read: Vec<f32> = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(read, numbers);
        }
    }

    #[test]
    fn what_json_has_no_number_for_is_an_error() {
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
