//! Inputs of a text graph: recognizes what each one is for, and builds the tensors to feed. Used by
//! [`super::texts`].

use half::{bf16, f16};
use ort::{
    session::SessionInputValue,
    value::{Outlet, Tensor, TensorElementType, TensorRef, ValueType},
};

use super::{
    error::{SessionError, run_failed},
    texts::Tokens,
};

/// Input names by purpose; exporters differ.
const NAMES: [(Kind, &[&str]); 4] = [
    (Kind::Ids, &["input_ids", "input_word_ids"]),
    (Kind::Mask, &["attention_mask", "input_mask"]),
    (Kind::TypeIds, &["token_type_ids", "input_type", "input_type_ids", "segment_ids"]),
    (Kind::Positions, &["position_ids"]),
];
/// Inputs for the number of logits that a decoder computes at the end of a text.
const LOGITS_TO_KEEP: [&str; 2] = ["logits_to_keep", "num_logits_to_keep"];
/// Input that tells a decoder whether to use its cache.
const USE_CACHE: &str = "use_cache_branch";
/// Prefix of the inputs of a decoder's cache.
const CACHE: &str = "past_key";
/// Axes of a cache input: texts, heads, tokens, components.
const CACHE_AXES: usize = 4;
/// Maximum heads or components of a cache input. An empty one takes no memory.
const CACHE_AXIS_MAX: i64 = 1 << 20;

/// The purpose of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Token ids.
    Ids,
    /// 1 where a token is attended to.
    Mask,
    /// Segment ids: which of two texts a token belongs to.
    TypeIds,
    /// Position of each token in its text, starting at 0.
    Positions,
    /// The decoder's cache, always empty.
    Cache,
    /// Always 1.
    LogitsToKeep,
    /// Always false.
    UseCache,
    /// A scalar that changes what the graph computes.
    Switch,
}

/// An input of the graph.
pub(super) struct GraphInput {
    pub(super) name: String,
    pub(super) kind: Kind,
    element: TensorElementType,
    /// The declared shape; -1 means any size.
    shape: Vec<i64>,
    /// Values converted to the input's type, if that is not int64.
    converted: Converted,
}

/// Buffers reused across runs.
enum Converted {
    None,
    Int32(Vec<i32>),
    Float(Vec<f32>),
    Half(Vec<f16>),
    Brain(Vec<bf16>),
    Bool(Vec<bool>),
}

/// Input values, one row per text, reused across runs.
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
    /// Fills the rows with texts, padded with `pad_id` to the longest. Positions start at
    /// `first_position`.
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
            // Keeps positions within those of the longest text.
            let count = (end - self.positions.len()) as i64;
            self.positions.extend(first_position..first_position + count);
            self.ids.resize(end, pad_id);
            self.type_ids.resize(end, 0);
            self.mask.resize(end, 0);
        }
    }

    /// Returns the number of texts, and of tokens per text including padding.
    pub(super) fn shape(&self) -> [usize; 2] {
        [self.texts, self.tokens]
    }
}

impl GraphInput {
    /// Recognizes an input of the graph.
    pub(super) fn new(outlet: &Outlet) -> Result<Self, SessionError> {
        let name = outlet.name();
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            return Err(unknown(name, "is not a tensor"));
        };
        let (element, shape) = (*ty, shape.to_vec());
        let kind = kind(name, element, &shape).ok_or_else(|| {
            unknown(name, &format!("has type {} and {} axes", word(element), shape.len()))
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

    /// Returns a human-readable description of the input.
    pub(super) fn describe(&self) -> String {
        let note = match self.kind {
            Kind::Ids | Kind::Mask | Kind::TypeIds => "",
            Kind::Positions => ", counted",
            Kind::Cache => ", empty",
            Kind::LogitsToKeep => ", 1",
            Kind::UseCache => ", false",
            Kind::Switch => ", a switch",
        };
        format!("{} ({}{note})", self.name, word(self.element))
    }

    /// Builds the tensor for these rows. `switch` is the value of a switch.
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
            // Unreachable: `kind` admits no other type.
            _ => Err(unknown(&self.name, "has a type that switches cannot have")),
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
            // Ids and positions fit int32 because tokenizers and texts are limited. Switches may
            // not fit.
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

/// Returns the purpose of an input, or `None` if it cannot be fed.
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
        "graph input {name:.80} {what}, which is not supported; supported are {}, an empty \
         past_key_values and integer scalars. Export only the encoder (optimum-cli export onnx \
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
    fn inputs_are_recognized_by_exporters_names() {
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
    fn texts_are_padded_on_the_right_and_masked() {
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
