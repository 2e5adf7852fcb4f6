//! Tells whether the database can be used, for a start and for `--check-config`. Changes nothing.
//! Called by [`crate::main`].

use std::time::Duration;

use onnxd_proto::search::DatabaseProbe;
use tokio::{runtime, time::timeout};

use crate::{
    address::Address,
    failure::Failure,
    pool::{self, slow},
    schema,
    tls::Connector,
};

/// Time for the answer. A start waits for it.
const TIME_MAX: Duration = Duration::from_secs(4);

/// Connects to the database, and tries to create what is missing.
pub(crate) fn run(address: &Address, tls: &Connector) -> DatabaseProbe {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return DatabaseProbe::Unavailable(error.to_string()),
    };
    let tried = runtime.block_on(async { timeout(TIME_MAX, attempt(address, tls)).await });
    match tried {
        Ok(Ok(())) => DatabaseProbe::Usable,
        Ok(Err(failure)) if failure.is_final() => DatabaseProbe::Refused(failure.explain().message),
        Ok(Err(failure)) => DatabaseProbe::Unavailable(failure.explain().message),
        Err(_) => DatabaseProbe::Unavailable(slow(address, TIME_MAX)),
    }
}

async fn attempt(address: &Address, tls: &Connector) -> Result<(), Failure> {
    let mut client = pool::open(address, tls).await?;
    schema::rehearse(&mut client, address).await
}
