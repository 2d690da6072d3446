//! What is known of one file that is wanted: which pieces lack, who holds them, how it gets on.
//!
//! Invariant: what is asked of somebody lacks. Memory: a bit for each piece for what lacks and one
//! for what is asked, a bit for each peer that holds a part, and two bytes for each piece as soon
//! as there is one.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pieces::{Holding, Pieces};
use crate::base::id::NodeId;

/// A peer is asked again what it holds after this long, doubling up to the second while its answer
/// stays the same.
const AGAIN_MS: u64 = 2_000;
const AGAIN_MS_MAX: u64 = 30_000;
/// For each so many bytes of an answer the first pause is that much longer: what is told stays
/// far below what is sent.
const ANSWER_BYTES: u64 = 4096;
/// Words in which the rarest piece is looked for; of a longer file, in so many somewhere.
const SCAN_WORDS: usize = 1024;
/// Pieces that follow one another and are asked of one peer: disks read and write on then, and the
/// list of what is there stays short.
const STRETCH_MAX: u32 = 16;
/// First pause after our own disk failed; doubles up to the second.
const DISK_REST_MS: u64 = 500;
const DISK_REST_MS_MAX: u64 = 30_000;
/// The rate of a file is measured over so long.
const METER_MS: u64 = 1_000;

/// What one peer has of the file, as far as it said.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) what: Holding,
    /// It was asked and has not answered.
    pub(super) asked_at: Option<u64>,
    /// When to ask.
    pub(super) next: u64,
    pause: u64,
    /// It has answered once.
    pub(super) is_known: bool,
}

impl Default for Holder {
    fn default() -> Self {
        Self {
            what: Holding::Nothing,
            asked_at: None,
            next: 0,
            pause: AGAIN_MS,
            is_known: false,
        }
    }
}

#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) lens: Arc<[u32]>,
    /// All of it is wanted, not only what readers wait for.
    pub(super) keep: bool,
    pub(super) lacking: Pieces,
    pub(super) asked: Pieces,
    pub(super) holders: BTreeMap<NodeId, Holder>,
    /// For each piece, how many peers that hold a part of the file hold it. Empty if none does.
    common: Vec<u16>,
    pub(super) total: u64,
    pub(super) left: u64,
    /// What came from whom.
    pub(super) from: BTreeMap<NodeId, u64>,
    meter: (u64, u64),
    pub(super) rate: u64,
    pub(super) rests_until: u64,
    faults: u32,
    /// Since when nobody can be asked for what lacks.
    pub(super) stuck_since: Option<u64>,
    pub(super) stuck_told: bool,
}

impl Wanted {
    pub(super) fn new(lens: Arc<[u32]>, lacking: Pieces, keep: bool, now: u64) -> Self {
        let len_of = |n: u32| lens.get(n as usize).copied().map_or(0, u64::from);
        let left = lacking.iter_from(0).map(len_of).sum();
        let asked = Pieces::none(lacking.len());
        Self {
            keep,
            lacking,
            asked,
            holders: BTreeMap::new(),
            common: Vec::new(),
            total: left,
            left,
            from: BTreeMap::new(),
            meter: (now, 0),
            rate: 0,
            rests_until: 0,
            faults: 0,
            stuck_since: None,
            stuck_told: false,
            lens,
        }
    }

    pub(super) fn len_of(&self, piece: u32) -> u32 {
        self.lens.get(piece as usize).copied().unwrap_or(0)
    }

    fn count(&mut self, what: &Holding, more: bool) {
        let Holding::Some(pieces) = what else { return };
        if self.common.is_empty() {
            self.common = vec![0; self.lens.len()];
        }
        for n in pieces.iter_from(0) {
            if let Some(c) = self.common.get_mut(n as usize) {
                *c = if more {
                    c.saturating_add(1)
                } else {
                    c.saturating_sub(1)
                };
            }
        }
    }

    fn common(&self, piece: u32) -> u16 {
        self.common.get(piece as usize).copied().unwrap_or(0)
    }

    /// Takes note of what a peer says that it holds; gives how long it took to say it.
    pub(super) fn told(&mut self, peer: NodeId, what: Holding, now: u64) -> Option<u64> {
        let what = match what {
            Holding::Some(p) if p.len() != self.lacking.len() => Holding::Nothing,
            what => what,
        };
        let mut holder = self.holders.remove(&peer).unwrap_or_default();
        let took = holder.asked_at.take().map(|at| now.saturating_sub(at));
        let same = holder.is_known && holder.what == what;
        holder.is_known = true;
        let bytes = match &what {
            Holding::Some(p) => u64::from(p.len()) / 8,
            _ => 0,
        };
        let first = AGAIN_MS + AGAIN_MS * bytes / ANSWER_BYTES;
        holder.pause = if same {
            (holder.pause * 2).min(AGAIN_MS_MAX).max(first)
        } else {
            first
        };
        holder.next = now + holder.pause;
        if !same {
            let before = std::mem::replace(&mut holder.what, what);
            self.count(&before, false);
            let after = std::mem::replace(&mut holder.what, Holding::Nothing);
            self.count(&after, true);
            holder.what = after;
        }
        self.holders.insert(peer, holder);
        took
    }

