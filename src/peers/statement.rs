//! Signed statements about membership: who was let in, thrown out, or left.
//!
//! Invariant: a [`Statement`] is the exact bytes that were signed plus the signature; its id
//! is the hash of those bytes, so it is the same on every node. Parsing bounds every part.

use serde::{Deserialize, Serialize};

use super::key::{self, NodeKey};
use super::wire;
use crate::base::id::NodeId;

/// Prefix of everything signed here, so that no signature fits another purpose.
const DOMAIN: &[u8] = b"cellfs membership statement v1\0";
/// Longest name of a node.
pub(crate) const NODE_NAME_BYTES_MAX: usize = 64;
/// Largest opaque note about heads in a `Forget`.
pub(crate) const HEADS_BYTES_MAX: usize = 64 << 10;
/// Most statements of one node that a `Forget` or `Leave` can keep.
pub(crate) const KEEP_MAX: usize = 4096;
/// Largest statement.
pub(crate) const STATEMENT_BYTES_MAX: usize = 256 << 10;
/// Longest chain of certificates from the founder to a node.
pub(crate) const CHAIN_MAX: usize = 32;

/// Name of a statement: the hash of its body.
pub(crate) type StatementId = [u8; 32];

/// What a statement says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Body {
    /// `issuer` lets `subject` into the cell. The founder's first one is about itself.
    Certificate(Certificate),
    /// `by` throws `subject` out.
    Forget(Forget),
    /// `subject` goes.
    Leave(Leave),
}

/// A certificate of membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) cell: NodeId,
    pub(crate) subject: NodeId,
    pub(crate) issuer: NodeId,
    /// Random, so that two certificates for one subject differ.
    pub(crate) serial: u64,
    /// The issuer's clock; for display only.
    pub(crate) time_ms: u64,
    pub(crate) name: String,
}

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forget {
    pub(crate) cell: NodeId,
    pub(crate) subject: NodeId,
    pub(crate) by: NodeId,
    pub(crate) time_ms: u64,
    /// The last heads of the subject that count; opaque here.
    pub(crate) heads: Vec<u8>,
    /// What the subject had signed as far as `by` knew; all else it signs is void.
    pub(crate) keep: Vec<StatementId>,
}

/// A farewell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leave {
    pub(crate) cell: NodeId,
    pub(crate) subject: NodeId,
    pub(crate) time_ms: u64,
    /// Certificates of the subject that end here. A later one lets it in again.
    pub(crate) ends: Vec<StatementId>,
    /// What the subject had signed before.
    pub(crate) keep: Vec<StatementId>,
}

impl Body {
    /// The cell it is about.
    pub(crate) fn cell(&self) -> NodeId {
        match self {
            Self::Certificate(c) => c.cell,
            Self::Forget(f) => f.cell,
            Self::Leave(l) => l.cell,
        }
    }

    /// Whose key signs it.
    pub(crate) fn signer(&self) -> NodeId {
        match self {
            Self::Certificate(c) => c.issuer,
            Self::Forget(f) => f.by,
            Self::Leave(l) => l.subject,
        }
    }

    fn is_bounded(&self) -> bool {
        match self {
            Self::Certificate(c) => is_good_name(&c.name),
            Self::Forget(f) => {
                f.heads.len() <= HEADS_BYTES_MAX && f.keep.len() <= KEEP_MAX && f.by != f.subject
            }
            Self::Leave(l) => l.ends.len() <= KEEP_MAX && l.keep.len() <= KEEP_MAX,
        }
    }
}

/// Whether a text can name a node: 1 to 64 bytes, no control characters.
pub(crate) fn is_good_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NODE_NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

/// A statement as it travels and is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Statement {
    body: Vec<u8>,
    signature: ([u8; 32], [u8; 32]),
}

impl Statement {
    /// Signs a body. The key must be the body's signer.
    pub(crate) fn sign(key: &NodeKey, body: &Body) -> Self {
        let body = wire::encode(body);
        let signature = key.sign(&to_sign(&body));
        let (mut low, mut high) = ([0; 32], [0; 32]);
        for (to, from) in low.iter_mut().chain(high.iter_mut()).zip(signature) {
            *to = from;
        }
        Self {
            body,
            signature: (low, high),
        }
    }

    /// The statement's name.
    pub(crate) fn id(&self) -> StatementId {
        *blake3::hash(&self.body).as_bytes()
    }

    /// The parsed body, when it is well formed and bounded.
    pub(crate) fn body(&self) -> Option<Body> {
        if self.body.len() > STATEMENT_BYTES_MAX {
            return None;
        }
        let body: Body = wire::decode(&self.body).ok()?;
        body.is_bounded().then_some(body)
    }

    /// The parsed body, when the signature is its signer's.
    pub(crate) fn verified(&self) -> Option<Body> {
        let body = self.body()?;
        let mut signature = [0; 64];
        for (to, from) in signature
            .iter_mut()
            .zip(self.signature.0.iter().chain(self.signature.1.iter()))
        {
            *to = *from;
        }
        key::verify(body.signer(), &to_sign(&self.body), &signature).then_some(body)
    }

    /// Bytes it takes on the wire, nearly.
    pub(crate) fn len(&self) -> usize {
        self.body.len() + 70
    }
}

fn to_sign(body: &[u8]) -> Vec<u8> {
    [DOMAIN, body].concat()
}
