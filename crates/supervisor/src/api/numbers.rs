//! Embeddings as JSON. Pure.

use thiserror::Error;

/// Bytes of a printed component, about: a sign, nine digits, a point, a comma.
const COMPONENT_BYTES: usize = 13;

/// JSON has no number for what is not finite.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the model's output is not finite")]
pub(crate) struct NotFinite;

/// Appends an embedding as a list, each number in its shortest form that reads back as the same
/// f32. `components` are little-endian f32.
///
/// # Errors
/// A component is not finite.
pub(crate) fn push_numbers(body: &mut Vec<u8>, components: &[u8]) -> Result<(), NotFinite> {
    let components = components.as_chunks::<4>().0;
    body.reserve(components.len() * COMPONENT_BYTES + 2);
    let mut buffer = zmij::Buffer::new();
    body.push(b'[');
    for (place, bytes) in components.iter().enumerate() {
        let component = f32::from_le_bytes(*bytes);
        if !component.is_finite() {
            return Err(NotFinite);
        }
        if place > 0 {
            body.push(b',');
        }
        body.extend_from_slice(buffer.format_finite(component).as_bytes());
    }
    body.push(b']');
    Ok(())
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
            let mut body = Vec::new();
            push_numbers(&mut body, &bytes).unwrap();
            let read: Vec<f32> = serde_json::from_slice(&body).unwrap();
            prop_assert_eq!(read, numbers);
        }
    }

    #[test]
    fn what_json_has_no_number_for_is_an_error() {
        for number in [f32::NAN, f32::INFINITY] {
            assert!(push_numbers(&mut Vec::new(), &number.to_le_bytes()).is_err());
        }
    }
}
