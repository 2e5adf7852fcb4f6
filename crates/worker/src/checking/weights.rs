//! The type of a model's weights, read from its file: ONNX Runtime does not say it. Walks through
//! the file's protobuf messages, skips what it does not need, and trusts no length. Called by the
//! check, in a process that may be lost.

use std::{
    fs::File,
    io::{BufReader, Read, Seek},
    path::Path,
};

use onnxd_proto::domain::tensor::DataType;

use crate::artifacts::model_in;

/// Messages within messages. Graphs within graphs are three apart.
const DEPTH_MAX: usize = 32;
/// Fields that are read. A model has some for each of its nodes; with more, nothing is known.
const FIELDS_MAX: u32 = 16 << 20;
/// Numbers of ONNX's element types, and the bits of one element of each. Types without a word of
/// ours count, too: where most weights have such a type, none is named.
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
    // Eight bits of floating point, then four bits, whole and floating.
    (17, 8, None),
    (18, 8, None),
    (19, 8, None),
    (20, 8, None),
    (21, 4, None),
    (22, 4, None),
    (23, 4, None),
];

/// Returns the type of most of the weights, by their bytes, of the version in `dir`; `None` if the
/// file does not say it.
pub(super) fn datatype(dir: &Path) -> Option<DataType> {
    let (_, model) = model_in(dir).ok()??;
    let file = File::open(model).ok()?;
    let end = file.metadata().ok()?.len();
    of_model(file, end)
}

fn of_model(file: impl Read + Seek, end: u64) -> Option<DataType> {
    let mut walk = Walk { file: BufReader::new(file), at: 0, fields: 0, bits: [0; TYPES.len()] };
    walk.message(Message::Model, end, 0)?;
    let most = walk.bits.iter().enumerate().max_by_key(|(_, bits)| **bits)?;
    if *most.1 == 0 { None } else { TYPES[most.0].2 }
}

/// The messages that lead to weights, by their names in onnx.proto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Function,
    Graph,
    Node,
    Attribute,
    SparseTensor,
    Tensor,
}

impl Message {
    /// What is in a field, if weights may be in there.
    fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) => Some(Self::Graph),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) => Some(Self::Attribute),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1) => {
                Some(Self::Tensor)
            }
            _ => None,
        }
    }
}

/// A place in the file, and what has been found so far.
struct Walk<F> {
    file: BufReader<F>,
    at: u64,
    fields: u32,
    /// Of each of the [`TYPES`].
    bits: [u64; TYPES.len()],
}

/// What a field holds.
enum Value {
    Number(u64),
    /// So many bytes follow.
    Bytes(u64),
}

impl<F: Read + Seek> Walk<F> {
    /// Reads a message that ends at `end`. `None`: this is not protobuf, or is beyond a limit.
    fn message(&mut self, message: Message, end: u64, depth: usize) -> Option<()> {
        if message == Message::Tensor {
            return self.tensor(end);
        }
        while self.at < end {
            let (number, value) = self.field(end)?;
            let Value::Bytes(length) = value else { continue };
            match message.field(number) {
                Some(inner) if depth < DEPTH_MAX => {
                    self.message(inner, self.at + length, depth + 1)?;
                }
                Some(_) => return None,
                None => self.skip(length)?,
            }
        }
        Some(())
    }

    /// Counts the weights of a tensor. Its bytes may be in another file.
    fn tensor(&mut self, end: u64) -> Option<()> {
        let (mut elements, mut element_type) = (1_u64, 0);
        while self.at < end {
            match self.field(end)? {
                (1, Value::Number(size)) => elements = elements.saturating_mul(size),
                (1, Value::Bytes(length)) => {
                    let sizes_end = self.at + length;
                    while self.at < sizes_end {
                        elements = elements.saturating_mul(self.number(sizes_end)?);
                    }
                }
                (2, Value::Number(number)) => element_type = number,
                (_, Value::Number(_)) => {}
                (_, Value::Bytes(length)) => self.skip(length)?,
            }
        }
        if let Some(place) = TYPES.iter().position(|(number, ..)| *number == element_type) {
            let bits = elements.saturating_mul(TYPES[place].1);
            self.bits[place] = self.bits[place].saturating_add(bits);
        }
        Some(())
    }

