//! All collections: names, settings and aliases. Called by [`crate::serving`].

use onnxd_proto::search::{
    COLLECTIONS_MAX, CatalogEntry, CollectionInfo, IndexErrorKind, Settings, VersionInfo,
};
use tokio_postgres::Row;

use crate::{
    address::Address,
    collection::{Collection, Locking, Version, changes, graphs, not_found, read_settings, view},
    existing::{self, Existing, INDEXED_CHARACTERS},
    failure::Failure,
    pool::Connection,
    schema::{CATALOG_LOCK, literal, view_name},
};

/// Returns all collections, by name.
///
/// # Errors
/// The database failed.
pub(crate) async fn list(connection: &mut Connection) -> Result<Vec<CollectionInfo>, Failure> {
    let names = connection.query("SELECT name FROM _collections ORDER BY name", &[]).await?;
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        all.push(describe(name.get(0), connection).await?);
    }
    Ok(all)
}

/// Returns the collection with this name or alias.
///
/// # Errors
/// There is no such collection, or the database failed.
pub(crate) async fn describe(
    name: &str,
    connection: &mut Connection,
) -> Result<CollectionInfo, Failure> {
    let collection = Collection::find(name, Locking::None, connection).await?;
    let aliases = "SELECT alias FROM _aliases WHERE collection = $1 ORDER BY alias";
    let aliases = connection.query(aliases, &[&collection.number]).await?;
    let (documents, counts) = collection.counts(connection).await?;
    let version = |(version, documents): (&Version, u64)| VersionInfo {
        version: version.version.clone(),
        dimension: u32::try_from(version.dimension).unwrap_or(u32::MAX),
        documents,
        reused_from: version.reused_from.clone(),
    };
    Ok(CollectionInfo {
        aliases: aliases.iter().map(|row| row.get(0)).collect(),
        versions: collection.versions.iter().zip(counts).map(version).collect(),
        name: collection.name,
        settings: collection.settings,
        documents,
        damaged: None,
    })
}

/// Returns the names, aliases and settings of all collections, by name. Counts nothing.
///
/// # Errors
/// The database failed, or the settings of a collection are not onnxd's.
pub(crate) async fn names(connection: &mut Connection) -> Result<Vec<CatalogEntry>, Failure> {
    let query = "SELECT c.name, c.settings,
            array(SELECT a.alias FROM _aliases a WHERE a.collection = c.number ORDER BY a.alias)
        FROM _collections c ORDER BY c.name";
    let rows = connection.query(query, &[]).await?;
    let names = |row: &Row| -> Result<CatalogEntry, Failure> {
        let name: String = row.get(0);
        let settings = read_settings(&name, row.get(1))?;
        Ok(CatalogEntry { name, aliases: row.get(2), settings })
    };
    rows.iter().map(names).collect()
}

/// Creates a collection with its tables and its view. If an attempt before this one may have committed
/// it, one with the same settings is that collection.
///
/// # Errors
/// The name is in use, there are too many collections, or the existing table cannot be used.
pub(crate) async fn create(
    (name, settings): (&str, &Settings),
    address: &Address,
    may_exist: bool,
    connection: &mut Connection,
) -> Result<(), Failure> {
    lock(connection).await?;
    let schema = &*address.schema;
    let existing = Existing::of(settings)?;
    if let Some(existing) = &existing {
        existing.check_allowed(&address.tables)?;
    }
    let taken = "SELECT FROM _collections WHERE name = $1 UNION ALL
        SELECT FROM _aliases WHERE alias = $1";
    if !connection.query(taken, &[&name]).await?.is_empty() {
        if may_exist {
            let found = Collection::find(name, Locking::None, connection).await?;
            if found.name == name && found.settings == *settings {
                return Ok(());
            }
        }
        let message = format!("collection {name} exists already");
        return Err(IndexErrorKind::Exists.because(message).into());
    }
    let count: i64 = connection.query("SELECT count(*) FROM _collections", &[]).await?[0].get(0);
    if count >= i64::try_from(COLLECTIONS_MAX).unwrap_or(i64::MAX) {
        let message = format!("there are {count} collections, which is the limit");
        return Err(IndexErrorKind::Full.because(message).into());
    }
    let insert = "INSERT INTO _collections (name, settings) VALUES ($1, $2) RETURNING number";
    let number: i64 = connection.query(insert, &[&name, &to_json(settings)]).await?[0].get(0);
    match &existing {
        Some(existing) => existing.attach(number, schema, connection).await?,
        None => connection.batch(&tables(number)).await?,
    }
    let collection = Collection::find(name, Locking::None, connection).await?;
    view::replace(&collection, connection).await?;
    let comment = format!(
        "COMMENT ON VIEW {} IS {}",
        view_name(name, number),
        literal(&format!(
            "Collection {name} of onnxd: documents with their vectors of the committed version"
        ))
    );
    connection.batch(&comment).await?;
    changed(schema, connection).await
}

