//! How fields without a value are written, for clients of the first release. Used by the types of
//! [`api`](super).

/// Represents an empty text as `null`.
pub(super) mod null_if_empty {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::api) fn serialize<S: Serializer>(
        text: &str,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        Some(text).filter(|text| !text.is_empty()).serialize(serializer)
    }

    pub(in crate::api) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<String, D::Error> {
        Ok(Option::<String>::deserialize(from)?.unwrap_or_default())
    }
}

/// Represents a missing process as 0.
pub(super) mod zero_if_none {
    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde requires this signature")]
    pub(in crate::api) fn serialize<S: Serializer>(
        pid: &Option<i32>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(pid.unwrap_or(0))
    }

    pub(in crate::api) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<i32>, D::Error> {
        Ok(Option::<i32>::deserialize(from)?.filter(|pid| *pid != 0))
    }
}
