//! Nodes that wait for admission by code.
//!
//! Invariant: the list is bounded per address and in total and entries expire, so strangers
//! cannot fill it for long; full: the newcomer is refused. The code is a slow hash of both
//! keys and a tag of the cell: 125 bits, so that two screens that show the same code are two
//! ends of one connection. (Somebody in the middle would have to find two keys of his own
//! that give equal codes: 2^62 tries of 2^16 hashes.) Plain data, no tasks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use data_encoding::BASE32_NOPAD;

use super::error::Refusal;
use crate::base::id::NodeId;

/// Most nodes that wait from one address.
const PENDING_PER_ADDR_MAX: usize = 3;
/// Most nodes that wait here.
pub(crate) const PENDING_MAX: usize = 64;
/// They wait this long.
pub(crate) const PENDING_TIME: Duration = Duration::from_secs(15 * 60);
/// Rounds of hashing in a code.
const STRETCH_ROUNDS: u32 = 1 << 16;
/// Letters of a code, in groups of five.
const CODE_LETTERS: usize = 25;

/// What a stranger may know of the cell before it is admitted: a hash of its id.
pub(crate) fn cell_tag(cell: NodeId) -> [u8; 32] {
    blake3::derive_key("cellfs 2026 cell tag", &cell.0)
}

/// The code of a joiner at a member.
pub(crate) fn code(joiner: NodeId, member: NodeId, tag: &[u8; 32]) -> String {
    let all = [joiner.0, member.0, *tag].concat();
    let mut hash = blake3::derive_key("cellfs 2026 join code", &all);
    for _ in 0..STRETCH_ROUNDS {
        hash = *blake3::hash(&hash).as_bytes();
    }
    let letters: Vec<char> = BASE32_NOPAD.encode(&hash).to_lowercase().chars().collect();
    let groups: Vec<String> = letters
        .chunks(5)
        .take(CODE_LETTERS / 5)
        .map(|g| g.iter().collect())
        .collect();
    groups.join("-")
}

/// A code as typed, in the form of [`code`]; `None` when it cannot be one.
pub(crate) fn tidy_code(text: &str) -> Option<String> {
    let letters: Vec<char> = text
        .to_lowercase()
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .collect();
    let good = letters.iter().all(|c| matches!(c, 'a'..='z' | '2'..='7'));
    if letters.len() != CODE_LETTERS || !good {
        return None;
    }
    let groups: Vec<String> = letters.chunks(5).map(|g| g.iter().collect()).collect();
    Some(groups.join("-"))
}

/// A node that waits here.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) code: String,
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    since: Instant,
    /// Counts its connections: only the newest is served.
    pub(crate) visit: u64,
}

/// All nodes that wait here.
#[derive(Debug, Default)]
pub(crate) struct Pending(BTreeMap<NodeId, Waiting>);

impl Pending {
    /// Lets a node wait; its code is computed by `code` when it is new.
    pub(crate) fn offer(
        &mut self,
        node: NodeId,
        name: String,
        addr: SocketAddr,
        code: impl FnOnce() -> String,
    ) -> Result<Waiting, Refusal> {
        self.expire();
        if let Some(known) = self.0.get_mut(&node) {
            known.visit += 1;
            known.addr = addr;
            return Ok(known.clone());
        }
        let same = |ip: IpAddr| self.0.values().filter(|w| w.addr.ip() == ip).count();
        if self.0.len() >= PENDING_MAX || same(addr.ip()) >= PENDING_PER_ADDR_MAX {
            return Err(Refusal::PendingFull);
        }
        let waiting = Waiting {
            code: code(),
            name,
            addr,
            since: Instant::now(),
            visit: 1,
        };
        self.0.insert(node, waiting.clone());
        Ok(waiting)
    }

    /// Whether this visit of the node is still the one to serve.
    pub(crate) fn is_waiting(&self, node: NodeId, visit: u64) -> bool {
        self.0
            .get(&node)
            .is_some_and(|w| w.visit == visit && w.since.elapsed() < PENDING_TIME)
    }

    /// Removes a node; true when it was there.
    pub(crate) fn remove(&mut self, node: NodeId) -> bool {
        self.0.remove(&node).is_some()
    }

    /// Removes those that waited too long; returns them.
    pub(crate) fn expire(&mut self) -> Vec<NodeId> {
        let old: Vec<NodeId> = self
            .0
            .iter()
            .filter(|(_, w)| w.since.elapsed() >= PENDING_TIME)
            .map(|(n, _)| *n)
            .collect();
        self.0.retain(|n, _| !old.contains(n));
        old
    }

    /// All that wait.
    pub(crate) fn list(&self) -> Vec<(NodeId, Waiting)> {
        self.0.iter().map(|(n, w)| (*n, w.clone())).collect()
    }
}

/// A waiting node as told to the other members: `code address name`.
pub(crate) fn to_text(waiting: &Waiting) -> String {
    format!("{} {} {}", waiting.code, waiting.addr, waiting.name)
}

/// Reads [`to_text`].
pub(crate) fn from_text(text: &str) -> Option<(String, SocketAddr, String)> {
    let mut parts = text.splitn(3, ' ');
    let code = tidy_code(parts.next()?)?;
    let addr = parts.next()?.parse().ok()?;
    Some((code, addr, parts.next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn codes_depend_on_all_three_and_survive_typing() {
        let tag = cell_tag(node(9));
        let one = code(node(1), node(2), &tag);
        assert_eq!(one, code(node(1), node(2), &tag));
        assert_ne!(one, code(node(2), node(1), &tag));
        assert_ne!(one, code(node(1), node(2), &cell_tag(node(8))));
        let typed = one.replace('-', " ").to_uppercase();
        assert_eq!(tidy_code(&typed), Some(one.clone()));
        assert_eq!(tidy_code(&one[1..]), None);
        assert_eq!(tidy_code("{}"), None);
    }

    #[test]
    fn the_list_is_bounded_per_address_and_in_total() {
        let mut pending = Pending::default();
        let addr = |n: u8| SocketAddr::from(([10, 0, 0, n], 1));
        let mut offer = |n: u8, a: u8| {
            pending.offer(node(n), format!("n {n}"), addr(a), || {
                code(node(n), node(0), &[0; 32])
            })
        };
        for n in 0..3 {
            assert!(offer(n, 1).is_ok());
        }
        assert_eq!(offer(3, 1).unwrap_err(), Refusal::PendingFull);
        assert_eq!(offer(1, 1).unwrap().visit, 2);
        for n in 3..64 {
            assert!(offer(n, n).is_ok());
        }
        assert_eq!(offer(64, 99).unwrap_err(), Refusal::PendingFull);
        assert!(pending.is_waiting(node(1), 2) && !pending.is_waiting(node(1), 1));
        for (_, waiting) in pending.list().iter().take(3) {
            let (code, addr, name) = from_text(&to_text(waiting)).unwrap();
            assert_eq!(
                (&code, addr, &name),
                (&waiting.code, waiting.addr, &waiting.name)
            );
        }
        assert!(pending.remove(node(1)) && !pending.remove(node(1)));
    }
}
