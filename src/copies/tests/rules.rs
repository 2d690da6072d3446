//! Each rule by itself.

use std::collections::BTreeSet;

use crate::base::id::NodeId;
use crate::copies::{
    ATTEMPTS_MAX, CHECKS_MAX, Copies, INQUIRE_MS, INQUIRIES_MAX, Input, Output, PROMISES_MAX,
    Promises, Why,
};

type File = u32;
type Machine = Copies<File>;
type Out = Vec<Output<File>>;

const F: File = 7;
const UNTIL: u64 = 1000;

fn id(n: u32) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    NodeId(bytes)
}

fn new() -> Machine {
    Copies::new(Promises::new())
}

fn let_go(m: &mut Machine, file: File, attempt: u64, wanted: u32, peers: &[u32]) -> Out {
    let input = Input::LetGo {
        file,
        attempt,
        wanted,
        peers: peers.iter().map(|n| id(*n)).collect(),
        until: UNTIL,
    };
    m.handle(input, 0)
}

fn asked(m: &mut Machine, peer: u32, file: File, attempt: u64, now: u64) -> Out {
    let peer = id(peer);
    let input = Input::Asked {
        peer,
        file,
        attempt,
    };
    m.handle(input, now)
}

fn checked(m: &mut Machine, peer: u32, file: File, attempt: u64, sound: bool) -> Out {
    let peer = id(peer);
    let input = Input::Checked {
        peer,
        file,
        attempt,
        sound,
    };
    m.handle(input, 0)
}

fn answered(m: &mut Machine, peer: u32, attempt: u64, promised: bool, now: u64) -> Out {
    let input = Input::Answered {
        peer: id(peer),
        file: F,
        attempt,
        promised,
    };
    m.handle(input, now)
}

fn done(m: &mut Machine, file: File, attempt: u64) -> Out {
    m.handle(Input::Done { file, attempt }, 0)
}

fn released(m: &mut Machine, peer: u32, attempt: u64) -> Out {
    let input = Input::Released {
        peer: id(peer),
        file: F,
        attempt,
    };
    m.handle(input, 0)
}

fn is_on(m: &mut Machine, peer: u32, attempt: u64, on: bool) -> Out {
    let input = Input::IsOn {
        peer: id(peer),
        file: F,
        attempt,
        on,
    };
    m.handle(input, 0)
}

/// Asked, looked at, found sound, promised.
fn promises(m: &mut Machine, peer: u32, file: File, attempt: u64) {
    assert_eq!(
        asked(m, peer, file, attempt, 0),
        [check(peer, file, attempt)]
    );
    let out = checked(m, peer, file, attempt, true);
    assert_eq!(out, [Output::Note, answer(peer, file, attempt, true)]);
}

fn check(peer: u32, file: File, attempt: u64) -> Output<File> {
    Output::Check {
        peer: id(peer),
        file,
        attempt,
    }
}

fn answer(peer: u32, file: File, attempt: u64, promised: bool) -> Output<File> {
    Output::Answer {
        peer: id(peer),
        file,
        attempt,
        promised,
    }
}

fn ask(peer: u32, attempt: u64) -> Output<File> {
    Output::Ask {
        peer: id(peer),
        file: F,
        attempt,
    }
}

fn release(peer: u32, attempt: u64) -> Output<File> {
    Output::Release {
        peer: id(peer),
        file: F,
        attempt,
    }
}

fn inquire(peer: u32, attempt: u64) -> Output<File> {
    Output::Inquire {
        peer: id(peer),
        file: F,
        attempt,
    }
}

fn kept(attempt: u64, why: Why) -> Output<File> {
    Output::Kept {
        file: F,
        attempt,
        why,
    }
}

fn go(attempt: u64) -> Output<File> {
    Output::Go { file: F, attempt }
}

