//! Model families: each is a folder that implements [`family::Family`]. [`table`] maps a version's
//! files to the family that opens it; code outside this folder sees only [`LoadedVersion`]. Called
//! by serving and checking; calls sessions and reads the version's files.

pub(crate) mod family;
pub(crate) mod group;
pub(crate) mod loaded;
pub(crate) mod own;
pub(crate) mod table;
pub(crate) mod tensor;
pub(crate) mod text;

pub(crate) use self::loaded::LoadedVersion;
