//! Vectors in memory, and the exact search in them that results are compared with: numpy on one
//! thread, as `bench/search/exact.py` does it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use e2e::fixtures;
use serde::Deserialize;
use tokio::process::Command;

/// Scores that differ by less are equal: the same text has slightly different embeddings in
/// different batches.
const TOLERANCE: f32 = 1e-4;

/// Vectors by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Vectors {
    rows: Vec<Vec<f32>>,
}

impl Vectors {
    pub(super) fn add(&mut self, vector: Vec<f32>) {
        self.rows.push(vector);
    }

    /// Adds the vectors of a response of `/embed`.
    pub(super) fn add_all(&mut self, body: &[u8]) -> Result<(), String> {
        let rows: Vec<Vec<f32>> =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        self.rows.extend(rows);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn rows(&self) -> &[Vec<f32>] {
        &self.rows
    }

    pub(super) fn dimension(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    /// Writes all components as 32-bit floats.
    pub(super) fn write(&self, path: &Path) -> Result<(), String> {
        let bytes: Vec<u8> = self.rows.iter().flatten().flat_map(|one| one.to_le_bytes()).collect();
        fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
    }

    fn score(&self, query: &[f32], row: usize) -> f32 {
        let row = self.rows.get(row).map_or(&[][..], Vec::as_slice);
        query.iter().zip(row).map(|(one, other)| one * other).sum()
    }
}

/// What numpy found for each query.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Exact {
    micros: Vec<f64>,
    /// Numbers of the nearest vectors, the nearest first.
    nearest: Vec<Vec<usize>>,
}

impl Exact {
    pub(super) fn times(&self) -> impl Iterator<Item = Duration> {
        self.micros.iter().map(|micros| Duration::from_secs_f64(micros / 1e6))
    }
}

/// Files for numpy, and what runs it.
#[derive(Clone, Debug)]
pub(super) struct Numpy {
    pub python: PathBuf,
    pub vectors: PathBuf,
    pub queries: PathBuf,
    pub dimension: usize,
}

impl Numpy {
    /// Searches for every query on one thread.
    pub(super) async fn search(&self, count: usize) -> Result<Exact, String> {
        let mut command = Command::new(&self.python);
        command.arg(fixtures::workspace().join("bench/search/exact.py"));
        command.args([&self.vectors, &self.queries]);
        command.args([self.dimension.to_string(), count.to_string()]);
        for library in ["OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"] {
            command.env(library, "1");
        }
        let failed = |error: &dyn std::fmt::Display| format!("exact.py: {error}");
        let output = command.kill_on_drop(true).output().await.map_err(|error| failed(&error))?;
        if !output.status.success() {
            return Err(failed(&String::from_utf8_lossy(&output.stderr)));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))
    }
}

/// Returns the share of the nearest documents that were found. A document counts as well if it is
/// as near as the last of the nearest.
pub(super) fn recall(
    vectors: &Vectors,
    queries: &Vectors,
    exact: &Exact,
    found: &[Vec<usize>],
) -> f64 {
    let (mut wanted, mut hits) = (0_u32, 0_u32);
    for ((query, nearest), found) in queries.rows.iter().zip(&exact.nearest).zip(found) {
        let score = |row: &usize| vectors.score(query, *row);
        let least = nearest.iter().map(score).fold(f32::INFINITY, f32::min) - TOLERANCE;
        wanted += u32::try_from(nearest.len()).unwrap_or_default();
        let near = found.iter().take(nearest.len()).filter(|row| score(row) >= least);
        hits += u32::try_from(near.count()).unwrap_or_default();
    }
    f64::from(hits) / f64::from(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_documents_that_are_as_near() {
        let mut vectors = Vectors::default();
        vectors.add_all(b"[[1,0],[0.9,0],[0.9,0],[0,1],[0.1,0]]").unwrap();
        let mut queries = Vectors::default();
        queries.add_all(b"[[1,0],[0,1]]").unwrap();
        let exact = Exact { micros: Vec::new(), nearest: vec![vec![0, 1], vec![3, 0]] };
        let recall = |found: [Vec<usize>; 2]| recall(&vectors, &queries, &exact, &found);
        assert!((recall([vec![0, 2], vec![3, 4]]) - 1.0).abs() < 1e-9);
        assert!((recall([vec![0, 4], vec![3, 0]]) - 0.75).abs() < 1e-9);
        assert!((recall([vec![], vec![3]]) - 0.25).abs() < 1e-9);
    }
}