#[test]
fn a_copy_may_go_as_soon_as_so_many_promised_as_are_wanted() {
    let mut m = new();
    let out = let_go(&mut m, F, 1, 2, &[1, 2, 3]);
    assert_eq!(out, [ask(1, 1), ask(2, 1), ask(3, 1)]);
    assert!(m.is_on(&F) && !m.is_on(&8));
    assert_eq!(answered(&mut m, 1, 1, true, 0), []);
    // Who says it twice is one, and who was not asked is none.
    assert_eq!(answered(&mut m, 1, 1, true, 0), []);
    assert_eq!(answered(&mut m, 9, 1, true, 0), [release(9, 1)]);
    assert_eq!(answered(&mut m, 3, 1, true, 0), [go(1)]);
    assert_eq!(answered(&mut m, 2, 1, true, 0), [], "once");
    assert!(m.is_on(&F));
}

#[test]
fn at_least_one_other_is_wanted() {
    let mut m = new();
    assert_eq!(let_go(&mut m, F, 1, 0, &[]), [kept(1, Why::Under(0, 1))]);
    assert_eq!(let_go(&mut m, F, 2, 0, &[1]), [ask(1, 2)]);
    assert_eq!(answered(&mut m, 1, 2, true, 0), [go(2)]);
}

#[test]
fn a_peer_counts_once_however_often_it_is_named() {
    let mut m = new();
    let out = let_go(&mut m, F, 1, 2, &[1, 1, 1]);
    assert_eq!(out, [kept(1, Why::Under(0, 2))], "nobody is asked in vain");
    assert_eq!(let_go(&mut m, F, 2, 1, &[1, 1, 1]), [ask(1, 2)]);
}

#[test]
fn a_node_promises_nothing_to_itself() {
    // It does not know which it is, and need not.
    let mut m = new();
    assert_eq!(let_go(&mut m, F, 1, 1, &[0, 1]), [ask(0, 1), ask(1, 1)]);
    assert_eq!(asked(&mut m, 0, F, 1, 0), [answer(0, F, 1, false)]);
    assert_eq!(answered(&mut m, 0, 1, false, 0), []);
    let out = answered(&mut m, 1, 1, false, 0);
    assert_eq!(
        out,
        [kept(1, Why::Under(0, 1)), release(0, 1), release(1, 1)]
    );
}

#[test]
fn who_said_no_does_not_count_whatever_else_he_says() {
    let mut m = new();
    let_go(&mut m, F, 1, 1, &[1, 2]);
    answered(&mut m, 1, 1, false, 0);
    assert_eq!(answered(&mut m, 1, 1, true, 0), []);
    let mut m = new();
    let_go(&mut m, F, 1, 2, &[1, 2, 3]);
    answered(&mut m, 1, 1, true, 0);
    answered(&mut m, 1, 1, false, 0);
    assert_eq!(answered(&mut m, 2, 1, true, 0), []);
    assert_eq!(answered(&mut m, 3, 1, true, 0), [go(1)]);
}

#[test]
fn what_cannot_be_reached_any_more_is_over_and_all_who_were_asked_hear_it() {
    let mut m = new();
    let_go(&mut m, F, 1, 2, &[1, 2, 3]);
    answered(&mut m, 1, 1, true, 0);
    assert_eq!(answered(&mut m, 2, 1, false, 0), []);
    let over = [release(1, 1), release(2, 1), release(3, 1)];
    let mut out = answered(&mut m, 3, 1, false, 0);
    assert_eq!(out.remove(0), kept(1, Why::Under(1, 2)));
    assert_eq!(out, over);
    assert!(!m.is_on(&F));
    // The file can be let go of by another.
    assert_eq!(let_go(&mut m, F, 2, 1, &[1]), [ask(1, 2)]);
}

#[test]
fn an_attempt_past_its_time_is_over() {
    let mut m = new();
    let_go(&mut m, F, 1, 2, &[1, 2]);
    answered(&mut m, 1, 1, true, UNTIL);
    assert_eq!(m.handle(Input::Tick, UNTIL), []);
    let out = m.handle(Input::Tick, UNTIL + 1);
    let over = [kept(1, Why::Under(1, 2)), release(1, 1), release(2, 1)];
    assert_eq!(out, over);
    // Also when the last promise comes before the tick.
    let mut m = new();
    let_go(&mut m, F, 1, 1, &[1]);
    let out = answered(&mut m, 1, 1, true, UNTIL + 1);
    assert_eq!(out, [kept(1, Why::Under(1, 1)), release(1, 1)]);
    // One that begins too late asks nobody.
    let input = Input::LetGo {
        file: F,
        attempt: 3,
        wanted: 1,
        peers: vec![id(1)],
        until: UNTIL,
    };
    let out = m.handle(input, UNTIL + 1);
    assert_eq!(out, [kept(3, Why::Under(0, 1))]);
}

