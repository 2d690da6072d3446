//! What is asked of whom now.

use super::peer::{Asked, Peer};
use super::{
    ASK_FILES_MAX, Class, File, NodeId, Output, Swarm, UNDER_WAY_BYTES_MAX, URGENT_BYTES_MAX,
    Wanted, Why,
};

/// Of what one reader waits for, so many pieces are asked for at once, out of turn; what is behind
/// them comes as if it were read ahead.
const URGENT_PIECES: usize = 4;
/// The same of all readers: those who wait longest first.
const URGENT_PIECES_MAX: usize = 128;
/// Pieces that are asked for ahead of one reader.
const AHEAD_PIECES: usize = 64;
/// A peer that sends nothing for this long while something is asked of it is left alone.
const SILENT_MS: u64 = 8_000;
/// A piece that takes this much longer than it should is asked of another.
const LATE_MS: u64 = 30_000;
/// What a reader waits for is asked of a second peer when it takes twice as long as it should and
/// this.
const SLACK_MS: u64 = 50;
/// What others do is taken over from them only for as much.
const STEAL_MS: u64 = 200;
/// A question is not answered any more after this long.
const ANSWER_MS: u64 = 10_000;
/// Nobody was there to ask for this long: that is told.
const STUCK_MS: u64 = 2_000;
/// While a reader waits and nobody holds it, all are asked this often.
const WAITING_MS: u64 = 500;

impl Swarm {
    /// Asks for all that may be asked for.
    pub(super) fn plan(&mut self, now: u64, out: &mut Vec<Output>) {
        if std::mem::take(&mut self.asks_holds) {
            self.ask_holds(now, out);
        }
        if !self.needs.is_empty() {
            self.serve_readers(now, out);
        }
        self.keep(now, out);
    }

    /// What only time brings about.
    pub(super) fn tick(&mut self, now: u64, out: &mut Vec<Output>) {
        self.give_up_silent(now, out);
        self.needs.retain(|_, n| n.deadline > now);
        for f in self.files.values_mut() {
            f.read_meter(now);
            for (peer, h) in &mut f.holders {
                if h.asked_at.is_some_and(|at| at + ANSWER_MS <= now) {
                    tracing::trace!(?peer, "did not say what it holds");
                    h.asked_at = None;
                    h.next = now + ANSWER_MS;
                }
            }
        }
        // Who rested may be asked again.
        self.no_peer_is_dry();
        self.hurry_waiting(now);
        self.ask_holds(now, out);
        self.look_for_stuck(now, out);
        self.steal(now, out);
    }

    fn give_up_silent(&mut self, now: u64, out: &mut Vec<Output>) {
        let silent = |p: &Peer| !p.asked.is_empty() && p.heard + SILENT_MS <= now;
        let all = self.peers.iter().filter(|(_, p)| silent(p));
        let silent: Vec<NodeId> = all.map(|(n, _)| *n).collect();
        for peer in silent {
            self.take_back_telling(peer, out);
            if let Some(p) = self.peers.get_mut(&peer) {
                p.fails(now);
                p.rests(now, SILENT_MS);
            }
        }
        let late = self.peers.iter().flat_map(|(n, p)| {
            let late = p.asked.iter().filter(|(_, a)| a.due + LATE_MS <= now);
            late.map(|((file, piece), _)| (*n, *file, *piece))
        });
        let late: Vec<_> = late.collect();
        for (peer, file, piece) in late {
            self.forget_ask(peer, file, piece);
            out.push(Output::Cancel { peer, file, piece });
            if let Some(p) = self.peers.get_mut(&peer) {
                p.fails(now);
            }
        }
    }

    /// A file whose reader waits for what nobody is known to hold is asked about more often.
    fn hurry_waiting(&mut self, now: u64) {
        for n in self.needs.values() {
            let Some(f) = self.files.get_mut(&n.file) else {
                continue;
            };
            let Some(first) = f.lacking.next(n.pieces.start) else {
                continue;
            };
            let held = f.holders.values().any(|h| h.what.has(first));
            if !held {
                for h in f.holders.values_mut() {
                    h.next = h.next.min(now + WAITING_MS);
                }
            }
        }
    }

