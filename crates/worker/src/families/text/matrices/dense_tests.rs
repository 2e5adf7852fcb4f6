use std::fs;

use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::families::text::matrices::module_fixture::{self, Given, floats, numbers};

fn module(config: &Value, tensors: &[Given]) -> TempDir {
    module_fixture::version("2_Dense", Some(config), tensors)
}

fn open(dir: &TempDir) -> Result<Dense, Refusal> {
    Dense::open(dir.path(), "2_Dense")
}

/// Evaluates the definition in `f64`.
fn linear(rows: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f64> {
    let inputs = weight.len() / bias.len();
    let product = |row: &[f32], weights: &[f32]| -> f64 {
        row.iter().zip(weights).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
    };
    rows.chunks(inputs)
        .flat_map(|row| {
            let outputs = weight.chunks(inputs).zip(bias);
            outputs.map(move |(weights, bias)| product(row, weights) + f64::from(*bias))
        })
        .collect()
}

fn assert_close(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} is not {expected}");
    }
}

#[test]
fn dense_matches_the_definition_for_every_shape() {
    for (inputs, outputs) in [(1, 1), (3, 2), (16, 5), (33, 48), (100, 7)] {
        let scale = 1.0 / u16::try_from(inputs).map(f32::from).unwrap();
        let weight: Vec<f32> =
            numbers(inputs * outputs, 1).iter().map(|value| value * scale).collect();
        let bias = numbers(outputs, 2);
        let config = json!({"in_features": inputs, "out_features": outputs});
        let dir = module(
            &config,
            &[
                floats("linear.weight", &[outputs, inputs], &weight),
                floats("linear.bias", &[outputs], &bias),
            ],
        );
        let dense = open(&dir).unwrap();
        assert_eq!((dense.inputs(), dense.outputs(), dense.rows()), (inputs, outputs, Rows::Texts));
        let mut out = vec![9.0; 3];
        for rows in [0, 1, 7, 8, 9, 20] {
            let rows = numbers(rows * inputs, 3);
            dense.apply(&rows, &mut out);
            let expected = linear(&rows, &weight, &bias);
            let expected: Vec<f64> = expected.into_iter().map(f64::tanh).collect();
            assert_close(&out, &expected);
        }
    }
}

#[test]
fn residual_is_added_after_the_activation() {
    let (weight, other) = (numbers(6, 4), numbers(6, 5));
    let square = [0.5, -1.0, 0.25, 2.0];
    let rows = [0.5, -0.25];
    let config = |outputs| {
        json!({"in_features": 2, "out_features": outputs, "bias": false, "use_residual": true,
            "activation_function": "torch.nn.modules.activation.ReLU"})
    };
    let mut out = Vec::new();
    let dir = module(&config(2), &[floats("linear.weight", &[2, 2], &square)]);
    open(&dir).unwrap().apply(&rows, &mut out);
    assert_close(&out, &[0.5 + 0.5, 0.0 - 0.25]);
    let tensors: [Given; 2] =
        [floats("linear.weight", &[3, 2], &weight), floats("residual.weight", &[3, 2], &other)];
    open(&module(&config(3), &tensors)).unwrap().apply(&rows, &mut out);
    let products = linear(&rows, &weight, &[0.0; 3]).into_iter().map(|value| value.max(0.0));
    let residuals = linear(&rows, &other, &[0.0; 3]);
    let expected: Vec<f64> = products.zip(residuals).map(|(left, right)| left + right).collect();
    assert_close(&out, &expected);
}

#[test]
fn missing_dense_fields_use_library_defaults() {
    let tensors: [Given; 2] =
        [floats("linear.weight", &[1, 1], &[1.0]), floats("linear.bias", &[1], &[0.5])];
    let mut out = Vec::new();
    for (fields, expected) in [
        (json!({}), 1.0_f64.tanh()),
        (json!({"activation_function": null}), 1.0),
        (json!({"activation_function": "torch.nn.modules.linear.Identity"}), 1.0),
    ] {
        let mut config = json!({"in_features": 1, "out_features": 1});
        config.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        open(&module(&config, &tensors)).unwrap().apply(&[0.5], &mut out);
        assert_close(&out, &[expected]);
    }
}

#[test]
fn invalid_dense_module_is_refused_with_file_and_field() {
    let weight = floats("linear.weight", &[1, 2], &[1.0, 2.0]);
    let bias = floats("linear.bias", &[1], &[1.0]);
    let plain = json!({"in_features": 2, "out_features": 1});
    let with = |field: &str, value: Value| {
        let mut config = plain.clone();
        config[field] = value;
        config
    };
    let whole = [weight.clone(), bias];
    let cases: [(Value, &[Given], &str); 12] = [
        (json!([]), &whole, "2_Dense/config.json: expected a JSON object"),
        (json!({"in_features": 2}), &whole, "2_Dense/config.json: out_features is missing"),
        (with("in_features", 0.into()), &whole, "in_features: expected a number between 1 and"),
        (with("in_features", (1_u64 << 60).into()), &whole, "between 1 and 131072"),
        (with("in_features", "2".into()), &whole, "2_Dense/config.json: in_features: "),
        (with("in_features", 3.into()), &whole, "has shape [1, 2], but 2_Dense/config.json needs"),
        (plain.clone(), &[weight], "tensor \"linear.bias\" is missing"),
        (with("bias", false.into()), &whole, "unexpected tensor \"linear.bias\""),
        (with("use_residual", true.into()), &whole, "tensor \"residual.weight\" is missing"),
        (with("activation_function", "my.Swish".into()), &whole, "unknown class \"my.Swish\""),
        (with("activation_function", 3.into()), &whole, "expected the name of a class"),
        (with("module_input_name", "x".into()), &whole, "module_input_name \"x\""),
    ];
    for (config, tensors, expected) in cases {
        let message = open(&module(&config, tensors)).unwrap_err().message;
        assert!(message.starts_with("2_Dense/") && message.contains(expected), "{message}");
    }
    let dir = tempfile::tempdir().unwrap();
    let message = open(&dir).unwrap_err().message;
    assert_eq!(message, "2_Dense/config.json is missing; a Dense module needs it");
}

#[test]
fn dense_applies_to_tokens_if_configured() {
    let config = json!({"in_features": 1, "out_features": 1, "bias": false,
        "module_input_name": "token_embeddings", "module_output_name": null});
    let dir = module(&config, &[floats("linear.weight", &[1, 1], &[1.0])]);
    assert_eq!(open(&dir).unwrap().rows(), Rows::Tokens);
}

proptest! {
    #[test]
    fn damaged_configurations_never_panic(
        place: prop::sample::Index, bytes in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let config = json!({"in_features": 2, "out_features": 1, "bias": false,
            "activation_function": "torch.nn.modules.linear.Identity", "use_residual": false});
        let dir = module(&config, &[floats("linear.weight", &[1, 2], &[1.0, 2.0])]);
        let mut config = config.to_string().into_bytes();
        let at = place.index(config.len());
        let end = (at + bytes.len()).min(config.len());
        config.splice(at..end, bytes);
        fs::write(dir.path().join("2_Dense/config.json"), config).unwrap();
        if let Ok(dense) = open(&dir) {
            dense.apply(&vec![1.0; 2 * dense.inputs()], &mut Vec::new());
        }
    }
}