    /// Reads the head of a field that ends at `end` or before, and its value if that is a number.
    fn field(&mut self, end: u64) -> Option<(u64, Value)> {
        self.fields += 1;
        if self.fields > FIELDS_MAX {
            return None;
        }
        let head = self.number(end)?;
        let value = match head & 7 {
            0 => Value::Number(self.number(end)?),
            1 => Value::Bytes(8),
            2 => Value::Bytes(self.number(end)?),
            5 => Value::Bytes(4),
            _ => return None,
        };
        match value {
            Value::Bytes(length) if length > end - self.at => None,
            value => Some((head >> 3, value)),
        }
    }

    /// Reads a number of variable length, which ends at `end` or before.
    fn number(&mut self, end: u64) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            if self.at >= end {
                return None;
            }
            let mut byte = [0];
            self.file.read_exact(&mut byte).ok()?;
            self.at += 1;
            number |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn skip(&mut self, bytes: u64) -> Option<()> {
        self.file.seek_relative(i64::try_from(bytes).ok()?).ok()?;
        self.at += bytes;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn varint(mut number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        while number >= 0x80 {
            bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
            number >>= 7;
        }
        bytes.push(u8::try_from(number).unwrap());
        bytes
    }

    fn number(field: u64, value: u64) -> Vec<u8> {
        [varint(field << 3), varint(value)].concat()
    }

    fn message(field: u64, parts: &[Vec<u8>]) -> Vec<u8> {
        let bytes = parts.concat();
        [varint(field << 3 | 2), varint(bytes.len() as u64), bytes].concat()
    }

    /// A tensor as field `field`, whose bytes lie elsewhere.
    fn tensor(field: u64, element_type: u64, shape: &[u64]) -> Vec<u8> {
        let shape = shape.iter().map(|&size| number(1, size));
        let parts: Vec<Vec<u8>> =
            shape.chain([number(2, element_type), message(8, &[b"name".to_vec()])]).collect();
        message(field, &parts)
    }

    fn of(bytes: &[u8]) -> Option<DataType> {
        of_model(Cursor::new(bytes), bytes.len() as u64)
    }

    fn model(graph: &[Vec<u8>]) -> Vec<u8> {
        [number(1, 8), message(7, graph), message(8, &[number(2, 17)])].concat()
    }

    #[test]
    fn most_of_the_bytes_decide() {
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
            assert_eq!(of(&model(&graph)), expected);
        }
    }

    #[test]
    fn weights_are_found_in_packed_shapes_constants_and_inner_graphs() {
        let packed = message(5, &[message(1, &[varint(300), varint(7)]), number(2, 16)]);
        assert_eq!(of(&model(&[packed])), Some(DataType::Bf16));
        let constant = message(1, &[message(5, &[tensor(5, 2, &[9])])]);
        assert_eq!(of(&model(&[constant])), Some(DataType::Uint8));
        let inner = message(6, &[tensor(5, 11, &[2])]);
        assert_eq!(of(&model(&[message(1, &[message(5, &[inner])])])), Some(DataType::Fp64));
    }

    #[test]
    fn what_lies_about_its_lengths_is_nothing_known() {
        let whole = model(&[tensor(5, 1, &[3, 4])]);
        for cut in 1..whole.len() - 5 {
            let _ = of(&whole[..cut]);
        }
        let huge = model(&[tensor(5, 1, &[u64::MAX, u64::MAX]), tensor(5, 1, &[u64::MAX])]);
        assert_eq!(of(&huge), Some(DataType::Fp32));
        let beyond = [varint(7 << 3 | 2), varint(u64::MAX)].concat();
        assert_eq!(of(&beyond), None);
        let mut deep = tensor(5, 1, &[1]);
        for _ in 0..20 {
            deep = message(1, &[message(5, &[message(6, &[deep])])]);
        }
        assert_eq!(of(&model(&[deep])), None);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = of(&bytes);
        }
    }
}
