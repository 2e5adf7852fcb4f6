//! The rules. Folders are modules, such as `models::store`. Crates are named by their folder.

/// Maximum number of files of a cycle within one folder.
pub(crate) const CYCLE_MAX: usize = 6;

/// Layers of each crate, from top to bottom. None imports from a layer above it.
pub(crate) const LAYERS: [(&str, &[&[&str]]); 5] = [
    ("supervisor", &[&["serve", "cli"], &["api", "admin"], &["config"], &["transport", "process"]]),
    ("engine", &[&["engine"], &["dispatch"], &["models"], &["pool"]]),
    (
        "fetch",
        &[
            &["conversation"],
            &["download"],
            &["state"],
            &["sources"],
            &["client", "netrc", "part"],
            &["digest", "environment", "folder"],
        ],
    ),
    (
        "postgres",
        &[
            &["serving"],
            &["catalog", "listener"],
            &["collection"],
            &["existing", "filter", "payload"],
            &["pool"],
            &["schema", "tls"],
            &["address", "failure"],
        ],
    ),
    ("proto", &[&["wire", "layout"], &["domain", "control_page"], &["generation", "limits"]]),
];

/// Crate, folder, and its additional forbidden imports: folders of the same crate, or other crates
/// with the prefix `::`.
pub(crate) const FORBIDDEN: [(&str, &str, &[&str]); 18] = [
    // Contracts are independent of the admin interface.
    ("supervisor", "api", &["admin"]),
    // The engine is independent of protocols.
    ("engine", "", &["::axum", "::http", "::hyper", "::tonic", "::utoipa"]),
    ("engine", "engine", &["::serde_json"]),
    // Pure code: time is an argument, so that simulations can be replayed.
    (
        "engine",
        "models::machine",
        &["models::store", "models::sources", "models::update", "::tokio"],
    ),
    (
        "engine",
        "dispatch::policy",
        &["dispatch::actor", "pool::process_monitor", "pool::link", "::tokio"],
    ),
    // Sources resolve and fetch; the layers above decide what to do with the result.
    ("engine", "models::sources", &["models::store", "models::update", "models::machine"]),
    // Imports that the folders of the worker do without.
    (
        "worker",
        "session",
        &["::onnxd_sandbox", "process", "artifacts", "families", "serving", "checking", "bench"],
    ),
    ("worker", "process", &["artifacts", "families", "serving", "checking", "bench"]),
    (
        "worker",
        "artifacts",
        &["::onnxd_sandbox", "process", "families", "serving", "checking", "bench"],
    ),
    // A family does not depend on its callers.
    ("worker", "families", &["::onnxd_sandbox", "serving", "checking", "bench"]),
    ("worker", "serving", &["checking", "bench"]),
    ("worker", "checking", &["::onnxd_sandbox", "serving", "bench"]),
    // Listing reads untrusted files and needs nothing that runs them.
    (
        "worker",
        "listing",
        &["::onnxd_sandbox", "session", "process", "families", "serving", "checking", "bench"],
    ),
    // Contracts are independent of each other and of the router.
    (
        "supervisor",
        "api::tei",
        &["api::openai", "api::cohere", "api::oip", "api::grpc", "api::shared", "api::router"],
    ),
    (
        "supervisor",
        "api::openai",
        &["api::tei", "api::cohere", "api::oip", "api::grpc", "api::shared", "api::router"],
    ),
    (
        "supervisor",
        "api::cohere",
        &["api::tei", "api::openai", "api::oip", "api::grpc", "api::shared", "api::router"],
    ),
    (
        "supervisor",
        "api::oip",
        &["api::tei", "api::openai", "api::cohere", "api::grpc", "api::shared", "api::router"],
    ),
    // gRPC shares the semantics of the Open Inference Protocol with `oip`.
    (
        "supervisor",
        "api::grpc",
        &["api::tei", "api::openai", "api::cohere", "api::shared", "api::router"],
    ),
];

/// Crate, an external crate, and the only folder that may import it.
pub(crate) const ONLY: [(&str, &str, &str); 6] = [
    ("fetch", "hyper_util", "client"),
    ("fetch", "object_store", "sources::bucket"),
    ("fetch", "tar", "sources::oci"),
    ("worker", "ort", "session"),
    ("worker", "tokenizers", "families::text"),
    ("proto", "bincode", "wire::message"),
];
