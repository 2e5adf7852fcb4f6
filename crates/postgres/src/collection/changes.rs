//! Changes of documents, payloads and vectors. Each is one transaction.

use std::collections::BTreeMap;

use onnxd_proto::search::{
    DOCUMENTS_MAX, Document, DocumentId, EmbeddedAs, IndexErrorKind, PAYLOAD_BYTES_MAX,
    PayloadChange, Selection, TextChange,
};

use super::{Collection, Locking, Version, graphs, not_found, view};
use crate::{
    failure::Failure,
    filter::{self, Values},
    payload,
    pool::Connection,
};

/// Vectors that one transaction gives to another version.
const REUSED_AT_ONCE: usize = 2000;
/// Documents that are read at once: each has up to 512 KiB of payload and more of text.
const CHECKED_AT_ONCE: usize = 64;

/// Adds or replaces documents with their vectors of `version`. Vectors of other versions stay if the
/// text is unchanged. Returns the number of documents.
///
/// # Errors
/// The collection is full or shows an existing table, a vector does not fit the version, or the
/// database failed.
pub(crate) async fn upsert(
    name: &str,
    (embedded_as, version): (&EmbeddedAs, &str),
    documents: &[Document],
    vectors: &[Vec<f32>],
    connection: &mut Connection,
) -> Result<u64, Failure> {
    let collection = writable(name, connection).await?;
    embedded_as.require(&collection.settings.embedded_as(), name)?;
    if documents.len() != vectors.len() {
        let message = format!("{} vectors for {} documents", vectors.len(), documents.len());
        return Err(IndexErrorKind::Invalid.because(message).into());
    }
    let Some(first) = vectors.first() else { return Ok(0) };
    let version = collection.add_version(version, first.len(), connection).await?;
    let count = documents.len() as u64;
    // Of several documents with one id, the last one counts.
    let mut last = BTreeMap::new();
    for (document, vector) in documents.iter().zip(vectors) {
        let vector = collection.fitting(vector, &version)?;
        last.insert(document.id.to_bytes(), (document, vector));
    }
    let (ids, given): (Vec<_>, Vec<_>) = last.into_iter().unzip();
    let (documents, vectors): (Vec<_>, Vec<_>) = given.into_iter().unzip();
    let stored = collection.put_documents(&ids, &documents, connection).await?;
    let added = collection.put_vectors(&version, &stored.keys, vectors, connection).await?;
    collection.count(Some(&version), added, connection).await?;
    for other in collection.versions.iter().filter(|other| other.number != version.number) {
        collection.remove_vectors(other, &stored.changed, connection).await?;
    }
    Ok(count)
}

/// Removes documents. Returns how many there were.
///
/// # Errors
/// The collection shows an existing table, or the database failed.
pub(crate) async fn delete(
    name: &str,
    which: &Selection,
    connection: &mut Connection,
) -> Result<u64, Failure> {
    let collection = writable(name, connection).await?;
    let keys = collection.selected(which, connection).await?;
    for version in &collection.versions {
        collection.remove_vectors(version, &keys, connection).await?;
    }
    let delete = format!("DELETE FROM {} WHERE key = ANY($1)", collection.documents_table());
    let removed = connection.execute(&delete, &[&keys]).await?;
    collection.count(None, -i64::try_from(removed).unwrap_or(i64::MAX), connection).await?;
    Ok(removed)
}

/// Changes the payloads of documents. Returns how many documents there are.
///
/// # Errors
/// The collection shows an existing table, a payload would show another text than its document's or
/// grow too large, or the database failed.
pub(crate) async fn change_payload(
    name: &str,
    which: &Selection,
    change: &PayloadChange,
    connection: &mut Connection,
) -> Result<u64, Failure> {
    let collection = writable(name, connection).await?;
    let keys = collection.selected(which, connection).await?;
    let table = collection.documents_table();
    let texts = TextChange::of(change, collection.settings.text_field.as_deref());
    if !texts.is_empty() {
        let read = format!("SELECT id, text, payload::text FROM {table} WHERE key = ANY($1)");
        for some in keys.chunks(CHECKED_AT_ONCE) {
            for row in connection.query(&read, &[&some]).await? {
                let id = DocumentId::from_bytes(row.get(0)).ok_or_else(|| {
                    let message = format!("collection {name}: a document has a damaged id");
                    IndexErrorKind::Storage.because(message)
                })?;
                texts.check(&id, row.get(1), row.get(2))?;
            }
        }
    }
    let update = |new: &str| format!("UPDATE {table} SET payload = {new} WHERE key = ANY($2)");
    let changed = match change {
        PayloadChange::Set(fields) => {
            let fields = payload::to_database(fields)?;
            connection.execute(&update("payload || $1::text::jsonb"), &[&fields, &keys]).await?
        }
        PayloadChange::Replace(new) => {
            let new = payload::to_database(new)?;
            return connection.execute(&update("$1::text::jsonb"), &[&new, &keys]).await;
        }
        PayloadChange::Remove(fields) => {
            connection.execute(&update("payload - $1::text[]"), &[fields, &keys]).await?
        }
    };
    // The database's own text of a payload is longer than the payload.
    let large = format!(
        "SELECT payload::text FROM {table} WHERE key = ANY($1) AND octet_length(payload::text) > $2"
    );
    let max = i32::try_from(PAYLOAD_BYTES_MAX).unwrap_or(i32::MAX);
    let large = connection.query(&large, &[&keys, &max]).await?;
    let length = |row: &tokio_postgres::Row| payload::from_database(row.get(0)).len();
    if large.iter().any(|row| length(row) > PAYLOAD_BYTES_MAX) {
        return Err(IndexErrorKind::Full.because("a payload would grow beyond its limit").into());
    }
    Ok(changed)
}

