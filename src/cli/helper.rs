//! `mount.cellfs`, by which mount(8) mounts what `/etc/fstab` names: the same program under
//! another name. `mount.cellfs VOLUME DIR [-sfnvrw] [-o LIST]` becomes `cellfs mount DIR …`.
//!
//! In the list stand options of the mount, and any long flag of `cellfs mount` as `key=value`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use crate::base::mount_options::MountOptions;
use crate::control::failure::{Answer, Failure};

/// What the program is called by mount(8).
const NAMES: [&str; 2] = ["mount.cellfs", "mount.fuse.cellfs"];
/// Names of a volume that name none: the node's own is meant.
const NO_VOLUME: [&str; 3] = ["none", "cellfs", "-"];
/// Flags of `cellfs mount` with a value that may stand in the list.
const FLAGS: [&str; 11] = [
    "join",
    "token",
    "yes",
    "state",
    "listen",
    "tls-cert",
    "tls-key",
    "name",
    "config",
    "log",
    "log-format",
];
/// Flags that are on or off, with a value or without.
const SWITCHES: [&str; 2] = ["plain-http", "read-only"];

/// Whether mount(8) calls.
pub(super) fn is_called(words: &[OsString]) -> bool {
    let name = words.first().and_then(|w| Path::new(w).file_name());
    name.is_some_and(|n| NAMES.iter().any(|m| n == OsStr::new(m)))
}

/// The words of our own command line; none if only a rehearsal is asked for.
pub(super) fn words(words: &[OsString]) -> Answer<Option<Vec<OsString>>> {
    let mut places = Vec::new();
    let mut lists = Vec::new();
    let (mut fake, mut sloppy) = (false, false);
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        match word.as_bytes() {
            b"-o" | b"-t" | b"-N" => {
                let Some(value) = rest.next() else {
                    return Err(usage(format!("{} needs a value", word.display())));
                };
                if word == "-o" {
                    lists.push(value.clone());
                }
            }
            [b'-', letters @ ..] if !letters.is_empty() => {
                for letter in letters {
                    match letter {
                        b'f' => fake = true,
                        b's' => sloppy = true,
                        b'r' => lists.push("ro".into()),
                        b'w' => lists.push("rw".into()),
                        b'n' | b'v' => {}
                        _ => return Err(usage(format!("there is no flag {}", word.display()))),
                    }
                }
            }
            _ => places.push(word.clone()),
        }
    }
    let [volume, dir] = places.as_slice() else {
        return Err(usage("a volume and a folder are needed".to_owned()));
    };
    let mut out: Vec<OsString> = vec!["cellfs".into(), "mount".into(), dir.clone()];
    if !NO_VOLUME.iter().any(|n| volume == OsStr::new(n)) {
        out.extend(["--volume".into(), volume.clone()]);
    }
    for word in lists
        .iter()
        .flat_map(|l| l.as_bytes().split(|b| *b == b','))
    {
        out.extend(said(word, sloppy)?);
    }
    Ok((!fake).then_some(out))
}

/// What one word of the list means.
fn said(word: &[u8], sloppy: bool) -> Answer<Vec<OsString>> {
    let text = String::from_utf8_lossy(word);
    let (key, value) = text.split_once('=').unwrap_or((&text, ""));
    if FLAGS.contains(&key) {
        let value = word.get(key.len() + 1..).unwrap_or_default();
        if value.is_empty() {
            return Err(usage(format!("{key} needs a value: {key}=…")));
        }
        let value = OsString::from_vec(value.to_vec());
        return Ok(vec![format!("--{key}").into(), value]);
    }
    if SWITCHES.contains(&key) {
        return Ok(vec![format!("--{text}").into()]);
    }
    if value.is_empty() && text.is_empty() {
        return Ok(Vec::new());
    }
    match MountOptions::default().set(&text) {
        Ok(true) => Ok(vec!["-o".into(), text.into_owned().into()]),
        Ok(false) if sloppy => Ok(Vec::new()),
        Ok(false) => Err(usage(format!("there is no option {text}"))),
        Err(why) => Err(usage(why)),
    }
}

fn usage(why: String) -> Failure {
    Failure::usage(format!("mount.cellfs: {why}"))
        .hint("in /etc/fstab: cell /mnt/cell cellfs config=/etc/cellfs.toml,_netdev,nofail 0 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Answer<Option<String>> {
        let all: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        assert!(is_called(&all));
        let out = words(&all)?;
        Ok(out.map(|o| {
            let each: Vec<_> = o.iter().map(|w| w.to_string_lossy().into_owned()).collect();
            each.join(" ")
        }))
    }

    #[test]
    fn what_mount_says_becomes_our_command_line() {
        let line = "/sbin/mount.cellfs cell /mnt/cell -n -o rw,_netdev,join=a:1,state=/s,plain-http=false,noexec";
        assert_eq!(
            of(line).unwrap().unwrap(),
            "cellfs mount /mnt/cell --volume cell -o rw -o _netdev --join a:1 --state /s --plain-http=false -o noexec"
        );
        let own = of("mount.cellfs none /mnt -t fuse.cellfs -r").unwrap();
        assert_eq!(own.unwrap(), "cellfs mount /mnt -o ro");
        assert_eq!(of("mount.cellfs none /mnt -f").unwrap(), None);
        assert!(!is_called(&["/usr/bin/cellfs".into()]));
    }

    #[test]
    fn wrong_words_are_told() {
        for line in [
            "mount.cellfs cell",
            "mount.cellfs cell /mnt -o",
            "mount.cellfs cell /mnt -q",
            "mount.cellfs cell /mnt -o nonsense",
            "mount.cellfs cell /mnt -o suid",
            "mount.cellfs cell /mnt -o join=",
        ] {
            let failure = of(line).expect_err(line);
            assert!(failure.what.starts_with("mount.cellfs: "), "{line}");
            assert!(failure.hint.is_some());
        }
        // As mount(8) documents it, sloppy tolerates options that are not known.
        assert!(of("mount.cellfs cell /mnt -s -o nonsense").is_ok());
    }
}
