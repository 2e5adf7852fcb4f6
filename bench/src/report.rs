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
        let mut table = Table::new(["target", "measured", "to reach", ""]);
        for target in &self.targets {
            let Target { what, measured, target, reached } = target.clone();
            let verdict = if reached { "reached" } else { "missed" };
            table.row([what, measured, target, verdict.to_owned()]);
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

/// Rows of the same length, aligned: the first column to the left, all others to the right.
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(heads: [&str; N]) -> Self {
        Self { rows: vec![heads.map(str::to_owned)] }
    }

    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) {
        say(&format!("\n{}", self.lines().join("\n")));
    }

    fn lines(&self) -> Vec<String> {
        let wide = |cell: &String| cell.chars().count();
        let widths: [usize; N] = std::array::from_fn(|column| {
            self.rows.iter().map(|row| wide(&row[column])).max().unwrap_or_default()
        });
        let line = |row: &[String; N]| {
            let cells = row.iter().zip(widths).enumerate().map(|(place, (cell, width))| {
                if place == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        self.rows.iter().map(line).collect()
    }
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
        let mut table = Table::new(["a", "ms"]);
        table.row(["long".into(), "1.25".into()]);
        table.row(["é".into(), "≤ 10".into()]);
        assert_eq!(table.lines(), ["a       ms", "long  1.25", "é     ≤ 10"]);
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
