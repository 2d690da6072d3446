//! How editors save: a new file is renamed over the one that it stands for, or that one is moved
//! aside or removed and a new one made at its name.
//!
//! Such a file stays the file that it was, with new bytes: what somebody edits elsewhere in the
//! same file meanwhile merges with them, as it would with a write in place. The inode of the new
//! file goes on under the other's id, and all that is written through it is written to that; what
//! was moved aside becomes a file of its own. It does not matter which commits fall between.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Fs, Result};
use crate::base::clock;
use crate::base::id::{FileId, Oid};
use crate::base::limit::SMALL_FILE_BYTES_MAX;
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::journal::Patch;
use crate::merge::shown::{Role, Shown, Version};
use crate::record::change::{Change, OWN, SetField as Field};
use crate::record::model::Kind;
use crate::volume::inode::{Attr, Data, Dirty, Ino, Inode};
use crate::volume::live::{Left, Live, null_oid};
use crate::volume::spill::Spill;

/// A file that was made no longer ago than this may be what an editor made to save.
const YOUNG_MS: u64 = 60_000;
/// A file that is made where another one was no longer ago than this goes on that one.
const RESUME_MS: u64 = 10_000;

fn is_plain(i: &Inode) -> bool {
    i.kind == Kind::File
        && i.shown.role == Role::Main
        && i.shown.link.is_empty()
        && i.shown.links == 0
        && !i.has_other_names()
        && !i.removed
}

/// Whether a file that is renamed over another one saves it.
pub(super) fn saves(live: &Live, new: Ino, old: Ino) -> bool {
    let (Some(n), Some(o)) = (live.inodes.get(&new), live.inodes.get(&old)) else {
        return false;
    };
    let young = n.made_ms > 0 && clock::now_ms().saturating_sub(n.made_ms) <= YOUNG_MS;
    // What was born here and is in no commit yet nobody edits elsewhere.
    let known = !o.born && o.shown.versions.iter().all(|v| v.content != OWN);
    let large =
        matches!(n.data, Data::Blob { len, chunked, .. } if chunked || len > SMALL_FILE_BYTES_MAX);
    is_plain(n) && is_plain(o) && young && known && !(large && o.dirty.is_some())
}

/// The name that the bytes of a sealed overlay file have in a commit.
fn head_of(live: &Live, i: &Inode, s: &Spill) -> Option<Oid> {
    let is_clean = i.dirty.is_none() && !i.born && !live.committing.contains(&i.ino);
    if s.is_sealed() && is_clean && i.shown.kind == Kind::Large {
        return Some(i.shown.blob);
    }
    s.contained().map(|(_, head)| head)
}

impl Fs {
    /// The patches by which the file `old` takes the bytes and attributes of `new`, which ends, over
    /// what was seen of it.
    pub(super) fn save_patches(
        &self,
        live: &Live,
        new: Ino,
        (old, over): (Ino, &Shown),
    ) -> Result<Vec<Patch>> {
        let (n, o) = (live.inode(new)?, live.inode(old)?);
        let id = o.id();
        let ended = self.drop_changes(live, new)?;
        let mut patches: Vec<Patch> = ended.into_iter().map(Patch::Meta).collect();
        let mtime = n.attr.mtime;
        let open = |kind, blob| Patch::Open {
            id,
            base: over.versions.iter().map(|v| v.content).collect(),
            kind,
            blob,
        };
        // What the journal has of the old bytes goes by what it has of the new ones, not by their name.
        let data = match &n.data {
            Data::Blob { .. } if o.dirty.is_some() => {
                let bytes = self.volume.read(&n.data, 0, u32::MAX)?;
                Data::Memory(Arc::new(bytes))
            }
            other => other.clone(),
        };
        match &data {
            Data::None => {}
            Data::Blob { id, chunked, .. } => {
                let kind = if *chunked { Kind::Large } else { o.kind };
                patches.push(open(kind, *id));
            }
            Data::Spilled(s) => match head_of(live, n, s) {
                // It may have no name in the overlay.
                Some(head) if self.volume.is_stored(&head)? => {
                    patches.push(open(Kind::Large, head));
                }
                _ => {
                    patches.push(open(o.kind, null_oid()));
                    patches.push(Patch::Spill { id, file: s.number });
                }
            },
            Data::Memory(bytes) => {
                patches.push(open(o.kind, null_oid()));
                patches.push(Patch::Size { id, len: 0, mtime });
                let data = bytes.as_ref().clone();
                let at = 0;
                patches.push(Patch::Bytes {
                    id,
                    at,
                    data,
                    mtime,
                });
            }
        }
        let mut fields = self.fields_of(o.attr, n.attr);
        fields.extend(Field::xattrs(&o.shown.xattrs, &n.shown.xattrs));
        patches.extend(fields.into_iter().map(|field| {
            let field = Change::Field { id, field };
            Patch::Meta(field)
        }));
        Ok(patches)
    }

