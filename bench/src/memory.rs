//! Memory after many updates, and memory that each additional worker adds.

use std::time::Duration;

use e2e::processes::Memory;
use serde_json::{Value, json};

use crate::{
    options::Settings,
    report::{Report, Table, fixed, print_line},
    stats::{Latencies, millis, to_f64},
    subject::{ModelPair, Subject},
    traffic::Traffic,
};

/// Updates before the first measurement.
const WARM_UP_UPDATES: usize = 20;
/// Measurements after the first.
const LATER_MEASUREMENTS: usize = 5;
/// Maximum growth of resident memory.
const GROWTH_MAX: f64 = 1.10;
/// Occasional clients, and their pause between requests.
const CLIENTS: usize = 2;
const PAUSE: Duration = Duration::from_millis(20);
/// Maximum memory that an additional worker may add, in MB.
const WORKER_MAX: f64 = 40.0;
const MEGABYTE: f64 = 1e6;

/// A process and its memory at each measurement.
struct MemoryGrowth {
    name: String,
    pid: i32,
    at: Vec<Memory>,
}

/// Toggles between two versions many times.
pub(crate) async fn run(
    subject: &mut Subject,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let mut processes = processes(subject).await;
    let mut counts = Vec::new();
    let (mut done, mut times) = (0, Vec::new());
    let all = settings.updates().max(WARM_UP_UPDATES + LATER_MEASUREMENTS);
    for part in 0..=LATER_MEASUREMENTS {
        let updates_due = WARM_UP_UPDATES + (all - WARM_UP_UPDATES) * part / LATER_MEASUREMENTS;
        // Work in parts, so that the clients' recordings need not all be kept.
        let traffic = Traffic::start(subject, CLIENTS, PAUSE).await?;
        let mut updates = Vec::new();
        while done < updates_due {
            updates.push(subject.rollback().await?);
            done += 1;
        }
        // Every measurement is made with the same version serving.
        if done % 2 == 1 {
            updates.push(subject.rollback().await?);
            done += 1;
        }
        times.extend(updates.iter().map(|called| called.end - called.start));
        let recording = traffic.finish(subject, updates).await?;
        report.violations("memory", &recording.violations);
        subject.settle().await?;
        processes.iter_mut().for_each(|process| process.at.push(Memory::read(process.pid)));
        counts.push(done);
    }
    let times: Latencies = times.into_iter().collect();
    print(&processes, &counts, report);
    print_line(&format!(
        "{done} rollbacks, loaded ahead: mean {:.0} ms, p99 {:.0} ms, longest {:.0} ms",
        millis(times.mean()),
        millis(times.p99()),
        millis(times.longest())
    ));
    let pids: Vec<i32> = self::processes(subject).await.iter().map(|one| one.pid).collect();
    if processes.iter().map(|one| one.pid).ne(pids) {
        report.violations("memory", &["a process was restarted".to_owned()]);
    }
    let figures =
        processes.iter().map(|process| json!({"process": process.name, "memory": process.at}));
    let figures = json!({"updates": counts, "processes": figures.collect::<Vec<Value>>(), "rollback": times.summary()});
    report.figures("memory", figures);
    report.at_most("rollback, ahead: longest", times.longest().as_secs_f64(), 1.0, " s");
    Ok(())
}

async fn processes(subject: &Subject) -> Vec<MemoryGrowth> {
    let workers = subject.worker_pids().await;
    let workers = workers.into_iter().enumerate().map(|(id, pid)| (format!("worker {id}"), pid));
    let all = [("supervisor".to_owned(), subject.server.pid())].into_iter().chain(workers);
    all.map(|(name, pid)| MemoryGrowth { name, pid, at: Vec::new() }).collect()
}

fn print(processes: &[MemoryGrowth], counts: &[usize], report: &mut Report) {
    let columns = ["resident MB", "PSS MB", "private MB"];
    let parts: [fn(&Memory) -> u64; 3] =
        [|memory| memory.rss, |memory| memory.pss, |memory| memory.anonymous];
    for (head, part) in columns.into_iter().zip(parts) {
        let mut table = Table::new(format!("{head} after"));
        for process in processes {
            let bytes: Vec<f64> = process.at.iter().map(|memory| to_f64(part(memory))).collect();
            let growth = bytes[LATER_MEASUREMENTS] / bytes[0];
            let after = counts.iter().map(ToString::to_string);
            let sizes = bytes.iter().map(|bytes| fixed(bytes / MEGABYTE, 1));
            let ratio = ("ratio".to_owned(), fixed(growth, 3));
            table.row(&process.name, after.zip(sizes).chain([ratio]));
            if head == "resident MB" {
                let what =
                    format!("memory of {} after {}", process.name, counts[LATER_MEASUREMENTS]);
                report.at_most(&what, growth, GROWTH_MAX, "x");
            }
        }
        table.print();
    }
}

/// Compares a server with one worker to one with three.
pub(crate) async fn further_workers(
    pair: &ModelPair,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    let mut table = Table::new("workers");
    let mut sums = Vec::new();
    for workers in [1, 3] {
        // Use processes that have loaded the model once and done nothing else.
        let subject = Subject::start(pair.clone(), workers, settings.seed).await?;
        let subject = subject.restart(workers).await;
        for _ in 0..settings.repeats() * 10 {
            subject.touch_all().await?;
        }
        subject.settle().await?;
        let status = subject.control.status().await;
        let loads = status.workers.iter().filter_map(|worker| worker.loads.get(pair.model));
        let compiled = loads.filter(|load| load.compiled).count();
        let pss = |pid: i32| to_f64(Memory::read(pid).pss) / MEGABYTE;
        let supervisor = pss(subject.server.pid());
        let of_workers: f64 = status.pids().into_iter().map(pss).sum();
        let cells = [
            ("summed PSS MB", fixed(supervisor + of_workers, 1)),
            ("of which workers", fixed(of_workers, 1)),
            ("compiled", compiled.to_string()),
            ("supervisor", fixed(supervisor, 1)),
        ];
        table.row(workers.to_string(), cells);
        sums.push(supervisor + of_workers);
        subject.server.stop().await;
    }
    table.print();
    let per_worker = (sums[1] - sums[0]) / 2.0;
    report.figures("further_worker_megabytes", per_worker);
    report.at_most("each additional worker adds", per_worker, WORKER_MAX, " MB");
    Ok(())
}
