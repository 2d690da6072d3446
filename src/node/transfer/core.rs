//! The task around [`Swarm`]: gives it what happens, does what it decides.

use std::collections::hash_map::Entry as Entries;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::entry::Entry;
use super::{
    Coming, Fetch, KEEP_MAX, Lacking, Message, Name, PIECES_MAX, Shared, Status, lock, take,
};
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::swarm::pieces::Pieces;
use crate::swarm::{FILES_MAX, File, Input, Output, READERS_MAX, Reader, Swarm, Why};

const TICK: Duration = Duration::from_millis(50);
/// Files that come in the background at a time; the rest of [`FILES_MAX`] is for readers.
const KEPT_AT_ONCE: usize = 16;
/// What came is made durable after this long, or so many bytes: a crash loses no more.
const FLUSH_AFTER: Duration = Duration::from_millis(500);
const FLUSH_BYTES: u64 = 16 << 20;
/// A file that nobody reads any more is kept in mind for this long.
const LINGER_MS: u64 = 30_000;
/// A file that did not get on is tried again after this long.
const AGAIN_MS: u64 = 30_000;
/// A version that came over another is made a container when nothing came over it for so long: of
/// a file that is written again and again each would be a copy of all of it.
const RIPE_MS: u64 = if cfg!(test) { 1_000 } else { 20_000 };
/// Versions before it that a version is known to have.
const HEIR_OF_MAX: usize = 4096;
/// What is read ahead of somebody, and of somebody who went on where he had ended.
const AHEAD_BYTES: u64 = 2 << 20;
const AHEAD_BYTES_MAX: u64 = 32 << 20;
/// Messages that are taken before the time is looked at.
const BATCH: usize = 64;

/// A file that the swarm knows.
struct Open {
    entry: Arc<Entry>,
    keep: bool,
    is_finishing: bool,
    idle_since: Option<u64>,
    /// Where the last reader ended, and what was read ahead of it ends.
    ended: u64,
    ahead_to: u64,
    ahead: u64,
}

/// Somebody who waits.
struct Waiting {
    file: File,
    readers: BTreeSet<Reader>,
    fetch: Fetch,
}

struct Core {
    shared: Arc<Shared>,
    swarm: Swarm,
    began: Instant,
    open: BTreeMap<File, Open>,
    files: HashMap<Name, File>,
    next: u64,
    /// Who waits for a file's list.
    loading: HashMap<Name, Vec<Fetch>>,
    keep: VecDeque<(u64, Name)>,
    /// What is in `keep`, being loaded to be kept, or kept; and which version of it was here.
    kept: HashMap<Name, Option<Oid>>,
    /// Of versions that come or came over others, and that nothing came over since: those.
    heirs: HashMap<Name, Vec<Oid>>,
    /// When those of them that are all here become containers.
    ripe: BTreeMap<Name, u64>,
    is_ripening: bool,
    tasks: HashMap<(NodeId, File, u32), AbortHandle>,
    waiting: HashMap<u64, Waiting>,
    readers: HashMap<Reader, u64>,
    up: BTreeSet<NodeId>,
    /// Bytes that came since the node started, also from peers that are gone.
    came: u64,
    stuck: BTreeMap<File, Why>,
}

