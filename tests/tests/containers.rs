//! What containers do to a server: it is the first process, it is called from other PID namespaces,
//! its secrets are links that belong to root, it has limits, and it may do little.

#![allow(clippy::unwrap_used, reason = "a harness that meets the unexpected must fail the test")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use e2e::{
    client::Client,
    control_group::{ControlGroup, Limits},
    eventually,
    fixtures::{self, model},
    home::Home,
    processes::{self, Signal},
    server::Server,
};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);

/// A server that is the first process of a PID namespace.
struct FirstProcess {
    server: Server,
    /// Its pid outside the namespace.
    init: i32,
}

impl FirstProcess {
    /// Returns `None` if this machine allows no PID namespaces.
    async fn start() -> Option<Self> {
        Self::start_as(&fixtures::onnxd()).await
    }

    /// Starts a copy of the executable under another name.
    async fn start_renamed(folder: &Path) -> Option<(Self, PathBuf)> {
        let copy = folder.join("model-server");
        fs::copy(fixtures::onnxd(), &copy).unwrap();
        Some((Self::start_as(&copy).await?, copy))
    }

    async fn start_as(onnxd: &Path) -> Option<Self> {
        let probe = Command::new("unshare").args(["--pid", "--fork", "true"]).output();
        if !probe.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: this machine allows no PID namespaces");
            return None;
        }
        let builder = Server::builder().model("m", &model("tiny/a"));
        let script = builder.directories().root().join("container");
        let text = format!(
            "#!/bin/sh\nexec unshare --pid --fork --mount-proc --kill-child {} \"$@\"\n",
            onnxd.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let server = builder.executable(&script).start().await;
        let init = children(server.pid())[0];
        Some(Self { server, init })
    }

    /// Waits until a successor serves instead of the supervisor.
    async fn succeed(&self) {
        let supervisor = children(self.init)[0];
        processes::signal(self.init, Signal::SIGUSR2);
        eventually("a successor", SOON, async || {
            let successors = children(self.init);
            (!successors.is_empty() && !successors.contains(&supervisor)).then_some(())
        })
        .await;
        assert!(self.embeds().await, "the container goes on");
    }

    /// Stops the container, which ends without an error.
    async fn stop(&mut self) {
        processes::signal(self.init, Signal::SIGTERM);
        let exit = self.server.wait().await;
        assert_eq!(exit.code(), Some(0), "{exit}");
    }

    async fn embeds(&self) -> bool {
        let Ok(mut client) = Client::connect(self.server.address()).await else { return false };
        let response = client.post("/embed", &json!({"inputs": "a"})).await;
        response.is_ok_and(|response| response.status == 200)
    }
}

