//! Answers and rejections of models for other tasks.

use std::collections::BTreeMap;

use onnxd_proto::{
    domain::{
        Task,
        tensor::{DataType, TensorHead},
    },
    wire::operation::{
        Content, Item, Operation, PairCut, Rejection, Side, TextOperation, TextOutput,
    },
};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    checker::compile,
    embed::tiny,
    fixtures::{self, model},
    supervisor::{Raw, Supervisor, floats},
};

#[derive(Deserialize)]
struct Reference {
    prompts: BTreeMap<String, Vec<Vec<f32>>>,
    rerank: BTreeMap<String, Vec<Pair>>,
    truncated: BTreeMap<String, Vec<Pair>>,
    classify: BTreeMap<String, Vec<Classified>>,
    tensors: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct Pair {
    query: String,
    text: String,
    logit: f32,
}

#[derive(Deserialize)]
struct Classified {
    text: String,
    second: Option<String>,
    logits: Vec<f32>,
}

fn reference() -> Reference {
    fixtures::read(&model("tiny/reference.json"))
}

fn text_operation(content: Content, output: TextOutput) -> Operation {
    let text = TextOperation { content, truncate: Some(Side::Right), ..TextOperation::default() };
    Operation::Text { text, output }
}

fn embedding(dimensions: Option<u32>) -> TextOutput {
    TextOutput::Embedding { normalize: None, dimensions }
}

fn assert_near(values: &[f32], expected: &[f32]) {
    assert_eq!(values.len(), expected.len());
    for (value, expected) in values.iter().zip(expected) {
        assert!((value - expected).abs() <= 1e-4, "{value} instead of {expected}");
    }
}

#[test]
fn reranker_scores_match_the_reference() {
    let Reference { rerank, truncated, .. } = reference();
    for (name, pairs) in rerank.into_iter().chain(truncated) {
        let mut supervisor = Supervisor::serving(&format!("tiny/{name}"));
        for Pair { query, text, logit } in pairs {
            let first_bytes = u32::try_from(query.len()).unwrap();
            let operation = text_operation(
                Content::Pair { first_bytes, cut: PairCut::Longest },
                TextOutput::Scores,
            );
            let raw = supervisor.answer_of(format!("{query}{text}").as_bytes(), operation).unwrap();
            assert_near(&floats(&raw.bytes), &[logit]);
        }
    }
}

#[test]
fn classifier_scores_match_the_reference() {
    for (name, texts) in reference().classify {
        let mut supervisor = Supervisor::serving(&format!("tiny/{name}"));
        for Classified { text, second, logits } in texts {
            let first_bytes = u32::try_from(text.len()).unwrap();
            let content = match second {
                Some(_) => Content::Pair { first_bytes, cut: PairCut::Longest },
                None => Content::Text,
            };
            let payload = [text, second.unwrap_or_default()].concat();
            let operation = text_operation(content, TextOutput::Scores);
            let raw = supervisor.answer_of(payload.as_bytes(), operation).unwrap();
            assert_near(&floats(&raw.bytes), &logits);
        }
    }
}

#[test]
fn named_or_default_prompt_is_prepended() {
    let (prompts, texts) = (reference().prompts, tiny().texts);
    let mut supervisor = Supervisor::serving("tiny/prompts");
    let mut embed = |text: &str, prompt: Option<&str>| {
        let prompt = prompt.map(str::to_owned);
        let text_operation =
            TextOperation { truncate: Some(Side::Right), prompt, ..TextOperation::default() };
        let operation = Operation::Text { text: text_operation, output: embedding(None) };
        supervisor.answer_of(text.as_bytes(), operation)
    };
    for (name, expected) in &prompts {
        for (text, expected) in texts.iter().zip(expected) {
            assert_near(&floats(&embed(text, Some(name)).unwrap().bytes), expected);
        }
    }
    assert_near(&floats(&embed(&texts[2], None).unwrap().bytes), &prompts["passage"][2]);
    let (name, known) = ("x".into(), "passage, query".into());
    assert_eq!(embed("a", Some("x")), Err(Rejection::Prompt { name, known }));
}

#[test]
fn fewer_dimensions_are_truncated_and_renormalized() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let mut embed = |dimensions| {
        let answer = supervisor
            .answer_of(b"hello world", text_operation(Content::Text, embedding(dimensions)));
        answer.map(|raw| floats(&raw.bytes))
    };
    let (whole, part) = (embed(None).unwrap(), embed(Some(8)).unwrap());
    let length = whole[..8].iter().map(|value| value * value).sum::<f32>().sqrt();
    assert_near(&part, &whole[..8].iter().map(|value| value / length).collect::<Vec<_>>());
    assert_eq!(embed(Some(33)), Err(Rejection::Dimensions { requested: 33, max: 32 }));
    assert_eq!(embed(Some(0)), Err(Rejection::Dimensions { requested: 0, max: 32 }));
}

