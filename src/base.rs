//! Words that all rooms share: ids, names, stamps, limits, clocks. No I/O but the clock and
//! [`durable`].
//!
//! Invariant: a value of a type in this room is valid; text and bytes from outside are
//! parsed into these types once, at the edge. No threads.

pub mod bytes_lru;
pub mod calendar;
pub mod cid;
pub mod clock;
pub mod durable;
pub mod format;
pub mod id;
pub mod limit;
pub mod mount_options;
pub mod name;
pub mod path;
pub mod size;
pub mod stamp;
pub mod sys;
