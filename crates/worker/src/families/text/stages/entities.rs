//! Turns token scores into entities, by the strategies of transformers' token classification. Pure;
//! the tokenizer converts tokens to text.

use onnxd_proto::wire::operation::{Aggregation, Entity};

/// A token of the text itself, not a special token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The token in the vocabulary; the text itself for an unknown token.
    pub(crate) word: String,
    /// The start and end of the token in the text, in characters.
    pub(crate) start: usize,
    pub(crate) stop: usize,
    /// Its index among all tokens, including special ones.
    pub(crate) index: usize,
    /// Whether it continues the previous token's word.
    pub(crate) is_subword: bool,
}

/// A span of text with a label and its score.
struct LabeledSpan {
    label: usize,
    score: f32,
    word: String,
    start: usize,
    stop: usize,
    index: usize,
}

/// Returns the entities of a text. `scores` has one row of `labels` per token, including special
/// ones. `join` converts tokens to text.
pub(crate) fn find(
    pieces: &[Piece],
    scores: &[f32],
    labels: &[String],
    aggregation: Aggregation,
    join: impl Fn(&[String]) -> String,
) -> Vec<Entity> {
    let row = |piece: &Piece| {
        let start = piece.index * labels.len();
        softmax(&scores[start..start + labels.len()])
    };
    let single = |piece: &Piece| {
        let (label, score) = best(&row(piece));
        let (start, stop, index) = (piece.start, piece.stop, piece.index);
        LabeledSpan { label, score, word: piece.word.clone(), start, stop, index }
    };
    let labeled: Vec<LabeledSpan> = match aggregation {
        Aggregation::None | Aggregation::Simple => pieces.iter().map(single).collect(),
        Aggregation::First | Aggregation::Average | Aggregation::Max => words(pieces)
            .into_iter()
            .map(|word| {
                let rows: Vec<Vec<f32>> = word.iter().map(row).collect();
                let (label, score) = of_word(&rows, aggregation);
                let parts: Vec<String> = word.iter().map(|piece| piece.word.clone()).collect();
                let (first, last) = (&word[0], &word[word.len() - 1]);
                let (start, stop, index) = (first.start, last.stop, first.index);
                LabeledSpan { label, score, word: join(&parts), start, stop, index }
            })
            .collect(),
    };
    if aggregation == Aggregation::None {
        return labeled.into_iter().map(|one| entity(one, labels)).collect();
    }
    groups(&labeled, labels).iter().map(|group| merge(group, labels, &join)).collect()
}

/// Groups the pieces of each word.
fn words(pieces: &[Piece]) -> Vec<&[Piece]> {
    let mut words = Vec::new();
    let mut start = 0;
    for index in 1..=pieces.len() {
        if pieces.get(index).is_none_or(|piece| !piece.is_subword) {
            words.push(&pieces[start..index]);
            start = index;
        }
    }
    words
}

/// Returns the label of a word from the scores of its pieces.
fn of_word(rows: &[Vec<f32>], aggregation: Aggregation) -> (usize, f32) {
    match aggregation {
        Aggregation::Average => {
            let mean =
                |label: usize| rows.iter().map(|row| row[label]).sum::<f32>() / rows.len() as f32;
            best(&(0..rows[0].len()).map(mean).collect::<Vec<f32>>())
        }
        Aggregation::Max => {
            let mut found = best(&rows[0]);
            for row in &rows[1..] {
                let next = best(row);
                if next.1 > found.1 {
                    found = next;
                }
            }
            found
        }
        Aggregation::None | Aggregation::Simple | Aggregation::First => best(&rows[0]),
    }
}

/// Groups adjacent spans of the same kind, unless a label starts a new entity.
fn groups<'l>(labeled: &'l [LabeledSpan], labels: &[String]) -> Vec<&'l [LabeledSpan]> {
    let mut groups = Vec::new();
    let mut start = 0;
    for index in 1..=labeled.len() {
        let goes_on = labeled.get(index).is_some_and(|next| {
            let (begins, kind) = kind(&labels[next.label]);
            !begins && kind == self::kind(&labels[labeled[index - 1].label]).1
        });
        if !goes_on {
            groups.push(&labeled[start..index]);
            start = index;
        }
    }
    groups
}

