//! Caddy before a server that asks for no credentials itself. It refuses requests without them.

use std::{fs, path::Path, process::Command};

use crate::servers::{Server, free_port, program};

/// Starts Caddy before a server, for requests with this `Authorization` header.
pub(crate) fn gate(server: &Server, authorization: &str, directory: &Path) -> Server {
    let (port, behind) = (free_port(), server.port);
    let text = format!(
        "http://127.0.0.1:{port} {{\n @denied not header Authorization \"{authorization}\"\n \
         respond @denied 401\n reverse_proxy 127.0.0.1:{behind} {{\n  header_up -Authorization\n }}\n}}\n"
    );
    let path = directory.join("Gatefile");
    fs::write(&path, format!("{GLOBAL}{text}")).unwrap();
    Server::start(caddy(&path, directory), port, directory)
}

/// Options of every Caddyfile.
pub(crate) const GLOBAL: &str =
    "{\n admin off\n skip_install_trust\n auto_https disable_redirects\n}\n";

/// Returns the command that runs Caddy with a Caddyfile.
pub(crate) fn caddy(file: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program("caddy"));
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    command.env("XDG_DATA_HOME", directory).env("XDG_CONFIG_HOME", directory);
    command
}
