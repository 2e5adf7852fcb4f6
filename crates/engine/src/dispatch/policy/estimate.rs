//! Estimates how much work an item is, before it is tokenized or run. Pure. Learns from the
//! workers' answers how many tokens a piece of text becomes and how long runs take.

use onnxd_proto::{
    domain::cost::CostTable,
    wire::operation::{Content, Operation},
};

/// Special tokens around most texts.
const SPECIAL_TOKENS: f32 = 2.0;
/// Tokens per piece of English prose; the initial value.
const TOKENS_PER_PIECE: f32 = 1.15;
/// The fraction of the error that one answer corrects.
const RATE: f32 = 0.05;
/// The same for tensors, whose sizes change with their clients.
const TENSORS_RATE: f32 = 0.3;
/// The approximate cost of a tokenizer call without a model run.
const TOKENIZER_MICROS: u32 = 100;

/// The estimates for one model.
#[derive(Clone, Debug)]
pub struct Estimate {
    costs: CostTable,
    tokens_per_piece: f32,
    max_tokens: u32,
    /// What the tensors of one request cost, once observed. Their size is unknown when a version is
    /// compiled.
    tensors_micros: Option<f32>,
}

/// The estimated work of one item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Tokens, including special ones.
    pub tokens: u32,
    /// The time of a run with only this item, in microseconds.
    pub micros: u32,
    /// The size of its payload.
    pub bytes: usize,
}

/// The size of an item, as far as it is known before tokenizing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A text with this number of [`pieces`].
    Pieces(u32),
    /// Token ids sent by the client.
    Tokens(u32),
    /// Tensors; all are assumed to be the same size.
    Tensors,
    /// Tokenizer calls, which run no model.
    TokenizerOnly,
}

impl Size {
    /// Returns the size of an item whose payload is `parts`.
    pub fn new<'p>(operation: &Operation, parts: impl Iterator<Item = &'p [u8]>) -> Self {
        match operation {
            Operation::Text { text, .. } if text.content == Content::Ids => {
                let tokens = parts.map(|part| part.len() / 4).sum::<usize>();
                Self::Tokens(u32::try_from(tokens).unwrap_or(u32::MAX))
            }
            Operation::Text { .. } => Self::Pieces(parts.map(pieces).fold(0, u32::saturating_add)),
            Operation::Tokenize { .. } | Operation::Decode { .. } => Self::TokenizerOnly,
            Operation::Tensors { .. } => Self::Tensors,
        }
    }
}

impl Default for Estimate {
    fn default() -> Self {
        Self {
            costs: CostTable::default(),
            tokens_per_piece: TOKENS_PER_PIECE,
            max_tokens: u32::MAX,
            tensors_micros: None,
        }
    }
}

impl Estimate {
    /// Records that a worker has loaded a version with these run costs and this maximum text
    /// length.
    pub fn loaded(&mut self, costs: CostTable, max_tokens: u32) {
        if costs.is_plausible() {
            self.costs = costs;
        }
        self.max_tokens = max_tokens.max(1);
    }

    /// Returns the work of an item of this size.
    pub fn work(&self, size: Size, bytes: usize) -> Work {
        let tokens = match size {
            Size::TokenizerOnly => return Work { tokens: 1, micros: TOKENIZER_MICROS, bytes },
            Size::Tensors => return Work { tokens: 1, micros: self.micros(1, 1), bytes },
            Size::Tokens(tokens) => tokens.clamp(1, self.max_tokens),
            Size::Pieces(pieces) => {
                let tokens = nearest(SPECIAL_TOKENS + to_f32(pieces) * self.tokens_per_piece);
                tokens.clamp(1, self.max_tokens)
            }
        };
        Work { tokens, micros: self.micros(1, tokens), bytes }
    }

    /// Returns how long one run takes, in microseconds.
    pub fn micros(&self, texts: usize, tokens: u32) -> u32 {
        let predicted = self.costs.predict(texts, tokens as usize);
        match self.tensors_micros {
            // Scale the measured costs, so that batching saves the same fraction as it did when
            // measured.
            Some(single) => nearest(predicted * single / self.costs.predict(1, tokens as usize)),
            None => nearest(predicted),
        }
    }

    /// Learns from the number of tokens of an answered text.
    pub fn tokenized(&mut self, size: Size, tokens: u32) {
        let Size::Pieces(pieces) = size else { return };
        // Truncated texts carry no information.
        if tokens < self.max_tokens && pieces > 0 {
            let seen = (to_f32(tokens) - SPECIAL_TOKENS).max(0.0) / to_f32(pieces);
            self.tokens_per_piece += RATE * (seen - self.tokens_per_piece);
        }
    }

    /// Learns from a run of the tensors of `requests` requests.
    pub fn ran_tensors(&mut self, requests: usize, micros: u32) {
        let ratio = self.costs.predict(requests, 1) / self.costs.predict(1, 1);
        let single = to_f32(micros) / ratio.max(1.0);
        let known = self.tensors_micros.unwrap_or(single);
        self.tensors_micros = Some(known + TENSORS_RATE * (single - known));
    }

