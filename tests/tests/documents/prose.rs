//! Checks prose against the style guide: no sentence is too long, and sentences are short on
//! average. Reads paragraphs and lists in README.md, the book and the contributor documents. Skips
//! code, tables, headings and lists of links.

use std::{
    fs,
    path::{Path, PathBuf},
};

use e2e::fixtures::{files_below, workspace};

/// Maximum words in a sentence.
const WORDS_MAX: usize = 40;
/// Maximum average words per sentence in a set of documents.
const WORDS_AVERAGE_MAX: f64 = 18.0;
/// Abbreviations whose period does not end a sentence.
const ABBREVIATIONS: [&str; 3] = ["e.g.", "i.e.", "vs."];
/// Skipped: one is generated, the other is a list of links.
const SKIPPED: [&str; 2] = ["docs/reference.md", "docs/SUMMARY.md"];

/// A sentence, or a list item without a final period.
#[derive(Debug, PartialEq, Eq)]
struct Sentence {
    /// The line that it starts on.
    line: usize,
    text: String,
    /// Whether it has a final period. Only these count in the average.
    is_whole: bool,
}

impl Sentence {
    fn words(&self) -> usize {
        let has_letters = |word: &&str| word.contains(char::is_alphanumeric);
        self.text.split_whitespace().filter(has_letters).count()
    }
}

#[test]
fn sentences_of_the_readme_are_short() {
    assert_short(&["README.md".into()]);
}

#[test]
fn sentences_of_the_book_are_short() {
    // The book includes ARCHITECTURE.md as a chapter.
    let mut documents = vec![PathBuf::from("ARCHITECTURE.md")];
    for file in files_below(&workspace().join("docs"), "md") {
        let path = file.strip_prefix(workspace()).expect("below the root").to_owned();
        if !SKIPPED.iter().any(|skipped| path == Path::new(skipped)) {
            documents.push(path);
        }
    }
    assert!(documents.len() > 20, "{documents:?}");
    assert_short(&documents);
}

#[test]
fn sentences_for_contributors_are_short() {
    let documents = ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"];
    assert_short(&documents.map(PathBuf::from));
}

#[track_caller]
fn assert_short(documents: &[PathBuf]) {
    let (mut long, mut words, mut count) = (Vec::new(), 0, 0_u32);
    for document in documents {
        let text = fs::read_to_string(workspace().join(document)).expect("a document can be read");
        for sentence in sentences(&text) {
            let length = sentence.words();
            if length > WORDS_MAX {
                let Sentence { line, text, .. } = &sentence;
                long.push(format!("{}:{line}: {length} words: {text}", document.display()));
            }
            if sentence.is_whole {
                words += length;
                count += 1;
            }
        }
    }
    assert!(long.is_empty(), "split what has more than {WORDS_MAX} words:\n{}", long.join("\n"));
    let average = words as f64 / f64::from(count.max(1));
    assert!(
        average <= WORDS_AVERAGE_MAX,
        "sentences of {documents:?} have {average:.1} words on average, at most {WORDS_AVERAGE_MAX} are allowed"
    );
}

/// Returns the sentences of all paragraphs and list items.
fn sentences(document: &str) -> Vec<Sentence> {
    blocks(document).iter().flat_map(|block| sentences_of(block)).collect()
}

/// Returns paragraphs and list items as numbered lines.
fn blocks(document: &str) -> Vec<Vec<(usize, String)>> {
    let (mut blocks, mut block) = (Vec::new(), Vec::new());
    let (mut is_code, mut is_comment) = (false, false);
    for (index, line) in document.lines().enumerate() {
        let line = line.trim();
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        is_comment |= line.starts_with("<!--");
        let is_skipped = is_code || is_fence || is_comment || is_markup(line);
        is_comment &= !line.ends_with("-->");
        let item = item(line);
        if is_skipped || item.is_some() {
            blocks.push(std::mem::take(&mut block));
        }
        if !is_skipped {
            block.push((index + 1, item.unwrap_or(line).to_owned()));
        }
    }
    blocks.push(block);
    // An item that is only a link belongs to a list of links.
    blocks.retain(|block| block.first().is_some_and(|(_, text)| !is_link(text)));
    blocks
}

/// Returns whether a line contains no prose: it is blank, a heading, a table row or an mdBook
/// directive.
fn is_markup(line: &str) -> bool {
    line.is_empty() || line.starts_with(['#', '|']) || line.starts_with("{{#")
}

