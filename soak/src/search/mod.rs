//! `cargo xtask soak --search`: clients search and write while the model is updated and rolled back
//! and processes are killed. Every answer must equal an exact search in the space of one version.

mod steps;

use std::{collections::BTreeMap, fs, io, path::PathBuf, time::Duration};

use e2e::{
    admin::Committed,
    fixtures,
    launch::Builder,
    processes::{self, Signal},
    search::{
        index_processes,
        load::{Plan, SearchLoad},
        spaces::Spaces,
    },
    server::Server,
};

use self::steps::{Change, Step, Victim};
use crate::{
    models::Content,
    options::{Lie, Options},
    summary::print_line,
    world,
};

/// The served name.
const MODEL: &str = "m";
/// Texts for each document, so that a replacement is mostly a text that no other document has.
const TEXTS_PER_DOCUMENT: f64 = 1.2;
/// A version may take this long to embed all documents.
const CHANGE_MAX: Duration = Duration::from_secs(3600);
/// Longer than the probation, which can roll back by itself.
const SETTLED: Duration = Duration::from_secs(3);

/// A run.
struct Run {
    options: Options,
    builder: Builder,
    server: Server,
    load: SearchLoad,
    counts: BTreeMap<String, u64>,
    /// Makes names of directories unique.
    number: usize,
}

/// Returns `false` if a guarantee was violated.
pub(crate) async fn run(options: &Options) -> Result<bool, String> {
    let steps = steps::draw(options.seed, options.steps);
    if options.schedule {
        steps.iter().for_each(|step| print_line(&format!("{step:?}")));
        return Ok(true);
    }
    let (command, documents) = (Options::command(), options.documents);
    print_line(&format!("{command}: seed {}, {documents} documents", options.seed));
    let mut run = Run::start(options).await;
    run.report("filled");
    tokio::time::sleep(SETTLED).await;
    for (number, step) in (1..).zip(&steps) {
        run = run.step(step).await;
        run.report(&format!("step {number} of {}: {step:?}", steps.len()));
        if !run.load.violations().is_empty() {
            print_line("too many violations: skipping the remaining steps");
            break;
        }
    }
    tokio::time::sleep(SETTLED).await;
    run.end(&steps).await
}

