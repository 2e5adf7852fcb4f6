//! The Open Inference Protocol: metadata, and inference in JSON.

use e2e::{client::Client, fixtures::model};
use serde_json::{Value, json};

use crate::{
    assert_close, message, numbers, post, post_ok, refused, serve,
    tensors::{float_request, infer, reference_tensor},
};

async fn get(client: &mut Client, path: &str) -> Value {
    let response = client.get(path).await.expect("an answer");
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

/// Asserts that an error has the protocol's shape, and returns its message.
async fn missing(client: &mut Client, path: &str) -> String {
    let response = client.get(path).await.expect("an answer");
    assert_eq!(response.status, 404, "{path}: {}", response.text());
    let error = response.json();
    assert_eq!(error.as_object().map(serde_json::Map::len), Some(1), "{error}");
    message(&json!({"error": error["error"]}))
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_describes_inputs_and_outputs() {
    let names = ["tensor_a", "a", "classify_a", "rerank_a", "tensor_fixed"];
    let server = serve(&names).await;
    let mut client = server.client().await;
    let about = get(&mut client, "/v2").await;
    assert_eq!(about["name"], "onnxd");
    let extensions = about["extensions"].as_array().expect("extensions");
    assert!(extensions.contains(&json!("binary_tensor_data")), "{about}");
    assert_eq!(get(&mut client, "/v2/models").await, json!({"models": names}));
    let spec = |name: &str, datatype: &str, shape: &[i64]| json!({"name": name, "datatype": datatype, "shape": shape});
    let text = spec("text", "BYTES", &[-1]);
    for (name, inputs, outputs) in [
        ("tensor_a", json!([spec("x", "FP32", &[-1, 4])]), json!([spec("y", "FP32", &[-1, 3])])),
        ("tensor_fixed", json!([spec("x", "FP32", &[1, 3])]), json!([spec("y", "FP32", &[1, 3])])),
        ("a", json!([text]), json!([spec("embedding", "FP32", &[-1, 32])])),
        ("classify_a", json!([text]), json!([spec("scores", "FP32", &[-1, 3])])),
        (
            "rerank_a",
            json!([spec("query", "BYTES", &[1]), text]),
            json!([spec("score", "FP32", &[-1])]),
        ),
    ] {
        for path in [format!("/v2/models/{name}"), format!("/v2/models/{name}/versions/1")] {
            let metadata = get(&mut client, &path).await;
            assert_eq!((&metadata["inputs"], &metadata["outputs"]), (&inputs, &outputs), "{path}");
            assert_eq!((&metadata["name"], &metadata["versions"]), (&json!(name), &json!(["1"])));
            assert_eq!(metadata["platform"], "onnx_onnxv1");
        }
        for path in
            [format!("/v2/models/{name}/ready"), format!("/v2/models/{name}/versions/1/ready")]
        {
            assert_eq!(get(&mut client, &path).await, json!({"name": name, "ready": true}));
        }
        let config = get(&mut client, &format!("/v2/models/{name}/config")).await;
        assert_eq!((&config["name"], &config["max_batch_size"]), (&json!(name), &json!(0)));
        assert_eq!(config["input"][0]["dims"], inputs[0]["shape"]);
        assert_eq!(config["output"][0]["data_type"], "TYPE_FP32");
        assert_eq!(get(&mut client, &format!("/v2/models/{name}/versions/1/config")).await, config);
    }
    let config = get(&mut client, "/v2/models/a/config").await;
    assert_eq!(config["input"][0]["data_type"], "TYPE_STRING");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_answered_requests() {
    let server = serve(&["tensor_a", "a"]).await;
    let mut client = server.client().await;
    for _ in 0..5 {
        post(&mut client, &infer("tensor_a"), &float_request("x", &[1, 4], &[0.0; 4])).await;
    }
    refused(&mut client, &infer("tensor_a"), &float_request("x", &[1, 3], &[0.0; 3]), 400).await;
    for path in ["/v2/models/tensor_a/stats", "/v2/models/tensor_a/versions/1/stats"] {
        let stats = get(&mut client, path).await["model_stats"].clone();
        assert_eq!(stats.as_array().map(Vec::len), Some(1), "{stats}");
        let one = &stats[0];
        assert_eq!((&one["name"], &one["version"]), (&json!("tensor_a"), &json!("1")));
        assert_eq!((&one["inference_count"], &one["execution_count"]), (&json!(5), &json!(5)));
        assert_eq!(one["inference_stats"]["success"]["count"], 5);
        assert!(one["inference_stats"]["compute_infer"]["ns"].as_u64() > Some(0), "{one}");
    }
    let all = get(&mut client, "/v2/models/stats").await["model_stats"].clone();
    let names: Vec<&Value> =
        all.as_array().expect("a list").iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["tensor_a", "a"]);
    assert_eq!(all[1]["inference_count"], 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_serving_generation_answers_as_a_version() {
    let server = serve(&["tensor_a"]).await;
    let mut client = server.client().await;
    let (x, b) = (reference_tensor("tensor_a", "x"), reference_tensor("tensor_b", "y"));
    let body = float_request("x", &[3, 4], &x);
    for version in [1, 2] {
        let path = format!("/v2/models/tensor_a/versions/{version}/infer");
        let answer = post_ok(&mut client, &path, &body).await;
        assert_eq!(answer["model_version"], version.to_string());
        assert_eq!(answer["parameters"]["generation"], version);
        let y = numbers(&answer["outputs"][0]["data"]);
        if version == 1 {
            assert_close(&y, &reference_tensor("tensor_a", "y"), "before");
            server.update("tensor_a", Some(&model("tiny/tensor_b"))).await.expect("an update");
        } else {
            assert_close(&y, &b, "after");
        }
    }
    for version in ["1", "3", "0", "02", "x", "-1", "99999999999999999999"] {
        let path = format!("/v2/models/tensor_a/versions/{version}");
        let message = refused(&mut client, &format!("{path}/infer"), &body, 404).await;
        assert!(message.contains(version) && message.contains("only 2"), "{message}");
        for path in [
            path.clone(),
            format!("{path}/ready"),
            format!("{path}/config"),
            format!("{path}/stats"),
        ] {
            missing(&mut client, &path).await;
        }
    }
    for path in ["", "/ready", "/config", "/stats"] {
        let message = missing(&mut client, &format!("/v2/models/none{path}")).await;
        assert!(message.contains("none") && message.contains("tensor_a"), "{message}");
    }
    missing(&mut client, "/v2/none").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn json_data_may_be_flat_or_nested_and_the_id_is_echoed() {
    let server = serve(&["tensor_a", "tensor_two", "tensor_fixed"]).await;
    let mut client = server.client().await;
    let (x, y) = (reference_tensor("tensor_a", "x"), reference_tensor("tensor_a", "y"));
    let rows: Vec<&[f32]> = x.chunks(4).collect();
    for data in [json!(x), json!(rows), json!([rows])] {
        let body = json!({"id": "é \"7\"", "parameters": {"other": [1]}, "unknown": 1, "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [3, 4], "data": data}]});
        let response = post(&mut client, &infer("tensor_a"), &body).await;
        assert_eq!(response.header("content-type"), Some("application/json"));
        assert_eq!(response.generation(), Some(1));
        let answer = response.json();
        assert_eq!((&answer["id"], &answer["model_name"]), (&json!("é \"7\""), &json!("tensor_a")));
        assert_eq!(answer["parameters"], json!({"generation": 1}));
        let output = &answer["outputs"][0];
        assert_eq!((&output["name"], &output["datatype"]), (&json!("y"), &json!("FP32")));
        assert_eq!(output["shape"], json!([3, 3]));
        assert_close(&numbers(&output["data"]), &y, "y");
    }
    let nothing = post_ok(&mut client, &infer("tensor_a"), &float_request("x", &[0, 4], &[])).await;
    assert_eq!(nothing["outputs"][0]["shape"], json!([0, 3]));
    assert_eq!(nothing["outputs"][0]["data"], json!([]));
    assert!(nothing.get("id").is_none(), "{nothing}");

    let (a, b) = (reference_tensor("tensor_two", "a"), reference_tensor("tensor_two", "b"));
    let input = |name, data: &[f32]| json!({"name": name, "datatype": "FP32", "shape": [3, 2], "data": data});
    for (wanted, names) in [
        (json!([]), vec!["sum", "product"]),
        (json!([{"name": "product"}]), vec!["product"]),
        (json!([{"name": "product"}, {"name": "sum"}]), vec!["product", "sum"]),
    ] {
        // The order of inputs does not matter.
        let body = json!({"inputs": [input("b", &b), input("a", &a)], "outputs": wanted});
        let answer = post_ok(&mut client, &infer("tensor_two"), &body).await;
        let outputs = answer["outputs"].as_array().expect("outputs");
        let named: Vec<&Value> = outputs.iter().map(|output| &output["name"]).collect();
        assert_eq!(named, names);
        for output in outputs {
            let name = output["name"].as_str().expect("a name");
            assert_close(&numbers(&output["data"]), &reference_tensor("tensor_two", name), name);
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tensors_that_do_not_match_the_model_are_refused_by_name() {
    let server = serve(&["tensor_a", "tensor_two", "tensor_fixed"]).await;
    let mut client = server.client().await;
    let input = |name: &str, shape: Value, data: Value| json!({"name": name, "datatype": "FP32", "shape": shape, "data": data});
    let good = input("x", json!([1, 4]), json!([1, 2, 3, 4]));
    let outputs = |names: &[&str]| {
        let outputs: Value = names.iter().map(|name| json!({"name": name})).collect();
        json!({"inputs": [good], "outputs": outputs})
    };
    let mut typed = good.clone();
    typed["datatype"] = "FP64".into();
    let inputs = |inputs: Value| json!({"inputs": inputs});
    for (model, body, expected) in [
        ("tensor_a", inputs(json!([])), "no inputs"),
        ("tensor_a", json!({}), "inputs"),
        ("tensor_a", inputs(json!([input("z", json!([1, 4]), json!([1, 2, 3, 4]))])), "`x`"),
        ("tensor_a", inputs(json!([good, input("z", json!([1]), json!([1]))])), "`z`"),
        ("tensor_a", inputs(json!([good, good])), "twice"),
        ("tensor_a", inputs(json!([typed])), "FP32"),
        ("tensor_a", inputs(json!([input("x", json!([4]), json!([1, 2, 3, 4]))])), "[-1, 4]"),
        ("tensor_a", inputs(json!([input("x", json!([1, 5]), json!([1, 2, 3, 4, 5]))])), "[-1, 4]"),
        ("tensor_fixed", inputs(json!([input("x", json!([2, 3]), json!(vec![0; 6]))])), "[1, 3]"),
        ("tensor_two", inputs(json!([input("a", json!([1, 2]), json!([1, 2]))])), "`b`"),
        ("tensor_a", outputs(&["z"]), "`z`"),
        ("tensor_a", outputs(&["y", "y"]), "twice"),
        ("tensor_a", outputs(&["y"; 300]), "more than 64"),
        ("tensor_a", outputs(&[&"y".repeat(5000)]), "bytes"),
        ("tensor_a", inputs(json!([input(&"x".repeat(5000), json!([1]), json!([1]))])), "bytes"),
        ("tensor_a", json!({"id": "i".repeat(1025), "inputs": [good]}), "`id`"),
    ] {
        let error = refused(&mut client, &infer(model), &body, 400).await;
        assert!(error.contains(expected), "{expected}: {error}");
    }
    refused(&mut client, &infer("none"), &inputs(json!([good])), 404).await;
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}
