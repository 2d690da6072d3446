//! The member's side of a join: answers strangers at the join door.
//!
//! Invariant: a stranger gets nothing until its token is proved or its code admitted, and the
//! same refusal whether a token is unknown or wrongly proved. A wish must arrive in the
//! handshake's time; only nodes on the bounded pending list may wait longer.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::core::{Core, lock};
use super::dial::Slot;
use super::error::{PeersError, Refusal};
use super::events::Event;
use super::grant::{
    ANSWER_BYTES_MAX, Answer, Confirmed, EXPORTER_LABEL, GRANT_NODES_MAX, Grant, Offer, Passed,
    WISH_BYTES_MAX, Way, Wish,
};
use super::hello::{HELLO_TIMEOUT, Said, read_preamble};
use super::link::Ask;
use super::pending::{self, PENDING_TIME, Waiting};
use super::roll::{Roll, Standing};
use super::statement::{CHAIN_MAX, NODE_NAME_BYTES_MAX};
use super::ticket::{ADDRS_MAX, NodeAddr, TokenName};
use super::transport::{Close, Conn, RecvStream, SendStream};
use super::wire::{read_frame, write_frame};
use super::{cell, proxy};
use crate::base::id::NodeId;

/// The issuer, asked by another member, answers in this time.
const PASS_TIMEOUT: Duration = Duration::from_secs(10);
/// The joiner reads its answer in this time.
const FAREWELL: Duration = Duration::from_secs(10);

/// Answers a connection at the join door.
pub(crate) async fn answer(core: Arc<Core>, conn: Conn, addr: Option<SocketAddr>, slot: Slot) {
    let addr = addr.unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    let heard = timeout(HELLO_TIMEOUT, listen(&core, &conn)).await;
    let (wish, mut send, recv) = match heard {
        Ok(Ok(heard)) => heard,
        Ok(Err(Said::Refuse(why))) => return conn.refuse(&why),
        Ok(Err(Said::Lost(why))) => {
            tracing::debug!(?addr, why, "a join broke off");
            return conn.close(Close::Protocol);
        }
        Err(_) => return conn.close(Close::Protocol),
    };
    let answer = match &wish.way {
        Way::Token { name, .. } => match conn.exporter(EXPORTER_LABEL) {
            Ok(exporter) => {
                let name = *name;
                let joiner = conn.node();
                let passed = Passed {
                    joiner,
                    exporter,
                    wish,
                };
                by_token(&core, name, passed).await
            }
            Err(_) => Answer::refuse(Refusal::Internal),
        },
        Way::Code => match by_code(&core, &conn, &wish, addr, &mut send, recv, slot).await {
            Some(answer) => answer,
            None => return conn.close(Close::Done),
        },
    };
    if let Err(why) = &answer.outcome {
        tracing::info!(%addr, joiner = ?conn.node(), ?why, "a join was refused");
    }
    if write_frame(&mut send, &answer).await.is_ok() {
        send.finish();
        // The joiner closes when it has read the answer.
        let _ = timeout(FAREWELL, conn.ended()).await;
    }
    conn.close(Close::Done);
}

async fn listen(core: &Core, conn: &Conn) -> Result<(Wish, SendStream, RecvStream), Said> {
    let (send, mut recv) = conn.accept_bi().await.map_err(super::hello::lost)?;
    read_preamble(&mut recv, core.config.protocol).await?;
    let mut wish: Wish = read_frame(&mut recv, WISH_BYTES_MAX)
        .await
        .map_err(|_| Said::Refuse(Refusal::Malformed))?;
    wish.addrs.truncate(ADDRS_MAX);
    wish.name
        .truncate(wish.name.floor_char_boundary(NODE_NAME_BYTES_MAX));
    Ok((wish, send, recv))
}

/// Redeems a token here, or passes it to the node that issued it.
async fn by_token(core: &Arc<Core>, name: TokenName, passed: Passed) -> Answer {
    if name.is_of(core.me) {
        return proxy::redeem(core, core.me, passed).await;
    }
    let issuer = core.with_roll(|r| {
        let mut all = r.standings().keys().copied();
        all.find(|n| name.is_of(*n) && r.is_member(*n))
    });
    let Some(link) = issuer.and_then(|n| core.link(n)) else {
        return Answer::refuse(Refusal::IssuerUnreachable);
    };
    let asked = async {
        let (mut send, mut recv) = link.ask(Ask::Join).await?;
        write_frame(&mut send, &passed).await?;
        send.finish();
        read_frame::<Answer>(&mut recv, ANSWER_BYTES_MAX).await
    };
    match timeout(PASS_TIMEOUT, asked).await {
        Ok(Ok(answer)) => answer,
        _ => Answer::refuse(Refusal::IssuerUnreachable),
    }
}

