//! The texts of a request as they are written: one string or a list of strings. Pure.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, SeqAccess, Visitor},
};

/// One string or a list of strings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inputs(pub(crate) Vec<String>);

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
