//! Settings and credentials of buckets: `AWS_*` and `GOOGLE_*` variables, AWS profiles, and the
//! credential services of clouds.

use std::{collections::BTreeMap, sync::Arc};

use object_store::{
    ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
};
use onnxd_proto::domain::{
    Scheme,
    fetch::{FetchError, FetchErrorKind},
};
use url::Url;

use super::transport::{ServerClock, Transport, fetch_error};
use crate::{
    client::Client,
    environment::{Environment, read},
};

/// Retries of one request. The supervisor retries later, too.
const RETRIES: usize = 2;
/// Variables that show where AWS credentials are, other than in a profile.
const OTHER_CREDENTIALS: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];
/// Settings of a profile that are of use, and the variables with the same meaning.
const PROFILE_SETTINGS: [(&str, &str); 6] = [
    ("aws_access_key_id", "AWS_ACCESS_KEY_ID"),
    ("aws_secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("aws_session_token", "AWS_SESSION_TOKEN"),
    ("region", "AWS_REGION"),
    ("endpoint_url", "AWS_ENDPOINT_URL"),
    ("role_arn", "AWS_ROLE_ARN"),
];

/// Creates the client of a bucket. Leaves out `AWS_ALLOW_HTTP` and `GOOGLE_ALLOW_HTTP`, by which the
/// transport tells the clients of credential services: `object_store` sets it for them. It sets `clock` by the server's answers.
pub(super) fn store(
    scheme: Scheme,
    bucket: &str,
    (client, clock): (Client, &ServerClock),
    environment: &Environment,
) -> Result<Arc<dyn ObjectStore>, FetchError> {
    let uri = format!("{scheme}://{bucket}");
    let retry = RetryConfig { max_retries: RETRIES, ..RetryConfig::default() };
    let failed = |error| {
        let kind = FetchErrorKind::Configuration;
        FetchError { kind, ..fetch_error(&uri, error) }
    };
    if scheme == Scheme::Gs {
        // The builder's own options allow http, by which the transport tells credential services.
        let builder = GoogleCloudStorageBuilder::new().with_client_options(ClientOptions::new());
        let mut builder = builder.with_bucket_name(bucket).with_retry(retry);
        for (name, value) in environment.iter().filter(|(name, _)| name.starts_with("GOOGLE_")) {
            if let Ok(key) = name.to_ascii_lowercase().parse::<GoogleConfigKey>()
                && key != GoogleConfigKey::Client(ClientConfigKey::AllowHttp)
            {
                builder = builder.with_config(key, value);
            }
        }
        let client = trusting(client, environment, "GOOGLE_BASE_URL")?;
        let transport = Transport::new(client, clock.clone());
        let store = builder.with_http_connector(transport).build().map_err(failed)?;
        return Ok(Arc::new(store));
    }
    let variables = with_profile(environment)?;
    let mut builder = AmazonS3Builder::new().with_bucket_name(bucket).with_retry(retry);
    for (name, value) in variables.iter().filter(|(name, _)| name.starts_with("AWS_")) {
        if let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>()
            && key != AmazonS3ConfigKey::Client(ClientConfigKey::AllowHttp)
        {
            builder = builder.with_config(key, value);
        }
    }
    if is_anonymous(&variables) {
        builder = builder.with_skip_signature(true);
    }
    let environment = Environment::new(variables);
    let client = trusting(client, &environment, "AWS_ENDPOINT_URL")?;
    let client = match environment.get("AWS_ENDPOINT_URL_S3") {
        Some(_) => trusting(client, &environment, "AWS_ENDPOINT_URL_S3")?,
        None => client,
    };
    let transport = Transport::new(client, clock.clone());
    let store = builder.with_http_connector(transport).build().map_err(failed)?;
    Ok(Arc::new(store))
}

/// Allows the server that a variable names.
fn trusting(
    client: Client,
    environment: &Environment,
    variable: &str,
) -> Result<Client, FetchError> {
    let Some(text) = environment.get(variable) else { return Ok(client) };
    let url = Url::parse(text).map_err(|error| {
        FetchErrorKind::Configuration.because(format!("{variable}: invalid URL: {error}"))
    })?;
    Ok(client.trusting(&url))
}

/// Returns whether requests are not signed. KServe's variable has the same meaning as our client's.
fn is_anonymous(variables: &BTreeMap<String, String>) -> bool {
    variables.get("awsAnonymousCredential").is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// Returns the variables, with the settings of the AWS profile added where they are missing.
fn with_profile(environment: &Environment) -> Result<BTreeMap<String, String>, FetchError> {
    let mut variables: BTreeMap<String, String> =
        environment.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let name = environment.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]);
    let mut settings = BTreeMap::new();
    for (variable, file, prefix) in [
        ("AWS_CONFIG_FILE", ".aws/config", "profile "),
        ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", ""),
    ] {
        let text =
            environment.path(variable, file).and_then(|path| read(&path)).unwrap_or_default();
        settings.extend(profile(&text, name.unwrap_or("default"), prefix));
    }
    if let Some(name) = name.filter(|_| settings.is_empty()) {
        let message =
            format!("AWS_PROFILE={name}: not found in ~/.aws/credentials or ~/.aws/config");
        return Err(FetchErrorKind::Unauthorized.because(message));
    }
    let has_other = OTHER_CREDENTIALS.iter().any(|name| environment.get(name).is_some());
    let has_keys = settings.contains_key("aws_access_key_id");
    if !has_other
        && !has_keys
        && let Some(unsupported) = unsupported(&settings)
    {
        return Err(FetchErrorKind::Unauthorized.because(format!(
            "the AWS profile uses `{unsupported}`, which onnxd does not support; set \
             AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use web identity"
        )));
    }
    for (setting, variable) in PROFILE_SETTINGS {
        let is_credential = setting.starts_with("aws_") || setting == "role_arn";
        if is_credential && (has_other || !has_keys) {
            continue;
        }
        if let Some(value) = settings.get(setting) {
            variables.entry(variable.to_owned()).or_insert_with(|| value.clone());
        }
    }
    Ok(variables)
}

