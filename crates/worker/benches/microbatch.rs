//! Planning micro-batches: `cargo bench -p onnxd-worker`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use onnxd_proto::domain::cost::CostTable;
use onnxd_worker::bench;

fn plan(criterion: &mut Criterion) {
    let costs = CostTable::default();
    for texts in [1, 8, 32] {
        let lengths: Vec<usize> = (0..texts).map(|text| 4 + text * 37 % 29).collect();
        criterion.bench_function(&format!("plan {texts} texts"), |bencher| {
            bencher.iter(|| bench::plan(black_box(&lengths), &costs));
        });
    }
}

criterion_group!(benches, plan);
criterion_main!(benches);
