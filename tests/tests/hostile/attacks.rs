//! The attacks: each is a source, the kind of refusal it must get, and a part of the message. One
//! server is a web server, a hub and a registry at once; the path selects the attack.

use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;

use crate::{
    checksums,
    double::{Asked, Double, Fault, Reply},
    layers, sha256,
};

/// What `netrc` has for the server, and no other server may get.
pub(crate) const LOGIN: (&str, &str) = ("hugo", "hunter2-in-netrc");

/// More than any version may have.
const CLAIM: u64 = 20_000_000_000;
/// Long enough to be resumed.
const CONTENT: &[u8] = &[7; 2 << 20];

/// A source, the kind of its refusal, and a part of the message.
pub(crate) type Attack = (String, &'static str, &'static str);

/// The servers of the attacks.
pub(crate) struct Servers {
    pub(crate) main: Double,
    /// The target of redirects.
    pub(crate) other: Double,
    /// Has a certificate for another name.
    tls: Double,
    /// The certificate.
    pub(crate) pem: String,
}

impl Servers {
    pub(crate) fn start() -> Self {
        let other = Double::start(|_| Reply::ok(CONTENT));
        let elsewhere = other.url("/model.onnx");
        let main = Double::start(move |asked| answer(asked, &elsewhere));
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["other.example".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let provider = rustls::crypto::ring::default_provider();
        let config = ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a key");
        let tls = Double::start_tls(config, |_| Reply::ok(""));
        Self { main, other, tls, pem: cert.pem() }
    }

    /// Returns attacks that are refused within seconds.
    pub(crate) fn quick(&self) -> Vec<Attack> {
        let web = |name: &str| self.main.url(&format!("/{name}/"));
        let hub = |name: &str| format!("hf://org/{name}");
        let image = |name: &str| format!("oci://{}/{name}/m:v1", self.main.authority());
        vec![
            (web("claim"), "contract", "at most"),
            (web("endless-sums"), "contract", "longer than"),
            (web("many-sums"), "contract", "at most 10000 are allowed"),
            (web("loop"), "forbidden", "more than 10 redirects"),
            (web("downgrade"), "forbidden", "only http and https"),
            (web("elsewhere"), "load", "not a complete ONNX model"),
            (web("dots"), "contract", "path"),
            (web("absolute"), "contract", "path"),
            (web("own"), "contract", "path"),
            (web("truncated"), "unreachable", "connection"),
            (web("wrong"), "incomplete", "digest"),
            (web("busy"), "unreachable", "429"),
            (web("large-head"), "unreachable", ""),
            (web("control"), "unauthorized", "the server says"),
            (web("long-redirect"), "incomplete", "does not exist"),
            (hub("dots"), "contract", "not allowed"),
            (hub("absolute"), "contract", "not allowed"),
            (hub("control"), "contract", "not allowed"),
            (hub("claim"), "contract", "at most"),
            (hub("many"), "contract", "at most 10000 are allowed"),
            (image("symlink"), "contract", "link"),
            (image("hardlink"), "contract", "link"),
            (image("folderlink"), "contract", "link"),
            (image("climbing"), "contract", "outside the model"),
            (image("claim"), "contract", "exceed"),
            (format!("https://localhost:{}/m/", self.tls.port()), "unreachable", "other.example"),
        ]
    }

    /// Returns attacks that take as long as a server may be silent or slow.
    pub(crate) fn slow(&self) -> Vec<Attack> {
        vec![
            (self.main.url("/slow-head/"), "unreachable", "no answer within 40 s"),
            (self.main.url("/stall/"), "unreachable", "no byte for 30 s"),
            (self.main.url("/slow-body/"), "unreachable", "bytes in 60 s"),
        ]
    }
}

fn answer(asked: &Asked, elsewhere: &str) -> Reply {
    let path = asked.path.split('?').next().unwrap_or_default();
    if let Some(path) = path.strip_prefix("/api/models/org/") {
        return hub(path.split('/').next().unwrap_or_default());
    }
    if let Some(path) = path.strip_prefix("/v2/") {
        return layers::answer(path);
    }
    let (attack, file) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    match file {
        "SHA256SUMS" => sums(attack, path),
        "model.onnx" => file_of(attack, asked, elsewhere),
        // The rest of a redirect.
        _ if attack == "loop" => Reply::redirect(format!("{path}x")),
        _ => Reply::status(404),
    }
}

/// Answers for `SHA256SUMS`.
fn sums(attack: &str, path: &str) -> Reply {
    let plain = Reply::ok(checksums(&[("model.onnx", CONTENT)]));
    let of = |path: &str| Reply::ok(checksums(&[(path, CONTENT)]));
    match attack {
        "endless-sums" => Reply::ok(vec![b'x'; 64 << 10]).fault(Fault::Endless),
        "many-sums" => {
            let line = |number| format!("{}  {number}\n", "a".repeat(64));
            Reply::ok((0..10_001).map(line).collect::<String>())
        }
        "loop" => Reply::redirect(format!("{path}x")),
        "downgrade" => Reply::redirect("file:///etc/passwd"),
        "dots" => of("../../escaped"),
        "absolute" => of("/tmp/escaped"),
        "own" => of(".onnxd-fetch/state.json"),
        "busy" => Reply::status(429).header("Retry-After", "3"),
        "large-head" => plain.header("X-Large", "x".repeat(1 << 20)),
        "control" => Reply::status(403)
            .header("Content-Type", "text/plain")
            .body("\x1b[31mred\x07\r\n{\"level\":\"forged\"}".repeat(1000)),
        "long-redirect" => Reply::redirect(format!("/{}", "long".repeat(10_000))),
        "slow-head" => plain.fault(Fault::TrickleHead(Duration::from_millis(200))),
        "stall" => plain.fault(Fault::Stall(10)),
        "slow-body" => {
            Reply::ok(vec![b'x'; 10_000]).fault(Fault::Trickle(Duration::from_millis(200)))
        }
        _ => plain,
    }
}

/// Answers for the model file.
fn file_of(attack: &str, asked: &Asked, elsewhere: &str) -> Reply {
    match attack {
        "claim" => Reply::ok("").header("Content-Length", CLAIM.to_string()),
        // Its content is no model, so the update is refused only after the download.
        "elsewhere" => Reply::redirect(elsewhere),
        "truncated" if asked.method == "GET" => Reply::ok(CONTENT).fault(Fault::Truncate(1000)),
        "wrong" => Reply::ok(vec![8; CONTENT.len()]),
        _ => Reply::ok(CONTENT),
    }
}

/// Answers for the listing of a hub's model.
fn hub(name: &str) -> Reply {
    let digest = sha256(CONTENT);
    let sibling = |path: &str, bytes: u64| {
        let lfs = json!({"sha256": digest, "size": bytes});
        json!({"rfilename": path, "size": bytes, "lfs": lfs})
    };
    let siblings = match name {
        "dots" => vec![sibling("../../escaped", 1)],
        "absolute" => vec![sibling("/tmp/escaped", 1)],
        "control" => vec![sibling("\u{1b}[31m\u{202e}model.onnx\n", 1)],
        "claim" => vec![sibling("model.onnx", CLAIM)],
        _ => (0..10_001).map(|number| sibling(&number.to_string(), 1)).collect(),
    };
    Reply::ok(json!({"sha": "0".repeat(40), "siblings": siblings}).to_string())
}