#[test]
fn what_may_go_goes_however_long_it_takes() {
    let mut m = new();
    let_go(&mut m, F, 1, 1, &[1, 2]);
    answered(&mut m, 1, 1, true, 0);
    assert_eq!(m.handle(Input::Tick, UNTIL * 1000), []);
    assert_eq!(answered(&mut m, 2, 1, false, UNTIL * 1000), []);
    assert_eq!(answered(&mut m, 1, 1, false, UNTIL * 1000), []);
    assert!(m.is_on(&F));
    assert_eq!(done(&mut m, F, 1), [release(1, 1), release(2, 1)]);
    assert!(!m.is_on(&F));
    assert_eq!(done(&mut m, F, 1), []);
}

#[test]
fn only_what_may_go_can_be_done() {
    let mut m = new();
    let_go(&mut m, F, 1, 1, &[1]);
    assert_eq!(done(&mut m, F, 1), [], "it may not yet");
    assert_eq!(answered(&mut m, 1, 1, true, 0), [go(1)]);
    assert_eq!(done(&mut m, F, 2), [], "another");
    assert_eq!(done(&mut m, 8, 1), [], "another file");
    assert_eq!(done(&mut m, F, 1), [release(1, 1)]);
}

#[test]
fn a_promise_that_is_late_is_given_back() {
    let mut m = new();
    assert_eq!(answered(&mut m, 1, 5, true, 0), [release(1, 5)]);
    assert_eq!(answered(&mut m, 1, 5, false, 0), []);
    let_go(&mut m, F, 1, 1, &[1]);
    assert_eq!(answered(&mut m, 1, 5, true, 0), [release(1, 5)]);
    assert_eq!(answered(&mut m, 1, 1, true, 0), [go(1)]);
    done(&mut m, F, 1);
    assert_eq!(answered(&mut m, 1, 1, true, 0), [release(1, 1)]);
}

#[test]
fn one_attempt_on_a_file_is_on_at_a_time_and_so_many_on_all() {
    let mut m = new();
    let_go(&mut m, F, 1, 1, &[1]);
    assert_eq!(let_go(&mut m, F, 2, 1, &[1]), [kept(2, Why::Busy)]);
    for file in 1..ATTEMPTS_MAX {
        let file = 100 + File::try_from(file).unwrap();
        assert_eq!(let_go(&mut m, file, 3, 1, &[1]).len(), 1);
        assert!(m.is_on(&file));
    }
    let out = let_go(&mut m, 99, 4, 1, &[1]);
    let why = Why::TooMany;
    let too_many = Output::Kept {
        file: 99,
        attempt: 4,
        why,
    };
    assert_eq!(out, [too_many]);
    answered(&mut m, 1, 1, false, 0);
    assert_eq!(let_go(&mut m, 99, 5, 1, &[1]).len(), 1);
    assert!(m.is_on(&99));
}

#[test]
fn a_promise_is_made_on_a_sound_copy_and_noted_before_it_is_told() {
    let mut m = new();
    promises(&mut m, 1, F, 5);
    promises(&mut m, 2, F, 6);
    assert_eq!(m.promises()[&F], [(id(1), 5), (id(2), 6)].into());
    assert_eq!(m.promised_to(&F), [id(1), id(2)]);
    assert_eq!(m.promised_to(&8), []);
    asked(&mut m, 3, F, 7, 0);
    assert_eq!(checked(&mut m, 3, F, 7, false), [answer(3, F, 7, false)]);
    // Nobody asked for it.
    assert_eq!(checked(&mut m, 4, F, 8, true), [answer(4, F, 8, false)]);
    assert_eq!(m.promised_to(&F), [id(1), id(2)]);
}

