//! Versions of one file whose texts merge without a conflict (rule 10 of the merge).
//!
//! Versions are folded in the order of their stamps. The base of a step is what the latest
//! versions that both sides come from make together, by the same rule. If there is no base, if
//! anything is not text, or if any hunk conflicts, nothing is merged at all. The line merge is
//! gix's, with fixed options; a result that depends on which side is which is no result.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use gix::diff::blob::{Algorithm, InternedInput};
use gix::merge::blob::Resolution;
use gix::merge::blob::builtin_driver::text::{Conflict, ConflictStyle, Labels, Options};
use gix::merge::blob::builtin_driver::{self};

use crate::base::id::{FileId, Oid};
use crate::base::stamp::{Dot, Stamp};
use crate::record::Result;
use crate::record::draft::Draft;
use crate::record::model::{Content, Kind, MergedText, Record};
use crate::store::objects::ObjectKind;

/// Larger files are not merged.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// A NUL byte this near to the start means that a file is not text, as in git.
const SNIFF_BYTES: usize = 8000;
/// Earlier versions looked at in search of a base.
const STEPS_MAX: usize = 10_000;
/// Bases made of several versions, in one merge.
const BASES_MAX: usize = 64;

type Memo = HashMap<Vec<Dot>, Option<Oid>>;

impl Draft<'_> {
    /// Derives what the versions of a file make together.
    pub(crate) fn merge_text(&mut self, id: FileId) -> Result<()> {
        let Some(mut record) = self.record(id)? else {
            return Ok(());
        };
        if record.content.len() < 2 {
            return Ok(());
        }
        let free = unmarked(&record);
        let differ = free.windows(2).any(|w| match w {
            [a, b] => a.blob != b.blob,
            _ => false,
        });
        if !differ {
            return Ok(());
        }
        let versions = free.iter().map(|c| c.stamp.dot()).collect();
        let blob = self.fold(id, free, &mut Memo::new())?;
        record.filled.text = blob.map(|blob| Box::new(MergedText { blob, versions }));
        self.set(id, Some(record))
    }

    /// What the versions, sorted latest first, make together.
    fn fold(&mut self, id: FileId, versions: Vec<Content>, memo: &mut Memo) -> Result<Option<Oid>> {
        if versions.iter().any(|v| v.kind != Kind::File) {
            return Ok(None);
        }
        let key: Vec<Dot> = versions.iter().map(|v| v.stamp.dot()).collect();
        if let Some(known) = memo.get(&key) {
            return Ok(*known);
        }
        // Guards against a history that is too tangled or leads back to itself: peers can send
        // one.
        if memo.len() >= BASES_MAX {
            return Ok(None);
        }
        memo.insert(key.clone(), None);
        let mut folded: Vec<Content> = Vec::new();
        let mut made: Option<Oid> = None;
        for next in versions.into_iter().rev() {
            made = match made {
                None => Some(next.blob),
                Some(sum) => {
                    let base = self.common(id, &folded, &next)?;
                    if base.is_empty() {
                        return Ok(None);
                    }
                    let Some(base) = self.fold(id, base, memo)? else {
                        return Ok(None);
                    };
                    let Some(blob) = self.merge_lines(sum, base, next.blob)? else {
                        return Ok(None);
                    };
                    Some(blob)
                }
            };
            folded.push(next);
        }
        memo.insert(key, made);
        Ok(made)
    }

    /// The latest versions that `next` and one of the others both come from, latest first.
    fn common(&mut self, id: FileId, others: &[Content], next: &Content) -> Result<Vec<Content>> {
        let mut todo: BTreeMap<Stamp, (Content, Seen)> = BTreeMap::new();
        for (content, mark) in others.iter().map(|c| (c, OTHER)).chain([(next, NEXT)]) {
            todo.entry(content.stamp)
                .or_insert_with(|| (content.clone(), 0))
                .1 |= mark;
        }
        let mut found = Vec::new();
        for _ in 0..STEPS_MAX {
            if todo.values().all(|(_, seen)| seen & BEHIND != 0) {
                return Ok(found);
            }
            // Stamps agree with causality: what comes from a version comes out before it.
            let Some((_, (content, mut seen))) = todo.pop_last() else {
                return Ok(found);
            };
            if seen == OTHER | NEXT {
                found.push(content.clone());
                seen |= BEHIND;
            }
            for dot in &content.over {
                if let Some(before) = self.version_at(id, *dot)? {
                    todo.entry(before.stamp).or_insert((before, 0)).1 |= seen;
                }
            }
        }
        Ok(Vec::new())
    }

    fn version_at(&mut self, id: FileId, dot: Dot) -> Result<Option<Content>> {
        let stamp = Stamp {
            branch: dot.branch,
            seq: dot.seq,
            ..Stamp::default()
        };
        let then = self.record_at(stamp, id)?;
        Ok(then.and_then(|r| r.content.into_iter().find(|c| c.stamp.dot() == dot)))
    }

    fn merge_lines(&self, a: Oid, base: Oid, b: Oid) -> Result<Option<Oid>> {
        let objs = self.src.objs;
        let (a, b) = (
            objs.get(&a, ObjectKind::Blob)?,
            objs.get(&b, ObjectKind::Blob)?,
        );
        let base = objs.get(&base, ObjectKind::Blob)?;
        let Some(merged) = lines(&a, &base, &b) else {
            return Ok(None);
        };
        Ok(Some(objs.put(ObjectKind::Blob, merged)?))
    }
}

