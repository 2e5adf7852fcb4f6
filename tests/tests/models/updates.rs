//! Each directory is updated from and to another version of its family while clients ask.
