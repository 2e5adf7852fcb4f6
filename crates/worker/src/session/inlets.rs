//! The inputs of a graph for texts: which of them is what, and the tensors that they are fed. Called
//! by [`super::texts`].

use half::{bf16, f16};
use ort::{
    session::SessionInputValue,
    value::{Outlet, Tensor, TensorElementType, TensorRef, ValueType},
};

use super::{
    error::{SessionError, run_failed},
    texts::Tokens,
};

/// Names of the inputs that exporters use for the same thing.
const NAMES: [(Kind, &[&str]); 4] = [
    (Kind::Ids, &["input_ids", "input_word_ids"]),
    (Kind::Mask, &["attention_mask", "input_mask"]),
    (Kind::TypeIds, &["token_type_ids", "input_type", "input_type_ids", "segment_ids"]),
    (Kind::Positions, &["position_ids"]),
];
/// How many logits at the end of a text a decoder is to compute.
const LOGITS_TO_KEEP: [&str; 2] = ["logits_to_keep", "num_logits_to_keep"];
/// Whether a decoder with a cache computes with what is in it.
const USE_CACHE: &str = "use_cache_branch";
/// How the names of a decoder's cache begin.
const CACHE: &str = "past_key";
/// Axes of a part of the cache: texts, heads, tokens, components.
const CACHE_AXES: usize = 4;
/// Heads or components of a part of the cache; an empty one takes no memory.
const CACHE_AXIS_MAX: i64 = 1 << 20;

/// What an input is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Rows of the embedding table.
    Ids,
    /// 1 where a token is attended to.
    Mask,
    /// Which of two texts a token belongs to.
    TypeIds,
    /// The place of each token in its text, from 0 on.
    Positions,
    /// What a decoder has computed before: nothing.
    Cache,
    /// 1.
    LogitsToKeep,
    /// False.
    UseCache,
    /// A number that changes what the graph computes.
    Switch,
}

/// An input that is fed.
pub(super) struct Inlet {
    pub(super) name: String,
    pub(super) kind: Kind,
    element: TensorElementType,
    /// As declared; -1 is any size.
    shape: Vec<i64>,
    /// What is fed where that is not int64.
    converted: Converted,
}

/// Reused from run to run.
enum Converted {
    None,
    Int32(Vec<i32>),
    Float(Vec<f32>),
    Half(Vec<f16>),
    Brain(Vec<bf16>),
    Bool(Vec<bool>),
}

/// The numbers that are fed, one row for each text, reused from run to run.
#[derive(Debug, Default)]
pub(super) struct Rows {
    texts: usize,
    tokens: usize,
    ids: Vec<i64>,
    mask: Vec<i64>,
    type_ids: Vec<i64>,
    positions: Vec<i64>,
}

impl Rows {
    /// Takes texts, padded with `pad_id` to the longest; tokens are counted from `first_position` on.
    pub(super) fn fill(&mut self, texts: &[&Tokens], pad_id: i64, first_position: i64) {
        let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
        (self.texts, self.tokens) = (texts.len(), longest);
        self.ids.clear();
        self.mask.clear();
        self.type_ids.clear();
        self.positions.clear();
        for (text, end) in texts.iter().zip((1..).map(|row| row * longest)) {
            self.ids.extend_from_slice(&text.ids);
            self.type_ids.extend_from_slice(&text.type_ids);
            self.mask.resize(end - longest + text.attended, 1);
            // No position is beyond those of the longest text.
            let count = (end - self.positions.len()) as i64;
            self.positions.extend(first_position..first_position + count);
            self.ids.resize(end, pad_id);
            self.type_ids.resize(end, 0);
            self.mask.resize(end, 0);
        }
    }

    /// Texts, and tokens of each with padding.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.texts, self.tokens]
    }
}

