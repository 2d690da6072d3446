//! What is left of a journal, whatever became of its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::{ProptestConfig, any, proptest};
use proptest::sample::Index;

use super::{Committed, Entry, Journal, Patch};
use crate::base::id::{BranchId, FileId, Oid};
use crate::base::stamp::{Dot, Hlc, Stamp};
use crate::record::change::{Change, SetField};
use crate::record::model::Kind;

fn id(n: u64) -> FileId {
    FileId { branch: 7, n }
}

fn oid(n: u64) -> Oid {
    Oid::from([u8::try_from(n % 251).unwrap(); 20])
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    };
    (0..len).map(step).collect()
}

/// Entries of all kinds, and operations with all that they may say.
fn entry(n: u64) -> Entry {
    let dot = Dot {
        branch: BranchId(7),
        seq: n,
    };
    let size = usize::try_from(n).unwrap();
    let patch = match n % 10 {
        0 => return Entry::Started(BranchId(n)),
        1 => {
            return Entry::Committed(Committed {
                stamp: Stamp {
                    hlc: Hlc::default(),
                    branch: BranchId(7),
                    seq: n,
                },
                head: oid(n),
                births: n,
                upto: n / 2,
                held: vec![id(1), id(n)],
            });
        }
        2 => return Entry::Admitted(oid(n)),
        3 => return Entry::Objects(noise(n, [40, 3_000, 70_000][size / 10 % 3])),
        4 => Patch::Meta(Change::Field {
            id: id(n),
            field: SetField::SetMtime(i64::try_from(n).unwrap()),
        }),
        5 => Patch::Open {
            id: id(n),
            base: vec![dot],
            kind: Kind::File,
            blob: oid(n),
        },
        6 | 7 => Patch::Bytes {
            id: id(n),
            at: n,
            // As a journal of a node that is kept in a folder.
            data: match n % 20 {
                6 => vec![0; 5_000],
                _ => noise(n, size * 37 % 9_000),
            },
            mtime: 5,
        },
        8 => Patch::Size {
            id: id(n),
            len: n,
            mtime: 6,
        },
        _ => Patch::Spill { id: id(n), file: n },
    };
    Entry::Op(vec![patch.clone(), patch])
}

fn logs(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let all = fs::read_dir(dir).unwrap().map(Result::unwrap);
    let files = all.filter(|e| e.file_type().unwrap().is_file());
    files
        .map(|e| {
            let name = e.file_name().into_string().unwrap();
            (name, fs::read(e.path()).unwrap())
        })
        .collect()
}

/// Where each entry ends, by segment.
fn ends(bytes: &[u8]) -> Vec<usize> {
    let mut out = Vec::new();
    let mut at = 8;
    while let Some(len) = bytes.get(at..at + 4) {
        let len = u32::from_le_bytes(len.try_into().unwrap()) as usize;
        if len == 0 {
            break;
        }
        at += 8 + len;
        out.push(at);
    }
    out
}

fn is_op(e: &Entry) -> bool {
    matches!(e, Entry::Op(_))
}

/// One history: entries in segments, the last of which has zeros behind them if synced.
fn write(dir: &Path, first: u64, sizes: [u64; 3], synced: bool) -> Vec<Entry> {
    let (j, _) = Journal::open(dir).unwrap();
    let mut all = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        if n > 0 {
            j.begin_segment().unwrap();
        }
        for _ in 0..size {
            let e = entry(first + all.len() as u64);
            j.append(&e).unwrap();
            all.push(e);
        }
    }
    if synced {
        j.sync(j.last()).unwrap();
    }
    all
}