/// Adds vectors of a version to documents whose edition is still the given one. Returns how many were
/// added.
///
/// # Errors
/// A vector does not fit the version, or the database failed.
pub(crate) async fn embedded(
    name: &str,
    (embedded_as, version): (&EmbeddedAs, &str),
    documents: &[(u32, u64)],
    vectors: &[Vec<f32>],
    connection: &mut Connection,
) -> Result<u64, Failure> {
    let collection = Collection::find(name, Locking::Write, connection).await?;
    embedded_as.require(&collection.settings.embedded_as(), name)?;
    let Some(first) = vectors.first() else { return Ok(0) };
    let version = collection.add_version(version, first.len(), connection).await?;
    let mut given = BTreeMap::new();
    for ((key, edition), vector) in documents.iter().zip(vectors) {
        let vector = collection.fitting(vector, &version)?;
        given.insert((i64::from(*key), edition.cast_signed()), vector);
    }
    let (keys, editions): (Vec<i64>, Vec<i64>) = given.keys().copied().unzip();
    // Rows of an existing table may be changed or deleted at the same time.
    let present = format!(
        "SELECT d.key, d.edition FROM {} d JOIN unnest($1::bigint[], $2::bigint[]) n (key, edition)
            USING (key, edition) ORDER BY d.key FOR KEY SHARE OF d",
        collection.documents_table()
    );
    let present = connection.query(&present, &[&keys, &editions]).await?;
    let present: Vec<(i64, i64)> = present.iter().map(|row| (row.get(0), row.get(1))).collect();
    let vectors = present.iter().filter_map(|one| given.remove(one)).collect();
    let added = collection.put_vectors(&version, &present, vectors, connection).await?;
    collection.count(Some(&version), added, connection).await?;
    Ok(present.len() as u64)
}

/// Removes the vectors of all versions but these.
///
/// # Errors
/// There is no such collection, or the database failed.
pub(crate) async fn keep(
    name: &str,
    versions: &[String],
    connection: &mut Connection,
) -> Result<(), Failure> {
    remove_versions(name, |version| !versions.contains(version), connection).await
}

/// Removes the vectors of a version.
///
/// # Errors
/// There is no such collection, or the database failed.
pub(crate) async fn discard(
    name: &str,
    version: &str,
    connection: &mut Connection,
) -> Result<(), Failure> {
    remove_versions(name, |known| known == version, connection).await
}

async fn remove_versions(
    name: &str,
    is_unwanted: impl Fn(&String) -> bool,
    connection: &mut Connection,
) -> Result<(), Failure> {
    let mut collection = named(name, connection).await?;
    let (unwanted, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut collection.versions)
        .into_iter()
        .partition(|version| is_unwanted(&version.version));
    collection.versions = kept;
    if unwanted.iter().any(|version| Some(version.number) == collection.committed) {
        collection.committed = None;
        view::replace(&collection, connection).await?;
    }
    if unwanted.is_empty() {
        return Ok(());
    }
    let tables: Vec<String> = unwanted.iter().map(Version::table).collect();
    let statement = format!("DROP TABLE IF EXISTS {}", tables.join(", "));
    graphs::drop_tables(&statement, &tables, connection).await?;
    let numbers: Vec<i64> = unwanted.iter().map(|version| version.number).collect();
    let delete = "DELETE FROM _versions WHERE number = ANY($1)";
    connection.execute(delete, &[&numbers]).await.map(drop)
}

