//! Binds or takes over all listening sockets, for [`crate::serve`]. This precedes anything slow, so that a wrong
//! address is reported immediately.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
};

use tokio::net::TcpListener;

use crate::admin::AdminSocket;
use crate::{
    config::{AdminListen, Config},
    process::inherited::{self, Inherited},
};
use onnxd_proto::exit::Failure;

/// The bound sockets.
#[derive(Debug)]
pub(crate) struct Sockets {
    /// Names of the sockets that systemd passed.
    activated: Vec<&'static str>,
    /// The socket for HTTP.
    pub public: TcpListener,
    /// The address of [`Self::public`].
    pub listen: SocketAddr,
    /// The socket for gRPC and its address, if configured.
    pub grpc: Option<(TcpListener, SocketAddr)>,
    /// The socket of the admin interface over TCP and its settings, if configured.
    pub admin_tcp: Option<(TcpListener, AdminListen)>,
    /// The admin socket.
    pub admin: AdminSocket,
}

impl Sockets {
    /// Takes the sockets that were inherited, and binds the others.
    ///
    /// # Errors
    /// An address or path cannot be bound. The message names the flag.
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
                Some((socket, wanted.clone()))
            }
            None => None,
        };
        let admin = match inherited.admin.take() {
            Some(socket) => AdminSocket::passed(socket),
            None => AdminSocket::bind(&config.admin_socket, inherited.is_successor()),
        };
        inherited.close_unused();
        let admin = admin.map_err(|error| {
            let path = config.admin_socket.display();
            Failure::configuration(format!("--admin-socket: cannot listen on {path}: {error}"))
        })?;
        Ok(Self { activated, public, listen, grpc, admin_tcp, admin })
    }

    /// Returns duplicates of the descriptors that a successor takes over, with their entries in
    /// [`inherited::SUCCESSION`].
    pub(crate) fn successor_descriptors(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let public = Some((inherited::PUBLIC, &self.public));
        let grpc = self.grpc.as_ref().map(|(socket, _)| (inherited::GRPC, socket));
        let admin = self.admin_tcp.as_ref().map(|(socket, _)| (inherited::ADMIN_TCP, socket));
        let passed = self.admin.is_passed().then(|| self.admin.as_fd());
        let passed = passed.map(|socket| (inherited::entry(inherited::ADMIN, true), socket));
        let all = public.into_iter().chain(grpc).chain(admin).map(|(name, socket)| {
            (inherited::entry(name, self.activated.contains(&name)), socket.as_fd())
        });
        let all = all.chain(passed);
        all.map(|(name, socket)| Ok((name, socket.try_clone_to_owned()?))).collect()
    }
}

/// Adapts the configuration to the sockets that systemd passes. Their addresses are the units'.
///
/// # Errors
/// The socket of the admin interface over TCP has no token, or another host can reach it.
pub(super) fn adopt(config: &mut Config, inherited: &Inherited) -> Result<(), Failure> {
    if let Some(address) = inherited.activated_address(inherited::GRPC) {
        config.grpc_listen.get_or_insert(address);
    }
    if let Some(path) = inherited.admin_path() {
        config.admin_socket = path;
    }
    let Some(address) = inherited.activated_address(inherited::ADMIN_TCP) else { return Ok(()) };
    let invalid = |reason: String| {
        Err(Failure::configuration(format!("the socket admin-tcp that systemd passes {reason}")))
    };
    if config.admin_listen.is_none() {
        return invalid("needs --admin-listen ADDRESS and --admin-token-file FILE".to_owned());
    }
    if !address.ip().is_loopback() {
        return invalid(format!(
            "listens on {address}; set ListenStream= of its unit to a loopback address, for example 127.0.0.1:8081"
        ));
    }
    Ok(())
}

/// Returns the socket and its address, which has the actual port if 0 was requested.
async fn take_or_bind(
    flag: &str,
    address: SocketAddr,
    inherited: Option<std::net::TcpListener>,
) -> Result<(TcpListener, SocketAddr), Failure> {
    let socket = match inherited {
        Some(socket) => TcpListener::from_std(socket),
        None => TcpListener::bind(address).await,
    };
    let socket = socket.map_err(|error| {
        Failure::configuration(format!("{flag}: cannot listen on {address}: {error}"))
    })?;
    let address = socket.local_addr().map_err(|error| Failure::internal(error.to_string()))?;
    Ok((socket, address))
}
