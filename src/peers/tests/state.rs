//! Replicated state: bounds, restarts of gossip, who is heard of.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_is_bounded_with_a_typed_error() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    let big = "x".repeat(STATE_VALUE_BYTES_MAX + 1);
    let too_large = |r: Result<(), PeersError>| matches!(r, Err(PeersError::TooLarge { .. }));
    assert!(too_large(a.peers.set_state("k", &big)));
    assert!(too_large(a.peers.set_state(&big, "v")));
    assert!(too_large(a.peers.set_state("", "v")));
    assert!(too_large(a.peers.set_state("peers/addr", "v")));
    // As much as fits comes over, whole.
    for n in 0..STATE_KEYS_MAX - 10 {
        a.peers.set_state(&format!("k{n}"), &big[..40]).unwrap();
    }
    a.peers.set_state("big", &big[1..]).unwrap();
    until("all of it", || {
        let states = b.peers.states();
        states
            .get(&a.id())
            .is_some_and(|s| s.len() == STATE_KEYS_MAX - 9)
    })
    .await;
    assert_eq!(
        a.value(&a, "big").map(|v| v.len()),
        Some(STATE_VALUE_BYTES_MAX)
    );
    let mut refused = 0;
    for n in 0..20 {
        refused += usize::from(too_large(a.peers.set_state(&format!("more{n}"), "v")));
    }
    assert!(refused >= 10, "{refused}");
    // Nobody else's keys show, nor the room's own.
    assert!(
        b.peers
            .states()
            .values()
            .flatten()
            .all(|(k, _)| !k.starts_with("peers/"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gossip_that_dies_is_started_again() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    a.peers.set_state("k", "1").unwrap();
    until("state", || b.value(&a, "k").as_deref() == Some("1")).await;
    for n in 2..4 {
        a.peers.core.gossip.kill();
        a.peers.set_state("k", &n.to_string()).unwrap();
        until("state", || b.value(&a, "k") == Some(n.to_string())).await;
        b.peers.set_state("k", &n.to_string()).unwrap();
        until("state", || a.value(&b, "k") == Some(n.to_string())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_is_lost_and_comes_back() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    let id = b.id();
    until("alive", || {
        a.saw(|e| matches!(e, Event::Alive { node } if *node == id)) == 1
    })
    .await;
    b.peers.shutdown().await;
    until("down", || {
        a.saw(|e| matches!(e, Event::Down { node } if *node == id)) == 1
    })
    .await;
    until("lost", || {
        a.saw(|e| matches!(e, Event::Lost { node } if *node == id)) == 1
    })
    .await;
    assert_eq!(a.state_of(id), Some(MemberState::Unreachable));
    assert!(
        a.saw(|e| matches!(e, Event::Left { .. })) == 0,
        "it stays a member"
    );
    let b = b.restart().await;
    until("alive again", || a.state_of(id) == Some(MemberState::Alive)).await;
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_listens_everywhere_knows_addresses_to_give_out() {
    let dir = TempDir::new().unwrap();
    let mut all = config(&dir, "all");
    all.listen = "0.0.0.0:0".parse().unwrap();
    let cell = Cell::found(&all.key, dir.path(), "all").unwrap();
    let a = Node::start(dir, all, cell).await;
    let addrs = a.peers.node_info().addresses;
    assert!(
        !addrs.is_empty()
            && addrs
                .iter()
                .all(|a| !a.ip().is_unspecified() && a.port() != 0)
    );
    let b = Node::join("b", &a.ticket(1).await).await;
    until("link", || a.has_link(&b)).await;
    println!("{addrs:?}");
}
