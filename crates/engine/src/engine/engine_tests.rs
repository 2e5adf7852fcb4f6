//! Tests the engine without protocol sockets: a task stands in for the dispatcher and its workers.

use bytes::Bytes;
use onnxd_proto::{
    control_page::ControlPage,
    domain::{
        Activation, Facts, Signature,
        tensor::{DataType, TensorHead, TensorSpec},
    },
    wire::operation::{Content, Operation, TextOutput},
};

use super::{
    labels::{Classify, Rerank},
    tensors::{Tensor, TensorRequest},
    texts::{Decode, Embed, Text, TextOptions, TextOrPair, Token, Tokenize},
    *,
};
use crate::{
    dispatch::{Backlog, Item, ItemAnswer, Priority, Timing, gather},
    models::registry::ModelSource,
};

const GENERATION: Generation = 7;

pub(super) fn facts(task: Task) -> Facts {
    Facts {
        dimension: 2,
        activation: Activation::Sigmoid,
        labels: vec!["no".into(), "yes".into()],
        ..Facts::new(task)
    }
}

/// Returns an engine with one model, and the receiver of its dispatcher's events.
pub(super) fn engine(facts: Facts) -> (Engine, mpsc::Receiver<Event>) {
    let metrics = Arc::new(Metrics::new(&[]));
    let name = "m".parse().unwrap();
    let source = ModelSource {
        name,
        aliases: Vec::new(),
        uri: "/".parse().expect("a valid source"),
        preload: true,
        required: false,
        rules: Default::default(),
    };
    let page = ControlPage::create().unwrap();
    let registry = Arc::new(Registry::new(&[source], page, Arc::clone(&metrics)));
    let record = Record {
        version: "v".into(),
        configured_source: "/".parse().expect("a valid source"),
        facts,
        drift: None,
    };
    registry.commit(0, GENERATION, Arc::new(record));
    let (events, incoming) = mpsc::channel(16);
    let limits = gather::Limits { items: 100, timeout: Duration::from_secs(5) };
    let backlog = Arc::new(Backlog::default());
    let dispatch = Dispatch::new(events.clone(), Arc::clone(&metrics), limits, backlog, 1);
    let updater = Arc::new(Updater::without_models(&registry, &metrics));
    let health = watch::channel(Health::default()).1;
    let parts = Parts { registry, dispatch, updater, health, metrics, events, workers: 1 };
    (Engine::new(parts, MemoryBudget::default()), incoming)
}

/// Answers every item with the result of `answer`.
pub(super) fn answer_with(
    incoming: mpsc::Receiver<Event>,
    answer: impl Fn(&Item) -> (Bytes, Vec<TensorHead>) + Send + 'static,
) {
    answer_with_generations(incoming, move |item| (GENERATION, answer(item)));
}

/// As [`answer_with`], with the generation of each answer.
fn answer_with_generations(
    mut incoming: mpsc::Receiver<Event>,
    answer: impl Fn(&Item) -> (Generation, (Bytes, Vec<TensorHead>)) + Send + 'static,
) {
    tokio::spawn(async move {
        while let Some(event) = incoming.recv().await {
            let items = match event {
                Event::Submitted(items) => items,
                Event::ProbeRequested(reply) => {
                    let _ = reply.send(());
                    continue;
                }
                other => panic!("{other:?}"),
            };
            for item in items {
                let (generation, (bytes, outputs)) = answer(&item);
                let timing = Timing::default();
                let queued_at = item.queued_at;
                let answered =
                    ItemAnswer { generation, bytes, outputs, tokens: 3, timing, queued_at };
                item.reply.try_send((item.index, Ok(answered))).unwrap();
            }
        }
    });
}

