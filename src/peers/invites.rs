//! The issuer's ledger of tickets: what was promised to whom, and what is spent.
//!
//! Invariant: a use is on disk before the certificate it pays for leaves this node, so a
//! crash can waste a use and never grant one twice. The same node asking again gets the same
//! answer for the same use. Only this node's clock judges expiry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::cell::{checked_bytes, read_checked};
use super::error::{PeersError, Refusal};
use super::files;
use super::ticket::{Token, TokenName};
use crate::base::id::NodeId;

/// Most tickets remembered; the longest expired are dropped first.
const INVITES_MAX: usize = 1024;
/// Most uses of one ticket.
const USES_MAX: u32 = 10_000;
/// Expired tickets are remembered this long, to tell their holders so.
const REMEMBER_S: u64 = 30 * 24 * 3600;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Invite {
    token: Token,
    expires_s: u64,
    uses: u32,
    redeemed_by: Vec<NodeId>,
}

/// All tickets of this node.
#[derive(Debug)]
pub(crate) struct Invites {
    path: PathBuf,
    /// Where the name of the ticket is kept that is shown to whoever asks for none.
    shown_path: PathBuf,
    shown: Option<TokenName>,
    by_name: BTreeMap<TokenName, Invite>,
}

impl Invites {
    /// Reads the ledger.
    pub(crate) fn load(path: PathBuf) -> Result<Self, PeersError> {
        let list: Vec<Invite> = read_checked(&path)?.unwrap_or_default();
        let by_name = list.into_iter().map(|i| (i.token.public(), i)).collect();
        let shown_path = path.with_file_name("shown");
        // Nothing hangs on it but a ticket less.
        let shown = read_checked(&shown_path).unwrap_or_default();
        Ok(Self {
            path,
            shown_path,
            shown,
            by_name,
        })
    }

    /// The ticket last shown, and when it expires: if nobody has used it, and not before
    /// `until_s`.
    pub(crate) fn shown(&self, until_s: u64) -> Option<(Token, u64)> {
        let invite = self.by_name.get(&self.shown?)?;
        let good = invite.redeemed_by.is_empty() && invite.expires_s >= until_s;
        good.then_some((invite.token, invite.expires_s))
    }

    /// Makes a ticket the one that is shown. Those shown before stay good.
    pub(crate) async fn show(&mut self, token: Token) -> Result<(), PeersError> {
        let name = token.public();
        self.shown = Some(name);
        files::replace_soon(self.shown_path.clone(), checked_bytes(&name)).await
    }

    /// Writes a new ticket into the ledger.
    pub(crate) async fn issue(
        &mut self,
        token: Token,
        uses: u32,
        expires_s: u64,
        now_s: u64,
    ) -> Result<(), PeersError> {
        let invite = Invite {
            token,
            expires_s,
            uses: uses.clamp(1, USES_MAX),
            redeemed_by: Vec::new(),
        };
        self.by_name
            .retain(|_, i| i.expires_s.saturating_add(REMEMBER_S) > now_s);
        while self.by_name.len() >= INVITES_MAX {
            let Some(oldest) = self
                .by_name
                .iter()
                .min_by_key(|(_, i)| i.expires_s)
                .map(|(n, _)| *n)
            else {
                break;
            };
            self.by_name.remove(&oldest);
        }
        self.by_name.insert(token.public(), invite);
        self.store().await
    }

    /// The token of this name. Its holder has yet to prove that it knows it.
    pub(crate) fn token(&self, name: &TokenName) -> Option<Token> {
        self.by_name.get(name).map(|i| i.token)
    }

    /// Spends one use for a node that has proved the token.
    pub(crate) async fn spend(
        &mut self,
        name: &TokenName,
        by: NodeId,
        now_s: u64,
    ) -> Result<(), Refusal> {
        let invite = self.by_name.get_mut(name).ok_or(Refusal::TokenWrong)?;
        if invite.redeemed_by.contains(&by) {
            return Ok(());
        }
        if now_s >= invite.expires_s {
            return Err(Refusal::TicketExpired);
        }
        if invite.redeemed_by.len() >= usize::try_from(invite.uses).unwrap_or(0) {
            return Err(Refusal::TicketUsedUp);
        }
        invite.redeemed_by.push(by);
        if let Err(error) = self.store().await {
            tracing::error!(%error, "could not store the use of a ticket");
            if let Some(invite) = self.by_name.get_mut(name) {
                invite.redeemed_by.retain(|n| *n != by);
            }
            return Err(Refusal::Internal);
        }
        Ok(())
    }

    async fn store(&self) -> Result<(), PeersError> {
        let list: Vec<&Invite> = self.by_name.values().collect();
        files::replace_soon(self.path.clone(), checked_bytes(&list)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn uses_are_counted_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("invites");
        let token = Token::draw(NodeId([1; 32])).unwrap();
        let name = token.public();
        let (a, b, c) = (NodeId([2; 32]), NodeId([3; 32]), NodeId([4; 32]));
        let mut ledger = Invites::load(path.clone()).unwrap();
        ledger.issue(token, 2, 100, 10).await.unwrap();
        ledger.spend(&name, a, 20).await.unwrap();
        ledger.spend(&name, a, 200).await.unwrap();
        let mut ledger = Invites::load(path).unwrap();
        assert_eq!(
            ledger.spend(&name, b, 100).await,
            Err(Refusal::TicketExpired)
        );
        ledger.spend(&name, b, 99).await.unwrap();
        assert_eq!(ledger.spend(&name, c, 99).await, Err(Refusal::TicketUsedUp));
        assert_eq!(ledger.token(&name), Some(token));
        let other = Token::draw(NodeId([1; 32])).unwrap().public();
        assert_eq!(ledger.spend(&other, c, 1).await, Err(Refusal::TokenWrong));
    }

    #[tokio::test]
    async fn a_ticket_is_shown_again_until_it_is_used_or_old() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("invites");
        let token = Token::draw(NodeId([1; 32])).unwrap();
        let mut ledger = Invites::load(path.clone()).unwrap();
        assert_eq!(ledger.shown(0), None);
        ledger.issue(token, 1, 100, 10).await.unwrap();
        assert_eq!(ledger.shown(0), None, "one that somebody asked for is his");
        ledger.show(token).await.unwrap();
        let mut ledger = Invites::load(path).unwrap();
        assert_eq!(ledger.shown(100), Some((token, 100)));
        assert_eq!(ledger.shown(101), None);
        let (name, by) = (token.public(), NodeId([2; 32]));
        ledger.spend(&name, by, 20).await.unwrap();
        assert_eq!(ledger.shown(0), None);
    }
}
