//! Tests without a kernel mount, and tests of several nodes.

mod bench;
mod cli;
mod cluster;
mod git_door;
#[path = "../fuse-tests/harness.rs"]
mod harness;
mod http_door;
mod oracle;
mod packaging;
mod power;
mod sim;
mod tidy;
