//! Checks `--allow-source`: the sources on other servers that admin calls may name.

use onnxd_proto::{
    domain::{RemoteUri, Scheme, SourceUri},
    exit::Failure,
};

/// Which sources admin calls may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllowedSources(Vec<Pattern>);

/// A pattern of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// `None` for every source.
    scheme: Option<Scheme>,
    /// The host, bucket, organization, registry or name. A `*` in it matches no slash.
    first: String,
    /// What follows the first slash; `None` for anything.
    rest: Option<String>,
}

impl AllowedSources {
    /// Parses the values of `--allow-source`.
    ///
    /// # Errors
    /// A pattern does not start with a known scheme.
    pub(super) fn parse(patterns: &[String]) -> Result<Self, Failure> {
        patterns.iter().map(|text| parse(text)).collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether an admin call may name the source. Directories are always allowed, and without patterns so is
    /// every source.
    pub(crate) fn allow(&self, uri: &SourceUri) -> bool {
        match uri {
            SourceUri::Directory { .. } => true,
            SourceUri::Remote(remote) => {
                self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(remote))
            }
        }
    }
}

fn parse(text: &str) -> Result<Pattern, Failure> {
    if text == "*" {
        return Ok(Pattern { scheme: None, first: "*".to_owned(), rest: None });
    }
    let known = |name: &str| Scheme::ALL.into_iter().find(|scheme| scheme.as_str() == name);
    let split = text.split_once("://");
    let Some((scheme, location)) = split.and_then(|(name, rest)| Some((known(name)?, rest))) else {
        return Err(Failure::configuration(format!(
            "--allow-source {text}: expected * or a pattern that starts with the scheme of another server, for example hf://my-org/*"
        )));
    };
    let (first, rest) = match location.split_once('/') {
        Some((first, rest)) => (first, Some(rest.to_owned())),
        None => (location, None),
    };
    Ok(Pattern { scheme: Some(scheme), first: first.to_owned(), rest })
}

impl Pattern {
    fn matches(&self, uri: &RemoteUri) -> bool {
        let (first, rest) = uri.split();
        let is_scheme = self.scheme.is_none_or(|scheme| scheme == uri.scheme());
        is_scheme
            && is_match(&self.first, first)
            && self.rest.as_ref().is_none_or(|pattern| {
                // A server may take an encoded slash for one, and so leave the allowed folder.
                let rest_lower = rest.to_ascii_lowercase();
                if rest_lower.contains("%2f") || rest_lower.contains("%5c") {
                    return false;
                }
                // A location has no slash at its end.
                is_match(pattern, rest) || is_match(pattern.trim_end_matches('/'), rest)
            })
    }
}

/// Returns whether the text matches a pattern, in which `*` stands for any text.
fn is_match(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let start = parts.next().unwrap_or_default();
    let Some(mut left) = text.strip_prefix(start) else { return false };
    let Some(end) = parts.next_back() else { return left.is_empty() };
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(patterns: &[&str], uri: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        AllowedSources::parse(&patterns).unwrap().allow(&uri.parse().unwrap())
    }

    #[test]
    fn sources_match_by_server_and_path() {
        for (pattern, uri, expected) in [
            ("hf://my-org/*", "hf://my-org/name@main", true),
            ("hf://my-org/*", "hf://my-org-2/name", false),
            ("hf://my-org", "hf://my-org/name", true),
            ("hf://my-org/name", "hf://my-org/name@main", false),
            ("hf://my-org/name@*", "hf://my-org/name@main", true),
            ("https://models.example.com/*", "https://models.example.com/m/", true),
            ("https://models.example.com/m/", "https://models.example.com/m/", true),
            ("https://models.example.com/*", "http://models.example.com/m/", false),
            ("https://models.example.com*", "https://evil.example/models.example.com/", false),
            ("https://*.example.com/*", "https://a.example.com/m/", true),
            ("https://*.example.com/*", "https://evil.example/x.example.com/m/", false),
            ("https://models.example.com/*", "https://models.example.com:8443/m/", false),
            ("https://host/m/*", "https://host/m/..%2Fsecret/", false),
            ("s3://bucket/a*/c", "s3://bucket/ab/b/c", true),
            ("s3://bucket/a*/c", "s3://bucket/ab/d", false),
            ("s3://bucket/ab*ba", "s3://bucket/aba", false),
            ("mlflow://minilm@*", "mlflow://minilm@champion", true),
            ("*", "oci://registry.example/m:1", true),
        ] {
            assert_eq!(allows(&[pattern], uri), expected, "{pattern} {uri}");
        }
    }

    #[test]
    fn directories_are_allowed_and_so_is_all_without_patterns() {
        assert!(allows(&["hf://my-org/*"], "/models/m"));
        assert!(allows(&[], "https://models.example.com/m/"));
        assert!(allows(&["hf://a/*", "hf://b/*"], "hf://b/m"));
        assert!(!allows(&["hf://a/*", "hf://b/*"], "hf://c/m"));
    }

    #[test]
    fn pattern_without_a_known_scheme_is_refused() {
        for text in ["my-org/*", "ftp://host/*", "", "file:///models/*", "*://host/*"] {
            let message = AllowedSources::parse(&[text.to_owned()]).unwrap_err().message;
            assert!(message.contains("--allow-source"), "{message}");
        }
    }
}
