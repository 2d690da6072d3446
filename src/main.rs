//! The `cellfs` command.

fn main() {}
