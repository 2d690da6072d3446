//! Tickets and tokens: what a person carries from `cellfs invite` to the new node.
//!
//! Invariant: a ticket is one line, `cellfs1` and base32 without padding, with a checksum, so
//! a cut or mistyped line is told apart from a wrong token. The token part alone names its
//! issuer by a prefix of its key, so any member can pass it on.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use super::error::PeersError;
use super::key;
use super::wire;
use crate::base::id::NodeId;

/// How a ticket starts.
const PREFIX: &str = "cellfs1";
/// Bytes of checksum at its end.
const CHECK_BYTES: usize = 4;
/// Longest ticket, in characters.
const TICKET_CHARS_MAX: usize = 2048;
/// Most nodes in a ticket.
pub(crate) const TICKET_NODES_MAX: usize = 3;
/// Most addresses of one node, anywhere.
pub(crate) const ADDRS_MAX: usize = 8;
/// Bytes of the issuer's key that a token carries.
const ISSUER_HINT_BYTES: usize = 8;

/// The secret of an invitation: 128 random bits, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// The first bytes of the issuer's node id.
    issuer: [u8; ISSUER_HINT_BYTES],
    secret: [u8; 16],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// Draws a token of this issuer.
    pub(crate) fn draw(issuer: NodeId) -> Result<Self, PeersError> {
        Ok(Self {
            issuer: hint(issuer),
            secret: key::random()?,
        })
    }

    /// What may be shown to a node that has yet to prove itself: names the token, and is of no
    /// use to one who does not know it.
    pub(crate) fn public(&self) -> TokenName {
        let id = blake3::derive_key("cellfs 2026 token name", &self.secret);
        TokenName {
            issuer: self.issuer,
            id,
        }
    }

    /// The key for proofs of this token.
    pub(crate) fn proof_key(&self) -> [u8; 32] {
        blake3::derive_key("cellfs 2026 token proof", &self.secret)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.issuer[..], &self.secret].concat();
        f.write_str(&BASE32_NOPAD.encode(&bytes).to_lowercase())
    }
}

impl FromStr for Token {
    type Err = PeersError;

    fn from_str(s: &str) -> Result<Self, PeersError> {
        let bytes = BASE32_NOPAD
            .decode(s.trim().to_uppercase().as_bytes())
            .map_err(|_| PeersError::BadToken)?;
        let (issuer, secret) = bytes
            .split_first_chunk::<ISSUER_HINT_BYTES>()
            .ok_or(PeersError::BadToken)?;
        Ok(Self {
            issuer: *issuer,
            secret: <[u8; 16]>::try_from(secret).map_err(|_| PeersError::BadToken)?,
        })
    }
}

/// The public name of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct TokenName {
    issuer: [u8; ISSUER_HINT_BYTES],
    pub(crate) id: [u8; 32],
}

impl TokenName {
    /// Whether this node issued it, by its own claim.
    pub(crate) fn is_of(&self, node: NodeId) -> bool {
        self.issuer == hint(node)
    }
}

fn hint(node: NodeId) -> [u8; ISSUER_HINT_BYTES] {
    let mut hint = [0; ISSUER_HINT_BYTES];
    for (to, from) in hint.iter_mut().zip(node.0) {
        *to = from;
    }
    hint
}

/// A node and where it may be found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeAddr {
    /// Who.
    pub node: NodeId,
    /// Where, at most 8 addresses, the likeliest first.
    pub addrs: Vec<SocketAddr>,
}

impl NodeAddr {
    /// Cuts what a stranger may have made too long.
    pub(crate) fn bounded(mut self) -> Self {
        self.addrs.truncate(ADDRS_MAX);
        self
    }
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The cell.
    pub cell: NodeId,
    /// The node that made the ticket and alone redeems it.
    pub issuer: NodeId,
    /// One to three nodes to ask, the issuer first.
    pub nodes: Vec<NodeAddr>,
    /// The secret.
    pub token: Token,
    /// When it expires, in seconds since 1970 by the issuer's clock. For display: only the
    /// issuer judges.
    pub expires_s: u64,
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = wire::encode(self);
        let check = blake3::hash(&bytes);
        bytes.extend(check.as_bytes().iter().take(CHECK_BYTES));
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = PeersError;

    fn from_str(s: &str) -> Result<Self, PeersError> {
        let s = s.trim();
        if s.len() > TICKET_CHARS_MAX {
            return Err(PeersError::BadTicket("it is too long"));
        }
        let text = s
            .strip_prefix(PREFIX)
            .ok_or(PeersError::BadTicket("it does not start with cellfs1"))?;
        let bytes = BASE32_NOPAD
            .decode(text.to_uppercase().as_bytes())
            .map_err(|_| PeersError::BadTicket("letters are missing or wrong"))?;
        let (bytes, check) = bytes
            .split_last_chunk::<CHECK_BYTES>()
            .ok_or(PeersError::BadTicket("it is too short"))?;
        if !blake3::hash(bytes).as_bytes().starts_with(check) {
            return Err(PeersError::BadTicket("letters are missing or wrong"));
        }
        let mut ticket: Self =
            wire::decode(bytes).map_err(|_| PeersError::BadTicket("its version is unknown"))?;
        if ticket.nodes.is_empty() || ticket.nodes.len() > TICKET_NODES_MAX {
            return Err(PeersError::BadTicket("it names no node"));
        }
        ticket.nodes = ticket.nodes.into_iter().map(NodeAddr::bounded).collect();
        Ok(ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticket() -> Ticket {
        let issuer = NodeId([7; 32]);
        Ticket {
            cell: NodeId([1; 32]),
            issuer,
            nodes: vec![NodeAddr {
                node: issuer,
                addrs: vec!["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()],
            }],
            token: Token::draw(issuer).unwrap(),
            expires_s: 9,
        }
    }

    #[test]
    fn tickets_and_tokens_round_trip_as_one_line() {
        let t = ticket();
        let line = t.to_string();
        assert!(line.starts_with(PREFIX) && !line.contains(char::is_whitespace));
        assert_eq!(line.parse::<Ticket>().unwrap(), t);
        let token = t.token.to_string();
        assert_eq!(token.parse::<Token>().unwrap(), t.token);
        let name = t.token.public();
        assert!(name.is_of(t.issuer) && !name.is_of(t.cell));
        assert!(
            !line.contains(&token[13..]),
            "the token is not legible in it"
        );
    }

    #[test]
    fn a_damaged_line_is_not_a_ticket() {
        let line = ticket().to_string();
        for cut in [0, 5, 7, 20, line.len() - 1] {
            assert!(line[..cut].parse::<Ticket>().is_err(), "{cut}");
        }
        let swapped = line.replacen('a', "b", 1);
        assert!(swapped == line || swapped.parse::<Ticket>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(s in ".{0,80}") {
            let _ = s.parse::<Ticket>();
            let _ = s.parse::<Token>();
            let _ = format!("{PREFIX}{s}").parse::<Ticket>();
        }
    }
}
