//! Three-way merge of lines, by gix with fixed options.

use gix::diff::blob::{Algorithm, InternedInput};
use gix::merge::blob::Resolution;
use gix::merge::blob::builtin_driver::text::{Conflict, ConflictStyle, Labels, Options};
use gix::merge::blob::builtin_driver::{self};

/// Both sides' changes of the base, or `None` when they conflict. A result that depends on
/// which side is which is no result.
pub(super) fn merge(a: &[u8], base: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let conflict = Conflict::Keep {
        style: ConflictStyle::Merge,
        marker_size: std::num::NonZeroU8::new(Conflict::DEFAULT_MARKER_SIZE)?,
    };
    let one = merge_once(a, base, b, conflict)?;
    (one == merge_once(b, base, a, conflict)?).then_some(one)
}

/// The same; where both changed the same lines, those of `a` and then those of `b`.
pub(super) fn union(a: &[u8], base: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    // Lines that end without a newline would run into the next side's.
    let [a, base, b] = [a, base, b].map(ended);
    merge_once(&a, &base, &b, Conflict::ResolveWithUnion)
}

fn ended(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    out
}

fn merge_once(a: &[u8], base: &[u8], b: &[u8], conflict: Conflict) -> Option<Vec<u8>> {
    let options = Options {
        diff_algorithm: Algorithm::Histogram,
        conflict,
    };
    let mut out = Vec::new();
    let mut input = InternedInput::default();
    let resolution =
        builtin_driver::text(&mut out, &mut input, Labels::default(), a, base, b, options);
    match resolution {
        Resolution::Complete | Resolution::CompleteWithAutoResolvedConflict => Some(out),
        Resolution::Conflict => None,
    }
}
