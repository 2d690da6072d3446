//! What is known of one peer: how fast it is, what is asked of it, whether it is put aside.
//!
//! Invariant: what is under way from a peer never exceeds its window by more than what readers
//! wait for. The window is twice what is on the way at the best rate of late, and a little: it
//! doubles in each round trip while the rate does. A peer whose disk or processor takes longer
//! than the way is found by trying: its window is doubled now and then, and stays so if more came.

use std::collections::{BTreeMap, VecDeque};

use super::{Class, File};

/// The window of a peer that nothing has come from yet, and what is added to that of others.
const WINDOW_BYTES_MIN: u64 = 512 << 10;
/// The largest window: what the connections keep under way.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// Pieces under way from one peer; each is a stream.
pub(super) const ASKS_MAX: usize = 64;
/// What readers wait for may be under way beyond the window.
const URGENT_BYTES_MAX: u64 = 4 << 20;
/// The rate of a peer that has none yet, bytes a second.
const FIRST_RATE: u64 = 4 << 20;
/// A rate is measured over at least this long.
const ROUND_MS: u64 = 50;
/// Rates that are remembered: the best of them counts.
const ROUNDS: usize = 8;
/// The round trip of a peer that has none yet, and the shortest that windows are made for: a disk
/// and a scheduler answer no faster.
const FIRST_RTT_MS: u64 = 100;
const SHORTEST_RTT_MS: u64 = 20;
/// A doubled window stays if so many percent more come.
const WORTH: u64 = 120;
/// Rounds until it is tried again, after it was of no use.
const TRY_AGAIN: u32 = 16;
/// First pause of a peer that failed; doubles up to the second.
const REST_MS: u64 = 100;
const REST_MS_MAX: u64 = 10_000;
/// Pieces that a peer says it holds and has not, one after the other, until that is a failure.
const ABSENT_MAX: u32 = 16;
/// First pause of one that sent what it was not asked for; doubles up to the second.
const LIE_REST_MS: u64 = 30_000;
const LIE_REST_MS_MAX: u64 = 3_600_000;

/// A piece that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) at: u64,
    pub(super) len: u32,
    pub(super) class: Class,
    /// The how-manieth of this peer: it answers in this order, within a class.
    pub(super) number: u64,
    /// When it should be here.
    pub(super) due: u64,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) up: bool,
    pub(super) asked: BTreeMap<(File, u32), Asked>,
    pub(super) under_way: u64,
    urgent_under_way: u64,
    next_number: u64,
    /// When it last gave a sign of life.
    pub(super) heard: u64,
    rtt: Option<u64>,
    /// The round that is being measured: since when, and how much has come.
    round: (u64, u64),
    rates: VecDeque<u64>,
    /// The same of as much as a window holds.
    windowful: (u64, u64),
    /// The window that trying found, and whether what is asked for met its end since then.
    tried: u64,
    is_full: bool,
    /// What came at half of the window that is being tried, and rounds since that began.
    trial: Option<(u64, u32)>,
    rounds: u32,
    failures: u32,
    /// How often it had not got what it said it held, since it last gave something.
    absent: u32,
    lies: u32,
    pub(super) rests_until: u64,
    /// The stretch that it is working through.
    pub(super) stretch: Option<(File, u32, u32)>,
    /// There was nothing for it when it was last looked at.
    pub(super) is_dry: bool,
    /// Bytes that came from it.
    pub(super) bytes: u64,
}

impl Peer {
    pub(super) fn new(now: u64) -> Self {
        Self {
            up: false,
            asked: BTreeMap::new(),
            under_way: 0,
            urgent_under_way: 0,
            next_number: 0,
            heard: now,
            rtt: None,
            round: (now, 0),
            rates: VecDeque::new(),
            windowful: (now, 0),
            tried: WINDOW_BYTES_MIN,
            is_full: false,
            trial: None,
            rounds: TRY_AGAIN,
            failures: 0,
            absent: 0,
            lies: 0,
            rests_until: 0,
            stretch: None,
            is_dry: false,
            bytes: 0,
        }
    }

    pub(super) fn serves(&self, now: u64) -> bool {
        self.up && self.rests_until <= now
    }

    /// Whether it was found to lie and is put aside for that.
    pub(super) fn is_put_aside(&self, now: u64) -> bool {
        self.lies > 0 && self.rests_until > now
    }

    /// Bytes a second, the best of late.
    pub(super) fn rate(&self) -> u64 {
        let best = self.rates.iter().copied().max();
        best.unwrap_or(FIRST_RATE).max(1)
    }

    pub(super) fn measured_rate(&self) -> u64 {
        self.rates.back().copied().unwrap_or(0)
    }

    pub(super) fn rtt_ms(&self) -> u64 {
        self.rtt.unwrap_or(FIRST_RTT_MS)
    }

    pub(super) fn window(&self) -> u64 {
        if self.rates.is_empty() {
            return WINDOW_BYTES_MIN;
        }
        let rtt = self.rtt_ms().max(SHORTEST_RTT_MS);
        let on_the_way = self.rate().saturating_mul(rtt) / 1000;
        let by_the_way = 2 * on_the_way + WINDOW_BYTES_MIN;
        by_the_way.max(self.tried).min(WINDOW_BYTES_MAX)
    }

    /// Whether one more of this length and class may be asked of it. One always may: a piece can
    /// be larger than a window.
    pub(super) fn has_room(&self, len: u32, class: Class) -> bool {
        if self.asked.len() >= ASKS_MAX {
            return false;
        }
        if class == Class::Urgent {
            self.urgent_under_way == 0 || self.urgent_under_way + u64::from(len) <= URGENT_BYTES_MAX
        } else {
            let other = self.under_way - self.urgent_under_way;
            other == 0 || other + u64::from(len) <= self.window()
        }
    }

