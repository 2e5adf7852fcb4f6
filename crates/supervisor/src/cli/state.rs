//! Runs `onnxd state`, which inspects, repairs and prunes a state directory without a server.

use std::path::Path;

use onnxd_engine::models::store::maintenance::{
    Action, Change, Maintenance,
    prune::{self, Kept},
    repair,
    survey::{ModelSurvey, RecordState, Survey, VersionSurvey},
};
use onnxd_proto::{
    exit::{ExitStatus, Failure},
    layout::Layout,
};
use serde::Serialize;

use super::{
    print_line,
    progress::short,
    state_arguments::{
        ChangeArguments, PruneArguments, RepairArguments, StateCheckArguments, StateCommand,
    },
    status::table,
};
use crate::config::{self, Origins, ServeArguments};

/// Runs a command of `onnxd state`.
///
/// # Errors
/// The directory cannot be read or changed, or a server uses it.
pub(crate) fn main(command: StateCommand, origins: &mut Origins) -> Result<ExitStatus, Failure> {
    match command {
        StateCommand::Check(arguments) => check(&arguments),
        StateCommand::Repair(arguments) => repair(&arguments),
        StateCommand::Prune(arguments) => prune(arguments, origins),
    }
}

fn check(arguments: &StateCheckArguments) -> Result<ExitStatus, Failure> {
    let arguments = &arguments.directory;
    let survey = Survey::read(&config::state_dir(arguments.state_dir.as_deref())?)?;
    match arguments.json {
        true => print_json(&survey),
        false => print_survey(&survey),
    }
    Ok(status(survey.is_damaged()))
}

fn repair(arguments: &RepairArguments) -> Result<ExitStatus, Failure> {
    let change = &arguments.change;
    let root = config::state_dir(change.directory.state_dir.as_deref())?;
    let maintenance = lock(&root, change)?;
    let survey = maintenance.as_ref().map_or_else(|| Survey::read(&root), Maintenance::survey)?;
    let changes = repair::plan(&survey);
    apply(maintenance.as_ref(), change, &changes)?;
    let unreadable = survey.models.iter().filter_map(unreadable);
    let remaining: Vec<String> = unreadable.collect();
    if !change.directory.json {
        remaining.iter().for_each(|line| print_line(line));
        if changes.is_empty() && remaining.is_empty() {
            print_line("nothing to repair");
        }
    }
    Ok(status(!remaining.is_empty()))
}

fn prune(arguments: PruneArguments, origins: &mut Origins) -> Result<ExitStatus, Failure> {
    let PruneArguments { config, model, keep, change } = arguments;
    let state_dir = change.directory.state_dir.clone();
    let mut settings = ServeArguments::default();
    (settings.other.config, settings.models.model) = (config, model);
    settings.state.state_dir = state_dir;
    let settings = settings.with_file(origins)?;
    let root = config::state_dir(settings.state.state_dir.as_deref())?;
    if settings.models.model.is_empty() && keep.is_empty() {
        return Err(Failure::configuration(
            "no model would stay; name those that are configured with --config FILE, --model NAME=URI or --keep NAME",
        ));
    }
    let mut kept = Kept::default();
    if !settings.models.model.is_empty() {
        for model in config::models::parse(&settings.models.model, &[])? {
            kept.models.insert(model.name);
            kept.sources.push(model.uri);
        }
    }
    let failed =
        |error| Failure::configuration(format!("--state-dir: {}: {error}", root.display()));
    let maintenance = lock(&root, &change)?;
    let layout = Layout::new(&root);
    let present = prune::unconfigured(&layout, &Kept::default()).map_err(failed)?;
    // A typing error would remove the model that was meant.
    if let Some(name) = keep.iter().find(|name| !present.contains(name)) {
        let names: Vec<String> = present.iter().map(ToString::to_string).collect();
        return Err(Failure::configuration(format!(
            "--keep {name}: {} has no record of this model; it has records of: {}",
            root.display(),
            names.join(", ")
        )));
    }
    kept.models.extend(keep);
    let changes = prune::plan(&layout, &kept).map_err(failed)?;
    apply(maintenance.as_ref(), &change, &changes)?;
    if !change.directory.json {
        let total = size(bytes(&changes));
        print_line(&match (changes.is_empty(), change.dry_run) {
            (true, _) => "nothing to remove".to_owned(),
            (false, true) => format!("would free {total}"),
            (false, false) => format!("freed {total}"),
        });
    }
    Ok(ExitStatus::Success)
}

/// Takes the lock, except for a dry run.
fn lock(root: &Path, arguments: &ChangeArguments) -> Result<Option<Maintenance>, Failure> {
    if arguments.dry_run { Ok(None) } else { Maintenance::open(root).map(Some) }
}

/// Makes the changes and prints them. Without a lock it only prints them.
fn apply(
    maintenance: Option<&Maintenance>,
    arguments: &ChangeArguments,
    changes: &[Change],
) -> Result<(), Failure> {
    for change in changes {
        if let Some(maintenance) = maintenance {
            maintenance.apply(change).map_err(|error| {
                let path = change.path.display();
                Failure::refused(format!(
                    "cannot change {path}: {error}; what was printed before is done"
                ))
            })?;
        }
        if !arguments.directory.json {
            print_line(&describe(change, arguments.dry_run));
        }
    }
    if arguments.directory.json {
        print_json(&Changed { dry_run: arguments.dry_run, bytes: bytes(changes), changes });
    }
    Ok(())
}

