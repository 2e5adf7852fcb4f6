//! Checks documents against the sources. Every test named in `docs/reliability.md` and
//! `docs/limits.md` exists in the named file, as do the files in the table of limits and the paths
//! in `ARCHITECTURE.md` and `docs/architecture/`. [`prose`] checks the length of sentences. `cargo
//! xtask docs` and the tests of `xtask/src/docs/` check links.
//!
//! Run with `ONNXD_UPDATE_DOCUMENTS=1 -- --test-threads=1` to fix references to moved tests and
//! files.

mod prose;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use e2e::fixtures::{files_below, workspace};

/// Number of rows in the table of faults.
const FAULTS: usize = 85;
/// Minimum number of tests named in each document; fewer mean that the parser missed some.
const DOCUMENTS: [(&str, usize); 2] = [("docs/reliability.md", 150), ("docs/limits.md", 75)];
/// Package roots. Tests are named by their path below the first one, or else from the repository's
/// root.
const SOURCES: [&str; 5] = ["tests/tests", "crates", "soak", "bench", "xtask"];

/// The tests of all packages, by file.
struct Tests(BTreeMap<PathBuf, BTreeSet<String>>);

impl Tests {
    fn for_workspace() -> Self {
        let files = SOURCES.iter().flat_map(|root| files_below(&workspace().join(root), "rs"));
        let read = |path: PathBuf| {
            let source = fs::read_to_string(&path).expect("a source can be read");
            let names = tests_of(&source).into_iter().map(str::to_owned).collect();
            (path.strip_prefix(workspace()).expect("below the root").to_owned(), names)
        };
        Self(files.map(read).collect())
    }

    /// Returns whether `FILE.rs::NAME` is a test.
    fn contains(&self, named: &str) -> bool {
        let Some((file, name)) = named.split_once("::") else { return false };
        let is_elsewhere = SOURCES[1..].iter().any(|root| Path::new(file).starts_with(root));
        let root = if is_elsewhere { "" } else { SOURCES[0] };
        self.0.get(&Path::new(root).join(file)).is_some_and(|names| names.contains(name))
    }

    /// Returns the reference to the test with this name, if it is unique.
    fn find(&self, name: &str) -> Option<String> {
        let mut found = self.0.iter().filter(|(_, names)| names.contains(name));
        let (file, _) = found.next()?;
        let shown = file.strip_prefix(SOURCES[0]).unwrap_or(file).display();
        found.next().is_none().then(|| format!("{shown}::{name}"))
    }
}

/// Returns the names of all test functions in a source.
fn tests_of(source: &str) -> Vec<&str> {
    let (mut names, mut is_test) = (Vec::new(), false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if line.starts_with('}') {
            is_test = false;
        }
        let function = ["fn ", "async fn ", "pub fn ", "pub(crate) fn ", "pub async fn "]
            .iter()
            .find_map(|head| line.strip_prefix(head));
        if let Some(rest) = function {
            names.extend(rest.split(['(', '<']).next().filter(|_| is_test));
            is_test = false;
        }
    }
    names
}

/// Returns whether to fix the documents instead of failing.
fn updates() -> bool {
    env::var_os("ONNXD_UPDATE_DOCUMENTS").is_some()
}

/// Returns the tests named in backticks.
fn named(document: &str) -> impl Iterator<Item = &str> {
    document.split('`').skip(1).step_by(2).filter(|part| part.contains(".rs::"))
}

/// Returns the cells of all tables.
fn rows(document: &str) -> Vec<Vec<&str>> {
    let rows = document.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|line| line.split(" | ").collect()).collect()
}

