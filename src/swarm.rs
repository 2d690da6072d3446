//! Large files from many peers at once: which pieces are asked of whom, and when. No sockets, no
//! disk, no clock, no chance of its own: `handle(input, now) -> outputs`, the same for the same
//! inputs and seed.
//!
//! What readers wait for is asked first, of whoever should give it soonest, and of a second peer
//! when it is late; then what they will read next; then, of files that are to be kept, what fewest
//! peers hold. Each peer has a window (`swarm/peer.rs`). A peer that is silent, fails or lies is
//! put aside for a while, and what was asked of it is asked of others.
//!
//! Invariants: a piece is asked of one peer at a time, but for what a reader waits for and is
//! late, which is asked of two. What is under way, from one peer and from all, and what is kept in
//! mind is bounded. What is wanted and held by a peer that is honest and stays up comes. Nothing
//! here is kept over a restart: what arrived is in the store, and the owner says what lacks.
//!
//! A piece may come as fewer bytes than it has. What is under way, windows and rates are counted
//! as if it had not: a window then holds as many pieces as come in its time. What came from whom
//! is counted as it came.
//!
//! Callers bring time as milliseconds of any monotonic clock, and a [`Input::Tick`] every 50 ms or
//! so. One task owns it. [`wire`] is what goes between nodes, [`turns`] who is served next.

mod file;
mod peer;
pub mod pieces;
mod plan;
#[cfg(test)]
mod tests;
pub mod turns;
pub mod wire;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::base::id::NodeId;
use file::Wanted;
use peer::Peer;
use pieces::{Holding, Pieces};

/// A file, by a number that its owner gave it. Files of smaller numbers come first.
pub type File = u64;
/// Somebody who waits for a part of a file, by a number that its owner gave it.
pub type Reader = u64;

/// Files that are worked on at a time. The owner keeps the others.
pub const FILES_MAX: usize = 64;
/// Readers that wait at a time.
pub const READERS_MAX: usize = 256;
/// Bytes that are under way from all peers together.
pub const UNDER_WAY_BYTES_MAX: u64 = 32 << 20;
/// What readers wait for may be under way beyond that.
pub const URGENT_BYTES_MAX: u64 = 8 << 20;
/// Files that a peer is asked about in one question.
pub const ASK_FILES_MAX: usize = 64;
/// Peers that are kept in mind.
const PEERS_MAX: usize = 4096;

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A reader waits for it.
    Urgent,
    /// A reader will want it next.
    Ahead,
    /// It is to be kept.
    Background,
}

/// Why a piece did not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer has not got it.
    Absent,
    /// The peer has too much to do.
    Busy,
    /// What came was something else.
    Lie,
    /// The connection broke, or the answer did.
    Cut,
    /// It came, and our own disk did not take it.
    Disk,
}

/// What happens.
#[derive(Debug, Clone)]
pub enum Input {
    /// A file is wanted: the lengths of its pieces, and which lack. If `keep`, all of it; else
    /// what readers wait for.
    Open {
        /// Which.
        file: File,
        /// The length of each piece.
        lens: Arc<[u32]>,
        /// What is not here.
        lacking: Pieces,
        /// Whether all of it is wanted.
        keep: bool,
    },
    /// From now on all of a file is wanted, or not.
    Keep(File, bool),
    /// A file is not wanted any more, also by readers.
    Drop(File),
    /// A reader waits.
    Need {
        /// Who.
        reader: Reader,
        /// For which file.
        file: File,
        /// For these pieces.
        pieces: Range<u32>,
        /// What it will probably want next.
        ahead: Range<u32>,
        /// Until when. After it nobody waits.
        deadline: u64,
    },
    /// A reader waits no more, and wants nothing next.
    Unneed(Reader),
    /// A connection to a peer is up.
    Up(NodeId),
    /// It is down. What was asked of it will not come.
    Down(NodeId),
    /// A peer says what it holds.
    Holds {
        /// Who.
        peer: NodeId,
        /// Of which file.
        file: File,
        /// What.
        what: Holding,
    },
    /// A peer was asked what it holds, and did not say.
    Silent {
        /// Who.
        peer: NodeId,
        /// Of which files.
        files: Vec<File>,
    },
    /// Bytes come from a peer.
    Alive(NodeId),
    /// A piece came, was checked, and is in the store.
    Came {
        /// From whom.
        peer: NodeId,
        /// Of which file.
        file: File,
        /// Which.
        piece: u32,
        /// How many bytes came for it: less than it has if it was told by others.
        bytes: u32,
    },
    /// A piece is in the store, and did not come from a peer.
    Here {
        /// Of which file.
        file: File,
        /// Which.
        piece: u32,
    },
    /// A piece did not come.
    Failed {
        /// From whom.
        peer: NodeId,
        /// Of which file.
        file: File,
        /// Which.
        piece: u32,
        /// Why.
        why: Failure,
    },
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Ask a peer what it holds of these files.
    AskHolds {
        /// Whom.
        peer: NodeId,
        /// Of which.
        files: Vec<File>,
    },
    /// Ask a peer for a piece.
    Ask {
        /// Whom.
        peer: NodeId,
        /// Of which file.
        file: File,
        /// Which.
        piece: u32,
        /// How urgent it is.
        class: Class,
    },
    /// A piece is not wanted from this peer any more. If it comes all the same, it counts.
    Cancel {
        /// From whom.
        peer: NodeId,
        /// Of which file.
        file: File,
        /// Which.
        piece: u32,
    },
    /// All that a reader waits for is here. What it will want next is fetched until its deadline.
    Ready(Reader),
    /// All of a file is here.
    Done(File),
    /// Nobody can be asked for what lacks of a file. Told once, until something comes again.
    Stuck(File, Why),
}

