//! Kinds of models, each in a folder of its own.

pub(crate) mod group;
pub(crate) mod loaded;
pub(crate) mod tensor;
pub(crate) mod text;

pub(crate) use self::loaded::LoadedVersion;
