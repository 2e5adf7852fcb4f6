//! A start learns whether the database can be used, and changes nothing.

use std::process::{Command, Stdio};

use onnxd_proto::search::{DatabaseProbe, ToIndex};

use crate::{
    database::{Database, SECRET, block_on},
    process::Process,
};

fn probe(url: &str) -> DatabaseProbe {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onnxd-postgres"));
    let command = command.arg("--probe").env("ONNXD_SEARCH_URL", url).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(SECRET));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns why the database refuses.
fn refused(url: &str) -> String {
    match probe(url) {
        DatabaseProbe::Refused(reason) => reason,
        other => panic!("{url}: {other:?}"),
    }
}

fn unavailable(url: &str) -> String {
    match probe(url) {
        DatabaseProbe::Unavailable(reason) => reason,
        other => panic!("{url}: {other:?}"),
    }
}

fn assert_parts(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn what_the_server_refuses_is_named_with_its_remedy() {
    let database = Database::start();
    let run = |statement| drop(database.sql(statement));
    let owner = database.url();
    let named = |name: &str| owner.replace("/postgres?", &format!("/{name}?"));

    let wrong_password = database.url_of("owner", "wrong", "postgres");
    let who = ["refuses user owner and database postgres", "127.0.0.1:"];
    assert_parts(
        &refused(&wrong_password),
        &[&who[..], &["correct the user and the password"]].concat(),
    );
    let no_password = wrong_password.replace(":wrong", "");
    assert_parts(&refused(&no_password), &["password", "in the URL of --search"]);
    assert_parts(&refused(&named("shop")), &["database shop", "create the database"]);

    run("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0");
    assert_parts(&refused(&named("bytes")), &["encoding SQL_ASCII", "ENCODING 'UTF8'"]);

    run("CREATE ROLE app LOGIN PASSWORD 'app'");
    let app = database.url_of("app", "app", "postgres");
    assert_parts(&refused(&app), &["no pgvector", "CREATE EXTENSION vector"]);
    run("CREATE EXTENSION vector");
    let grant = "GRANT CREATE ON DATABASE \"postgres\" TO \"app\"";
    assert_parts(&refused(&app), &["schema my docs", grant]);
    run("CREATE SCHEMA \"my docs\"");
    assert_parts(&refused(&app), &["permission denied", "OWNER TO \"app\""]);
    run("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC");
    assert_parts(&refused(&app), &["GRANT CONNECT ON DATABASE \"postgres\" TO \"app\""]);
    run("GRANT CONNECT ON DATABASE postgres TO PUBLIC");
    run("ALTER SCHEMA \"my docs\" OWNER TO app");
    assert_eq!(probe(&app), DatabaseProbe::Usable);

    Process::postgres(&app).create("docs", "{}");
    run("CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT USAGE ON SCHEMA \"my docs\" TO reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA \"my docs\" TO reader");
    let reader = database.url_of("reader", "reader", "postgres");
    assert_parts(&refused(&reader), &["may not create tables", "OWNER TO \"reader\""]);
    run("UPDATE \"my docs\"._format SET format = 99");
    assert_parts(&refused(&app), &["format 99", "name another schema"]);
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn servers_that_cannot_be_reached_are_named_with_their_port() {
    let database = Database::start();
    let address = database.address().to_string();
    database.stop("fast");
    let message = unavailable(&database.url());
    assert_parts(&message, &[&address, "refused", "start it"]);
    let unknown = database.url().replace("127.0.0.1", "no-such-host.invalid");
    assert_parts(&unavailable(&unknown), &["no-such-host.invalid:", "correct the address"]);
    database.resume();
    database.signal(nix::sys::signal::Signal::SIGSTOP);
    let message = unavailable(&database.url());
    database.signal(nix::sys::signal::Signal::SIGCONT);
    assert_parts(&message, &[&address, "within 4 seconds"]);
}

#[test]
#[ignore = "needs PostgreSQL; run by cargo xtask test-postgres"]
fn a_probe_changes_nothing_and_waits_for_no_server() {
    let database = Database::start();
    let is_empty = "SELECT NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'my docs')
        AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector')";
    assert_eq!(probe(&database.url()), DatabaseProbe::Usable);
    assert_eq!(database.sql(is_empty), "t");
    let process = Process::postgres(&database.url());
    process.create("docs", "{}");
    block_on(async {
        // A change of the catalog that takes long.
        let client = database.client().await;
        client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(478594103396)").await.unwrap();
        assert_eq!(probe(&database.url()), DatabaseProbe::Usable);
    });
    assert_eq!(
        process.error(&ToIndex::Drop("none".into())).kind,
        onnxd_proto::search::IndexErrorKind::NotFound
    );
}
