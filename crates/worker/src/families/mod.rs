//! Kinds of models, each in a folder of its own behind the trait [`family::Family`]. A table
//! ([`table`]) maps a version's files to the family that opens it; everything outside this folder
//! sees a [`LoadedVersion`] only. Serving and checking call it; it calls sessions, and reads what
//! lies on disk of a version.

pub(crate) mod family;
pub(crate) mod group;
pub(crate) mod loaded;
pub(crate) mod own;
pub(crate) mod table;
pub(crate) mod tensor;
pub(crate) mod text;

pub(crate) use self::loaded::LoadedVersion;
