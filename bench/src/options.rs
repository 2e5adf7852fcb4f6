//! Command line options.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, ValueEnum};

/// Measures onnxd against ONNX Runtime alone, and the cost of updates under load.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub(crate) struct Options {
    #[command(subcommand)]
    pub what: BenchCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Latency, memory and load times with and without updates
    Update(Settings),
    /// 100 updates per second
    Storm(Settings),
    /// Throughput and latency against ONNX Runtime alone
    Serve(Settings),
    /// Draws latency during updates, beside that of a service that restarts to update
    Picture(PictureOptions),
    /// Search in documents, against numpy, and against a service over pgvector or Chroma
    Search(SearchOptions),
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PictureOptions {
    /// Length of each of the two runs
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,
    /// Time from one update to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub period: u64,
    /// Number of clients
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Seed of the texts and of the clients' pauses
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Interpreter with the packages of bench/service/requirements.txt; xtask passes its own
    #[arg(long, value_name = "PATH", default_value = "python3")]
    pub python: PathBuf,
    /// Writes the images to this directory [default: docs/images of the workspace]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

impl PictureOptions {
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    pub(crate) fn period(&self) -> Duration {
        Duration::from_secs(self.period)
    }

    /// Returns when the model is updated: every period, the first time after half a period.
    pub(crate) fn update_times(&self) -> Vec<Duration> {
        let times = (0..).map(|number| self.period() / 2 + self.period() * number);
        times.take_while(|time| *time < self.length()).collect()
    }
}

/// A part of `search`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SearchPart {
    /// Search alone and end to end, at each number of documents
    Sizes,
    /// Search and ingestion against a service over pgvector or Chroma
    Peers,
    /// An update that embeds all documents again while clients search
    Update,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SearchOptions {
    /// Numbers of documents at which to measure search, in ascending order
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', default_values_t = [10_000, 100_000])]
    pub documents: Vec<usize>,
    /// Documents to measure ingestion with, against the other services
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000)]
    pub ingested: usize,
    /// Documents to embed again in the update
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    pub updated: usize,
    /// Distinct queries
    #[arg(long, default_value_t = 500)]
    pub queries: usize,
    /// Clients that add documents, and clients that search during the update
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Seconds per phase
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    /// Number of times to run all phases, alternating their order
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Seed for the texts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Run only this part; may be repeated [default: all]
    #[arg(long, value_name = "PART")]
    pub only: Vec<SearchPart>,
    /// Interpreter with the packages of bench/search/requirements.txt; xtask passes its own
    #[arg(long, value_name = "PATH", default_value = "python3")]
    pub python: PathBuf,
    /// Also write all figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

impl SearchOptions {
    pub(crate) fn has(&self, part: SearchPart) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Returns the length of each phase.
    pub(crate) fn phase(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Requests with and without updates
    Latency,
    /// Time from a commit to the last worker's switch
    Switch,
    /// Memory that each additional worker adds
    Workers,
    /// Memory after many updates
    Memory,
    /// Loading the plain and the compiled model
    Loading,
    /// CPU time of polling sources that do not change
    Polling,
    /// 100 updates per second
    Storm,
    /// Short texts against ONNX Runtime alone
    Short,
    /// Short and long texts against ONNX Runtime alone
    Mixed,
    /// A tiny model, which shows the server's overhead
    Trivial,
    /// Large tensors: overhead beyond running them
    Tensors,
}

/// Parts of `serve`.
const SERVE: [Part; 4] = [Part::Short, Part::Mixed, Part::Trivial, Part::Tensors];

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// Seconds per phase [default: 20, with --quick 3]
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Number of times to run all phases, alternating their order [default: 2, with --quick 1]
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Updates in the part `memory` [default: 1000, with --quick 50]
    #[arg(long)]
    pub updates: Option<usize>,
    /// Address of another server with the route /embed, to measure as well in `serve`
    #[arg(long, value_name = "ADDRESS")]
    pub other: Option<std::net::SocketAddr>,
    /// Clients that send requests without a pause, in `update` and `storm`
    #[arg(long, default_value_t = 8)]
    pub clients: usize,
    /// Seconds between updates [default: 2, with --quick 1]
    #[arg(long, value_name = "SECONDS")]
    pub period: Option<u64>,
    /// Seed for the texts
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Run only this part; may be repeated [default: all but storm]
    #[arg(long, value_name = "PART")]
    pub only: Vec<Part>,
    /// Also run the part `storm`
    #[arg(long)]
    pub storm: bool,
    /// Wait until the machine is otherwise idle, and repeat disturbed phases
    #[arg(long)]
    pub patient: bool,
    /// Run short phases, to test the benchmark itself
    #[arg(long)]
    pub quick: bool,
    /// Also write all figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Append the servers' logs to this file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
}

