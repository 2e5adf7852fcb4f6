//! Commands whose supervisor accepts connections but does not answer.

use std::process::{Command, Stdio};

use e2e::{
    fixtures::{self, model},
    processes::Signal,
    server::Server,
};

use crate::stderr;

#[tokio::test(flavor = "multi_thread")]
async fn short_commands_end_when_the_supervisor_does_not_answer() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    server.signal(Signal::SIGSTOP);
    for command in [
        &["status"][..],
        &["log"],
        &["log", "info"],
        &["update", "--cancel"],
        &["update", "--cancel", "m"],
    ] {
        let output = server.cli(&[command, &["--timeout", "1"]].concat()).await;
        assert_eq!(output.status.code(), Some(1), "{command:?} {output:?}");
        let text = stderr(&output);
        assert!(text.contains("did not answer within 1 s"), "{command:?} {text}");
        assert!(text.contains("--timeout waits longer"), "{command:?} {text}");
    }
    server.signal(Signal::SIGCONT);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_commands_say_when_the_supervisor_does_not_answer() {
    let server = Server::builder().model("m", &model("tiny/a")).start().await;
    server.update("m", Some(&model("tiny/b"))).await.unwrap();
    for command in [&["update", "m"][..], &["rollback", "m"], &["unload", "m"]] {
        server.signal(Signal::SIGSTOP);
        let mut started = Command::new(fixtures::onnxd());
        started.args(command).args(["--timeout", "1", "--admin-socket"]);
        started.arg(server.home().admin_socket()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = started.spawn().unwrap();
        let warnings = child.stderr.take().unwrap();
        let line = tokio::task::spawn_blocking(|| first_line(warnings)).await.unwrap();
        assert!(line.contains("did not answer within 1 s"), "{command:?} {line}");
        assert!(line.contains("interrupt to stop waiting"), "{command:?} {line}");
        server.signal(Signal::SIGCONT);
        let output =
            tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
        assert_eq!(output.status.code(), Some(0), "{command:?} {output:?}");
    }
    server.stop().await;
}

fn first_line(pipe: impl std::io::Read) -> String {
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(pipe), &mut line).unwrap();
    line
}
