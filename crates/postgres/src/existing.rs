//! Collections that show an existing table of the user: its rows are the documents. Beside it, onnxd
//! has a table with a key and an edition for each row, which a trigger keeps in step, whichever
//! program changes the rows. The trigger also notifies listeners.

use onnxd_proto::search::{ID_BYTES_MAX, IndexError, IndexErrorKind, Settings};
use serde_json::Value;

use crate::{
    failure::Failure,
    pool::Connection,
    schema::{literal, quoted},
};

/// Types of columns that can identify a row.
const ID_TYPES: [&str; 6] = ["smallint", "integer", "bigint", "uuid", "text", "character varying"];
/// Characters of a text that full-text search considers: PostgreSQL limits the size of a `tsvector`.
pub(crate) const INDEXED_CHARACTERS: usize = 200_000;

/// The table of a collection, as its metadata names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Existing {
    table: String,
    id: String,
    text: String,
}

impl Existing {
    /// Returns the table that settings name, if they name one.
    ///
    /// # Errors
    /// The metadata names a table without its columns.
    pub(crate) fn of(settings: &Settings) -> Result<Option<Self>, IndexError> {
        let metadata: Value = serde_json::from_str(&settings.metadata).unwrap_or_default();
        let field = |name: &str| metadata.get(name).and_then(Value::as_str).map(str::to_owned);
        if metadata.get("table").is_none() {
            return Ok(None);
        }
        match (field("table"), field("id"), field("text")) {
            (Some(table), Some(id), Some(text)) => Ok(Some(Self { table, id, text })),
            _ => Err(IndexErrorKind::Invalid.because(
                r#"the metadata names a table without its columns; expected {"table": "articles", "id": "id", "text": "body"}"#,
            )),
        }
    }

    /// Returns the error for writes of documents.
    pub(crate) fn refuse_write(&self, collection: &str) -> IndexError {
        IndexErrorKind::Invalid.because(format!(
            "the documents of collection {collection} are the rows of table {}; change the rows there, and they are embedded",
            self.table
        ))
    }

    /// Refuses a table that the operator has not named: its rows would be shown to every client.
    ///
    /// # Errors
    /// The table is not among `tables`.
    pub(crate) fn check_allowed(&self, tables: &[String]) -> Result<(), IndexError> {
        if tables.iter().any(|table| qualified(table) == qualified(&self.table)) {
            return Ok(());
        }
        let table = &self.table;
        Err(IndexErrorKind::Invalid.because(format!(
            "table {table} may not be shown; its operator allows it with the parameter tables={table} in the URL of --search"
        )))
    }

    /// Returns the table's name in SQL.
    fn table(&self) -> String {
        let (schema, table) = qualified(&self.table);
        format!("{}.{}", quoted(schema), quoted(table))
    }

