//! `cargo xtask bench`: compares the server with ONNX Runtime alone and measures the cost of
//! updates under load. Runs the real executables and reports ratios within one run, which are
//! comparable between machines.
//!
//! - [`latency`]: requests with and without updates. [`switching`]: time from a commit to the last
//!   worker's switch. [`memory`]: growth over many updates. [`loading`]: time to load a model.
//!   [`polling`]: cost of watching sources. [`storm`]: a hundred updates per second.
//! - [`serving`]: throughput and latency against ONNX Runtime alone ([`limit`]), with closed-loop
//!   and open-loop ([`open_loop`]) clients. [`trivial`]: overhead of the server. [`tensors`]: cost
//!   of moving large tensors.
//! - [`subject`] is the server, [`control`] its admin interface, [`traffic`] its clients. Every
//!   response is checked; a violated guarantee voids the run.
//! - [`search`]: collections of documents, against numpy and against a [`service`] in Python over
//!   pgvector or Chroma.
//! - [`picture`]: draws the latency of requests during updates, beside a service that restarts.
//! - [`timeline`], [`stats`], [`machine`], [`report`]: evaluation and output.

#![allow(clippy::unwrap_used, reason = "a benchmark must stop on unexpected results")]

mod control;
mod latency;
mod latency_tables;
mod limit;
mod loading;
mod machine;
mod memory;
mod open_loop;
mod options;
mod picture;
mod polling;
mod report;
mod search;
mod service;
mod serving;
mod serving_tables;
mod stats;
mod storm;
mod subject;
mod switching;
mod tensors;
mod texts;
mod timeline;
mod traffic;
mod trivial;

use std::{io::Write, process::ExitCode, thread, time::Duration};

use clap::Parser;
use e2e::{fixtures, processes};

use crate::{
    options::{BenchCommand, Options, Part, Settings},
    report::{Report, print_line},
    subject::{ModelPair, Subject},
    texts::Corpus,
    traffic::Traffic,
};

fn main() -> ExitCode {
    let options = Options::parse();
    // Use one thread: clients need little CPU time, and they take it from the workers.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                result = run(&options) => result,
                // Dropping the run stops its servers and removes its directories.
                _ = tokio::signal::ctrl_c() => Err("interrupted".to_owned()),
            }
        })
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns false if a guarantee was violated.
async fn run(options: &Options) -> Result<bool, String> {
    let mut report = Report::default();
    print_header(&mut report);
    let workers = thread::available_parallelism().map_or(1, Into::into);
    match &options.what {
        BenchCommand::Picture(options) => picture::run(options, workers).await.map(|()| true),
        BenchCommand::Search(options) => search::run(options, workers, report).await,
        BenchCommand::Update(settings)
        | BenchCommand::Storm(settings)
        | BenchCommand::Serve(settings) => measure(options, settings, workers, report).await,
    }
}

/// Runs the selected parts. Returns false if a guarantee was violated.
async fn measure(
    options: &Options,
    settings: &Settings,
    workers: usize,
    mut report: Report,
) -> Result<bool, String> {
    let minilm = ModelPair::minilm();
    let with_server = [Part::Latency, Part::Switch, Part::Memory];
    if with_server.iter().any(|part| options.has(*part)) {
        let mut subject = Subject::start(minilm.clone(), workers, settings.seed).await?;
        warm_up(&subject, settings, &mut report).await?;
        if options.has(Part::Latency) {
            latency::run(&mut subject, settings, &mut report).await?;
        }
        if options.has(Part::Switch) {
            switching::run(&mut subject, settings, &mut report).await?;
        }
        if options.has(Part::Memory) {
            memory::run(&mut subject, settings, &mut report).await?;
        }
        end(subject, settings).await?;
    }
    if options.has(Part::Workers) {
        memory::further_workers(&minilm, settings, &mut report).await?;
    }
    if options.has(Part::Loading) {
        loading::run(&minilm, workers, settings, &mut report).await?;
    }
    if options.has(Part::Polling) {
        polling::run(settings, &mut report).await?;
    }
    for (part, corpus) in [(Part::Short, Corpus::Short), (Part::Mixed, Corpus::Mixed)] {
        if options.has(part) {
            serving::run(&minilm, corpus, workers, settings, &mut report).await?;
        }
    }
    if options.has(Part::Trivial) {
        trivial::run(workers, settings, &mut report).await?;
    }
    if options.has(Part::Tensors) {
        tensors::run(settings, &mut report).await?;
    }
    if options.has(Part::Storm) {
        let mut subject = Subject::start(ModelPair::tiny(), workers, settings.seed).await?;
        warm_up(&subject, settings, &mut report).await?;
        storm::run(&mut subject, settings, &mut report).await?;
        end(subject, settings).await?;
    }
    let sound = report.conclude();
    if let Some(path) = &settings.json {
        report.write(path)?;
    }
    Ok(sound)
}

/// Prints and records the machine, the versions and the command.
fn print_header(report: &mut Report) {
    let version = std::process::Command::new(fixtures::onnxd()).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let runtime = fixtures::onnxruntime();
    let runtime = runtime.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut facts = vec![("command", format!("cargo xtask bench {}", arguments.join(" ")))];
    facts.extend(processes::machine());
    facts.push(("versions", format!("{}, {runtime}", version.unwrap_or_default())));
    for (name, value) in &facts {
        print_line(&format!("{name:<9} {value}"));
        report.figures(name, value);
    }
    print_line("");
}

async fn warm_up(
    subject: &Subject,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    subject.settle().await?;
    let traffic = Traffic::start(subject, settings.clients, Duration::ZERO).await?;
    tokio::time::sleep(settings.warm_up()).await;
    let recording = traffic.finish(subject, Vec::new()).await?;
    report.violations("warm-up", &recording.violations);
    Ok(())
}

async fn end(subject: Subject, settings: &Settings) -> Result<(), String> {
    if let Some(path) = &settings.log {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(subject.server.stderr().as_bytes()));
        written.map_err(|error| format!("{}: {error}", path.display()))?;
    }
    subject.server.stop().await;
    Ok(())
}
