//! Network namespaces on one bridge, and cuts between them.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{self, run};

/// Whether to run tests that need namespaces. Fails when they cannot be made and nobody said so.
pub(super) fn namespaces() -> bool {
    if !harness::fuse() {
        return false;
    }
    if std::env::var_os("CELLFS_NO_NETNS").is_some_and(|v| v == "1") {
        eprintln!("skipped: CELLFS_NO_NETNS=1");
        return false;
    }
    for (program, word) in [("ip", "-V"), ("nft", "-v"), ("nsenter", "-V")] {
        let there = Command::new(program).arg(word).output().is_ok();
        assert!(
            there,
            "{program} is not installed (iproute2, nftables, util-linux); CELLFS_NO_NETNS=1 skips"
        );
    }
    assert!(
        rustix::process::geteuid().is_root(),
        "network namespaces need root; CELLFS_NO_NETNS=1 skips"
    );
    true
}

fn sh(script: &str) {
    run(Command::new("sh").args(["-ec", script]));
}

/// Namespaces, each with one interface `eth0` that has an address `10.79.N.I/24`.
#[derive(Debug)]
pub(super) struct Net {
    prefix: String,
    number: u8,
    count: usize,
    bridged: bool,
}

fn numbered() -> (String, u8) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let number = u8::try_from((pid.wrapping_mul(7) + n) % 250 + 1).expect("small");
    (format!("cf{}n{n}", pid % 100_000), number)
}

impl Net {
    /// Namespaces that all see one another through a bridge, in a namespace of its own.
    pub(super) fn bridge(count: usize) -> Self {
        let net = Self::bare(count, true);
        let p = &net.prefix;
        sh(&format!(
            "ip netns add {p}b
             ip -n {p}b link add br0 type bridge
             ip -n {p}b link set br0 up"
        ));
        for i in 1..=count {
            sh(&format!(
                "ip -n {p}b link add p{i} type veth peer name eth0 netns {p}i{i}
                 ip -n {p}b link set p{i} master br0
                 ip -n {p}b link set p{i} up"
            ));
            net.address(i);
        }
        net
    }

    /// Namespaces with a TAP device each, for a switch of ours.
    pub(super) fn bare(count: usize, bridged: bool) -> Self {
        let (prefix, number) = numbered();
        for i in 1..=count {
            sh(&format!(
                "ip netns add {prefix}i{i}; ip -n {prefix}i{i} link set lo up"
            ));
        }
        Self {
            prefix,
            number,
            count,
            bridged,
        }
    }

    /// Gives `eth0` of a namespace its address.
    pub(super) fn address(&self, i: usize) {
        let (ns, ip) = (self.name(i), self.ip(i));
        sh(&format!(
            "ip -n {ns} addr add {ip}/24 dev eth0; ip -n {ns} link set eth0 up"
        ));
    }

    pub(super) fn name(&self, i: usize) -> String {
        format!("{}i{i}", self.prefix)
    }

    pub(super) fn ip(&self, i: usize) -> String {
        format!("10.79.{}.{i}", self.number)
    }

    /// What runs a program in a namespace's network; its mounts stay everybody's.
    pub(super) fn inside(&self, i: usize) -> [OsString; 2] {
        let path = Path::new("/run/netns").join(self.name(i));
        ["nsenter".into(), format!("--net={}", path.display()).into()]
    }

    /// A node in a namespace.
    pub(super) fn node(&self, lab: &harness::Lab, i: usize) -> harness::Setup {
        lab.node(&format!("n{i}"))
            .listen(&format!("{}:3838", self.ip(i)))
            .under(self.inside(i))
    }

    /// Each namespace hears only those for which `hears(me, other)`.
    pub(super) fn only(&self, hears: impl Fn(usize, usize) -> bool) {
        for i in 1..=self.count {
            let ns = self.name(i);
            let dropped: Vec<String> = (1..=self.count)
                .filter(|o| *o != i && !hears(i, *o))
                .map(|o| self.ip(o))
                .collect();
            let mut script = format!(
                "ip netns exec {ns} nft 'add table inet cut; flush table inet cut; \
                 add chain inet cut in {{ type filter hook input priority 0; }}"
            );
            if !dropped.is_empty() {
                let set = dropped.join(", ");
                script.push_str(&format!(
                    "; add rule inet cut in ip saddr {{ {set} }} counter drop"
                ));
            }
            script.push('\'');
            sh(&script);
        }
    }

    /// Takes all cuts away.
    pub(super) fn heal(&self) {
        for i in 1..=self.count {
            sh(&format!("ip netns exec {} nft flush ruleset", self.name(i)));
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let all = (1..=self.count).map(|i| self.name(i));
        let bridge = self.bridged.then(|| format!("{}b", self.prefix));
        for ns in all.chain(bridge) {
            let _ = Command::new("ip").args(["netns", "del", &ns]).output();
        }
    }
}

/// Several nodes of one cell, one in each namespace.
pub(super) fn cell(net: &Net, lab: &harness::Lab) -> Vec<harness::Node> {
    cell_with(net, lab, &[])
}

/// As [`cell`], with more words for each command line.
pub(super) fn cell_with(net: &Net, lab: &harness::Lab, words: &[&str]) -> Vec<harness::Node> {
    let first = net.node(lab, 1).words(words.iter().copied()).start();
    let ticket = first.invite(net.count);
    let mut nodes = vec![first];
    let joining: Vec<_> = (2..=net.count)
        .map(|i| net.node(lab, i).words(words.iter().copied()))
        .map(|setup| setup.join(&ticket).begin())
        .collect();
    nodes.extend(joining.into_iter().map(harness::Starting::ready));
    nodes
}
