//! What a folder may hold after calls some of which failed: what succeeded is there, what failed
//! is there or is not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::fs::getxattr;

/// The attribute that the tests set.
pub(crate) const XATTR: &str = "user.fault";

/// What is at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Nothing,
    Dir,
    /// A file, by its number in the ledger: two names of one file have one number.
    File(usize),
}

/// Bytes of a file, and the attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) bytes: Vec<u8>,
    pub(crate) xattr: Option<Vec<u8>>,
}

/// See the module. Of each thing, all that it may be.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    names: BTreeMap<String, Vec<At>>,
    files: Vec<Vec<Version>>,
}

fn add<T: PartialEq>(to: &mut Vec<T>, one: T) {
    if !to.contains(&one) {
        to.push(one);
    }
}

impl Ledger {
    /// What may be at a name.
    pub(crate) fn at(&self, path: &str) -> Vec<At> {
        let known = self.names.get(path).cloned();
        known.unwrap_or_else(|| vec![At::Nothing])
    }

    /// The files that may be at a name.
    pub(crate) fn files(&self, path: &str) -> Vec<usize> {
        let file = |a: &At| match a {
            At::File(n) => Some(*n),
            _ => None,
        };
        self.at(path).iter().filter_map(file).collect()
    }

    /// A new file that is nowhere yet.
    pub(crate) fn fresh(&mut self) -> usize {
        let bytes = Vec::new();
        let xattr = None;
        self.files.push(vec![Version { bytes, xattr }]);
        self.files.len() - 1
    }

    /// A name came to be something, or a call that should have done so failed.
    pub(crate) fn name(&mut self, path: &str, is: At, done: bool) {
        self.name_any(path, vec![is], done);
    }

    /// As [`Self::name`], of which is not known which of these it is.
    pub(crate) fn name_any(&mut self, path: &str, is: Vec<At>, done: bool) {
        let known = self.names.entry(path.to_owned());
        let known = known.or_insert_with(|| vec![At::Nothing]);
        if done {
            known.clear();
        }
        for at in is {
            add(known, at);
        }
    }

    /// The same with a directory and all that is below it.
    pub(crate) fn moved_dir(&mut self, from: &str, to: &str, done: bool) {
        let below: Vec<(String, Vec<At>)> = (self.names.iter())
            .filter(|(n, _)| n.starts_with(&format!("{from}/")) || *n == from)
            .map(|(n, at)| (n.clone(), at.clone()))
            .collect();
        for (name, at) in below {
            self.name_any(&name.replacen(from, to, 1), at, done);
            self.name(&name, At::Nothing, done);
        }
    }

    /// The one of these files that there is was changed, or a call that should have done so failed.
    pub(crate) fn change(&mut self, files: &[usize], done: bool, how: impl Fn(&mut Version)) {
        for file in files {
            self.change_one(*file, done && files.len() == 1, &how);
        }
    }

    fn change_one(&mut self, file: usize, done: bool, how: &impl Fn(&mut Version)) {
        let before = self.files[file].clone();
        let mut after: Vec<Version> = Vec::new();
        for v in &before {
            let mut v = v.clone();
            how(&mut v);
            add(&mut after, v);
        }
        if !done {
            for v in before {
                add(&mut after, v);
            }
        }
        self.files[file] = after;
    }

    /// What is wrong with a folder; names that do not begin with `below` are not looked at, and
    /// without it those that nobody made are not.
    pub(crate) fn wrong(&self, dir: &Path, below: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut known: Vec<&str> = Vec::new();
        for (name, may) in self.names.iter().filter(|(n, _)| n.starts_with(below)) {
            known.push(name);
            let path = dir.join(name);
            let meta = match fs::symlink_metadata(&path) {
                Ok(m) => m,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    if !may.contains(&At::Nothing) {
                        wrong.push(format!("{name} is gone; it may be {may:?}"));
                    }
                    continue;
                }
                Err(e) => {
                    wrong.push(format!("{name}: {e}"));
                    continue;
                }
            };
            if meta.is_dir() {
                if !may.contains(&At::Dir) {
                    wrong.push(format!("{name} is a directory; it may be {may:?}"));
                }
                continue;
            }
            let bytes = match fs::read(&path) {
                Ok(b) => b,
                Err(e) => {
                    wrong.push(format!("{name} cannot be read: {e}"));
                    continue;
                }
            };
            let mut room = [0; 100];
            let xattr = getxattr(&path, XATTR, room.as_mut_slice()).ok();
            let xattr = xattr.map(|n| room[..n].to_vec());
            let fits = may.iter().any(|a| match a {
                At::File(n) => is_one_of(&bytes, xattr.as_ref(), &self.files[*n]),
                _ => false,
            });
            if !fits {
                let files = may.iter().filter_map(|a| match a {
                    At::File(n) => Some(&self.files[*n]),
                    _ => None,
                });
                let say = |v: &Version| (v.bytes.len(), v.xattr.clone(), print(&v.bytes));
                let could: Vec<_> = files.flatten().map(say).collect();
                wrong.push(format!(
                    "{name} has {} bytes {:?} {xattr:?}; it may be one of {} things: {could:?}",
                    bytes.len(),
                    print(&bytes),
                    may.len(),
                ));
            }
        }
        let mut queue = vec![below.to_owned()];
        queue.retain(|at| !at.is_empty());
        while let Some(at) = queue.pop() {
            for e in fs::read_dir(dir.join(&at)).into_iter().flatten().flatten() {
                let name = format!("{at}/{}", e.file_name().to_string_lossy());
                if !known.contains(&name.as_str()) {
                    let bytes = fs::read(dir.join(&name)).unwrap_or_default();
                    let about = (bytes.len(), print(&bytes));
                    wrong.push(format!("{name}: nobody made that, {about:?}"));
                }
                if e.file_type().is_ok_and(|t| t.is_dir()) {
                    queue.push(name);
                }
            }
        }
        wrong
    }
}

fn print(b: &[u8]) -> String {
    format!("{:08x}", crc(b))
}

fn crc(b: &[u8]) -> u32 {
    b.iter().fold(0x811c_9dc5, |h, b| {
        (h ^ u32::from(*b)).wrapping_mul(0x0100_0193)
    })
}

/// A write that failed may have written a part: then each byte is that of some version.
fn is_one_of(bytes: &[u8], xattr: Option<&Vec<u8>>, may: &[Version]) -> bool {
    let may: Vec<&Version> = (may.iter()).filter(|v| v.xattr.as_ref() == xattr).collect();
    if may.iter().any(|v| v.bytes == bytes) {
        return true;
    }
    let shortest = may.iter().map(|v| v.bytes.len()).min();
    let longest = may.iter().map(|v| v.bytes.len()).max();
    let (Some(shortest), Some(longest)) = (shortest, longest) else {
        return false;
    };
    let from_some = |(n, b): (usize, &u8)| {
        may.iter().any(|v| v.bytes.get(n) == Some(b)) || (n >= shortest && *b == 0)
    };
    may.len() > 1
        && (shortest..=longest).contains(&bytes.len())
        && bytes.iter().enumerate().all(from_some)
}
