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
pub(crate) const FORBIDDEN: [(&str, &str, &[&str]); 19] = [
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
    // What each folder of the worker does without.
    (
        "worker",
        "sandbox",
        &["session", "process", "artifacts", "families", "serving", "checking", "bench"],
    ),
    (
        "worker",
        "session",
        &["sandbox", "process", "artifacts", "families", "serving", "checking", "bench"],
    ),
    ("worker", "process", &["artifacts", "families", "serving", "checking", "bench"]),
    ("worker", "artifacts", &["process", "sandbox", "families", "serving", "checking", "bench"]),
    // A family opens and answers; it does not know who asks it.
    ("worker", "families", &["sandbox", "serving", "checking", "bench"]),
    ("worker", "serving", &["checking", "bench"]),
    ("worker", "checking", &["serving", "sandbox", "bench"]),
    // It reads what a stranger has made, and needs nothing that runs it.
    (
        "worker",
        "listing",
        &["session", "process", "sandbox", "families", "serving", "checking", "bench"],
    ),
    // No contract imports another, or what puts them together.
    (
        "supervisor",
        "api::tei",
        &["api::openai", "api::cohere", "api::oip", "api::grpc", "api::mixed", "api::router"],
    ),
    (
        "supervisor",
        "api::openai",
        &["api::tei", "api::cohere", "api::oip", "api::grpc", "api::mixed", "api::router"],
    ),
    (
        "supervisor",
        "api::cohere",
        &["api::tei", "api::openai", "api::oip", "api::grpc", "api::mixed", "api::router"],
    ),
    (
        "supervisor",
        "api::oip",
        &["api::tei", "api::openai", "api::cohere", "api::grpc", "api::mixed", "api::router"],
    ),
    // It shares with `oip` what the Open Inference Protocol means.
    (
        "supervisor",
        "api::grpc",
        &["api::tei", "api::openai", "api::cohere", "api::mixed", "api::router"],
    ),
];

/// Crate, another crate, and the only folder that imports it.
pub(crate) const ONLY: [(&str, &str, &str); 3] = [
    ("worker", "ort", "session"),
    ("worker", "tokenizers", "families::text"),
    ("proto", "bincode", "wire::message"),
];
