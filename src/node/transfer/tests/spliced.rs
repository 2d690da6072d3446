//! What a small change of a large file costs.

use super::*;

const LEN: usize = 16 << 20;

/// Two nodes: one has what was and what is, the other what was, and knows what is.
struct Two {
    a: Node,
    b: Node,
    old: Survey,
    new: Survey,
    bytes: Vec<u8>,
    heads: (Oid, Oid),
}

async fn two(manner: Manner, change: impl Fn(&mut Vec<u8>, &Survey)) -> Two {
    let b = Node::found("b").await;
    let a = Node::join("a", &b, manner).await;
    let mut bytes = noise(21, LEN);
    let old = survey_of(a.dir.path(), &bytes);
    let was = b.knows(&old);
    a.has(&bytes, &old, |_| true);
    b.has(&bytes, &old, |_| true);
    change(&mut bytes, &old);
    let new = survey_of(a.dir.path(), &bytes);
    a.has(&bytes, &new, |_| true);
    let heads = (was, b.knows(&new));
    for n in [&a, &b] {
        n.knows(&old);
        n.knows(&new);
    }
    a.is_linked(&b).await;
    Two {
        a,
        b,
        old,
        new,
        bytes,
        heads,
    }
}

impl Two {
    /// Keeps the new version; how many bytes the other sent until it was here.
    async fn costs(&self) -> u64 {
        let before = self.a.peers.sent(self.b.id());
        self.b.keep_over(self.heads.1, Some(self.heads.0)).await;
        until("all of it", || self.b.container(&self.new).is_some()).await;
        assert!(self.b.container(&self.new) == Some(self.bytes.clone()));
        until("the end", || self.b.transfers.status().files == 0).await;
        let came = self.b.transfers.status().bytes_done;
        let sent = self.a.peers.sent(self.b.id()) - before;
        let pieces = self.b.lacks(&self.new);
        assert_eq!(pieces, 0);
        assert!(came <= sent, "{came} came of {sent}");
        sent
    }

    /// Bytes of pieces that are in the new version alone.
    fn changed(&self) -> u64 {
        let old: BTreeSet<ChunkId> = self.old.pieces.iter().map(|p| p.id).collect();
        let new = self.new.pieces.iter().filter(|p| !old.contains(&p.id));
        new.map(|p| u64::from(p.len)).sum()
    }
}

/// Where the middle of a piece is.
fn middle(survey: &Survey, n: usize) -> usize {
    let before = survey.pieces[..n].iter().map(|p| p.len as usize);
    before.sum::<usize>() + survey.pieces[n].len as usize / 2
}

