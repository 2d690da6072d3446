//! cellfs: one folder on every node, whose history is git.
#![doc = include_str!("ARCHITECTURE.md")]

pub mod base;
pub mod cli;
pub mod config;
pub mod control;
pub mod doors;
pub mod record;
pub mod store;
