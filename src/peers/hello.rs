//! The handshake of members: each shows its certificate before any other byte is read.
//!
//! Invariant: the node that accepts says nothing (but a refusal) until it has checked the
//! dialler's certificate against its own log; the dialler sends nothing else until it has
//! checked the acceptor's. Both together take at most [`HELLO_TIMEOUT`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::error::Refusal;
use super::roll::{Roll, Standing};
use super::statement::{CHAIN_MAX, Statement};
use super::ticket::ADDRS_MAX;
use super::transport::{Close, Conn, Ended, RecvStream, SendStream};
use super::wire::{read_frame, write_frame};
use crate::base::clock;
use crate::base::id::NodeId;

/// Version of everything that peers say to each other. Different versions do not talk.
pub const PROTOCOL_VERSION: u16 = crate::base::format::PEER_PROTOCOL;
/// A stranger has this long to become a member or go.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest greeting: a chain of certificates and a few addresses.
const HELLO_BYTES_MAX: usize = 64 << 10;
/// Start of every first frame.
const MAGIC: [u8; 6] = *b"cellfs";

/// The first frame on a connection; its form never changes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Preamble {
    magic: [u8; 6],
    version: u16,
}

/// Who speaks, and why it may.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) cell: NodeId,
    /// Certificates from the speaker's own up to the founder's.
    pub(crate) chain: Vec<Statement>,
    /// Where the speaker can be dialled.
    pub(crate) addrs: Vec<SocketAddr>,
    /// Generation of the speaker's start: a later one replaces an earlier one's connections.
    pub(crate) boot: u64,
    /// Digest of the speaker's log.
    pub(crate) digest: [u8; 32],
    /// The speaker's release, for display.
    pub(crate) release: String,
    /// The speaker's clock.
    pub(crate) wall_ms: u64,
}

/// The dialler's last word: the acceptor's certificate is good.
#[derive(Debug, Serialize, Deserialize)]
struct Ready {
    wall_ms: u64,
}

/// What one side knows after the handshake.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) hello: Hello,
    /// The other clock minus ours.
    pub(crate) skew_ms: i64,
    pub(crate) control: (SendStream, RecvStream),
}

/// Why a handshake failed.
#[derive(Debug)]
pub(crate) enum Unmet {
    /// The other side refused us.
    Refused(Refusal),
    /// We refused the other side.
    Refusing(Refusal),
    /// Neither; the other connection between us serves.
    Duplicate,
    /// The connection failed.
    Failed(String),
}

/// Our side of the handshake.
pub(crate) struct Greeter<'a> {
    pub(crate) version: u16,
    pub(crate) hello: Hello,
    pub(crate) judge: &'a (dyn Fn(NodeId, &Hello) -> Result<(), Refusal> + Send + Sync),
}

impl Greeter<'_> {
    /// Greets the node that we dialled.
    pub(crate) async fn dialled(self, conn: &Conn) -> Result<Met, Unmet> {
        self.run(conn, true).await
    }

    /// Greets the node that dialled us.
    pub(crate) async fn accepted(self, conn: &Conn) -> Result<Met, Unmet> {
        self.run(conn, false).await
    }

    async fn run(self, conn: &Conn, dialled: bool) -> Result<Met, Unmet> {
        let done = timeout(HELLO_TIMEOUT, async {
            if dialled {
                self.speak_first(conn).await
            } else {
                self.listen_first(conn).await
            }
        });
        let failed = match done.await {
            Ok(Ok(met)) => return Ok(met),
            Ok(Err(Said::Refuse(why))) => {
                conn.refuse(&why);
                return Err(Unmet::Refusing(why));
            }
            Ok(Err(Said::Lost(why))) => why,
            Err(_) => "no greeting in time".to_owned(),
        };
        Err(unmet(conn, failed).await)
    }

    async fn speak_first(&self, conn: &Conn) -> Result<Met, Said> {
        let (mut send, mut recv) = conn.open_bi().await.map_err(lost)?;
        let asked = Instant::now();
        write_preamble(&mut send, self.version).await?;
        write_frame(&mut send, &self.hello).await.map_err(lost)?;
        let hello: Hello = read_frame(&mut recv, HELLO_BYTES_MAX).await.map_err(lost)?;
        let skew_ms = skew(hello.wall_ms, asked);
        (self.judge)(conn.node(), &hello).map_err(Said::Refuse)?;
        let wall_ms = clock::now_ms();
        write_frame(&mut send, &Ready { wall_ms })
            .await
            .map_err(lost)?;
        Ok(met(hello, skew_ms, (send, recv)))
    }

    async fn listen_first(&self, conn: &Conn) -> Result<Met, Said> {
        let (mut send, mut recv) = conn.accept_bi().await.map_err(lost)?;
        read_preamble(&mut recv, self.version).await?;
        let hello: Hello = read_frame(&mut recv, HELLO_BYTES_MAX)
            .await
            .map_err(|_| Said::Refuse(Refusal::Malformed))?;
        (self.judge)(conn.node(), &hello).map_err(Said::Refuse)?;
        let asked = Instant::now();
        let mine = Hello {
            wall_ms: clock::now_ms(),
            ..self.hello.clone()
        };
        write_frame(&mut send, &mine).await.map_err(lost)?;
        let ready: Ready = read_frame(&mut recv, HELLO_BYTES_MAX).await.map_err(lost)?;
        let skew_ms = skew(ready.wall_ms, asked);
        Ok(met(hello, skew_ms, (send, recv)))
    }
}

