//! Which driver `.gitattributes` files name for a path, by git's own rules.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use gix::attrs::search::{MetadataCollection, Outcome};
use gix::attrs::{Search, StateRef};
use gix::bstr::{BStr, ByteSlice};
use gix::glob::pattern::Case;

use super::{BYTES_MAX, Driver};

/// Name of the files.
pub const FILE_NAME: &str = ".gitattributes";

/// A `.gitattributes` file: the path of its directory without slashes at its ends, and its
/// bytes.
pub type Attributes = (Vec<u8>, Vec<u8>);

/// The driver for a path: these files apply, the root's first, each later one counts for more.
/// Paths have no slash at the front.
#[must_use]
pub fn driver(files: &[Attributes], path: &[u8]) -> Driver {
    found(files, path, "merge", |state| match state {
        StateRef::Set | StateRef::Unspecified => Driver::Text,
        StateRef::Unset => Driver::Binary,
        StateRef::Value(name) => Driver::named(&name.as_bstr().to_str_lossy()),
    })
}

/// The value of an attribute for a path, by the same rules; none if it is only set or unset.
#[must_use]
pub fn value(files: &[Attributes], path: &[u8], name: &str) -> Option<String> {
    found(files, path, name, |state| match state {
        StateRef::Value(value) => Some(value.as_bstr().to_str_lossy().into_owned()),
        _ => None,
    })
}

fn found<T: Default>(
    files: &[Attributes],
    path: &[u8],
    name: &str,
    say: impl Fn(StateRef<'_>) -> T,
) -> T {
    if files.is_empty() {
        return T::default();
    }
    // What a parser cannot bear is as good as no file, on every node alike.
    let named = catch_unwind(AssertUnwindSafe(|| look(files, path, name, &say)));
    named.unwrap_or_default()
}

fn look<T: Default>(
    files: &[Attributes],
    path: &[u8],
    name: &str,
    say: &impl Fn(StateRef<'_>) -> T,
) -> T {
    let mut collection = MetadataCollection::default();
    let mut search = Search::default();
    let macros = b"[attr]binary -diff -merge -text";
    let source = PathBuf::from("[builtin]");
    if search
        .add_patterns_buffer(macros, source, None, &mut collection, true)
        .is_err()
    {
        return T::default();
    }
    for (dir, bytes) in files.iter().filter(|(_, bytes)| bytes.len() <= BYTES_MAX) {
        // The paths are only compared with one another.
        let root = PathBuf::from("/");
        let dir = root.join(OsStr::from_bytes(dir));
        let source = dir.join(FILE_NAME);
        // git takes macros from the top directory alone.
        let at_top = dir == root;
        if search
            .add_patterns_buffer(bytes, source, Some(&root), &mut collection, at_top)
            .is_err()
        {
            tracing::warn!(dir = %dir.display(), "a .gitattributes file does not parse; it does not count");
        }
    }
    let mut out = Outcome::default();
    out.initialize_with_selection(&collection, [name]);
    search.pattern_matching_relative_path(BStr::new(path), Case::Sensitive, Some(false), &mut out);
    let Some(found) = out.iter_selected().next() else {
        return T::default();
    };
    say(found.assignment.state)
}
