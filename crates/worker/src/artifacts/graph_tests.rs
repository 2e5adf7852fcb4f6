//! Tests of the walk through a model file, and builders of ONNX messages for other tests.

use std::io::{self, Cursor, SeekFrom};

use proptest::prelude::*;

use super::*;

pub(crate) fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

pub(crate) fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

pub(crate) fn message(field: u64, parts: &[Vec<u8>]) -> Vec<u8> {
    let bytes = parts.concat();
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes].concat()
}

/// Encodes a tensor without data as field `field`.
pub(crate) fn tensor(field: u64, element_type: u64, shape: &[u64]) -> Vec<u8> {
    let shape = shape.iter().map(|&size| number(1, size));
    let parts: Vec<Vec<u8>> =
        shape.chain([number(2, element_type), message(8, &[b"name".to_vec()])]).collect();
    message(field, &parts)
}

/// Encodes a tensor whose data is at `location` as field `field`.
pub(crate) fn external(field: u64, location: &str, offset: u64, length: u64) -> Vec<u8> {
    let entry = |key: &str, value: &str| {
        message(13, &[message(1, &[key.into()]), message(2, &[value.into()])])
    };
    message(
        field,
        &[
            number(2, 1),
            entry("location", location),
            entry("offset", &offset.to_string()),
            entry("length", &length.to_string()),
            number(14, 1),
        ],
    )
}

pub(crate) fn model(graph: &[Vec<u8>]) -> Vec<u8> {
    [number(1, 8), message(7, graph), message(8, &[number(2, 17)])].concat()
}

/// Encodes a node with the single attribute `value`.
pub(crate) fn node(value: Vec<u8>) -> Vec<u8> {
    message(1, &[message(5, &[value])])
}

fn locations(bytes: &[u8]) -> Walked<Vec<String>> {
    let mut found = Vec::new();
    walk_bytes(Cursor::new(bytes), bytes.len() as u64, &mut |tensor| {
        found.extend(tensor.external.map(|external| external.location));
        true
    })?;
    Ok(found)
}

#[test]
fn external_data_is_found_in_every_kind_of_tensor() {
    let sparse =
        |field| message(field, &[external(1, "values", 0, 4), external(2, "indices", 0, 4)]);
    let inner = message(6, &[external(5, "inner", 0, 4)]);
    let function = message(
        25,
        &[
            message(7, &[message(5, &[external(5, "function", 0, 4)])]),
            message(11, &[external(5, "default", 0, 4)]),
        ],
    );
    let graph = model(&[
        external(5, "initializer", 8, 4),
        node(external(5, "constant", 0, 4)),
        node(external(10, "list", 0, 4)),
        node(inner),
        node(message(11, &[external(5, "inner list", 0, 4)])),
        sparse(15),
        node(sparse(22)),
    ]);
    let expected = [
        "initializer",
        "constant",
        "list",
        "inner",
        "inner list",
        "values",
        "indices",
        "values",
        "indices",
        "function",
        "default",
    ];
    assert_eq!(locations(&[graph, function].concat()).unwrap(), expected);
}

#[test]
fn end_of_external_data_does_not_overflow() {
    let mut ends = Vec::new();
    for (offset, length) in [(8, 4), (u64::MAX, 4)] {
        let bytes = model(&[external(5, "x", offset, length)]);
        walk_bytes(Cursor::new(&bytes), bytes.len() as u64, &mut |tensor| {
            ends.extend(tensor.external.map(|external| external.end));
            true
        })
        .unwrap();
    }
    assert_eq!(ends, [12, u64::MAX]);
}

/// A mostly zero file that counts the bytes read.
struct Sparse {
    head: Vec<u8>,
    at: u64,
    read: u64,
}

impl Read for &mut Sparse {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in buffer.iter_mut() {
            let at = usize::try_from(self.at).unwrap();
            *byte = self.head.get(at).copied().unwrap_or(0);
            self.at += 1;
        }
        self.read += buffer.len() as u64;
        Ok(buffer.len())
    }
}

impl Seek for &mut Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.at.checked_add_signed(by).unwrap(),
            SeekFrom::End(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.at)
    }
}

#[test]
fn weights_inside_the_file_are_skipped() {
    const WEIGHTS: u64 = 2 << 30;
    let heads = |bytes: u64, field: u64| [varint(field << 3 | 2), varint(bytes)].concat();
    let tensor = [number(2, 1), heads(WEIGHTS, 9)].concat();
    let tensor_bytes = tensor.len() as u64 + WEIGHTS;
    let tensor_field = [heads(tensor_bytes, 5), tensor].concat();
    let graph_bytes = tensor_field.len() as u64 + WEIGHTS;
    let head = [heads(graph_bytes, 7), tensor_field].concat();
    let end = head.len() as u64 + WEIGHTS;
    let mut file = Sparse { head, at: 0, read: 0 };
    let mut tensors = 0;
    walk_bytes(&mut file, end, &mut |_| {
        tensors += 1;
        true
    })
    .unwrap();
    assert_eq!(tensors, 1);
    assert!(file.read < 1 << 16, "{} bytes were read", file.read);
}

#[test]
fn wrong_lengths_are_damage_and_excess_is_a_limit() {
    let whole = model(&[external(5, "x", 0, 4)]);
    for cut in 3..whole.len() - 5 {
        assert!(locations(&whole[..cut]).is_err(), "{cut}");
    }
    let hole = [whole, vec![0; 100]].concat();
    assert!(matches!(locations(&hole), Err(WalkError::Damaged(_))));
    let beyond = [varint(7 << 3 | 2), varint(u64::MAX)].concat();
    assert!(matches!(locations(&beyond), Err(WalkError::Damaged(_))));
    let long = "x".repeat(5000);
    assert_eq!(locations(&model(&[external(5, &long, 0, 4)])), Err(WalkError::Limit));
    let mut deep = tensor(5, 1, &[1]);
    for _ in 0..20 {
        deep = node(message(6, &[deep]));
    }
    assert_eq!(locations(&model(&[deep])), Err(WalkError::Limit));
}

proptest! {
    #[test]
    fn walk_ends_on_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = locations(&bytes);
    }
}

#[test]
fn offsets_of_packed_weights_are_read() {
    let entry = |key: &str, value: &str| {
        message(13, &[message(1, &[key.into()]), message(2, &[value.into()])])
    };
    let packed = [
        entry("location", "w.bin"),
        entry("prepacked_0", "MatMul+115|91488;4096;0|95584;64;0"),
        entry("prepacked_1", "Gemm+7|128;4096;0"),
        entry("prepacked_2", "damaged"),
    ];
    let file = model(&[message(5, &packed)]);
    let mut offsets = Vec::new();
    let mut visit = |tensor: Tensor| {
        offsets.extend(tensor.external.map_or_else(Vec::new, |external| external.packed));
        true
    };
    walk_bytes(Cursor::new(&file), file.len() as u64, &mut visit).unwrap();
    assert_eq!(offsets, [91_488, 95_584, 128]);
}
