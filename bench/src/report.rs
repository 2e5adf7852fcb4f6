//! Printed tables and the JSON file.

use std::{fs, io::Write, path::Path};

use serde::Serialize;
use serde_json::{Map, Value, json};

/// All results of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
    targets: Vec<Target>,
    violations: Vec<String>,
}

/// A target and the measured value.
#[derive(Clone, Debug, Serialize)]
struct Target {
    what: String,
    measured: String,
    target: String,
    reached: bool,
}

impl Report {
    /// Adds figures to the JSON file.
    pub(crate) fn figures(&mut self, name: &str, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.figures.insert(name.to_owned(), value);
    }

    /// Adds a target: an upper bound.
    pub(crate) fn at_most(&mut self, what: &str, measured: f64, limit: f64, unit: &str) {
        self.target(what, (measured, limit), unit, ("≤", measured <= limit));
    }

    /// Adds a target: a lower bound.
    pub(crate) fn at_least(&mut self, what: &str, measured: f64, limit: f64, unit: &str) {
        self.target(what, (measured, limit), unit, ("≥", measured >= limit));
    }

    fn target(&mut self, what: &str, values: (f64, f64), unit: &str, found: (&str, bool)) {
        let ((measured, limit), (sign, reached)) = (values, found);
        self.targets.push(Target {
            what: what.to_owned(),
            measured: format!("{measured:.2}{unit}"),
            target: format!("{sign} {limit}{unit}"),
            reached,
        });
    }

    /// Records violations of guarantees and prints them immediately.
    pub(crate) fn violations(&mut self, phase: &str, violations: &[String]) {
        for violation in violations {
            print_line(&format!("VOID  {phase}: {violation}"));
            self.violations.push(format!("{phase}: {violation}"));
        }
    }

    /// Prints the targets. Returns false if a guarantee was violated, which voids all figures.
    pub(crate) fn conclude(&self) -> bool {
        let mut table = Table::new("target");
        for target in &self.targets {
            let Target { what, measured, target, reached } = target.clone();
            let verdict = if reached { "reached" } else { "missed" };
            let cells = [("measured", measured), ("target", target), ("", verdict.to_owned())];
            table.row(what, cells);
        }
        table.print();
        if !self.is_valid() {
            print_line(&format!("VOID: {} violations, see above", self.violations.len()));
        }
        self.is_valid()
    }

    fn is_valid(&self) -> bool {
        self.violations.is_empty()
    }

    /// Writes all figures, targets and violations to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let mut all = self.figures.clone();
        all.insert("targets".to_owned(), json!(self.targets));
        all.insert("violations".to_owned(), json!(self.violations));
        let text = format!("{:#}\n", Value::Object(all));
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// A table with named columns. The first column is left-aligned, all others right-aligned.
#[derive(Debug, Default)]
pub(crate) struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table whose first column has this heading.
    pub(crate) fn new(head: impl Into<String>) -> Self {
        Self { heads: vec![head.into()], rows: Vec::new() }
    }

    /// Adds a row. Cells go below their headings, which must have the same order in every row. A
    /// new heading adds a column.
    pub(crate) fn row<H: Into<String>>(
        &mut self,
        name: impl Into<String>,
        cells: impl IntoIterator<Item = (H, String)>,
    ) {
        let mut row = vec![name.into()];
        for (head, cell) in cells {
            let head = head.into();
            let known = self.heads[row.len()..].iter().position(|known| *known == head);
            match known {
                Some(skipped) => row.resize(row.len() + skipped, String::new()),
                None => self.heads.insert(row.len(), head),
            }
            row.push(cell);
        }
        self.rows.push(row);
    }

    pub(crate) fn print(&self) {
        print_line(&format!("\n{}", self.lines().join("\n")));
    }

    fn lines(&self) -> Vec<String> {
        let rows = || [&self.heads].into_iter().chain(&self.rows);
        let cell = |row: &Vec<String>, column| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..self.heads.len())
            .map(|column| rows().map(|row| cell(row, column).chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &Vec<String>| {
            let cells = widths.iter().enumerate().map(|(column, &width)| {
                let cell = cell(row, column);
                if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        rows().map(line).collect()
    }
}

/// Formats a number with this many decimals.
pub(crate) fn fixed(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

/// Prints a line. Unlike `println!`, it does not panic on a closed pipe.
pub(crate) fn print_line(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new("a");
        table.row("long", [("ms", "1.25".to_owned())]);
        table.row("é", [("ms", "≤ 10".to_owned()), ("x", "2".to_owned())]);
        table.row("", [("x", "3".to_owned())]);
        let expected = ["a       ms  x", "long  1.25", "é     ≤ 10  2", "            3"];
        assert_eq!(table.lines(), expected);
    }

    #[test]
    fn a_violation_voids_the_run_and_a_missed_target_does_not() {
        let mut report = Report::default();
        report.at_most("x", 2.0, 1.0, "x");
        assert!(!report.targets[0].reached && report.is_valid());
        report.violations("phase", &["I1".into()]);
        assert!(!report.is_valid());
    }
}
