//! Tests without a kernel mount.

mod cli;
mod git_door;
mod http_door;
mod packaging;
mod power;
mod tidy;
