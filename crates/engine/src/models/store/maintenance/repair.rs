//! Plans the repair of a state directory, so that the next start serves the newest whole generation.

use onnxd_proto::layout::Layout;

use super::{Action, Change, survey::Survey};

/// Returns the changes, in the order to make them. Damaged records and versions are set aside; only
/// compiled forms, which a start rebuilds, and leftovers are removed. A directory of records that
/// cannot be read stays, because nothing else knows its numbers.
pub fn plan(survey: &Survey) -> Vec<Change> {
    let layout = Layout::new(&survey.directory);
    let mut changes = Vec::new();
    for model in &survey.models {
        let Ok(name) = model.model.parse() else { continue };
        for record in model.damaged() {
            let path = layout.generation(&name, record.generation);
            let reason = record.damage.as_deref().unwrap_or_default();
            changes.push(Change::set_aside(Action::SetAsideRecord, &layout, path, reason));
        }
    }
    for version in &survey.versions {
        let Some(reason) = &version.damage else { continue };
        let path = layout.version(&version.version);
        changes.push(Change::set_aside(Action::SetAsideVersion, &layout, path, reason));
        if layout.compiled(&version.version).exists() {
            let compiled = layout.compiled(&version.version);
            changes.push(Change::remove(compiled, "compiled from a damaged version"));
        }
    }
    let leftovers = survey.leftovers.iter().cloned();
    changes.extend(leftovers.map(|path| Change::remove(path, "left behind by a crash")));
    changes
}
