//! Bytes of large files are read again, now and then all of them, and what was damaged on the disk
//! comes again from other nodes.
//!
//! Invariant: what is damaged is not here any more before it is looked for, so nobody is told that
//! it is. Tasks: one, whose reading runs on a thread that may wait for the disk, a little at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::id::VolumeName;
use crate::control::failure::{Answer, Failure};
use crate::control::wire::Scrubbed;
use crate::node::NodeInner;
use crate::volume::{Volume, VolumeResult};

/// A little is read this often.
const EVERY: Duration = Duration::from_secs(60);
/// All is read within this, unless the least or the most says otherwise.
const ROUND: Duration = Duration::from_secs(30 * 24 * 3600);
/// What is read each time.
const BYTES: (u64, u64) = (4 << 20, 1 << 30);
/// What is read at a time when somebody asked for all.
const STEP_BYTES: u64 = 64 << 20;

/// Scrubs until the node stops.
pub(in crate::node) async fn run(node: Arc<NodeInner>) {
    // Damage that was found, by whoever read, when this was looked at last.
    let mut found: BTreeMap<VolumeName, u64> = BTreeMap::new();
    loop {
        tokio::select! {
            () = node.stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        for v in node.all_volumes() {
            let before = found.get(v.name()).copied().unwrap_or(0);
            let volume = v.clone();
            let done = node.blocking(move |n| {
                let damage = n.scrub_some(&volume, before);
                damage.map_err(Failure::failed)
            });
            match done.await {
                Ok(damage) => drop(found.insert(v.name().clone(), damage)),
                Err(e) => tracing::warn!(volume = %v.name(), error = %e, "not all was looked at"),
            }
        }
    }
}

impl NodeInner {
    /// Reads a little; how much damage was found since the volume was opened.
    fn scrub_some(&self, v: &Arc<Volume>, before: u64) -> VolumeResult<u64> {
        if !v.has_chunks() {
            return Ok(before);
        }
        let chunks = v.chunks()?;
        let stats = chunks.stats();
        let all = stats.live_bytes + stats.container_bytes;
        let (least, most) = BYTES;
        let part = all.saturating_mul(EVERY.as_secs()) / ROUND.as_secs();
        let done = chunks.scrub(part.clamp(least, most));
        let damage = chunks.damage();
        if damage != before {
            self.repair(v)?;
        }
        done?;
        Ok(damage)
    }

    /// What lacks of files that are wanted comes again.
    fn repair(&self, v: &Arc<Volume>) -> VolumeResult<()> {
        v.meet_anew();
        self.look_now(v)
    }

    /// Reads all bytes of large files of all volumes. Blocking.
    pub(in crate::node) fn scrub_all(&self) -> Answer<Vec<Scrubbed>> {
        let mut out = Vec::new();
        for v in self.all_volumes() {
            if v.has_chunks() {
                out.push(self.scrub_volume(&v).map_err(Failure::failed)?);
            }
        }
        Ok(out)
    }

    fn scrub_volume(&self, v: &Arc<Volume>) -> VolumeResult<Scrubbed> {
        let begin = Instant::now();
        let chunks = v.chunks()?;
        let before = chunks.damage();
        let mut bytes = 0;
        let mut rounds = 0;
        // To the end, and once more from the start: wherever the last one was.
        while rounds < 2 {
            let some = chunks.scrub(STEP_BYTES)?;
            bytes += some.bytes;
            rounds += u32::from(some.is_round);
        }
        let damaged = chunks.damage() - before;
        if damaged > 0 {
            self.repair(v)?;
        }
        Ok(Scrubbed {
            volume: v.name().to_string(),
            bytes,
            damaged,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }
}
