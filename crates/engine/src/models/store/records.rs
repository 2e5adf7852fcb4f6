//! Reads generation records, and tells whole ones from damaged ones and from those that
//! `onnxd state repair` set aside. Extends [`Store`].

use std::{collections::BTreeSet, fs, io, sync::PoisonError};

use onnxd_proto::{
    domain::{Record, model_name::ModelName},
    generation::Generation,
    layout::{Layout, MANIFEST},
};
use serde::{Deserialize, Serialize};

use crate::models::store::{Store, names};

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
            let text = fs::read(layout.generation(model, generation)).unwrap_or_default();
            match serde_json::from_slice::<SetAside>(&text) {
                Ok(_) => Found::SetAside,
                Err(_) => Found::Damaged(error),
            }
        }
    }
}

/// Returns the numbers of a model's recorded generations in ascending order.
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
    /// The directory cannot be read.
    pub fn generations(&self, model: &ModelName) -> io::Result<Vec<Generation>> {
        numbers(&self.layout, model)
    }

    /// Returns the newest generation whose record can be read and whose version exists: the one to serve
    /// after a restart. The numbers of damaged records are never used again.
    ///
    /// # Errors
    /// The directory cannot be read; the message names it.
    pub fn newest(&self, model: &ModelName) -> io::Result<Option<(Generation, Record)>> {
        for generation in self.generations(model)?.into_iter().rev() {
            let record = match find(&self.layout, model, generation) {
                Found::Whole(record) => *record,
                Found::SetAside => continue,
                Found::Damaged(error) => {
                    self.found_damaged(model, generation, &error);
                    continue;
                }
            };
            if self.layout.version(&record.version).join(MANIFEST).exists() {
                return Ok(Some((generation, record)));
            }
            tracing::error!(%model, generation, version = record.version, "version of a generation is missing");
        }
        Ok(None)
    }

    /// Returns the generations of a model whose records are damaged, and therefore skipped.
    pub fn damaged_records(&self, model: &ModelName) -> Vec<Generation> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.iter().filter(|(name, _)| name == model).map(|(_, number)| *number).collect()
    }

    /// Finds and logs the damaged records of all models. Called once, by [`Store::open`].
    pub(super) fn find_damaged(&self) {
        for model in models(&self.layout).unwrap_or_default() {
            for generation in self.generations(&model).unwrap_or_default() {
                if let Found::Damaged(error) = find(&self.layout, &model, generation) {
                    self.found_damaged(&model, generation, &error);
                }
            }
        }
    }

    /// Logs a damaged record, unless it is known.
    fn found_damaged(&self, model: &ModelName, generation: Generation, error: &io::Error) {
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        if damaged.insert((model.clone(), generation)) {
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
