//! Operations on texts that return scores and labels: classify, by the model's labels or the
//! request's; rerank; find entities. Scores come with the model's raw outputs, because only those
//! give a reliable order: after activation, two high scores may be equal.

use std::sync::Arc;

use bytes::Bytes;
use onnxd_proto::{
    domain::{Activation, Facts, Task},
    wire::ask::{PairCut, Want},
};

pub use onnxd_proto::wire::ask::{Aggregation, Entity};

use super::{
    Answer, Engine, EngineError, RequestContext,
    answer::Item,
    items::{Pair, check_pairs, items, pairs, scored},
    options::TextOptions,
    scores::{activate, floats, ranked},
    texts::{Text, TextCall, TextOrPair, read_lists},
};
use crate::models::registry::Model;

/// Maximum pairs of a text and a label in one request.
const PAIRS_MAX: usize = 1024;
/// Where a template inserts the label.
const PLACEHOLDER: &str = "{}";

/// Texts to classify.
#[derive(Clone, Debug)]
pub struct Classify {
    pub inputs: Vec<TextOrPair>,
    /// The caller's name for the texts, for errors.
    pub field: &'static str,
    /// How the texts are tokenized.
    pub options: TextOptions,
    /// The function that turns raw outputs into scores; `None` uses the one from the model's files.
    pub activation: Option<Activation>,
}

/// The scores of one text, in the order of the model's labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The model's raw outputs, which determine the order.
    pub raw: Vec<f32>,
    /// The raw outputs after activation.
    pub scores: Vec<f32>,
}

/// Texts to compare with a query.
#[derive(Clone, Debug)]
pub struct Rerank<'t> {
    pub query: String,
    pub texts: &'t [String],
    /// The caller's name for the texts, for errors.
    pub field: &'static str,
    /// How the texts are tokenized.
    pub options: TextOptions,
}

/// Texts to find entities in.
#[derive(Clone, Debug)]
pub struct FindEntities {
    pub texts: Vec<String>,
    /// The caller's name for the texts, for errors.
    pub field: &'static str,
    /// How the texts are tokenized.
    pub options: TextOptions,
    /// How tokens are combined into entities.
    pub aggregation: Aggregation,
}

/// Texts to classify by labels that the model was not trained on.
#[derive(Clone, Debug)]
pub struct ZeroShot {
    pub texts: Vec<String>,
    /// The caller's name for the texts, for errors.
    pub field: &'static str,
    pub labels: Vec<String>,
    /// A sentence with `{}` where the label is inserted.
    pub template: String,
    /// Scores each label independently, rather than all with a sum of 1.
    pub multi_label: bool,
    /// How the texts are tokenized.
    pub options: TextOptions,
}

/// A label of a request and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelScore {
    /// Its index in the request.
    pub label: usize,
    /// Between 0 and 1.
    pub score: f32,
}

impl Engine {
    /// Classifies texts or pairs.
    ///
    /// # Errors
    /// A text is too long, the model's task is different, or inference failed.
    pub async fn classify(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Classify,
    ) -> Result<Answer<Vec<Scored>>, EngineError> {
        let Classify { inputs, field, options, activation } = request;
        let inputs = scored(inputs, field, &options)?;
        let tasks = &[Task::Classify, Task::Rerank];
        let call = TextCall { tasks, options: &options, inputs };
        let answer = self.run_texts(context, model, call).await?;
        let activation = activation.unwrap_or(model_activation(&answer.origin.record.facts));
        let activated = |item: Item| {
            let raw = floats(&item.bytes);
            let mut scores = raw.clone();
            activate(&mut scores, activation);
            Scored { raw, scores }
        };
        Ok(answer.map(|items| items.into_iter().map(activated).collect()))
    }

    /// Scores how well each text answers a query, in the order of the texts. The scores are the
    /// model's raw outputs; their logistic function is the relevance.
    ///
    /// # Errors
    /// The texts are too long, the model's task is different, or inference failed.
    pub async fn rerank(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: Rerank<'_>,
    ) -> Result<Answer<Vec<f32>>, EngineError> {
        let Rerank { query, texts, field, options } = request;
        let inputs = pairs(&query.into(), texts.iter(), field, &options)?;
        let call = TextCall { tasks: &[Task::Rerank], options: &options, inputs };
        let answer = self.run_texts(context, model, call).await?;
        let score =
            |item: &Item| floats(&item.bytes).first().copied().ok_or(EngineError::NoOutputs);
        let Answer { origin, output } = answer;
        let output = output.iter().map(score).collect::<Result<_, _>>()?;
        Ok(Answer { origin, output })
    }

    /// Finds entities in texts.
    ///
    /// # Errors
    /// A text is too long, the model's task is different, or inference failed.
    pub async fn find_entities(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: FindEntities,
    ) -> Result<Answer<Vec<Vec<Entity>>>, EngineError> {
        let FindEntities { texts, field, options, aggregation } = request;
        let texts = texts.into_iter().map(Text::Text).collect();
        let inputs = items(texts, field, &options, Want::Entities(aggregation))?;
        let call = TextCall { tasks: &[Task::TokenClassify], options: &options, inputs };
        let Answer { origin, output } = self.run_texts(context, model, call).await?;
        let output = read_lists(output, Entity::read_list).await?;
        Ok(Answer { origin, output })
    }

