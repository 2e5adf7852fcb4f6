//! One collection: its documents, and a table of vectors for each version. A vector has the edition
//! of the text that it was made of, so that those of older texts are never found. Called by
//! [`crate::catalog`] and [`crate::serving`].
//!
//! Writers of a collection wait for each other. They count documents and vectors, so that a search
//! knows at once whether a version's vectors are complete. Rows of an existing table are changed by
//! others and not counted.

pub(crate) mod changes;
pub(crate) mod graphs;
pub(crate) mod queries;
pub(crate) mod search;
mod vectors;
pub(crate) mod view;

use onnxd_proto::search::{Distance, IndexError, IndexErrorKind, Settings, normalize};

use crate::{existing::Existing, failure::Failure, pool::Connection};

/// Components up to which pgvector makes graphs of vectors as they are.
const FULL_PRECISION_MAX: usize = 2000;
/// Components up to which it makes graphs of vectors in half precision.
const HALF_PRECISION_MAX: usize = 4000;
/// Components of its vectors.
const DIMENSION_MAX: usize = 16_000;

/// Documents up to which comparing every vector is as fast as following a graph.
const EXACT_MAX: i64 = 5000;

/// What the caller is going to do with a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locking {
    /// Read.
    None,
    /// Write: waits for other writers.
    Write,
}

/// A collection as a transaction sees it.
#[derive(Clone, Debug)]
pub(crate) struct Collection {
    /// Names its tables.
    pub(crate) number: i64,
    pub(crate) name: String,
    pub(crate) settings: Settings,
    /// Documents, unless they are rows of an existing table.
    pub(crate) documents: i64,
    /// The number of the version that the view shows.
    pub(crate) committed: Option<i64>,
    pub(crate) versions: Vec<Version>,
    pub(crate) existing: Option<Existing>,
}

/// A version whose vectors are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    /// Names its table.
    pub(crate) number: i64,
    collection: i64,
    /// The version's digest.
    pub(crate) version: String,
    pub(crate) dimension: usize,
    /// Documents that have a vector, unless they are rows of an existing table.
    documents: i64,
    /// Whether a search can follow a graph of neighbours.
    has_graph: bool,
    /// The version whose vectors some of these are, if any.
    pub(crate) reused_from: Option<String>,
}

/// Reads the settings of a collection.
///
/// # Errors
/// They are not what onnxd wrote.
pub(crate) fn read_settings(name: &str, settings: &str) -> Result<Settings, IndexError> {
    serde_json::from_str(settings).map_err(|error| {
        let message = format!("the settings of collection {name} are damaged: {error}");
        IndexErrorKind::Storage.because(message)
    })
}

impl Collection {
    /// Returns the collection with this name or alias.
    ///
    /// # Errors
    /// No such collection exists, or the database failed.
    pub(crate) async fn find(
        name: &str,
        locking: Locking,
        connection: &mut Connection,
    ) -> Result<Self, Failure> {
        if name.contains('\0') {
            return Err(not_found(name).into());
        }
        let lock = match locking {
            Locking::None => "",
            Locking::Write => "FOR NO KEY UPDATE OF c",
        };
        let query = format!(
            "SELECT number, name, settings, documents, committed FROM _collections c
            WHERE name = $1 OR number = (SELECT collection FROM _aliases WHERE alias = $1) {lock}"
        );
        let found = connection.query(&query, &[&name]).await?;
        let Some(row) = found.first() else { return Err(not_found(name).into()) };
        let (number, name, settings): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
        let settings = read_settings(&name, &settings)?;
        // Not in the query before: a writer must see what the one it waited for added.
        let versions = connection
            .query(
                "SELECT number, version, dimension, documents, has_graph, reused_from
                FROM _versions WHERE collection = $1 ORDER BY version",
                &[&number],
            )
            .await?;
        let version = |row: &tokio_postgres::Row| Version {
            number: row.get(0),
            collection: number,
            version: row.get(1),
            dimension: usize::try_from(row.get::<_, i32>(2)).unwrap_or_default(),
            documents: row.get(3),
            has_graph: row.get(4),
            reused_from: row.get(5),
        };
        Ok(Self {
            number,
            name,
            existing: Existing::of(&settings)?,
            settings,
            documents: row.get(3),
            committed: row.get(4),
            versions: versions.iter().map(version).collect(),
        })
    }

    /// Returns a relation with all documents, for a FROM clause.
    pub(crate) fn source(&self) -> String {
        match &self.existing {
            Some(existing) => existing.source(self.number),
            None => self.documents_table(),
        }
    }

    fn documents_table(&self) -> String {
        format!("_documents_{}", self.number)
    }

    fn version(&self, version: &str) -> Option<&Version> {
        self.versions.iter().find(|known| known.version == version)
    }

    /// Returns the number of documents, and of the vectors of each version.
    pub(crate) async fn counts(
        &self,
        connection: &mut Connection,
    ) -> Result<(u64, Vec<u64>), Failure> {
        let count = |count: i64| u64::try_from(count).unwrap_or_default();
        if self.existing.is_none() {
            let versions = self.versions.iter().map(|version| count(version.documents));
            return Ok((count(self.documents), versions.collect()));
        }
        let table = self.documents_table();
        let query = format!("SELECT count(*) FROM {table}");
        let documents = count(connection.query(&query, &[]).await?[0].get(0));
        let mut versions = Vec::with_capacity(self.versions.len());
        for version in &self.versions {
            let vectors = version.table();
            let query =
                format!("SELECT count(*) FROM {table} d JOIN {vectors} x USING (key, edition)");
            versions.push(count(connection.query(&query, &[]).await?[0].get(0)));
        }
        Ok((documents, versions))
    }

    /// Checks a vector and makes it comparable: scaled to length 1 for the cosine.
    fn comparable(&self, mut vector: Vec<f32>) -> Result<Vec<f32>, IndexError> {
        if !vector.iter().all(|value| value.is_finite()) {
            let message = "a vector has a component that is not a finite number";
            return Err(IndexErrorKind::Invalid.because(message));
        }
        if vector.len() > DIMENSION_MAX {
            let message = format!(
                "a vector has {} components, and PostgreSQL stores at most {DIMENSION_MAX}; set `dimensions`",
                vector.len()
            );
            return Err(IndexErrorKind::Invalid.because(message));
        }
        if self.settings.distance == Distance::Cosine {
            normalize(&mut vector);
        }
        Ok(vector)
    }
}

impl Version {
    /// Returns the name of the table with its vectors.
    pub(crate) fn table(&self) -> String {
        format!("_vectors_{}_{}", self.collection, self.number)
    }

    /// Returns what the graph is made of, for a vector in SQL; `None` if there are too many
    /// components for a graph.
    fn indexed(&self, vector: &str) -> Option<String> {
        match self.dimension {
            dimension if dimension > HALF_PRECISION_MAX => None,
            dimension if dimension > FULL_PRECISION_MAX => {
                Some(format!("({vector}::halfvec({dimension}))"))
            }
            _ => Some(vector.to_owned()),
        }
    }

    /// Returns the error for vectors of another dimension than the version's others.
    fn wrong_dimension(&self, found: usize) -> IndexError {
        let message = format!(
            "a vector has {found} components, and the version's others have {}",
            self.dimension
        );
        IndexErrorKind::Invalid.because(message)
    }
}

/// Returns the error for an unknown collection.
pub(crate) fn not_found(name: &str) -> IndexError {
    IndexErrorKind::NotFound.because(format!("there is no collection {name}"))
}
