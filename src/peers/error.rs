//! What can go wrong between nodes, in words for the person who asked.
//!
//! Invariant: an error text says what was wrong and the command that mends it; nothing here
//! tells a stranger whether a token, a member or a cell exists.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::base::id::NodeId;

/// Why a node was not let in. Travels over the wire, so the order of the variants is fixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The nodes speak different versions of the protocol.
    #[error(
        "protocol version mismatch: the other node speaks version {theirs}, this one speaks version {ours}; install the same release of cellfs on both"
    )]
    Version {
        /// Version of the node that refuses. (Named from the reader's side: "the other node".)
        theirs: u16,
        /// Version of the node that was refused.
        ours: u16,
    },
    /// No valid certificate was shown.
    #[error(
        "the other node refuses: no valid certificate of its cell was shown; join it with a ticket (`cellfs invite` there prints one)"
    )]
    NotMember,
    /// The certificate belongs to another cell.
    #[error(
        "the other node belongs to another cell; join that cell with a ticket (`cellfs invite` there prints one)"
    )]
    OtherCell,
    /// The node was forgotten.
    #[error(
        "this node was forgotten by the cell and its key is void for good; to come back as a new node remove `node.key` and `cell/` from its state directory and join with a new ticket (`cellfs invite`)"
    )]
    Forgotten,
    /// The node left.
    #[error("this node has left the cell; join again with a ticket (`cellfs invite`)")]
    Left,
    /// No such token, or the proof of it was wrong.
    #[error(
        "the token is wrong; copy the whole line that `cellfs invite` printed, or make a new one"
    )]
    TokenWrong,
    /// The token was right, but its time is over.
    #[error("the ticket has expired; make a new one with `cellfs invite` on a member")]
    TicketExpired,
    /// The token was right, but all its uses are spent.
    #[error("the ticket is used up; make a new one with `cellfs invite --uses N` on a member")]
    TicketUsedUp,
    /// The node that issued the ticket cannot be reached from the node asked.
    #[error(
        "the node that issued the ticket cannot be reached, and only it can redeem the ticket; start it, or make a new ticket with `cellfs invite` on a member that is up"
    )]
    IssuerUnreachable,
    /// Too many nodes wait for admission.
    #[error(
        "too many nodes wait for admission there; admit them (`cellfs members`, `cellfs admit CODE`), wait 15 minutes, or join with a ticket"
    )]
    PendingFull,
    /// Nobody admitted the code in time.
    #[error("nobody admitted the code in time; join again and run `cellfs admit CODE` on a member")]
    NotAdmitted,
    /// Too many strangers at once.
    #[error("the other node is busy with too many strangers; try again")]
    Busy,
    /// The chain of certificates above the issuer is too long.
    #[error(
        "the chain of invitations is too long there; make the ticket on a node nearer to the founder (`cellfs invite`)"
    )]
    ChainTooLong,
    /// The certificate descends from one that a forgotten node issued in secret.
    #[error(
        "this node's certificate is void: a node that the cell has forgotten issued it; remove `cell/` from its state directory and join with a new ticket (`cellfs invite`)"
    )]
    VoidCertificate,
    /// The bytes made no sense.
    #[error(
        "the other node did not understand this one; install the same release of cellfs on both"
    )]
    Malformed,
    /// The refusing node failed at its own work.
    #[error("the other node could not store the admission; look at its log and try again")]
    Internal,
}

/// What went wrong in this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// A file of the state directory could not be read or written.
    #[error("could not {what} {path}: {source}")]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else than it should.
    #[error(
        "{path} is damaged ({why}); restore it from a backup, or remove `cell/` and join again"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The key file can be read by others.
    #[error(
        "{0} can be read by other users; run `chmod 600 {0}`, and if they may have read it, forget this node (`cellfs forget`) and make a new key"
    )]
    KeyExposed(PathBuf),
    /// The state directory holds no membership.
    #[error(
        "this node is in no cell yet; found one (`cellfs mount DIR`) or join one (`cellfs mount DIR --join HOST --token T`)"
    )]
    NoCell,
    /// The state directory holds a membership of a cell already.
    #[error("this node is in cell {0} already; run `cellfs leave` first")]
    AlreadyMember(NodeId),
    /// The other node refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// Nothing answered.
    #[error(
        "could not reach {what}: {why}; check that the node runs there and that its port is open for UDP and TCP"
    )]
    Unreachable {
        /// Who.
        what: String,
        /// Why not.
        why: String,
    },
    /// The text is not a ticket.
    #[error("this is not a ticket ({0}); copy the whole line that `cellfs invite` printed")]
    BadTicket(&'static str),
    /// The text is not a token.
    #[error("this is not a token; copy it from what `cellfs invite` printed")]
    BadToken,
    /// The other side did not prove that it knows the token.
    #[error(
        "{0} could not prove that it knows the token: it is not the node that issued it, or somebody stands between; check the address"
    )]
    ImpostorOrWrongNode(String),
    /// The joining side did not confirm the code.
    #[error(
        "the code was not confirmed here; join again and compare the code with `cellfs members` there"
    )]
    NotConfirmed,
    /// No pending node has this code.
    #[error("no node waits with code {0}; `cellfs members` lists those that do")]
    NoSuchCode(String),
    /// The node is not a member.
    #[error("{0} is not a member of this cell; `cellfs members` lists them")]
    NoSuchMember(NodeId),
    /// There is no connection to the node now.
    #[error("there is no connection to {0} now; `cellfs members` shows who is reachable")]
    NotConnected(NodeId),
    /// A payload is too large.
    #[error("{what} has {bytes} bytes, the limit is {max}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A node cannot forget itself.
    #[error(
        "a node cannot forget itself; run `cellfs leave`, or `cellfs forget` on another member"
    )]
    ForgetSelf,
    /// The membership log is full.
    #[error("the membership log is full ({0} statements)")]
    LogFull(usize),
    /// The UDP port could not be opened.
    #[error("could not listen on UDP {addr}: {why}; choose another address with `--listen`")]
    Bind {
        /// The address.
        addr: std::net::SocketAddr,
        /// Why not.
        why: String,
    },
    /// The gossip layer did not start.
    #[error("could not start gossip: {0}")]
    Gossip(String),
    /// The node is shutting down.
    #[error("this node is shutting down")]
    Stopping,
}

impl PeersError {
    /// Wraps an I/O error with the path it happened at.
    pub(crate) fn file(what: &'static str, path: &std::path::Path, source: io::Error) -> Self {
        Self::File {
            what,
            path: path.to_path_buf(),
            source,
        }
    }
}
