//! Shapes, sizes and bounds of manifests.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// git objects by their names, and which were asked for.
#[derive(Default)]
struct Nodes {
    all: HashMap<Oid, (NodeKind, Vec<u8>)>,
    asked: RefCell<Vec<Oid>>,
}

fn name(kind: NodeKind, bytes: &[u8]) -> Oid {
    let kind = match kind {
        NodeKind::Blob => gix::object::Kind::Blob,
        NodeKind::Tree => gix::object::Kind::Tree,
    };
    gix::objs::compute_hash(gix::hash::Kind::Sha1, kind, bytes).unwrap()
}

type Got = Result<Arc<Vec<u8>>, ()>;

impl Nodes {
    fn write(&mut self, s: &Survey) -> Head {
        let mut put = |kind, bytes: Vec<u8>| {
            assert!(bytes.len() <= NODE_BYTES_MAX);
            let id = name(kind, &bytes);
            self.all.insert(id, (kind, bytes));
            Ok::<_, ()>(id)
        };
        let (id, top) = write(s, &mut put).unwrap();
        let (kind, bytes) = &self.all[&id];
        assert_eq!(*kind, NodeKind::Blob);
        let head = head(bytes).unwrap();
        assert_eq!((head.top, head.len, head.sha256), (top, s.len, s.sha256));
        assert_eq!(head.encode(), *bytes);
        head
    }

    fn get(&self) -> impl FnMut(&Oid, NodeKind) -> Got {
        |id, kind| {
            self.asked.borrow_mut().push(*id);
            let found = self.all.get(id).filter(|(k, _)| *k == kind);
            found.map(|(_, b)| Arc::new(b.clone())).ok_or(())
        }
    }

    fn asked(&self) -> usize {
        self.asked.take().len()
    }

    /// How many nodes a write of this survey adds, and their bytes: as they are, and as git keeps
    /// them.
    fn added(&mut self, s: &Survey) -> (usize, usize, usize) {
        let before: HashSet<Oid> = self.all.keys().copied().collect();
        self.write(s);
        let new = self.all.iter().filter(|(id, _)| !before.contains(*id));
        new.fold((0, 0, 0), |(n, sum, packed), (_, (_, b))| {
            (n + 1, sum + b.len(), packed + zlib(b))
        })
    }
}

fn zlib(bytes: &[u8]) -> usize {
    let mut to = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut to, bytes).unwrap();
    to.finish().unwrap().len()
}

fn all(diff: &mut Diff, nodes: &Nodes) -> Vec<Place> {
    std::iter::from_fn(|| diff.next(&mut nodes.get()).unwrap()).collect()
}

fn piece(n: u64) -> Piece {
    let id = ChunkId::of(&n.to_le_bytes());
    let more = u32::from(id.0[9]) * 1000 + u32::from(id.0[10]);
    let len = PIECE_BYTES_MIN + more;
    Piece { id, len }
}

fn survey(pieces: Vec<Piece>) -> Survey {
    let len = pieces.iter().map(|p| u64::from(p.len)).sum();
    Survey {
        len,
        sha256: Sha256([len.to_le_bytes()[0]; 32]),
        pieces,
    }
}

fn pieces(n: u64) -> Vec<Piece> {
    (0..n).map(piece).collect()
}

/// The last piece may be short.
fn ending_short(n: u64) -> Survey {
    let mut s = survey(pieces(n));
    if let Some(last) = s.pieces.last_mut() {
        s.len -= u64::from(last.len - 1);
        last.len = 1;
    }
    s
}

