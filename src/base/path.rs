//! Paths in a volume, as they travel in JSON.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::name::{BadName, EntryName};

/// A path from a volume's root, without a slash at either end; empty for the root itself.
///
/// In JSON it is a string, or an array of bytes if it is not UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VolumePath(Vec<u8>);

impl VolumePath {
    /// A path; slashes at the ends, doubled ones and `.` are left out.
    ///
    /// # Errors
    /// When a part of it cannot be a name.
    pub fn new(bytes: &[u8]) -> Result<Self, BadName> {
        let mut path = Self::default();
        for part in bytes.split(|b| *b == b'/') {
            if !matches!(part, b"" | b".") {
                path = path.join(&EntryName::new(part)?);
            }
        }
        Ok(path)
    }

    /// A path of these names.
    #[must_use]
    pub fn of(names: &[EntryName]) -> Self {
        let mut path = Self::default();
        for n in names {
            path = path.join(n);
        }
        path
    }

    /// A name in the directory that this path leads to.
    #[must_use]
    pub fn join(&self, name: &EntryName) -> Self {
        if self.0.is_empty() {
            return Self(name.as_bytes().to_vec());
        }
        Self([self.0.as_slice(), b"/", name.as_bytes()].concat())
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as a word for a shell.
    #[must_use]
    pub fn for_shell(&self) -> String {
        quoted(&self.0)
    }

    /// The names on the way.
    #[must_use]
    pub fn names(&self) -> Vec<EntryName> {
        let parts = self.0.split(|b| *b == b'/');
        parts.filter_map(|p| EntryName::new(p).ok()).collect()
    }
}

/// A word for a shell.
fn quoted(path: &[u8]) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"/._-+:@%,=".contains(b);
    if !path.is_empty() && path.iter().all(plain) && !path.starts_with(b"-") {
        return String::from_utf8_lossy(path).into_owned();
    }
    match std::str::from_utf8(path) {
        Ok(text) if !text.contains(char::is_control) => {
            let text = text.replace('\'', r"'\''");
            let here = if text.starts_with('-') { "./" } else { "" };
            format!("'{here}{text}'")
        }
        _ => {
            let mut out = "$'".to_owned();
            for b in path {
                match b {
                    b'\'' | b'\\' => out.extend(['\\', char::from(*b)]),
                    0x20..0x7f => out.push(char::from(*b)),
                    b => out += &format!("\\x{b:02x}"),
                }
            }
            out.push('\'');
            out
        }
    }
}

impl fmt::Display for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for VolumePath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => s.serialize_str(text),
            Err(_) => self.0.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for VolumePath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Bytes(Vec<u8>),
        }
        let bytes = match Form::deserialize(d)? {
            Form::Text(t) => t.into_bytes(),
            Form::Bytes(b) => b,
        };
        Self::new(&bytes).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_travel_as_text_or_as_bytes() {
        for (given, json) in [
            (&b"/a//b/./c/"[..], "\"a/b/c\""),
            (b"", "\"\""),
            (b"\xff/x", "[255,47,120]"),
        ] {
            let path = VolumePath::new(given).expect("a path");
            assert_eq!(serde_json::to_string(&path).expect("json"), json);
            let back: VolumePath = serde_json::from_str(json).expect("json");
            assert_eq!(back, path);
            assert_eq!(VolumePath::of(&path.names()), path);
        }
        assert!(VolumePath::new(b"a/../b").is_err());
        assert!(serde_json::from_str::<VolumePath>("\"a\\u0000\"").is_err());
    }

    #[test]
    fn commands_can_be_pasted_into_a_shell() {
        for (path, word) in [
            (&b"a/b.txt"[..], "a/b.txt"),
            (b"a b", "'a b'"),
            (b"it's", r"'it'\''s'"),
            (b"-x", "'./-x'"),
            (b"", "''"),
            (b"\xff'\n", r"$'\xff\'\x0a'"),
        ] {
            assert_eq!(quoted(path), word);
            if !path.is_empty() && !path.starts_with(b"-") {
                let out = std::process::Command::new("bash")
                    .args(["-c", &format!("printf %s {word}")])
                    .output()
                    .expect("a shell");
                assert_eq!(out.stdout, path);
            }
        }
    }
}
