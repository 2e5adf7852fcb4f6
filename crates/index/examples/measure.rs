//! Measures search in a real index process: latency, CPU time (which other load of the machine hardly
//! changes), recall against comparing every vector, memory and the time to open.
//!
//! ```console
//! $ cargo build --release -p onnxd-index
//! $ cargo run --release -p onnxd-index --example measure -- target/release/onnxd-index 100000 [VECTORS]
//! ```
//!
//! Without `VECTORS`, vectors of 384 components are drawn around random centers, like embeddings of
//! texts about some topics. With it, they are read from a file of little-endian f32; the last 200 are
//! the queries.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A benchmark ends at the first error.

#[allow(dead_code)]
#[path = "../tests/binary/process.rs"]
mod process;

use std::{env, fs, time::Instant};

use onnxd_proto::search::{Condition, Distance, Filter, FromIndex, Query, Range, ToIndex};

use crate::process::{Index, document, hits, ids, query, settings};

const DIMENSION: usize = 384;
const QUERIES: usize = 200;
const NEAREST: usize = 10;
const BATCH: usize = 1000;
/// Vectors around one center.
const CLUSTER: usize = 200;
/// Distance from the center, in units of its length: neighbors have a cosine of about 0.5.
const SPREAD: f32 = 1.0;

/// A generator of pseudo-random numbers.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 40
    }

    fn uniform(&mut self) -> f32 {
        self.bits() as f32 / (1_u64 << 24) as f32
    }

    fn normal(&mut self) -> f32 {
        let radius = (-2.0 * self.uniform().max(1e-7).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }

    fn unit(&mut self) -> Vec<f32> {
        normalized((0..DIMENSION).map(|_| self.normal()).collect())
    }
}

fn normalized(mut vector: Vec<f32>) -> Vec<f32> {
    let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|value| *value /= norm);
    vector
}

/// Returns vectors around random centers.
fn drawn(count: usize) -> Vec<Vec<f32>> {
    let mut random = Random(88_172_645_463_325_252);
    let centers: Vec<Vec<f32>> = (0..count.div_ceil(CLUSTER)).map(|_| random.unit()).collect();
    let around = |_| {
        let center = &centers[usize::try_from(random.bits()).unwrap() % centers.len()];
        let offset = random.unit();
        normalized(
            center.iter().zip(offset).map(|(center, offset)| center + SPREAD * offset).collect(),
        )
    };
    (0..count).map(around).collect()
}

fn read(path: &str, count: usize) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let (numbers, _) = bytes.as_chunks::<4>();
    let numbers: Vec<f32> = numbers.iter().map(|number| f32::from_le_bytes(*number)).collect();
    numbers.chunks_exact(DIMENSION).take(count).map(|vector| normalized(vector.to_vec())).collect()
}

/// Returns the nearest vectors, added up in double precision.
fn exhaustive(all: &[Vec<f32>], query: &[f32]) -> Vec<u64> {
    let product = |vector: &Vec<f32>| -> f64 {
        let mut lanes = [0.0_f64; 8];
        for (one, other) in vector.as_chunks::<8>().0.iter().zip(query.as_chunks::<8>().0) {
            for lane in 0..8 {
                lanes[lane] += f64::from(one[lane]) * f64::from(other[lane]);
            }
        }
        lanes.iter().sum()
    };
    let mut scores: Vec<(u64, f64)> = (0..).zip(all.iter().map(product)).collect();
    scores.select_nth_unstable_by(NEAREST, |one, other| other.1.total_cmp(&one.1));
    scores.truncate(NEAREST);
    scores.iter().map(|(id, _)| *id).collect()
}

fn memory_mib(index: &Index) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", index.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

/// Returns the milliseconds for which the process has used a CPU.
fn cpu_ms(index: &Index) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", index.child.id())).unwrap();
    let nanos = |task: std::io::Result<fs::DirEntry>| -> f64 {
        let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    tasks.map(nanos).sum::<f64>() / 1e6
}

