//! What a name shows (rules 9 to 11).
//!
//! Several files may be placed at one name. Directories beat files and unify; otherwise the
//! latest version that is not marked as a copy keeps the name, and each other one is shown
//! beside it as `stem.conflict-<hex of its kind and bytes>.ext`. Equal bytes are one version.
//!
//! Copies of a name get 8 hex digits, or more while a file is placed at that very name. Copies
//! of what is itself named like a copy get no second suffix and 16 digits, of a hash that also
//! covers that name: so a copy's name says where to look for it, and a lookup need not list the
//! directory. Only names with 16 digits or more, and names cut to fit, are looked up that way.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::{Dot, Stamp};
use crate::merge::join::join_fields;
use crate::record::model::{Content, Fields, Kind, Record, XattrName};
use crate::record::state::{State, link_list, listed};
use crate::record::{Result, Source, conflict};

/// Whether an entry has the name that its author gave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It has.
    Main,
    /// It is a conflict copy: another version has the name, or someone took the name away.
    Copy {
        /// The name that it was given.
        of: EntryName,
    },
}

/// One version that an entry shows: a file's, or one of several with equal bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The file.
    pub id: FileId,
    /// The commit that wrote the bytes.
    pub content: Dot,
    /// The commit that put the file here.
    pub location: Dot,
    /// Whether it is the latest version of its file.
    pub first: bool,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its name.
    pub name: EntryName,
    /// Whether it is a conflict copy.
    pub role: Role,
    /// The directory it is in: all its ids, sorted.
    pub parents: Vec<FileId>,
    /// For a directory: all its ids, sorted; the first stands for all.
    pub dirs: Vec<FileId>,
    /// What it is.
    pub kind: Kind,
    /// Its bytes; the null id for a directory.
    pub blob: Oid,
    /// Permission bits.
    pub mode: u32,
    /// Modification time, nanoseconds since 1970.
    pub mtime: i64,
    /// Owner, if anyone set it.
    pub uid: Option<u32>,
    /// Group, if anyone set it.
    pub gid: Option<u32>,
    /// The versions shown here, latest first.
    pub versions: Vec<Version>,
    /// Whether the bytes are those of several versions, merged.
    pub merged: bool,
    /// For another name of a file: the records of that name. All else is of the file.
    pub link: Vec<Version>,
    /// How many other names the file has.
    pub links: u32,
    /// Extended attributes.
    pub xattrs: BTreeMap<XattrName, Vec<u8>>,
}

impl Shown {
    /// The file that stands for the entry: what an operation on it acts on first.
    #[must_use]
    pub fn id(&self) -> FileId {
        let first = self.versions.first().map(|v| v.id);
        let dir = self.dirs.first().copied();
        dir.or(first).unwrap_or_default()
    }
}

/// The entry with this name in a directory, given by all its ids.
///
/// # Errors
/// When the state cannot be read.
pub fn lookup(
    src: Source<'_>,
    state: &State,
    dirs: &[FileId],
    name: &EntryName,
) -> Result<Option<Shown>> {
    let group = Group::read(src, state, dirs, name)?;
    if let Some(main) = group.main() {
        return Ok(Some(main));
    }
    let Some((plain, hex)) = conflict::parse(name) else {
        return Ok(None);
    };
    if hex.len() < LONG && !conflict::may_be_cut(name) {
        let Ok(plain) = EntryName::new(plain) else {
            return Ok(None);
        };
        let group = Group::read(src, state, dirs, &plain)?;
        let copies = group.copies(&mut |n| is_placed(src, state, dirs, n))?;
        return Ok(copies.into_iter().find(|s| s.name == *name));
    }
    let all = list(src, state, dirs)?;
    Ok(all.into_iter().find(|s| s.name == *name))
}

