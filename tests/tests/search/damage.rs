//! Damaged files of a collection: no wrong answer, an error that names the remedy, and a server that
//! goes on.

use std::{fs, path::PathBuf, sync::Arc};

use e2e::{
    home::Home,
    random::Random,
    search::{
        documents::{Asked, Documents},
        requests::{self, Answer},
        spaces::Spaces,
    },
    server::Server,
};
use hyper::Method;
use serde_json::json;

use crate::{builder, create, found, put, search, spaces};

const DOCUMENTS: usize = 300;
/// Bytes that are flipped, one at a time.
const FLIPS: usize = 12;

/// A stopped server's collection, as it was before it was damaged.
struct Saved {
    home: Arc<Home>,
    spaces: Arc<Spaces>,
    documents: Documents,
    file: PathBuf,
    bytes: Vec<u8>,
}

/// Fills two collections and stops the server.
async fn saved() -> Saved {
    let spaces = spaces(DOCUMENTS).await;
    let home = builder().directories();
    let server = start(&home).await;
    let mut client = server.client().await;
    let texts: Vec<&str> = (0..DOCUMENTS).map(|number| spaces.text(number)).collect();
    let mut documents = Documents::new(DOCUMENTS);
    for collection in ["notes", "other"] {
        create(&mut client, collection).await;
        put(&mut client, collection, &texts).await;
    }
    let changes: Vec<_> = (0..DOCUMENTS).map(|number| (number as u64, Some(number))).collect();
    let write = documents.begin(std::time::Duration::ZERO, &changes);
    documents.acknowledge(write, std::time::Duration::ZERO);
    server.stop().await;
    let file = home.state().join("collections/1.db");
    let bytes = fs::read(&file).expect("the collection's file");
    let log = file.with_file_name("1.db-wal");
    assert!(!log.exists(), "a process that is stopped writes its changes to the file itself");
    Saved { home, spaces, documents, file, bytes }
}

async fn start(home: &Arc<Home>) -> Server {
    builder().home(home).workers(1).start().await
}

impl Saved {
    /// Starts a server with these bytes as the collection, and searches. Returns whether all answers
    /// were there; those must be exact.
    async fn try_bytes(&self, bytes: &[u8], what: &str) -> bool {
        fs::write(&self.file, bytes).expect("the file can be written");
        for log in ["1.db-wal", "1.db-shm"] {
            // A process that was stopped properly leaves none.
            let _ = fs::remove_file(self.file.with_file_name(log));
        }
        let server = start(&self.home).await;
        let mut client = server.client().await;
        let mut is_whole = true;
        for query in [0, 77, 299] {
            let response = search(&mut client, "notes", self.spaces.text(query), DOCUMENTS).await;
            if response.status == 200 {
                let answer = Answer::read(&response).expect("an answer");
                let times = (std::time::Duration::from_secs(1), std::time::Duration::from_secs(1));
                let asked = Asked { query, limit: DOCUMENTS, times };
                let exact = self.documents.check((&self.spaces, "a"), asked, &answer.hits);
                exact.unwrap_or_else(|reason| panic!("{what}: a wrong answer: {reason}"));
            } else {
                is_whole = false;
                let message = requests::error(&response);
                assert_eq!(response.status, 503, "{what}: {message}");
                let remedy = "delete the collection and import its documents again";
                assert!(message.contains("notes") && message.contains(remedy), "{what}: {message}");
            }
        }
        let other = found(&mut client, "other", self.spaces.text(5), 1).await;
        assert_eq!(other.ids(), [5], "{what}: another collection");
        let embedded = client.post("/embed", &json!({"inputs": "a"})).await.expect("an answer");
        assert_eq!(embedded.status, 200, "{what}");
        server.stop().await;
        is_whole
    }
}

fn find(bytes: &[u8], part: &[u8]) -> usize {
    bytes.windows(part.len()).position(|window| window == part).expect("the text is there")
}

