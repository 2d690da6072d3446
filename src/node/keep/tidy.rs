//! What is not wanted here goes: files that others have promised to keep become a cache, and of
//! the cache goes what was used last longest ago when there is too much of it.
//!
//! Invariant: only what [`crate::copies`] allows, or what was never all here, is taken out of what
//! counts; only what does not count is removed. Tasks: one, whose work runs on threads that may
//! wait for the disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::desk::lock;
use crate::base::id::Oid;
use crate::chunk::Sha256;
use crate::config::Keep;
use crate::control::failure::{Answer, Failure};
use crate::node::NodeInner;
use crate::node::copies::Stays;
use crate::volume::evict::Known;
use crate::volume::{Volume, VolumeResult};

/// What is not wanted is looked for this often, and soon after something became so.
const EVERY: Duration = Duration::from_secs(20);
/// Files that others are asked for at a time.
const AT_ONCE: usize = 32;
/// What could not be let go of is tried again after about this long, then after twice that and so
/// on.
const AGAIN: Duration = Duration::from_secs(10);
const AGAIN_MAX: Duration = Duration::from_secs(600);
/// What the disk is to have free when nothing else bounds the cache: a twentieth, within these.
const FREE_BYTES: (u64, u64) = (256 << 20, 2 << 30);

/// Tidies until the node stops.
pub(in crate::node) async fn run(node: Arc<NodeInner>) {
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = node.tidying.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
        for v in node.all_volumes() {
            tidy(&node, &v).await;
        }
    }
}

async fn tidy(node: &Arc<NodeInner>, v: &Arc<Volume>) {
    let volume = v.clone();
    let surplus = node
        .blocking(move |n| n.surplus(&volume).map_err(Failure::failed))
        .await;
    match surplus {
        Ok(surplus) => {
            for some in surplus.chunks(AT_ONCE) {
                let asked = some.iter().map(|head| node.let_go(v, *head));
                let done = futures::future::join_all(asked).await;
                let (went, stays) = sort(some, &done);
                node.try_later(v, &stays);
                let volume = v.clone();
                let work = move |n: &NodeInner| {
                    let gone = n.free_packs(&volume, went);
                    gone.map_err(Failure::failed)
                };
                if let Err(e) = node.blocking(work).await {
                    tracing::warn!(volume = %v.name(), error = %e, "what went takes room yet");
                }
            }
        }
        Err(e) => tracing::warn!(volume = %v.name(), error = %e, "what is not wanted stays"),
    }
    let volume = v.clone();
    let freed = node
        .blocking(move |n| n.free_cache(&volume).map_err(Failure::failed))
        .await;
    if let Err(e) = freed {
        tracing::warn!(volume = %v.name(), error = %e, "the cache is larger than it should be");
    }
}

/// The files that went, and those that stay.
fn sort(all: &[Oid], done: &[Result<(), Stays>]) -> (Vec<Oid>, Vec<Oid>) {
    let (went, stays): (Vec<_>, Vec<_>) = all.iter().zip(done).partition(|(_, d)| d.is_ok());
    let heads = |of: Vec<(&Oid, _)>| of.into_iter().map(|(head, _)| *head).collect();
    (heads(went), heads(stays))
}

impl NodeInner {
    /// Large files that count here and are not wanted. Of what was never all here, nothing counts
    /// any more.
    fn surplus(&self, v: &Arc<Volume>) -> VolumeResult<Vec<Oid>> {
        let desk = self.desk_of(v)?;
        let (wanted, shown) = {
            let desk = lock(&desk);
            if self.wants_all(&desk) {
                return Ok(Vec::new());
            }
            (desk.wanted(), desk.shown())
        };
        let all = match self.options.keep {
            // Versions of the past are kept, too.
            Keep::All => shown.into_iter().collect::<Vec<Oid>>(),
            Keep::Pinned | Keep::Tagged => {
                let known: Vec<Oid> = (self.known_files(v)?)();
                let mut all: HashSet<Oid> = known.into_iter().collect();
                all.extend(v.all_counted());
                all.into_iter().collect::<Vec<Oid>>()
            }
        };
        let mut out = Vec::new();
        let mut lacking = Vec::new();
        for head in all {
            if wanted.contains(&head) || v.is_away(&head) {
                lock(&desk).tried.remove(&head);
                continue;
            }
            if lock(&desk).waits(&head) {
                continue;
            }
            // Of what was damaged the rest goes as all of it would.
            if v.is_counted(&head) || v.lacks(&head, 1)?.is_empty() {
                out.push(head);
            } else {
                lacking.push(head);
            }
        }
        self.forgo(v, &lacking)?;
        Ok(out)
    }

    fn try_later(&self, v: &Volume, heads: &[Oid]) {
        let Ok(desk) = self.desk_of(v) else { return };
        let mut desk = lock(&desk);
        for head in heads {
            let (_, tries) = desk
                .tried
                .get(head)
                .copied()
                .unwrap_or_else(|| (Instant::now(), 0));
            // All at once, to all at once, would be refused by all again.
            let mut random = [0; 2];
            let _fixed_without = getrandom::fill(&mut random);
            let jitter = 0.5 + f64::from(u16::from_le_bytes(random)) / 65_536.0;
            let wait = AGAIN.saturating_mul(1 << tries.min(16)).min(AGAIN_MAX);
            let until = Instant::now() + wait.mul_f64(jitter);
            desk.tried.insert(*head, (until, tries + 1));
        }
    }

