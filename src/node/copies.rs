//! Promises between nodes to keep copies of large files: the sockets, disk and clock around
//! [`crate::copies`].
//!
//! Invariants: a promise is on the disk before a peer hears of it. It is made only of a file that
//! counts here and all of whose pieces were read and hashed, within [`SOUND_FOR`]; from before it
//! is made until it is on the disk nobody takes the file out of what counts ([`Promises::still`]).
//! A file is taken out by [`NodeInner::let_go`] only after enough others promised, and while they
//! do. Tasks: one that ticks, one for each question to a peer or of one; the disk is used on
//! threads that may wait.
//!
//! The file `promises` of the node is its version, then the postcard of what was promised.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::NodeInner;
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::base::{durable, format};
use crate::chunk::manifest::{Cursor, NodeKind};
use crate::copies::wire::{self, Ask, Told, What};
use crate::copies::{Copies, Input, Output, Why};
use crate::peers::{Peers, RecvStream, SendStream};
use crate::store::objects::{ObjectKind, Objects};
use crate::volume::{Volume, VolumeResult};

const TICK: Duration = Duration::from_secs(1);
/// A peer may have to read and hash all of a file before it answers.
const ANSWER: Duration = Duration::from_secs(600);
/// What needs no reading is answered within this.
const WORD: Duration = Duration::from_secs(10);
/// A file that was read and hashed is taken to be sound for this long.
const SOUND_FOR: Duration = Duration::from_secs(6 * 3600);
/// Files that were found sound and are kept in mind.
const SOUND_MAX: usize = 4096;

/// A file: the volume, and the head of its manifest.
type File = (VolumeName, Oid);
type Kept = BTreeMap<File, BTreeMap<NodeId, u64>>;

/// Why a copy stays here, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Stays(pub(super) String);

/// Who waits for what the machine says.
#[derive(Debug, Default)]
struct Waiting {
    /// Peers, for a promise or for whether an attempt is on.
    peers: HashMap<(NodeId, File, u64), oneshot::Sender<bool>>,
    /// Our own attempts.
    own: HashMap<u64, oneshot::Sender<Result<(), Why>>>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Promises {
    path: PathBuf,
    machine: Mutex<Copies<File>>,
    waiting: Mutex<Waiting>,
    sound: Mutex<HashMap<File, Instant>>,
    began: Instant,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Nothing is promised and nobody lets go while this is held.
pub(super) struct Still<'a>(MutexGuard<'a, Copies<File>>);

impl Still<'_> {
    /// Whether somebody relies on our copy, or we are about to let go of it.
    pub(super) fn is_bound(&self, volume: &VolumeName, head: &Oid) -> bool {
        let file = (volume.clone(), *head);
        self.0.is_on(&file) || !self.0.promised_to(&file).is_empty()
    }
}

fn read(path: &Path) -> io::Result<Kept> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Kept::new()),
        Err(e) => return Err(e),
    };
    let parsed = match bytes.split_first() {
        Some((&format::PROMISES, body)) => postcard::from_bytes::<Vec<Line>>(body).ok(),
        _ => None,
    };
    let Some(lines) = parsed else {
        let why = format!("{} is of another version, or damaged", path.display());
        return Err(io::Error::other(why));
    };
    let mut out = Kept::new();
    for (volume, head, node, attempt) in lines {
        let of = out.entry((volume, Oid::from(head))).or_default();
        of.insert(NodeId(node), attempt);
    }
    Ok(out)
}

type Line = (VolumeName, [u8; 20], [u8; 32], u64);

fn raw(head: &Oid) -> [u8; 20] {
    <[u8; 20]>::try_from(head.as_slice()).unwrap_or([0; 20])
}

fn write(path: &Path, promises: &Kept) -> io::Result<()> {
    let mut lines: Vec<Line> = Vec::new();
    for ((volume, head), all) in promises {
        lines.extend(
            all.iter()
                .map(|(node, attempt)| (volume.clone(), raw(head), node.0, *attempt)),
        );
    }
    let bytes = postcard::to_extend(&lines, vec![format::PROMISES]).map_err(io::Error::other)?;
    durable::replace(path, &bytes, 0o600)
}