    /// Returns a relation with all documents, for a FROM clause.
    pub(crate) fn source(&self, number: i64) -> String {
        let (id, text) = (quoted(&self.id), quoted(&self.text));
        let names = format!("ARRAY[{}, {}]", literal(&self.id), literal(&self.text));
        format!(
            "(SELECT s.key, s.id, s.edition, s.row_id, t.{text}::text AS text,
                to_jsonb(t) - {names} AS payload,
                to_tsvector('simple', left(t.{text}::text, {INDEXED_CHARACTERS})) AS words
            FROM _documents_{number} s JOIN {} t ON t.{id} = s.row_id)",
            self.table()
        )
    }

    /// Adds the table beside the user's, fills it, and keeps it in step from now on.
    ///
    /// # Errors
    /// The user's table cannot be used.
    pub(crate) async fn attach(
        &self,
        number: i64,
        schema: &str,
        connection: &mut Connection,
    ) -> Result<(), Failure> {
        let id_type = self.check(connection).await?;
        let (id, text, table) = (quoted(&self.id), quoted(&self.text), self.table());
        let own = format!("{}._documents_{number}", quoted(schema));
        let edition = format!("nextval({})", literal(&format!("{}._edition", quoted(schema))));
        let key_of = |row: &str| id_bytes(&format!("{row}.{id}"), &id_type);
        let channel = literal(schema);
        // A long backfill is no reason to fail.
        connection.batch("SET LOCAL statement_timeout = 0").await?;
        let create = format!(
            "CREATE TABLE {own} (
                key bigint GENERATED ALWAYS AS IDENTITY (MAXVALUE 4294967295) PRIMARY KEY,
                id bytea NOT NULL UNIQUE, edition bigint NOT NULL, row_id {id_type} NOT NULL UNIQUE
            );
            CREATE FUNCTION {own}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
            SET search_path = pg_catalog, pg_temp AS {body};
            REVOKE EXECUTE ON FUNCTION {own}() FROM PUBLIC;
            CREATE TRIGGER {trigger} AFTER INSERT OR UPDATE OR DELETE ON {table}
                FOR EACH ROW EXECUTE FUNCTION {own}();
            CREATE TRIGGER {trigger}_truncate AFTER TRUNCATE ON {table}
                FOR EACH STATEMENT EXECUTE FUNCTION {own}();
            INSERT INTO {own} (id, edition, row_id)
                SELECT {key}, {edition}, t.{id} FROM {table} t
                WHERE t.{text} IS NOT NULL AND octet_length({key}) <= {bytes};",
            trigger = trigger(schema, number),
            key = key_of("t"),
            bytes = ID_BYTES_MAX + 1,
            body = literal(&format!(
                "BEGIN
                    IF TG_OP = 'TRUNCATE' THEN
                        DELETE FROM {own};
                    ELSIF TG_OP = 'UPDATE' AND NEW.{id} = OLD.{id}
                        AND NEW.{text}::text IS NOT DISTINCT FROM OLD.{text}::text THEN
                        RETURN NULL;
                    ELSE
                        IF TG_OP <> 'INSERT' AND (TG_OP = 'DELETE' OR NEW.{id} <> OLD.{id}
                            OR NEW.{text} IS NULL) THEN
                            DELETE FROM {own} WHERE row_id = OLD.{id};
                        END IF;
                        IF TG_OP <> 'DELETE' AND NEW.{text} IS NOT NULL
                            AND octet_length({new}) <= {bytes} THEN
                            INSERT INTO {own} (id, edition, row_id)
                                VALUES ({new}, {edition}, NEW.{id})
                                ON CONFLICT (row_id) DO UPDATE SET edition = EXCLUDED.edition;
                        END IF;
                    END IF;
                    PERFORM pg_notify({channel}, '{number}');
                    RETURN NULL;
                END",
                new = key_of("NEW"),
                bytes = ID_BYTES_MAX + 1,
            )),
        );
        connection.batch(&create).await
    }

    /// Returns the type of the column that identifies rows.
    async fn check(&self, connection: &mut Connection) -> Result<String, Failure> {
        let Self { table, id, text } = self;
        let invalid = |message: String| Failure::from(IndexErrorKind::Invalid.because(message));
        let columns = connection
            .query(
                "SELECT attname::text, format_type(atttypid, NULL), attnotnull,
                    EXISTS (SELECT FROM pg_index WHERE indrelid = attrelid AND indisunique AND indisvalid
                        AND indpred IS NULL AND indnkeyatts = 1 AND indkey[0] = attnum)
                FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
                &[&self.table()],
            )
            .await?;
        if columns.is_empty() {
            return Err(invalid(format!(
                "there is no table {table}; name it as it is spelled in the database, with its schema if that is not public"
            )));
        }
        let find = |name: &str| {
            let found = columns.iter().find(|row| row.get::<_, String>(0) == name);
            found.ok_or_else(|| invalid(format!("table {table} has no column {name}")))
        };
        let (id_type, not_null, unique): (String, bool, bool) = {
            let row = find(id)?;
            (row.get(1), row.get(2), row.get(3))
        };
        find(text)?;
        if !ID_TYPES.contains(&id_type.as_str()) || !not_null || !unique {
            return Err(invalid(format!(
                "column {id} of table {table} cannot identify documents; it must be NOT NULL, have a unique index of its own, and be of type {}",
                ID_TYPES.join(", ")
            )));
        }
        Ok(id_type)
    }
}

/// Splits a table's name into its schema and the rest.
fn qualified(table: &str) -> (&str, &str) {
    table.split_once('.').unwrap_or(("public", table))
}

/// Returns the statement that removes the triggers from the table of a collection, if it still exists.
/// With the function, because only the owner of a table may drop a trigger.
pub(crate) fn detach_statement(number: i64, schema: &str) -> String {
    let schema = quoted(schema);
    format!("DROP FUNCTION IF EXISTS {schema}._documents_{number}() CASCADE;")
}

/// Returns the name of the trigger. Several schemas may have triggers on one table.
fn trigger(schema: &str, number: i64) -> String {
    let schema: String = schema.chars().filter(char::is_ascii_alphanumeric).take(24).collect();
    format!("onnxd_{schema}_{number}")
}

/// Returns the document id of a row as SQL: see `DocumentId::to_bytes`.
fn id_bytes(id: &str, id_type: &str) -> String {
    let as_text = format!("decode('01', 'hex') || convert_to({id}::text, 'UTF8')");
    match id_type {
        "smallint" | "integer" | "bigint" => format!(
            "CASE WHEN {id} >= 0 THEN decode('00', 'hex') || int8send({id}::bigint) ELSE {as_text} END"
        ),
        _ => as_text,
    }
}
