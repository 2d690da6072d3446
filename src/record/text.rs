//! Versions of one file that merge into one (rule 10 of the merge).
//!
//! Versions are folded in the order of their stamps, by the driver that the merged tree's
//! `.gitattributes` name for the file's path. The base of a step is what the latest versions
//! that both sides come from make together, by the same rule. If there is no base, or the driver
//! has no result at any step, nothing is merged at all.

use std::collections::{BTreeMap, HashMap};

use crate::base::id::{FileId, Oid};
use crate::base::stamp::{Dot, Stamp};
use crate::driver::Driver;
use crate::record::Result;
use crate::record::draft::Draft;
use crate::record::model::{Content, Kind, MergedText, Record};
use crate::store::objects::ObjectKind;

/// Earlier versions looked at in search of a base.
const STEPS_MAX: usize = 10_000;
/// Bases made of several versions, in one merge.
const BASES_MAX: usize = 64;

/// What sets of versions make together, by a driver.
struct Memo {
    driver: Driver,
    made: HashMap<Vec<Dot>, Option<Oid>>,
}

impl Draft<'_> {
    /// Derives what the versions of a file make together.
    pub(crate) fn merge_text(&mut self, id: FileId) -> Result<()> {
        let Some(mut record) = self.record(id)? else {
            return Ok(());
        };
        if !record.is_contested() {
            return Ok(());
        }
        let was = record.filled.text.take();
        let free = unmarked(&record);
        let differ = free.windows(2).any(|w| match w {
            [a, b] => a.blob != b.blob,
            _ => false,
        });
        if differ {
            let versions = free.iter().map(|c| c.stamp.dot()).collect();
            let blob = self.together(&record, free)?;
            record.filled.text = blob.map(|blob| Box::new(MergedText { blob, versions }));
        }
        if record.filled.text == was {
            return Ok(());
        }
        self.set(id, Some(record))
    }

    /// What these versions of a file make together, if they do.
    fn together(&mut self, record: &Record, versions: Vec<Content>) -> Result<Option<Oid>> {
        let driver = self.driver_of(record)?;
        match &driver {
            Driver::Lww => return Ok(versions.first().map(|v| v.blob)),
            Driver::Binary => return Ok(None),
            Driver::Unknown(name) => {
                tracing::warn!(driver = name, id = %record.id, "no such merge driver: all versions are kept");
                return Ok(None);
            }
            _ => {}
        }
        let mut memo = Memo {
            driver,
            made: HashMap::new(),
        };
        self.fold(record.id, versions, &mut memo)
    }

    /// What the versions, sorted latest first, make together.
    fn fold(&mut self, id: FileId, versions: Vec<Content>, memo: &mut Memo) -> Result<Option<Oid>> {
        if versions.iter().any(|v| v.kind != Kind::File) {
            return Ok(None);
        }
        let key: Vec<Dot> = versions.iter().map(|v| v.stamp.dot()).collect();
        if let Some(known) = memo.made.get(&key) {
            return Ok(*known);
        }
        // Guards against a history that is too tangled or leads back to itself: peers can send
        // one.
        if memo.made.len() >= BASES_MAX {
            return Ok(None);
        }
        memo.made.insert(key.clone(), None);
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
                    let Some(blob) = self.merge_bytes(&memo.driver, [sum, base, next.blob])? else {
                        return Ok(None);
                    };
                    Some(blob)
                }
            };
            folded.push(next);
        }
        memo.made.insert(key, made);
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

    fn merge_bytes(&self, driver: &Driver, [a, base, b]: [Oid; 3]) -> Result<Option<Oid>> {
        let objs = self.src.objs;
        let get = |id| objs.get(&id, ObjectKind::Blob);
        let Some(merged) = driver.merge(&get(a)?, &get(base)?, &get(b)?) else {
            return Ok(None);
        };
        Ok(Some(objs.put(ObjectKind::Blob, merged)?))
    }
}

type Seen = u8;
const OTHER: Seen = 1;
const NEXT: Seen = 2;
const BEHIND: Seen = 4;

/// The versions that may take the plain name at the place shown; all, if the file has other
/// names only.
fn unmarked(record: &Record) -> Vec<Content> {
    let at = record.shown_location().map(|l| l.stamp.dot());
    let is_free = |c: &&Content| at.is_none_or(|at| !c.copy_at.contains(&at));
    let shown = record.shown_content();
    shown.iter().filter(is_free).cloned().collect()
}