/// Finds the first components of a vector, which the index may have rounded.
fn find_vector(bytes: &[u8], vector: &[f32]) -> usize {
    let near = |window: &[u8]| {
        let (components, _) = window.as_chunks::<4>();
        let mut pairs = components.iter().zip(vector);
        pairs.all(|(bytes, component)| (f32::from_le_bytes(*bytes) - component).abs() < 1e-5)
    };
    bytes.windows(16).position(near).expect("the vector is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_gives_no_wrong_answer() {
    let saved = saved().await;
    assert!(saved.try_bytes(&saved.bytes, "unchanged").await);
    let mut random = Random::new(11);
    let text = find(&saved.bytes, saved.spaces.text(77).as_bytes());
    let vector = find_vector(&saved.bytes, saved.spaces.space("a").vector(77));
    let mut places: Vec<usize> = vec![1, 20, text + 2, vector + 9];
    places.extend((places.len()..FLIPS).map(|_| random.below_len(saved.bytes.len())));
    let mut found = 0;
    for place in places {
        let mut bytes = saved.bytes.clone();
        bytes[place] ^= 1 << random.below(8);
        found += usize::from(!saved.try_bytes(&bytes, &format!("byte {place}")).await);
    }
    assert!(found >= 3, "{found} of {FLIPS} were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_collection_is_deleted_and_imported_again() {
    let saved = saved().await;
    assert!(!saved.try_bytes(&saved.bytes[..saved.bytes.len() / 2], "half a file").await);
    assert!(!saved.try_bytes(b"not a database", "another file").await);
    assert!(!saved.try_bytes(&vec![0; saved.bytes.len()], "zeros").await);
    let server = start(&saved.home).await;
    let mut client = server.client().await;
    let exported = client.get("/collections/notes/documents").await.expect("an answer");
    assert_eq!(exported.status, 503, "{}", exported.text());
    let described = client.get("/collections/notes").await.expect("an answer").json();
    let info = &described["result"];
    assert_eq!((&info["status"], &info["points_count"]), (&json!("red"), &json!(null)), "{info}");
    let reason = info["optimizer_status"]["error"].as_str().expect("a reason");
    assert!(reason.contains("delete the collection and import its documents again"), "{reason}");
    let store = client.get("/v1/vector_stores/notes").await.expect("an answer");
    assert_eq!(store.status, 503, "{}", store.text());
    let whole = client.get("/collections/other").await.expect("an answer").json();
    let whole = &whole["result"];
    assert_eq!(
        (&whole["status"], &whole["optimizer_status"], &whole["points_count"]),
        (&json!("green"), &json!("ok"), &json!(DOCUMENTS))
    );
    let path = "/collections/notes";
    let deleted = client.send(Method::DELETE, path, "".into()).await.expect("an answer");
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    create(&mut client, "notes").await;
    let texts: Vec<&str> = (0..DOCUMENTS).map(|number| saved.spaces.text(number)).collect();
    put(&mut client, "notes", &texts).await;
    assert_eq!(found(&mut client, "notes", texts[9], 1).await.ids(), [9]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_catalog_names_the_file_and_embedding_goes_on() {
    let saved = saved().await;
    let catalog = saved.home.state().join("collections/catalog.db");
    fs::write(&catalog, vec![7; 8192]).expect("the file can be written");
    let server = start(&saved.home).await;
    let mut client = server.client().await;
    let response = search(&mut client, "notes", "hello", 1).await;
    assert_eq!(response.status, 503, "{}", response.text());
    let message = requests::error(&response);
    assert!(message.contains("catalog.db"), "{message}");
    let embedded = client.post("/embed", &json!({"inputs": "a"})).await.expect("an answer");
    assert_eq!(embedded.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_catalog_is_reported_until_it_is_restored() {
    let saved = saved().await;
    let catalog = saved.home.state().join("collections/catalog.db");
    let whole = fs::read(&catalog).expect("a catalog");
    fs::remove_file(&catalog).expect("it can be removed");
    let server = start(&saved.home).await;
    let mut client = server.client().await;
    let response = search(&mut client, "notes", "hello", 1).await;
    assert_eq!(response.status, 503, "{}", response.text());
    let message = requests::error(&response);
    assert!(message.contains("1.db, 2.db; restore catalog.db from a backup"), "{message}");
    let created = requests::create(&mut client, "new", "m").await.expect("an answer");
    assert_eq!(created.status, 503, "{}", created.text());
    // Its documents would have no vectors of the new version.
    let refused = server.update("m", Some(&crate::tiny("b"))).await.expect_err("a refusal");
    assert!(refused.message.contains("catalog.db"), "{}", refused.message);
    fs::write(&catalog, whole).expect("it can be written");
    assert_eq!(found(&mut client, "notes", saved.spaces.text(9), 1).await.ids(), [9]);
    server.stop().await;
}
