//! The issuer's side of a ticket: redeems it, for a joiner at its own door or at another's.
//!
//! Invariant: only the issuer judges a token, its uses and its expiry, and the use is on disk
//! before the certificate exists; so one use is one use however the network is cut.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::admit::grant;
use super::cell;
use super::core::Core;
use super::error::Refusal;
use super::grant::{Answer, Grant, Passed, WISH_BYTES_MAX, Way, is_same, joiner_proof};
use super::roll::Standing;
use super::statement::CHAIN_MAX;
use super::ticket::TokenName;
use super::transport::{RecvStream, SendStream};
use super::wire::{read_frame, write_frame};
use crate::base::clock;
use crate::base::id::NodeId;

/// A passed wish arrives whole in this time.
const PASSED_TIMEOUT: Duration = Duration::from_secs(5);

/// Redeems a token for a joiner that is connected to the member `via`.
pub(crate) async fn redeem_for(
    core: &Arc<Core>,
    via: NodeId,
    mut recv: RecvStream,
    mut send: SendStream,
) {
    let read = read_frame::<Passed>(&mut recv, WISH_BYTES_MAX);
    let Ok(Ok(passed)) = timeout(PASSED_TIMEOUT, read).await else {
        return;
    };
    let answer = redeem(core, via, passed).await;
    if write_frame(&mut send, &answer).await.is_ok() {
        send.finish();
    }
}

/// Redeems a token of ours.
pub(crate) async fn redeem(core: &Arc<Core>, via: NodeId, passed: Passed) -> Answer {
    let Passed {
        joiner,
        exporter,
        wish,
    } = passed;
    let Way::Token { name, proof, cell } = wish.way else {
        return Answer::refuse(Refusal::Malformed);
    };
    // One redemption at a time: a joiner that asks twice at once gets one certificate.
    let mut invites = core.invites.lock().await;
    let Some(token) = invites.token(&name) else {
        return Answer::refuse(Refusal::TokenWrong);
    };
    if !is_same(&proof, &joiner_proof(&token, &exporter, joiner, via)) {
        return Answer::refuse(Refusal::TokenWrong);
    }
    // From here on the joiner has proved the token, and is told the truth.
    let outcome = if cell.is_some_and(|c| c != core.cell) {
        Err(Refusal::OtherCell)
    } else {
        let_in(core, &mut invites, &name, joiner, &wish.name).await
    };
    if outcome.is_ok() {
        core.note_addrs(joiner, None, &wish.addrs);
    }
    Answer::proved(outcome, &token, &exporter, joiner)
}

async fn let_in(
    core: &Arc<Core>,
    invites: &mut super::invites::Invites,
    token: &TokenName,
    joiner: NodeId,
    name: &str,
) -> Result<Grant, Refusal> {
    let (standing, depth) = core.with_roll(|r| (r.standing(joiner).cloned(), r.depth(core.me)));
    match standing {
        Some(Standing::Forgotten { .. }) => return Err(Refusal::Forgotten),
        Some(Standing::Member { .. }) => return Ok(grant(core)),
        Some(Standing::Left { .. }) | None => {}
    }
    if !core.is_member(core.me) {
        return Err(Refusal::VoidCertificate);
    }
    if depth.is_none_or(|d| d >= CHAIN_MAX) {
        return Err(Refusal::ChainTooLong);
    }
    invites.spend(token, joiner, clock::now_ms() / 1000).await?;
    let failed = |error| {
        tracing::error!(%error, "could not admit a node");
        Refusal::Internal
    };
    let statement = cell::certificate(core.key(), core.cell, joiner, name).map_err(failed)?;
    core.learn(vec![statement], None);
    core.save().await.map_err(failed)?;
    Ok(grant(core))
}
