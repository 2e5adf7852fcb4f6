//! Finds the address of a client behind proxies. Only proxies of `--trusted-proxy` are believed: any
//! client can send the headers.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use axum::http::{HeaderMap, HeaderName, header::FORWARDED};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Parses the address in an entry of a header.
type Parse = fn(&str) -> Option<IpAddr>;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    /// Leading bits that are compared.
    prefix: u32,
}

/// An invalid network.
#[derive(Debug, thiserror::Error)]
#[error("expected an IP address or a network such as 10.0.0.0/8 or fd00::/8")]
pub(crate) struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = match prefix {
            Some(text) if is_number(text) => text.parse().map_err(|_| NetworkError)?,
            Some(_) => return Err(NetworkError),
            None => bits,
        };
        if prefix > bits { Err(NetworkError) } else { Ok(Self { address, prefix }) }
    }
}

impl Network {
    fn contains(self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                // A shift by all bits, for prefix 0, leaves nothing to compare.
                (own.to_bits() ^ other.to_bits()).checked_shr(32 - self.prefix).unwrap_or(0) == 0
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                (own.to_bits() ^ other.to_bits()).checked_shr(128 - self.prefix).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The trusted proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proxies(Arc<[Network]>);

impl FromIterator<Network> for Proxies {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl Proxies {
    /// Returns the client's address: the peer, or the nearest address before it in the chain that is
    /// not a trusted proxy.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trust(client) {
            return client;
        }
        let mut follow = |address: Option<IpAddr>| match address {
            Some(address) => {
                client = address.to_canonical();
                self.trust(client)
            }
            // Nothing before an entry that is not an address can be believed.
            None => false,
        };
        let (name, parse): (_, Parse) = match headers.contains_key(FORWARDED_FOR) {
            true => (FORWARDED_FOR, address),
            false => (FORWARDED, forwarded),
        };
        // Stops at the first entry that is not a trusted proxy's.
        headers.get_all(name).iter().rev().all(|line| {
            let line = line.to_str().unwrap_or_default();
            line.rsplit(',').all(|entry| follow(parse(entry)))
        });
        client
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

/// Parses an address with or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse().ok().map(|socket: SocketAddr| socket.ip()))
}

/// Parses an element of `Forwarded` (RFC 7239), for example `for="[2001:db8::1]:4711";proto=https`.
fn forwarded(element: &str) -> Option<IpAddr> {
    let node = element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(value)
    });
    address(node?.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn proxies(networks: &[&str]) -> Proxies {
        networks.iter().map(|network| network.parse::<Network>().unwrap()).collect()
    }

    fn client(proxies: &Proxies, peer: &str, headers: &[(HeaderName, &'static str)]) -> String {
        let headers = headers.iter().cloned();
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        proxies.client(peer.parse().unwrap(), &map).to_string()
    }

    #[test]
    fn networks_contain_addresses_with_the_same_prefix() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.1", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("::1", "::1", "::2"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network:?} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network:?} {outside}");
        }
        for wrong in ["", "proxy", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "10/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_trusted_peer_is_believed() {
        let sent = [(FORWARDED_FOR, "198.51.100.9")];
        assert_eq!(client(&Proxies::default(), "10.0.0.1", &sent), "10.0.0.1");
        let trusted = proxies(&["10.0.0.0/8"]);
        assert_eq!(client(&trusted, "203.0.113.5", &sent), "203.0.113.5");
        assert_eq!(client(&trusted, "10.0.0.1", &sent), "198.51.100.9");
        // As a socket that listens on `[::]` shows it.
        assert_eq!(client(&trusted, "::ffff:10.0.0.1", &sent), "198.51.100.9");
        assert_eq!(client(&trusted, "10.0.0.1", &[]), "10.0.0.1");
    }

    #[test]
    fn the_rightmost_address_that_is_not_trusted_is_the_client() {
        let trusted = proxies(&["10.0.0.0/8", "fd00::/8"]);
        for (chain, expected) in [
            ("6.6.6.6, 198.51.100.9, 10.0.0.2", "198.51.100.9"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("198.51.100.9:4711", "198.51.100.9"),
            ("6.6.6.6, [2001:db8::1]:99, fd00::2", "2001:db8::1"),
            ("6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
            ("6.6.6.6\", \"", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            assert_eq!(client(&trusted, "10.0.0.1", &[(FORWARDED_FOR, chain)]), expected);
        }
        let lines = [(FORWARDED_FOR, "6.6.6.6"), (FORWARDED_FOR, "198.51.100.9, 10.0.0.2")];
        assert_eq!(client(&trusted, "10.0.0.1", &lines), "198.51.100.9");
    }

    #[test]
    fn forwarded_is_read_if_there_is_no_x_forwarded_for() {
        let trusted = proxies(&["10.0.0.0/8"]);
        for (element, expected) in [
            ("for=6.6.6.6, For=\"198.51.100.9:80\";proto=https, for=10.0.0.2", "198.51.100.9"),
            ("proto=http;for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
            ("for=6.6.6.6, for=_hidden", "10.0.0.1"),
            ("proto=http", "10.0.0.1"),
        ] {
            assert_eq!(client(&trusted, "10.0.0.1", &[(FORWARDED, element)]), expected);
        }
        let both = [(FORWARDED, "for=6.6.6.6"), (FORWARDED_FOR, "198.51.100.9")];
        assert_eq!(client(&trusted, "10.0.0.1", &both), "198.51.100.9");
    }
}
