//! Compares documented output with actual output. Pure.
//!
//! Words must be equal. Any number matches any number, and any digest any digest. JSON lines must
//! have the same keys and types. Column widths are ignored. `…` stands for omitted text: on its own
//! line for one or more lines, in JSON for further members, and elsewhere for one or more
//! characters.

use serde_json::Value;

/// Marks text that a document omits.
const OMISSION: char = '…';
/// A word of this many or more hexadecimal digits counts as a digest.
const DIGEST_LENGTH_MIN: usize = 12;
/// Placeholders for any number and any digest. Output never contains these characters.
const NUMBER: char = '\u{1}';
const DIGEST: char = '\u{2}';

/// Checks that the actual output matches the documented one.
///
/// # Errors
/// Names the first documented line that has no match.
pub(crate) fn compare(shown: &[&str], real: &[&str]) -> Result<(), String> {
    let (shown, real) = (without_blank_ends(shown), without_blank_ends(real));
    let mut furthest = 0;
    if is_same(shown, real, 0, &mut furthest) {
        return Ok(());
    }
    let line = shown.get(furthest).unwrap_or(&"the end");
    Err(format!("no line like this follows: {line}"))
}

/// Returns whether the lines match. Raises `furthest` to the highest documented line reached;
/// `index` is the line that `shown` starts at.
fn is_same(shown: &[&str], real: &[&str], index: usize, furthest: &mut usize) -> bool {
    *furthest = index.max(*furthest);
    let Some((first, rest)) = shown.split_first() else { return real.is_empty() };
    if is_omission(first) {
        let mut next = 1..=real.len();
        return next.any(|next| is_same(rest, &real[next..], index + 1, furthest));
    }
    let Some((line, others)) = real.split_first() else { return false };
    is_same_line(first, line) && is_same(rest, others, index + 1, furthest)
}

fn is_omission(line: &str) -> bool {
    line.trim() == OMISSION.to_string()
}

fn without_blank_ends<'lines, 'text>(lines: &'lines [&'text str]) -> &'lines [&'text str] {
    let is_text = |line: &&str| !line.trim().is_empty();
    match (lines.iter().position(is_text), lines.iter().rposition(is_text)) {
        (Some(first), Some(last)) => &lines[first..=last],
        _ => &[],
    }
}

fn is_same_line(shown: &str, real: &str) -> bool {
    match (json(shown), json(real)) {
        (Some(shown), Some(real)) => is_same_json(&shown, &real),
        (None, None) => is_same_text(shown, real),
        _ => false,
    }
}

/// Parses a line that is a JSON object or array.
fn json(line: &str) -> Option<Value> {
    let line = line.trim();
    if !line.starts_with(['{', '[']) {
        return None;
    }
    // Turn each `…` into a member, so that the line parses.
    let whole = line.replace(",…]", ",\"…\"]").replace(",…}", ",\"…\":\"…\"}");
    serde_json::from_str(&whole).ok()
}

fn is_same_json(shown: &Value, real: &Value) -> bool {
    match (shown, real) {
        (Value::Null, Value::Null)
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Number(_), Value::Number(_)) => true,
        (Value::String(shown), Value::String(real)) => is_same_text(shown, real),
        (Value::Array(shown), Value::Array(real)) => {
            let (whole, shown) = match shown.split_last() {
                Some((last, rest)) if last == "…" => (false, rest),
                _ => (true, &shown[..]),
            };
            has_enough(whole, shown.len(), real.len())
                && shown.iter().zip(real).all(|(shown, real)| is_same_json(shown, real))
        }
        (Value::Object(shown), Value::Object(real)) => {
            let whole = !shown.contains_key("…");
            let mut members = shown.iter().filter(|(key, _)| *key != "…");
            has_enough(whole, shown.len() - usize::from(!whole), real.len())
                && members
                    .all(|(key, shown)| real.get(key).is_some_and(|real| is_same_json(shown, real)))
        }
        _ => false,
    }
}

/// Returns whether the numbers of members match. If members are omitted, there must be more than
/// shown.
fn has_enough(whole: bool, shown: usize, real: usize) -> bool {
    if whole { shown == real } else { shown < real }
}

fn is_same_text(shown: &str, real: &str) -> bool {
    let (shown, real) = (normal(shown), normal(real));
    let mut parts = shown.split(OMISSION);
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = real.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match after_gap(rest, part) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.strip_suffix(last).is_some_and(|gap| !gap.is_empty())
}

/// Returns the text after the first `part` that is preceded by at least one character.
fn after_gap<'text>(text: &'text str, part: &str) -> Option<&'text str> {
    let first = text.chars().next()?.len_utf8();
    text[first..].split_once(part).map(|(_, after)| after)
}

/// Replaces numbers and digests with placeholders, and collapses whitespace.
fn normal(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut normal = String::new();
    let mut rest = text.as_str();
    while let Some(letter) = rest.chars().next() {
        if letter.is_alphanumeric() {
            rest = replace_word(rest, &mut normal);
            continue;
        }
        rest = &rest[letter.len_utf8()..];
        // A minus sign is part of the number; a dash between words is not.
        let is_sign = letter == '-'
            && !normal.ends_with(|last: char| last.is_alphanumeric() || last == NUMBER)
            && rest.starts_with(|next: char| next.is_ascii_digit());
        if !is_sign {
            normal.push(letter);
        }
    }
    normal
}

