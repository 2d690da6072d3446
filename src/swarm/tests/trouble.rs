//! Peers that fail, lie, boast, are silent; disks that fail; bounds.

use super::world::{Manner, id};
use super::*;
use crate::swarm::pieces::{Holding, Pieces};
use crate::swarm::{ASK_FILES_MAX, Input, Output, READERS_MAX, Swarm, Why};

const RATE: u64 = 10_000;

#[test]
fn a_liar_is_found_out_at_once_and_its_pieces_come_from_others() {
    let (mut w, n) = one_who_wants(3, 200, RATE, 5 * MS);
    w.nodes[0].manner = Manner::Lies(1);
    w.begin();
    assert!(w.run(100 * SECOND));
    let seen = &w.nodes[n].seen;
    // It is asked again after a while, in case it was its memory.
    assert!((1..=3).contains(&seen.lies), "{} lies", seen.lies);
    assert!(
        w.now < w.total(0) / (2 * RATE) * MS * 3 / 2 + SECOND,
        "{}",
        w.now
    );
}

#[test]
fn a_peer_that_boasts_is_not_asked_for_ever() {
    let (mut w, n) = one_who_wants(2, 200, 2_000, 5 * MS);
    w.nodes[0].manner = Manner::Boasts;
    w.nodes[0].store.clear();
    w.begin();
    assert!(w.run(100 * SECOND));
    let seen = &w.nodes[n].seen;
    assert!(seen.asks < 200 * 3, "{} asks for 200 pieces", seen.asks);
    assert!(
        w.now < w.total(0) / 2_000 * MS * 5 / 4 + SECOND,
        "{}",
        w.now
    );
}

#[test]
fn a_peer_that_falls_silent_keeps_nothing() {
    let (mut w, n) = one_who_wants(3, 400, RATE, 5 * MS);
    w.nodes[0].manner = Manner::Silent(SECOND);
    w.begin();
    assert!(w.run(100 * SECOND));
    let least = w.total(0) / (2 * RATE) * MS;
    assert!(w.now < least * 3 / 2 + 10 * SECOND, "{} of {least}", w.now);
    assert_eq!(w.nodes[n].seen.twice, 0);
}

#[test]
fn a_reader_does_not_wait_for_a_peer_that_fell_silent() {
    let (mut w, n) = one_who_wants(2, 400, RATE, 5 * MS);
    w.nodes[0].manner = Manner::Silent(SECOND);
    for k in 0..10 {
        let piece = 5 + u32::try_from(k).unwrap() * 30;
        w.need_at(1100 * MS + k * 400 * MS, n, 0, (piece, piece + 1), 0);
    }
    w.begin();
    assert!(w.run(100 * SECOND));
    let waited = &w.nodes[n].seen.waited;
    assert_eq!(waited.len(), 10);
    let most = waited.iter().max().copied().unwrap_or(0);
    assert!(most < SECOND, "{most} us: {waited:?}");
}

#[test]
fn after_a_cut_or_a_crash_only_what_was_on_the_way_is_sent_again() {
    let (mut w, n) = one_who_wants(4, 400, RATE, 5 * MS);
    for k in 0..20 {
        w.cut_at(SECOND / 3 + k * 100 * MS, n, (k % 4) as usize);
        w.link_at(SECOND / 3 + k * 100 * MS + 70 * MS, n, (k % 4) as usize);
    }
    w.crash_at(2600 * MS, n);
    w.start_at(2800 * MS, n);
    for p in 0..4 {
        w.link_at(2900 * MS, n, p);
    }
    w.begin();
    assert!(w.run(100 * SECOND));
    let seen = &w.nodes[n].seen;
    assert_eq!(seen.twice, 0);
    let again = seen.received - w.total(0) - seen.lost;
    let most = (seen.cuts + seen.cancels) * u64::from(PIECE_MAX);
    assert!(
        again <= most,
        "{again} sent again, {} cuts, {} cancels",
        seen.cuts,
        seen.cancels
    );
    assert!(seen.cancels <= 8, "{} cancels", seen.cancels);
}

#[test]
fn a_disk_that_takes_nothing_for_a_while_stops_only_itself() {
    let (mut w, n) = one_who_wants(2, 100, RATE, 5 * MS);
    w.nodes[n].disk_fails = 10;
    w.begin();
    assert!(w.run(200 * SECOND));
    assert!(w.nodes[n].seen.disk_faults > 0);
}

#[test]
fn who_can_be_asked_for_nothing_is_told_why_once() {
    let (mut w, n) = one_who_wants(2, 100, RATE, 5 * MS);
    for h in 0..2 {
        let mut some = Pieces::all(100);
        some.remove(42);
        w.gives(h, 0, some);
    }
    w.begin();
    assert!(!w.run(60 * SECOND));
    w.cut_at(w.now + 1, n, 0);
    w.cut_at(w.now + 1, n, 1);
    w.run(90 * SECOND);
    let whys: Vec<Why> = w.nodes[n].seen.stuck.iter().map(|s| s.2).collect();
    assert_eq!(whys, [Why::NobodyHolds]);
    assert_eq!(
        w.nodes[n].swarm.progress(0, 90_000).unwrap().stuck,
        Some(Why::NoPeer)
    );
    // Somebody comes who has it.
    w.gives_all(0, 0);
    w.link_at(w.now + 1, n, 0);
    assert!(w.run(120 * SECOND));
}

