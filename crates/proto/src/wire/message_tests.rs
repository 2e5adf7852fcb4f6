//! Pins the bytes of every message, and feeds hostile bytes to the decoder.

use std::fmt::Debug;

use proptest::prelude::*;

use super::*;
use crate::{
    domain::tensor::{AXES_MAX, DataType, TENSOR_NAME_BYTES_MAX, TENSORS_MAX, TensorHead},
    domain::{RefusalKind, Task},
    limits::GROUP_ITEMS_MAX,
    wire::operation::{
        Aggregation, AnsweredItem, Content, Operation, PairCut, Role, Side, Switch, SwitchValue,
        TextOperation, TextOutput,
    },
};

fn head() -> TensorHead {
    TensorHead { name: "x".into(), datatype: DataType::Fp32, shape: vec![1, 5], bytes: 20 }
}

fn fixed<M: Serialize + DeserializeOwned + PartialEq + Debug>(message: &M, expected: &[u8]) {
    let bytes = encode(message).unwrap();
    assert_eq!(bytes, expected, "{message:?} is {bytes:?}");
    assert_eq!(&decode::<M>(&bytes).unwrap(), message);
    assert!(
        decode::<M>(&[&bytes[..], &[0]].concat()).is_err(),
        "a trailing byte after {message:?}"
    );
    for cut in 0..bytes.len() {
        assert!(decode::<M>(&bytes[..cut]).is_err(), "{message:?} cut to {cut}");
    }
}

#[test]
fn messages_to_a_worker_encode_to_fixed_bytes() {
    let welcome = Welcome {
        onnxruntime: "/l".into(),
        state_dir: "/s".into(),
        models: vec![ModelSlot { name: "m".parse().unwrap(), slot: 3 }],
        admin_socket: NamedSocket { path: "/a".into(), device: 5, inode: 300 },
        helper_cpus: vec![1],
    };
    fixed(
        &ToWorker::Welcome(welcome),
        &[0, 2, b'/', b'l', 2, b'/', b's', 1, 1, b'm', 3, 2, b'/', b'a', 5, 251, 44, 1, 1, 1],
    );
    let run = |operation| ToWorker::Run {
        slot: 2,
        items: vec![Item { payload_bytes: 4, operation }],
        wide: true,
    };
    let (normalize, dimensions, prompt) = (Some(false), Some(8), Some("p".to_owned()));
    let (truncate, role) = (Some(Side::Right), Some(Role::Document));
    let switch = |name: &str, value| Switch { name: name.into(), value };
    let switches =
        vec![switch("n", SwitchValue::Number(-1)), switch("w", SwitchValue::Name("x".into()))];
    let text = TextOperation { content: Content::Text, truncate, prompt, role, switches };
    let output = TextOutput::Embedding { normalize, dimensions };
    fixed(
        &run(Operation::Text { text, output }),
        &[
            1, 2, 1, 4, 0, 0, 1, 1, 1, 1, b'p', 1, 1, 2, 1, b'n', 0, 1, 1, b'w', 1, 1, b'x', 0, 1,
            0, 1, 8, 1,
        ],
    );
    let content = Content::Pair { first_bytes: 3, cut: PairCut::First };
    let text = TextOperation { content, truncate: Some(Side::Left), ..TextOperation::default() };
    fixed(
        &run(Operation::Text { text, output: TextOutput::Scores }),
        &[1, 2, 1, 4, 0, 1, 3, 1, 1, 0, 0, 0, 0, 2, 1],
    );
    for (output, bytes) in [
        (TextOutput::TokenEmbeddings, &[1_u8][..]),
        (TextOutput::Sparse, &[3]),
        (TextOutput::Entities(Aggregation::Average), &[4, 3]),
    ] {
        let text = TextOperation { content: Content::Ids, ..TextOperation::default() };
        let all = [&[1, 2, 1, 4, 0, 2, 0, 0, 0, 0], bytes, &[1]].concat();
        fixed(&run(Operation::Text { text, output }), &all);
    }
    fixed(&run(Operation::Tokenize { prompt: None, special: true }), &[1, 2, 1, 4, 1, 0, 1, 1]);
    fixed(&run(Operation::Decode { skip_special: true }), &[1, 2, 1, 4, 2, 1, 1]);
    let inputs = vec![head()];
    let tensors = Operation::Tensors { inputs, outputs: vec!["y".into()] };
    fixed(&run(tensors), &[1, 2, 1, 4, 3, 1, 1, b'x', 11, 2, 1, 5, 20, 1, 1, b'y', 1]);
    fixed(&ToWorker::Ping, &[2]);
    fixed(&ToWorker::Load { slot: 2, version: "ab".into() }, &[3, 2, 2, b'a', b'b']);
    fixed(&ToWorker::Forget { slot: 2 }, &[4, 2]);
    fixed(&ToWorker::FilterLog { filter: "off".into() }, &[5, 3, b'o', b'f', b'f']);
}

