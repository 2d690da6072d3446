//! Branches and tags of a volume: per name, the surviving values.
//!
//! Invariant: names and siblings are sorted; a name without siblings is not there. A ref that
//! was moved by two nodes at once has two siblings until somebody replaces both.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::id::Oid;
use crate::base::stamp::{Dot, Stamp};
use crate::record::model::oid_bytes;
use crate::record::{RecordError, Result};
use crate::store::objects::{ObjectKind, Objects};

const VERSION: u8 = crate::base::format::REFS;

/// One surviving value of a ref.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct RefValue {
    /// The commit that set it.
    pub stamp: Stamp,
    /// What it points to.
    #[serde(with = "oid_bytes")]
    pub to: Oid,
}

/// All refs: full name (`refs/heads/x`) to its surviving values, latest first.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct Refs(pub BTreeMap<String, Vec<RefValue>>);

impl Refs {
    /// Replaces the values that the author saw by a new one, or by none.
    pub fn set(&mut self, name: &str, base: &[Dot], own: Stamp, to: Option<Oid>) {
        let mut values = self.0.remove(name).unwrap_or_default();
        values.retain(|v| v.stamp != own && !base.contains(&v.stamp.dot()));
        values.extend(to.map(|to| RefValue { stamp: own, to }));
        values.sort_unstable_by(|a, b| b.cmp(a));
        if !values.is_empty() {
            self.0.insert(name.to_owned(), values);
        }
    }

    /// What the refs show: a value that all others are ancestors of, or else the latest one at
    /// the name and the others as `<name>.conflict-<8 hex digits>`.
    ///
    /// # Errors
    /// As `is_ancestor`, which tells whether its first argument is in the history of the
    /// second.
    pub fn shown<E>(
        &self,
        mut is_ancestor: impl FnMut(&Oid, &Oid) -> std::result::Result<bool, E>,
    ) -> std::result::Result<BTreeMap<String, Oid>, E> {
        let mut out = BTreeMap::new();
        for (name, values) in &self.0 {
            let mut tips: Vec<Oid> = Vec::new();
            for v in values {
                let mut newest = !tips.contains(&v.to);
                for other in values.iter().filter(|o| o.to != v.to) {
                    newest = newest && !is_ancestor(&v.to, &other.to)?;
                }
                if newest {
                    tips.push(v.to);
                }
            }
            for (i, tip) in tips.into_iter().enumerate() {
                let shown = match i {
                    0 => name.clone(),
                    _ => format!("{name}.conflict-{}", tip.to_hex_with_len(8)),
                };
                out.insert(shown, tip);
            }
        }
        Ok(out)
    }
}

/// Reads the refs in a blob.
///
/// # Errors
/// When the blob is missing or no refs.
pub fn get(objs: &dyn Objects, id: &Oid) -> Result<Refs> {
    let data = objs.get(id, ObjectKind::Blob)?;
    let bad = |why: &str| RecordError::malformed(*id, "a blob of refs", why);
    let Some((&VERSION, body)) = data.split_first() else {
        return Err(bad("its version is unknown"));
    };
    let (refs, rest): (Refs, _) =
        postcard::take_from_bytes(body).map_err(|e| bad(&e.to_string()))?;
    if !rest.is_empty() || refs.0.values().any(|v| !v.is_sorted_by(|a, b| a > b)) {
        return Err(bad("its values are not in order"));
    }
    Ok(refs)
}

/// Keeps the refs as a blob.
///
/// # Errors
/// When the store fails.
pub fn put(objs: &dyn Objects, refs: &Refs) -> Result<Oid> {
    let mut data = vec![VERSION];
    data.extend(postcard::to_stdvec(refs).map_err(RecordError::Encode)?);
    Ok(objs.put(ObjectKind::Blob, data)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::BranchId;
    use crate::base::stamp::Hlc;

    fn stamp(n: u64) -> Stamp {
        Stamp {
            hlc: Hlc(n),
            branch: BranchId(n),
            seq: 1,
        }
    }

    fn oid(n: u8) -> Oid {
        Oid::from([n; 20])
    }

    #[test]
    fn concurrent_pushes_show_the_later_and_keep_the_other() {
        let mut refs = Refs::default();
        refs.set("refs/heads/x", &[], stamp(1), Some(oid(1)));
        refs.set("refs/heads/x", &[], stamp(2), Some(oid(2)));
        let unrelated = refs.shown(|_, _| Ok::<_, ()>(false)).expect("no error");
        assert_eq!(unrelated.get("refs/heads/x"), Some(&oid(2)));
        assert_eq!(
            unrelated.get("refs/heads/x.conflict-01010101"),
            Some(&oid(1))
        );
        // The earlier push holds the later one's commit: it wins, and nothing is left over.
        let descends = |a: &Oid, b: &Oid| Ok::<_, ()>(*a == oid(2) && *b == oid(1));
        let one = refs.shown(descends).expect("no error");
        assert_eq!(
            one.into_iter().collect::<Vec<_>>(),
            [("refs/heads/x".to_owned(), oid(1))]
        );
    }

    #[test]
    fn a_delete_drops_only_what_it_saw() {
        let mut refs = Refs::default();
        refs.set("refs/heads/x", &[], stamp(1), Some(oid(1)));
        refs.set("refs/heads/x", &[], stamp(2), Some(oid(2)));
        refs.set("refs/heads/x", &[stamp(1).dot()], stamp(3), None);
        assert_eq!(refs.0["refs/heads/x"].len(), 1);
        refs.set("refs/heads/x", &[stamp(2).dot()], stamp(3), None);
        assert!(refs.0.is_empty());
    }
}
