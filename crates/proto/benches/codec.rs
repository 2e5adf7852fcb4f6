//! Measures encoding and decoding of frames: `cargo bench -p onnxd-proto`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use onnxd_proto::{
    domain::cost::CostTable,
    wire::{
        ask::{Answered, AnsweredItem, Ask, Item, Side, TextAsk, Want},
        frame::{self, Direction, Frame},
        message::{self, FromWorker, ToWorker},
    },
};

/// A group of eight short texts.
fn group() -> (ToWorker, Vec<u8>) {
    let text = TextAsk { truncate: Some(Side::Right), ..TextAsk::default() };
    let want = Want::Embedding { normalize: None, dimensions: None };
    let item = Item { payload_bytes: 60, ask: Ask::Text { text, want } };
    (ToWorker::Run { slot: 0, items: vec![item; 8], wide: false }, vec![b'a'; 8 * 60])
}

/// Eight embeddings of 384 components.
fn answer() -> (FromWorker, Vec<u8>) {
    let item = |item| AnsweredItem { item, tokens: 14, bytes: 1536, outputs: Vec::new() };
    let answered = Answered {
        generation: 7,
        items: (0..8).map(item).collect(),
        tokenize_micros: 300,
        infer_micros: 20_000,
        infer_cpu_micros: 20_000,
    };
    (FromWorker::Answered(answered), vec![0; 8 * 384 * 4])
}

fn write(direction: Direction, control: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(payload.len() + 256);
    frame::write(&mut bytes, direction, 1, control, &[payload])
        .expect("writing to memory succeeds");
    bytes
}

fn codec(criterion: &mut Criterion) {
    let (message, texts) = group();
    criterion.bench_function("write a group of 8 texts", |bencher| {
        bencher.iter(|| {
            let control = message::encode(black_box(&message)).expect("the message fits");
            write(Direction::ToWorker, &control, &texts)
        });
    });
    let (message, embeddings) = answer();
    let control = message::encode(&message).expect("the message fits");
    let bytes = write(Direction::FromWorker, &control, &embeddings);
    criterion.bench_function("read 8 embeddings", |bencher| {
        let mut frame = Frame::default();
        bencher.iter(|| {
            let read = frame.read(&mut black_box(&bytes[..]), Direction::FromWorker);
            assert!(read.expect("a valid frame"));
            message::decode::<FromWorker>(&frame.control).expect("a valid message")
        });
    });
    let costs = CostTable::default();
    criterion.bench_function("predict a cost", |bencher| {
        bencher.iter(|| costs.predict(black_box(5), black_box(19)));
    });
}

criterion_group!(benches, codec);
criterion_main!(benches);
