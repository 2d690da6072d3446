//! What a commit made by stock git means (rules 12 and 13).
//!
//! The commit's tree is compared with the content tree of the state that it was made on; each
//! path that differs is acted on as an author would by name. A path that vanished and a path
//! that is new, each the only one with its bytes, are a move.
//!
//! New files get ids that follow from their paths, so that nodes which import the same commit
//! without knowing of each other agree: the upper half is a hash of the directory's path (files
//! of one directory are near to each other in the tries) with the top bit set, the lower half a
//! hash of the name. A branch id drawn at random must have that bit clear. If the id is in use,
//! the commit's id goes into the hash.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::merge::ahead::Ahead;
use crate::merge::escape::{escape, unescape};
use crate::merge::intent::{self, Sight, Target};
use crate::merge::project::{blob_of, mode_of};
use crate::merge::shown::{self, Role, Shown, Version, default_mode};
use crate::record::change::{Change, SetField};
use crate::record::git_tree::{self, EXECUTABLE, GITLINK, LINK, TREE, TreeEntry};
use crate::record::model::Kind;
use crate::record::state::State;
use crate::record::{Result, Source};
use crate::store::objects::{ObjectKind, id_of};

/// Set in the upper half of all ids that follow from paths.
pub const PATH_BIT: u64 = 1 << 63;

/// What a stock commit means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meant {
    /// The changes, for the state that the commit was made on.
    pub changes: Vec<Change>,
    /// Paths that no record can hold: names that Linux has no room for.
    pub refused: Vec<Vec<u8>>,
}

/// The state that a stock commit was made on, with its content tree, and the commit.
#[derive(Clone, Copy, Debug)]
pub struct Stock<'a> {
    /// The state.
    pub base: &'a State,
    /// Its projection.
    pub base_tree: Oid,
    /// The commit.
    pub commit: Oid,
    /// The commit's tree.
    pub tree: Oid,
    /// What is known by now, which may be more: ids in use there are not given again.
    pub now: &'a State,
    /// What the commit was made on, too, and whose records are not here.
    pub ahead: &'a Ahead,
}

/// What a commit of stock git means.
///
/// # Errors
/// When a tree or the state cannot be read.
pub fn meant(src: Source<'_>, stock: Stock<'_>) -> Result<Meant> {
    let mut reader = Reader {
        at: Sight {
            src,
            state: stock.base,
        },
        stock,
        todo: Vec::new(),
        born: Vec::new(),
        gone: Vec::new(),
        met: BTreeSet::new(),
        acted: Vec::new(),
        out: Meant::default(),
    };
    reader.todo.push(Pair {
        path: Vec::new(),
        dirs: vec![FileId::ROOT],
        old: Some(stock.base_tree),
        new: stock.tree,
    });
    while let Some(pair) = reader.todo.pop() {
        reader.compare(&pair)?;
    }
    reader.finish()
}

/// A directory in both trees, or in the new one only.
struct Pair {
    path: Vec<u8>,
    /// Its ids.
    dirs: Vec<FileId>,
    old: Option<Oid>,
    new: Oid,
}

/// A file that was not there.
struct Born {
    path: Vec<u8>,
    dirs: Vec<FileId>,
    name: EntryName,
    entry: TreeEntry,
}

struct Reader<'a> {
    at: Sight<'a>,
    stock: Stock<'a>,
    todo: Vec<Pair>,
    born: Vec<Born>,
    gone: Vec<Shown>,
    /// Paths that were brought ahead and that differ: they are acted on in any case.
    met: BTreeSet<Vec<u8>>,
    /// Entries that were acted on.
    acted: Vec<Shown>,
    out: Meant,
}

