//! One machine of a simulation: a disk, and while it runs the machine of the replicator and what
//! a volume's thread does. Decisions are the product's own code; here is only the order in which
//! a volume's thread and the node's tasks call it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use cellfs::base::id::{NodeId, Oid, VolumeName};
use cellfs::base::limit::CARRIED_PACK_BYTES_MAX;
use cellfs::base::stamp::{Dot, Stamp};
use cellfs::journal::{Committed, Entry};
use cellfs::record::cache::Cache;
use cellfs::record::model::Kind;
use cellfs::replicator::HeadNotice;
use cellfs::replicator::exchange::{self, Judged, Known};
use cellfs::replicator::machine::{Cell, Effect, Event, Frontier, Machine, Wanted};
use cellfs::store::objects::{Memory, ObjectKind, Objects};
use cellfs::volume::chain::{self, Deed, Desk, Disk, Fixed, Numbers, Reach, Sealed};
use cellfs::volume::inode::Data;
use cellfs::volume::recover::{self, Found};
use cellfs::volume::view::{HeadInfo, View};
use cellfs::volume::{Identity, VolumeResult};

use super::author::{Act, Author};
use super::disk::SimDisk;
use super::plan::{Ms, Rng};

/// Virtual time begins here: milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// A view of several heads is handed out as a new commit at most this often.
const SEAL_EVERY: Ms = 200;
/// Bytes of decoded nodes that a machine keeps.
const CACHE: usize = 512 << 10;

pub(super) fn volume() -> VolumeName {
    "cell".parse().expect("a volume's name")
}

/// A signature that a liar cannot make for others, as he does not know what is hashed with it.
pub(super) fn signature(of: NodeId, head: &HeadNotice) -> Vec<u8> {
    let mut h = blake3::Hasher::new_derive_key("the secret of a simulated node");
    h.update(&of.0);
    h.update(&head.signed_bytes(&NodeId([0; 32])));
    let mut out = vec![0; 64];
    h.finalize_xof().fill(&mut out);
    out
}

/// What a node knows of the members.
#[derive(Debug, Clone)]
pub(super) struct Roll {
    pub(super) me: NodeId,
    pub(super) members: Arc<BTreeSet<NodeId>>,
    pub(super) gone: BTreeSet<NodeId>,
}

impl Cell for Roll {
    fn me(&self) -> NodeId {
        self.me
    }

    fn is_member(&self, node: NodeId) -> bool {
        self.members.contains(&node) && !self.gone.contains(&node)
    }

    fn is_signed(&self, head: &HeadNotice) -> bool {
        head.signature == signature(head.node, head)
    }
}

/// A gossiped state: of which start of its node, which version, what it says.
#[derive(Debug, Clone)]
pub(super) struct Gossiped {
    pub(super) version: (u64, u64),
    pub(super) heads: Arc<Vec<HeadNotice>>,
}

/// Something written that is in no commit yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) act: Act,
    entry: u64,
    stamp: Option<Stamp>,
}

/// What a node does while it runs; gone with a crash.
pub(super) struct Run {
    pub(super) machine: Machine,
    pub(super) numbers: Numbers,
    pub(super) view: View,
    pub(super) cache: Cache,
    pub(super) pending: Option<Pending>,
    last: Option<Committed>,
    /// Fetches under way: what is wanted from whom.
    pub(super) fetches: BTreeMap<u64, (Vec<HeadNotice>, Known)>,
    pub(super) states: BTreeMap<NodeId, Gossiped>,
    sealed: Option<Ms>,
}

/// See the module.
pub(super) struct Node {
    pub(super) disk: Arc<SimDisk>,
    pub(super) who: Identity,
    pub(super) roll: Roll,
    /// Its clock is off by this.
    pub(super) skew: i64,
    pub(super) run: Option<Run>,
    /// Counts starts.
    pub(super) starts: u64,
    pub(super) liar: bool,
    /// A liar that says no more.
    pub(super) mute: bool,
    /// Gone for good.
    pub(super) left: bool,
    /// Commits that were tried, for the checks: what each was to do; nothing, if what a crash
    /// had left.
    pub(super) tried: Vec<(Dot, Option<Act>)>,
    /// Notices that turned out false.
    pub(super) lies: Vec<HeadNotice>,
}

