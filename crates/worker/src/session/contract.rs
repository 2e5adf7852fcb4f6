//! What a model must look like to be one for texts: the names, types and ranks of its inputs and
//! outputs.

use ort::value::{Outlet, TensorElementType, ValueType};

use super::error::SessionError;

/// What of a model's outputs is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// Embeddings of tokens or of texts.
    Embeddings,
    /// A score for each label.
    Scores,
}

/// What a text model takes. All are int64 with one row per text and one column per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Input {
    Ids,
    Mask,
    TypeIds,
}

impl Input {
    pub(super) const ALL: [Self; 3] = [Self::Ids, Self::Mask, Self::TypeIds];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ids => "input_ids",
            Self::Mask => "attention_mask",
            Self::TypeIds => "token_type_ids",
        }
    }
}

/// The inputs to feed, in the model's order.
pub(super) fn accept_inputs(outlets: &[Outlet]) -> Result<Vec<Input>, SessionError> {
    let inputs = outlets.iter().map(accept_input).collect::<Result<Vec<_>, _>>()?;
    if inputs.contains(&Input::Ids) {
        return Ok(inputs);
    }
    Err(SessionError::Contract("the model has no input input_ids".into()))
}

fn accept_input(outlet: &Outlet) -> Result<Input, SessionError> {
    let known = Input::ALL.into_iter().find(|input| input.name() == outlet.name());
    match (known, tensor(outlet)) {
        (None, _) => Err(SessionError::Contract(format!(
            "the model has an input {}; known are {}",
            outlet.name(),
            Input::ALL.map(Input::name).join(", ")
        ))),
        (Some(input), Some((TensorElementType::Int64, 2))) => Ok(input),
        (Some(_), _) => Err(SessionError::Contract(format!(
            "the input {} is {}, and int64 with 2 dimensions is needed",
            outlet.name(),
            describe(outlet)
        ))),
    }
}

/// The output to use, and whether it is pooled. Embeddings: of tokens under the names they usually
/// have, then under any name, then of whole texts. Scores are always of whole texts.
pub(super) fn choose_output(
    outlets: &[Outlet],
    head: Head,
) -> Result<(String, bool), SessionError> {
    let floats = |rank: usize| {
        outlets
            .iter()
            .filter(move |outlet| tensor(outlet) == Some((TensorElementType::Float32, rank)))
    };
    let named = |rank: usize, name: &str| floats(rank).find(|outlet| outlet.name() == name);
    let tokens = named(3, "last_hidden_state")
        .or_else(|| named(3, "token_embeddings"))
        .or_else(|| floats(3).next());
    let pooled = |name| named(2, name).or_else(|| floats(2).next()).map(|outlet| (outlet, true));
    let chosen = match head {
        Head::Embeddings => {
            tokens.map(|outlet| (outlet, false)).or_else(|| pooled("sentence_embedding"))
        }
        Head::Scores => pooled("logits"),
    };
    match chosen {
        Some((outlet, pooled)) => Ok((outlet.name().to_owned(), pooled)),
        None => {
            let found: Vec<String> = outlets
                .iter()
                .map(|outlet| format!("{} ({})", outlet.name(), describe(outlet)))
                .collect();
            let wanted = match head {
                Head::Embeddings => "3 or 2",
                Head::Scores => "2",
            };
            Err(SessionError::Contract(format!(
                "no output is float32 with {wanted} dimensions; the model has {}",
                found.join(", ")
            )))
        }
    }
}

/// Element type and number of dimensions.
fn tensor(outlet: &Outlet) -> Option<(TensorElementType, usize)> {
    match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => Some((*ty, shape.len())),
        _ => None,
    }
}

fn describe(outlet: &Outlet) -> String {
    match tensor(outlet) {
        Some((ty, rank)) => format!("{} with {rank} dimensions", format!("{ty:?}").to_lowercase()),
        None => "no tensor".into(),
    }
}