/// Appends the first word of `text`, normalized, and returns the rest.
fn replace_word<'text>(text: &'text str, normal: &mut String) -> &'text str {
    let is_hexadecimal = |letter: char| letter.is_ascii_digit() || ('a'..='f').contains(&letter);
    let (word, mut rest) = split(text, char::is_alphanumeric);
    if word.len() >= DIGEST_LENGTH_MIN && word.chars().all(is_hexadecimal) {
        normal.push(DIGEST);
        return rest;
    }
    // Digits within a name, such as `fp32`, are part of the name.
    if !word.starts_with(|letter: char| letter.is_ascii_digit()) {
        normal.push_str(word);
        return rest;
    }
    // A number with letters, such as `7ms` or `29T20`.
    let mut word = word;
    while !word.is_empty() {
        let (digits, after) = split(word, |letter| letter.is_ascii_digit());
        let (letters, after) = split(after, |letter| !letter.is_ascii_digit());
        if !digits.is_empty() {
            normal.push(NUMBER);
        }
        normal.push_str(letters);
        word = after;
    }
    // A decimal fraction is part of the number.
    if normal.ends_with(NUMBER)
        && let Some(fraction) = rest.strip_prefix('.')
        && let (digits, after) = split(fraction, |letter| letter.is_ascii_digit())
        && !digits.is_empty()
    {
        rest = after;
        let (unit, after) = split(rest, char::is_alphanumeric);
        normal.push_str(unit);
        rest = after;
    }
    rest
}

/// Splits before the first character for which `is_kind` is false.
fn split(text: &str, is_kind: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !is_kind(letter)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_like(shown: &str, real: &str) -> bool {
        let (shown, real): (Vec<_>, Vec<_>) = (shown.lines().collect(), real.lines().collect());
        compare(&shown, &real).is_ok()
    }

    #[test]
    fn numbers_digests_and_widths_may_differ() {
        for (shown, real) in [
            ("staged  0.32 s", "staged 12.5 s"),
            ("took 7ms", "took 12.25ms"),
            ("version 81a8096a85d2, ok", "version 123456789012, ok"),
            ("x: 9e3ee80dd7083ba6c2", "x: aaaaaaaaaaaaaaaaaa"),
            ("at -0.5", "at 0.25"),
            ("http://127.0.0.1:8080/", "http://127.0.0.1:23456/"),
            ("1 -> 2", "10 -> 11"),
            ("2026-11-29T20:45:58.123191Z INFO", "2027-01-02T03:04:05.9Z INFO"),
        ] {
            assert!(is_like(shown, real), "{shown} / {real}");
        }
    }

    #[test]
    fn other_words_are_found() {
        for (shown, real) in [
            ("loaded worker 0", "loaded workers 0"),
            ("loaded worker 0", "loaded worker"),
            ("loaded worker", "loaded worker 0"),
            ("version 81a8096a85d2", "version 12"),
            ("version 12", "version 81a8096a85d2"),
            ("version 81a8096a85d2", "version none"),
            ("0.32 s", "0.32 ms"),
            ("7ms", "7s"),
            ("7.5ms", "7.5s"),
            ("2026-11-29T20:45:58Z", "2026-11-29 20:45:58"),
            ("fp32", "fp16"),
            ("HTTP/1.1 200 OK", "HTTP/1.1 200"),
            ("a-1", "a 1"),
            ("1-2", "1 2"),
        ] {
            assert!(!is_like(shown, real), "{shown} / {real}");
        }
    }

    #[test]
    fn missing_and_further_lines_are_found() {
        assert!(is_like("a\nb", "a\nb\n"));
        assert!(!is_like("a\nb", "a"));
        assert!(!is_like("a", "a\nb"));
        assert!(!is_like("a\nb", "b\na"));
        assert!(!is_like("", "a"));
        let error = compare(&["a", "…", "c", "d"], &["a", "b", "c", "e"]).unwrap_err();
        assert_eq!(error, "no line like this follows: d");
    }

    #[test]
    fn left_out_lines_are_at_least_one() {
        assert!(is_like("a\n…\nd", "a\nb\nc\nd"));
        assert!(is_like("…\nd", "d\nd"));
        assert!(is_like("…", "d"));
        assert!(!is_like("a\n…\nd", "a\nd"));
        assert!(!is_like("a\n…", "a"));
        assert!(!is_like("a\n…\nd", "a\nb\nc"));
    }

    #[test]
    fn left_out_text_is_at_least_one_character() {
        assert!(is_like("refused: …; pass …", "refused: a; b; pass c"));
        assert!(is_like("a … c", "a b b c"));
        assert!(!is_like("refused: …; pass …", "refused: a; b"));
        assert!(!is_like("ab…", "ab"));
        assert!(!is_like("a…a", "aa"));
    }

    #[test]
    fn json_with_other_values_is_the_same() {
        assert!(is_like(r#"{"a":1,"b":["x 1"]}"#, r#"{"b":["x 2"],"a":2.5}"#));
        assert!(is_like("[[0.1,-0.2,…]]", "[[0.3,0.4,0.5]]"));
        assert!(is_like(r#"{"a":[1,…],…}"#, r#"{"a":[1,2],"b":null,"c":true}"#));
    }

    #[test]
    fn json_of_another_shape_is_found() {
        for (shown, real) in [
            (r#"{"a":1}"#, r#"{"b":1}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":1}"#, r#"{"a":null}"#),
            (r#"{"a":1}"#, r#"{"a":1,"b":2}"#),
            (r#"{"a":1,"b":2}"#, r#"{"a":1}"#),
            (r#"{"a":"x"}"#, r#"{"a":"y"}"#),
            (r#"{"a":1,…}"#, r#"{"a":1}"#),
            (r#"{"a":1,…}"#, r#"{"b":1,"c":1}"#),
            ("[1,2]", "[1,2,3]"),
            ("[1,2,…]", "[1,2]"),
            ("[[1,…]]", "[1,2]"),
            ("[1]", "1"),
        ] {
            assert!(!is_like(shown, real), "{shown} / {real}");
        }
    }
}
