//! Time from a commit to the last worker's switch. Measured separately from latency, because
//! polling the status is not free.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time;

use crate::{
    control::Load,
    machine,
    options::Settings,
    report::{Report, Table, fixed},
    stats::{Latencies, millis},
    subject::Subject,
    traffic::Traffic,
};

/// Time between two status polls.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Time between two updates.
const PAUSE: Duration = Duration::from_millis(500);
/// A slower switch is an error.
const SWITCH_MAX: Duration = Duration::from_secs(30);

/// Maximum seconds for a rollback, loaded ahead, while clients send requests without a pause.
const ROLLBACK_MAX: f64 = 1.0;

/// Kind of commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CommitKind {
    Update(Load),
    Rollback,
}

impl CommitKind {
    fn name(self) -> &'static str {
        match self {
            Self::Update(load) => load.name(),
            Self::Rollback => "rollback",
        }
    }
}

/// Measurements of one kind of commit.
#[derive(Default)]
struct Samples {
    calls: Vec<Duration>,
    switches: Vec<Duration>,
    polls: Vec<Duration>,
}

pub(crate) async fn run(
    subject: &mut Subject,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let mut table = Table::new("under load");
    for by in
        [CommitKind::Update(Load::Ahead), CommitKind::Update(Load::Lazy), CommitKind::Rollback]
    {
        let samples = measure(subject, settings, by, report).await?;
        let [calls, switches, polls] = [samples.calls, samples.switches, samples.polls]
            .map(|times| times.into_iter().collect::<Latencies>());
        let cells = [
            ("calls", calls.len().to_string()),
            ("median s", fixed(calls.median().as_secs_f64(), 2)),
            ("longest s", fixed(calls.longest().as_secs_f64(), 2)),
            ("last switch ms", fixed(millis(switches.median()), 1)),
            ("longest ms", fixed(millis(switches.longest()), 1)),
            ("one poll ms", fixed(millis(polls.median()), 1)),
        ];
        table.row(by.name(), cells);
        let figures = json!({
            "calls": calls.summary(),
            "commit_to_last_switch": switches.summary(),
            "look": polls.summary(),
        });
        report.figures(&format!("switch_{}", by.name()), figures);
        if by == CommitKind::Rollback {
            let median = calls.median().as_secs_f64();
            report.at_most("rollback under load: median", median, ROLLBACK_MAX, " s");
        }
    }
    table.print();
    Ok(())
}

async fn measure(
    subject: &mut Subject,
    settings: &Settings,
    by: CommitKind,
    report: &mut Report,
) -> Result<Samples, String> {
    machine::wait_until_idle(subject, settings).await?;
    let traffic = Traffic::start(subject, settings.clients, Duration::ZERO).await?;
    let (mut updates, mut samples) = (Vec::new(), Samples::default());
    for _ in 0..settings.repeats() * 2 {
        time::sleep(PAUSE).await;
        let called = match by {
            CommitKind::Update(load) => subject.update(load).await?,
            CommitKind::Rollback => subject.rollback().await?,
        };
        loop {
            let polled = Instant::now();
            let switched = subject.control.switched(subject.serving.generation).await;
            samples.polls.push(polled.elapsed());
            if switched {
                break;
            }
            if called.end.elapsed() > SWITCH_MAX {
                return Err(format!("not all workers switched within {SWITCH_MAX:?}"));
            }
            time::sleep(POLL_INTERVAL).await;
        }
        samples.switches.push(called.end.elapsed());
        samples.calls.push(called.end - called.start);
        updates.push(called);
    }
    let recording = traffic.finish(subject, updates).await?;
    report.violations(&format!("switch, {}", by.name()), &recording.violations);
    Ok(samples)
}