#[test]
fn what_was_written_is_read_and_found_by_offset() {
    for n in [0, 1, 2, 16, 128, 129, 1000, 20_000] {
        let mut nodes = Nodes::default();
        let s = ending_short(n);
        let head = nodes.write(&s);
        assert_eq!(read(&head, &mut nodes.get()).unwrap(), s);
        assert_eq!(nodes.asked(), nodes.all.len() - 1, "each node once");
        let mut get = nodes.get();
        let mut all = pieces_of(&head, &mut get);
        let mut cursor = Cursor::new(&head, 0);
        let mut at = 0;
        for (index, p) in s.pieces.iter().enumerate() {
            let want = Place {
                index: u32::try_from(index).unwrap(),
                at,
                piece: *p,
            };
            assert_eq!(all.next().unwrap().unwrap(), want);
            if index % 97 == 0 || want.end() == s.len {
                for offset in [at, want.end() - 1] {
                    nodes.asked();
                    let got = piece_at(&head, offset, &mut nodes.get()).unwrap().unwrap();
                    assert_eq!(got, want);
                    assert_eq!(nodes.asked(), usize::from(head.level) + 1, "a path");
                    // A cursor that was elsewhere.
                    cursor.seek(offset);
                    assert_eq!(cursor.next(&mut nodes.get()).unwrap(), Some(want));
                    cursor.seek((offset * 7919) % s.len);
                    cursor.next(&mut nodes.get()).unwrap().unwrap();
                }
            }
            at = want.end();
        }
        assert!(all.next().is_none());
        cursor.seek(s.len);
        assert_eq!(cursor.next(&mut nodes.get()).unwrap(), None);
        assert_eq!(piece_at(&head, s.len, &mut nodes.get()).unwrap(), None);
    }
}

fn pieces_of<'a>(
    head: &Head,
    get: &'a mut Get<'a, ()>,
) -> impl Iterator<Item = Result<Place, ReadError<()>>> + use<'a> {
    super::pieces(head, get)
}

#[test]
fn a_cursor_goes_on_where_a_node_was_missing_and_opens_few() {
    let mut nodes = Nodes::default();
    let s = survey(pieces(20_000));
    let head = nodes.write(&s);
    let mut cursor = Cursor::new(&head, 0);
    let mut got = Vec::new();
    let mut n = 0;
    loop {
        n += 1;
        let next = if n % 3 == 0 {
            cursor.next(&mut nodes.get())
        } else {
            cursor.next(&mut |_, _| Err(()))
        };
        match next {
            Ok(Some(place)) => got.push(place.piece),
            Ok(None) => break,
            Err(e) => assert!(matches!(e, ReadError::Get(()))),
        }
    }
    assert_eq!(got, s.pieces);
    assert_eq!(nodes.asked(), nodes.all.len() - 1);
    // Near where it is, nothing is opened.
    cursor.seek(s.len / 2);
    let here = cursor.next(&mut nodes.get()).unwrap().unwrap();
    nodes.asked();
    cursor.seek(here.at);
    assert_eq!(cursor.next(&mut nodes.get()).unwrap(), Some(here));
    assert_eq!(nodes.asked(), 0);
    // The iterator ends behind an error.
    let mut get = |_: &Oid, _| Err(());
    let mut all = pieces_of(&head, &mut get);
    assert!(all.next().is_some_and(|e| e.is_err()));
    assert!(all.next().is_none());
}

#[test]
fn the_shape_is_a_format() {
    let mut nodes = Nodes::default();
    let head = nodes.write(&survey(pieces(5000)));
    assert_eq!(nodes.all.len(), 85);
    assert_eq!(head.level, 1);
    let id = name(NodeKind::Blob, &head.encode());
    assert_eq!(id.to_string(), "e0f9f87862a65f85de807181a2f006ce6077777e");
    let empty = Nodes::default().write(&survey(Vec::new()));
    let tree = gix::ObjectId::empty_tree(gix::hash::Kind::Sha1);
    assert_eq!((empty.level, empty.top), (1, tree));
}

#[test]
fn equal_pieces_in_a_row_are_few_nodes() {
    let mut nodes = Nodes::default();
    let zeros = Piece {
        len: PIECE_BYTES_MAX,
        ..piece(0)
    };
    let s = survey(vec![zeros; 20_000]);
    let head = nodes.write(&s);
    assert!(nodes.all.len() < 12, "{}", nodes.all.len());
    assert_eq!(read(&head, &mut nodes.get()).unwrap(), s);
}

