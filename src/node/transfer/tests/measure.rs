//! How fast it is over loopback: run by hand, for the figures.

use super::*;
use crate::node::transfer::entry::head_of;
use crate::node::transfer::like::Likes;

/// Bytes a second, and what is beside it: a copy of the file, and the same bytes over TCP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --lib transfer::tests::measure -- --ignored --nocapture"]
async fn a_large_file_over_loopback() {
    let len = 256 << 20;
    let bytes = noise(7, len);
    let rate = |took: Duration| len as f64 / took.as_secs_f64() / 1e6;
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let survey = survey_of(a.dir.path(), &bytes);
    let path = a.dir.path().join("file");
    std::fs::write(&path, &bytes).unwrap();
    a.shelf.chunks.adopt(&path, &survey, true).unwrap();
    a.knows(&survey);
    let head = b.knows(&survey);
    a.is_linked(&b).await;
    let began = Instant::now();
    b.keep(head).await;
    until("all of it", || b.container(&survey).is_some()).await;
    let took = began.elapsed();
    assert!(b.container(&survey) == Some(bytes.clone()));
    let pieces = survey.pieces.len();
    eprintln!("swarm   {:7.0} MB/s, {pieces} pieces", rate(took));
    eprintln!("        asked {} times", a.asked.load(Ordering::Relaxed));
    // The same path without the swarm: the file copied, and synced.
    let (from, to) = (a.dir.path().join("from"), b.dir.path().join("to"));
    std::fs::write(&from, &bytes).unwrap();
    let began = Instant::now();
    let mut out = File::create(&to).unwrap();
    std::io::copy(&mut File::open(&from).unwrap(), &mut out).unwrap();
    out.sync_all().unwrap();
    eprintln!("copy    {:7.0} MB/s, synced", rate(began.elapsed()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let began = Instant::now();
    let gives = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().unwrap();
        std::io::copy(&mut File::open(&from).unwrap(), &mut s).unwrap();
    });
    let mut out = File::create(&to).unwrap();
    std::io::copy(&mut std::net::TcpStream::connect(at).unwrap(), &mut out).unwrap();
    out.sync_all().unwrap();
    gives.join().unwrap();
    eprintln!("tcp     {:7.0} MB/s, synced", rate(began.elapsed()));
    // One stream of the members' connection: nothing read from disk, hashed or written.
    let began = Instant::now();
    let (mut to, mut from) = b.peers.request(a.id()).await.unwrap();
    to.write_all(b"\x01\0\0\0\xff").await.unwrap();
    to.finish();
    let mut step = vec![0; 256 << 10];
    let mut came = 0;
    while came < len {
        came += from.read(&mut step).await.unwrap();
    }
    eprintln!(
        "stream  {:7.0} MB/s, memory to memory",
        rate(began.elapsed())
    );
}

/// What splices cost of 4 KiB overwritten, put in or taken out anywhere in a file of 16 MiB.
#[test]
#[ignore = "a measurement: cargo test --lib transfer::tests::measure -- --ignored --nocapture"]
fn small_changes_anywhere() {
    let dir = TempDir::new().unwrap();
    let objects = Memory::default();
    let list = |bytes: &[u8]| {
        let survey = survey_of(dir.path(), bytes);
        let mut put = |kind, bytes| {
            let kind = match kind {
                NodeKind::Blob => ObjectKind::Blob,
                NodeKind::Tree => ObjectKind::Tree,
            };
            objects.put(kind, bytes)
        };
        let head = manifest::write(&survey, &mut put).unwrap().0;
        (survey, head_of(&objects, &head).unwrap())
    };
    let parts = |bytes: &[u8], survey: &Survey| -> BTreeMap<ChunkId, Vec<u8>> {
        let mut rest = bytes;
        let part = |p: &crate::chunk::Piece| {
            let (part, behind) = rest.split_at(p.len as usize);
            rest = behind;
            (p.id, part.to_vec())
        };
        survey.pieces.iter().map(part).collect()
    };
    let old = noise(40, 16 << 20);
    let (was, from) = list(&old);
    let here = parts(&old, &was);
    for kind in ["overwritten", "put in", "taken out"] {
        let (mut all, mut pieces, mut whole) = (Vec::new(), 0, 0);
        for n in 0..200_u64 {
            let place = noise(50 + n, 8).try_into().map(u64::from_le_bytes).unwrap();
            let at = usize::try_from(place % ((16 << 20) - 5000)).unwrap();
            let mut new = old.clone();
            match kind {
                "overwritten" => new[at..at + 4096].copy_from_slice(&noise(n, 4096)),
                "put in" => drop(new.splice(at..at, noise(n, 4096))),
                _ => drop(new.drain(at..at + 4096)),
            }
            let (is, to) = list(&new);
            let likes = Likes::find(&objects, &from, &to).unwrap();
            let (mut sent, mut at) = (0, 0);
            let there = parts(&new, &is);
            for p in &is.pieces {
                let range = at..at + u64::from(p.len);
                at = range.end;
                if here.contains_key(&p.id) {
                    continue;
                }
                let like = likes.of(&range, |id| here.contains_key(id));
                let like: Vec<u8> = like.iter().flat_map(|l| here[&l.id].clone()).collect();
                let piece = &there[&p.id];
                let spliced = splice::make(&like, piece, splice::bytes_max(piece.len()));
                whole += u32::from(spliced.is_none());
                sent += spliced.map_or(piece.len(), |s| s.len());
                pieces += 1;
            }
            all.push(sent);
        }
        all.sort_unstable();
        let mean = all.iter().sum::<usize>() / all.len();
        let (max, count) = (all[all.len() - 1], all.len());
        eprintln!(
            "{count} times 4 KiB {kind}: {pieces} pieces, {whole} whole; {mean} bytes in the mean, {max} at most"
        );
    }
}
