//! What may be said of bytes by their ids.

use std::path::PathBuf;

use clap::{Args as Group, Subcommand};

use super::{Show, State, Volume};
use crate::base::cid::Cid;

/// Requests that are served beside one another, with some left for others.
const PARALLEL_MAX: i64 = 32;

fn id(text: &str) -> Result<Cid, String> {
    let looks = crate::base::cid::FORMS;
    text.parse().map_err(|e| format!("{e}; {looks}"))
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Add {
    /// The file; - for standard input
    pub(in crate::cli) file: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) state: State,
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Get {
    /// As cellfs add prints it; or a SHA-256, or git's id of an object
    #[arg(value_parser = id)]
    pub(in crate::cli) id: Cid,
    /// The file to write; - for standard output
    pub(in crate::cli) out: PathBuf,
    /// Also in the place of a file that is there
    #[arg(long)]
    pub(in crate::cli) force: bool,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) state: State,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Object {
    /// How long it is, what it is, and how much of it is here
    Stat(Stat),
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Stat {
    /// As cellfs add prints it; or a SHA-256, or git's id of an object
    #[arg(value_parser = id)]
    pub(in crate::cli) id: Cid,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) show: Show,
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Import {
    /// The directory
    pub(in crate::cli) dir: PathBuf,
    /// Files at a time
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u8).range(1..=PARALLEL_MAX))]
    pub(in crate::cli) parallel: u8,
    /// File that lists what is done, and is gone on with; made if need be
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) record: Option<PathBuf>,
    /// How often a file that failed is tried again, after a second each
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) retry: u8,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) state: State,
}
