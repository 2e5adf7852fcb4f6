//! Every directory is updated from and to another version under load. The history checker verifies
//! that each answer comes from exactly one version and states its generation.

use std::{collections::BTreeMap, fs, path::PathBuf};

use e2e::{
    expected::{
        Case, Directory, Reading, Rows,
        answer::entities_of,
        cases::{numbers, texts, unit},
        clients::{Clients, Probe},
        names, onnx,
    },
    home::Home,
    server::Server,
};
use serde_json::{Value, json};

use crate::{assert_none, body, cases_of, limit, serve};

/// Clients of the updated model.
const CLIENTS: usize = 2;
/// Answers to wait for after each update.
const ANSWERS: usize = 12;
/// Models per server, each under two names.
const PAIRS: usize = 30;
/// How versions are loaded, alternately.
const LOADS: [&str; 2] = ["ahead", "lazy"];
/// Dimensions; embedders with the same one can replace each other.
const COMPONENTS: [usize; 4] = [24, 32, 48, 64];

/// A version to update to.
struct Content {
    name: String,
    path: PathBuf,
}

/// Returns the texts for which all these directories have results.
fn common_texts(directories: &[Directory]) -> Vec<String> {
    let mut common = texts(&directories[0].expected["texts"]);
    for one in directories {
        let known = texts(&one.expected["texts"]);
        common.retain(|text| known.contains(text));
    }
    common
}

/// Returns cases for each of these texts and for all of them together, with a route's defaults.
fn embedding_cases(directory: &Directory, wanted: &[String]) -> Vec<Case> {
    let expected = &directory.expected;
    let alone = numbers(expected.get("embeddings_alone").unwrap_or(&expected["embeddings"]));
    let known = texts(&expected["texts"]);
    let of_text = |text: &String| {
        let index = known.iter().position(|known| known == text).expect("a common text");
        unit(&alone[index])
    };
    let units: Rows = wanted.iter().map(of_text).collect();
    let case = |inputs: Value, reference: Rows| Case {
        what: "texts".into(),
        path: "/embed",
        body: json!({"inputs": inputs}),
        reading: Reading::Vectors,
        reference,
        limit: limit(directory),
    };
    let one = |(text, unit): (&String, &Vec<f32>)| case(json!(text), vec![unit.clone()]);
    let each: Vec<Case> = wanted.iter().zip(&units).map(one).collect();
    [each, vec![case(json!(wanted), units)]].concat()
}

/// Merges the answers of several contents to the same requests.
fn probes(model: &str, contents: &[(String, Vec<Case>)]) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    for (content, cases) in contents {
        for case in cases {
            let body = body(case, model);
            let known = probes.iter_mut().find(|one| one.path == case.path && one.body == body);
            let answer = (case.reading.clone(), case.reference.clone(), case.limit);
            match known {
                Some(probe) => {
                    probe.answers.insert(content.clone(), answer);
                }
                None => probes.push(Probe {
                    path: case.path,
                    body,
                    answers: BTreeMap::from([(content.clone(), answer)]),
                }),
            }
        }
    }
    let all = probes.iter().all(|probe| probe.answers.len() == contents.len());
    assert!(all, "a request is not answered by every content");
    let sent = probes.len();
    // Models with the same weights may answer alike, which does not identify a content.
    probes.retain(identifies_contents);
    assert!(probes.len() * 2 > sent, "{model}: most answers do not identify a content");
    probes
}

/// Returns whether each content answers differently.
fn identifies_contents(probe: &Probe) -> bool {
    let answers: Vec<_> = probe.answers.values().collect();
    let differ = |index: usize| {
        let (_, reference, limit) = answers[index];
        answers[..index].iter().all(|(_, other, _)| limit.check(other, reference).is_err())
    };
    (0..answers.len()).all(differ)
}

/// Updates `model` to the last of `contents`, then to each of them under load.
async fn update_through(
    server: &Server,
    model: &str,
    contents: &[Content],
    probes: Vec<Probe>,
) -> Vec<String> {
    let mut found = Vec::new();
    let last = contents.last().expect("a content");
    if let Err(refusal) = server.update(model, Some(&last.path)).await {
        return vec![format!("{model} to {}: {refusal:?}", last.name)];
    }
    let mut clients = Clients::start(server, model, &last.name, probes, CLIENTS).await;
    for (round, content) in contents.iter().enumerate() {
        let start = clients.now();
        // These are different models, so they lack files of each other.
        let how = ["--load", LOADS[round % 2], "--force"];
        match server.update_with(model, Some(&content.path), &how).await {
            Ok(committed) => clients.committed(start, &committed, &content.name),
            Err(refusal) => found.push(format!("{model} to {}: {refusal:?}", content.name)),
        }
        clients.more(ANSWERS).await;
    }
    match clients.finish().await {
        Ok(summary) if found.is_empty() => {
            assert!(summary.generations >= contents.len(), "{model}: {summary:?}");
        }
        Ok(_) => {}
        Err(violations) => found.push(format!("{model}: {violations}")),
    }
    found
}