/// Why a file does not get on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// No peer is connected.
    NoPeer,
    /// None of the connected peers holds what lacks.
    NobodyHolds,
    /// Who holds what lacks failed, and is asked again later.
    PutAside,
    /// Our own disk does not take it.
    Disk,
}

/// How far a file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that lacked when it was opened.
    pub total: u64,
    /// Bytes that still lack.
    pub left: u64,
    /// Bytes of pieces a second of late.
    pub rate: u64,
    /// Bytes that came, by whom they came from.
    pub from: Vec<(NodeId, u64)>,
    /// Why it does not get on, if so.
    pub stuck: Option<Why>,
}

/// How a peer does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Who.
    pub peer: NodeId,
    /// Bytes of pieces a second of late.
    pub rate: u64,
    /// Bytes that came since the start.
    pub bytes: u64,
    /// Bytes that are under way.
    pub under_way: u64,
    /// Bytes that may be.
    pub window: u64,
    /// Whether it is put aside because it lied.
    pub lied: bool,
}

#[derive(Debug)]
struct Need {
    file: File,
    pieces: Range<u32>,
    ahead: Range<u32>,
    deadline: u64,
    /// It was told that all is here; what it will want next comes all the same.
    is_ready: bool,
}

/// See [`crate::swarm`].
#[derive(Debug)]
pub struct Swarm {
    files: BTreeMap<File, Wanted>,
    peers: BTreeMap<NodeId, Peer>,
    needs: BTreeMap<Reader, Need>,
    /// Whom a piece is asked of.
    asked_of: BTreeMap<(File, u32), Vec<NodeId>>,
    under_way: u64,
    /// Bytes that may be asked of a second peer.
    spare: u64,
    /// Somebody may have to be asked what he holds.
    asks_holds: bool,
    chance: u64,
}

