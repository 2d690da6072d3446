//! Options of a mount, as `mount -o` and `/etc/fstab` spell them.

use serde::{Deserialize, Serialize};

/// What the kernel is to do differently for one folder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// Run no programs from the folder.
    pub no_exec: bool,
    /// Do not note when a file is read.
    pub no_atime: bool,
    /// Do not note when a directory is read.
    pub no_dir_atime: bool,
    /// As if every file were opened with `O_SYNC`.
    pub sync: bool,
    /// Let other users in. Root's folders do anyway.
    pub allow_other: bool,
}

/// Words of `/etc/fstab` that are for others: whoever mounts, and when.
const FOR_OTHERS: &[&str] = &[
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "_netdev",
    "comment",
];

/// Words for what is so in any case.
const ALWAYS: &[&str] = &[
    "nosuid",
    "nodev",
    "async",
    "default_permissions",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "nolazytime",
];

impl MountOptions {
    /// Takes in a word, as `noexec` or `_netdev`; the last one on a matter counts. False: there
    /// is no such option.
    ///
    /// # Errors
    /// What cannot be had, and why.
    pub fn set(&mut self, word: &str) -> Result<bool, String> {
        match word {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "noexec" => self.no_exec = true,
            "exec" => self.no_exec = false,
            "noatime" => self.no_atime = true,
            "atime" => self.no_atime = false,
            "nodiratime" => self.no_dir_atime = true,
            "diratime" => self.no_dir_atime = false,
            "sync" => self.sync = true,
            "allow_other" => self.allow_other = true,
            "suid" | "dev" => {
                return Err(format!(
                    "{word} cannot be had: other nodes write to the folder, so it is always no{word}"
                ));
            }
            _ if ALWAYS.contains(&word) => {}
            _ => {
                let key = word.split('=').next().unwrap_or(word);
                let extension = key.starts_with("x-") || key.starts_with("X-");
                return Ok(extension || FOR_OTHERS.contains(&key));
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_fstab_are_known_and_the_last_one_counts() {
        let mut o = MountOptions::default();
        let words =
            "defaults,_netdev,x-systemd.requires=a.service,comment=b,noexec,noatime,ro,exec,rw";
        for word in words.split(',') {
            assert_eq!(o.set(word), Ok(true), "{word}");
        }
        let wanted = MountOptions {
            no_atime: true,
            ..MountOptions::default()
        };
        assert_eq!(o, wanted);
        assert_eq!(o.set("noexce"), Ok(false));
        assert!(o.set("suid").is_err_and(|why| why.contains("nosuid")));
    }
}
