//! Names that git refuses in its trees, written so that it accepts them.
//!
//! A refused name gets its first byte as `%XX`, and so does a name that looks as if that had
//! been done to it, which makes the way back exact. Refused are `.git` and what file systems of
//! other systems take for it, and `.gitmodules` and `.gitattributes` (and what is taken for
//! them) unless they are plain files that `git fsck --strict` has no complaint about.

use crate::base::id::Oid;
use crate::record::model::Kind;
use crate::record::{Result, Source};
use crate::store::objects::ObjectKind;

/// Longest line of `.gitattributes` that git accepts.
const ATTRIBUTES_LINE_MAX: usize = 2048;
/// Larger `.gitmodules` are not looked into.
const MODULES_BYTES_MAX: usize = 256 << 10;

/// The name of an entry in git's tree.
///
/// # Errors
/// When bytes that decide it cannot be read.
pub fn escape(src: Source<'_>, name: &[u8], kind: Kind, blob: &Oid) -> Result<Vec<u8>> {
    if is_dot_git(name) || is_escaped(name) || is_unfit(src, name, kind, blob)? {
        let (first, rest) = name.split_first().unwrap_or((&b'%', b""));
        let mut out = format!("%{first:02X}").into_bytes();
        out.extend_from_slice(rest);
        return Ok(out);
    }
    Ok(name.to_vec())
}

/// The name behind a name in git's tree.
#[must_use]
pub fn unescape(name: &[u8]) -> Vec<u8> {
    match unescaped(name) {
        Some(plain) if is_escaped(name) => plain,
        _ => name.to_vec(),
    }
}

/// Whether a name is one that [`escape`] makes.
fn is_escaped(name: &[u8]) -> bool {
    let mut name = name.to_vec();
    while let Some(plain) = unescaped(&name) {
        if is_dot_git(&plain) || is_modules(&plain) || is_attributes(&plain) {
            return true;
        }
        name = plain;
    }
    false
}

fn is_modules(name: &[u8]) -> bool {
    is_dot_file(name, b"gitmodules", b"gi7eba")
}

fn is_attributes(name: &[u8]) -> bool {
    is_dot_file(name, b"gitattributes", b"gi7d29")
}

fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    let [b'%', high, low, rest @ ..] = name else {
        return None;
    };
    let digit = |b: &u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    };
    let first = (digit(high)? << 4) | digit(low)?;
    let mut out = vec![first];
    out.extend_from_slice(rest);
    Some(out)
}

fn is_unfit(src: Source<'_>, name: &[u8], kind: Kind, blob: &Oid) -> Result<bool> {
    let (modules, attributes) = (is_modules(name), is_attributes(name));
    if !modules && !attributes {
        return Ok(false);
    }
    if kind != Kind::File {
        return Ok(true);
    }
    let bytes = src.objs.get(blob, ObjectKind::Blob)?;
    let mut lines = bytes.split(|b| *b == b'\n');
    if attributes && lines.clone().any(|l| l.len() > ATTRIBUTES_LINE_MAX) {
        return Ok(true);
    }
    Ok(modules && (bytes.len() > MODULES_BYTES_MAX || lines.any(is_suspicious)))
}

/// Whether git might call a line of `.gitmodules` an attack: names that climb, values that
/// would be taken for options or commands, and all that needs quotes to tell.
fn is_suspicious(line: &[u8]) -> bool {
    let line = line.trim_ascii();
    let has = |needle: &[u8]| line.windows(needle.len()).any(|w| w == needle);
    if line.starts_with(b"[") {
        return has(b"..") || has(b"\\");
    }
    let Some(at) = line.iter().position(|b| *b == b'=') else {
        return !(line.is_empty() || line.starts_with(b"#") || line.starts_with(b";"));
    };
    let value = line.get(at + 1..).unwrap_or_default().trim_ascii();
    value.starts_with(b"-")
        || value.starts_with(b"!")
        || has(b"\\")
        || has(b"\"")
        || has(b"%0")
        || has(b"::")
        || has(b"../../")
        || has(b"\r")
}

fn is_dot_git(name: &[u8]) -> bool {
    // git also looks behind every backslash.
    let parts = name.split(|b| *b == b'\\');
    let ntfs = parts.into_iter().any(|part| {
        [&b".git"[..], b"git~1"]
            .into_iter()
            .any(|dot| starts_without_case(part, dot).is_some_and(ends_here))
    });
    ntfs || is_hfs(name, b".git")
}

