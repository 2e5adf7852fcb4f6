//! `docs/reliability.md` says which test holds which promise; here its names are held to what
//! there is.

use std::fs;

use e2e::fixtures::workspace;

/// Rows of the table of faults.
const FAULTS: usize = 74;

fn document() -> String {
    fs::read_to_string(workspace().join("docs/reliability.md")).expect("the document is there")
}

#[test]
fn every_test_that_the_document_names_exists_and_is_a_test() {
    let document = document();
    let named: Vec<(&str, &str)> =
        document.split('`').filter_map(|part| part.split_once(".rs::")).collect();
    assert!(named.len() > 50, "{} tests are named", named.len());
    for (file, name) in named {
        let below = if file.starts_with("crates/") { "" } else { "tests/tests/" };
        let path = workspace().join(format!("{below}{file}.rs"));
        let source = fs::read_to_string(&path).unwrap_or_default();
        let function = source.split_once(&format!("fn {name}(")).map(|(before, _)| before);
        let before = function.unwrap_or_else(|| panic!("{} has no {name}", path.display()));
        let attribute = before.rsplit_once("#[").map_or("", |(_, attribute)| attribute);
        let is_test = attribute.contains("test") && !attribute.contains('}');
        // Properties, and what loom runs, stand inside of a macro or a module of tests.
        assert!(is_test || source.contains("mod tests"), "{file}: {name} is no test");
    }
}

#[test]
fn the_document_has_every_guarantee_and_every_fault_once_and_each_with_an_answer() {
    let document = document();
    let rows: Vec<Vec<&str>> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"))
        .map(|line| line.split(" | ").collect())
        .collect();
    let faults: Vec<usize> = rows.iter().filter_map(|row| row[0].parse().ok()).collect();
    assert_eq!(faults, (1..=FAULTS).collect::<Vec<_>>());
    let guarantees = rows.iter().filter(|row| row[0].starts_with('G')).count();
    assert_eq!(guarantees, 7);
    for row in &rows {
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
    }
}
