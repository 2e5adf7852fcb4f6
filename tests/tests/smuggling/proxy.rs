//! Runs nginx or haproxy in front of a server. From Debian's packages nginx-light and haproxy.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use e2e::{eventually, launch::free_address, server::Server};
use tokio::net::TcpStream;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Haproxy,
}

/// A running proxy, stopped on drop.
pub(crate) struct Proxy {
    kind: Kind,
    child: Child,
    pub address: SocketAddr,
    log: PathBuf,
}

impl Proxy {
    /// Starts a proxy. Returns `None` if it is not installed; panics in CI.
    pub(crate) async fn start(kind: Kind, server: &Server) -> Option<Self> {
        let program = match kind {
            Kind::Nginx => "/usr/sbin/nginx",
            Kind::Haproxy => "/usr/sbin/haproxy",
        };
        if !Path::new(program).exists() {
            assert!(std::env::var_os("CI").is_none(), "{program} is not installed");
            eprintln!("SKIPPED: {program} is not installed");
            return None;
        }
        let (address, root) = (free_address(), server.home().root().to_path_buf());
        let (log, file) = (root.join("access.log"), root.join("proxy.conf"));
        let mut command = Command::new(program);
        let text = match kind {
            Kind::Nginx => nginx(&root, address, server.address()),
            Kind::Haproxy => haproxy(address, server.address()),
        };
        fs::write(&file, text).expect("a file");
        match kind {
            Kind::Nginx => command.arg("-p").arg(&root).arg("-e").arg(root.join("e.log")).arg("-c"),
            Kind::Haproxy => command.args(["-db", "-f"]),
        };
        let child = command.arg(&file).stdout(Stdio::null()).spawn().expect("the proxy starts");
        let proxy = Self { kind, child, address, log };
        eventually("the proxy listens", Duration::from_secs(30), async || {
            TcpStream::connect(address).await.ok()
        })
        .await;
        Some(proxy)
    }

    /// Returns how many hidden requests were forwarded, if the proxy logs it.
    pub(crate) fn forwarded_hidden(&self) -> Option<u64> {
        (self.kind == Kind::Nginx).then(|| {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            log.lines().filter(|line| line.contains("/v2/health/live")).count() as u64
        })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn nginx(root: &Path, address: SocketAddr, upstream: SocketAddr) -> String {
    let root = root.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {root}/{name};"))
        .join(" ");
    // Requests that were not forwarded have no upstream address in the log.
    format!(
        "daemon off; master_process off; pid {root}/nginx.pid; events {{}}
http {{ {temporary}
  log_format asked '$upstream_addr $request_uri'; access_log {root}/access.log asked;
  upstream onnxd {{ server {upstream}; keepalive 1; }}
  server {{ listen {address};
    location / {{ proxy_pass http://onnxd; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}"
    )
}

fn haproxy(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "defaults
  mode http
  timeout connect 5s
  timeout client 10s
  timeout server 10s
  http-reuse always
listen onnxd
  bind {address}
  server one {upstream}
"
    )
}