    /// Learns from a micro-batch that a worker ran.
    pub fn ran(&mut self, texts: usize, tokens: u32, micros: u32) {
        self.costs.observe(texts, tokens as usize, to_f32(micros));
    }
}

/// Counts the pieces of a text. Most tokenizers produce at least one token for each word and each
/// punctuation mark. Three bytes beyond ASCII count as one piece: a Chinese character, or half a
/// Russian word.
pub fn pieces(text: &[u8]) -> u32 {
    let (mut pieces, mut beyond, mut in_word) = (0_u32, 0_u32, false);
    for byte in text {
        let is_word = byte.is_ascii_alphanumeric();
        let begins = is_word && !in_word || byte.is_ascii_punctuation();
        pieces = pieces.saturating_add(u32::from(begins));
        beyond = beyond.saturating_add(u32::from(!byte.is_ascii()));
        in_word = is_word;
    }
    pieces.saturating_add(beyond.div_ceil(3))
}

#[expect(clippy::cast_precision_loss, reason = "estimates")]
fn to_f32(count: u32) -> f32 {
    count as f32
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
fn nearest(value: f32) -> u32 {
    value.round() as u32
}

#[cfg(test)]
mod tests {
    use onnxd_proto::wire::operation::{TextOperation, TextOutput};

    use super::*;

    #[test]
    fn longer_texts_are_more_work_up_to_the_maximum() {
        let mut estimate = Estimate::default();
        estimate.loaded(CostTable::default(), 256);
        let sizes = [0, 8, 80, 800, u32::MAX].map(Size::Pieces);
        let work: Vec<Work> = sizes.map(|size| estimate.work(size, 0)).into();
        assert!(work.is_sorted_by_key(|work| (work.tokens, work.micros)));
        assert_eq!((work[0].tokens, work[1].tokens, work[4].tokens), (2, 11, 256));
        assert_eq!(work[3], work[4], "longer texts are truncated");
    }

    #[test]
    fn answers_correct_the_tokens_per_piece() {
        let mut estimate = Estimate::default();
        estimate.loaded(CostTable::default(), 256);
        (0..200).for_each(|_| estimate.tokenized(Size::Pieces(100), 52));
        assert_eq!(estimate.work(Size::Pieces(200), 0).tokens, 102);
        (0..200).for_each(|_| estimate.tokenized(Size::Pieces(10_000), 256));
        assert_eq!(
            estimate.work(Size::Pieces(200), 0).tokens,
            102,
            "truncated texts carry no information"
        );
        estimate.tokenized(Size::Pieces(0), 9);
        assert_eq!(estimate.work(Size::Pieces(200), 0).tokens, 102, "nor do empty texts");
    }

    #[test]
    fn token_ids_are_counted_and_texts_split_into_pieces() {
        let truncate = None;
        let text = |content| Operation::Text {
            text: TextOperation { content, truncate, ..TextOperation::default() },
            output: TextOutput::Scores,
        };
        let size = |content, bytes: &[u8]| Size::new(&text(content), [bytes].into_iter());
        assert_eq!(size(Content::Ids, &[0; 12]), Size::Tokens(3));
        assert_eq!(size(Content::Text, b"how big"), Size::Pieces(2));
    }

    #[test]
    fn pieces_approximate_the_tokens_of_a_text() {
        let texts = [("", 0), ("a", 1), ("How big is London?", 5), ("9,787,426 (2011)", 8)];
        for (text, expected) in texts.into_iter().chain([("東京は", 3), ("Москва", 4)]) {
            assert_eq!(pieces(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_cost_of_tensors_is_learned_in_a_few_runs() {
        let mut estimate = Estimate::default();
        (0..10).for_each(|_| estimate.ran_tensors(1, 80_000));
        assert!((79_000..81_000).contains(&estimate.work(Size::Tensors, 9).micros));
        assert!(estimate.micros(4, 1) >= 80_000, "{}", estimate.micros(4, 1));
        (0..20).for_each(|_| estimate.ran_tensors(1, 100));
        assert!(estimate.work(Size::Tensors, 9).micros < 300);
        // Four requests took 80 ms together; the estimate for one is lower, but at least a quarter.
        let mut estimate = Estimate::default();
        estimate.ran_tensors(4, 80_000);
        assert_eq!(estimate.micros(4, 1), 80_000);
        assert!((20_000..80_000).contains(&estimate.micros(1, 1)), "{}", estimate.micros(1, 1));
    }

    #[test]
    fn answers_correct_the_cost_of_runs() {
        let mut estimate = Estimate::default();
        (0..300).for_each(|_| estimate.ran(1, 16, 500));
        assert!((450..600).contains(&estimate.micros(1, 16)), "{}", estimate.micros(1, 16));
    }
}