    /// All large files that this node knows of a volume, by the heads of their manifests.
    pub(in crate::node) fn known_files(&self, v: &Arc<Volume>) -> VolumeResult<Known> {
        let shelf = self.shelf(v).map_err(std::io::Error::other)?;
        Ok(Arc::new(move || shelf.all()))
    }

    /// Files of which never all was here, and which are not wanted, are away.
    pub(super) fn forgo(&self, v: &Arc<Volume>, heads: &[Oid]) -> VolumeResult<()> {
        let copies = self.copies.still();
        let mut away = Vec::new();
        for head in heads {
            let is_known = v.is_away(head) || v.is_counted(head);
            let is_free = !is_known && !copies.is_bound(v.name(), head);
            if is_free && !v.lacks(head, 1)?.is_empty() {
                away.push(*head);
            }
        }
        v.forgo(&away)
    }

    /// Removes what is over of the cache. How many bytes.
    fn free_cache(&self, v: &Arc<Volume>) -> VolumeResult<u64> {
        let away: HashSet<Oid> = v.all_away().into_iter().collect();
        if away.is_empty() {
            return Ok(0);
        }
        let mut named: HashMap<Sha256, Oid> = HashMap::new();
        for head in away {
            match v.large_head(&head) {
                Ok(h) => drop(named.insert(h.sha256, head)),
                Err(e) => tracing::debug!(%head, error = %e, "an unknown file is away"),
            }
        }
        let mut by_use: BTreeMap<(SystemTime, Sha256), (Oid, u64)> = BTreeMap::new();
        for c in v.chunks()?.containers() {
            if let Some(head) = named.get(&c.sha256) {
                by_use.insert((c.used, c.sha256), (*head, c.bytes));
            }
        }
        let cached: u64 = by_use.values().map(|(_, bytes)| *bytes).sum();
        let over = match self.options.cache_bytes {
            Some(most) => cached.saturating_sub(most),
            None => 0,
        };
        let over = over.max(lacks_free(v)?);
        let mut freed = 0;
        let known = self.known_files(v)?;
        for (head, bytes) in by_use.into_values() {
            if freed >= over {
                break;
            }
            if !v.evict(vec![head], &known)?.is_empty() {
                freed += bytes;
                tracing::debug!(volume = %v.name(), %head, bytes, "not cached any more");
            }
        }
        Ok(freed)
    }

    /// What is away and in no container is no cache: nobody could say what is to go first.
    fn free_packs(&self, v: &Arc<Volume>, mut went: Vec<Oid>) -> VolumeResult<()> {
        let chunks = v.chunks()?;
        let mut fault = Ok(());
        went.retain(|head| match v.large_head(head) {
            Ok(h) => !matches!(chunks.container(&h.sha256), Ok(Some(_))),
            Err(e) => {
                fault = Err(e);
                false
            }
        });
        if !went.is_empty() {
            v.evict(went, &self.known_files(v)?)?;
        }
        fault
    }

    /// Lets go of copies of files, and of their bytes, when enough others have promised to keep
    /// theirs; of each that stays, why.
    pub(in crate::node) async fn drop_files(
        &self,
        v: &Arc<Volume>,
        heads: Vec<Oid>,
    ) -> Answer<HashMap<Oid, String>> {
        let mut stays = HashMap::new();
        for some in heads.chunks(AT_ONCE) {
            let counts = some.iter().filter(|h| !v.is_away(h));
            let asked = counts.map(|head| async move { (*head, self.let_go(v, *head).await) });
            for (head, done) in futures::future::join_all(asked).await {
                if let Err(why) = done {
                    stays.insert(head, why.0);
                }
            }
        }
        let went: Vec<Oid> = heads
            .into_iter()
            .filter(|h| !stays.contains_key(h))
            .collect();
        let (volume, all) = (v.clone(), went.clone());
        let gone = self.blocking(move |n| {
            let known = n.known_files(&volume).map_err(Failure::failed)?;
            volume.evict(all, &known).map_err(Failure::failed)
        });
        let gone: HashSet<Oid> = gone.await?.into_iter().collect();
        let open = went.into_iter().filter(|h| !gone.contains(h));
        stays.extend(open.map(|h| (h, "a program has it open".to_owned())));
        Ok(stays)
    }
}

/// Bytes that the disk should have free and has not.
fn lacks_free(v: &Volume) -> VolumeResult<u64> {
    let s = rustix::fs::statvfs(v.dir()).map_err(std::io::Error::from)?;
    let (least, most) = FREE_BYTES;
    let size = s.f_blocks.saturating_mul(s.f_frsize);
    let should = (size / 20).clamp(least, most);
    Ok(should.saturating_sub(s.f_bavail.saturating_mul(s.f_frsize)))
}
