//! Pieces of an older version of a file that are likely to be like those that lack.
//!
//! What both versions have of where they differ says by how much bytes moved: a piece that lacks
//! is probably like what the old one has as far behind what both have before it, and as far before
//! what both have behind it. Whether it is so is found out by asking; who was told in vain too
//! often names none any more.
//!
//! Memory: the old pieces in leaves that the new list has not, and the stretches that both have
//! there, [`OLD_MAX`] of each; of versions that differ in more, nothing.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use super::entry::{EntryError, node};
use crate::base::id::Oid;
use crate::chunk::manifest::{self, Head, Place};
use crate::chunk::splice::{LIKE_BYTES_MAX, LIKES_MAX};
use crate::chunk::{ChunkId, Piece};
use crate::store::objects::Objects;

/// Pieces of an old version that are kept in mind.
const OLD_MAX: usize = 1 << 18;
/// A shorter piece comes whole: what is named for it costs as much.
const SHORTEST: u64 = 4096;
/// Pieces that came whole although others were named, until none are any more.
const IN_VAIN_MAX: u32 = 16;

/// Bytes that both versions have: where in the new one, and from where on in the old one.
#[derive(Debug)]
struct Both {
    new: Range<u64>,
    old: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Likes {
    /// In order.
    old: Vec<Place>,
    /// In the order of the new version; first and last are its ends.
    both: Vec<Both>,
    in_vain: AtomicU32,
}

impl Likes {
    /// Reads of two lists where they differ. Blocking.
    pub(super) fn find(objs: &dyn Objects, old: &Head, new: &Head) -> Result<Self, EntryError> {
        let mut get = |id: &Oid, kind| node(objs, id, kind);
        let bad = |e: manifest::ReadError<_>| EntryError::Manifest(e.to_string());
        let mut olds = Vec::new();
        let mut there = manifest::diff(new, old, &mut get).map_err(bad)?;
        while let Some(place) = there.next(&mut get).map_err(bad)? {
            if olds.len() == OLD_MAX {
                return Ok(Self::default());
            }
            olds.push(place);
        }
        let mut places: HashMap<ChunkId, u64> = HashMap::new();
        for p in &olds {
            places.entry(p.piece.id).or_insert(p.at);
        }
        let end = |at: u64, old: u64| Both { new: at..at, old };
        let mut both = vec![end(0, 0)];
        let mut here = manifest::diff(old, new, &mut get).map_err(bad)?;
        while let Some(place) = here.next(&mut get).map_err(bad)? {
            let Some(first) = places.get(&place.piece.id) else {
                continue;
            };
            let Some(last) = both.last_mut() else { break };
            // What a file has often is where the last one goes on, if it is there.
            let on = last.old + (place.at - last.new.start);
            let goes_on = at(&olds, on).is_some_and(|p| p.piece.id == place.piece.id);
            if goes_on && last.new.end == place.at {
                last.new.end = place.end();
                continue;
            }
            if both.len() == OLD_MAX {
                return Ok(Self::default());
            }
            both.push(Both {
                new: place.at..place.end(),
                old: if goes_on { on } else { *first },
            });
        }
        both.push(end(new.len, old.len));
        Ok(Self {
            old: olds,
            both,
            in_vain: AtomicU32::new(0),
        })
    }

    /// How many pieces are kept in mind.
    pub(super) fn len(&self) -> usize {
        self.old.len()
    }

    /// Pieces that are here and likely to be like what the new version has in this range, in the
    /// order of the old one.
    pub(super) fn of(&self, new: &Range<u64>, is_here: impl Fn(&ChunkId) -> bool) -> Vec<Piece> {
        let is_in_vain = self.in_vain.load(Ordering::Relaxed) >= IN_VAIN_MAX;
        if is_in_vain || new.end - new.start < SHORTEST {
            return Vec::new();
        }
        let next = self.both.partition_point(|b| b.new.start <= new.start);
        let before = next.checked_sub(1).and_then(|n| self.both.get(n));
        let (Some(before), Some(behind)) = (before, self.both.get(next)) else {
            return Vec::new();
        };
        let from = before.old + (before.new.end - before.new.start);
        let ahead = |at: u64| from + at.saturating_sub(before.new.end);
        let back = |at: u64| {
            let less = behind.new.start.saturating_sub(at);
            behind.old.saturating_sub(less)
        };
        let places = [
            ahead(new.start)..ahead(new.end),
            back(new.start)..back(new.end),
        ];
        // What both have is like itself alone, unless bytes moved about.
        let between = match from <= behind.old {
            true => from..behind.old,
            false => 0..u64::MAX,
        };
        let shared = |p: &Place, r: &Range<u64>| {
            let end = p.end().min(r.end).min(between.end);
            end.saturating_sub(p.at.max(r.start).max(between.start))
        };
        let mut found: Vec<(u64, &Place)> = Vec::new();
        for r in &places {
            let first = self.old.partition_point(|p| p.end() <= r.start);
            let all = self.old.iter().skip(first).take_while(|p| p.at < r.end);
            for p in all {
                let most = places.iter().map(|r| shared(p, r)).max().unwrap_or(0);
                let is_new = found.iter().all(|(_, f)| f.piece.id != p.piece.id);
                if most > 0 && is_new && is_here(&p.piece.id) {
                    found.push((most, p));
                }
            }
        }
        found.sort_by_key(|(most, p)| (std::cmp::Reverse(*most), p.at));
        let mut room = LIKE_BYTES_MAX;
        found.retain(|(_, p)| {
            let left = room.checked_sub(p.piece.len as usize);
            room = left.unwrap_or(room);
            left.is_some()
        });
        found.truncate(LIKES_MAX);
        found.sort_by_key(|(_, p)| p.at);
        found.into_iter().map(|(_, p)| p.piece).collect()
    }

