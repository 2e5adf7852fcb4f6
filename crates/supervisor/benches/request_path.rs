//! Benchmarks JSON and metrics: `cargo bench -p onnxd`. Includes the private files that it measures. The crate
//! `onnxd-engine` benchmarks inference itself.

#![cfg_attr(test, expect(unused_imports, reason = "tests of the included files do not run here"))]
#![expect(dead_code, reason = "only part of each file is measured")]

use std::{hint::black_box, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};

#[path = "../src/api/inputs.rs"]
mod inputs;
#[path = "../src/api/numbers.rs"]
mod numbers;

use onnxd_telemetry::metrics::{model::ModelMetrics, routes::Routes};

const TEXT: &str =
    "the train finds a quiet market between the mountain and the sea, perhaps slowly";

fn json(criterion: &mut Criterion) {
    let body = format!("[{}]", vec![format!("\"{TEXT}\""); 8].join(","));
    criterion.bench_function("parse 8 texts", |bencher| {
        bencher.iter(|| {
            serde_json::from_slice::<inputs::Inputs>(black_box(body.as_bytes())).expect("JSON")
        });
    });
    let components: Vec<u8> =
        (1..=384_u16).flat_map(|index| (f32::from(index).sin() / 20.0).to_le_bytes()).collect();
    criterion.bench_function("print an embedding of 384 components", |bencher| {
        bencher.iter(|| {
            let bytes = numbers::json_bytes(components.len());
            numbers::to_json(&numbers::Vector(black_box(&components)), bytes).expect("finite")
        });
    });
}

fn count(criterion: &mut Criterion) {
    let routes = ["/embed", "/health", "/info", "/v1/embeddings", "/v2/health/live"];
    let routes = Routes::new(&routes.map(str::to_owned));
    criterion.bench_function("count a request by its route", |bencher| {
        bencher.iter(|| {
            let took = black_box(Duration::from_micros(4_321));
            routes.find(black_box(Some("/v1/embeddings"))).answered(black_box(200), took, None);
        });
    });
    let model = ModelMetrics::default();
    criterion.bench_function("count a text that is queued and run", |bencher| {
        bencher.iter(|| {
            model.handed_out(black_box(Duration::from_micros(87)));
            model.ran([black_box(20)].into_iter(), black_box(4_000));
            model.tokenized(black_box(60));
        });
    });
}

criterion_group!(benches, json, count);
criterion_main!(benches);
