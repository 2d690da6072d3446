//! The end of a membership: nothing that was written here goes with the node, of large files all
//! that the folder shows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::NodeInner;
use super::replicate::{GOSSIP_KEY, gossiped};
use crate::base::id::{NodeId, Oid, VolumeName};
use crate::base::path::VolumePath;
use crate::control::failure::{Answer, Failure};
use crate::peers::{MemberState, Peers};
use crate::replicator::GOSSIPED_HEADS_MAX;

/// How long others may take to fetch what only this node has.
const PATIENCE: Duration = Duration::from_secs(45);
/// How long nobody at all may be connected.
const ALONE: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// What a member took in is on its disk after this time at the latest.
const DURABLE: Duration = Duration::from_millis(1200);

/// Leaves the cell when other members have all that is here; by force, also when they have not.
///
/// # Errors
/// When nobody has it in time: then this node is still a member.
pub(super) async fn leave(node: &Arc<NodeInner>, force: bool) -> Answer<()> {
    let p = node.the_peers()?;
    if !force {
        // Once with the folders, so that they are still there if it comes to nothing.
        handed_over(node).await?;
    }
    // From here on nothing new is written.
    node.leaving.store(true, Ordering::SeqCst);
    let done = end(node, p, force).await;
    if done.is_ok() {
        node.stop.cancel();
    } else {
        node.leaving.store(false, Ordering::SeqCst);
    }
    done
}

async fn end(node: &Arc<NodeInner>, p: &Peers, force: bool) -> Answer<()> {
    node.blocking(|n| {
        n.unmount_all();
        flush(n)
    })
    .await?;
    if !force {
        handed_over(node).await?;
        tokio::time::sleep(DURABLE).await;
    }
    Ok(p.leave().await?)
}

fn flush(node: &NodeInner) -> Answer<()> {
    for v in node.all_volumes() {
        v.flush_all()
            .map_err(|e| Failure::failed(format!("volume {}: {e}", v.name())))?;
    }
    Ok(())
}

/// Waits until each head that is shown here is among the heads of a connected member.
async fn handed_over(node: &Arc<NodeInner>) -> Answer<()> {
    let p = node.the_peers()?;
    let others = p
        .members()
        .iter()
        .any(|m| matches!(m.state, MemberState::Alive | MemberState::Unreachable));
    if !others || !p.is_member(node.id()) {
        return Ok(());
    }
    let began = Instant::now();
    let mut kept = BTreeSet::new();
    loop {
        let missing = node.blocking(|n| {
            flush(n)?;
            only_here(n)
        });
        let missing = match missing.await? {
            Some(volume) => Some((volume, None)),
            None => large_only_here(node, p, &mut kept).await?,
        };
        let Some((volume, file)) = missing else {
            return Ok(());
        };
        let alone = p.connected().is_empty();
        if began.elapsed() > PATIENCE || (alone && began.elapsed() > ALONE) {
            let why = if alone {
                "no other member is connected"
            } else {
                "no other member has it yet"
            };
            let file = file.map(|f| format!(", {f} for one,"));
            return Err(Failure::failed(format!(
                "what is in volume {volume}{} would be lost: {why}",
                file.unwrap_or_default()
            ))
            .hint("try again later; `cellfs leave --force` leaves all the same"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A volume of which some head is on this node alone, as far as the connected members say.
fn only_here(node: &NodeInner) -> Answer<Option<VolumeName>> {
    let p = node.the_peers()?;
    let states = p.states();
    let connected: Vec<NodeId> = p.connected().into_iter().map(|(n, _)| n).collect();
    for v in node.all_volumes() {
        let key = format!("{GOSSIP_KEY}{}", v.name());
        let theirs = connected.iter().filter_map(|n| states.get(n)?.get(&key));
        let theirs: Vec<Oid> = theirs.flat_map(|t| gossiped(t)).map(|h| h.id).collect();
        let heads = v.view().heads;
        if heads.iter().all(|h| theirs.contains(&h.id)) {
            continue;
        }
        // So many heads do not fit what a member says; one on top of them does.
        if heads.len() > GOSSIPED_HEADS_MAX / 2
            && let Err(e) = v.cover(heads.iter().map(|h| h.id).collect())
        {
            tracing::warn!(volume = %v.name(), error = %e, "heads were not covered");
        }
        return Ok(Some(v.name().clone()));
    }
    Ok(None)
}

/// A large file of which no connected member says that its copy counts; `kept`: those of which one
/// said so before.
async fn large_only_here(
    node: &Arc<NodeInner>,
    p: &Peers,
    kept: &mut BTreeSet<(VolumeName, Oid)>,
) -> Answer<Option<(VolumeName, Option<String>)>> {
    let files = node.blocking(|n| {
        let mut out = Vec::new();
        for v in n.all_volumes() {
            let files = v.large_below(&v.view(), b"");
            for f in files.map_err(Failure::failed)? {
                let here = f.heads.iter().filter(|h| !v.is_away(h));
                out.extend(here.map(|h| ((v.name().clone(), *h), f.path.clone())));
            }
        }
        Ok(out)
    });
    let connected: Vec<NodeId> = p.connected().into_iter().map(|(n, _)| n).collect();
    for (file, path) in files.await? {
        if kept.contains(&file) {
            continue;
        }
        let asked = connected.iter().map(|peer| node.told_by(*peer, &file));
        let told = futures::future::join_all(asked).await;
        if told.into_iter().flatten().any(|t| t.keeps) {
            kept.insert(file);
            continue;
        }
        let path = VolumePath::new(&path).unwrap_or_default().to_string();
        return Ok(Some((file.0, Some(path))));
    }
    Ok(None)
}