/// Prints percentiles of the time in the index process, and of that with frames.
fn report(name: &str, times: &[(f64, f64)], cpu_ms: f64) {
    let percentiles = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        [50, 90, 99].map(|part| format!("{:.2}", times[times.len() * part / 100])).join("/")
    };
    let (inside, outside): (Vec<f64>, Vec<f64>) = times.iter().copied().unzip();
    println!(
        "{name}: p50/p90/p99 {} ms; with frames {} ms; CPU {:.2} ms each",
        percentiles(inside),
        percentiles(outside),
        cpu_ms / times.len() as f64
    );
}

/// Measures searches of several kinds. Returns what the plain ones found.
fn search(index: &mut Index, queries: &[Vec<f32>]) -> Vec<Vec<u64>> {
    let one_percent = Range { lt: Some(1.0), ..Range::default() };
    let half = Range { lt: Some(50.0), ..Range::default() };
    let filtered = |range| {
        let must = vec![Condition::Range("n".into(), range)];
        Query { filter: Filter { must, ..Filter::default() }, ..query("v", NEAREST) }
    };
    let mut found = Vec::new();
    for (name, query) in [
        ("warm-up", query("v", NEAREST)),
        ("search", query("v", NEAREST)),
        ("search for 100", query("v", 100)),
        ("search in 50 %", filtered(half)),
        ("search in 1 %", filtered(one_percent)),
    ] {
        let (mut times, used) = (Vec::new(), cpu_ms(index));
        for vector in queries {
            let start = Instant::now();
            let answer = index.search("docs", query.clone(), vector);
            let elapsed = start.elapsed().as_secs_f64() * 1e3;
            let FromIndex::Hits { micros, .. } = &answer else { panic!("{answer:?}") };
            times.push((*micros as f64 / 1e3, elapsed));
            if name == "search" {
                found.push(ids(&hits(answer)));
            }
        }
        report(name, &times, cpu_ms(index) - used);
    }
    found
}

fn main() {
    let mut arguments = env::args().skip(1);
    let executable = arguments.next().unwrap();
    let count: usize = arguments.next().unwrap().parse().unwrap();
    let all = match arguments.next() {
        Some(path) => read(&path, count + QUERIES),
        None => drawn(count + QUERIES),
    };
    let (all, queries) = all.split_at(all.len() - QUERIES);
    let count = all.len();
    println!("{count} vectors of {DIMENSION} components");

    let folder = tempfile::tempdir().unwrap();
    let mut index = Index::start(&executable, folder.path());
    let empty = memory_mib(&index);
    index.ask(&ToIndex::Create("docs".into(), settings(Distance::Cosine)));
    let start = Instant::now();
    for (batch, vectors) in all.chunks(BATCH).enumerate() {
        let documents = (batch * BATCH..).zip(vectors).map(|(id, vector)| {
            let payload = format!("{{\"n\":{}}}", id % 100);
            (document(id as u64, &format!("text {id}"), &payload), vector.clone())
        });
        let answer = index.upsert("docs", "v", documents.collect());
        assert_eq!(answer, FromIndex::Changed(vectors.len() as u64));
    }
    println!("add: {:.0} documents/s", count as f64 / start.elapsed().as_secs_f64());

    let found = search(&mut index, queries);
    let same = |(found, query): (&Vec<u64>, &Vec<f32>)| {
        exhaustive(all, query).iter().filter(|id| found.contains(id)).count()
    };
    let same: usize = found.iter().zip(queries).map(same).sum();
    println!("recall@{NEAREST}: {:.4}", same as f64 / (QUERIES * NEAREST) as f64);
    let used = memory_mib(&index) - empty;
    println!(
        "memory: {used:.0} MiB, {:.0} bytes a document",
        used * 1024.0 * 1024.0 / count as f64
    );
    let disk: u64 = fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    println!("disk: {} MiB, {} bytes a document", disk >> 20, disk / count as u64);

    index.close();
    let mut index = Index::start(&executable, folder.path());
    let start = Instant::now();
    let answer = index.search("docs", query("v", NEAREST), &queries[0]);
    assert_eq!(ids(&hits(answer)), found[0]);
    println!(
        "open again: {:.2} s, CPU {:.2} s",
        start.elapsed().as_secs_f64(),
        cpu_ms(&index) / 1e3
    );
    let used = memory_mib(&index);
    println!("memory after it: {used:.0} MiB");
}
