//! Builds items from texts, pairs and token ids, and enforces the limits that apply before
//! tokenizing. Truncates texts that are too long if truncation is on. Pure.

use bytes::Bytes;
use onnxd_proto::{
    limits::TEXT_BYTES_MAX,
    wire::ask::{Ask, Content, PairCut, Side, TextAsk, Want},
};

use super::{
    EngineError,
    options::TextOptions,
    texts::{Text, TextOrPair},
};
use crate::dispatch::Input;

/// Maximum bytes of all pairs of one request.
const PAIRS_BYTES_MAX: usize = 8 << 20;

/// Builds the items of texts or token ids, ready for the queue.
///
/// # Errors
/// A text is too long.
pub(super) fn items(
    texts: Vec<Text>,
    field: &'static str,
    options: &TextOptions,
    want: Want,
) -> Result<Vec<Input>, EngineError> {
    options.check()?;
    texts.into_iter().map(|text| item(text, field, options, want)).collect()
}

/// Builds the items of texts and pairs to score.
///
/// # Errors
/// A text or pair is too long.
pub(super) fn scored(
    inputs: Vec<TextOrPair>,
    field: &'static str,
    options: &TextOptions,
) -> Result<Vec<Input>, EngineError> {
    options.check()?;
    let scored = |input| match input {
        TextOrPair::Text(text) => item(Text::Text(text), field, options, Want::Scores),
        TextOrPair::Pair(first, second) => {
            let pair = Pair { first: &first.into(), second: second.into(), cut: PairCut::Longest };
            pair.item(field, options)
        }
    };
    inputs.into_iter().map(scored).collect()
}

/// Builds the items of one text paired with each of the others.
///
/// # Errors
/// The pairs are too long.
pub(super) fn pairs<'t>(
    query: &Bytes,
    texts: impl Iterator<Item = &'t String>,
    field: &'static str,
    options: &TextOptions,
) -> Result<Vec<Input>, EngineError> {
    options.check()?;
    let pair = |text: &String| {
        let second = Bytes::copy_from_slice(text.as_bytes());
        Pair { first: query, second, cut: PairCut::Longest }.item(field, options)
    };
    let mut bytes = 0;
    let counted = |item: Result<Input, EngineError>| {
        bytes += item.as_ref().map_or(0, |item| item.parts.iter().map(Bytes::len).sum());
        check_pairs(bytes, field)?;
        item
    };
    texts.map(pair).map(counted).collect()
}

/// Checks the total bytes of all pairs. The query is repeated in each pair, so a short body could
/// otherwise ask for hours of work.
pub(super) fn check_pairs(bytes: usize, field: &'static str) -> Result<(), EngineError> {
    match bytes {
        0..=PAIRS_BYTES_MAX => Ok(()),
        _ => Err(EngineError::PairsTooLong { field, bytes, max: PAIRS_BYTES_MAX }),
    }
}

/// Checks the length of a text that is never truncated.
///
/// # Errors
/// The text is too long.
pub(super) fn check_length(bytes: usize, field: &'static str) -> Result<(), EngineError> {
    if bytes > TEXT_BYTES_MAX {
        return Err(EngineError::TextTooLong { field, bytes });
    }
    Ok(())
}

/// Returns token ids as a payload.
pub(super) fn id_bytes(ids: &[u32]) -> Bytes {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn item(
    text: Text,
    field: &'static str,
    options: &TextOptions,
    want: Want,
) -> Result<Input, EngineError> {
    let (content, payload) = match text {
        Text::Text(text) => {
            (Content::Text, shorten(&text.into(), TEXT_BYTES_MAX, field, options.truncate)?)
        }
        Text::Ids(ids) => {
            check_length(size_of_val(&ids[..]), field)?;
            (Content::Ids, id_bytes(&ids))
        }
    };
    let text = TextAsk { content, ..options.ask() };
    Ok(Input { ask: Ask::Text { text, want }, parts: vec![payload] })
}

/// Two texts that form a pair.
pub(super) struct Pair<'p> {
    pub(super) first: &'p Bytes,
    pub(super) second: Bytes,
    pub(super) cut: PairCut,
}

impl Pair<'_> {
    /// Builds the item of a pair to score.
    ///
    /// # Errors
    /// The pair is too long, and truncating the permitted part is not enough.
    pub(super) fn item(
        self,
        field: &'static str,
        options: &TextOptions,
    ) -> Result<Input, EngineError> {
        let Self { first, second, cut } = self;
        let bytes = first.len() + second.len();
        let (first_max, second_max) = shares(first.len(), second.len(), cut)
            .ok_or(EngineError::TextTooLong { field, bytes })?;
        if options.truncate.is_none() {
            check_length(bytes, field)?;
        }
        let first = shorten(first, first_max, field, options.truncate)?;
        let second = shorten(&second, second_max, field, options.truncate)?;
        let first_bytes = u32::try_from(first.len()).expect("at most TEXT_BYTES_MAX");
        let text = TextAsk { content: Content::Pair { first_bytes, cut }, ..options.ask() };
        Ok(Input { ask: Ask::Text { text, want: Want::Scores }, parts: vec![first, second] })
    }
}

