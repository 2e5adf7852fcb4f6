//! What a server reports about its limits, and what promtool says about all it reports.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use e2e::{
    eventually,
    exposition::Exposition,
    fixtures::{self, model, replace_model},
    home::Home,
    server::Server,
};

use crate::promtool;

const SOON: Duration = Duration::from_secs(60);
/// Where control groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

async fn text(server: &Server) -> String {
    server.client().await.get("/metrics").await.unwrap().text()
}

async fn scrape(server: &Server) -> Exposition {
    Exposition::parse(&text(server).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_passes_promtool() {
    let builder = Server::builder().model("m", &model("tiny/a")).argument("--poll=600");
    let server = builder.start().await;
    let (folder, scraped) = (tempfile::tempdir().unwrap(), text(&server).await);
    if let Some(complaints) = promtool(folder.path(), &["check", "metrics"], Some(&scraped)) {
        assert_eq!(complaints, "");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_reported_as_configured() {
    let server = Server::builder()
        .model("m", &model("tiny/a"))
        .workers(1)
        .argument("--queue-limit=100")
        .argument("--body-memory=64")
        .start()
        .await;
    let text = scrape(&server).await;
    for (name, expected) in [
        ("onnxd_queue_limit_items", 100.0),
        ("onnxd_workers_configured", 1.0),
        ("onnxd_body_memory_limit_bytes", f64::from(64 << 20)),
        ("onnxd_body_memory_bytes", 0.0),
        ("onnxd_certificate_expiry_timestamp_seconds", 0.0),
    ] {
        let value = text.value(name, &[]);
        assert!((value - expected).abs() < 1e-9, "{name}: {value}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_commit_is_known_after_a_restart() {
    const NAME: &str = "onnxd_model_last_commit_timestamp_seconds";
    let home = Arc::new(Home::new());
    let start = || {
        let builder = Server::builder().home(&home).model("m", &model("tiny/a"));
        builder.model("other", &model("tiny/b")).start()
    };
    let now = || UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let before = now().floor();
    let server = start().await;
    let first = scrape(&server).await.value(NAME, &[("model", "m")]);
    assert!((before..=now()).contains(&first), "{first}");
    server.stop().await;

    // Timestamps have whole seconds.
    eventually("another second", SOON, async || (now() > first + 1.0).then_some(())).await;
    let server = start().await;
    let labels = [("model", "m")];
    let restored = scrape(&server).await.value(NAME, &labels);
    assert!((restored - first).abs() < 1e-9, "{restored} {first}");
    server.update("m", Some(&model("tiny/b"))).await.unwrap();
    let second = scrape(&server).await.value(NAME, &labels);
    assert!(second > first && second <= now(), "{second}");
    server.unload("m").await.unwrap();
    let text = scrape(&server).await;
    let [last, ready, failed] = [NAME, "onnxd_model_ready", "onnxd_model_failed"];
    assert!(text.value(last, &labels).abs() < 1e-9);
    // An unload is no failure.
    assert!(text.value(ready, &labels).abs() < 1e-9 && text.value(failed, &labels).abs() < 1e-9);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_cannot_be_loaded_is_failed() {
    let builder = Server::builder();
    let broken = builder.directories().root().join("broken");
    replace_model(&model("tiny/no_tokenizer"), &broken);
    let builder = builder.model("broken", &broken).model("good", &model("tiny/a"));
    let server = builder.argument("--poll=broken=1").start().await;
    let values = async || {
        let text = scrape(&server).await;
        let of = |name, model| text.value(name, &[("model", model)]);
        ["good", "broken"]
            .map(|model| (of("onnxd_model_ready", model), of("onnxd_model_failed", model)))
    };
    assert_eq!(values().await, [(1.0, 0.0), (0.0, 1.0)]);
    replace_model(&model("tiny/b"), &broken);
    eventually("both models serve", SOON, async || {
        (values().await == [(1.0, 0.0), (1.0, 0.0)]).then_some(())
    })
    .await;
    server.stop().await;
}

/// A control group, removed when dropped.
struct Group(PathBuf);

impl Group {
    /// Creates a group below this process's own. Returns `None` if this machine does not allow it.
    fn new(controller: &str, name: &str) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let path = |prefix: &str| {
            let path = groups.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(prefix));
            path.map(|path| path.trim_start_matches('/').to_owned())
        };
        let version_1 = path(&format!("{controller}:"));
        let parent = match version_1 {
            Some(path) => Path::new(MOUNT).join(controller).join(path),
            None => Path::new(MOUNT).join(path(":")?),
        };
        let group = Self(parent.join(format!("onnxd-{name}-{}", std::process::id())));
        fs::create_dir(&group.0).ok().map(|()| group)
    }

    /// Writes the first of these files that the group has: the one of version 2, or of version 1.
    fn set(&self, files: [(&str, &str); 2]) -> bool {
        let file = files.into_iter().find(|(name, _)| self.0.join(name).exists());
        file.is_some_and(|(name, value)| fs::write(self.0.join(name), value).is_ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_group_of_the_server_is_reported() {
    const LIMIT: u64 = 3 << 30;
    let (cpu, memory) = (Group::new("cpu", "cpu"), Group::new("memory", "memory"));
    let allowed =
        |group: &Option<Group>, files| group.as_ref().is_some_and(|group| group.set(files));
    let limit = LIMIT.to_string();
    if !allowed(&cpu, [("cpu.max", "50000 100000"), ("cpu.cfs_quota_us", "50000")])
        || !allowed(&memory, [("memory.max", &limit), ("memory.limit_in_bytes", &limit)])
    {
        eprintln!("skipped: this machine allows no control groups");
        return;
    }
    let builder = Server::builder().model("m", &model("tiny/a"));
    let script = builder.directories().root().join("grouped");
    let join = [&cpu, &memory].map(|group| {
        format!("echo $$ > {}\n", group.as_ref().unwrap().0.join("cgroup.procs").display())
    });
    let onnxd = fixtures::onnxd();
    fs::write(&script, format!("#!/bin/sh\n{}exec {} \"$@\"\n", join.concat(), onnxd.display()))
        .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let server = builder.executable(&script).start().await;
    let text = scrape(&server).await;
    let value = |name| text.value(name, &[]);
    #[expect(clippy::cast_precision_loss, reason = "a power of two")]
    let limit = LIMIT as f64;
    assert!((value("onnxd_cgroup_memory_limit_bytes") - limit).abs() < 1e-9);
    assert!((1e6..limit).contains(&value("onnxd_cgroup_memory_bytes")));

    // Few requests use up a hundredth of a CPU.
    assert!(allowed(&cpu, [("cpu.max", "1000 100000"), ("cpu.cfs_quota_us", "1000")]));
    eventually("throttling", SOON, async || {
        let text = scrape(&server).await;
        let [periods, throttled, seconds] = ["periods", "throttled_periods", "throttled_seconds"]
            .map(|name| text.value(&format!("onnxd_cgroup_{name}_total"), &[]));
        assert!(throttled <= periods, "{throttled} of {periods}");
        (throttled >= 1.0 && seconds > 0.0).then_some(())
    })
    .await;
    assert!(allowed(&cpu, [("cpu.max", "50000 100000"), ("cpu.cfs_quota_us", "50000")]));
    server.stop().await;
}