impl Inlet {
    /// Looks at an input of the graph.
    pub(super) fn of(outlet: &Outlet) -> Result<Self, SessionError> {
        let name = outlet.name();
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            return Err(unknown(name, "is no tensor"));
        };
        let (element, shape) = (*ty, shape.to_vec());
        let kind = kind(name, element, &shape).ok_or_else(|| {
            unknown(name, &format!("is {} with {} axes", word(element), shape.len()))
        })?;
        let converted = match element {
            TensorElementType::Int32 => Converted::Int32(Vec::new()),
            TensorElementType::Float32 => Converted::Float(Vec::new()),
            TensorElementType::Float16 => Converted::Half(Vec::new()),
            TensorElementType::Bfloat16 => Converted::Brain(Vec::new()),
            TensorElementType::Bool => Converted::Bool(Vec::new()),
            _ => Converted::None,
        };
        Ok(Self { name: name.to_owned(), kind, element, shape, converted })
    }

    /// What is fed, for people.
    pub(super) fn describe(&self) -> String {
        let how = match self.kind {
            Kind::Ids | Kind::Mask | Kind::TypeIds => "",
            Kind::Positions => ", counted",
            Kind::Cache => ", empty",
            Kind::LogitsToKeep => ", 1",
            Kind::UseCache => ", false",
            Kind::Switch => ", a switch",
        };
        format!("{} ({}{how})", self.name, word(self.element))
    }

    /// The tensor for these rows; `switch` is the value of a switch.
    pub(super) fn feed<'r>(
        &'r mut self,
        rows: &'r Rows,
        switch: i64,
    ) -> Result<SessionInputValue<'r>, SessionError> {
        let values = match self.kind {
            Kind::Ids => &rows.ids,
            Kind::Mask => &rows.mask,
            Kind::TypeIds => &rows.type_ids,
            Kind::Positions => &rows.positions,
            Kind::Cache => return self.empty_cache(rows.texts),
            Kind::LogitsToKeep => return self.scalar(1, rows.texts),
            Kind::UseCache => return self.scalar(0, rows.texts),
            Kind::Switch => return self.scalar(switch, rows.texts),
        };
        self.converted.take(values);
        let shape = rows.shape().map(|size| size as i64);
        match &self.converted {
            Converted::None => view(&shape, values),
            Converted::Int32(values) => view(&shape, values),
            Converted::Float(values) => view(&shape, values),
            Converted::Half(values) => view(&shape, values),
            Converted::Brain(values) => view(&shape, values),
            Converted::Bool(values) => view(&shape, values),
        }
    }

    fn scalar(&mut self, value: i64, texts: usize) -> Result<SessionInputValue<'_>, SessionError> {
        let (shape, length): (Vec<i64>, usize) = match self.shape[..] {
            [] => (vec![], 1),
            [1] => (vec![1], 1),
            _ => (vec![texts as i64], texts),
        };
        let values = vec![value; length];
        self.converted.take(&values);
        match &self.converted {
            Converted::None => owned(shape, values),
            Converted::Int32(values) => owned(shape, values.clone()),
            Converted::Bool(values) => owned(shape, values.clone()),
            // `kind` lets no other through.
            _ => Err(unknown(&self.name, "has a type that no switch has")),
        }
    }

    fn empty_cache(&self, texts: usize) -> Result<SessionInputValue<'_>, SessionError> {
        let shape = vec![texts as i64, self.shape[1], 0, self.shape[3]];
        match self.element {
            TensorElementType::Float16 => owned::<f16>(shape, Vec::new()),
            TensorElementType::Bfloat16 => owned::<bf16>(shape, Vec::new()),
            _ => owned::<f32>(shape, Vec::new()),
        }
    }
}

impl Converted {
    fn take(&mut self, values: &[i64]) {
        match self {
            Self::None => {}
            // Ids and places are below the limits of a tokenizer and of a text; a switch is not.
            Self::Int32(to) => refill(to, values, |value| i32::try_from(value).unwrap_or(i32::MAX)),
            Self::Float(to) => refill(to, values, |value| value as f32),
            Self::Half(to) => refill(to, values, |value| f16::from_f32(value as f32)),
            Self::Brain(to) => refill(to, values, |value| bf16::from_f32(value as f32)),
            Self::Bool(to) => refill(to, values, |value| value != 0),
        }
    }
}

fn refill<T>(to: &mut Vec<T>, values: &[i64], convert: impl Fn(i64) -> T) {
    to.clear();
    to.extend(values.iter().map(|&value| convert(value)));
}

fn view<'r, T>(shape: &[i64], values: &'r [T]) -> Result<SessionInputValue<'r>, SessionError>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    Ok(TensorRef::from_array_view((shape.to_vec(), values)).map_err(run_failed)?.into())
}

fn owned<T>(shape: Vec<i64>, values: Vec<T>) -> Result<SessionInputValue<'static>, SessionError>
where
    T: ort::value::PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static,
{
    Ok(Tensor::from_array((shape, values)).map_err(run_failed)?.into())
}

