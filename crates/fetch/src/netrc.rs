//! Passwords of hosts from netrc, as curl and Git use it.

use http::HeaderValue;

use crate::environment::{Environment, Secret, read};

/// Returns the `Authorization` header for a host, if netrc has a password for it.
pub(crate) fn authorization(environment: &Environment, host: &str) -> Option<HeaderValue> {
    let text = read(&environment.path("NETRC", ".netrc")?)?;
    let (login, password) = entry(&text, host)?;
    password.basic(&login)
}

/// Returns the login and password of a host, or those of `default`.
fn entry(text: &str, host: &str) -> Option<(String, Secret)> {
    let mut words = words(text).into_iter();
    let (mut is_host, mut login, mut password) = (false, None, None);
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" | "default" => {
                // The first entry that matches counts.
                if is_host && password.is_some() {
                    break;
                }
                (login, password) = (None, None);
                is_host = word == "default" || words.next().as_deref() == Some(host);
            }
            "login" if is_host => login = words.next(),
            "password" if is_host => password = words.next(),
            "login" | "password" | "account" => drop(words.next()),
            _ => {}
        }
    }
    let password = password.filter(|_| is_host)?;
    Some((login.unwrap_or_default(), Secret::new(&password)))
}

/// Splits the file into words, without comments and macros.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut in_macro = false;
    for line in text.lines() {
        if in_macro {
            in_macro = !line.trim().is_empty();
            continue;
        }
        for word in line.split_whitespace().take_while(|word| !word.starts_with('#')) {
            in_macro |= word == "macdef";
            words.push(word.trim_matches('"').to_owned());
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_of_the_host_counts() {
        let text = "# login x\nmachine a login u password p\nmachine b\n login v\n password q\n\
                    macdef init\nmachine c login w password r\n\nmachine a password z\n\
                    default login d password e\n";
        let found =
            |host| entry(text, host).map(|(login, password)| (login, password.reveal().to_owned()));
        let pair = |login: &str, password: &str| Some((login.to_owned(), password.to_owned()));
        assert_eq!(found("a"), pair("u", "p"));
        assert_eq!(found("b"), pair("v", "q"));
        assert_eq!(found("c"), pair("d", "e"));
        assert_eq!(entry("machine a login u password p", "b").map(|(login, _)| login), None);
    }
}