impl Promises {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let kept = read(&path)?;
        Ok(Self {
            path,
            machine: Mutex::new(Copies::new(kept)),
            waiting: Mutex::default(),
            sound: Mutex::default(),
            began: Instant::now(),
        })
    }

    pub(super) fn still(&self) -> Still<'_> {
        Still(lock(&self.machine))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// Gives the machine an input. What it promises is on the disk when this returns. Blocking.
    fn handle(&self, input: Input<File>) -> Vec<Output<File>> {
        let mut machine = lock(&self.machine);
        self.handle_in(&mut machine, input)
    }

    fn handle_in(&self, machine: &mut Copies<File>, input: Input<File>) -> Vec<Output<File>> {
        let mut out = machine.handle(input, self.now());
        if out.iter().any(|o| matches!(o, Output::Note))
            && let Err(e) = write(&self.path, machine.promises())
        {
            tracing::warn!(error = %e, "what is promised is not on the disk; nothing is promised");
            // It is not told, so nobody relies on it; who asked lets it go, or is asked later.
            for o in &mut out {
                if let Output::Answer { promised, .. } = o {
                    *promised = false;
                }
            }
        }
        out
    }

    fn is_sound(&self, file: &File) -> bool {
        let at = lock(&self.sound).get(file).copied();
        at.is_some_and(|at| at.elapsed() < SOUND_FOR)
    }

    fn found_sound(&self, file: &File) {
        let mut all = lock(&self.sound);
        if all.len() >= SOUND_MAX {
            all.retain(|_, at| at.elapsed() < SOUND_FOR);
            if all.len() >= SOUND_MAX {
                all.clear();
            }
        }
        all.insert(file.clone(), Instant::now());
    }
}

