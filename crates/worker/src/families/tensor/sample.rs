//! Samples of a model's inputs, generated from fixed seeds, and its outputs as floats. Pure.

use onnxd_proto::domain::tensor::{DataType, TensorSpec, elements};

use crate::session::{InputTensor, TensorOutput};

/// Maximum elements of a sample. Larger inputs are not tried.
const SAMPLE_ELEMENTS_MAX: usize = 16 << 20;

/// Generates a sample of an input: floats between -1 and 1, and integers of 0 or 1, which are valid
/// indices into most tables. Each row has its own seed. Rows with an even seed are a hundred times
/// larger: this reveals models that scale a whole run by its largest value.
pub(super) fn sample(
    spec: &TensorSpec,
    rows: u64,
    size: u64,
    seed: u64,
) -> Option<InputTensor<'_>> {
    let axis = |(index, &axis): (usize, &i64)| match u64::try_from(axis) {
        Ok(axis) => axis,
        Err(_) if index == 0 => rows,
        Err(_) => size,
    };
    let shape: Vec<u64> = spec.shape.iter().enumerate().map(axis).collect();
    let count = elements(&shape).filter(|&count| count <= SAMPLE_ELEMENTS_MAX)?;
    let per_row = (count as u64 / rows.max(1)).max(1);
    let values = (0..count as u64).map(|index| {
        let (row, column) = (index / per_row, index % per_row);
        let row_seed = seed.wrapping_add(row);
        let scale = if row_seed.is_multiple_of(2) { 100.0 } else { 1.0 };
        float(row_seed, column) * scale
    });
    let bytes: Vec<u8> = match spec.datatype {
        DataType::Fp32 => values.flat_map(f32::to_le_bytes).collect(),
        DataType::Fp64 => values.map(f64::from).flat_map(f64::to_le_bytes).collect(),
        DataType::Fp16 => {
            values.map(half::f16::from_f32).flat_map(half::f16::to_le_bytes).collect()
        }
        DataType::Bf16 => {
            values.map(half::bf16::from_f32).flat_map(half::bf16::to_le_bytes).collect()
        }
        // Each element is an empty string.
        DataType::Bytes => vec![0; count * 4],
        whole => {
            let size = whole.element_bytes().unwrap_or(1);
            let first = |value: f32| u8::from(value > 0.0);
            let element =
                |value| std::iter::once(first(value)).chain(std::iter::repeat_n(0, size - 1));
            values.flat_map(element).collect()
        }
    };
    Some(InputTensor { name: &spec.name, datatype: spec.datatype, shape, bytes: bytes.into() })
}

/// Returns a pseudorandom number between -1 and 1, by SplitMix64 (Steele, Lea and Flood, 2014).
#[expect(clippy::cast_precision_loss, reason = "24 bits fit exactly")]
fn float(seed: u64, index: u64) -> f32 {
    let mut mixed = (seed << 32 ^ index).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1_u32 << 23) as f32 - 1.0
}

/// Converts an output's elements to floats; strings count by their bytes.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "compared roughly"
)]
pub(super) fn numbers(output: &TensorOutput<'_>) -> Vec<f32> {
    let bytes = &output.bytes[..];
    match output.datatype {
        DataType::Bool | DataType::Uint8 | DataType::Bytes => {
            bytes.iter().map(|&value| f32::from(value)).collect()
        }
        DataType::Int8 => bytes.iter().map(|&value| f32::from(value.cast_signed())).collect(),
        DataType::Int16 => each(bytes, |value| f32::from(i16::from_le_bytes(value))),
        DataType::Uint16 => each(bytes, |value| f32::from(u16::from_le_bytes(value))),
        DataType::Int32 => each(bytes, |value| i32::from_le_bytes(value) as f32),
        DataType::Uint32 => each(bytes, |value| u32::from_le_bytes(value) as f32),
        DataType::Int64 => each(bytes, |value| i64::from_le_bytes(value) as f32),
        DataType::Uint64 => each(bytes, |value| u64::from_le_bytes(value) as f32),
        DataType::Fp16 => each(bytes, |value| half::f16::from_le_bytes(value).to_f32()),
        DataType::Bf16 => each(bytes, |value| half::bf16::from_le_bytes(value).to_f32()),
        DataType::Fp32 => each(bytes, f32::from_le_bytes),
        DataType::Fp64 => each(bytes, |value| f64::from_le_bytes(value) as f32),
    }
}

fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks::<N>().0.iter().map(|value| number(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(shape: &[i64], datatype: DataType) -> TensorSpec {
        TensorSpec { name: "x".into(), datatype, shape: shape.into() }
    }

    #[test]
    fn sample_has_the_input_shape_and_distinct_rows() {
        let spec = spec(&[-1, 3, -1], DataType::Fp32);
        let two = sample(&spec, 2, 4, 1).unwrap();
        assert_eq!((&two.shape[..], two.bytes.len()), (&[2, 3, 4][..], 2 * 12 * 4));
        let [first, second] = [1, 2].map(|seed| sample(&spec, 1, 4, seed).unwrap().bytes);
        assert_ne!(first, second);
        assert_eq!(*two.bytes, [&first[..], &second[..]].concat());
        assert!((0..1000).all(|index| float(3, index).abs() <= 1.0));
    }

    #[test]
    fn oversized_sample_is_not_generated() {
        assert!(sample(&spec(&[-1, i64::MAX, 9], DataType::Int8), 1, 4, 1).is_none());
        assert!(sample(&spec(&[1 << 30], DataType::Int8), 1, 4, 1).is_none());
    }
}
