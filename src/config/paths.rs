//! Where things are when nobody says.

use std::path::PathBuf;

/// The state directory: `/var/lib/cellfs` for root, else under the user's state home.
#[must_use]
pub fn default_state() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/cellfs");
    }
    let var = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
    };
    var("XDG_STATE_HOME")
        .or_else(|| var("HOME").map(|h| h.join(".local/state")))
        // Nowhere of one's own: never a directory that others may have made.
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("cellfs")
}

/// This machine's name, as far as it can be a node's name.
pub(super) fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let name: String = name
        .chars()
        .filter(|c| !c.is_control() && !c.is_whitespace())
        .take(super::NODE_NAME_BYTES_MAX / 4)
        .collect();
    if name.is_empty() {
        "node".to_owned()
    } else {
        name
    }
}
