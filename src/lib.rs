//! cellfs: one folder on every node, whose history is git.
#![doc = include_str!("ARCHITECTURE.md")]

pub mod base;
pub mod peers;
pub mod record;
pub mod store;
