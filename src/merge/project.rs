//! A state as stock git sees it: a tree of plain content.
//!
//! Invariant: the tree follows from the state alone, and an old state with its tree only saves
//! work: directories in which nothing changed are taken over. Directories without any content
//! are left out, for git has no empty ones, and so is what lies deeper than git reads.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::chunk::{manifest, pointer};
use crate::merge::escape::escape;
use crate::merge::shown::{self, Shown};
use crate::record::git_tree::{self, EXECUTABLE, Edits, FILE, GITLINK, LINK, TREE, TreeEntry};
use crate::record::model::{Kind, Record};
use crate::record::state::State;
use crate::record::{Result, Source, conflict, trie};
use crate::store::objects::{ObjectKind, Objects, id_of};

/// git reads no tree below this many others (its `core.maxTreeDepth`, less some).
const DEPTH_MAX: usize = 2000;

/// The content tree of a state. `old` is another state with its tree, to start from.
///
/// # Errors
/// When a state cannot be read or the tree not written.
pub fn project(src: Source<'_>, old: Option<(&State, Oid)>, new: &State) -> Result<Oid> {
    let mut projector = Projector {
        src,
        new,
        old,
        changed: BTreeMap::new(),
        empty: id_of(ObjectKind::Tree, b""),
    };
    if let Some((state, tree)) = old {
        if state == new {
            return Ok(tree);
        }
        projector.find_changed(state)?;
    }
    projector.run()
}

struct Projector<'a> {
    src: Source<'a>,
    new: &'a State,
    old: Option<(&'a State, Oid)>,
    /// Names whose entries may differ, by directory.
    changed: BTreeMap<FileId, BTreeSet<EntryName>>,
    /// The tree without entries.
    empty: Oid,
}

/// A directory that is being written.
struct Frame {
    /// Its name in the directory above.
    name: Vec<u8>,
    /// The old tree, if it is edited and not made anew.
    old: Option<Oid>,
    entries: Edits,
    /// Directories in it that are still to be written.
    below: Vec<(Vec<u8>, Vec<FileId>)>,
}

