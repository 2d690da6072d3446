//! What git trees cannot hold: one record per file, in a trie that git stores for us.
//!
//! Invariant: the record trees are a pure function of the records in them, so equal states
//! have equal ids on every node. No threads, no disk: objects come and go through
//! [`crate::store::objects::Objects`].

pub mod model;
