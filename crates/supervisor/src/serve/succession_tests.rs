//! A successor that is killed, dropped or leaves.

use std::os::unix::process::ExitStatusExt;

use super::*;

/// A successor that sends nothing and does not exit.
fn silent() -> Successor {
    let (ours, _) = StdStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let child = tokio::process::Command::new("sleep").arg("600").spawn().unwrap();
    let child = Box::new(child);
    let pid = child.id().unwrap();
    Successor { pid, child, channel: UnixStream::from_std(ours).unwrap(), has_taken: false }
}

fn runs(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_killed_process_is_limited() {
    let start = Instant::now();
    assert_eq!(describe_exit(future::pending()).await, "still running 2 s after SIGKILL");
    assert_eq!(start.elapsed(), KILL_TIMEOUT);
    let killed = ExitStatus::from_raw(9);
    assert!(describe_exit(future::ready(Ok(killed))).await.contains("signal: 9"));
}

#[tokio::test]
async fn killed_successor_is_reaped() {
    let mut successor = silent();
    let exit = successor.kill().await;
    assert!(exit.contains("signal: 9"), "{exit}");
    assert!(successor.child.id().is_none() && !runs(successor.pid));
}

#[tokio::test]
async fn dropped_successor_is_killed_and_reaped() {
    let successor = silent();
    let pid = successor.pid;
    drop(successor);
    let reaped = async {
        while runs(pid) {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(Duration::from_secs(10), reaped).await.expect("it is reaped");
}

#[tokio::test]
async fn successor_that_has_taken_over_outlives_its_handle() {
    let mut successor = silent();
    let pid = successor.pid;
    successor.has_taken = true;
    drop(successor);
    time::sleep(Duration::from_millis(50)).await;
    assert!(runs(pid));
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}
