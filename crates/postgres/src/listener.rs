//! A separate session. It holds the lock on the schema, so that only one server uses it. It also learns
//! when rows of existing tables change, so that asking for texts to embed costs nothing while nothing
//! changes. Called by [`crate::serving`].

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    rc::Rc,
    time::Duration,
};

use futures_util::{future::poll_fn, pin_mut};
use onnxd_proto::search::{IndexError, IndexErrorKind};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_postgres::{AsyncMessage, Client};

use crate::{
    pool::Pool,
    schema::{LISTENER_LOCK, quoted},
};

/// Pause before a lost connection is opened again.
const PAUSE: Duration = Duration::from_secs(1);
/// Silence after which the connection is tried, and everything counts as changed.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Time between attempts to get the lock. A session that waits in the database would delay the
/// making of an index there.
const LOCK_PAUSE: Duration = Duration::from_millis(200);
/// Time that a request waits for the first attempt. Then the request itself finds the cause.
const FIRST_MAX: Duration = Duration::from_secs(2);
/// Time that a request waits for another server to release the schema, as one that is replaced does.
const LOCK_MAX: Duration = Duration::from_secs(10);

/// The lock of a server that vanished is released when its silence is noticed.
const SESSION: &str = "
    SET tcp_keepalives_idle = 10;
    SET tcp_keepalives_interval = 5;
    SET tcp_keepalives_count = 3;
";

/// Which server may use the schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Unknown,
    /// Also if that could not be found out. Requests find out why.
    This,
    Another,
}

/// Whether this process may use the schema. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ownership(Rc<watch::Sender<Owner>>);

impl Default for Ownership {
    fn default() -> Self {
        Self(Rc::new(watch::Sender::new(Owner::Unknown)))
    }
}

impl Ownership {
    /// Waits until this process may use the schema.
    ///
    /// # Errors
    /// Another server uses it.
    pub(crate) async fn wait(&self) -> Result<(), IndexError> {
        let mut owner = self.0.subscribe();
        if timeout(FIRST_MAX, owner.wait_for(|owner| *owner != Owner::Unknown)).await.is_err() {
            self.assume();
        }
        let _ = timeout(LOCK_MAX, owner.wait_for(|owner| *owner != Owner::Another)).await;
        match *self.0.borrow() {
            Owner::Another => Err(IndexErrorKind::Unavailable.because(
                "another server uses this schema; stop it, or name another schema in the URL of --search",
            )),
            Owner::Unknown | Owner::This => Ok(()),
        }
    }

    /// Lets requests find out why the lock cannot be asked for.
    fn assume(&self) {
        self.0.send_if_modified(|owner| {
            let is_unknown = *owner == Owner::Unknown;
            if is_unknown {
                *owner = Owner::This;
            }
            is_unknown
        });
    }

    /// Takes the lock on a schema, when no other session has it.
    async fn take(&self, client: &Client, schema: &str) -> Result<(), tokio_postgres::Error> {
        let lock = "SELECT pg_try_advisory_lock($1, hashtext($2))";
        while !client.query_one(lock, &[&LISTENER_LOCK, &schema]).await?.get::<_, bool>(0) {
            if self.0.send_replace(Owner::Another) != Owner::Another {
                tracing::warn!(schema, "waiting for another server to release the schema");
            }
            sleep(LOCK_PAUSE).await;
        }
        self.0.send_replace(Owner::This);
        Ok(())
    }
}

/// What has not changed since it was found complete. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Changes(Rc<State>);

#[derive(Default)]
struct State {
    /// Collections and versions.
    complete: RefCell<HashSet<(String, String)>>,
    is_listening: Cell<bool>,
    /// Counts notifications.
    seen: Cell<u64>,
}

impl Changes {
    /// Returns whether every document is known to have a vector of a version.
    pub(crate) fn is_complete(&self, collection: &str, version: &str) -> bool {
        let wanted = (collection.to_owned(), version.to_owned());
        self.0.is_listening.get() && self.0.complete.borrow().contains(&wanted)
    }

    /// Returns a mark for [`Changes::note_complete`], to be taken before the database is asked.
    pub(crate) fn mark(&self) -> u64 {
        self.0.seen.get()
    }

    /// Notes that every document had a vector, unless something changed since `mark`.
    pub(crate) fn note_complete(&self, mark: u64, collection: &str, version: &str) {
        if mark == self.mark() {
            self.0.complete.borrow_mut().insert((collection.to_owned(), version.to_owned()));
        }
    }

    /// Forgets what is complete.
    pub(crate) fn forget(&self) {
        self.0.seen.set(self.0.seen.get() + 1);
        self.0.complete.borrow_mut().clear();
    }
}

/// Listens for as long as the process runs.
pub(crate) async fn listen(pool: Pool, changes: Changes, ownership: Ownership) {
    loop {
        if let Err(error) = listen_once(&pool, &changes, &ownership).await {
            tracing::debug!(%error, "not listening to the database");
        }
        ownership.assume();
        changes.0.is_listening.set(false);
        changes.forget();
        sleep(PAUSE).await;
    }
}

async fn listen_once(
    pool: &Pool,
    changes: &Changes,
    ownership: &Ownership,
) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = pool.address().config.connect(pool.tls().clone()).await?;
    let listen = format!("LISTEN {}", quoted(&pool.address().schema));
    let command = async {
        client.batch_execute(SESSION).await?;
        ownership.take(&client, &pool.address().schema).await?;
        client.batch_execute(&listen).await?;
        changes.forget();
        changes.0.is_listening.set(true);
        loop {
            sleep(SILENCE_MAX).await;
            changes.forget();
            // A dead connection is noticed only if something is sent.
            match timeout(PAUSE * 5, client.batch_execute("")).await {
                Ok(result) => result?,
                Err(_) => return Ok(()),
            }
        }
    };
    let messages = async {
        loop {
            match poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notification(_))) => changes.forget(),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            }
        }
    };
    pin_mut!(command, messages);
    tokio::select! {
        ended = command => ended,
        ended = messages => ended,
    }
}
