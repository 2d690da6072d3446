//! Who gets in, and who is kept out with which words.

use super::*;
use crate::peers::error::Refusal;
use crate::peers::hello::PROTOCOL_VERSION;

fn refusal(result: Result<Cell, PeersError>) -> Refusal {
    match result {
        Err(PeersError::Refused(why)) => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_that_are_wrong_expired_or_used_are_refused_with_the_reason() {
    let a = Node::found("a").await;
    let good = a.ticket(1).await;
    let mut wrong = good.clone();
    wrong.token = Token::draw(a.id()).unwrap();
    assert_eq!(
        refusal(Node::try_join(&wrong.to_string()).await),
        Refusal::TokenWrong
    );
    let mut other_cell = good.clone();
    other_cell.cell = NodeId([9; 32]);
    assert_eq!(
        refusal(Node::try_join(&other_cell.to_string()).await),
        Refusal::OtherCell
    );
    let old = a.peers.invite(5, Duration::ZERO, &[]).await.unwrap();
    let why = refusal(Node::try_join(&old.to_string()).await);
    assert_eq!(why, Refusal::TicketExpired);
    assert!(why.to_string().contains("`cellfs invite`"), "{why}");
    let b = Node::join("b", &good).await;
    assert_eq!(
        refusal(Node::try_join(&good.to_string()).await),
        Refusal::TicketUsedUp
    );
    // The same node may ask again: its use is its own. (As after a crash before storing.)
    b.peers.shutdown().await;
    std::fs::remove_dir_all(b.dir.path().join("cell")).unwrap();
    let line = good.to_string();
    assert!(Cell::join_with_ticket(&b.config, &line).await.is_ok());
    // A used ticket is used after a restart of its issuer too. Its address is another now.
    let token = good.token.to_string();
    let a = a.restart().await;
    let door = a.door().await.to_string();
    let c = TempDir::new().unwrap();
    let c = config(&c, "c");
    assert_eq!(
        refusal(Cell::join_with_token(&c, &door, &token).await),
        Refusal::TicketUsedUp
    );
    let error = Node::try_join(&line[..60]).await.unwrap_err();
    assert!(error.to_string().contains("copy the whole line"), "{error}");
    let again = Cell::join_with_ticket(&a.config, &line).await;
    assert!(matches!(again, Err(PeersError::AlreadyMember(_))));
    assert_eq!(
        a.saw(|e| matches!(e, Event::Joined { .. })),
        0,
        "nobody else came in"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_is_redeemed_by_its_issuer_alone_however_the_network_is_cut() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    until("link", || a.has_link(&b) && b.has_link(&a)).await;
    let ticket = a.ticket(1).await;
    assert_eq!(ticket.nodes.len(), 2, "it names b too");
    // At b's door: b passes it to a.
    let door = b.door().await.to_string();
    let token = ticket.token.to_string();
    let dir = TempDir::new().unwrap();
    let c = config(&dir, "c");
    let cell = Cell::join_with_token(&c, &door, &token).await.unwrap();
    let c = Node::start(dir, c, cell).await;
    until("c is everybody's peer", || a.has_link(&c) && b.has_link(&c)).await;
    // The other side of a cut: b cannot reach a, so nobody gets in there.
    let cut = a.ticket(1).await;
    a.peers.set_cut(b.id(), true);
    b.peers.set_cut(a.id(), true);
    until("cut", || !a.has_link(&b) && !b.has_link(&a)).await;
    let dir = TempDir::new().unwrap();
    let d = config(&dir, "d");
    let at_b = Cell::join_with_token(&d, &door, &cut.token.to_string()).await;
    assert_eq!(refusal(at_b), Refusal::IssuerUnreachable);
    assert!(Node::try_join(&cut.to_string()).await.is_ok());
    let mut by_b = cut.clone();
    by_b.nodes.remove(0);
    a.peers.set_cut(b.id(), false);
    b.peers.set_cut(a.id(), false);
    until("mended", || a.has_link(&b) && b.has_link(&a)).await;
    assert_eq!(
        refusal(Node::try_join(&by_b.to_string()).await),
        Refusal::TicketUsedUp
    );
    // Two at once for one use.
    let one = a.ticket(1).await.to_string();
    let (x, y) = tokio::join!(Node::try_join(&one), Node::try_join(&one));
    assert!(x.is_ok() != y.is_ok(), "{x:?} {y:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_node_learns_nothing_from_a_ticket() {
    // A ticket that leads to a node of another cell: it cannot prove the token.
    let (a, x) = (Node::found("a").await, Node::found("x").await);
    let mut ticket = a.ticket(1).await;
    ticket.nodes = vec![NodeAddr {
        node: x.id(),
        addrs: vec![x.peers.local_addr()],
    }];
    assert_eq!(
        refusal(Node::try_join(&ticket.to_string()).await),
        Refusal::IssuerUnreachable
    );
    // Somebody else at the issuer's address: TLS fails.
    ticket.nodes = vec![NodeAddr {
        node: a.id(),
        addrs: vec![x.peers.local_addr()],
    }];
    let error = Node::try_join(&ticket.to_string()).await.unwrap_err();
    assert!(matches!(error, PeersError::Unreachable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cell_is_refused() {
    let (a, x) = (Node::found("a").await, Node::found("x").await);
    // x believes that a is a member of its cell.
    let cert = cell::certificate(&x.config.key, x.peers.cell(), a.id(), "a").unwrap();
    x.peers.core.learn(vec![cert], None);
    x.peers
        .core
        .note_addrs(a.id(), Some(a.peers.local_addr()), &[]);
    until("refused", || {
        x.saw(|e| {
            matches!(
                e,
                Event::Refused {
                    reason: Refusal::OtherCell,
                    ..
                }
            )
        }) > 0
    })
    .await;
    assert!(!x.has_link(&a) && !a.has_link(&x));
    assert_eq!(a.peers.members().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_differ_are_both_named() {
    let a = Node::found("a").await;
    let dir = TempDir::new().unwrap();
    let mut b = config(&dir, "b");
    b.protocol = 7;
    let why = refusal(Cell::join_with_ticket(&b, &a.ticket(1).await.to_string()).await);
    assert_eq!(
        why,
        Refusal::Version {
            theirs: PROTOCOL_VERSION,
            ours: 7
        }
    );
    let text = why.to_string();
    assert!(
        text.contains(&format!("version {PROTOCOL_VERSION}")) && text.contains("version 7"),
        "{text}"
    );
    let door = a.door().await.to_string();
    let token = a.ticket(1).await.token.to_string();
    let why = refusal(Cell::join_with_token(&b, &door, &token).await);
    assert_eq!(
        why,
        Refusal::Version {
            theirs: PROTOCOL_VERSION,
            ours: 7
        }
    );
    // A member that was upgraded alone.
    let mut c = Node::join("c", &a.ticket(1).await).await;
    c.config.protocol = PROTOCOL_VERSION + 1;
    let c = c.restart().await;
    let versions = |e: &Event| {
        matches!(
            e,
            Event::Refused {
                reason: Refusal::Version { theirs: PROTOCOL_VERSION, ours },
                ..
            } if *ours == PROTOCOL_VERSION + 1
        )
    };
    until("refused", || c.saw(versions) > 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_node_is_out_and_so_is_whom_it_lets_in_afterwards() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    let c = Node::join("c", &b.ticket(1).await).await;
    until("mesh", || {
        a.has_link(&b) && b.has_link(&c) && a.has_link(&c)
    })
    .await;
    // b is cut off while it is forgotten, and goes on letting nodes in.
    for n in [&a, &c] {
        n.peers.set_cut(b.id(), true);
        b.peers.set_cut(n.id(), true);
    }
    a.peers.forget(b.id(), b"heads".to_vec()).await.unwrap();
    let forgotten = |n: &Node| n.state_of(b.id()) == Some(MemberState::Forgotten);
    until("forgotten", || forgotten(&a) && forgotten(&c)).await;
    assert_eq!(c.peers.forgotten_heads(b.id()), vec![b"heads".to_vec()]);
    let late = Node::join("late", &b.ticket(1).await).await;
    until("late is b's peer", || b.has_link(&late)).await;
    for n in [&a, &c] {
        n.peers.set_cut(b.id(), false);
        b.peers.set_cut(n.id(), false);
    }
    let told = |n: &Node, why: Refusal| {
        n.saw(move |e| matches!(e, Event::Refused { reason, .. } if *reason == why)) > 0
    };
    until("b is told", || told(&b, Refusal::Forgotten)).await;
    until("late is told", || told(&late, Refusal::VoidCertificate)).await;
    for n in [&a, &c] {
        assert!(!n.has_link(&b) && !n.has_link(&late));
        assert_eq!(n.state_of(late.id()), None);
        assert!(n.state_of(c.id()).is_some());
    }
    assert!(a.has_link(&c), "whom b let in before stays");
    // Its key does not come back, not even with a good ticket.
    let line = a.ticket(1).await.to_string();
    b.peers.shutdown().await;
    std::fs::remove_dir_all(b.dir.path().join("cell")).unwrap();
    let why = refusal(Cell::join_with_ticket(&b.config, &line).await);
    assert_eq!(why, Refusal::Forgotten);
    assert!(why.to_string().contains("node.key"), "{why}");
    assert!(matches!(
        a.peers.forget(a.id(), vec![]).await,
        Err(PeersError::ForgetSelf)
    ));
    let nobody = a.peers.forget(NodeId([3; 32]), vec![]).await;
    assert!(matches!(nobody, Err(PeersError::NoSuchMember(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_node_that_is_forgotten_is_thrown_out_at_once() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    let c = Node::join("c", &a.ticket(1).await).await;
    until("mesh", || {
        a.has_link(&b) && b.has_link(&c) && a.has_link(&c)
    })
    .await;
    a.peers.forget(b.id(), Vec::new()).await.unwrap();
    until("out", || {
        !a.has_link(&b) && !c.has_link(&b) && b.peers.connected().is_empty()
    })
    .await;
    let left =
        |e: &Event| matches!(e, Event::Left { node, graceful: false, .. } if *node == b.id());
    until("told", || a.saw(left) == 1 && c.saw(left) == 1).await;
    assert!(b.peers.request(a.id()).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_by_a_code_that_both_sides_show() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a.ticket(1).await).await;
    until("link", || a.has_link(&b) && b.has_link(&a)).await;
    let door = a.door().await.to_string();
    let dir = TempDir::new().unwrap();
    let c = config(&dir, "newcomer");
    let (shown, show) = tokio::sync::oneshot::channel();
    let confirm: Confirm = Box::new(move |code| Box::pin(async move { shown.send(code).is_ok() }));
    let joining = tokio::spawn({
        let (c, door) = (c.clone(), door.clone());
        async move { Cell::join_with_code(&c, &door, confirm).await }
    });
    let code = show.await.unwrap();
    assert!(code.len() == 29, "25 letters of 5 bits: {code}");
    // Any node lists it with the same code, and any node may admit it.
    let listed = |n: &Node| {
        let state = MemberState::Pending {
            code: code.clone(),
            at: a.id(),
        };
        n.peers
            .members()
            .iter()
            .any(|m| m.state == state && m.name == "newcomer")
    };
    until("listed", || listed(&a) && listed(&b)).await;
    assert!(matches!(
        b.peers.admit("aaaaa-aaaaa-aaaaa-aaaaa-aaaaa").await,
        Err(PeersError::NoSuchCode(_))
    ));
    assert!(!joining.is_finished());
    assert_eq!(
        b.peers.admit(&code.to_uppercase()).await.unwrap(),
        c.key.node()
    );
    let cell = within(joining).await.unwrap().unwrap().unwrap();
    let c = Node::start(dir, c, cell).await;
    until("in", || a.has_link(&c) && b.has_link(&c)).await;
    until("no longer listed", || !listed(&a) && !listed(&b)).await;
    assert_eq!(a.state_of(c.id()), Some(MemberState::Alive));
    // One who does not confirm is not let in.
    let dir = TempDir::new().unwrap();
    let d = config(&dir, "d");
    let no: Confirm = Box::new(|_| Box::pin(async { false }));
    let result = Cell::join_with_code(&d, &door, no).await;
    assert!(
        matches!(result, Err(PeersError::NotConfirmed)),
        "{result:?}"
    );
    assert!(matches!(
        Cell::load(&d.key, dir.path()),
        Err(PeersError::NoCell)
    ));
}
