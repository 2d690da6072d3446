//! What may be said of where large files are.

use std::path::PathBuf;

use clap::Args as Group;

use super::{Show, Volume};

#[derive(Debug, Group)]
pub(in crate::cli) struct At {
    /// A file or a directory: in a mounted folder, or with --volume from the volume's root
    pub(in crate::cli) path: PathBuf,
    #[command(flatten)]
    pub(in crate::cli) volume: Volume,
    #[command(flatten)]
    pub(in crate::cli) show: Show,
}

#[derive(Debug, Group)]
pub(in crate::cli) struct Tags {
    /// Give this node these tags, and no others
    #[arg(
        long,
        value_name = "TAG,TAG",
        value_delimiter = ',',
        conflicts_with = "clear"
    )]
    set: Vec<String>,
    /// Take all tags from this node
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    pub(in crate::cli) show: Show,
}

impl Tags {
    pub(in crate::cli) fn set(&self) -> Option<Vec<String>> {
        (self.clear || !self.set.is_empty()).then(|| self.set.clone())
    }
}
