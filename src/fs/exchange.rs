//! Two names swap what they lead to, at once.

use super::names::{born_in, is_inside};
use super::{Fs, Result, save};
use crate::base::clock;
use crate::base::name::EntryName;
use crate::journal::Patch;
use crate::record::change::{Change, SetField as Field};
use crate::record::model::Kind;
use crate::volume::error::VolumeError;
use crate::volume::inode::{Child, Ino};
use crate::volume::live::Live;

impl Fs {
    /// Each of two files or directories gets the other's name.
    ///
    /// # Errors
    /// `NotFound` when one is not there, `Invalid` when one is in the other; `ReadOnly`, the
    /// journal's.
    pub fn exchange(&self, (from, old): (Ino, &[u8]), (to, new): (Ino, &[u8])) -> Result<()> {
        let (old, new) = (EntryName::new(old)?, EntryName::new(new)?);
        self.may_name(from, &old)?;
        self.may_name(to, &new)?;
        let mut live = self.lock_plain(|live: &mut Live| {
            let both = [self.named(live, from, &old)?, self.named(live, to, &new)?];
            Ok(both.into_iter().flatten().collect())
        })?;
        let one = self.named(&mut live, from, &old)?;
        let one = one.ok_or(VolumeError::NotFound)?;
        let other = self.named(&mut live, to, &new)?;
        let other = other.ok_or(VolumeError::NotFound)?;
        if one == other {
            return Ok(());
        }
        if is_inside(&live, to, one) || is_inside(&live, from, other) {
            return Err(VolumeError::Invalid("a directory cannot move into itself"));
        }
        let now = clock::now_ns();
        let mut changes = self.move_changes(&mut live, (one, None), (to, &new))?;
        let back = self.move_changes(&mut live, (other, None), (from, &old))?;
        let parted = [(one, born_in(&changes)), (other, born_in(&back))];
        changes.extend(back);
        for dir in [from, to] {
            changes.push(Change::Field {
                id: live.inode(dir)?.id(),
                field: Field::SetMtime(now),
            });
        }
        let patches = changes.into_iter().map(Patch::Meta).collect();
        let since = self.volume.log(&mut live, patches)?;
        live.set_child(from, old.clone(), Child::Bound { ino: other, since });
        live.set_child(to, new.clone(), Child::Bound { ino: one, since });
        live.moved(one, to, new.clone(), now);
        live.moved(other, from, old.clone(), now);
        for (ino, to, from) in [(one, to, from), (other, from, to)] {
            if live.inode(ino)?.kind == Kind::Dir {
                live.inode_mut(from)?.subdirs.change(-1);
                live.inode_mut(to)?.subdirs.change(1);
            }
        }
        for (ino, id) in parted {
            if let Some(id) = id {
                save::part(&mut live, ino, id)?;
            }
        }
        self.names_changed(live, [(from, old), (to, new)], now);
        Ok(())
    }
}
