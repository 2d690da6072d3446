//! What a kernel finds that looks again as soon as it is told to forget.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{ME, RenameMode, fs, get, manifest, pull, put, sync, volume, walk};
use crate::fs::Fs;
use crate::record::model::Kind;
use crate::volume::inode::ROOT_INO;
use crate::volume::live::Stale;
use crate::volume::{Invalidate, Volume};

type Manifest = BTreeMap<String, (Kind, u32, i64, Vec<u8>)>;

/// Looks at everything whenever it is told that anything is stale.
struct Looks {
    fs: Fs,
    found: Mutex<Vec<Manifest>>,
}

impl Invalidate for Looks {
    fn invalidate(&self, _: &[Stale]) {
        let found = manifest(&self.fs);
        self.found.lock().unwrap().push(found);
    }
}

fn watch(v: &Arc<Volume>) -> Arc<Looks> {
    let looks = Arc::new(Looks {
        fs: fs(v),
        found: Mutex::default(),
    });
    v.watch(2, looks.clone());
    looks
}

/// All that was found is what is shown in the end.
fn assert_found_new(looks: &Looks) {
    let found = std::mem::take(&mut *looks.found.lock().unwrap());
    assert!(!found.is_empty(), "nobody was told");
    let now = manifest(&looks.fs);
    assert!(found.iter().all(|m| *m == now), "{found:?}\n{now:?}");
}

#[test]
fn who_is_told_to_look_again_finds_what_is_new() {
    let (da, db) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (a, b) = (volume(da.path(), 1), volume(db.path(), 2));
    let (fa, fb) = (fs(&a), fs(&b));
    let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
    put(&fa, "text", &text);
    put(&fa, "gone", "gone");
    fa.mkdir(ROOT_INO, b"d", 0o755, ME).unwrap();
    put(&fa, "d/x", "one");
    sync(&a, &b);
    let looks = watch(&b);
    assert_eq!(manifest(&fb).len(), 4);
    // Heads come.
    put(&fa, "d/x", "two");
    put(&fa, "new", "new");
    fa.unlink(ROOT_INO, b"gone").unwrap();
    let d = walk(&fa, "d");
    fa.rename((d, b"x"), (ROOT_INO, b"x"), RenameMode::Replace)
        .unwrap();
    a.flush_all().unwrap();
    pull(&a, &b);
    assert_eq!(get(&fb, "x"), "two");
    assert_found_new(&looks);
    // A file that was held open merges when it is committed.
    let ino = walk(&fb, "text");
    fb.open(ino, true, false).unwrap();
    let mine = text.replace("line 3\n", "LINE 3\n");
    fb.write(ino, 0, mine.as_bytes()).unwrap();
    put(&fa, "text", &text.replace("line 33\n", "LINE 33\n"));
    a.flush_all().unwrap();
    pull(&a, &b);
    looks.found.lock().unwrap().clear();
    fb.release(ino, true);
    b.flush_all().unwrap();
    assert!(get(&fb, "text").contains("LINE 33\n"));
    assert_found_new(&looks);
    b.unwatch(2);
    a.stop().unwrap();
    b.stop().unwrap();
}
