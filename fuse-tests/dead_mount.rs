//! A folder whose node was killed: `mount` and `umount` take the dead mount off it.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output};

use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountFlags, mount};

/// Mounts, as a node would, and dies at once: nobody holds the device any more.
fn dead_mount(dir: &Path) {
    let device = open("/dev/fuse", OFlags::RDWR, Mode::empty()).expect("FUSE, and we may use it");
    let device = File::from(device);
    let fd = std::os::fd::AsRawFd::as_raw_fd(&device);
    let data = format!("fd={fd},rootmode=40000,user_id=0,group_id=0");
    let data = std::ffi::CString::new(data).expect("no NUL");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("cellfs", dir, "fuse.cellfs", flags, data.as_c_str()).expect("we may mount");
}

fn cellfs(dir: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cellfs"))
        .args(words)
        .env("CELLFS_STATE", dir.join("state"))
        .output()
        .expect("runs")
}

#[test]
fn umount_takes_dead_mounts_off() {
    let home = tempfile::tempdir().expect("tempdir");
    let dir = home.path().join("a b");
    std::fs::create_dir(&dir).expect("made");
    dead_mount(&dir);
    dead_mount(&dir);
    let dead = std::fs::metadata(&dir).expect_err("dead");
    assert_eq!(dead.raw_os_error(), Some(libc::ENOTCONN));
    let folder = dir.display().to_string();
    let out = cellfs(home.path(), &["umount", &folder]);
    assert!(out.status.success(), "{out:?}");
    assert!(std::fs::metadata(&dir).is_ok_and(|m| m.is_dir()));
    let again = cellfs(home.path(), &["umount", &folder]);
    assert_eq!(again.status.code(), Some(1));
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(said.contains("is not a cellfs mount"), "{said}");
}

#[test]
fn mount_takes_a_dead_mount_off_first() {
    let home = tempfile::tempdir().expect("tempdir");
    let dir = home.path().join("mnt");
    std::fs::create_dir(&dir).expect("made");
    dead_mount(&dir);
    // Taken off before the node starts, so it does not matter that this one cannot.
    let folder = dir.display().to_string();
    let state = home.path().join("state");
    std::fs::write(&state, "in the way").expect("written");
    let out = cellfs(home.path(), &["mount", &folder]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(std::fs::metadata(&dir).is_ok_and(|m| m.is_dir()));
}
