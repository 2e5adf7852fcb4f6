//! Checks the links in all Markdown files of the workspace: files and headings exist, the book
//! links only to its own chapters, and each chapter is in the table of contents. Does not use the
//! network.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{files, is_external, resolved};
use crate::error::Error;

/// The folder of the book, and its table of contents.
const BOOK: &str = "docs";
const CONTENTS: &str = "docs/SUMMARY.md";

/// A link and its line number.
#[derive(Debug, PartialEq, Eq)]
struct Link {
    line: usize,
    target: String,
}

/// Returns one line per dead link, and per chapter missing from the table of contents.
pub(super) fn faults(workspace: &Path) -> Result<Vec<String>, Error> {
    let mut documents = BTreeMap::new();
    for path in files(workspace, "md")? {
        let text = fs::read_to_string(&path).map_err(Error::io("cannot read", &path))?;
        documents.insert(path.strip_prefix(workspace).unwrap_or(&path).to_owned(), text);
    }
    let exists = |path: &Path| workspace.join(path).exists();
    Ok(faults_of(&documents, exists))
}

/// Implements [`faults`]. `documents` is keyed by path in the workspace; `exists` checks for a file
/// there.
fn faults_of(documents: &BTreeMap<PathBuf, String>, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let anchors: BTreeMap<&Path, Vec<String>> =
        documents.iter().map(|(path, text)| (path.as_path(), anchors(text))).collect();
    let (mut faults, mut chapters) = (Vec::new(), Vec::new());
    for (path, text) in documents {
        let folder = path.parent().unwrap_or(Path::new(""));
        for Link { line, target } in links(text) {
            let mut fault =
                |what: &str| faults.push(format!("{}:{line}: {target}: {what}", path.display()));
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if file.is_empty() { path.clone() } else { resolved(folder, file) };
            if path == Path::new(CONTENTS) {
                chapters.push(file.clone());
            }
            if !exists(&file) {
                fault("no such file");
            } else if path.starts_with(BOOK) && !file.starts_with(BOOK) {
                fault("outside the book; name the path in code style");
            } else if !anchor.is_empty()
                && !anchors.get(&*file).is_some_and(|all| all.iter().any(|known| known == anchor))
            {
                fault("no such heading");
            }
        }
    }
    let is_chapter = |path: &&PathBuf| path.starts_with(BOOK) && *path != Path::new(CONTENTS);
    for path in documents.keys().filter(is_chapter).filter(|path| !chapters.contains(path)) {
        faults.push(format!("{}: not in {CONTENTS}", path.display()));
    }
    faults
}

/// Returns the lines outside fenced code blocks, with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_code && !is_fence).then_some((index + 1, line))
    })
}

/// Returns a line without its code spans.
fn without_code(line: &str) -> String {
    let last = line.split('`').count() - 1;
    // An unpaired backtick is ordinary text.
    let is_text = |&(index, _): &(usize, &str)| index % 2 == 0 || index == last;
    line.split('`').enumerate().filter(is_text).map(|(_, part)| part).collect()
}

/// Returns the inline links within the workspace.
fn links(text: &str) -> Vec<Link> {
    let mut links = Vec::new();
    for (line, text) in lines(text) {
        for part in without_code(text).split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default();
            if !is_external(target) {
                links.push(Link { line, target: target.to_owned() });
            }
        }
    }
    links
}

/// Returns the anchors that mdBook and hosting platforms generate for the headings.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for (_, line) in lines(text) {
        let heading = line.trim_start_matches('#');
        if heading.len() == line.len() || !heading.starts_with(' ') {
            continue;
        }
        let anchor: String = heading.trim().chars().filter_map(anchor_char).collect();
        let before = anchors.iter().filter(|known| **known == anchor).count();
        anchors.push(if before == 0 { anchor } else { format!("{anchor}-{before}") });
    }
    anchors
}

fn anchor_char(letter: char) -> Option<char> {
    match letter {
        ' ' => Some('-'),
        '-' | '_' => Some(letter),
        _ if letter.is_alphanumeric() => letter.to_lowercase().next(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Layout;

    fn checked(documents: &[(&str, &str)]) -> Vec<String> {
        let documents: BTreeMap<PathBuf, String> =
            documents.iter().map(|(path, text)| (path.into(), (*text).to_owned())).collect();
        faults_of(&documents, |path| documents.contains_key(path))
    }

    #[test]
    fn every_link_of_the_documents_leads_somewhere() {
        let faults = faults(Layout::for_workspace().workspace()).expect("documents can be read");
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn dead_files_and_headings_are_found() {
        let text = "[a](b.md) [c](a.md#there)\n\n[d](#gone)\n## There\n";
        assert_eq!(
            checked(&[("a.md", text)]),
            ["a.md:1: b.md: no such file", "a.md:3: #gone: no such heading"]
        );
    }

    #[test]
    fn chapters_outside_the_book_or_its_contents_are_found() {
        let found = checked(&[
            ("docs/SUMMARY.md", "- [A](a.md)"),
            ("docs/a.md", "[top](../top.md)"),
            ("docs/b.md", ""),
            ("top.md", "[a](docs/a.md)"),
        ]);
        let expected = [
            "docs/a.md:1: ../top.md: outside the book; name the path in code style",
            "docs/b.md: not in docs/SUMMARY.md",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn code_has_no_links() {
        let text = "`[a](b)` and [c](d.md)\n```text\n[e](f.md)\n```\n[g](https://example.com)\n";
        assert_eq!(links(text), [Link { line: 1, target: "d.md".to_owned() }]);
    }

    #[test]
    fn anchors_are_those_of_mdbook() {
        let text = "# Life of a request\n## Triton's `load` API\n## A\n## A\n#no\n";
        let expected = ["life-of-a-request", "tritons-load-api", "a", "a-1"];
        assert_eq!(anchors(text), expected);
    }
}
