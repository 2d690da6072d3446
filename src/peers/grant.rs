//! What the two ends of a join say to each other, and the proofs of a token.
//!
//! Invariant: both ends prove the token with a MAC over this TLS session, both node ids and
//! their roles, so nothing can be passed on to another session by somebody in the middle,
//! and a node that does not know the token learns nothing that helps to guess it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::error::Refusal;
use super::statement::Statement;
use super::ticket::{NodeAddr, Token, TokenName};
use super::wire;
use crate::base::id::NodeId;

/// Largest wish of a joiner.
pub(crate) const WISH_BYTES_MAX: usize = 8 << 10;
/// Largest answer: the whole log.
pub(crate) const ANSWER_BYTES_MAX: usize = 48 << 20;
/// Members whose addresses a grant names.
pub(crate) const GRANT_NODES_MAX: usize = 64;
/// Label under which both ends of a session derive the same secret.
pub(crate) const EXPORTER_LABEL: &[u8] = b"cellfs join v1";

/// How the joiner wants to come in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Way {
    /// It knows a token.
    Token {
        name: TokenName,
        proof: [u8; 32],
        /// The cell, when a whole ticket named it.
        cell: Option<NodeId>,
    },
    /// A person will compare codes.
    Code,
}

/// The joiner's request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) way: Way,
    /// What the node wants to be called.
    pub(crate) name: String,
    /// Where it can be dialled later.
    pub(crate) addrs: Vec<SocketAddr>,
}

/// A wish passed on to the issuer of its token.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Passed {
    pub(crate) joiner: NodeId,
    pub(crate) exporter: [u8; 32],
    pub(crate) wish: Wish,
}

/// Answer to [`Way::Code`]: enough to compute the code.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Offer {
    pub(crate) cell_tag: [u8; 32],
}

/// The person at the joiner confirmed the code.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Confirmed;

/// Admission.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Grant {
    pub(crate) cell: NodeId,
    pub(crate) log: Vec<Statement>,
    pub(crate) nodes: Vec<NodeAddr>,
}

/// The last word of a join.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) outcome: Result<Grant, Refusal>,
    /// The issuer's proof of the token over the outcome.
    pub(crate) proof: Option<[u8; 32]>,
}

impl Answer {
    /// A refusal by a node that does not know the token.
    pub(crate) fn refuse(why: Refusal) -> Self {
        Self {
            outcome: Err(why),
            proof: None,
        }
    }

    /// An answer with the issuer's proof.
    pub(crate) fn proved(
        outcome: Result<Grant, Refusal>,
        token: &Token,
        exporter: &[u8; 32],
        joiner: NodeId,
    ) -> Self {
        let proof = Some(issuer_proof(token, exporter, joiner, &outcome));
        Self { outcome, proof }
    }
}

/// The joiner's proof, at the member it is connected to.
pub(crate) fn joiner_proof(
    token: &Token,
    exporter: &[u8; 32],
    joiner: NodeId,
    member: NodeId,
) -> [u8; 32] {
    mac(token, &[b"joiner", exporter, &joiner.0, &member.0])
}

/// The issuer's proof, over what it answers.
pub(crate) fn issuer_proof(
    token: &Token,
    exporter: &[u8; 32],
    joiner: NodeId,
    outcome: &Result<Grant, Refusal>,
) -> [u8; 32] {
    let said = blake3::hash(&wire::encode(outcome));
    mac(token, &[b"issuer", exporter, &joiner.0, said.as_bytes()])
}

/// Compares without telling by its time where the difference is.
pub(crate) fn is_same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    blake3::Hash::from_bytes(*a) == blake3::Hash::from_bytes(*b)
}

fn mac(token: &Token, parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(&token.proof_key());
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}
