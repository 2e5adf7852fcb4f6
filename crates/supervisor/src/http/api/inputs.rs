//! The texts of a request: one string or a list of strings, within the limits.

use std::fmt;

use bytes::Bytes;
use onnxd_proto::limits::{GROUP_ITEMS_MAX, TEXT_BYTES_MAX};
use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

use crate::{
    dispatch::gather::Input,
    http::error::{ApiError, Kind},
};

/// Texts of one request. More are refused; clients send several requests then.
pub(crate) const INPUTS_MAX: usize = GROUP_ITEMS_MAX;

/// One string or a list of strings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inputs(Vec<String>);

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Inputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Inputs, E> {
                self.visit_string(text.to_owned())
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Inputs, E> {
                Ok(Inputs(vec![text]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut texts: A) -> Result<Inputs, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = texts.next_element()? {
                    all.push(text);
                }
                Ok(Inputs(all))
            }
        }

        deserializer.deserialize_any(Texts)
    }
}

impl Inputs {
    /// The texts, ready for the queue. `field` is what the contract calls them.
    ///
    /// # Errors
    /// There are none, too many, or one is too long.
    pub(crate) fn check(
        self,
        field: &'static str,
        normalize: Option<bool>,
        truncate: bool,
    ) -> Result<Vec<Input>, ApiError> {
        let wrong = |kind, message: String| Err(ApiError::new(kind, message).about(field));
        if self.0.is_empty() {
            return wrong(Kind::Empty, format!("`{field}` cannot be empty"));
        }
        if self.0.len() > INPUTS_MAX {
            let count = self.0.len();
            let message = format!("batch size {count} > maximum allowed batch size {INPUTS_MAX}");
            return wrong(Kind::Validation, message);
        }
        if let Some(text) = self.0.iter().find(|text| text.len() > TEXT_BYTES_MAX) {
            let message = format!(
                "Input validation error: a text of `{field}` has {} bytes, at most {TEXT_BYTES_MAX} are allowed",
                text.len()
            );
            return wrong(Kind::Validation, message);
        }
        let input = |text: String| Input { text: Bytes::from(text), normalize, truncate };
        Ok(self.0.into_iter().map(input).collect())
    }
}