    /// What makes attributes those of another file.
    fn fields_of(&self, old: Attr, new: Attr) -> Vec<Field> {
        let mut out = vec![Field::SetMode(new.mode), Field::SetMtime(new.mtime)];
        if old.uid != new.uid {
            out.push(Field::SetUid(new.uid.unwrap_or(self.owner.uid)));
        }
        if old.gid != new.gid {
            out.push(Field::SetGid(new.gid.unwrap_or(self.owner.gid)));
        }
        out
    }
}

/// The inode `new` goes on as the file that `old` was, under its name and over what was seen of it.
pub(super) fn take_over(
    live: &mut Live,
    new: Ino,
    (old, shown): (Ino, Shown),
    now: i64,
) -> Result<()> {
    let o = live.inode(old)?;
    let (place, id) = (o.place.clone(), o.id());
    let before = o.before.clone();
    live.mark_removed(old, now);
    let taken = live.taken;
    let i = live.inode_mut(new)?;
    let was = i.id();
    let dirty = i.dirty;
    i.before = before;
    let xattrs = std::mem::take(&mut i.shown.xattrs);
    i.shown = shown;
    i.shown.xattrs = xattrs;
    i.place = place;
    i.born = false;
    i.attr.ctime = now;
    i.dirty = Some(Dirty {
        settled: i.writers == 0 || dirty.is_some_and(|d| d.settled),
        ..dirty.unwrap_or_else(|| Dirty::new(taken)).more()
    });
    live.dirty.insert(new);
    live.touched.insert(new);
    live.by_id.remove(&was);
    live.by_id.insert(id, new);
    live.writing.insert(id, new);
    Ok(())
}

/// A name that a file was taken away from lately, for whoever makes a file there again.
#[derive(Debug, Clone)]
pub(super) struct Resumed {
    /// The file.
    pub(super) id: FileId,
    /// What was shown of it.
    pub(super) shown: Shown,
    /// Where it went, and the id of the file that stays there instead.
    backup: Option<(Ino, FileId)>,
    /// What to log.
    pub(super) patches: Vec<Patch>,
}

/// Remembers that a file is about to lose its name, by a removal or a move to `to`.
pub(super) fn leave(
    live: &mut Live,
    ino: Ino,
    at: (Ino, &EntryName),
    to: Option<(Ino, &EntryName)>,
) {
    let Some(i) = live.inodes.get(&ino) else {
        return;
    };
    let known = !i.born && !live.touched.contains(&ino);
    // What is moved and not kept as `name~` or the like is not a backup, but another file now.
    let plain = at.1.as_bytes();
    let is_backup = to.is_none_or(|(_, to)| to.as_bytes().windows(plain.len()).any(|w| w == plain));
    let left = Left {
        shown: i.shown.clone(),
        moved: to.map(|(dir, name)| (dir, name.clone())),
        at_ms: clock::now_ms(),
    };
    let key = (at.0, at.1.clone());
    if known && is_backup && is_plain(i) && i.dirty.is_none() {
        live.left.put(key, left);
    } else {
        live.left.pop(&key);
    }
}

