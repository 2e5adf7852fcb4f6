//! Flags under the heading "Security": keys, certificates, secrets, and confinement.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::values::boolean;

/// The settings under "Security".
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct SecurityFlags {
    /// File of API keys, one per line [default: none, open to all]
    ///
    /// Every request except health checks must then present a key, as `authorization: Bearer KEY` or `x-api-key: KEY`.
    /// A key has at least 8 characters. Empty lines and lines that start with # are ignored. SIGHUP reloads the file.
    ///
    /// Example: --api-key-file /etc/onnxd/keys
    #[arg(long, value_name = "FILE", env = "ONNXD_API_KEY_FILE", help_heading = "Security")]
    pub api_key_file: Option<PathBuf>,

    /// TLS certificate chain as PEM [default: none, plain HTTP]
    ///
    /// Holds the server's certificate, followed by intermediate certificates. Needs --tls-key. SIGHUP reloads both
    /// files; open connections keep the old certificate.
    ///
    /// Example: --tls-cert /etc/onnxd/cert.pem --tls-key /etc/onnxd/key.pem
    #[arg(long, value_name = "FILE", env = "ONNXD_TLS_CERT", help_heading = "Security")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the TLS certificate as PEM
    ///
    /// Takes an unencrypted PKCS#8, PKCS#1 or SEC1 key. Needs --tls-cert.
    ///
    /// Example: --tls-cert /etc/onnxd/cert.pem --tls-key /etc/onnxd/key.pem
    #[arg(long, value_name = "FILE", env = "ONNXD_TLS_KEY", help_heading = "Security")]
    pub tls_key: Option<PathBuf>,

    /// Web origin that may call from a browser [default: none]
    ///
    /// Pass SCHEME://HOST[:PORT] without a path, or * for every origin. Repeat the flag for several origins, or
    /// separate them with commas in the variable.
    ///
    /// Example: --cors-allow-origin https://example.com
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "ONNXD_CORS_ALLOW_ORIGIN",
        value_delimiter = ',',
        help_heading = "Security"
    )]
    pub cors_allow_origin: Vec<String>,

    /// File with the token that --admin-listen requires
    ///
    /// The first line is the token, at least 16 printable ASCII characters. The file must be
    /// accessible to its owner only (mode 0600), or have mode 0440 for a mounted secret.
    ///
    /// Example: --admin-token-file /etc/onnxd/admin-token
    #[arg(long, value_name = "FILE", env = "ONNXD_ADMIN_TOKEN_FILE", help_heading = "Security")]
    pub admin_token_file: Option<PathBuf>,

    /// Public key that must have signed a model [default: none]
    ///
    /// FILE is a public key of minisign, which signs SHA256SUMS, or a P-256 key as PEM, which signs
    /// model.sig of OpenSSF Model Signing. Each file of a version must be signed. Repeat the flag
    /// for several models, or for several keys of a model, of which one is enough. The variable
    /// takes a list, as for --model.
    ///
    /// Example: --source-key minilm=/etc/onnxd/minilm.pub
    #[arg(long, value_name = "NAME=FILE", env = "ONNXD_SOURCE_KEY", help_heading = "Security")]
    pub source_key: Vec<String>,

    /// Remote sources that admin calls may name [default: all]
    ///
    /// Limits sources on other servers in `onnxd update --from` and in `source` of Triton's repository API. --model and
    /// directories are not limited. A * stands for any text; before the first slash of the path it matches no slash.
    /// Repeat the flag for several patterns. The variable takes a list, as for --model.
    ///
    /// Example: --allow-source 'hf://my-org/*'
    #[arg(long, value_name = "PATTERN", env = "ONNXD_ALLOW_SOURCE", help_heading = "Security")]
    pub allow_source: Vec<String>,

    /// File with the secret of notifications [default: none, off]
    ///
    /// Then POST /admin/webhook on --admin-listen checks the sources that a signed notification names at once. MLflow,
    /// a Hugging Face hub or a script may send it. The first line is the secret, as for --admin-token-file.
    ///
    /// Example: --webhook-secret-file /etc/onnxd/webhook-secret
    #[arg(long, value_name = "FILE", env = "ONNXD_WEBHOOK_SECRET_FILE", help_heading = "Security")]
    pub webhook_secret_file: Option<PathBuf>,

    /// Run workers and checkers without a sandbox [default: false]
    ///
    /// A model that takes over such a process can then do whatever onnxd can. Use it only on kernels that cannot
    /// filter system calls. --no-sandbox=false overrides the file or the variable.
    ///
    /// Example: --no-sandbox
    #[arg(
        long,
        value_name = "true|false",
        env = "ONNXD_NO_SANDBOX",
        value_parser = boolean,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Security"
    )]
    pub no_sandbox: Option<bool>,
}

overlay!(SecurityFlags: api_key_file tls_cert tls_key cors_allow_origin admin_token_file source_key allow_source webhook_secret_file no_sandbox);
