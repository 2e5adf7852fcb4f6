//! `cargo xtask`: setup and developer commands. Everything they generate is below the target
//! directory.
//!
//! - [`serve`] starts onnxd with a model to try, [`test`] runs all tests (those with third-party
//!   [`clients`] last), [`sources`] tests sources with real servers, [`postgres`] tests
//!   collections in PostgreSQL, [`bench`] measures, [`soak`] injects faults and checks guarantees,
//!   [`fuzz`] fuzzes the parsers, [`openapi`] writes the OpenAPI document, [`docs`] builds the book.
//! - They rely on [`fetch`] (downloads verified by hash) and [`model`] (model conversion), which
//!   run Python through [`python`].
//! - [`layout`] defines all paths, [`stamp`] records finished steps.

mod bench;
mod clients;
mod docs;
mod error;
mod fetch;
mod fuzz;
mod layout;
mod model;
mod openapi;
mod postgres;
mod process;
mod python;
mod serve;
mod soak;
mod sources;
mod stamp;
mod test;

use std::{io::Write as _, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{error::Error, layout::Layout, python::Python};

/// Setup and developer commands for onnxd.
///
/// Needs Python 3.9 or newer with the venv module, and network access on the first run. Downloads
/// and generated files are kept in target/onnxd and reused.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds onnxd and serves a sentence embedder, fetching what is missing.
    Serve(serve::Options),
    /// Fetches and generates everything that `serve`, `test` and `bench` need.
    Setup,
    /// Runs all tests: unit tests, end-to-end tests, then tests/clients if Python 3.11 or 3.12 is
    /// available.
    Test {
        /// Arguments for `cargo test`, for example the name of a test
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Runs the Python tests that drive onnxd with third-party clients.
    TestClients {
        /// Arguments for pytest, for example `-k openai`
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Runs the tests of sources with real servers: Caddy, SeaweedFS, olah, docker-registry and
    /// tinyproxy.
    TestSources(sources::Options),
    /// Runs the tests of collections in PostgreSQL with servers of two major versions.
    TestPostgres(postgres::Options),
    /// Measures ratios within one run: `serve` compares with ONNX Runtime alone, `update` and
    /// `storm` measure the cost of updates, `picture` draws it, and `search` measures search in
    /// documents. See `--help`.
    Bench {
        /// Arguments for the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Writes the OpenAPI document of the HTTP interface.
    Openapi(openapi::Options),
    /// Builds the book and checks the links of all documents; installs mdBook if it is missing.
    Docs,
    /// Fuzzes onnxd's parsers; needs cargo-fuzz.
    Fuzz(fuzz::Options),
    /// Sends requests of all kinds while a seeded schedule kills, stops, updates and overloads the
    /// server, and checks every guarantee. See `--help`.
    #[command(disable_help_flag = true)]
    Soak {
        /// Arguments for the soak
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Executes another program that is killed when its parent exits. `serve` starts onnxd through
    /// it.
    #[command(hide = true)]
    Bound(process::Bound),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Error> {
    let layout = Layout::for_workspace();
    match command {
        Command::Serve(options) => serve::run(&layout, options),
        Command::Setup => setup(&layout).map(|()| ExitCode::SUCCESS),
        Command::Test { args } => {
            setup(&layout)?;
            test::run(&layout, &args)
        }
        Command::TestClients { args } => {
            setup(&layout)?;
            clients::build_and_run(&layout, &args)
        }
        Command::TestSources(options) => {
            setup(&layout)?;
            sources::run(&layout, &options)
        }
        Command::TestPostgres(options) => postgres::run(&layout, &options),
        Command::Bench { args } => {
            setup(&layout)?;
            bench::run(&layout, &args)
        }
        Command::Openapi(options) => openapi::run(&layout, options),
        Command::Docs => docs::run(&layout),
        Command::Fuzz(options) => fuzz::run(&layout, options),
        Command::Soak { args } => {
            setup(&layout)?;
            soak::run(&layout, &args)
        }
        Command::Bound(bound) => Err(process::become_bound(&bound)),
    }
}

/// Prepares everything needed to start onnxd or the tests manually.
fn setup(layout: &Layout) -> Result<(), Error> {
    let _lock = layout.lock()?;
    let python = Python::for_tools(layout);
    fetch::runtime(layout, &python)?;
    model::minilm(layout, &python)?;
    model::tiny(layout, &python)?;
    print_line(&format!("ONNX Runtime  {}", layout::shown(&layout.runtime())));
    print_line(&format!("models        {}", layout::shown(&layout.models())));
    Ok(())
}

/// Prints a line. Unlike `println!`, it does not panic on a closed pipe.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
