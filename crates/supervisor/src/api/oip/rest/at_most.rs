//! Lists in JSON that end early where there are more elements than there may be, so that a body
//! does not become many times as large in memory. Pure.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error, SeqAccess, Visitor},
};

/// Deserializes a list of at most `MAX` elements.
///
/// # Errors
/// There are more, or one is none.
pub(super) fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>, const MAX: usize>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    deserializer.deserialize_any(AtMost::<T, MAX>(PhantomData))
}

struct AtMost<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for AtMost<T, MAX> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX}")
    }

    /// Clients that write all their fields write null where they have nothing to say.
    fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(element) = list.next_element()? {
            if all.len() == MAX {
                return Err(A::Error::custom(format!("there are more than {MAX} elements")));
            }
            all.push(element);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_ends_where_there_are_too_many() {
        let read = |json: &str| {
            at_most::<_, u8, 3>(&mut serde_json::Deserializer::from_str(json))
                .map_err(|e| e.to_string())
        };
        assert_eq!(read("[1,2,3]"), Ok(vec![1, 2, 3]));
        // What follows is not read: it is no number.
        assert!(read("[1,2,3,4,x").unwrap_err().contains("more than 3"));
        assert_eq!(read("null"), Ok(vec![]));
        assert!(read("1").unwrap_err().contains("at most 3"));
    }
}
