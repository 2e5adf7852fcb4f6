//! Connections to the database, and transactions on them. A failed transaction changes nothing. If
//! the database is gone, requests fail at once between attempts to reach it.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use onnxd_proto::search::{IndexError, IndexErrorKind};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Client, Row, Statement, error::SqlState, types::ToSql};

use crate::{
    address::Address,
    failure::{Failure, with_cause},
    schema::{self, quoted},
    tls::Connector,
};

/// Open connections, and so requests that run at a time.
const CONNECTIONS_MAX: usize = 8;
/// Prepared statements of a connection.
const STATEMENTS_MAX: usize = 128;
/// Attempts at a transaction.
const ATTEMPTS_MAX: u32 = 3;
/// Time for opening a connection and creating what is missing.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Time after which a failed attempt to connect is repeated; doubled after each further one.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How the client says that the server asks for a password and the URL has none. It has no code for it.
const NO_PASSWORD: &str = "password missing";

/// Settings of a session. Iterative scans go on until a filter has left enough; a full-text or
/// exact search gains nothing from compiling.
const SESSION: &str = "
    SET hnsw.iterative_scan = strict_order;
    SET jit = off;
    SET client_min_messages = warning;
    SET standard_conforming_strings = on;
    SET statement_timeout = '60s';
    SET lock_timeout = '20s';
    SET idle_in_transaction_session_timeout = '60s';
    SELECT set_config('synchronous_commit', 'on', false)
        WHERE current_setting('synchronous_commit') = 'off';
";

/// Connections to the database. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Rc<Shared>);

struct Shared {
    address: Address,
    tls: Connector,
    idle: RefCell<Vec<Connection>>,
    permits: Semaphore,
    state: RefCell<State>,
}

/// What is known about the database.
#[derive(Default)]
struct State {
    /// The search path; `None` until the tables are known to exist.
    path: Option<String>,
    outage: Option<Outage>,
}

/// The database cannot be reached.
#[derive(Clone)]
struct Outage {
    /// When to try again.
    until: Instant,
    pause: Duration,
    error: IndexError,
}

/// A connection with its prepared statements.
pub(crate) struct Connection {
    client: Client,
    statements: HashMap<String, Statement>,
}

impl Pool {
    /// Creates a pool that connects when it is used.
    pub(crate) fn new(address: Address, tls: Connector) -> Self {
        Self(Rc::new(Shared {
            address,
            tls,
            idle: RefCell::default(),
            permits: Semaphore::new(CONNECTIONS_MAX),
            state: RefCell::default(),
        }))
    }

    /// Returns the address of the database.
    pub(crate) fn address(&self) -> &Address {
        &self.0.address
    }

    /// Returns what opens TLS sessions.
    pub(crate) fn tls(&self) -> &Connector {
        &self.0.tls
    }

