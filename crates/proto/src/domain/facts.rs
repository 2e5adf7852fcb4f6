//! What is known of a version once it has been checked. Kept in every [`Record`](super::Record).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Activation, Output, Pooling, Signature, Task, tensor::DataType};

/// What the checker finds out about a version, kept with every generation that serves it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// What the model is for.
    pub task: Task,
    /// Components of one embedding, or labels; 0 for tensors.
    pub dimension: u32,
    /// Tokens of the longest text that is not truncated, special tokens included.
    pub max_tokens: u32,
    /// How token embeddings become one embedding.
    pub pooling: Pooling,
    /// Whether embeddings have length 1 unless a request says otherwise.
    pub normalize: bool,
    /// What the scores of a model that classifies or reranks are of, in their order.
    #[serde(default)]
    pub labels: Vec<String>,
    /// How such scores become numbers between 0 and 1.
    #[serde(default)]
    pub activation: Activation,
    /// Names of the prompts that may be put before a text.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// What a model for tensors takes and gives.
    #[serde(default)]
    pub signature: Signature,
    /// The type of most of the weights; `None` where an earlier release made the record.
    #[serde(default)]
    pub weights: Option<DataType>,
    /// What one answer is, described by the model's family; `None` where an earlier release made the
    /// record. Read it by [`Facts::output`].
    #[serde(default)]
    pub output: Option<Output>,
    /// The model's file within the version; empty for one without a graph.
    #[serde(default)]
    pub file: String,
    /// The graph's inputs as they are fed, in its order: `position_ids (int64, counted)`.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// What happens from the graph's output to the answer, in order:
    /// `last_hidden_state (float16)`, `pooling mean`, `dense 32 -> 48`, `normalize`.
    #[serde(default)]
    pub pipeline: Vec<String>,
    /// Scalar inputs that a request may set.
    #[serde(default)]
    pub switches: Vec<SwitchFacts>,
    /// What was assumed because no file says it.
    #[serde(default)]
    pub guesses: Vec<Guess>,
    /// Set where the longest text is shorter than the model's files say.
    #[serde(default)]
    pub shortened: Option<Shortened>,
}

/// A scalar input of a graph, such as the number of an adapter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwitchFacts {
    /// The input's name.
    pub name: String,
    /// What is fed where a request says nothing; `None`: a request must say it.
    pub default: Option<i64>,
    /// Words for values.
    pub values: BTreeMap<String, i64>,
}

/// Something that was assumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guess {
    /// What it is about, as a key of `onnxd.toml`: `pooling`, `task`, `output`.
    pub key: String,
    /// What was assumed.
    pub value: String,
    /// Why.
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

/// Why the longest text is shorter than a model's files say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortened {
    /// Tokens that the files say.
    pub declared_tokens: u32,
    /// What longer texts would need, and the flag that allows it.
    pub reason: String,
}

impl Facts {
    /// Returns what one answer of the model is: as recorded or, for a record of an earlier release,
    /// as the task implies.
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

    /// Those of a model that does `task` and of which nothing else is known.
    pub fn of(task: Task) -> Self {
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
    fn a_record_of_an_earlier_release_says_its_output_by_its_task() {
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
