//! The schema with everything of onnxd, and names in SQL. Views are named like collections; names of
//! all other relations begin with an underscore.

use onnxd_proto::search::IndexErrorKind;
use tokio_postgres::{Client, Transaction, error::SqlState};

use crate::{
    address::{Address, NAME_BYTES_MAX},
    failure::{Failure, with_cause},
};

/// Raised with every change to the tables.
const FORMAT: i32 = 2;
/// The oldest release of pgvector that goes on searching when a filter leaves too few.
const VECTOR_MIN: (u32, u32) = (0, 8);
/// Taken by changes of the catalog, so that they happen one after another: "onnxd".
pub(crate) const CATALOG_LOCK: i64 = 0x6f_6e6e_7864;
/// Held with the hash of a schema by the server that uses it: "onnx".
pub(crate) const LISTENER_LOCK: i32 = 0x6f6e_6e78;

const TABLES: &str = "
    CREATE TABLE _format (format integer NOT NULL);
    CREATE SEQUENCE _edition;
    CREATE TABLE _collections (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text COLLATE \"C\" NOT NULL UNIQUE,
        settings text NOT NULL,
        -- Documents of a collection that has its own table.
        documents bigint NOT NULL DEFAULT 0,
        -- The version whose vectors the view shows.
        committed bigint
    );
    CREATE TABLE _aliases (
        alias text COLLATE \"C\" PRIMARY KEY,
        collection bigint NOT NULL REFERENCES _collections ON DELETE CASCADE
    );
    CREATE TABLE _versions (
        number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        collection bigint NOT NULL REFERENCES _collections ON DELETE CASCADE,
        version text COLLATE \"C\" NOT NULL,
        dimension integer NOT NULL,
        documents bigint NOT NULL DEFAULT 0,
        -- Whether the vectors have an index, so that a search need not compare all of them.
        has_graph boolean NOT NULL DEFAULT false,
        -- The version whose vectors some of these are, if any.
        reused_from text COLLATE \"C\",
        UNIQUE (collection, version)
    );
";

/// Returns a name in SQL, in quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a text in SQL, in quotes.
pub(crate) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Returns the name of a collection's view: its own, if PostgreSQL would not cut it off.
pub(crate) fn view_name(collection: &str, number: i64) -> String {
    match collection.len() <= NAME_BYTES_MAX && !collection.starts_with('_') {
        true => quoted(collection),
        false => format!("_view_{number}"),
    }
}

/// Creates what is missing, and returns the search path for sessions.
///
/// # Errors
/// The server lacks something, or the user may not create it.
pub(crate) async fn prepare(client: &mut Client, address: &Address) -> Result<String, Failure> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&CATALOG_LOCK]).await?;
    let path = create(&transaction, address).await?;
    transaction.commit().await?;
    Ok(path)
}

/// Tries [`prepare`], and undoes it. Does not wait for changes of the catalog, which may take long.
///
/// # Errors
/// The server lacks something, or the user may not create it.
pub(crate) async fn rehearse(client: &mut Client, address: &Address) -> Result<(), Failure> {
    let transaction = client.transaction().await?;
    create(&transaction, address).await?;
    Ok(transaction.rollback().await?)
}

async fn create(transaction: &Transaction<'_>, address: &Address) -> Result<String, Failure> {
    let encoding: String = transaction.query_one("SHOW server_encoding", &[]).await?.get(0);
    if encoding != "UTF8" {
        let message = format!(
            "database {} has encoding {encoding}; create one with ENCODING 'UTF8', and name it in the URL of --search",
            address.database()
        );
        return Err(IndexErrorKind::Storage.because(message).into());
    }
    let extension = extension(transaction).await?;
    let path = format!("{}, {}", quoted(&address.schema), quoted(&extension));
    let created = tables(transaction, address, &path).await;
    created.map_err(|failure| match &failure {
        Failure::Database(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            denied(&with_cause(error), address)
        }
        _ => failure,
    })?;
    Ok(path)
}

