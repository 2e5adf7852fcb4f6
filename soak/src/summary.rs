//! Prints the progress and result of a run, and dumps a failed run.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

use e2e::fixtures;

use crate::{
    ledger::Ledger,
    options::Options,
    resources::{Resources, Samples},
    schedule::Event,
    world::World,
};

/// Violations that are printed; the dump has all of them.
const VIOLATIONS_SHOWN_MAX: usize = 10;

/// Prints a line.
pub(crate) fn print_line(line: &str) {
    let mut out = io::stdout().lock();
    // Ignore the error: the reader may have closed the pipe.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Prints one line of progress.
pub(crate) fn progress(world: &World, samples: &Samples) {
    let ledger = world.ledger();
    let resources = samples.last().cloned().unwrap_or_default();
    let latency = &ledger.latency;
    print_line(&format!(
        "{:6.0} s  {:>8} requests  {:>5} commits  {:>5} refused  {:>5} deaths  p99 {:>5.0} ms  longest {:>5.2} s  {:>4.0} MiB  {:>3} descriptors  {} violations",
        world.now().as_secs_f64(),
        ledger.total(),
        ledger.committed,
        ledger.refused.values().sum::<u64>(),
        ledger.kills + ledger.crashes + ledger.hangs,
        milliseconds(latency.quantile(0.99)),
        latency.longest().as_secs_f64(),
        mebibytes(resources.supervisor_bytes),
        resources.descriptors,
        ledger.violations_seen,
    ));
}

/// The final state of a run.
pub(crate) struct FinalState {
    pub took: Duration,
    pub samples: Samples,
    pub before: Resources,
    pub after: Resources,
    pub restarts: u64,
    /// The longest time to the answer of a liveness probe, in a container.
    pub longest_probe: Option<Duration>,
}

pub(crate) fn print(world: &World, end: &FinalState) {
    let ledger = world.ledger();
    let latency = &ledger.latency;
    let seconds = end.took.as_secs_f64().max(1e-9);
    let total = ledger.total();
    print_line("");
    print_line(&format!("requests    {total} ({:.0}/s) in {seconds:.0} s", rate(total, seconds)));
    print_line(&format!(
        "  answered  {} of all kinds, each checked; p50 {:.1} ms, p99 {:.1} ms, longest {:.2} s",
        latency.count(),
        milliseconds(latency.quantile(0.5)),
        milliseconds(latency.quantile(0.99)),
        latency.longest().as_secs_f64(),
    ));
    for ((status, reason), count) in &ledger.excused {
        print_line(&format!("  {status}       {count} ({reason})"));
    }
    let abandoned: u64 = ledger.unknown.values().sum();
    print_line(&format!("  abandoned {abandoned} by clients that disconnected"));
    let refused: u64 = ledger.refused.values().sum();
    print_line(&format!(
        "updates     {} committed, {refused} refused: {}",
        ledger.committed,
        list(&ledger.refused)
    ));
    print_line(&format!(
        "            {} generations answered, {} of them from SIGHUP or automatic rollback",
        ledger.generations(),
        ledger.unrequested()
    ));
    print_line(&format!("faults      {}", list(&ledger.faults)));
    print_line(&format!(
        "deaths      {} of workers, {} restarted",
        ledger.kills + ledger.crashes + ledger.hangs,
        end.restarts
    ));
    resources(end);
    if let Some((container, longest)) = world.container.as_ref().zip(end.longest_probe) {
        let (memory, longest) = (container.memory(), longest.as_secs_f64());
        print_line(&format!("container   {memory}, longest probe {longest:.3} s"));
    }
    print_line(&format!("violations  {}", ledger.violations_seen));
    for violation in ledger.violations.iter().take(VIOLATIONS_SHOWN_MAX) {
        print_line(&format!("  {violation:.600}"));
    }
}

fn resources(end: &FinalState) {
    let (before, after) = (&end.before, &end.after);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let slope = |value: fn(&Resources) -> u64, unit: f64| {
        let found = end.samples.slope_per_hour(|one| value(one) as f64);
        found.map_or("run too short".into(), |slope| format!("{:+.1} an hour", slope / unit))
    };
    let bytes = slope(|one| one.supervisor_bytes, f64::from(1 << 20));
    let descriptors = slope(|one| one.descriptors as u64, 1.0);
    print_line(&format!(
        "memory      supervisor {:.0} MiB before, {:.0} after ({bytes}); largest worker {:.0}, {:.0}",
        mebibytes(before.supervisor_bytes),
        mebibytes(after.supervisor_bytes),
        mebibytes(before.worker_bytes),
        mebibytes(after.worker_bytes),
    ));
    print_line(&format!(
        "idle        descriptors {} before, {} after ({descriptors}), threads {} and {}, children {} and {}",
        before.descriptors,
        after.descriptors,
        before.threads,
        after.threads,
        before.children,
        after.children,
    ));
}

/// Saves the details of a failed run and returns the directory.
pub(crate) fn dump(world: &World, schedule: &[Event]) -> io::Result<PathBuf> {
    let directory = fixtures::workspace().join(format!("target/soak/{}", world.options.seed));
    fs::create_dir_all(&directory)?;
    let ledger = world.ledger();
    let write = |name: &str, lines: &mut dyn Iterator<Item = String>| -> io::Result<()> {
        let mut file = BufWriter::new(File::create(directory.join(name))?);
        for line in lines {
            writeln!(file, "{line}")?;
        }
        file.flush()
    };
    let seed = format!("{}\nseed {}", Options::command(), world.options.seed);
    write("seed", &mut std::iter::once(seed))?;
    write("schedule", &mut schedule.iter().map(|event| format!("{event:?}")))?;
    write("violations", &mut ledger.violations.iter().cloned())?;
    write("events", &mut ledger.events.iter().cloned())?;
    write("requests", &mut requests(&ledger))?;
    fs::write(directory.join("server.log"), world.server.stderr())?;
    Ok(directory)
}

fn requests(ledger: &Ledger) -> impl Iterator<Item = String> {
    ledger.requests.iter().map(|(model, request)| format!("{model}: {request}"))
}

fn list<K: std::fmt::Display>(counts: &std::collections::BTreeMap<K, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    parts.join(", ")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}