/// Lists the joiner as pending and waits until both persons agreed; `None`: it went away.
async fn by_code(
    core: &Arc<Core>,
    conn: &Conn,
    wish: &Wish,
    addr: SocketAddr,
    send: &mut SendStream,
    mut recv: RecvStream,
    slot: Slot,
) -> Option<Answer> {
    let joiner = conn.node();
    let tag = pending::cell_tag(core.cell);
    let name = cell::good_name(&wish.name, joiner);
    let forgotten =
        core.with_roll(|r| matches!(r.standing(joiner), Some(Standing::Forgotten { .. })));
    let offered = if forgotten {
        Err(Refusal::Forgotten)
    } else {
        let code = || pending::code(joiner, core.me, &tag);
        lock(&core.pending).offer(joiner, name, addr, code)
    };
    let waiting = match offered {
        Ok(waiting) => waiting,
        Err(why) => {
            tracing::info!(%addr, ?joiner, ?why, "a join was refused");
            write_frame(send, &Err::<Offer, _>(why)).await.ok()?;
            let _ = timeout(FAREWELL, conn.ended()).await;
            return None;
        }
    };
    publish(core, joiner, &waiting);
    let offer = Offer { cell_tag: tag };
    write_frame(send, &Ok::<_, Refusal>(offer)).await.ok()?;
    // From here on the pending list bounds it, with one visit per node.
    drop(slot);
    let agreed = async {
        let confirmed = async { read_frame::<Confirmed>(&mut recv, 64).await.map_err(drop) };
        let admitted = admitted(core, joiner, waiting.visit);
        tokio::try_join!(confirmed, admitted).is_ok()
    };
    let agreed = tokio::select! {
        agreed = timeout(PENDING_TIME, agreed) => agreed.unwrap_or(false),
        _ = conn.ended() => return None,
        () = core.stopped() => return None,
    };
    if !agreed {
        return Some(Answer::refuse(Refusal::NotAdmitted));
    }
    core.note_addrs(joiner, None, &wish.addrs);
    let outcome = Ok(grant(core));
    Some(Answer {
        outcome,
        proof: None,
    })
}

/// Waits until the joiner is a member; fails when its time is over or it came again.
async fn admitted(core: &Core, joiner: NodeId, visit: u64) -> Result<(), ()> {
    let mut changes = core.changes.subscribe();
    loop {
        if core.is_member(joiner) {
            return Ok(());
        }
        if !lock(&core.pending).is_waiting(joiner, visit) {
            return Err(());
        }
        tokio::select! {
            _ = changes.changed() => {}
            () = sleep(Duration::from_secs(5)) => {}
        }
    }
}

/// Tells the other members who waits here.
fn publish(core: &Core, joiner: NodeId, waiting: &Waiting) {
    core.gossip
        .set_own(&pending_key(joiner), Some(pending::to_text(waiting)));
    core.events.tell(Event::Pending);
    // Ends an earlier visit of the same node.
    core.changed();
}

/// Takes nodes off the pending list that have been admitted or waited too long.
pub(crate) fn tidy_pending(core: &Core) {
    let mut gone = lock(&core.pending).expire();
    for (node, _) in lock(&core.pending).list() {
        if core.is_member(node) {
            gone.push(node);
        }
    }
    for node in &gone {
        lock(&core.pending).remove(*node);
        core.gossip.set_own(&pending_key(*node), None);
    }
    if !gone.is_empty() {
        core.events.tell(Event::Pending);
    }
}

fn pending_key(joiner: NodeId) -> String {
    format!("{}{joiner}", super::gossip::KEY_PENDING)
}

/// Nodes that wait anywhere in the cell: joiner, member it waits at, code, address, name.
pub(crate) fn all_pending(core: &Core) -> Vec<(NodeId, NodeId, String, SocketAddr, String)> {
    let mut all: Vec<_> = lock(&core.pending)
        .list()
        .into_iter()
        .map(|(node, w)| (node, core.me, w.code, w.addr, w.name))
        .collect();
    for (member, key, text) in core.gossip.with_prefix(super::gossip::KEY_PENDING) {
        let joiner = key.parse::<NodeId>().ok();
        if let (Some(joiner), Some((code, addr, name))) = (joiner, pending::from_text(&text)) {
            all.push((joiner, member, code, addr, name));
        }
    }
    all.retain(|(joiner, ..)| !core.is_member(*joiner));
    all
}

/// Admits the node with this code, wherever in the cell it waits.
pub(crate) async fn admit(core: &Arc<Core>, text: &str) -> Result<NodeId, PeersError> {
    let unknown = || PeersError::NoSuchCode(text.trim().to_owned());
    let code = pending::tidy_code(text).ok_or_else(unknown)?;
    let tag = pending::cell_tag(core.cell);
    // The code is recomputed: what another node says about it decides nothing.
    let (joiner, name) = all_pending(core)
        .into_iter()
        .filter(|(.., c, _, _)| *c == code)
        .find(|(joiner, member, ..)| pending::code(*joiner, *member, &tag) == code)
        .map(|(joiner, _, _, _, name)| (joiner, name))
        .ok_or_else(unknown)?;
    if !core.with_roll(|r| r.depth(core.me).is_some_and(|d| d < CHAIN_MAX)) {
        return Err(Refusal::ChainTooLong.into());
    }
    let statement = cell::certificate(core.key(), core.cell, joiner, &name)?;
    core.learn(vec![statement], None);
    core.save().await?;
    tidy_pending(core);
    Ok(joiner)
}

/// All that a new member needs.
pub(crate) fn grant(core: &Core) -> Grant {
    let (log, members) = core.with_roll(|r: &Roll| {
        let log = r.statements().map(|(_, s)| s.clone()).collect();
        let members: Vec<NodeId> = r.standings().keys().copied().collect();
        (log, members)
    });
    let mut nodes = vec![NodeAddr {
        node: core.me,
        addrs: core.own_addrs(),
    }];
    let linked = |n: &NodeId| core.link(*n).is_none();
    let mut others: Vec<NodeId> = members.into_iter().filter(|n| *n != core.me).collect();
    others.sort_by_key(linked);
    for node in others {
        let addrs = core.addrs_of(node);
        if !addrs.is_empty() && nodes.len() < GRANT_NODES_MAX {
            nodes.push(NodeAddr { node, addrs });
        }
    }
    Grant {
        cell: core.cell,
        log,
        nodes,
    }
}