fn children(pid: i32) -> Vec<i32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Runs a command in the PID namespace of a process.
fn inside(pid: i32, script: &str) {
    let pid = pid.to_string();
    let arguments = ["--target", &pid, "--pid", "--mount", "sh", "-c", script];
    assert!(Command::new("nsenter").args(arguments).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn as_the_first_process_it_reaps_orphans_survives_a_succession_and_stops() {
    let Some(mut container) = FirstProcess::start().await else { return };
    let init = container.init;
    assert!(container.embeds().await);

    // Shells that end before their children leave them to the first process.
    inside(init, "for number in 1 2 3; do (sleep 0.1 &); done");
    tokio::time::sleep(Duration::from_millis(300)).await;
    eventually("no zombies", SOON, async || {
        children(init).iter().all(|&child| !is_zombie(child)).then_some(())
    })
    .await;

    container.succeed().await;

    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orphan_with_the_name_of_the_supervisor_is_no_successor() {
    let Some(mut container) = FirstProcess::start().await else { return };
    let (init, folder) = (container.init, container.server.home().root().to_owned());
    // As `onnxd status` of a probe whose shell has ended.
    let orphan = folder.join("onnxd");
    fs::copy("/bin/sleep", &orphan).unwrap();
    inside(init, &format!("({} 600 &)", orphan.display()));
    eventually("an orphan", SOON, async || (children(init).len() == 2).then_some(())).await;
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_is_found_under_any_name_and_one_that_fails_is_forgotten() {
    let folder = Home::new();
    let Some((mut container, copy)) = FirstProcess::start_renamed(folder.root()).await else {
        return;
    };
    let init = container.init;
    container.succeed().await;

    // A new release that ends at once.
    let broken = folder.root().join("broken");
    fs::write(&broken, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&broken, &copy).unwrap();
    processes::signal(init, Signal::SIGUSR2);
    eventually("a failure", SOON, async || {
        container.server.stderr().contains("succession failed").then_some(())
    })
    .await;
    assert!(container.embeds().await, "the container goes on");
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_goes_on_if_the_predecessor_dies_during_a_succession() {
    let Some(mut container) = FirstProcess::start().await else { return };
    let init = container.init;
    let supervisor = children(init)[0];
    processes::signal(init, Signal::SIGUSR2);
    eventually("a successor", SOON, async || {
        container.server.stderr().contains("successor started").then_some(())
    })
    .await;
    processes::signal(supervisor, Signal::SIGKILL);
    eventually("an answer", SOON, async || container.embeds().await.then_some(())).await;
    assert!(!children(init).contains(&supervisor));
    container.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_from_another_pid_namespace_are_answered() {
    let Some(mut container) = FirstProcess::start().await else { return };
    // The kernel reports pid 0 for this process.
    let status = container.server.cli(&["status"]).await;
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    processes::signal(container.init, Signal::SIGTERM);
    container.server.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_ends_the_container_with_its_signal() {
    let Some(mut container) = FirstProcess::start().await else { return };
    processes::signal(children(container.init)[0], Signal::SIGKILL);
    let exit = container.server.wait().await;
    assert_eq!(exit.code(), Some(137), "{exit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_kubernetes_mounts_is_accepted() {
    const USER: u32 = 1000;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can mount secrets of other users");
        return;
    }
    let builder = Server::builder().model("m", &model("tiny/a")).user(USER);
    let token = secret(builder.directories().root());
    let listen = e2e::launch::free_address().to_string();
    let builder = builder.argument("--admin-listen").argument(&listen);
    let server = builder.argument("--admin-token-file").argument(&token).start().await;
    server.stop().await;
}

/// Writes a token as a link to a file of root and the user's group, with mode 0440.
fn secret(root: &Path) -> String {
    let (data, link) = (root.join("..data"), root.join("token"));
    fs::create_dir(&data).unwrap();
    let file = data.join("token");
    fs::write(&file, "0123456789abcdef\n").unwrap();
    chown(&file, Some(0), Some(1000)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o440)).unwrap();
    symlink("..data/token", &link).unwrap();
    link.display().to_string()
}

fn is_zombie(pid: i32) -> bool {
    processes::status(&pid.to_string(), "State").is_some_and(|state| state.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_learns_why_the_admin_socket_refuses() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let server = Server::builder().model("m", &model("tiny/a")).user(1000).start().await;
    let socket = server.home().admin_socket();
    // The mode of the socket keeps other users out before its owner is compared.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let home: &Home = server.home();
    for folder in [home.root(), socket.parent().unwrap()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut status = Command::new("setpriv");
    status.args(["--reuid=1001", "--regid=1001", "--clear-groups"]).arg(fixtures::onnxd());
    let output = status.args(["status", "--admin-socket"]).arg(&socket).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("user 1001 may not administer"), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_can_be_delayed_until_load_balancers_know_of_it() {
    let builder = Server::builder().model("m", &model("tiny/a"));
    let mut server = builder.argument("--shutdown-delay=600").start().await;
    let mut kept = server.client().await;
    server.signal(Signal::SIGTERM);
    eventually("not ready", SOON, async || (!server.answers_ready().await).then_some(())).await;
    for client in [&mut kept, &mut server.client().await] {
        let response = client.post("/embed", &json!({"inputs": "a"})).await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        let ready = client.get("/v2/health/ready").await.unwrap();
        assert!(ready.status == 503 && ready.text().contains("stopping"), "{}", ready.text());
        assert_eq!(client.get("/v2/health/live").await.unwrap().status, 200);
    }
    let status = server.cli(&["status"]).await;
    assert!(String::from_utf8_lossy(&status.stdout).starts_with("STOPPING"), "{status:?}");
    // The second signal ends the delay.
    let exit = server.terminate().await;
    assert_eq!(exit.code(), Some(0), "{exit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_256_mib_many_large_requests_get_answers_or_429_and_none_kills_the_server() {
    const CLIENTS: usize = 64;
    const REQUESTS: usize = 6;
    let group = match ControlGroup::create(Limits { memory_bytes: 256 << 20, cpu_percent: None }) {
        Ok(group) => group,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let builder = Server::builder().model("m", &model("tiny/tensor_image"));
    let launcher = group.launcher(builder.directories().root());
    let server = builder.executable(&launcher).start().await;
    assert!(server.stderr().contains("256 MiB of memory (/sys/fs/cgroup"), "{}", server.stderr());

    let (header, body) = image();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (address, header, body) = (server.address(), header.clone(), body.clone());
            tokio::spawn(async move {
                let (mut answered, mut lost) = (0, 0);
                for _ in 0..REQUESTS {
                    let mut client = Client::connect(address).await.unwrap();
                    let headers = [("inference-header-content-length", header.as_str())];
                    let path = "/v2/models/m/infer";
                    let sent = client.send_with(hyper::Method::POST, path, &headers, body.clone());
                    // A client that is refused while it sends may lose the answer with the connection.
                    let Ok(response) = sent.await else {
                        lost += 1;
                        continue;
                    };
                    assert!(matches!(response.status, 200 | 429), "{}", response.text());
                    answered += usize::from(response.status == 200);
                }
                (answered, lost)
            })
        })
        .collect();
    let (mut answered, mut lost) = (0, 0);
    for client in clients {
        let (more_answered, more_lost) = client.await.unwrap();
        answered += more_answered;
        lost += more_lost;
    }
    assert!(answered > 0);
    assert!(lost < CLIENTS * REQUESTS / 10, "{lost} answers were lost, {answered} were 200");
    assert_eq!(group.out_of_memory_kills(), 0);
    let status = server.status().await;
    assert_eq!(status.restarts(), 0, "{status:?}");
    server.stop().await;
}

/// Returns an image of 4.9 MB as a binary tensor: the size of the JSON before it, and the body.
fn image() -> (String, Bytes) {
    const SHAPE: [usize; 4] = [2, 3, 320, 640];
    let bytes = 4 * SHAPE.iter().product::<usize>();
    let input = json!({"name": "image", "datatype": "FP32", "shape": SHAPE,
        "parameters": {"binary_data_size": bytes}});
    let json = json!({"inputs": [input], "parameters": {"binary_data_output": true}}).to_string();
    let mut body = json.clone().into_bytes();
    body.resize(json.len() + bytes, 0);
    (json.len().to_string(), body.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpu_quota_counts_for_the_default_number_of_workers() {
    let limits = Limits { memory_bytes: 512 << 20, cpu_percent: Some(50) };
    let group = match ControlGroup::create(limits) {
        Ok(group) => group,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let builder = Server::builder().model("m", &model("tiny/a")).default_workers();
    let launcher = group.launcher(builder.directories().root());
    let server = builder.executable(&launcher).start().await;
    assert_eq!(server.status().await.workers.len(), 1);
    assert!(server.stderr().contains("0.5 CPUs (/sys/fs/cgroup"), "{}", server.stderr());
    server.stop().await;
}

/// Writes a script that starts the supervisor, with `before` in front of its command.
fn launcher(folder: &Path, before: &str) -> PathBuf {
    let script = folder.join("launcher");
    let onnxd = fixtures::onnxd();
    let text = format!("#!/bin/sh\nset -e\n{before} {} \"$@\"\n", onnxd.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

fn runs(command: &str) -> bool {
    Command::new("sh").args(["-c", command]).output().is_ok_and(|output| output.status.success())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_root_any_uid_and_no_shared_memory_folder_do_no_harm() {
    const USER: u32 = 1_000_660_000;
    if !runs("unshare --mount true && setpriv --reuid=1000660000 true") {
        return eprintln!("skipped: this machine lets tests neither mount nor change the user");
    }
    let builder = Server::builder().model("m", &model("tiny/a"));
    let home = builder.directories();
    for path in [home.root().to_owned(), home.root().join("run"), home.tmp(), home.user()] {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    let root = home.root().display().to_string();
    let inner = launcher(
        home.root(),
        &format!(
            "mount --make-rprivate /\nmount --bind {root} {root}\nmount -o remount,ro,bind /\n\
             umount /dev/shm || true\n\
             exec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs \
             --bounding-set=-all --inh-caps=-all"
        ),
    );
    let outer = home.root().join("outer");
    let text = format!("#!/bin/sh\nexec unshare --mount {} \"$@\"\n", inner.display());
    fs::write(&outer, text).unwrap();
    fs::set_permissions(&outer, fs::Permissions::from_mode(0o755)).unwrap();
    let server = builder.executable(&outer).start().await;
    assert_eq!(processes::status(&server.pid().to_string(), "CapEff").unwrap(), "0000000000000000");
    assert!(fs::write(format!("/proc/{}/root/etc/new", server.pid()), "").is_err());
    server.update("m", Some(&model("tiny/b"))).await.unwrap();
    assert!(
        server.client().await.post("/embed", &json!({"inputs": "a"})).await.unwrap().status == 200
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_landlock_it_serves_and_says_so_and_without_seccomp_it_names_the_flag() {
    if !runs("strace -D -q -o /dev/null true") {
        return eprintln!("skipped: strace is missing or not permitted");
    }
    for error in ["EPERM", "ENOSYS"] {
        let builder = Server::builder().model("m", &model("tiny/a"));
        let home = builder.directories();
        let script = launcher(home.root(), &denied("landlock_create_ruleset", error));
        let server = builder.executable(&script).start().await;
        let log = server.stderr();
        assert!(log.matches("supports only part of the sandbox").count() == 1, "{log}");
        server.update("m", Some(&model("tiny/b"))).await.unwrap();
        server.stop().await;

        let builder = Server::builder().model("m", &model("tiny/a"));
        let home = builder.directories();
        let script = launcher(home.root(), &denied("seccomp", error));
        let mut server = builder.executable(&script).spawn();
        let exit = server.wait().await;
        let log = server.stderr();
        assert_eq!(exit.code(), Some(78), "{error}: {log}");
        assert!(log.contains("--no-sandbox"), "{error}: {log}");
    }
}

/// Returns a command in front of the supervisor's that makes a system call fail.
fn denied(call: &str, error: &str) -> String {
    format!("exec strace -D -f -q -e trace={call} -e inject={call}:error={error} -o /dev/null")
}
