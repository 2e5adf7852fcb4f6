//! What a state directory holds, and what is damaged. Reads only, also while a server runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use onnxd_proto::{
    domain::model_name::ModelName, exit::Failure, generation::Generation, layout::Layout,
};
use serde::Serialize;

use super::bytes_of;
use crate::models::store::{
    lock, names,
    records::{self, Found},
    verify::{self, Stamps},
};

/// The content of a state directory.
#[derive(Debug, Serialize)]
pub struct Survey {
    /// The state directory.
    pub directory: PathBuf,
    /// The PID of the server that uses it.
    pub server: Option<String>,
    /// By name, also those that are not configured.
    pub models: Vec<ModelSurvey>,
    /// By digest.
    pub versions: Vec<VersionSurvey>,
    /// Unfinished downloads and what is known about remote sources.
    pub downloads_bytes: u64,
    /// Bytes of what repairs have set aside.
    pub set_aside_bytes: u64,
    /// What a crash left behind. Empty while a server runs, because it may be in use.
    pub leftovers: Vec<PathBuf>,
    /// Bytes of everything.
    pub bytes: u64,
}

/// What is kept of a model.
#[derive(Debug, Serialize)]
pub struct ModelSurvey {
    /// The name.
    pub model: String,
    /// The generation that the next start serves; `None` if it reads the source.
    pub serves: Option<Generation>,
    /// The source that generation came from.
    pub source: Option<String>,
    /// By number.
    pub records: Vec<RecordSurvey>,
    /// What is wrong with the directory of its records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
}

/// A generation's record.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct RecordSurvey {
    /// The generation.
    pub generation: Generation,
    /// Its version, if the record can be read.
    pub version: Option<String>,
    /// Whether it can serve.
    pub state: RecordState,
    /// What is wrong, if it is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Whether a record can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// It and its version are whole.
    Whole,
    /// Its version is no longer kept, because there are newer ones.
    Retired,
    /// A repair has set it aside.
    SetAside,
    /// It cannot be read, or its version is damaged or missing although it is among the newest.
    Damaged,
}

/// A kept version.
#[derive(Debug, Serialize)]
pub struct VersionSurvey {
    /// The digest.
    pub version: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of its compiled forms.
    pub compiled_bytes: u64,
    /// The models with a record that names it.
    pub models: BTreeSet<String>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damage: Option<String>,
}

/// Returns the layout of an existing state directory.
///
/// # Errors
/// It cannot be read, or is another directory.
pub(super) fn layout(root: &Path) -> Result<Layout, Failure> {
    let invalid = |reason: &dyn std::fmt::Display| {
        Failure::configuration(format!("--state-dir: {}: {reason}", root.display()))
    };
    fs::read_dir(root).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => {
            invalid(&format!("{error}; run the command as root or as the user that runs onnxd"))
        }
        _ => invalid(&error),
    })?;
    let layout = Layout::new(root);
    if !layout.generations_root().is_dir() && !layout.versions().is_dir() {
        let reason = "not a state directory, it has neither generations/ nor versions/; pass the --state-dir of onnxd serve";
        return Err(invalid(&reason));
    }
    Ok(layout)
}

impl Survey {
    /// Reads a state directory, and compares every version with its manifest.
    ///
    /// # Errors
    /// The directory cannot be read, or is not a state directory.
    pub fn read(root: &Path) -> Result<Self, Failure> {
        let layout = layout(root)?;
        let server = lock::holder(&layout.lock()).map_err(|error| {
            Failure::configuration(format!("--state-dir: {}: {error}", layout.lock().display()))
        })?;
        Self::of(&layout, server)
    }

    /// Reads a state directory, which `server` uses.
    pub(super) fn of(layout: &Layout, server: Option<String>) -> Result<Self, Failure> {
        let root = layout.root();
        let failed = |error: io::Error| {
            Failure::configuration(format!("--state-dir: {}: {error}", root.display()))
        };
        let mut versions = versions(layout).map_err(failed)?;
        let mut models = Vec::new();
        for model in records::models(layout).map_err(failed)? {
            models.push(ModelSurvey::read(layout, &model, &versions));
        }
        for model in &models {
            for version in model.records.iter().filter_map(|record| record.version.as_ref()) {
                if let Some(version) = versions.get_mut(version) {
                    version.models.insert(model.model.clone());
                }
            }
        }
        Ok(Self {
            directory: root.to_owned(),
            leftovers: if server.is_some() { Vec::new() } else { leftovers(layout) },
            server,
            models,
            versions: versions.into_values().collect(),
            downloads_bytes: bytes_of(&layout.downloads()) + bytes_of(&layout.snapshots()),
            set_aside_bytes: bytes_of(&layout.damaged()),
            bytes: bytes_of(layout.root()),
        })
    }

