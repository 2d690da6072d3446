//! The `cellfs` command.

use std::process::ExitCode;

use cellfs::config::Options;
use cellfs::control::failure::{Answer, Failure};
use cellfs::control::readiness::Readiness;

fn main() -> ExitCode {
    cellfs::cli::main(std::env::args_os(), &no_node)
}

/// Stands where the node will be.
fn no_node(_: Options, _: Readiness) -> Answer<()> {
    Err(Failure::bug("this build has no node in it"))
}
