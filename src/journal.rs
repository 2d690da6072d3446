//! The write-ahead log of what was written on this node and is not yet in a commit.
//!
//! Invariants: an entry is in the log before the kernel is answered; it is durable before an
//! `fsync` is answered. Recovery yields a prefix of what was appended, never a damaged entry.
//! After a failed write or fsync the log is poisoned: nothing is appended any more, because
//! the kernel may have dropped the pages that it could not write. Threads: any; appends are
//! serialised by a mutex, fsyncs of several callers share one system call.
//! Nothing that the disk damaged is removed: it is kept in `journal/damaged`.
//!
//! On disk: `journal/<first number, 16 hex digits>.log`, each
//! `"cellfsJ1"` then frames `length u32 le | crc32 u32 le | postcard entry`.
//! An entry's number is the file's first number plus its place in the file.

pub mod entry;
mod log;
mod segment;
#[cfg(test)]
mod tests;

pub use entry::{Committed, Entry, Patch};
pub use log::{Damage, Journal, JournalError, Recovered};
