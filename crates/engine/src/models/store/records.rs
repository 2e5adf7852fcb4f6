//! Reads generation records, and tells whole ones from damaged ones and from those that
//! `onnxd state repair` set aside. Extends [`Store`].

use std::{
    collections::BTreeSet,
    io,
    sync::{PoisonError, atomic::Ordering},
};

use onnxd_proto::{
    domain::{Record, Refusal, RefusalKind, SourceUri, model_name::ModelName},
    exit::Failure,
    generation::{GENERATION_MAX, Generation},
    layout::{Layout, RECORD_BYTES_MAX},
    regular,
};
use onnxd_telemetry::metrics::Metrics;
use serde::{Deserialize, Serialize};

use crate::models::{
    registry::Model,
    store::{
        Store, names,
        verify::{self, Damage, Stamps},
    },
};

/// A record's file after a repair. It keeps the number of the generation in use.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SetAside {
    /// Where the damaged record is now, below the state directory.
    pub set_aside: String,
}

/// What is at the path of a record.
#[derive(Debug)]
pub(super) enum Found {
    Whole(Box<Record>),
    /// A repair left it. It can never serve, and is no damage.
    SetAside,
    Damaged(io::Error),
}

/// Reads a record.
pub(super) fn find(layout: &Layout, model: &ModelName, generation: Generation) -> Found {
    match layout.read_record(model, generation) {
        Ok(record) => Found::Whole(Box::new(record)),
        Err(error) => {
            let path = layout.generation(model, generation);
            let text = regular::read(&path, RECORD_BYTES_MAX).unwrap_or_default();
            match serde_json::from_slice::<SetAside>(&text) {
                Ok(_) => Found::SetAside,
                Err(_) => Found::Damaged(error),
            }
        }
    }
}

/// Why a generation cannot serve.
#[derive(Debug)]
pub(super) enum Skipped {
    /// Its record is damaged.
    Record(io::Error),
    /// Its version is missing.
    Missing(String),
    /// Its version is damaged.
    Version(String, Damage),
}

/// Returns the generation to serve after a restart: the newest one whose record and version are whole,
/// as `compare` finds. Also returns the metadata of the version's large files. `skipped` is called for
/// later generations.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn newest(
    layout: &Layout,
    model: &ModelName,
    compare: &dyn Fn(&str) -> Result<Stamps, Damage>,
    skipped: &mut dyn FnMut(Generation, Skipped),
) -> io::Result<Option<(Generation, Record, Stamps)>> {
    for generation in numbers(layout, model)?.into_iter().rev() {
        let record = match find(layout, model, generation) {
            Found::Whole(record) => *record,
            Found::SetAside => continue,
            Found::Damaged(error) => {
                skipped(generation, Skipped::Record(error));
                continue;
            }
        };
        let version = record.version.clone();
        if is_missing(layout, &version) {
            skipped(generation, Skipped::Missing(version));
            continue;
        }
        match compare(&version) {
            Ok(stamps) => return Ok(Some((generation, record, stamps))),
            Err(damage) => skipped(generation, Skipped::Version(version, damage)),
        }
    }
    Ok(None)
}

/// Returns whether nothing is in the place of a version.
pub(super) fn is_missing(layout: &Layout, version: &str) -> bool {
    let found = layout.version(version).symlink_metadata();
    found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Returns the numbers of a model's records in ascending order, also those that no generation can have.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn numbers(layout: &Layout, model: &ModelName) -> io::Result<Vec<Generation>> {
    let number = |name: String| {
        let number: Generation = name.parse().ok()?;
        (number.to_string() == name).then_some(number)
    };
    let names = names(&layout.generations(model))?;
    let mut numbers: Vec<_> = names.into_iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Returns whether a model has records.
///
/// # Errors
/// The directory cannot be read, so that a start would refuse the model.
pub fn has_records(layout: &Layout, model: &ModelName) -> Result<bool, Refusal> {
    let numbers = numbers(layout, model).map_err(|error| unreadable(layout, model, &error))?;
    Ok(!numbers.is_empty())
}

/// Says that the records of a model cannot be read.
pub fn unreadable(layout: &Layout, model: &ModelName, error: &io::Error) -> Refusal {
    RefusalKind::Internal.because(format!(
        "the state directory is damaged: {}: {error}; `onnxd state check` says what to do",
        layout.generations(model).display()
    ))
}

/// Returns the models of which there are records, also of those that are not configured.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn models(layout: &Layout) -> io::Result<Vec<ModelName>> {
    let names = names(&layout.generations_root())?;
    let names = names.iter().filter_map(|name| ModelName::from_folder(name).ok());
    let mut models: Vec<ModelName> = names.collect();
    models.sort();
    Ok(models)
}

impl Store {
    /// Returns the numbers of a model's recorded generations in ascending order.
    ///
    /// # Errors
    /// The directory cannot be read, or generations under the model's old name were not taken over.
    pub fn generations(&self, model: &ModelName) -> io::Result<Vec<Generation>> {
        self.require_adopted(model)?;
        let mut numbers = numbers(&self.layout, model)?;
        numbers.retain(|number| (1..=GENERATION_MAX).contains(number));
        Ok(numbers)
    }

