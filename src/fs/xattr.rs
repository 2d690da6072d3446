//! Extended attributes: names and values that programs keep beside a file's bytes, and what a
//! change of a file takes away from it (set-id bits, file capabilities).
//!
//! Each attribute is a field of the file's record and is merged by itself. They are part of every
//! record that is written anew near the file's, so they are small: see [`BYTES_MAX`].

use std::collections::BTreeMap;

use super::{Field, Fs, Result, own};
use crate::base::clock;
use crate::journal::Patch;
use crate::record::change::Change;
use crate::record::model::{Kind, XattrName};
use crate::volume::error::VolumeError;
use crate::volume::inode::Ino;
use crate::volume::live::{Live, Stale};

/// Names and values of one file together, in bytes. ext4 has room for 4 KiB.
pub(super) const BYTES_MAX: usize = 16 << 10;
/// Whom a program runs as that is not root's (Linux: capabilities of a file).
const CAPABILITY: &[u8] = b"security.capability";
/// What SELinux makes of a file. Kept for those who set it; where nobody did, there are none.
const LABEL: &[u8] = b"security.selinux";
/// Names that only root sees.
const TRUSTED: &[u8] = b"trusted.";
/// Access control lists: the kernel must know what they mean, and is not told yet.
const ACLS: &[u8] = b"system.posix_acl_";

/// What may be there when an attribute is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetXattr {
    /// Anything.
    Any,
    /// It must not be there yet.
    Create,
    /// It must be there.
    Replace,
}

