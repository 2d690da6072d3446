//! The two tokens of the git door: one reads, one may push. Drawn once, kept in the state
//! directory where only its owner can read them.

use std::io;
use std::path::Path;

use crate::base::durable;
use crate::doors::git::Access;

/// See the module.
pub(super) struct Tokens {
    pub(super) read: String,
    pub(super) write: String,
}

fn draw() -> io::Result<String> {
    let mut b = [0; 20];
    getrandom::fill(&mut b).map_err(|e| io::Error::other(e.to_string()))?;
    Ok(data_encoding::BASE32_NOPAD.encode(&b).to_ascii_lowercase())
}

impl Tokens {
    /// Reads the tokens, or draws them.
    pub(super) fn load_or_create(path: &Path) -> io::Result<Self> {
        if let Ok(text) = std::fs::read_to_string(path)
            && let [read, write] = *text.split_whitespace().collect::<Vec<_>>()
            && read.len() == 32
            && write.len() == 32
        {
            return Ok(Self {
                read: read.to_owned(),
                write: write.to_owned(),
            });
        }
        let t = Self {
            read: draw()?,
            write: draw()?,
        };
        let text = format!("{}\n{}\n", t.read, t.write);
        durable::replace(path, text.as_bytes(), 0o600)?;
        Ok(t)
    }

    /// What a token allows. Compares hashes, so that time tells nothing about the token.
    pub(super) fn access(&self, token: &str) -> Access {
        let h = blake3::hash(token.as_bytes());
        if h == blake3::hash(self.write.as_bytes()) {
            Access::Write
        } else if h == blake3::hash(self.read.as_bytes()) {
            Access::Read
        } else {
            Access::None
        }
    }
}
