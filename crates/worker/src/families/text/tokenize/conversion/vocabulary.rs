//! Reads a vocabulary and the merges of byte pairs as Python does.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    path::Path,
};

use onnxd_proto::domain::{Refusal, RefusalKind};
use serde_json::{Map, Value};

use super::not_convertible;
use crate::families::text::files::json::contract;

/// Maximum size of the file in bytes. A vocabulary of 250,000 tokens is 5 MB.
const FILE_BYTES_MAX: u64 = 64 << 20;

const LINES: &str = "vocab.txt";
const JSON: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// Tokens with their ids, and the file they come from.
#[derive(Debug)]
pub(super) struct Vocabulary {
    file: &'static str,
    /// Each value is an id.
    ids: Map<String, Value>,
}

/// Pairs of tokens to merge, in order of priority.
#[derive(Debug)]
pub(super) struct Merges(Vec<[String; 2]>);

impl Vocabulary {
    /// Reads `vocab.txt`, with one token per line.
    pub(super) fn from_lines(dir: &Path) -> Result<Self, Refusal> {
        let text = read(dir, LINES)?;
        let mut ids = Map::new();
        let lines = text.strip_suffix('\n').unwrap_or(&text).split('\n');
        for (id, token) in lines.enumerate() {
            // A repeated token keeps the later id.
            ids.insert(token.to_owned(), id.into());
        }
        Self::new(LINES, ids)
    }

    /// Reads `vocab.json`, an object of ids by token.
    pub(super) fn from_json(dir: &Path) -> Result<Self, Refusal> {
        let text = read(dir, JSON)?;
        let ids = serde_json::from_str(&text)
            .map_err(|error| contract(format!("{JSON}: expected one id per token: {error}")))?;
        Self::new(JSON, ids)
    }

    fn new(file: &'static str, ids: Map<String, Value>) -> Result<Self, Refusal> {
        let is_id = |id: &Value| id.as_u64().is_some_and(|id| u32::try_from(id).is_ok());
        match ids.iter().find(|(_, id)| !is_id(id)) {
            Some((token, id)) => Err(contract(format!(
                "{file}: token {token:?} has the id {id}; expected a number from 0 to 4294967295"
            ))),
            None if ids.len() < 2 => Err(contract(format!("{file} has no tokens"))),
            None => Ok(Self { file, ids }),
        }
    }

    /// Returns the token with its id.
    ///
    /// # Errors
    /// The vocabulary lacks the token.
    pub(super) fn token<'a>(&self, token: &'a str) -> Result<(&'a str, u32), Refusal> {
        match self.id(token) {
            Some(id) => Ok((token, id)),
            None => Err(contract(format!(
                "{} lacks the token {token:?}, which the tokenizer adds around texts or uses for unknown words",
                self.file
            ))),
        }
    }

    /// Returns the id of a token.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
    }

    /// Returns the id of the first token that is added to the vocabulary.
    ///
    /// # Errors
    /// Ids are missing or repeated, so an added token would share its id with another one.
    pub(super) fn next_id(&self) -> Result<u32, Refusal> {
        let highest = self.ids.values().filter_map(Value::as_u64).max().unwrap_or(0);
        let length = self.ids.len();
        match u32::try_from(length) {
            // Half the range of 32 bits leaves room to count up.
            Ok(next) if u64::from(next) == highest + 1 && next < u32::MAX / 2 => Ok(next),
            _ => Err(contract(format!(
                "{}: {length} tokens have ids up to {highest}, so no token can be added after \
                 them; expected ids from 0 without gaps or duplicates",
                self.file
            ))),
        }
    }

    /// Returns all ids by token.
    pub(super) fn ids(&self) -> &Map<String, Value> {
        &self.ids
    }

    /// Returns the name of the file.
    pub(super) fn file(&self) -> &'static str {
        self.file
    }
}

impl Merges {
    /// Reads `merges.txt`; all its tokens must be in the vocabulary.
    pub(super) fn read(dir: &Path, vocabulary: &Vocabulary) -> Result<Self, Refusal> {
        let text = read(dir, MERGES)?;
        let mut lines: Vec<&str> = text.split('\n').collect();
        // As in transformers: the first line is the version, and nothing follows the last line
        // break.
        lines.pop();
        let (mut known, mut merges) = (HashSet::new(), Vec::new());
        for (number, line) in lines.iter().enumerate().skip(1) {
            let parts: Vec<&str> = line.split_whitespace().collect();
            let [left, right] = parts[..] else {
                return Err(contract(format!(
                    "{MERGES}: line {}: expected two tokens",
                    number + 1
                )));
            };
            let joined = format!("{left}{right}");
            let missing =
                [left, right, &joined].into_iter().find(|&token| vocabulary.id(token).is_none());
            if let Some(token) = missing {
                return Err(contract(format!(
                    "{MERGES}: line {}: {} lacks the token {token:?}: the files belong to \
                     different models; use files of the same model",
                    number + 1,
                    vocabulary.file
                )));
            }
            if known.insert((left, right)) {
                merges.push([left.to_owned(), right.to_owned()]);
            }
        }
        Ok(Self(merges))
    }

    /// Returns the pairs.
    pub(super) fn pairs(&self) -> &[[String; 2]] {
        &self.0
    }
}

/// Reads a text file with Python's line breaks.
fn read(dir: &Path, name: &str) -> Result<String, Refusal> {
    let internal = |error: io::Error| RefusalKind::Internal.because(format!("{name}: {error}"));
    let file = match File::open(dir.join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_convertible(format!("{name} is missing as well")));
        }
        Err(error) => return Err(internal(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(internal)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(contract(format!("{name} has more than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| contract(format!("{name} is not UTF-8: {error}")))?;
    Ok(if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text })
}
