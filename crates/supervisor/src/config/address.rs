//! Parses and resolves addresses to listen on: `HOST:PORT`, with an IP address or a name.

use std::{
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    str::FromStr,
};

use onnxd_proto::exit::Failure;
use serde::Deserialize;

const EXPECTED: &str =
    "expected HOST:PORT, for example localhost:8080, or [::]:8080 for all addresses";

/// An address to listen on. Names are resolved by [`resolve`](Self::resolve), not while parsing.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum ListenAddress {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A name and a port.
    Name(String, u16),
}

impl ListenAddress {
    /// Returns the address to bind. If a name has several, IPv4 is preferred.
    ///
    /// # Errors
    /// The name has no address; the message begins with `flag`.
    pub(super) fn resolve(&self, flag: &str) -> Result<SocketAddr, Failure> {
        let (host, port) = match self {
            Self::Socket(address) => return Ok(*address),
            Self::Name(host, port) => (host, *port),
        };
        let failed = |reason: &dyn fmt::Display| {
            Failure::configuration(format!(
                "{flag}: cannot resolve {host:?}: {reason}; use a name that this machine can resolve, or an IP address"
            ))
        };
        let found = (host.as_str(), port).to_socket_addrs().map_err(|error| failed(&error))?;
        // As in many other servers, `localhost` means 127.0.0.1 even if it is also ::1.
        found.min_by_key(SocketAddr::is_ipv6).ok_or_else(|| failed(&"it has no address"))
    }
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Socket(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        // A host of digits and dots is a malformed IPv4 address, which resolvers interpret differently.
        if !host.bytes().all(is_name) || !host.bytes().any(|byte| byte.is_ascii_alphabetic()) {
            return Err(EXPECTED);
        }
        Ok(Self::Name(host.to_owned(), port.parse().map_err(|_| EXPECTED)?))
    }
}

impl TryFrom<String> for ListenAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(text: &str) -> Result<String, String> {
        let address = text.parse::<ListenAddress>().map_err(str::to_owned)?;
        assert_eq!(address.to_string(), text);
        let resolved = address.resolve("--listen").map_err(|failure| failure.message)?;
        Ok(resolved.to_string())
    }

    #[test]
    fn addresses_and_names_resolve() {
        assert_eq!(resolve("127.0.0.1:8080").unwrap(), "127.0.0.1:8080");
        assert_eq!(resolve("[::1]:0").unwrap(), "[::1]:0");
        assert_eq!(resolve("localhost:8080").unwrap(), "127.0.0.1:8080");
    }

    #[test]
    fn malformed_addresses_are_refused_with_an_example() {
        for text in [
            "",
            "somewhere",
            ":8080",
            "8080",
            "localhost:",
            "localhost:70000",
            "localhost:http",
            "http://localhost:8080",
            "::1:8080",
            "300.0.0.1:80",
            "a b:80",
            "localhost:8080/",
        ] {
            let message = resolve(text).unwrap_err();
            assert!(message.contains("localhost:8080"), "{text}: {message}");
        }
    }

    #[test]
    fn unresolvable_name_is_refused_with_flag_and_name() {
        // Labels have at most 63 bytes, so resolving this one sends nothing to the network.
        let name = "x".repeat(64);
        let message = resolve(&format!("{name}:80")).unwrap_err();
        assert!(message.starts_with("--listen: cannot resolve"), "{message}");
        assert!(message.contains(&name), "{message}");
    }
}
