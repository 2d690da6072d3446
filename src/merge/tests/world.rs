//! Histories for tests: commits with any parents, and authors who act on what they see.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{BranchId, FileId, NodeId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::{Dot, Hlc, Stamp};
use crate::merge::intent::{self, Sight, Target};
use crate::merge::join::{Head, join};
use crate::merge::shown::{Role, Shown, Version, list};
use crate::record::cache::Cache;
use crate::record::change::{Change, SetField, apply};
use crate::record::commit::{self, NewCommit, join_seen};
use crate::record::draft::Dots;
use crate::record::model::Kind;
use crate::record::state::State;
use crate::record::{Result, Source};
use crate::store::objects::{Memory, ObjectKind, Objects};

/// Commits of a volume, by number.
#[derive(Default)]
pub(super) struct World {
    pub(super) objs: Memory,
    pub(super) cache: Cache,
    pub(super) heads: Vec<Head>,
    pub(super) ancestors: Vec<BTreeSet<usize>>,
    dots: BTreeMap<Dot, Oid>,
    seqs: BTreeMap<BranchId, u64>,
    births: u64,
    /// The content that the next commits describe, if any.
    pub(super) content: Option<Oid>,
    /// What each commit did, for people who read a failure.
    pub(super) notes: Vec<String>,
    /// Per commit: file, bytes, whether it wrote them rather than asserted them again.
    pub(super) written: Vec<Vec<(FileId, Oid, bool)>>,
    /// Per commit: file, bytes whose version it ended.
    pub(super) ended: Vec<BTreeSet<(FileId, Oid)>>,
}

impl Dots for World {
    fn record_commit(&self, dot: Dot) -> Result<Option<Oid>> {
        Ok(self.dots.get(&dot).copied())
    }
}

pub(super) fn name(s: &str) -> EntryName {
    EntryName::new(s).expect("a valid name")
}

fn split(path: &str) -> (&str, EntryName) {
    let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
    (dir, name(last))
}

