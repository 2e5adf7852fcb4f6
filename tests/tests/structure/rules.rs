//! The rules. Folders are modules, such as `models::store`; a crate is named by its folder.

/// The most files of a cycle inside one folder.
pub(crate) const CYCLE_MAX: usize = 6;

/// By crate, its folders from top to bottom: none imports one above it.
pub(crate) const LAYERS: [(&str, &[&[&str]]); 3] = [
    ("supervisor", &[&["serve", "cli"], &["api", "admin"], &["config"], &["transport", "process"]]),
    ("engine", &[&["engine"], &["dispatch"], &["models"], &["pool"]]),
    ("proto", &[&["wire", "layout"], &["domain", "control_page"], &["generation", "limits"]]),
];

/// Crate, folder, and what it must not import besides: folders of the same crate, or other crates,
/// which begin with `::`.
pub(crate) const FORBIDDEN: [(&str, &str, &[&str]); 9] = [
    // The contracts know nothing of the interface for operators.
    ("supervisor", "api", &["admin"]),
    // The engine knows no protocol.
    ("engine", "", &["::axum", "::http", "::hyper", "::tonic", "::utoipa"]),
    ("engine", "engine", &["::serde_json"]),
    // Pure: time comes in as an argument, and a simulation can be replayed.
    (
        "engine",
        "models::machine",
        &["models::store", "models::sources", "models::update", "::tokio"],
    ),
    ("engine", "dispatch::policy", &["dispatch::actor", "pool::keeper", "pool::link", "::tokio"]),
    // A source finds and fetches; what becomes of it is decided above.
    ("engine", "models::sources", &["models::store", "models::update", "models::machine"]),
    // A family opens and answers; it does not know who asks it.
    ("worker", "families", &["serving", "checking", "sandbox"]),
    ("worker", "session", &["families", "serving", "checking"]),
    ("worker", "sandbox", &["families", "serving", "checking", "session"]),
];

/// Crate, another crate, and the only folder that imports it.
pub(crate) const ONLY: [(&str, &str, &str); 3] = [
    ("worker", "ort", "session"),
    ("worker", "tokenizers", "families::text"),
    ("proto", "bincode", "wire::message"),
];