fn merge(group: &[LabeledSpan], labels: &[String], join: impl Fn(&[String]) -> String) -> Entity {
    let words: Vec<String> = group.iter().map(|one| one.word.clone()).collect();
    // As in transformers, which splits at any hyphen.
    let label = &labels[group[0].label];
    let label = label.split_once('-').map_or(label.as_str(), |(_, kind)| kind);
    Entity {
        label: label.to_owned(),
        score: group.iter().map(|one| one.score).sum::<f32>() / group.len() as f32,
        word: join(&words),
        start: group[0].start,
        stop: group[group.len() - 1].stop,
        index: None,
    }
}

fn entity(one: LabeledSpan, labels: &[String]) -> Entity {
    let LabeledSpan { label, score, word, start, stop, index } = one;
    Entity { label: labels[label].clone(), score, word, start, stop, index: Some(index) }
}

/// Returns whether a label starts an entity, and the entity's kind.
fn kind(label: &str) -> (bool, &str) {
    match label.split_at_checked(2) {
        Some(("B-", kind)) => (true, kind),
        Some(("I-", kind)) => (false, kind),
        _ => (false, label),
    }
}

/// Returns the highest score, the first one if several are equal.
fn best(scores: &[f32]) -> (usize, f32) {
    let mut found = (0, scores.first().copied().unwrap_or_default());
    for (label, &score) in scores.iter().enumerate().skip(1) {
        if score > found.1 {
            found = (label, score);
        }
    }
    found
}

fn softmax(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.into_iter().map(|value| value / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: [(&str, usize, usize, bool); 4] = [
        ("New", 0, 3, false),
        ("York", 4, 8, false),
        ("##er", 8, 10, true),
        ("waits", 11, 16, false),
    ];

    fn found(labels: &[usize; 4], aggregation: Aggregation) -> Vec<(String, String)> {
        let names = ["O", "B-LOC", "I-LOC", "B-PER"].map(str::to_owned);
        let pieces: Vec<Piece> = TEXT
            .iter()
            .enumerate()
            .map(|(index, &(word, start, stop, is_subword))| Piece {
                word: word.into(),
                start,
                stop,
                index: index + 1,
                is_subword,
            })
            .collect();
        // The first row belongs to a special token.
        let mut scores = vec![0.0; 4];
        for &label in labels {
            scores.extend((0..4).map(|index| if index == label { 3.0 } else { 0.0 }));
        }
        let join = |words: &[String]| words.join(" ").replace(" ##", "");
        let found = find(&pieces, &scores, &names, aggregation, join);
        found.into_iter().map(|entity| (entity.label, entity.word)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(label, word)| ((*label).into(), (*word).into())).collect()
    }

    #[test]
    fn tokens_keep_their_labels_without_aggregation() {
        let expected = [("B-LOC", "New"), ("I-LOC", "York"), ("O", "##er"), ("O", "waits")];
        assert_eq!(found(&[1, 2, 0, 0], Aggregation::None), pairs(&expected));
    }

    #[test]
    fn adjacent_tokens_of_one_kind_form_one_entity() {
        assert_eq!(
            found(&[1, 2, 0, 0], Aggregation::Simple),
            pairs(&[("LOC", "New York"), ("O", "##er waits")])
        );
        assert_eq!(
            found(&[1, 1, 2, 3], Aggregation::Simple),
            pairs(&[("LOC", "New"), ("LOC", "Yorker"), ("PER", "waits")])
        );
    }

    #[test]
    fn word_level_strategies_keep_words_whole() {
        for aggregation in [Aggregation::First, Aggregation::Max] {
            assert_eq!(
                found(&[1, 2, 0, 0], aggregation)[0],
                ("LOC".into(), "New Yorker".into()),
                "{aggregation:?}"
            );
        }
        assert!(find(&[], &[], &[], Aggregation::First, |_| String::new()).is_empty());
    }
}
