//! Runs `onnxd status`.

use std::time::{SystemTime, UNIX_EPOCH};

use onnxd_admin::api::{
    Guess, LoadStatus, ModelDetails, ModelStatus, Shortened, Status, SwitchFacts, Task,
    WorkerStatus,
};
use onnxd_proto::exit::{ExitStatus, Failure};

use super::{StatusArguments, client::call, print_line, progress::embedding, update::refused};

/// Prints what a supervisor serves, as two tables or as one line of JSON.
///
/// # Errors
/// No supervisor answers.
pub(crate) fn main(arguments: &StatusArguments) -> Result<ExitStatus, Failure> {
    let answer = call(&arguments.admin, async |client| client.status().await)?;
    if arguments.admin.json {
        print_line(&answer.json);
    }
    match answer.result {
        Ok(status) if !arguments.admin.json => print(&status),
        Ok(_) => {}
        Err(refusal) => return Err(refused(&refusal)),
    }
    Ok(ExitStatus::Success)
}

#[expect(clippy::disallowed_methods, reason = "ages are for people to read")]
fn print(status: &Status) {
    if !status.sandbox.on {
        print_line("NOT CONFINED: workers and checkers run with --no-sandbox\n");
    }
    if let Some(phase) = &status.starting {
        print_line(&format!("STARTING: {phase}\n"));
    }
    if status.stopping {
        print_line("STOPPING: not ready, but requests are still answered\n");
    }
    table(&MODEL_COLUMNS, status.models.iter().map(model).collect());
    print_line("");
    let worker = |worker| self::worker(worker, &status.models);
    table(&WORKER_COLUMNS, status.workers.iter().map(worker).collect());
    let sources = sources(&status.models, SystemTime::now());
    if !sources.is_empty() {
        print_line("");
        table(&SOURCE_COLUMNS, sources);
    }
    for model in &status.models {
        if let Some(failure) = &model.failure {
            print_line(&format!("\n{}: not served: {failure}", model.name));
        }
        if let Some(indexing) = &model.indexing {
            print_line(&format!("\n{}", embedding(&model.name, indexing)));
        }
        for generation in &model.damaged_records {
            print_line(&format!(
                "\n{}: the record of generation {generation} is damaged; stop onnxd and run `onnxd state repair`",
                model.name
            ));
        }
        if let Some(details) = &model.details {
            print_line(&format!("\n{}", model.name));
            self::details(details).iter().for_each(|line| print_line(line));
        }
        for version in &model.quarantined {
            let (name, version) = (&model.name, short(version));
            print_line(&format!(
                "\n{name}: version {version} failed its probation and is quarantined"
            ));
        }
    }
}

const MODEL_COLUMNS: [&str; 7] =
    ["MODEL", "STATE", "GENERATION", "VERSION", "TASK", "COSINE", "SOURCE"];
const WORKER_COLUMNS: [&str; 7] =
    ["WORKER", "PID", "CPU", "STATE", "RESTARTS", "MEMORY", "GENERATIONS"];
const SOURCE_COLUMNS: [&str; 6] =
    ["SOURCE OF", "SNAPSHOT", "CHECKED", "CHANGED", "EVERY", "LAST ERROR"];

/// Returns a row of the table of models. COSINE is the mean cosine to the previous generation over the probe texts.
fn model(model: &ModelStatus) -> Vec<String> {
    let version = Some(short(&model.version)).filter(|version| !version.is_empty());
    vec![
        model.name.clone(),
        model.state.to_string(),
        model.generation.to_string(),
        or_dash(version),
        or_dash(model.task.map(Task::as_str)),
        or_dash(model.drift.map(|drift| format!("{:.4}", drift.mean_cosine))),
        model.source.clone(),
    ]
}

/// Returns lines that describe how a model is run.
fn details(details: &ModelDetails) -> Vec<String> {
    let listed = |list: &[String]| list.join(", ");
    let length = (details.max_input_length > 0).then(|| match &details.shortened {
        Some(Shortened { declared_tokens, reason }) => {
            format!("{} of {declared_tokens} tokens: {reason}", details.max_input_length)
        }
        None => format!("{} tokens", details.max_input_length),
    });
    let switch = |switch: &SwitchFacts| {
        let values = switch.values.iter().map(|(word, value)| format!("{word}={value}"));
        let default =
            switch.default.map_or("required".to_owned(), |value| format!("default {value}"));
        let words: Vec<String> = std::iter::once(default).chain(values).collect();
        format!("{} ({})", switch.name, words.join(", "))
    };
    let switches: Vec<String> = details.switches.iter().map(switch).collect();
    let parts = [
        ("file", details.file.clone()),
        ("inputs", listed(&details.inputs)),
        ("pipeline", details.pipeline.join(" -> ")),
        ("longest text", length.unwrap_or_default()),
        ("labels", listed(&details.labels)),
        ("prompts", listed(&details.prompts)),
        ("switches", listed(&switches)),
    ];
    let parts = parts.into_iter().filter(|(_, text)| !text.is_empty());
    let parts = parts.map(|(name, text)| format!("  {name:<12}  {text}"));
    let guess = |Guess { key, value, reason }: &Guess| {
        format!("  {:<12}  {key} = {value}: {reason}; set `{key}` in onnxd.toml", "GUESSED")
    };
    parts.chain(details.guesses.iter().map(guess)).collect()
}

