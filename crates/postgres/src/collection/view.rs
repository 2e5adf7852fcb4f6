//! The view of a collection, for everyone else's SQL: documents with their vectors of the committed
//! version.

use onnxd_proto::search::IndexErrorKind;

use super::{Collection, Locking};
use crate::{failure::Failure, pool::Connection, schema::view_name};

/// The id of a document as text.
const ID: &str = "CASE get_byte(d.id, 0)
    WHEN 1 THEN convert_from(substr(d.id, 2), 'UTF8')
    ELSE (('x' || encode(substr(d.id, 2, 4), 'hex'))::bit(32)::bigint::numeric * 4294967296
        + ('x' || encode(substr(d.id, 6, 4), 'hex'))::bit(32)::bigint)::text END";

/// Shows the vectors of a version from now on.
///
/// # Errors
/// There is no such collection, it lacks vectors of that version, or the database failed.
pub(crate) async fn commit(
    name: &str,
    version: &str,
    connection: &mut Connection,
) -> Result<(), Failure> {
    let mut collection = Collection::find(name, Locking::Write, connection).await?;
    let known = collection.version(version).map(|version| version.number);
    if known.is_none() && collection.counts(connection).await?.0 > 0 {
        let message = format!("collection {name} has no vectors of version {version}");
        return Err(IndexErrorKind::Version.because(message).into());
    }
    if known != collection.committed {
        collection.committed = known;
        replace(&collection, connection).await?;
    }
    Ok(())
}

/// Makes the view show the committed version of `collection`, and records which that is.
///
/// # Errors
/// The database failed, or a session holds the view for too long.
pub(crate) async fn replace(
    collection: &Collection,
    connection: &mut Connection,
) -> Result<(), Failure> {
    let name = view_name(&collection.name, collection.number);
    let source = collection.source();
    let id = if collection.existing.is_some() { "d.row_id" } else { ID };
    let committed = |number| collection.versions.iter().find(|version| version.number == number);
    // The type of a column of a view must not change, so it is without the dimension.
    let view = match collection.committed.and_then(committed) {
        Some(version) => format!(
            "SELECT {id} AS id, d.text, d.payload, x.vector::vector AS vector
            FROM {source} d JOIN {} x ON x.key = d.key AND x.edition = d.edition",
            version.table()
        ),
        None => {
            format!("SELECT {id} AS id, d.text, d.payload, NULL::vector AS vector FROM {source} d")
        }
    };
    connection.batch(&format!("CREATE OR REPLACE VIEW {name} AS {view}")).await?;
    let update = "UPDATE _collections SET committed = $1 WHERE number = $2";
    connection.execute(update, &[&collection.committed, &collection.number]).await.map(drop)
}
