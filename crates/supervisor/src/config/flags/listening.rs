//! Flags under the heading "Listening": the addresses and sockets.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::ListenAddress;

/// The settings under "Listening".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ListenFlags {
    /// Address for HTTP [default: 127.0.0.1:8080]
    ///
    /// Takes an IP address or a host name, and a port; port 0 picks a free one. A name is resolved once, at start,
    /// and IPv4 is preferred. The default is reachable from this machine only. Set --api-key-file and --tls-cert
    /// before listening on other interfaces. A socket passed by systemd takes precedence.
    ///
    /// Example: --listen 0.0.0.0:8080
    #[arg(long, value_name = "HOST:PORT", env = "ONNXD_LISTEN", help_heading = "Listening")]
    pub listen: Option<ListenAddress>,

    /// Address for gRPC [default: none, gRPC is off]
    ///
    /// Serves the Open Inference Protocol over gRPC. Uses the API keys and the certificate of HTTP.
    ///
    /// Example: --grpc-listen 127.0.0.1:8081
    #[arg(long, value_name = "HOST:PORT", env = "ONNXD_GRPC_LISTEN", help_heading = "Listening")]
    pub grpc_listen: Option<ListenAddress>,

    /// Unix socket for admin commands [default: onnxd-admin.sock]
    ///
    /// `onnxd update`, `rollback`, `unload` and `status` connect to it. Only the user that runs onnxd may use it. By
    /// default it is onnxd-admin.sock in $RUNTIME_DIRECTORY, or else in $XDG_RUNTIME_DIR.
    ///
    /// Example: --admin-socket /run/onnxd/onnxd-admin.sock
    #[arg(long, value_name = "PATH", env = "ONNXD_ADMIN_SOCKET", help_heading = "Listening")]
    pub admin_socket: Option<PathBuf>,

    /// Loopback address for the admin interface [default: none]
    ///
    /// Also serves the admin interface and Triton's repository API over TCP. The address must be a loopback address.
    /// Needs --admin-token-file.
    ///
    /// Example: --admin-listen 127.0.0.1:8082
    #[arg(long, value_name = "HOST:PORT", env = "ONNXD_ADMIN_LISTEN", help_heading = "Listening")]
    pub admin_listen: Option<ListenAddress>,
}

overlay!(ListenFlags: listen grpc_listen admin_socket admin_listen);
