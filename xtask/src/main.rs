//! `cargo xtask`: set-up and developer commands. Everything they make lies under the target directory.
//!
//! - [`serve`] starts onnxd with a model to try it with, [`test`] runs the tests, those with other people's
//!   [`clients`] last, [`bench`] measures, [`soak`] breaks and checks, [`fuzz`] looks for what breaks a
//!   parser, [`openapi`] writes the document of the HTTP interface, [`docs`] builds the book.
//! - All stand on [`fetch`] (downloads, verified by hash) and [`model`] (converts and generates models),
//!   which run Python through [`python`].
//! - [`layout`] says where everything lies, [`stamp`] what need not be done again.

mod bench;
mod clients;
mod docs;
mod error;
mod fetch;
mod fuzz;
mod layout;
mod model;
mod openapi;
mod process;
mod python;
mod serve;
mod soak;
mod stamp;
mod test;

use std::{io::Write as _, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{error::Error, layout::Layout, python::Python};

/// Set-up and developer commands of onnxd.
///
/// Needs Python 3.9 or newer with its venv module, and on the first run a network. What it fetches and makes
/// lies under target/onnxd and is used again.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds onnxd and serves a sentence embedder with it, fetching what is missing.
    Serve(serve::Options),
    /// Fetches and makes all that `serve`, `test` and `bench` need.
    Setup,
    /// Runs all tests: unit, end-to-end, and last those of tests/clients if Python 3.11 or 3.12 is there.
    Test {
        /// Goes to `cargo test`, for example the name of a test.
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Runs the tests that drive onnxd with other people's clients, in Python.
    TestClients {
        /// Goes to pytest, for example `-k openai`.
        #[arg(last = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Measures, as ratios within one run: `serve` against ONNX Runtime alone, `update` and `storm` what
    /// updates cost; `--help` for more.
    Bench {
        /// Goes to the benchmark.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Writes the OpenAPI document of the HTTP interface.
    Openapi(openapi::Options),
    /// Builds the book and checks the links of all documents. Installs mdBook if it is missing.
    Docs,
    /// Fuzzes what onnxd parses; needs cargo-fuzz.
    Fuzz(fuzz::Options),
    /// Drives the server with requests of all kinds while a seeded schedule kills, stops, updates and
    /// overloads it, and checks everything that was promised; `--help` for more.
    #[command(disable_help_flag = true)]
    Soak {
        /// Goes to the soak.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<String>,
    },
    /// Becomes another program that ends with this one's parent. `serve` starts onnxd through it.
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
    let layout = Layout::of_workspace();
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

/// Everything, for those who start onnxd or the tests by hand afterwards.
fn setup(layout: &Layout) -> Result<(), Error> {
    let _lock = layout.lock()?;
    let python = Python::of(layout);
    fetch::runtime(layout, &python)?;
    model::minilm(layout, &python)?;
    model::tiny(layout, &python)?;
    say(&format!("ONNX Runtime  {}", layout::shown(&layout.runtime())));
    say(&format!("models        {}", layout::shown(&layout.models())));
    Ok(())
}

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