impl Projector<'_> {
    /// Notes each name at which a file was or is whose record differs, and the names of all
    /// directories above.
    fn find_changed(&mut self, old: &State) -> Result<()> {
        let roots = [old.ids, self.new.ids];
        trie::visit_differing(self.src, &roots, &mut |_, row: &[Option<&Record>]| {
            for (r, state) in row.iter().zip([old, self.new]) {
                // What a file is shows under all its names.
                let places = r.map_or(Ok(Vec::new()), |r| state.places(self.src, r))?;
                for place in places {
                    self.note(place.parent, place.name)?;
                }
            }
            Ok(())
        })
    }

    fn note(&mut self, parent: FileId, name: EntryName) -> Result<()> {
        let (mut dir, mut name) = (parent, name);
        loop {
            let names = self.changed.entry(dir).or_default();
            let above_is_noted = !names.is_empty();
            names.insert(name);
            if above_is_noted || dir == FileId::ROOT {
                return Ok(());
            }
            let Some(place) = self.new.record(self.src, dir)?.and_then(|r| r.place()) else {
                return Ok(());
            };
            (dir, name) = (place.parent, place.name);
        }
    }

    fn run(&self) -> Result<Oid> {
        let root = vec![FileId::ROOT];
        let mut stack = vec![self.open(Vec::new(), &root)?];
        loop {
            let depth = stack.len();
            let Some(top) = stack.last_mut() else {
                return git_tree::put(self.src.objs, Vec::new());
            };
            if let Some((name, dirs)) = top.below.pop() {
                match self.kept(&dirs)? {
                    Some(kept) => insert_tree(top, name, kept),
                    None if depth < DEPTH_MAX => stack.push(self.open(name, &dirs)?),
                    None => {}
                }
                continue;
            }
            let Some(done) = stack.pop() else { continue };
            let tree = match done.old {
                Some(old) => git_tree::edit(self.src.objs, &old, done.entries)?,
                None => {
                    let entries = done.entries.into_values().flatten();
                    git_tree::put(self.src.objs, entries.collect())?
                }
            };
            let Some(above) = stack.last_mut() else {
                return Ok(tree);
            };
            if tree != self.empty {
                insert_tree(above, done.name, Some(tree));
            }
        }
    }

    /// The tree of a directory in which nothing changed: none if it has no content.
    fn kept(&self, dirs: &[FileId]) -> Result<Option<Option<Oid>>> {
        if dirs.iter().any(|d| self.changed.contains_key(d)) {
            return Ok(None);
        }
        self.old_tree(dirs)
    }

    /// The old tree of the directory, if these were its ids in the old state too.
    fn old_tree(&self, dirs: &[FileId]) -> Result<Option<Option<Oid>>> {
        let (Some((old, root)), Some(first)) = (self.old, dirs.first()) else {
            return Ok(None);
        };
        let mut names = Vec::new();
        let mut at = *first;
        while at != FileId::ROOT && names.len() < DEPTH_MAX {
            let Some(place) = old.record(self.src, at)?.and_then(|r| r.place()) else {
                return Ok(None);
            };
            names.push(place.name);
            at = place.parent;
        }
        let (mut group, mut tree) = (vec![FileId::ROOT], Some(root));
        for name in names.iter().rev() {
            group = shown::dirs_at(self.src, old, &group, name)?;
            let null = Oid::null(gix::hash::Kind::Sha1);
            let name = escape(self.src, name.as_bytes(), Kind::Dir, &null)?;
            tree = match tree {
                None => None,
                Some(tree) => git_tree::find(self.src.objs, &tree, &name)?
                    .filter(TreeEntry::is_tree)
                    .map(|e| e.id),
            };
        }
        Ok((group == dirs).then_some(tree))
    }

    fn open(&self, name: Vec<u8>, dirs: &[FileId]) -> Result<Frame> {
        let mut frame = Frame {
            name,
            old: None,
            entries: Edits::new(),
            below: Vec::new(),
        };
        let names: BTreeSet<&EntryName> = dirs
            .iter()
            .filter_map(|d| self.changed.get(d))
            .flatten()
            .collect();
        // Whether a copy's name is taken depends on names that look like copies; then, and for
        // names that were cut, all is looked at again.
        let simple = !names
            .iter()
            .any(|n| conflict::parse(n).is_some() || conflict::may_be_cut(n));
        let kept = if simple { self.old_tree(dirs)? } else { None };
        let (Some(kept), Some((old, _))) = (kept, self.old) else {
            for shown in shown::list(self.src, self.new, dirs)? {
                self.add(&mut frame, &shown)?;
            }
            return Ok(frame);
        };
        frame.old = kept;
        for name in &names {
            for shown in shown::group(self.src, old, dirs, name)? {
                let name = escape(self.src, shown.name.as_bytes(), shown.kind, &shown.blob)?;
                frame.entries.insert(name, None);
            }
        }
        for name in &names {
            for shown in shown::group(self.src, self.new, dirs, name)? {
                self.add(&mut frame, &shown)?;
            }
        }
        Ok(frame)
    }

    fn add(&self, frame: &mut Frame, shown: &Shown) -> Result<()> {
        if !shown.kind.is_in_git() {
            return Ok(());
        }
        let name = escape(self.src, shown.name.as_bytes(), shown.kind, &shown.blob)?;
        if shown.kind == Kind::Dir {
            frame.below.push((name, shown.dirs.clone()));
            return Ok(());
        }
        let entry = TreeEntry {
            mode: mode_of(shown),
            name: name.clone(),
            id: blob_of(self.src.objs, shown)?,
        };
        frame.entries.insert(name, Some(entry));
        Ok(())
    }
}

fn insert_tree(frame: &mut Frame, name: Vec<u8>, tree: Option<Oid>) {
    if let Some(id) = tree {
        let entry = TreeEntry {
            mode: TREE,
            name: name.clone(),
            id,
        };
        frame.entries.insert(name, Some(entry));
    }
}

/// git's blob of what is shown: of a file whose bytes are chunks, a pointer.
///
/// # Errors
/// When the store fails.
pub fn blob_of(objs: &dyn Objects, shown: &Shown) -> Result<Oid> {
    if shown.kind != Kind::Large {
        return Ok(shown.blob);
    }
    // Of one that is no manifest, which only a member that lies makes, git gets what it is.
    match manifest::head(&objs.get(&shown.blob, ObjectKind::Blob)?) {
        Ok(head) => Ok(objs.put(ObjectKind::Blob, pointer::pointer(&head))?),
        Err(_) => Ok(shown.blob),
    }
}

/// git's mode of what is shown.
#[must_use]
pub fn mode_of(shown: &Shown) -> u32 {
    match shown.kind {
        Kind::Dir => TREE,
        Kind::File | Kind::Large if shown.mode & 0o100 != 0 => EXECUTABLE,
        Kind::File
        | Kind::Large
        | Kind::Fifo
        | Kind::Socket
        | Kind::CharDevice(_)
        | Kind::BlockDevice(_)
        | Kind::Link(_) => FILE,
        Kind::Symlink => LINK,
        Kind::Gitlink => GITLINK,
    }
}
