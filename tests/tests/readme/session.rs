//! Simulates a reader's machine: a checkout after `cargo xtask serve`, an installation on the
//! `PATH`, models, and a web server that is also a hub. Runs documented commands there. Each session
//! has private addresses and directories, so that sessions can run concurrently.

use std::{
    env, fs,
    fs::File,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use e2e::{
    client::Client,
    eventually, fixtures, launch,
    processes::{self, Signal},
    web::Web,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::timeout,
};

const COMMAND_MAX: Duration = Duration::from_secs(120);
const READY_MAX: Duration = Duration::from_secs(60);
const PROBE_MAX: Duration = Duration::from_secs(2);
const STOP_MAX: Duration = Duration::from_secs(40);
/// Addresses in the documents. The second one is for `--admin-listen`.
const ADDRESSES: [&str; 2] = ["127.0.0.1:8080", "127.0.0.1:8081"];
/// Directories in the documents: the reader's home, the models, the web server's files and
/// `XDG_RUNTIME_DIR`.
const DIRECTORIES: [&str; 4] = ["/home/me", "/srv/models", "/srv/www", "/run/user/1000"];
/// The web server in the documents.
const WEB: &str = "https://models.example.com";
/// Models on the hub. All have the files of MiniLM.
const HUB_MODELS: [&str; 2] = ["my-org/minilm", "sentence-transformers/all-MiniLM-L6-v2"];
const COMMIT: &str = "1110a243fdf4706b3f48f1d95db1a4f5529b4d41";
/// Makes `curl` print the same as on a terminal, without a progress meter.
const CURLRC: &str = "silent\nshow-error\n";

/// A reader's machine, with at most one server.
#[derive(Debug)]
pub(crate) struct Session {
    root: TempDir,
    addresses: [SocketAddr; 2],
    installed: bool,
    web: Web,
    server: Option<Server>,
}

#[derive(Debug)]
struct Server {
    child: Child,
    log: PathBuf,
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    /// Standard output and standard error, interleaved as written.
    pub output: String,
    /// The exit code, unless a signal ended it.
    pub code: Option<i32>,
}

impl Session {
    /// Creates the directories. If `installed`, `onnxd` is on the `PATH` and finds its files.
    pub(crate) fn new(installed: bool) -> Self {
        let root = tempfile::Builder::new().prefix("readme-").tempdir().expect("a directory");
        let session = Self {
            web: Web::start(&root.path().join("srv/www")),
            root,
            addresses: [launch::free_address(), launch::free_address()],
            installed,
            server: None,
        };
        let checkout = session.checkout();
        for directory in ["target/quick", "target/release", "target/onnxd/models"] {
            fs::create_dir_all(checkout.join(directory)).expect("a directory");
        }
        for directory in ["tmp", "run", "srv/models", "srv/www"] {
            fs::create_dir_all(session.path(directory)).expect("a directory");
        }
        fs::write(session.home().join(".curlrc"), CURLRC).expect("a file");
        let programs = [
            fixtures::onnxd(),
            fixtures::onnxd_worker(),
            fixtures::onnxd_fetch(),
            fixtures::onnxd_index(),
            fixtures::onnxd_postgres(),
        ];
        for program in programs {
            let name = program.file_name().expect("a name");
            link(&program, &checkout.join("target/quick").join(name));
            link(&program, &checkout.join("target/release").join(name));
        }
        for name in ["docs", "tests"] {
            link(&fixtures::workspace().join(name), &checkout.join(name));
        }
        let library = fixtures::onnxruntime();
        link(library.parent().expect("a parent"), &checkout.join("target/onnxd/onnxruntime"));
        let (minilm, variant) = (fixtures::model("minilm"), fixtures::model("minilm-variant"));
        for name in ["onnxd/target/onnxd/models/minilm", "onnxd/my-model", "onnxd/released"] {
            link(&minilm, &session.home().join(name));
        }
        for name in ["onnxd/target/onnxd/models/minilm-variant", "onnxd/candidate"] {
            link(&variant, &session.home().join(name));
        }
        link(&minilm, &session.path("srv/models/minilm"));
        link(&fixtures::model("minilm-rerank"), &session.path("srv/models/reranker"));
        link(&variant, &session.path("srv/models/minilm-2"));
        for name in HUB_MODELS {
            session.add_to_hub(name, &minilm);
        }
        session
    }

    /// Lets the web server answer like a hub that has the model.
    fn add_to_hub(&self, name: &str, model: &Path) {
        let www = self.path("srv/www");
        let files = ["json", "onnx"].map(|kind| fixtures::files_below(model, kind)).concat();
        let path = |file: &PathBuf| file.strip_prefix(model).expect("below the model").to_owned();
        let siblings: Vec<_> =
            files.iter().map(|file| serde_json::json!({"rfilename": path(file)})).collect();
        let answer = serde_json::json!({"sha": COMMIT, "siblings": siblings});
        let described = www.join(format!("api/models/{name}/revision"));
        let files = www.join(name).join("resolve");
        for directory in [&described, &files] {
            fs::create_dir_all(directory).expect("a directory");
        }
        fs::write(described.join("main?blobs=true"), answer.to_string()).expect("a file");
        link(model, &files.join(COMMIT));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.path("me")
    }

    /// Returns the working directory of all commands.
    fn checkout(&self) -> PathBuf {
        self.home().join("onnxd")
    }

    /// Returns each address and directory in the documents with its replacement in the session.
    fn substitutions(&self) -> Vec<(&'static str, String)> {
        let directories =
            [self.home(), self.path("srv/models"), self.path("srv/www"), self.path("run")];
        let directories = directories.map(|directory| directory.display().to_string());
        let addresses = self.addresses.map(|address| address.to_string());
        let pairs = ADDRESSES.into_iter().zip(addresses);
        let pairs = pairs.chain(DIRECTORIES.into_iter().zip(directories));
        pairs.chain([(WEB, self.web.url())]).collect()
    }

    fn shell(&self, command: &str) -> Command {
        let substitutions = self.substitutions();
        let command = substitutions
            .iter()
            .fold(command.to_owned(), |command, (shown, real)| command.replace(shown, real));
        let home = self.home();
        let path = env::var("PATH").unwrap_or_default();
        let mut shell = Command::new("bash");
        shell
            .args(["-c", &command])
            .current_dir(self.checkout())
            .env_clear()
            .env("HOME", &home)
            .env("PATH", format!("{}:{path}", home.join(".local/bin").display()))
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("ONNXD_LISTEN", self.addresses[0].to_string())
            // The documents show a machine with two CPUs.
            .env("ONNXD_WORKERS", "2")
            .env("HF_ENDPOINT", self.web.url())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        for name in ["LD_LIBRARY_PATH", "LLVM_PROFILE_FILE"] {
            if let Some(value) = env::var_os(name) {
                shell.env(name, value);
            }
        }
        if self.installed {
            let quick = self.checkout().join("target/quick");
            shell
                .env("PATH", format!("{}:{path}", quick.display()))
                .env("ONNXD_ONNXRUNTIME", fixtures::onnxruntime())
                .env("ONNXD_WORKER_BINARY", quick.join("onnxd-worker"));
        }
        shell
    }

    /// Returns output with the documented addresses and directories.
    fn shown(&self, output: &[u8]) -> String {
        let output = String::from_utf8_lossy(output).into_owned();
        let substitutions = self.substitutions();
        substitutions.iter().fold(output, |output, (shown, real)| output.replace(real, shown))
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// Panics if it does not end within a generous time limit.
    pub(crate) async fn run(&self, command: &str) -> CommandOutput {
        let mut shell = self.shell(&format!("exec 2>&1; {command}"));
        let output = timeout(COMMAND_MAX, shell.output()).await;
        let output = output.unwrap_or_else(|_| panic!("`{command}` did not end"));
        let output = output.expect("bash can be started");
        CommandOutput { output: self.shown(&output.stdout), code: output.status.code() }
    }

    /// Starts a server, which replaces the previous one, and waits until it is ready.
    ///
    /// # Panics
    /// Panics if it ends, or does not become ready within a generous time limit.
    pub(crate) async fn serve(&mut self, command: &str) {
        self.stop().await;
        let log = self.path("log");
        let file = File::create(&log).expect("a file");
        let mut shell = self.shell(&format!("exec 2>&1 {command}"));
        let child = shell.stdout(file).spawn().expect("bash can be started");
        let address = self.addresses[0];
        let mut server = Server { child, log };
        eventually(&format!("`{command}` is ready"), READY_MAX, async || {
            let ended = server.child.try_wait().expect("a child");
            assert!(ended.is_none(), "`{command}` ended: {}", server.output());
            is_ready(address).await.then_some(())
        })
        .await;
        self.server = Some(server);
    }

    /// Returns the output of the server so far.
    pub(crate) fn log(&self) -> String {
        self.server
            .as_ref()
            .map(Server::output)
            .map_or_else(String::new, |log| self.shown(log.as_bytes()))
    }

    /// Stops the server, if one is running.
    ///
    /// # Panics
    /// Panics if it does not exit with 0.
    pub(crate) async fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let pid = server.child.id().and_then(|pid| i32::try_from(pid).ok()).expect("a pid");
        processes::signal(pid, Signal::SIGTERM);
        let exit = timeout(STOP_MAX, server.child.wait()).await;
        let exit = exit.expect("the server stops").expect("a child");
        assert_eq!(exit.code(), Some(0), "{}", server.output());
    }
}

impl Server {
    fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let asking = async {
        let mut client = Client::connect(address).await.ok()?;
        client.get("/v2/health/ready").await.ok()
    };
    let answer = timeout(PROBE_MAX, asking).await.ok().flatten();
    answer.is_some_and(|answer| answer.status == 200)
}

fn link(to: &Path, at: &Path) {
    symlink(to, at).unwrap_or_else(|error| panic!("{}: {error}", at.display()));
}
