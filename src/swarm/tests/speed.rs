//! How long it takes, and how much is sent for it.

use super::*;

/// What a link of 25 MB/s sends in a millisecond.
const RATE: u64 = 25_000;
/// About a GiB.
const GIB: usize = 3_276;

fn takes(holders: usize, latency: u64) -> u64 {
    let (mut w, n) = one_who_wants(holders, GIB, RATE, latency);
    w.begin();
    assert!(w.run(1000 * SECOND), "it never came");
    let seen = &w.nodes[n].seen;
    assert_eq!((seen.twice, seen.lies, seen.lost), (0, 0, 0));
    // A cancelled piece may have begun.
    let wasted = seen.received - w.total(0);
    assert!(
        wasted <= seen.cancels * u64::from(PIECE_MAX),
        "{wasted} wasted"
    );
    assert!(
        seen.cancels <= 8,
        "{} taken from slower peers",
        seen.cancels
    );
    w.now
}

#[test]
fn four_holders_give_a_file_more_than_three_times_as_fast_as_one() {
    for latency in [MS / 2, 20 * MS, 75 * MS] {
        let (one, four) = (takes(1, latency), takes(4, latency));
        let times = one * 100 / four;
        assert!(times >= 320, "{times} % at {latency} us: {one} and {four}");
    }
}

#[test]
fn a_long_fat_link_is_filled() {
    for latency in [MS / 2, 10 * MS, 50 * MS, 100 * MS] {
        let (mut w, n) = one_who_wants(1, GIB, RATE, latency);
        w.begin();
        assert!(w.run(1000 * SECOND));
        let least = w.total(0) / RATE * MS;
        let share = least * 100 / w.now;
        assert!(share >= 90, "{share} % of the link at {latency} us");
        // Not more than is of use: what readers wait for has to pass it.
        let on_the_way = RATE * 2 * latency.max(10 * MS) / MS;
        let window = w.nodes[n].seen.window_max;
        assert!(
            window <= 4 * on_the_way + 3 * MB,
            "{window} for {on_the_way}"
        );
    }
}

#[test]
fn a_peer_that_answers_late_is_asked_for_more_at_a_time() {
    // Half a second from a request to its answer, of which questions know nothing.
    let (mut w, n) = one_who_wants(1, GIB / 4, RATE, MS / 2);
    w.nodes[0].thinks = 500 * MS;
    w.begin();
    assert!(w.run(1000 * SECOND));
    let least = w.total(0) / RATE * MS;
    let window = w.nodes[n].seen.window_max;
    assert!(
        w.now < 3 * least,
        "{} of {least}, {window} at a time",
        w.now
    );
}

#[test]
fn a_slow_peer_holds_nobody_up() {
    let (mut w, n) = one_who_wants(3, 600, RATE, 5 * MS);
    w.nodes[0].up = 100;
    w.begin();
    assert!(w.run(1000 * SECOND));
    let least = w.total(0) / (2 * RATE) * MS;
    assert!(w.now < least * 5 / 4 + SECOND, "{} of {least}", w.now);
    assert_eq!(w.nodes[n].seen.twice, 0);
}

#[test]
fn what_a_reader_waits_for_passes_what_is_kept() {
    let latency = 20 * MS;
    let (mut w, n) = one_who_wants(2, GIB, RATE, latency);
    for k in 0..40 {
        let at = SECOND + k * 150 * MS;
        let piece = u32::try_from(w.chance.below(GIB as u64 - 2)).unwrap();
        w.need_at(at, n, 0, (piece, piece + 2), 0);
    }
    w.begin();
    assert!(w.run(1000 * SECOND));
    let mut waited = w.nodes[n].seen.waited.clone();
    waited.sort_unstable();
    assert_eq!(waited.len(), 40);
    // A round trip is 40 ms, two pieces take up to 42 ms.
    let (half, most) = (waited[20], waited[39]);
    assert!(
        half <= 3 * 2 * latency,
        "{half} us in the middle: {waited:?}"
    );
    assert!(most <= 6 * 2 * latency, "{most} us at most: {waited:?}");
}

#[test]
fn a_reader_of_all_of_a_file_gets_it_from_all_in_order() {
    let (mut w, n) = one_who_wants(4, 400, RATE, 5 * MS);
    w.nodes[n].wants.clear();
    w.begin();
    w.reads_only(n, 0);
    let mut at = 0;
    for part in 0..40 {
        w.need_at(part * 300 * MS, n, 0, (at, at + 10), 20);
        at += 10;
    }
    w.run(60 * SECOND);
    let seen = &w.nodes[n].seen;
    assert_eq!(seen.waited.len(), 40);
    assert!(w.has_all(n, 0));
    // What was read ahead was there when it was wanted.
    let at_once = seen.waited.iter().filter(|t| **t <= MS).count();
    assert!(at_once >= 36, "{at_once} of 40 at once: {:?}", seen.waited);
}

#[test]
fn those_who_want_the_same_give_it_to_one_another() {
    let mut w = World::new(11, 10 * MS);
    let lens = usual(&mut w, 400);
    let file = w.file(lens);
    let n = w.node(10_000, 1_000_000);
    w.gives_all(n, file);
    for _ in 0..5 {
        let n = w.node(10_000, 1_000_000);
        w.nodes[n].wants.insert(file);
    }
    w.begin();
    assert!(w.run(1000 * SECOND));
    let from_first = w.nodes[0].seen.sent * 10 / w.total(file);
    assert!(
        from_first <= 25,
        "the first sent it {from_first} tenths of times"
    );
}

#[test]
fn the_rarest_goes_first() {
    let mut w = World::new(3, 10 * MS);
    let file = w.file(vec![256 << 10; 256]);
    let rare = [17, 99, 200];
    let first = w.node(1_000, 1_000_000);
    w.gives_all(first, file);
    for _ in 0..3 {
        let n = w.node(1_000, 1_000_000);
        let mut most = crate::swarm::pieces::Pieces::all(256);
        for r in rare {
            most.remove(r);
        }
        w.gives(n, file, most);
    }
    let n = w.node(1_000, 1_000_000);
    w.nodes[n].wants.insert(file);
    w.begin();
    // A few pieces are asked for before all have said what they hold.
    w.run(5 * SECOND);
    let here = &w.nodes[n].store[&file];
    assert!(here.count() < 100, "{} are here", here.count());
    assert!(rare.iter().all(|r| here.has(*r)), "the rarest are not");
}
