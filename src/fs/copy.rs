//! Copying within a folder: the bytes do not travel through the kernel.

use super::{Fs, Result, own};
use crate::base::id::Oid;
use crate::journal::Patch;
use crate::record::model::Kind;
use crate::volume::inode::{Data, Ino, Inode};
use crate::volume::live::Stale;

/// Bytes that are copied at a time, in between others get their turn.
const PIECE: u32 = 1 << 20;
/// Bytes that one request copies; who wants more asks again.
const REQUEST_MAX: u64 = 64 << 20;
/// Bytes that one request says it copied.
const TOLD_MAX: u32 = 1 << 30;

impl Fs {
    /// Copies bytes of one file, opened by a handle, into another. Fewer than asked for at the end
    /// of the file, when there are very many, or when an error came after some.
    ///
    /// # Errors
    /// As [`Fs::read_by`] and [`Fs::write`].
    pub fn copy_range(
        &self,
        (from, handle, at): (Ino, u64, u64),
        (to, to_at): (Ino, u64),
        len: u64,
    ) -> Result<u32> {
        if let Some(n) = self.copy_whole((from, at), (to, to_at), len)? {
            return Ok(n);
        }
        let len = len.min(REQUEST_MAX);
        let mut done = 0;
        while done < len {
            let piece = u32::try_from(len - done).map_or(PIECE, |left| left.min(PIECE));
            let copied = self.copy_piece((from, handle, at + done), (to, to_at + done), piece);
            match copied {
                Ok(0) => break,
                Ok(n) => done += u64::from(n),
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(u32::try_from(done).unwrap_or(u32::MAX))
    }

    /// All of a large file that is in a commit into an empty one, by its name there: no bytes are
    /// copied. Who copies more than he is told at once comes again for what is there already. None
    /// if it is not that.
    fn copy_whole(
        &self,
        (from, at): (Ino, u64),
        (to, to_at): (Ino, u64),
        len: u64,
    ) -> Result<Option<u32>> {
        if at != to_at || from == to || own::is_own(from) || own::is_own(to) {
            return Ok(None);
        }
        self.may_write()?;
        let mut live = self.lock_alone(|_| Ok(vec![to]))?;
        live.observe(from);
        let (Some((blob, size)), i) = (named(live.inode(from)?), live.inode(to)?) else {
            return Ok(None);
        };
        let has = matches!(&i.data, Data::Blob { id, .. } if *id == blob);
        let is_empty = i.data.is_empty() && i.kind == Kind::File && i.direct.is_none();
        if !has && (at > 0 || len < size || !is_empty || i.removed) {
            return Ok(None);
        }
        if !has {
            let patch = Patch::Open {
                id: i.id(),
                base: i.shown.versions.iter().map(|v| v.content).collect(),
                kind: Kind::Large,
                blob,
            };
            self.volume.log(&mut live, vec![patch])?;
            live.inode_mut(to)?.data = Data::Blob {
                id: blob,
                len: size,
                chunked: true,
            };
            self.wrote(&mut live, to)?;
            drop(live);
            self.tell_others(vec![Stale::Content { ino: to }]);
        }
        let n = len.min(size.saturating_sub(at)).min(TOLD_MAX.into());
        Ok(u32::try_from(n).ok())
    }

    fn copy_piece(
        &self,
        (from, handle, at): (Ino, u64, u64),
        (to, to_at): (Ino, u64),
        len: u32,
    ) -> Result<u32> {
        let bytes = self.read_by(from, handle, at, len)?;
        match bytes.is_empty() {
            true => Ok(0),
            false => self.write(to, to_at, &bytes),
        }
    }
}

/// The name of a large file's bytes in a commit, and how many they are, if it has no others.
fn named(i: &Inode) -> Option<(Oid, u64)> {
    let head = match &i.data {
        Data::Blob { id, chunked, .. } if *chunked => *id,
        Data::Spilled(s) if !i.is_shared() => s.contained()?.1,
        _ => return None,
    };
    let is_known = i.shown.kind == Kind::Large && i.shown.blob == head && i.dirty.is_none();
    is_known.then(|| (head, i.data.len()))
}