/// How one side ends the handshake early.
pub(crate) enum Said {
    Refuse(Refusal),
    Lost(String),
}

pub(crate) fn lost(e: impl ToString) -> Said {
    Said::Lost(e.to_string())
}

pub(crate) async fn write_preamble(send: &mut SendStream, version: u16) -> Result<(), Said> {
    let magic = MAGIC;
    write_frame(send, &Preamble { magic, version })
        .await
        .map_err(lost)
}

/// Reads the first frame and compares versions.
pub(crate) async fn read_preamble(recv: &mut RecvStream, ours: u16) -> Result<(), Said> {
    let first: Preamble = read_frame(recv, 64)
        .await
        .map_err(|_| Said::Refuse(Refusal::Malformed))?;
    if first.magic != MAGIC {
        return Err(Said::Refuse(Refusal::Malformed));
    }
    if first.version != ours {
        // Worded for the node that reads it: "the other node" is this one.
        return Err(Said::Refuse(Refusal::Version {
            theirs: ours,
            ours: first.version,
        }));
    }
    Ok(())
}

/// Why a connection failed: what the other side said when it closed, or what we saw.
pub(crate) async fn unmet(conn: &Conn, seen: String) -> Unmet {
    let grace = Duration::from_millis(300);
    match timeout(grace, conn.ended()).await {
        Ok(Ended::Refused(why)) => Unmet::Refused(why),
        Ok(Ended::Closed(Close::Duplicate)) => Unmet::Duplicate,
        Ok(Ended::Closed(why)) => Unmet::Failed(format!("{seen} ({why:?})")),
        Ok(Ended::Failed(why)) => Unmet::Failed(why),
        Err(_) => {
            conn.close(Close::Protocol);
            Unmet::Failed(seen)
        }
    }
}

fn met(mut hello: Hello, skew_ms: i64, control: (SendStream, RecvStream)) -> Met {
    hello.addrs.truncate(ADDRS_MAX);
    hello.release = hello
        .release
        .chars()
        .filter(|c| !c.is_control())
        .take(40)
        .collect();
    Met {
        hello,
        skew_ms,
        control,
    }
}

/// The other clock minus ours, at the moment half a round trip ago.
fn skew(theirs_ms: u64, asked: Instant) -> i64 {
    let half = u64::try_from(asked.elapsed().as_millis() / 2).unwrap_or(0);
    let ours = clock::now_ms().saturating_sub(half);
    let ours = i64::try_from(ours).unwrap_or(i64::MAX);
    i64::try_from(theirs_ms)
        .unwrap_or(i64::MAX)
        .saturating_sub(ours)
}

/// Whether the node that says this hello is a member, by our log.
pub(crate) fn judge(roll: &Roll, node: NodeId, hello: &Hello) -> Result<(), Refusal> {
    if hello.cell != roll.cell() {
        return Err(Refusal::OtherCell);
    }
    // Before any signature is checked: strangers pay for their own work, not we.
    if hello.chain.len() > CHAIN_MAX + 1 {
        return Err(Refusal::NotMember);
    }
    match roll.standing_with(node, &hello.chain) {
        Some(Standing::Member { .. }) => Ok(()),
        Some(Standing::Forgotten { .. }) => Err(Refusal::Forgotten),
        Some(Standing::Left { .. }) => Err(Refusal::Left),
        None if roll.is_signed_chain(node, &hello.chain) => Err(Refusal::VoidCertificate),
        None => Err(Refusal::NotMember),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_is_measured_with_its_sign() {
        for (off, want) in [(400_000_i64, 400_000_i64), (-400_000, -400_000), (0, 0)] {
            let theirs = clock::now_ms().saturating_add_signed(off);
            let got = skew(theirs, Instant::now());
            assert!((got - want).abs() < 60_000, "{got}");
        }
        assert!(skew(u64::MAX, Instant::now()) > 0);
        assert!(skew(0, Instant::now()) < 0);
    }
}