    /// Returns whether the newest whole record of a model is of this source. Its version is present, but
    /// may be damaged: nothing is read of it.
    pub fn keeps_source(&self, model: &ModelName, source: &SourceUri) -> bool {
        let is_present = |record: &Record| !is_missing(&self.layout, &record.version);
        let newest = self.records(model).find(|(_, record)| is_present(record));
        newest.is_some_and(|(_, record)| record.configured_source == *source)
    }

    /// Returns the generation to serve after a restart: the newest one whose record and version are
    /// whole. Discards damaged versions. The numbers of generations that are skipped are never used
    /// again. Blocking.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn newest(&self, model: &ModelName) -> io::Result<Option<(Generation, Record)>> {
        self.require_adopted(model)?;
        let found = self.find_newest(model, &mut |generation, skipped| match skipped {
            Skipped::Record(error) => self.found_damaged(model, generation, &error),
            Skipped::Missing(version) => {
                self.mark_damaged(model, generation);
                tracing::error!(%model, generation, version, "version of a generation is missing");
            }
            Skipped::Version(version, damage) => {
                self.mark_damaged(model, generation);
                self.found_damaged_version(&version, &damage);
            }
        })?;
        Ok(found)
    }

    /// Finds the generation to serve, and stores the metadata of its version's large files.
    fn find_newest(
        &self,
        model: &ModelName,
        skipped: &mut dyn FnMut(Generation, Skipped),
    ) -> io::Result<Option<(Generation, Record)>> {
        let compare = |version: &str| verify::compare_again(&self.layout, version);
        let found = newest(&self.layout, model, &compare, skipped)?;
        Ok(found.map(|(generation, record, stamps)| {
            self.remember_whole(&record.version, &stamps);
            (generation, record)
        }))
    }

    /// Returns the generations of a model that are skipped, because their records or versions are
    /// damaged.
    pub fn damaged_records(&self, model: &ModelName) -> Vec<Generation> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.iter().filter(|(name, _)| name == model).map(|(_, number)| *number).collect()
    }

    /// Shows in the metrics how many generations of a model are skipped.
    pub fn count_damaged(&self, model: &Model, metrics: &Metrics) {
        let damaged = self.damaged_records(&model.name).len() as u64;
        metrics.model(model.slot).damaged_records.store(damaged, Ordering::Relaxed);
    }

    /// Finds and logs the damaged records of all models. Called once, by [`Store::open`].
    pub(super) fn find_damaged(&self) {
        for model in models(&self.layout).unwrap_or_default() {
            for generation in numbers(&self.layout, &model).unwrap_or_default() {
                if let Found::Damaged(error) = find(&self.layout, &model, generation) {
                    self.found_damaged(&model, generation, &error);
                }
            }
        }
    }

    /// Checks that the newest generation of a model can serve, so that a successor does not go back to an
    /// earlier one. Discards nothing: the predecessor serves on if this fails. Blocking.
    ///
    /// # Errors
    /// The newest generation is damaged; the message says what to do.
    pub fn require_newest(&self, model: &ModelName) -> Result<(), Failure> {
        let damaged = |reason: &dyn std::fmt::Display| {
            Failure::configuration(format!(
                "--state-dir: {model}: {reason}; run `onnxd update {model}` before you replace the server"
            ))
        };
        let mut first = None;
        let listed = self.find_newest(model, &mut |generation, skipped| {
            first.get_or_insert_with(|| match skipped {
                Skipped::Record(error) => {
                    format!("the record of generation {generation} is damaged ({error})")
                }
                Skipped::Missing(_) => format!("the version of generation {generation} is missing"),
                Skipped::Version(_, Damage { reason, .. }) => {
                    format!("the version of generation {generation} is damaged ({reason})")
                }
            });
        });
        listed.map_err(|error| damaged(&error))?;
        first.map_or(Ok(()), |reason| Err(damaged(&reason)))
    }

    /// Forgets damage of generations whose version was staged again.
    pub(super) fn forget_mended(&self, model: &ModelName) {
        for generation in self.damaged_records(model) {
            if let Found::Whole(record) = find(&self.layout, model, generation)
                && self.has(&record.version)
            {
                self.removed_record(model, generation);
            }
        }
    }

    /// Remembers that a generation is skipped. Returns whether that is new.
    fn mark_damaged(&self, model: &ModelName, generation: Generation) -> bool {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.insert((model.clone(), generation))
    }

    /// Logs a damaged record, unless it is known.
    fn found_damaged(&self, model: &ModelName, generation: Generation, error: &io::Error) {
        if self.mark_damaged(model, generation) {
            tracing::error!(%model, generation, %error, "record of a generation is damaged, skipping it; `onnxd state repair` sets it aside");
        }
    }

    /// Forgets a damaged record that was removed.
    pub(super) fn removed_record(&self, model: &ModelName, generation: Generation) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.remove(&(model.clone(), generation));
    }
}

/// The damaged records of all models.
pub(super) type DamagedRecords = BTreeSet<(ModelName, Generation)>;