fn desk<'a>(disk: &'a Arc<SimDisk>, who: &'a Identity, cache: &'a Cache) -> Desk<'a> {
    Desk {
        objects: disk.clone(),
        cache,
        who,
        disk: &**disk,
    }
}

pub(super) fn frontier(view: &View) -> Frontier {
    Frontier {
        volume: volume(),
        seen: view.seen(),
        heads: view.heads.iter().map(|h| (h.node, h.id)).collect(),
    }
}

fn in_memory(
    stage: &dyn Objects,
    (kind, _): (Kind, Option<u64>),
    data: &Data,
) -> VolumeResult<(Kind, Oid)> {
    match data {
        Data::Memory(bytes) => Ok((kind, stage.put(ObjectKind::Blob, bytes.as_ref().clone())?)),
        other => panic!("no such data here: {other:?}"),
    }
}

impl Node {
    pub(super) fn new(disk: Arc<SimDisk>, roll: Roll, name: String, skew: i64) -> Self {
        Self {
            disk,
            who: Identity {
                node: roll.me,
                name,
            },
            roll,
            skew,
            run: None,
            starts: 0,
            liar: false,
            mute: false,
            left: false,
            tried: Vec::new(),
            lies: Vec::new(),
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.roll.me
    }

    pub(super) fn is_up(&self) -> bool {
        self.run.is_some()
    }

    pub(super) fn wall(&self, now: Ms) -> u64 {
        (EPOCH_MS + now).saturating_add_signed(self.skew)
    }

    /// The notice of a commit by this node's key.
    fn notice(&self, h: &HeadInfo) -> HeadNotice {
        let mut n = HeadNotice {
            volume: volume(),
            node: h.node,
            branch: h.stamp.branch,
            seq: h.stamp.seq,
            id: h.id,
            signature: Vec::new(),
        };
        n.signature = signature(self.id(), &n);
        n
    }

    /// Gives the machine an event. Nothing happens on a node that does not run.
    pub(super) fn give(&mut self, event: Event, now: Ms) -> Vec<Effect> {
        let Some(run) = &mut self.run else {
            return Vec::new();
        };
        run.machine.handle(event, &self.roll, now)
    }

    /// Starts it on what its disk holds.
    pub(super) fn start(&mut self, rng: &mut Rng, now: Ms) -> VolumeResult<Vec<Effect>> {
        let cache = Cache::new(CACHE);
        let mut numbers = Numbers::begin(rng.next());
        let entries = self.disk.entries();
        let found = Found {
            entries: &entries,
            refs: Vec::new(),
            overlay: Path::new("/nowhere"),
            len_max: 0,
        };
        let now_ns = i64::try_from(self.wall(now)).expect("a date") * 1_000_000;
        self.tried.push((numbers.next(0).dot(), None));
        let d = desk(&self.disk, &self.who, &cache);
        let done = recover::replay(&d, found, &mut numbers, now_ns, &in_memory)?;
        self.disk.settle(None);
        let own = done.view.heads.iter().filter(|h| h.node == self.id());
        let mut notices: Vec<HeadNotice> = own.map(|h| self.notice(h)).collect();
        notices.extend(self.disk.notices());
        let shown = frontier(&done.view);
        self.starts += 1;
        self.run = Some(Run {
            machine: Machine::new(rng.next()),
            numbers,
            view: done.view,
            cache,
            pending: None,
            last: done.committed,
            fetches: BTreeMap::new(),
            states: BTreeMap::new(),
            sealed: None,
        });
        Ok(self.give(Event::Opened { shown, notices }, now))
    }

    /// Something is written through the mount. Returns it if it was fsynced.
    pub(super) fn act(
        &mut self,
        rng: &mut Rng,
        token: &mut u64,
        now: Ms,
        fsync: bool,
    ) -> VolumeResult<Option<Act>> {
        let now_ns = i64::try_from(self.wall(now)).expect("a date") * 1_000_000;
        let Some(run) = &mut self.run else {
            return Ok(None);
        };
        let act = Author {
            view: &run.view,
            cache: &run.cache,
            numbers: &mut run.numbers,
            rng,
            token,
            now_ns,
        }
        .act();
        let Some(act) = act else { return Ok(None) };
        let entry = self.disk.append(&Entry::Op(act.patches.clone()))?;
        let run = self.run.as_mut().expect("it runs");
        run.pending = Some(Pending {
            act: act.clone(),
            entry,
            stamp: None,
        });
        if fsync {
            self.disk.sync(entry)?;
            return Ok(Some(act));
        }
        Ok(None)
    }

    /// Commits what was written.
    pub(super) fn commit(&mut self, now: Ms) -> VolumeResult<Vec<Effect>> {
        let wall = self.wall(now);
        let Some(run) = &mut self.run else {
            return Ok(Vec::new());
        };
        let Some(mut p) = run.pending.take() else {
            return Ok(Vec::new());
        };
        let stamp = p.stamp.unwrap_or_else(|| run.numbers.next(wall));
        run.numbers.took(stamp);
        p.stamp = Some(stamp);
        self.tried.push((stamp.dot(), Some(p.act.clone())));
        let done = Self::write(&self.disk, &self.who, run, &p, stamp);
        let fixed = match done {
            Ok(fixed) => fixed,
            Err(e) => {
                run.pending = Some(p);
                return Err(e);
            }
        };
        Ok(self.publish(fixed, now))
    }

    fn write(
        disk: &Arc<SimDisk>,
        who: &Identity,
        run: &Run,
        p: &Pending,
        stamp: Stamp,
    ) -> VolumeResult<Fixed> {
        let d = desk(disk, who, &run.cache);
        let stage = Memory::over(run.view.stage.clone());
        for b in &p.act.blobs {
            stage.put(ObjectKind::Blob, b.clone())?;
        }
        let deed = Deed {
            stamp,
            births: run.numbers.births,
            changes: &p.act.changes,
            message: &p.act.note,
        };
        let sealed = chain::change(&d, &run.view, &stage, &deed)?;
        let reach = Reach {
            upto: p.entry,
            held: Vec::new(),
        };
        chain::fix(&d, &run.view, &stage, sealed, reach)
    }

    fn publish(&mut self, fixed: Fixed, now: Ms) -> Vec<Effect> {
        let notice = self.notice(&fixed.head);
        if let Some(run) = &mut self.run {
            run.view = fixed.view;
            run.last = Some(fixed.record);
        }
        self.give(Event::Committed(notice, fixed.pack), now)
    }

    /// A commit without changes on the view.
    fn seal(&mut self, now: Ms) -> VolumeResult<Vec<Effect>> {
        let wall = self.wall(now);
        let Some(run) = &mut self.run else {
            return Ok(Vec::new());
        };
        let stamp = run.numbers.next(wall);
        run.numbers.took(stamp);
        self.tried.push((stamp.dot(), Some(Act::default())));
        let sealed = Sealed::seal(&run.view, stamp, run.numbers.births);
        let stage = Memory::over(run.view.stage.clone());
        let d = desk(&self.disk, &self.who, &run.cache);
        let reach = Reach::of(run.last.as_ref());
        let fixed = chain::fix(&d, &run.view, &stage, sealed, reach)?;
        let (before, after) = (&run.view, &fixed.view);
        let same = before.commit == after.commit && before.tree == after.tree;
        assert!(
            same && before.state == after.state,
            "a seal changed the view"
        );
        Ok(self.publish(fixed, now))
    }

    /// Covers heads, if they are still shown.
    pub(super) fn cover(&mut self, heads: &[Oid], now: Ms) -> VolumeResult<Vec<Effect>> {
        let mut out = self.commit(now)?;
        let shown = self.run.as_ref().map(|r| r.view.heads.clone());
        let shown = shown.unwrap_or_default();
        if shown.iter().any(|h| heads.contains(&h.id)) {
            out.extend(self.seal(now)?);
        }
        Ok(out)
    }

    /// A git client asks for the view.
    pub(super) fn hand_out(&mut self, now: Ms) -> VolumeResult<Vec<Effect>> {
        let mut out = self.commit(now)?;
        let Some(run) = &mut self.run else {
            return Ok(out);
        };
        let Some(commit) = run.view.commit else {
            return Ok(out);
        };
        let recent = run.sealed.is_some_and(|t| now < t + SEAL_EVERY);
        if !recent && !self.disk.has(&commit)? {
            run.sealed = Some(now);
            out.extend(self.seal(now)?);
        }
        Ok(out)
    }

    /// Takes in heads whose closure is here.
    fn admit(&mut self, heads: &[Oid], now: Ms) -> VolumeResult<Vec<Effect>> {
        let out = self.commit(now)?;
        if let Some(run) = &mut self.run {
            let d = desk(&self.disk, &self.who, &run.cache);
            if let Some(view) = chain::take_in(&d, &run.view, heads)? {
                run.numbers.saw(&view.heads);
                run.view = view;
            }
        }
        Ok(out)
    }

    /// Shows the heads whose packs came with them; the others are to be asked for.
    pub(super) fn unpack(
        &mut self,
        want: Vec<Wanted>,
        now: Ms,
    ) -> VolumeResult<(Vec<HeadNotice>, Vec<Effect>)> {
        let (mut here, mut rest) = (Vec::new(), Vec::new());
        for Wanted { head, pack } in want {
            if let Some(pack) = pack
                && let Some(judged) = self.take(&pack, &head)?
            {
                here.extend(judged.good);
                self.lies.extend(judged.lies);
            } else {
                rest.push(head);
            }
        }
        let out = match here.is_empty() {
            true => Vec::new(),
            false => self.admit(&here, now)?,
        };
        Ok((rest, out))
    }

    /// What of a head can be shown by the pack that came with it, which may turn out false.
    fn take(&mut self, pack: &[u8], head: &HeadNotice) -> VolumeResult<Option<Judged>> {
        let Some(run) = &self.run else {
            return Ok(None);
        };
        if self.disk.has(&head.id)? {
            return Ok(exchange::judge(&*self.disk, &run.cache, &[head]).ok());
        }
        assert!(pack.len() <= CARRIED_PACK_BYTES_MAX, "a bound");
        match exchange::believe(pack, &*self.disk, &run.cache, &[head]) {
            Ok((objects, judged)) => {
                self.disk.hold(pack.to_vec(), objects)?;
                Ok(Some(judged))
            }
            Err(_) => Ok(None),
        }
    }

    /// What is here of what a peer asks for, and the pack of it.
    pub(super) fn answer(&self, want: &[Oid], have: &Known) -> (Vec<Oid>, Vec<u8>) {
        let Some(run) = &self.run else {
            return Default::default();
        };
        let ids = exchange::held_of(&*self.disk, want);
        let mut pack = Vec::new();
        if !ids.is_empty() {
            exchange::give(&*self.disk, &run.cache, &ids, have, &mut pack)
                .expect("what is here is whole");
        }
        (ids, pack)
    }

    /// Takes in an answer; whether it is good.
    pub(super) fn receive(
        &mut self,
        want: &[HeadNotice],
        ids: &[Oid],
        pack: &[u8],
        now: Ms,
    ) -> VolumeResult<(bool, Vec<Effect>)> {
        let Some(run) = &self.run else {
            return Ok((false, Vec::new()));
        };
        let Ok((heads, missing)) = exchange::promised(&*self.disk, ids, want) else {
            return Ok((false, Vec::new()));
        };
        if ids.is_empty() {
            return Ok((false, Vec::new()));
        }
        let judged = if missing {
            match exchange::believe(pack, &*self.disk, &run.cache, &heads) {
                Ok((objects, judged)) => {
                    chain::flush(&*self.disk, objects)?;
                    judged
                }
                Err(_) => return Ok((false, Vec::new())),
            }
        } else {
            exchange::judge(&*self.disk, &run.cache, &heads).expect("what is here is whole")
        };
        self.lies.extend(judged.lies);
        match self.admit(&judged.good, now) {
            Ok(out) => Ok((true, out)),
            Err(e) if self.disk.is_dead() => Err(e),
            Err(e) => panic!("heads that were checked cannot be taken in: {e}"),
        }
    }

    /// What waits for a pack and for a sync gets them; now and then the journal begins anew.
    pub(super) fn settle(&mut self, rng: &mut Rng) {
        let Some(run) = &self.run else { return };
        if !self.disk.unsettled() {
            return;
        }
        let anew = run.pending.is_none() && rng.permille(300);
        let opening =
            anew.then(|| recover::opening(run.numbers.branch, &run.view, run.last.as_ref()));
        self.disk.settle(opening);
    }
}
