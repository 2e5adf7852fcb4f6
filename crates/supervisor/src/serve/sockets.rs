//! Everything that is listened on, bound before anything that takes long, so that a wrong address is
//! known at once.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use tokio::net::TcpListener;

use crate::admin::AdminSocket;
use crate::{
    config::{Config, Token},
    process::inherited::{self, Inherited},
};
use onnxd_proto::exit::Failure;

/// What is bound.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Which of them came from systemd, by name.
    activated: Vec<&'static str>,
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
        let mut activated = Vec::new();
        let mut take = |name: &'static str, address| {
            let socket = inherited.socket(name, address);
            activated.extend(socket.iter().filter(|socket| socket.activated).map(|_| name));
            socket.map(|socket| socket.listener)
        };
        let public = take(inherited::PUBLIC, config.listen);
        let (public, listen) = take_or_bind("--listen", config.listen, public).await?;
        let grpc = match config.grpc_listen {
            Some(address) => {
                let socket = take(inherited::GRPC, address);
                Some(take_or_bind("--grpc-listen", address, socket).await?)
            }
            None => None,
        };
        let admin_tcp = match &config.admin_listen {
            Some(wanted) => {
                let socket = take(inherited::ADMIN_TCP, wanted.address);
                let (socket, _) = take_or_bind("--admin-listen", wanted.address, socket).await?;
                Some((socket, wanted.token.clone()))
            }
            None => None,
        };
        inherited.close_others();
        let admin =
            AdminSocket::bind(&config.admin_socket, inherited.succeeds()).map_err(|error| {
                let path = config.admin_socket.display();
                Failure::configuration(format!("--admin-socket {path}: {error}"))
            })?;
        Ok(Self { activated, public, listen, grpc, admin_tcp, admin })
    }

    /// Second descriptors of what a successor takes over, with their names.
    pub(crate) fn for_a_successor(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let public = Some((inherited::PUBLIC, &self.public));
        let grpc = self.grpc.as_ref().map(|(socket, _)| (inherited::GRPC, socket));
        let admin = self.admin_tcp.as_ref().map(|(socket, _)| (inherited::ADMIN_TCP, socket));
        let all = public.into_iter().chain(grpc).chain(admin).map(|(name, socket)| {
            let name = inherited::announce(name, self.activated.contains(&name));
            Ok((name, socket.as_fd().try_clone_to_owned()?))
        });
        all.collect()
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