/// Gives some documents that lack a vector of version `to` their vector of version `from`: those with
/// keys after `after`. Returns the last key that was looked at, if there was one, and how many got a
/// vector.
///
/// # Errors
/// There is no such collection, or the database failed.
pub(crate) async fn reuse(
    name: &str,
    (from, to): (&str, &str),
    after: i64,
    connection: &mut Connection,
) -> Result<(Option<i64>, u64), Failure> {
    let collection = named(name, connection).await?;
    let Some(from) = collection.version(from) else { return Ok((None, 0)) };
    let to = collection.add_version(to, from.dimension, connection).await?;
    let copy = format!(
        "WITH portion AS (
            SELECT key, edition, vector FROM {} WHERE key > $1 ORDER BY key LIMIT {REUSED_AT_ONCE}
        ), copied AS (
            INSERT INTO {} (key, edition, vector) SELECT * FROM portion
                ON CONFLICT (key) DO NOTHING RETURNING key
        ) SELECT (SELECT max(key) FROM portion), (SELECT count(*) FROM copied)",
        from.table(),
        to.table()
    );
    let row = connection.query(&copy, &[&after]).await?;
    let (last, copied): (Option<i64>, i64) = (row[0].get(0), row[0].get(1));
    if copied > 0 {
        let note = "UPDATE _versions SET reused_from = $1 WHERE number = $2";
        connection.execute(note, &[&from.version, &to.number]).await?;
    }
    collection.count(Some(&to), copied, connection).await?;
    Ok((last, u64::try_from(copied).unwrap_or_default()))
}

/// Returns the collection with this name, which is no alias.
async fn named(name: &str, connection: &mut Connection) -> Result<Collection, Failure> {
    let collection = Collection::find(name, Locking::Write, connection).await?;
    match collection.name == name {
        true => Ok(collection),
        false => Err(not_found(name).into()),
    }
}

/// Returns a collection whose documents onnxd may change.
async fn writable(name: &str, connection: &mut Connection) -> Result<Collection, Failure> {
    let collection = Collection::find(name, Locking::Write, connection).await?;
    match &collection.existing {
        Some(existing) => Err(existing.refuse_write(name).into()),
        None => Ok(collection),
    }
}

/// Documents that were stored.
struct Stored {
    /// Their keys and editions, in the order of their ids.
    keys: Vec<(i64, i64)>,
    /// Keys of those whose text changed.
    changed: Vec<i64>,
}

impl Collection {
    /// Adds or replaces documents, which have different ids.
    async fn put_documents(
        &self,
        ids: &Vec<Vec<u8>>,
        documents: &[&Document],
        connection: &mut Connection,
    ) -> Result<Stored, Failure> {
        let table = self.documents_table();
        let texts: Vec<&str> = documents.iter().map(|document| document.text.as_str()).collect();
        let payloads = documents.iter().map(|document| payload::to_database(&document.payload));
        let payloads: Vec<String> = payloads.collect::<Result<_, _>>()?;
        let new = "unnest($1::bytea[], $2::text[], $3::text[]) n (id, text, payload)";
        let last = "SELECT nextval('_edition')";
        let last: i64 = connection.query(last, &[]).await?[0].get(0);
        // Known documents first: an insertion that meets one would use up a key.
        let update = format!(
            "UPDATE {table} d SET text = n.text, payload = n.payload::jsonb, edition =
                CASE WHEN d.text = n.text COLLATE \"C\" THEN d.edition ELSE nextval('_edition') END
            FROM {new} WHERE d.id = n.id RETURNING d.id, d.key, d.edition"
        );
        let mut rows = connection.query(&update, &[ids, &texts, &payloads]).await?;
        let insert = format!(
            "INSERT INTO {table} AS d (id, edition, text, payload)
            SELECT n.id, nextval('_edition'), n.text, n.payload::jsonb FROM {new}
            WHERE NOT EXISTS (SELECT FROM {table} old WHERE old.id = n.id)
            RETURNING d.id, d.key, d.edition"
        );
        let inserted = connection.query(&insert, &[ids, &texts, &payloads]).await?;
        let added = i64::try_from(inserted.len()).unwrap_or(i64::MAX);
        if self.documents.saturating_add(added) > i64::from(DOCUMENTS_MAX) {
            let message = format!(
                "the collection has {} documents, and at most {DOCUMENTS_MAX} are allowed; delete some, or use another collection",
                self.documents
            );
            return Err(IndexErrorKind::Full.because(message).into());
        }
        self.count(None, added, connection).await?;
        rows.extend(inserted);
        let mut stored: Vec<(Vec<u8>, i64, i64)> =
            rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        stored.sort_unstable();
        let is_changed = |(_, _, edition): &&(Vec<u8>, i64, i64)| *edition > last;
        let changed = stored.iter().filter(is_changed).map(|(_, key, _)| *key).collect();
        let keys = stored.into_iter().map(|(_, key, edition)| (key, edition)).collect();
        Ok(Stored { keys, changed })
    }

    /// Returns the keys of the selected documents that exist.
    async fn selected(
        &self,
        which: &Selection,
        connection: &mut Connection,
    ) -> Result<Vec<i64>, Failure> {
        let source = self.source();
        let mut values = Values::default();
        let condition = match which {
            Selection::Ids(ids) => {
                let ids: Vec<Vec<u8>> = ids.iter().map(|id| id.to_bytes()).collect();
                format!("d.id = ANY({}::bytea[])", values.add(ids))
            }
            Selection::Matching(filter) => {
                filter::prepare(filter, &source, connection).await?.to_sql(&mut values)
            }
        };
        let query = format!("SELECT d.key FROM {source} d WHERE {condition}");
        let rows = connection.query(&query, &values.all()).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