#[test]
fn messages_from_a_worker_encode_to_fixed_bytes() {
    let hello = |pinned| FromWorker::Hello { build_id: "id".into(), pinned };
    fixed(&hello(Ok(1)), &[0, 2, b'i', b'd', 0, 1]);
    fixed(&hello(Err("x".into())), &[0, 2, b'i', b'd', 1, 1, b'x']);
    fixed(&FromWorker::Ready, &[1]);
    let (load_micros, compiled, costs) = (300, true, CostTable::default());
    let loaded = FromWorker::Loaded { slot: 1, generation: 9, load_micros, compiled, costs };
    // 42 costs follow, f32; the first is 3000.
    let bytes = encode(&loaded).unwrap();
    assert_eq!((&bytes[..11], bytes.len()), (&[2, 1, 9, 251, 44, 1, 1, 0, 128, 59, 69][..], 175));
    assert_eq!(decode::<FromWorker>(&bytes).unwrap(), loaded);
    let failed = FromWorker::LoadFailed { slot: 1, generation: 9, reason: "no".into() };
    fixed(&failed, &[3, 1, 9, 2, b'n', b'o']);
    let answered = BatchResult {
        generation: 7,
        items: vec![AnsweredItem { item: 0, tokens: 5, bytes: 1536, outputs: vec![head()] }],
        tokenize_micros: 1,
        infer_micros: 2,
        infer_cpu_micros: 3,
    };
    fixed(
        &FromWorker::Answered(answered),
        &[4, 7, 1, 0, 5, 251, 0, 6, 1, 1, b'x', 11, 2, 1, 5, 20, 1, 2, 3],
    );
    let rejected = |reason| FromWorker::Rejected { items: vec![1], reason };
    fixed(&rejected(Rejection::TooLong { tokens: 9, max: 8 }), &[5, 1, 1, 0, 9, 8]);
    fixed(&rejected(Rejection::Tokenizer("t".into())), &[5, 1, 1, 1, 1, b't']);
    fixed(&rejected(Rejection::Inference("t".into())), &[5, 1, 1, 2, 1, b't']);
    fixed(&rejected(Rejection::NotLoaded("t".into())), &[5, 1, 1, 3, 1, b't']);
    fixed(&rejected(Rejection::TokenId { id: 9, highest: 8 }), &[5, 1, 1, 4, 9, 8]);
    let prompt = Rejection::Prompt { name: "p".into(), known: "q".into() };
    fixed(&rejected(prompt), &[5, 1, 1, 5, 1, b'p', 1, b'q']);
    fixed(&rejected(Rejection::Dimensions { requested: 9, max: 8 }), &[5, 1, 1, 6, 9, 8]);
    fixed(&rejected(Rejection::WrongTask(Task::Rerank)), &[5, 1, 1, 7, 4]);
    fixed(&rejected(Rejection::Tensors("t".into())), &[5, 1, 1, 8, 1, b't']);
    fixed(&rejected(Rejection::Unfit("t".into())), &[5, 1, 1, 9, 1, b't']);
    fixed(&FromWorker::Pong, &[6]);
    let ahead = FromWorker::LoadedAhead { slot: 1, version: "v".into(), load_micros: 9 };
    fixed(&ahead, &[7, 1, 1, b'v', 9]);
    let failed = FromWorker::LoadAheadFailed { slot: 1, version: "v".into(), reason: "no".into() };
    fixed(&failed, &[8, 1, 1, b'v', 2, b'n', b'o']);
    fixed(&FromWorker::Unloaded { slot: 1 }, &[9, 1]);
    fixed(&FromWorker::Forgotten, &[10]);
}

#[test]
fn the_largest_group_and_its_results_fit_into_a_frame() {
    let name = "x".repeat(TENSOR_NAME_BYTES_MAX);
    let (datatype, shape) = (DataType::Bytes, vec![u64::MAX; AXES_MAX]);
    let heads =
        vec![TensorHead { name: name.clone(), datatype, shape, bytes: u32::MAX }; TENSORS_MAX];
    let operation = Operation::Tensors { inputs: heads.clone(), outputs: vec![name; TENSORS_MAX] };
    let items = vec![Item { payload_bytes: u32::MAX, operation }; GROUP_ITEMS_MAX];
    assert!(encode(&ToWorker::Run { slot: u16::MAX, items, wide: true }).is_ok());
    let item = AnsweredItem { item: u32::MAX, tokens: u32::MAX, bytes: u32::MAX, outputs: heads };
    let answered = BatchResult {
        generation: u64::MAX,
        items: vec![item; GROUP_ITEMS_MAX],
        tokenize_micros: u32::MAX,
        infer_micros: u32::MAX,
        infer_cpu_micros: u32::MAX,
    };
    assert!(encode(&FromWorker::Answered(answered)).is_ok());
}

#[test]
fn a_false_length_is_an_error_and_allocates_nothing() {
    let two_to_the_31 = [1, 2, 252, 0, 0, 0, 128];
    assert!(decode::<ToWorker>(&two_to_the_31).is_err());
}

#[test]
fn a_task_has_one_name_in_files_messages_and_metrics() {
    for task in Task::ALL {
        assert_eq!(serde_json::to_value(task).unwrap(), task.as_str());
    }
    let refusal = RefusalKind::Busy.because("two updates run");
    assert_eq!(refusal.to_string(), "two updates run");
}

#[test]
fn a_model_name_that_escapes_a_directory_does_not_decode() {
    let bytes = encode(&("../x", 3_u16)).unwrap();
    assert!(decode::<ModelSlot>(&bytes).is_err());
}

proptest! {
    #[test]
    fn the_decoder_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode::<ToWorker>(&bytes);
        let _ = decode::<FromWorker>(&bytes);
    }
}
