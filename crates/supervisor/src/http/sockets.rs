//! Everything that is listened on, bound before anything that takes long, so that a wrong address is
//! known at once.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::admin::AdminSocket;
use crate::{
    Failure,
    config::{Config, Token},
};

/// What is bound.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// For everybody.
    pub public: TcpListener,
    /// Its address.
    pub listen: SocketAddr,
    /// For gRPC, where it is wanted, and its address.
    pub grpc: Option<(TcpListener, SocketAddr)>,
    /// The admin interface over TCP, where it is wanted, and what it asks for.
    pub admin_tcp: Option<(TcpListener, Token)>,
    /// The admin socket.
    pub admin: AdminSocket,
}

impl Sockets {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// What cannot be bound, by its flag.
    pub(crate) async fn bind(config: &Config) -> Result<Self, Failure> {
        let (public, listen) = bind("--listen", config.listen).await?;
        let grpc = match config.grpc_listen {
            Some(address) => Some(bind("--grpc-listen", address).await?),
            None => None,
        };
        let admin_tcp = match &config.admin_listen {
            Some(wanted) => {
                let (socket, _) = bind("--admin-listen", wanted.address).await?;
                Some((socket, wanted.token.clone()))
            }
            None => None,
        };
        let admin = AdminSocket::bind(&config.admin_socket).map_err(|error| {
            let path = config.admin_socket.display();
            Failure::configuration(format!("--admin-socket {path}: {error}"))
        })?;
        Ok(Self { public, listen, grpc, admin_tcp, admin })
    }
}

/// A socket and the address that it has, which may be another where a port was to be chosen.
async fn bind(flag: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let socket = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::configuration(format!("{flag} {address}: {error}")))?;
    let address = socket.local_addr().map_err(|error| Failure::internal(error.to_string()))?;
    Ok((socket, address))
}
