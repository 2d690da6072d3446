//! Who may let go of a copy of a large file. No sockets, no disk, no clock, no chance of its own:
//! `handle(input, now) -> outputs`.
//!
//! A node lets go of its copy when as many others as are wanted have looked at theirs, and have
//! promised, durably, to keep it while the promise stands. A promise is to one attempt of one
//! node. It ends when that node says that the attempt is over, or is no member any more; never by
//! a clock, as nobody knows how long a node that is silent will take to do what it may.
//!
//! Invariant: from [`Output::Go`] to [`Input::Done`] so many others as were wanted hold the file
//! and cannot let go of it. So copies never get fewer than that by letting go, whatever is lost,
//! late, twice or out of order, and whoever crashes.
//!
//! Why it holds. Who has an attempt on promises nothing on that file, and who has promised begins
//! none; what a check saw before an attempt counts for nothing after it. A promise is on the disk
//! before it is told. An attempt is never on again when it was over, also by a crash: so "it is not
//! on" is true for ever, however late it comes. Of two that want to let go of the last two copies
//! neither is promised anything, and both try again, each after a time by chance.
//!
//! One promise of an attempt takes the place of one of another attempt of the same node only when
//! that node said that the old one is over. Of two questions the later one to come need not be the
//! later one asked: if it took the place at once, a question that was late would take away what the
//! attempt that is on counts on.
//!
//! What the owner keeps to:
//! - Attempts have numbers that this node never used before, also before a restart.
//! - Each [`Output::Check`] is answered by one [`Input::Checked`], each [`Output::Go`] by one
//!   [`Input::Done`]. What a `Go` allowed and was not done before a restart is not done after it.
//! - [`Input::IsOn`] is what the peer said. If it could not be asked, there is none.
//! - Nothing comes in of who is no member, and after a start a [`Input::Gone`] comes of each who
//!   was promised something and is none.
//! - Outputs are carried out in their order. One that stands behind [`Output::Note`] waits for it.
//!
//! The node itself may be among the peers of an attempt: as an attempt is on here it is promised
//! nothing, and does not count. Callers bring time as milliseconds of any monotonic clock, and a
//! [`Input::Tick`] every second or so. One task owns it. [`wire`] is what goes between nodes.

#[cfg(test)]
mod tests;
pub mod wire;

use std::collections::BTreeMap;

use crate::base::id::NodeId;

/// What this node promised, which the owner keeps on its disk: of a file, who may let go of it, by
/// which of his attempts.
pub type Promises<F> = BTreeMap<F, BTreeMap<NodeId, u64>>;

