//! One pure function from a set of heads to what everybody shows.
//!
//! Invariant: results depend on the heads alone, not on the order in which they came, on who
//! asks, or on which of their ancestors are named too. Nothing here fails for what users did,
//! and no bytes that somebody wrote are lost: what cannot have its name is shown beside it.
//! The records do the merging ([`join`]); the rest derives: what a name shows ([`shown`]), what
//! an author's wish means ([`intent`]), git's tree of it ([`project`]), what changed
//! ([`diff`]), the commits that say so ([`view`]) and what stock git's commits mean
//! ([`stock`]). No threads, no disk, no clock.

pub mod intent;
pub mod join;
pub mod shown;

#[allow(missing_docs, unused_variables, missing_debug_implementations)]
mod stub {
    pub mod project {
        use crate::base::id::Oid;
        use crate::record::{Result, Source, state::State};
        pub fn project(src: Source<'_>, old: Option<(&State, Oid)>, new: &State) -> Result<Oid> {
            todo!()
        }
    }
    pub mod diff {
        use crate::base::id::FileId;
        use crate::base::name::EntryName;
        use crate::record::{Result, Source, state::State};
        pub struct ChangedName {
            pub dir: FileId,
            pub name: EntryName,
        }
        pub struct Changes {
            pub names: Vec<ChangedName>,
            pub dirs: Vec<FileId>,
        }
        pub fn diff(src: Source<'_>, a: &State, b: &State) -> Result<Changes> {
            todo!()
        }
    }
    pub mod view {
        use crate::base::id::Oid;
        use crate::base::stamp::Dot;
        use crate::record::Result;
        use crate::store::objects::Objects;
        pub struct Own<'a> {
            pub tree: Oid,
            pub parents: &'a [Oid],
            pub author: (String, String),
            pub time_s: i64,
            pub message: &'a str,
            pub dot: Dot,
        }
        pub fn own_commit(o: &dyn Objects, c: &Own<'_>) -> Result<Oid> {
            todo!()
        }
        pub fn view_commit(o: &dyn Objects, tree: Oid, contents: &[Oid]) -> Result<Oid> {
            todo!()
        }
    }
    pub mod stock {
        use crate::base::id::Oid;
        use crate::record::{Result, Source, change::Change, state::State};
        pub fn changes(src: Source<'_>, s: &State, from: Oid, to: Oid) -> Result<Vec<Change>> {
            todo!()
        }
    }
}
pub use stub::*;