    fn ask_holds(&mut self, now: u64, out: &mut Vec<Output>) {
        for (peer, p) in &self.peers {
            if !p.serves(now) {
                continue;
            }
            let mut files = Vec::new();
            for (file, f) in &mut self.files {
                if f.lacking.is_empty() || files.len() == ASK_FILES_MAX {
                    continue;
                }
                let h = f.holders.entry(*peer).or_default();
                let is_whole = h.what == super::Holding::Whole;
                if !is_whole && h.asked_at.is_none() && h.next <= now {
                    h.asked_at = Some(now);
                    files.push(*file);
                }
            }
            if !files.is_empty() {
                let peer = *peer;
                out.push(Output::AskHolds { peer, files });
            }
        }
    }

    fn serve_readers(&mut self, now: u64, out: &mut Vec<Output>) {
        let mut order: Vec<_> = self.needs.iter().map(|(r, n)| (n.deadline, *r)).collect();
        order.sort_unstable();
        let mut left = URGENT_PIECES_MAX;
        for (deadline, reader) in &order {
            let Some((file, pieces)) = self.wants_now(*reader, now) else {
                continue;
            };
            for piece in pieces {
                if left == 0 {
                    break;
                }
                left -= 1;
                self.urge(file, piece, *deadline, now, out);
            }
        }
        for (_, reader) in &order {
            let Some((file, pieces)) = self.wants_next(*reader, now) else {
                continue;
            };
            for piece in pieces {
                let Some(peer) = self.soonest(file, piece, Class::Ahead, None, now) else {
                    break;
                };
                self.ask(peer, file, piece, Class::Ahead, now, out);
            }
        }
    }

    fn wants_now(&self, reader: u64, now: u64) -> Option<(File, Vec<u32>)> {
        let n = self.needs.get(&reader)?;
        let f = self.files.get(&n.file).filter(|f| f.rests_until <= now)?;
        let lacking = f.lacking.iter_from(n.pieces.start);
        let wanted = lacking.take_while(|p| *p < n.pieces.end);
        Some((n.file, wanted.take(URGENT_PIECES).collect()))
    }

    /// What is behind that, and was not asked for.
    fn wants_next(&self, reader: u64, now: u64) -> Option<(File, Vec<u32>)> {
        let n = self.needs.get(&reader)?;
        let f = self.files.get(&n.file).filter(|f| f.rests_until <= now)?;
        let lacking = f.lacking.iter_from(n.pieces.start);
        let rest = lacking.take_while(|p| *p < n.pieces.end);
        let rest = rest.skip(URGENT_PIECES).take(AHEAD_PIECES);
        let ahead = f.lacking.iter_from(n.ahead.start);
        let ahead = ahead.take_while(|p| *p < n.ahead.end);
        let open = rest.chain(ahead).take(AHEAD_PIECES);
        Some((n.file, open.filter(|p| f.is_open(*p)).collect()))
    }

    /// Sees to it that a piece that a reader waits for is on the way, soon.
    fn urge(&mut self, file: File, piece: u32, deadline: u64, now: u64, out: &mut Vec<Output>) {
        let of = self
            .asked_of
            .get(&(file, piece))
            .cloned()
            .unwrap_or_default();
        let [peer] = of[..] else {
            if of.is_empty()
                && let Some(best) = self.soonest(file, piece, Class::Urgent, None, now)
            {
                self.ask(best, file, piece, Class::Urgent, now, out);
            }
            return;
        };
        let Some(p) = self.peers.get(&peer) else {
            return;
        };
        let Some(asked) = p.asked.get(&(file, piece)).copied() else {
            return;
        };
        if asked.class == Class::Urgent {
            let expected = asked.due.saturating_sub(asked.at);
            let is_late = now > asked.due + expected + SLACK_MS;
            let is_last = deadline < now + 2 * expected && now > asked.due;
            if is_late || is_last {
                self.ask_another(peer, file, piece, now, out);
            }
            return;
        }
        // It waits behind others: it is asked for again, out of turn, if that is sooner.
        let ahead = p.ahead_of(&asked);
        let will_take = p.takes_ms(ahead + u64::from(asked.len));
        if ahead == 0 {
            // It is being sent.
            if now > asked.due + SLACK_MS {
                self.ask_another(peer, file, piece, now, out);
            }
            return;
        }
        let Some(best) = self.soonest(file, piece, Class::Urgent, None, now) else {
            return;
        };
        let Some(b) = self.peers.get(&best) else {
            return;
        };
        if 2 * b.expected_ms(asked.len, Class::Urgent) + SLACK_MS < will_take {
            self.forget_ask(peer, file, piece);
            out.push(Output::Cancel { peer, file, piece });
            self.ask(best, file, piece, Class::Urgent, now, out);
        }
    }