fn is_link(text: &str) -> bool {
    text.starts_with('[') && text.contains("](") && text.ends_with(')')
}

/// Returns the text after a list marker, or `None` if the line starts no list item.
fn item(line: &str) -> Option<&str> {
    let is_number = |mark: &str| !mark.is_empty() && mark.bytes().all(|byte| byte.is_ascii_digit());
    let numbered = line.split_once(". ").filter(|(mark, _)| is_number(mark));
    line.strip_prefix("- ").or(line.strip_prefix("* ")).or(numbered.map(|(_, rest)| rest))
}

fn sentences_of(block: &[(usize, String)]) -> Vec<Sentence> {
    let mut sentences = Vec::new();
    let mut words: Vec<(usize, String)> = Vec::new();
    let joined: Vec<&str> = block.iter().map(|(_, line)| line.as_str()).collect();
    // Code spans may cross lines, so replace them in the whole block at once.
    let text = plain(&joined.join("\n"));
    let numbers = block.iter().map(|(number, _)| *number);
    let mut all: Vec<(usize, &str)> = Vec::new();
    for (number, line) in numbers.zip(text.split('\n')) {
        all.extend(line.split_whitespace().map(|word| (number, word)));
    }
    for (index, (number, word)) in all.iter().enumerate() {
        words.push((*number, (*word).to_owned()));
        let next = all.get(index + 1).map(|(_, word)| *word);
        if ends(word, next) {
            sentences.extend(sentence(std::mem::take(&mut words), true));
        }
    }
    sentences.extend(sentence(words, false));
    sentences
}

fn sentence(words: Vec<(usize, String)>, is_whole: bool) -> Option<Sentence> {
    let line = words.first()?.0;
    let words: Vec<String> = words.into_iter().map(|(_, word)| word).collect();
    Some(Sentence { line, text: words.join(" "), is_whole })
}

/// Returns whether a sentence ends with this word.
fn ends(word: &str, next: Option<&str>) -> bool {
    let word = word.trim_end_matches([')', '"', '”', '*', '_']);
    match next {
        None => word.ends_with(['.', '!', '?', ':']),
        Some(_) => word.ends_with(['.', '!', '?']) && !ABBREVIATIONS.contains(&word),
    }
}

/// Replaces each code span with one word and each link with its text. Keeps line breaks.
fn plain(text: &str) -> String {
    let parts: Vec<&str> = text.split('`').collect();
    let mut plain = String::new();
    for (index, part) in parts.iter().enumerate() {
        if index % 2 == 1 && index + 1 < parts.len() {
            plain.push_str("Code");
            plain.extend(part.chars().filter(|letter| *letter == '\n'));
        } else {
            plain.push_str(part);
        }
    }
    let mut text = String::new();
    for (index, part) in plain.split("](").enumerate() {
        // No link target precedes the first part.
        let rest =
            if index == 0 { part } else { part.split_once(')').map_or("", |(_, rest)| rest) };
        text.push_str(rest);
    }
    text.replace(['[', ']', '*'], "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(document: &str) -> Vec<String> {
        sentences(document).into_iter().map(|sentence| sentence.text).collect()
    }

    #[test]
    fn paragraphs_and_items_are_split_into_sentences() {
        let document = "# Head\n\nOne is\nhere. Two has 1.5 words, e.g. this. `three` ends\n\n- a **b**. C\n1. [d](e.md) f.\n";
        let expected =
            ["One is here.", "Two has 1.5 words, e.g. this.", "Code ends", "a b.", "C", "d f."];
        assert_eq!(texts(document), expected);
    }

    #[test]
    fn code_tables_comments_and_lists_of_links_are_left_out() {
        let document =
            "```text\nA.\n```\n| B. | c |\n<!-- D.\nE. -->\n- [f](g.md)\n{{#include h.md}}\nI.\n";
        assert_eq!(texts(document), ["I."]);
    }

    #[test]
    fn sentences_record_their_line_and_word_count() {
        let document = "\nA b. `c d`\n– e f\n";
        let found = sentences(document);
        let lines: Vec<_> = found.iter().map(|found| (found.line, found.words())).collect();
        assert_eq!(lines, [(2, 2), (2, 3)]);
        assert!(found[0].is_whole && !found[1].is_whole);
    }
}
