//! Why there is no answer about the past.

use crate::base::calendar;
use crate::base::path::VolumePath;
use crate::record::RecordError;

/// See the module. Each variant is one situation; whoever talks to people adds what mends it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The records could not be read.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// There is no such path, nor was there.
    #[error("there is no {0} and there never was")]
    NoPath(VolumePath),
    /// There is no such path now.
    #[error("there is no {0} now")]
    NotNow(VolumePath),
    /// There was no such path then.
    #[error("there was no {path} at {when}")]
    NotThen {
        /// The path.
        path: VolumePath,
        /// What was given for the time.
        when: String,
    },
    /// Neither a time nor a commit.
    #[error("{0:?} is no time, commit, branch or tag")]
    NoSpec(String),
    /// The start of several commit ids.
    #[error("several commits begin with {spec}: {}", ids.join(", "))]
    Ambiguous {
        /// What was given.
        spec: String,
        /// Some of them.
        ids: Vec<String>,
    },
    /// A time before anything was written.
    #[error("nothing was written before {}", calendar::show(*.first))]
    BeforeFirst {
        /// When the first commit was made, in seconds since 1970.
        first: i64,
    },
    /// A time to come.
    #[error("{0:?} has not come yet")]
    Future(String),
    /// Nothing was ever written.
    #[error("nothing was written yet")]
    Empty,
    /// Nothing to settle at a path.
    #[error("there is no conflict at {0}")]
    NoConflict(VolumePath),
    /// The path of a conflict copy, not of what it is a copy of.
    #[error("{copy} is a conflict copy of {of}")]
    IsCopy {
        /// The path.
        copy: VolumePath,
        /// What to name instead.
        of: VolumePath,
    },
    /// Nothing of the sort is among the versions.
    #[error("{take} is none of the versions of {path}: {}", have.join(", "))]
    NoVersion {
        /// The path.
        path: VolumePath,
        /// What was asked for.
        take: String,
        /// What there is.
        have: Vec<String>,
    },
    /// Several versions are of one node.
    #[error("several versions of {path} fit {take}: {}", have.join(", "))]
    ManyVersions {
        /// The path.
        path: VolumePath,
        /// What was asked for.
        take: String,
        /// Their paths.
        have: Vec<String>,
    },
    /// A directory has the name.
    #[error("{0} is a directory now")]
    IsDirectory(VolumePath),
    /// What has to be a directory is none.
    #[error("{0} is not a directory now")]
    NotDirectory(VolumePath),
    /// Not for directories.
    #[error("{0} is a directory")]
    NotFile(VolumePath),
    /// The name that the folder keeps for itself.
    #[error("{0} is the folder's own")]
    Own(VolumePath),
}
