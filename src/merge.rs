//! stub
#![allow(missing_docs, unused_variables, missing_debug_implementations)]
pub mod shown {
    use crate::base::id::*; use crate::base::name::EntryName; use crate::base::stamp::Dot; use crate::record::model::Kind; use crate::record::{Source, Result, state::State};
    #[derive(Clone, Debug, PartialEq, Eq)] pub enum Role { Main, Copy { of: EntryName } }
    #[derive(Clone, Debug, PartialEq, Eq)] pub struct Version { pub id: FileId, pub content: Dot, pub location: Dot }
    #[derive(Clone, Debug, PartialEq, Eq)] pub struct Shown { pub name: EntryName, pub role: Role, pub dirs: Vec<FileId>, pub kind: Kind, pub blob: Oid, pub mode: u32, pub mtime: i64, pub uid: Option<u32>, pub gid: Option<u32>, pub versions: Vec<Version>, pub merged: bool }
    pub fn lookup(src: Source<'_>, s: &State, dirs: &[FileId], name: &EntryName) -> Result<Option<Shown>> { todo!() }
    pub fn list(src: Source<'_>, s: &State, dirs: &[FileId]) -> Result<Vec<Shown>> { todo!() }
}
pub mod author {
    use super::shown::Shown; use crate::base::id::*; use crate::base::name::EntryName; use crate::record::model::Kind; use crate::record::{Source, Result, state::State, change::Change};
    pub fn write(src: Source<'_>, s: &State, shown: &Shown, kind: Kind, blob: Oid) -> Result<Vec<Change>> { todo!() }
    pub fn delete(src: Source<'_>, s: &State, dirs: &[FileId], shown: &Shown) -> Result<Vec<Change>> { todo!() }
    pub fn rename(src: Source<'_>, s: &State, dirs: &[FileId], shown: &Shown, to: FileId, name: &EntryName) -> Result<Vec<Change>> { todo!() }
}
pub mod project { use crate::base::id::Oid; use crate::record::{Source, Result, state::State};
    pub fn project(src: Source<'_>, old: Option<(&State, Oid)>, new: &State) -> Result<Oid> { todo!() } }
pub mod diff { use crate::base::id::FileId; use crate::base::name::EntryName; use crate::record::{Source, Result, state::State};
    pub struct ChangedName { pub dir: FileId, pub name: EntryName } pub struct Changes { pub names: Vec<ChangedName>, pub dirs: Vec<FileId> }
    pub fn diff(src: Source<'_>, a: &State, b: &State) -> Result<Changes> { todo!() } }
pub mod join { use crate::base::id::*; pub use crate::record::draft::Dots; use crate::record::{Source, Result, state::State};
    pub struct Head { pub commit: Oid, pub state: State, pub seen: Vec<(BranchId, u64)> }
    pub fn join(src: Source<'_>, heads: &[Head], dots: &dyn Dots) -> Result<State> { todo!() } }
pub mod view { use crate::base::id::Oid; use crate::base::stamp::Dot; use crate::record::Result; use crate::store::objects::Objects;
    pub struct Own<'a> { pub tree: Oid, pub parents: &'a [Oid], pub author: (String, String), pub time_s: i64, pub message: &'a str, pub dot: Dot }
    pub fn own_commit(o: &dyn Objects, c: &Own<'_>) -> Result<Oid> { todo!() }
    pub fn view_commit(o: &dyn Objects, tree: Oid, contents: &[Oid]) -> Result<Oid> { todo!() } }
pub mod stock { use crate::base::id::Oid; use crate::record::{Source, Result, state::State, change::Change};
    pub fn changes(src: Source<'_>, s: &State, from: Oid, to: Oid) -> Result<Vec<Change>> { todo!() } }
