//! Names of bytes that say what the bytes are: CIDs of version 1, in base32, as IPFS writes them.
//!
//! | of | codec | hash |
//! |---|---|---|
//! | a file's bytes | `raw`, 0x55 | SHA-256, 0x12 |
//! | a git object | `git-raw`, 0x78 | SHA-1, 0x11 |
//!
//! A hash in hexadecimal digits, as `sha256sum` and git print it, is read, too. Invariant: what is
//! written is read as the same, and there is one text with a `b` in front for each. No threads.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

use super::id::Oid;

/// Base32 in lower case, without padding.
const BASE32: char = 'b';
const VERSION: u8 = 1;
/// Codec, hash and length of the hash.
const RAW_SHA256: [u8; 3] = [0x55, 0x12, 32];
const GIT_SHA1: [u8; 3] = [0x78, 0x11, 20];
/// Longest text that is looked at: no id that is read here is longer.
const TEXT_BYTES_MAX: usize = 64;

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Cid {
    /// Those of a file, by their SHA-256.
    File([u8; 32]),
    /// Those of a git object, by git's id.
    Git(Oid),
}

/// Text that is no id of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no id: {1}")]
pub struct BadCid(pub String, pub &'static str);

/// What ids look like, for people.
pub const FORMS: &str = "an id is a CID that begins with bafkrei (a file) or baf4bcf (a git \
                         object), a SHA-256 of 64 hexadecimal digits, or a git id of 40";

impl Cid {
    /// Version, codec, hash, its length, and it.
    fn encode(&self) -> Vec<u8> {
        let (kind, hash) = match self {
            Self::File(sha256) => (RAW_SHA256, &sha256[..]),
            Self::Git(id) => (GIT_SHA1, id.as_slice()),
        };
        let mut out = vec![VERSION];
        out.extend_from_slice(&kind);
        out.extend_from_slice(hash);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let [VERSION, codec, hash, len, digest @ ..] = bytes else {
            return Err("it is no CID of version 1");
        };
        let file = || Some(Self::File(digest.try_into().ok()?));
        let git = || Some(Self::Git(Oid::from(<[u8; 20]>::try_from(digest).ok()?)));
        match [*codec, *hash, *len] {
            RAW_SHA256 => file().ok_or("it is cut off, or too long"),
            GIT_SHA1 => git().ok_or("it is cut off, or too long"),
            [0x55 | 0x78, ..] => Err("it is by another hash"),
            _ => Err("it is neither of the bytes of a file nor of a git object"),
        }
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        if text.len() > TEXT_BYTES_MAX {
            return Err("it is too long");
        }
        if let Ok(bytes) = HEXLOWER_PERMISSIVE.decode(text.as_bytes()) {
            if let Ok(sha256) = <[u8; 32]>::try_from(&bytes[..]) {
                return Ok(Self::File(sha256));
            }
            if let Ok(id) = <[u8; 20]>::try_from(&bytes[..]) {
                return Ok(Self::Git(Oid::from(id)));
            }
        }
        let other = "it begins neither with b nor is it a hash of 40 or 64 digits";
        let rest = text.strip_prefix(BASE32).ok_or(other)?;
        if rest.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err("it has capital letters");
        }
        let bytes = BASE32_NOPAD.decode(rest.to_ascii_uppercase().as_bytes());
        Self::decode(&bytes.map_err(|_| "it is not base32 to its end")?)
    }
}

impl fmt::Display for Cid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = BASE32_NOPAD.encode(&self.encode());
        write!(f, "{BASE32}{}", text.to_ascii_lowercase())
    }
}

impl FromStr for Cid {
    type Err = BadCid;

    fn from_str(s: &str) -> Result<Self, BadCid> {
        Self::parse(s).map_err(|why| BadCid(s.to_owned(), why))
    }
}

impl TryFrom<String> for Cid {
    type Error = BadCid;

    fn try_from(s: String) -> Result<Self, BadCid> {
        s.parse()
    }
}

