//! Tests labels and scores, with a task that stands in for the dispatcher and its workers.

use bytes::Bytes;
use onnxd_proto::wire::operation::{Content, Operation};

use super::*;
use crate::engine::{
    ErrorKind,
    tests::{answer_with, bytes, engine, facts},
};

fn with_labels(labels: &[&str]) -> Facts {
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    Facts { labels, ..facts(Task::Classify) }
}

fn zero_shot(texts: &[&str], labels: &[&str], multi_label: bool) -> ZeroShot {
    let owned = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    ZeroShot {
        texts: owned(texts),
        field: "inputs",
        labels: owned(labels),
        template: "This example is {}.".into(),
        multi_label,
        options: TextOptions::cut(),
    }
}

fn scores(ranked: &[LabelScore]) -> Vec<(usize, f32)> {
    ranked.iter().map(|LabelScore { label, score }| (*label, *score)).collect()
}

/// Stands in for an entailment model that prefers shorter hypotheses.
async fn classified(
    labels: &[&str],
    request: ZeroShot,
) -> Result<Vec<Vec<LabelScore>>, EngineError> {
    let (engine, incoming) = engine(with_labels(labels));
    answer_with(incoming, |item| {
        let Operation::Text { text, output: TextOutput::Scores } = &item.input.operation else {
            panic!("{item:?}")
        };
        let Content::Pair { first_bytes: 1, cut: PairCut::First } = text.content else {
            panic!("{text:?}")
        };
        let hypothesis = std::str::from_utf8(&item.input.parts[1]).unwrap();
        let label = hypothesis.strip_prefix("This example is ").unwrap().strip_suffix('.').unwrap();
        let entails = match label {
            "sure" => 2.0_f32.ln(),
            _ => 0.0,
        };
        (bytes(&[0.0, 7.0, entails]), Vec::new())
    });
    let (model, context) = (engine.find(None).unwrap(), RequestContext::new());
    engine.zero_shot(&context, model, request).await.map(|answer| answer.output)
}

#[tokio::test]
async fn label_scores_sum_to_one_or_are_independent() {
    let nli = ["contradiction", "neutral", "Entailment"];
    let near = |(label, score): (usize, f32), expected: (usize, f32)| {
        assert_eq!(label, expected.0);
        assert!((score - expected.1).abs() < 1e-6, "{score}");
    };
    let request = zero_shot(&["a", "b"], &["maybe", "sure", "perhaps"], false);
    let texts = classified(&nli, request).await.unwrap();
    assert_eq!(texts.len(), 2);
    for text in texts {
        let expected = [(1, 0.5), (0, 0.25), (2, 0.25)];
        scores(&text).into_iter().zip(expected).for_each(|(score, expected)| near(score, expected));
    }
    let request = zero_shot(&["a"], &["maybe", "sure"], true);
    let texts = classified(&nli, request).await.unwrap();
    let each = scores(&texts[0]);
    near(each[0], (1, 2.0 / 3.0));
    near(each[1], (0, 0.5));
    let texts = classified(&nli, zero_shot(&["a"], &["sure"], false)).await.unwrap();
    near(scores(&texts[0])[0], (0, 2.0 / 3.0));
}

#[tokio::test]
async fn invalid_zero_shot_requests_name_the_field_at_fault() {
    let nli = ["entailment", "neutral", "contradiction"];
    let error = classified(&["good", "bad"], zero_shot(&["a"], &["b"], false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongTask);
    assert!(error.message().contains("good, bad"), "{error}");
    let many = vec!["b"; PAIRS_MAX + 1];
    let template =
        |template: &str| ZeroShot { template: template.into(), ..zero_shot(&["a"], &["b"], false) };
    for (request, field) in [
        (zero_shot(&["a"], &[], false), "candidate_labels"),
        (zero_shot(&["a"], &many, false), "candidate_labels"),
        (template("no place"), "hypothesis_template"),
        (template("{} and {}"), "hypothesis_template"),
    ] {
        let error = classified(&nli, request).await.unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some(field)), "{error}");
    }
}

#[tokio::test]
async fn entities_are_parsed_from_the_workers_list() {
    let (engine, incoming) = engine(facts(Task::TokenClassify));
    let found = r#"[{"label":"PER","score":0.5,"word":"Ada","start":0,"stop":3,"index":null}]"#;
    answer_with(incoming, |item| {
        let Operation::Text { output, .. } = &item.input.operation else { panic!("{item:?}") };
        assert_eq!(*output, TextOutput::Entities(Aggregation::Max));
        (Bytes::from_static(found.as_bytes()), Vec::new())
    });
    let (model, context) = (engine.find(None).unwrap(), RequestContext::new());
    let request = FindEntities {
        texts: vec!["Ada".into()],
        field: "inputs",
        options: TextOptions::cut(),
        aggregation: Aggregation::Max,
    };
    let answer = engine.find_entities(&context, model, request).await.unwrap();
    assert_eq!((answer.output[0][0].label.as_str(), answer.output[0][0].stop), ("PER", 3));
}

#[test]
fn rerank_scores_never_use_softmax() {
    let with = |task, activation| model_activation(&Facts { activation, ..Facts::new(task) });
    assert_eq!(with(Task::Rerank, Activation::Softmax), Activation::Sigmoid);
    assert_eq!(with(Task::Rerank, Activation::Identity), Activation::Identity);
    assert_eq!(with(Task::Classify, Activation::Softmax), Activation::Softmax);
}
