//! The joiner's side: from a ticket, a token or a code to a membership on disk.
//!
//! Invariant: the joiner believes an answer only when the other end has proved the token (or
//! a person has compared the code) and the log it sends leads from the cell's key to this
//! node. Nothing is stored before that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};

use super::Config;
use super::cell::{Book, Cell, Paths};
use super::error::{PeersError, Refusal};
use super::grant::{
    ANSWER_BYTES_MAX, Answer, Confirmed, EXPORTER_LABEL, Grant, Offer, WISH_BYTES_MAX, Way, Wish,
    is_same, issuer_proof, joiner_proof,
};
use super::hello::{self, Unmet};
use super::nodeinfo::fetch_node_info;
use super::pending::{self, PENDING_TIME};
use super::roll::Roll;
use super::ticket::{NodeAddr, Ticket, Token};
use super::transport::{ALPN_JOIN, Close, Conn, RecvStream, SendStream, Transport};
use super::wire::{read_frame, write_frame};
use crate::base::id::NodeId;

/// A dial that failed before this time is tried again, after this pause.
const DIAL_AGAIN: Duration = Duration::from_secs(2);
const DIAL_PAUSE: Duration = Duration::from_millis(300);
/// A member answers a token in this time, the passing on included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Asks the person at the joiner whether the code is the one that the member shows.
pub type Confirm = Box<dyn FnOnce(String) -> BoxFuture<'static, bool> + Send>;

impl Cell {
    /// Joins with a whole ticket: asks its nodes one after the other.
    ///
    /// # Errors
    /// The ticket's text is damaged, nobody in it answers, or the answer is a refusal.
    pub async fn join_with_ticket(config: &Config, ticket: &str) -> Result<Self, PeersError> {
        let ticket: Ticket = ticket.parse()?;
        Self::refuse_member(&config.key, &config.state_dir)?;
        let door = Door::open(config).await?;
        let mut last = PeersError::BadTicket("it names no node");
        for node in &ticket.nodes {
            let asked = door.by_token(node, &ticket.token, Some(ticket.cell)).await;
            match asked {
                Ok((grant, from)) => return door.store(&grant, &from).await,
                // Another node may still reach the issuer.
                Err(
                    e @ (PeersError::Unreachable { .. }
                    | PeersError::Refused(Refusal::IssuerUnreachable | Refusal::Busy)),
                ) => {
                    last = e;
                }
                Err(e) => return door.fail(e).await,
            }
        }
        door.fail(last).await
    }

    /// Joins at `host:port` with the token part of a ticket.
    ///
    /// # Errors
    /// As [`Self::join_with_ticket`].
    pub async fn join_with_token(
        config: &Config,
        host: &str,
        token: &str,
    ) -> Result<Self, PeersError> {
        let token: Token = token.parse()?;
        Self::refuse_member(&config.key, &config.state_dir)?;
        let node = find(config, host).await?;
        let door = Door::open(config).await?;
        match door.by_token(&node, &token, None).await {
            Ok((grant, from)) => door.store(&grant, &from).await,
            Err(e) => door.fail(e).await,
        }
    }

    /// Joins at `host:port` without a token: `confirm` is shown the code, and a member must
    /// admit the same code.
    ///
    /// # Errors
    /// As [`Self::join_with_ticket`]; also when the code is not confirmed or not admitted.
    pub async fn join_with_code(
        config: &Config,
        host: &str,
        confirm: Confirm,
    ) -> Result<Self, PeersError> {
        Self::refuse_member(&config.key, &config.state_dir)?;
        let node = find(config, host).await?;
        let door = Door::open(config).await?;
        match door.by_code(&node, confirm).await {
            Ok((grant, from)) => door.store(&grant, &from).await,
            Err(e) => door.fail(e).await,
        }
    }
}

/// Who answers at a host; refuses another protocol version before anything is sent.
async fn find(config: &Config, host: &str) -> Result<NodeAddr, PeersError> {
    let found = fetch_node_info(host).await?;
    if found.protocol != config.protocol {
        return Err(PeersError::Refused(Refusal::Version {
            theirs: found.protocol,
            ours: config.protocol,
        }));
    }
    Ok(NodeAddr {
        node: found.node,
        addrs: found.addrs,
    })
}

/// A port opened for joining, closed before the node starts.
struct Door<'a> {
    config: &'a Config,
    transport: Transport,
}