#[test]
fn what_is_kept_in_mind_and_asked_is_bounded() {
    let mut s = Swarm::new(1);
    let lens: std::sync::Arc<[u32]> = vec![100_000; 64].into();
    for file in 0..300 {
        let (lens, lacking) = (lens.clone(), Pieces::all(64));
        s.handle(
            Input::Open {
                file,
                lens,
                lacking,
                keep: true,
            },
            0,
        );
    }
    let mut asked = 0;
    let mut question = |out: Vec<Output>| {
        for o in out {
            match o {
                Output::AskHolds { files, .. } => assert!(files.len() <= ASK_FILES_MAX),
                Output::Ask { .. } => asked += 1,
                _ => {}
            }
        }
    };
    for peer in 0..20 {
        question(s.handle(Input::Up(id(peer)), 1));
        for file in 0..64 {
            let what = Holding::Whole;
            question(s.handle(
                Input::Holds {
                    peer: id(peer),
                    file,
                    what,
                },
                2,
            ));
        }
    }
    for reader in 0..READERS_MAX as u64 + 20 {
        let (pieces, ahead) = (0..64, 0..0);
        let need = Input::Need {
            reader,
            file: reader % 64,
            pieces,
            ahead,
            deadline: 9,
        };
        question(s.handle(need, 3));
    }
    let most = crate::swarm::UNDER_WAY_BYTES_MAX + crate::swarm::URGENT_BYTES_MAX;
    assert!(s.under_way() <= most && asked > 0);
    // All of it is forgotten with its files.
    for file in 0..300 {
        s.handle(Input::Drop(file), 4);
    }
    assert_eq!(s.under_way(), 0);
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "that is what is strange")]
fn strange_inputs_do_no_harm() {
    let mut s = Swarm::new(1);
    let (peer, file) = (id(1), 5);
    for input in [
        Input::Came {
            peer,
            file,
            piece: 9,
            bytes: 1,
        },
        Input::Holds {
            peer,
            file,
            what: Holding::Whole,
        },
        Input::Down(peer),
        Input::Up(peer),
        Input::Up(peer),
        Input::Open {
            file,
            lens: vec![1; 3].into(),
            lacking: Pieces::all(4),
            keep: true,
        },
        Input::Open {
            file,
            lens: vec![1; 3].into(),
            lacking: Pieces::all(3),
            keep: true,
        },
        Input::Holds {
            peer,
            file,
            what: Holding::Some(Pieces::all(70)),
        },
        Input::Came {
            peer,
            file,
            piece: u32::MAX,
            bytes: u32::MAX,
        },
        Input::Here { file, piece: 3 },
        Input::Need {
            reader: 1,
            file,
            pieces: 7..2,
            ahead: 9..u32::MAX,
            deadline: 0,
        },
        Input::Need {
            reader: 2,
            file,
            pieces: 0..u32::MAX,
            ahead: 9..1,
            deadline: 0,
        },
        Input::Silent {
            peer,
            files: vec![1, 5],
        },
        Input::Unneed(77),
        Input::Drop(4),
        Input::Tick,
    ] {
        s.handle(input, 1000);
    }
    let all = s.handle(
        Input::Holds {
            peer,
            file,
            what: Holding::Whole,
        },
        1001,
    );
    assert_eq!(
        all.iter()
            .filter(|o| matches!(o, Output::Ask { .. }))
            .count(),
        3
    );
}

#[test]
fn what_came_is_counted_as_it_came_and_what_is_left_as_it_is() {
    let mut s = Swarm::new(1);
    let (peer, file) = (id(1), 5);
    let lens = vec![300_000; 3].into();
    let lacking = Pieces::all(3);
    s.handle(Input::Up(peer), 0);
    s.handle(
        Input::Open {
            file,
            lens,
            lacking,
            keep: true,
        },
        0,
    );
    let what = Holding::Whole;
    let out = s.handle(Input::Holds { peer, file, what }, 10);
    let asked = out.iter().find_map(|o| match o {
        Output::Ask { piece, .. } => Some(*piece),
        _ => None,
    });
    let piece = asked.unwrap();
    let under_way = s.under_way();
    let bytes = 4120;
    let came = Input::Came {
        peer,
        file,
        piece,
        bytes,
    };
    s.handle(came, 2000);
    let p = s.progress(file, 2000).unwrap();
    assert_eq!((p.total, p.left), (900_000, 600_000));
    assert_eq!(p.from, [(peer, 4120)]);
    assert_eq!(s.paces(2000)[0].bytes, 4120);
    // Rates and windows are of pieces.
    assert_eq!(p.rate, 150_000);
    assert!(under_way.is_multiple_of(300_000) && s.under_way().is_multiple_of(300_000));
}
