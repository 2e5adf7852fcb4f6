//! What `--strict` demands: that a version's files say everything, so that nothing is guessed and
//! nothing is served otherwise than they say.

use std::fmt::Write as _;

use onnxd_proto::domain::{Facts, Refusal, RefusalKind};

/// Refuses a version about which something was guessed, or whose longest text was shortened.
///
/// # Errors
/// Each guess with the line of `onnxd.toml` that settles it.
pub(super) fn require_certain(facts: &Facts) -> Result<(), Refusal> {
    let guesses = facts.guesses.iter().map(|guess| {
        let (key, value, reason) = (&guess.key, &guess.value, &guess.reason);
        (format!("{key} = {value:?} is a guess ({reason})"), format!("{key} = {value:?}"))
    });
    let shortened = facts.shortened.as_ref().map(|shortened| {
        let (declared, tokens) = (shortened.declared_tokens, facts.max_tokens);
        let reason = &shortened.reason;
        (
            format!("texts would have {tokens} tokens, not {declared} ({reason})"),
            format!("max_tokens = {tokens}"),
        )
    });
    let found: Vec<(String, String)> = guesses.chain(shortened).collect();
    if found.is_empty() {
        return Ok(());
    }
    let mut message = String::from("--strict: ");
    let mut lines = String::new();
    for (index, (what, line)) in found.iter().enumerate() {
        let _ = write!(message, "{}{what}", if index > 0 { "; " } else { "" });
        let _ = write!(lines, "{}`{line}`", if index > 0 { ", " } else { "" });
    }
    let _ = write!(message, ". Say it in onnxd.toml: {lines}");
    Err(RefusalKind::Contract.because(message))
}

#[cfg(test)]
mod tests {
    use onnxd_proto::domain::{Guess, Shortened, Task};

    use super::*;

    #[test]
    fn every_guess_and_a_shortened_text_are_named_with_their_lines() {
        let certain = Facts { max_tokens: 64, ..Facts::of(Task::Embed) };
        assert_eq!(require_certain(&certain), Ok(()));
        let guess = |key: &str, value: &str| Guess {
            key: key.into(),
            value: value.into(),
            reason: "no file says it".into(),
        };
        let uncertain = Facts {
            guesses: vec![guess("pooling", "mean"), guess("output", "last_hidden_state")],
            shortened: Some(Shortened { declared_tokens: 128, reason: "--check-memory".into() }),
            ..certain
        };
        let message = require_certain(&uncertain).unwrap_err().message;
        for words in [
            "--strict",
            "no file says it",
            "64 tokens, not 128 (--check-memory)",
            "`pooling = \"mean\"`, `output = \"last_hidden_state\"`, `max_tokens = 64`",
        ] {
            assert!(message.contains(words), "{words}: {message}");
        }
    }
}
