//! Cutting a group into micro-batches: `cargo bench -p onnxd-worker`. The crate is an executable,
//! so that its file is taken in here.

#![cfg_attr(test, expect(dead_code, reason = "the tests of the file do not run here"))]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use onnxd_proto::domain::cost::CostTable;

#[path = "../src/families/text/microbatch.rs"]
mod microbatch;

fn plan(criterion: &mut Criterion) {
    let costs = CostTable::default();
    for texts in [1, 8, 32] {
        let lengths: Vec<usize> = (0..texts).map(|text| 4 + text * 37 % 29).collect();
        criterion.bench_function(&format!("plan {texts} texts"), |bencher| {
            bencher.iter(|| {
                microbatch::plan(black_box(&lengths), &costs, microbatch::Company::Padded)
            });
        });
    }
}

criterion_group!(benches, plan);
criterion_main!(benches);
