//! What git has in the place of a large file: the pointer text of git-lfs, version 1.
//!
//! Invariant: there is one text for a file, and only that text is read as one. So a pointer can
//! be made again from what it says. A pointer with extensions is none here: what it names is not
//! what the file holds. An empty file is its own pointer. No threads.

use super::Sha256;
use super::manifest::Head;

/// A text of this length is no pointer any more.
pub const POINTER_BYTES_MAX: usize = 1024;

/// The pointer to the file of a manifest.
#[must_use]
pub fn pointer(head: &Head) -> Vec<u8> {
    text(&head.sha256, head.len)
}

fn text(sha256: &Sha256, len: u64) -> Vec<u8> {
    if len == 0 {
        return Vec::new();
    }
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {len}\n").into()
}

/// Name and length of the file that a pointer stands for, if this is one as git-lfs writes it.
#[must_use]
pub fn parse_pointer(bytes: &[u8]) -> Option<(Sha256, u64)> {
    if bytes.len() >= POINTER_BYTES_MAX {
        return None;
    }
    let lines = std::str::from_utf8(bytes).ok()?.lines();
    let find = |key: &str| lines.clone().find_map(|l| l.strip_prefix(key));
    let sha256: Sha256 = find("oid sha256:")?.parse().ok()?;
    let len: u64 = find("size ")?.parse().ok()?;
    // git-lfs counts with a sign.
    let is_one = i64::try_from(len).is_ok_and(|len| len > 0) && text(&sha256, len) == bytes;
    is_one.then_some((sha256, len))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::base::id::Oid;

    const OID: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    fn of(len: u64) -> Vec<u8> {
        pointer(&Head {
            len,
            sha256: OID.parse().unwrap(),
            top: Oid::from([0; 20]),
            level: 1,
        })
    }

    #[test]
    fn a_pointer_is_written_as_the_specification_has_it_and_read_back() {
        let text =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12345\n");
        assert_eq!(of(12345), text.as_bytes());
        let most = u64::try_from(i64::MAX).unwrap();
        for len in [1, 12345, 1 << 40, most] {
            let want = Some((OID.parse().unwrap(), len));
            assert_eq!(parse_pointer(&of(len)), want);
        }
        assert_eq!(of(0), b"");
    }

    #[test]
    fn what_is_not_exactly_a_pointer_is_none() {
        let v = "version https://git-lfs.github.com/spec/v1\n";
        let oid = format!("oid sha256:{OID}\n");
        let upper = OID.to_uppercase();
        let long = " ".repeat(1024);
        for text in [
            String::new(),
            format!("{v}{oid}"),
            format!("{v}size 1\n{oid}"),
            format!("{oid}size 1\n{v}"),
            format!("{oid}{v}size 1\n"),
            format!("{v}{oid}size 1"),
            format!("{v}{oid}size 1\n\n"),
            format!("\n{v}{oid}size 1\n"),
            format!("{v}{oid}size 1\r\n"),
            format!("{v}{oid}size  1\n"),
            format!("{v}{oid}size 01\n"),
            format!("{v}{oid}size +1\n"),
            format!("{v}{oid}size -1\n"),
            format!("{v}{oid}size 0\n"),
            format!("{v}{oid}size 1.5\n"),
            format!("{v}{oid}size 9223372036854775808\n"),
            format!("{v}{oid}size 99999999999999999999999999\n"),
            format!("{v}{oid}size 1\nx 1\n"),
            format!("{v}{oid}{oid}size 1\n"),
            format!("{v}ext-0-foo sha256:{OID}\n{oid}size 1\n"),
            format!("{v}oid sha256:{upper}\nsize 1\n"),
            format!("{v}oid sha256:{}\nsize 1\n", &OID[1..]),
            format!("{v}oid sha1:{OID}\nsize 1\n"),
            format!("version https://hawser.github.com/spec/v1\n{oid}size 1\n"),
            format!("version https://git-lfs.github.com/spec/v2\n{oid}size 1\n"),
            format!("{v}{oid}size 1\n{long}"),
        ] {
            assert_eq!(parse_pointer(text.as_bytes()), None, "{text:?}");
        }
        let mut bytes = of(1);
        bytes.insert(20, 0xff);
        assert_eq!(parse_pointer(&bytes), None);
    }

    /// What git-lfs says to a text.
    fn git_lfs_accepts(text: &[u8]) -> bool {
        let mut git = Command::new("git")
            .args(["lfs", "pointer", "--check", "--strict", "--stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        git.stdin.take().unwrap().write_all(text).unwrap();
        let out = git.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(
            !said.contains("not a git command"),
            "git-lfs is not here; packaging/setup.sh --for-tests installs it"
        );
        out.status.success()
    }

    #[test]
    fn git_lfs_takes_our_pointers_and_refuses_what_we_refuse() {
        for len in [1, 12345, 1 << 40] {
            assert!(git_lfs_accepts(&of(len)), "{len}");
        }
        let good = String::from_utf8(of(12345)).unwrap();
        for bad in [
            good.replace("size ", "size 0"),
            good.replace('\n', "\r\n"),
            good.trim_end().to_owned(),
            good.replace("size", "length"),
            format!("{good}\n"),
        ] {
            assert!(!git_lfs_accepts(bad.as_bytes()), "{bad:?}");
            assert_eq!(parse_pointer(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
