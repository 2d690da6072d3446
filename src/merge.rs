//! One pure function from a set of heads to what everybody shows.
//!
//! Invariant: results depend on the heads alone, not on the order in which they came, on who
//! asks, or on which of their ancestors are named too. Nothing here fails for what users did,
//! and no bytes that somebody wrote are lost: what cannot have its name is shown beside it.
//! The records do the merging ([`join`]); the rest derives: what a name shows ([`shown`]), what
//! an author's wish means ([`intent`]), git's tree of it ([`project`]), what changed
//! ([`diff`]), the commits that say so ([`view`]) and what stock git's commits mean
//! ([`stock`]). No threads, no disk, no clock.

pub mod ahead;
pub mod diff;
pub mod escape;
pub mod intent;
pub mod join;
pub mod project;
pub mod shown;
pub mod stock;
pub mod view;

#[cfg(test)]
mod tests;
