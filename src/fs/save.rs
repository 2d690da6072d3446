//! How editors save: a new file is renamed over the one that it stands for.
//!
//! Such a file stays the file that it was, with new bytes: what somebody edits elsewhere in the
//! same file meanwhile merges with them, as it would with a write in place. The inode of the new
//! file goes on under the other's id, and all that is written through it is written to that.

use super::{Fs, Result};
use crate::base::clock;
use crate::journal::Patch;
use crate::merge::shown::Role;
use crate::record::change::{Change, SetField as Field};
use crate::record::model::Kind;
use crate::volume::inode::{Attr, Data, Dirty, Ino, Inode};
use crate::volume::live::{Live, null_oid};

/// A file that was made no longer ago than this may be what an editor made to save.
const YOUNG_MS: u64 = 60_000;

fn is_plain(i: &Inode) -> bool {
    i.kind == Kind::File
        && i.shown.role == Role::Main
        && i.shown.link.is_empty()
        && i.shown.links == 0
        && !i.removed
}

/// Whether a file that is renamed over another one saves it.
pub(super) fn saves(live: &Live, new: Ino, old: Ino) -> bool {
    let (Some(n), Some(o)) = (live.inodes.get(&new), live.inodes.get(&old)) else {
        return false;
    };
    let young = n.made_ms > 0 && clock::now_ms().saturating_sub(n.made_ms) <= YOUNG_MS;
    // What is not in a commit yet nobody edits elsewhere, and its dots are not known.
    let known = !o.born && !live.touched.contains(&old);
    let in_store = matches!(n.data, Data::Blob { .. });
    is_plain(n) && is_plain(o) && young && known && !(in_store && o.dirty.is_some())
}

impl Fs {
    /// The patches by which the file `old` takes the bytes and attributes of `new`, which ends.
    pub(super) fn save_patches(&self, live: &Live, new: Ino, old: Ino) -> Result<Vec<Patch>> {
        let (n, o) = (live.inode(new)?, live.inode(old)?);
        let id = o.id();
        let ended = self.drop_changes(live, new)?;
        let mut patches: Vec<Patch> = ended.into_iter().map(Patch::Meta).collect();
        let mtime = n.attr.mtime;
        let open = |blob| Patch::Open {
            id,
            base: o.shown.versions.iter().map(|v| v.content).collect(),
            kind: o.kind,
            blob,
        };
        match &n.data {
            Data::None => {}
            Data::Blob { id: blob, .. } => patches.push(open(*blob)),
            Data::Spilled(s) => {
                patches.push(open(null_oid()));
                patches.push(Patch::Spill { id, file: s.number });
            }
            Data::Memory(bytes) => {
                patches.push(open(null_oid()));
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
        patches.extend(self.fields_of(o.attr, n.attr).into_iter().map(|field| {
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

/// The inode `new` goes on as the file that `old` was, under its name.
pub(super) fn take_over(live: &mut Live, new: Ino, old: Ino, now: i64) -> Result<()> {
    let o = live.inode(old)?;
    let (shown, place, id) = (o.shown.clone(), o.place.clone(), o.id());
    live.mark_removed(old, now);
    let i = live.inode_mut(new)?;
    let was = i.id();
    let before = i.dirty;
    i.shown = shown;
    i.place = place;
    i.born = false;
    i.attr.ctime = now;
    i.dirty = Some(Dirty {
        since_ms: before.map_or_else(clock::now_ms, |d| d.since_ms),
        settled: i.writers == 0 || before.is_some_and(|d| d.settled),
        synced: before.is_some_and(|d| d.synced),
        generation: before.map_or(1, |d| d.generation + 1),
    });
    live.dirty.insert(new);
    live.touched.insert(new);
    live.by_id.remove(&was);
    live.by_id.insert(id, new);
    Ok(())
}
