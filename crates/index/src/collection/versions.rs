//! The versions whose vectors a collection has: copied, kept and removed as a whole.

use onnxd_proto::search::{IndexError, IndexErrorKind};

use super::{Collection, Loaded, Memory, Writer, wrong_dimension};
use crate::store::StoredVersion;

/// Vectors that one transaction gives to another version.
const REUSED_AT_ONCE: usize = 4096;

impl Collection {
    /// Gives documents that lack a vector of version `to` their vector of `from`. Returns how many
    /// got one.
    ///
    /// # Errors
    /// The vectors of `to` have another dimension, or the disk is full.
    pub(crate) fn reuse(&self, from: &str, to: &str) -> Result<u64, IndexError> {
        // A collection without documents, or one that was not searched since an update without
        // search, has none.
        if !self.memory().versions.contains_key(from) {
            return Ok(0);
        }
        let mut count = 0;
        loop {
            // In portions, so that the log of the database stays small and other writers get on.
            match self.reuse_some(from, to)? {
                0 => return Ok(count),
                some => count += some,
            }
        }
    }

    fn reuse_some(&self, from: &str, to: &str) -> Result<u64, IndexError> {
        self.write(|writer| {
            let versions = writer.store.versions()?;
            let Some(source) = versions.iter().find(|known| known.version == from) else {
                let message = format!("collection {} has no vectors of version {from}", self.name);
                return Err(IndexErrorKind::Version.because(message));
            };
            let mut stored = self.stored_version(writer, to, source.dimension)?;
            let missing: Vec<u32> = {
                let memory = self.memory();
                let missing = memory.present(from) - memory.present(to);
                missing.iter().take(REUSED_AT_ONCE).collect()
            };
            let vectors = writer.store.vectors(source, &missing)?;
            for (key, vector) in missing.iter().zip(&vectors) {
                writer.store.put_vector(&stored, *key, vector)?;
            }
            if !missing.is_empty() {
                writer.store.set_reused_from(stored.number, from)?;
                stored.reused_from = Some(from.to_owned());
            }
            let count = missing.len() as u64;
            Ok((count, move |memory: &mut Memory| {
                let new = || Loaded::new(stored.clone());
                let loaded = memory.versions.entry(stored.version.clone()).or_insert_with(new);
                loaded.stored = stored;
                for (key, vector) in missing.iter().zip(&vectors) {
                    loaded.vectors.insert(*key, vector);
                }
            }))
        })
    }

    /// Removes the vectors of all versions but these.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn keep(&self, versions: &[String]) -> Result<(), IndexError> {
        self.remove_versions(|version| !versions.contains(version))
    }

    /// Removes the vectors of a version.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn discard(&self, version: &str) -> Result<(), IndexError> {
        self.remove_versions(|known| known == version)
    }

    fn remove_versions(&self, is_unwanted: impl Fn(&String) -> bool) -> Result<(), IndexError> {
        // Most calls find nothing to do, and need not wait for a sync.
        if !self.memory().versions.keys().any(&is_unwanted) {
            return Ok(());
        }
        self.write(|writer| {
            for version in writer.store.versions()? {
                if is_unwanted(&version.version) {
                    writer.store.remove_version(version.number)?;
                }
            }
            Ok(((), move |memory: &mut Memory| {
                memory.versions.retain(|version, _| !is_unwanted(version));
            }))
        })
    }

    /// Returns the stored version with this digest, and adds it if it is new.
    pub(super) fn stored_version(
        &self,
        writer: &Writer,
        version: &str,
        dimension: usize,
    ) -> Result<StoredVersion, IndexError> {
        let known = writer.store.versions()?;
        match known.into_iter().find(|known| known.version == version) {
            Some(known) if known.dimension == dimension => Ok(known),
            Some(known) => Err(wrong_dimension(known.dimension, dimension)),
            None => writer.store.add_version(version, dimension),
        }
    }
}

#[cfg(test)]
#[path = "versions_tests.rs"]
mod tests;
