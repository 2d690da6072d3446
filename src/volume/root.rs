//! The root directory's attributes: it has no name, so nothing else loads them.

use super::live::Live;
use super::{Volume, VolumeResult};
use crate::base::id::FileId;
use crate::record::state::State;

impl Volume {
    /// Reads the root's record into its inode when the view changed.
    pub(crate) fn load_root(&self, live: &mut Live) -> VolumeResult<()> {
        if live.root_of == Some(live.view.state) {
            return Ok(());
        }
        let state: State = live.view.state;
        let record = state.record(self.source(&live.view), FileId::ROOT)?;
        // What was set here and is not in a commit yet is newer than the view.
        let waits = live
            .pending
            .iter()
            .any(|p| p.change.id() == Some(FileId::ROOT));
        if let Some(r) = record
            && !waits
            && let Some(i) = live.inodes.get_mut(&super::inode::ROOT_INO)
        {
            let f = &r.fields;
            i.attr.mode = f.mode.map_or(i.attr.mode, |m| m.value);
            i.attr.mtime = f.mtime.map_or(i.attr.mtime, |m| m.value);
            i.attr.uid = f.uid.map(|u| u.value);
            i.attr.gid = f.gid.map(|g| g.value);
            i.attr.ctime = i.attr.ctime.max(i.attr.mtime);
            let set = f.xattrs.iter();
            let set = set.filter_map(|(name, v)| Some((name.clone(), v.value.clone()?)));
            i.shown.xattrs = set.collect();
        }
        live.root_of = Some(state);
        Ok(())
    }
}
