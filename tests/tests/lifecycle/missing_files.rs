//! Candidates that lack files of the serving version, as while a directory is still being copied.

use std::fs;

use e2e::{admin::Refusal, fixtures::replace_model, server::Server};

use crate::{served, tiny};

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_without_the_pooling_is_refused_unless_forced() {
    let builder = Server::builder();
    let candidate = builder.directories().models().join("candidate");
    let server = builder.model("m", &tiny("cls")).start().await;
    let before = served(&server, "m").await;
    replace_model(&tiny("cls"), &candidate);
    fs::remove_file(candidate.join("modules.json")).expect("a file");
    fs::remove_dir_all(candidate.join("1_Pooling")).expect("a folder");

    let Refusal { message, .. } =
        server.update("m", Some(&candidate)).await.expect_err("it lacks files");
    for word in ["modules.json", "--force"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(served(&server, "m").await, before);
    let forced = server.update_with("m", Some(&candidate), &["--force"]).await;
    assert_eq!(forced.expect("a forced update").generation, before.0 + 1);
    server.stop().await;
}
