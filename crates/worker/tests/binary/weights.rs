//! The checker's report of weight types, for models that ONNX Runtime loads. The models are encoded
//! here field by field, with the numbers of onnx.proto.

use std::fs;

use onnxd_proto::domain::{
    Output,
    tensor::DataType::{self, Bf16, Fp16, Fp32, Int8, Uint8},
};

use crate::checker::Check;

/// Number of weights. The scale next to them is smaller.
const ELEMENTS: u8 = 64;
const FLOAT: u8 = 1;

/// Encodes a field that contains messages, text or bytes.
fn field(number: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let bytes = parts.concat();
    let [low, high] =
        [bytes.len() & 0x7f, bytes.len() >> 7].map(|part| u8::try_from(part).unwrap());
    [vec![number << 3 | 2, low | 0x80, high], bytes].concat()
}

fn text(number: u8, text: &str) -> Vec<u8> {
    field(number, &[text.into()])
}

fn count(number: u8, value: u8) -> Vec<u8> {
    vec![number << 3, value]
}

fn tensor(name: &str, element_type: u8, shape: &[u8], bytes: Vec<u8>) -> Vec<u8> {
    let mut parts: Vec<Vec<u8>> = shape.iter().map(|&size| count(1, size)).collect();
    parts.extend([count(2, element_type), text(8, name), field(9, &[bytes])]);
    field(5, &parts)
}

fn node(kind: &str, inputs: &[&str], output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let inputs = inputs.iter().map(|input| text(1, input));
    let parts = inputs.chain([text(2, output), text(4, kind)]).chain(attributes.iter().cloned());
    field(1, &parts.collect::<Vec<_>>())
}

/// Encodes an input (field 11) or output (field 12).
fn outlet(number: u8, name: &str) -> Vec<u8> {
    let shape = field(2, &[field(1, &[count(1, ELEMENTS)])]);
    let tensor_type = field(1, &[count(1, FLOAT), shape]);
    field(number, &[text(1, name), field(2, &[tensor_type])])
}

/// Encodes a model that adds its weights, of this ONNX element type, to its input.
fn model(element_type: u8, element_bytes: usize) -> Vec<u8> {
    let weights = vec![0; usize::from(ELEMENTS) * element_bytes];
    let mut graph = vec![tensor("w", element_type, &[ELEMENTS], weights)];
    match element_type {
        FLOAT => graph.push(node("Identity", &["w"], "floats", &[])),
        // Integers are quantized.
        2 | 3 => graph.extend([
            tensor("scale", FLOAT, &[], 0.5_f32.to_le_bytes().into()),
            node("DequantizeLinear", &["w", "scale"], "floats", &[]),
        ]),
        _ => {
            // The attribute "to" is an integer (type 2, field 20).
            let to = field(5, &[text(1, "to"), count(3, FLOAT), vec![0xa0, 0x01, 2]]);
            graph.push(node("Cast", &["w"], "floats", &[to]));
        }
    }
    graph.extend([
        node("Add", &["x", "floats"], "y", &[]),
        text(2, "g"),
        outlet(11, "x"),
        outlet(12, "y"),
    ]);
    [count(1, 8), field(7, &graph), field(8, &[count(2, 17)])].concat()
}

#[test]
fn type_of_most_weights_is_reported() {
    let cases: [(u8, usize, DataType); 5] =
        [(FLOAT, 4, Fp32), (10, 2, Fp16), (16, 2, Bf16), (3, 1, Int8), (2, 1, Uint8)];
    for (element_type, element_bytes, datatype) in cases {
        let version = tempfile::tempdir().unwrap();
        fs::write(version.path().join("model.onnx"), model(element_type, element_bytes)).unwrap();
        let checked = Check::new(version.path()).run().accepted();
        assert_eq!(checked.facts.weights, Some(datatype));
        assert_eq!(checked.facts.output, Some(Output::Tensors));
    }
}