/// Returns a directory as a content, with a default task if the model requires one.
fn content(directory: &Directory, home: &Home) -> Content {
    let mut path = directory.path.clone();
    if directory.expected.get("embeddings_by_task").is_some() {
        path = directory.copy_to(&home.models().join(format!("{}-set", directory.name)));
        let task = directory.expected["default_task"].as_str().expect("a task");
        fs::write(path.join("onnxd.toml"), format!("[inputs]\ntask_id = \"{task}\"\n"))
            .expect("a file");
    }
    Content { name: directory.name.clone(), path }
}

/// Returns all embedders with this dimension.
fn embedders(home: &Home, components: usize) -> Vec<Directory> {
    let all = names().into_iter().map(|name| Directory::open(&name, &home.models()));
    let fits = |one: &Directory| {
        one.expected["task"] == "embedding" && one.expected["dimensions"] == components
    };
    all.filter(fits).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn embedders_replace_each_other_under_load() {
    let mut found = Vec::new();
    let mut builder = Server::builder();
    let home = builder.directories();
    let families: Vec<_> = COMPONENTS
        .iter()
        .map(|&components| (format!("embed-{components}"), embedders(&home, components)))
        .collect();
    for (model, directories) in &families {
        let last = directories.last().expect("a directory");
        builder = builder.model(model, &content(last, &home).path);
    }
    let server = builder.argument("--preload=none").start().await;
    for (model, directories) in &families {
        let contents: Vec<Content> = directories.iter().map(|one| content(one, &home)).collect();
        assert!(contents.len() > 1, "{model}: nothing to update to");
        let texts = common_texts(directories);
        let cases = |one: &Directory| (one.name.clone(), embedding_cases(one, &texts));
        let known: Vec<_> = directories.iter().map(cases).collect();
        found.extend(update_through(&server, model, &contents, probes(model, &known)).await);
    }
    assert_none(&found);
    server.stop().await;
}

/// Copies a directory and changes its weights, so that every answer differs.
fn with_other_weights(directory: &Directory, home: &Home) -> Directory {
    let mut other = directory.clone();
    other.name = format!("{}-other", directory.name);
    other.path = directory.copy_to(&home.models().join(&other.name));
    onnx::change_version(&other.path);
    other
}

/// Records the answers of an idle model, except those that equal the answers in `cases`.
async fn learn(server: &Server, model: &str, cases: &[Case]) -> Result<Vec<Case>, String> {
    let mut client = server.client().await;
    let mut learned = Vec::new();
    for case in cases {
        let response = client.post(case.path, &body(case, model)).await.map_err(|lost| lost.0)?;
        let unexpected =
            || format!("{model}: {} {}: {:.300}", case.path, case.what, response.text());
        if response.status != 200 {
            return Err(unexpected());
        }
        let answer = response.json();
        if case
            .reading
            .rows(&answer)
            .is_ok_and(|rows| case.limit.check(&rows, &case.reference).is_ok())
        {
            continue;
        }
        let (reading, reference) = match &case.reading {
            Reading::Entities(texts) => entities_of(&answer, texts.len()).ok_or_else(unexpected)?,
            reading => (reading.clone(), reading.rows(&answer)?),
        };
        learned.push(Case { reading, reference, ..case.clone() });
    }
    if learned.len() * 2 < cases.len() {
        return Err(format!(
            "{model} answers only {} of {} cases differently",
            learned.len(),
            cases.len()
        ));
    }
    Ok(learned)
}

/// Updates a directory to one with other weights and back, under load.
async fn try_other_weights(server: &Server, one: &Directory, other: &Directory) -> Vec<String> {
    if let Err(refusal) = server.update(&other.name, Some(&other.path)).await {
        return vec![format!("{}: {refusal:?}", other.name)];
    }
    let mut cases = cases_of(one);
    let learned = match learn(server, &other.name, &cases).await {
        Ok(learned) => learned,
        Err(reason) => return vec![reason],
    };
    // Answers to the other cases would not identify their content.
    cases.retain(|case| learned.iter().any(|one| one.path == case.path && one.body == case.body));
    let known = [(other.name.clone(), learned), (one.name.clone(), cases)];
    let contents =
        [other, one].map(|one| Content { name: one.name.clone(), path: one.path.clone() });
    update_through(server, &one.name, &contents, probes(&one.name, &known)).await
}

/// Updates every directory that satisfies `wanted` to another version and back.
async fn try_pairs(wanted: impl Fn(&Directory) -> bool) {
    let home = Home::new();
    let all = names().into_iter().map(|name| Directory::open(&name, &home.models()));
    let pairs: Vec<[Directory; 2]> = all
        .filter(wanted)
        .map(|one| {
            let other = with_other_weights(&one, &home);
            [one, other]
        })
        .collect();
    let mut found = Vec::new();
    for some in pairs.chunks(PAIRS) {
        let server = serve(Server::builder(), some.as_flattened()).await;
        for [one, other] in some {
            found.extend(try_other_weights(&server, one, other).await);
        }
        server.stop().await;
    }
    assert_none(&found);
}

#[tokio::test(flavor = "multi_thread")]
async fn embedders_and_their_copies_replace_each_other() {
    // The test above covers the others.
    try_pairs(|one| one.expected["task"] == "embedding" && !one.name.starts_with("more-")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_models_and_their_copies_replace_each_other() {
    try_pairs(|one| one.expected["task"] != "embedding").await;
}
