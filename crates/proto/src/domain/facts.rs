//! The checker's findings about a version. Kept in every [`Record`](super::Record).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Activation, Output, Pooling, Signature, Task, tensor::DataType};

/// Facts about a version, kept with every generation that serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Task of the model.
    pub task: Task,
    /// Components of an embedding, or number of labels; 0 for tensors.
    pub dimension: u32,
    /// Tokens of the longest text that is not truncated, including special tokens.
    pub max_tokens: u32,
    /// How token embeddings become one embedding.
    pub pooling: Pooling,
    /// Whether embeddings are scaled to length 1 by default.
    pub normalize: bool,
    /// Labels of a classifier's or reranker's scores, in order.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Activation applied to the scores.
    #[serde(default)]
    pub activation: Activation,
    /// Names of the model's prompts.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// Inputs and outputs of a tensor model.
    #[serde(default)]
    pub signature: Signature,
    /// Datatype of most weights; `None` in records of earlier releases.
    #[serde(default)]
    pub weights: Option<DataType>,
    /// Shape of one result, described by the model's family; `None` in records of earlier releases.
    /// Read it through [`Facts::output`].
    #[serde(default)]
    pub output: Option<Output>,
    /// The model file within the version; empty if the model has no graph.
    #[serde(default)]
    pub file: String,
    /// The graph's inputs as they are fed, in graph order: `position_ids (int64, counted)`.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Steps from the graph's output to the result, in order: `last_hidden_state (float16)`,
    /// `pooling mean`, `dense 32 -> 48`, `normalize`.
    #[serde(default)]
    pub pipeline: Vec<String>,
    /// Scalar inputs that a request may set.
    #[serde(default)]
    pub switches: Vec<SwitchFacts>,
    /// Assumptions about settings that no file states.
    #[serde(default)]
    pub guesses: Vec<Guess>,
    /// Set if the longest text is shorter than the model's files declare.
    #[serde(default)]
    pub shortened: Option<Shortened>,
}

/// A scalar input of a graph, such as an adapter number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchFacts {
    /// The input's name.
    pub name: String,
    /// Value fed by default; `None` if every request must set it.
    pub default: Option<i64>,
    /// Named values.
    pub values: BTreeMap<String, i64>,
}

/// An assumption about a setting that no file states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guess {
    /// The setting, as a key of `onnxd.toml`: `pooling`, `task`, `output`.
    pub key: String,
    /// The assumed value.
    pub value: String,
    /// Reason for the assumption.
    pub reason: String,
}

impl Guess {
    /// Returns the line of `onnxd.toml` that settles it.
    pub fn line(&self) -> String {
        let Self { key, value, .. } = self;
        match key.as_str() {
            "normalize" | "relevant_label" => format!("{key} = {value}"),
            "inputs" => format!("{key} = {{ {value} }}"),
            _ => format!("{key} = {value:?}"),
        }
    }
}

/// Why the longest text is shorter than the model's files declare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortened {
    /// Tokens that the files declare.
    pub declared_tokens: u32,
    /// What longer texts would require, and the flag that allows it.
    pub reason: String,
}

impl Facts {
    /// Returns the shape of one result: as recorded or, in records of earlier releases, as the task
    /// implies.
    pub fn output(&self) -> Output {
        self.output.unwrap_or(match self.task {
            Task::Embed => Output::Dense { dimension: self.dimension },
            Task::Sparse => Output::Sparse { dimension: self.dimension },
            Task::MultiVector => Output::MultiVector { dimension: self.dimension },
            Task::Classify | Task::Rerank => Output::Scores { labels: self.dimension },
            Task::TokenClassify => Output::TokenScores { labels: self.dimension },
            Task::Tensor => Output::Tensors,
        })
    }

    /// Returns facts of a model of which only the task is known.
    pub fn new(task: Task) -> Self {
        Self {
            task,
            dimension: 0,
            max_tokens: 0,
            pooling: Pooling::NONE,
            normalize: false,
            labels: Vec::new(),
            activation: Activation::default(),
            prompts: Vec::new(),
            signature: Signature::default(),
            weights: None,
            output: None,
            file: String::new(),
            inputs: Vec::new(),
            pipeline: Vec::new(),
            switches: Vec::new(),
            guesses: Vec::new(),
            shortened: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_earlier_releases_derive_output_from_the_task() {
        let old = r#"{"task": "classify", "dimension": 3, "max_tokens": 64, "pooling": "none",
            "normalize": false}"#;
        let facts: Facts = serde_json::from_str(old).unwrap();
        assert_eq!((facts.output, facts.weights), (None, None));
        assert_eq!(facts.output(), Output::Scores { labels: 3 });
        let sparse = Output::Sparse { dimension: 30_522 };
        let described = Facts { output: Some(sparse), ..facts };
        let text = serde_json::to_string(&described).unwrap();
        assert_eq!(serde_json::from_str::<Facts>(&text).unwrap().output(), sparse);
    }
}
