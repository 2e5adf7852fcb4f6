//! Everything that is listened on, bound before anything that takes long, so that a wrong address is
//! known at once.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use tokio::net::TcpListener;

use super::admin::AdminSocket;
use crate::{
    Failure,
    config::{Config, Token},
    inherited::{self, Inherited},
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
    /// Binds what the configuration names and was not inherited.
    ///
    /// # Errors
    /// What cannot be bound, by its flag.
    pub(crate) async fn bind(config: &Config, inherited: &mut Inherited) -> Result<Self, Failure> {
        let (public, listen) = take_or_bind(
            "--listen",
            config.listen,
            inherited.socket(inherited::PUBLIC, config.listen),
        )
        .await?;
        let grpc = match config.grpc_listen {
            Some(address) => Some(
                take_or_bind("--grpc-listen", address, inherited.socket(inherited::GRPC, address))
                    .await?,
            ),
            None => None,
        };
        let admin_tcp = match &config.admin_listen {
            Some(wanted) => {
                let (socket, _) = take_or_bind(
                    "--admin-listen",
                    wanted.address,
                    inherited.socket(inherited::ADMIN_TCP, wanted.address),
                )
                .await?;
                Some((socket, wanted.token.clone()))
            }
            None => None,
        };
        let admin =
            AdminSocket::bind(&config.admin_socket, inherited.succeeds()).map_err(|error| {
                let path = config.admin_socket.display();
                Failure::configuration(format!("--admin-socket {path}: {error}"))
            })?;
        Ok(Self { public, listen, grpc, admin_tcp, admin })
    }

    /// Second descriptors of what a successor takes over, with their names.
    pub(crate) fn for_a_successor(&self) -> io::Result<Vec<(&'static str, OwnedFd)>> {
        let own = |socket: &TcpListener| socket.as_fd().try_clone_to_owned();
        let mut all = vec![(inherited::PUBLIC, own(&self.public)?)];
        if let Some((socket, _)) = &self.grpc {
            all.push((inherited::GRPC, own(socket)?));
        }
        if let Some((socket, _)) = &self.admin_tcp {
            all.push((inherited::ADMIN_TCP, own(socket)?));
        }
        Ok(all)
    }
}

/// A socket and the address that it has, which may be another where a port was to be chosen.
async fn take_or_bind(
    flag: &str,
    address: SocketAddr,
    inherited: Option<std::net::TcpListener>,
) -> Result<(TcpListener, SocketAddr), Failure> {
    let socket = match inherited {
        Some(socket) => TcpListener::from_std(socket),
        None => TcpListener::bind(address).await,
    };
    let socket =
        socket.map_err(|error| Failure::configuration(format!("{flag} {address}: {error}")))?;
    let address = socket.local_addr().map_err(|error| Failure::internal(error.to_string()))?;
    Ok((socket, address))
}