impl Run {
    async fn start(options: &Options) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a count of texts"
        )]
        let texts = (options.documents as f64 * TEXTS_PER_DOCUMENT) as usize;
        let (a, b) = (directory(Content::A), directory(Content::B));
        let spaces = match options.lie {
            Some(Lie::Content) => Spaces::learn(texts, &[("a", &b), ("b", &a)]).await,
            _ => Spaces::learn(texts, &[("a", &a), ("b", &b)]).await,
        };
        let builder = Server::builder().workers(options.workers.min(4)).model(MODEL, &a);
        let builder = world::with_faults_in_mind(builder, &options.serve);
        let server = builder.clone().start().await;
        let writers = options.clients / 3;
        let plan = Plan {
            collection: "soak",
            model: MODEL,
            documents: options.documents,
            searchers: options.clients - writers,
            writers,
            seed: options.seed,
        };
        let load = SearchLoad::start(&server, plan, spaces, Content::A.name()).await;
        Self { options: options.clone(), builder, server, load, counts: BTreeMap::new(), number: 0 }
    }

    fn report(&self, what: &str) {
        let (now, summary) = (self.load.now().as_secs_f64(), self.load.summary());
        print_line(&format!("{now:6.0} s  {what}\n          {summary}"));
    }

    async fn step(mut self, step: &Step) -> Self {
        let start = self.load.now();
        let content = match step.change {
            Change::Update { to, .. } => Some(to),
            Change::Rollback => None,
        };
        let disturbing = async {
            let Some((victim, delay)) = step.during else { return false };
            tokio::time::sleep(delay).await;
            self.kill(victim).await
        };
        let number = self.number;
        let (result, was_killed) = tokio::join!(self.change(step.change, number), disturbing);
        self.number += 1;
        if let Ok(committed) = &result {
            self.record(start, (committed.generation, &committed.version), content);
        }
        self.count(if result.is_ok() { "committed" } else { "refused" });
        if let Some((victim, _)) = step.during {
            self.count(&format!("killed {}", victim.name()));
        } else if let Err(reason) = &result {
            self.load.violated(&format!("an undisturbed change was refused: {reason}"));
        }
        if was_killed {
            self = self.start_again().await;
        }
        tokio::time::sleep(step.pause).await;
        if let Some(victim) = step.after {
            self.count(&format!("killed {}", victim.name()));
            if self.kill(victim).await {
                self = self.start_again().await;
            }
        }
        tokio::time::sleep(SETTLED).await;
        // The answer may have been lost, and the probation may have rolled back.
        let serving = self.server.status().await.model(MODEL).clone();
        self.record(start, (serving.generation, &serving.version), content);
        self
    }

    /// Records a commit. A version that is not known is the one that was updated to.
    fn record(
        &self,
        start: Duration,
        (generation, version): (u64, &str),
        updated_to: Option<Content>,
    ) {
        let known = self.load.content(version);
        match known.or(updated_to.map(|content| content.name().to_owned())) {
            Some(content) => self.load.record(start, generation, version, &content),
            None => self.load.violated(&format!("unknown version {version}")),
        }
    }

    /// Changes the model. Returns why that failed.
    async fn change(&self, change: Change, number: usize) -> Result<Committed, String> {
        let mut arguments = match change {
            Change::Rollback => vec!["rollback", MODEL, "--json"],
            Change::Update { .. } => vec!["update", MODEL, "--json", "--from"],
        };
        let from = match change {
            Change::Rollback => None,
            Change::Update { to, fresh: false } => Some(directory(to)),
            Change::Update { to, fresh: true } => {
                let from = self.server.home().models().join(format!("fresh-{number}"));
                fixtures::variant(&directory(to), &from, &number.to_string());
                Some(from)
            }
        };
        arguments.extend(from.iter().filter_map(|from| from.to_str()));
        let output = self.server.cli_within(&arguments, CHANGE_MAX).await;
        let text = [&output.stdout[..], &output.stderr].concat();
        match output.status.success() {
            true => serde_json::from_slice(&output.stdout).map_err(|error| error.to_string()),
            false => Err(String::from_utf8_lossy(&text).trim().to_owned()),
        }
    }

    /// Kills a process. Returns whether the supervisor must be started again.
    async fn kill(&self, victim: Victim) -> bool {
        match victim {
            Victim::Index => {
                let processes = index_processes(self.server.pid());
                processes.iter().for_each(|process| process.signal(Signal::SIGKILL));
                false
            }
            Victim::Worker(number) => {
                let pids = self.server.worker_pids().await;
                if !pids.is_empty() {
                    processes::signal(pids[number % pids.len()], Signal::SIGKILL);
                }
                false
            }
            Victim::Supervisor => {
                self.load.kill(&self.server);
                true
            }
        }
    }

    async fn start_again(mut self) -> Self {
        self.server = self.load.start_again(self.server, self.builder.clone()).await;
        self
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    async fn end(mut self, steps: &[Step]) -> Result<bool, String> {
        let violations = self.load.stop(&self.server).await;
        let counts: Vec<String> =
            self.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
        print_line("");
        print_line(&format!("searches    {}", self.load.summary()));
        print_line(&format!("steps       {}: {}", steps.len(), counts.join(", ")));
        print_line(&format!("violations  {}", violations.len()));
        violations.iter().take(10).for_each(|violation| print_line(&format!("  {violation:.900}")));
        if violations.is_empty() {
            self.server.stop().await;
            return Ok(true);
        }
        let folder = self.dump(steps, &violations).map_err(|error| error.to_string())?;
        let folder = folder.display();
        print_line(&format!("FAILED; seed, steps, violations and log are in {folder}"));
        Ok(false)
    }

    fn dump(&self, steps: &[Step], violations: &[String]) -> io::Result<PathBuf> {
        let folder = fixtures::workspace().join(format!("target/soak/{}", self.options.seed));
        fs::create_dir_all(&folder)?;
        let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
        let seed = format!("{}\nseed {}\n", Options::command(), self.options.seed);
        fs::write(folder.join("seed"), seed)?;
        fs::write(folder.join("schedule"), steps.join("\n"))?;
        fs::write(folder.join("violations"), violations.join("\n"))?;
        // Of the last server.
        fs::write(folder.join("server.log"), self.server.stderr())?;
        Ok(folder)
    }
}

fn directory(content: Content) -> PathBuf {
    fixtures::model(&format!("tiny/{}", content.name()))
}
