//! Special and added tokens of a tokenizer without `tokenizer.json`, with the flags and ids that
//! transformers assigns.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use onnxd_proto::domain::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{CONFIG, Kind, not_convertible, vocabulary::Vocabulary};
use crate::families::text::files::json::{JsonFile, contract, read_json};

/// Files that older releases of transformers write beside the configuration.
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
/// The field that newer releases write instead.
const DECODER: &str = "added_tokens_decoder";

/// The roles of special tokens, in the order in which they are added.
const ROLES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
const MASK: usize = 6;
const MORE: &str = "additional_special_tokens";

/// The default token of each role, by kind of tokenizer.
const BERT: [Option<&str>; 7] =
    [None, None, Some("[UNK]"), Some("[SEP]"), Some("[PAD]"), Some("[CLS]"), Some("[MASK]")];
const MPNET: [Option<&str>; 7] = [
    Some("<s>"),
    Some("</s>"),
    Some("[UNK]"),
    Some("</s>"),
    Some("<pad>"),
    Some("<s>"),
    Some("<mask>"),
];
const ROBERTA: [Option<&str>; 7] = [
    Some("<s>"),
    Some("</s>"),
    Some("<unk>"),
    Some("</s>"),
    Some("<pad>"),
    Some("<s>"),
    Some("<mask>"),
];

/// A token and how it matches in texts, as stored in files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Token {
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    /// Whether it matches in normalized text. By default, special tokens do not.
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

/// A token as `tokenizer.json` stores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Added {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

/// A token as a file stores it: its text, or with flags.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum TokenField {
    Text(String),
    Token(Token),
}

/// All tokens that are not plain entries of the vocabulary.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// By role.
    roles: [Option<Token>; 7],
    more: Vec<Token>,
    /// Tokens with the ids that files assign.
    declared: BTreeMap<u32, Token>,
}

impl SpecialTokens {
    /// Reads the tokens from the files of the version in `dir`.
    pub(super) fn read(dir: &Path, config: &JsonFile, kind: Kind) -> Result<Self, Refusal> {
        super::refuse_settings(config, &[("split_special_tokens", Value::Bool(false))])?;
        let mut tokens =
            Self { roles: Default::default(), more: Vec::new(), declared: BTreeMap::new() };
        tokens.take_roles(config, kind)?;
        match config.get::<BTreeMap<String, Token>>(DECODER)? {
            Some(declared) => tokens.take_decoder(declared)?,
            // Whether `<mask>` matches before or after lower-casing depends on the release.
            None if kind == Kind::MpNet => {
                return Err(not_convertible(format!("{CONFIG} has no {DECODER}")));
            }
            None => tokens.take_older_files(dir, config, kind)?,
        }
        let extra: Option<Value> = config.get("extra_special_tokens")?;
        let is_empty = |extra: &Value| match extra {
            Value::Object(fields) => fields.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        match extra.filter(|extra| !is_empty(extra)) {
            Some(_) => Err(not_convertible(format!("{CONFIG} sets extra_special_tokens"))),
            None => Ok(tokens),
        }
    }

    fn take_roles(&mut self, file: &JsonFile, kind: Kind) -> Result<(), Refusal> {
        let defaults = match kind {
            Kind::Bert => BERT,
            Kind::MpNet => MPNET,
            Kind::Roberta => ROBERTA,
        };
        for (place, (role, default)) in ROLES.iter().zip(defaults).enumerate() {
            let field = file.get::<TokenField>(role)?;
            let field = field.or_else(|| default.map(|token| TokenField::Text(token.into())));
            // RoBERTa's mask absorbs the space before it.
            let lstrip = place == MASK && kind != Kind::Bert;
            self.roles[place] = field.map(|field| field.token(lstrip));
        }
        self.take_more(file)
    }

    fn take_more(&mut self, file: &JsonFile) -> Result<(), Refusal> {
        for field in file.get::<Vec<TokenField>>(MORE)?.unwrap_or_default() {
            self.more.push(field.token(false));
        }
        Ok(())
    }

    /// Takes tokens with ids and flags. These flags also apply to tokens that have a role.
    fn take_decoder(&mut self, declared: BTreeMap<String, Token>) -> Result<(), Refusal> {
        for (id, token) in declared {
            let Ok(id) = id.parse() else {
                return Err(contract(format!(
                    "{CONFIG}: {DECODER}: {id:?} is not an id; expected a number"
                )));
            };
            self.declared.insert(id, token);
        }
        Ok(())
    }

    /// Takes roles from one file and the ids of tokens outside the vocabulary from another, as
    /// older releases wrote them.
    fn take_older_files(
        &mut self,
        dir: &Path,
        config: &JsonFile,
        kind: Kind,
    ) -> Result<(), Refusal> {
        let map = JsonFile::read(dir, MAP)?;
        if let Some(map) = &map {
            for (place, role) in ROLES.iter().enumerate() {
                let lstrip = place == MASK && kind != Kind::Bert;
                if let Some(field) = map.get::<TokenField>(role)? {
                    self.roles[place] = Some(field.token(lstrip));
                }
            }
            self.take_more(map)?;
        }
        let Some(Value::Object(added)) = read_json(dir, ADDED)? else {
            return Ok(());
        };
        let mut named = Vec::new();
        for file in [Some(config), map.as_ref()].into_iter().flatten() {
            for role in ROLES {
                named.extend(file.get::<TokenField>(role)?.map(|field| field.token(false).content));
            }
        }
        named.extend(self.more.iter().map(|token| token.content.clone()));
        for (content, id) in added {
            let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
                return Err(contract(format!("{ADDED}: {content:?}: expected a numeric id")));
            };
            let special = named.contains(&content);
            let token = Token { normalized: Some(!special), special, ..Token::plain(content) };
            self.declared.insert(id, token);
        }
        Ok(())
    }

