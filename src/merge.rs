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

#[allow(missing_docs, missing_debug_implementations, clippy::all)]
pub mod project {
    use crate::base::id::{FileId, Oid};
    use crate::merge::shown;
    use crate::record::model::Kind;
    use crate::record::{
        Result, Source,
        git_tree::{self, TreeEntry},
        state::State,
    };
    pub fn project(src: Source<'_>, _old: Option<(&State, Oid)>, new: &State) -> Result<Oid> {
        Ok(dir(src, new, &[FileId::ROOT])?.0)
    }
    fn dir(src: Source<'_>, new: &State, dirs: &[FileId]) -> Result<(Oid, bool)> {
        let mut es = Vec::new();
        for s in shown::list(src, new, dirs)? {
            let (mode, id) = match s.kind {
                Kind::Dir => {
                    let (t, any) = dir(src, new, &s.dirs)?;
                    if !any {
                        continue;
                    }
                    (git_tree::TREE, t)
                }
                Kind::File => (
                    if s.mode & 0o100 != 0 {
                        0o100755
                    } else {
                        0o100644
                    },
                    s.blob,
                ),
                Kind::Symlink => (0o120000, s.blob),
                Kind::Gitlink => (0o160000, s.blob),
            };
            es.push(TreeEntry {
                mode,
                name: s.name.as_bytes().to_vec(),
                id,
            });
        }
        let any = !es.is_empty();
        Ok((git_tree::put(src.objs, es)?, any))
    }
}
#[allow(missing_docs, missing_debug_implementations, clippy::all)]
pub mod diff {
    use crate::base::id::FileId;
    use crate::base::name::EntryName;
    use crate::merge::shown;
    use crate::record::{Result, Source, state::State};
    use std::collections::BTreeSet;
    pub struct ChangedName {
        pub dir: FileId,
        pub name: EntryName,
    }
    pub struct Changes {
        pub names: Vec<ChangedName>,
        pub dirs: Vec<FileId>,
    }
    pub fn diff(src: Source<'_>, a: &State, b: &State) -> Result<Changes> {
        let mut out = Changes {
            names: vec![],
            dirs: vec![],
        };
        let mut q = vec![(vec![FileId::ROOT], vec![FileId::ROOT])];
        while let Some((da, db)) = q.pop() {
            let (la, lb) = (shown::list(src, a, &da)?, shown::list(src, b, &db)?);
            let names: BTreeSet<_> = la.iter().chain(&lb).map(|s| s.name.clone()).collect();
            for n in names {
                let x = la.iter().find(|s| s.name == n);
                let y = lb.iter().find(|s| s.name == n);
                if x != y {
                    out.names.push(ChangedName {
                        dir: db.first().copied().unwrap_or_default(),
                        name: n,
                    });
                }
                let (dx, dy) = (
                    x.map(|s| s.dirs.clone()).unwrap_or_default(),
                    y.map(|s| s.dirs.clone()).unwrap_or_default(),
                );
                if !dx.is_empty() || !dy.is_empty() {
                    q.push((dx, dy));
                }
            }
        }
        Ok(out)
    }
}
#[allow(missing_docs, missing_debug_implementations, clippy::all)]
pub mod view {
    use crate::base::id::Oid;
    use crate::base::stamp::Dot;
    use crate::record::{Result, git_commit};
    use crate::store::objects::{ObjectKind, Objects};
    pub struct Own<'a> {
        pub tree: Oid,
        pub parents: &'a [Oid],
        pub author: (String, String),
        pub time_s: i64,
        pub message: &'a str,
        pub dot: Dot,
    }
    pub fn own_commit(o: &dyn Objects, c: &Own<'_>) -> Result<Oid> {
        let mut s = format!("tree {}\n", c.tree);
        for p in c.parents {
            s += &format!("parent {p}\n");
        }
        let w = format!("{} <{}> {} +0000", c.author.0, c.author.1, c.time_s);
        s += &format!(
            "author {w}\ncommitter {w}\ncellfs-dot {} {}\n\n{}",
            c.dot.branch, c.dot.seq, c.message
        );
        Ok(o.put(ObjectKind::Commit, s.into_bytes())?)
    }
    pub fn view_commit(o: &dyn Objects, tree: Oid, contents: &[Oid]) -> Result<Oid> {
        let mut s = format!("tree {tree}\n");
        let mut t = 0;
        for p in contents {
            s += &format!("parent {p}\n");
            t = t.max(git_commit::read(o, p)?.seconds());
        }
        let w = format!("cellfs <cellfs@localhost> {t} +0000");
        s += &format!("author {w}\ncommitter {w}\ncellfs-merge 1\n\nview\n");
        Ok(o.put(ObjectKind::Commit, s.into_bytes())?)
    }
}
#[allow(missing_docs, missing_debug_implementations, clippy::all)]
pub mod stock {
    use crate::base::id::Oid;
    use crate::record::{Result, Source, change::Change, state::State};
    pub fn changes(_src: Source<'_>, _s: &State, _from: Oid, _to: Oid) -> Result<Vec<Change>> {
        Ok(vec![])
    }
}
