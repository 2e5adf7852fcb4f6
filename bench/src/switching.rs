//! From a commit to the last worker's switch. Apart from the phases that measure latency: asking
//! for the status again and again is not free.

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

/// The pause between two looks at the status.
const LOOK: Duration = Duration::from_millis(1);
/// The pause between two updates.
const PAUSE: Duration = Duration::from_millis(500);
/// A worker that takes longer has a fault.
const SWITCH_MAX: Duration = Duration::from_secs(30);

/// A rollback that is loaded ahead, with clients that ask without a pause, in seconds.
const ROLLBACK_MAX: f64 = 1.0;

/// What makes the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Update(Load),
    Rollback,
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Update(load) => load.name(),
            Self::Rollback => "rollback",
        }
    }
}

/// What was found out about one kind.
#[derive(Default)]
struct Found {
    calls: Vec<Duration>,
    switches: Vec<Duration>,
    looks: Vec<Duration>,
}

pub(crate) async fn run(
    subject: &mut Subject,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let mut table = Table::new("under load");
    for by in [By::Update(Load::Ahead), By::Update(Load::Lazy), By::Rollback] {
        let found = measure(subject, settings, by, report).await?;
        let [calls, switches, looks] = [found.calls, found.switches, found.looks]
            .map(|times| times.into_iter().collect::<Latencies>());
        let cells = [
            ("calls", calls.len().to_string()),
            ("each takes s", fixed(calls.median().as_secs_f64(), 2)),
            ("longest s", fixed(calls.longest().as_secs_f64(), 2)),
            ("to last switch ms", fixed(millis(switches.median()), 1)),
            ("longest ms", fixed(millis(switches.longest()), 1)),
            ("one look ms", fixed(millis(looks.median()), 1)),
        ];
        table.row(by.name(), cells);
        let figures = json!({
            "calls": calls.summary(),
            "commit_to_last_switch": switches.summary(),
            "look": looks.summary(),
        });
        report.figures(&format!("switch_{}", by.name()), figures);
        if by == By::Rollback {
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
    by: By,
    report: &mut Report,
) -> Result<Found, String> {
    machine::rest(subject, settings).await?;
    let traffic = Traffic::start(subject, settings.clients, Duration::ZERO).await?;
    let (mut updates, mut found) = (Vec::new(), Found::default());
    for _ in 0..settings.repeats() * 2 {
        time::sleep(PAUSE).await;
        let called = match by {
            By::Update(load) => subject.update(load).await?,
            By::Rollback => subject.rollback().await?,
        };
        loop {
            let asked = Instant::now();
            let switched = subject.control.switched(subject.serving.generation).await;
            found.looks.push(asked.elapsed());
            if switched {
                break;
            }
            if called.end.elapsed() > SWITCH_MAX {
                return Err(format!("no switch after {SWITCH_MAX:?}"));
            }
            time::sleep(LOOK).await;
        }
        found.switches.push(called.end.elapsed());
        found.calls.push(called.end - called.start);
        updates.push(called);
    }
    let recording = traffic.finish(subject, updates).await?;
    report.violations(&format!("switch, {}", by.name()), &recording.violations);
    Ok(found)
}
