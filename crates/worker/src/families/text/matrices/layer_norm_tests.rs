use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::families::text::matrices::module_fixture::{self, Given, floats};

fn module(config: &Value, tensors: &[Given]) -> TempDir {
    module_fixture::version("2_LayerNorm", Some(config), tensors)
}

fn whole() -> [Given; 2] {
    let scale = floats("norm.weight", &[4], &[1.0, 2.0, 1.0, 0.5]);
    [scale, floats("norm.bias", &[4], &[0.0, 0.0, 1.0, -1.0])]
}

#[test]
fn rows_are_normalized_independently() {
    let dir = module(&json!({"dimension": 4}), &whole());
    let norm = LayerNorm::open(dir.path(), "2_LayerNorm").unwrap();
    assert_eq!(norm.dimension(), 4);
    let mut rows = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0, 5.0];
    norm.apply(&mut rows);
    // (x − 2.5) / √(1.25 + 1e-5), scaled and shifted.
    let expected = [-1.341_635_4, -0.894_423_6, 1.447_211_8, -0.329_182_3, 0.0, 0.0, 1.0, -1.0_f32];
    for (found, expected) in rows.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
    }
}

#[test]
fn invalid_layer_norm_is_refused() {
    let message = |config: Value, tensors: &[Given]| {
        let dir = module(&config, tensors);
        LayerNorm::open(dir.path(), "2_LayerNorm").unwrap_err().message
    };
    let config = json!({"dimension": 4});
    assert!(message(json!({}), &whole()).contains("2_LayerNorm/config.json: dimension is missing"));
    assert!(message(json!({"dimension": 0}), &whole()).contains("between 1 and 131072"));
    assert!(message(json!({"dimension": 3}), &whole()).contains("has shape [4]"));
    assert!(message(config.clone(), &whole()[..1]).contains("\"norm.bias\" is missing"));
    let [scale, shift] = whole();
    let other = floats("linear.weight", &[1], &[1.0]);
    assert!(message(config, &[scale, shift, other]).contains("unexpected tensor"));
}
