//! Tests texts as tensors, without a model.

use onnxd_proto::{
    domain::{Activation, SwitchFacts},
    wire::operation::{Operation, Role},
};

use super::*;

fn facts(task: Task) -> Facts {
    Facts { dimension: 3, ..Facts::new(task) }
}

fn item(bytes: impl Into<Bytes>) -> Item {
    Item { bytes: bytes.into(), outputs: Vec::new(), tokens: 1 }
}

fn numbers(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn request(parameters: &[(&str, Parameter)]) -> TensorRequest {
    let data = Bytes::from_static(b"\x01\0\0\0a\x01\0\0\0b");
    let text = Tensor { name: TEXT.into(), datatype: DataType::Bytes, shape: vec![2], data };
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let parameters = parameters.collect();
    TensorRequest { inputs: vec![text], parameters, ..TensorRequest::default() }
}

#[test]
fn parameters_become_text_options() {
    let values = [("text-matching".to_owned(), 4)].into();
    let switch = SwitchFacts { name: "task_id".into(), default: None, values };
    let facts = Facts { switches: vec![switch], ..facts(Task::Embed) };
    let word = |word: &str| Parameter::String(word.into());
    let request = request(&[
        ("prompt_name", word("mine")),
        ("input_type", word("query")),
        ("task_id", word("text-matching")),
        ("truncate", Parameter::Bool(true)),
        ("truncation_direction", word("left")),
        ("normalize", Parameter::Bool(false)),
        ("dimensions", Parameter::Number(2)),
        ("sequence_id", Parameter::Number(7)),
    ]);
    let (options, items) = inputs(&request, &facts).unwrap();
    assert_eq!(options.truncate, Some(Side::Left));
    let [first, _] = &items[..] else { panic!("{items:?}") };
    let Operation::Text { text, output } = &first.operation else { panic!("{first:?}") };
    assert_eq!((text.prompt.as_deref(), text.role), (Some("mine"), Some(Role::Query)));
    let value = SwitchValue::Name("text-matching".into());
    assert_eq!(text.switches, [Switch { name: "task_id".into(), value }]);
    assert_eq!(*output, TextOutput::Embedding { normalize: Some(false), dimensions: Some(2) });
}

#[test]
fn invalid_parameters_are_rejected_by_name() {
    for (task, name, value) in [
        (Task::Embed, "truncate", Parameter::Number(1)),
        (Task::Embed, "prompt_name", Parameter::Bool(true)),
        (Task::Embed, "dimensions", Parameter::Number(0)),
        (Task::Embed, "truncation_direction", Parameter::String("up".into())),
        (Task::TokenClassify, "aggregation_strategy", Parameter::String("all".into())),
    ] {
        let error = inputs(&request(&[(name, value)]), &facts(task)).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn sparse_weights_become_rows_of_the_vocabulary() {
    let entry = |token: u32, weight: f32| [token.to_le_bytes(), weight.to_le_bytes()].concat();
    let items = [item([entry(0, 0.5), entry(2, 1.5)].concat()), item(Bytes::new())];
    let tensors = outputs(&facts(Task::Sparse), &items, &[]).unwrap();
    let [tensor] = &tensors[..] else { panic!("{tensors:?}") };
    assert_eq!((tensor.name.as_str(), &tensor.shape[..]), ("embedding", &[2, 3][..]));
    assert_eq!(tensor.data, numbers(&[0.5, 0.0, 1.5, 0.0, 0.0, 0.0]));
    assert!(outputs(&facts(Task::Sparse), &[item(entry(3, 1.0))], &[]).is_err());
    let vast = Facts { dimension: 10_000_000, ..Facts::new(Task::Sparse) };
    let error = inputs(&request(&[]), &vast).unwrap_err();
    assert!(error.to_string().contains("send fewer texts"), "{error}");
}

#[test]
fn texts_with_fewer_vectors_are_padded_with_zeros() {
    let items = [item(numbers(&[1.0, 2.0, 3.0])), item(numbers(&[1.0; 6]))];
    let facts = facts(Task::MultiVector);
    let tensors = outputs(&facts, &items, &[]).unwrap();
    let [embedding, lengths] = &tensors[..] else { panic!("{tensors:?}") };
    assert_eq!(embedding.shape, [2, 2, 3]);
    let [padded, full] = [&embedding.data[..24], &embedding.data[24..]];
    assert_eq!(padded, numbers(&[1.0, 2.0, 3.0, 0.0, 0.0, 0.0]));
    assert_eq!(full, numbers(&[1.0; 6]));
    assert_eq!((lengths.datatype, &lengths.shape[..]), (DataType::Int32, &[2][..]));
    assert_eq!(lengths.data[..], [1, 0, 0, 0, 2, 0, 0, 0]);
    let wanted = outputs(&facts, &items, &["lengths".to_owned()]).unwrap();
    assert_eq!(wanted[..], tensors[1..]);
    assert!(outputs(&facts, &[item(numbers(&[1.0]))], &[]).is_err(), "an incomplete vector");
}

#[test]
fn scores_follow_the_activation_and_entities_are_lists() {
    let items = [item(numbers(&[-2.5]))];
    let raw = Facts { activation: Activation::Identity, ..facts(Task::Rerank) };
    let tensors = outputs(&raw, &items, &[]).unwrap();
    assert_eq!((tensors[0].name.as_str(), &tensors[0].shape[..]), ("score", &[1][..]));
    assert_eq!(tensors[0].data, numbers(&[-2.5]));
    let tensors = outputs(&facts(Task::TokenClassify), &[item("[]")], &[]).unwrap();
    assert_eq!((tensors[0].name.as_str(), tensors[0].datatype), ("entities", DataType::Bytes));
    assert_eq!(tensors[0].data[..], *b"\x02\0\0\0[]");
}