impl World {
    pub(super) fn src(&self) -> Source<'_> {
        Source::new(&self.objs, &self.cache)
    }

    pub(super) fn blob(&self, text: &str) -> Oid {
        let data = text.as_bytes().to_vec();
        self.objs.put(ObjectKind::Blob, data).expect("memory")
    }

    pub(super) fn heads(&self, commits: &[usize]) -> Vec<Head> {
        commits.iter().map(|c| self.heads[*c].clone()).collect()
    }

    pub(super) fn maximal(&self, commits: &BTreeSet<usize>) -> BTreeSet<usize> {
        let below = |a: usize| {
            commits
                .iter()
                .any(|b| *b != a && self.ancestors[*b].contains(&a))
        };
        commits.iter().copied().filter(|a| !below(*a)).collect()
    }

    pub(super) fn state(&self, commits: &[usize]) -> State {
        join(self.src(), self, &self.heads(commits)).expect("joins")
    }

    pub(super) fn fresh(&mut self) -> FileId {
        self.births += 1;
        FileId {
            branch: 77,
            n: self.births,
        }
    }

    /// Makes a commit on these parents.
    pub(super) fn commit(
        &mut self,
        node: u64,
        parents: &[usize],
        time: u64,
        note: &str,
        changes: &[Change],
    ) -> usize {
        let before = self.state(parents);
        let branch = BranchId(node + 1);
        let seq = self.seqs.get(&branch).copied().unwrap_or(0) + 1;
        self.seqs.insert(branch, seq);
        let stamp = Stamp {
            hlc: Hlc(time << 16),
            branch,
            seq,
        };
        let state = apply(self.src(), self, &before, stamp, changes).expect("applies");
        let heads = self.heads(parents);
        let own = [(branch, seq)];
        let vectors = heads.iter().map(|h| h.seen.as_slice()).chain([&own[..]]);
        let seen = join_seen(vectors);
        let head = commit::Head {
            stamp,
            node: NodeId([0; 32]),
            content: self.content,
            births: self.births,
            seen,
            carried: Vec::new(),
            frontier: 0,
        };
        let new = NewCommit {
            head,
            state,
            frontier: heads.iter().map(|h| h.commit).collect(),
            tips: Vec::new(),
        };
        let id = commit::encode(&self.objs, new).expect("encodes");
        let read = commit::decode(&self.objs, &id).expect("decodes");
        self.heads.push(Head::from(&read));
        self.dots.insert(stamp.dot(), id);
        let index = self.heads.len() - 1;
        let mut ancestors = BTreeSet::from([index]);
        for p in parents {
            ancestors.extend(&self.ancestors[*p]);
        }
        self.ancestors.push(ancestors);
        self.notes.push(format!(
            "c{index} <- {parents:?} at {time} node {node}: {note}"
        ));
        self.account(&before, &state, stamp, changes);
        index
    }

    /// A commit without changes.
    pub(super) fn seal(&mut self, node: u64, parents: &[usize], time: u64) -> usize {
        self.commit(node, parents, time, "seal", &[])
    }

    /// Notes which bytes the commit wrote and which it ended.
    fn account(&mut self, before: &State, after: &State, stamp: Stamp, changes: &[Change]) {
        let mut written = Vec::new();
        let mut ended = BTreeSet::new();
        let meant: BTreeSet<FileId> = changes
            .iter()
            .filter_map(|c| match c {
                Change::Born { id, .. } | Change::Write { id, .. } => Some(*id),
                _ => None,
            })
            .collect();
        let rows = crate::record::trie::differing::<crate::record::model::Record>(
            self.src(),
            &[before.ids, after.ids],
        );
        for (id, row) in rows.expect("memory") {
            let (old, new) = (row[0].clone(), row[1].clone());
            let new_content = new.as_ref().map_or(&[][..], |r| r.shown_content());
            // Also those that no place shows any more: who acts on the file ends them.
            let hidden = old.as_ref().filter(|_| !new_content.is_empty());
            let hidden = hidden.map_or(&[][..], |r| &r.content);
            let all = old.as_ref().map_or(&[][..], |r| r.shown_content());
            for c in all.iter().chain(hidden) {
                let kept = new.as_ref().map_or(&[][..], |r| &r.content);
                let stays = new_content.iter().chain(kept).any(|n| n.stamp == c.stamp);
                let again = new_content
                    .iter()
                    .any(|n| n.stamp == stamp && n.blob == c.blob && !meant.contains(&id));
                if !stays && !again && is_bytes(c.kind) {
                    ended.insert((id, c.blob));
                }
            }
            let moved = new
                .as_ref()
                .is_some_and(|r| r.location.iter().any(|l| l.stamp == stamp));
            // Another name keeps the bytes alive that its author saw.
            for target in new_content.iter().filter_map(|c| c.kind.target()) {
                let new = new_content.iter().any(|c| c.stamp == stamp) || moved;
                let file = after.record(self.src(), target).expect("memory");
                for c in file.iter().flat_map(|f| f.shown_content()).filter(|_| new) {
                    written.push((target, c.blob, false));
                }
            }
            for c in new_content.iter().filter(|c| is_bytes(c.kind)) {
                if c.stamp == stamp || moved {
                    written.push((id, c.blob, c.stamp == stamp && meant.contains(&id)));
                }
            }
        }
        self.written.push(written);
        self.ended.push(ended);
    }

    /// All that is shown, by path.
    pub(super) fn tree(&self, state: &State) -> BTreeMap<String, Shown> {
        let mut out = BTreeMap::new();
        let mut todo = vec![(String::new(), vec![FileId::ROOT])];
        while let Some((path, dirs)) = todo.pop() {
            for s in list(self.src(), state, &dirs).expect("lists") {
                let at = format!("{path}/{}", s.name);
                if s.kind == Kind::Dir {
                    todo.push((at.clone(), s.dirs.clone()));
                }
                out.insert(at, s);
            }
        }
        out
    }

    /// All bytes that are shown, by path; directories end in a slash.
    pub(super) fn disk(&self, commits: &[usize]) -> BTreeMap<String, String> {
        let tree = self.tree(&self.state(commits));
        let text = |s: &Shown| match s.kind {
            Kind::Dir => "/".to_owned(),
            _ => self.text(&s.blob),
        };
        tree.iter().map(|(p, s)| (p.clone(), text(s))).collect()
    }

    pub(super) fn text(&self, blob: &Oid) -> String {
        let data = self.objs.get(blob, ObjectKind::Blob).expect("a blob");
        String::from_utf8_lossy(&data).into_owned()
    }

    pub(super) fn dirs(&self, state: &State, path: &str) -> Vec<FileId> {
        if path.is_empty() {
            return vec![FileId::ROOT];
        }
        self.tree(state)[path].dirs.clone()
    }

    /// What creating an entry means.
    pub(super) fn create(&mut self, state: &State, path: &str, text: Option<&str>) -> Vec<Change> {
        let (dir, last) = split(path);
        let dirs = self.dirs(state, dir);
        let bytes = match text {
            Some(text) => (Kind::File, self.blob(text)),
            None => (Kind::Dir, Oid::null(gix::hash::Kind::Sha1)),
        };
        let target = Target {
            dirs: &dirs,
            name: &last,
        };
        intent::create(target, self.fresh(), bytes)
    }

    /// What writing an entry means.
    pub(super) fn write(&mut self, state: &State, path: &str, text: &str) -> Vec<Change> {
        let fresh = self.fresh();
        let shown = &self.tree(state)[path];
        let bytes = (Kind::File, self.blob(text));
        intent::write(self.sight(state), shown, bytes, fresh).expect("reads")
    }

    fn sight<'a>(&'a self, state: &'a State) -> Sight<'a> {
        Sight {
            src: self.src(),
            state,
        }
    }

    /// What deleting an entry means, with all that is in it.
    pub(super) fn delete(&self, state: &State, path: &str) -> Vec<Change> {
        let tree = self.tree(state);
        let below = format!("{path}/");
        let inside = tree.iter().rev().filter(|(p, _)| p.starts_with(&below));
        let all: Vec<&Shown> = inside.map(|(_, s)| s).chain([&tree[path]]).collect();
        let versions: Vec<Version> = all.iter().flat_map(|s| s.versions.clone()).collect();
        let each = all.into_iter().flat_map(|shown| {
            intent::delete_with(self.sight(state), shown, &versions).expect("reads")
        });
        each.collect()
    }

    /// What renaming an entry means.
    pub(super) fn rename(&mut self, state: &State, from: &str, to: &str) -> Vec<Change> {
        let fresh = self.fresh();
        let tree = self.tree(state);
        let (dir, last) = split(to);
        let dirs = self.dirs(state, dir);
        let target = Target {
            dirs: &dirs,
            name: &last,
        };
        intent::rename(self.sight(state), &tree[from], target, tree.get(to), fresh).expect("reads")
    }

    /// What giving a file another name means.
    pub(super) fn link(&mut self, state: &State, from: &str, to: &str) -> Vec<Change> {
        let ids = (self.fresh(), self.fresh());
        let tree = self.tree(state);
        let (dir, last) = split(to);
        let dirs = self.dirs(state, dir);
        let target = Target {
            dirs: &dirs,
            name: &last,
        };
        intent::link(self.sight(state), &tree[from], target, ids).expect("reads")
    }

    /// What a new file that is renamed over another means.
    fn save(&mut self, state: &State, from: &str, to: &str) -> Vec<Change> {
        let fresh = self.fresh();
        let tree = self.tree(state);
        intent::save_over(self.sight(state), &tree[from], &tree[to], fresh).expect("reads")
    }

    /// What creating a symbolic link means.
    fn symlink(&mut self, state: &State, path: &str, to: &str) -> Vec<Change> {
        let (dir, last) = split(path);
        let dirs = self.dirs(state, dir);
        let target = Target {
            dirs: &dirs,
            name: &last,
        };
        intent::create(target, self.fresh(), (Kind::Symlink, self.blob(to)))
    }

    /// What setting a field means: `mode` in octal, `mtime`, or an extended attribute, which
    /// an empty value ends.
    fn set(&self, state: &State, path: &str, field: &str, value: &str) -> Vec<Change> {
        let field = match field {
            "mode" => SetField::SetMode(u32::from_str_radix(value, 8).expect("octal")),
            "mtime" => SetField::SetMtime(value.parse().expect("a number")),
            _ => SetField::SetXattr {
                name: field.as_bytes().to_vec(),
                value: (!value.is_empty()).then(|| value.as_bytes().to_vec()),
            },
        };
        intent::set_fields(&self.tree(state)[path], &[field])
    }

    /// Creates, writes (`+path=text`, `=path=text`), deletes (`-path`), makes directories
    /// (`^path`), symbolic links (`@path=target`), renames (`a>b`), saves (`a>>b`), links
    /// (`a~~b`) and sets fields (`!path:field=value`), in one commit.
    pub(super) fn act(&mut self, node: u64, parents: &[usize], time: u64, acts: &[&str]) -> usize {
        let state = self.state(parents);
        let mut changes = Vec::new();
        for act in acts {
            changes.extend(self.parse(&state, act));
        }
        self.commit(node, parents, time, &acts.join(" "), &changes)
    }

    /// The next commit of this node has the number of its last one.
    pub(super) fn roll_back(&mut self, node: u64) {
        let seq = self.seqs.get_mut(&BranchId(node + 1));
        *seq.expect("a commit of the node") -= 1;
    }

    fn parse(&mut self, state: &State, act: &str) -> Vec<Change> {
        if let Some((from, to)) = act.split_once(">>") {
            return self.save(state, from, to);
        }
        if let Some((from, to)) = act.split_once('>') {
            return self.rename(state, from, to);
        }
        if let Some((from, to)) = act.split_once("~~") {
            return self.link(state, from, to);
        }
        let rest = &act[1..];
        match (&act[..1], rest.split_once('=')) {
            ("+", Some((path, text))) => self.create(state, path, Some(text)),
            ("=", Some((path, text))) => self.write(state, path, text),
            ("-", None) => self.delete(state, rest),
            ("^", None) => self.create(state, rest, None),
            ("@", Some((path, to))) => self.symlink(state, path, to),
            ("!", Some((at, value))) => {
                let (path, field) = at.split_once(':').expect("a path and a field");
                self.set(state, path, field, value)
            }
            _ => panic!("no act: {act}"),
        }
    }
}

fn is_bytes(kind: Kind) -> bool {
    kind != Kind::Dir && kind.target().is_none()
}

/// The copies in a listing: plain path to the texts beside it.
pub(super) fn copies(tree: &BTreeMap<String, Shown>) -> BTreeSet<(String, Oid)> {
    tree.iter()
        .filter_map(|(path, s)| match &s.role {
            Role::Copy { of } => {
                let (dir, _) = path.rsplit_once('/')?;
                Some((format!("{dir}/{of}"), s.blob))
            }
            Role::Main => None,
        })
        .collect()
}
