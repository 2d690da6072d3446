//! The node's key: who it is.
//!
//! Invariant: the file holds the 32 bytes of an ed25519 seed and only its owner can read it.
//! The key signs membership statements and announcements here, and is the TLS identity of
//! every connection.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::error::PeersError;
use super::files;
use crate::base::id::NodeId;

/// Bits of a file's mode that let others read it.
const MODE_OTHERS: u32 = 0o077;

/// The secret key of a node.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({:?})", self.node())
    }
}

impl NodeKey {
    /// Reads the key, or draws one and stores it (mode 0600) when there is no file.
    ///
    /// # Errors
    /// The file cannot be read or written, has another length, or can be read by others.
    pub fn load_or_create(path: &Path) -> Result<Self, PeersError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let key = Self::draw()?;
        if let Some(dir) = path.parent() {
            files::private_dir(dir)?;
        }
        files::replace(path, &key.0.to_bytes())?;
        Ok(key)
    }

    /// Reads the key; `None` when there is no file.
    ///
    /// # Errors
    /// As [`Self::load_or_create`].
    pub fn load(path: &Path) -> Result<Option<Self>, PeersError> {
        let Some(bytes) = files::read(path, 32)? else {
            return Ok(None);
        };
        let meta = std::fs::metadata(path).map_err(|e| PeersError::file("stat", path, e))?;
        if meta.permissions().mode() & MODE_OTHERS != 0 {
            return Err(PeersError::KeyExposed(path.to_path_buf()));
        }
        let seed =
            <[u8; 32]>::try_from(bytes).map_err(|_| files::damaged(path, "a key has 32 bytes"))?;
        Ok(Some(Self::from_seed(seed)))
    }

    /// Draws a new key.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn draw() -> Result<Self, PeersError> {
        Ok(Self::from_seed(random()?))
    }

    /// The key with this seed.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&seed))
    }

    /// The public half: the node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs bytes.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The seed, for the transport.
    pub(crate) fn seed(&self) -> [u8; 32] {
        self.0.to_bytes()
    }
}

/// Whether `node` signed the message. Strict: no weak keys, no second form of a signature.
#[must_use]
pub fn verify(node: NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(&node.0).is_ok_and(|key| {
        key.verify_strict(message, &Signature::from_bytes(signature))
            .is_ok()
    })
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], PeersError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| {
        PeersError::file(
            "read",
            Path::new("/dev/urandom"),
            std::io::Error::other(e.to_string()),
        )
    })?;
    Ok(bytes)
}

/// A random number for jitter and choice, where nothing hangs on its quality.
pub(crate) fn dice(below: u64) -> u64 {
    random::<8>().map_or(0, |b| u64::from_le_bytes(b) % below.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_and_must_be_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let key = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 32);
        let again = NodeKey::load_or_create(&path).unwrap();
        assert_eq!(again.node(), key.node());
        let sig = key.sign(b"x");
        assert!(verify(key.node(), b"x", &sig));
        assert!(!verify(key.node(), b"y", &sig));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        let error = NodeKey::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&path, b"short").unwrap();
        assert!(NodeKey::load(&path).is_err());
    }
}
