//! A model's inputs and outputs as tensors. A tensor model has those of its file. A text model
//! takes BYTES tensors of UTF-8 and returns FP32, so that every model can be called this way. A
//! model that labels tokens returns a JSON list of entities per text. Pure.

use onnxd_proto::domain::{
    Facts, Output, Signature, Task,
    tensor::{DataType, TensorSpec},
};

/// The input of text models.
pub(super) const TEXT: &str = "text";
/// The second input of rerankers.
pub(super) const QUERY: &str = "query";
/// The output of embedders.
pub(super) const EMBEDDING: &str = "embedding";
/// The number of vectors of each text, for models that return several.
pub(super) const LENGTHS: &str = "lengths";
/// The output of rerankers.
pub(super) const SCORE: &str = "score";
/// The output of classifiers.
pub(super) const SCORES: &str = "scores";
/// The output of models that label tokens.
pub(super) const ENTITIES: &str = "entities";

/// Describes a model's inputs and outputs.
pub fn signature(facts: &Facts) -> Signature {
    let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.into(),
    };
    let text = spec(TEXT, DataType::Bytes, &[-1]);
    // A reranker gives one score per pair, which the output's shape does not show.
    let is_of_pairs = facts.task == Task::Rerank;
    let inputs = match is_of_pairs {
        true => vec![spec(QUERY, DataType::Bytes, &[1]), text],
        false => vec![text],
    };
    let output = facts.output();
    let row = i64::from(output.row_len());
    let outputs = match output {
        Output::Tensors => return facts.signature.clone(),
        Output::Dense { .. } | Output::Sparse { .. } => {
            vec![spec(EMBEDDING, DataType::Fp32, &[-1, row])]
        }
        // Texts have different numbers of vectors, so shorter ones are padded with rows of zeros.
        Output::MultiVector { .. } => vec![
            spec(EMBEDDING, DataType::Fp32, &[-1, -1, row]),
            spec(LENGTHS, DataType::Int32, &[-1]),
        ],
        Output::Scores { .. } if is_of_pairs => vec![spec(SCORE, DataType::Fp32, &[-1])],
        Output::Scores { .. } => vec![spec(SCORES, DataType::Fp32, &[-1, row])],
        Output::TokenScores { .. } => vec![spec(ENTITIES, DataType::Bytes, &[-1])],
    };
    Signature { inputs, outputs }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_models_take_bytes_and_return_their_outputs() {
        let with_rows = |task| Facts { dimension: 3, ..Facts::new(task) };
        for (task, inputs, output, shape) in [
            (Task::Embed, &["text"][..], "embedding", &[-1, 3][..]),
            (Task::Sparse, &["text"], "embedding", &[-1, 3]),
            (Task::MultiVector, &["text"], "embedding", &[-1, -1, 3]),
            (Task::TokenClassify, &["text"], "entities", &[-1]),
            (Task::Classify, &["text"], "scores", &[-1, 3]),
            (Task::Rerank, &["query", "text"], "score", &[-1]),
        ] {
            let signature = signature(&with_rows(task));
            let names: Vec<&str> = signature.inputs.iter().map(|spec| spec.name.as_str()).collect();
            assert_eq!(names, inputs);
            assert!(signature.inputs.iter().all(|spec| spec.datatype == DataType::Bytes));
            let spec = &signature.outputs[0];
            assert_eq!((spec.name.as_str(), &spec.shape[..]), (output, shape));
        }
    }
}
