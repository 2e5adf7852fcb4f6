//! Measures token lengths, for models that cut texts by characters.

use super::Tokenizer;

impl Tokenizer {
    /// Returns the median number of characters per token, rounded down. model2vec cuts a text to
    /// this many characters for each token of its limit before it tokenizes it.
    pub(crate) fn median_token_chars(&self) -> usize {
        let vocabulary = self.inner.tokenizer.get_vocab(true);
        let mut lengths: Vec<usize> =
            vocabulary.into_keys().map(|token| token.chars().count()).collect();
        lengths.sort_unstable();
        match (lengths.get(lengths.len().saturating_sub(1) / 2), lengths.get(lengths.len() / 2)) {
            (Some(low), Some(high)) => usize::midpoint(*low, *high),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::{own::Own, text::files::Files};

    /// The expected values are numpy's median of the words' lengths, truncated.
    #[test]
    fn median_is_rounded_down() {
        for (words, expected) in [
            (&["a", "bb", "ccc"][..], 2),
            (&["a", "bb", "ccc", "dddd"], 2),
            (&["a", "éé", "ccc", "ddddddd", "eeeeeeee", "f"], 2),
            (&["日本語"], 3),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let ids = words.iter().enumerate().map(|(id, word)| format!("\"{word}\": {id}"));
            let vocabulary: Vec<String> = ids.collect();
            let file = format!(
                r#"{{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
                "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null,
                "model": {{"type": "WordLevel", "unk_token": "a", "vocab": {{{}}}}}}}"#,
                vocabulary.join(", ")
            );
            std::fs::write(dir.path().join("tokenizer.json"), file).unwrap();
            let own = Own::default();
            let files = Files::read(dir.path(), &own).unwrap();
            let tokenizer = Tokenizer::open(&files, 8, false).unwrap();
            assert_eq!(tokenizer.median_token_chars(), expected, "{words:?}");
        }
    }
}
