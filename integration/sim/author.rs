//! What people do in their folders: an act on what is shown, as the journal and the commit see it.
//!
//! Each write puts a token of its own into a file of some lines. An act that takes a token out of
//! what its author saw ends it; a token that nobody ended must be shown somewhere for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cellfs::base::id::{FileId, Oid};
use cellfs::base::name::EntryName;
use cellfs::journal::Patch;
use cellfs::merge::intent::{self, Sight, Target};
use cellfs::merge::shown::{Shown, list};
use cellfs::record::Source;
use cellfs::record::cache::Cache;
use cellfs::record::change::{Change, SetField};
use cellfs::record::model::Kind;
use cellfs::store::objects::{ObjectKind, Objects, id_of};
use cellfs::volume::chain::Numbers;
use cellfs::volume::view::View;

use super::plan::Rng;

/// Names and directories: few, so that they collide.
const NAMES: [&str; 4] = ["p", "q", "d", "e"];
const LINES: usize = 6;
const DEPTH_MAX: usize = 4;

/// What one operation is to the journal and to the commit.
#[derive(Debug, Clone, Default)]
pub(super) struct Act {
    pub(super) patches: Vec<Patch>,
    pub(super) changes: Vec<Change>,
    pub(super) blobs: Vec<Vec<u8>>,
    /// Tokens put into files, and tokens taken out of what was shown.
    pub(super) wrote: BTreeSet<u64>,
    pub(super) ended: BTreeSet<u64>,
    pub(super) note: String,
}

/// Everything that a view shows, by path.
pub(super) type Tree = BTreeMap<String, Shown>;

pub(super) fn tree(view: &View, cache: &Cache) -> Tree {
    let src = Source::new(&*view.stage, cache);
    let mut out = BTreeMap::new();
    let mut open = vec![(String::new(), vec![FileId::ROOT])];
    while let Some((path, dirs)) = open.pop() {
        for s in list(src, &view.state, &dirs).expect("a view is whole") {
            let at = format!("{path}/{}", s.name);
            if s.kind == Kind::Dir {
                open.push((at.clone(), s.dirs.clone()));
            }
            out.insert(at, s);
        }
    }
    out
}

pub(super) fn text(objs: &dyn Objects, blob: &Oid) -> String {
    let data: Arc<Vec<u8>> = objs.get(blob, ObjectKind::Blob).expect("a view is whole");
    String::from_utf8_lossy(&data).into_owned()
}

/// The tokens in a text.
pub(super) fn tokens(text: &str) -> BTreeSet<u64> {
    text.lines()
        .filter_map(|l| l.strip_prefix('t')?.parse().ok())
        .collect()
}

/// One who acts on a view.
pub(super) struct Author<'a> {
    pub(super) view: &'a View,
    pub(super) cache: &'a Cache,
    pub(super) numbers: &'a mut Numbers,
    pub(super) rng: &'a mut Rng,
    /// The next token.
    pub(super) token: &'a mut u64,
    pub(super) now_ns: i64,
}

