//! Members among themselves: links, announcements, requests, restarts.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_join_announce_and_ask() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    until("link", || a.has_link(&b) && b.has_link(&a)).await;
    assert_eq!(a.peers.cell(), b.peers.cell());
    a.peers.announce(b"from a".to_vec()).unwrap();
    b.peers.announce(b"from b".to_vec()).unwrap();
    until("announcements", || {
        a.heard(&b, b"from b") == 1 && b.heard(&a, b"from a") == 1
    })
    .await;
    assert_eq!(a.heard(&a, b"from a"), 0, "an author does not hear itself");
    assert_eq!(ask(&a, &b, b"abc").await, b"cba");
    let large: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    let mut turned = large.clone();
    turned.reverse();
    assert!(ask(&b, &a, &large).await == turned);
    let stranger = NodeId([1; 32]);
    let error = a.peers.request(stranger).await.unwrap_err();
    assert!(error.to_string().contains("cellfs members"), "{error}");
    assert!(a.peers.announce(vec![0; ANNOUNCE_BYTES_MAX + 1]).is_err());
    let members = b.peers.members();
    assert_eq!(members.len(), 2);
    let at = |n: &Node| members.iter().find(|m| m.node == n.id()).unwrap().clone();
    assert_eq!(
        (at(&a).state, at(&b).state),
        (MemberState::Alive, MemberState::Us)
    );
    assert_eq!((at(&a).name.as_str(), at(&b).name.as_str()), ("a", "b"));
    assert!(at(&a).rtt_ms.is_some() && at(&a).clock_skew_ms.unwrap().abs() < 60_000);
    assert_eq!(
        a.saw(|e| matches!(e, Event::Joined { node, .. } if *node == b.id())),
        1
    );
    assert_eq!(at(&a).addr, Some(a.peers.local_addr()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_says_reaches_c_through_b() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    let ticket = b.ticket(1).await;
    let dir = TempDir::new().unwrap();
    let config = config(&dir, "c");
    a.peers.set_cut(config.key.node(), true);
    let cell = Cell::join_with_ticket(&config, &ticket.to_string())
        .await
        .unwrap();
    let c = Node::start(dir, config, cell).await;
    c.peers.set_cut(a.id(), true);
    let chained = || [&a, &c].iter().all(|n| n.has_link(&b) && b.has_link(n));
    // Announcements of a node whose certificate has not come yet are dropped.
    until("chain", || chained() && a.peers.is_member(c.id())).await;
    for n in 0..50_u8 {
        a.peers.announce(vec![n]).unwrap();
        c.peers.announce(vec![n]).unwrap();
    }
    until("announcements", || {
        (0..50).all(|n| c.heard(&a, &[n]) == 1 && a.heard(&c, &[n]) == 1)
    })
    .await;
    a.peers.set_state("head/cell", "abc").unwrap();
    until("state", || {
        c.value(&a, "head/cell").as_deref() == Some("abc")
    })
    .await;
    let told = |e: &Event| {
        matches!(e, Event::State { node, key, value }
            if *node == a.id() && key == "head/cell" && value.as_deref() == Some("abc"))
    };
    until("state told", || c.saw(told) == 1).await;
    a.peers.delete_state("head/cell").unwrap();
    until("deletion", || {
        c.value(&a, "head/cell").is_none()
            && c.saw(|e| matches!(e, Event::State { node, value: None, .. } if *node == a.id()))
                == 1
    })
    .await;
    until("heard of", || {
        c.state_of(a.id()) == Some(MemberState::Alive)
    })
    .await;
    assert!(!c.has_link(&a) && !a.has_link(&c));
    // Mended, they connect by the addresses that travelled through b.
    a.peers.set_cut(c.id(), false);
    c.peers.set_cut(a.id(), false);
    until("full mesh", || a.has_link(&c) && c.has_link(&a)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_is_found_again_and_its_new_state_wins() {
    let a = Node::found("a").await;
    let mut b = Node::join("b", &a.ticket(1).await).await;
    until("link", || a.has_link(&b) && b.has_link(&a)).await;
    b.peers.set_state("k", "old").unwrap();
    until("old state", || a.value(&b, "k").as_deref() == Some("old")).await;
    for round in 0..2 {
        let before = b.peers.generation();
        b = b.restart().await;
        assert!(b.peers.generation() > before);
        b.peers.set_state("k", &format!("new {round}")).unwrap();
        until("link again", || a.has_link(&b) && b.has_link(&a)).await;
        until("new state", || {
            a.value(&b, "k") == Some(format!("new {round}"))
        })
        .await;
        b.peers.announce(vec![round]).unwrap();
        until("announcement", || a.heard(&b, &[round]) == 1).await;
    }
    assert_eq!(a.peers.states().len(), 2, "one entry per node");
    // Both restart: nobody knows the other's new port but from its own knocking.
    let a = a.restart().await;
    until("link after all", || a.has_link(&b) && b.has_link(&a)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaving_is_told_and_the_node_can_come_back() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    let c = Node::join("c", &b.ticket(1).await).await;
    until("mesh", || {
        a.has_link(&b) && b.has_link(&c) && a.has_link(&c)
    })
    .await;
    b.peers.leave().await.unwrap();
    let gone = |e: &Event| matches!(e, Event::Left { node, graceful: true, .. } if *node == b.id());
    until("farewell", || a.saw(gone) == 1 && c.saw(gone) == 1).await;
    assert_eq!(c.state_of(b.id()), Some(MemberState::Left));
    assert_eq!(
        a.state_of(c.id()),
        Some(MemberState::Alive),
        "whom b let in stays"
    );
    let error = Cell::load(&b.config.key, b.dir.path()).unwrap_err();
    assert!(error.to_string().contains("left the cell"), "{error}");
    let ticket = a.ticket(1).await.to_string();
    let cell = Cell::join_with_ticket(&b.config, &ticket).await.unwrap();
    let b = Node::start(b.dir, b.config, cell).await;
    until("back", || a.has_link(&b) && c.has_link(&b)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_gets_all() {
    let one = Node::found("one").await;
    let two = Node::join("two", &one.ticket(1).await).await;
    until("linked", || one.has_link(&two) && two.has_link(&one)).await;
    let bytes: Vec<u8> = (0..6_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut send, mut recv) = one.peers.request(two.id()).await.unwrap();
    send.write_all(&bytes).await.unwrap();
    send.shutdown().await.unwrap();
    let mut answer = Vec::new();
    for _ in 0..4 {
        // By now as much waits here as may.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut some = vec![0; 4_000_000];
        recv.read_exact(&mut some).await.unwrap();
        answer.extend(some);
    }
    recv.read_to_end(&mut answer).await.unwrap();
    answer.reverse();
    assert!(answer == bytes);
}
