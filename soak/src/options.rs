//! What can be asked for on the command line.

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Drives onnxd with requests of all kinds while a schedule that the seed determines breaks it, and
/// checks everything that was promised.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask soak", bin_name = "cargo xtask soak")]
pub(crate) struct Options {
    /// How long
    #[arg(long, default_value_t = 2.0)]
    pub minutes: f64,
    /// What determines the schedule: a number, or a hexadecimal one behind 0x
    #[arg(long, default_value = "1", value_parser = seed)]
    pub seed: u64,
    /// Clients that ask without a pause
    #[arg(long, default_value_t = 16)]
    pub clients: usize,
    /// Workers, many more than CPUs: one that dies within ten seconds waits ever longer until it is
    /// started again
    #[arg(long, default_value_t = 16)]
    pub workers: usize,
    /// How often workers are killed
    #[arg(long, value_name = "PER SECOND", default_value_t = 1.2)]
    pub deaths: f64,
    /// How often models are updated, well or badly, or rolled back
    #[arg(long, value_name = "PER SECOND", default_value_t = 1.5)]
    pub updates: f64,
    /// How often something else happens: stops, storms, clients that misbehave, memory pressure
    #[arg(long, value_name = "PER SECOND", default_value_t = 1.0)]
    pub others: f64,
    /// Has all workers that are stopped go on within a second. Otherwise every other one is stopped
    /// for good, and the server has to notice
    #[arg(long)]
    pub no_hang: bool,
    /// One more argument of `onnxd serve`; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    pub serve: Vec<String>,
    /// Runs what is built with the dev profile, sooner built and slower
    #[arg(long)]
    pub dev: bool,
    /// Prints the schedule and does nothing
    #[arg(long)]
    pub schedule: bool,
    /// Reports something that did not happen, to see that it is found
    #[arg(long, value_name = "LIE", hide = true)]
    pub lie: Option<Lie>,
}

/// What a client may be made to report wrongly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lie {
    /// Another content than was answered.
    Content,
    /// An older generation than was answered.
    Stale,
    /// A failure.
    Failure,
    /// More answers than there were.
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

    /// The command that does the same again.
    pub(crate) fn command() -> String {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        format!("cargo xtask soak {}", arguments.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_may_be_a_commit() {
        assert_eq!(seed("17"), Ok(17));
        assert_eq!(seed("0x1d261a2"), Ok(0x01d2_61a2));
        assert!(seed("1d261a2").is_err());
    }
}