#[test]
fn who_asks_twice_is_looked_at_once_and_again_when_that_is_over() {
    let mut m = new();
    assert_eq!(asked(&mut m, 1, F, 5, 0), [check(1, F, 5)]);
    assert_eq!(asked(&mut m, 1, F, 5, 0), []);
    checked(&mut m, 1, F, 5, true);
    promises(&mut m, 1, F, 5);
    asked(&mut m, 1, F, 5, 0);
    assert_eq!(checked(&mut m, 1, F, 5, false), [answer(1, F, 5, false)]);
    assert_eq!(m.promised_to(&F), [id(1)], "it may count on it");
}

#[test]
fn what_is_promised_to_anybody_stays() {
    let mut m = new();
    promises(&mut m, 4, F, 5);
    let stays = [kept(1, Why::Promised(id(4)))];
    assert_eq!(let_go(&mut m, F, 1, 1, &[1, 2, 3]), stays);
    assert_eq!(let_go(&mut m, F, 1, 1, &[4]), stays);
    assert!(!m.is_on(&F));
    // Also after a restart.
    let mut m = Copies::new(m.promises().clone());
    assert_eq!(let_go(&mut m, F, 1, 1, &[1]), stays);
}

#[test]
fn nothing_is_promised_on_a_file_while_an_attempt_on_it_is_on() {
    let mut m = new();
    let_go(&mut m, F, 1, 1, &[1]);
    assert_eq!(asked(&mut m, 2, F, 5, 0), [answer(2, F, 5, false)]);
    answered(&mut m, 1, 1, true, 0);
    assert_eq!(asked(&mut m, 2, F, 5, 0), [answer(2, F, 5, false)]);
    promises(&mut m, 2, 8, 5);
    done(&mut m, F, 1);
    promises(&mut m, 2, F, 5);
}

#[test]
fn what_a_check_saw_before_an_attempt_counts_for_nothing() {
    let mut m = new();
    asked(&mut m, 2, F, 5, 0);
    asked(&mut m, 2, 8, 5, 0);
    let_go(&mut m, F, 1, 1, &[1]);
    assert_eq!(checked(&mut m, 2, F, 5, true), [answer(2, F, 5, false)]);
    let out = checked(&mut m, 2, 8, 5, true);
    assert_eq!(out, [Output::Note, answer(2, 8, 5, true)], "another file");
    // Also when the attempt is over by then.
    let mut m = new();
    asked(&mut m, 2, F, 5, 0);
    let_go(&mut m, F, 1, 1, &[1]);
    answered(&mut m, 1, 1, true, 0);
    done(&mut m, F, 1);
    // He asks again: two checks of one attempt could not be told apart.
    assert_eq!(asked(&mut m, 2, F, 5, 0), [answer(2, F, 5, false)]);
    assert_eq!(checked(&mut m, 2, F, 5, true), [answer(2, F, 5, false)]);
    assert_eq!(m.promised_to(&F), []);
    promises(&mut m, 2, F, 5);
}

#[test]
fn an_attempt_that_does_not_begin_voids_no_check() {
    let mut m = new();
    asked(&mut m, 2, F, 5, 0);
    assert_eq!(let_go(&mut m, F, 1, 1, &[]), [kept(1, Why::Under(0, 1))]);
    let out = checked(&mut m, 2, F, 5, true);
    assert_eq!(out, [Output::Note, answer(2, F, 5, true)]);
}

#[test]
fn who_is_done_is_promised_nothing_any_more() {
    let mut m = new();
    promises(&mut m, 1, F, 5);
    promises(&mut m, 2, F, 6);
    assert_eq!(released(&mut m, 1, 4), [], "another attempt");
    assert_eq!(released(&mut m, 1, 6), [], "another's attempt");
    assert_eq!(m.promised_to(&F), [id(1), id(2)]);
    assert_eq!(released(&mut m, 1, 5), [Output::Note]);
    assert_eq!(m.promised_to(&F), [id(2)]);
    assert_eq!(released(&mut m, 1, 5), []);
    assert_eq!(released(&mut m, 2, 6), [Output::Note]);
    assert!(m.promises().is_empty());
    assert_eq!(let_go(&mut m, F, 1, 1, &[1]), [ask(1, 1)]);
}

#[test]
fn who_is_done_before_his_check_is_promised_nothing() {
    let mut m = new();
    asked(&mut m, 1, F, 5, 0);
    asked(&mut m, 1, F, 6, 0);
    assert_eq!(released(&mut m, 1, 5), []);
    assert_eq!(checked(&mut m, 1, F, 5, true), [answer(1, F, 5, false)]);
    let out = checked(&mut m, 1, F, 6, true);
    assert_eq!(out, [Output::Note, answer(1, F, 6, true)]);
}