/// Runs until the node stops.
pub(super) async fn run(shared: Arc<Shared>, mut messages: mpsc::Receiver<Message>) {
    let mut seed = [0; 8];
    if getrandom::fill(&mut seed).is_err() {
        tracing::warn!("no randomness; pieces are chosen in a fixed order");
    }
    let mut core = Core {
        shared,
        swarm: Swarm::new(u64::from_le_bytes(seed)),
        began: Instant::now(),
        open: BTreeMap::new(),
        files: HashMap::new(),
        next: 1,
        loading: HashMap::new(),
        keep: VecDeque::new(),
        kept: HashMap::new(),
        heirs: HashMap::new(),
        ripe: BTreeMap::new(),
        is_ripening: false,
        tasks: HashMap::new(),
        waiting: HashMap::new(),
        readers: HashMap::new(),
        up: BTreeSet::new(),
        came: 0,
        stuck: BTreeMap::new(),
    };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            _ = tick.tick() => core.tick(),
            n = messages.recv_many(&mut batch, BATCH) => {
                if n == 0 {
                    return;
                }
            }
        }
        for m in batch {
            core.message(m);
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

impl Core {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn message(&mut self, m: Message) {
        match m {
            Message::Keep(volume, heads) => {
                for (head, over) in heads {
                    self.keep_file((volume.clone(), head), over);
                }
                self.start_kept();
            }
            Message::Unkeep(volume, heads) => {
                for head in heads {
                    self.unkeep((volume.clone(), head));
                }
            }
            Message::Fetch(fetch) => self.fetch(fetch),
            Message::Loaded(name, loaded) => self.loaded(name, loaded),
            Message::Held(peer, files, told) => match told {
                Some(told) => {
                    for (file, what) in files.into_iter().zip(told) {
                        self.give(Input::Holds { peer, file, what });
                    }
                }
                None => self.give(Input::Silent { peer, files }),
            },
            Message::Piece(peer, file, piece, done) => {
                self.tasks.remove(&(peer, file, piece));
                if let Ok(bytes) = done {
                    self.came += u64::from(bytes);
                }
                self.give(match done {
                    Ok(bytes) => Input::Came {
                        peer,
                        file,
                        piece,
                        bytes,
                    },
                    Err(why) => Input::Failed {
                        peer,
                        file,
                        piece,
                        why,
                    },
                });
            }
            Message::Here(peer, file, piece) => {
                self.tasks.remove(&(peer, file, piece));
                self.give(Input::Here { file, piece });
            }
            Message::Finished(file, ok) => self.finished(file, ok),
            Message::Ripened => self.is_ripening = false,
            Message::Flushed(volume, ok) => self.flushed(&volume, ok),
        }
    }

    fn give(&mut self, input: Input) {
        let now = self.now();
        for output in self.swarm.handle(input, now) {
            self.carry_out(output);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::AskHolds { peer, files } => self.ask_held(peer, &files),
            Output::Ask {
                peer,
                file,
                piece,
                class,
            } => {
                let Some(open) = self.open.get(&file) else {
                    return;
                };
                let of = (file, open.entry.clone());
                let work = take::ask_piece(self.shared.clone(), peer, of, piece, class);
                let task = tokio::spawn(work).abort_handle();
                if let Some(before) = self.tasks.insert((peer, file, piece), task) {
                    before.abort();
                }
            }
            Output::Cancel { peer, file, piece } => {
                if let Some(task) = self.tasks.remove(&(peer, file, piece)) {
                    task.abort();
                }
            }
            Output::Ready(reader) => self.ready(reader),
            Output::Done(file) => self.done(file),
            Output::Stuck(file, why) => self.is_stuck(file, why),
        }
    }

    /// A question is about one volume.
    fn ask_held(&mut self, peer: NodeId, files: &[File]) {
        let mut by_volume: BTreeMap<VolumeName, Vec<(File, Arc<Entry>)>> = BTreeMap::new();
        for file in files {
            if let Some(o) = self.open.get(file) {
                let volume = o.entry.name.0.clone();
                let all = by_volume.entry(volume).or_default();
                all.push((*file, o.entry.clone()));
            }
        }
        for files in by_volume.into_values() {
            tokio::spawn(take::ask_held(self.shared.clone(), peer, files));
        }
    }

    fn keep_file(&mut self, name: Name, over: Option<Oid>) {
        let raw = over;
        // Of a version that is on its way itself, what it replaces is here.
        let before = over.and_then(|o| self.kept.get(&(name.0.clone(), o)).copied().flatten());
        let over = before.or(over);
        if self.kept.len() >= KEEP_MAX {
            tracing::warn!(volume = %name.0, "too many files wait to be kept");
            return;
        }
        if let Some(o) = raw
            && o != name.1
        {
            let old = (name.0.clone(), o);
            self.ripe.remove(&old);
            let mut olds = self.heirs.remove(&old).unwrap_or_default();
            if olds.len() < HEIR_OF_MAX {
                olds.push(o);
            }
            self.heirs.insert(name.clone(), olds);
        }
        match self.kept.entry(name) {
            Entries::Occupied(mut e) if over.is_some() => *e.get_mut() = over,
            Entries::Occupied(_) => {}
            Entries::Vacant(e) => {
                self.keep.push_back((0, e.key().clone()));
                e.insert(over);
            }
        }
    }

    fn unkeep(&mut self, name: Name) {
        self.heirs.remove(&name);
        self.ripe.remove(&name);
        if self.kept.remove(&name).is_none() {
            return;
        }
        self.keep.retain(|(_, n)| *n != name);
        if let Some(file) = self.files.get(&name).copied() {
            if let Some(o) = self.open.get_mut(&file) {
                o.keep = false;
            }
            self.give(Input::Keep(file, false));
        }
    }

    /// Takes files that are to be kept into work, as many as there is room for.
    fn start_kept(&mut self) {
        let now = self.now();
        for _ in 0..self.keep.len() {
            let busy = self.open.values().filter(|o| o.keep).count() + self.loading.len();
            let pieces: usize = self.open.values().map(|o| o.entry.weight()).sum();
            if busy >= KEPT_AT_ONCE || pieces >= PIECES_MAX || self.open.len() >= FILES_MAX {
                return;
            }
            let Some((at, name)) = self.keep.pop_front() else {
                return;
            };
            if at > now {
                self.keep.push_back((at, name));
            } else if let Some(file) = self.files.get(&name).copied() {
                // Its list is read anew, and its container begun with what is here.
                if self.open.get(&file).is_some_and(|o| !o.keep) {
                    self.close(file);
                    self.load(name, None);
                }
            } else if !self.loading.contains_key(&name) {
                self.load(name, None);
            }
        }
    }

    /// Reads a file's list, for who waits or because it is to be kept.
    fn load(&mut self, name: Name, fetch: Option<Fetch>) {
        let is_loading = self.loading.contains_key(&name);
        self.loading.entry(name.clone()).or_default().extend(fetch);
        if is_loading {
            return;
        }
        let shared = self.shared.clone();
        let keep = self.kept.contains_key(&name);
        let over = self.kept.get(&name).copied().flatten();
        tokio::spawn(async move {
            let (s, n) = (shared.clone(), name.clone());
            let work = tokio::task::spawn_blocking(move || load(&s, &n, keep, over));
            let loaded = work.await.ok().flatten();
            shared.tell(Message::Loaded(name, loaded)).await;
        });
    }

    fn loaded(&mut self, name: Name, loaded: Option<(Arc<Entry>, Pieces)>) {
        let waits = self.loading.remove(&name).unwrap_or_default();
        let keep = self.kept.contains_key(&name);
        let Some((entry, lacking)) = loaded else {
            for w in waits {
                refuse(&w, "its list of pieces is not here");
            }
            if keep {
                self.keep.push_back((self.now() + AGAIN_MS, name));
            }
            return;
        };
        if lacking.is_empty() && !entry.is_kept {
            for w in waits {
                let _who_went = w.reply.try_send(Ok(()));
            }
            if self.kept.remove(&name).is_some() {
                self.ripens(name);
            }
            self.start_kept();
            return;
        }
        // It was asked for while its list was read for somebody else: it is read again, for that.
        let late = keep && !entry.is_kept;
        let keep = keep && !late;
        if late {
            self.keep.push_back((0, name.clone()));
        }
        let file = self.number();
        let open = Open {
            keep,
            is_finishing: false,
            idle_since: None,
            ended: u64::MAX,
            ahead_to: u64::MAX,
            ahead: AHEAD_BYTES,
            entry,
        };
        let lens = open.entry.lens();
        self.open.insert(file, open);
        self.files.insert(name, file);
        self.give(Input::Open {
            file,
            lens,
            lacking,
            keep,
        });
        for w in waits {
            self.need(file, w);
        }
    }

    fn fetch(&mut self, fetch: Fetch) {
        if let Some(file) = self.files.get(&fetch.name).copied() {
            self.need(file, fetch);
            return;
        }
        if self.open.len() + self.loading.len() >= FILES_MAX {
            self.make_room();
        }
        let is_room = self.open.len() + self.loading.len() < FILES_MAX;
        if is_room || self.loading.contains_key(&fetch.name) {
            self.load(fetch.name.clone(), Some(fetch));
        } else {
            refuse(&fetch, "too many files are read at once");
        }
    }

    /// Closes a file that nobody waits for.
    fn make_room(&mut self) {
        let busy: HashSet<File> = self.waiting.values().map(|w| w.file).collect();
        let idle = self.open.iter().filter(|(f, _)| !busy.contains(f));
        let least = idle.min_by_key(|(_, o)| (o.keep, o.is_finishing));
        let Some((file, name, keep)) = least.map(|(f, o)| (*f, o.entry.name.clone(), o.keep))
        else {
            return;
        };
        self.close(file);
        if keep {
            self.keep.push_back((self.now() + AGAIN_MS, name));
        }
    }

    fn close(&mut self, file: File) {
        let Some(o) = self.open.remove(&file) else {
            return;
        };
        self.files.remove(&o.entry.name);
        self.stuck.remove(&file);
        self.give(Input::Drop(file));
        // Who waits for it waits on.
        let all = self.waiting.iter().filter(|(_, w)| w.file == file);
        let all: Vec<u64> = all.map(|(n, _)| *n).collect();
        for n in all {
            if let Some(w) = self.waiting.remove(&n) {
                for r in &w.readers {
                    self.readers.remove(r);
                }
                self.load(w.fetch.name.clone(), Some(w.fetch));
            }
        }
    }

    fn need(&mut self, file: File, fetch: Fetch) {
        let now = self.now();
        if self.readers.len() >= READERS_MAX {
            return refuse(&fetch, "too many wait for large files");
        }
        let Some(o) = self.open.get_mut(&file) else {
            return;
        };
        o.idle_since = None;
        // What was read ahead is not asked for: who goes on comes again behind it.
        o.ahead = if (o.ended..=o.ahead_to).contains(&fetch.range.start) {
            (o.ahead * 2).min(AHEAD_BYTES_MAX)
        } else {
            AHEAD_BYTES
        };
        o.ended = fetch.range.end;
        let pieces = o.entry.pieces_of(&fetch.range);
        let next = fetch.range.end..fetch.range.end.saturating_add(o.ahead);
        let ahead = pieces.end..o.entry.pieces_of(&next).end.max(pieces.end);
        o.ahead_to = o.entry.place(ahead.end.saturating_sub(1)).end.max(o.ended);
        let mut parts = o.entry.instead(&pieces);
        parts.insert(0, pieces);
        let left = fetch.deadline.saturating_duration_since(Instant::now());
        let deadline = now + u64::try_from(left.as_millis()).unwrap_or(u64::MAX / 2);
        let number = self.number();
        let readers: Vec<Reader> = parts.iter().map(|_| self.number()).collect();
        for r in &readers {
            self.readers.insert(*r, number);
        }
        let waiting = Waiting {
            file,
            readers: readers.iter().copied().collect(),
            fetch,
        };
        self.waiting.insert(number, waiting);
        for (reader, pieces) in readers.into_iter().zip(parts) {
            self.give(Input::Need {
                reader,
                file,
                pieces,
                ahead: ahead.clone(),
                deadline,
            });
        }
    }

    fn ready(&mut self, reader: Reader) {
        let Some(number) = self.readers.remove(&reader) else {
            return;
        };
        let Some(w) = self.waiting.get_mut(&number) else {
            return;
        };
        w.readers.remove(&reader);
        if w.readers.is_empty()
            && let Some(w) = self.waiting.remove(&number)
        {
            let _who_went = w.fetch.reply.try_send(Ok(()));
        }
    }

    fn done(&mut self, file: File) {
        let Some(o) = self.open.get_mut(&file) else {
            return;
        };
        if o.is_finishing || !o.entry.is_kept {
            return;
        }
        o.is_finishing = true;
        let (shared, entry) = (self.shared.clone(), o.entry.clone());
        tokio::spawn(async move {
            let s = shared.clone();
            let work = tokio::task::spawn_blocking(move || take::finish(&s, &entry));
            let ok = work.await.unwrap_or(false);
            shared.tell(Message::Finished(file, ok)).await;
        });
    }

    fn finished(&mut self, file: File, ok: bool) {
        let Some(o) = self.open.get(&file) else {
            return;
        };
        let name = o.entry.name.clone();
        self.close(file);
        if ok {
            tracing::info!(volume = %name.0, head = %name.1, "all of a large file is here");
            self.kept.remove(&name);
            self.ripens(name);
        } else if self.kept.contains_key(&name) {
            self.keep.push_back((self.now() + AGAIN_MS, name));
        }
        self.start_kept();
    }

    /// All of a version is here: it becomes a container if nothing comes over it for a while.
    fn ripens(&mut self, name: Name) {
        if self.heirs.contains_key(&name) {
            self.ripe.insert(name, self.now() + RIPE_MS);
        }
    }

    /// Makes a container of what is ripe, one at a time.
    fn ripen(&mut self) {
        let now = self.now();
        let due = self.ripe.iter().find(|(_, at)| **at <= now);
        let Some(name) = due.map(|(n, _)| n.clone()).filter(|_| !self.is_ripening) else {
            return;
        };
        self.ripe.remove(&name);
        let Some(olds) = self.heirs.remove(&name) else {
            return;
        };
        self.is_ripening = true;
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let s = shared.clone();
            let work = tokio::task::spawn_blocking(move || take::ripen(&s, &name, &olds));
            if let Err(e) = work.await {
                tracing::error!(error = %e, "a version is not made a container");
            }
            shared.tell(Message::Ripened).await;
        });
    }

    fn is_stuck(&mut self, file: File, why: Why) {
        let Some(o) = self.open.get(&file) else {
            return;
        };
        let name = o.entry.name.clone();
        tracing::info!(volume = %name.0, head = %name.1, ?why, "a large file does not get on");
        self.stuck.insert(file, why);
        let is_read = self.waiting.values().any(|w| w.file == file);
        // Others have their turn first.
        if o.keep && !is_read && why != Why::NoPeer && !self.keep.is_empty() {
            self.close(file);
            self.keep.push_back((self.now() + AGAIN_MS, name));
            self.start_kept();
        }
    }

    fn tick(&mut self) {
        let Some(peers) = self.shared.peers.get().cloned() else {
            return;
        };
        let up: BTreeSet<NodeId> = peers.connected().into_iter().map(|(n, _)| n).collect();
        let before = std::mem::replace(&mut self.up, up.clone());
        for peer in before.difference(&up) {
            self.give(Input::Down(*peer));
        }
        for peer in up.difference(&before) {
            self.give(Input::Up(*peer));
        }
        let alive = std::mem::take(&mut *lock(&self.shared.alive));
        for peer in alive {
            self.give(Input::Alive(peer));
        }
        self.end_waiting();
        self.give(Input::Tick);
        self.tasks.retain(|_, t| !t.is_finished());
        self.close_idle();
        self.start_kept();
        self.ripen();
        self.flush();
        self.tell_status();
    }

    fn end_waiting(&mut self) {
        let now = Instant::now();
        let late = self.waiting.iter().filter(|(_, w)| w.fetch.deadline <= now);
        let late: Vec<u64> = late.map(|(n, _)| *n).collect();
        for n in late {
            let Some(w) = self.waiting.remove(&n) else {
                continue;
            };
            for r in &w.readers {
                self.readers.remove(r);
                self.give(Input::Unneed(*r));
            }
            let at = self.now();
            let stuck = self.swarm.progress(w.file, at).and_then(|p| p.stuck);
            refuse(&w.fetch, said(stuck));
        }
    }

    fn close_idle(&mut self) {
        let now = self.now();
        let busy: HashSet<File> = self.waiting.values().map(|w| w.file).collect();
        let mut gone = Vec::new();
        for (file, o) in &mut self.open {
            if o.keep || o.is_finishing || busy.contains(file) {
                o.idle_since = None;
            } else if *o.idle_since.get_or_insert(now) + LINGER_MS <= now {
                gone.push(*file);
            }
        }
        for file in gone {
            self.close(file);
        }
    }

    /// Makes durable what came, now and then.
    fn flush(&mut self) {
        let mut due = Vec::new();
        for (volume, u) in &mut *lock(&self.shared.unflushed) {
            let is_old = u.since.is_some_and(|s| s.elapsed() >= FLUSH_AFTER);
            if u.flushing.is_none() && (is_old || u.bytes >= FLUSH_BYTES) {
                u.flushing = Some(std::mem::take(&mut u.ids));
                (u.bytes, u.since) = (0, None);
                due.push(volume.clone());
            }
        }
        for volume in due {
            let shared = self.shared.clone();
            tokio::spawn(async move {
                let (s, v) = (shared.clone(), volume.clone());
                let work = tokio::task::spawn_blocking(move || s.flush(&v));
                let ok = work.await.unwrap_or(false);
                shared.tell(Message::Flushed(volume, ok)).await;
            });
        }
    }

    fn flushed(&mut self, volume: &VolumeName, ok: bool) {
        if let Some(u) = lock(&self.shared.unflushed).get_mut(volume) {
            u.flushing = None;
        }
        if ok {
            return;
        }
        // What was not made durable may not be here any more: what lacks is looked for anew.
        let of = self.open.iter().filter(|(_, o)| o.entry.name.0 == *volume);
        let of: Vec<_> = of
            .map(|(f, o)| (*f, o.entry.name.clone(), o.keep))
            .collect();
        for (file, name, keep) in of {
            self.close(file);
            if keep {
                self.keep.push_back((self.now() + AGAIN_MS, name));
            }
        }
    }

    fn tell_status(&self) {
        let now = self.now();
        let mut s = Status {
            files: self.open.len() as u64,
            waiting: self.keep.len() as u64,
            bytes_done: self.came,
            ..Status::default()
        };
        for (file, o) in &self.open {
            let Some(p) = self.swarm.progress(*file, now) else {
                continue;
            };
            if o.keep {
                s.bytes_left += p.left;
            }
            s.each.push(Coming {
                volume: o.entry.name.0.clone(),
                head: o.entry.name.1,
                total: p.total,
                left: p.left,
                rate: p.rate,
                stuck: p.stuck.map(|why| said(Some(why))),
            });
            if let Some(why) = p.stuck.filter(|_| self.stuck.contains_key(file)) {
                let (volume, head) = &o.entry.name;
                s.stuck
                    .push(format!("volume {volume}, {head}: {}", said(Some(why))));
            }
        }
        for p in self.swarm.paces(now) {
            if p.under_way > 0 {
                s.rate += p.rate;
            }
            if p.bytes > 0 {
                let rate = if p.under_way > 0 { p.rate } else { 0 };
                s.from.push((p.peer, p.bytes, rate));
            }
        }
        *lock(&self.shared.status) = s;
    }
}

