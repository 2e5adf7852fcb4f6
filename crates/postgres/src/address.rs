//! The address of the database: a URL as libpq has it, with parameters of our own.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr as _, time::Duration};

use percent_encoding::percent_decode_str;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use crate::failure::with_cause;

/// The schema, unless the URL names another.
const SCHEMA: &str = "onnxd";
/// Longer names would be cut off by PostgreSQL.
pub(crate) const NAME_BYTES_MAX: usize = 63;
/// The port of PostgreSQL, unless the URL names another.
const DEFAULT_PORT: u16 = 5432;
/// Time for opening a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time after which a silent server counts as gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Where the database is.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) config: Config,
    /// The schema that holds everything of onnxd.
    pub(crate) schema: String,
    /// Tables of the user that collections may show.
    pub(crate) tables: Vec<String>,
    /// A file with the certificate authorities of the server, instead of the machine's.
    pub(crate) root_certificates: Option<PathBuf>,
}

impl fmt::Debug for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The rest may be secret.
        formatter.debug_struct("Address").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Address {
    /// Parses a URL. No error repeats it, because it may contain a password.
    ///
    /// # Errors
    /// The URL is malformed, or a parameter is unknown.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        if !["postgres://", "postgresql://"].iter().any(|scheme| base.starts_with(scheme)) {
            let message = "expected postgres://USER:PASSWORD@HOST:PORT/DATABASE[?schema=NAME]";
            return Err(message.to_owned());
        }
        let (mut schema, mut root_certificates, mut mode) = (SCHEMA.to_owned(), None, None);
        let (mut others, mut tables) = (Vec::new(), Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let decode = |value| percent_decode_str(value).decode_utf8_lossy().into_owned();
            let decoded = decode(value);
            match name {
                // A comma within a name is escaped.
                "tables" => tables.extend(value.split(',').map(decode)),
                "schema" => schema = decoded,
                "sslrootcert" => root_certificates = Some(PathBuf::from(decoded)),
                "sslmode" => mode = Some(ssl_mode(&decoded)?),
                _ => others.push(parameter),
            }
        }
        let is_own = !schema.starts_with("pg_") && schema != "information_schema";
        let is_name = !schema.is_empty() && is_own && !schema.contains('\0');
        if !is_name || schema.len() > NAME_BYTES_MAX {
            let message = format!(
                "schema={schema}: expected a name of 1 to {NAME_BYTES_MAX} bytes that is not PostgreSQL's own"
            );
            return Err(message);
        }
        let mut config =
            Config::from_str(&format!("{base}?{}", others.join("&"))).map_err(|error| {
                format!("the URL of the database is invalid: {}", with_cause(&error))
            })?;
        if config.get_hosts().is_empty() {
            let message = "the URL of the database names no host; expected postgres://USER:PASSWORD@HOST:PORT/DATABASE";
            return Err(message.to_owned());
        }
        let is_near = !config.get_hosts().is_empty() && config.get_hosts().iter().all(is_near);
        let default = if is_near { SslMode::Disable } else { SslMode::Require };
        config.ssl_mode(mode.unwrap_or(default));
        if config.get_application_name().is_none() {
            config.application_name("onnxd");
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.tcp_user_timeout(SILENCE_MAX).keepalives_idle(SILENCE_MAX);
        Ok(Self { config, schema, tables, root_certificates })
    }

    /// Returns the hosts and ports, for messages.
    pub(crate) fn server(&self) -> String {
        let ports = self.config.get_ports();
        let server = |(place, host): (usize, &Host)| {
            // One port may be meant for all hosts.
            let port = ports.get(place).or(ports.first()).unwrap_or(&DEFAULT_PORT);
            match host {
                Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(path) => path.display().to_string(),
            }
        };
        self.config.get_hosts().iter().enumerate().map(server).collect::<Vec<_>>().join(" or ")
    }

    /// Returns the user, for messages. Without one in the URL, it is the user of this process.
    pub(crate) fn user(&self) -> &str {
        self.config.get_user().unwrap_or("USER")
    }

    /// Returns the name of the database, which is that of the user unless the URL names one.
    pub(crate) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or(self.user())
    }

    /// Returns whether a host is a local socket.
    pub(crate) fn is_local_socket(&self) -> bool {
        self.config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)))
    }
}

/// Returns the mode of that name. Whenever TLS is used, the certificate is verified.
fn ssl_mode(name: &str) -> Result<SslMode, String> {
    match name {
        "disable" => Ok(SslMode::Disable),
        "prefer" => Ok(SslMode::Prefer),
        "require" | "verify-ca" | "verify-full" => Ok(SslMode::Require),
        other => Err(format!(
            "sslmode={other}: expected disable, prefer, require, verify-ca or verify-full"
        )),
    }
}

/// Returns whether a connection to the host leaves the machine.
fn is_near(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_parameters_are_taken_out() {
        let url = "postgres://me:p%40ss@db.example:5433/shop?schema=my%20docs&tables=articles,news.a%2Cb&sslrootcert=/ca.pem&options=-c%20geqo%3Doff";
        let address = Address::parse(url).unwrap();
        assert_eq!(address.schema, "my docs");
        assert_eq!(address.tables, ["articles", "news.a,b"]);
        assert_eq!(address.root_certificates, Some(PathBuf::from("/ca.pem")));
        assert_eq!(address.config.get_dbname(), Some("shop"));
        assert_eq!(address.config.get_password(), Some(&b"p@ss"[..]));
        assert_eq!(address.config.get_options(), Some("-c geqo=off"));
        assert!(!format!("{address:?}").contains("p@ss"));
    }

    #[test]
    fn messages_name_hosts_with_ports_and_the_database() {
        for (url, server, database) in [
            ("postgres://me:secret@db.example/shop", "db.example:5432", "shop"),
            ("postgres://me:secret@a,b:5433/", "a:5432 or b:5433", "me"),
            ("postgres://me@[::1]:5434", "[::1]:5434", "me"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!((&*address.server(), address.database()), (server, database), "{url}");
            assert_eq!(address.user(), "me");
        }
    }

    #[test]
    fn connections_that_leave_the_machine_use_tls() {
        for (url, mode) in [
            ("postgres://localhost/a", SslMode::Disable),
            ("postgres://127.0.0.1/a", SslMode::Disable),
            ("postgres://[::1]/a", SslMode::Disable),
            ("postgres://db/a", SslMode::Require),
            ("postgres://localhost,db/a", SslMode::Require),
            ("postgres://db/a?sslmode=disable", SslMode::Disable),
            ("postgres://localhost/a?sslmode=verify-full", SslMode::Require),
        ] {
            assert_eq!(Address::parse(url).unwrap().config.get_ssl_mode(), mode, "{url}");
        }
    }

    #[test]
    fn wrong_addresses_are_refused_without_repeating_the_password() {
        for url in [
            "mysql://me:secret@db/a",
            "postgres://me:secret@db:x/a",
            "postgres://me:secret@db/a?sslmode=maybe",
            "postgres://me:secret@db/a?schema=",
            "postgres://me:secret@db/a?schema=pg_catalog",
            "postgres://me:secret@db/a?schema=information_schema",
            "postgres://",
            "postgres:///a",
            "postgres://me:secret@db/a?unknown=1",
        ] {
            let error = Address::parse(url).unwrap_err();
            assert!(!error.contains("secret"), "{error}");
            assert!(!url.contains("unknown") || error.contains("unknown option"), "{error}");
        }
    }
}
