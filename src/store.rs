//! Objects on disk: one bare git repository per volume.
//!
//! Invariant: whatever is left on disk passes `git fsck --strict`; an object is durable before
//! anything that names it is, in a pack or in the log of the caller ([`tail`]). Everything here is synchronous; callers bring the threads.

pub mod check;
pub mod closure;
pub mod gc;
pub mod incoming;
pub mod objects;
pub mod pack;
pub mod repack;
pub mod repo;
pub mod tail;