/// Returns a setting of a profile that runs a program or asks a person.
fn unsupported(settings: &BTreeMap<String, String>) -> Option<&'static str> {
    ["credential_process", "sso_session", "sso_start_url", "source_profile"]
        .into_iter()
        .find(|name| settings.contains_key(*name))
}

/// Returns the settings of a section, named `[NAME]` or `[prefix NAME]`.
fn profile(text: &str, name: &str, prefix: &str) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    let mut is_inside = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let section = section.trim();
            is_inside = section == name || section.strip_prefix(prefix) == Some(name);
        } else if is_inside
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = trimmed.split_once('=')
        {
            settings.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Result<BTreeMap<String, String>, FetchError> {
        let pairs = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        with_profile(&Environment::new(pairs))
    }

    #[test]
    fn a_profile_completes_the_variables() {
        let home = tempfile::tempdir().unwrap();
        let aws = home.path().join(".aws");
        std::fs::create_dir(&aws).unwrap();
        let config = "[default]\nregion = eu-west-1\n[profile p]\nregion=us-west-2\n\
                      s3 =\n  endpoint_url = nested\nendpoint_url = http://s3:9000\n\
                      [profile sso]\nsso_session = x\n";
        std::fs::write(aws.join("config"), config).unwrap();
        let keys = "# keys\n[p]\naws_access_key_id = a\naws_secret_access_key = b\n";
        std::fs::write(aws.join("credentials"), keys).unwrap();
        let home = home.path().to_string_lossy().into_owned();
        let found = variables(&[("HOME", &home), ("AWS_PROFILE", "p")]).unwrap();
        let get = |name: &str| found.get(name).map(String::as_str);
        assert_eq!(get("AWS_ACCESS_KEY_ID"), Some("a"));
        assert_eq!(get("AWS_REGION"), Some("us-west-2"));
        assert_eq!(get("AWS_ENDPOINT_URL"), Some("http://s3:9000"));
        let found =
            variables(&[("HOME", &home), ("AWS_PROFILE", "p"), ("AWS_ACCESS_KEY_ID", "set")]);
        let found = found.unwrap();
        assert_eq!(found["AWS_ACCESS_KEY_ID"], "set");
        assert!(!found.contains_key("AWS_SECRET_ACCESS_KEY"), "keys of two origins do not mix");
        assert_eq!(variables(&[("HOME", &home)]).unwrap()["AWS_REGION"], "eu-west-1");
        for name in ["none", "sso"] {
            let error = variables(&[("HOME", &home), ("AWS_PROFILE", name)]).unwrap_err();
            assert_eq!(error.kind, FetchErrorKind::Unauthorized, "{error}");
        }
    }
}