impl From<Cid> for String {
    fn from(c: Cid) -> Self {
        c.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of no bytes, of `hello world` and a newline, of 1 MiB of zeros: SHA-256, CID, by Python.
    const FILES: [(&str, &str); 3] = [
        (
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku",
        ),
        (
            "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447",
            "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4",
        ),
        (
            "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58",
            "bafkreibq4fevl27rgurgnxbp7adh42aqiyd6ouflxhj3gzmcxcxzbh6lla",
        ),
    ];
    /// Of the blob without bytes, of `hello world` and a newline, of the empty tree.
    const GIT: [(&str, &str); 3] = [
        (
            "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391",
            "baf4bcfhgtxrjxmwr2zbuxczjvz3vvwgc4sgfhei",
        ),
        (
            "3b18e512dba79e4c8300dd08aeb37f8e728b8dad",
            "baf4bcfb3ddsrfw5htzgigag5bcxlg74ookfy3li",
        ),
        (
            "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
            "baf4bcfclqjo4mqwln242ayhfjp4nneui7pxesba",
        ),
    ];

    fn file(hex: &str) -> Cid {
        let bytes = data_encoding::HEXLOWER.decode(hex.as_bytes()).unwrap();
        Cid::File(bytes.try_into().unwrap())
    }

    #[test]
    fn ids_are_those_that_others_compute() {
        for (hex, text) in FILES {
            assert_eq!(file(hex).to_string(), text);
            assert_eq!(text.parse(), Ok(file(hex)));
            assert_eq!(hex.parse(), Ok(file(hex)));
            assert_eq!(hex.to_uppercase().parse(), Ok(file(hex)));
        }
        for (hex, text) in GIT {
            let id = Cid::Git(hex.parse::<Oid>().unwrap());
            assert_eq!(id.to_string(), text);
            assert_eq!(text.parse(), Ok(id));
            assert_eq!(hex.parse(), Ok(id));
        }
        let json = serde_json::to_string(&file(FILES[0].0)).unwrap();
        assert_eq!(json, format!("\"{}\"", FILES[0].1));
        assert_eq!(
            serde_json::from_str::<Cid>(&json).unwrap(),
            file(FILES[0].0)
        );
    }

    #[test]
    fn what_is_no_id_is_said_to_be_none() {
        let good = FILES[1].1;
        let why = |text: &str| text.parse::<Cid>().unwrap_err().1;
        assert_eq!(why(""), why("hello"));
        assert_eq!(why(&good.to_uppercase()), why("Bafkrei"));
        assert_eq!(why(&good[..good.len() - 10]), "it is cut off, or too long");
        assert_eq!(why(&format!("{good}a")), "it is not base32 to its end");
        assert_eq!(why(&"b".repeat(1 << 20)), "it is too long");
        // IPFS's of a directory, and one by SHA-512.
        let dir = Cid::decode(&[&[1, 0x70, 0x12, 32][..], &[7; 32]].concat());
        assert!(dir.unwrap_err().contains("neither"));
        let other = Cid::decode(&[&[1, 0x55, 0x13, 64][..], &[7; 64]].concat());
        assert!(other.unwrap_err().contains("another hash"));
        // The first version: base58, without a letter for it.
        assert!(
            "QmdfTbBqBPQ7VNxZEYEj14VmRuZBkqFbiwReogJgS1zR1n"
                .parse::<Cid>()
                .is_err()
        );
    }

    #[test]
    fn foreign_text_is_an_error_or_an_id_that_is_written_the_same_way() {
        let mut texts: Vec<String> = Vec::new();
        let all = FILES.iter().chain(&GIT).flat_map(|(a, b)| [*a, *b]);
        for text in all {
            for n in 0..text.len() {
                texts.push(text[..n].to_owned());
                texts.push(text[n..].to_owned());
                for c in ["\0", "é", "z", "A", "1", "="] {
                    texts.push(format!("{}{c}{}", &text[..n], &text[n + 1..]));
                    texts.push(format!("{}{c}{}", &text[..n], &text[n..]));
                }
            }
        }
        let mut read = 0;
        for t in &texts {
            let Ok(id) = t.parse::<Cid>() else { continue };
            read += 1;
            assert_eq!(id.to_string().parse(), Ok(id));
            assert!(!t.starts_with("bafk") || id.to_string() == *t, "{t}");
        }
        assert!(
            read > 500 && read < texts.len(),
            "{read} of {}",
            texts.len()
        );
    }
}
