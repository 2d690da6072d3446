//! Far apart: 300 ms there and back, one frame in ten lost.

use std::time::{Duration, Instant};

use super::net::{Net, cell, namespaces};
use super::switch::{Link, Switch};
use crate::harness::tree::assert_same;
use crate::harness::{Lab, Node, agree};

#[test]
fn slow_and_lossy_links() {
    if !namespaces() {
        return;
    }
    let lab = Lab::new();
    let net = Net::bare(3, false);
    let link = Link {
        delay: Duration::from_millis(150),
        loss: 100,
    };
    let switch = Switch::start(&net, 3, link);
    let nodes = cell(&net, &lab);
    let all: Vec<&Node> = nodes.iter().collect();
    let patience = Duration::from_secs(90);
    all[0].write("f", "start");
    let took = agree_files(&all, "f", "start", patience);
    eprintln!("300 ms and 10 % loss: one file on three nodes after {took:.1?}");
    for i in 0..10 {
        let begin = Instant::now();
        let text = format!("edit {i}");
        all[i % 3].write("f", &text);
        agree_files(&all, "f", &text, patience);
        eprintln!("edit {i}: {:.1?}", begin.elapsed());
    }
    for (n, node) in all.iter().enumerate() {
        for i in 0..50 {
            node.write(&format!("n{n}-{i}"), vec![b'x'; i * 100]);
        }
    }
    let took = agree(&all, "cell", patience);
    eprintln!("150 files written on three nodes at once: {took:.1?}");
    for n in &all[1..] {
        assert_same(all[0].dir(), n.dir());
    }
    drop(nodes);
    drop(switch);
}

fn agree_files(all: &[&Node], path: &str, text: &str, within: Duration) -> Duration {
    crate::harness::wait_until(
        within,
        || all.iter().all(|n| n.has(path, text)),
        || format!("{path} is not {text} everywhere"),
    )
}
