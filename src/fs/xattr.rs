//! Extended attributes: names and values that programs keep beside a file's bytes, and what a
//! change of a file takes away from it (set-id bits, file capabilities).
//!
//! Each attribute is a field of the file's record and is merged by itself. They are part of every
//! record that is written anew near the file's, so they are small: see [`BYTES_MAX`].

use std::collections::BTreeMap;

use super::acl::{self, Acl};
use super::{Field, Fs, Result, own};
use crate::base::clock;
use crate::journal::Patch;
use crate::record::change::Change;
use crate::record::model::{Kind, XattrName};
use crate::volume::error::VolumeError;
use crate::volume::inode::{Ino, Inode};
use crate::volume::live::{Live, Stale};

/// Names and values of one file together, in bytes. ext4 has room for 4 KiB.
pub(super) const BYTES_MAX: usize = 16 << 10;
/// Whom a program runs as that is not root's (Linux: capabilities of a file).
const CAPABILITY: &[u8] = b"security.capability";
/// What SELinux makes of a file. Kept for those who set it; where nobody did, there are none.
const LABEL: &[u8] = b"security.selinux";
/// Names that only root sees.
const TRUSTED: &[u8] = b"trusted.";

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
        let found = if own::is_own(ino) {
            self.own.xattrs(ino)?.remove(name)
        } else {
            let mut live = self.volume.lock();
            self.refresh_root(&mut live, ino)?;
            let i = live.inode(ino)?;
            shown(&i.shown.xattrs, name, i.attr.mode)
        };
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
        let all = if own::is_own(ino) {
            self.own.xattrs(ino)?
        } else {
            let mut live = self.volume.lock();
            self.refresh_root(&mut live, ino)?;
            let i = live.inode(ino)?;
            all_shown(&i.shown.xattrs, i.attr.mode)
        };
        let seen = all.keys().filter(|n| is_root || !n.starts_with(TRUSTED));
        Ok(seen.flat_map(|n| n.iter().copied().chain([0])).collect())
    }

    /// Gives an attribute a value.
    ///
    /// # Errors
    /// `Exists`, `NoData`, `NoRoom` as `how` says, `ReadOnly`, the journal's.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        self.may_change(ino)?;
        let acl = match acl::is_acl(name) {
            true => Some(acl_to_set(name, value)?),
            false => None,
        };
        let mut live = self.volume.lock();
        self.refresh_root(&mut live, ino)?;
        let i = live.inode(ino)?;
        let old = shown(&i.shown.xattrs, name, i.attr.mode);
        match (how, old) {
            (SetXattr::Create, Some(_)) => return Err(VolumeError::Exists),
            (SetXattr::Replace, None) => return Err(VolumeError::NoData),
            (_, Some(old)) if old == value => return Ok(()),
            _ => {}
        }
        match acl {
            Some(acl) => self.change_acl(&mut live, ino, name, &acl)?,
            None => self.change_xattr(&mut live, ino, name, Some(value))?,
        }
        self.changed(live, ino);
        Ok(())
    }

    /// Sets a list, and the permission bits that it means.
    fn change_acl(&self, live: &mut Live, ino: Ino, name: &[u8], acl: &Acl) -> Result<()> {
        let i = live.inode(ino)?;
        let mut mode = i.attr.mode;
        let mut value = Some(acl.bytes());
        match name {
            acl::ACCESS => {
                // Set-id bits stay: a folder is always mounted so that they give nobody anything.
                mode = mode & !0o777 | acl.bits();
                value = value.filter(|_| acl.says_more_than_bits());
            }
            _ if i.kind != Kind::Dir => {
                return Err(VolumeError::Invalid("a default of no directory"));
            }
            _ => {}
        }
        let mut fields = Vec::new();
        if mode != i.attr.mode {
            fields.push(Field::SetMode(mode));
        }
        if value.is_some() || i.shown.xattrs.contains_key(name) {
            fields.push(Field::SetXattr {
                name: name.to_vec(),
                value,
            });
        }
        self.change_fields(live, ino, &fields)
    }

    /// Takes an attribute away.
    ///
    /// # Errors
    /// `NoData` when there is none and it is no access control list, `ReadOnly`, the journal's.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.may_change(ino)?;
        let mut live = self.volume.lock();
        self.refresh_root(&mut live, ino)?;
        if !live.inode(ino)?.shown.xattrs.contains_key(name) {
            return match acl::is_acl(name) {
                true => Ok(()),
                false => Err(VolumeError::NoData),
            };
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
        if i.kind == Kind::Dir || (mode == i.attr.mode && !is_capable) {
            return Ok(());
        }
        let mut fields = Vec::new();
        if is_capable {
            fields.push(Field::SetXattr {
                name: CAPABILITY.to_vec(),
                value: None,
            });
        }
        if mode != i.attr.mode {
            fields.push(Field::SetMode(mode));
        }
        self.change_fields(&mut live, ino, &fields)?;
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
        self.change_fields(live, ino, &[field])
    }

    /// Sets modes and attributes, if there is room for them.
    fn change_fields(&self, live: &mut Live, ino: Ino, fields: &[Field]) -> Result<()> {
        let i = live.inode(ino)?;
        let (mut mode, mut xattrs) = (i.attr.mode, i.shown.xattrs.clone());
        let before = room(&xattrs);
        for field in fields {
            match field {
                Field::SetMode(m) => mode = *m,
                Field::SetXattr { name, value: None } => drop(xattrs.remove(name)),
                Field::SetXattr {
                    name,
                    value: Some(v),
                } => drop(xattrs.insert(name.clone(), v.clone())),
                _ => {}
            }
        }
        if room(&xattrs) > BYTES_MAX.max(before) {
            return Err(VolumeError::NoRoom);
        }
        self.log_fields(live, ino, fields)?;
        let i = live.inode_mut(ino)?;
        i.attr.mode = mode;
        i.shown.xattrs = xattrs;
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

/// Whether a file has something that a write to it may take away.
pub(super) fn is_privileged(i: &Inode) -> bool {
    without_ids(i.attr.mode) != i.attr.mode || i.shown.xattrs.contains_key(CAPABILITY)
}

/// The room that attributes take.
fn room(all: &BTreeMap<XattrName, Vec<u8>>) -> usize {
    all.iter().map(|(n, v)| n.len() + v.len()).sum()
}

/// The list that somebody wants to set.
fn acl_to_set(name: &[u8], value: &[u8]) -> Result<Acl> {
    if name != acl::ACCESS && name != acl::DEFAULT {
        return Err(VolumeError::Unsupported("such access control lists"));
    }
    Acl::parse(value).ok_or(VolumeError::Invalid("no access control list"))
}

/// An attribute as programs see it, of a file of this mode.
fn shown(all: &BTreeMap<XattrName, Vec<u8>>, name: &[u8], mode: u32) -> Option<Vec<u8>> {
    let stored = all.get(name)?;
    match acl::is_acl(name) {
        true => acl::shown(name, stored, mode),
        false => Some(stored.clone()),
    }
}

/// All attributes as programs see them.
pub(super) fn all_shown(
    all: &BTreeMap<XattrName, Vec<u8>>,
    mode: u32,
) -> BTreeMap<XattrName, Vec<u8>> {
    let each = all.keys();
    let each = each.filter_map(|n| Some((n.clone(), shown(all, n, mode)?)));
    each.collect()
}