#[test]
fn a_promise_stands_whatever_the_clock_says_and_its_peer_is_asked_now_and_then() {
    let mut m = new();
    m.handle(Input::Tick, 0);
    promises(&mut m, 1, F, 5);
    assert_eq!(m.handle(Input::Tick, INQUIRE_MS - 1), []);
    assert_eq!(m.handle(Input::Tick, INQUIRE_MS), [inquire(1, 5)]);
    assert_eq!(m.handle(Input::Tick, INQUIRE_MS + 1), []);
    assert_eq!(is_on(&mut m, 1, 5, true), []);
    let again = INQUIRE_MS * 2;
    assert_eq!(m.handle(Input::Tick, again - 1), []);
    assert_eq!(m.handle(Input::Tick, again), [inquire(1, 5)]);
    assert_eq!(m.handle(Input::Tick, u64::MAX), [inquire(1, 5)]);
    assert_eq!(m.promised_to(&F), [id(1)]);
    assert_eq!(is_on(&mut m, 1, 4, false), [], "another");
    assert_eq!(is_on(&mut m, 1, 5, false), [Output::Note]);
    assert_eq!(m.promised_to(&F), []);
}

#[test]
fn what_was_promised_before_a_start_is_asked_about_after_it() {
    let mut m = new();
    promises(&mut m, 1, F, 5);
    let mut m = Copies::new(m.promises().clone());
    let start = 50_000;
    assert_eq!(m.handle(Input::Tick, start), []);
    assert_eq!(m.handle(Input::Tick, start + INQUIRE_MS - 1), []);
    let out = m.handle(Input::Tick, start + INQUIRE_MS);
    assert_eq!(out, [inquire(1, 5)]);
    assert_eq!(m.promised_to(&F), [id(1)]);
}

#[test]
fn an_attempt_that_is_over_and_asks_late_takes_nothing_from_the_one_that_is_on() {
    let mut m = new();
    promises(&mut m, 1, F, 6);
    let now = 60_000;
    let out = asked(&mut m, 1, F, 5, now);
    assert_eq!(out, [inquire(1, 6), check(1, F, 5)]);
    assert_eq!(is_on(&mut m, 1, 6, true), []);
    assert_eq!(checked(&mut m, 1, F, 5, true), [answer(1, F, 5, false)]);
    assert_eq!(m.promises()[&F], [(id(1), 6)].into());
    // The same by two checks, of which the first is slow.
    let mut m = new();
    asked(&mut m, 1, F, 5, 0);
    promises(&mut m, 1, F, 6);
    assert_eq!(checked(&mut m, 1, F, 5, true), [answer(1, F, 5, false)]);
    assert_eq!(m.promises()[&F], [(id(1), 6)].into());
}

#[test]
fn a_promise_takes_the_place_of_one_that_is_over() {
    let mut m = new();
    promises(&mut m, 1, F, 5);
    let now = 60_000;
    let out = asked(&mut m, 1, F, 6, now);
    assert_eq!(out, [inquire(1, 5), check(1, F, 6)]);
    // He is not asked the same at each question.
    assert_eq!(asked(&mut m, 1, F, 7, now + 1), [check(1, F, 7)]);
    assert_eq!(m.handle(Input::Tick, now + INQUIRE_MS - 1), []);
    assert_eq!(is_on(&mut m, 1, 5, false), [Output::Note]);
    let out = checked(&mut m, 1, F, 6, true);
    assert_eq!(out, [Output::Note, answer(1, F, 6, true)]);
    assert_eq!(m.promises()[&F], [(id(1), 6)].into());
}

