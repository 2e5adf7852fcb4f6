use std::collections::BTreeSet;

use clap::{Args, Command, FromArgMatches};

use super::*;

/// Every setting: its key, a value for the file, and another value for the flag.
const SETTINGS: [(&str, &str, &str); 52] = [
    ("model", "['m=/x']", "n=/y"),
    ("preload", "['m']", "none"),
    ("require", "['m']", "all"),
    ("poll", "['m=1']", "2"),
    ("settle", "1", "2"),
    ("source-key", "['m=/k']", "m=/l"),
    ("allow-source", "['hf://*']", "s3://*"),
    ("webhook-secret-file", "'/h'", "/i"),
    ("model-alias", "['x=m']", "y=m"),
    ("listen", "'localhost:1'", "127.0.0.1:2"),
    ("grpc-listen", "'[::1]:3'", "localhost:4"),
    ("api-key-file", "'/k'", "/l"),
    ("cors-allow-origin", "['*']", "https://example.com"),
    ("tls-cert", "'/c'", "/d"),
    ("tls-key", "'/t'", "/u"),
    ("admin-socket", "'/a'", "/b"),
    ("admin-listen", "'[::1]:2'", "127.0.0.1:3"),
    ("admin-token-file", "'/t'", "/u"),
    ("state-dir", "'/s'", "/t"),
    ("body-memory", "8", "9"),
    ("workers", "2", "3"),
    ("worker-memory", "10", "11"),
    ("idle-cpus", "8", "9"),
    ("alone-cpus", "8", "9"),
    ("max-client-batch-size", "5", "6"),
    ("onnxruntime", "'/o'", "/p"),
    ("worker-binary", "'/w'", "/v"),
    ("fetch-binary", "'/f'", "/g"),
    ("search", "'off'", "embedded"),
    ("index-binary", "'/i'", "/j"),
    ("idle-timeout", "1", "2"),
    ("shutdown-delay", "1", "2"),
    ("drain-timeout", "1", "2"),
    ("worker-restarts", "3", "4"),
    ("start-timeout", "4", "5"),
    ("stopped-grace", "5", "6"),
    ("max-connections", "9", "10"),
    ("succession-timeout", "9", "10"),
    ("request-timeout", "2", "3"),
    ("queue-limit", "7", "8"),
    ("check-timeout", "3", "4"),
    ("check-memory", "4", "5"),
    ("min-cosine", "0.5", "0.75"),
    ("strict", "true", "false"),
    ("probation", "5", "6"),
    ("retention", "6", "7"),
    ("otlp-endpoint", "'http://a'", "http://b"),
    ("trace-ratio", "0.5", "0.25"),
    ("no-sandbox", "true", "false"),
    ("log-format", "'text'", "json"),
    ("access-log", "'all'", "errors"),
    ("trusted-proxy", "['::1']", "10.0.0.0/8"),
];

fn command() -> Command {
    ServeArguments::augment_args(Command::new("serve"))
}

fn flags(arguments: &[String]) -> ServeArguments {
    let arguments = ["serve"].into_iter().map(str::to_owned).chain(arguments.iter().cloned());
    let matches = command().try_get_matches_from(arguments).unwrap();
    ServeArguments::from_arg_matches(&matches).unwrap()
}

#[test]
fn every_setting_is_a_flag_a_variable_and_a_key() {
    let known: BTreeSet<String> = command()
        .get_arguments()
        .filter_map(|argument| argument.get_long().map(str::to_owned))
        .filter(|long| !FLAGS_ONLY.contains(&long.as_str()))
        .collect();
    let listed = SETTINGS.map(|(key, ..)| key.to_owned());
    assert_eq!(known, BTreeSet::from(listed), "SETTINGS lists every setting");
    for argument in command().get_arguments() {
        let Some(long) = argument.get_long().filter(|long| known.contains(*long)) else { continue };
        let variable = format!("ONNXD_{}", long.to_uppercase().replace('-', "_"));
        assert_eq!(argument.get_env(), Some(variable.as_ref()), "--{long}");
    }
}

#[test]
fn flag_wins_over_file_and_file_over_default() {
    for (key, in_file, as_flag) in SETTINGS {
        let file: ServeArguments =
            ServeArguments::from_toml(&format!("{key} = {in_file}")).unwrap();
        let flag = flags(&[format!("--{key}={as_flag}")]);
        assert_ne!(file, ServeArguments::default(), "{key}: the file sets a value");
        assert_ne!(file, flag, "{key}: the flag sets another value");
        assert_eq!(
            ServeArguments::default().over(file.clone()),
            file,
            "{key}: the file wins over the default"
        );
        assert_eq!(flag.clone().over(file), flag, "{key}: the flag wins");
    }
}

#[test]
fn boolean_flag_takes_an_optional_value() {
    for (argument, expected) in [
        ("--no-sandbox", true),
        ("--no-sandbox=true", true),
        ("--no-sandbox=false", false),
        ("--no-sandbox=0", false),
    ] {
        assert_eq!(flags(&[argument.to_owned()]).security.no_sandbox, Some(expected), "{argument}");
    }
    assert_eq!(flags(&[]).security.no_sandbox, None);
    for wrong in ["flase", "banana", "2"] {
        let argument = format!("--no-sandbox={wrong}");
        let error = command().try_get_matches_from(["serve", &argument]).unwrap_err().to_string();
        assert!(error.contains("expected true or false"), "{error}");
    }
}
