//! Nodes in one process, over real connections on loopback.
//!
//! Nothing here asserts a time but generous deadlines.

mod liars;
mod measure;
mod reading;
mod spliced;
mod trouble;
mod versions;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::chunk::manifest::{self, NodeKind};
use crate::chunk::{Survey, cut, splice};
use crate::peers::{Cell, Config, Handler, NodeKey, RecvStream, SendStream};
use crate::store::objects::{Memory, ObjectKind};
use crate::swarm::wire::{GIVEN, Request, SPLICED, SplicedHead};

const DEADLINE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

fn volume() -> VolumeName {
    "cell".parse().unwrap()
}

/// Bytes without repetition.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes());
    hash.finalize_xof().fill(&mut out);
    out
}

/// A store and objects of one volume.
struct Shelf {
    chunks: Arc<Chunks>,
    objects: Arc<Memory>,
}

impl Library for Shelf {
    fn chunks(&self, name: &VolumeName) -> Option<Arc<Chunks>> {
        (*name == volume()).then(|| self.chunks.clone())
    }

    fn objects(&self, name: &VolumeName) -> Option<Arc<dyn Objects>> {
        let objects: Arc<dyn Objects> = self.objects.clone();
        (*name == volume()).then_some(objects)
    }

    fn replaces(&self, _: &VolumeName, old: &Oid, _: &Oid) {
        let list = self.objects.get(old, ObjectKind::Blob).unwrap();
        let _may_be_none = self
            .chunks
            .evict(&manifest::head(&list).unwrap().sha256, &mut |_| true);
    }
}

/// How a node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Sends other bytes, of the right length.
    Lies,
    /// The same, once it has given some pieces.
    Turns,
    /// Takes requests for pieces and sends nothing.
    Silent,
    /// Tells pieces by others, and wrongly.
    Mixes,
    /// Gives pieces after half a second.
    Slow,
}

/// Pieces that one gives who turns.
const TURNS_AFTER: u64 = 8;

struct Door {
    transfers: Transfers,
    shelf: Arc<Shelf>,
    manner: Manner,
    /// Pieces that it was asked for.
    asked: Arc<AtomicU64>,
}

#[async_trait]
impl Handler for Door {
    async fn serve(&self, peer: NodeId, mut request: RecvStream, mut reply: SendStream) {
        let Ok(len) = request.read_u32_le().await else {
            return;
        };
        let Ok(kind) = request.read_u8().await else {
            return;
        };
        if kind == 0xff {
            // For measuring: bytes without end.
            while reply.write_all(&[7; 256 << 10]).await.is_ok() {}
            return;
        }
        let Ok(request) = read_request(len, kind, &mut request).await else {
            return;
        };
        if let Request::Piece(ask) = &request {
            let before = self.asked.fetch_add(1, Ordering::Relaxed);
            match self.manner {
                Manner::Honest => {}
                Manner::Turns if before < TURNS_AFTER => {}
                Manner::Slow => tokio::time::sleep(Duration::from_millis(500)).await,
                Manner::Mixes => {
                    let piece = self.shelf.chunks.read(&ask.piece()).unwrap().unwrap();
                    let like = ask.likes().next().unwrap();
                    let like = self.shelf.chunks.read(&like).unwrap().unwrap();
                    let mut splice = splice::make(&like, &piece, piece.len()).unwrap();
                    // A byte of those between.
                    splice[12 + 100] ^= 1;
                    let len = u32::try_from(splice.len()).unwrap();
                    let head = SplicedHead { used: 1, len }.encode();
                    let answer = [&[SPLICED], &head[..], &splice].concat();
                    let _ = reply.write_all(&answer).await;
                    reply.finish();
                    return;
                }
                Manner::Lies | Manner::Turns => {
                    let bytes = self.shelf.chunks.read(&ask.piece()).unwrap().unwrap();
                    let turned: Vec<u8> = bytes.iter().map(|b| !b).collect();
                    let _ = reply.write_all(&[GIVEN]).await;
                    let _ = reply.write_all(&turned).await;
                    reply.finish();
                    return;
                }
                Manner::Silent => {
                    tokio::time::sleep(HOUR).await;
                    return;
                }
            }
        }
        self.transfers.serve(peer, request, reply).await;
    }
}

