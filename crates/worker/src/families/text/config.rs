//! What a version's Hugging Face files say of texts: how long they may be, how tokens are pooled,
//! whether embeddings are normalized, which prompts there are. What the model is for is
//! [`super::task`]'s affair.

use std::{collections::BTreeMap, path::Path};

use onnxd_proto::{
    domain::{Activation, Pooling, PoolingMode, Refusal, Task},
    wire::ask::PROMPT_NAME_BYTES_MAX,
};
use serde_json::Value;

use super::{
    json::{JsonFile, contract, read_json},
    length, task,
};
use crate::families::own::Own;

/// Prompts of one model, and bytes of one.
const PROMPTS_MAX: usize = 256;
const PROMPT_BYTES_MAX: usize = 16 * 1024;

/// What the files say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// What the model is for; not tensors.
    pub(crate) task: Task,
    /// Tokens of the longest text, special tokens included.
    pub(crate) max_tokens: u32,
    /// How token embeddings become one embedding.
    pub(crate) pooling: Pooling,
    /// Whether embeddings have length 1 unless a request says otherwise.
    pub(crate) normalize: bool,
    /// What scores are of, where the files say it.
    pub(crate) labels: Vec<String>,
    /// How scores become numbers between 0 and 1.
    pub(crate) activation: Activation,
    /// What may be put before a text.
    pub(crate) prompts: Prompts,
}

/// What may be put before a text, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prompts {
    pub(crate) named: BTreeMap<String, String>,
    /// The one for texts whose request names none.
    pub(crate) default: Option<String>,
}

/// Reads the files of the version in `dir`, a model for texts.
///
/// # Errors
/// A file is malformed, or asks for what onnxd does not do.
pub(crate) fn read(dir: &Path, own: &Own) -> Result<Settings, Refusal> {
    let task = task::of(dir, own)?;
    let modules = Modules::read(dir)?;
    let labels = if task == Task::Embed { Vec::new() } else { task::labels(dir)? };
    let pooling = match own.pooling.clone() {
        Some(pooling) => pooling,
        None => pooling_of(dir, modules.pooling.as_deref())?,
    };
    let activation = match own.activation {
        Some(activation) => activation,
        None => task::activation(dir, task, labels.len())?,
    };
    Ok(Settings {
        task,
        max_tokens: length::max_tokens(dir, own.max_tokens)?,
        pooling,
        normalize: own.normalize.unwrap_or(modules.normalize),
        labels,
        activation,
        prompts: prompts(dir, own.default_prompt_name.clone())?,
    })
}

fn prompts(dir: &Path, default: Option<String>) -> Result<Prompts, Refusal> {
    const FILE: &str = "config_sentence_transformers.json";
    let file = JsonFile::read(dir, FILE)?;
    let (named, said): (BTreeMap<String, String>, Option<String>) = match &file {
        Some(file) => (file.get("prompts")?.unwrap_or_default(), file.get("default_prompt_name")?),
        None => (BTreeMap::new(), None),
    };
    let too_long = named.iter().any(|(name, prompt)| {
        name.len() > PROMPT_NAME_BYTES_MAX || prompt.len() > PROMPT_BYTES_MAX
    });
    if named.len() > PROMPTS_MAX || too_long {
        return Err(contract(format!(
            "{FILE}: there are at most {PROMPTS_MAX} prompts of {PROMPT_BYTES_MAX} bytes, with names of {PROMPT_NAME_BYTES_MAX}"
        )));
    }
    let default = default.or(said);
    if let Some(name) = default.as_ref().filter(|name| !named.contains_key(*name)) {
        return Err(contract(format!("{FILE}: there is no prompt {name:?}, the default one")));
    }
    Ok(Prompts { named, default })
}

/// What `modules.json` of sentence-transformers lists.
struct Modules {
    /// The directory of the pooling module.
    pooling: Option<String>,
    normalize: bool,
}

impl Modules {
    fn read(dir: &Path) -> Result<Self, Refusal> {
        const FILE: &str = "modules.json";
        let list = match read_json(dir, FILE)? {
            Some(Value::Array(list)) => list,
            Some(_) => return Err(contract(format!("{FILE} is not a list of modules"))),
            // Without the list, a model is taken for what nearly all of them are.
            None => return Ok(Self { pooling: None, normalize: true }),
        };
        let mut modules = Self { pooling: None, normalize: false };
        for module in list {
            let Value::Object(fields) = module else {
                return Err(contract(format!("{FILE}: a module is not an object")));
            };
            let module = JsonFile::of(FILE, fields);
            let kind: String = module.get("type")?.unwrap_or_default();
            match kind.rsplit('.').next() {
                Some("Transformer") => {}
                Some("Pooling") => modules.pooling = module.get("path")?,
                Some("Normalize") => modules.normalize = true,
                _ => return Err(contract(format!("{FILE}: the module {kind:?} is not supported"))),
            }
        }
        Ok(modules)
    }
}

fn pooling_of(dir: &Path, module: Option<&str>) -> Result<Pooling, Refusal> {
    let name = format!("{}/config.json", module.unwrap_or("1_Pooling"));
    let Some(file) = JsonFile::read(dir, &name)? else {
        return match module {
            Some(_) => Err(contract(format!("{name} is missing, and modules.json needs it"))),
            None => Ok(PoolingMode::Mean.into()),
        };
    };
    let modes = match file.get::<String>("pooling_mode")? {
        Some(mode) => vec![mode],
        None => file.modes()?,
    };
    match &modes.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["mean" | "mean_tokens"] => Ok(PoolingMode::Mean.into()),
        ["cls" | "cls_token"] => Ok(PoolingMode::Cls.into()),
        ["lasttoken" | "last_token"] => Ok(PoolingMode::LastToken.into()),
        [] => Err(contract(format!("{name}: no pooling mode is set"))),
        modes => {
            Err(contract(format!("{name}: pooling_mode {} is not supported", modes.join("+"))))
        }
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
