//! All of it as an ordinary user: `fusermount3` mounts and unmounts, nobody else may look in.
//!
//! Run as root, for it becomes another user; and it lets all users open `/dev/fuse`, as they may
//! on any machine where they can mount.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::harness::{self, Lab, free_port};

/// `nobody`, whom every machine has and who owns nothing.
const USER: u32 = 65534;

/// Lets all users open the device; as before when dropped.
struct Device(Option<u32>);

impl Device {
    const PATH: &str = "/dev/fuse";

    fn open_to_all() -> Self {
        let mode = fs::metadata(Self::PATH).expect("FUSE").permissions().mode();
        if mode & 0o006 == 0o006 {
            return Self(None);
        }
        fs::set_permissions(Self::PATH, Permissions::from_mode(mode | 0o666)).expect("we may");
        Self(Some(mode))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(mode) = self.0 {
            let _ = fs::set_permissions(Self::PATH, Permissions::from_mode(mode));
        }
    }
}

/// A user with a copy of the program and a place of his own.
struct User {
    home: PathBuf,
    program: PathBuf,
    state: PathBuf,
}

impl User {
    fn new(lab: &Lab) -> Self {
        let top = lab.path("");
        fs::set_permissions(&top, Permissions::from_mode(0o755)).expect("we may");
        let home = lab.dir("home");
        chown(&home, Some(USER), Some(USER)).expect("we may");
        // The build may be where only root can look.
        let program = lab.path("cellfs");
        fs::copy(harness::program(), &program).expect("copied");
        Self {
            state: home.join("state"),
            home,
            program,
        }
    }

    fn run(&self, program: impl AsRef<Path>, words: &[&str]) -> Output {
        Command::new(program.as_ref())
            .args(words)
            .env("CELLFS_STATE", &self.state)
            .env("HOME", &self.home)
            .current_dir(&self.home)
            .uid(USER)
            .gid(USER)
            .stdin(Stdio::null())
            .output()
            .expect("it starts")
    }

    /// Runs `cellfs`, which must succeed; what it printed.
    fn cellfs(&self, words: &[&str]) -> String {
        let out = self.run(&self.program, words);
        assert!(out.status.success(), "cellfs {words:?}: {out:?}");
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    /// Runs a script, which must succeed; what it printed.
    fn sh(&self, script: &str) -> String {
        let out = self.run("sh", &["-ec", script]);
        assert!(out.status.success(), "{script}: {out:?}");
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    fn mount(&self, dir: &Path) {
        let listen = format!("127.0.0.1:{}", free_port());
        let dir = dir.display().to_string();
        self.cellfs(&["mount", &dir, "--listen", &listen]);
    }
}

fn mounts(dir: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("Linux");
    let at = format!(" {} ", dir.display());
    let mine = table.lines().filter(|l| l.contains(&at));
    mine.map(str::to_owned).collect()
}

#[test]
fn mounts_writes_reads_and_unmounts() {
    if !harness::fuse() {
        return;
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "this test becomes another user, which needs root; CELLFS_NO_FUSE=1 skips"
    );
    let helper = Command::new("fusermount3").arg("--version").output();
    assert!(
        helper.is_ok_and(|o| o.status.success()),
        "fusermount3 is not installed (fuse3); CELLFS_NO_FUSE=1 skips"
    );
    let _device = Device::open_to_all();
    let lab = Lab::new();
    let user = User::new(&lab);
    let dir = lab.mount_point("mnt");
    chown(&dir, Some(USER), Some(USER)).expect("we may");
    let folder = dir.display().to_string();

    user.mount(&dir);
    let node = lab.adopt(&user.state);
    let table = mounts(&dir);
    assert_eq!(table.len(), 1, "{table:?}");
    assert!(table[0].contains(" fuse.cellfs "), "{table:?}");
    assert!(table[0].contains("user_id=65534"), "{table:?}");
    assert!(!table[0].contains("allow_other"), "{table:?}");
    let uid = fs::read_to_string(format!("/proc/{node}/status")).expect("it runs");
    assert!(uid.contains("\nUid:\t65534\t65534"), "{uid}");

    let script = format!(
        "cd {folder}
         mkdir -p a/b; echo hello > a/b/f; ln -s b/f a/l; echo more >> a/b/f
         mv a/b/f a/b/g; ln -sf b/g a/l; chmod 640 a/b/g; sync a/b/g
         head -c 3000000 /dev/zero > big; rm -f none; rmdir a/none 2>/dev/null || true
         ls -lR > /dev/null
         test \"$(stat -c '%a %u' a/b/g)\" = '640 65534'
         test \"$(stat -c %s big)\" = 3000000
         cat a/l"
    );
    assert_eq!(user.sh(&script), "hello\nmore\n");
    // Lists of his own, and what they hand on.
    let script = format!(
        "cd {folder}/a; umask 077; mkdir shared; setfacl -m u:12345:r,g:54321:rw b/g
         setfacl -d -m u:12345:rx shared; mkdir shared/d; : > shared/f; chmod g-w b/g
         getfacl -cpnE b/g shared/d shared/f | tr -s '\\n' ' '"
    );
    assert_eq!(
        user.sh(&script),
        "user::rw- user:12345:r-- group::r-- group:54321:rw- mask::r-- other::--- \
         user::rwx user:12345:r-x group::--- mask::r-x other::--- default:user::rwx \
         default:user:12345:r-x default:group::--- default:mask::r-x default:other::--- \
         user::rw- user:12345:r-x group::--- mask::r-- other::--- "
    );
    // Not even root: the kernel asks nobody but the one who mounted.
    let root = fs::read_dir(&dir).expect_err("root looks in");
    assert_eq!(root.raw_os_error(), Some(libc::EACCES));

    // A second folder, which the running node takes in.
    let other = lab.mount_point("other");
    chown(&other, Some(USER), Some(USER)).expect("we may");
    let second = other.display().to_string();
    user.cellfs(&["mount", &second]);
    assert_eq!(user.sh(&format!("cat {second}/a/l")), "hello\nmore\n");
    user.cellfs(&["umount", &second]);
    assert!(mounts(&other).is_empty());

    // One that belongs to somebody else is refused in words, and nothing is left of it.
    let foreign = lab.mount_point("foreign").display().to_string();
    let refused = user.run(&user.program, &["mount", &foreign]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains(&foreign), "{said}");
    assert!(mounts(Path::new(&foreign)).is_empty());

    // The node dies; the next mount takes the dead folder off.
    lab.kill(node);
    assert_eq!(mounts(&dir).len(), 1);
    user.mount(&dir);
    lab.adopt(&user.state);
    assert_eq!(mounts(&dir).len(), 1);
    assert_eq!(user.sh(&format!("cat {folder}/a/l")), "hello\nmore\n");

    user.cellfs(&["umount", "--all"]);
    assert!(mounts(&dir).is_empty());
    let out = user.run(&user.program, &["status"]);
    assert_eq!(out.status.code(), Some(4), "the node has ended: {out:?}");
    let said = harness::run(
        Command::new("find")
            .arg(&user.state)
            .args(["-not", "-uid"])
            .arg("65534"),
    );
    assert_eq!(said, "", "all of its state is the user's");
}
