//! Pooling of token embeddings into one embedding: the modes of sentence-transformers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// One way to pool token vectors into one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingMode {
    /// The first token's vector.
    Cls,
    /// The maximum of each component.
    Max,
    /// The mean.
    Mean,
    /// The sum, divided by the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean, in which the n-th token has weight n.
    WeightedMean,
    /// The last token's vector.
    LastToken,
}

impl PoolingMode {
    /// All modes, in the order in which sentence-transformers concatenates them.
    pub const ALL: [Self; 6] =
        [Self::Cls, Self::Max, Self::Mean, Self::MeanSqrtLen, Self::WeightedMean, Self::LastToken];

    /// Returns the mode's name in files, messages and `/info`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len",
            Self::WeightedMean => "weighted_mean",
            Self::LastToken => "last_token",
        }
    }
}

impl FromStr for PoolingMode {
    type Err = String;

    /// Parses onnxd's name, or that of any release of sentence-transformers.
    fn from_str(word: &str) -> Result<Self, String> {
        let bare = word.strip_suffix("_tokens").or_else(|| word.strip_suffix("_token"));
        Ok(match if word == "last_token" { word } else { bare.unwrap_or(word) } {
            "cls" => Self::Cls,
            "max" => Self::Max,
            "mean" => Self::Mean,
            "mean_sqrt_len" => Self::MeanSqrtLen,
            "weightedmean" | "weighted_mean" => Self::WeightedMean,
            "lasttoken" | "last_token" => Self::LastToken,
            _ => {
                let known = Self::ALL.map(Self::as_str).join(", ");
                return Err(format!("unknown pooling mode `{word}`; expected one of {known}"));
            }
        })
    }
}

/// Modes whose results are concatenated in this order. Empty if the graph pools or nothing does.
/// Written as `mean`, `cls+mean` or `none`; JSON may also use a list of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pooling(Vec<PoolingMode>);

impl Pooling {
    /// No pooling.
    pub const NONE: Self = Self(Vec::new());

    /// Concatenates these modes in this order.
    pub fn new(modes: impl Into<Vec<PoolingMode>>) -> Self {
        Self(modes.into())
    }

    /// Returns the modes.
    pub fn modes(&self) -> &[PoolingMode] {
        &self.0
    }

    /// Returns whether the list of modes is empty.
    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<PoolingMode> for Pooling {
    fn from(mode: PoolingMode) -> Self {
        Self(vec![mode])
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("none");
        }
        let words: Vec<&str> = self.0.iter().map(|mode| mode.as_str()).collect();
        f.write_str(&words.join("+"))
    }
}

impl FromStr for Pooling {
    type Err = String;

    fn from_str(words: &str) -> Result<Self, String> {
        match words {
            "none" => Ok(Self::NONE),
            words => {
                words.split('+').map(|word| word.trim().parse()).collect::<Result<_, _>>().map(Self)
            }
        }
    }
}

impl Serialize for Pooling {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pooling {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Words {
            One(String),
            Several(Vec<String>),
        }
        let words = match Words::deserialize(deserializer)? {
            Words::One(words) => words,
            Words::Several(words) => words.join("+"),
        };
        words.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_sentence_transformers_release_parse() {
        for (words, modes) in [
            ("cls", "cls"),
            ("cls_token", "cls"),
            ("mean_tokens", "mean"),
            ("mean_sqrt_len_tokens", "mean_sqrt_len"),
            ("weightedmean_tokens", "weighted_mean"),
            ("lasttoken", "last_token"),
            ("last_token", "last_token"),
            ("cls + mean", "cls+mean"),
            ("none", "none"),
        ] {
            assert_eq!(words.parse::<Pooling>().unwrap().to_string(), modes);
        }
        assert!("mean+median".parse::<Pooling>().unwrap_err().contains("median"));
        assert!("".parse::<Pooling>().is_err());
    }

    #[test]
    fn json_is_written_as_one_word_and_read_as_word_or_list() {
        let two = Pooling::new([PoolingMode::Cls, PoolingMode::Mean]);
        assert_eq!(serde_json::to_string(&two).unwrap(), "\"cls+mean\"");
        for json in ["\"cls+mean\"", "[\"cls\", \"mean\"]"] {
            assert_eq!(serde_json::from_str::<Pooling>(json).unwrap(), two);
        }
        assert_eq!(serde_json::from_str::<Pooling>("[]").ok(), None);
    }
}