impl Settings {
    fn choose<T>(&self, given: Option<T>, full: T, quick: T) -> T {
        given.unwrap_or(if self.quick { quick } else { full })
    }

    /// Returns the length of each phase.
    pub(crate) fn phase(&self) -> Duration {
        Duration::from_secs(self.choose(self.seconds, 20, 3))
    }

    pub(crate) fn rounds(&self) -> usize {
        self.choose(self.rounds, 2, 1)
    }

    pub(crate) fn updates(&self) -> usize {
        self.choose(self.updates, 1000, 50)
    }

    /// Returns the time between updates.
    pub(crate) fn period(&self) -> Duration {
        Duration::from_secs(self.choose(self.period, 2, 1))
    }

    /// Returns the number of repetitions of single measurements.
    pub(crate) fn repeats(&self) -> usize {
        self.choose(None, 5, 2)
    }

    /// Returns the length of each phase of a storm.
    pub(crate) fn storm_phase(&self) -> Duration {
        Duration::from_secs(self.choose(self.seconds, 10, 3))
    }

    /// Returns the time to warm up before measuring.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_secs(self.choose(None, 3, 1))
    }
}

impl Options {
    /// Returns whether a part is selected.
    pub(crate) fn has(&self, part: Part) -> bool {
        match &self.what {
            BenchCommand::Picture(_) | BenchCommand::Search(_) => false,
            BenchCommand::Storm(_) => part == Part::Storm,
            BenchCommand::Serve(Settings { only, .. }) => {
                SERVE.contains(&part) && (only.is_empty() || only.contains(&part))
            }
            BenchCommand::Update(Settings { only, storm, .. }) if only.is_empty() => {
                !SERVE.contains(&part) && (part != Part::Storm || *storm)
            }
            BenchCommand::Update(Settings { only, storm, .. }) => {
                only.contains(&part) || part == Part::Storm && *storm
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(arguments: &str) -> Vec<Part> {
        let options = Options::parse_from(arguments.split(' '));
        let all = Part::value_variants().iter().copied();
        all.filter(|part| options.has(*part)).collect()
    }

    #[test]
    fn options_select_parts() {
        assert_eq!(parts("bench update").len(), 6);
        assert_eq!(parts("bench update --storm --quick").len(), 7);
        assert_eq!(parts("bench update --only memory --only loading").len(), 2);
        assert_eq!(parts("bench storm"), [Part::Storm]);
        assert_eq!(parts("bench serve"), SERVE);
        assert_eq!(parts("bench serve --only mixed"), [Part::Mixed]);
        assert_eq!(parts("bench picture"), []);
    }

    #[test]
    fn numbers_of_documents_are_separated_by_commas() {
        let parse = |arguments: &str| {
            let options = Options::parse_from(arguments.split(' '));
            let BenchCommand::Search(options) = options.what else { unreachable!() };
            options
        };
        assert_eq!(parse("bench search").documents, [10_000, 100_000]);
        let options = parse("bench search --documents 5,70 --only sizes");
        assert_eq!(options.documents, [5, 70]);
        assert!(options.has(SearchPart::Sizes) && !options.has(SearchPart::Peers));
    }

    #[test]
    fn picture_updates_every_period() {
        let times = |arguments: &str| -> Vec<u128> {
            let options = Options::parse_from(arguments.split(' '));
            let BenchCommand::Picture(options) = options.what else { unreachable!() };
            options.update_times().iter().map(Duration::as_millis).collect()
        };
        assert_eq!(times("bench picture --seconds 12 --period 4"), [2000, 6000, 10_000]);
        assert_eq!(times("bench picture --seconds 1 --period 4"), []);
    }
}
