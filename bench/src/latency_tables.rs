//! What is said about the phases with clients.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    latency::{Measured, Phase},
    machine::{Cpu, NOISE_MAX, noise},
    report::{Table, say},
    stats::{Latencies, millis, ratio, real},
    timeline::{Stage, durations, staged},
    traffic::{Recording, Seen},
};

/// One line as soon as it is known.
pub(crate) fn print_round(name: &str, recording: &Recording) {
    let latencies = recording.latencies();
    say(&format!(
        "{name}: {} requests, p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms, others used {:.0}%",
        latencies.len(),
        millis(latencies.median()),
        millis(latencies.p99()),
        millis(latencies.longest()),
        noise(recording.cpu, recording.elapsed) * 100.0,
    ));
}

pub(crate) fn print(all: &[Measured; 4]) {
    phases(all);
    rounds(&all[0]);
    stages(all);
    slowest(all);
    cpu(all);
}

fn phases(all: &[Measured; 4]) {
    let base = all[0].latencies();
    let mut table = Table::new([
        "phase",
        "requests",
        "failed",
        "req/s",
        "x",
        "p50 ms",
        "p99 ms",
        "x",
        "longest ms",
        "x",
        "updates/due",
        "mean s",
        "longest s",
    ]);
    for measured in all {
        let latencies = measured.latencies();
        let times = measured.update_times();
        let of_updates = |time: Duration| match times.len() {
            0 => "-".to_owned(),
            _ => format!("{:.2}", time.as_secs_f64()),
        };
        table.row([
            measured.phase.name().to_owned(),
            latencies.len().to_string(),
            measured.failed().to_string(),
            format!("{:.1}", measured.throughput()),
            format!("{:.2}", measured.throughput() / all[0].throughput()),
            format!("{:.2}", millis(latencies.median())),
            format!("{:.2}", millis(latencies.p99())),
            format!("{:.2}", ratio(latencies.p99(), base.p99())),
            format!("{:.2}", millis(latencies.longest())),
            format!("{:.2}", ratio(latencies.longest(), base.longest())),
            format!("{}/{}", times.len(), measured.due),
            of_updates(times.mean()),
            of_updates(times.longest()),
        ]);
    }
    table.print();
    for measured in all.iter().filter(|measured| !measured.loads.is_empty()) {
        let loads: Latencies = measured.loads.iter().copied().collect();
        say(&format!(
            "{}: {} loads by workers themselves, median {:.1} ms, longest {:.1} ms",
            measured.phase.name(),
            loads.len(),
            millis(loads.median()),
            millis(loads.longest())
        ));
    }
}

/// How much the same phase differs from round to round: what smaller differences mean nothing.
fn rounds(undisturbed: &Measured) {
    let all: Vec<Latencies> = undisturbed.recordings.iter().map(|one| one.latencies()).collect();
    let spread = |of: fn(&Latencies) -> Duration| {
        let times = || all.iter().map(of);
        let (most, least) = (times().max(), times().min());
        ratio(most.unwrap_or_default(), least.unwrap_or_default())
    };
    if all.len() > 1 {
        say(&format!(
            "noise: undisturbed differs from round to round by {:.2}x in p99, {:.2}x in the longest",
            spread(Latencies::p99),
            spread(Latencies::longest)
        ));
    }
}

fn stages(all: &[Measured; 4]) {
    let heads = [
        "phase, while the update is",
        "seconds",
        "each ms",
        "requests",
        "p50 ms",
        "p99 ms",
        "longest ms",
    ];
    let mut table = Table::new(heads);
    for measured in all.iter().filter(|measured| measured.phase != Phase::Undisturbed) {
        let seen = all_staged(measured);
        for stage in Stage::ALL {
            let latencies = of_stage(&seen, stage);
            if latencies.len() == 0 {
                continue;
            }
            let times = stage_times(measured, stage);
            let total: Duration = times.iter().sum();
            let each: Latencies = times.into_iter().collect();
            let [total, each] = match stage {
                Stage::Quiet => ["-".to_owned(), "-".to_owned()],
                _ => [format!("{:.1}", total.as_secs_f64()), format!("{:.0}", millis(each.mean()))],
            };
            table.row([
                format!("{}: {}", measured.phase.name(), stage.name()),
                total,
                each,
                latencies.len().to_string(),
                format!("{:.2}", millis(latencies.median())),
                format!("{:.2}", millis(latencies.p99())),
                format!("{:.2}", millis(latencies.longest())),
            ]);
        }
    }
    table.print();
}

