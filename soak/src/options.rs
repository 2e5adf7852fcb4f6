//! Command line options.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Send requests of all kinds while a seeded schedule injects faults, and check every guarantee.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask soak", bin_name = "cargo xtask soak")]
pub(crate) struct Options {
    /// Duration of the run
    #[arg(long, default_value_t = 2.0)]
    pub minutes: f64,
    /// Seed of the schedule: a decimal number, or hexadecimal with the prefix 0x
    #[arg(long, default_value = "1", value_parser = seed)]
    pub seed: u64,
    /// Number of clients that send requests without pauses
    #[arg(long, default_value_t = 16)]
    pub clients: usize,
    /// Number of workers. Use many more than CPUs: a worker that dies within ten seconds is
    /// restarted with a growing delay
    #[arg(long, default_value_t = 16)]
    pub workers: usize,
    /// Rate at which workers are killed
    #[arg(long, value_name = "PER SECOND", default_value_t = 1.2)]
    pub deaths: f64,
    /// Rate of updates, good or bad, and rollbacks
    #[arg(long, value_name = "PER SECOND", default_value_t = 1.5)]
    pub updates: f64,
    /// Rate of other events: stopped workers, storms, misbehaving clients, memory pressure
    #[arg(long, value_name = "PER SECOND", default_value_t = 1.0)]
    pub others: f64,
    /// Resume every stopped worker within a second. By default every other one stays stopped, and
    /// the server must replace it
    #[arg(long)]
    pub no_hang: bool,
    /// Upload versions to a web server and to a polled directory during the run, file by file in the
    /// worst order
    #[arg(long)]
    pub sources: bool,
    /// Give the server the limits of a small container, 512 MiB and 1.5 CPUs, and probe it each second
    #[arg(long)]
    pub container: bool,
    /// Search in documents and change them instead, during updates, rollbacks and kills. A third of the
    /// clients write
    #[arg(long)]
    pub search: bool,
    /// Number of documents, with --search
    #[arg(long, default_value_t = 50_000)]
    pub documents: usize,
    /// Number of updates and rollbacks, with --search, which lasts as long as they take
    #[arg(long, default_value_t = 20)]
    pub steps: usize,
    /// Extra argument for `onnxd serve`; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub serve: Vec<String>,
    /// Use executables built with the dev profile: faster to build, slower to run
    #[arg(long)]
    pub dev: bool,
    /// Print the schedule and exit
    #[arg(long)]
    pub schedule: bool,
    /// Report a false result, to verify that the checks find it
    #[arg(long, value_name = "LIE", hide = true)]
    pub lie: Option<Lie>,
}

/// False results that a client can report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lie {
    /// A content other than the answered one.
    Content,
    /// A generation older than the answered one.
    Stale,
    /// A failure.
    Failure,
    /// More answers than were received.
    Count,
}

fn seed(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}

impl Options {
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs_f64(self.minutes * 60.0)
    }

    /// Returns the command that reproduces this run.
    pub(crate) fn command() -> String {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        format!("cargo xtask soak {}", arguments.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_decimal_or_prefixed_hexadecimal() {
        assert_eq!(seed("17"), Ok(17));
        assert_eq!(seed("0x1d261a2"), Ok(0x01d2_61a2));
        assert!(seed("1d261a2").is_err());
    }
}