/// git on a new repository.
fn git(dir: &Path, args: &[&str], input: &[u8]) -> String {
    let mut git = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(args)
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "n")))
        .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "e@x")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut git.stdin.take().unwrap(), input).unwrap();
    let out = git.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "git {args:?}: {said}");
    assert!(!said.contains("warning"), "git {args:?}: {said}");
    String::from_utf8(out.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn git_keeps_a_manifest_and_finds_nothing_wrong_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    git(dir, &["init", "-q", "--bare"], b"");
    let mut tree = String::new();
    let mut count = 0;
    for n in [0, 3, 12_000] {
        let mut nodes = Nodes::default();
        let head = nodes.write(&ending_short(n));
        for (id, (kind, bytes)) in &nodes.all {
            let kind = match kind {
                NodeKind::Blob => "blob",
                NodeKind::Tree => "tree",
            };
            let args = ["hash-object", "-w", "--stdin", "-t", kind];
            assert_eq!(git(dir, &args, bytes), id.to_string());
        }
        assert!(n < 10_000 || head.level == 2);
        count += nodes.all.len();
        let id = name(NodeKind::Blob, &head.encode());
        tree += &format!(
            "100644 blob {id}\thead{n}\n040000 tree {}\ttop{n}\n",
            head.top
        );
    }
    let tree = git(dir, &["mktree"], tree.as_bytes());
    let commit = git(dir, &["commit-tree", "-m", "all", &tree], b"");
    git(dir, &["update-ref", "refs/heads/main", &commit], b"");
    let said = git(dir, &["fsck", "--strict", "--full", "--no-dangling"], b"");
    assert_eq!(said, "");
    let reached = git(dir, &["rev-list", "--objects", "--all"], b"");
    // The two others are the commit and its tree.
    assert_eq!(reached.lines().count(), count + 2);
}

/// Of a file of 1 GiB.
#[test]
fn a_small_change_is_a_few_nodes() {
    let base = pieces(3390);
    let mut nodes = Nodes::default();
    nodes.write(&survey(base.clone()));
    let whole: usize = nodes.all.values().map(|(_, b)| zlib(b)).sum();
    assert!((110_000..140_000).contains(&whole), "{whole}");
    let (mut most, mut sum, mut plain) = (0, 0, 0);
    for n in 0..64 {
        let mut edited = base.clone();
        edited[n * 51 + 7] = piece(1_000_000 + n as u64);
        let (count, bytes, packed) = nodes.added(&survey(edited));
        // It may end its leaf, or the leaf that it was in may not end there any more.
        assert!((3..=5).contains(&count), "{count}");
        most = most.max(packed);
        sum += packed;
        plain += bytes;
    }
    assert!(sum / 64 < 6_500, "{} in the mean", sum / 64);
    assert!(most < 16_000, "{most}");
    // A byte at the start: the first piece is another, or is two.
    let mut first = base;
    first.splice(0..1, [piece(2_000_000), piece(2_000_001)]);
    let (count, _, packed) = nodes.added(&survey(first));
    assert!(
        count <= 6 && packed < 16_000,
        "{count} nodes, {packed} bytes"
    );
    println!(
        "1 GiB: {whole} bytes in all; an edit: {} in the mean ({} before zlib), {most} at most; a piece more at the start: {packed}",
        sum / 64,
        plain / 64
    );
}

#[test]
fn where_files_differ_is_found_in_nodes_that_differ() {
    let base = pieces(20_000);
    let mut nodes = Nodes::default();
    let old = nodes.write(&survey(base.clone()));
    let mut edited = base.clone();
    edited[9_000] = piece(5_000_000);
    edited.insert(15_000, piece(5_000_001));
    edited.remove(100);
    let new = nodes.write(&survey(edited));
    let mut d = diff(&old, &new, &mut nodes.get()).unwrap();
    assert!(nodes.asked() < 30);
    let bytes = d.bytes();
    let got = all(&mut d, &nodes);
    assert!(nodes.asked() <= 6, "leaves");
    assert!(got.len() < 6 * ENTRIES_MAX);
    assert_eq!(
        bytes,
        got.iter().map(|p| u64::from(p.piece.len)).sum::<u64>()
    );
    let fresh: Vec<_> = got.iter().filter(|p| !base.contains(&p.piece)).collect();
    let fresh: Vec<_> = fresh.iter().map(|p| (p.index, p.piece)).collect();
    assert_eq!(
        fresh,
        [(8_999, piece(5_000_000)), (14_999, piece(5_000_001))]
    );
    // Nothing to open of what is the same.
    let mut same = diff(&new, &new, &mut nodes.get()).unwrap();
    assert!(all(&mut same, &nodes).is_empty());
    assert_eq!(nodes.asked(), 0);
    // A file that grew by levels, and back.
    let small = nodes.write(&survey(base[..300].to_vec()));
    for (from, to, want) in [(&small, &old, 20_000 - 300), (&old, &small, 0)] {
        let mut d = diff(from, to, &mut nodes.get()).unwrap();
        let got = all(&mut d, &nodes).len();
        assert!((want..want + ENTRIES_MAX).contains(&got), "{got}");
    }
}

