//! Logs in to registries: passwords from Docker's configuration, and tokens as registries ask for
//! them in `WWW-Authenticate`.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;
use onnxd_proto::domain::fetch::{FetchError, FetchErrorKind};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::{
    client::{Client, Request, redirects::is_same_server, shown},
    environment::{Environment, Secret, read},
    sources::answer::json,
};

/// Docker's key for its own registry.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// The login of a registry.
pub(super) struct Login {
    registry: String,
    /// Absent for anonymous access.
    password: Option<(String, Secret)>,
}

/// The answer of a token server.
#[derive(Deserialize)]
struct Token {
    #[serde(alias = "access_token")]
    token: String,
}

impl Login {
    /// Reads the password of a registry.
    pub(super) fn of(environment: &Environment, registry: &str) -> Self {
        let text = configuration(environment).and_then(|path| read(&path));
        let password = text.and_then(|text| password(&text, registry));
        Self { registry: registry.to_owned(), password }
    }

    /// Returns the advice for an answer without access.
    pub(super) fn remedy(&self) -> String {
        match self.password {
            Some(_) => "the password in Docker's config.json does not give access".to_owned(),
            None => format!(
                "run `docker login {}`, or set DOCKER_CONFIG to a directory whose config.json has a \
                 password in `auths`; credential helpers are not run",
                self.registry
            ),
        }
    }

    /// Returns the credentials that a challenge asks for.
    pub(super) async fn answer(
        &self,
        client: &Client,
        challenge: &str,
        registry: &Url,
    ) -> Result<HeaderValue, FetchError> {
        let basic = self.password.as_ref().and_then(|(user, password)| password.basic(user));
        let refused = |reason: &str| {
            FetchErrorKind::Unauthorized.because(format!("401 from {}: {reason}", shown(registry)))
        };
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return basic.ok_or_else(|| refused(&self.remedy()));
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(refused("the registry asks for an unknown kind of login"));
        }
        let realm = parameter(parameters, "realm").and_then(|realm| Url::parse(&realm).ok());
        let mut realm = realm.ok_or_else(|| refused("the registry names no token server"))?;
        // The password must not be sent in plain text, unless the registry itself is asked so.
        if realm.scheme() != "https" && !is_same_server(&realm, registry) {
            return Err(refused("the registry names a token server that is not https"));
        }
        for name in ["service", "scope"] {
            if let Some(value) = parameter(parameters, name) {
                realm.query_pairs_mut().append_pair(name, &value);
            }
        }
        let response = client.send(Request::get(realm).authorization(basic)).await?;
        let token: Token = json(response.success(&self.remedy()).await?).await?;
        Secret::new(&token.token).bearer().ok_or_else(|| refused("invalid token"))
    }
}

/// Returns the path of Docker's or Podman's configuration.
fn configuration(environment: &Environment) -> Option<PathBuf> {
    if let Some(path) = environment.get("REGISTRY_AUTH_FILE") {
        return Some(path.into());
    }
    let path = environment.path("DOCKER_CONFIG", ".docker")?;
    // A systemd credential is the file itself.
    Some(if path.is_file() { path } else { path.join("config.json") })
}

/// Returns the user and password of a registry.
fn password(text: &str, registry: &str) -> Option<(String, Secret)> {
    let parsed: Value = serde_json::from_str(text).ok()?;
    let key = if registry == "docker.io" { DOCKER_HUB_KEY } else { registry };
    let entry = parsed.get("auths")?.as_object()?.iter().find(|(name, _)| {
        *name == key || name.trim_start_matches("https://").trim_end_matches('/') == registry
    });
    let (_, entry) = entry?;
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    if let (Some(user), Some(password)) = (text("username"), text("password")) {
        return Some((user.to_owned(), Secret::new(password)));
    }
    let decoded = String::from_utf8(STANDARD.decode(text("auth")?).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some((user.to_owned(), Secret::new(password)))
}

/// Returns a parameter of a challenge.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']);
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if key.eq_ignore_ascii_case(name) {
            return Some(value.trim().to_owned());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_challenge_are_found_despite_commas() {
        let text =
            "realm=\"https://auth/token\",service=registry, scope=\"repository:a/b:pull,push\"";
        assert_eq!(parameter(text, "realm").as_deref(), Some("https://auth/token"));
        assert_eq!(parameter(text, "service").as_deref(), Some("registry"));
        assert_eq!(parameter(text, "scope").as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(parameter(text, "error"), None);
    }

    #[test]
    fn passwords_are_those_of_docker_login() {
        let text = format!(
            r#"{{"auths": {{"host:5000": {{"auth": "{}"}}, "{DOCKER_HUB_KEY}": {{"username": "u",
            "password": "p"}}, "helped": {{}}}}, "credsStore": "desktop"}}"#,
            STANDARD.encode("user:pass:word")
        );
        let found = |registry| {
            password(&text, registry).map(|(user, password)| (user, password.reveal().to_owned()))
        };
        assert_eq!(found("host:5000"), Some(("user".to_owned(), "pass:word".to_owned())));
        assert_eq!(found("docker.io"), Some(("u".to_owned(), "p".to_owned())));
        assert_eq!(found("helped").or(found("host")), None);
    }
}
