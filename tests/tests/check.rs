//! `onnxd check`, as run in a model author's CI.

use std::{fs, path::Path, process::Output};

use e2e::{
    corpus::Corpus,
    fixtures::{self, model, replace_model},
    home::Home,
    launch,
};
use serde_json::{Value, json};

/// Runs the command with these arguments after the directory.
async fn check(home: &Home, directory: &Path, arguments: &[&str]) -> Output {
    let (library, worker) = (fixtures::onnxruntime(), fixtures::onnxd_worker());
    let own =
        ["--onnxruntime", library.to_str().expect("paths of tests are UTF-8"), "--worker-binary"];
    let all = [
        &["check", directory.to_str().expect("paths of tests are UTF-8")],
        &own[..],
        &[worker.to_str().expect("paths of tests are UTF-8")],
        arguments,
    ]
    .concat();
    let output = launch::run(home, &all).await;
    assert_eq!(
        fs::read_dir(home.tmp()).expect("the home has a TMPDIR").count(),
        0,
        "files were left behind: {output:?}"
    );
    output
}

/// Runs the command with `--json` and returns the report and the exit code.
async fn report(home: &Home, directory: &Path, arguments: &[&str]) -> (Value, Option<i32>) {
    let output = check(home, directory, &[&["--json"], arguments].concat()).await;
    let text = str::from_utf8(&output.stdout).expect("UTF-8");
    let line = text.strip_suffix('\n').expect("a whole line");
    assert!(!line.contains('\n'), "one line: {text}");
    (serde_json::from_str(line).expect("JSON"), output.status.code())
}

fn copy(home: &Home, name: &str) -> std::path::PathBuf {
    let directory = home.root().join(name);
    replace_model(&model(&format!("tiny/{name}")), &directory);
    directory
}

#[tokio::test(flavor = "multi_thread")]
async fn check_describes_a_good_model_and_exits_with_0() {
    let home = Home::new();
    let directory = copy(&home, "a");
    let corpus = Corpus::tiny();
    let line =
        json!({"text": corpus.texts[2], "embedding": corpus.contents["a"][2], "min_cosine": 0.999});
    fs::write(directory.join("canary.jsonl"), line.to_string()).unwrap();
    let output = check(&home, &directory, &[]).await;
    let (text, progress) = (output.stdout, output.stderr);
    let (text, progress) = (str::from_utf8(&text).unwrap(), str::from_utf8(&progress).unwrap());
    assert_eq!(output.status.code(), Some(0), "{text}{progress}");
    for line in
        ["can be served", "a vector of 32 components", "1 came out", "pooling mean", "milliseconds"]
    {
        assert!(text.contains(line), "{line}: {text}");
    }
    for line in ["max tokens  64", "task        embed"] {
        assert!(text.lines().any(|found| found == line), "{line}: {text}");
    }
    for part in
        ["staged version", "passed load", "passed shapes", "passed canary", "passed compile"]
    {
        assert!(progress.contains(part) && !text.contains(part), "{part}: {progress}");
    }

    let (report, code) = report(&home, &directory, &[]).await;
    assert_eq!((&report["accepted"], code), (&json!(true), Some(0)), "{report}");
    assert_eq!((&report["facts"]["task"], &report["canaries"]), (&json!("embed"), &json!(1)));
    assert!(report["costs"]["micros"][0][0].as_f64().unwrap() > 0.0, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_of_a_bad_model_names_the_cause_and_exits_with_1() {
    let home = Home::new();
    for (name, kind, word) in [
        ("truncated", "load", "model.onnx"),
        ("no_tokenizer", "contract", "tokenizer.json"),
        ("nan", "contract", "finite"),
        ("expensive", "memory", "memory"),
        ("missing", "not_found", "missing"),
    ] {
        let directory = model("tiny").join(name);
        let (report, code) = report(&home, &directory, &["--check-memory", "600"]).await;
        assert_eq!((&report["accepted"], code), (&json!(false), Some(1)), "{report}");
        let refusal = &report["refusal"];
        assert_eq!(refusal["kind"], kind, "{name}: {refusal}");
        assert!(refusal["message"].as_str().unwrap().contains(word), "{name}: {refusal}");
    }
    let output = check(&home, &model("tiny/nan"), &[]).await;
    let text = str::from_utf8(&output.stdout).unwrap();
    assert!(text.contains("refused (contract)") && text.contains("finite"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_against_a_model_reports_drift_and_refuses_misfits() {
    let home = Home::new();
    let [a, b, wide] = ["a", "b", "wide"].map(|name| model(&format!("tiny/{name}")));
    let against = |path: &Path| path.to_str().unwrap().to_owned();
    let (report_b, code) = report(&home, &b, &["--against", &against(&a)]).await;
    let cosine = report_b["drift"]["min_cosine"].as_f64().unwrap();
    assert!(code == Some(0) && cosine < 0.9, "{report_b}");
    let same = report(&home, &a, &["--against", &against(&a), "--min-cosine", "0.9999"]).await;
    assert_eq!(same.1, Some(0), "{}", same.0);
    let far = report(&home, &b, &["--against", &against(&a), "--min-cosine", "0.9"]).await;
    assert_eq!((&far.0["refusal"]["kind"], far.1), (&json!("drift"), Some(1)));
    let other = report(&home, &wide, &["--against", &against(&a)]).await;
    assert_eq!((&other.0["refusal"]["kind"], other.1), (&json!("contract"), Some(1)));
    let broken = report(&home, &a, &["--against", &against(&model("tiny/nan"))]).await;
    let message = broken.0["refusal"]["message"].as_str().unwrap();
    assert!(message.contains("--against") && broken.1 == Some(1), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_strict_refuses_a_shortened_text_and_names_the_line() {
    let home = Home::new();
    let long = copy(&home, "long_12");
    let small = ["--check-memory", "600"];
    let (lenient, code) = report(&home, &long, &small).await;
    assert_eq!(code, Some(0), "{lenient}");
    let tokens = lenient["facts"]["max_tokens"].as_u64().unwrap();
    let (refused, code) = report(&home, &long, &[&small[..], &["--strict"]].concat()).await;
    assert_eq!(code, Some(1), "{refused}");
    let message = refused["refusal"]["message"].as_str().unwrap();
    for word in ["--strict", "8192", "--check-memory", "onnxd.toml", "max_tokens = "] {
        assert!(message.contains(word), "{word}: {message}");
    }
    // Following the advice in the message makes it pass.
    fs::write(long.join("onnxd.toml"), format!("max_tokens = {tokens}")).unwrap();
    let (certain, code) = report(&home, &long, &[&small[..], &["--strict"]].concat()).await;
    assert_eq!((&certain["facts"]["shortened"], code), (&Value::Null, Some(0)), "{certain}");
    assert_eq!(certain["facts"]["max_tokens"], tokens);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_with_wrong_arguments_exits_with_64_or_78() {
    let home = Home::new();
    for arguments in [&["check"][..], &["check", "/m", "--min-cosine", "0.5"], &["check", "a", "b"]]
    {
        assert_eq!(launch::run(&home, arguments).await.status.code(), Some(64), "{arguments:?}");
    }
    let output = check(&home, Path::new("s3://m"), &[]).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let arguments = ["check", "/m", "--onnxruntime", "/no/library.so"];
    let output = launch::run(&home, &arguments).await;
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert!(str::from_utf8(&output.stderr).unwrap().contains("--onnxruntime"), "{output:?}");
}
