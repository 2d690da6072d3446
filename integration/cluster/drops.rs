//! Two nodes with the only two copies of a file let go of it at once, while the network is cut.

use std::time::Duration;

use super::net::{Net, cell, namespaces};
use crate::harness::copies::{
    keepers, noise, say, told, wait_for_copy, wait_for_file, wait_for_same,
};
use crate::harness::edits::Rng;
use crate::harness::{Lab, rounds};

#[test]
fn two_that_drop_at_once_while_they_are_cut_off_leave_one_copy() {
    if !namespaces() {
        return;
    }
    let rounds = rounds("CELLFS_TEST_DROPS", 3);
    let net = Net::bridge(2);
    let lab = Lab::with_patience(Duration::from_secs(300 + 120 * rounds as u64));
    let nodes: [_; 2] = cell(&net, &lab).try_into().expect("two");
    let mut rng = Rng(u64::from(getrandom::u32().expect("randomness")));
    let mut outcomes = [0; 2];
    for round in 0..rounds {
        let name = format!("f{round}");
        let bytes = noise(5 << 20);
        nodes[round % 2].write(&name, &bytes);
        for n in &nodes {
            wait_for_file(n, &name, bytes.len());
        }
        for n in [0, 1] {
            wait_for_copy(&nodes[1 - n], &name, &nodes[n], true);
        }
        let pauses = [0, 1, 2, 3].map(|_| Duration::from_millis(rng.below(400) as u64));
        let how = rng.below(4);
        let went: Vec<bool> = std::thread::scope(|s| {
            let drops = [0, 1].map(|n| {
                let (node, name, pause) = (&nodes[n], name.as_str(), pauses[n]);
                s.spawn(move || {
                    std::thread::sleep(pause);
                    say(node, "drop", name).is_ok()
                })
            });
            std::thread::sleep(pauses[2]);
            match how {
                0 => {}
                1 => net.only(|_, _| false),
                deaf => net.only(|me, _| me + 1 != deaf),
            }
            std::thread::sleep(pauses[3] * 4);
            net.heal();
            drops.map(|d| d.join().expect("no panic")).to_vec()
        });
        let went = went.iter().filter(|w| **w).count();
        assert!(went < 2, "both went in round {round}");
        outcomes[went] += 1;
        let keepers = || keepers(&nodes, &name, bytes.len());
        assert!(keepers() >= 1, "{:?}", told(&nodes[0], &name));
        wait_for_same(&nodes, &name, &bytes);
        assert!(keepers() >= 1, "later");
    }
    eprintln!(
        "{rounds} rounds: none went {}, one {}",
        outcomes[0], outcomes[1]
    );
}
