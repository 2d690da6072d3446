//! Who does not belong to the cell gets nothing, and learns why only what helps.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use crate::harness::{self, Lab, SOON, agree, wait_until};

/// Starts a node that the cell must refuse; what it said.
fn refused(setup: harness::Setup) -> String {
    refused_with(setup, "5")
}

/// Starts a node that must end with this exit code; what it said.
fn refused_with(setup: harness::Setup, code: &str) -> String {
    let starting = setup.serve().begin();
    let log = starting.log_path();
    let ended = starting.try_ready().err();
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let ended = ended.unwrap_or_else(|| panic!("it started: {said}"));
    assert_eq!(ended, format!("exit status: {code}"), "{said}");
    said
}

#[test]
fn tickets_and_tokens() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("n1");
    a.write("secret", "secret");
    let ticket = a.invite(1);
    let b = lab.node("n2").join(&ticket).start();
    b.wait_for("secret", "secret");

    let said = refused(lab.node("used").join(&ticket));
    assert!(said.contains("used"), "{said}");

    let short = a.ask(&["invite", "--expires", "1s"]);
    std::thread::sleep(Duration::from_secs(2));
    let said = refused(lab.node("late").join(&short));
    assert!(said.contains("expired"), "{said}");

    let host = a.status().listen;
    // Of the issuer, and with another secret.
    let mut wrong = a.ask(&["invite", "--token"]);
    let at = wrong.len() - 8;
    let other = if wrong.get(at..=at) == Some("a") {
        "b"
    } else {
        "a"
    };
    wrong.replace_range(at..=at, other);
    let said = refused(lab.node("wrong").join(&host).words(["--token", &wrong]));
    assert!(said.contains("token"), "{said}");

    // A ticket of another cell lets into that one, and only into that one.
    let other = lab.node("other").start();
    let ticket = other.invite(1);
    let d = lab.node("n4").join(&ticket).start();
    assert_eq!(d.status().cell, other.status().cell);
    assert!(!d.at("secret").exists());
    // With that state it cannot be in this cell too, and says so.
    let said = refused_with(d.stop().join(&a.invite(1)), "1");
    assert!(said.contains("another cell"), "{said}");
    assert_eq!(a.status().peers.len(), 1);
    agree(&[&a, &b], "cell", SOON);
    for n in [a, b] {
        assert!(!n.log().contains("panicked"), "{}", n.log());
        n.stop();
    }
}

#[test]
fn a_code_is_shown_once_and_lets_in_who_is_admitted() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let a = lab.first("n1");
    a.write("f", "1");
    let setup = lab.node("n2").join(&a.status().listen);
    // Without a terminal the first try tells the code.
    let said = refused(setup.clone());
    let shown = |said: &str| {
        // Lines for people; in front, the log is among them.
        let lines = said.lines().filter(|l| !l.contains("cellfs::"));
        lines.filter(|l| l.contains("pairing code")).count()
    };
    assert_eq!(shown(&said), 1, "{said}");
    let code = said
        .split_whitespace()
        .skip_while(|w| *w != "code")
        .nth(1)
        .expect("a code")
        .to_owned();
    let starting = setup.words(["--yes", &code]).begin();
    let log = starting.log_path();
    wait_until(
        SOON,
        || a.ask(&["members"]).contains(&code),
        || a.ask(&["members"]),
    );
    a.ask(&["admit", &code]);
    starting.ready().wait_for("f", "1");
    let said = std::fs::read_to_string(log).expect("a log");
    assert_eq!(shown(&said), 2, "once more: {said}");
}