impl Reader<'_> {
    fn compare(&mut self, pair: &Pair) -> Result<()> {
        let objs = self.at.src.objs;
        let old = match pair.old {
            Some(old) if old == pair.new => return Ok(()),
            Some(old) => by_name(git_tree::read(objs, &old)?),
            None => BTreeMap::new(),
        };
        let new = by_name(git_tree::read(objs, &pair.new)?);
        // What git's old tree does not have, for it has no content, is shown all the same.
        let mut seen: BTreeMap<Vec<u8>, Shown> = BTreeMap::new();
        for s in shown::list(self.at.src, self.stock.base, &pair.dirs)? {
            let name = escape(self.at.src, s.name.as_bytes(), s.kind, &s.blob)?;
            seen.insert(name, s);
        }
        for (name, shown) in &seen {
            if old.contains_key(name) && !new.contains_key(name) {
                self.vanish(shown)?;
            }
        }
        for (name, entry) in new {
            if old.get(&name) != Some(&entry) {
                let was = old.get(&name).filter(|o| o.is_tree()).map(|o| o.id);
                self.differs(pair, seen.get(&name), was, entry)?;
            }
        }
        Ok(())
    }

    fn differs(
        &mut self,
        pair: &Pair,
        shown: Option<&Shown>,
        was: Option<Oid>,
        entry: TreeEntry,
    ) -> Result<()> {
        let path = join(&pair.path, &entry.name);
        let Ok(name) = EntryName::new(unescape(&entry.name)) else {
            self.out.refused.push(path);
            return Ok(());
        };
        if entry.is_tree() {
            let dirs = match shown {
                Some(s) if s.kind == Kind::Dir => s.dirs.clone(),
                other => {
                    if let Some(file) = other {
                        self.vanish(file)?;
                    }
                    vec![self.make_dir(pair, &path, name)?]
                }
            };
            self.todo.push(Pair {
                path,
                dirs,
                old: was,
                new: entry.id,
            });
            return Ok(());
        }
        match shown {
            Some(s) if s.kind != Kind::Dir => self.rewrite(&path, s, &entry),
            other => {
                if let Some(dir) = other {
                    self.vanish(dir)?;
                }
                self.born.push(Born {
                    path,
                    dirs: pair.dirs.clone(),
                    name,
                    entry,
                });
                Ok(())
            }
        }
    }

    fn make_dir(&mut self, pair: &Pair, path: &[u8], name: EntryName) -> Result<FileId> {
        let id = match self.known_id(&pair.dirs, &name)? {
            Some(id) => id,
            None => self.id_for(path)?,
        };
        let target = Target {
            dirs: &pair.dirs,
            name: &name,
        };
        let null = Oid::null(gix::hash::Kind::Sha1);
        let made = intent::create(target, id, (Kind::Dir, null));
        self.out.changes.extend(made);
        Ok(id)
    }

    fn rewrite(&mut self, path: &[u8], shown: &Shown, entry: &TreeEntry) -> Result<()> {
        let fresh = self.id_for(path)?;
        self.met.insert(path.to_vec());
        self.acted.push(shown.clone());
        let (kind, blob) = self.bytes_of(shown, entry)?;
        let mut made = if shown.links > 0 {
            // git knows nothing of the other names: this one becomes a file of its own.
            let target = Target {
                dirs: &shown.parents,
                name: &shown.name,
            };
            let mut made = intent::delete(self.at, shown)?;
            made.extend(intent::create(target, fresh, (kind, blob)));
            made
        } else {
            intent::write(self.at, shown, (kind, blob), fresh)?
        };
        self.put_on(&mut made, path);
        // A sibling's bytes go to a file of their own, which has no mode yet.
        let born = made.iter().any(|c| matches!(c, Change::Born { .. }));
        self.out.changes.extend(made);
        if entry.mode != mode_of(shown) && kind.plain() == Kind::File {
            let field = set_mode(shown.mode, entry.mode);
            let changes = if born {
                vec![Change::Field { id: fresh, field }]
            } else {
                intent::set_fields(shown, &[field])
            };
            self.out.changes.extend(changes);
        }
        Ok(())
    }

    /// What an entry makes of a file: a pointer to the bytes that it has means those.
    fn bytes_of(&self, shown: &Shown, entry: &TreeEntry) -> Result<intent::Bytes> {
        let kind = kind_of(entry.mode);
        let is_it = kind == Kind::File
            && shown.kind == Kind::Large
            && blob_of(self.at.src.objs, shown)? == entry.id;
        Ok(match is_it {
            true => (shown.kind, shown.blob),
            false => (kind, entry.id),
        })
    }

    /// Ends an entry, with all that is in it.
    fn vanish(&mut self, shown: &Shown) -> Result<()> {
        let mut dirs = Vec::new();
        let mut todo = vec![shown.clone()];
        while let Some(s) = todo.pop() {
            if s.kind == Kind::Dir {
                todo.extend(shown::list(self.at.src, self.stock.base, &s.dirs)?);
                dirs.push(s);
            } else {
                self.gone.push(s);
            }
        }
        // Inner directories first.
        for dir in dirs.iter().rev() {
            let made = intent::delete(self.at, dir)?;
            self.out.changes.extend(made);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Meant> {
        self.assert_ahead()?;
        let moves = self.moves()?;
        let born = std::mem::take(&mut self.born);
        let mut gone = std::mem::take(&mut self.gone);
        for new in &born {
            let from = moves.get(&new.path).and_then(|i| gone.get(*i));
            self.arrive(new, from)?;
        }
        let moved: BTreeSet<usize> = moves.into_values().collect();
        let ended: Vec<Version> = gone.iter().flat_map(|s| s.versions.clone()).collect();
        for (i, shown) in gone.iter().enumerate() {
            if !moved.contains(&i) {
                let made = intent::delete_with(self.at, shown, &ended)?;
                self.out.changes.extend(made);
            }
        }
        self.acted.append(&mut gone);
        self.leave_copies()?;
        Ok(self.out)
    }

    /// Copies of a file with several names go with the last of them, which no single act knows
    /// to be the last: those that nobody meant become files of their own.
    fn leave_copies(&mut self) -> Result<()> {
        let (src, base) = (self.at.src, self.stock.base);
        let is_linked = |s: &&Shown| s.links > 0 || !s.link.is_empty();
        let files: BTreeSet<FileId> = (self.acted.iter().filter(is_linked))
            .map(Shown::id)
            .collect();
        for id in files {
            let Some(record) = base.record(src, id)? else {
                continue;
            };
            let is_acted = |s: &Shown| self.acted.iter().any(|a| is_same(a, s));
            let mut all_gone = true;
            let mut copies = Vec::new();
            for place in base.places(src, &record)? {
                let dirs = shown::unified(src, base, place.parent)?;
                let mut group = shown::group(src, base, &dirs, &place.name)?;
                group.retain(|s| s.versions.iter().any(|v| v.id == id));
                // Where another file has the name, this one's is shown as a copy.
                let name = group
                    .iter()
                    .find(|s| s.role == Role::Main || !s.link.is_empty());
                all_gone &= match name {
                    Some(name) => is_acted(name),
                    None => group.iter().all(is_acted),
                };
                let beside = |s: &Shown| s.role != Role::Main && s.link.is_empty() && !is_acted(s);
                copies.extend(group.into_iter().filter(beside));
            }
            if !all_gone {
                continue;
            }
            for copy in copies {
                let dir = copy.parents.first().copied().unwrap_or(FileId::ROOT);
                let own = path_id(
                    &[&dir.as_u128().to_be_bytes()[..], copy.name.as_bytes()].concat(),
                    Some(self.stock.commit),
                );
                let mut made = intent::delete(self.at, &copy)?;
                let target = Target {
                    dirs: &copy.parents,
                    name: &copy.name,
                };
                made.extend(intent::create_from(target, own, &copy));
                self.out.changes.extend(made);
            }
        }
        Ok(())
    }

    /// New paths whose bytes, on either side, no other path has: which vanished entry each was.
    fn moves(&self) -> Result<BTreeMap<Vec<u8>, usize>> {
        let mut gone: BTreeMap<intent::Bytes, Vec<usize>> = BTreeMap::new();
        for (i, shown) in self.gone.iter().enumerate() {
            let bytes = (shown.kind.plain(), blob_of(self.at.src.objs, shown)?);
            gone.entry(bytes).or_default().push(i);
        }
        let mut born: BTreeMap<intent::Bytes, Vec<&Born>> = BTreeMap::new();
        for new in &self.born {
            let bytes = (kind_of(new.entry.mode), new.entry.id);
            born.entry(bytes).or_default().push(new);
        }
        let mut out = BTreeMap::new();
        // What the makers of commits that came ahead called a move is one.
        let ids: BTreeMap<FileId, usize> = (self.gone.iter().enumerate())
            .map(|(i, shown)| (shown.id(), i))
            .collect();
        for new in &self.born {
            let mut known = self.stock.ahead.ids(&new.dirs, &new.name);
            if let Some(i) = known.find_map(|id| ids.get(&id))
                && !out.values().any(|other| other == i)
            {
                out.insert(new.path.clone(), *i);
            }
        }
        // Empty files are alike without having anything to do with each other.
        let empty = id_of(ObjectKind::Blob, b"");
        for (bytes, gone) in gone.iter().filter(|((_, blob), _)| *blob != empty) {
            let new = born.get(bytes).map(Vec::as_slice);
            if let ([i], Some([new])) = (gone.as_slice(), new)
                && !out.contains_key(&new.path)
                && !out.values().any(|other| other == i)
            {
                out.insert(new.path.clone(), *i);
            }
        }
        Ok(out)
    }

    fn arrive(&mut self, new: &Born, from: Option<&Shown>) -> Result<()> {
        let fresh = match self.known_id(&new.dirs, &new.name)? {
            Some(id) => id,
            None => self.id_for(&new.path)?,
        };
        let target = Target {
            dirs: &new.dirs,
            name: &new.name,
        };
        let bytes = match from {
            Some(from) => self.bytes_of(from, &new.entry)?,
            None => (kind_of(new.entry.mode), new.entry.id),
        };
        let kind = bytes.0;
        let mut made = match from {
            Some(from) => intent::rename(self.at, from, target, None, fresh)?,
            None => intent::create(target, fresh, bytes),
        };
        self.bring(&mut made, new, (from, bytes), fresh);
        let is_here = |c: &Change| match c {
            Change::Move { id, .. } => Some((*id, from.map_or(0o644, |f| f.mode))),
            Change::Born { id, .. } => {
                Some((*id, from.map_or_else(|| default_mode(kind), |f| f.mode)))
            }
            _ => None,
        };
        let here = made.iter().find_map(is_here);
        self.out.changes.extend(made);
        if let Some((id, mode)) = here
            && kind.plain() == Kind::File
            && (mode & 0o100 != 0) != (new.entry.mode == EXECUTABLE)
        {
            let field = set_mode(mode, new.entry.mode);
            self.out.changes.push(Change::Field { id, field });
        }
        Ok(())
    }

    /// The id by which a new file is known where it was made, if it is free here.
    fn known_id(&self, dirs: &[FileId], name: &EntryName) -> Result<Option<FileId>> {
        for id in self.stock.ahead.ids(dirs, name) {
            let is_born = |c: &Change| matches!(c, Change::Born { id: other, .. } if *other == id);
            let src = self.at.src;
            if !self.out.changes.iter().any(is_born)
                && self.stock.base.record(src, id)?.is_none()
                && self.stock.now.record(src, id)?.is_none()
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Writes are on top of what was brought ahead.
    fn put_on(&self, made: &mut [Change], path: &[u8]) {
        for change in made {
            if let Change::Write { base, .. } = change {
                base.extend(self.stock.ahead.dots(path));
            }
        }
    }

    /// A file that arrives has the bytes of the commit, on top of what was brought ahead.
    fn bring(
        &self,
        made: &mut Vec<Change>,
        new: &Born,
        (from, (kind, blob)): (Option<&Shown>, intent::Bytes),
        fresh: FileId,
    ) {
        let dots = self.stock.ahead.dots(&new.path);
        let same = from.is_none_or(|f| (f.kind, f.blob) == (kind, blob));
        if same && dots.is_empty() {
            return;
        }
        let moved = made.iter().find_map(|c| match c {
            Change::Move { id, .. } => Some(*id),
            _ => None,
        });
        let id = moved.unwrap_or(fresh);
        let versions = from.map_or(&[][..], |f| &f.versions);
        let own = versions.iter().filter(|v| v.id == id).map(|v| v.content);
        made.push(Change::Write {
            id,
            base: own.chain(dots).collect(),
            kind,
            blob,
        });
    }

    /// What was changed ahead and changed back is as it was because the author wants it so: the
    /// records that are to come must not end it.
    fn assert_ahead(&mut self) -> Result<()> {
        let ahead = self.stock.ahead;
        for path in ahead.paths() {
            if self.met.contains(path) || self.born.iter().any(|b| b.path == path) {
                continue;
            }
            let Some(shown) = self.look(path)? else {
                continue;
            };
            if shown.kind == Kind::Dir || self.gone.iter().any(|g| is_same(g, &shown)) {
                continue;
            }
            let fresh = self.id_for(path)?;
            let mut made = intent::assert(self.at, &shown, fresh)?;
            self.put_on(&mut made, path);
            self.out.changes.extend(made);
        }
        Ok(())
    }

    /// What the base shows at a path of git's.
    fn look(&self, path: &[u8]) -> Result<Option<Shown>> {
        let mut dirs = vec![FileId::ROOT];
        let mut found: Option<Shown> = None;
        for name in path.split(|b| *b == b'/') {
            if let Some(above) = found.take() {
                dirs = above.dirs;
            }
            let Ok(name) = EntryName::new(unescape(name)) else {
                return Ok(None);
            };
            found = shown::lookup(self.at.src, self.stock.base, &dirs, &name)?;
            if found.is_none() {
                return Ok(None);
            }
        }
        Ok(found)
    }

    fn id_for(&self, path: &[u8]) -> Result<FileId> {
        let id = path_id(path, None);
        if self.stock.base.record(self.at.src, id)?.is_none() {
            return Ok(id);
        }
        Ok(path_id(path, Some(self.stock.commit)))
    }
}

/// The id of a file that came by stock git at this path; with a commit, of one whose path had a
/// file before.
#[must_use]
pub fn path_id(path: &[u8], commit: Option<Oid>) -> FileId {
    let slash = path.iter().rposition(|b| *b == b'/');
    let (dir, name) = path.split_at(slash.unwrap_or(0));
    let half = |bytes: &[u8], commit: Option<Oid>| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"git\0");
        if let Some(commit) = commit {
            hasher.update(commit.as_slice());
        }
        hasher.update(bytes);
        let mut out = [0; 8];
        hasher.finalize_xof().fill(&mut out);
        u64::from_be_bytes(out)
    };
    FileId {
        branch: half(dir, None) | PATH_BIT,
        n: half(name, commit),
    }
}

fn is_same(a: &Shown, b: &Shown) -> bool {
    (&a.parents, &a.name) == (&b.parents, &b.name)
}

fn by_name(entries: Vec<TreeEntry>) -> BTreeMap<Vec<u8>, TreeEntry> {
    entries.into_iter().map(|e| (e.name.clone(), e)).collect()
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() {
        return name.to_vec();
    }
    [dir, b"/", name].concat()
}

fn kind_of(mode: u32) -> Kind {
    match mode {
        TREE => Kind::Dir,
        LINK => Kind::Symlink,
        GITLINK => Kind::Gitlink,
        _ => Kind::File,
    }
}

/// The executable bits as git has them, the others as they were.
fn set_mode(was: u32, git: u32) -> SetField {
    SetField::SetMode(if git == EXECUTABLE {
        was | 0o100 | ((was & 0o444) >> 2)
    } else {
        was & !0o111
    })
}