/// What an input is for; `None` where it cannot be fed.
fn kind(name: &str, element: TensorElementType, shape: &[i64]) -> Option<Kind> {
    use TensorElementType::{Bfloat16, Bool, Float16, Float32, Int32, Int64};
    let is_integer = matches!(element, Int32 | Int64);
    let is_float = matches!(element, Float32 | Float16 | Bfloat16);
    // TensorFlow numbers the outputs of each node.
    let name = name.strip_suffix(":0").unwrap_or(name);
    let is_scalar = match shape {
        [] => true,
        [size] => *size == 1 || *size < 0,
        _ => false,
    };
    if let Some((kind, _)) = NAMES.iter().find(|(_, names)| names.contains(&name)) {
        let is_mask = *kind == Kind::Mask && (is_float || element == Bool);
        return (shape.len() == 2 && (is_integer || is_mask)).then_some(*kind);
    }
    if name.starts_with(CACHE) {
        let declared = |axis: usize| (1..=CACHE_AXIS_MAX).contains(&shape[axis]);
        let fits = shape.len() == CACHE_AXES && is_float && declared(1) && declared(3);
        return fits.then_some(Kind::Cache);
    }
    match (is_scalar, is_integer) {
        (true, true) if LOGITS_TO_KEEP.contains(&name) => Some(Kind::LogitsToKeep),
        (true, true) => Some(Kind::Switch),
        (true, false) if element == Bool && name == USE_CACHE => Some(Kind::UseCache),
        _ => None,
    }
}

fn unknown(name: &str, what: &str) -> SessionError {
    let known: Vec<&str> = NAMES.iter().map(|(_, names)| names[0]).collect();
    SessionError::Contract(format!(
        "the graph's input {name:.80} {what}, and cannot be fed; known are {}, an empty \
         past_key_values and whole numbers. Export the encoder alone (optimum-cli export onnx \
         --task feature-extraction), or serve the model with task = \"tensor\" in onnxd.toml",
        known.join(", ")
    ))
}

fn word(element: TensorElementType) -> String {
    format!("{element:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use TensorElementType::{Bool, Float16, Float32, Int32, Int64};

    use super::*;

    #[test]
    fn inputs_are_known_by_the_names_that_exporters_give_them() {
        for (name, element, shape, expected) in [
            ("input_ids", Int64, &[-1, -1][..], Some(Kind::Ids)),
            ("input_ids", Int32, &[-1, -1], Some(Kind::Ids)),
            ("input_ids", Float32, &[-1, -1], None),
            ("attention_mask", Float16, &[-1, -1], Some(Kind::Mask)),
            ("input_type", Int64, &[-1, -1], Some(Kind::TypeIds)),
            ("position_ids", Int64, &[-1, -1], Some(Kind::Positions)),
            ("past_key_values.0.key", Float32, &[-1, 2, -1, 8], Some(Kind::Cache)),
            ("past_key_values.0.key", Float32, &[-1, -1, -1, 8], None),
            ("task_id", Int64, &[], Some(Kind::Switch)),
            ("task_id", Int32, &[1], Some(Kind::Switch)),
            ("num_logits_to_keep", Int64, &[], Some(Kind::LogitsToKeep)),
            ("use_cache_branch", Bool, &[1], Some(Kind::UseCache)),
            ("pixel_values", Float32, &[-1, 3, 224, 224], None),
        ] {
            assert_eq!(kind(name, element, shape), expected, "{name} {element:?} {shape:?}");
        }
    }

    #[test]
    fn texts_are_padded_on_the_right_and_what_is_not_attended_to_is_masked() {
        let long = Tokens { ids: vec![5, 6, 7], type_ids: vec![0, 0, 1], attended: 2 };
        let short = Tokens { ids: vec![8], type_ids: vec![0], attended: 1 };
        let mut rows = Rows::default();
        rows.fill(&[&short, &long], 9, 2);
        assert_eq!(rows.shape(), [2, 3]);
        assert_eq!(rows.ids, [8, 9, 9, 5, 6, 7]);
        assert_eq!(rows.mask, [1, 0, 0, 1, 1, 0]);
        assert_eq!(rows.type_ids, [0, 0, 0, 0, 0, 1]);
        assert_eq!(rows.positions, [2, 3, 4, 2, 3, 4]);
    }
}