/// Whether all of a file is here, durable and as it should be. Blocking; reads all of it.
fn check(v: &Volume, head: &Oid) -> VolumeResult<bool> {
    let chunks = v.chunks()?;
    let list = v.large_head(head)?;
    chunks.flush()?;
    let mut cursor = Cursor::new(&list, 0);
    let repo = v.repo();
    let mut get = |id: &Oid, kind| {
        repo.get(
            id,
            match kind {
                NodeKind::Blob => ObjectKind::Blob,
                NodeKind::Tree => ObjectKind::Tree,
            },
        )
    };
    while let Some(p) = cursor.next(&mut get)? {
        match chunks.read(&p.piece.id) {
            Ok(Some(bytes)) if bytes.len() == p.piece.len as usize => {}
            Ok(_) | Err(crate::chunk::store::ChunkError::Damaged(_)) => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(true)
}

/// Asks a peer, and reads at most so many bytes of an answer.
async fn question(peers: &Peers, peer: NodeId, ask: &Ask, most: usize) -> io::Result<Vec<u8>> {
    let (mut to, mut from) = peers.request(peer).await.map_err(io::Error::other)?;
    to.write_all(&ask.encode()).await?;
    to.finish();
    from.read_all(most).await
}

/// Runs until the node stops: what is promised is looked after.
pub(super) async fn run(node: Arc<NodeInner>) {
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let gone: Vec<NodeId> = {
            let Some(peers) = node.peers() else { continue };
            let machine = lock(&node.copies.machine);
            let all = machine.promises().values().flat_map(|p| p.keys().copied());
            all.filter(|n| !peers.is_member(*n)).collect()
        };
        for peer in gone {
            node.tell(Input::Gone(peer)).await;
        }
        node.tell(Input::Tick).await;
    }
}

impl NodeInner {
    /// Gives the machine an input, and does what it says.
    async fn tell(&self, input: Input<File>) {
        let work = self.blocking(move |n| Ok(n.copies.handle(input)));
        match work.await {
            Ok(out) => self.carry_out(out),
            Err(e) => tracing::debug!(error = %e, "a promise after the end"),
        }
    }

    fn carry_out(&self, out: Vec<Output<File>>) {
        for o in out {
            self.carry_out_one(o);
        }
    }

    fn carry_out_one(&self, output: Output<File>) {
        let Some(me) = self.me.upgrade() else { return };
        match output {
            // Done by who got it from the machine.
            Output::Note => {}
            Output::Ask {
                peer,
                file,
                attempt,
            } => {
                tokio::spawn(async move {
                    let promised = me
                        .ask_one(peer, &file, attempt, What::Promise, ANSWER)
                        .await;
                    let promised = promised.unwrap_or(false);
                    me.tell(Input::Answered {
                        peer,
                        file,
                        attempt,
                        promised,
                    })
                    .await;
                });
            }
            Output::Check {
                peer,
                file,
                attempt,
            } => {
                tokio::spawn(async move {
                    let work = me.blocking(move |n| Ok(n.check_and_tell(peer, file, attempt)));
                    if let Ok(out) = work.await {
                        me.carry_out(out);
                    }
                });
            }
            Output::Answer {
                peer,
                file,
                attempt,
                promised: yes,
            }
            | Output::On {
                peer,
                file,
                attempt,
                on: yes,
            } => {
                let waits = lock(&self.copies.waiting)
                    .peers
                    .remove(&(peer, file, attempt));
                if let Some(waits) = waits {
                    // Who went does not wait.
                    let _ = waits.send(yes);
                }
            }
            Output::Go { file, attempt } => {
                tokio::spawn(async move {
                    let f = file.clone();
                    let work = me.blocking(move |n| {
                        let v = n.volume(&f.0);
                        if let Some(Err(e)) = v.map(|v| v.give_away(&[f.1])) {
                            tracing::warn!(volume = %f.0, head = %f.1, error = %e, "after a restart it counts again");
                        }
                        Ok(())
                    });
                    let done = work.await;
                    let waits = lock(&me.copies.waiting).own.remove(&attempt);
                    me.tell(Input::Done { file, attempt }).await;
                    if let (Some(waits), Ok(())) = (waits, done) {
                        let _ = waits.send(Ok(()));
                    }
                });
            }
            Output::Release {
                peer,
                file,
                attempt,
            } => {
                tokio::spawn(async move {
                    let told = me.ask_one(peer, &file, attempt, What::Release, WORD).await;
                    if told.is_none() {
                        tracing::debug!(peer = %peer.short(), "it asks by itself whether it is released");
                    }
                });
            }
            Output::Inquire {
                peer,
                file,
                attempt,
            } => {
                tokio::spawn(async move {
                    let on = me.ask_one(peer, &file, attempt, What::Inquire, WORD).await;
                    if let Some(on) = on {
                        me.tell(Input::IsOn {
                            peer,
                            file,
                            attempt,
                            on,
                        })
                        .await;
                    }
                });
            }
            Output::Kept { attempt, why, .. } => {
                let waits = lock(&self.copies.waiting).own.remove(&attempt);
                if let Some(waits) = waits {
                    let _ = waits.send(Err(why));
                }
            }
        }
    }

    /// Looks at a file that a peer wants a promise of, and tells the machine. Blocking.
    fn check_and_tell(&self, peer: NodeId, file: File, attempt: u64) -> Vec<Output<File>> {
        let v = self.volume(&file.0);
        let counts = |v: &Volume| !v.is_away(&file.1);
        let mut sound = v.as_deref().is_some_and(counts);
        if let Some(v) = v
            .as_deref()
            .filter(|_| sound && !self.copies.is_sound(&file))
        {
            let checked = check(v, &file.1);
            sound = *checked.as_ref().unwrap_or(&false);
            match checked {
                Ok(true) => self.copies.found_sound(&file),
                Ok(false) => {}
                Err(e) => {
                    tracing::info!(volume = %file.0, head = %file.1, error = %e, "not promised");
                }
            }
        }
        // What was seen may have changed since; now nobody takes it out of what counts.
        let mut machine = lock(&self.copies.machine);
        let is_here = |v: &Volume| {
            let lacks = v.lacks(&file.1, 1);
            counts(v) && lacks.is_ok_and(|l| l.is_empty())
        };
        let noted = |v: &Volume| v.count_in(&[file.1]).is_ok();
        let sound = sound && v.as_deref().is_some_and(|v| is_here(v) && noted(v));
        let input = Input::Checked {
            peer,
            file,
            attempt,
            sound,
        };
        self.copies.handle_in(&mut machine, input)
    }

    /// A word of a peer; none if it gave none.
    async fn ask_one(
        &self,
        peer: NodeId,
        file: &File,
        attempt: u64,
        what: What,
        patience: Duration,
    ) -> Option<bool> {
        let ask = Ask {
            volume: file.0.clone(),
            head: raw(&file.1),
            attempt,
            what,
        };
        let asked = question(self.peers()?, peer, &ask, 1);
        let bytes = timeout(patience, asked).await.ok()?.ok()?;
        wire::decode_answer(&bytes).ok()
    }

    /// Asks members to keep their copies of a file, and takes ours out of what counts when enough
    /// have promised.
    pub(super) async fn let_go(&self, v: &Arc<Volume>, head: Oid) -> Result<(), Stays> {
        let stays = |why: &str| Stays(why.to_owned());
        let peers = self.peers().ok_or_else(|| stays("the node is starting"))?;
        let peers: Vec<NodeId> = peers.connected().into_iter().map(|(n, _)| n).collect();
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| stays("there is no randomness"))?;
        let attempt = u64::from_le_bytes(random);
        let (tell, told) = oneshot::channel();
        lock(&self.copies.waiting).own.insert(attempt, tell);
        let until = self.copies.now() + u64::try_from(ANSWER.as_millis()).unwrap_or(0);
        self.tell(Input::LetGo {
            file: (v.name().clone(), head),
            attempt,
            wanted: self.options.copies,
            peers,
            until,
        })
        .await;
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(self.said(&why)),
            Err(_) => Err(stays("the node is ending")),
        }
    }

    fn said(&self, why: &Why) -> Stays {
        Stays(match why {
            Why::Promised(node) => {
                let name = self.name_of(*node);
                format!("node {name} is letting go of its copy and relies on this one")
            }
            Why::Under(promised, wanted) => {
                let nodes = if *promised == 1 {
                    "node has"
                } else {
                    "nodes have"
                };
                format!("{promised} other {nodes} promised to keep a copy; {wanted} must")
            }
            Why::Busy => "it is about to go already".to_owned(),
            Why::TooMany => "too many files are about to go; it is tried again".to_owned(),
        })
    }

    /// What a member is called.
    pub(super) fn name_of(&self, node: NodeId) -> String {
        let found = self.peers().and_then(|p| {
            let all = p.members().into_iter();
            all.into_iter().find(|m| m.node == node).map(|m| m.name)
        });
        found.unwrap_or_else(|| node.short())
    }

    /// What a node holds of a file, as it says.
    pub(super) async fn told_by(&self, peer: NodeId, file: &File) -> Option<Told> {
        let ask = Ask {
            volume: file.0.clone(),
            head: raw(&file.1),
            attempt: 0,
            what: What::Tell,
        };
        let asked = question(self.peers()?, peer, &ask, wire::TOLD_BYTES_MAX);
        let bytes = timeout(WORD, asked).await.ok()?.ok()?;
        Told::decode(&bytes).ok()
    }

    /// What is here of a file. Blocking.
    pub(super) fn told(&self, file: &File) -> Option<Told> {
        let v = self.volume(&file.0)?;
        let len = v.large_head(&file.1).ok()?.len;
        let lacks = v.lacks(&file.1, usize::MAX).ok()?;
        let lacking: u64 = lacks.iter().map(|p| u64::from(p.piece.len)).sum();
        Some(Told {
            keeps: lacking == 0 && !v.is_away(&file.1),
            len,
            here: len.saturating_sub(lacking),
        })
    }
}