/// Creates the schema and its tables, if they are missing.
async fn tables(
    transaction: &Transaction<'_>,
    address: &Address,
    path: &str,
) -> Result<(), Failure> {
    let schema = &address.schema;
    let name = quoted(schema);
    let found = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
    // `IF NOT EXISTS` would need the privilege to create, even if the schema exists.
    if !transaction.query_one(found, &[schema]).await?.get::<_, bool>(0) {
        transaction.batch_execute(&format!("CREATE SCHEMA {name}")).await?;
    }
    transaction.batch_execute(&format!("SET search_path = {path}")).await?;
    let found = "SELECT to_regclass($1) IS NOT NULL";
    if !transaction.query_one(found, &[&format!("{name}._format")]).await?.get::<_, bool>(0) {
        let tables = format!("{TABLES} INSERT INTO _format VALUES ({FORMAT});");
        return Ok(transaction.batch_execute(&tables).await?);
    }
    let format: i32 = transaction.query_one("SELECT format FROM _format", &[]).await?.get(0);
    if format != FORMAT {
        let message = format!(
            "schema {schema} has format {format}, and this release reads {FORMAT}; start the release that wrote it, or name another schema in the URL of --search"
        );
        return Err(IndexErrorKind::Storage.because(message).into());
    }
    // Each collection has its own tables.
    let may_create = "SELECT has_schema_privilege($1, 'CREATE')";
    if !transaction.query_one(may_create, &[schema]).await?.get::<_, bool>(0) {
        return Err(denied("it may not create tables there", address));
    }
    Ok(())
}

/// Returns the failure of a user who lacks a privilege.
fn denied(reason: &str, address: &Address) -> Failure {
    let (schema, user, database) = (&address.schema, address.user(), address.database());
    let message = format!(
        "user {user} may not use schema {schema} in database {database} ({reason}); as a superuser, run GRANT CREATE ON DATABASE {} TO {role}, or ALTER SCHEMA {} OWNER TO {role} if the schema exists",
        quoted(database),
        quoted(schema),
        role = quoted(user),
    );
    IndexErrorKind::Storage.because(message).into()
}

/// Returns the schema in which pgvector is installed. Installs it if it is not.
async fn extension(transaction: &Transaction<'_>) -> Result<String, Failure> {
    let query = "SELECT nspname::text, extversion FROM pg_extension JOIN pg_namespace n
        ON n.oid = extnamespace WHERE extname = 'vector'";
    let mut found = transaction.query_opt(query, &[]).await?;
    if found.is_none() {
        let create = "CREATE EXTENSION IF NOT EXISTS vector";
        transaction.batch_execute(create).await.map_err(missing)?;
        found = transaction.query_opt(query, &[]).await?;
    }
    let (schema, version): (String, String) =
        found.map(|row| (row.get(0), row.get(1))).unwrap_or_default();
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < VECTOR_MIN {
        let (major, minor) = VECTOR_MIN;
        let message = format!(
            "the database has pgvector {version}, and {major}.{minor} or newer is needed; install it and run ALTER EXTENSION vector UPDATE"
        );
        return Err(IndexErrorKind::Storage.because(message).into());
    }
    Ok(schema)
}

fn missing(error: tokio_postgres::Error) -> Failure {
    // Not allowed, or not installed on the server. Anything else may pass.
    let is_final = [
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::UNDEFINED_FILE,
    ];
    if !error.code().is_some_and(|code| is_final.contains(code)) {
        return error.into();
    }
    let reason = error.as_db_error().map_or_else(String::new, |error| error.message().to_owned());
    let message = format!(
        "the database has no pgvector, and it cannot be installed ({reason}); as a superuser, run CREATE EXTENSION vector in it"
    );
    IndexErrorKind::Storage.because(message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's \\ so"), "E'it\\'s \\\\ so'");
    }

    #[test]
    fn a_view_has_the_collections_name_if_it_can() {
        let long = "é".repeat(32);
        for (name, view) in [
            ("docs", "\"docs\""),
            ("My \"docs\"", "\"My \"\"docs\"\"\""),
            ("_collections", "_view_7"),
            (long.as_str(), "_view_7"),
        ] {
            assert_eq!(view_name(name, 7), view);
        }
        let longest = "x".repeat(63);
        assert_eq!(view_name(&longest, 7), quoted(&longest));
    }
}