/// Attempts of this node that are on at a time: each asks all peers at once, and what one of them
/// holds up nobody else can let go of.
pub const ATTEMPTS_MAX: usize = 256;
/// Checks under way, those that count for nothing any more among them: each reads from the disk.
pub const CHECKS_MAX: usize = 64;
/// Promises that stand. All are written at each [`Output::Note`]: some MiB.
pub const PROMISES_MAX: usize = 65_536;
/// Inquiries a tick. All promises have their turn in [`INQUIRE_MS`]; after a start not all at once.
pub const INQUIRIES_MAX: usize = 4096;
/// How old a promise is when its peer is asked whether it still needs it, and how long until it is
/// asked again: longer than nearly all attempts take.
pub const INQUIRE_MS: u64 = 30_000;
/// How long until it is asked again if that peer asks for another promise on the file. The old one
/// is in its way then.
const INQUIRE_SOON_MS: u64 = 1000;

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<F> {
    /// This node wants to let go of its copy of a file.
    LetGo {
        /// Of which.
        file: F,
        /// A number that this node never used before, also before a restart.
        attempt: u64,
        /// How many others have to promise. None is one.
        wanted: u32,
        /// Who may.
        peers: Vec<NodeId>,
        /// Until when they may. After it the file stays.
        until: u64,
    },
    /// A peer wants a promise.
    Asked {
        /// Who.
        peer: NodeId,
        /// On which file.
        file: F,
        /// For which of its attempts.
        attempt: u64,
    },
    /// The answer to [`Output::Check`].
    Checked {
        /// For whom.
        peer: NodeId,
        /// Which file.
        file: F,
        /// For which of its attempts.
        attempt: u64,
        /// Whether all of it is here, sound, durable, and counts.
        sound: bool,
    },
    /// A peer's answer to [`Output::Ask`].
    Answered {
        /// Who.
        peer: NodeId,
        /// On which file.
        file: F,
        /// For which of our attempts.
        attempt: u64,
        /// Whether it promised. It did not, too, if it could not be asked.
        promised: bool,
    },
    /// What [`Output::Go`] allowed was done, durably, or could not be done and will not be.
    Done {
        /// Which file.
        file: F,
        /// By which attempt.
        attempt: u64,
    },
    /// A peer is done with an attempt.
    Released {
        /// Who.
        peer: NodeId,
        /// On which file.
        file: F,
        /// With which.
        attempt: u64,
    },
    /// A peer asks whether an attempt of ours is on.
    Inquired {
        /// Who.
        peer: NodeId,
        /// On which file.
        file: F,
        /// Which.
        attempt: u64,
    },
    /// A peer's answer to [`Output::Inquire`].
    IsOn {
        /// Who.
        peer: NodeId,
        /// On which file.
        file: F,
        /// Which of its attempts.
        attempt: u64,
        /// Whether it is on.
        on: bool,
    },
    /// A node is no member any more. What was promised to it is void, and what it promised counts
    /// for nothing from now on.
    Gone(NodeId),
    /// Time passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output<F> {
    /// Ask a peer for a promise.
    Ask {
        /// Whom.
        peer: NodeId,
        /// On which file.
        file: F,
        /// For which of our attempts.
        attempt: u64,
    },
    /// Look whether all of a file is here, sound, durable, and counts.
    Check {
        /// For whom.
        peer: NodeId,
        /// Which file.
        file: F,
        /// For which of its attempts.
        attempt: u64,
    },
    /// Make the promises durable, before what stands behind this is carried out. Nothing does if
    /// promises only went: should one come back after a crash, its peer will say that it is over.
    Note,
    /// Tell a peer whether it is promised what it asked for. If it asked twice while its file was
    /// looked at, this is for both.
    Answer {
        /// Whom.
        peer: NodeId,
        /// On which file.
        file: F,
        /// For which of its attempts.
        attempt: u64,
        /// Whether it is.
        promised: bool,
    },
    /// Enough have promised: the copy may be let go.
    Go {
        /// Of which file.
        file: F,
        /// By which attempt.
        attempt: u64,
    },
    /// Tell a peer that an attempt is over.
    Release {
        /// Whom.
        peer: NodeId,
        /// On which file.
        file: F,
        /// Which.
        attempt: u64,
    },
    /// Ask a peer whether an attempt of its is on.
    Inquire {
        /// Whom.
        peer: NodeId,
        /// On which file.
        file: F,
        /// Which.
        attempt: u64,
    },
    /// Tell a peer whether an attempt of ours is on.
    On {
        /// Whom.
        peer: NodeId,
        /// On which file.
        file: F,
        /// Which.
        attempt: u64,
        /// Whether it is.
        on: bool,
    },
    /// The copy stays, and the attempt is over.
    Kept {
        /// Of which file.
        file: F,
        /// By which attempt.
        attempt: u64,
        /// Why.
        why: Why,
    },
}

/// Why a copy stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is promised to a peer.
    Promised(NodeId),
    /// So many promised, and so many were wanted.
    Under(u32, u32),
    /// An attempt on it is on already.
    Busy,
    /// Too many attempts are on.
    TooMany,
}

/// What a peer said to an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Nothing,
    Yes,
    /// Once it said no, that is what counts.
    No,
}

