//! One reader who wants a large file that another node has: through the folder, by its id, and as
//! a file that is kept.

use std::fs::File;
use std::io::Read;

use cellfs::control::wire::{Holder, Whereabouts};

use super::*;

const MIB: usize = 1 << 20;

fn noise(path: &Path, mib: usize) {
    use std::io::Write as _;
    let mut file = File::create(path).expect("made");
    let mut part = vec![0; MIB];
    for _ in 0..mib {
        getrandom::fill(&mut part).expect("noise");
        file.write_all(&part).expect("written");
    }
    file.sync_all().expect("synced");
}

fn wait(what: &str, is: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(600);
    while !is() {
        assert!(Instant::now() < end, "{what}: it did not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
#[ignore = "takes minutes: packaging/bench.sh"]
fn a_large_file_for_one_reader() {
    let lab = Lab::with_patience(Duration::from_secs(1800));
    let mib = rounds("CELLFS_BENCH_FILE_MIB", 1024);
    let len = (mib * MIB) as u64;
    let a = lab.first("a");
    let b = lab.node("b").join(&a.invite(1));
    let b = b.words(["--keep", "pinned"]).start();
    let (from, to) = (lab.path("from"), lab.path("to"));
    println!("one file of {mib} MiB without repetition, which the other node has");
    println!(
        "{:<34}{:>8}{:>10}{:>8}{:>9}",
        "", "s", "MB/s", "CPU s", "RSS MiB"
    );
    let measure = |what: &str, work: &dyn Fn()| {
        let cpu = || a.cpu() + b.cpu();
        let (begin, before) = (Instant::now(), cpu());
        work();
        let took = begin.elapsed().as_secs_f64();
        let memory = a.memory_mib().1.max(b.memory_mib().1);
        let rate = len as f64 / took / 1e6;
        let cpu = cpu() - before;
        println!("{what:<34}{took:>8.1}{rate:>10.0}{cpu:>8.1}{memory:>9}");
    };
    let seen = |name: &str| {
        let there = || b.at(name).metadata().is_ok_and(|m| m.len() == len);
        wait(name, there);
    };
    noise(&from, mib);
    let id = a.ask(&["add", text(&from)]);
    measure("cellfs get of what was added", &|| {
        b.ask(&["get", &id, text(&to)]);
    });
    run(Command::new("cmp").args([&from, &to]));
    std::fs::remove_file(&to).expect("removed");
    measure("cellfs get of what is here", &|| {
        b.ask(&["get", &id, text(&to)]);
    });
    std::fs::remove_file(&to).expect("removed");
    noise(&from, mib);
    copy(&from, &a.at("shown"));
    seen("shown");
    let sum = run(Command::new("sha256sum").arg(&from));
    let sum = sum.split_whitespace().next().expect("a sum").to_owned();
    measure("cellfs get of a file of the folder", &|| {
        b.ask(&["get", &sum, text(&to)]);
    });
    std::fs::remove_file(&to).expect("removed");
    noise(&from, mib);
    copy(&from, &a.at("read"));
    seen("read");
    measure("read through the folder", &|| {
        let mut file = File::open(b.at("read")).expect("opened");
        let mut part = vec![0; MIB];
        while file.read(&mut part).expect("read") > 0 {}
    });
    run(Command::new("cmp").args([&from, &b.at("read")]));
    noise(&from, mib);
    copy(&from, &a.at("kept"));
    seen("kept");
    measure("pinned, until all of it is here", &|| {
        b.ask(&["pin", text(&b.at("kept"))]);
        let is_kept = || {
            let told = b.ask(&["where", "--json", text(&b.at("kept"))]);
            let told: Whereabouts = serde_json::from_str(&told).expect("JSON");
            let mine = |h: &Holder| h.node == b.id && h.keeps && h.bytes == len;
            told.files.iter().any(|f| f.nodes.iter().any(mine))
        };
        wait("kept", is_kept);
    });
    run(Command::new("cmp").args([&from, &b.at("kept")]));
}
