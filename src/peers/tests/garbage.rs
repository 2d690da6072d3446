//! Strangers who talk nonsense: no panic, no growth, and members go on undisturbed.

use tokio::net::UdpSocket;

use super::*;
use crate::peers::key::{dice, random};
use crate::peers::transport::{ALPN_JOIN, ALPN_PEER};

const DATAGRAMS: usize = 10_000;
/// Full TLS handshakes, each with signatures on both ends.
const CONNECTIONS: usize = 1_000;
/// Connections in flight; more than are allowed per address.
const AT_ONCE: usize = 160;

/// Resident memory of this process, in KiB.
fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_datagrams_and_connections_change_nothing() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    until("link", || a.has_link(&b) && b.has_link(&a)).await;
    let before = resident_kib();
    let to = a.peers.local_addr();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..DATAGRAMS {
        let mut bytes: Vec<u8> = (0..40).flat_map(|_| random::<32>().unwrap()).collect();
        bytes.truncate(usize::try_from(dice(1280)).unwrap());
        // Some look like the start of a QUIC handshake.
        if n % 3 == 0 {
            bytes.resize(1200, 0);
            bytes[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        let _ = socket.send_to(&bytes, to).await;
    }
    connections(&a, b"").await;
    // Members were not disturbed.
    assert!(a.has_link(&b) && b.has_link(&a));
    a.peers.announce(b"still here".to_vec()).unwrap();
    until("announcement", || b.heard(&a, b"still here") == 1).await;
    assert_eq!(a.peers.members().len(), 2);
    let late = Node::join("late", &a.ticket(1).await).await;
    until("link", || a.has_link(&late)).await;
    assert_eq!(
        b.saw(|e| matches!(e, Event::Down { node } if *node == a.id())),
        0
    );
    // Other tests run in this process: only a leak per stranger would be as large as this.
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 300_000, "{grown} KiB");
}

/// Connects with good TLS and fresh keys, and talks nonsense.
async fn connections(to: &Node, prefix: &'static [u8]) {
    let node = to.id();
    let addr = to.peers.local_addr();
    let slots = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let endpoints: Vec<Transport> = {
        let mut all = Vec::new();
        for _ in 0..4 {
            let any = "127.0.0.1:0".parse().unwrap();
            all.push(
                Transport::bind(&NodeKey::draw().unwrap(), any)
                    .await
                    .unwrap(),
            );
        }
        all
    };
    let mut tasks = Vec::new();
    for n in 0..CONNECTIONS {
        let slot = Arc::clone(&slots).acquire_owned().await.unwrap();
        let from = endpoints[n % endpoints.len()].clone();
        tasks.push(tokio::spawn(async move {
            let alpn = if n % 2 == 0 { ALPN_PEER } else { ALPN_JOIN };
            if let Ok(conn) = from.dial(node, &[addr], alpn).await
                && let Ok((mut send, mut recv)) = conn.open_bi().await
            {
                let noise: Vec<u8> = (0..30).flat_map(|_| random::<32>().unwrap()).collect();
                let _ = send.write_all(prefix).await;
                let _ = send.write_all(&noise).await;
                let mut answer = Vec::new();
                let _ = recv.read_to_end(&mut answer).await;
                assert!(answer.is_empty(), "a stranger was told something");
            }
            drop(slot);
        }));
    }
    for task in tasks {
        within(task).await.unwrap().unwrap();
    }
    for endpoint in endpoints {
        endpoint.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_talks_nonsense_hurts_only_itself() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    let c = Node::join("c", &a.ticket(1).await).await;
    until("mesh", || {
        a.has_link(&b) && a.has_link(&c) && b.has_link(&c)
    })
    .await;
    let link = b.peers.core.link(a.id()).unwrap();
    for n in 0..200_u8 {
        // Gossip, announcements and unknown kinds.
        let noise = random::<32>().unwrap();
        let mut send = link.conn.open_uni().await.unwrap();
        send.write_all(&[n % 4]).await.unwrap();
        send.write_all(&noise).await.unwrap();
        send.finish();
        link.send_gossip(bytes::Bytes::from(noise.to_vec()));
    }
    let (mut send, mut recv) = link.conn.open_bi().await.unwrap();
    send.write_all(&[9; 100]).await.unwrap();
    let mut answer = Vec::new();
    let _ = recv.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    c.peers.set_state("k", "v").unwrap();
    until("state", || {
        a.value(&c, "k").is_some() && b.value(&c, "k").is_some()
    })
    .await;
    b.peers.announce(vec![1]).unwrap();
    until("announcement", || {
        a.heard(&b, &[1]) == 1 && c.heard(&b, &[1]) == 1
    })
    .await;
}