    /// Returns whether something is damaged.
    pub fn is_damaged(&self) -> bool {
        self.versions.iter().any(|version| version.damage.is_some())
            || self.models.iter().any(|model| model.damaged().next().is_some())
            || self.models.iter().any(|model| model.unreadable.is_some())
    }
}

impl ModelSurvey {
    fn read(
        layout: &Layout,
        model: &ModelName,
        versions: &BTreeMap<String, VersionSurvey>,
    ) -> Self {
        let mut survey = Self {
            model: model.to_string(),
            serves: None,
            source: None,
            records: Vec::new(),
            unreadable: None,
        };
        let path = layout.generations(model);
        let compare = |version: &str| match versions.get(version) {
            // Every file was read.
            Some(VersionSurvey { damage: None, .. }) => Ok(Stamps::default()),
            // A start may not see the damage of a file that it does not read again.
            _ => verify::compare_again(layout, version),
        };
        let newest = records::newest(layout, model, &compare, &mut |_, _| {});
        let read = newest.and_then(|newest| Ok((records::numbers(layout, model)?, newest)));
        let (numbers, newest) = match read {
            Ok(read) => read,
            Err(error) => {
                survey.unreadable = Some(format!("{}: {error}", path.display()));
                return survey;
            }
        };
        if let Some((generation, record, _)) = newest {
            survey.serves = Some(generation);
            survey.source = Some(record.configured_source.to_string());
        }
        // After a damaged generation, an earlier one serves: its version must be whole.
        let is_served = |generation| survey.serves.is_none_or(|serves| generation >= serves);
        for generation in numbers.into_iter().rev() {
            let path = layout.generation(model, generation);
            let (version, state, damage) = match records::find(layout, model, generation) {
                // A running server removed it meanwhile.
                Found::Damaged(_) if fs::symlink_metadata(&path).is_err() => continue,
                Found::Damaged(error) => (None, RecordState::Damaged, Some(error.to_string())),
                Found::SetAside => (None, RecordState::SetAside, None),
                Found::Whole(record) => {
                    let (state, damage) = match versions.get(&record.version) {
                        Some(VersionSurvey { damage: None, .. }) => (RecordState::Whole, None),
                        _ if !is_served(generation) => (RecordState::Retired, None),
                        Some(_) => (RecordState::Damaged, Some("its version is damaged".into())),
                        None => (RecordState::Damaged, Some("its version is missing".into())),
                    };
                    (Some(record.version), state, damage)
                }
            };
            survey.records.push(RecordSurvey { generation, version, state, damage });
        }
        survey.records.reverse();
        survey
    }

    /// Returns the damaged records.
    pub fn damaged(&self) -> impl Iterator<Item = &RecordSurvey> {
        self.records.iter().filter(|record| record.state == RecordState::Damaged)
    }
}

/// Returns whether a name is that of a version.
pub(super) fn is_version(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn versions(layout: &Layout) -> io::Result<BTreeMap<String, VersionSurvey>> {
    let mut versions = BTreeMap::new();
    for version in names(&layout.versions())?.into_iter().filter(|name| is_version(name)) {
        let folder = layout.version(&version);
        // Reads every file, unlike a start.
        let damage = verify::compare(layout, &version, &Stamps::default()).err();
        // A running server removed it meanwhile.
        if damage.is_some() && fs::symlink_metadata(&folder).is_err() {
            continue;
        }
        let survey = VersionSurvey {
            bytes: bytes_of(&folder),
            compiled_bytes: bytes_of(&layout.compiled(&version)),
            models: BTreeSet::new(),
            damage: damage.map(|damage| damage.reason),
            version: version.clone(),
        };
        versions.insert(version, survey);
    }
    Ok(versions)
}

/// Returns what a crash left behind: unfinished copies, and what was being removed.
fn leftovers(layout: &Layout) -> Vec<PathBuf> {
    let entries = |folder: PathBuf| {
        let names = names(&folder).unwrap_or_default();
        names.into_iter().map(move |name| (folder.join(&name), name))
    };
    let mut leftovers: Vec<PathBuf> = entries(layout.staging()).map(|(path, _)| path).collect();
    for folder in [layout.versions(), layout.compiled_root()] {
        let others = entries(folder).filter(|(_, name)| !is_version(name));
        leftovers.extend(others.map(|(path, _)| path));
    }
    // The name of a model may end like an unfinished file, those of sources cannot.
    let unfinished = entries(layout.snapshots()).filter(|(_, name)| name.ends_with(".new"));
    leftovers.extend(unfinished.map(|(path, _)| path));
    leftovers.sort();
    leftovers
}