impl Fs {
    /// The file that a new one at this name goes on, if one left the name a moment ago: editors
    /// move the old file aside, or remove it, and write a new one.
    pub(super) fn resumes(
        &self,
        live: &mut Live,
        dir: Ino,
        name: &EntryName,
    ) -> Result<Option<Resumed>> {
        let Some(left) = live.left.pop(&(dir, name.clone())) else {
            return Ok(None);
        };
        let id = left.shown.id();
        if clock::now_ms().saturating_sub(left.at_ms) > RESUME_MS {
            return Ok(None);
        }
        // Somebody writes the version on that it was.
        if live.writer_of(id).is_some() || self.lives_elsewhere(live, &left)? {
            return Ok(None);
        }
        // The bytes' commit first: if the file has to be brought back, it is as it was then.
        let mut base: Vec<Dot> = left.shown.versions.iter().map(|v| v.content).collect();
        base.extend(left.shown.versions.iter().map(|v| v.location));
        base.push(OWN);
        let mut patches = Vec::new();
        let mut backup = None;
        if let Some((to, to_name)) = &left.moved {
            let Some(ino) = live.child(self.volume.cx(), *to, to_name)? else {
                return Ok(None);
            };
            let i = live.inode(ino)?;
            let stored = !i.shown.blob.is_null() && self.volume.is_stored(&i.shown.blob)?;
            let same = i.id() == id && i.shown.blob == left.shown.blob;
            if !is_plain(i) || i.dirty.is_some() || i.writers > 0 || !stored || !same {
                return Ok(None);
            }
            base.extend(i.shown.versions.iter().map(|v| v.location));
            let (shown, attr) = (i.shown.clone(), i.attr);
            let copy = live.mint();
            patches.push(Patch::Meta(Change::Born {
                id: copy,
                parent: shown.parents.first().copied().unwrap_or(FileId::ROOT),
                name: shown.name.clone(),
                kind: shown.kind,
                blob: shown.blob,
            }));
            let mut fields = vec![Field::SetMode(attr.mode), Field::SetMtime(attr.mtime)];
            fields.extend(attr.uid.map(Field::SetUid));
            fields.extend(attr.gid.map(Field::SetGid));
            fields.extend(Field::xattrs(&BTreeMap::new(), &shown.xattrs));
            patches.extend(
                fields
                    .into_iter()
                    .map(|field| Patch::Meta(Change::Field { id: copy, field })),
            );
            backup = Some((ino, copy));
        }
        patches.push(Patch::Meta(Change::Move {
            id,
            base,
            parent: live.inode(dir)?.id(),
            name: name.clone(),
            prev: None,
        }));
        patches.push(Patch::Open {
            id,
            base: left.shown.versions.iter().map(|v| v.content).collect(),
            kind: Kind::File,
            blob: null_oid(),
        });
        // A file that is made has none.
        let ended = Field::xattrs(&left.shown.xattrs, &BTreeMap::new());
        let ended = ended.into_iter().map(|field| Change::Field { id, field });
        patches.extend(ended.map(Patch::Meta));
        Ok(Some(Resumed {
            id,
            shown: left.shown,
            backup,
            patches,
        }))
    }
}

impl Fs {
    /// Whether somebody else gave a file that left its name here another one: it is not what is
    /// made at the old name now.
    fn lives_elsewhere(&self, live: &Live, left: &Left) -> Result<bool> {
        let (src, state) = (self.volume.source(&live.view), &live.view.state);
        let Some(record) = state.record(src, left.shown.id())? else {
            return Ok(false);
        };
        let Some(now) = record.place() else {
            return Ok(record.is_shown());
        };
        let was = left.shown.parents.contains(&now.parent) && left.shown.name == now.name;
        let is_moved = |(dir, name): &(Ino, EntryName)| {
            let dir = live.inodes.get(dir);
            dir.is_some_and(|d| d.shown.dirs.contains(&now.parent)) && *name == now.name
        };
        let known = was || left.moved.as_ref().is_some_and(is_moved);
        Ok(!known || record.filled.links > 0)
    }
}

/// An inode becomes a file of its own, which is born with the bytes that it shows.
pub(super) fn part(live: &mut Live, ino: Ino, id: FileId) -> Result<()> {
    let i = live.inode_mut(ino)?;
    let was = i.id();
    i.shown.versions = vec![Version {
        id,
        content: OWN,
        location: OWN,
        first: true,
    }];
    i.shown.role = Role::Main;
    i.shown.merged = false;
    i.before.clear();
    i.born = true;
    live.touched.insert(ino);
    if live.by_id.get(&was) == Some(&ino) {
        live.by_id.remove(&was);
    }
    live.by_id.insert(id, ino);
    Ok(())
}

/// The new inode is the file that was at its name; what was moved aside is a file of its own.
pub(super) fn resume(live: &mut Live, ino: Ino, r: Resumed) -> Result<()> {
    if let Some((aside, id)) = r.backup {
        part(live, aside, id)?;
    }
    let i = live.inode_mut(ino)?;
    let (name, parents) = (i.shown.name.clone(), i.shown.parents.clone());
    i.shown = Shown {
        name,
        parents,
        xattrs: BTreeMap::new(),
        ..r.shown
    };
    for v in &mut i.shown.versions {
        v.location = OWN;
    }
    i.born = false;
    live.by_id.insert(r.id, ino);
    Ok(())
}
