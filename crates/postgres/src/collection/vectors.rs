//! Tables of vectors, one for each version. Callers hold the lock of a writer.

use onnxd_proto::search::IndexError;
use pgvector::Vector;

use super::{Collection, Version, view};
use crate::{failure::Failure, pool::Connection};

/// Components up to which a vector fits in its row, where a search reads it faster.
const INLINE_MAX: usize = 1500;

impl Collection {
    /// Returns a vector that is comparable with the others of a version.
    pub(super) fn fitting(
        &self,
        vector: &[f32],
        version: &Version,
    ) -> Result<Vec<f32>, IndexError> {
        match vector.len() == version.dimension {
            true => self.comparable(vector.to_vec()),
            false => Err(version.wrong_dimension(vector.len())),
        }
    }

    /// Returns the version with this digest, and adds it if it is new. The view shows the first one.
    pub(super) async fn add_version(
        &self,
        version: &str,
        dimension: usize,
        connection: &mut Connection,
    ) -> Result<Version, Failure> {
        if let Some(known) = self.version(version) {
            return match known.dimension == dimension {
                true => Ok(known.clone()),
                false => Err(known.wrong_dimension(dimension).into()),
            };
        }
        let insert = "INSERT INTO _versions (collection, version, dimension) VALUES ($1, $2, $3)
            RETURNING number";
        let components = i32::try_from(dimension).unwrap_or(i32::MAX);
        let number =
            connection.query(insert, &[&self.number, &version, &components]).await?[0].get(0);
        let (collection, version) = (self.number, version.to_owned());
        let version = Version {
            number,
            collection,
            version,
            dimension,
            documents: 0,
            has_graph: false,
            reused_from: None,
        };
        let (table, documents) = (version.table(), self.documents_table());
        let mut create = format!(
            "CREATE TABLE {table} (
                key bigint PRIMARY KEY REFERENCES {documents} ON DELETE CASCADE,
                edition bigint NOT NULL,
                vector vector({dimension}) NOT NULL
            );"
        );
        if dimension <= INLINE_MAX {
            create += &format!("ALTER TABLE {table} ALTER COLUMN vector SET STORAGE PLAIN;");
        }
        connection.batch(&create).await?;
        if self.committed.is_none() {
            let versions = vec![version.clone()];
            let (name, settings) = (self.name.clone(), self.settings.clone());
            let shown = Self {
                committed: Some(number),
                versions,
                name,
                settings,
                existing: self.existing.clone(),
                ..*self
            };
            view::replace(&shown, connection).await?;
        }
        Ok(version)
    }

    /// Sets the vectors of documents. Returns how many had none.
    pub(super) async fn put_vectors(
        &self,
        version: &Version,
        keys: &[(i64, i64)],
        vectors: Vec<Vec<f32>>,
        connection: &mut Connection,
    ) -> Result<i64, Failure> {
        let table = version.table();
        let (keys, editions): (Vec<i64>, Vec<i64>) = keys.iter().copied().unzip();
        let vectors: Vec<Vector> = vectors.into_iter().map(Vector::from).collect();
        let known = format!("SELECT count(*) FROM {table} WHERE key = ANY($1)");
        let known: i64 = connection.query(&known, &[&keys]).await?[0].get(0);
        // A repeated request leaves the graph alone.
        let insert = format!(
            "INSERT INTO {table} AS x (key, edition, vector)
            SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::vector[])
            ON CONFLICT (key) DO UPDATE SET edition = EXCLUDED.edition, vector = EXCLUDED.vector
                WHERE x.edition <> EXCLUDED.edition OR x.vector <> EXCLUDED.vector"
        );
        connection.execute(&insert, &[&keys, &editions, &vectors]).await?;
        Ok(i64::try_from(keys.len()).unwrap_or(i64::MAX) - known)
    }

    /// Removes the vectors of documents.
    pub(super) async fn remove_vectors(
        &self,
        version: &Version,
        keys: &Vec<i64>,
        connection: &mut Connection,
    ) -> Result<(), Failure> {
        let delete = format!("DELETE FROM {} WHERE key = ANY($1)", version.table());
        let removed = connection.execute(&delete, &[keys]).await?;
        let removed = i64::try_from(removed).unwrap_or(i64::MAX);
        self.count(Some(version), -removed, connection).await
    }

    /// Counts documents, or vectors of a version.
    pub(super) async fn count(
        &self,
        version: Option<&Version>,
        added: i64,
        connection: &mut Connection,
    ) -> Result<(), Failure> {
        let (table, number) = match version {
            _ if added == 0 || self.existing.is_some() => return Ok(()),
            Some(version) => ("_versions", version.number),
            None => ("_collections", self.number),
        };
        let update = format!("UPDATE {table} SET documents = documents + $1 WHERE number = $2");
        connection.execute(&update, &[&added, &number]).await.map(drop)
    }
}
