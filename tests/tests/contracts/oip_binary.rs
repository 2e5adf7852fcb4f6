//! The binary tensor data extension of the Open Inference Protocol, with every datatype.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::{
    assert_close, message, serve,
    tensors::{
        after, bytes, float_request, floats, infer, parts, raw, reference_tensor, send, send_raw,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn binary_tensors_are_accepted_and_returned_on_request() {
    let server = serve(&["tensor_a", "tensor_two"]).await;
    let mut client = server.client().await;
    let (x, y) = (reference_tensor("tensor_a", "x"), reference_tensor("tensor_a", "y"));
    let input = after("x", "FP32", &json!([3, 4]), 48);
    // Binary in, JSON out.
    let response = send(&mut client, "tensor_a", &json!({"inputs": [input]}), &raw(&x)).await;
    let (json, none) = parts(&response);
    assert!(none.is_empty(), "binary outputs were not requested");
    assert_close(&crate::numbers(&json["outputs"][0]["data"]), &y, "raw in");
    // JSON in, binary out.
    let mut body = float_request("x", &[3, 4], &x);
    body["outputs"] = json!([{"name": "y", "parameters": {"binary_data": true}}]);
    let response = client.post(&infer("tensor_a"), &body).await.expect("an answer");
    assert_close(&floats(&parts(&response).1[0]), &y, "raw out");
    // Both, by the request's parameter, with an id.
    let body = json!({"id": "7", "inputs": [input], "parameters": {"binary_data_output": true}});
    let (json, out) = parts(&send(&mut client, "tensor_a", &body, &raw(&x)).await);
    assert_eq!((&json["id"], &json["outputs"][0]["shape"]), (&json!("7"), &json!([3, 3])));
    assert_close(&floats(&out[0]), &y, "both");

    // One input and one output in each form.
    let (a, b) = (reference_tensor("tensor_two", "a"), reference_tensor("tensor_two", "b"));
    let a_json = json!({"name": "a", "datatype": "FP32", "shape": [3, 2], "data": a});
    for inputs in [
        json!([a_json, after("b", "FP32", &json!([3, 2]), 24)]),
        json!([after("b", "FP32", &json!([3, 2]), 24), a_json]),
    ] {
        let body = json!({"inputs": inputs, "parameters": {"binary_data_output": true},
            "outputs": [{"name": "product", "parameters": {"binary_data": false}}, {"name": "sum"}]});
        let (json, out) = parts(&send(&mut client, "tensor_two", &body, &raw(&b)).await);
        let product = crate::numbers(&json["outputs"][0]["data"]);
        assert_close(&product, &reference_tensor("tensor_two", "product"), "product");
        assert_close(&floats(&out[0]), &reference_tensor("tensor_two", "sum"), "sum");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_a_single_raw_tensor() {
    let server = serve(&["tensor_a", "tensor_two", "tensor_fixed", "tensor_image", "a"]).await;
    let mut client = server.client().await;
    let (x, y) = (reference_tensor("tensor_a", "x"), reference_tensor("tensor_a", "y"));
    let (json, out) = parts(&send_raw(&mut client, "tensor_a", "0", raw(&x).into()).await);
    assert_eq!(json["outputs"][0]["shape"], json!([3, 3]));
    assert_close(&floats(&out[0]), &y, "the row count is inferred");
    let fixed = raw(&reference_tensor("tensor_fixed", "x")).into();
    let (_, out) = parts(&send_raw(&mut client, "tensor_fixed", "0", fixed).await);
    assert_close(&floats(&out[0]), &reference_tensor("tensor_fixed", "y"), "a fully fixed shape");
    // The whole body is one text.
    let (json, out) = parts(&send_raw(&mut client, "a", "0", crate::TEXT.into()).await);
    assert_eq!(json["outputs"][0]["shape"], json!([1, 32]));
    let expected = &e2e::fixtures::reference().models["a"][crate::TEXT_INDEX];
    assert_close(&floats(&out[0]), expected, "a text");
    for (model, body, expected) in [
        ("tensor_a", vec![0; 15], "15 bytes"),
        ("tensor_a", vec![0; 20], "[-1, 4]"),
        ("tensor_fixed", vec![0; 24], "[1, 3]"),
        ("tensor_two", vec![0; 16], "one input"),
        ("tensor_image", vec![0; 12], "at most one axis"),
        ("a", vec![0xff, 0xfe], "UTF-8"),
    ] {
        let response = send_raw(&mut client, model, "0", body.into()).await;
        assert_eq!(response.status, 400, "{model}: {}", response.text());
        let error = message(&response.json());
        assert!(error.contains(expected), "{model}: {error}");
    }
    let response = send_raw(&mut client, "none", "0", Bytes::from_static(b"1234")).await;
    assert_eq!(response.status, 404, "{}", response.text());
    server.stop().await;
}

/// Returns two elements of every datatype, in JSON and binary.
fn every_type() -> Vec<(&'static str, &'static str, Value, Vec<u8>)> {
    let whole = |values: [i128; 2], size: usize| -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()[..size].to_vec()).collect()
    };
    vec![
        ("bool", "BOOL", json!([true, false]), vec![1, 0]),
        ("int8", "INT8", json!([-128, 127]), whole([-128, 127], 1)),
        ("int16", "INT16", json!([-32768, 32767]), whole([-32768, 32767], 2)),
        (
            "int32",
            "INT32",
            json!([i32::MIN, i32::MAX]),
            whole([i32::MIN.into(), i32::MAX.into()], 4),
        ),
        (
            "int64",
            "INT64",
            json!([i64::MIN, i64::MAX]),
            whole([i64::MIN.into(), i64::MAX.into()], 8),
        ),
        ("uint8", "UINT8", json!([0, 255]), whole([0, 255], 1)),
        ("uint16", "UINT16", json!([0, 65535]), whole([0, 65535], 2)),
        ("uint32", "UINT32", json!([0, u32::MAX]), whole([0, u32::MAX.into()], 4)),
        ("uint64", "UINT64", json!([0, u64::MAX]), whole([0, u64::MAX.into()], 8)),
        ("fp16", "FP16", json!([-0.5, 65504.0]), vec![0x00, 0xb8, 0xff, 0x7b]),
        ("bf16", "BF16", json!([-0.5, 3.0]), vec![0x00, 0xbf, 0x40, 0x40]),
        ("fp32", "FP32", json!([0.1, -3.402_823_5e38]), raw(&[0.1, f32::MIN])),
        (
            "fp64",
            "FP64",
            json!([0.1, f64::MAX]),
            [0.1_f64, f64::MAX].iter().flat_map(|value| value.to_le_bytes()).collect(),
        ),
        (
            "string",
            "BYTES",
            json!(["", "né\u{1}\"\n東"]),
            bytes(&[b"", "né\u{1}\"\n東".as_bytes()]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_survives_a_round_trip_in_json_and_binary() {
    let server = serve(&["tensor_types"]).await;
    let mut client = server.client().await;
    let types = every_type();
    let shape = json!([2]);
    let in_json: Value = types
        .iter()
        .map(|(name, datatype, data, _)| {
            json!({"name": format!("in_{name}"), "datatype": datatype, "shape": shape, "data": data})
        })
        .collect();
    let in_raw: Value = types
        .iter()
        .map(|(name, datatype, _, raw)| after(&format!("in_{name}"), datatype, &shape, raw.len()))
        .collect();
    let all: Vec<u8> = types.iter().flat_map(|(.., raw)| raw.clone()).collect();
    for (inputs, sent) in [(&in_json, &[][..]), (&in_raw, &all[..])] {
        for binary in [true, false] {
            let body = json!({"inputs": inputs, "parameters": {"binary_data_output": binary}});
            let (json, out) = parts(&send(&mut client, "tensor_types", &body, sent).await);
            for (index, (name, datatype, data, raw)) in types.iter().enumerate() {
                let output = &json["outputs"][index];
                assert_eq!(output["name"], format!("out_{name}"));
                assert_eq!((&output["datatype"], &output["shape"]), (&json!(datatype), &shape));
                match binary {
                    true => assert_eq!(&out[index][..], &raw[..], "{name}"),
                    false => assert_eq!(&output["data"], data, "{name}"),
                }
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn non_utf8_bytes_are_refused_rather_than_changed() {
    let server = serve(&["tensor_types"]).await;
    let mut client = server.client().await;
    let types = every_type();
    let not_utf8 = bytes(&[b"\xff\xfe", b""]);
    let inputs: Value = types
        .iter()
        .map(|(name, datatype, data, _)| match *name {
            "string" => after("in_string", "BYTES", &json!([2]), not_utf8.len()),
            _ => json!({"name": format!("in_{name}"), "datatype": datatype, "shape": [2], "data": data}),
        })
        .collect();
    let body = json!({"inputs": inputs, "parameters": {"binary_data_output": true}});
    let response = send(&mut client, "tensor_types", &body, &not_utf8).await;
    if response.status == 200 {
        let (_, out) = parts(&response);
        assert_eq!(&out[out.len() - 1][..], &not_utf8[..], "the bytes must be unchanged");
    } else {
        assert_eq!(response.status, 400, "{}", response.text());
        let error = message(&response.json());
        assert!(error.contains("in_string") || error.contains("UTF-8"), "{error}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_survives_a_round_trip_bit_for_bit() {
    let server = serve(&["tensor_image"]).await;
    let mut client = server.client().await;
    // 4.9 MB: two images of 640 by 320. Any numeric conversion would change the bit patterns.
    let (shape, count) = (json!([2, 3, 320, 640]), 2 * 3 * 320 * 640_u32);
    let pattern = |index: u32| (index.wrapping_mul(2_654_435_761) & 0x3fff_ffff).to_le_bytes();
    let image: Vec<u8> = (0..count).flat_map(pattern).collect();
    let body = json!({"inputs": [after("image", "FP32", &shape, image.len())],
        "parameters": {"binary_data_output": true}});
    for _ in 0..3 {
        let (json, out) = parts(&send(&mut client, "tensor_image", &body, &image).await);
        assert_eq!(
            (&json["outputs"][0]["shape"], &json["outputs"][1]["shape"]),
            (&shape, &json!([2, 3]))
        );
        assert!(out[0] == image[..], "the image was changed");
        assert_eq!(out[1].len(), 24);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn non_finite_numbers_are_returned_only_in_binary() {
    let server = serve(&["tensor_a"]).await;
    let mut client = server.client().await;
    let body = float_request("x", &[1, 4], &[3e38, 3e38, 3e38, 3e38]);
    let response = client.post(&infer("tensor_a"), &body).await.expect("an answer");
    assert_eq!(response.status, 424, "{}", response.text());
    let error = message(&response.json());
    assert!(error.contains("`y`") && error.contains("binary"), "{error}");
    let mut body = body;
    body["parameters"] = json!({"binary_data_output": true});
    let response = client.post(&infer("tensor_a"), &body).await.expect("an answer");
    let (_, out) = parts(&response);
    assert!(floats(&out[0]).iter().any(|value| !value.is_finite()), "{:?}", floats(&out[0]));
    // Non-finite inputs are accepted in binary.
    let body = json!({"inputs": [after("x", "FP32", &json!([1, 4]), 16)],
        "parameters": {"binary_data_output": true}});
    let (_, out) = parts(&send(&mut client, "tensor_a", &body, &raw(&[f32::NAN; 4])).await);
    assert!(floats(&out[0]).iter().all(|value| value.is_nan()));
    server.stop().await;
}