#[test]
fn whether_an_attempt_is_on_is_told() {
    let mut m = new();
    let_go(&mut m, F, 1, 1, &[1]);
    let inquired = |m: &mut Machine, file, attempt| {
        let peer = id(1);
        let input = Input::Inquired {
            peer,
            file,
            attempt,
        };
        match m.handle(input, 0)[..] {
            [Output::On { on, .. }] => on,
            ref other => panic!("{other:?}"),
        }
    };
    assert!(inquired(&mut m, F, 1));
    assert!(!inquired(&mut m, F, 2) && !inquired(&mut m, 8, 1));
    answered(&mut m, 1, 1, true, 0);
    assert!(inquired(&mut m, F, 1), "it may go and has not gone");
    done(&mut m, F, 1);
    assert!(!inquired(&mut m, F, 1));
}

#[test]
fn who_is_no_member_is_promised_nothing_and_does_not_count() {
    let mut m = new();
    promises(&mut m, 1, F, 5);
    promises(&mut m, 1, 8, 6);
    promises(&mut m, 2, 8, 7);
    asked(&mut m, 1, 9, 8, 0);
    assert_eq!(m.handle(Input::Gone(id(1)), 0), [Output::Note]);
    assert_eq!(m.promised_to(&F), []);
    assert_eq!(m.promised_to(&8), [id(2)]);
    assert_eq!(checked(&mut m, 1, 9, 8, true), [answer(1, 9, 8, false)]);
    assert_eq!(m.handle(Input::Gone(id(1)), 0), []);

    let mut m = new();
    let_go(&mut m, F, 1, 2, &[1, 2, 3]);
    answered(&mut m, 1, 1, true, 0);
    assert_eq!(m.handle(Input::Gone(id(1)), 0), []);
    assert_eq!(answered(&mut m, 2, 1, true, 0), []);
    assert_eq!(answered(&mut m, 1, 1, true, 0), [release(1, 1)]);
    let out = m.handle(Input::Gone(id(3)), 0);
    assert_eq!(out, [kept(1, Why::Under(1, 2)), release(2, 1)]);

    // What may go already goes.
    let mut m = new();
    let_go(&mut m, F, 1, 1, &[1, 2]);
    answered(&mut m, 1, 1, true, 0);
    assert_eq!(m.handle(Input::Gone(id(1)), 0), []);
    assert!(m.is_on(&F));
    assert_eq!(done(&mut m, F, 1), [release(2, 1)]);
}

#[test]
fn so_many_checks_are_under_way() {
    let mut m = new();
    for n in 0..u32::try_from(CHECKS_MAX).unwrap() {
        assert_eq!(asked(&mut m, n, F, 5, 0), [check(n, F, 5)]);
    }
    assert_eq!(asked(&mut m, 99, 8, 5, 0), [answer(99, 8, 5, false)]);
    // Those that count for nothing any more are under way, too.
    released(&mut m, 3, 5);
    assert_eq!(asked(&mut m, 99, 8, 5, 0), [answer(99, 8, 5, false)]);
    checked(&mut m, 3, F, 5, true);
    assert_eq!(asked(&mut m, 99, 8, 5, 0), [check(99, 8, 5)]);
}

#[test]
fn so_many_promises_stand_and_all_are_asked_about_in_turn() {
    let most = u32::try_from(PROMISES_MAX).unwrap();
    let all = (0..most - 1).map(|file| (file, [(id(1), 5)].into()));
    let mut m = Copies::new(all.collect());
    m.handle(Input::Tick, 0);
    assert_eq!(asked(&mut m, 2, most, 5, 0), [check(2, most, 5)]);
    assert_eq!(asked(&mut m, 3, most, 5, 0), [check(3, most, 5)]);
    checked(&mut m, 2, most, 5, true);
    let no = [answer(3, most, 5, false)];
    assert_eq!(checked(&mut m, 3, most, 5, true), no, "the last is taken");
    assert_eq!(asked(&mut m, 3, most, 5, 0), no);
    // Who has one may ask again.
    assert_eq!(asked(&mut m, 2, most, 5, 0), [check(2, most, 5)]);
    checked(&mut m, 2, most, 5, true);
    let mut met = BTreeSet::new();
    for second in 30..60 {
        let out = m.handle(Input::Tick, second * 1000);
        assert!(out.len() <= INQUIRIES_MAX);
        met.extend(out.into_iter().map(|o| match o {
            Output::Inquire { peer, file, .. } => (peer, file),
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(met.len(), PROMISES_MAX);
    // There is room again.
    released(&mut m, 1, 5);
    promises(&mut m, 3, most, 5);
}
