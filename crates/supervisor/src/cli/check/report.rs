//! Renders the result of `onnxd check` as text or as one JSON object.

use std::time::Duration;

use onnxd_engine::models::update::trial::TrialResult;
use onnxd_proto::domain::{
    Checked, Drift, Facts, Output, Refusal, SourceUri,
    cost::{CostTable, TEXTS, TOKENS},
    tensor::TensorSpec,
};
use serde::Serialize;

/// Width of the first column, in characters.
const NAME_WIDTH: usize = 11;
/// Width of a cell of the cost table, in characters.
const CELL_WIDTH: usize = 9;

/// The result of a check. Serializes to the JSON document.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    accepted: bool,
    source: SourceUri,
    against: Option<SourceUri>,
    version: Option<String>,
    bytes: Option<u64>,
    facts: Option<Facts>,
    canaries: Option<u32>,
    drift: Option<Drift>,
    costs: Option<Costs>,
    /// Why workers would load the model without its compiled form.
    not_compiled: Option<String>,
    refusal: Option<Refusal>,
    seconds: f64,
}

/// CPU time of runs, in microseconds: a row per number of texts, a column per number of tokens.
#[derive(Debug, Serialize)]
struct Costs {
    texts: [u32; TEXTS.len()],
    tokens: [u32; TOKENS.len()],
    micros: Vec<Vec<f32>>,
}

impl Report {
    pub(super) fn new(
        source: &SourceUri,
        against: Option<&SourceUri>,
        outcome: Result<TrialResult, Refusal>,
        took: Duration,
    ) -> Self {
        let (tried, refusal) = match outcome {
            Ok(tried) => (Some(tried), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let (version, bytes) =
            tried.as_ref().map(|tried| (tried.version.clone(), tried.bytes)).unzip();
        let checked = tried.map(|tried| tried.checked);
        let (source, against) = (source.clone(), against.cloned());
        let empty = Self {
            accepted: refusal.is_none(),
            source,
            against,
            version,
            bytes,
            facts: None,
            canaries: None,
            drift: None,
            costs: None,
            not_compiled: None,
            refusal,
            seconds: took.as_secs_f64(),
        };
        let Some(Checked { facts, drift, canaries, costs, not_compiled }) = checked else {
            return empty;
        };
        let costs = costs.map(|table| Costs::from_table(&table));
        Self { facts: Some(facts), canaries: Some(canaries), drift, costs, not_compiled, ..empty }
    }

    /// Returns whether the source can be served.
    pub(super) fn is_accepted(&self) -> bool {
        self.accepted
    }

    /// Renders one line of JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("names are strings and all numbers are finite")
    }

    /// Renders several lines of text.
    pub(super) fn text(&self) -> String {
        if let Some(Refusal { kind, message, .. }) = &self.refusal {
            return format!("{}: refused ({}): {message}", self.source, json_word(kind));
        }
        let mut lines = vec![format!("{}: can be served", self.source)];
        let mut line =
            |name: &str, value: String| lines.push(format!("{name:<NAME_WIDTH$} {value}"));
        if let Some(version) = &self.version {
            line("version", format!("{}, {} bytes", short(version), self.bytes.unwrap_or(0)));
        }
        if let Some(facts) = &self.facts {
            describe(facts, &mut line);
        }
        line(
            "canaries",
            match self.canaries {
                Some(count) if count > 0 => format!("{count} matched canary.jsonl"),
                _ => "no canary.jsonl".into(),
            },
        );
        if let Some(Drift { min_cosine, mean_cosine, probes }) = self.drift {
            line(
                "drift",
                format!("cosine mean {mean_cosine:.6}, min {min_cosine:.6}, over {probes} texts"),
            );
        }
        if let Some(reason) = &self.not_compiled {
            line("compiled", format!("no: {reason}"));
        }
        if let (Some(costs), Some(facts)) = (&self.costs, &self.facts)
            && facts.output() != Output::Tensors
        {
            line("cost", "milliseconds on one CPU; rows: texts, columns: tokens per text".into());
            lines.extend(costs.lines(facts.max_tokens));
        }
        lines.join("\n")
    }
}

/// Adds lines that describe a model.
fn describe(facts: &Facts, line: &mut impl FnMut(&str, String)) {
    line("task", facts.task.as_str().into());
    if !facts.file.is_empty() {
        line("file", facts.file.clone());
    }
    let listed = |values: &[String]| values.join(", ");
    let specified = |specs: &[TensorSpec]| listed(&specs.iter().map(tensor).collect::<Vec<_>>());
    match facts.output() {
        Output::Tensors => {
            line("inputs", specified(&facts.signature.inputs));
            line("outputs", specified(&facts.signature.outputs));
            return;
        }
        Output::Dense { dimension } => line("output", format!("vector of {dimension} dimensions")),
        Output::Sparse { dimension } => {
            line("output", format!("sparse vector of {dimension} dimensions"));
        }
        Output::MultiVector { dimension } => {
            line("output", format!("vector of {dimension} dimensions per token"));
        }
        Output::Scores { labels } => line("output", format!("{labels} scores")),
        Output::TokenScores { labels } => line("output", format!("{labels} scores per token")),
    }
    for (name, values) in
        [("inputs", &facts.inputs), ("labels", &facts.labels), ("prompts", &facts.prompts)]
    {
        if !values.is_empty() {
            line(name, listed(values));
        }
    }
    if facts.pipeline.is_empty() {
        line("pooling", facts.pooling.to_string());
        line("normalized", if facts.normalize { "yes" } else { "no" }.into());
    } else {
        line("pipeline", facts.pipeline.join(" > "));
    }
    line(
        "max tokens",
        match &facts.shortened {
            None => facts.max_tokens.to_string(),
            Some(shortened) => format!(
                "{} of {}: {}",
                facts.max_tokens, shortened.declared_tokens, shortened.reason
            ),
        },
    );
    for guess in &facts.guesses {
        line("guessed", format!("{} = {:?}: {}", guess.key, guess.value, guess.reason));
    }
}

fn tensor(spec: &TensorSpec) -> String {
    format!("{} ({}, {:?})", spec.name, json_word(&spec.datatype), spec.shape)
}

/// Returns the word that stands for a value in JSON.
fn json_word(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default().trim_matches('"').to_owned()
}

impl Costs {
    fn from_table(table: &CostTable) -> Self {
        let cost = |texts, tokens| table.predict(texts as usize, tokens as usize);
        let micros = TEXTS.map(|texts| TOKENS.map(|tokens| cost(texts, tokens)).to_vec()).to_vec();
        Self { texts: TEXTS, tokens: TOKENS, micros }
    }