/// Returns the statements that create a collection's own table.
fn tables(number: i64) -> String {
    format!(
        "CREATE TABLE _documents_{number} (
            key bigint GENERATED ALWAYS AS IDENTITY (MAXVALUE 4294967295) PRIMARY KEY,
            id bytea NOT NULL UNIQUE,
            edition bigint NOT NULL,
            text text NOT NULL,
            payload jsonb NOT NULL,
            words tsvector GENERATED ALWAYS AS
                (to_tsvector('simple', left(text, {INDEXED_CHARACTERS}))) STORED
        );
        CREATE INDEX ON _documents_{number} USING gin (words);
        CREATE INDEX ON _documents_{number} USING gin (payload jsonb_path_ops);"
    )
}

/// Replaces the settings of a collection.
///
/// # Errors
/// There is no such collection, or its documents or vectors would become others.
pub(crate) async fn configure(
    name: &str,
    settings: &Settings,
    schema: &str,
    connection: &mut Connection,
) -> Result<(), Failure> {
    lock(connection).await?;
    let collection = Collection::find(name, Locking::Write, connection).await?;
    if Existing::of(settings)? != collection.existing {
        let message =
            format!("the table of collection {name} cannot change; create another collection");
        return Err(IndexErrorKind::Invalid.because(message).into());
    }
    if settings.embedded_as() != collection.settings.embedded_as() {
        if collection.counts(connection).await?.0 > 0 {
            return Err(Settings::refuse_rebinding(name).into());
        }
        // The next vectors may have another dimension.
        changes::keep(name, &[], connection).await?;
    }
    let update = "UPDATE _collections SET settings = $1 WHERE number = $2";
    connection.execute(update, &[&to_json(settings), &collection.number]).await?;
    changed(schema, connection).await
}

/// Removes a collection with its aliases, tables, view and triggers.
///
/// # Errors
/// There is no such collection.
pub(crate) async fn remove(
    name: &str,
    schema: &str,
    connection: &mut Connection,
) -> Result<(), Failure> {
    lock(connection).await?;
    let collection = Collection::find(name, Locking::Write, connection).await?;
    let number = collection.number;
    let mut statements = format!("DROP VIEW IF EXISTS {};", view_name(&collection.name, number));
    let vectors: Vec<String> = collection.versions.iter().map(Version::table).collect();
    // Another program may have dropped tables: then deleting the collection is the remedy.
    for table in &vectors {
        statements += &format!("DROP TABLE IF EXISTS {table};");
    }
    if collection.existing.is_some() {
        statements += &existing::detach_statement(number, schema);
    }
    statements += &format!("DROP TABLE IF EXISTS _documents_{number}");
    graphs::drop_tables(&statements, &vectors, connection).await?;
    connection.execute("DELETE FROM _collections WHERE number = $1", &[&number]).await?;
    changed(schema, connection).await
}

/// Removes aliases, then adds others; all or none.
///
/// # Errors
/// An alias is a collection's name, or its collection does not exist.
pub(crate) async fn set_aliases(
    removed: &[String],
    added: &[(String, String)],
    schema: &str,
    connection: &mut Connection,
) -> Result<(), Failure> {
    lock(connection).await?;
    for (alias, name) in added {
        let found = "SELECT name FROM _collections WHERE name = ANY($1::text[])";
        let found = connection.query(found, &[&vec![alias, name]]).await?;
        let is_name = |wanted: &String| found.iter().any(|row| row.get::<_, String>(0) == *wanted);
        if !is_name(name) {
            return Err(not_found(name).into());
        }
        if is_name(alias) {
            let message = format!("alias {alias} is the name of a collection");
            return Err(IndexErrorKind::Exists.because(message).into());
        }
    }
    let known = connection.query("SELECT alias FROM _aliases", &[]).await?;
    if known.len() + added.len() > COLLECTIONS_MAX {
        let message = format!("at most {COLLECTIONS_MAX} aliases can exist");
        return Err(IndexErrorKind::Full.because(message).into());
    }
    let is_known = |alias: &String| known.iter().any(|row| row.get::<_, String>(0) == *alias);
    if let Some(alias) = removed.iter().find(|alias| !is_known(alias)) {
        return Err(IndexErrorKind::NotFound.because(format!("there is no alias {alias}")).into());
    }
    connection.execute("DELETE FROM _aliases WHERE alias = ANY($1)", &[&removed]).await?;
    for (alias, name) in added {
        let insert = "INSERT INTO _aliases
            SELECT $1, number FROM _collections WHERE name = $2
            ON CONFLICT (alias) DO UPDATE SET collection = EXCLUDED.collection";
        connection.execute(insert, &[alias, name]).await?;
    }
    changed(schema, connection).await
}

/// Waits for other changes of the catalog.
async fn lock(connection: &mut Connection) -> Result<(), Failure> {
    connection.query("SELECT pg_advisory_xact_lock($1)", &[&CATALOG_LOCK]).await.map(drop)
}

/// Tells the listeners of all processes that names may mean something else.
async fn changed(schema: &str, connection: &mut Connection) -> Result<(), Failure> {
    connection.query("SELECT pg_notify($1, '')", &[&schema]).await.map(drop)
}

fn to_json(settings: &Settings) -> String {
    serde_json::to_string(settings).unwrap_or_default()
}
