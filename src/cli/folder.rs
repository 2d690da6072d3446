//! The folder of `mount` and `umount`: is it there, is a dead mount on it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use super::args::Umount;
use super::paths::{lexical, quoted};
use crate::control::client::Client;
use crate::control::failure::{Answer, Code, Failure};
use crate::control::lock::StateLock;

/// File system type of our mounts in `/proc/self/mountinfo`.
const FS_TYPE: &str = "fuse.cellfs";
/// How long a node may take to drain and end.
const DRAIN: Duration = Duration::from_secs(60);

/// Finds the folder, takes a dead mount of ours off it, and gives its real path.
pub(super) fn prepare(dir: &Path) -> Answer<PathBuf> {
    let dir = real(dir);
    while is_dead(&dir) {
        detach(&dir)?;
    }
    if is_ours(&dir) {
        // Another on top of it would hide it, and whoever unmounts first would hit the wrong one.
        return Err(
            Failure::failed(format!("{} is mounted already", dir.display()))
                .hint(format!("cellfs umount {}", quoted(&dir))),
        );
    }
    match std::fs::metadata(&dir) {
        Ok(m) if m.is_dir() => Ok(dir),
        Ok(_) => Err(
            Failure::failed(format!("{} is not a directory", dir.display()))
                .hint("choose a directory to mount on"),
        ),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(Failure::failed(format!("{} does not exist", dir.display()))
                .hint(format!("mkdir -p {}", quoted(&dir))))
        }
        Err(e) if is_not_connected(&e) => Err(Failure::failed(format!(
            "a dead mount that is not of cellfs is on {}",
            dir.display()
        ))
        .hint(format!("umount -l {}", quoted(&dir)))),
        Err(e) => Err(Failure::failed(format!("{}: {e}", dir.display()))),
    }
}

/// `cellfs umount`.
pub(super) fn umount(args: &Umount) -> Answer<()> {
    let state = args.state.dir();
    let Some(dir) = &args.dir else {
        return end_node(&state);
    };
    let dir = real(dir);
    let refused = match Client::find(&state)? {
        Some(mut client) => match client.detach(dir.clone()) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        },
        None if is_ours(&dir) => Failure::new(
            Code::Unreachable,
            format!(
                "{} belongs to a node on another state than {}",
                dir.display(),
                state.display()
            ),
        )
        .hint(format!("cellfs umount {} --state DIR", quoted(&dir))),
        None => Failure::failed(format!("{} is not a cellfs mount", dir.display()))
            .hint("cellfs status lists the mounted folders"),
    };
    if !is_dead(&dir) {
        return Err(refused);
    }
    while is_dead(&dir) {
        detach(&dir)?;
    }
    Ok(())
}

fn end_node(state: &Path) -> Answer<()> {
    Client::connect(state)?.shutdown()?;
    let begin = Instant::now();
    while let Some(pid) = StateLock::holder(state) {
        if begin.elapsed() > DRAIN {
            return Err(Failure::failed(format!(
                "the node (process {pid}) has not ended after {} s",
                DRAIN.as_secs()
            ))
            .hint(format!("its log is {}/log", state.display())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The folder's real path; what is mounted on it is not touched when that can be avoided.
fn real(dir: &Path) -> PathBuf {
    let dir = lexical(dir);
    let by_parent = match (dir.parent(), dir.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|p| p.join(name)).ok(),
        _ => None,
    };
    match by_parent {
        Some(p) if top_mount(&p).is_some() => p,
        other => dir
            .canonicalize()
            .unwrap_or_else(|_| other.unwrap_or_else(|| dir.clone())),
    }
}

/// Whether the topmost mount on the folder is ours.
fn is_ours(dir: &Path) -> bool {
    top_mount(dir).is_some_and(|fs| fs == FS_TYPE)
}

/// Whether a mount of ours whose node has died is on the folder. Attributes would not tell: the
/// kernel has them cached.
fn is_dead(dir: &Path) -> bool {
    is_ours(dir) && rustix::fs::statfs(dir).is_err_and(|e| is_not_connected(&io::Error::from(e)))
}

fn is_not_connected(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

fn top_mount(dir: &Path) -> Option<String> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    top_in(&String::from_utf8_lossy(&table), dir)
}

/// File system type of the last mount on `dir` in a mountinfo table.
fn top_in(table: &str, dir: &Path) -> Option<String> {
    table
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let point = PathBuf::from(unescape(left.split(' ').nth(4)?));
            let fs = right.split(' ').next()?;
            (point == dir).then(|| fs.to_owned())
        })
        .next_back()
}

/// mountinfo writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(text: &str) -> OsString {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// Takes the topmost mount off a folder, even if it is in use.
fn detach(dir: &Path) -> Answer<()> {
    let cannot = |why: &dyn std::fmt::Display| {
        Failure::failed(format!(
            "the dead mount on {} cannot be detached: {why}",
            dir.display()
        ))
        .hint(format!("sudo umount -l {}", quoted(dir)))
    };
    match unmount(dir, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::PERM) => {}
        Err(e) => return Err(cannot(&e)),
    }
    let done = Command::new("fusermount3")
        .args(["-u", "-z", "--"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| cannot(&format_args!("fusermount3: {e}")))?;
    if done.status.success() {
        return Ok(());
    }
    Err(cannot(&String::from_utf8_lossy(&done.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
90 22 0:40 / /mnt/a\\040b rw,nosuid - fuse.cellfs cellfs rw,user_id=0
91 22 0:41 / /mnt/c rw - tmpfs tmpfs rw
92 91 0:42 / /mnt/c rw master:3 - fuse.cellfs cellfs rw
";

    #[test]
    fn the_topmost_mount_counts() {
        let top = |d: &str| top_in(TABLE, Path::new(d));
        assert_eq!(top("/mnt/a b").as_deref(), Some(FS_TYPE));
        assert_eq!(top("/mnt/c").as_deref(), Some(FS_TYPE));
        assert_eq!(top("/").as_deref(), Some("ext4"));
        assert_eq!(top("/mnt"), None);
    }

    #[test]
    fn escapes_are_undone_and_nothing_else() {
        assert_eq!(unescape(r"a\040b\134c\9"), OsString::from(r"a b\c\9"));
        assert_eq!(unescape("é\\777"), OsString::from("é\\777"));
    }

    #[test]
    fn a_missing_folder_says_how_to_make_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let missing = dir.path().join("x y");
        let f = prepare(&missing).expect_err("missing");
        let quoted = quoted(&dir.path().canonicalize().expect("there").join("x y"));
        assert_eq!(f.hint, Some(format!("mkdir -p {quoted}")));
        std::fs::write(&missing, "").expect("written");
        assert!(prepare(&missing).is_err_and(|f| f.what.ends_with("is not a directory")));
        assert!(prepare(dir.path()).is_ok());
    }
}
