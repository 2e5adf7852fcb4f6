//! Tables and figures of the latency phases.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    latency::{Measured, Phase},
    machine::{Cpu, NOISE_MAX, noise},
    report::{Table, fixed, print_line},
    stats::{Latencies, millis, ms, ratio, to_f64},
    timeline::{Stage, durations, staged},
    traffic::{Recording, RequestSample},
};

/// Prints one line per finished round.
pub(crate) fn print_round(name: &str, recording: &Recording) {
    let latencies = recording.latencies();
    print_line(&format!(
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
    let mut table = Table::new("phase");
    for measured in all {
        let latencies = measured.latencies();
        let times = measured.update_times();
        let of_updates = |time: Duration| match times.len() {
            0 => "-".to_owned(),
            _ => format!("{:.2}", time.as_secs_f64()),
        };
        let cells = [
            ("requests", latencies.len().to_string()),
            ("failed", measured.failed().to_string()),
            ("req/s", fixed(measured.throughput(), 1)),
            ("x", fixed(measured.throughput() / all[0].throughput(), 2)),
            ("p50 ms", ms(latencies.median())),
            ("p99 ms", ms(latencies.p99())),
            ("x", fixed(ratio(latencies.p99(), base.p99()), 2)),
            ("longest ms", ms(latencies.longest())),
            ("x", fixed(ratio(latencies.longest(), base.longest()), 2)),
            ("updates/due", format!("{}/{}", times.len(), measured.due)),
            ("mean s", of_updates(times.mean())),
            ("longest s", of_updates(times.longest())),
        ];
        table.row(measured.phase.name(), cells);
    }
    table.print();
    for measured in all.iter().filter(|measured| !measured.loads.is_empty()) {
        let loads: Latencies = measured.loads.iter().copied().collect();
        print_line(&format!(
            "{}: {} loads on refresh, median {:.1} ms, longest {:.1} ms",
            measured.phase.name(),
            loads.len(),
            millis(loads.median()),
            millis(loads.longest())
        ));
    }
}

/// Prints the variation of one phase between rounds. Smaller differences are meaningless.
fn rounds(undisturbed: &Measured) {
    let all: Vec<Latencies> = undisturbed.recordings.iter().map(|one| one.latencies()).collect();
    let spread = |percentile: fn(&Latencies) -> Duration| {
        let times = || all.iter().map(percentile);
        let (most, least) = (times().max(), times().min());
        ratio(most.unwrap_or_default(), least.unwrap_or_default())
    };
    if all.len() > 1 {
        print_line(&format!(
            "noise: undisturbed rounds differ by {:.2}x in p99, {:.2}x in the longest",
            spread(Latencies::p99),
            spread(Latencies::longest)
        ));
    }
}

fn stages(all: &[Measured; 4]) {
    let mut table = Table::new("phase, while the update is");
    for measured in all.iter().filter(|measured| measured.phase != Phase::Undisturbed) {
        let seen = all_staged(measured);
        for stage in Stage::ALL {
            let latencies = latencies_in(&seen, stage);
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
            let counts =
                [("seconds", total), ("each ms", each), ("requests", latencies.len().to_string())];
            let name = format!("{}: {}", measured.phase.name(), stage.name());
            table.row(name, counts.into_iter().chain(latencies.cells()));
        }
    }
    table.print();
}

fn all_staged(measured: &Measured) -> Vec<(Stage, RequestSample)> {
    measured.recordings.iter().flat_map(staged).collect()
}

fn latencies_in(seen: &[(Stage, RequestSample)], stage: Stage) -> Latencies {
    seen.iter().filter(|(at, _)| *at == stage).map(|(_, seen)| seen.latency()).collect()
}

fn stage_times(measured: &Measured, stage: Stage) -> Vec<Duration> {
    measured.recordings.iter().flat_map(|one| durations(&one.updates, stage)).collect()
}

/// Prints the waits of the slowest 1 % of requests and the update stages they overlapped.
fn slowest(all: &[Measured; 4]) {
    let mut table = Table::new("slowest 1 %");
    for measured in all {
        let limit = measured.latencies().p99();
        let seen = all_staged(measured);
        let slow: Vec<&(Stage, RequestSample)> =
            seen.iter().filter(|(_, seen)| seen.latency() >= limit).collect();
        let mean = |phase: fn(&RequestSample) -> Duration| {
            millis(slow.iter().map(|(_, seen)| phase(seen)).collect::<Latencies>().mean())
        };
        let (all, queue) = (mean(RequestSample::latency), mean(|seen| seen.timing.queue));
        let infer = mean(|seen| seen.timing.infer);
        let overlapped = Stage::ALL.iter().filter_map(|stage| {
            let count = slow.iter().filter(|(at, _)| at == stage).count();
            (count > 0).then(|| format!("{} {}%", stage.name(), count * 100 / slow.len()))
        });
        let cells = [
            ("mean ms", fixed(all, 2)),
            ("queue ms", fixed(queue, 2)),
            ("infer ms", fixed(infer, 2)),
            ("other ms", fixed((all - queue - infer).max(0.0), 2)),
            ("met", overlapped.collect::<Vec<_>>().join(", ")),
        ];
        table.row(measured.phase.name(), cells);
    }
    table.print();
}

fn cpu(all: &[Measured; 4]) {
    let mut table = Table::new("CPU, of all cores");
    let cores: usize = std::thread::available_parallelism().map_or(1, Into::into);
    for measured in all {
        let seconds = measured.elapsed().as_secs_f64() * to_f64(cores as u64);
        let share = |used: f64| format!("{:.1}%", used * 100.0 / seconds);
        let Cpu { generator, supervisor, checkers, workers, others, stolen } = measured.cpu();
        let cells = [
            ("workers", share(workers)),
            ("supervisor", share(supervisor)),
            ("checkers", share(checkers)),
            ("generator", share(generator)),
            ("others", share(others)),
            ("stolen", share(stolen)),
        ];
        table.row(measured.phase.name(), cells);
    }
    table.print();
    let noisy = |measured: &Measured| noise(measured.cpu(), measured.elapsed()) > NOISE_MAX;
    if all.iter().any(noisy) {
        print_line("NOISY: other processes used this machine; repeat the run on an idle one");
    }
}

/// Returns the figures for the JSON file.
pub(crate) fn figures(measured: &Measured) -> Value {
    let seen = all_staged(measured);
    let stages = Stage::ALL.iter().map(|stage| {
        let total: Duration = stage_times(measured, *stage).iter().sum();
        json!({
            "stage": stage,
            "seconds": total.as_secs_f64(),
            "requests": latencies_in(&seen, *stage).summary(),
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