impl Fs {
    /// The value of an attribute.
    ///
    /// # Errors
    /// `NoData` when there is none.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        if own::is_own(ino) {
            return Err(VolumeError::NoData);
        }
        may_have(name)?;
        let mut live = self.volume.lock();
        self.refresh_root(&mut live, ino)?;
        let found = live.inode(ino)?.shown.xattrs.get(name).cloned();
        found.ok_or(match name {
            // Said once, `ls -l` asks no more, where it asks for each file of others.
            LABEL => VolumeError::Unsupported("labels"),
            _ => VolumeError::NoData,
        })
    }

    /// All names of attributes, each with a zero byte behind it.
    ///
    /// # Errors
    /// `Stale`.
    pub fn xattrs(&self, ino: Ino, is_root: bool) -> Result<Vec<u8>> {
        if own::is_own(ino) {
            return Ok(Vec::new());
        }
        let mut live = self.volume.lock();
        self.refresh_root(&mut live, ino)?;
        let names = live.inode(ino)?.shown.xattrs.keys();
        let seen = names.filter(|n| is_root || !n.starts_with(TRUSTED));
        Ok(seen.flat_map(|n| n.iter().copied().chain([0])).collect())
    }

    /// Gives an attribute a value.
    ///
    /// # Errors
    /// `Exists`, `NoData`, `NoRoom` as `how` says, `ReadOnly`, the journal's.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        self.may_change(ino)?;
        may_have(name)?;
        let mut live = self.volume.lock();
        self.refresh_root(&mut live, ino)?;
        let all = &live.inode(ino)?.shown.xattrs;
        match (how, all.get(name)) {
            (SetXattr::Create, Some(_)) => return Err(VolumeError::Exists),
            (SetXattr::Replace, None) => return Err(VolumeError::NoData),
            (_, Some(old)) if old == value => return Ok(()),
            _ => {}
        }
        let others = all.iter().filter(|(n, _)| n.as_slice() != name);
        let used: usize = others.map(|(n, v)| n.len() + v.len()).sum();
        if used + name.len() + value.len() > BYTES_MAX {
            return Err(VolumeError::NoRoom);
        }
        self.change_xattr(&mut live, ino, name, Some(value))?;
        self.changed(live, ino);
        Ok(())
    }

    /// Takes an attribute away.
    ///
    /// # Errors
    /// `NoData` when there is none, `ReadOnly`, the journal's.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.may_change(ino)?;
        may_have(name)?;
        let mut live = self.volume.lock();
        self.refresh_root(&mut live, ino)?;
        if !live.inode(ino)?.shown.xattrs.contains_key(name) {
            return Err(VolumeError::NoData);
        }
        self.change_xattr(&mut live, ino, name, None)?;
        self.changed(live, ino);
        Ok(())
    }

    /// A file is written to: its capabilities end, and with `ids` its set-id bits, since whoever
    /// writes may not give them.
    ///
    /// # Errors
    /// The journal's.
    pub fn end_privileges(&self, ino: Ino, ids: bool) -> Result<()> {
        if own::is_own(ino) {
            return Ok(());
        }
        let mut live = self.volume.lock();
        let i = live.inode(ino)?;
        let mode = if ids {
            without_ids(i.attr.mode)
        } else {
            i.attr.mode
        };
        let is_capable = i.shown.xattrs.contains_key(CAPABILITY);
        if i.kind != Kind::File || (mode == i.attr.mode && !is_capable) {
            return Ok(());
        }
        if is_capable {
            self.change_xattr(&mut live, ino, CAPABILITY, None)?;
        }
        if mode != live.inode(ino)?.attr.mode {
            self.log_fields(&mut live, ino, &[Field::SetMode(mode)])?;
            live.inode_mut(ino)?.attr.mode = mode;
        }
        self.changed(live, ino);
        Ok(())
    }

    fn change_xattr(
        &self,
        live: &mut Live,
        ino: Ino,
        name: &[u8],
        value: Option<&[u8]>,
    ) -> Result<()> {
        let field = Field::SetXattr {
            name: name.to_vec(),
            value: value.map(<[u8]>::to_vec),
        };
        self.log_fields(live, ino, &[field])?;
        let i = live.inode_mut(ino)?;
        match value {
            Some(v) => i.shown.xattrs.insert(name.to_vec(), v.to_vec()),
            None => i.shown.xattrs.remove(name),
        };
        i.attr.ctime = clock::now_ns();
        Ok(())
    }

    /// Logs new values of fields of all files that an inode stands for.
    pub(super) fn log_fields(&self, live: &mut Live, ino: Ino, fields: &[Field]) -> Result<()> {
        let i = live.inode(ino)?;
        if i.removed || fields.is_empty() {
            return Ok(());
        }
        let ids = self.field_ids(i);
        let each = ids.iter().flat_map(|id| {
            let set = fields.iter();
            set.map(|f| Change::Field {
                id: *id,
                field: f.clone(),
            })
        });
        let patches = each.map(Patch::Meta).collect();
        self.volume.log(live, patches)?;
        live.touched.insert(ino);
        Ok(())
    }

    fn changed(&self, live: std::sync::MutexGuard<'_, Live>, ino: Ino) {
        drop(live);
        self.volume.wake();
        self.tell_others(vec![Stale::Attr { ino }]);
    }
}

/// The mode of a file after somebody wrote to it who may not give set-id bits. A set-group-id bit
/// without leave for the group to run it is a mark for locking, and stays.
fn without_ids(mode: u32) -> u32 {
    let group = if mode & 0o010 == 0 { 0 } else { 0o2000 };
    mode & !(0o4000 | group)
}

/// What makes one file's attributes those of another.
pub(super) fn difference(
    old: &BTreeMap<XattrName, Vec<u8>>,
    new: &BTreeMap<XattrName, Vec<u8>>,
) -> Vec<Field> {
    let gone = old.keys().filter(|n| !new.contains_key(*n));
    let gone = gone.map(|name| Field::SetXattr {
        name: name.clone(),
        value: None,
    });
    let set = new.iter().filter(|(n, v)| old.get(*n) != Some(v));
    let set = set.map(|(name, value)| Field::SetXattr {
        name: name.clone(),
        value: Some(value.clone()),
    });
    gone.chain(set).collect()
}

fn may_have(name: &[u8]) -> Result<()> {
    if name.starts_with(ACLS) {
        return Err(VolumeError::Unsupported("access control lists"));
    }
    Ok(())
}
