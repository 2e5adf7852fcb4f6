//! Checks `--admin-listen`, `--admin-token-file` and `--webhook-secret-file`. A caller of the admin interface can make this server read any
//! directory. Over TCP it therefore requires a loopback address and a token.

use std::{
    fmt,
    fs::File,
    io::Read,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::unistd::{Gid, Uid, getegid, geteuid, getgroups};
use subtle::ConstantTimeEq;

use super::ListenAddress;
use onnxd_proto::exit::Failure;

/// Minimum length of the token in bytes. A shorter one could be guessed.
const TOKEN_BYTES_MIN: usize = 16;
/// Maximum size of the token file in bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The configuration of the admin interface over TCP.
#[derive(Clone, Debug)]
pub(crate) struct AdminListen {
    /// A loopback address.
    pub address: SocketAddr,
    /// The token that callers must present.
    pub token: Token,
    /// The secret of notifications, if they are accepted.
    pub webhook_secret: Option<Token>,
}

/// A secret that is compared in constant time and never printed.
#[derive(Clone)]
pub(crate) struct Token(Arc<[u8]>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Token {
    /// Returns the secret itself, to verify signatures.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether a caller presented this token.
    pub(crate) fn matches(&self, presented: &[u8]) -> bool {
        self.0.ct_eq(presented).into()
    }

    #[cfg(test)]
    pub(crate) fn new(token: &str) -> Self {
        Self(token.as_bytes().into())
    }
}

impl AdminListen {
    /// Checks the settings and reads the token and the secret of notifications.
    ///
    /// # Errors
    /// The address or the token is missing, the address is not a loopback address, or the file is not private to its owner.
    pub(super) fn load(
        address: Option<ListenAddress>,
        file: Option<PathBuf>,
        secret_file: Option<PathBuf>,
    ) -> Result<Option<Self>, Failure> {
        let invalid = |message: String| Err(Failure::configuration(message));
        let (address, file) = match (address, file) {
            (None, None) if secret_file.is_some() => {
                return invalid(
                    "--webhook-secret-file: has no effect without --admin-listen ADDRESS and --admin-token-file FILE".into(),
                );
            }
            (None, None) => return Ok(None),
            (Some(address), Some(file)) => (address, file),
            (Some(_), None) => {
                return invalid(
                    "--admin-listen: needs a token, pass its file with --admin-token-file FILE"
                        .into(),
                );
            }
            (None, Some(_)) => {
                return invalid(
                    "--admin-token-file: has no effect without --admin-listen ADDRESS, pass both or neither".into(),
                );
            }
        };
        let configured = address;
        let address = configured.resolve("--admin-listen")?;
        if !address.ip().is_loopback() {
            return invalid(format!(
                "--admin-listen: expected a loopback address, for example 127.0.0.1:8081, got \"{configured}\""
            ));
        }
        let read = |flag: &str, file: &Path| {
            read_token(file).map_err(|reason| {
                Failure::configuration(format!("{flag}: {}: {reason}", file.display()))
            })
        };
        let secret = secret_file.map(|file| read("--webhook-secret-file", &file)).transpose()?;
        let token = read("--admin-token-file", &file)?;
        Ok(Some(Self { address, token, webhook_secret: secret }))
    }
}

/// Returns whether this process belongs to a group.
fn is_own_group(group: Gid) -> bool {
    group == getegid() || getgroups().is_ok_and(|groups| groups.contains(&group))
}

fn read_token(path: &Path) -> Result<Token, String> {
    let mut file = File::open(path).map_err(|error| error.to_string())?;
    // Of the open file, which cannot be replaced before it is read.
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(format!("expected a regular file of at most {FILE_BYTES_MAX} bytes"));
    }
    let owner = Uid::from_raw(metadata.uid());
    if !(owner == geteuid() || owner.is_root()) {
        return Err(format!(
            "expected the file to belong to this user or root, not to user {owner}; change it with chown"
        ));
    }
    let mode = metadata.mode() & 0o777;
    // Kubernetes mounts secrets as root:fsGroup with mode 0440, and no pod can change that. Credentials of systemd
    // belong to root and its group, and an ACL, which shows in the mode of the group, lets only this user read them.
    let group = Gid::from_raw(metadata.gid());
    let is_trusted = is_own_group(group) || group.as_raw() == 0;
    let is_mounted = owner.is_root() && !geteuid().is_root() && is_trusted;
    // Container platforms also mount secrets with this user's uid and gid, and mode 0440.
    let is_own = owner == geteuid() && group == getegid() && mode == 0o440;
    let forbidden = if is_mounted || is_own { 0o037 } else { 0o077 };
    if mode & forbidden != 0 {
        return Err(format!(
            "mode {mode:04o} lets other users access the file; run chmod 0600 on it; for a mounted secret, set \
             `defaultMode: 0440` and a `fsGroup` in Kubernetes, or `mode: 0440` with this user's uid and gid in Compose"
        ));
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let token = text.lines().next().unwrap_or_default().trim();
    if token.len() < TOKEN_BYTES_MIN {
        return Err(format!(
            "expected at least {TOKEN_BYTES_MIN} characters in the first line, got {}",
            token.len()
        ));
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(
            "expected only printable ASCII characters without spaces in the first line".into()
        );
    }
    Ok(Token(token.as_bytes().into()))
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, io::Write, os::unix::fs::PermissionsExt};

    use super::*;

    fn load(
        address: Option<&str>,
        token: Option<(&str, u32)>,
    ) -> Result<Option<AdminListen>, String> {
        let file = token.map(|(text, mode)| {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.as_file().set_permissions(Permissions::from_mode(mode)).unwrap();
            file
        });
        let path = file.as_ref().map(|file| file.path().to_owned());
        let address = address.map(|address| address.parse().unwrap());
        AdminListen::load(address, path, None).map_err(|failure| failure.message)
    }

    #[test]
    fn token_of_own_user_and_group_may_have_mode_0440() {
        let load = |mode| load(Some("127.0.0.1:1"), Some((GOOD, mode)));
        assert!(load(0o440).unwrap().is_some() && load(0o400).unwrap().is_some());
        for mode in [0o444, 0o644, 0o640, 0o460] {
            let message = load(mode).unwrap_err();
            assert!(message.contains("defaultMode: 0440"), "{mode:o} {message}");
        }
    }

    const GOOD: &str = "0123456789abcdef\nand a comment\n";

    #[test]
    fn token_is_the_first_line_and_is_never_printed() {
        for address in ["127.0.0.1:1", "[::1]:1", "localhost:1"] {
            let listen = load(Some(address), Some((GOOD, 0o600))).unwrap().unwrap();
            assert!(listen.token.matches(b"0123456789abcdef"));
            assert!(!listen.token.matches(b"0123456789abcdeg") && !listen.token.matches(b""));
            assert!(!format!("{listen:?}").contains("0123"));
        }
        assert!(load(None, None).unwrap().is_none());
    }

    #[test]
    fn unsafe_admin_settings_are_refused_with_the_reason() {
        let here = Some("localhost:1");
        for (address, token, reason) in [
            (Some("0.0.0.0:1"), Some((GOOD, 0o600)), "loopback"),
            (Some("192.0.2.1:1"), Some((GOOD, 0o600)), "loopback"),
            (here, None, "--admin-token-file FILE"),
            (None, Some((GOOD, 0o600)), "--admin-listen"),
            (here, Some((GOOD, 0o640)), "0640"),
            (here, Some((GOOD, 0o604)), "0604"),
            (here, Some(("short\n", 0o600)), "at least 16"),
            (here, Some(("", 0o600)), "at least 16"),
            (here, Some(("0123456789 abcdef\n", 0o600)), "printable ASCII"),
        ] {
            let message = load(address, token).unwrap_err();
            assert!(message.contains(reason), "{address:?} {token:?}: {message}");
        }
        let here = || here.map(|address| address.parse().unwrap());
        let missing = AdminListen::load(here(), Some("/nowhere".into()), None);
        assert!(missing.unwrap_err().message.contains("/nowhere"));
        let secret = AdminListen::load(None, None, Some("/nowhere".into()));
        assert!(secret.unwrap_err().message.contains("--webhook-secret-file"));
    }
}
