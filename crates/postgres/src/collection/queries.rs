//! Reading documents. Nothing changes anything.

use std::collections::HashMap;

use onnxd_proto::search::{
    BATCH_MAX, DocumentId, Filter, FromIndex, HITS_MAX, Hit, IndexErrorKind, Shown, Unembedded,
};
use pgvector::Vector;
use tokio_postgres::Row;

use super::{Collection, Locking};
use crate::{
    failure::Failure,
    filter::{self, Values},
    payload,
    pool::Connection,
};

/// Bytes of texts that one answer names for embedding.
const UNEMBEDDED_BYTES_MAX: i64 = 2 << 20;

/// Returns documents from an id on, and the id after them.
///
/// # Errors
/// The database failed.
pub(crate) async fn scroll(
    name: &str,
    filter: &Filter,
    (from, limit): (Option<&DocumentId>, usize),
    shown: &Shown,
    connection: &mut Connection,
) -> Result<FromIndex, Failure> {
    let collection = Collection::find(name, Locking::None, connection).await?;
    let limit = limit.min(HITS_MAX);
    let filter = filter::prepare(filter, &collection.source(), connection).await?;
    let mut values = Values::of(from.map(DocumentId::to_bytes).unwrap_or_default());
    let condition = format!(
        "d.id >= $1::bytea AND {} ORDER BY d.id LIMIT {}",
        filter.to_sql(&mut values),
        limit + 1
    );
    let found = collection.documents(&condition, &mut values, shown, connection).await?;
    let mut hits: Vec<Hit> = found.into_iter().map(|(_, hit)| hit).collect();
    let next = hits.get(limit).map(|hit| hit.id.clone());
    hits.truncate(limit);
    Ok(FromIndex::Page(hits, next))
}

/// Returns the documents with these ids that exist, in their order.
///
/// # Errors
/// The database failed.
pub(crate) async fn retrieve(
    name: &str,
    ids: &[DocumentId],
    shown: &Shown,
    connection: &mut Connection,
) -> Result<FromIndex, Failure> {
    let collection = Collection::find(name, Locking::None, connection).await?;
    let bytes: Vec<Vec<u8>> = ids.iter().map(DocumentId::to_bytes).collect();
    let condition = "d.id = ANY($1::bytea[])";
    let found = collection.documents(condition, &mut Values::of(bytes), shown, connection).await?;
    let found: HashMap<DocumentId, Hit> =
        found.into_iter().map(|(_, hit)| (hit.id.clone(), hit)).collect();
    let hits = ids.iter().filter_map(|id| found.get(id).cloned()).collect();
    Ok(FromIndex::Page(hits, None))
}

/// Counts the documents that satisfy a filter.
///
/// # Errors
/// The database failed.
pub(crate) async fn count(
    name: &str,
    filter: &Filter,
    connection: &mut Connection,
) -> Result<u64, Failure> {
    let collection = Collection::find(name, Locking::None, connection).await?;
    if filter.is_empty() {
        return Ok(collection.counts(connection).await?.0);
    }
    let source = collection.source();
    let mut values = Values::default();
    let condition = filter::prepare(filter, &source, connection).await?.to_sql(&mut values);
    let query = format!("SELECT count(*) FROM {source} d WHERE {condition}");
    let count: i64 = connection.query(&query, &values.all()).await?[0].get(0);
    Ok(count.cast_unsigned())
}

/// Returns some texts that lack a vector of a version, how many lack one in all, and whether other
/// programs may change them.
///
/// # Errors
/// The database failed.
pub(crate) async fn unembedded(
    name: &str,
    version: &str,
    limit: usize,
    connection: &mut Connection,
) -> Result<(Vec<Unembedded>, u64, bool), Failure> {
    let collection = Collection::find(name, Locking::None, connection).await?;
    let (source, version) = (collection.source(), collection.version(version));
    let is_shared = collection.existing.is_some();
    let known = version.map_or(0, |version| version.documents);
    if !is_shared && known == collection.documents {
        return Ok((Vec::new(), 0, is_shared));
    }
    let lacks = match version {
        Some(version) => format!(
            "NOT EXISTS (SELECT FROM {} x WHERE x.key = d.key AND x.edition = d.edition)",
            version.table()
        ),
        None => "true".to_owned(),
    };
    let all = match is_shared {
        false => collection.documents - known,
        true => {
            let query = format!("SELECT count(*) FROM {source} d WHERE {lacks}");
            connection.query(&query, &[]).await?[0].get(0)
        }
    };
    let query = format!(
        "SELECT key, edition, text FROM (
            SELECT key, edition, text, sum(octet_length(text)) OVER (ORDER BY key) AS bytes,
                row_number() OVER (ORDER BY key) AS place
            FROM (SELECT d.key, d.edition, d.text FROM {source} d WHERE {lacks}
                ORDER BY d.key LIMIT {}) found
        ) placed WHERE bytes <= {UNEMBEDDED_BYTES_MAX} OR place = 1 ORDER BY key",
        limit.min(BATCH_MAX)
    );
    let rows = connection.query(&query, &[]).await?;
    let text = |row: &Row| Unembedded {
        key: u32::try_from(row.get::<_, i64>(0)).unwrap_or_default(),
        edition: row.get::<_, i64>(1).cast_unsigned(),
        text: row.get(2),
        id: None,
    };
    Ok((rows.iter().map(text).collect(), all.max(0).cast_unsigned(), is_shared))
}

impl Collection {
    /// Returns the documents, with their keys, that satisfy a condition in SQL.
    pub(super) async fn documents(
        &self,
        condition: &str,
        values: &mut Values,
        shown: &Shown,
        connection: &mut Connection,
    ) -> Result<Vec<(i64, Hit)>, Failure> {
        let source = self.source();
        let column = |is_shown, column| if is_shown { column } else { "NULL::text" };
        let text = column(shown.text, "d.text");
        let payload = column(shown.payload, "d.payload::text");
        let version = shown.vector.as_ref().and_then(|version| self.version(version));
        let vector = match version {
            Some(version) => format!(
                "(SELECT x.vector FROM {} x WHERE x.key = d.key AND x.edition = d.edition)",
                version.table()
            ),
            None => "NULL::vector".to_owned(),
        };
        let query = format!(
            "SELECT d.key, d.id, {text}, {payload}, {vector} FROM {source} d WHERE {condition}"
        );
        let rows = connection.query(&query, &values.all()).await?;
        let hit = |row: &Row| {
            let id = DocumentId::from_bytes(row.get(1)).ok_or_else(|| {
                let message = format!("collection {}: a document has a damaged id", self.name);
                IndexErrorKind::Storage.because(message)
            })?;
            let payload = row.get::<_, Option<&str>>(3).map(payload::from_database);
            let vector = row.get::<_, Option<Vector>>(4).map(|vector| vector.to_vec());
            Ok((row.get(0), Hit { id, score: 0.0, text: row.get(2), payload, vector }))
        };
        rows.iter().map(hit).collect()
    }
}