    /// A peer did not say what it holds.
    pub(super) fn silent(&mut self, peer: NodeId, now: u64) {
        let holder = self.holders.entry(peer).or_default();
        holder.asked_at = None;
        holder.pause = (holder.pause * 2).min(AGAIN_MS_MAX);
        holder.next = now + holder.pause;
    }

    /// A peer has not got a piece after all.
    pub(super) fn has_not(&mut self, peer: NodeId, piece: u32) {
        let Some(mut holder) = self.holders.remove(&peer) else {
            return;
        };
        if holder.what.has(piece) {
            self.count(&holder.what, false);
            let mut left = match std::mem::replace(&mut holder.what, Holding::Nothing) {
                Holding::Some(p) => p,
                _ => Pieces::all(self.lacking.len()),
            };
            left.remove(piece);
            holder.what = Holding::of(left);
            self.count(&holder.what, true);
        }
        self.holders.insert(peer, holder);
    }

    pub(super) fn forget_peer(&mut self, peer: NodeId) {
        if let Some(holder) = self.holders.remove(&peer) {
            self.count(&holder.what, false);
        }
    }

    pub(super) fn holds(&self, peer: NodeId, piece: u32) -> bool {
        self.holders.get(&peer).is_some_and(|h| h.what.has(piece))
    }

    /// Whether a peer holds anything that lacks.
    pub(super) fn helps(&self, peer: NodeId) -> bool {
        let what = self.holders.get(&peer).map(|h| &h.what);
        let what = what.filter(|w| **w != Holding::Nothing);
        let lacking = &self.lacking;
        what.is_some_and(|w| (0..lacking.words()).any(|n| w.word(n) & lacking.word(n) != 0))
    }

    /// Whether a piece lacks and nobody is asked for it.
    pub(super) fn is_open(&self, piece: u32) -> bool {
        self.lacking.has(piece) && !self.asked.has(piece)
    }

    /// A piece is here.
    pub(super) fn came(&mut self, piece: u32, from: Option<(NodeId, u32)>, now: u64) -> bool {
        if !self.lacking.remove(piece) {
            return false;
        }
        self.asked.remove(piece);
        self.faults = 0;
        (self.stuck_since, self.stuck_told) = (None, false);
        let len = u64::from(self.len_of(piece));
        self.left = self.left.saturating_sub(len);
        if let Some((peer, bytes)) = from {
            *self.from.entry(peer).or_default() += u64::from(bytes);
            self.meter.1 += len;
            self.read_meter(now);
        }
        true
    }

    pub(super) fn read_meter(&mut self, now: u64) {
        let took = now.saturating_sub(self.meter.0);
        if took >= METER_MS {
            self.rate = self.meter.1 * 1000 / took;
            self.meter = (now, 0);
        }
    }

    /// Our own disk did not take a piece.
    pub(super) fn disk_failed(&mut self, now: u64) {
        let pause = (DISK_REST_MS << self.faults.min(10)).min(DISK_REST_MS_MAX);
        self.faults += 1;
        self.rests_until = now + pause;
    }

    /// The piece to ask a peer for that fewest others hold, of several one at random, and how many
    /// behind it are as rare. None if it holds nothing that is open.
    pub(super) fn rarest(&self, peer: NodeId, chance: u32) -> Option<(u32, u32)> {
        let holder = self.holders.get(&peer)?;
        let len = self.lacking.len().max(1);
        let from = chance % len;
        let (words, first) = (self.lacking.words(), from as usize / 64);
        let behind = u64::MAX << (from % 64);
        let mut best: Option<(u16, u32)> = None;
        // The first word twice: its end first, its beginning at last.
        for n in 0..=words {
            let at = (first + n) % words.max(1);
            let mask = match n {
                0 => behind,
                _ if n == words => !behind,
                _ => u64::MAX,
            };
            let mut open =
                self.lacking.word(at) & !self.asked.word(at) & holder.what.word(at) & mask;
            while open != 0 {
                let piece = u32::try_from(at * 64).ok()? + open.trailing_zeros();
                let common = self.common(piece);
                if best.is_none_or(|(c, _)| common < c) {
                    best = Some((common, piece));
                }
                open = if self.common.is_empty() {
                    0
                } else {
                    open & (open - 1)
                };
            }
            if best.is_some_and(|(c, _)| c == 0 || n >= SCAN_WORDS) {
                break;
            }
        }
        let (common, piece) = best?;
        let most = (len / 64).clamp(1, STRETCH_MAX);
        let as_rare =
            |n: &u32| self.is_open(*n) && holder.what.has(*n) && self.common(*n) == common;
        let end = (piece..len.min(piece + most)).take_while(as_rare).count();
        Some((piece, u32::try_from(end).unwrap_or(1)))
    }
}
