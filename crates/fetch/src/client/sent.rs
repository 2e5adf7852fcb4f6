//! Remembers the credentials that were sent, so that no error and no log repeats them if a server
//! does.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{AUTHORIZATION, PROXY_AUTHORIZATION},
};
use onnxd_proto::domain::fetch::FetchError;

/// Headers whose values are credentials.
const HEADERS: [HeaderName; 4] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("x-amz-security-token"),
    HeaderName::from_static("x-aws-ec2-metadata-token"),
];
/// Shorter texts are no secrets, and redacting them would make messages unreadable.
const SECRET_BYTES_MIN: usize = 4;

/// Credentials that were sent. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct SentSecrets(Arc<Mutex<BTreeSet<String>>>);

impl fmt::Debug for SentSecrets {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secrets]")
    }
}

impl SentSecrets {
    /// Remembers the credentials in the headers of a request.
    pub(super) fn record(&self, headers: &HeaderMap) {
        HEADERS.iter().filter_map(|name| headers.get(name)).for_each(|value| self.add(value));
    }

    /// Remembers the value of a header, the token in it, and the password in that.
    pub(crate) fn add(&self, value: &HeaderValue) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let token = value.split_once(' ').map_or(&*value, |(_, token)| token);
        let decoded = STANDARD.decode(token).ok().and_then(|text| String::from_utf8(text).ok());
        let password = decoded.as_deref().and_then(|text| text.split_once(':'));
        let password = password.map_or("", |(_, password)| password);
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_long = |text: &&str| text.len() >= SECRET_BYTES_MIN;
        secrets.extend([token, password].into_iter().filter(is_long).map(str::to_owned));
    }

    /// Returns a text without these credentials, and without characters that change how a terminal
    /// shows it.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut text: String = text.chars().filter(|&c| !is_control(c)).collect();
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for secret in secrets.iter() {
            text = text.replace(secret, "[secret]");
        }
        text
    }

    /// Redacts the message of an error.
    pub(crate) fn redact_error(&self, error: FetchError) -> FetchError {
        FetchError { message: self.redact(&error.message), ..error }
    }
}

/// Returns whether a character is invisible: a control character, or one that changes the direction
/// of text.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_passwords_are_redacted() {
        let secrets = SentSecrets::default();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer hf_secret"));
        secrets.record(&headers);
        secrets.add(&HeaderValue::from_static("Basic dXNlcjpodW50ZXIy"));
        let redacted =
            secrets.redact("hf_secret, user:hunter2, dXNlcjpodW50ZXIy\u{1b}[1m\u{202e}!");
        assert_eq!(redacted, "[secret], user:[secret], [secret][1m!");
        assert!(!format!("{secrets:?}").contains("hunter2"));
        secrets.add(&HeaderValue::from_static("Basic dXNlcjo="));
        assert_eq!(secrets.redact("an empty password"), "an empty password");
    }
}
