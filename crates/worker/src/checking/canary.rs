//! Checks a candidate against its author's canary texts and their expected embeddings. Detects a
//! wrong conversion or tokenizer, which loads and runs but gives other embeddings.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use onnxd_proto::{
    domain::{Output, Refusal, RefusalKind},
    limits::TEXT_BYTES_MAX,
};
use serde::Deserialize;

use crate::{artifacts::probes::cosine, families::LoadedVersion};

/// The canary file: one JSON object per line.
const FILE: &str = "canary.jsonl";
/// Maximum lines of the file.
const LINES_MAX: usize = 1000;
/// Maximum bytes of one line: room for a long text and an embedding.
const LINE_BYTES_MAX: u64 = 2 << 20;

/// A line of the canary file.
#[derive(Debug, Deserialize)]
struct Canary {
    text: String,
    embedding: Vec<f32>,
    min_cosine: f64,
}

/// Embeds the canary texts in `dir`, if any, and compares the results. Returns the number of texts
/// that passed.
///
/// # Errors
/// The number of the first line that is malformed or fails.
pub(super) fn check(
    version: &mut LoadedVersion,
    output: Output,
    dir: &Path,
) -> Result<u32, Refusal> {
    // A model that takes no texts may use a file of this name for something else.
    if output == Output::Tensors {
        return Ok(0);
    }
    let file = match File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(refuse(&error)),
    };
    if !matches!(output, Output::Dense { .. }) {
        return Err(refuse(&"only embedding models can have canary texts; remove the file"));
    }
    let (mut lines, mut number, mut passed) = (BufReader::new(file), 0, 0);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
        if read.map_err(|error| refuse(&error))? == 0 {
            return Ok(passed);
        }
        number += 1;
        if number > LINES_MAX {
            return Err(refuse(&format!("more than {LINES_MAX} lines")));
        }
        if !line.trim_ascii().is_empty() {
            compare(version, &line)
                .map_err(|reason| refuse(&format!("line {number}: {reason}")))?;
            passed += 1;
        }
    }
}

fn compare(version: &mut LoadedVersion, line: &[u8]) -> Result<(), String> {
    let canary = parse(line)?;
    let embedding = version.embed_text(&canary.text).map_err(|refusal| refusal.message)?;
    if embedding.len() != canary.embedding.len() {
        let (expected, found) = (canary.embedding.len(), embedding.len());
        return Err(format!("expected {expected} dimensions, the model returns {found}"));
    }
    let cosine = cosine(&embedding, &canary.embedding);
    if cosine >= canary.min_cosine {
        return Ok(());
    }
    Err(format!("the cosine is {cosine:.6}, min_cosine requires at least {}", canary.min_cosine))
}

fn parse(line: &[u8]) -> Result<Canary, String> {
    if line.len() as u64 > LINE_BYTES_MAX {
        return Err(format!("the line has more than {LINE_BYTES_MAX} bytes"));
    }
    let canary: Canary = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if canary.text.len() > TEXT_BYTES_MAX {
        return Err(format!("the text has more than {TEXT_BYTES_MAX} bytes"));
    }
    if !(-1.0..=1.0).contains(&canary.min_cosine) {
        return Err(format!(
            "min_cosine: expected a number between -1 and 1, got {}",
            canary.min_cosine
        ));
    }
    // JSON cannot encode NaN, but its numbers may exceed an f32.
    if !canary.embedding.iter().all(|value| value.is_finite()) {
        return Err("the embedding has components that exceed a 32-bit float".into());
    }
    Ok(canary)
}

fn refuse(reason: &dyn std::fmt::Display) -> Refusal {
    RefusalKind::Canary.because(format!("{FILE}: {reason}"))
}