pub(super) fn bytes(numbers: &[f32]) -> Bytes {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

pub(super) fn embed(texts: &[&str]) -> Embed {
    Embed {
        texts: texts.iter().map(|text| Text::Text((*text).into())).collect(),
        field: "inputs",
        options: TextOptions::cut(),
        normalize: Some(true),
        dimensions: None,
    }
}

#[tokio::test]
async fn texts_are_embedded_from_one_generation_with_statistics() {
    let (engine, incoming) = engine(facts(Task::Embed));
    answer_with(incoming, |item| {
        let Operation::Text { output: TextOutput::Embedding { normalize: Some(true), .. }, .. } =
            item.input.operation
        else {
            panic!("{item:?}")
        };
        assert_eq!(item.priority, Priority::Background);
        (bytes(&[1.0, item.input.parts[0].len() as f32]), Vec::new())
    });
    let model = engine.find(None).unwrap();
    let context = RequestContext::new().with_priority(Priority::Background);
    let answer = engine.embed(&context, model, embed(&["a", "é"])).await.unwrap();
    assert_eq!(answer.output, [bytes(&[1.0, 1.0]), bytes(&[1.0, 2.0])]);
    let origin = answer.origin;
    assert_eq!((origin.generation, origin.tokens, origin.characters), (GENERATION, 6, 2));
    assert_eq!(origin.record.version, "v");
    assert_eq!(engine.probe(Duration::from_secs(5)).await, Ok(true));
}

#[tokio::test]
async fn texts_and_pairs_are_classified_and_reranked() {
    let (engine, incoming) = engine(facts(Task::Rerank));
    answer_with(incoming, |item| {
        let Operation::Text { text, output: TextOutput::Scores } = &item.input.operation else {
            panic!("{item:?}")
        };
        let is_pair = matches!(text.content, Content::Pair { .. });
        (bytes(&[if is_pair { 100.0 } else { 0.0 }, -100.0]), Vec::new())
    });
    let (model, context) = (engine.find(Some("m")).unwrap(), RequestContext::new());
    let request = |activation| Classify {
        inputs: vec![TextOrPair::Text("a".into()), TextOrPair::Pair("a".into(), "b".into())],
        field: "inputs",
        options: TextOptions::cut(),
        activation,
    };
    let scored = engine.classify(&context, model, request(None)).await.unwrap().output;
    assert_eq!([&scored[0].scores[..], &scored[1].scores], [[0.5, 0.0], [1.0, 0.0]]);
    assert_eq!([&scored[0].raw[..], &scored[1].raw], [[0.0, -100.0], [100.0, -100.0]]);
    let raw = request(Some(Activation::Identity));
    let scored = engine.classify(&context, model, raw).await.unwrap().output;
    assert!(scored.iter().all(|scored| scored.scores == scored.raw), "{scored:?}");
    let (texts, options) = (["a".to_owned(), "b".to_owned()], TextOptions::cut());
    let request = Rerank { query: "q".into(), texts: &texts, field: "texts", options };
    let scores = engine.rerank(&context, model, request).await.unwrap().output;
    assert_eq!(scores, [100.0, 100.0], "rerank scores are not activated");
}

#[tokio::test]
async fn texts_become_tokens_and_tokens_become_texts() {
    let (engine, incoming) = engine(facts(Task::Embed));
    answer_with(incoming, |item| match &item.input.operation {
        Operation::Tokenize { special: true, prompt: None } => {
            let token = r#"[{"id":5,"text":"a","special":false,"start":0,"stop":1}]"#;
            (Bytes::from_static(token.as_bytes()), Vec::new())
        }
        Operation::Decode { skip_special: false } => (Bytes::from_static(b"a"), Vec::new()),
        other => panic!("{other:?}"),
    });
    let (model, context, field) = (engine.find(None).unwrap(), RequestContext::new(), "inputs");
    let request = Tokenize { texts: vec!["a".into()], field, prompt: None, special: true };
    let tokens = engine.tokenize(&context, model, request).await.unwrap().output;
    let token = Token { id: 5, text: "a".into(), special: false, start: Some(0), stop: Some(1) };
    assert_eq!(tokens, [[token]]);
    let request = Decode { ids: vec![vec![5]], field, skip_special: false };
    assert_eq!(engine.decode(&context, model, request).await.unwrap().output, ["a"]);
}

fn tensor(name: &str, shape: &[u64], data: Bytes) -> Tensor {
    Tensor { name: name.into(), datatype: DataType::Fp32, shape: shape.into(), data }
}

#[tokio::test]
async fn tensors_run_through_tensor_and_text_models() {
    let spec = TensorSpec { name: "x".into(), datatype: DataType::Fp32, shape: vec![-1] };
    let signature = Signature { inputs: vec![spec.clone()], outputs: vec![spec] };
    let (tensors, incoming) = engine(Facts { signature, ..Facts::new(Task::Tensor) });
    answer_with(incoming, |item| {
        let Operation::Tensors { inputs, .. } = &item.input.operation else { panic!("{item:?}") };
        (item.input.parts[0].clone(), inputs.clone())
    });
    let (model, context) = (tensors.find(None).unwrap(), RequestContext::new());
    let input = tensor("x", &[2], bytes(&[1.0, 2.0]));
    let request = TensorRequest { inputs: vec![input.clone()], ..TensorRequest::default() };
    let answer = tensors.run_tensors(&context, model, &request).await.unwrap();
    assert_eq!(answer.output, std::slice::from_ref(&input));
    assert_eq!(tensors.only_input(&context, model, input.data.clone()).await.unwrap(), input);

    let (texts, incoming) = engine(facts(Task::Embed));
    answer_with(incoming, |_| (bytes(&[1.0, 2.0]), Vec::new()));
    let model = texts.find(None).unwrap();
    let mut input = tensor("text", &[1], Bytes::from_static(b"\x01\0\0\0a"));
    input.datatype = DataType::Bytes;
    let inputs = vec![input];
    let mut request = TensorRequest { inputs, version: "7".into(), ..TensorRequest::default() };
    let answer = texts.run_tensors(&context, model, &request).await.unwrap();
    assert_eq!(answer.output, [tensor("embedding", &[1, 2], bytes(&[1.0, 2.0]))]);
    request.version = "6".into();
    let error = texts.run_tensors(&context, model, &request).await.unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::NotFound, Some("model")));
    request.inputs.clear();
    let error = texts.run_tensors(&context, model, &request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Empty);
}

