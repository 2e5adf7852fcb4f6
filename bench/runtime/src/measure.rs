//! Runs all texts repeatedly for a given time.

use std::{
    fs,
    io::{self, BufRead},
    time::{Duration, Instant},
};

use onnxd_worker::bench::{self, BareModel, Prepared};
use serde::Serialize;

use crate::MeasureArgs;

/// The measurement, as printed.
#[derive(Debug, Serialize)]
pub(crate) struct Measurement {
    texts: usize,
    seconds: f64,
    cpu_seconds: f64,
    /// Percentiles of the time per call.
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
}

/// Loads the version, calls `ready`, waits for a line on standard input, and runs the texts.
///
/// # Errors
/// The version or the texts cannot be used.
pub(crate) fn measure(
    args: &MeasureArgs,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<Measurement, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut model = BareModel::open(&args.onnxruntime, &args.version_dir)?;
    let texts = fs::read(&args.texts).map_err(|error| text(&error))?;
    let texts: Vec<String> = serde_json::from_slice(&texts).map_err(|error| text(&error))?;
    let tokens = texts.iter().map(|text| model.tokenize(text)).collect::<Result<Vec<_>, _>>()?;
    let batches = batches(&tokens, args.batch.max(1), args.window);
    for batch in &batches {
        model.run(batch)?;
    }
    ready().map_err(|error| text(&error))?;
    io::stdin().lock().read_line(&mut String::new()).map_err(|error| text(&error))?;
    let (start, cpu, length) =
        (Instant::now(), bench::cpu_time(), Duration::from_secs_f64(args.seconds));
    let (mut count, mut took) = (0, Vec::new());
    // Each process starts at a different offset, so that two do not run the same shapes in
    // parallel.
    let offset = usize::from(args.cpu) * batches.len() / 2;
    // Run whole passes: part of the corpus may be shorter than average.
    while start.elapsed() < length {
        for batch in batches.iter().cycle().skip(offset).take(batches.len()) {
            let call = Instant::now();
            model.run(batch)?;
            took.push(call.elapsed());
            count += batch.len();
        }
    }
    took.sort();
    let quantile = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    Ok(Measurement {
        texts: count,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: (bench::cpu_time() - cpu).as_secs_f64(),
        p50_ms: quantile(50),
        p90_ms: quantile(90),
        p99_ms: quantile(99),
    })
}

/// Returns batches of `size` texts, sorted by length within every `window` texts; 0 sorts all.
fn batches(tokens: &[Prepared], size: usize, window: usize) -> Vec<Vec<&Prepared>> {
    let window = if window == 0 { tokens.len().max(1) } else { window };
    let sorted = tokens.chunks(window).flat_map(|window| {
        let mut window: Vec<&Prepared> = window.iter().collect();
        window.sort_by_key(|text| text.tokens());
        window.chunks(size).map(<[&Prepared]>::to_vec).collect::<Vec<_>>()
    });
    sorted.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_sort_within_windows_and_keep_every_text() {
        let text = Prepared::with_length;
        let tokens: Vec<Prepared> = [5, 1, 4, 2, 3].map(text).into();
        let lengths = |size, window| {
            let batches = batches(&tokens, size, window).into_iter();
            batches.map(|batch| batch.iter().map(|text| text.tokens()).collect()).collect()
        };
        let all: Vec<Vec<usize>> = lengths(2, 0);
        assert_eq!(all, [vec![1, 2], vec![3, 4], vec![5]]);
        let windows: Vec<Vec<usize>> = lengths(2, 3);
        assert_eq!(windows, [vec![1, 4], vec![5], vec![2, 3]]);
    }
}