    /// A piece for which others were named came, told by them or not.
    pub(super) fn told(&self, by_them: bool) {
        if by_them {
            self.in_vain.store(0, Ordering::Relaxed);
        } else {
            self.in_vain.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The piece that begins here.
fn at(all: &[Place], at: u64) -> Option<&Place> {
    let n = all.partition_point(|p| p.at < at);
    all.get(n).filter(|p| p.at == at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::manifest::NodeKind;
    use crate::chunk::{Sha256, Survey};
    use crate::store::objects::{Memory, ObjectKind};

    fn piece(n: u32, len: u32) -> Piece {
        let mut id = *blake3::hash(&n.to_le_bytes()).as_bytes();
        // Each 64th ends a leaf.
        let ends = n.is_multiple_of(64);
        (id[0], id[1]) = if ends { (0, 48) } else { (0, 1) };
        let id = ChunkId(id);
        Piece { id, len }
    }

    fn list(objs: &Memory, pieces: &[Piece]) -> Head {
        let len = pieces.iter().map(|p| u64::from(p.len)).sum();
        let survey = Survey {
            len,
            sha256: Sha256([1; 32]),
            pieces: pieces.to_vec(),
        };
        let mut put = |kind, bytes| {
            let kind = match kind {
                NodeKind::Blob => ObjectKind::Blob,
                NodeKind::Tree => ObjectKind::Tree,
            };
            objs.put(kind, bytes)
        };
        let (head, _) = manifest::write(&survey, &mut put).unwrap();
        let bytes = objs.get(&head, ObjectKind::Blob).unwrap();
        manifest::head(&bytes).unwrap()
    }

    /// For each new piece that the old version has not, the numbers of the old ones.
    fn likes(old: &[Piece], new: &[Piece]) -> Vec<Vec<usize>> {
        let objs = Memory::default();
        let (from, to) = (list(&objs, old), list(&objs, new));
        let likes = Likes::find(&objs, &from, &to).unwrap();
        assert!(likes.len() <= old.len());
        let mut at = 0;
        let mut out = Vec::new();
        for p in new {
            let range = at..at + u64::from(p.len);
            at = range.end;
            if old.iter().any(|o| o.id == p.id) {
                continue;
            }
            let found = likes.of(&range, |_| true);
            assert!(likes.of(&range, |_| false).is_empty());
            let number = |l: &Piece| old.iter().position(|o| o.id == l.id).unwrap();
            out.push(found.iter().map(number).collect());
        }
        out
    }

    const K: u32 = 1 << 10;

    fn old() -> Vec<Piece> {
        let len = |n: u32| (64 + n * 37 % 500) * K;
        (1..=300).map(|n| piece(n, len(n))).collect()
    }

    #[test]
    fn what_changed_in_place_is_like_what_was_there() {
        let mut new = old();
        for n in [0, 70, 71, 150, 299] {
            new[n] = piece(1000 + u32::try_from(n).unwrap(), new[n].len);
        }
        let found = likes(&old(), &new);
        assert_eq!(found, [[0], [70], [71], [150], [299]]);
    }

    #[test]
    fn what_became_longer_or_shorter_is_like_what_was_there() {
        let mut new = old();
        new[20] = piece(1000, new[20].len + 30 * K);
        new[220] = piece(1001, new[220].len - 5 * K);
        assert_eq!(likes(&old(), &new), [[20], [220]]);
    }

    #[test]
    fn what_was_cut_in_two_or_joined_is_like_all_of_it() {
        let (mut new, old) = (old(), old());
        // Two become one, one becomes two.
        new[200] = piece(1000, old[200].len / 2);
        new.insert(201, piece(1001, old[200].len - old[200].len / 2));
        new.splice(99..101, [piece(1002, old[99].len + old[100].len)]);
        assert_eq!(likes(&old, &new), [vec![99, 100], vec![200], vec![200]]);
    }

    #[test]
    fn what_was_put_in_is_like_nothing_and_its_ends_like_what_was_there() {
        let (mut new, old) = (old(), old());
        let comes = (0..9).map(|n| piece(1000 + n, 300 * K));
        new.splice(100..101, comes);
        let found = likes(&old, &new);
        assert_eq!((&found[0], &found[8]), (&vec![100], &vec![100]));
        assert!(found[2..7].iter().all(Vec::is_empty), "{found:?}");
    }

    #[test]
    fn what_was_appended_is_like_the_old_end() {
        let (mut new, old) = (old(), old());
        new[299] = piece(1000, 700 * K);
        new.push(piece(1001, 700 * K));
        new.push(piece(1002, 10 * K));
        assert_eq!(likes(&old, &new)[0], [299]);
    }

    #[test]
    fn nothing_is_named_any_more_after_it_was_in_vain() {
        let objs = Memory::default();
        let mut new = old();
        new[5] = piece(1000, new[5].len);
        let (from, to) = (list(&objs, &old()), list(&objs, &new));
        let likes = Likes::find(&objs, &from, &to).unwrap();
        let at: u64 = new[..5].iter().map(|p| u64::from(p.len)).sum();
        let count = || likes.of(&(at..at + u64::from(new[5].len)), |_| true).len();
        for _ in 0..IN_VAIN_MAX - 1 {
            likes.told(false);
        }
        assert_eq!(count(), 1);
        likes.told(true);
        likes.told(false);
        assert_eq!(count(), 1);
        for _ in 0..IN_VAIN_MAX {
            likes.told(false);
        }
        assert_eq!(count(), 0);
        // Of two of one list there is nothing to say.
        let same = Likes::find(&objs, &from, &from).unwrap();
        assert_eq!(same.len(), 0);
    }
}