/// The rest of a name after a prefix, whose letters may be of any case.
fn starts_without_case<'a>(name: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = name.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// Whether NTFS would drop the rest of a name.
fn ends_here(rest: &[u8]) -> bool {
    let dropped = rest.iter().take_while(|b| matches!(b, b' ' | b'.')).count();
    matches!(rest.get(dropped), None | Some(b':'))
}

fn is_dot_file(name: &[u8], plain: &[u8], short: &[u8; 6]) -> bool {
    let dotted = [b".", plain].concat();
    if is_hfs(name, &dotted) || starts_without_case(name, &dotted).is_some_and(ends_here) {
        return true;
    }
    let prefix = plain.get(..6).unwrap_or(plain);
    if let Some([b'~', b'1'..=b'4', rest @ ..]) = starts_without_case(name, prefix)
        && ends_here(rest)
    {
        return true;
    }
    // Short names: some of the letters, a tilde, digits, eight bytes in all.
    let Some((head, rest)) = name.split_at_checked(8) else {
        return false;
    };
    let letters = head
        .iter()
        .zip(short)
        .take_while(|(a, b)| a.eq_ignore_ascii_case(b))
        .count();
    let digits = match head.get(letters..) {
        Some([b'~', b'1'..=b'9', digits @ ..]) => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    digits && ends_here(rest)
}

/// Whether HFS+ takes a name for `plain`: it ignores case and some characters.
fn is_hfs(name: &[u8], plain: &[u8]) -> bool {
    // Bytes after an error in the UTF-8 end the name, as git reads it.
    let text = match std::str::from_utf8(name) {
        Ok(text) => text,
        Err(e) => name
            .get(..e.valid_up_to())
            .and_then(|n| std::str::from_utf8(n).ok())
            .unwrap_or_default(),
    };
    let ignored = |c: &char| matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
    let seen = text.chars().filter(|c| !ignored(c));
    seen.map(|c| c.to_ascii_lowercase())
        .eq(plain.iter().map(|b| char::from(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::cache::Cache;
    use crate::store::objects::{Memory, Objects};

    #[test]
    fn what_git_refuses_is_escaped_and_comes_back() {
        let (objs, cache) = (Memory::default(), Cache::default());
        let src = Source::new(&objs, &cache);
        let blob = objs
            .put(ObjectKind::Blob, b"x = 1\n".to_vec())
            .expect("memory");
        let refused = [
            ".git",
            ".GIT",
            "git~1",
            ".git ",
            ".git. .",
            ".git::$INDEX",
            ".g\u{200c}it",
            "a\\.git",
            "%2Egit",
            "%252Egit",
        ];
        for name in refused {
            let out = escape(src, name.as_bytes(), Kind::File, &blob).expect("memory");
            assert!(out.starts_with(b"%"), "{name}");
            assert_eq!(unescape(&out), name.as_bytes());
        }
        let refused_links = [
            ".gitmodules",
            ".GITMODULES ",
            "gitmod~1",
            "gi7eba~1",
            "gi7e~123",
            ".gitattributes",
        ];
        for name in refused_links {
            for (kind, escaped) in [
                (Kind::Symlink, true),
                (Kind::Dir, true),
                (Kind::File, false),
            ] {
                let out = escape(src, name.as_bytes(), kind, &blob).expect("memory");
                assert_eq!(out != name.as_bytes(), escaped, "{name}");
            }
        }
        for name in [
            "a",
            ".gitignore",
            "git",
            ".gitx",
            "%",
            "%4",
            "%zz",
            "git~2",
            "100%",
        ] {
            let out = escape(src, name.as_bytes(), Kind::Symlink, &blob).expect("memory");
            assert_eq!(out, name.as_bytes());
            assert_eq!(unescape(&out), name.as_bytes());
        }
    }

    #[test]
    fn a_file_of_modules_that_looks_like_an_attack_loses_its_name() {
        let (objs, cache) = (Memory::default(), Cache::default());
        let src = Source::new(&objs, &cache);
        let name = |text: &str| {
            let blob = objs.put(ObjectKind::Blob, text.into()).expect("memory");
            escape(src, b".gitmodules", Kind::File, &blob).expect("memory")
        };
        let fine = "[submodule \"x\"]\n\tpath = x\n\turl = ../x.git\n";
        assert_eq!(name(fine), b".gitmodules");
        for bad in ["[submodule \"../x\"]\n", "url = -u./x\n", "update = !cmd\n"] {
            assert_eq!(name(bad), b"%2Egitmodules", "{bad}");
        }
    }
}