    /// How long it takes to send so many bytes.
    pub(super) fn takes_ms(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(1000) / self.rate()
    }

    /// When a piece that is asked of it now should be here, from now: it answers what is urgent
    /// first, and the rest in turn.
    pub(super) fn expected_ms(&self, len: u32, class: Class) -> u64 {
        let before = if class == Class::Urgent {
            self.urgent_under_way
        } else {
            self.under_way
        };
        self.rtt_ms() + self.takes_ms(before + u64::from(len))
    }

    /// How much it sends before a piece that it was asked for.
    pub(super) fn ahead_of(&self, asked: &Asked) -> u64 {
        let before = |a: &&Asked| (a.class, a.number) < (asked.class, asked.number);
        self.asked
            .values()
            .filter(before)
            .map(|a| u64::from(a.len))
            .sum()
    }

    pub(super) fn ask(&mut self, file: File, piece: u32, len: u32, class: Class, now: u64) {
        if self.asked.is_empty() {
            self.heard = now;
            self.round = (now, 0);
            self.windowful = (now, 0);
        }
        let asked = Asked {
            at: now,
            len,
            class,
            number: self.next_number,
            due: now + self.expected_ms(len, class),
        };
        self.next_number += 1;
        self.under_way += u64::from(len);
        if class == Class::Urgent {
            self.urgent_under_way += u64::from(len);
        }
        // The next would not fit.
        self.is_full |= self.under_way + u64::from(len) > self.window();
        self.asked.insert((file, piece), asked);
    }

    /// It is not asked for this any more, whatever became of it.
    pub(super) fn forget(&mut self, file: File, piece: u32) -> Option<Asked> {
        let asked = self.asked.remove(&(file, piece))?;
        self.under_way -= u64::from(asked.len);
        if asked.class == Class::Urgent {
            self.urgent_under_way -= u64::from(asked.len);
        }
        Some(asked)
    }

    /// A piece of this length came, by so many bytes.
    pub(super) fn came(&mut self, len: u32, bytes: u32, now: u64) {
        self.heard = now;
        self.failures = 0;
        self.absent = 0;
        self.bytes += u64::from(bytes);
        self.round.1 += u64::from(len);
        let took = now.saturating_sub(self.round.0);
        if took >= ROUND_MS.max(self.rtt_ms()) {
            self.rates.push_back(self.round.1 * 1000 / took);
            if self.rates.len() > ROUNDS {
                self.rates.pop_front();
            }
            self.round = (now, 0);
        }
        self.windowful.1 += u64::from(len);
        let took = now.saturating_sub(self.windowful.0);
        if took >= ROUND_MS && self.windowful.1 >= self.window() {
            self.try_more(self.windowful.1 * 1000 / took);
            (self.windowful, self.is_full) = ((now, 0), false);
        }
    }

    /// Looks whether a larger window is of use. A round has ended in which so much came a second.
    fn try_more(&mut self, rate: u64) {
        if !self.is_full {
            return;
        }
        self.rounds += 1;
        match self.trial {
            // What came in the first round was asked for before.
            Some((_, 0)) => self.trial = self.trial.map(|(before, _)| (before, 1)),
            Some((before, _)) if rate * 100 < before * WORTH => {
                self.tried = (self.tried / 2).max(WINDOW_BYTES_MIN);
                (self.trial, self.rounds) = (None, 0);
            }
            None if self.rounds < TRY_AGAIN => {}
            _ if self.window() >= WINDOW_BYTES_MAX => self.trial = None,
            _ => {
                self.tried = (self.window() * 2).min(WINDOW_BYTES_MAX);
                self.trial = Some((rate, 0));
            }
        }
    }

    fn is_new_to_us(&mut self) {
        self.rates.clear();
        self.tried = WINDOW_BYTES_MIN;
        (self.trial, self.rounds) = (None, TRY_AGAIN);
    }

    /// It answered a question this long after it was asked.
    pub(super) fn answered(&mut self, took: u64) {
        self.rtt = Some(self.rtt.map_or(took, |r| r.min(took)));
    }

    /// It did not give what it was asked for, or not in time.
    pub(super) fn fails(&mut self, now: u64) {
        if self.rests_until > now {
            // Of all that one break ends, the first counts.
            return;
        }
        let pause = (REST_MS << self.failures.min(10)).min(REST_MS_MAX);
        self.failures += 1;
        self.rests_until = self.rests_until.max(now + pause);
        // What it could do before says nothing any more.
        self.is_new_to_us();
    }

    /// It has not got what it said it holds. That may happen, but not all the time.
    pub(super) fn has_not(&mut self, now: u64) {
        self.absent += 1;
        if self.absent > ABSENT_MAX {
            self.fails(now);
        }
    }

    pub(super) fn lies(&mut self, now: u64) {
        let pause = (LIE_REST_MS << self.lies.min(10)).min(LIE_REST_MS_MAX);
        self.lies += 1;
        self.rests_until = self.rests_until.max(now + pause);
    }

    /// It is to be asked nothing for so long, and is not to blame.
    pub(super) fn rests(&mut self, now: u64, ms: u64) {
        self.rests_until = self.rests_until.max(now + ms);
    }

    /// The connection is new. That it lied is not forgotten.
    pub(super) fn comes_up(&mut self, now: u64) {
        self.up = true;
        self.heard = now;
        self.failures = 0;
        self.rtt = None;
        self.is_new_to_us();
        if self.lies == 0 {
            self.rests_until = 0;
        }
        self.is_dry = false;
    }
}