/// All entries of a directory, given by all its ids, sorted by name.
///
/// # Errors
/// When the state cannot be read.
pub fn list(src: Source<'_>, state: &State, dirs: &[FileId]) -> Result<Vec<Shown>> {
    let mut placed: BTreeMap<EntryName, Vec<FileId>> = BTreeMap::new();
    for dir in dirs {
        for (name, id) in state.placed_in(src, *dir)? {
            placed.entry(name).or_default().push(id);
        }
    }
    let mut out: BTreeMap<EntryName, Shown> = BTreeMap::new();
    let mut beside = Vec::new();
    for (name, ids) in &placed {
        let group = Group::of(src, state, dirs, name, ids)?;
        if let Some(main) = group.main() {
            out.insert(name.clone(), main);
        }
        if group.has_copies() {
            beside.extend(group.copies(&mut |n| Ok(placed.contains_key(n)))?);
        }
    }
    for copy in beside {
        out.entry(copy.name.clone()).or_insert(copy);
    }
    Ok(out.into_values().collect())
}

/// All that is shown for the files placed at exactly this name: the entry that has the name, if
/// one has, and the copies beside it.
///
/// # Errors
/// When the state cannot be read.
pub fn group(
    src: Source<'_>,
    state: &State,
    dirs: &[FileId],
    name: &EntryName,
) -> Result<Vec<Shown>> {
    let group = Group::read(src, state, dirs, name)?;
    let mut out: Vec<Shown> = group.main().into_iter().collect();
    out.extend(group.copies(&mut |n| is_placed(src, state, dirs, n))?);
    Ok(out)
}

/// All ids of the directory that an id is part of: unified directories have several.
///
/// # Errors
/// When the state cannot be read.
pub fn unified(src: Source<'_>, state: &State, dir: FileId) -> Result<Vec<FileId>> {
    // From the directory up to the root, then down again, collecting who is at each name.
    let mut names = Vec::new();
    let mut at = dir;
    let mut climbed = BTreeSet::new();
    while at != FileId::ROOT && climbed.insert(at) {
        let Some(place) = state.record(src, at)?.and_then(|r| r.place()) else {
            return Ok(vec![dir]);
        };
        names.push(place.name);
        at = place.parent;
    }
    let mut dirs = vec![FileId::ROOT];
    for name in names.iter().rev() {
        dirs = dirs_at(src, state, &dirs, name)?;
    }
    if dirs.contains(&dir) {
        Ok(dirs)
    } else {
        Ok(vec![dir])
    }
}

/// The directories placed at a name, sorted.
pub(crate) fn dirs_at(
    src: Source<'_>,
    state: &State,
    parents: &[FileId],
    name: &EntryName,
) -> Result<Vec<FileId>> {
    let mut out = BTreeSet::new();
    for parent in parents {
        for id in state.placed(src, *parent, name)? {
            let record = state.record(src, id)?;
            if record.and_then(|r| r.kind()) == Some(Kind::Dir) {
                out.insert(id);
            }
        }
    }
    Ok(out.into_iter().collect())
}