#[test]
fn mean_of_token_embeddings_is_the_embedding() {
    let mut supervisor = Supervisor::serving("tiny/plain");
    let whole = supervisor
        .answer_of(b"hello world", text_operation(Content::Text, embedding(None)))
        .unwrap();
    let operation = text_operation(Content::Text, TextOutput::TokenEmbeddings);
    let tokens = supervisor.answer_of(b"hello world", operation).unwrap();
    let (values, count) = (floats(&tokens.bytes), usize::try_from(tokens.tokens).unwrap());
    assert_eq!((count, values.len()), (4, 4 * 32));
    let mean = |component: usize| {
        values.chunks(32).map(|token| token[component]).sum::<f32>() / count as f32
    };
    assert_near(&(0..32).map(mean).collect::<Vec<_>>(), &floats(&whole.bytes));
}

#[test]
fn token_ids_and_their_text_give_the_same_embedding() {
    let mut supervisor = Supervisor::serving("tiny/a");
    let operation = Operation::Tokenize { prompt: None, special: true };
    let listed = supervisor.answer_of("Hello wörld".as_bytes(), operation).unwrap();
    let listed: Vec<Value> = serde_json::from_slice(&listed.bytes).unwrap();
    let ids: Vec<u32> =
        listed.iter().map(|token| u32::try_from(token["id"].as_u64().unwrap()).unwrap()).collect();
    assert_eq!((&listed[0]["text"], &listed[1]["text"]), (&"[CLS]".into(), &"Hello".into()));
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let of_ids =
        supervisor.answer_of(&bytes, text_operation(Content::Ids, embedding(None))).unwrap();
    let of_text = supervisor
        .answer_of("Hello wörld".as_bytes(), text_operation(Content::Text, embedding(None)));
    assert_eq!(of_ids, of_text.unwrap());
    let text = supervisor.answer_of(&bytes, Operation::Decode { skip_special: true }).unwrap();
    assert_eq!(String::from_utf8(text.bytes).unwrap(), "hello world");
    let rejected = supervisor
        .answer_of(&u32::MAX.to_le_bytes(), text_operation(Content::Ids, embedding(None)));
    assert!(matches!(rejected, Err(Rejection::TokenId { id: u32::MAX, .. })), "{rejected:?}");
}

#[test]
fn wrong_task_is_rejected_with_the_models_task() {
    let cases = [
        ("tiny/a", TextOutput::Scores, Task::Embed),
        ("tiny/rerank_a", embedding(None), Task::Rerank),
        ("tiny/classify_a", TextOutput::TokenEmbeddings, Task::Classify),
        ("tiny/tensor_a", embedding(None), Task::Tensor),
    ];
    for (name, output, task) in cases {
        let mut supervisor = Supervisor::serving(name);
        let answer = supervisor.answer_of(b"a", text_operation(Content::Text, output));
        assert_eq!(answer, Err(Rejection::WrongTask(task)), "{name}");
    }
    let mut supervisor = Supervisor::serving("tiny/a");
    let tensors = Operation::Tensors { inputs: Vec::new(), outputs: Vec::new() };
    assert_eq!(supervisor.answer_of(b"", tensors), Err(Rejection::WrongTask(Task::Embed)));
}

