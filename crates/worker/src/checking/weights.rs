//! Determines the data type of a model's weights from its file, because ONNX Runtime does not report
//! it. Called by the check, in a process that may crash.

use std::{fs::File, path::Path};

use onnxd_proto::domain::tensor::DataType;

use crate::artifacts::{
    graph::{Tensor, walk},
    model_in,
};

/// ONNX element types: the number, the bits of one element, and our data type. Types without one
/// count as well: if most weights have such a type, the result is `None`.
const TYPES: [(u64, u64, Option<DataType>); 22] = [
    (1, 32, Some(DataType::Fp32)),
    (2, 8, Some(DataType::Uint8)),
    (3, 8, Some(DataType::Int8)),
    (4, 16, Some(DataType::Uint16)),
    (5, 16, Some(DataType::Int16)),
    (6, 32, Some(DataType::Int32)),
    (7, 64, Some(DataType::Int64)),
    (9, 8, Some(DataType::Bool)),
    (10, 16, Some(DataType::Fp16)),
    (11, 64, Some(DataType::Fp64)),
    (12, 32, Some(DataType::Uint32)),
    (13, 64, Some(DataType::Uint64)),
    // Complex numbers.
    (14, 64, None),
    (15, 128, None),
    (16, 16, Some(DataType::Bf16)),
    // 8-bit floats, then 4-bit integers and floats.
    (17, 8, None),
    (18, 8, None),
    (19, 8, None),
    (20, 8, None),
    (21, 4, None),
    (22, 4, None),
    (23, 4, None),
];

/// Returns the data type of most weight bytes of the version in `dir`, or `None` if it is unknown.
pub(super) fn datatype(dir: &Path) -> Option<DataType> {
    let (_, model) = model_in(dir).ok()??;
    let mut weights = Weights::default();
    walk(&File::open(model).ok()?, &mut |tensor| weights.add(&tensor)).ok()?;
    weights.most()
}

/// The total bits of weights per entry of [`TYPES`].
#[derive(Default)]
struct Weights([u64; TYPES.len()]);

impl Weights {
    /// Counts a tensor. Always returns true, to continue the walk.
    fn add(&mut self, tensor: &Tensor) -> bool {
        let index = TYPES.iter().position(|(number, ..)| *number == tensor.element_type);
        if let Some(index) = index.filter(|_| !tensor.is_index) {
            let bits = tensor.elements.saturating_mul(TYPES[index].1);
            self.0[index] = self.0[index].saturating_add(bits);
        }
        true
    }

    fn most(&self) -> Option<DataType> {
        let (index, bits) = self.0.iter().enumerate().max_by_key(|(_, bits)| **bits)?;
        if *bits == 0 { None } else { TYPES[index].2 }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::artifacts::graph::{
        tests::{message, model, node, number, tensor, varint},
        walk_bytes,
    };

    fn datatype_in(bytes: &[u8]) -> Option<DataType> {
        let mut weights = Weights::default();
        let end = bytes.len() as u64;
        walk_bytes(Cursor::new(bytes), end, &mut |tensor| weights.add(&tensor)).ok()?;
        weights.most()
    }

    #[test]
    fn data_type_of_most_bytes_wins() {
        let cases = [
            (vec![tensor(5, 1, &[3, 4])], Some(DataType::Fp32)),
            (
                vec![tensor(5, 1, &[10]), tensor(5, 3, &[1000]), tensor(5, 7, &[4])],
                Some(DataType::Int8),
            ),
            (vec![tensor(5, 10, &[3]), tensor(5, 1, &[1])], Some(DataType::Fp16)),
            (vec![tensor(5, 22, &[1000]), tensor(5, 1, &[2])], None),
            (vec![tensor(5, 99, &[1000])], None),
            (vec![], None),
        ];
        for (graph, expected) in cases {
            assert_eq!(datatype_in(&model(&graph)), expected);
        }
    }

    #[test]
    fn weights_in_packed_shapes_constants_and_inner_graphs_count() {
        let packed = message(5, &[message(1, &[varint(300), varint(7)]), number(2, 16)]);
        assert_eq!(datatype_in(&model(&[packed])), Some(DataType::Bf16));
        assert_eq!(datatype_in(&model(&[node(tensor(5, 2, &[9]))])), Some(DataType::Uint8));
        let inner = message(6, &[tensor(5, 11, &[2])]);
        assert_eq!(datatype_in(&model(&[node(inner)])), Some(DataType::Fp64));
        let sparse = message(15, &[tensor(1, 1, &[2]), tensor(2, 7, &[100])]);
        assert_eq!(datatype_in(&model(&[sparse])), Some(DataType::Fp32), "indices are not weights");
    }

    #[test]
    fn damaged_file_has_no_known_data_type() {
        let huge = model(&[tensor(5, 1, &[u64::MAX, u64::MAX]), tensor(5, 1, &[u64::MAX])]);
        assert_eq!(datatype_in(&huge), Some(DataType::Fp32));
        assert_eq!(datatype_in(&huge[..huge.len() - 20]), None);
    }
}
