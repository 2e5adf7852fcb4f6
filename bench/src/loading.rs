//! Time that a worker takes to load the compiled model and the plain one.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use serde_json::json;

use crate::{
    control::Control,
    options::Settings,
    report::{Report, Table, fixed},
    stats::{Latencies, millis, ratio},
    subject::ModelPair,
};

/// Load time of the compiled model, relative to the plain one.
const COMPILED_MAX: f64 = 0.5;

pub(crate) async fn run(
    pair: &ModelPair,
    workers: usize,
    settings: &Settings,
    report: &mut Report,
) -> Result<(), String> {
    // The first start stages, checks and compiles.
    let first = pair.builder(workers).start().await;
    let home = Arc::clone(first.home());
    first.stop().await;
    let mut loads = [Vec::new(), Vec::new()];
    for _ in 0..settings.repeats() {
        for (index, compiled) in [true, false].into_iter().enumerate() {
            if !compiled {
                block(&home.state())?;
            }
            let server = pair.builder(workers).home(&home).start().await;
            let control = Control::new(&server, pair.model);
            let status = control.status().await;
            server.stop().await;
            if !compiled {
                restore(&home.state())?;
            }
            for worker in &status.workers {
                let load =
                    worker.loads.get(pair.model).ok_or("a worker has not loaded the model")?;
                if load.compiled != compiled {
                    let found = if load.compiled { "compiled" } else { "plain" };
                    report.violations("loading", &[format!("a worker loaded the {found} model")]);
                }
                loads[index].push(Duration::from_micros(load.load_micros));
            }
        }
    }
    let [compiled, plain] = loads.map(|times| times.into_iter().collect::<Latencies>());
    let mut table = Table::new("load at start");
    for (name, times) in [("compiled", &compiled), ("plain", &plain)] {
        let cells = [
            ("loads", times.len().to_string()),
            ("shortest ms", fixed(millis(times.quantile(0.0)), 1)),
            ("median ms", fixed(millis(times.median()), 1)),
            ("longest ms", fixed(millis(times.longest()), 1)),
        ];
        table.row(name, cells);
    }
    table.print();
    let figures = json!({"compiled": compiled.summary(), "plain": plain.summary()});
    report.figures("loading", figures);
    let what = "load of the compiled to the plain model";
    report.at_most(what, ratio(compiled.median(), plain.median()), COMPILED_MAX, "x");
    Ok(())
}

/// Replaces the directory of compiled forms with a file, so that not even root can read or write
/// one.
fn block(state: &Path) -> Result<(), String> {
    let (compiled, kept) = (state.join("compiled"), state.join("compiled.kept"));
    let blocked = || {
        fs::rename(&compiled, kept)?;
        fs::write(&compiled, "")?;
        fs::set_permissions(&compiled, fs::Permissions::from_mode(0o400))
    };
    blocked().map_err(|error: std::io::Error| format!("{}: {error}", compiled.display()))
}

fn restore(state: &Path) -> Result<(), String> {
    let (compiled, kept) = (state.join("compiled"), state.join("compiled.kept"));
    let restored = fs::remove_file(&compiled).and_then(|()| fs::rename(kept, &compiled));
    restored.map_err(|error| format!("{}: {error}", compiled.display()))
}