type Seen = u8;
const OTHER: Seen = 1;
const NEXT: Seen = 2;
const BEHIND: Seen = 4;

/// The versions that may take the plain name at the place shown.
fn unmarked(record: &Record) -> Vec<Content> {
    let Some(at) = record.shown_location().map(|l| l.stamp.dot()) else {
        return Vec::new();
    };
    let free = record.content.iter().filter(|c| !c.copy_at.contains(&at));
    free.cloned().collect()
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.len() <= TEXT_BYTES_MAX && !bytes.iter().take(SNIFF_BYTES).any(|b| *b == 0)
}

/// Both sides' changes of the base, or `None` when they conflict.
fn lines(a: &[u8], base: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    if ![a, base, b].into_iter().all(is_text) {
        return None;
    }
    let one = merge_once(a, base, b)?;
    (one == merge_once(b, base, a)?).then_some(one)
}

fn merge_once(a: &[u8], base: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let options = Options {
        diff_algorithm: Algorithm::Histogram,
        conflict: Conflict::Keep {
            style: ConflictStyle::Merge,
            marker_size: std::num::NonZeroU8::new(Conflict::DEFAULT_MARKER_SIZE)?,
        },
    };
    let mut out = Vec::new();
    // A bug in the line merge must not keep every node of a cell from showing anything: it
    // counts as a conflict, on every node alike.
    let resolution = catch_unwind(AssertUnwindSafe(|| {
        let mut input = InternedInput::default();
        builtin_driver::text(&mut out, &mut input, Labels::default(), a, base, b, options)
    }));
    match resolution {
        Ok(Resolution::Complete) => Some(out),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_oneof, proptest};
    use proptest::strategy::{Just, Strategy};

    use super::*;

    #[test]
    fn changes_apart_from_each_other_are_both_there() {
        let base = b"1\n2\n3\n4\n5\n6\n7\n";
        let merged = lines(b"1a\n2\n3\n4\n5\n6\n7\n", base, b"1\n2\n3\n4\n5\n6\n7b\n");
        assert_eq!(merged.as_deref(), Some(&b"1a\n2\n3\n4\n5\n6\n7b\n"[..]));
        assert_eq!(lines(b"x\n", b"o\n", b"y\n"), None);
        assert_eq!(lines(b"x\0\n", b"o\n", b"o\n"), None);
        let large = vec![b'a'; TEXT_BYTES_MAX + 1];
        assert_eq!(lines(&large, b"o\n", b"o\n"), None);
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just("a\n"),
            Just("b\n"),
            Just("c\n"),
            Just("d"),
            Just("\r\n")
        ];
        proptest::collection::vec(line, 0..8).prop_map(|l| l.concat().into_bytes())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_side_without_changes_yields_to_the_other(base in text(), a in text(), b in text()) {
            // The result must never be less than one whole side where only that side changed.
            if let Some(merged) = lines(&a, &base, &base) {
                assert_eq!(merged, a);
            }
            let _any = lines(&a, &base, &b);
        }
    }
}
