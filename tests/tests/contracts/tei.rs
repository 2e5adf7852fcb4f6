//! `/embed`, `/embed_all` and `/similarity` of text-embeddings-inference.

use e2e::{
    client::Client,
    corpus::{TOLERANCE, cosine},
    fixtures::reference,
};
use serde_json::{Value, json};

use crate::{
    TEXT, TEXT_INDEX, assert_close, message, numbers, post, post_ok, refused, serve,
    tiny_reference, unit,
};

/// Returns the token ids of a text, with special tokens.
async fn ids(client: &mut Client, text: &str) -> Vec<Value> {
    let tokens = post_ok(client, "/tokenize", &json!({"inputs": text})).await;
    tokens[0].as_array().expect("tokens").iter().map(|token| token["id"].clone()).collect()
}

async fn embed(client: &mut Client, body: Value) -> Vec<Vec<f32>> {
    post(client, "/embed", &body).await.embeddings()
}

#[tokio::test(flavor = "multi_thread")]
async fn token_ids_match_their_text_alone_and_mixed_with_texts() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    let reference = reference();
    let expected = &reference.models["a"];
    let mut lists = Vec::new();
    for text in &reference.texts {
        lists.push(ids(&mut client, text).await);
    }
    // The last text exceeds the model's limit and would be truncated.
    let short = lists.len() - 1;
    for (index, list) in lists[..short].iter().enumerate() {
        let alone = embed(&mut client, json!({"inputs": list})).await;
        assert_eq!(alone.len(), 1, "a list of numbers is one input");
        assert_close(&alone[0], &expected[index], "alone");
    }
    let mixed: Vec<Value> = (0..short)
        .map(|index| match index % 2 {
            0 => json!(lists[index]),
            _ => json!(reference.texts[index]),
        })
        .collect();
    for (index, actual) in embed(&mut client, json!({"inputs": mixed})).await.iter().enumerate() {
        assert_close(actual, &expected[index], "mixed");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_token_ids_are_refused_and_named() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    for (inputs, id) in [
        (json!([2, 417, 3]), "417"),
        (json!([[2, 3], [2, 100_000, 3]]), "100000"),
        (json!([4_294_967_295_u64]), "4294967295"),
    ] {
        let message = refused(&mut client, "/embed", &json!({"inputs": inputs}), 422).await;
        assert!(message.contains(id) && message.contains("416"), "{message}");
    }
    for inputs in [json!([[]]), json!([[2, 3], []])] {
        let response = client.post("/embed", &json!({"inputs": inputs})).await.expect("an answer");
        assert!([400, 422].contains(&response.status), "{inputs}: {}", response.text());
        message(&response.json());
    }
    for inputs in [json!([-1]), json!([4_294_967_296_u64]), json!([[2, "a"]]), json!([1.5])] {
        refused(&mut client, "/embed", &json!({"inputs": inputs}), 422).await;
    }
    let long = vec![5; 65];
    let body = json!({"inputs": long, "truncate": false});
    let message = refused(&mut client, "/embed", &body, 422).await;
    assert!(message.contains("64") && message.contains("65"), "{message}");
    embed(&mut client, json!({"inputs": vec![5; 65]})).await;
    embed(&mut client, json!({"inputs": [2, 416, 3]})).await;
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dimensions_truncate_before_normalization() {
    let server = serve(&["a", "plain"]).await;
    let mut client = server.client().await;
    let reference = reference();
    let plain = &reference.models["plain"][TEXT_INDEX];
    for dimensions in [1, 8, 31, 32] {
        let body = json!({"inputs": TEXT, "dimensions": dimensions});
        let actual = &embed(&mut client, body).await[0];
        assert_close(actual, &unit(&plain[..dimensions]), "normalized after truncation");
        let body =
            json!({"inputs": TEXT, "dimensions": dimensions, "model": "plain", "normalize": false});
        assert_close(&embed(&mut client, body).await[0], &plain[..dimensions], "not normalized");
    }
    for dimensions in [0, 33, 4_294_967_295_u64] {
        let body = json!({"inputs": TEXT, "dimensions": dimensions});
        let message = refused(&mut client, "/embed", &body, 422).await;
        assert!(
            message.contains("from 1 to 32") && message.contains(&dimensions.to_string()),
            "{message}"
        );
    }
    for dimensions in [json!(-1), json!("8"), json!(1.5), json!(4_294_967_296_u64)] {
        refused(&mut client, "/embed", &json!({"inputs": TEXT, "dimensions": dimensions}), 422)
            .await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_prepended_by_name() {
    let server = serve(&["prompts", "a"]).await;
    let mut client = server.client().await;
    let answers = tiny_reference();
    for (name, expected) in
        [(None, "passage"), (Some("query"), "query"), (Some("passage"), "passage")]
    {
        let body = json!({"inputs": [TEXT, "a"], "prompt_name": name});
        let actual = embed(&mut client, body).await;
        let expected = &answers["prompts"][expected];
        assert_close(&actual[0], &numbers(&expected[TEXT_INDEX]), "with its prompt");
        assert_close(&actual[1], &numbers(&expected[1]), "with its prompt");
    }
    let unknown = json!({"inputs": TEXT, "prompt_name": "document"});
    for path in ["/embed", "/embed_all", "/tokenize"] {
        let message = refused(&mut client, path, &unknown, 422).await;
        assert!(
            ["`document`", "passage", "query"].iter().all(|name| message.contains(name)),
            "{message}"
        );
    }
    let body = json!({"inputs": TEXT, "prompt_name": "query", "model": "a"});
    let message = refused(&mut client, "/embed", &body, 422).await;
    assert!(message.contains("no prompts"), "{message}");
    let long = "q".repeat(257);
    refused(&mut client, "/embed", &json!({"inputs": TEXT, "prompt_name": long}), 422).await;
    let tokens =
        post_ok(&mut client, "/tokenize", &json!({"inputs": "a", "prompt_name": "query"})).await;
    let bare =
        post_ok(&mut client, "/tokenize", &json!({"inputs": "query: a", "model": "a"})).await;
    let ids = |tokens: &Value| {
        let tokens = tokens[0].as_array().expect("tokens").iter();
        tokens.map(|token| token["id"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&tokens), ids(&bare));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_texts_are_truncated_at_the_chosen_side_or_refused() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    let (hello, world) = ("hello ".repeat(62), "world ".repeat(62));
    let kept = embed(&mut client, json!({"inputs": [hello, world]})).await;
    let begins = "hello ".repeat(62) + "world ";
    let ends = "hello ".to_owned() + &world;
    for (text, direction, expected) in [
        (&begins, json!("Right"), &kept[0]),
        (&begins, json!("right"), &kept[0]),
        (&begins, json!(null), &kept[0]),
        (&ends, json!("Left"), &kept[1]),
        (&ends, json!("left"), &kept[1]),
    ] {
        let body = json!({"inputs": text, "truncation_direction": direction});
        assert_close(&embed(&mut client, body).await[0], expected, &direction.to_string());
        let body = json!({"inputs": text, "truncation_direction": direction, "truncate": false});
        let message = refused(&mut client, "/embed", &body, 422).await;
        assert!(message.contains("64") && message.contains("65"), "{message}");
    }
    for direction in ["up", "LEFT"] {
        let body = json!({"inputs": "a", "truncation_direction": direction});
        refused(&mut client, "/embed", &body, 422).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_all_returns_token_vectors_that_average_to_the_text() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    let reference = reference();
    let texts = &reference.texts;
    let body = json!({"inputs": texts});
    let response = post(&mut client, "/embed_all", &body).await;
    let all: Vec<Vec<Vec<f32>>> = serde_json::from_slice(&response.body).expect("embeddings");
    assert_eq!(all.len(), texts.len());
    for (index, tokens) in all.iter().enumerate() {
        assert_eq!(tokens.len() as u64, reference.tokens[index], "{:?}", texts[index]);
        let sum = |component: usize| tokens.iter().map(|token| token[component]).sum::<f32>();
        let sums: Vec<f32> = (0..32).map(sum).collect();
        assert_close(&unit(&sums), &reference.models["a"][index], &texts[index]);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::cast_possible_truncation, reason = "cosines are compared roughly")]
async fn similarity_is_the_cosine_to_the_source_sentence() {
    // The second model does not normalize on its own.
    let server = serve(&["a", "plain"]).await;
    let mut client = server.client().await;
    let reference = reference();
    let (texts, known) = (&reference.texts, &reference.models["a"]);
    let inputs = json!({"source_sentence": texts[TEXT_INDEX], "sentences": texts});
    for model in ["a", "plain"] {
        let body = json!({"inputs": inputs, "model": model});
        let cosines = numbers(&post_ok(&mut client, "/similarity", &body).await);
        let expected: Vec<f32> =
            known.iter().map(|one| cosine(one, &known[TEXT_INDEX]) as f32).collect();
        assert_close(&cosines, &expected, model);
        assert!(
            (cosines[TEXT_INDEX] - 1.0).abs() <= TOLERANCE,
            "the source is identical to itself"
        );
    }
    for (wrong, status) in [
        (json!({"source_sentence": "a", "sentences": []}), 400),
        (json!({"source_sentence": "a", "sentences": vec!["a"; 33]}), 422),
        (json!({"source_sentence": "a"}), 422),
        (json!({"source_sentence": ["a"], "sentences": ["a"]}), 422),
        (json!("a"), 422),
    ] {
        refused(&mut client, "/similarity", &json!({"inputs": wrong}), status).await;
    }
    server.stop().await;
}
