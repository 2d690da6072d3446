//! Tests without a kernel mount, and tests of several nodes.

mod bench;
mod big;
mod by_id;
mod cli;
mod cluster;
mod derive;
mod git_door;
mod growth;
#[path = "../fuse-tests/harness.rs"]
mod harness;
mod http_door;
mod lfs_door;
mod lfs_node;
mod mount;
mod oracle;
mod packaging;
mod power;
mod sim;
mod tidy;