/// The result of a repair or removal as JSON.
#[derive(Serialize)]
struct Changed<'a> {
    dry_run: bool,
    /// Bytes that are freed.
    bytes: u64,
    changes: &'a [Change],
}

/// Returns the bytes that changes free.
fn bytes(changes: &[Change]) -> u64 {
    let removed = changes.iter().filter(|change| change.action == Action::Remove);
    removed.map(|change| change.bytes).sum()
}

fn describe(change: &Change, dry_run: bool) -> String {
    let (path, bytes, reason) = (change.path.display(), size(change.bytes), &change.reason);
    let verb = |done, planned| if dry_run { planned } else { done };
    match &change.to {
        Some(to) => {
            let verb = verb("set aside", "would set aside");
            format!("{verb} {path} as {}: {reason}", to.display())
        }
        None => format!("{} {path} ({bytes}): {reason}", verb("removed", "would remove")),
    }
}

const MODEL_COLUMNS: [&str; 5] = ["MODEL", "SERVES", "GENERATIONS", "VERSION", "SOURCE"];
const VERSION_COLUMNS: [&str; 5] = ["VERSION", "SIZE", "COMPILED", "MODELS", "STATE"];

fn print_survey(survey: &Survey) {
    let used =
        survey.server.as_ref().map_or(String::new(), |pid| format!(", used by process {pid}"));
    print_line(&format!("{}: {}{used}\n", survey.directory.display(), size(survey.bytes)));
    table(&MODEL_COLUMNS, survey.models.iter().map(model).collect());
    print_line("");
    table(&VERSION_COLUMNS, survey.versions.iter().map(version).collect());
    let parts =
        [("downloads", survey.downloads_bytes), ("set aside in damaged/", survey.set_aside_bytes)];
    for (name, bytes) in parts.into_iter().filter(|(_, bytes)| *bytes > 0) {
        print_line(&format!("\n{name}: {}", size(bytes)));
    }
    damage(survey).iter().for_each(|line| print_line(line));
}

/// Returns lines about what is damaged, with the remedy.
fn damage(survey: &Survey) -> Vec<String> {
    let mut lines = Vec::new();
    for model in &survey.models {
        for record in model.damaged() {
            let (name, number) = (&model.model, record.generation);
            let reason = record.damage.as_deref().unwrap_or_default();
            lines.push(format!("\n{name}: generation {number} is damaged: {reason}"));
        }
        if model.damaged().next().is_some() {
            lines.push(match model.serves {
                Some(generation) => format!("  the next start serves generation {generation}"),
                None => "  the next start reads the source again".to_owned(),
            });
        }
        lines.extend(unreadable(model).map(|line| format!("\n{line}")));
    }
    for version in &survey.versions {
        if let Some(damage) = &version.damage {
            lines.push(format!("\nversion {} is damaged: {damage}", short(&version.version)));
        }
    }
    let leftovers =
        survey.leftovers.iter().map(|path| format!("\nleft behind by a crash: {}", path.display()));
    lines.extend(leftovers);
    if !lines.is_empty() {
        let (stop, directory) = (survey.server.is_some(), survey.directory.display());
        let stop = if stop { "stop onnxd, then run" } else { "run" };
        lines.push(format!("\n{stop}: onnxd state repair --state-dir {directory}"));
    }
    lines
}

/// Returns what a repair cannot mend.
fn unreadable(model: &ModelSurvey) -> Option<String> {
    let (name, reason) = (&model.model, model.unreadable.as_ref()?);
    Some(format!(
        "{name}: its records cannot be listed: {reason}; restore that path from a backup, or remove it to start with generation 1 again"
    ))
}

fn model(model: &ModelSurvey) -> Vec<String> {
    let numbers: Vec<String> =
        model.records.iter().map(|record| record.generation.to_string()).collect();
    let numbers = match &numbers[..] {
        [first, .., last] => format!("{first} to {last}"),
        few => few.concat(),
    };
    let served = model.records.iter().rev().find(|record| record.state == RecordState::Whole);
    let version = served.and_then(|record| record.version.as_deref());
    let serves = model.serves.map(|generation| generation.to_string());
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    vec![
        model.model.clone(),
        or_dash(serves),
        or_dash(Some(numbers).filter(|numbers| !numbers.is_empty())),
        or_dash(version.map(|version| short(version).to_owned())),
        or_dash(model.source.clone()),
    ]
}

fn version(version: &VersionSurvey) -> Vec<String> {
    let models: Vec<&str> = version.models.iter().map(String::as_str).collect();
    let state = match (&version.damage, models.is_empty()) {
        (Some(_), _) => "damaged",
        (None, true) => "unused",
        (None, false) => "whole",
    };
    vec![
        short(&version.version).to_owned(),
        size(version.bytes),
        size(version.compiled_bytes),
        if models.is_empty() { "-".to_owned() } else { models.join(", ") },
        state.to_owned(),
    ]
}

/// Returns a size in megabytes, or in kilobytes if it is small.
fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for people, to one decimal place")]
    let bytes = bytes as f64;
    if bytes < 1e6 { format!("{:.1} kB", bytes / 1e3) } else { format!("{:.1} MB", bytes / 1e6) }
}

fn print_json(value: &impl Serialize) {
    print_line(&serde_json::to_string(value).expect("paths are text and all numbers are finite"));
}

fn status(is_damaged: bool) -> ExitStatus {
    if is_damaged { ExitStatus::Refused } else { ExitStatus::Success }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [(0, "0.0 kB"), (1_234, "1.2 kB"), (12_340_000, "12.3 MB")] {
            assert_eq!(size(bytes), text);
        }
    }
}
