//! Where intent comes from.

pub mod file;
