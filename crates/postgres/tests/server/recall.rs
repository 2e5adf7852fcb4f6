//! A search that follows the graph finds what comparing every vector finds.

use std::time::Instant;

use onnxd_proto::search::{Condition, Filter, FromIndex, Query, Range, Scalar, Source, ToIndex};

use crate::{
    database::Database,
    process::{Process, document, hits, query, upsert},
};

const DOCUMENTS: usize = 10_000;
const DIMENSION: usize = 384;
const QUERIES: usize = 100;

/// Returns vectors in clusters, as embeddings are.
fn vectors(count: usize, seed: u64) -> Vec<Vec<f32>> {
    let mut state = seed;
    let mut uniform = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
    };
    let mut centre_state = 99_u64;
    let mut centre = || {
        centre_state = centre_state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(7);
        (centre_state >> 40) as f32 / (1_u32 << 24) as f32 - 0.5
    };
    let centres: Vec<Vec<f32>> =
        (0..50).map(|_| (0..DIMENSION).map(|_| centre()).collect()).collect();
    let mut one = |number: usize| {
        let centre = &centres[number * 7 % centres.len()];
        let vector: Vec<f32> = centre.iter().map(|value| value + uniform()).collect();
        let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        vector.into_iter().map(|value| value / norm).collect()
    };
    (0..count).map(&mut one).collect()
}

/// Returns the scores of the best documents.
fn exact(all: &[Vec<f32>], vector: &[f32], allowed: impl Fn(usize) -> bool) -> Vec<u64> {
    let score = |other: &Vec<f32>| vector.iter().zip(other).map(|(a, b)| a * b).sum::<f32>();
    let allowed = all.iter().enumerate().filter(|(number, _)| allowed(*number));
    let mut scored: Vec<(f32, u64)> =
        allowed.map(|(number, other)| (score(other), number as u64)).collect();
    scored.sort_by(|one, other| other.0.total_cmp(&one.0));
    scored.into_iter().take(10).map(|(_, number)| number).collect()
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn ten_thousand_documents_are_recalled_by_the_graph() {
    let database = Database::start();
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    let all = vectors(DOCUMENTS, 1);
    let start = Instant::now();
    for (place, part) in all.chunks(500).enumerate() {
        let documents = (place * 500..).take(part.len()).map(|number| {
            document(
                number as u64,
                &format!("text {number}"),
                &format!("{{\"n\":{number},\"hundred\":{}}}", number / 100),
            )
        });
        let answer = process.ask(&upsert("docs", "v1", documents.collect()), part);
        assert_eq!(answer, FromIndex::Changed(part.len() as u64));
    }
    let added = start.elapsed();
    process.wait_for_graph_of("docs", "v1", &all[0]);
    // With filters that leave one in ten, one in a hundred by an index, and fewer than are asked for.
    let below = |limit: usize| {
        Condition::Range("n".into(), Range { lt: Some(limit as f64), ..Range::default() })
    };
    let first = Condition::Any("hundred".into(), vec![Scalar::Integer(0)]);
    for (limit, least, must) in [
        (DOCUMENTS, 0.98, vec![]),
        (DOCUMENTS / 10, 0.98, vec![below(DOCUMENTS / 10)]),
        (100, 1.0, vec![first]),
        (5, 1.0, vec![below(5)]),
    ] {
        let filter = Filter { must, ..Filter::default() };
        let (mut found, mut expected, mut times, mut by_graph) = (0, 0, Vec::new(), 0);
        for vector in vectors(QUERIES, 2) {
            let best = exact(&all, &vector, |number| number < limit);
            let query = Query { filter: filter.clone(), ..query("v1", 10) };
            let start = Instant::now();
            let search = ToIndex::Search { collection: "docs".into(), query };
            let answer = process.ask(&search, &[vector]);
            times.push(start.elapsed());
            by_graph +=
                usize::from(matches!(answer, FromIndex::Hits { source: Source::Graph, .. }));
            let ids: Vec<_> = hits(answer).into_iter().map(|hit| hit.id.to_bytes()).collect();
            let bytes = |number: &u64| onnxd_proto::search::DocumentId::Number(*number).to_bytes();
            found += best.iter().filter(|number| ids.contains(&bytes(number))).count();
            expected += best.len();
        }
        times.sort();
        let recall = found as f64 / expected as f64;
        println!(
            "{DOCUMENTS} documents added in {added:.1?}; of {limit}: recall {recall:.4}, median {:.1?}, by graph {by_graph} of {QUERIES}",
            times[QUERIES / 2]
        );
        assert!(recall >= least, "recall {recall} of {limit}");
        assert!(limit != DOCUMENTS || by_graph == QUERIES, "{by_graph}");
    }
}