fn overwrite(bytes: &mut [u8], at: usize, seed: u64) {
    bytes[at..at + 4096].copy_from_slice(&noise(seed, 4096));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_change_of_a_large_file_is_few_bytes_on_the_wire() {
    let t = two(Manner::Honest, |bytes, old| {
        overwrite(bytes, middle(old, 20), 1);
    });
    let t = t.await;
    assert!(t.changed() > 64 << 10);
    let sent = t.costs().await;
    eprintln!("{sent} bytes sent for 4 KiB of {LEN}");
    assert!(sent < 64 << 10, "{sent}");
    assert!(t.b.transfers.status().bytes_done < 5000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_far_apart_and_at_cuts_cost_what_they_bring() {
    let t = two(Manner::Honest, |bytes, old| {
        let at = |n: usize| {
            old.pieces[..n]
                .iter()
                .map(|p| p.len as usize)
                .sum::<usize>()
        };
        // Two in one piece, one over a cut, one put in, one taken out, some at the ends.
        overwrite(bytes, at(10) + 2000, 1);
        overwrite(bytes, at(11) - 8000, 2);
        overwrite(bytes, at(20) - 2048, 3);
        overwrite(bytes, 0, 4);
        bytes.drain(at(45)..at(45) + 300);
        bytes.splice(at(30) + 5..at(30) + 5, noise(5, 4096));
        bytes.extend(noise(6, 4096));
    });
    let t = t.await;
    assert!(t.changed() > 1 << 20);
    let sent = t.costs().await;
    eprintln!(
        "{sent} bytes sent for 6 changes, in pieces of {}",
        t.changed()
    );
    assert!(sent < 64 << 10, "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_of_a_file_that_is_kept_is_few_bytes_too() {
    let t = two(Manner::Honest, |bytes, old| {
        overwrite(bytes, middle(old, 9), 1);
    });
    let t = t.await;
    let before = t.a.peers.sent(t.b.id());
    t.b.keep_over(t.heads.1, Some(t.heads.0)).await;
    let at = middle(&t.old, 9) as u64;
    t.b.fetch(t.heads.1, at..at + 4096, DEADLINE).await.unwrap();
    let sent = t.a.peers.sent(t.b.id()) - before;
    assert!(sent < 64 << 10, "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_replaces_a_version_that_never_came_is_told_by_the_one_before() {
    let t = two(Manner::Honest, |bytes, old| {
        overwrite(bytes, middle(old, 9), 1);
    });
    let t = t.await;
    // In between there was one that nobody has any more.
    let mut between = noise(21, LEN);
    overwrite(&mut between, middle(&t.old, 9), 7);
    let between = survey_of(t.a.dir.path(), &between);
    let lost = t.b.knows(&between);
    let before = t.a.peers.sent(t.b.id());
    t.b.keep_over(lost, Some(t.heads.0)).await;
    t.b.keep_over(t.heads.1, Some(lost)).await;
    until("all of it", || t.b.container(&t.new).is_some()).await;
    let sent = t.a.peers.sent(t.b.id()) - before;
    assert!(sent < 64 << 10, "{sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_what_was_gives_the_piece_whole() {
    let t = two(Manner::Honest, |bytes, old| {
        overwrite(bytes, middle(old, 20), 1);
    });
    let t = t.await;
    let new: BTreeSet<ChunkId> = t.new.pieces.iter().map(|p| p.id).collect();
    let gone = t.old.pieces.iter().filter(|p| !new.contains(&p.id));
    let gone: Vec<ChunkId> = gone.map(|p| p.id).collect();
    t.a.shelf.chunks.remove(&gone).unwrap();
    let sent = t.costs().await;
    assert!(sent > t.changed(), "{sent}");
    assert_eq!(t.b.transfers.status().bytes_done, t.changed());
    assert_eq!(t.a.asked.load(Ordering::Relaxed), 1, "in one round trip");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_and_goes_while_it_is_asked_for_is_asked_for_whole() {
    let t = two(Manner::Slow, |bytes, old| {
        overwrite(bytes, middle(old, 20), 1);
    });
    let t = t.await;
    let gone = async {
        until("a question", || t.a.asked.load(Ordering::Relaxed) == 1).await;
        let new: BTreeSet<ChunkId> = t.new.pieces.iter().map(|p| p.id).collect();
        let gone = t.old.pieces.iter().filter(|p| !new.contains(&p.id));
        let gone: Vec<ChunkId> = gone.map(|p| p.id).collect();
        assert_eq!(t.b.shelf.chunks.remove(&gone).unwrap(), 1);
    };
    let (_sent, ()) = futures::join!(t.costs(), gone);
    assert_eq!(t.a.asked.load(Ordering::Relaxed), 2);
    assert_eq!(t.b.transfers.status().bytes_done, t.changed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_is_told_wrongly_is_a_lie_and_comes_from_another() {
    let t = two(Manner::Mixes, |bytes, old| {
        overwrite(bytes, middle(old, 20), 1);
    });
    let t = t.await;
    t.b.keep_over(t.heads.1, Some(t.heads.0)).await;
    until("a question", || t.a.asked.load(Ordering::Relaxed) == 1).await;
    // It is put aside, and nothing of it was taken.
    until("said", || {
        let stuck = t.b.transfers.status().stuck;
        stuck.iter().any(|s| s.contains("do not answer"))
    })
    .await;
    assert_eq!(t.b.lacks(&t.new), 1);
    let c = Node::join("c", &t.b, Manner::Honest).await;
    c.has(&t.bytes, &t.new, |_| true);
    c.knows(&t.new);
    until("all of it", || t.b.container(&t.new).is_some()).await;
    assert!(t.b.container(&t.new) == Some(t.bytes.clone()));
    assert_eq!(t.a.asked.load(Ordering::Relaxed), 1);
}