fn all_staged(measured: &Measured) -> Vec<(Stage, Seen)> {
    measured.recordings.iter().flat_map(staged).collect()
}

fn of_stage(seen: &[(Stage, Seen)], stage: Stage) -> Latencies {
    seen.iter().filter(|(of, _)| *of == stage).map(|(_, seen)| seen.latency()).collect()
}

fn stage_times(measured: &Measured, stage: Stage) -> Vec<Duration> {
    measured.recordings.iter().flat_map(|one| durations(&one.updates, stage)).collect()
}

/// What the slowest hundredth waited for, and what the update did then.
fn slowest(all: &[Measured; 4]) {
    let heads = ["slowest 1 %", "mean ms", "queue ms", "infer ms", "else ms", "met"];
    let mut table = Table::new(heads);
    for measured in all {
        let limit = measured.latencies().p99();
        let seen = all_staged(measured);
        let slow: Vec<&(Stage, Seen)> =
            seen.iter().filter(|(_, seen)| seen.latency() >= limit).collect();
        let mean = |of: fn(&Seen) -> Duration| {
            millis(slow.iter().map(|(_, seen)| of(seen)).collect::<Latencies>().mean())
        };
        let (all, queue) = (mean(Seen::latency), mean(|seen| seen.timing.queue));
        let infer = mean(|seen| seen.timing.infer);
        let met = Stage::ALL.iter().filter_map(|stage| {
            let count = slow.iter().filter(|(of, _)| of == stage).count();
            (count > 0).then(|| format!("{} {}%", stage.name(), count * 100 / slow.len()))
        });
        table.row([
            measured.phase.name().to_owned(),
            format!("{all:.2}"),
            format!("{queue:.2}"),
            format!("{infer:.2}"),
            format!("{:.2}", (all - queue - infer).max(0.0)),
            met.collect::<Vec<_>>().join(", "),
        ]);
    }
    table.print();
}

fn cpu(all: &[Measured; 4]) {
    let heads =
        ["CPU, of all cores", "workers", "supervisor", "checkers", "generator", "others", "stolen"];
    let mut table = Table::new(heads);
    let cores: usize = std::thread::available_parallelism().map_or(1, Into::into);
    for measured in all {
        let seconds = measured.elapsed().as_secs_f64() * real(cores as u64);
        let share = |used: f64| format!("{:.1}%", used * 100.0 / seconds);
        let Cpu { generator, supervisor, checkers, workers, others, stolen } = measured.cpu();
        table.row([
            measured.phase.name().to_owned(),
            share(workers),
            share(supervisor),
            share(checkers),
            share(generator),
            share(others),
            share(stolen),
        ]);
    }
    table.print();
    let noisy = |measured: &Measured| noise(measured.cpu(), measured.elapsed()) > NOISE_MAX;
    if all.iter().any(noisy) {
        say("NOISY: others used this machine meanwhile; run it again on a quiet one");
    }
}

/// For the file.
pub(crate) fn figures(measured: &Measured) -> Value {
    let seen = all_staged(measured);
    let stages = Stage::ALL.iter().map(|stage| {
        let total: Duration = stage_times(measured, *stage).iter().sum();
        json!({
            "stage": stage,
            "seconds": total.as_secs_f64(),
            "requests": of_stage(&seen, *stage).summary(),
        })
    });
    let rounds = measured.recordings.iter().map(|one| one.latencies().summary());
    json!({
        "phase": measured.phase.name(),
        "seconds": measured.elapsed().as_secs_f64(),
        "requests": measured.latencies().summary(),
        "failed": measured.failed(),
        "per_second": measured.throughput(),
        "updates": measured.update_times().summary(),
        "updates_due": measured.due,
        "loads": measured.loads.iter().map(|load| millis(*load)).collect::<Vec<_>>(),
        "rounds": rounds.collect::<Vec<_>>(),
        "stages": stages.collect::<Vec<_>>(),
        "cpu_seconds": measured.cpu(),
    })
}
