//! Numbers for the curious: `cargo test --release --lib peers::tests::measure -- --ignored
//! --nocapture`. They assert nothing.

use std::time::Instant;

use super::*;

fn line(what: &str, mut all: Vec<Duration>) {
    all.sort();
    let at = |q: usize| {
        all.get((all.len() - 1) * q / 100)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "{what}: p50 {:?}, p90 {:?}, max {:?} (n={})",
        at(50),
        at(90),
        at(100),
        all.len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn latencies_of_a_small_cell() {
    let start = Instant::now();
    let a = Node::found("a").await;
    println!("found and start: {:?}", start.elapsed());
    let ticket = a.ticket(100).await;
    let mut nodes = vec![a];
    let (mut joins, mut meshes) = (Vec::new(), Vec::new());
    for n in 1..12 {
        let start = Instant::now();
        let node = Node::join(&format!("n{n}"), &ticket).await;
        joins.push(start.elapsed());
        let start = Instant::now();
        until("mesh", || {
            nodes.iter().all(|o| o.has_link(&node) && node.has_link(o))
        })
        .await;
        meshes.push(start.elapsed());
        nodes.push(node);
    }
    line("join with ticket, start included", joins);
    line("then linked to all", meshes);
    let (mut floods, mut states, mut asks) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..50_u8 {
        let from = &nodes[usize::from(n) % nodes.len()];
        let others = || nodes.iter().filter(|o| o.id() != from.id());
        let start = Instant::now();
        from.peers.announce(vec![n; 200]).unwrap();
        until("heard", || others().all(|o| o.heard(from, &[n; 200]) == 1)).await;
        floods.push(start.elapsed());
        let start = Instant::now();
        from.peers.set_state("k", &n.to_string()).unwrap();
        until("seen", || {
            others().all(|o| o.value(from, "k") == Some(n.to_string()))
        })
        .await;
        states.push(start.elapsed());
        let to = others().next().unwrap();
        let start = Instant::now();
        ask(from, to, b"x").await;
        asks.push(start.elapsed());
    }
    line("announcement to all of 12", floods);
    line("state to all of 12 (gossip each 100 ms)", states);
    line("request and answer", asks);
    let start = Instant::now();
    let large = vec![7; 64 << 20];
    ask(&nodes[0], &nodes[1], &large).await;
    println!("64 MiB there and back: {:?}", start.elapsed());
    let start = Instant::now();
    let last = nodes.pop().unwrap();
    last.peers.shutdown().await;
    println!("shutdown: {:?}", start.elapsed());
    until("down", || nodes.iter().all(|n| !n.has_link(&last))).await;
    println!("all saw it: {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn how_soon_a_silent_peer_is_noticed() {
    let a = Node::found("a").await;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let ticket = a.ticket(1).await;
    let b = runtime.spawn(async move { Node::join("b", &ticket).await });
    let b = b.await.unwrap();
    until("link", || a.has_link(&b)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Its tasks end without a word.
    runtime.shutdown_background();
    let start = Instant::now();
    until("down", || !a.has_link(&b)).await;
    println!(
        "a silent peer's link was given up after {:?}",
        start.elapsed()
    );
    until("lost", || {
        a.state_of(b.id()) == Some(MemberState::Unreachable)
    })
    .await;
    println!("and it counted as unreachable after {:?}", start.elapsed());
    std::mem::forget(b);
}

#[test]
#[ignore = "measures"]
fn cost_of_a_signature() {
    let key = NodeKey::draw().unwrap();
    let start = Instant::now();
    let sig = key.sign(b"x");
    println!("sign: {:?}", start.elapsed());
    let start = Instant::now();
    for _ in 0..20 {
        assert!(verify(key.node(), b"x", &sig));
    }
    println!("verify: {:?}", start.elapsed() / 20);
}
