//! Which folder of the worker may import which: one direction, so that a folder can be read, and
//! changed, without those above it.

#![allow(clippy::unwrap_used)] // In tests, a panic is how to fail.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each folder, and what it imports of others.
const MAY_IMPORT: [(&str, &[&str]); 7] = [
    ("sandbox", &[]),
    ("session", &[]),
    ("process", &["sandbox", "session"]),
    ("artifacts", &["session"]),
    ("families", &["artifacts", "process", "session"]),
    ("serving", &["artifacts", "families", "process", "sandbox", "session"]),
    ("checking", &["artifacts", "families", "process", "session"]),
];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        match entry.is_dir() {
            true => files(&entry, found),
            false => found.push(entry),
        }
    }
}

/// The names that follow `crate::` in the code of a file, also within braces.
fn imported(source: &str) -> Vec<String> {
    let code: Vec<&str> =
        source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let name = |text: &str| {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut names = Vec::new();
    for (start, _) in code.match_indices("crate::") {
        let rest = &code[start + "crate::".len()..];
        let Some(tree) = rest.strip_prefix('{') else {
            names.push(name(rest));
            continue;
        };
        let (mut depth, mut branch) = (1, 0);
        for (at, sign) in tree.char_indices() {
            match sign {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => {
                    names.push(name(&tree[branch..]));
                    branch = at + 1;
                }
                _ => {}
            }
            if depth == 0 {
                names.push(name(&tree[branch..at]));
                break;
            }
        }
    }
    names.retain(|name: &String| !name.is_empty());
    names
}

#[test]
fn no_folder_imports_one_above_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for (folder, allowed) in MAY_IMPORT {
        let mut found = Vec::new();
        files(&source.join(folder), &mut found);
        for file in found {
            for name in imported(&fs::read_to_string(&file).unwrap()) {
                let fits = name == folder || allowed.contains(&&*name);
                assert!(fits, "{} imports crate::{name}", file.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "{seen} imports were found");
}

#[test]
fn imports_are_found_within_braces_and_outside() {
    let source =
        "use crate::{\n    a::{b, c},\n    d,\n};\n// crate::comment\nlet x = crate::e::f();";
    assert_eq!(imported(source), ["a", "d", "e"]);
}
