//! Wrong variants of the directories: each is refused, and the reason names the file.
