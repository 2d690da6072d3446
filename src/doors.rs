//! Ways in beside the mount: HTTP, and git over it.
//!
//! [`http`] owns the port and decides who may ask; [`git`] serves volumes to stock git, and
//! [`lfs`] their large files to stock git-lfs. What is behind the doors is given by traits that
//! the node implements. Everything here runs on the caller's tokio runtime.

pub mod git;
pub mod http;
pub mod lfs;
