//! How the embeddings of a text's tokens become one embedding: the modes of sentence-transformers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// One way to make one vector of the vectors of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingMode {
    /// The first token's vector.
    Cls,
    /// The largest value of each component.
    Max,
    /// The mean.
    Mean,
    /// The sum, divided by the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean, where the n-th token weighs n.
    WeightedMean,
    /// The last token's vector.
    LastToken,
}

impl PoolingMode {
    /// All modes, in the order in which sentence-transformers concatenates them.
    pub const ALL: [Self; 6] =
        [Self::Cls, Self::Max, Self::Mean, Self::MeanSqrtLen, Self::WeightedMean, Self::LastToken];

    /// Returns the word for it in files, messages and `/info`.
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

    /// Reads our word, or that of any release of sentence-transformers.
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
                return Err(format!("`{word}` is no pooling mode; known are {known}"));
            }
        })
    }
}

/// The modes whose results are concatenated, in this order; none where the graph pools by itself
/// or nothing is pooled. Written as `mean`, `cls+mean` or `none`; a list of words is read, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pooling(Vec<PoolingMode>);

impl Pooling {
    /// Nothing is pooled.
    pub const NONE: Self = Self(Vec::new());

    /// These modes, concatenated in this order.
    pub fn of(modes: impl Into<Vec<PoolingMode>>) -> Self {
        Self(modes.into())
    }

    /// Returns the modes.
    pub fn modes(&self) -> &[PoolingMode] {
        &self.0
    }

    /// Returns whether nothing is pooled.
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
        /// Either spelling.
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
    fn the_words_of_every_release_of_sentence_transformers_are_read() {
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
    fn json_is_one_word_and_a_list_is_read_too() {
        let two = Pooling::of([PoolingMode::Cls, PoolingMode::Mean]);
        assert_eq!(serde_json::to_string(&two).unwrap(), "\"cls+mean\"");
        for json in ["\"cls+mean\"", "[\"cls\", \"mean\"]"] {
            assert_eq!(serde_json::from_str::<Pooling>(json).unwrap(), two);
        }
        assert_eq!(serde_json::from_str::<Pooling>("[]").ok(), None);
    }
}