    /// Classifies texts by labels of the request. For each label, an entailment model says whether
    /// a sentence with the label follows from the text. The likeliest label comes first.
    ///
    /// # Errors
    /// There are no labels or too many, the template does not have exactly one placeholder, or the
    /// model has no entailment label.
    pub async fn zero_shot(
        &self,
        context: &RequestContext,
        model: &Arc<Model>,
        request: ZeroShot,
    ) -> Result<Answer<Vec<Vec<LabelScore>>>, EngineError> {
        let multi_label = request.multi_label || request.labels.len() == 1;
        let labels = request.labels.len();
        let inputs = request.items()?;
        let tasks = &[Task::Classify];
        let (_, record) = self.ready(context, model, tasks).await?;
        entailment(model.name.as_str(), &record.facts)?;
        let call = TextCall { tasks, options: &request.options, inputs };
        let Answer { origin, output } = self.run_texts(context, model, call).await?;
        // An update may have happened in between.
        let entailment = entailment(model.name.as_str(), &origin.record.facts)?;
        let texts = output.chunks(labels);
        let ranks = texts.map(|items| rank(items, entailment, multi_label));
        let output = ranks.collect::<Result<_, _>>()?;
        Ok(Answer { origin, output })
    }
}

impl ZeroShot {
    /// Builds the pairs of each text with each label's sentence.
    fn items(&self) -> Result<Vec<crate::dispatch::Input>, EngineError> {
        let Self { texts, field, labels, template, options, .. } = self;
        let invalid = |field, message: String| Err(EngineError::Option { message, field });
        if labels.is_empty() {
            return invalid("candidate_labels", "`candidate_labels` cannot be empty".into());
        }
        let count = texts.len().saturating_mul(labels.len());
        if count > PAIRS_MAX {
            let (texts, labels) = (texts.len(), labels.len());
            let message = format!(
                "{texts} texts with {labels} `candidate_labels` make {count} pairs, at most {PAIRS_MAX} are allowed"
            );
            return invalid("candidate_labels", message);
        }
        if template.matches(PLACEHOLDER).count() != 1 {
            let message = format!(
                "`hypothesis_template` must contain `{PLACEHOLDER}` exactly once, where the label is inserted"
            );
            return invalid("hypothesis_template", message);
        }
        let hypothesis = |label: &String| Bytes::from(template.replacen(PLACEHOLDER, label, 1));
        let hypotheses: Vec<Bytes> = labels.iter().map(hypothesis).collect();
        let (mut items, mut bytes) = (Vec::with_capacity(count), 0);
        for text in texts {
            let first = &Bytes::from(text.clone());
            for second in &hypotheses {
                let pair = Pair { first, second: second.clone(), cut: PairCut::First };
                let item = pair.item(field, options)?;
                bytes += item.parts.iter().map(Bytes::len).sum::<usize>();
                check_pairs(bytes, field)?;
                items.push(item);
            }
        }
        Ok(items)
    }
}

/// Returns the activation of a model that classifies or reranks. A reranker gives one number per
/// pair, to which softmax does not apply.
pub(super) fn model_activation(facts: &Facts) -> Activation {
    match (facts.task, facts.activation) {
        (Task::Rerank, Activation::Softmax) => Activation::Sigmoid,
        (_, activation) => activation,
    }
}

/// Returns the index of the label for entailment.
fn entailment(model: &str, facts: &Facts) -> Result<usize, EngineError> {
    let is_entailment = |label: &String| label.to_lowercase().starts_with("entail");
    let found = facts.labels.iter().position(is_entailment).filter(|_| facts.labels.len() > 1);
    found.ok_or_else(|| EngineError::NoEntailment {
        model: model.to_owned(),
        labels: facts.labels.join(", "),
    })
}

/// Ranks the labels of one text by the scores of its pairs, the likeliest first.
fn rank(
    items: &[Item],
    entailment: usize,
    multi_label: bool,
) -> Result<Vec<LabelScore>, EngineError> {
    let pair = |item: &Item| {
        let scores = floats(&item.bytes);
        // As in transformers: the first label, or the last one if the first is entailment.
        let contradiction = if entailment == 0 { scores.last() } else { scores.first() };
        Some((*scores.get(entailment)?, *contradiction?))
    };
    let all = items.iter().map(pair).collect::<Option<Vec<_>>>().ok_or(EngineError::NoOutputs)?;
    // The softmax of two numbers is the logistic function of their difference.
    let raw = |(entails, contradicts): (f32, f32)| {
        if multi_label { entails - contradicts } else { entails }
    };
    let raw: Vec<f32> = all.into_iter().map(raw).collect();
    let mut scores = raw.clone();
    activate(&mut scores, if multi_label { Activation::Sigmoid } else { Activation::Softmax });
    let ranked = ranked(&raw).into_iter();
    Ok(ranked.map(|label| LabelScore { label, score: scores[label] }).collect())
}

#[cfg(test)]
#[path = "labels_tests.rs"]
mod tests;