impl Swarm {
    /// A swarm whose choices follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            files: BTreeMap::new(),
            peers: BTreeMap::new(),
            needs: BTreeMap::new(),
            asked_of: BTreeMap::new(),
            under_way: 0,
            spare: SPARE_BYTES_MAX,
            asks_holds: false,
            chance: seed | 1,
        }
    }

    /// Takes an input at `now` (milliseconds) and returns what is to be done.
    pub fn handle(&mut self, input: Input, now: u64) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Open {
                file,
                lens,
                lacking,
                keep,
            } => self.open(file, lens, lacking, keep, now, &mut out),
            Input::Keep(file, keep) => {
                if let Some(f) = self.files.get_mut(&file) {
                    f.keep = keep;
                    self.no_peer_is_dry();
                }
            }
            Input::Drop(file) => self.drop_file(file, &mut out),
            Input::Need {
                reader,
                file,
                pieces,
                ahead,
                deadline,
            } => {
                let need = Need {
                    file,
                    pieces,
                    ahead,
                    deadline,
                    is_ready: false,
                };
                self.need(reader, need, &mut out);
            }
            Input::Unneed(reader) => {
                self.needs.remove(&reader);
            }
            Input::Up(peer) => self.up(peer, now),
            Input::Down(peer) => self.down(peer),
            Input::Holds { peer, file, what } => self.holds(peer, file, what, now),
            Input::Silent { peer, files } => {
                for file in files {
                    if let Some(f) = self.files.get_mut(&file) {
                        f.silent(peer, now);
                    }
                }
            }
            Input::Alive(peer) => {
                if let Some(p) = self.peers.get_mut(&peer) {
                    p.heard = now;
                }
            }
            Input::Came {
                peer,
                file,
                piece,
                bytes,
            } => self.came(file, piece, Some((peer, bytes)), now, &mut out),
            Input::Here { file, piece } => self.came(file, piece, None, now, &mut out),
            Input::Failed {
                peer,
                file,
                piece,
                why,
            } => self.failed(peer, file, piece, why, now, &mut out),
            Input::Tick => self.tick(now, &mut out),
        }
        self.plan(now, &mut out);
        out
    }

    fn open(
        &mut self,
        file: File,
        lens: Arc<[u32]>,
        lacking: Pieces,
        keep: bool,
        now: u64,
        out: &mut Vec<Output>,
    ) {
        let is_room = self.files.len() < FILES_MAX && !self.files.contains_key(&file);
        if lacking.len() as usize != lens.len() || !is_room {
            return;
        }
        if lacking.is_empty() {
            out.push(Output::Done(file));
        }
        let wanted = Wanted::new(lens, lacking, keep, now);
        self.files.insert(file, wanted);
        self.asks_holds = true;
    }

    fn drop_file(&mut self, file: File, out: &mut Vec<Output>) {
        self.files.remove(&file);
        self.needs.retain(|_, n| n.file != file);
        let all = (file, 0)..=(file, u32::MAX);
        let asked: Vec<u32> = self.asked_of.range(all).map(|((_, n), _)| *n).collect();
        for piece in asked {
            self.cancel_all(file, piece, out);
        }
    }

    fn need(&mut self, reader: Reader, need: Need, out: &mut Vec<Output>) {
        if !self.files.contains_key(&need.file) {
            return;
        }
        if self.needs.len() < READERS_MAX || self.needs.contains_key(&reader) {
            self.needs.insert(reader, need);
            self.look_at_readers(out);
            self.asks_holds = true;
        }
    }

    /// Tells those who waited and have all, and forgets those who will want nothing more.
    fn look_at_readers(&mut self, out: &mut Vec<Output>) {
        let files = &self.files;
        self.needs.retain(|reader, n| {
            let Some(f) = files.get(&n.file) else {
                return false;
            };
            let lacks = |r: &Range<u32>| f.lacking.next(r.start).is_some_and(|l| l < r.end);
            if !n.is_ready && !lacks(&n.pieces) {
                n.is_ready = true;
                out.push(Output::Ready(*reader));
            }
            !n.is_ready || lacks(&n.ahead)
        });
    }

    fn up(&mut self, peer: NodeId, now: u64) {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, p| p.up);
            if self.peers.len() >= PEERS_MAX {
                return;
            }
        }
        // What was asked over another connection does not come over this one.
        self.down(peer);
        let p = self.peers.entry(peer).or_insert_with(|| Peer::new(now));
        p.comes_up(now);
        self.asks_holds = true;
    }

    fn down(&mut self, peer: NodeId) {
        self.take_back(peer);
        if let Some(p) = self.peers.get_mut(&peer) {
            p.up = false;
        }
        for f in self.files.values_mut() {
            f.forget_peer(peer);
        }
    }

    fn holds(&mut self, peer: NodeId, file: File, what: Holding, now: u64) {
        let Some(p) = self.peers.get_mut(&peer).filter(|p| p.up) else {
            return;
        };
        p.is_dry = false;
        let Some(f) = self.files.get_mut(&file) else {
            return;
        };
        if let Some(took) = f.told(peer, what, now) {
            p.answered(took);
        }
    }

    fn came(
        &mut self,
        file: File,
        piece: u32,
        from: Option<(NodeId, u32)>,
        now: u64,
        out: &mut Vec<Output>,
    ) {
        if let Some((peer, bytes)) = from {
            let len = self.files.get(&file).map_or(0, |f| f.len_of(piece));
            self.forget_ask(peer, file, piece);
            if let Some(p) = self.peers.get_mut(&peer) {
                p.came(len, bytes, now);
            }
            self.spare = (self.spare + u64::from(bytes) / SPARE).min(SPARE_BYTES_MAX);
        }
        self.cancel_all(file, piece, out);
        let Some(f) = self.files.get_mut(&file) else {
            return;
        };
        if !f.came(piece, from, now) {
            return;
        }
        if f.lacking.is_empty() {
            out.push(Output::Done(file));
        }
        if !self.needs.is_empty() {
            self.look_at_readers(out);
        }
    }

    fn failed(
        &mut self,
        peer: NodeId,
        file: File,
        piece: u32,
        why: Failure,
        now: u64,
        out: &mut Vec<Output>,
    ) {
        let was_asked = self.forget_ask(peer, file, piece);
        let (Some(p), Some(f)) = (self.peers.get_mut(&peer), self.files.get_mut(&file)) else {
            return;
        };
        match why {
            Failure::Absent => {
                f.has_not(peer, piece);
                p.has_not(now);
            }
            Failure::Busy => p.rests(now, BUSY_MS),
            // One that was taken back or cancelled was cut by ourselves.
            Failure::Cut if was_asked => p.fails(now),
            Failure::Cut => {}
            Failure::Disk => f.disk_failed(now),
            Failure::Lie => {
                p.lies(now);
                self.take_back_telling(peer, out);
            }
        }
    }

    /// Nothing that was asked of a peer will come, or is wanted, from it.
    fn take_back(&mut self, peer: NodeId) {
        let asked = self.peers.get(&peer).map(|p| p.asked.keys().copied());
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        for (file, piece) in asked {
            self.forget_ask(peer, file, piece);
        }
    }

    fn take_back_telling(&mut self, peer: NodeId, out: &mut Vec<Output>) {
        let asked = self.peers.get(&peer).map(|p| p.asked.keys().copied());
        let asked: Vec<_> = asked.into_iter().flatten().collect();
        for (file, piece) in asked {
            self.forget_ask(peer, file, piece);
            out.push(Output::Cancel { peer, file, piece });
        }
    }

    /// A piece is not asked of a peer any more. Says whether it was.
    fn forget_ask(&mut self, peer: NodeId, file: File, piece: u32) -> bool {
        let p = self.peers.get_mut(&peer);
        let Some(asked) = p.and_then(|p| p.forget(file, piece)) else {
            return false;
        };
        self.under_way -= u64::from(asked.len);
        let of = self.asked_of.entry((file, piece)).or_default();
        of.retain(|p| *p != peer);
        if of.is_empty() {
            self.asked_of.remove(&(file, piece));
            if let Some(f) = self.files.get_mut(&file) {
                f.asked.remove(piece);
            }
            self.no_peer_is_dry();
        }
        true
    }

    fn cancel_all(&mut self, file: File, piece: u32, out: &mut Vec<Output>) {
        let of = self.asked_of.get(&(file, piece)).cloned();
        for peer in of.unwrap_or_default() {
            self.forget_ask(peer, file, piece);
            out.push(Output::Cancel { peer, file, piece });
        }
    }

    fn no_peer_is_dry(&mut self) {
        for p in self.peers.values_mut() {
            p.is_dry = false;
        }
    }

    fn chance(&mut self) -> u32 {
        // xorshift64*: enough to spread load, and the same in every run of a seed.
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        let n = self.chance.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from(n).unwrap_or(0)
    }

    /// How far a file is.
    #[must_use]
    pub fn progress(&self, file: File, now: u64) -> Option<Progress> {
        let f = self.files.get(&file)?;
        Some(Progress {
            total: f.total,
            left: f.left,
            rate: f.rate,
            from: f.from.iter().map(|(p, n)| (*p, *n)).collect(),
            stuck: f.stuck_since.and_then(|_| self.why_stuck(f, now)),
        })
    }

    /// How the peers do that are connected.
    #[must_use]
    pub fn paces(&self, now: u64) -> Vec<Pace> {
        let up = self.peers.iter().filter(|(_, p)| p.up);
        up.map(|(peer, p)| Pace {
            peer: *peer,
            rate: p.measured_rate(),
            bytes: p.bytes,
            under_way: p.under_way,
            window: p.window(),
            lied: p.is_put_aside(now),
        })
        .collect()
    }

    /// Bytes that are under way.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        self.under_way
    }
}

/// Of what comes, one part in so many may be asked of a second peer, and at first so much.
const SPARE: u64 = 20;
const SPARE_BYTES_MAX: u64 = 8 << 20;
/// A peer that has too much to do is left alone for this long.
const BUSY_MS: u64 = 200;
