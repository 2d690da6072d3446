//! What history costs on the disk: 10,000 one-line edits, each a commit, as a node keeps them and
//! after `cellfs gc`. `packaging/bench.sh` runs it.

use std::collections::HashMap;
use std::time::Instant;

use cellfs::base::stamp::Dot;
use cellfs::record::change::{Change, SetField};
use cellfs::record::model::Kind;
use cellfs::store::gc::{gc, size};
use cellfs::store::objects::{Memory, ObjectKind, Objects};
use cellfs::store::repack::{PACKS_WANTED_MAX, packs, repack};

use crate::derive::{BASE, Bench, file, stamp};
use crate::harness::{Lab, rounds};

/// Files in the tree, files that are edited in turn, lines of each.
const FILES: u64 = 10_000;
const EDITED: u64 = 100;
const LINES: u64 = 100;

#[test]
#[ignore = "takes minutes: packaging/bench.sh"]
fn small_edits() {
    let lab = Lab::with_patience(std::time::Duration::from_secs(1800));
    let edits = rounds("CELLFS_BENCH_EDITS", 10_000) as u64;
    let path = lab.path("repo");
    let b = Bench::open(&path);
    let mut view = b.tree(FILES);
    b.repo.settle().expect("a pack");
    gc(&b.repo).expect("small");
    let empty = size(&path).expect("a size");
    let mut seed = 1u64;
    let mut texts: HashMap<u64, Vec<u64>> = HashMap::new();
    let mut last: HashMap<u64, Dot> = HashMap::new();
    for n in 1..=edits {
        let f = n % EDITED * (FILES / EDITED);
        let lines = texts.entry(f).or_insert_with(|| vec![0; 100]);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if let Some(l) = lines.get_mut(usize::try_from(seed >> 33).unwrap_or(0) % 100) {
            *l = seed;
        }
        let text: String = (0..LINES)
            .zip(lines.iter())
            .map(|(i, l)| format!("line {i} of file {f}: {l:x}\n"))
            .collect();
        let stage = Memory::over(view.stage.clone());
        let blob = stage
            .put(ObjectKind::Blob, text.into_bytes())
            .expect("memory");
        let at = stamp(2, n);
        let base = last.insert(f, at.dot()).unwrap_or(BASE);
        let field = SetField::SetMtime(1_700_000_000_000_000_000 + i64::try_from(n).unwrap_or(0));
        let id = file(f);
        let changes = [
            Change::Write {
                id,
                base: vec![base],
                kind: Kind::File,
                blob,
            },
            Change::Field { id, field },
        ];
        view = b.commit(&view, at, &stage, &changes);
        // As a node does with an edit now and then.
        b.repo.settle().expect("a pack");
        if n % 64 == 0 && packs(&path).expect("packs") > PACKS_WANTED_MAX {
            repack(&b.repo).expect("fewer");
        }
    }
    let (kept, begin) = (size(&path).expect("a size"), Instant::now());
    let (_, small) = gc(&b.repo).expect("small");
    let took = begin.elapsed().as_secs_f64();
    let each = |bytes: u64| bytes.saturating_sub(empty.bytes) / edits;
    println!("{edits} commits of one line each, {FILES} files");
    for (when, s) in [("as kept", kept), ("after gc", small)] {
        println!(
            "{when:<9}{:>4} packs{:>8} objects{:>10} kB{:>7} bytes a commit{:>8} MB for 86,400 of them",
            s.packs,
            s.objects,
            s.bytes / 1000,
            each(s.bytes),
            each(s.bytes) * 86_400 / 1_000_000,
        );
    }
    println!("gc took {took:.1} s");
}
