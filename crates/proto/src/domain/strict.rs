//! The rule behind `--strict`: a version's files must state every setting, and they are followed
//! exactly. The checker refuses by this rule. The engine rechecks a recorded version that violates
//! it.

use std::fmt::Write as _;

use super::{Facts, Refusal, RefusalKind};

impl Facts {
    /// Returns whether nothing was guessed and no declared length was shortened.
    pub fn is_certain(&self) -> bool {
        self.guesses.is_empty() && self.shortened.is_none()
    }

    /// Refuses a version with a guessed setting or a shortened maximum length.
    ///
    /// # Errors
    /// Lists each guess with the line of `onnxd.toml` that settles it.
    pub fn require_certain(&self) -> Result<(), Refusal> {
        match describe(self) {
            None => Ok(()),
            Some(message) => Err(RefusalKind::Contract.because(message)),
        }
    }
}

fn describe(facts: &Facts) -> Option<String> {
    let guesses = facts.guesses.iter().map(|guess| {
        let line = guess.line();
        (format!("{line} is a guess ({})", guess.reason), line)
    });
    let shortened = facts.shortened.as_ref().map(|shortened| {
        let (declared, tokens) = (shortened.declared_tokens, facts.max_tokens);
        let reason = &shortened.reason;
        (
            format!("texts would be limited to {tokens} tokens instead of {declared} ({reason})"),
            format!("max_tokens = {tokens}"),
        )
    });
    let found: Vec<(String, String)> = guesses.chain(shortened).collect();
    if found.is_empty() {
        return None;
    }
    let mut message = String::from("--strict: ");
    let mut lines = String::new();
    for (index, (what, line)) in found.iter().enumerate() {
        let _ = write!(message, "{}{what}", if index > 0 { "; " } else { "" });
        let _ = write!(lines, "{}`{line}`", if index > 0 { ", " } else { "" });
    }
    let _ = write!(message, ". Set it in onnxd.toml: {lines}");
    Some(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Guess, Shortened, Task};

    #[test]
    fn guesses_and_shortened_texts_are_named_with_their_settings() {
        let certain = Facts { max_tokens: 64, ..Facts::new(Task::Embed) };
        assert_eq!(certain.require_certain(), Ok(()));
        let guess = |key: &str, value: &str| Guess {
            key: key.into(),
            value: value.into(),
            reason: "no file says it".into(),
        };
        let uncertain = Facts {
            guesses: vec![guess("pooling", "mean"), guess("normalize", "true")],
            shortened: Some(Shortened { declared_tokens: 128, reason: "--check-memory".into() }),
            ..certain
        };
        let message = uncertain.require_certain().unwrap_err().message;
        for words in [
            "--strict",
            "no file says it",
            "64 tokens instead of 128 (--check-memory)",
            "`pooling = \"mean\"`, `normalize = true`, `max_tokens = 64`",
        ] {
            assert!(message.contains(words), "{words}: {message}");
        }
    }
}
