//! Makes the graph of a version once its vectors are many: apart from writes, which go on meanwhile,
//! and for as long as it takes. Until then, a search compares every vector. Called by
//! [`crate::serving`].

use std::{rc::Rc, time::Duration};

use onnxd_proto::search::{Distance, IndexError, IndexErrorKind};
use tokio::{sync::Notify, time::sleep};

use super::{Collection, EXACT_MAX, HALF_PRECISION_MAX, Locking, Version};
use crate::{
    failure::Failure,
    pool::{Connection, Pool},
};

/// Pause before the database is asked what has become large: many changes come at once.
const PAUSE: Duration = Duration::from_secs(1);
/// Time for the locks of tables that are removed. Other requests queue behind them.
const LOCK_SECONDS: u32 = 1;
const LOCK_ATTEMPTS: u32 = 5;
/// Pause after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// Makes graphs after changes, for as long as the process runs.
pub(crate) async fn make(pool: Pool, changed: Rc<Notify>) {
    loop {
        changed.notified().await;
        sleep(PAUSE).await;
        if let Err(error) = make_missing(&pool).await {
            if error.kind != IndexErrorKind::Unavailable {
                let reason = error.message;
                tracing::warn!(reason, "failed to make the graph of a collection's vectors");
            }
            sleep(RETRY).await;
            changed.notify_one();
        }
    }
}

/// Removes tables by these statements. First cancels what would block that for long: the making of a
/// graph of `vectors`.
///
/// # Errors
/// Another session keeps its locks, or the database failed.
pub(crate) async fn drop_tables(
    statements: &str,
    vectors: &[String],
    connection: &mut Connection,
) -> Result<(), Failure> {
    let cancel = "SELECT pg_cancel_backend(pid)
        FROM pg_stat_progress_create_index JOIN pg_stat_activity USING (pid)
        WHERE usename = current_user
            AND pg_stat_progress_create_index.datname = current_database()
            AND relid IN (SELECT to_regclass(name)::oid FROM unnest($1::text[]) name)";
    let mut attempt = 1;
    loop {
        // Otherwise a transaction sees what its first look has shown.
        connection.query("SELECT pg_stat_clear_snapshot()", &[]).await?;
        connection.query(cancel, &[&vectors]).await?;
        let begin = format!("SAVEPOINT removal; SET LOCAL lock_timeout = '{LOCK_SECONDS}s'");
        connection.batch(&begin).await?;
        match connection.batch(statements).await {
            Ok(()) => return connection.batch("RELEASE SAVEPOINT removal").await,
            // Another graph may have been begun before the tables were locked.
            Err(failure) if failure.is_lock_timeout() && attempt < LOCK_ATTEMPTS => {
                connection.batch("ROLLBACK TO SAVEPOINT removal").await?;
                attempt += 1;
            }
            Err(failure) => return Err(failure),
        }
    }
}

async fn make_missing(pool: &Pool) -> Result<(), IndexError> {
    let missing = pool.read(async |on| missing(on).await).await?;
    for (collection, version) in &missing {
        pool.unlimited(async |on| collection.add_graph(version, on).await).await?;
    }
    Ok(())
}

/// Returns the versions with many vectors and no graph.
async fn missing(connection: &mut Connection) -> Result<Vec<(Collection, Version)>, Failure> {
    // Rows of existing tables are not counted.
    let names = format!(
        "SELECT DISTINCT name FROM _collections c JOIN _versions v ON v.collection = c.number
        WHERE NOT v.has_graph AND v.dimension <= {HALF_PRECISION_MAX}
            AND (v.documents > {EXACT_MAX} OR c.documents = 0)"
    );
    let mut missing = Vec::new();
    for row in connection.query(&names, &[]).await? {
        let collection = Collection::find(row.get(0), Locking::None, connection).await?;
        for version in collection.versions.iter().filter(|version| !version.has_graph) {
            let table = version.table();
            let count = format!("SELECT count(*) FROM (SELECT FROM {table} LIMIT $1) first_ones");
            let count: i64 = connection.query(&count, &[&(EXACT_MAX + 1)]).await?[0].get(0);
            if count > EXACT_MAX && version.indexed("vector").is_some() {
                missing.push((collection.clone(), version.clone()));
            }
        }
    }
    Ok(missing)
}

impl Collection {
    /// Makes the graph of a version. Not in a transaction.
    async fn add_graph(
        &self,
        version: &Version,
        connection: &mut Connection,
    ) -> Result<(), Failure> {
        let Some(indexed) = version.indexed("vector") else { return Ok(()) };
        let table = version.table();
        let kind = if indexed == "vector" { "vector" } else { "halfvec" };
        let distance = match self.settings.distance {
            Distance::Cosine => "cosine",
            Distance::Dot => "ip",
        };
        // One that was interrupted is invalid, and remains.
        connection.batch(&format!("DROP INDEX IF EXISTS {table}_graph")).await?;
        let create = format!(
            "CREATE INDEX CONCURRENTLY {table}_graph ON {table}
                USING hnsw ({indexed} {kind}_{distance}_ops)"
        );
        connection.batch(&create).await?;
        connection.batch(&format!("ANALYZE {table}")).await?;
        let update = "UPDATE _versions SET has_graph = true WHERE number = $1";
        connection.execute(update, &[&version.number]).await.map(drop)
    }
}