    /// Renders the table, with columns up to the longest text.
    fn lines(&self, max_tokens: u32) -> impl Iterator<Item = String> {
        let columns = self.tokens.iter().filter(|&&tokens| tokens <= max_tokens).count().max(1);
        let head = self.tokens.iter().take(columns).map(|tokens| format!("{tokens:>CELL_WIDTH$}"));
        let head = format!("{:>NAME_WIDTH$} {}", "", head.collect::<String>());
        let rows = self.texts.iter().zip(&self.micros).map(move |(texts, micros)| {
            let cells = micros
                .iter()
                .take(columns)
                .map(|micros| format!("{:>CELL_WIDTH$.2}", micros / 1000.0));
            format!("{texts:>NAME_WIDTH$} {}", cells.collect::<String>())
        });
        std::iter::once(head).chain(rows)
    }
}

/// Returns the first digits of a version.
pub(super) fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::{Guess, RefusalKind, Shortened, Task};

    use super::*;

    fn report(outcome: Result<TrialResult, Refusal>) -> Report {
        Report::new(&"/m".parse().unwrap(), None, outcome, Duration::from_secs(1))
    }

    fn tried() -> TrialResult {
        let facts = Facts {
            dimension: 48,
            max_tokens: 4096,
            guesses: vec![Guess {
                key: "pooling".into(),
                value: "mean".into(),
                reason: "no 1_Pooling".into(),
            }],
            shortened: Some(Shortened { declared_tokens: 8192, reason: "--check-memory".into() }),
            ..Facts::new(Task::Embed)
        };
        let costs = Some(CostTable::default());
        let checked = Checked { facts, drift: None, canaries: 2, costs, not_compiled: None };
        TrialResult { version: "0123456789abcdef".into(), bytes: 5, checked }
    }

    #[test]
    fn text_shows_guesses_and_shortened_lengths() {
        let text = report(Ok(tried())).text();
        for line in [
            "/m: can be served",
            "version     0123456789ab, 5 bytes",
            "output      vector of 48 dimensions",
            "max tokens  4096 of 8192: --check-memory",
            "guessed     pooling = \"mean\": no 1_Pooling",
            "canaries    2 matched canary.jsonl",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn json_is_one_object_for_each_outcome() {
        let json: serde_json::Value = serde_json::from_str(&report(Ok(tried())).json()).unwrap();
        assert_eq!(json["accepted"], true);
        assert_eq!(json["facts"]["shortened"]["declared_tokens"], 8192);
        assert_eq!(json["costs"]["micros"].as_array().unwrap().len(), TEXTS.len());
        let refused = report(Err(RefusalKind::Contract.because("model.onnx: no")));
        assert_eq!(refused.text(), "/m: refused (contract): model.onnx: no");
        let json: serde_json::Value = serde_json::from_str(&refused.json()).unwrap();
        assert_eq!(json["accepted"], false);
        assert_eq!(json["refusal"]["kind"], "contract");
        assert!(!refused.is_accepted());
    }
}
