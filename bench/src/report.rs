//! What is printed, and what is written to the file.

use std::{fs, io::Write, path::Path};

use serde::Serialize;
use serde_json::{Map, Value, json};

/// Everything that was found out.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Map<String, Value>,
    targets: Vec<Target>,
    violations: Vec<String>,
}

/// Something to reach.
#[derive(Clone, Debug, Serialize)]
struct Target {
    what: String,
    measured: String,
    target: String,
    reached: bool,
}

impl Report {
    /// Keeps figures for the file.
    pub(crate) fn figures(&mut self, name: &str, value: impl Serialize) {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.figures.insert(name.to_owned(), value);
    }

    /// Compares a ratio with the most that it may be.
    pub(crate) fn at_most(&mut self, what: &str, measured: f64, limit: f64, unit: &str) {
        self.target(what, (measured, limit), unit, ("≤", measured <= limit));
    }

    /// Compares a ratio with the least that it may be.
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

    /// Notes what must not happen, and says so at once.
    pub(crate) fn violations(&mut self, phase: &str, violations: &[String]) {
        for violation in violations {
            say(&format!("VOID  {phase}: {violation}"));
            self.violations.push(format!("{phase}: {violation}"));
        }
    }

    /// Prints the comparison. `false`: a guarantee was broken, and the figures mean nothing.
    pub(crate) fn conclude(&self) -> bool {
        let mut table = Table::new("target");
        for target in &self.targets {
            let Target { what, measured, target, reached } = target.clone();
            let verdict = if reached { "reached" } else { "missed" };
            let cells = [("measured", measured), ("to reach", target), ("", verdict.to_owned())];
            table.row(what, cells);
        }
        table.print();
        if !self.is_sound() {
            say(&format!("VOID: {} broken promises, see above", self.violations.len()));
        }
        self.is_sound()
    }

    fn is_sound(&self) -> bool {
        self.violations.is_empty()
    }

    /// Writes everything to a file.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let mut all = self.figures.clone();
        all.insert("targets".to_owned(), json!(self.targets));
        all.insert("violations".to_owned(), json!(self.violations));
        let text = format!("{:#}\n", Value::Object(all));
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Rows that name their cells, aligned: the first column to the left, all others to the right.
#[derive(Debug, Default)]
pub(crate) struct Table {
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table whose first column has this head.
    pub(crate) fn new(head: impl Into<String>) -> Self {
        Self { heads: vec![head.into()], rows: Vec::new() }
    }

    /// Adds a row. Cells go below their heads, which come in the same order in every row; a head
    /// that is new adds a column.
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
        say(&format!("\n{}", self.lines().join("\n")));
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

/// Formats a number with the given count of decimals.
pub(crate) fn fixed(value: f64, digits: usize) -> String {
    format!("{value:.digits$}")
}

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more.
pub(crate) fn say(line: &str) {
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
    fn what_is_missed_does_not_void_but_a_violation_does() {
        let mut report = Report::default();
        report.at_most("x", 2.0, 1.0, "x");
        assert!(!report.targets[0].reached && report.is_sound());
        report.violations("phase", &["I1".into()]);
        assert!(!report.is_sound());
    }
}
