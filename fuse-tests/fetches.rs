//! Fetches that do not go well, and how far one is.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cellfs::base::id::{BranchId, NodeId, Oid};
use cellfs::control::readiness::{Event, Watch};
use cellfs::peers::{Cell, Config, Handler, NodeKey, Peers, RecvStream, SendStream};
use cellfs::replicator::HeadNotice;
use tokio::io::AsyncReadExt;

use crate::harness::{self, Lab, SOON, agree, wait_until};

/// A member that takes requests and never answers.
struct Silent;

#[async_trait]
impl Handler for Silent {
    async fn serve(&self, _: NodeId, mut request: RecvStream, reply: SendStream) {
        let mut bytes = Vec::new();
        let _ = request.read_to_end(&mut bytes).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        drop(reply);
    }
}

/// A head that nobody can give but its author, as it is announced.
fn announced(key: &NodeKey, cell: NodeId) -> Vec<u8> {
    let mut head = HeadNotice {
        volume: "cell".parse().expect("a name"),
        node: key.node(),
        branch: BranchId(7),
        seq: 1,
        id: Oid::from([7; 20]),
        signature: Vec::new(),
    };
    head.signature = key.sign(&head.signed_bytes(&cell)).to_vec();
    // No pack comes with it.
    postcard::to_extend(&(head, None::<Vec<u8>>), vec![1]).expect("encoded")
}

#[test]
fn a_silent_member_holds_nobody_up_for_long() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = &nodes[..] else { panic!("two") };
    a.write("f", "1");
    b.wait_for("f", "1");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (ticket, dir) = (a.invite(1), lab.dir("silent"));
    let (key, peers) = runtime.block_on(async {
        let key = NodeKey::load_or_create(&dir.join("node.key")).expect("a key");
        let listen = "127.0.0.1:0".parse().expect("an address");
        let config = Config::new(key.clone(), dir.clone(), listen, "silent");
        let cell = Cell::join_with_ticket(&config, &ticket).await;
        let cell = cell.expect("joined");
        let (peers, mut events) = Peers::start(config, cell, Arc::new(Silent))
            .await
            .expect("started");
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        (key, peers)
    });
    let id = key.node().to_string();
    let both = || nodes.iter().all(|n| connected(n, &id));
    wait_until(SOON, both, || format!("{:?}", a.status().peers));
    let asked = || nodes.iter().all(|n| fetches_from(n, &id));
    let announce = || {
        let _entered = runtime.enter();
        peers
            .announce(announced(&key, peers.cell()))
            .expect("small");
        asked()
    };
    wait_until(SOON, announce, || format!("{:?}", b.cell()));
    // While the fetch from it lasts, all else of the volume waits; then it comes.
    a.write("g", "2");
    let begin = Instant::now();
    b.wait_for("g", "2");
    eprintln!("behind a silent member: {:.1?}", begin.elapsed());
    // It is left alone for a while: others are not held up again.
    for i in 0..10 {
        let begin = Instant::now();
        a.write("f", format!("more {i}"));
        b.wait_for("f", &format!("more {i}"));
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    assert!(b.log().contains("given up"), "{}", b.log());
    // Put out, it is not waited for any more.
    a.ask(&["forget", &id]);
    agree(&[a, b], "cell", SOON);
    runtime.block_on(peers.shutdown());
}

#[test]
fn who_joins_is_told_how_far_the_first_sync_is() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("n1");
    // Enough, of what cannot be compressed, to take much longer than from one word to the next.
    let files = 2_000;
    let mut noise = vec![0; 20 << 10];
    for i in 0..files {
        getrandom::fill(&mut noise).expect("randomness");
        a.write(&format!("f{i}"), &noise);
    }
    a.settled();
    // As `cellfs mount` starts its node in the background.
    let (mut line, stdin) = Watch::pair().expect("a line");
    let state = lab.path("late.state");
    let log = std::fs::File::create(lab.path("late.log")).expect("a log");
    let mut child = Command::new(harness::program())
        .args(["serve", "--detached", "--name", "late", "--state"])
        .arg(&state)
        .args(["--listen", "127.0.0.1:0", "--join", &a.invite(1)])
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it starts");
    let mut said = Vec::new();
    while let Some(event) = line.next_event().expect("a line") {
        match event {
            Event::Sync(p) if p.objects_total > 0 => said.push(p),
            Event::Ready(_) => break,
            Event::Failed(f) => panic!("{f:?}"),
            _ => {}
        }
    }
    let ended = harness::cellfs(&state, &["umount", "--all"]).status;
    child.wait().expect("a child");
    assert!(ended.success());
    let last = said.last().expect("no word about the sync");
    eprintln!("{} lines, the last: {last:?}", said.len());
    assert!(
        said.iter()
            .all(|p| p.objects_done <= p.objects_total && p.from == a.id)
    );
    assert!(said.iter().any(|p| p.objects_done < p.objects_total));
    assert!(said.iter().any(|p| p.objects_total > files));
}

fn connected(n: &harness::Node, id: &str) -> bool {
    let peers = n.status().peers;
    peers.iter().any(|p| p.node == id && p.state == "connected")
}

fn fetches_from(n: &harness::Node, id: &str) -> bool {
    n.cell().sync.is_some_and(|s| s.from == id)
}
