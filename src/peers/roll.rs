//! The roll: the replicated log of membership statements, and who stands how by it.
//!
//! Invariant: the log is a grow-only set, and the standing of every node is a pure function
//! of the set, so nodes with equal logs agree. A statement enters only when its signer has a
//! chain of certificates to the founder in the log (void or not).
//!
//! Judging: `Forget`s are taken in order of their signer's distance from the founder, then
//! its id. Each makes void what its subject signed and its `keep` does not list (the union
//! over several of them), so where two nodes forget each other, the one nearer to the founder
//! wins, and a node near the founder can undo what a stolen node did by forgetting it. Then
//! certificates count from the founder down. No clock decides anything. Plain data, no tasks.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::error::PeersError;
use super::statement::{Body, CHAIN_MAX, Certificate, Forget, Statement, StatementId};
use crate::base::id::NodeId;

/// Most statements in a log.
pub(crate) const STATEMENTS_MAX: usize = 65_536;
/// So many of them are left for what is no certificate: a member that fills the log can still
/// be forgotten.
const STATEMENTS_RESERVED: usize = 4096;

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// A member, by this certificate.
    Member {
        certificate: StatementId,
        name: String,
        since_ms: u64,
    },
    /// It left by itself.
    Left { name: String, since_ms: u64 },
    /// It was thrown out.
    Forgotten { name: String, since_ms: u64 },
}

/// The log of a cell.
#[derive(Debug, Clone)]
pub(crate) struct Roll {
    cell: NodeId,
    statements: BTreeMap<StatementId, (Statement, Body)>,
    standings: BTreeMap<NodeId, Standing>,
    digest: [u8; 32],
}

impl Roll {
    /// An empty log of a cell.
    pub(crate) fn new(cell: NodeId) -> Self {
        let mut roll = Self {
            cell,
            statements: BTreeMap::new(),
            standings: BTreeMap::new(),
            digest: [0; 32],
        };
        roll.judge();
        roll
    }

    /// The cell.
    pub(crate) fn cell(&self) -> NodeId {
        self.cell
    }

    /// Equal for equal logs.
    pub(crate) fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// All statements.
    pub(crate) fn statements(&self) -> impl Iterator<Item = (&StatementId, &Statement)> {
        self.statements.iter().map(|(id, (s, _))| (id, s))
    }

    /// How everybody stands.
    pub(crate) fn standings(&self) -> &BTreeMap<NodeId, Standing> {
        &self.standings
    }

    /// How one node stands; `None` for a stranger.
    pub(crate) fn standing(&self, node: NodeId) -> Option<&Standing> {
        self.standings.get(&node)
    }

    /// Whether the node is a member.
    pub(crate) fn is_member(&self, node: NodeId) -> bool {
        matches!(self.standing(node), Some(Standing::Member { .. }))
    }

    /// The opaque heads that effective `Forget`s of this node carry.
    pub(crate) fn forgotten_heads(&self, node: NodeId) -> Vec<Vec<u8>> {
        if !matches!(self.standing(node), Some(Standing::Forgotten { .. })) {
            return Vec::new();
        }
        self.forgets()
            .filter(|(_, f)| f.subject == node)
            .map(|(_, f)| f.heads.clone())
            .collect()
    }

    /// Adds statements; returns those that were new and fit. The rest is dropped.
    pub(crate) fn add(&mut self, batch: Vec<Statement>) -> Result<Vec<Statement>, PeersError> {
        let waiting: Vec<_> = batch
            .into_iter()
            .filter(|s| !self.statements.contains_key(&s.id()))
            .filter_map(|s| s.verified().map(|b| (s, b)))
            .filter(|(_, b)| b.cell() == self.cell)
            .collect();
        self.add_verified(waiting)
    }

    /// As [`Self::add`] for statements from our own disk, whose signatures were checked.
    pub(crate) fn add_own(&mut self, batch: Vec<Statement>) -> Result<(), PeersError> {
        let waiting = batch
            .into_iter()
            .filter_map(|s| s.body().map(|b| (s, b)))
            .collect();
        self.add_verified(waiting).map(|_| ())
    }

    fn add_verified(
        &mut self,
        mut waiting: Vec<(Statement, Body)>,
    ) -> Result<Vec<Statement>, PeersError> {
        let mut added = Vec::new();
        let mut full = false;
        let mut depths = self.depths();
        loop {
            let before = added.len();
            let mut rest = Vec::new();
            for (statement, body) in waiting {
                if !depths.contains_key(&body.signer()) {
                    rest.push((statement, body));
                    continue;
                }
                let id = statement.id();
                if self.statements.contains_key(&id) {
                    continue;
                }
                let limit = match body {
                    Body::Certificate(_) => STATEMENTS_MAX - STATEMENTS_RESERVED,
                    Body::Forget(_) | Body::Leave(_) => STATEMENTS_MAX,
                };
                if self.statements.len() >= limit {
                    full = true;
                    continue;
                }
                added.push(statement.clone());
                self.statements.insert(id, (statement, body));
            }
            waiting = rest;
            if added.len() == before {
                break;
            }
            depths = self.depths();
        }
        if !added.is_empty() {
            self.judge();
        }
        if full {
            return Err(PeersError::LogFull(STATEMENTS_MAX));
        }
        Ok(added)
    }

