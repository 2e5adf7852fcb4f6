//! `/tokenize` and `/decode` of text-embeddings-inference.

use e2e::fixtures::reference;
use serde_json::{Value, json};

use crate::{TEXT, ask, refused, serve};

fn field(tokens: &Value, name: &str) -> Vec<Value> {
    let tokens = tokens.as_array().unwrap_or_else(|| panic!("not a list of tokens: {tokens}"));
    tokens.iter().map(|token| token[name].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_character_offsets_and_decode_to_their_text() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    let reference = reference();
    let all = ask(&mut client, "/tokenize", &json!({"inputs": reference.texts})).await;
    for (index, text) in reference.texts.iter().enumerate() {
        let tokens = all[index].as_array().expect("tokens");
        // `/tokenize` does not truncate, so that clients can measure texts.
        let known = reference.tokens[index];
        assert!(tokens.len() as u64 == known || known == 64, "{text}: {}", tokens.len());
        let characters: Vec<char> = text.chars().collect();
        let mut end = 0;
        for token in tokens.iter().filter(|token| token["special"] == false) {
            let at = |name| usize::try_from(token[name].as_u64().expect("an offset")).unwrap();
            assert!(end <= at("start") && at("start") < at("stop"), "{token}");
            let part: String = characters[at("start")..at("stop")].iter().collect();
            assert_eq!(token["text"], part, "{text}");
            end = at("stop");
        }
        let special = tokens.iter().filter(|token| token["special"] == true).count();
        assert_eq!(special, 2, "{text}: {tokens:?}");
    }
    let bare = json!({"inputs": TEXT, "add_special_tokens": false});
    let bare = ask(&mut client, "/tokenize", &bare).await;
    let whole = ask(&mut client, "/tokenize", &json!({"inputs": [TEXT]})).await;
    let (bare, whole) = (field(&bare[0], "id"), field(&whole[0], "id"));
    assert_eq!(bare, whole[1..whole.len() - 1]);

    let decoded = ask(&mut client, "/decode", &json!({"ids": whole})).await;
    assert_eq!(decoded, json!([TEXT.to_lowercase()]), "a list of numbers is one text");
    let two = json!({"ids": [whole, bare], "skip_special_tokens": false});
    let two = ask(&mut client, "/decode", &two).await;
    assert_eq!(two[1], TEXT.to_lowercase());
    let first = two[0].as_str().expect("a text");
    assert!(first.contains(&TEXT.to_lowercase()) && first.contains('['), "{first}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_tokens_and_texts_are_refused() {
    let server = serve(&["a"]).await;
    let mut client = server.client().await;
    for (path, body, status) in [
        ("/tokenize", json!({"inputs": []}), 400),
        ("/tokenize", json!({"inputs": vec!["a"; 33]}), 422),
        ("/tokenize", json!({"inputs": [1]}), 422),
        ("/tokenize", json!({"inputs": "a".repeat(256 * 1024 + 1)}), 422),
        ("/decode", json!({"ids": []}), 400),
        ("/decode", json!({"ids": vec![vec![5]; 33]}), 422),
        ("/decode", json!({"ids": [-1]}), 422),
        ("/decode", json!({"ids": "a"}), 422),
        ("/decode", json!({"ids": vec![5; 65_537]}), 422),
    ] {
        refused(&mut client, path, &body, status).await;
    }
    let said = refused(&mut client, "/decode", &json!({"ids": [5, 417]}), 422).await;
    assert!(said.contains("417") && said.contains("416"), "{said}");
    // The longest text: many tokens, all of which are described.
    let body = json!({"inputs": "a ".repeat(128 * 1024)});
    let tokens = ask(&mut client, "/tokenize", &body).await;
    assert_eq!(tokens[0].as_array().expect("tokens").len(), 128 * 1024 + 2);
    assert_eq!(server.status().await.restarts(), 0);
    server.stop().await;
}
