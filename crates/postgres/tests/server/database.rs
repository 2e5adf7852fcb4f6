//! A PostgreSQL server of a test's own, whose collections are in a schema with a space in its name.

use std::{
    ops::Deref,
    thread,
    time::{Duration, Instant},
};

use tokio_postgres::{Client, NoTls};

#[path = "../../../../tests/src/postgres.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests of the whole server include it as well")]
mod server;

pub(crate) use server::SECRET;

const START_MAX: Duration = Duration::from_secs(60);

/// A server with its own data directory, stopped when dropped.
pub(crate) struct Database(server::Database);

impl Database {
    pub(crate) fn start() -> Self {
        Self(server::Database::start())
    }

    pub(crate) fn url(&self) -> String {
        format!("{}?schema=my%20docs", self.0.url())
    }

    /// Returns the address with tables that collections may show.
    pub(crate) fn url_with(&self, tables: &str) -> String {
        format!("{}&tables={tables}", self.url())
    }

    /// Returns the address with another user, password and database.
    pub(crate) fn url_of(&self, user: &str, password: &str, database: &str) -> String {
        format!("postgres://{user}:{password}@{}/{database}?schema=my%20docs", self.address())
    }

    /// Returns a session of another program, in which onnxd's views can be named without a schema.
    pub(crate) async fn client(&self) -> Client {
        let start = Instant::now();
        loop {
            match tokio_postgres::connect(&self.0.url(), NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    let path = "SET search_path = \"my docs\", public";
                    client.batch_execute(path).await.unwrap();
                    return client;
                }
                Err(error) => {
                    assert!(start.elapsed() < START_MAX, "{error}");
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

impl Deref for Database {
    type Target = server::Database;

    fn deref(&self) -> &server::Database {
        &self.0
    }
}

/// Runs a future on a new runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}
