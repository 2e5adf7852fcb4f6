//! A candidate's own canary texts: embeddings that its author says it makes. A version that was
//! converted wrongly, or is fed by the wrong tokenizer, loads and runs and still is another model
//! than its author's; this is how it is noticed.

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

/// The file, one JSON object a line.
const FILE: &str = "canary.jsonl";
/// Lines of the file.
const LINES_MAX: usize = 1000;
/// Bytes of one line: a long text and an embedding of many digits.
const LINE_BYTES_MAX: u64 = 2 << 20;

/// One line.
#[derive(Debug, Deserialize)]
struct Canary {
    text: String,
    embedding: Vec<f32>,
    min_cosine: f64,
}

/// Embeds what the file in `dir` says, if there is one, and compares; gives how many came out.
///
/// # Errors
/// The first line that is none or does not come out, by its number.
pub(super) fn check(
    version: &mut LoadedVersion,
    output: Output,
    dir: &Path,
) -> Result<u32, Refusal> {
    // A model that takes no texts may have a file of that name for its own use.
    if output == Output::Tensors {
        return Ok(0);
    }
    let file = match File::open(dir.join(FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(refuse(&error)),
    };
    if !matches!(output, Output::Dense { .. }) {
        return Err(refuse(&"it is for models that embed, and this one does not"));
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
            compare(version, &line).map_err(|said| refuse(&format!("line {number}: {said}")))?;
            passed += 1;
        }
    }
}

fn compare(version: &mut LoadedVersion, line: &[u8]) -> Result<(), String> {
    let canary = parse(line)?;
    let embedding = version.embed_text(&canary.text).map_err(|refusal| refusal.message)?;
    if embedding.len() != canary.embedding.len() {
        let (expected, found) = (canary.embedding.len(), embedding.len());
        return Err(format!("the embedding has {expected} components, the model's has {found}"));
    }
    let cosine = cosine(&embedding, &canary.embedding);
    if cosine >= canary.min_cosine {
        return Ok(());
    }
    Err(format!("the cosine is {cosine:.6}, and at least {} is demanded", canary.min_cosine))
}

fn parse(line: &[u8]) -> Result<Canary, String> {
    if line.len() as u64 > LINE_BYTES_MAX {
        return Err(format!("more than {LINE_BYTES_MAX} bytes"));
    }
    let canary: Canary = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    if canary.text.len() > TEXT_BYTES_MAX {
        return Err(format!("the text has more than {TEXT_BYTES_MAX} bytes"));
    }
    if !(-1.0..=1.0).contains(&canary.min_cosine) {
        return Err(format!("min_cosine is {}, and no cosine is", canary.min_cosine));
    }
    // JSON has no NaN, but numbers that are too large for an f32.
    if !canary.embedding.iter().all(|value| value.is_finite()) {
        return Err("the embedding has components that are too large".into());
    }
    Ok(canary)
}

fn refuse(said: &dyn std::fmt::Display) -> Refusal {
    RefusalKind::Canary.because(format!("{FILE}: {said}"))
}