impl<'a> Door<'a> {
    async fn open(config: &'a Config) -> Result<Self, PeersError> {
        let ip = match config.listen.ip() {
            ip if ip.is_loopback() => ip,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let transport = Transport::bind(&config.key, SocketAddr::new(ip, 0)).await?;
        Ok(Self { config, transport })
    }

    async fn fail<T>(self, error: PeersError) -> Result<T, PeersError> {
        self.transport.close().await;
        Err(error)
    }

    /// Checks a grant against the key it must lead to, and stores it.
    async fn store(self, grant: &Grant, from: &NodeAddr) -> Result<Cell, PeersError> {
        self.transport.close().await;
        let me = self.config.key.node();
        let mut roll = Roll::new(grant.cell);
        roll.add(grant.log.clone())?;
        if !roll.is_member(me) || !roll.is_member(from.node) {
            return Err(Refusal::NotMember.into());
        }
        let mut book: Book = grant
            .nodes
            .iter()
            .map(|n| (n.node, n.clone().bounded().addrs))
            .collect();
        // The address that just answered comes first.
        let known = book.entry(from.node).or_default();
        known.retain(|a| !from.addrs.contains(a));
        *known = [&from.addrs[..], known].concat();
        book.remove(&me);
        let paths = Paths::new(&self.config.state_dir);
        let cell = Cell {
            me,
            roll,
            book,
            paths,
        };
        let stored = cell.clone();
        tokio::task::spawn_blocking(move || stored.store())
            .await
            .map_err(|_| PeersError::Stopping)??;
        Ok(cell)
    }

    /// Nothing is said yet, so it may be tried again: over a slow link, or when the member is busy,
    /// it may give up before we do.
    async fn dial(&self, to: &NodeAddr) -> Result<(Conn, NodeAddr), PeersError> {
        let begin = Instant::now();
        let conn = loop {
            let dialled = self.transport.dial(to.node, &to.addrs, ALPN_JOIN);
            match dialled.await {
                Ok(conn) => break conn,
                Err(why) if begin.elapsed() >= DIAL_AGAIN => return Err(unreachable(to, why)),
                Err(why) => tracing::debug!(why, "dialled again"),
            }
            sleep(DIAL_PAUSE).await;
        };
        let addrs = conn.addr().map_or_else(|| to.addrs.clone(), |a| vec![a]);
        let node = to.node;
        Ok((conn, NodeAddr { node, addrs }))
    }

    async fn wish(&self, conn: &Conn, way: Way) -> Result<(SendStream, RecvStream), String> {
        let (mut send, recv) = conn.open_bi().await.map_err(|e| e.to_string())?;
        if hello::write_preamble(&mut send, self.config.protocol)
            .await
            .is_err()
        {
            return Err("it closed the connection".to_owned());
        }
        let wish = Wish {
            way,
            name: self.config.name.clone(),
            addrs: self.config.advertise.clone(),
        };
        write_frame(&mut send, &wish)
            .await
            .map_err(|e| e.to_string())?;
        Ok((send, recv))
    }

    async fn by_token(
        &self,
        to: &NodeAddr,
        token: &Token,
        cell: Option<NodeId>,
    ) -> Result<(Grant, NodeAddr), PeersError> {
        let (conn, from) = self.dial(to).await?;
        let me = self.config.key.node();
        let exporter = conn
            .exporter(EXPORTER_LABEL)
            .map_err(|why| unreachable(to, why))?;
        let way = Way::Token {
            name: token.public(),
            proof: joiner_proof(token, &exporter, me, to.node),
            cell,
        };
        let asked = async {
            let (_send, mut recv) = self.wish(&conn, way).await?;
            let answer = read_frame::<Answer>(&mut recv, ANSWER_BYTES_MAX).await;
            answer.map_err(|e| e.to_string())
        };
        let answer = match timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(why)) => return Err(broken(&conn, to, why).await),
            Err(_) => return Err(unreachable(to, "it does not answer".to_owned())),
        };
        conn.close(Close::Done);
        let proved = answer.proof.is_some_and(|proof| {
            is_same(&proof, &issuer_proof(token, &exporter, me, &answer.outcome))
        });
        let grant = match answer.outcome {
            Ok(grant) if proved => grant,
            Ok(_) => return Err(PeersError::ImpostorOrWrongNode(to.node.short())),
            Err(why) => return Err(why.into()),
        };
        if cell.is_some_and(|c| c != grant.cell) {
            return Err(Refusal::OtherCell.into());
        }
        Ok((grant, from))
    }

    async fn by_code(
        &self,
        to: &NodeAddr,
        confirm: Confirm,
    ) -> Result<(Grant, NodeAddr), PeersError> {
        let (conn, from) = self.dial(to).await?;
        let asked = async {
            let (send, mut recv) = self.wish(&conn, Way::Code).await?;
            let offer = read_frame::<Result<Offer, Refusal>>(&mut recv, WISH_BYTES_MAX).await;
            Ok((send, recv, offer.map_err(|e| e.to_string())?))
        };
        let (mut send, mut recv, offer) = match timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(why)) => return Err(broken(&conn, to, why).await),
            Err(_) => return Err(unreachable(to, "it does not answer".to_owned())),
        };
        let tag = match offer {
            Ok(offer) => offer.cell_tag,
            Err(why) => {
                conn.close(Close::Done);
                return Err(why.into());
            }
        };
        let code = pending::code(self.config.key.node(), to.node, &tag);
        if !confirm(code).await {
            conn.close(Close::Done);
            return Err(PeersError::NotConfirmed);
        }
        if let Err(e) = write_frame(&mut send, &Confirmed).await {
            return Err(broken(&conn, to, e.to_string()).await);
        }
        let answer = timeout(
            PENDING_TIME,
            read_frame::<Answer>(&mut recv, ANSWER_BYTES_MAX),
        );
        let answer = match answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => return Err(broken(&conn, to, e.to_string()).await),
            Err(_) => return Err(Refusal::NotAdmitted.into()),
        };
        conn.close(Close::Done);
        let grant = answer.outcome?;
        // The code that was compared binds the cell.
        if pending::cell_tag(grant.cell) != tag {
            return Err(Refusal::OtherCell.into());
        }
        Ok((grant, from))
    }
}

fn unreachable(to: &NodeAddr, why: String) -> PeersError {
    let addrs: Vec<String> = to.addrs.iter().map(ToString::to_string).collect();
    PeersError::Unreachable {
        what: format!("node {} at {}", to.node.short(), addrs.join(", ")),
        why,
    }
}

/// What to say of a connection that broke: the other end's own words when it left some.
async fn broken(conn: &Conn, to: &NodeAddr, why: String) -> PeersError {
    match hello::unmet(conn, why).await {
        Unmet::Refused(why) => why.into(),
        Unmet::Failed(why) => unreachable(to, why),
        Unmet::Refusing(_) | Unmet::Duplicate => unreachable(to, "it closed".to_owned()),
    }
}
