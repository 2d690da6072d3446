//! Tests through real mounts, with the real program.

mod crash;
mod dead_mount;
mod git;
mod harness;
mod held_open;
mod mounts;
mod operations;
mod real_tree;
mod sweep;
mod two_nodes;