fn cases() -> u32 {
    let set = std::env::var("CELLFS_TEST_JOURNAL").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]
    #[test]
    fn whatever_the_disk_does_what_is_left_is_a_prefix_or_the_damage_is_named(
        first in 0u64..60,
        sizes in [0u64..14, 0u64..14, 1u64..14],
        synced in any::<bool>(),
        which in any::<Index>(),
        place in any::<Index>(),
        near in any::<bool>(),
        bit in 0u8..12,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let all = write(dir, first, sizes, synced);
        let before = logs(dir);
        let names: Vec<&String> = before.keys().collect();
        let name = names[which.index(names.len())].clone();
        let is_last = Some(&name) == before.keys().last();
        let mut bytes = before[&name].clone();
        let ends = ends(&bytes);
        // Half of them near an end.
        let end = ends.get(place.index(ends.len().max(1))).copied().unwrap_or(8);
        let at = match near {
            true => (end + place.index(24)).saturating_sub(12).min(bytes.len() - 1),
            false => place.index(bytes.len()),
        };
        let is_cut = bit >= 8;
        match is_cut {
            true => bytes.truncate(at),
            false => bytes[at] ^= 1 << bit,
        }
        fs::write(dir.join(&name), &bytes).unwrap();
        // One without entries is as one that could not be begun, whose elders were removed since.
        if bytes.len() <= 8 && Some(&name) == before.keys().next() && !is_last {
            return Ok(());
        }

        let (j, r) = match Journal::open(dir) {
            Ok(ok) => ok,
            Err(e) => {
                // The number of the format was hit; the file is named, and as it was.
                assert!(at == 7 && !is_cut, "{e}");
                assert!(e.to_string().contains(&name), "{e}");
                assert_eq!(fs::read(dir.join(&name)).unwrap(), bytes);
                return Ok(());
            }
        };
        // Nothing is made up, and the order stays.
        let mut rest = all.iter();
        for (_, e) in &r.entries {
            assert!(rest.any(|a| a == e), "an entry that nobody wrote");
        }
        assert!(r.entries.windows(2).all(|w| w[0].0 < w[1].0));
        let ops: Vec<&Entry> = r.entries.iter().map(|(_, e)| e).filter(|e| is_op(e)).collect();
        let wrote: Vec<&Entry> = all.iter().filter(|e| is_op(e)).collect();
        assert_eq!(ops, wrote[..ops.len()]);

        let before_it = ends.iter().filter(|e| **e <= at).count();
        let behind = ends.len() - before_it;
        let is_hit = behind > 0 || (at < 8 && !is_cut);
        // What was hit is not the end of all.
        let more = !is_last || (behind > 1 && !is_cut);
        let later = before.range(name.clone()..).skip(1).any(|(_, b)| b.len() > 8);
        match &r.damage {
            None => {
                let got: Vec<&Entry> = r.entries.iter().map(|(_, e)| e).collect();
                assert_eq!(got, all[..got.len()].iter().collect::<Vec<_>>());
                assert!(!(is_hit && more && (later || behind > 1) && !is_cut), "damage at {at} of {name} is not told");
                if !is_hit {
                    assert_eq!(got.len(), all.len());
                }
            }
            Some(d) => {
                assert!(is_hit, "{d}");
                assert_eq!(d.file.parent(), Some(dir));
                assert!(d.offset <= at as u64 || d.offset == 0, "{d} and not {at}");
                // All that hold by themselves and can be read are there.
                let lost = all.len() - r.entries.len();
                assert!(lost as u64 >= d.cut, "{d}");
            }
        }
        // Then it goes on, and what was damaged is kept.
        let opening = entry(0);
        j.renew(vec![opening.clone()]).unwrap();
        if r.damage.is_some() {
            let kept = logs(&dir.join("damaged"));
            assert_eq!(kept.get(&name).map_or(&bytes, |b| b), &bytes);
            assert!(!kept.is_empty());
        }
        let n = j.append(&entry(6)).unwrap();
        drop(j);
        let (_, again) = Journal::open(dir).unwrap();
        assert!(again.damage.is_none());
        assert_eq!(again.entries, vec![(n - 1, opening), (n, entry(6))]);
    }
}

#[test]
fn a_segment_that_could_not_be_begun_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (j, _) = Journal::open(dir.path()).unwrap();
    for n in 1..=4 {
        j.append(&entry(n)).unwrap();
    }
    // The disk failed when its name was to be made durable.
    fs::write(dir.path().join("0000000000000003.log"), b"cellfsJ1").unwrap();
    j.begin_segment().unwrap();
    for n in 5..=6 {
        j.append(&entry(n)).unwrap();
    }
    fs::write(dir.path().join("0000000000000006.log"), b"").unwrap();
    drop(j);
    let (j, r) = Journal::open(dir.path()).unwrap();
    let want: Vec<_> = (1..=6).map(|n| (n, entry(n))).collect();
    assert_eq!((r.entries, r.damage), (want, None));
    assert_eq!(j.append(&entry(7)).unwrap(), 7);
    drop(j);
    let (_, r) = Journal::open(dir.path()).unwrap();
    assert_eq!(r.entries.len(), 7);
}

#[test]
fn heads_and_objects_behind_damage_are_found_and_numbers_are_not_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (j, _) = Journal::open(dir.path()).unwrap();
    let committed = |upto| {
        let Entry::Committed(c) = entry(1) else {
            unreachable!()
        };
        Entry::Committed(Committed { upto, ..c })
    };
    let all = [
        entry(4),
        entry(6),
        entry(3),
        entry(8),
        committed(3),
        entry(9),
    ];
    for e in &all {
        j.append(e).unwrap();
    }
    drop(j);
    let path = dir.path().join("0000000000000001.log");
    let mut bytes = fs::read(&path).unwrap();
    let at = ends(&bytes)[0] + 20;
    bytes[at] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (j, r) = Journal::open(dir.path()).unwrap();
    let got: Vec<Entry> = r.entries.iter().map(|(_, e)| e.clone()).collect();
    assert_eq!(got, [entry(4), entry(3), committed(3)]);
    let d = r.damage.unwrap();
    assert_eq!(
        (d.file.as_path(), d.offset, d.cut),
        (path.as_path(), ends(&bytes)[0] as u64, 2)
    );
    // Not one that the head says is in its commit.
    assert!(j.append(&entry(4)).unwrap() > 5);
}
