//! The `cellfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    cellfs::cli::main(std::env::args_os(), &cellfs::node::run)
}
