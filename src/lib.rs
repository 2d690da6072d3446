//! cellfs: one folder on every node, whose history is git.
#![doc = include_str!("ARCHITECTURE.md")]

pub mod base;
pub mod chunk;
pub mod cli;
pub mod config;
pub mod control;
pub mod copies;
pub mod doors;
pub mod driver;
pub mod fs;
pub mod fuse;
pub mod history;
pub mod journal;
pub mod merge;
pub mod node;
pub mod peers;
pub mod record;
pub mod replicator;
pub mod store;
pub mod swarm;
pub mod volume;
