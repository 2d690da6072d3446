//! Tests through real mounts, with the real program. They need `/dev/fuse` and root, and fail
//! without.

mod crash;
mod dead_mount;
mod demo;
mod departed;
mod fetches;
mod git;
mod harness;
mod held_open;
mod mounts;
mod operations;
mod real_tree;
mod strace_order;
mod sweep;
mod trouble;
mod two_nodes;