#[test]
fn what_is_not_a_head_is_refused() {
    let good = Nodes::default().write(&survey(pieces(3000))).encode();
    let bad = |at: usize, to: u8| {
        let mut bytes = good.clone();
        bytes[at] = to;
        head(&bytes).unwrap_err()
    };
    assert_eq!(bad(0, 9), BadManifest::Version(9));
    assert_eq!(bad(1, 0), BadManifest::Level(0));
    assert_eq!(bad(1, 9), BadManifest::Level(9));
    assert!(matches!(bad(9, 1), BadManifest::Length(_)));
    for len in 0..good.len() {
        assert_eq!(head(&good[..len]), Err(BadManifest::Size(len)));
    }
    let long = [&good[..], &[0]].concat();
    assert_eq!(head(&long), Err(BadManifest::Size(63)));
}

/// What reading all says when one node, or the head, is another than it was.
fn with(n: usize, change: impl FnOnce(&mut Head, &mut Vec<u8>)) -> BadManifest {
    let mut nodes = Nodes::default();
    let mut head = nodes.write(&survey(pieces(12_000)));
    // A path to the first leaf.
    let mut path = vec![head.top];
    for at in [40, 41] {
        let (_, bytes) = &nodes.all[path.last().unwrap()];
        let id = bytes[at - 40 + 33..].first_chunk::<21>().unwrap();
        let id = id.strip_prefix(&[0]).unwrap_or(&id[..20]);
        path.push(Oid::try_from(id).unwrap());
    }
    let (kind, mut bytes) = nodes.all[&path[n]].clone();
    change(&mut head, &mut bytes);
    nodes.all.insert(path[n], (kind, bytes));
    match read(&head, &mut nodes.get()).unwrap_err() {
        ReadError::Bad(id, e) => {
            assert_eq!(id, path[n], "{e}");
            e
        }
        e @ ReadError::Get(()) => panic!("{e}"),
    }
}

