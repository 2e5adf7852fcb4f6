//! A crate that breaks the rules, to verify that violations are found.

use std::fs;

use crate::{Crate, Violations};

/// The files of the crate, by path below `src`.
const FILES: [(&str, &str); 9] = [
    ("lib.rs", "mod admin;\nmod api;\nmod serve;\nmod transport;"),
    ("serve/mod.rs", "mod start; pub(crate) use start::Start; fn f() { crate::api::g() }"),
    ("serve/start.rs", "use crate::transport::{sockets::Socket, *}; pub(crate) struct Start;"),
    ("transport/mod.rs", "pub(crate) mod sockets; #[path = \"quiet.rs\"] mod silent;"),
    ("transport/sockets.rs", "use crate::serve::Start;\npub(crate) struct Socket(Start);"),
    ("transport/quiet.rs", "/// See [`crate::api`].\nfn f() { let _ = \"crate::api::g()\"; }"),
    (
        "api/mod.rs",
        "#[cfg(test)]\nmod tests;\n#[cfg(all(test, not(loom)))]\nuse crate::serve::Start;\npub fn g() {}",
    ),
    ("api/tests.rs", "use crate::serve::Start;"),
    ("admin.rs", "fn f() { m!(super::api::g()); tokio::spawn(x::<crate::transport::T>()) }"),
];

fn example() -> Crate {
    let directory = tempfile::tempdir().expect("a directory");
    for (path, source) in FILES {
        let path = directory.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, source).expect("a file");
    }
    Crate::read("supervisor", directory.path())
}

#[test]
fn imports_are_found_except_in_tests_and_strings() {
    let edges: Vec<String> = example().edges.iter().map(ToString::to_string).collect();
    let expected = [
        "admin -> api",
        "admin -> transport",
        "admin -> tokio",
        "serve -> api",
        "serve::start -> transport",
        "serve::start -> transport::sockets",
        // Resolved through the re-export in `serve`.
        "transport::sockets -> serve::start",
    ];
    assert_eq!(edges, expected);
}

#[test]
fn upward_imports_and_cycles_across_folders_are_found() {
    let broken: Violations = crate::check(&example());
    let rules: Vec<&str> =
        broken.keys().map(String::as_str).filter(|rule| !rule.contains("missing folder")).collect();
    let expected =
        ["supervisor: no cycle crosses a folder", "supervisor: transport must not import serve"];
    assert_eq!(rules, expected);
}