/// Returns a row of the table of workers. MEMORY is private memory, without weights that workers share.
fn worker(worker: &WorkerStatus, models: &[ModelStatus]) -> Vec<String> {
    // In the order of the configuration.
    let generation = |model: &ModelStatus| {
        let generation = worker.generations.get(&model.name)?;
        let age = worker.loads.get(&model.name).map_or(String::new(), age);
        Some(format!("{}={generation}{age}", model.name))
    };
    let generations: Vec<String> = models.iter().filter_map(generation).collect();
    vec![
        worker.id.to_string(),
        or_dash(worker.pid),
        or_dash(worker.cpu),
        worker.state.to_string(),
        worker.restarts.to_string(),
        or_dash(worker.memory_bytes.map(|bytes| format!("{} MB", bytes / 1_000_000))),
        generations.join(" "),
    ]
}

/// Returns a row for each watched source.
fn sources(models: &[ModelStatus], now: SystemTime) -> Vec<Vec<String>> {
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let ago = |time: Option<u64>| or_dash(time.map(|time| ago(now.saturating_sub(time))));
    let row = |model: &ModelStatus| {
        let state = model.source_state.as_ref()?;
        Some(vec![
            model.name.clone(),
            or_dash(state.snapshot.as_deref().map(short_snapshot)),
            ago(state.checked),
            ago(state.changed),
            format!("{} s", state.interval_seconds?),
            or_dash(state.error.as_deref()),
        ])
    };
    models.iter().filter_map(row).collect()
}

/// Returns an age in the largest unit of which it has at least two.
fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s ago"),
        120..7_200 => format!("{} min ago", seconds / 60),
        7_200..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Returns a snapshot's id with only the first digits of a digest or commit.
fn short_snapshot(snapshot: &str) -> String {
    let is_digest =
        |text: &str| text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match snapshot.rsplit_once(':') {
        Some((kind, digest)) if is_digest(digest) => format!("{kind}:{}", short(digest)),
        None if is_digest(snapshot) => short(snapshot).to_owned(),
        _ => snapshot.to_owned(),
    }
}

/// Returns how long ago a worker loaded a generation.
fn age(load: &LoadStatus) -> String {
    let plain = if load.compiled { "" } else { ", not compiled" };
    load.seconds_ago.map_or(String::new(), |age| format!(" ({age} s ago{plain})"))
}

/// Prints a table whose columns are as wide as their widest cell.
pub(super) fn table(headings: &[&str], rows: Vec<Vec<String>>) {
    let headings = headings.iter().map(ToString::to_string).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headings).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = width(column).unwrap_or(0);
            format!("{cell:<width$}")
        });
        print_line(cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// Returns the value, or a dash if it is absent.
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// Returns the first digits of a version.
fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use onnxd_admin::api::{ModelState, SourceStatus};

    use super::*;

    #[test]
    fn watched_sources_show_ages_and_the_last_error() {
        let model = |name: &str, source_state| ModelStatus {
            name: name.to_owned(),
            state: ModelState::Loaded,
            generation: 1,
            version: String::new(),
            task: None,
            dimension: None,
            drift: None,
            quarantined: Vec::new(),
            source: String::new(),
            source_state,
            indexing: None,
            failure: None,
            damaged_records: Vec::new(),
            details: None,
        };
        let watched = SourceStatus {
            interval_seconds: Some(60),
            snapshot: Some(format!("sha256:{}", "0123456789abcdef".repeat(4))),
            checked: Some(9_988),
            changed: Some(1_000),
            error: Some("no route".to_owned()),
            ..SourceStatus::default()
        };
        let models = [
            model("unwatched", Some(SourceStatus::default())),
            model("a", Some(watched)),
            model("b", Some(SourceStatus { interval_seconds: Some(5), ..SourceStatus::default() })),
        ];
        let rows = sources(&models, UNIX_EPOCH + Duration::from_secs(10_000));
        let expected = [
            ["a", "sha256:0123456789ab", "12 s ago", "2 h ago", "60 s", "no route"],
            ["b", "-", "-", "-", "5 s", "-"],
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn ages_and_snapshots_are_short() {
        for (seconds, text) in [
            (0, "0 s ago"),
            (119, "119 s ago"),
            (120, "2 min ago"),
            (7_199, "119 min ago"),
            (7_200, "2 h ago"),
            (172_800, "2 d ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(short_snapshot(&digest), "0123456789ab");
        assert_eq!(short_snapshot(&format!("hf:{}", &digest[..40])), "hf:0123456789ab");
        assert_eq!(short_snapshot("mlflow:m/3:1764000000000"), "mlflow:m/3:1764000000000");
    }

    #[test]
    fn details_show_what_is_known() {
        assert!(details(&ModelDetails::default()).is_empty());
        let words = [("text-matching".to_owned(), 4)].into();
        let switch = SwitchFacts { name: "task_id".into(), default: Some(4), values: words };
        let guess = Guess { key: "pooling".into(), value: "mean".into(), reason: "why".into() };
        let shortened = Shortened { declared_tokens: 8192, reason: "memory".into() };
        let lines = details(&ModelDetails {
            pipeline: vec!["last_hidden_state".into(), "pooling mean".into()],
            max_input_length: 512,
            shortened: Some(shortened),
            switches: vec![switch],
            guesses: vec![guess],
            ..ModelDetails::default()
        });
        for (line, text) in lines.iter().zip([
            "last_hidden_state -> pooling mean",
            "512 of 8192 tokens: memory",
            "task_id (default 4, text-matching=4)",
            "pooling = mean: why; set `pooling` in onnxd.toml",
        ]) {
            assert!(line.ends_with(text), "{line}");
        }
        assert_eq!(lines.len(), 4);
    }
}