#[test]
fn what_is_not_a_node_is_refused_and_said_to_be_which() {
    // The head: another length, another level.
    let sum = with(0, |h, _| h.len += 1);
    assert!(matches!(sum, BadManifest::Sum(a, b) if a + 1 == b));
    assert_eq!(with(0, |h, _| h.level = 1), BadManifest::Level(1));
    // A tree: an index, digits, a byte behind the name, mode, lengths, counts, order, end.
    let entry = 6 + 26 + 1 + 20;
    assert_eq!(with(0, |_, b| b[9] = b'1'), BadManifest::Name(0));
    assert_eq!(with(0, |_, b| b[entry + 21] = b'A'), BadManifest::Name(1));
    assert_eq!(with(0, |_, b| b[10] = b'_'), BadManifest::Name(0));
    assert_eq!(with(0, |_, b| b[32] = b'0'), BadManifest::Name(0));
    assert_eq!(with(0, |_, b| b[0] = b'1'), BadManifest::Level(2));
    assert_eq!(with(0, |_, b| b[entry] = b'1'), BadManifest::Level(2));
    assert!(matches!(
        with(0, |_, b| b[11] = b'f'),
        BadManifest::Length(_)
    ));
    assert!(matches!(
        with(0, |_, b| b[24] = b'f'),
        BadManifest::Length(_)
    ));
    assert_eq!(with(0, |_, b| b.truncate(60)), BadManifest::Size(60));
    let sum = with(0, |_, b| b.truncate(entry));
    assert!(matches!(sum, BadManifest::Sum(..)));
    let sum = with(0, |_, b| b[22] ^= 1);
    assert!(matches!(sum, BadManifest::Sum(..)));
    // A tree within: nothing, too much, an end where none is.
    assert_eq!(with(1, |_, b| b.clear()), BadManifest::Size(0));
    assert!(matches!(
        with(1, |_, b| b.extend(b.clone().repeat(9))),
        BadManifest::Size(_)
    ));
    assert_eq!(with(1, |_, b| b.truncate(54 * 9)), BadManifest::End(9));
    // A leaf.
    assert_eq!(with(2, |_, b| b[0] = 7), BadManifest::Version(7));
    assert_eq!(with(2, |_, b| b.truncate(37 + 9)), BadManifest::Size(46));
    assert_eq!(with(2, |_, b| b.truncate(37)), BadManifest::End(1));
    assert_eq!(with(2, |_, b| b.clear()), BadManifest::Size(0));
    let length = with(2, |_, b| b[33..37].copy_from_slice(&1u32.to_le_bytes()));
    assert_eq!(length, BadManifest::Length(1));
    let length = with(2, |_, b| b[33..37].copy_from_slice(&u32::MAX.to_le_bytes()));
    assert_eq!(length, BadManifest::Length(u32::MAX.into()));
    let sum = with(2, |_, b| b[33] ^= 1);
    assert!(matches!(sum, BadManifest::Sum(..)));
    // Two entries that ended their nodes: the first and the last one of one node.
    let end = with(2, |_, b| {
        let last = b.len() - 36;
        b.copy_within(last..last + 36, 1 + 36 * 15);
    });
    assert!(matches!(end, BadManifest::End(_)));
}