fn is_placed(src: Source<'_>, state: &State, dirs: &[FileId], name: &EntryName) -> Result<bool> {
    for dir in dirs {
        if !state.placed(src, *dir, name)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Hex digits in the name of a copy of what is itself named like a copy.
const LONG: usize = 16;

/// The order of versions at a name: the later of the bytes and of the place, then the bytes.
type Rank = (Stamp, Stamp, FileId);

/// One version of one file.
#[derive(Clone, Debug)]
struct Part {
    rank: Rank,
    version: Version,
    marked: bool,
    merged: bool,
}

/// The files placed at one name.
struct Group<'a> {
    src: Source<'a>,
    state: &'a State,
    parents: &'a [FileId],
    name: &'a EntryName,
    records: Vec<Record>,
    dirs: Vec<FileId>,
    /// Versions by kind and bytes, each list latest first. Other names of one file are a kind.
    parts: BTreeMap<(Kind, Oid), Vec<Part>>,
    /// Files of which names are here.
    targets: BTreeMap<FileId, Record>,
    winner: Option<(Kind, Oid)>,
}

impl<'a> Group<'a> {
    fn read(
        src: Source<'a>,
        state: &'a State,
        parents: &'a [FileId],
        name: &'a EntryName,
    ) -> Result<Self> {
        let mut ids = Vec::new();
        for dir in parents {
            ids.extend(state.placed(src, *dir, name)?);
        }
        Self::of(src, state, parents, name, &ids)
    }

    fn of(
        src: Source<'a>,
        state: &'a State,
        parents: &'a [FileId],
        name: &'a EntryName,
        ids: &[FileId],
    ) -> Result<Self> {
        let mut group = Self {
            src,
            state,
            parents,
            name,
            records: Vec::with_capacity(ids.len()),
            dirs: Vec::new(),
            parts: BTreeMap::new(),
            targets: BTreeMap::new(),
            winner: None,
        };
        for id in ids {
            let Some(record) = state.record(src, *id)? else {
                continue;
            };
            if record.kind() == Some(Kind::Dir) {
                group.dirs.push(*id);
            } else {
                match record.kind().and_then(Kind::target) {
                    Some(target) => group.add_link(&record, target)?,
                    None => group.add(&record),
                }
            }
            group.records.push(record);
        }
        group.dirs.sort_unstable();
        for list in group.parts.values_mut() {
            list.sort_by_key(|p| std::cmp::Reverse(p.rank));
        }
        if group.dirs.is_empty() {
            let free = group.parts.iter().filter_map(|(key, list)| {
                let best = list.iter().find(|p| !p.marked)?;
                Some((best.rank, *key))
            });
            group.winner = free.max().map(|(_, key)| key);
        }
        Ok(group)
    }

    fn add(&mut self, record: &Record) {
        let Some(place) = record.shown_location() else {
            return;
        };
        let text = record.filled.text.as_ref();
        for (i, c) in record.shown_content().iter().enumerate() {
            let dot = c.stamp.dot();
            let merged = text.filter(|t| t.versions.contains(&dot));
            let key = (c.kind, merged.map_or(c.blob, |t| t.blob));
            self.parts.entry(key).or_default().push(Part {
                rank: (c.stamp.max(place.stamp), c.stamp, record.id),
                version: Version {
                    id: record.id,
                    content: dot,
                    location: place.stamp.dot(),
                    first: i == 0,
                },
                marked: c.copy_at.contains(&place.stamp.dot()),
                merged: merged.is_some(),
            });
        }
    }

    /// Another name of a file. A file that has only such shows its conflict copies at one.
    fn add_link(&mut self, record: &Record, target: FileId) -> Result<()> {
        let file = self.state.record(self.src, target)?;
        let (Some(file), Some(place)) = (file, record.shown_location()) else {
            return Ok(());
        };
        let (Some(first), Some(own)) =
            (file.shown_content().first(), record.shown_content().first())
        else {
            return Ok(());
        };
        if file
            .kind()
            .is_none_or(|k| k == Kind::Dir || k.target().is_some())
        {
            return Ok(());
        }
        let location = place.stamp.dot();
        let null = Oid::null(gix::hash::Kind::Sha1);
        self.parts
            .entry((Kind::Link(target), null))
            .or_default()
            .push(Part {
                rank: (own.stamp.max(place.stamp), own.stamp, record.id),
                version: Version {
                    id: record.id,
                    content: own.stamp.dot(),
                    location,
                    first: true,
                },
                marked: own.copy_at.contains(&location),
                merged: false,
            });
        let text = file.filled.text.as_ref();
        let is_beside = |c: &&Content| {
            c.blob != first.blob && text.is_none_or(|t| !t.versions.contains(&c.stamp.dot()))
        };
        let beside: Vec<Content> = file
            .shown_content()
            .iter()
            .filter(is_beside)
            .cloned()
            .collect();
        if !beside.is_empty() && file.shown_location().is_none() {
            let all = listed(self.src, self.state, link_list(target))?;
            for c in beside.iter().filter(|_| all.first() == Some(&record.id)) {
                self.parts.entry((c.kind, c.blob)).or_default().push(Part {
                    rank: (c.stamp, c.stamp, target),
                    version: Version {
                        id: target,
                        content: c.stamp.dot(),
                        location,
                        first: false,
                    },
                    marked: true,
                    merged: false,
                });
            }
        }
        self.targets.insert(target, file);
        Ok(())
    }

    fn has_copies(&self) -> bool {
        self.parts.len() > usize::from(self.winner.is_some())
    }

    fn main(&self) -> Option<Shown> {
        if self.dirs.is_empty() {
            let key = self.winner?;
            let parts = self.parts.get(&key)?;
            return Some(self.file(key, parts, self.name.clone(), Role::Main));
        }
        let null = Oid::null(gix::hash::Kind::Sha1);
        let of_dirs = self.records.iter().filter(|r| self.dirs.contains(&r.id));
        let mut versions: Vec<Version> = Vec::new();
        let mut latest = Stamp::default();
        for record in of_dirs {
            if let (Some(c), Some(l)) = (record.shown_content().first(), record.shown_location()) {
                latest = latest.max(c.stamp);
                versions.push(Version {
                    id: record.id,
                    content: c.stamp.dot(),
                    location: l.stamp.dot(),
                    first: true,
                });
            }
        }
        versions.sort_unstable();
        let mut shown = self.entry((Kind::Dir, null), versions, latest);
        shown.dirs.clone_from(&self.dirs);
        Some(shown)
    }

    /// The versions that do not have the name, in the order of kind and bytes.
    fn copies(&self, taken: &mut dyn FnMut(&EntryName) -> Result<bool>) -> Result<Vec<Shown>> {
        let mut out: Vec<Shown> = Vec::new();
        for (key, parts) in &self.parts {
            if Some(*key) == self.winner {
                continue;
            }
            let (hash, shortest) = self.hash(*key);
            let mut digits = shortest;
            let mut name = conflict::name(self.name, &hash[..digits]);
            while digits < hash.len() && (out.iter().any(|s| s.name == name) || taken(&name)?) {
                digits += 4;
                name = conflict::name(self.name, &hash[..digits.min(hash.len())]);
            }
            let role = Role::Copy {
                of: self.name.clone(),
            };
            out.push(self.file(*key, parts, name, role));
        }
        Ok(out)
    }

    fn hash(&self, (kind, blob): (Kind, Oid)) -> (String, usize) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[match kind {
            Kind::Dir => 0,
            Kind::File => 1,
            Kind::Symlink => 2,
            Kind::Gitlink => 3,
            Kind::Fifo => 4,
            Kind::Socket => 5,
            Kind::CharDevice(_) => 6,
            Kind::BlockDevice(_) => 7,
            Kind::Link(_) => 8,
            Kind::Large => 9,
        }]);
        match kind {
            Kind::CharDevice(n) | Kind::BlockDevice(n) => {
                hasher.update(&n.to_be_bytes());
            }
            Kind::Link(id) => {
                hasher.update(&id.as_u128().to_be_bytes());
            }
            _ => {}
        }
        hasher.update(blob.as_slice());
        let mut shortest = conflict::HEX;
        if conflict::parse(self.name).is_some() {
            hasher.update(self.name.as_bytes());
            shortest = LONG;
        }
        (hasher.finalize().to_hex().to_string(), shortest)
    }

    fn file(&self, key: (Kind, Oid), parts: &[Part], name: EntryName, role: Role) -> Shown {
        if let Some(file) = key.0.target().and_then(|t| self.targets.get(&t)) {
            return self.other_name(file, parts, name, role);
        }
        let versions = parts.iter().map(|p| p.version).collect();
        let latest = parts.iter().map(|p| p.rank.1).max().unwrap_or_default();
        let mut shown = self.entry(key, versions, latest);
        shown.merged = parts.iter().any(|p| p.merged);
        shown.name = name;
        shown.role = role;
        shown
    }

    /// What another name of a file shows: the file.
    fn other_name(&self, file: &Record, parts: &[Part], name: EntryName, role: Role) -> Shown {
        let contents = file.shown_content();
        let text = file.filled.text.as_ref();
        let first = contents.first();
        let blob = |c: &Content| {
            let merged = text.filter(|t| t.versions.contains(&c.stamp.dot()));
            merged.map_or(c.blob, |t| t.blob)
        };
        let key = first.map(|c| (c.kind, blob(c)));
        let (kind, bytes) = key.unwrap_or((Kind::File, Oid::null(gix::hash::Kind::Sha1)));
        let same = contents
            .iter()
            .enumerate()
            .filter(|(_, c)| blob(c) == bytes);
        let location = file
            .shown_location()
            .map(|l| l.stamp.dot())
            .unwrap_or_default();
        let versions = same.map(|(i, c)| Version {
            id: file.id,
            content: c.stamp.dot(),
            location,
            first: i == 0,
        });
        let versions: Vec<Version> = versions.collect();
        let latest = first.map(|c| c.stamp).unwrap_or_default();
        let mut shown = self.entry((kind, bytes), versions, latest);
        shown.merged = text.is_some_and(|t| t.blob == bytes);
        shown.link = parts.iter().map(|p| p.version).collect();
        let here = u32::try_from(shown.link.len()).unwrap_or(u32::MAX);
        shown.links = shown.links.saturating_sub(here - 1);
        shown.name = name;
        shown.role = role;
        shown
    }

    fn entry(&self, (kind, blob): (Kind, Oid), versions: Vec<Version>, latest: Stamp) -> Shown {
        let ids: BTreeSet<FileId> = versions.iter().map(|v| v.id).collect();
        let targets = self.targets.values();
        let files = self
            .records
            .iter()
            .chain(targets)
            .filter(|r| ids.contains(&r.id));
        // Its own name, if it has one, is not another one; nor is the one shown here.
        let others = files.clone().map(|r| {
            r.filled
                .links
                .saturating_sub(u32::from(r.place().is_none()))
        });
        let links = others.max().unwrap_or(0);
        let fields = files.fold(Fields::default(), |sum, r| join_fields(&sum, &r.fields));
        let set = fields.xattrs.into_iter();
        let xattrs = set.filter_map(|(name, v)| Some((name, v.value?))).collect();
        let written = i64::try_from(latest.hlc.wall_ms()).unwrap_or(0);
        let written = written.saturating_mul(1_000_000);
        Shown {
            name: self.name.clone(),
            role: Role::Main,
            parents: self.parents.to_vec(),
            dirs: Vec::new(),
            kind,
            blob,
            mode: fields
                .mode
                .map_or_else(|| default_mode(kind), |f| f.value & 0o7777),
            mtime: fields.mtime.map_or(written, |f| f.value),
            uid: fields.uid.map(|f| f.value),
            gid: fields.gid.map(|f| f.value),
            versions,
            merged: false,
            link: Vec::new(),
            links,
            xattrs,
        }
    }
}

/// Permission bits of what nobody gave any.
#[must_use]
pub fn default_mode(kind: Kind) -> u32 {
    match kind {
        Kind::Dir => 0o755,
        Kind::Symlink => 0o777,
        _ => 0o644,
    }
}

/// The root directory's own attributes, in the shape of an entry without a name.
///
/// # Errors
/// When the state cannot be read.
pub fn root_fields(src: Source<'_>, state: &State) -> Result<Fields> {
    let record = state.record(src, FileId::ROOT)?;
    Ok(record.map(|r| r.fields).unwrap_or_default())
}