#[tokio::test]
async fn invalid_requests_are_rejected_before_they_are_queued() {
    let (engine, mut incoming) = engine(facts(Task::Classify));
    let (model, context) = (engine.find(None).unwrap(), RequestContext::new());
    let error = engine.embed(&context, model, embed(&["a"])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongTask);
    assert_eq!(error.message(), "the task of model `m` is classify, but this call requires embed");
    let long = "a".repeat(onnxd_proto::limits::TEXT_BYTES_MAX + 1);
    let mut request = embed(&[&long]);
    request.options.truncate = None;
    let error = engine.embed(&context, model, request).await.unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("inputs")));
    let error = engine.find(Some("other")).unwrap_err();
    assert_eq!(error.message(), "model `other` is not served; available models: m");
    assert!(incoming.try_recv().is_err(), "an item was queued");
}

#[tokio::test(start_paused = true)]
async fn a_request_ends_at_its_deadline() {
    let (engine, _incoming) = engine(facts(Task::Embed));
    let model = engine.find(None).unwrap();
    let context = RequestContext::new().within(Duration::from_millis(300));
    let started = time::Instant::now();
    let error = engine.embed(&context, model, embed(&["a"])).await.unwrap_err();
    assert_eq!((error.kind(), started.elapsed()), (ErrorKind::Timeout, Duration::from_millis(300)));
}

#[tokio::test]
async fn dropping_a_call_cancels_it() {
    let (engine, mut incoming) = engine(facts(Task::Embed));
    let engine = Arc::new(engine);
    let (called, context) = (Arc::clone(&engine), RequestContext::new());
    let call = tokio::spawn(async move {
        let model = called.find(None).unwrap();
        called.embed(&context, model, embed(&["a", "b"])).await
    });
    let Some(Event::Submitted(items)) = incoming.recv().await else { panic!() };
    assert!(items.iter().all(|item| !item.reply.is_closed()));
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // The dispatcher checks this before it gives an item to a worker.
    assert!(items.iter().all(|item| item.reply.is_closed()));
}

#[tokio::test]
async fn token_vectors_have_the_width_of_the_graph_output() {
    // A text's vector may be wider or narrower than those of its tokens.
    let (engine, incoming) = engine(Facts { dimension: 48, ..facts(Task::Embed) });
    answer_with(incoming, |_| (bytes(&[0.0; 12]), Vec::new()));
    let (model, context) = (engine.find(None).unwrap(), RequestContext::new());
    let answer = engine.embed_tokens(&context, model, embed(&["a"])).await.unwrap();
    assert_eq!(answer.output[0].dimension, 4, "three tokens");
}

#[tokio::test]
async fn a_purpose_is_resolved_again_when_the_model_changes() {
    let with_prompt = |prompt: &str| Facts { prompts: vec![prompt.into()], ..facts(Task::Embed) };
    let (engine, incoming) = engine(with_prompt("clustering"));
    let registry = Arc::clone(engine.registry());
    answer_with_generations(incoming, move |item| {
        let Operation::Text { text, .. } = &item.input.operation else { panic!("{item:?}") };
        let (generation, record) = registry.models()[0].serving().unwrap();
        if generation == GENERATION {
            assert_eq!(text.prompt.as_deref(), Some("clustering"));
            let facts = Facts { prompts: vec!["separation".into()], ..facts(Task::Embed) };
            let record = Record { version: "w".into(), facts, ..(*record).clone() };
            registry.commit(0, GENERATION + 1, Arc::new(record));
        }
        let prompt = text.prompt.clone().unwrap_or_default();
        (GENERATION + 1, (Bytes::from(prompt), Vec::new()))
    });
    let (model, context) = (engine.find(None).unwrap(), RequestContext::new());
    let mut request = embed(&["a"]);
    request.options.purpose = Some(texts::Purpose::new("clustering", "input_type"));
    let answer = engine.embed(&context, model, request).await.unwrap();
    assert_eq!(answer.output, [&b"separation"[..]]);
}