/// A tree that names itself, or nodes that are many times the same, of a file as long as one can
/// be: whoever reads goes through what the head says there is, and no further.
#[test]
fn a_tree_that_goes_round_ends() {
    let mut nodes = Nodes::default();
    let id = Oid::from([7; 20]);
    for (level, pieces) in [(1, 1u32 << 20), (LEVELS_MAX, 1 << 20)] {
        let bytes = u64::from(pieces) << 20;
        let child = Child { id, bytes, pieces };
        let tree = Entries::Children(vec![child]).encode(level);
        nodes.all.insert(id, (NodeKind::Tree, tree));
        let head = Head {
            len: bytes,
            sha256: Sha256([0; 32]),
            top: id,
            level,
        };
        assert!(read(&head, &mut nodes.get()).is_err());
        assert!(piece_at(&head, 5, &mut nodes.get()).is_err());
        let empty = nodes.write(&survey(Vec::new()));
        assert!(diff(&empty, &head, &mut nodes.get()).is_err() || level == 1);
        assert!(nodes.asked() < 40);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_edit_ships_what_is_missing(
        len in 0..3000u64,
        edits in prop::collection::vec((0..3u8, any::<usize>(), 0..20u64), 0..6),
    ) {
        let old = pieces(len);
        let mut new = old.clone();
        for (kind, at, n) in edits {
            let at = at % (new.len() + 1);
            match kind {
                0 => new.insert(at, piece(10_000 + n)),
                1 if at < new.len() => new[at] = piece(20_000 + n),
                // Something that the old file has, too, elsewhere.
                2 => new.insert(at, piece(n)),
                _ => drop(new.drain(at.saturating_sub(40)..at)),
            }
        }
        let mut nodes = Nodes::default();
        let (old, new) = (survey(old), survey(new));
        let (old_head, new_head) = (nodes.write(&old), nodes.write(&new));
        prop_assert_eq!(&read(&new_head, &mut nodes.get()).unwrap(), &new);
        let got = all(&mut diff(&old_head, &new_head, &mut nodes.get()).unwrap(), &nodes);
        let mut at = 0;
        let places = new.pieces.iter().map(|p| {
            at += u64::from(p.len);
            at - u64::from(p.len)
        });
        let places: Vec<_> = places.collect();
        prop_assert!(got.is_sorted_by_key(|p| p.index));
        for p in &got {
            prop_assert_eq!(new.pieces[p.index as usize], p.piece);
            prop_assert_eq!(p.at, places[p.index as usize]);
        }
        let got: HashSet<_> = got.iter().map(|p| p.piece.id).collect();
        for p in &new.pieces {
            prop_assert!(got.contains(&p.id) || old.pieces.contains(p));
        }
    }

    #[test]
    fn no_bytes_break_a_manifest(
        flips in prop::collection::vec((any::<usize>(), any::<usize>(), any::<u8>()), 1..4),
        cut in any::<Option<usize>>(),
        offset in any::<u64>(),
        level in any::<Option<u8>>(),
    ) {
        let mut nodes = Nodes::default();
        let old = nodes.write(&survey(pieces(700)));
        let mut new = nodes.write(&survey(pieces(12_000)));
        let mut ids: Vec<Oid> = nodes.all.keys().copied().collect();
        ids.sort_unstable();
        ids.extend([new.top; 20]);
        for (node, at, to) in flips {
            let (_, bytes) = nodes.all.get_mut(&ids[node % ids.len()]).unwrap();
            let at = at % bytes.len();
            bytes[at] = to;
        }
        if let Some(n) = cut {
            let (_, bytes) = nodes.all.get_mut(&ids[n % ids.len()]).unwrap();
            bytes.truncate(n % (bytes.len() + 1));
        }
        if let Some(level) = level {
            new.level = 1 + level % LEVELS_MAX;
        }
        if let Ok(s) = read(&new, &mut nodes.get()) {
            prop_assert_eq!(s.len, s.pieces.iter().map(|p| u64::from(p.len)).sum::<u64>());
        }
        let _any = piece_at(&new, offset, &mut nodes.get());
        let _any = piece_at(&new, offset >> 32, &mut nodes.get());
        for (a, b) in [(&new, &old), (&old, &new)] {
            if let Ok(mut d) = diff(a, b, &mut nodes.get()) {
                while let Ok(Some(_)) = d.next(&mut nodes.get()) {}
            }
        }
    }

    #[test]
    fn any_bytes_are_a_head_or_none(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
        if let Ok(h) = head(&bytes) {
            prop_assert_eq!(h.encode(), bytes);
        }
    }
}

/// `cargo test --release --lib chunk::manifest -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn what_manifests_of_large_files_cost() {
    for (what, n) in [("1 GiB", 3390), ("1 TiB", 3_471_000)] {
        let s = survey(pieces(n));
        let mut nodes = Nodes::default();
        let begin = std::time::Instant::now();
        let head = nodes.write(&s);
        let written = begin.elapsed();
        let bytes: usize = nodes.all.values().map(|(_, b)| b.len()).sum();
        let begin = std::time::Instant::now();
        assert_eq!(super::pieces(&head, &mut nodes.get()).count() as u64, n);
        let read = begin.elapsed();
        nodes.asked();
        let begin = std::time::Instant::now();
        for k in 0..1000 {
            piece_at(&head, s.len / 1000 * k, &mut nodes.get()).unwrap();
        }
        let seek = begin.elapsed() / 1000;
        println!(
            "{what}: {} nodes of {bytes} bytes, {} levels; written in {written:?}, read in {read:?}, a place found in {seek:?}",
            nodes.all.len(),
            head.level + 1
        );
        let mut edited = s.clone();
        let (mut sum, mut plain) = (0, 0);
        for k in 0..5u64 {
            let at = usize::try_from(n / 5 * k + n / 11).unwrap();
            let was = std::mem::replace(&mut edited.pieces[at], piece(9_000_000 + k));
            let (_, bytes, packed) = nodes.added(&edited);
            edited.pieces[at] = was;
            sum += packed;
            plain += bytes;
        }
        println!(
            "{what}: an edit is {} bytes, {} before zlib",
            sum / 5,
            plain / 5
        );
    }
}