    /// Asks a second peer for what is late at one, as long as that is rare: when all is slow it
    /// makes all slower.
    fn ask_another(
        &mut self,
        peer: NodeId,
        file: File,
        piece: u32,
        now: u64,
        out: &mut Vec<Output>,
    ) {
        let len = self.files.get(&file).map_or(0, |f| f.len_of(piece)).into();
        if self.spare < len {
            return;
        }
        if let Some(other) = self.soonest(file, piece, Class::Urgent, Some(peer), now) {
            self.spare -= len;
            self.ask(other, file, piece, Class::Urgent, now, out);
        }
    }

    /// Who should give a piece soonest, of those that hold it and may be asked.
    fn soonest(
        &self,
        file: File,
        piece: u32,
        class: Class,
        but: Option<NodeId>,
        now: u64,
    ) -> Option<NodeId> {
        let f = self.files.get(&file)?;
        let len = f.len_of(piece);
        let most = match class {
            Class::Urgent => UNDER_WAY_BYTES_MAX + URGENT_BYTES_MAX,
            _ => UNDER_WAY_BYTES_MAX,
        };
        if self.under_way + u64::from(len) > most {
            return None;
        }
        let may = self.peers.iter().filter(|(n, p)| {
            Some(**n) != but && p.serves(now) && p.has_room(len, class) && f.holds(**n, piece)
        });
        let soonest = may.min_by_key(|(_, p)| p.expected_ms(len, class));
        soonest.map(|(n, _)| *n)
    }

    fn ask(
        &mut self,
        peer: NodeId,
        file: File,
        piece: u32,
        class: Class,
        now: u64,
        out: &mut Vec<Output>,
    ) {
        let (Some(p), Some(f)) = (self.peers.get_mut(&peer), self.files.get_mut(&file)) else {
            return;
        };
        let len = f.len_of(piece);
        p.ask(file, piece, len, class, now);
        f.asked.insert(piece);
        self.under_way += u64::from(len);
        self.asked_of.entry((file, piece)).or_default().push(peer);
        out.push(Output::Ask {
            peer,
            file,
            piece,
            class,
        });
    }

    /// Fills the windows of all peers with what is to be kept, a piece at a time in turn.
    fn keep(&mut self, now: u64, out: &mut Vec<Output>) {
        let may = |p: &Peer| p.serves(now) && !p.is_dry;
        let up = self.peers.iter().filter(|(_, p)| may(p)).map(|(n, _)| *n);
        let mut peers: Vec<NodeId> = up.collect();
        if peers.len() > 1 {
            let first = self.chance() as usize % peers.len();
            peers.rotate_left(first);
        }
        while !peers.is_empty() {
            peers.retain(|peer| {
                let Some((file, piece)) = self.next_to_keep(*peer, now) else {
                    return false;
                };
                self.ask(*peer, file, piece, Class::Background, now, out);
                true
            });
        }
    }

    /// The next piece to ask a peer for, if it has room for it.
    fn next_to_keep(&mut self, peer: NodeId, now: u64) -> Option<(File, u32)> {
        let chance = self.chance();
        let p = self.peers.get_mut(&peer)?;
        let going_on = p.stretch.and_then(|(file, piece, left)| {
            let f = self.files.get(&file)?;
            let good = left > 0 && f.keep && f.rests_until <= now;
            (good && f.is_open(piece) && f.holds(peer, piece)).then_some((file, piece, left))
        });
        let found = going_on.or_else(|| {
            let mut kept = self
                .files
                .iter()
                .filter(|(_, f)| f.keep && f.rests_until <= now);
            kept.find_map(|(file, f)| {
                let (piece, count) = f.rarest(peer, chance)?;
                Some((*file, piece, count))
            })
        });
        let Some((file, piece, left)) = found else {
            p.is_dry = true;
            p.stretch = None;
            return None;
        };
        p.stretch = Some((file, piece, left));
        let len = self.files.get(&file)?.len_of(piece);
        let fits = self.under_way + u64::from(len) <= UNDER_WAY_BYTES_MAX;
        if !fits || !p.has_room(len, Class::Background) {
            return None;
        }
        p.stretch = Some((file, piece + 1, left - 1));
        Some((file, piece))
    }