fn head(name: &str, datatype: DataType, shape: &[u64], bytes: usize) -> TensorHead {
    let bytes = u32::try_from(bytes).unwrap();
    TensorHead { name: name.into(), datatype, shape: shape.into(), bytes }
}

fn little_endian(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Flattens nested rows of numbers.
fn flat(rows: &Value) -> Vec<f32> {
    match rows {
        Value::Array(rows) => rows.iter().flat_map(flat).collect(),
        number => vec![serde_json::from_value(number.clone()).unwrap()],
    }
}

/// Creates an item with one input `x`, of rows of four numbers.
fn rows_of_four(values: &[f32]) -> Item {
    let bytes = values.len() * 4;
    let inputs = vec![head("x", DataType::Fp32, &[values.len() as u64 / 4, 4], bytes)];
    let operation = Operation::Tensors { inputs, outputs: Vec::new() };
    Item { payload_bytes: u32::try_from(bytes).unwrap(), operation }
}

/// Starts a worker that serves the compiled form of a model. Returns it with the form's directory.
fn serving_compiled(name: &str) -> (Supervisor, TempDir) {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(compile(&model(name), root.path())["rebuilt"], true);
    let mut supervisor = Supervisor::start();
    supervisor.link_compiled(&name.replace('/', "-"), root.path());
    supervisor.commit(1, name);
    assert!(supervisor.wait_until_ready().0, "the worker serves the plain model");
    (supervisor, root)
}

#[test]
fn tensor_requests_run_together_and_get_their_own_rows() {
    let reference = &reference().tensors["tensor_a"];
    let (x, y) = (flat(&reference["x"]), flat(&reference["y"]));
    let (mut supervisor, _compiled) = serving_compiled("tiny/tensor_a");
    let items = [&x[..4], &x[..], &x[4..12]];
    let payload = little_endian(&items.concat());
    supervisor.send_bytes(&payload, items.map(rows_of_four).into());
    let answers = supervisor.raw_answers(3);
    for (answer, expected) in answers.iter().zip([&y[..3], &y[..], &y[3..9]]) {
        let Raw { bytes, outputs, together, .. } = answer.as_ref().unwrap();
        assert_near(&floats(bytes), expected);
        let rows = expected.len() as u64 / 3;
        assert_eq!(*outputs, [head("y", DataType::Fp32, &[rows, 3], bytes.len())]);
        assert_eq!(*together, 3, "they did not run together");
    }
}

#[test]
fn model_that_mixes_rows_runs_requests_separately() {
    let reference = &reference().tensors["tensor_mean"];
    let (x, y) = (flat(&reference["x"]), flat(&reference["y"]));
    let (mut supervisor, _compiled) = serving_compiled("tiny/tensor_mean");
    let payload = little_endian(&[&x[..], &x[..]].concat());
    supervisor.send_bytes(&payload, vec![rows_of_four(&x), rows_of_four(&x)]);
    for answer in supervisor.raw_answers(2) {
        let answer = answer.unwrap();
        assert_near(&floats(&answer.bytes), &y);
        assert_eq!(answer.together, 1);
    }
}

#[test]
fn every_element_type_round_trips() {
    let mut supervisor = Supervisor::serving("tiny/tensor_types");
    let (mut inputs, mut payload) = (Vec::new(), Vec::new());
    let types = [
        ("bool", DataType::Bool),
        ("int8", DataType::Int8),
        ("int16", DataType::Int16),
        ("int32", DataType::Int32),
        ("int64", DataType::Int64),
        ("uint8", DataType::Uint8),
        ("uint16", DataType::Uint16),
        ("uint32", DataType::Uint32),
        ("uint64", DataType::Uint64),
        ("fp16", DataType::Fp16),
        ("bf16", DataType::Bf16),
        ("fp32", DataType::Fp32),
        ("fp64", DataType::Fp64),
        ("string", DataType::Bytes),
    ];
    for (name, datatype) in types {
        // Three elements, so that the next tensor is unaligned.
        let bytes = match datatype.element_bytes() {
            Some(size) => (0..3 * size).map(|byte| u8::from(byte % size == 0)).collect(),
            None => "\x02\0\0\0é\0\0\0\0\x01\0\0\0a".as_bytes().to_vec(),
        };
        inputs.push(head(&format!("in_{name}"), datatype, &[3], bytes.len()));
        payload.extend_from_slice(&bytes);
    }
    let outputs: Vec<String> = types.iter().map(|(name, _)| format!("out_{name}")).collect();
    let operation = Operation::Tensors { inputs: inputs.clone(), outputs: outputs.clone() };
    let raw = supervisor.answer_of(&payload, operation).unwrap();
    assert_eq!(raw.bytes, payload);
    let expected: Vec<TensorHead> =
        inputs.into_iter().zip(outputs).map(|(input, name)| TensorHead { name, ..input }).collect();
    assert_eq!(raw.outputs, expected);
}

#[test]
fn unfit_tensors_are_rejected_with_a_reason() {
    let mut supervisor = Supervisor::serving("tiny/tensor_a");
    let x = |datatype, shape: &[u64], bytes| vec![head("x", datatype, shape, bytes)];
    let mut twice = x(DataType::Fp32, &[1, 4], 16);
    twice.push(twice[0].clone());
    let mut other = x(DataType::Fp32, &[1, 4], 16);
    other.push(head("z", DataType::Fp32, &[1], 4));
    let cases = [
        (Vec::new(), "`x` is missing"),
        (x(DataType::Fp64, &[1, 4], 32), "has datatype FP64, expected FP32"),
        (x(DataType::Fp32, &[1, 5], 20), "has shape [1, 5]"),
        (x(DataType::Fp32, &[4], 16), "has shape [4]"),
        (x(DataType::Fp32, &[1, 4], 12), "has 12 bytes"),
        (x(DataType::Fp32, &[1 << 62, 4], 16), "that is too large"),
        (x(DataType::Fp32, &[u64::MAX, 4], 16), "that is too large"),
        (twice, "given twice"),
        (other, "no input `z`"),
    ];
    for (inputs, expected) in cases {
        let bytes = inputs.iter().map(|head| head.bytes as usize).sum::<usize>();
        let operation = Operation::Tensors { inputs: inputs.clone(), outputs: Vec::new() };
        match supervisor.answer_of(&vec![0; bytes], operation) {
            Err(Rejection::Tensors(reason)) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{inputs:?}: {other:?}"),
        }
    }
    for (outputs, expected) in [(vec!["z"], "no output `z`"), (vec!["y", "y"], "requested twice")] {
        let outputs = outputs.into_iter().map(str::to_owned).collect();
        let operation = Operation::Tensors { inputs: x(DataType::Fp32, &[1, 4], 16), outputs };
        match supervisor.answer_of(&[0; 16], operation) {
            Err(Rejection::Tensors(reason)) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    let none = Operation::Tensors { inputs: x(DataType::Fp32, &[0, 4], 0), outputs: Vec::new() };
    let raw = supervisor.answer_of(&[], none).unwrap();
    assert_eq!(raw.outputs, [head("y", DataType::Fp32, &[0, 3], 0)]);
}

#[test]
fn large_tensor_round_trips() {
    let mut supervisor = Supervisor::serving("tiny/tensor_image");
    let values: Vec<f32> = (0..3 * 640 * 640).map(|index| (index % 1000) as f32).collect();
    let payload = little_endian(&values);
    let signature = vec![head("image", DataType::Fp32, &[1, 3, 640, 640], payload.len())];
    let operation = Operation::Tensors { inputs: signature, outputs: vec!["copy".into()] };
    let raw = supervisor.answer_of(&payload, operation).unwrap();
    assert!(raw.bytes == payload);
}