/// Answers a member, of whose request the length and the kind were read.
pub(super) async fn serve(
    node: Arc<NodeInner>,
    peer: NodeId,
    len: u32,
    mut request: RecvStream,
    mut reply: SendStream,
) -> io::Result<()> {
    let len = len as usize;
    if !(1..=wire::REQUEST_BYTES_MAX).contains(&len) {
        return Err(io::Error::other("a request of an impossible length"));
    }
    let mut bytes = vec![wire::KIND_COPY; len];
    let rest = bytes.get_mut(1..).unwrap_or_default();
    timeout(WORD, request.read_exact(rest)).await??;
    let ask = Ask::decode(&bytes).map_err(io::Error::other)?;
    let file = (ask.volume, Oid::from(ask.head));
    let attempt = ask.attempt;
    let input = match ask.what {
        What::Tell => {
            let told = node.blocking(move |n| Ok(n.told(&file))).await;
            let told = told.map_err(|f| io::Error::other(f.what))?;
            let told = told.unwrap_or(Told {
                keeps: false,
                len: 0,
                here: 0,
            });
            timeout(WORD, reply.write_all(&told.encode())).await??;
            reply.finish();
            return Ok(());
        }
        What::Release => {
            node.tell(Input::Released {
                peer,
                file,
                attempt,
            })
            .await;
            timeout(WORD, reply.write_all(&wire::encode_answer(true))).await??;
            reply.finish();
            return Ok(());
        }
        What::Promise => Input::Asked {
            peer,
            file: file.clone(),
            attempt,
        },
        What::Inquire => Input::Inquired {
            peer,
            file: file.clone(),
            attempt,
        },
    };
    let (tell, told) = oneshot::channel();
    let key = (peer, file, attempt);
    lock(&node.copies.waiting).peers.insert(key.clone(), tell);
    node.tell(input).await;
    let yes = timeout(ANSWER, told).await;
    lock(&node.copies.waiting).peers.remove(&key);
    let yes = matches!(yes, Ok(Ok(true)));
    timeout(WORD, reply.write_all(&wire::encode_answer(yes))).await??;
    reply.finish();
    Ok(())
}