    /// The certificates from the node's own up to the founder's first.
    pub(crate) fn chain(&self, node: NodeId) -> Vec<Statement> {
        let mut chain = Vec::new();
        let mut at = node;
        while chain.len() <= CHAIN_MAX {
            let Some(Standing::Member { certificate, .. }) = self.standing(at) else {
                // An issuer that is gone: any certificate of it shows the way up.
                let Some((statement, issuer)) = self.best_certificate(at) else {
                    break;
                };
                chain.push(statement);
                if issuer == at {
                    break;
                }
                at = issuer;
                continue;
            };
            let Some((statement, Body::Certificate(c))) = self.statements.get(certificate) else {
                break;
            };
            chain.push(statement.clone());
            if c.issuer == at {
                break;
            }
            at = c.issuer;
        }
        chain
    }

    /// Whether the node would be a member if these certificates were in the log, and the
    /// reason when not.
    pub(crate) fn standing_with(&self, node: NodeId, chain: &[Statement]) -> Option<Standing> {
        if chain.iter().all(|s| self.statements.contains_key(&s.id())) {
            return self.standing(node).cloned();
        }
        let mut with = self.clone();
        with.add(chain.to_vec()).ok()?;
        with.standing(node).cloned()
    }

    /// Whether the chain leads from the founder to the node by good signatures, void or not.
    pub(crate) fn is_signed_chain(&self, node: NodeId, chain: &[Statement]) -> bool {
        let mut with = self.clone();
        with.add(chain.to_vec()).is_ok() && with.depth(node).is_some()
    }

    /// Steps from the founder, by any certificate.
    pub(crate) fn depth(&self, node: NodeId) -> Option<usize> {
        self.depths().get(&node).copied()
    }

    /// Ids of all that a node signed.
    pub(crate) fn signed_by(&self, node: NodeId) -> Vec<StatementId> {
        self.statements
            .iter()
            .filter(|(_, (_, b))| b.signer() == node)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Ids of all certificates about a node.
    pub(crate) fn certificates_of(&self, node: NodeId) -> Vec<StatementId> {
        self.certificates()
            .filter(|(_, c)| c.subject == node)
            .map(|(id, _)| *id)
            .collect()
    }

    fn best_certificate(&self, node: NodeId) -> Option<(Statement, NodeId)> {
        let depths = self.depths();
        self.certificates()
            .filter(|(_, c)| c.subject == node)
            .min_by_key(|(id, c)| (depths.get(&c.issuer).copied(), **id))
            .and_then(|(id, c)| Some((self.statements.get(id)?.0.clone(), c.issuer)))
    }

    fn certificates(&self) -> impl Iterator<Item = (&StatementId, &Certificate)> {
        self.statements.iter().filter_map(|(id, (_, b))| match b {
            Body::Certificate(c) => Some((id, c)),
            _ => None,
        })
    }

    fn forgets(&self) -> impl Iterator<Item = (&StatementId, &Forget)> {
        self.statements.iter().filter_map(|(id, (_, b))| match b {
            Body::Forget(f) => Some((id, f)),
            _ => None,
        })
    }

    fn depths(&self) -> HashMap<NodeId, usize> {
        let mut by_issuer: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        for (_, c) in self.certificates() {
            by_issuer.entry(c.issuer).or_default().push(c.subject);
        }
        let mut depths = HashMap::from([(self.cell, 0)]);
        let mut frontier = vec![self.cell];
        for depth in 1..=CHAIN_MAX {
            let mut next = Vec::new();
            for subject in frontier.iter().filter_map(|n| by_issuer.get(n)).flatten() {
                if !depths.contains_key(subject) {
                    depths.insert(*subject, depth);
                    next.push(*subject);
                }
            }
            frontier = next;
        }
        depths
    }

    fn judge(&mut self) {
        let depths = self.depths();
        let mut forgets: Vec<_> = self.forgets().collect();
        forgets.sort_by_key(|(id, f)| (depths.get(&f.by).copied(), f.by, **id));
        let mut court = Court::new(self);
        for (id, forget) in forgets {
            if court.may_sign(forget.by, id) {
                court.forget(forget);
            }
        }
        let standings = court.standings();
        self.standings = standings;
        let mut hasher = blake3::Hasher::new();
        for id in self.statements.keys() {
            hasher.update(id);
        }
        self.digest = *hasher.finalize().as_bytes();
    }
}

/// The state of one judgement.
struct Court<'a> {
    roll: &'a Roll,
    /// Forgotten nodes: what of theirs still counts, and when it happened.
    forgotten: HashMap<NodeId, (HashSet<StatementId>, u64)>,
    /// Certificates ended by their subject, what it had signed by then, and when.
    ended: HashSet<StatementId>,
    left: HashMap<NodeId, (HashSet<StatementId>, u64)>,
    /// Certificates that count.
    valid: BTreeSet<StatementId>,
    /// Nodes with a certificate that counts; true when one of them is not ended.
    holders: HashMap<NodeId, bool>,
}

