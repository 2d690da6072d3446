//! Objects by the start of their ids.

use std::collections::{BTreeSet, HashSet};
use std::sync::PoisonError;

use super::{Repo, store_error};
use crate::base::id::Oid;
use crate::store::objects::ObjectError;

/// Fewer digits name too much.
const PREFIX_DIGITS_MIN: usize = 4;

impl Repo {
    /// The ids that begin with these hex digits, sorted; none for what is no start of an id.
    ///
    /// # Errors
    /// When the store fails.
    pub fn starting_with(&self, hex: &str) -> Result<Vec<Oid>, ObjectError> {
        let hex = hex.to_ascii_lowercase();
        if hex.len() < PREFIX_DIGITS_MIN {
            return Ok(Vec::new());
        }
        let Ok(prefix) = gix::hash::Prefix::from_hex(&hex) else {
            return Ok(Vec::new());
        };
        let fits = |id: &&Oid| prefix.cmp_oid(id).is_eq();
        let mut out: BTreeSet<Oid> = BTreeSet::new();
        {
            let tail = self.tail.read().unwrap_or_else(PoisonError::into_inner);
            out.extend(tail.ids().filter(fits));
            let young = self.young.read().unwrap_or_else(PoisonError::into_inner);
            out.extend(young.at.keys().filter(fits));
        }
        let found = self.look(|h| {
            let mut all = HashSet::new();
            h.lookup_prefix(prefix, Some(&mut all))
                .map_err(|e| store_error("looking for ids")(e.to_string().into()))?;
            Ok(Some(all))
        })?;
        out.extend(found.into_iter().flatten());
        Ok(out.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::objects::{Memory, ObjectKind, Objects};

    #[test]
    fn ids_are_found_by_their_start_wherever_they_are() {
        let dir = tempfile::tempdir().expect("a directory");
        let repo = Repo::create(&dir.path().join("git")).expect("made");
        let put = |n: u32| {
            let stage = Memory::default();
            let id = stage
                .put(ObjectKind::Blob, n.to_be_bytes().to_vec())
                .expect("memory");
            (id, stage.into_objects())
        };
        let (packed, objects) = put(1);
        repo.flush(objects).expect("flushed");
        let (held, objects) = put(2);
        repo.hold(objects, || Ok::<_, std::io::Error>(1))
            .expect("held");
        for round in 0..2 {
            for id in [packed, held] {
                for n in [4, 7, 40] {
                    let hex = id.to_hex_with_len(n).to_string();
                    assert!(repo.starting_with(&hex).expect("looked").contains(&id));
                    let upper = hex.to_ascii_uppercase();
                    assert!(repo.starting_with(&upper).expect("looked").contains(&id));
                }
            }
            if round == 0 {
                repo.settle().expect("settled");
                repo.refresh();
            }
        }
        for bad in ["", "abc", "xyzw", "éééé", &"a".repeat(41)] {
            assert!(repo.starting_with(bad).expect("looked").is_empty(), "{bad}");
        }
    }
}
