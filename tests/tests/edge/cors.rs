//! CORS, from a browser's point of view.

use e2e::{fixtures::model, server::Server};

use crate::{connection::once, file};

const EMBED: (&str, &str) = ("POST", "/embed");
const PREFLIGHT: (&str, &str) = ("OPTIONS", "/embed");
const TEXT: &str = r#"{"inputs": "a text"}"#;
const PAGE: &str = "https://app.example";

#[tokio::test(flavor = "multi_thread")]
async fn pages_from_allowed_origins_may_call_and_read_answers() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let keys = file(&builder.directories(), "keys", "a-key-for-pages");
    let server = builder
        .argument("--api-key-file")
        .argument(keys.to_str().expect("UTF-8"))
        .argument("--cors-allow-origin")
        .argument(PAGE)
        .argument("--cors-allow-origin")
        .argument("http://localhost:3000")
        .start()
        .await;
    let address = server.address();
    for page in [PAGE, "http://localhost:3000"] {
        let headers = [
            ("origin", page),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        // Browsers send no key with a preflight request.
        let preflight = once(address, PREFLIGHT, &headers, "").await;
        assert_eq!(preflight.status, 200, "{}", preflight.text());
        assert_eq!(preflight.header("access-control-allow-origin"), Some(page));
        assert_eq!(
            preflight.header("access-control-allow-methods"),
            Some("GET,POST,PUT,PATCH,DELETE")
        );
        let allowed = preflight.header("access-control-allow-headers");
        assert_eq!(allowed, Some("authorization,content-type"));

        let headers = [("origin", page), ("x-api-key", "a-key-for-pages")];
        let answer = once(address, EMBED, &headers, TEXT).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("access-control-allow-origin"), Some(page));
        let exposed = answer.header("access-control-expose-headers").unwrap_or_default();
        for name in [
            "x-model-name",
            "x-model-generation",
            "x-model-version",
            "server-timing",
            "x-request-id",
            "retry-after",
            "retry-after-ms",
            "inference-header-content-length",
        ] {
            assert!(exposed.split(',').any(|exposed| exposed == name), "{name}: {exposed}");
        }
        // The page must be able to read the refusal.
        let refused = once(address, EMBED, &headers[..1], TEXT).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.header("access-control-allow-origin"), Some(page));
    }
    let headers = [("origin", "https://evil.example"), ("x-api-key", "a-key-for-pages")];
    let answer = once(address, EMBED, &headers, TEXT).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_allows_every_origin_and_the_default_none() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let starred = "https://app.example,*";
    let server = builder.variable("ONNXD_CORS_ALLOW_ORIGIN", starred).start().await;
    let answer = once(server.address(), EMBED, &[("origin", "https://any.example")], TEXT).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    server.stop().await;

    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    let answer = once(server.address(), EMBED, &[("origin", PAGE)], TEXT).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    let preflight = once(server.address(), PREFLIGHT, &[("origin", PAGE)], "").await;
    assert_eq!(preflight.header("access-control-allow-origin"), None);
    server.stop().await;
}
