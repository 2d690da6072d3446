//! Content that a git client brought ahead of its records (rule 3).
//!
//! A client that clones from one node and pushes to another, which that node cannot reach, hands
//! over commits whose records are still to come. Each says which record it belongs to, and by
//! what ids the files are known that it made or moved. So the push goes on with the same files,
//! on top of the versions that it replaces, and when the records come nothing is there twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::base::id::{FileId, Oid};
use crate::base::limit;
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::merge::view;
use crate::record::Result;
use crate::record::commit::Carried;
use crate::record::git_commit::{self, GitCommit};
use crate::record::git_tree::{self, TreeEntry};
use crate::store::objects::Objects;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Ahead {
    /// The commits.
    pub commits: Vec<Carried>,
    /// Paths of git's trees that they changed: files in them, and files that they removed.
    touched: BTreeMap<Vec<u8>, BTreeSet<Dot>>,
    ids: HashMap<u32, Vec<FileId>>,
}

impl Ahead {
    /// Reads content commits, latest first; those that say nothing of a record are left out.
    ///
    /// # Errors
    /// When a commit or a tree cannot be read.
    pub fn read(objs: &dyn Objects, commits: &[(Oid, GitCommit)]) -> Result<Self> {
        let mut out = Self::default();
        let named = commits
            .iter()
            .filter_map(|(id, c)| Some((*id, c, view::dot_of(c)?)));
        for (content, commit, dot) in named.take(limit::CARRIED_COMMITS_MAX) {
            out.commits.push(Carried { dot, content });
            for (hash, id) in view::ids_of(commit) {
                let known = out.ids.entry(hash).or_default();
                if !known.contains(&id) {
                    known.push(id);
                }
            }
            let mut parents = Vec::with_capacity(commit.parents.len());
            for p in &commit.parents {
                parents.push(Some(git_commit::read(objs, p)?.tree));
            }
            out.touch(objs, commit.tree, parents, dot)?;
        }
        Ok(out)
    }

    /// The commits that changed what is at a path.
    #[must_use]
    pub fn dots(&self, path: &[u8]) -> Vec<Dot> {
        let dots = self.touched.get(path);
        dots.into_iter().flatten().copied().collect()
    }

    /// All paths that were changed.
    pub fn paths(&self) -> impl Iterator<Item = &[u8]> {
        self.touched.keys().map(Vec::as_slice)
    }

    /// The ids under which files at this name may be known, the latest first.
    pub fn ids(&self, dirs: &[FileId], name: &EntryName) -> impl Iterator<Item = FileId> {
        let hashes = dirs.iter().map(|d| view::place_hash(*d, name));
        let known = hashes.filter_map(|hash| self.ids.get(&hash));
        known.flatten().copied()
    }

    /// Notes where the tree differs from all of the others.
    fn touch(
        &mut self,
        objs: &dyn Objects,
        tree: Oid,
        parents: Vec<Option<Oid>>,
        dot: Dot,
    ) -> Result<()> {
        let mut todo = vec![(Vec::new(), Some(tree), parents)];
        while let Some((path, tree, parents)) = todo.pop() {
            if parents.contains(&tree) {
                continue;
            }
            let new = entries(objs, tree)?;
            let mut old = Vec::with_capacity(parents.len());
            for p in parents {
                old.push(entries(objs, p)?);
            }
            let names: BTreeSet<&Vec<u8>> = new
                .keys()
                .chain(old.iter().flat_map(|o| o.keys()))
                .collect();
            for name in names {
                let now = new.get(name);
                if old.iter().any(|o| o.get(name) == now) {
                    continue;
                }
                let at = join(&path, name);
                let subtree = |e: Option<&TreeEntry>| e.filter(|e| e.is_tree()).map(|e| e.id);
                let was: Vec<Option<&TreeEntry>> = old.iter().map(|o| o.get(name)).collect();
                let is_file = |e: &TreeEntry| !e.is_tree();
                if now.is_some_and(is_file) || was.iter().flatten().any(|e| is_file(e)) {
                    self.touched.entry(at.clone()).or_default().insert(dot);
                }
                let below: Vec<Option<Oid>> = was.into_iter().map(subtree).collect();
                if subtree(now).is_some() || below.iter().any(Option::is_some) {
                    todo.push((at, subtree(now), below));
                }
            }
        }
        Ok(())
    }
}

fn entries(objs: &dyn Objects, tree: Option<Oid>) -> Result<BTreeMap<Vec<u8>, TreeEntry>> {
    let all = match tree {
        Some(tree) => git_tree::read(objs, &tree)?,
        None => Vec::new(),
    };
    Ok(all.into_iter().map(|e| (e.name.clone(), e)).collect())
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}