/// An attempt of ours.
#[derive(Debug)]
struct Attempt {
    number: u64,
    wanted: u32,
    until: u64,
    asked: BTreeMap<NodeId, Said>,
    /// It was told that the copy may be let go.
    is_going: bool,
}

impl Attempt {
    fn count(&self, said: Said) -> u32 {
        let count = self.asked.values().filter(|s| **s == said).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// See [`crate::copies`].
#[derive(Debug)]
pub struct Copies<F> {
    promises: Promises<F>,
    promises_len: usize,
    /// When each was made, or its peer last asked about it. Those without are of before the start.
    since: Promises<F>,
    attempts: BTreeMap<F, Attempt>,
    /// Checks under way, and whether they count. One that does not stays until its answer came,
    /// which could be taken for that of a later one else.
    checks: BTreeMap<(F, NodeId, u64), bool>,
    start: Option<u64>,
}

impl<F: Ord + Clone> Copies<F> {
    /// With what this node promised before it started.
    #[must_use]
    pub fn new(promises: Promises<F>) -> Self {
        let promises: Promises<F> = promises
            .into_iter()
            .filter(|(_, to)| !to.is_empty())
            .collect();
        Self {
            promises_len: promises.values().map(BTreeMap::len).sum(),
            promises,
            since: BTreeMap::new(),
            attempts: BTreeMap::new(),
            checks: BTreeMap::new(),
            start: None,
        }
    }

    /// What this node promised.
    #[must_use]
    pub fn promises(&self) -> &Promises<F> {
        &self.promises
    }

    /// Whether an attempt of ours on a file is on.
    #[must_use]
    pub fn is_on(&self, file: &F) -> bool {
        self.attempts.contains_key(file)
    }

    /// Who counts on this node keeping a file.
    #[must_use]
    pub fn promised_to(&self, file: &F) -> Vec<NodeId> {
        let to = self.promises.get(file);
        to.into_iter().flat_map(BTreeMap::keys).copied().collect()
    }

    /// Takes an input at `now` (milliseconds) and returns what is to be done.
    pub fn handle(&mut self, input: Input<F>, now: u64) -> Vec<Output<F>> {
        self.start.get_or_insert(now);
        let mut out = Vec::new();
        match input {
            Input::LetGo {
                file,
                attempt,
                wanted,
                peers,
                until,
            } => {
                let wants = Attempt {
                    number: attempt,
                    wanted: wanted.max(1),
                    until,
                    asked: peers.into_iter().map(|p| (p, Said::Nothing)).collect(),
                    is_going: false,
                };
                self.let_go(file, wants, now, &mut out);
            }
            Input::Asked {
                peer,
                file,
                attempt,
            } => self.asked(peer, file, attempt, now, &mut out),
            Input::Checked {
                peer,
                file,
                attempt,
                sound,
            } => self.checked(peer, file, attempt, sound, now, &mut out),
            Input::Answered {
                peer,
                file,
                attempt,
                promised,
            } => self.answered(peer, file, attempt, promised, now, &mut out),
            Input::Done { file, attempt } => self.done(&file, attempt, &mut out),
            Input::Released {
                peer,
                file,
                attempt,
            }
            | Input::IsOn {
                peer,
                file,
                attempt,
                on: false,
            } => self.is_over(peer, &file, attempt, &mut out),
            Input::IsOn { on: true, .. } => {}
            Input::Inquired {
                peer,
                file,
                attempt,
            } => {
                let on = self
                    .attempts
                    .get(&file)
                    .is_some_and(|a| a.number == attempt);
                out.push(Output::On {
                    peer,
                    file,
                    attempt,
                    on,
                });
            }
            Input::Gone(peer) => self.gone(peer, now, &mut out),
            Input::Tick => self.tick(now, &mut out),
        }
        out
    }

    fn let_go(&mut self, file: F, wants: Attempt, now: u64, out: &mut Vec<Output<F>>) {
        let attempt = wants.number;
        let promised = self.promises.get(&file).and_then(|to| to.keys().next());
        let why = if self.is_on(&file) {
            Some(Why::Busy)
        } else if let Some(peer) = promised {
            Some(Why::Promised(*peer))
        } else if self.attempts.len() >= ATTEMPTS_MAX {
            Some(Why::TooMany)
        } else if now > wants.until || wants.count(Said::Nothing) < wants.wanted {
            Some(Why::Under(0, wants.wanted))
        } else {
            None
        };
        if let Some(why) = why {
            out.push(Output::Kept { file, attempt, why });
            return;
        }
        // What a check saw may be gone when it is answered.
        for ((of, ..), counts) in &mut self.checks {
            *counts &= *of != file;
        }
        out.extend(wants.asked.keys().map(|peer| Output::Ask {
            peer: *peer,
            file: file.clone(),
            attempt,
        }));
        self.attempts.insert(file, wants);
    }

    fn asked(&mut self, peer: NodeId, file: F, attempt: u64, now: u64, out: &mut Vec<Output<F>>) {
        let key = (file.clone(), peer, attempt);
        let under_way = self.checks.get(&key);
        if under_way == Some(&true) {
            return;
        }
        let standing = self.standing(&file, peer);
        let is_room = self.checks.len() < CHECKS_MAX
            && (self.promises_len < PROMISES_MAX || standing.is_some());
        if self.is_on(&file) || under_way.is_some() || !is_room {
            out.push(Output::Answer {
                peer,
                file,
                attempt,
                promised: false,
            });
            return;
        }
        // It is probably over, and what said so was lost.
        if let Some(old) = standing.filter(|old| *old != attempt)
            && self.last_look(&file, peer).saturating_add(INQUIRE_SOON_MS) <= now
        {
            self.inquire(peer, file.clone(), old, now, out);
        }
        self.checks.insert(key, true);
        out.push(Output::Check {
            peer,
            file,
            attempt,
        });
    }

    fn checked(
        &mut self,
        peer: NodeId,
        file: F,
        attempt: u64,
        sound: bool,
        now: u64,
        out: &mut Vec<Output<F>>,
    ) {
        let counts = self.checks.remove(&(file.clone(), peer, attempt)) == Some(true);
        let is_free = match self.standing(&file, peer) {
            // Whether the other one is over its peer alone can say.
            Some(standing) => standing == attempt,
            None => self.promises_len < PROMISES_MAX,
        };
        let promised = counts && sound && is_free;
        if promised {
            debug_assert!(
                !self.is_on(&file),
                "an attempt voids the checks of its file"
            );
            let to = self.promises.entry(file.clone()).or_default();
            if to.insert(peer, attempt).is_none() {
                self.promises_len += 1;
            }
            let since = self.since.entry(file.clone()).or_default();
            since.insert(peer, now);
            out.push(Output::Note);
        }
        out.push(Output::Answer {
            peer,
            file,
            attempt,
            promised,
        });
    }

    fn answered(
        &mut self,
        peer: NodeId,
        file: F,
        attempt: u64,
        promised: bool,
        now: u64,
        out: &mut Vec<Output<F>>,
    ) {
        let on = self.attempts.get_mut(&file);
        let on = on.filter(|a| a.number == attempt);
        if let Some(said) = on.and_then(|a| a.asked.get_mut(&peer)) {
            *said = match said {
                Said::Nothing | Said::Yes if promised => Said::Yes,
                _ => Said::No,
            };
            self.decide(&file, now, out);
        } else if promised {
            out.push(Output::Release {
                peer,
                file,
                attempt,
            });
        }
    }

    /// Whether an attempt may go, goes on, or is over.
    fn decide(&mut self, file: &F, now: u64, out: &mut Vec<Output<F>>) {
        let Some(a) = self.attempts.get_mut(file).filter(|a| !a.is_going) else {
            return;
        };
        let (attempt, promised) = (a.number, a.count(Said::Yes));
        if now > a.until || promised.saturating_add(a.count(Said::Nothing)) < a.wanted {
            out.push(Output::Kept {
                file: file.clone(),
                attempt,
                why: Why::Under(promised, a.wanted),
            });
            self.end(file, out);
        } else if promised >= a.wanted {
            a.is_going = true;
            out.push(Output::Go {
                file: file.clone(),
                attempt,
            });
        }
    }

    fn done(&mut self, file: &F, attempt: u64, out: &mut Vec<Output<F>>) {
        let on = self.attempts.get(file);
        if on.is_some_and(|a| a.number == attempt && a.is_going) {
            self.end(file, out);
        }
    }

    /// An attempt is over. Who did not answer yet may have promised all the same.
    fn end(&mut self, file: &F, out: &mut Vec<Output<F>>) {
        if let Some(a) = self.attempts.remove(file) {
            out.extend(a.asked.keys().map(|peer| Output::Release {
                peer: *peer,
                file: file.clone(),
                attempt: a.number,
            }));
        }
    }

    /// An attempt of a peer is over.
    fn is_over(&mut self, peer: NodeId, file: &F, attempt: u64, out: &mut Vec<Output<F>>) {
        if let Some(counts) = self.checks.get_mut(&(file.clone(), peer, attempt)) {
            *counts = false;
        }
        if self.standing(file, peer) == Some(attempt) {
            self.forget(peer, file);
            out.push(Output::Note);
        }
    }

    fn gone(&mut self, peer: NodeId, now: u64, out: &mut Vec<Output<F>>) {
        for ((_, of, _), counts) in &mut self.checks {
            *counts &= *of != peer;
        }
        let mut asked = Vec::new();
        for (file, a) in &mut self.attempts {
            if a.asked.remove(&peer).is_some() {
                asked.push(file.clone());
            }
        }
        for file in asked {
            self.decide(&file, now, out);
        }
        let promised = self
            .promises
            .iter()
            .filter(|(_, to)| to.contains_key(&peer));
        let promised: Vec<F> = promised.map(|(file, _)| file.clone()).collect();
        for file in &promised {
            self.forget(peer, file);
        }
        if !promised.is_empty() {
            out.push(Output::Note);
        }
    }

    fn tick(&mut self, now: u64, out: &mut Vec<Output<F>>) {
        let on: Vec<F> = self.attempts.keys().cloned().collect();
        for file in on {
            self.decide(&file, now, out);
        }
        let all = self.promises.iter();
        let all = all.flat_map(|(file, to)| to.iter().map(move |(peer, n)| (file, *peer, *n)));
        let due = all
            .filter(|(file, peer, _)| self.last_look(file, *peer).saturating_add(INQUIRE_MS) <= now)
            .take(INQUIRIES_MAX);
        let due: Vec<(F, NodeId, u64)> = due.map(|(f, p, n)| (f.clone(), p, n)).collect();
        for (file, peer, attempt) in due {
            self.inquire(peer, file, attempt, now, out);
        }
    }

    fn inquire(&mut self, peer: NodeId, file: F, attempt: u64, now: u64, out: &mut Vec<Output<F>>) {
        let since = self.since.entry(file.clone()).or_default();
        since.insert(peer, now);
        out.push(Output::Inquire {
            peer,
            file,
            attempt,
        });
    }

    /// The attempt for which a peer was promised a file.
    fn standing(&self, file: &F, peer: NodeId) -> Option<u64> {
        self.promises.get(file)?.get(&peer).copied()
    }

    /// When a promise was made, or its peer last asked about it.
    fn last_look(&self, file: &F, peer: NodeId) -> u64 {
        let since = self.since.get(file).and_then(|s| s.get(&peer));
        since.copied().or(self.start).unwrap_or(0)
    }

    fn forget(&mut self, peer: NodeId, file: &F) {
        let mut went = false;
        for map in [&mut self.promises, &mut self.since] {
            if let Some(to) = map.get_mut(file) {
                went |= to.remove(&peer).is_some();
                if to.is_empty() {
                    map.remove(file);
                }
            }
        }
        self.promises_len -= usize::from(went);
    }
}
