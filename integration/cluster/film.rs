//! A film that is elsewhere, over 50 ms there and back: looked into here and there, and watched.
//! How long that takes is printed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::net::{Net, namespaces};
use super::switch::{Link, Switch};
use crate::harness::{Lab, rounds, wait_until};
use crate::lfs_door::client::noise;

const MIB: usize = 1 << 20;
/// What a player asks for first.
const FIRST_BYTES: usize = 16 << 10;
/// What it reads at a time as it goes on, and how much in a second.
const STEP_BYTES: usize = 128 << 10;
const BYTES_A_SECOND: usize = 4_000_000;

fn ms(all: &[Duration]) -> String {
    let mut all = all.to_vec();
    all.sort_unstable();
    let at = |percent: usize| {
        let n = (all.len() * percent / 100).min(all.len().saturating_sub(1));
        all.get(n).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
    };
    format!(
        "median {:.0} ms, 90 % {:.0}, longest {:.0}",
        at(50),
        at(90),
        at(100)
    )
}

#[test]
fn a_film_that_is_elsewhere_is_watched() {
    if !namespaces() {
        return;
    }
    let seeks = rounds("CELLFS_TEST_SEEKS", 4);
    let watched = rounds("CELLFS_TEST_FILM_S", 2) * BYTES_A_SECOND;
    let lab = Lab::new();
    let net = Net::bare(2, false);
    let link = Link {
        delay: Duration::from_millis(25),
        loss: 0,
    };
    let switch = Switch::start(&net, 2, link);
    let a = net.node(&lab, 1).start();
    let b = net.node(&lab, 2).join(&a.invite(1));
    let b = b.words(["--keep", "pinned"]).start();
    // Looked into in its first half, watched in the second, so that nothing was read before.
    let half = (watched + 8 * MIB).max(seeks * 4 * MIB);
    let bytes = noise(2 * half);
    a.write("film", &bytes);
    let len = bytes.len() as u64;
    let is_there = || fs::metadata(b.at("film")).is_ok_and(|m| m.len() == len);
    wait_until(Duration::from_secs(60), is_there, || "the film".to_owned());
    let file = File::open(b.at("film")).expect("opened");
    let mut took = Vec::new();
    let mut first = vec![0; FIRST_BYTES];
    // In no order, and each in a stretch of its own.
    for n in 0..seeks {
        let stretch = n * 7 % seeks;
        let chance = u32::from_le_bytes(noise(4).try_into().expect("4 bytes")) as usize;
        let at = half / seeks * stretch + chance % (half / seeks - 2 * FIRST_BYTES);
        let begin = Instant::now();
        file.read_exact_at(&mut first[..1], at as u64)
            .expect("read");
        took.push(begin.elapsed());
        file.read_exact_at(&mut first, at as u64).expect("read");
        assert!(first == bytes[at..][..FIRST_BYTES], "at {at}");
        // The player goes on for a moment.
        std::thread::sleep(Duration::from_millis(200));
    }
    eprintln!(
        "50 ms there and back, {len} bytes: the first byte of all {:.0?}",
        took[0]
    );
    eprintln!("{seeks} places, until the first byte: {}", ms(&took));
    let mut steps = Vec::new();
    let mut step = vec![0; STEP_BYTES];
    // A player that has waited goes on from there.
    let (begin, mut late) = (Instant::now(), Duration::ZERO);
    for at in (0..watched).step_by(STEP_BYTES) {
        let due = Duration::from_secs_f64(at as f64 / BYTES_A_SECOND as f64) + late;
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
        let before = Instant::now();
        let place = half + at;
        file.read_exact_at(&mut step, place as u64).expect("read");
        steps.push(before.elapsed());
        let next = due + Duration::from_secs_f64(STEP_BYTES as f64 / BYTES_A_SECOND as f64);
        late += begin.elapsed().saturating_sub(next);
        assert!(step == bytes[place..][..STEP_BYTES], "at {place}");
    }
    let stalls = steps[1..]
        .iter()
        .filter(|s| **s > Duration::from_millis(33));
    eprintln!(
        "watched at 4 MB/s: the first step {:.0?}, later ones {}; {} of {} longer than 33 ms; late by {late:.0?}",
        steps[0],
        ms(&steps[1..]),
        stalls.count(),
        steps.len(),
    );
    // Another film, over a connection that has done much: who has it is to be asked first.
    let other = noise(24 * MIB);
    a.write("other", &other);
    let len = other.len() as u64;
    let is_there = || fs::metadata(b.at("other")).is_ok_and(|m| m.len() == len);
    wait_until(Duration::from_secs(60), is_there, || {
        "the other film".to_owned()
    });
    let file = File::open(b.at("other")).expect("opened");
    let begin = Instant::now();
    file.read_exact_at(&mut first, 11 * MIB as u64)
        .expect("read");
    eprintln!("another film: its first bytes {:.0?}", begin.elapsed());
    assert!(first == other[11 * MIB..][..FIRST_BYTES]);
    drop((a, b));
    drop(switch);
}
