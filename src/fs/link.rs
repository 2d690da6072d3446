//! Several names of one file: hard links.
//!
//! All names lead to one inode. It is acted on by one of them at a time ([`Fs::named`]), which is
//! the one that it is shown under meanwhile. A file has a name of its own, and a record for each
//! other one; a file whose own name goes before its first commit moves to another one.

use super::names::{DotsOf, must_be_in_a_commit};
use super::{Fs, Result, Stat};
use crate::base::clock;
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::journal::Patch;
use crate::merge::intent::{self, Sight, Target};
use crate::merge::shown::{Role, Version};
use crate::record::change::{Change, OWN, SetField as Field};
use crate::record::model::Kind;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Child, Ino, Inode, OtherName};
use crate::volume::live::{Live, Stale, null_oid};

impl Fs {
    /// Gives a file one more name.
    ///
    /// # Errors
    /// `Exists`, `NotFound` for a file that has no name any more, `IsDir`, `ReadOnly`, the journal's.
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Stat> {
        let name = EntryName::new(name)?;
        self.may_name(dir, &name)?;
        self.may_change(ino)?;
        let mut live = self.lock_plain(|_| Ok(vec![ino]))?;
        if live.inode(ino)?.kind == Kind::Dir {
            return Err(VolumeError::IsDir);
        }
        let i = live.inode(ino)?;
        if i.removed || i.names == 0 || live.inode(dir)?.removed {
            return Err(VolumeError::NotFound);
        }
        let has_place = i.place.is_some();
        must_be_in_a_commit(i)?;
        if live.child(self.volume.cx(), dir, &name)?.is_some() {
            return Err(VolumeError::Exists);
        }
        let (fresh, own) = (live.mint(), live.mint());
        let parents = live.inode(dir)?.shown.dirs.clone();
        let target = Target {
            dirs: &parents,
            name: &name,
        };
        let sight = Sight {
            src: self.volume.source(&live.view),
            state: &live.view.state,
        };
        let shown = &live.inode(ino)?.shown;
        let mut changes = if has_place && self.is_as_shown(&live, ino)? {
            intent::link(sight, shown, target, (fresh, own))?
        } else {
            let link = (Kind::Link(shown.id()), null_oid());
            let mut made = intent::create(target, fresh, link);
            if has_place {
                made.extend(intent::keep_own(sight, shown, shown.id())?);
            }
            made
        };
        let parted = changes.iter().any(|c| c.id() == Some(own));
        let file = changes.iter().find_map(|c| match c {
            Change::Born { id, kind, .. } if *id == fresh => kind.target(),
            _ => None,
        });
        let now = clock::now_ns();
        changes.push(Change::Field {
            id: live.inode(dir)?.id(),
            field: Field::SetMtime(now),
        });
        let patches = changes.into_iter().map(Patch::Meta).collect();
        let since = self.volume.log(&mut live, patches)?;
        if parted {
            super::save::part(&mut live, ino, own)?;
        }
        live.set_child(dir, name.clone(), Child::Bound { ino, since });
        live.touched.insert(ino);
        live.touch_dir(dir, now);
        let i = live.inode_mut(ino)?;
        i.shown.versions.retain(|v| Some(v.id) == file);
        i.others.push(OtherName {
            dir,
            name: name.clone(),
            parents,
            role: Role::Main,
            link: vec![Version {
                id: fresh,
                content: OWN,
                location: OWN,
                first: true,
            }],
        });
        if i.place.is_none() {
            i.turn(dir, &name);
        }
        i.names += 1;
        i.lookups += 1;
        i.attr.ctime = now;
        let stat = self.stat_of(live.inode(ino)?);
        drop(live);
        self.volume.wake();
        self.tell_others(vec![Stale::Entry { dir, name }, Stale::Attr { ino }]);
        Ok(stat)
    }

    /// The changes by which a file whose own name is taken away moves to another one.
    pub(super) fn inherit_changes(
        &self,
        live: &Live,
        ino: Ino,
        heir: &OtherName,
    ) -> Result<Vec<Change>> {
        let i = live.inode(ino)?;
        let mut out: Vec<Change> = heir.link.iter().map(drop_record).collect();
        for (id, _, base) in self.all_dots(live, i)? {
            out.push(Change::Move {
                id,
                base,
                parent: heir.parents.first().copied().unwrap_or_default(),
                name: heir.name.clone(),
                prev: None,
            });
        }
        Ok(out)
    }
}

/// The name that a file moves to when its own is taken away: one that is in no commit yet, so
/// that nobody else knows it as another one.
pub(super) fn heir(live: &Live, ino: Ino) -> Result<Option<OtherName>> {
    let i = live.inode(ino)?;
    let is_new = |o: &&OtherName| !o.link.is_empty() && o.link.iter().all(|l| l.content == OWN);
    let own = i.kind != Kind::Dir && i.shown.link.is_empty();
    Ok(i.others.iter().find(is_new).filter(|_| own).cloned())
}

/// The file is at the name that it moved to.
pub(super) fn inherit(live: &mut Live, ino: Ino, heir: OtherName, since: u64) {
    live.turn(ino, heir.dir, &heir.name);
    if let Some(i) = live.inodes.get_mut(&ino) {
        i.shown.link.clear();
        for v in &mut i.shown.versions {
            v.location = OWN;
        }
    }
    live.set_child(heir.dir, heir.name, Child::Bound { ino, since });
}

fn drop_record(l: &Version) -> Change {
    Change::Drop {
        id: l.id,
        content: vec![l.content],
        location: vec![l.location],
    }
}

/// The changes that take away one of several names of a file, or the record of the last. What the
/// view has beside its names stays there as copies.
pub(super) fn drop_name(i: &Inode, all: &[DotsOf], beside: &[Version]) -> Vec<Change> {
    let link = &i.shown.link;
    let mut out: Vec<Change> = link.iter().map(drop_record).collect();
    let gone: Vec<Dot> = link.iter().map(|l| l.location).collect();
    // Nobody has seen a name that is in no commit yet.
    let is_new = !link.is_empty() && link.iter().all(|l| l.content == OWN);
    if i.kind == Kind::Dir || is_new || (link.is_empty() && !i.has_other_names()) {
        return out;
    }
    let at = link.first().or_else(|| i.shown.versions.first());
    // Before the rest: the end of a name's record is followed by what it takes from the file.
    out.splice(
        0..0,
        at.into_iter().flat_map(|at| beside_at(beside, at.location)),
    );
    for (id, content, location) in all {
        out.push(Change::Unlink {
            id: *id,
            content: content.clone(),
            location: match link.is_empty() {
                true => location.clone(),
                false => gone.clone(),
            },
        });
    }
    out
}

fn beside_at(beside: &[Version], location: Dot) -> impl Iterator<Item = Change> {
    beside.iter().map(move |v| Change::MarkCopy {
        id: v.id,
        content: v.content,
        location,
    })
}

/// The ends of files whose names these changes take away.
pub(super) fn end_unlinked(changes: &[Change]) -> Vec<Change> {
    let end = |c: &Change| match c {
        Change::Unlink { id, content, .. } => Some(Change::Drop {
            id: *id,
            content: content.clone(),
            location: Vec::new(),
        }),
        _ => None,
    };
    changes.iter().filter_map(end).collect()
}

/// The record of the name by which a file is acted on, with its dots.
pub(super) fn dots_of_name(i: &Inode) -> Vec<DotsOf> {
    let dots = |l: &Version| (l.id, vec![l.content], vec![l.location]);
    i.shown.link.iter().map(dots).collect()
}