impl<'a> Court<'a> {
    fn new(roll: &'a Roll) -> Self {
        let mut court = Self {
            roll,
            forgotten: HashMap::new(),
            ended: HashSet::new(),
            left: HashMap::new(),
            valid: BTreeSet::new(),
            holders: HashMap::new(),
        };
        for (_, body) in roll.statements.values() {
            if let Body::Leave(l) = body {
                court.ended.extend(&l.ends);
                let entry = court.left.entry(l.subject).or_default();
                entry.0.extend(&l.keep);
                entry.1 = entry.1.max(l.time_ms);
            }
        }
        court.count();
        court
    }

    /// Finds the certificates that count, from the founder down.
    fn count(&mut self) {
        self.valid.clear();
        self.holders.clear();
        let founder_left = self.left.contains_key(&self.roll.cell);
        self.holders.insert(self.roll.cell, !founder_left);
        loop {
            let before = (self.valid.len(), self.holders.len());
            let mut woke = false;
            for (id, c) in self.roll.certificates() {
                if self.valid.contains(id) || !self.may_sign(c.issuer, id) {
                    continue;
                }
                self.valid.insert(*id);
                let open = !self.ended.contains(id);
                let holds = self.holders.entry(c.subject).or_insert(false);
                woke |= open && !*holds;
                *holds |= open;
            }
            if before == (self.valid.len(), self.holders.len()) && !woke {
                return;
            }
        }
    }

    /// Whether a statement of this signer counts, by what has been judged so far.
    fn may_sign(&self, signer: NodeId, id: &StatementId) -> bool {
        let Some(&open) = self.holders.get(&signer) else {
            return false;
        };
        let kept = |list: Option<&(HashSet<StatementId>, u64)>| {
            list.is_some_and(|(keep, _)| keep.contains(id))
        };
        if self.forgotten.contains_key(&signer) && !kept(self.forgotten.get(&signer)) {
            return false;
        }
        open || kept(self.left.get(&signer))
    }

    fn forget(&mut self, forget: &Forget) {
        let entry = self.forgotten.entry(forget.subject).or_default();
        entry.0.extend(&forget.keep);
        entry.1 = entry.1.max(forget.time_ms);
        self.count();
    }

    fn standings(&self) -> BTreeMap<NodeId, Standing> {
        let mut newest: BTreeMap<NodeId, (&StatementId, &Certificate, bool)> = BTreeMap::new();
        let mut since: HashMap<NodeId, u64> = HashMap::new();
        for (id, c) in self.roll.certificates() {
            // A forgotten node is named even when its own certificate is void by now.
            if !self.valid.contains(id) && !self.forgotten.contains_key(&c.subject) {
                continue;
            }
            let first = since.entry(c.subject).or_insert(c.time_ms);
            *first = c.time_ms.min(*first);
            let open = self.valid.contains(id) && !self.ended.contains(id);
            let better = newest
                .get(&c.subject)
                .is_none_or(|(old, o, was)| (open, c.time_ms, *id) > (*was, o.time_ms, **old));
            if better {
                newest.insert(c.subject, (id, c, open));
            }
        }
        newest
            .into_iter()
            .map(|(node, (id, c, open))| {
                let since_ms = since.get(&node).copied().unwrap_or(c.time_ms);
                let name = c.name.clone();
                let standing = if let Some((_, since_ms)) = self.forgotten.get(&node) {
                    let since_ms = *since_ms;
                    Standing::Forgotten { name, since_ms }
                } else if open {
                    Standing::Member {
                        certificate: *id,
                        name,
                        since_ms,
                    }
                } else {
                    let since_ms = self.left.get(&node).map_or(c.time_ms, |(_, t)| *t);
                    Standing::Left { name, since_ms }
                };
                (node, standing)
            })
            .collect()
    }
}

#[cfg(test)]
#[path = "roll_tests.rs"]
mod tests;
