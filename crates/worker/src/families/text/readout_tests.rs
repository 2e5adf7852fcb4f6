//! Every kind of readout on small outputs.

use onnxd_proto::domain::PoolingMode;

use super::*;
use crate::session::Tokens;

fn prepared(tokens: usize, attended: usize, unpooled: usize) -> Prepared {
    let tokens = Tokens { ids: vec![1; tokens], type_ids: vec![0; tokens], attended };
    Prepared { tokens, unpooled, ..Prepared::default() }
}

fn read(readout: &Readout, shape: &[usize], values: &[f32], texts: &[Prepared]) -> Option<Numbers> {
    let mut numbers = Numbers::default();
    let texts: Vec<&Prepared> = texts.iter().collect();
    let output = Output { values, shape };
    readout.read(&output, &texts, Rows::Pooled, &mut numbers).ok()?;
    Some(numbers)
}

#[test]
fn padding_and_prompts_are_not_pooled() {
    let readout = Readout::Pooled {
        token_steps: Vec::new(),
        pooling: PoolingMode::Mean.into(),
        steps: Vec::new(),
    };
    let values = [1.0, 2.0, 9.0, 3.0, 5.0, 7.0];
    let texts = [prepared(2, 2, 0), prepared(3, 3, 1)];
    let numbers = read(&readout, &[2, 3, 1], &values, &texts).unwrap();
    assert_eq!((&numbers.values[..], &numbers.lengths[..]), (&[1.5, 6.0][..], &[1, 1][..]));
    assert_eq!(read(&readout, &[2, 2, 1], &values, &texts), None, "a token is missing");
    assert_eq!(read(&readout, &[2, 3], &values, &texts), None);
}

#[test]
fn yes_no_logits_come_from_the_last_token() {
    let readout = Readout::YesNo { yes: 1, no: Some(0) };
    let texts = [prepared(1, 1, 0), prepared(2, 2, 0)];
    let values = [1.0, 4.0, 0.0, 0.0, 9.0, 9.0, 5.0, 3.0];
    let numbers = read(&readout, &[2, 2, 2], &values, &texts).unwrap();
    assert_eq!(numbers.values, [3.0, -2.0]);
    let last = read(&readout, &[2, 1, 2], &values[..4], &[prepared(2, 2, 0), prepared(2, 2, 0)]);
    assert_eq!(last.unwrap().values, [3.0, 0.0]);
    assert_eq!(
        read(&Readout::YesNo { yes: 9, no: None }, &[1, 1, 2], &values[..2], &texts[..1]),
        None
    );
}

#[test]
fn late_interaction_keeps_normalized_tokens_that_count() {
    let mut text = prepared(3, 2, 0);
    text.kept = vec![true, false, true];
    let values = [3.0, 4.0, 1.0, 1.0, 0.0, 2.0];
    let numbers = read(&Readout::Late(Vec::new()), &[1, 3, 2], &values, &[text]).unwrap();
    assert_eq!((&numbers.values[..], &numbers.lengths[..]), (&[0.6, 0.8, 0.0, 1.0][..], &[4][..]));
}

#[test]
fn two_labels_yield_one_score() {
    let readout = Readout::Pair { yes: 1, no: 0 };
    let numbers = read(&readout, &[2, 2], &[0.5, 2.0, 1.0, -1.0], &[]).unwrap();
    assert_eq!(numbers.values, [1.5, -2.0]);
    assert_eq!(read(&readout, &[1, 1], &[0.5], &[]), None);
}
