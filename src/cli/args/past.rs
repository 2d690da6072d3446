//! What may be said of the past and of conflicts.

use std::path::PathBuf;

use clap::Args as Group;

use super::{Show, State, Volume};

#[derive(Debug, Group)]
pub(in crate::cli) struct Conflicts {
    /// Only those at or below this path [default: all]
    #[arg(value_name = "DIR")]
    pub(in crate::cli) below: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) show: Show,
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Resolve {
    /// The file: in a mounted folder, or with --volume from the volume's root
    pub(in crate::cli) path: PathBuf,
    /// Version to take: a copy's name or path, main for the one that has the name, node:NAME
    #[arg(
        long,
        value_name = "COPY|main|node:NAME",
        required_unless_present = "edit",
        conflicts_with = "edit"
    )]
    pub(in crate::cli) take: Option<PathBuf>,
    /// Put the versions together in $EDITOR
    #[arg(long)]
    pub(in crate::cli) edit: bool,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) show: Show,
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Merges {
    /// At most so many
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub(in crate::cli) limit: u32,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) show: Show,
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Diff {
    /// Time, commit, branch or tag: 2026-11-21T10:00 (UTC), 10min, 1a2b3c4d, main
    #[arg(value_name = "A")]
    pub(in crate::cli) a: String,
    /// The same, for the other side
    #[arg(value_name = "B")]
    pub(in crate::cli) b: String,
    /// The file or directory: in a mounted folder, or with --volume from the volume's root
    pub(in crate::cli) path: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) state: State,
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Restore {
    /// The file or directory: in a mounted folder, or with --volume from the volume's root
    pub(in crate::cli) path: PathBuf,
    /// As of when: 2026-11-21T10:00 (UTC), 10min, a commit, a branch or a tag
    #[arg(long, value_name = "TIME|COMMIT")]
    pub(in crate::cli) at: String,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) show: Show,
}
