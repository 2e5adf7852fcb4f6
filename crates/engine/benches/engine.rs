//! Measures the engine's overhead per request, without sockets or workers. Run it with
//! `cargo bench -p onnxd-engine`. A task stands in for the dispatcher and answers immediately. This leaves model
//! lookup, admission, building items, queue permits and joining the answers. The scheduler and the
//! estimate have separate benchmarks.

use std::{hint::black_box, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use onnxd_engine::{
    Engine, RequestContext,
    dispatch::{
        Backlog, Event, ItemAnswer, Priority, Timing,
        gather::{Dispatch, Limits},
        health::Health,
        policy::{
            estimate::{self, Estimate, Size, Work},
            scheduler::{self, Arrival, ItemId, Scheduler},
        },
    },
    engine::{
        MemoryBudget, Parts,
        texts::{Embed, Text, TextOptions},
    },
    models::{
        registry::{ModelSource, Registry},
        update::Updater,
    },
};
use onnxd_proto::{
    control_page::ControlPage,
    domain::{Facts, Record, Task, cost::CostTable},
};
use onnxd_telemetry::metrics::Metrics;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, watch},
};

const TEXT: &str =
    "the train finds a quiet market between the mountain and the sea, perhaps slowly";
const DIMENSION: u32 = 384;

/// Returns an engine that serves one embedder, and the receiver of its dispatcher's events.
fn engine() -> (Engine, mpsc::Receiver<Event>) {
    let metrics = Arc::new(Metrics::new(&[]));
    let directory = || "/".parse().expect("a valid source");
    let name = "m".parse().expect("a valid name");
    let (uri, rules) = (directory(), Default::default());
    let source =
        ModelSource { name, aliases: Vec::new(), uri, preload: true, required: false, rules };
    let page = ControlPage::create().expect("enough memory");
    let registry = Arc::new(Registry::new(&[source], page, Arc::clone(&metrics)));
    let facts = Facts { dimension: DIMENSION, ..Facts::new(Task::Embed) };
    let record = Record { version: "v".into(), configured_source: directory(), facts, drift: None };
    registry.commit(0, 1, Arc::new(record));
    let (events, incoming) = mpsc::channel(16);
    let limits = Limits { items: 512, timeout: Duration::from_secs(5) };
    let backlog = Arc::new(Backlog::default());
    let dispatch = Dispatch::new(events.clone(), Arc::clone(&metrics), limits, backlog, 1);
    let updater = Arc::new(Updater::without_models(&registry, &metrics));
    let health = watch::channel(Health::default()).1;
    let parts = Parts { registry, dispatch, updater, health, metrics, events, workers: 1 };
    (Engine::new(parts, MemoryBudget::default()), incoming)
}

/// Answers every item immediately.
async fn answer_items(mut incoming: mpsc::Receiver<Event>) {
    let bytes = Bytes::from(vec![0; DIMENSION as usize * size_of::<f32>()]);
    while let Some(event) = incoming.recv().await {
        let Event::Submitted(items) = event else { continue };
        for item in items {
            let (bytes, timing) = (bytes.clone(), Timing::default());
            let answered = ItemAnswer {
                generation: 1,
                bytes,
                outputs: Vec::new(),
                tokens: 17,
                timing,
                queued_at: item.queued_at,
            };
            // The channel has room for one answer per item.
            let _ = item.reply.try_send((item.index, Ok(answered)));
        }
    }
}

fn embed(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("threads can be spawned");
    let (engine, incoming) = engine();
    runtime.spawn(answer_items(incoming));
    let mut group = criterion.benchmark_group("embed");
    for texts in [1_usize, 32] {
        let call = || Embed {
            texts: vec![Text::Text(TEXT.into()); texts],
            field: "inputs",
            options: TextOptions::cut(),
            normalize: None,
            dimensions: None,
        };
        group.throughput(Throughput::Elements(texts as u64));
        group.bench_function(format!("{texts} texts"), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let model = engine.find(Some("m")).expect("the model is served");
                    let context = RequestContext::new();
                    engine.embed(&context, model, call()).await.expect("the request succeeds")
                })
            });
        });
    }
    group.finish();
}

/// Returns a queue of texts of different lengths.
fn full(texts: u64, estimate: &Estimate) -> Scheduler {
    let mut scheduler = Scheduler::default();
    for item in 0..texts {
        let pieces = u32::try_from(item * 37 % 61).expect("below 61");
        let (priority, together) = (Priority::Interactive, false);
        let arrival = Arrival { slot: 0, micros: item, priority, together };
        let items: [(ItemId, Work); 1] = [(item, estimate.work(Size::Pieces(pieces), 80))];
        for (age, unit) in scheduler::units(arrival, &items, 2) {
            scheduler.push(age, unit);
        }
    }
    scheduler
}

fn schedule(criterion: &mut Criterion) {
    let mut estimate = Estimate::default();
    estimate.loaded(CostTable::default(), 256);
    criterion.bench_function("estimate a text", |bencher| {
        bencher.iter(|| {
            estimate.work(Size::Pieces(estimate::pieces(black_box(TEXT.as_bytes()))), TEXT.len())
        });
    });
    for texts in [1, 16, 256] {
        criterion.bench_function(&format!("next group of {texts} waiting"), |bencher| {
            bencher.iter_batched_ref(
                || full(texts, &estimate),
                |scheduler| {
                    scheduler.next(|_, _| 1, |_, texts, tokens| estimate.micros(texts, tokens))
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, embed, schedule);
criterion_main!(benches);