#[test]
fn a_forgotten_node_gets_nothing() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(3);
    let c = nodes.pop().expect("three");
    nodes[0].write("before", "1");
    c.wait_for("before", "1");
    // It keeps a ticket that it issued itself.
    let hers = c.invite(2);
    nodes[0].ask(&["forget", &c.id]);
    for n in &nodes {
        wait_until(
            SOON,
            || {
                !n.ask(&["members", "--json"])
                    .contains(&format!("{}\",\n    \"state\": \"member", c.id))
                    && n.status()
                        .peers
                        .iter()
                        .all(|p| p.node != c.id || p.state != "connected")
            },
            || format!("{} still talks to it: {:?}", n.name(), n.status().peers),
        );
    }
    nodes[0].write("after", "2");
    nodes[1].wait_for("after", "2");
    let setup = c.kill();
    // It kept its key and comes back.
    if let Ok(back) = setup.begin().try_ready() {
        std::thread::sleep(Duration::from_secs(3));
        assert!(!back.at("after").exists(), "it got what was written later");
        back.write("hers", "3");
        std::thread::sleep(Duration::from_secs(2));
        for n in &nodes {
            assert!(!n.at("hers").exists(), "{} took what it wrote", n.name());
        }
        // Whom it lets in is let in nowhere else.
        if let Ok(late) = lab.node("late").join(&hers).begin().try_ready() {
            std::thread::sleep(Duration::from_secs(2));
            assert!(!late.at("after").exists());
            late.write("late", "4");
            std::thread::sleep(Duration::from_secs(2));
            for n in &nodes {
                assert!(!n.at("late").exists());
                let known = n.status().peers.iter().any(|p| p.node == late.id);
                assert!(!known, "{} knows whom a forgotten node let in", n.name());
            }
        }
    }
    let said = nodes[1].ask(&["members"]);
    assert!(said.contains("forgotten"), "{said}");
}

#[test]
fn a_ticket_is_good_once_on_both_sides_of_a_cut() {
    if !super::net::namespaces() {
        return;
    }
    let lab = Lab::new();
    let net = super::net::Net::bridge(4);
    let first = net.node(&lab, 1).start();
    let second = net.node(&lab, 2).join(&first.invite(1)).start();
    let ticket = first.invite(1);
    // 1 and 3 here, 2 and 4 there: only the issuer, which is 1, may redeem it.
    net.only(|a, b| a % 2 == b % 2);
    let third = net.node(&lab, 3).join(&ticket).start();
    let fourth = net.node(&lab, 4).join(&ticket).serve().begin();
    assert!(fourth.try_ready().is_err(), "redeemed on both sides");
    net.heal();
    first.write("f", "f");
    second.wait_for("f", "f");
    third.wait_for("f", "f");
    let fourth = net.node(&lab, 4).join(&ticket).serve().begin();
    assert!(fourth.try_ready().is_err(), "redeemed twice");
}

#[test]
fn garbage_at_the_port() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let nodes = lab.cell(2);
    let [a, b] = &nodes[..] else { panic!("two") };
    a.write("f", "1");
    b.wait_for("f", "1");
    let listen = a.status().listen;
    // The first garbage fills what is allocated once.
    garbage(&listen, 2_000, 200);
    std::thread::sleep(Duration::from_secs(1));
    let before = a.memory_mib().0;
    garbage(&listen, 10_000, 1_000);
    std::thread::sleep(Duration::from_secs(1));
    let after = a.memory_mib().0;
    eprintln!("garbage: {before} MiB before, {after} MiB after");
    assert!(after <= before + 10, "{before} MiB before, {after} after");
    a.write("f", "2");
    b.wait_for("f", "2");
    assert_eq!(a.status().peers.len(), 1);
    assert!(!a.log().contains("panicked"), "{}", a.log());
    let lines = a.log().lines().count();
    assert!(lines < 100, "garbage fills the log: {lines} lines");
}

fn garbage(listen: &str, datagrams: usize, connections: usize) {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
    udp.connect(listen).expect("connected");
    let mut bytes = vec![0; 1400];
    for i in 0..datagrams {
        getrandom::fill(&mut bytes).expect("randomness");
        // Some look like the long header of QUIC version 1, a first packet.
        if i % 3 == 0 {
            bytes[..6].copy_from_slice(&[0xc3, 0, 0, 0, 1, 8]);
        }
        let _ = udp.send(&bytes[..1 + i % 1400]);
    }
    for i in 0..connections {
        let Ok(mut tcp) = TcpStream::connect(listen) else {
            continue;
        };
        let _ = tcp.set_read_timeout(Some(Duration::from_millis(5)));
        if i % 3 == 0 {
            let _ = tcp.write_all(b"GET /cell.git/info/refs?service=git-upload-pack HTTP/1.1\r\n");
        }
        let _ = tcp.write_all(&bytes);
        if i % 5 == 0 {
            let _ = tcp.read(&mut [0; 100]);
        }
    }
}