impl Author<'_> {
    fn sight(&self) -> Sight<'_> {
        Sight {
            src: Source::new(&*self.view.stage, self.cache),
            state: &self.view.state,
        }
    }

    fn tokens_at(&self, s: &Shown) -> BTreeSet<u64> {
        if s.kind != Kind::File {
            return BTreeSet::new();
        }
        tokens(&text(&*self.view.stage, &s.blob))
    }

    fn fresh_token(&mut self) -> u64 {
        *self.token += 1;
        *self.token
    }

    /// An act at random; none if nothing applies.
    pub(super) fn act(&mut self) -> Option<Act> {
        let all = tree(self.view, self.cache);
        for _ in 0..6 {
            let done = match self.rng.below(100) {
                0..28 => self.write(&all),
                28..50 => self.create(&all),
                50..58 => self.delete(&all),
                58..72 => self.rename(&all, Kind::File),
                72..80 => self.make_dir(&all),
                80..90 => self.rename(&all, Kind::Dir),
                90..95 => self.save_over(&all),
                _ => self.remove_dir(&all),
            };
            if done.is_some() {
                return done;
            }
        }
        None
    }

    fn some(&mut self, all: &Tree, kind: Kind) -> Option<String> {
        let fit = all.iter().filter(|(_, s)| s.kind == kind);
        let fit: Vec<&String> = fit.map(|(p, _)| p).collect();
        self.rng.pick(&fit).cloned()
    }

    fn some_dir(&mut self, all: &Tree) -> (String, Vec<FileId>) {
        let path = self.some(all, Kind::Dir);
        match path.filter(|p| p.matches('/').count() < DEPTH_MAX && self.rng.permille(600)) {
            Some(path) => (path.clone(), all[&path].dirs.clone()),
            None => (String::new(), vec![FileId::ROOT]),
        }
    }

    fn some_name(&mut self) -> EntryName {
        let name = NAMES[self.rng.index(NAMES.len())];
        EntryName::new(name).expect("a valid name")
    }

    fn create(&mut self, all: &Tree) -> Option<Act> {
        let (path, dirs) = self.some_dir(all);
        let name = self.some_name();
        let at = format!("{path}/{name}");
        if all.contains_key(&at) {
            return None;
        }
        let token = self.fresh_token();
        let mut bytes = format!("t{token}\n");
        if self.rng.permille(600) {
            for n in 0..LINES {
                bytes += &format!("line {n}\n");
            }
        }
        let id = self.numbers.mint();
        let target = Target {
            dirs: &dirs,
            name: &name,
        };
        let data = bytes.into_bytes();
        let blob = id_of(ObjectKind::Blob, &data);
        let null = Oid::null(id_of(ObjectKind::Blob, b"").kind());
        let logged = intent::create(target, id, (Kind::File, null));
        let mut changes = intent::create(target, id, (Kind::File, blob));
        changes.push(self.mtime(id));
        let mut patches: Vec<Patch> = logged.into_iter().map(Patch::Meta).collect();
        patches.push(Patch::Bytes {
            id,
            at: 0,
            data: data.clone(),
            mtime: self.now_ns,
        });
        Some(Act {
            patches,
            changes,
            blobs: vec![data],
            wrote: BTreeSet::from([token]),
            ended: BTreeSet::new(),
            note: format!("create {at} t{token}"),
        })
    }

    fn mtime(&self, id: FileId) -> Change {
        Change::Field {
            id,
            field: SetField::SetMtime(self.now_ns),
        }
    }

    fn write(&mut self, all: &Tree) -> Option<Act> {
        let path = self.some(all, Kind::File)?;
        let shown = &all[&path];
        let old = text(&*self.view.stage, &shown.blob);
        let before = tokens(&old);
        let token = self.fresh_token();
        let mut lines: Vec<String> = old.lines().map(str::to_owned).collect();
        match lines.len() {
            0 | 1 => lines = vec![format!("t{token}")],
            n => {
                let at = self.rng.index(n);
                lines[at] = format!("t{token}");
            }
        }
        let bytes = lines.join("\n") + "\n";
        let after = tokens(&bytes);
        let data = bytes.into_bytes();
        let blob = id_of(ObjectKind::Blob, &data);
        let fresh = self.numbers.mint();
        let changes = intent::write(self.sight(), shown, (Kind::File, blob), fresh);
        let mut changes = changes.expect("a view is whole");
        changes.push(self.mtime(shown.id()));
        let id = shown.id();
        let open = Patch::Open {
            id,
            base: shown.versions.iter().map(|v| v.content).collect(),
            kind: Kind::File,
            blob: shown.blob,
        };
        let mtime = self.now_ns;
        let size = Patch::Size { id, len: 0, mtime };
        let bytes = Patch::Bytes {
            id,
            at: 0,
            data: data.clone(),
            mtime,
        };
        Some(Act {
            patches: vec![open, size, bytes],
            changes,
            blobs: vec![data],
            wrote: BTreeSet::from([token]),
            ended: before.difference(&after).copied().collect(),
            note: format!("write {path} t{token}"),
        })
    }

    fn meta(&self, changes: Vec<Change>, ended: BTreeSet<u64>, note: String) -> Act {
        Act {
            patches: changes.iter().cloned().map(Patch::Meta).collect(),
            changes,
            ended,
            note,
            ..Act::default()
        }
    }

    fn delete(&mut self, all: &Tree) -> Option<Act> {
        let path = self.some(all, Kind::File)?;
        let shown = &all[&path];
        let changes = intent::delete(self.sight(), shown).expect("a view is whole");
        Some(self.meta(changes, self.tokens_at(shown), format!("delete {path}")))
    }

    fn remove_dir(&mut self, all: &Tree) -> Option<Act> {
        let path = self.some(all, Kind::Dir)?;
        let below = format!("{path}/");
        let mut changes = Vec::new();
        let mut ended = BTreeSet::new();
        let inside = all.iter().rev().filter(|(p, _)| p.starts_with(&below));
        let inside: Vec<&Shown> = inside.map(|(_, s)| s).collect();
        let versions: Vec<_> = inside.iter().flat_map(|s| s.versions.clone()).collect();
        for s in inside {
            let made = intent::delete_with(self.sight(), s, &versions);
            changes.extend(made.expect("a view is whole"));
            ended.extend(self.tokens_at(s));
        }
        let last = intent::delete(self.sight(), &all[&path]);
        changes.extend(last.expect("a view is whole"));
        Some(self.meta(changes, ended, format!("remove {path}/")))
    }

    fn make_dir(&mut self, all: &Tree) -> Option<Act> {
        let (path, dirs) = self.some_dir(all);
        let name = self.some_name();
        let at = format!("{path}/{name}");
        if all.contains_key(&at) {
            return None;
        }
        let id = self.numbers.mint();
        let target = Target {
            dirs: &dirs,
            name: &name,
        };
        let null = Oid::null(id_of(ObjectKind::Blob, b"").kind());
        let changes = intent::create(target, id, (Kind::Dir, null));
        Some(self.meta(changes, BTreeSet::new(), format!("make {at}/")))
    }

    /// Moves a file, perhaps over another, or a directory to where nothing is.
    fn rename(&mut self, all: &Tree, kind: Kind) -> Option<Act> {
        let from = self.some(all, kind)?;
        let (path, dirs) = self.some_dir(all);
        let name = self.some_name();
        let to = format!("{path}/{name}");
        let replaced = all.get(&to);
        if to == from || format!("{to}/").starts_with(&format!("{from}/")) {
            return None;
        }
        if replaced.is_some_and(|r| kind == Kind::Dir || r.kind == Kind::Dir) {
            return None;
        }
        let mut ended = replaced.map(|r| self.tokens_at(r)).unwrap_or_default();
        let moved = self.tokens_at(&all[&from]);
        ended.retain(|t| !moved.contains(t));
        let fresh = self.numbers.mint();
        let target = Target {
            dirs: &dirs,
            name: &name,
        };
        let changes = intent::rename(self.sight(), &all[&from], target, replaced, fresh);
        let changes = changes.expect("a view is whole");
        Some(self.meta(changes, ended, format!("rename {from} {to}")))
    }

    /// Saves as editors do: a copy beside the file, moved over it.
    fn save_over(&mut self, all: &Tree) -> Option<Act> {
        let (from, to) = (self.some(all, Kind::File)?, self.some(all, Kind::File)?);
        if from == to {
            return None;
        }
        let mut ended = self.tokens_at(&all[&to]);
        let kept = self.tokens_at(&all[&from]);
        ended.retain(|t| !kept.contains(t));
        let fresh = self.numbers.mint();
        let changes = intent::save_over(self.sight(), &all[&from], &all[&to], fresh);
        let changes = changes.expect("a view is whole");
        Some(self.meta(changes, ended, format!("save {from} over {to}")))
    }
}
