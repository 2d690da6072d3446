//! Copying within a folder: the bytes do not travel through the kernel.

use super::{Fs, Result};
use crate::volume::inode::Ino;

/// Bytes that are copied at a time, in between others get their turn.
const PIECE: u32 = 1 << 20;
/// Bytes that one request copies; who wants more asks again.
const REQUEST_MAX: u64 = 64 << 20;

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
