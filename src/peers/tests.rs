//! Several nodes in one process, over real sockets on loopback.
//!
//! Nothing here asserts a time but generous deadlines.

mod flow;
mod garbage;
mod gates;
mod measure;
mod state;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::core::lock;
use super::*;

/// No condition takes longer than this.
const DEADLINE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3600);

/// Answers each request with its bytes turned round.
struct Mirror;

#[async_trait]
impl Handler for Mirror {
    async fn serve(&self, _: NodeId, mut request: RecvStream, mut reply: SendStream) {
        let mut bytes = Vec::new();
        if request.read_to_end(&mut bytes).await.is_ok() {
            bytes.reverse();
            let _ = reply.write_all(&bytes).await;
            let _ = reply.shutdown().await;
        }
    }
}

/// A directory with a key, and perhaps a running node.
struct Node {
    config: Config,
    peers: Arc<Peers>,
    events: Arc<Mutex<Vec<Event>>>,
    dir: TempDir,
}

fn config(dir: &TempDir, name: &str) -> Config {
    let key = NodeKey::load_or_create(&dir.path().join("node.key")).unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let mut config = Config::new(key, dir.path().to_path_buf(), listen, name);
    config.gossip_interval = Duration::from_millis(100);
    config
}

impl Node {
    async fn found(name: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, name);
        let cell = Cell::found(&config.key, dir.path(), name).unwrap();
        Self::start(dir, config, cell).await
    }

    async fn start(dir: TempDir, config: Config, cell: Cell) -> Self {
        let (peers, mut from) = Peers::start(config.clone(), cell, Arc::new(Mirror))
            .await
            .unwrap();
        let events = Arc::new(Mutex::new(Vec::new()));
        let to = Arc::clone(&events);
        tokio::spawn(async move {
            while let Some(event) = from.recv().await {
                lock(&to).push(event);
            }
        });
        Self {
            config,
            peers,
            events,
            dir,
        }
    }

    /// A new node that joins with a ticket.
    async fn join(name: &str, ticket: &Ticket) -> Self {
        let dir = TempDir::new().unwrap();
        let config = config(&dir, name);
        let cell = Cell::join_with_ticket(&config, &ticket.to_string())
            .await
            .unwrap();
        Self::start(dir, config, cell).await
    }

    /// What a new node gets with a ticket's text.
    async fn try_join(ticket: &str) -> Result<Cell, PeersError> {
        let dir = TempDir::new().unwrap();
        Cell::join_with_ticket(&config(&dir, "try"), ticket).await
    }

    async fn ticket(&self, uses: u32) -> Ticket {
        self.peers.invite(uses, HOUR, &[]).await.unwrap()
    }

    /// Stops the node and starts it again on another port.
    async fn restart(self) -> Self {
        let Self {
            config, peers, dir, ..
        } = self;
        peers.shutdown().await;
        drop(peers);
        let cell = Cell::load(&config.key, dir.path()).unwrap();
        Self::start(dir, config, cell).await
    }

    fn id(&self) -> NodeId {
        self.peers.node()
    }

    fn has_link(&self, to: &Self) -> bool {
        self.peers.connected().iter().any(|(n, _)| *n == to.id())
    }

    fn state_of(&self, node: NodeId) -> Option<MemberState> {
        let members = self.peers.members();
        members
            .into_iter()
            .find(|m| m.node == node)
            .map(|m| m.state)
    }

    fn saw(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        lock(&self.events).iter().filter(|e| wanted(e)).count()
    }

    fn heard(&self, author: &Self, payload: &[u8]) -> usize {
        self.saw(|e| matches!(e, Event::Announce { author: a, payload: p } if *a == author.id() && p == payload))
    }

    fn value(&self, of: &Self, key: &str) -> Option<String> {
        self.peers.states().get(&of.id())?.get(key).cloned()
    }

    /// Serves `GET /v1/node` for this node.
    async fn door(&self) -> SocketAddr {
        serve_info(self.peers.node_info()).await
    }
}

async fn serve_info(info: NodeInfo) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let json = serde_json::to_string(&info).unwrap();
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{json}",
        json.len()
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 512];
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    addr
}

/// Waits until a condition holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        within(met).await.is_some(),
        "not within the deadline: {what}"
    );
}

async fn within<T>(task: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(DEADLINE, task).await.ok()
}

/// What the other end of a request to `to` says.
async fn ask(from: &Node, to: &Node, bytes: &[u8]) -> Vec<u8> {
    let (mut send, mut recv) = from.peers.request(to.id()).await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.shutdown().await.unwrap();
    let mut answer = Vec::new();
    recv.read_to_end(&mut answer).await.unwrap();
    answer
}