    /// Reads in a transaction that sees everything as it is at its first query.
    ///
    /// # Errors
    /// The database failed, or the request is refused.
    pub(crate) async fn read<T>(
        &self,
        work: impl AsyncFn(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, IndexError> {
        self.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", work).await
    }

    /// Writes in a transaction, which is durable when this returns.
    ///
    /// # Errors
    /// The database failed, or the request is refused. Nothing has changed, unless the connection was
    /// lost while it committed.
    pub(crate) async fn write<T>(
        &self,
        work: impl AsyncFn(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, IndexError> {
        self.run("BEGIN ISOLATION LEVEL READ COMMITTED", work).await
    }

    /// Runs statements without a transaction, for as long as they take.
    ///
    /// # Errors
    /// The database failed. What was done until then remains.
    pub(crate) async fn unlimited(
        &self,
        work: impl AsyncFn(&mut Connection) -> Result<(), Failure>,
    ) -> Result<(), IndexError> {
        // Never closed.
        let _permit = self.0.permits.acquire().await;
        let mut connection = self.connection().await?;
        let done = async {
            connection.batch("SET statement_timeout = 0; SET lock_timeout = 0").await?;
            work(&mut connection).await?;
            connection.batch(SESSION).await
        };
        done.await.map_err(Failure::explain)?;
        self.0.idle.borrow_mut().push(connection);
        Ok(())
    }

    async fn run<T>(
        &self,
        begin: &str,
        work: impl AsyncFn(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, IndexError> {
        // Never closed.
        let _permit = self.0.permits.acquire().await;
        let mut attempt = 1;
        loop {
            let mut connection = self.connection().await?;
            let error = match connection.transaction(begin, &work).await {
                Ok(result) => {
                    self.0.idle.borrow_mut().push(connection);
                    return Ok(result);
                }
                Err(error) => error,
            };
            let is_last = attempt == ATTEMPTS_MAX || !error.is_transient();
            let mut explained = None;
            if connection.client.batch_execute("ROLLBACK").await.is_ok() {
                if is_last && error.lacks_table() {
                    explained = connection.explain_removal(&self.0.address.schema, &error).await;
                }
                self.0.idle.borrow_mut().push(connection);
            } else {
                // The others were opened to the same server.
                self.0.idle.borrow_mut().clear();
            }
            if is_last {
                return Err(explained.unwrap_or_else(|| error.explain()));
            }
            sleep(PAUSE / 10 * attempt).await;
            attempt += 1;
        }
    }

    /// Takes an idle connection, or opens one.
    async fn connection(&self) -> Result<Connection, IndexError> {
        loop {
            let idle = self.0.idle.borrow_mut().pop();
            match idle {
                Some(connection) if connection.client.is_closed() => {}
                Some(connection) => return Ok(connection),
                None => break,
            }
        }
        let outage = self.0.state.borrow().outage.clone();
        if let Some(outage) = outage.as_ref().filter(|outage| outage.until > Instant::now()) {
            return Err(outage.error.clone());
        }
        let connected = timeout(CONNECT_MAX, self.connect()).await.unwrap_or_else(|_| {
            let message = slow(&self.0.address, CONNECT_MAX);
            Err(IndexErrorKind::Unavailable.because(message).into())
        });
        match connected.map_err(Failure::explain) {
            Ok(connection) => {
                if self.0.state.borrow_mut().outage.take().is_some() {
                    tracing::info!("the database is available");
                }
                Ok(connection)
            }
            Err(error) => {
                let previous = outage.map(|outage| outage.pause);
                if previous.is_none() {
                    tracing::error!(reason = error.message, "the database is not available");
                }
                let pause = previous.map_or(PAUSE, |pause| (pause * 2).min(PAUSE_MAX));
                let until = Instant::now() + pause;
                let outage = Some(Outage { until, pause, error: error.clone() });
                *self.0.state.borrow_mut() = State { path: None, outage };
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let Shared { address, tls, .. } = &*self.0;
        let mut client = open(address, tls).await?;
        let known = self.0.state.borrow().path.clone();
        let path = match known {
            Some(path) => path,
            None => {
                let path = schema::prepare(&mut client, address).await?;
                self.0.state.borrow_mut().path = Some(path.clone());
                path
            }
        };
        let settings = format!("SET search_path = {path}; {SESSION}");
        client.batch_execute(&settings).await?;
        Ok(Connection { client, statements: HashMap::new() })
    }
}

/// Opens a session.
///
/// # Errors
/// The server cannot be reached, or refuses the session.
pub(crate) async fn open(address: &Address, tls: &Connector) -> Result<Client, Failure> {
    let connected = address.config.connect(tls.clone()).await;
    let (client, driver) = connected.map_err(|error| refused(&error, address))?;
    tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::warn!(error = with_cause(&error), "a connection to the database ended");
        }
    });
    Ok(client)
}

/// Explains why a session was not opened.
fn refused(error: &tokio_postgres::Error, address: &Address) -> IndexError {
    let (server, user, database) = (address.server(), address.user(), address.database());
    let reason = with_cause(error);
    let refused = |remedy: String| {
        let message = format!(
            "the database server at {server} refuses user {user} and database {database} ({reason}); {remedy}"
        );
        IndexErrorKind::Storage.because(message)
    };
    let is = |code: SqlState| error.code() == Some(&code);
    if is(SqlState::INVALID_CATALOG_NAME) {
        refused("create the database, or correct its name in the URL of --search".to_owned())
    } else if is(SqlState::INSUFFICIENT_PRIVILEGE) {
        let (database, user) = (quoted(database), quoted(user));
        refused(format!("as its owner, run GRANT CONNECT ON DATABASE {database} TO {user}"))
    } else if is(SqlState::INVALID_PASSWORD)
        || is(SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
        || reason.contains(NO_PASSWORD)
    {
        refused(
            "correct the user and the password in the URL of --search, or let the user in with ALTER ROLE and pg_hba.conf"
                .to_owned(),
        )
    } else {
        IndexErrorKind::Unavailable.because(format!(
            "the database at {server} cannot be reached ({reason}); start it, or correct the address in the URL of --search"
        ))
    }
}

/// Says that the database did not answer in time.
pub(crate) fn slow(address: &Address, time: Duration) -> String {
    format!(
        "the database at {} did not answer within {} seconds; start it, see its log, or correct the address in the URL of --search",
        address.server(),
        time.as_secs()
    )
}

impl Connection {
    async fn transaction<T>(
        &mut self,
        begin: &str,
        work: &impl AsyncFn(&mut Connection) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.client.batch_execute(begin).await?;
        let result = work(self).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok(result)
    }

    /// Says what was removed by others, and how to go on. `None` if the database cannot tell.
    async fn explain_removal(&mut self, schema: &str, failure: &Failure) -> Option<IndexError> {
        let found = "SELECT to_regclass($1) IS NOT NULL";
        let name = format!("{}._format", quoted(schema));
        let is_found: bool = self.query(found, &[&name]).await.ok()?.first()?.get(0);
        let message = match is_found {
            true => format!(
                "a table was removed that a collection needs ({failure}); delete the collection, or restore the table from a backup"
            ),
            false => format!(
                "schema {schema} was removed from the database while onnxd ran ({failure}); restart onnxd, which creates it anew without collections, or restore it from a backup first"
            ),
        };
        Some(IndexErrorKind::Storage.because(message))
    }

    /// Runs a query, prepared once for each connection.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Failure> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.query(&statement, values).await?)
    }

    /// Runs a statement, and returns the number of rows that it changed.
    pub(crate) async fn execute(
        &mut self,
        sql: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, Failure> {
        let statement = self.prepare(sql).await?;
        Ok(self.client.execute(&statement, values).await?)
    }

    /// Runs statements without values.
    pub(crate) async fn batch(&mut self, sql: &str) -> Result<(), Failure> {
        Ok(self.client.batch_execute(sql).await?)
    }

    async fn prepare(&mut self, sql: &str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}