fn refuse(fetch: &Fetch, why: &str) {
    let _who_went = fetch.reply.try_send(Err(Lacking(why.to_owned())));
}

fn said(why: Option<Why>) -> &'static str {
    match why {
        None => "they took too long",
        Some(Why::NoPeer) => "no other node is connected",
        Some(Why::NobodyHolds) => "no node that is connected has them",
        Some(Why::PutAside) => "the nodes that have them do not answer",
        Some(Why::Disk) => "the disk of this node does not take them",
    }
}

/// Reads a file's list; if it is to be kept and something lacks, begins its container.
fn load(
    shared: &Shared,
    name: &Name,
    keep: bool,
    over: Option<Oid>,
) -> Option<(Arc<Entry>, Pieces)> {
    let loaded = Entry::load(&*shared.library, name, over);
    let (mut entry, lacking) = loaded
        .map_err(|e| tracing::info!(volume = %name.0, head = %name.1, error = %e, "not read"))
        .ok()?;
    if !keep && (lacking.is_empty() || !shared.library.is_cached(&name.0, &name.1)) {
        return Some((Arc::new(entry), lacking));
    }
    let chunks = shared.library.chunks(&name.0)?;
    // One that was begun is completed, also if all that lacks in it is elsewhere.
    let is_begun = matches!(chunks.container(&entry.sha256), Ok(Some((_, false))))
        && chunks.is_begun(&entry.sha256, &entry.pieces);
    if is_begun || !lacking.is_empty() {
        entry.is_kept = true;
        let lacks: u64 = lacking.iter_from(0).map(|n| entry.len_of(n)).sum();
        if keep && !is_begun && over.is_some() && 2 * lacks <= entry.len() {
            entry.is_late = true;
            return Some((Arc::new(entry), lacking));
        }
        entry.in_container = match chunks.begin(entry.sha256, &entry.pieces) {
            Ok(is_its_own) => is_its_own,
            Err(e) => {
                tracing::warn!(volume = %name.0, error = %e, "no container for a large file");
                return None;
            }
        };
    }
    Some((Arc::new(entry), lacking))
}
