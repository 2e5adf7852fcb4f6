//! Choosing among the outputs of real exports.

use super::*;

fn spec(name: &str, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype: DataType::Fp32, shape: shape.into() }
}

fn context(task: Task) -> OutputContext<'static> {
    OutputContext {
        task,
        own: None,
        is_listed: false,
        is_pooled_outside: false,
        vocabulary: Some(252),
        is_generative: false,
        file: "onnx/model.onnx",
    }
}

fn chosen(outputs: &[TensorSpec], context: &OutputContext<'_>) -> Result<(String, Part), Refusal> {
    choose(outputs, context, &mut Vec::new()).map(|chosen| (chosen.name, chosen.part))
}

#[test]
fn finished_embedding_wins_unless_modules_pool() {
    let both = [spec("last_hidden_state", &[-1, -1, 32]), spec("sentence_embedding", &[-1, 32])];
    let inside = context(Task::Embed);
    let outside = OutputContext { is_listed: true, is_pooled_outside: true, ..inside };
    assert_eq!(chosen(&both, &inside).unwrap(), ("sentence_embedding".into(), Part::Finished));
    assert_eq!(chosen(&both, &outside).unwrap(), ("last_hidden_state".into(), Part::Tokens));
    assert_eq!(chosen(&both[1..], &outside).unwrap().1, Part::Finished);
    let own = OutputContext { own: Some("last_hidden_state"), ..inside };
    assert_eq!(chosen(&both, &own).unwrap().1, Part::Tokens);
    let message = chosen(&both, &OutputContext { own: Some("x"), ..inside }).unwrap_err().message;
    assert!(message.contains("sentence_embedding") && message.contains("onnxd.toml"), "{message}");
}

#[test]
fn token_vectors_win_over_the_pooler() {
    let both = [spec("last_hidden_state", &[-1, -1, 32]), spec("pooler_output", &[-1, 32])];
    let context = context(Task::Embed);
    assert_eq!(chosen(&both, &context).unwrap(), ("last_hidden_state".into(), Part::Tokens));
    let mut guesses = Vec::new();
    assert_eq!(choose(&both[1..], &context, &mut guesses).unwrap().part, Part::Texts);
    assert_eq!(guesses[0].key, "output");
}

#[test]
fn decoder_cache_outputs_are_ignored() {
    let mut outputs = vec![spec("last_hidden_state", &[-1, -1, 32])];
    outputs.push(spec("present.0.key", &[-1, 2, -1, 8]));
    assert_eq!(chosen(&outputs, &context(Task::Embed)).unwrap().0, "last_hidden_state");
}

#[test]
fn non_embedding_output_is_refused_with_a_suggestion() {
    for (output, words) in [
        (spec("logits", &[-1, -1, 252]), ["predicts tokens", "task = \"sparse\""]),
        (spec("logits", &[-1, -1, 8]), ["labels tokens", "task = \"token_classify\""]),
        (spec("logits", &[-1, 3]), ["scores texts", "task = \"classify\""]),
        (spec("scores", &[-1, 1]), ["one component", "task = \"rerank\""]),
        (spec("output_0", &[-1, -1, 252]), ["predicts tokens", "task = \"rerank\""]),
    ] {
        let message = chosen(&[output], &context(Task::Embed)).unwrap_err().message;
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert!(message.contains("onnx/model.onnx"), "{message}");
    }
}

#[test]
fn every_task_uses_the_output_that_it_needs() {
    let (tokens, texts) = (spec("logits", &[-1, -1, 252]), spec("logits", &[-1, 3]));
    for (task, output, part) in [
        (Task::Sparse, &tokens, Part::Tokens),
        (Task::TokenClassify, &tokens, Part::Tokens),
        (Task::Classify, &texts, Part::Texts),
        (Task::Rerank, &texts, Part::Texts),
    ] {
        assert_eq!(
            chosen(std::slice::from_ref(output), &context(task)).unwrap().1,
            part,
            "{task:?}"
        );
    }
    let generative = OutputContext { is_generative: true, ..context(Task::Rerank) };
    assert_eq!(chosen(&[tokens], &generative).unwrap().1, Part::Tokens);
    let message = chosen(&[texts], &generative).unwrap_err().message;
    assert!(message.contains("vocabulary") && message.contains("logits"), "{message}");
}