/// Returns the maximum bytes of each text, divided the way their tokens are truncated.
fn shares(first: usize, second: usize, cut: PairCut) -> Option<(usize, usize)> {
    let half = TEXT_BYTES_MAX / 2;
    if first + second <= TEXT_BYTES_MAX {
        return Some((first, second));
    }
    match cut {
        PairCut::First => Some((TEXT_BYTES_MAX.checked_sub(second)?, second)),
        PairCut::Longest if first <= half => Some((first, TEXT_BYTES_MAX - first)),
        PairCut::Longest if second <= half => Some((TEXT_BYTES_MAX - second, second)),
        PairCut::Longest => Some((half, half)),
    }
}

/// Truncates a text to `max` bytes at a character boundary, at the end that `truncate` cuts.
fn shorten(
    text: &Bytes,
    max: usize,
    field: &'static str,
    truncate: Option<Side>,
) -> Result<Bytes, EngineError> {
    let bytes = text.len();
    if bytes <= max {
        return Ok(text.clone());
    }
    // A UTF-8 continuation byte is not a character boundary.
    let is_inside = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    match truncate {
        None => Err(EngineError::TextTooLong { field, bytes }),
        Some(Side::Right | Side::Model) => {
            let end = (0..=max).rev().find(|at| !is_inside(at)).unwrap_or(0);
            Ok(text.slice(..end))
        }
        Some(Side::Left) => {
            let start = (bytes - max..=bytes).find(|at| !is_inside(at)).unwrap_or(bytes);
            Ok(text.slice(start..))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(side: Side) -> TextOptions {
        TextOptions { truncate: Some(side), ..TextOptions::default() }
    }

    fn pair(first: &str, second: &str, cut: PairCut, side: Side) -> [usize; 2] {
        let pair = Pair { first: &first.to_owned().into(), second: second.to_owned().into(), cut };
        let item = pair.item("inputs", &self::cut(side)).unwrap();
        [item.parts[0].len(), item.parts[1].len()]
    }

    #[test]
    fn long_texts_are_truncated_at_a_character_boundary() {
        let long = format!("a{}z", "\u{e4}".repeat(TEXT_BYTES_MAX / 2));
        let one = |options: &TextOptions| {
            let texts = vec![Text::Text(long.clone())];
            let want = Want::Embedding { normalize: None, dimensions: None };
            items(texts, "inputs", options, want).map(|items| items[0].parts[0].clone())
        };
        let right = one(&cut(Side::Right)).unwrap();
        assert_eq!((right.len(), right[0]), (TEXT_BYTES_MAX - 1, b'a'));
        let left = one(&cut(Side::Left)).unwrap();
        assert_eq!((left.len(), left[left.len() - 1]), (TEXT_BYTES_MAX - 1, b'z'));
        assert!([right, left].iter().all(|text| std::str::from_utf8(text).is_ok()));
        let error = one(&TextOptions::default()).unwrap_err();
        assert!(matches!(error, EngineError::TextTooLong { field: "inputs", .. }), "{error}");
    }

    #[test]
    fn long_pairs_are_truncated_as_their_tokens_are() {
        let [short, long] = [1000, TEXT_BYTES_MAX].map(|bytes| "a".repeat(bytes));
        let rest = TEXT_BYTES_MAX - 1000;
        for side in [Side::Left, Side::Right] {
            assert_eq!(pair(&short, &long, PairCut::Longest, side), [1000, rest]);
            assert_eq!(pair(&long, &short, PairCut::Longest, side), [rest, 1000]);
            assert_eq!(pair(&long, &long, PairCut::Longest, side), [TEXT_BYTES_MAX / 2; 2]);
            assert_eq!(pair(&long, &short, PairCut::First, side), [rest, 1000]);
            assert_eq!(pair(&short, &short, PairCut::First, side), [1000, 1000]);
        }
        let too_long = "a".repeat(TEXT_BYTES_MAX + 1);
        let pair = Pair { first: &short.into(), second: too_long.into(), cut: PairCut::First };
        assert!(pair.item("inputs", &cut(Side::Right)).is_err());
    }

    #[test]
    fn the_total_size_of_pairs_is_limited() {
        let query = Bytes::from("a".repeat(100_000));
        let texts = vec![String::new(); PAIRS_BYTES_MAX / 100_000 + 1];
        let error = pairs(&query, texts.iter(), "texts", &TextOptions::cut()).unwrap_err();
        assert!(matches!(error, EngineError::PairsTooLong { field: "texts", .. }), "{error}");
        assert!(pairs(&query, texts[1..].iter(), "texts", &TextOptions::cut()).is_ok());
    }
}