    /// Returns the token for unknown words.
    pub(super) fn unk(&self) -> Result<&str, Refusal> {
        self.role(2)
    }

    /// Returns the token after each text.
    pub(super) fn sep(&self) -> Result<&str, Refusal> {
        self.role(3)
    }

    /// Returns the token before a text.
    pub(super) fn cls(&self) -> Result<&str, Refusal> {
        self.role(5)
    }

    fn role(&self, place: usize) -> Result<&str, Refusal> {
        self.roles[place]
            .as_ref()
            .map(|token| token.content.as_str())
            .ok_or_else(|| contract(format!("{CONFIG}: {} is missing", ROLES[place])))
    }

    /// Returns the tokens for `tokenizer.json`, in ascending order of ids. Tokens outside the
    /// vocabulary get the ids after it, in the order in which they are added.
    pub(super) fn added(&self, vocabulary: &Vocabulary) -> Result<Vec<Added>, Refusal> {
        let with_roles: Vec<&Token> = self.roles.iter().flatten().chain(&self.more).collect();
        let special: HashSet<&str> = with_roles.iter().map(|token| &*token.content).collect();
        let mut next = vocabulary.next_id();
        let (mut known, mut added) = (HashSet::new(), Vec::new());
        let declared = self.declared.iter().map(|(id, token)| (Some(*id), token));
        for (declared_id, token) in declared.chain(with_roles.iter().map(|token| (None, *token))) {
            let content = token.content.as_str();
            if content.is_empty() || !known.insert(content) {
                continue;
            }
            let id = match vocabulary.id(content) {
                Some(id) => id,
                None => {
                    let id = next.clone()?;
                    next = Ok(id + 1);
                    id
                }
            };
            if let Some(declared_id) = declared_id.filter(|&declared_id| declared_id != id) {
                return Err(contract(format!(
                    "the added token {content:?} should have the id {declared_id}, but in {} it \
                     has {id}: the files belong to different models; use files of the same model",
                    vocabulary.file(),
                )));
            }
            added.push(token.added(id, token.special || special.contains(content)));
        }
        added.sort_by_key(|token| token.id);
        Ok(added)
    }
}

impl TokenField {
    fn token(self, lstrip: bool) -> Token {
        match self {
            Self::Text(content) => Token { lstrip, ..Token::plain(content) },
            Self::Token(token) => token,
        }
    }
}

impl Token {
    fn plain(content: String) -> Self {
        Self {
            content,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: None,
            special: false,
        }
    }

    fn added(&self, id: u32, special: bool) -> Added {
        Added {
            id,
            content: self.content.clone(),
            single_word: self.single_word,
            lstrip: self.lstrip,
            rstrip: self.rstrip,
            normalized: self.normalized.unwrap_or(!special),
            special,
        }
    }
}