    /// At the end of a file, what waits long at a slow peer is asked of one that has nothing to
    /// do. What a peer is sending just now is left to it.
    fn steal(&mut self, now: u64, out: &mut Vec<Output>) {
        let idle = |p: &Peer| p.serves(now) && p.asked.is_empty();
        let all = self.peers.iter().filter(|(_, p)| idle(p)).map(|(n, _)| *n);
        let idle: Vec<NodeId> = all.collect();
        for thief in idle {
            let Some((peer, file, piece)) = self.worth_stealing(thief, now) else {
                continue;
            };
            self.forget_ask(peer, file, piece);
            out.push(Output::Cancel { peer, file, piece });
            self.ask(thief, file, piece, Class::Background, now, out);
        }
    }

    fn worth_stealing(&self, thief: NodeId, now: u64) -> Option<(NodeId, File, u32)> {
        let t = self.peers.get(&thief)?;
        let mut best: Option<(u64, (NodeId, File, u32))> = None;
        for (peer, p) in self.peers.iter().filter(|(n, _)| **n != thief) {
            let last = p.asked.iter().max_by_key(|(_, a)| (a.class, a.number));
            let last = last.filter(|(_, a)| a.class == Class::Background);
            let Some(((file, piece), asked)) = last else {
                continue;
            };
            let first = p.asked.values().map(|a| (a.class, a.number)).min();
            let is_sent_now = first == Some((asked.class, asked.number));
            let is_stalled = p.heard + STEAL_MS < now && asked.due + STEAL_MS < now;
            if is_sent_now && !is_stalled {
                continue;
            }
            let is_asked_once = self
                .asked_of
                .get(&(*file, *piece))
                .is_some_and(|of| of.len() == 1);
            let can = self.files.get(file).is_some_and(|f| f.holds(thief, *piece));
            if !is_asked_once || !can {
                continue;
            }
            let there = self.will_take(p, asked, now);
            let here = t.expected_ms(asked.len, Class::Background);
            if there > 2 * here + STEAL_MS && best.is_none_or(|(most, _)| there > most) {
                best = Some((there, (*peer, *file, *piece)));
            }
        }
        best.map(|(_, what)| what)
    }

    /// How long a peer still takes for a piece: what it should, and as long again as it is late.
    #[expect(clippy::unused_self, reason = "reads as a question to the plan")]
    fn will_take(&self, p: &Peer, asked: &Asked, now: u64) -> u64 {
        let late = now.saturating_sub(asked.due);
        p.takes_ms(p.ahead_of(asked) + u64::from(asked.len)) + late
    }

    fn look_for_stuck(&mut self, now: u64, out: &mut Vec<Output>) {
        let mut found = Vec::new();
        for (file, f) in &self.files {
            let is_wanted = f.keep || self.needs.values().any(|n| n.file == *file);
            let is_idle = is_wanted && !f.lacking.is_empty() && f.asked.is_empty();
            let why = is_idle.then(|| self.why_stuck(f, now)).flatten();
            found.push((*file, why));
        }
        for (file, why) in found {
            let Some(f) = self.files.get_mut(&file) else {
                continue;
            };
            let Some(why) = why else {
                (f.stuck_since, f.stuck_told) = (None, false);
                continue;
            };
            let since = *f.stuck_since.get_or_insert(now);
            if since + STUCK_MS <= now && !f.stuck_told {
                f.stuck_told = true;
                out.push(Output::Stuck(file, why));
            }
        }
    }

    /// Why nobody can be asked for anything that lacks; none if somebody can.
    pub(super) fn why_stuck(&self, f: &Wanted, now: u64) -> Option<Why> {
        if f.rests_until > now {
            return Some(Why::Disk);
        }
        let mut up = self.peers.iter().filter(|(_, p)| p.up).peekable();
        if up.peek().is_none() {
            return Some(Why::NoPeer);
        }
        let mut holders = up.filter(|(n, _)| f.helps(**n)).peekable();
        if holders.peek().is_none() {
            return Some(Why::NobodyHolds);
        }
        let is_served = holders.any(|(_, p)| p.serves(now));
        (!is_served).then_some(Why::PutAside)
    }
}