struct Node {
    dir: TempDir,
    config: Config,
    shelf: Arc<Shelf>,
    peers: Arc<Peers>,
    transfers: Transfers,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
    asked: Arc<AtomicU64>,
    manner: Manner,
}

fn config(dir: &TempDir, name: &str) -> Config {
    let key = NodeKey::load_or_create(&dir.path().join("node.key")).unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut config = Config::new(key, dir.path().to_path_buf(), listen, name);
    config.gossip_interval = Duration::from_millis(100);
    config
}

impl Node {
    async fn found(name: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, name);
        let cell = Cell::found(&config.key, dir.path(), name).unwrap();
        Self::start(dir, config, cell, Arc::default(), Manner::Honest).await
    }

    async fn join(name: &str, to: &Self, manner: Manner) -> Self {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, name);
        let ticket = to.peers.invite(1, HOUR, &[]).await.unwrap().to_string();
        let cell = Cell::join_with_ticket(&config, &ticket).await.unwrap();
        Self::start(dir, config, cell, Arc::default(), manner).await
    }

    async fn start(
        dir: TempDir,
        config: Config,
        cell: Cell,
        objects: Arc<Memory>,
        manner: Manner,
    ) -> Self {
        let chunks = Arc::new(Chunks::open(&dir.path().join("chunks")).unwrap());
        let shelf = Arc::new(Shelf { chunks, objects });
        let (transfers, inbox) = Transfers::new(shelf.clone());
        let asked = Arc::new(AtomicU64::new(0));
        let door = Door {
            transfers: transfers.clone(),
            shelf: shelf.clone(),
            manner,
            asked: asked.clone(),
        };
        let (peers, mut events) = Peers::start(config.clone(), cell, Arc::new(door))
            .await
            .unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let stop = CancellationToken::new();
        let (t, p, s) = (transfers.clone(), peers.clone(), stop.clone());
        let running = tokio::spawn(async move { t.run(p, inbox, s).await });
        Self {
            dir,
            config,
            shelf,
            peers,
            transfers,
            stop,
            running,
            asked,
            manner,
        }
    }

    /// Ends as by `kill -9`: nothing is flushed, and the store is read from disk again.
    async fn kill_and_start(self) -> Self {
        self.running.abort();
        self.end_and_start().await
    }

    /// Ends as told to.
    async fn stop_and_start(self) -> Self {
        self.stop.cancel();
        self.end_and_start().await
    }

    async fn end_and_start(self) -> Self {
        let _ = self.running.await;
        self.peers.shutdown().await;
        let cell = Cell::load(&self.config.key, self.dir.path()).unwrap();
        let objects = self.shelf.objects.clone();
        Self::start(self.dir, self.config, cell, objects, self.manner).await
    }

    fn id(&self) -> NodeId {
        self.peers.node()
    }

    /// Puts the list of a file's pieces among the objects.
    fn knows(&self, survey: &Survey) -> Oid {
        let mut put = |kind, bytes| {
            let kind = match kind {
                NodeKind::Blob => ObjectKind::Blob,
                NodeKind::Tree => ObjectKind::Tree,
            };
            self.shelf.objects.put(kind, bytes)
        };
        manifest::write(survey, &mut put).unwrap().0
    }

    /// Puts pieces of a file into the store, durable.
    fn has(&self, bytes: &[u8], survey: &Survey, which: impl Fn(usize) -> bool) {
        let mut at = 0;
        for (n, p) in survey.pieces.iter().enumerate() {
            let end = at + p.len as usize;
            if which(n) {
                self.shelf.chunks.put(&p.id, &bytes[at..end]).unwrap();
            }
            at = end;
        }
        self.shelf.chunks.flush().unwrap();
    }

    fn lacks(&self, survey: &Survey) -> usize {
        self.shelf.chunks.lacks(&survey.pieces, usize::MAX).len()
    }

    /// Keeps a file; from a thread that may block.
    async fn keep(&self, head: Oid) {
        self.keep_over(head, None).await;
    }

    async fn keep_over(&self, head: Oid, over: Option<Oid>) {
        let t = self.transfers.clone();
        let work = move || t.keep(&volume(), vec![(head, over)]);
        tokio::task::spawn_blocking(work).await.unwrap();
    }

    async fn fetch(&self, head: Oid, range: Range<u64>, within: Duration) -> Result<(), Lacking> {
        let t = self.transfers.clone();
        let work = move || t.fetch(&volume(), head, range, Instant::now() + within);
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    /// The file as its container has it, once all of it is there.
    fn container(&self, survey: &Survey) -> Option<Vec<u8>> {
        let found = self.shelf.chunks.container(&survey.sha256).unwrap();
        let (file, _) = found.filter(|(_, is_complete)| *is_complete)?;
        let mut bytes = vec![0; usize::try_from(survey.len).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    async fn is_linked(&self, to: &Self) {
        let linked = |a: &Self, b: &Self| a.peers.connected().iter().any(|(n, _)| *n == b.id());
        until("a link", || linked(self, to) && linked(to, self)).await;
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let met = tokio::time::timeout(DEADLINE, met).await;
    assert!(met.is_ok(), "not within the deadline: {what}");
}

fn survey_of(dir: &Path, bytes: &[u8]) -> Survey {
    let path = dir.join("surveyed");
    std::fs::write(&path, bytes).unwrap();
    let survey = cut::survey(&File::open(&path).unwrap()).unwrap();
    std::fs::remove_file(path).unwrap();
    survey
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_kept_comes_from_all_who_have_a_part() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let c = Node::join("c", &a, Manner::Honest).await;
    let bytes = noise(1, 20 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    a.has(&bytes, &survey, |n| n % 2 == 0);
    b.has(&bytes, &survey, |n| n % 2 == 1);
    // The middle is here, in a pack.
    c.has(&bytes, &survey, |n| n == survey.pieces.len() / 2);
    for n in [&a, &b, &c] {
        n.knows(&survey);
    }
    let head = c.knows(&survey);
    c.keep(head).await;
    until("all of it", || c.container(&survey).is_some()).await;
    assert!(c.container(&survey) == Some(bytes));
    until("the end", || c.transfers.status().files == 0).await;
    let status = c.transfers.status();
    let from = |n: &Node| {
        status
            .from
            .iter()
            .find(|f| f.0 == n.id())
            .map_or(0, |f| f.1)
    };
    assert!(from(&a) > 4 << 20 && from(&b) > 4 << 20, "{status:?}");
    let here: u64 = survey.pieces[survey.pieces.len() / 2].len.into();
    assert_eq!(status.bytes_done, survey.len - here, "each piece came once");
    assert_eq!((status.waiting, status.bytes_left), (0, 0));
    // Kept again, nothing is asked.
    let asked = || [&a, &b].map(|n| n.asked.load(Ordering::Relaxed));
    let before = asked();
    c.keep(head).await;
    c.fetch(head, 0..survey.len, DEADLINE).await.unwrap();
    assert_eq!(asked(), before);
    // What came counts also when who sent it has gone.
    b.peers.shutdown().await;
    until("b has gone", || c.transfers.status().from.len() < 2).await;
    assert_eq!(c.transfers.status().bytes_done, survey.len - here);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_and_then_kept_at_once_is_kept() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    for n in 0..6 {
        let bytes = noise(100 + n, 3 << 20);
        let survey = survey_of(a.dir.path(), &bytes);
        a.has(&bytes, &survey, |_| true);
        a.knows(&survey);
        let head = b.knows(&survey);
        let (read, ()) = tokio::join!(b.fetch(head, 0..10, DEADLINE), b.keep(head));
        read.unwrap();
        until("all of it", || b.container(&survey).is_some()).await;
        until("the end", || b.transfers.status().files == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_waits_for_its_part_alone() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let bytes = noise(2, 24 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    a.has(&bytes, &survey, |_| true);
    a.knows(&survey);
    let head = b.knows(&survey);
    let range = (9 << 20)..(9 << 20) + 100_000;
    b.fetch(head, range.clone(), DEADLINE).await.unwrap();
    let read = {
        let place = manifest::piece_at(
            &manifest::head(&b.shelf.objects.get(&head, ObjectKind::Blob).unwrap()).unwrap(),
            range.start,
            &mut |id: &Oid, kind| {
                let kind = match kind {
                    NodeKind::Blob => ObjectKind::Blob,
                    NodeKind::Tree => ObjectKind::Tree,
                };
                b.shelf.objects.get(id, kind)
            },
        );
        place.unwrap().unwrap()
    };
    let here = b.shelf.chunks.read(&read.piece.id).unwrap().unwrap();
    let at = usize::try_from(read.at).unwrap();
    assert!(bytes[at..at + here.len()] == here);
    let lacks = b.lacks(&survey);
    assert!(
        lacks > survey.pieces.len() / 2,
        "{lacks} of {}",
        survey.pieces.len()
    );
    // Who reads on finds most of it here already.
    let mut at = 0;
    while at < survey.len {
        b.fetch(head, at..at + (256 << 10), DEADLINE).await.unwrap();
        at += 256 << 10;
    }
    assert_eq!(b.lacks(&survey), 0);
    assert_eq!(b.transfers.status().waiting, 0);
    assert!(b.container(&survey).is_none(), "it is not kept");
    // Ranges beyond the end, and none.
    b.fetch(head, survey.len..survey.len + 10, DEADLINE)
        .await
        .unwrap();
    b.fetch(head, 5..5, DEADLINE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_that_a_file_has_often_come_once() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let part = noise(3, 3 << 20);
    let bytes: Vec<u8> = (0..6).flat_map(|_| part.clone()).collect();
    let survey = survey_of(a.dir.path(), &bytes);
    let distinct: BTreeSet<ChunkId> = survey.pieces.iter().map(|p| p.id).collect();
    assert!(distinct.len() * 2 < survey.pieces.len(), "nothing repeats");
    a.has(&bytes, &survey, |_| true);
    a.knows(&survey);
    let head = b.knows(&survey);
    // Its end is what its beginning is.
    b.fetch(head, survey.len - 10..survey.len, DEADLINE)
        .await
        .unwrap();
    b.keep(head).await;
    until("all of it", || b.container(&survey).is_some()).await;
    assert!(b.container(&survey) == Some(bytes));
    assert_eq!(a.asked.load(Ordering::Relaxed), distinct.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_has_is_said_to_be_nowhere_and_comes_when_somebody_has_it() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let bytes = noise(4, 5 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    a.knows(&survey);
    let head = b.knows(&survey);
    a.is_linked(&b).await;
    let unknown = Oid::from([9; 20]);
    let why = b.fetch(unknown, 0..1, DEADLINE).await.unwrap_err();
    assert!(why.to_string().contains("list of pieces"), "{why}");
    let short = Duration::from_secs(3);
    let why = b.fetch(head, 0..1, short).await.unwrap_err();
    assert!(
        why.to_string()
            .contains("no node that is connected has them"),
        "{why}"
    );
    let comes = async {
        let said = || b.transfers.status().stuck;
        until("said", || said().iter().any(|s| s.contains("no node"))).await;
        a.has(&bytes, &survey, |_| true);
    };
    let waits = b.fetch(head, 0..survey.len, DEADLINE);
    let (done, ()) = futures::join!(waits, comes);
    done.unwrap();
    assert_eq!(b.lacks(&survey), 0);
}