#[test]
fn every_test_named_in_a_document_exists() {
    let tests = Tests::for_workspace();
    let mut wrong = Vec::new();
    for (path, least) in DOCUMENTS {
        let path = workspace().join(path);
        let mut document = fs::read_to_string(&path).expect("the document can be read");
        let count = named(&document).count();
        assert!(count >= least, "only {count} tests are named in {}", path.display());
        let stale: BTreeSet<String> =
            named(&document).filter(|test| !tests.contains(test)).map(str::to_owned).collect();
        for test in stale {
            let name = test.rsplit("::").next().unwrap_or_default();
            match tests.find(name) {
                Some(new) if updates() => {
                    document = document.replace(&format!("`{test}`"), &format!("`{new}`"));
                }
                Some(new) => wrong.push(format!("{test}: moved to {new}")),
                None => wrong.push(format!("{test}: no such test")),
            }
        }
        if updates() {
            fs::write(&path, document).expect("the document can be written");
        }
    }
    assert!(wrong.is_empty(), "{} invalid references:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_file_named_in_the_limits_exists() {
    let crates = workspace().join("crates");
    let path = workspace().join("docs/limits.md");
    let document = fs::read_to_string(&path).expect("the document can be read");
    let rows = rows(&document);
    assert!(rows.len() > 60, "{} rows", rows.len());
    let files = rows[1..].iter().flat_map(|row| row[2].split('`').skip(1).step_by(2));
    let stale: BTreeSet<&str> = files.filter(|file| !crates.join(file).exists()).collect();
    let (mut corrected, mut wrong) = (document.clone(), Vec::new());
    for stale in stale {
        match find_moved(&crates, stale) {
            Some(new) if updates() => {
                corrected = corrected.replace(&format!("`{stale}`"), &format!("`{new}`"));
            }
            new => wrong.push(format!("{stale}: moved to {new:?}")),
        }
    }
    if updates() {
        fs::write(path, corrected).expect("the document can be written");
    }
    assert!(wrong.is_empty(), "not below crates/:\n{}", wrong.join("\n"));
}

/// Returns the only file of the same name below this directory.
fn find_moved(directory: &Path, stale: &str) -> Option<String> {
    let mut files = files_below(directory, "rs");
    files.retain(|file| file.file_name() == Path::new(stale).file_name());
    let [file] = &files[..] else { return None };
    Some(file.strip_prefix(directory).ok()?.display().to_string())
}

/// Returns whether `path` exists below `root`, at any depth.
fn exists_below(root: &Path, path: &str) -> bool {
    let entries = fs::read_dir(root).expect("a folder can be read").flatten();
    root.join(path).exists()
        || entries
            .map(|entry| entry.path())
            .any(|folder| folder.is_dir() && exists_below(&folder, path))
}

#[test]
fn every_path_named_in_the_architecture_exists() {
    let folder = workspace().join("docs/architecture");
    let mut documents = vec![workspace().join("ARCHITECTURE.md")];
    let entries = fs::read_dir(&folder).expect("the folder can be read").flatten();
    documents.extend(entries.map(|entry| entry.path()));
    let roots = ["crates", "tests", "bench", "soak", "xtask", "fuzz", "tools", "deploy"];
    // Folders of the state directory and of the machine.
    let others = [
        "versions/",
        "compiled/",
        "generations/",
        "staging/",
        "quarantine/",
        "collections/",
        "target/",
        "/",
    ];
    let (mut count, mut wrong) = (0, BTreeSet::new());
    for document in documents {
        let text = fs::read_to_string(&document).expect("the document can be read");
        let code = text.split('`').skip(1).step_by(2);
        let is_path = |part: &&str| part.ends_with(".rs") || part.ends_with('/');
        let is_ours = |part: &&str| {
            !part.contains(['*', '<', ' ']) && !others.iter().any(|other| part.starts_with(other))
        };
        for path in code.filter(is_path).filter(is_ours) {
            count += 1;
            let exists = workspace().join(path).exists()
                || roots.iter().any(|root| exists_below(&workspace().join(root), path));
            if !exists {
                wrong.insert(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(count > 100, "only {count} paths are named");
    assert!(wrong.is_empty(), "these do not exist: {wrong:#?}");
}

#[test]
fn every_guarantee_and_fault_is_listed_once_with_a_test() {
    let document = fs::read_to_string(workspace().join("docs/reliability.md"))
        .expect("the document can be read");
    let rows = rows(&document);
    let faults: Vec<usize> = rows.iter().filter_map(|row| row[0].parse().ok()).collect();
    assert_eq!(faults, (1..=FAULTS).collect::<Vec<_>>());
    let guarantees = rows.iter().filter(|row| row[0].starts_with('G')).count();
    assert_eq!(guarantees, 8);
    for row in &rows {
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}

#[test]
fn only_functions_with_the_attribute_are_tests() {
    let source = "
        fn product() {}
        mod tests {
            fn helper() {}
            #[test]
            #[expect(clippy::x, reason = \"several\")]
            fn one() {
            }
            #[tokio::test(flavor = \"multi_thread\")]
            async fn two() {}
            // #[test]
            fn three(case: u8) {}
        }";
    assert_eq!(tests_of(source), ["one", "two"]);
}

#[test]
fn invented_names_and_helpers_are_not_tests() {
    let tests = Tests::for_workspace();
    let own = "invented_names_and_helpers_are_not_tests";
    assert!(tests.contains(&format!("documents/main.rs::{own}")));
    assert_eq!(tests.find(own), Some(format!("documents/main.rs::{own}")));
    for wrong in ["documents/main.rs::made_up", "documents/main.rs::tests_of", "nowhere.rs::two"] {
        assert!(!tests.contains(wrong), "{wrong}");
    }
    // The file has unit tests, but this function is not one of them.
    assert!(!tests.contains("crates/proto/src/control_page.rs::create"));
}
