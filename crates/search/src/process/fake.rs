//! An index in memory for tests, with one collection, `notes`, of model `m`.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use onnxd_proto::search::{
    CatalogEntry, CollectionInfo, Distance, DocumentId, IndexErrorKind, Settings, Unembedded,
    VersionInfo,
};

use super::{
    Arc, Duration, FromIndex, IN_FLIGHT_MAX, Index, Request, Semaphore, ToIndex, mpsc, watch,
};

/// The collection, and what was asked.
#[derive(Debug, Default)]
pub(crate) struct FakeIndex(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    metadata: String,
    texts: Vec<String>,
    /// Keys that have a vector, by version.
    embedded: HashMap<String, HashSet<u32>>,
    /// By version.
    reused_from: HashMap<String, String>,
    is_deleted: bool,
    /// Fails the next message that stores vectors.
    failure: Option<IndexErrorKind>,
    lists: usize,
    /// Whether it answers nothing but errors.
    is_away: bool,
}

/// Returns settings with this metadata.
pub(crate) fn settings(metadata: &str) -> Settings {
    Settings {
        model: Some("m".into()),
        distance: Distance::Cosine,
        dimensions: None,
        declared_dimension: None,
        document_prompt: None,
        query_prompt: None,
        text_field: None,
        metadata: metadata.into(),
    }
}

impl FakeIndex {
    /// Starts an index with this many documents.
    pub(crate) fn start(metadata: &str, documents: usize) -> (Arc<Self>, Index) {
        let (requests, mut queue) = mpsc::channel::<Request>(IN_FLIGHT_MAX);
        let state = State { metadata: metadata.into(), ..State::default() };
        let fake = Arc::new(Self(Mutex::new(state)));
        (0..documents).for_each(|number| fake.write(&format!("text {number}")));
        let answering = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Some(Request { message, reply, .. }) = queue.recv().await {
                let _ = reply.send(answering.answer(message));
            }
        });
        let permits = || Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let index = Index {
            directory: None,
            requests,
            changes: permits(),
            reads: permits(),
            release: Arc::new(watch::channel(false).0),
            timeout: Duration::from_secs(5),
        };
        (fake, index)
    }

    /// Adds a document.
    pub(crate) fn write(&self, text: &str) {
        self.0.lock().unwrap().texts.push(text.to_owned());
    }

    /// Gives a document a vector of a version.
    pub(crate) fn embed(&self, version: &str, key: u32) {
        let mut state = self.0.lock().unwrap();
        state.embedded.entry(version.to_owned()).or_default().insert(key);
    }

    /// Takes the vector of a version from a document.
    pub(crate) fn lose(&self, version: &str, key: u32) {
        self.0.lock().unwrap().embedded.get_mut(version).map(|keys| keys.remove(&key));
    }

    /// Fails the next message that stores vectors.
    pub(crate) fn fail(&self, kind: IndexErrorKind) {
        self.0.lock().unwrap().failure = Some(kind);
    }

    /// Deletes the collection.
    pub(crate) fn delete(&self) {
        self.0.lock().unwrap().is_deleted = true;
    }

    /// Returns how many documents there are, and how many have a vector of a version.
    pub(crate) fn counts(&self, version: &str) -> (usize, usize) {
        let state = self.0.lock().unwrap();
        (state.texts.len(), state.embedded.get(version).map_or(0, HashSet::len))
    }

    /// Returns how often the collections were listed.
    pub(crate) fn lists(&self) -> usize {
        self.0.lock().unwrap().lists
    }

    /// Fails all requests from now on, or answers them again.
    pub(crate) fn set_away(&self, is_away: bool) {
        self.0.lock().unwrap().is_away = is_away;
    }

    fn answer(&self, message: ToIndex) -> FromIndex {
        let mut state = self.0.lock().unwrap();
        if state.is_away {
            let error = IndexErrorKind::Unavailable.because("the database cannot be reached");
            return FromIndex::Failed(error);
        }
        match message {
            ToIndex::List if state.is_deleted => FromIndex::Collections(Vec::new()),
            _ if state.is_deleted => {
                FromIndex::Failed(IndexErrorKind::NotFound.because("it was deleted"))
            }
            ToIndex::List => {
                state.lists += 1;
                let versions = state.embedded.iter().map(|(version, keys)| VersionInfo {
                    version: version.clone(),
                    dimension: 1,
                    documents: keys.len() as u64,
                    reused_from: state.reused_from.get(version).cloned(),
                });
                FromIndex::Collections(vec![CollectionInfo {
                    name: "notes".into(),
                    settings: settings(&state.metadata),
                    aliases: Vec::new(),
                    documents: state.texts.len() as u64,
                    versions: versions.collect(),
                    damaged: None,
                }])
            }
            ToIndex::Names => FromIndex::Names(vec![CatalogEntry {
                name: "notes".into(),
                aliases: Vec::new(),
                settings: settings(&state.metadata),
            }]),
            ToIndex::Unembedded { version, limit, .. } => {
                let embedded = state.embedded.get(&version);
                let lacks = |key: &u32| embedded.is_none_or(|embedded| !embedded.contains(key));
                let missing: Vec<u32> = (0u32..).take(state.texts.len()).filter(lacks).collect();
                let text = |&key: &u32| Unembedded {
                    key,
                    edition: 0,
                    text: state.texts[key as usize].clone(),
                    id: Some(DocumentId::Number(key.into())),
                };
                let texts = missing.iter().take(limit).map(text).collect();
                FromIndex::Unembedded(texts, missing.len() as u64)
            }
            ToIndex::Embedded { embedded_as, version, documents, .. } => {
                assert_eq!(embedded_as, settings(&state.metadata).embedded_as());
                if let Some(kind) = state.failure.take() {
                    return FromIndex::Failed(kind.because("it cannot be stored"));
                }
                let count = documents.len() as u64;
                let keys = documents.into_iter().map(|(key, _)| key);
                state.embedded.entry(version).or_default().extend(keys);
                FromIndex::Changed(count)
            }
            ToIndex::Reuse { from, to, .. } => {
                let keys = state.embedded.get(&from).cloned().unwrap_or_default();
                let count = keys.len() as u64;
                state.embedded.entry(to.clone()).or_default().extend(keys);
                state.reused_from.insert(to, from);
                FromIndex::Changed(count)
            }
            ToIndex::Discard { version, .. } => {
                state.embedded.remove(&version);
                state.reused_from.remove(&version);
                FromIndex::Done
            }
            other => panic!("not expected: {other:?}"),
        }
    }
}
