//! Inference: raw and typed tensors, texts and streams.

use bytes::Bytes;
use e2e::{
    corpus::{Corpus, TOLERANCE, distance},
    fixtures::model,
};
use serde_json::Value;
use tokio_stream::StreamExt;

use crate::{
    builder, bytes, client, floats, generation, generation_of, pb::InferTensorContents, raw, texts,
    wanted,
};

/// Returns the numpy reference for tensors.
fn reference() -> Value {
    let text = std::fs::read(model("tiny").join("reference.json")).expect("a file");
    serde_json::from_slice(&text).expect("JSON")
}

fn flat(value: &Value) -> Vec<f32> {
    match value {
        Value::Array(values) => values.iter().flat_map(flat).collect(),
        number => {
            let number: f32 = number.to_string().parse().expect("a number");
            vec![number]
        }
    }
}

fn assert_near(one: &[f32], other: &[f32]) {
    assert!(distance(one, other) <= TOLERANCE, "{one:?} {other:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_and_typed_tensors_match_the_reference() {
    let server = builder(&[("m", "tiny/tensor_two")]).start().await;
    let mut client = client(&server).await;
    let reference = &reference()["tensors"]["tensor_two"];
    let (a, b) = (flat(&reference["a"]), flat(&reference["b"]));
    let shape = &[3, 2][..];
    let mut request = raw("m", &[("a", "FP32", shape, bytes(&a)), ("b", "FP32", shape, bytes(&b))]);
    request.id = "an id".into();
    let answer = client.model_infer(request.clone()).await.unwrap();
    assert_eq!(generation(&answer), 1);
    assert_eq!(answer.metadata().get("x-model-name").unwrap(), "m");
    assert_eq!(answer.metadata().get("x-model-version").unwrap().len(), 64);
    let answer = answer.into_inner();
    assert_eq!((&*answer.model_name, &*answer.id), ("m", "an id"));
    for (index, name) in ["sum", "product"].into_iter().enumerate() {
        let output = &answer.outputs[index];
        assert_eq!((&*output.name, &*output.datatype, &output.shape[..]), (name, "FP32", shape));
        assert!(output.contents.is_none());
        assert_near(&floats(&answer.raw_output_contents[index]), &flat(&reference[name]));
    }
    // Typed tensors in another order, with a single output.
    let mut typed = request.clone();
    typed.raw_input_contents.clear();
    for (input, values) in typed.inputs.iter_mut().zip([a, b]) {
        let contents = InferTensorContents { fp32_contents: values, ..Default::default() };
        input.contents = Some(contents);
    }
    typed.inputs.reverse();
    typed.outputs = vec![wanted("product")];
    typed.model_version = "1".into();
    let typed = client.model_infer(typed).await.unwrap().into_inner();
    assert_eq!(typed.raw_output_contents, answer.raw_output_contents[1..]);
    assert_eq!(typed.outputs[0].name, "product");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_datatype_survives_a_grpc_round_trip() {
    let server = builder(&[("m", "tiny/tensor_types")]).start().await;
    let mut client = client(&server).await;
    let request = crate::pb::ModelMetadataRequest { name: "m".into(), version: String::new() };
    let metadata = client.model_metadata(request).await.unwrap().into_inner();
    assert_eq!(metadata.inputs.len(), 14);
    let element = |datatype: &str| -> Vec<u8> {
        match datatype {
            "BOOL" => vec![1],
            "INT8" => vec![0x80],
            "UINT8" => vec![0xff],
            "INT16" | "UINT16" => vec![0x01, 0xfe],
            "FP16" | "BF16" => vec![0x80, 0x3f],
            "INT32" | "UINT32" => vec![1, 2, 3, 0xf4],
            "FP32" => (-1.5_f32).to_le_bytes().to_vec(),
            "FP64" => 0.1_f64.to_le_bytes().to_vec(),
            "BYTES" => [&3_u32.to_le_bytes()[..], "né".as_bytes()].concat(),
            _ => vec![1, 2, 3, 4, 5, 6, 7, 0xf8],
        }
    };
    let data = |datatype: &str| Bytes::from(element(datatype).repeat(3));
    let inputs: Vec<_> = metadata
        .inputs
        .iter()
        .map(|spec| (&*spec.name, &*spec.datatype, &[3][..], data(&spec.datatype)))
        .collect();
    let answer = client.model_infer(raw("m", &inputs)).await.unwrap().into_inner();
    for (index, output) in answer.outputs.iter().enumerate() {
        let raw = &answer.raw_output_contents[index];
        assert_eq!(*raw, data(&output.datatype), "{} {}", output.name, output.datatype);
    }
    assert_eq!(answer.outputs.len(), 14);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_image_survives_a_grpc_round_trip() {
    let server = builder(&[("m", "tiny/tensor_image")]).start().await;
    let mut client = client(&server).await;
    let side: usize = 640;
    let pixels = (0..3 * side * side).map(|pixel| (pixel % 251) as f32);
    let image = bytes(&pixels.collect::<Vec<_>>());
    let side = i64::try_from(side).unwrap();
    for _ in 0..3 {
        let mut request = raw("m", &[("image", "FP32", &[1, 3, side, side], image.clone())]);
        request.outputs = vec![wanted("copy")];
        let answer = client.model_infer(request).await.unwrap().into_inner();
        assert_eq!(answer.outputs[0].shape, [1, 3, side, side]);
        assert!(answer.raw_output_contents[0] == image, "the copy differs");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_embeds_and_ranks_texts_as_http_does() {
    let server = builder(&[("m", "tiny/a"), ("r", "tiny/rerank_a")]).start().await;
    let mut client = client(&server).await;
    let corpus = Corpus::tiny();
    let indices: Vec<usize> = (0..corpus.texts.len()).collect();
    let given: Vec<&str> = corpus.texts.iter().map(String::as_str).collect();
    let answer = client.model_infer(texts("m", &[("text", &given)])).await.unwrap().into_inner();
    let output = &answer.outputs[0];
    assert_eq!((&*output.name, output.shape[0]), ("embedding", indices.len() as i64));
    let row = usize::try_from(output.shape[1]).unwrap();
    let all = floats(&answer.raw_output_contents[0]);
    let rows: Vec<Vec<f32>> = all.chunks(row).map(<[f32]>::to_vec).collect();
    assert_eq!(corpus.content(&indices, &rows).as_deref(), Ok("a"));
    let documents = ["one", "two words", "three more words"];
    let request = texts("r", &[("query", &["words"]), ("text", &documents)]);
    let answer = client.model_infer(request).await.unwrap().into_inner();
    let scores = floats(&answer.raw_output_contents[0]);
    let body = serde_json::json!({"model": "r", "query": "words", "texts": documents});
    let http = server.client().await.post("/rerank", &body).await.unwrap().json();
    for ranked in http.as_array().unwrap() {
        let index = usize::try_from(ranked["index"].as_u64().unwrap()).unwrap();
        assert_near(&[scores[index]], &flat(&ranked["score"]));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_each_request_in_order() {
    let server = builder(&[("m", "tiny/tensor_a"), ("t", "tiny/a")]).start().await;
    let mut client = client(&server).await;
    let request = |index: usize| {
        let mut request = match index % 4 {
            0 => texts("t", &[("text", &["some text"])]),
            1 => raw("nobody", &[("x", "FP32", &[1, 4], bytes(&[0.0; 4]))]),
            _ => raw("m", &[("x", "FP32", &[1, 4], bytes(&[index as f32; 4]))]),
        };
        request.id = index.to_string();
        request
    };
    let requests = tokio_stream::iter((0..40).map(request));
    let mut answers = client.model_stream_infer(requests).await.unwrap().into_inner();
    for index in 0..40 {
        let answer = answers.next().await.unwrap().unwrap();
        let response = answer.infer_response.unwrap();
        assert_eq!(response.id, index.to_string());
        if index % 4 == 1 {
            assert!(answer.error_message.contains("nobody"), "{}", answer.error_message);
        } else {
            assert_eq!(answer.error_message, "");
            assert_eq!(generation_of(&response), 1);
        }
    }
    assert!(answers.next().await.is_none());
    server.stop().await;
}
