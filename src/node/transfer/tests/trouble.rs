//! Sides that are killed, lie or are silent, and bytes that are no request.

use super::*;
use crate::swarm::Class;
use crate::swarm::wire::{AskHeld, AskPiece};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_it_goes_on_with_what_is_here() {
    let mut a = Node::found("a").await;
    let mut b = Node::join("b", &a, Manner::Honest).await;
    let bytes = noise(5, 96 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    a.has(&bytes, &survey, |_| true);
    a.knows(&survey);
    let head = b.knows(&survey);
    let mut chance = 12_345_u64;
    let mut came = 0;
    let (mut of_a, mut of_b) = (0, 0);
    let mut unflushed = 0;
    b.keep(head).await;
    for _ in 0..12 {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // After so much more, wherever it is then.
        let lacks = b.lacks(&survey);
        let less = usize::try_from((chance >> 33) % 20).unwrap();
        until("some more", || {
            b.lacks(&survey) <= lacks.saturating_sub(less)
        })
        .await;
        if b.lacks(&survey) == 0 {
            break;
        }
        if (chance >> 40).is_multiple_of(2) {
            of_a += 1;
            a = a.kill_and_start().await;
        } else {
            of_b += 1;
            came += b.transfers.status().bytes_done;
            let before = b.lacks(&survey);
            b = b.kill_and_start().await;
            unflushed += b.lacks(&survey).saturating_sub(before);
            b.keep(head).await;
        }
        a.is_linked(&b).await;
    }
    assert!(of_a > 2 && of_b > 2, "killed {of_a} and {of_b} times");
    until("all of it", || b.container(&survey).is_some()).await;
    assert!(b.container(&survey) == Some(bytes));
    until("the end", || b.transfers.status().files == 0).await;
    came += b.transfers.status().bytes_done;
    // Nothing comes twice but what was not durable when its side was killed, and a piece on the way.
    let again = came.saturating_sub(survey.len);
    let most = (unflushed as u64 + of_a + of_b) << 20;
    assert!(
        again <= most,
        "{again} again; killed {of_a} and {of_b} times, {unflushed} lost"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_told_to_end_keeps_all_that_came() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let bytes = noise(8, 48 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    a.has(&bytes, &survey, |_| true);
    a.knows(&survey);
    let head = b.knows(&survey);
    b.keep(head).await;
    let all = survey.pieces.len();
    until("some", || b.lacks(&survey) < all * 3 / 4).await;
    let before = b.lacks(&survey);
    let b = b.stop_and_start().await;
    assert!(
        b.lacks(&survey) <= before,
        "{} of {before}",
        b.lacks(&survey)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_liar_or_one_who_is_silent_was_asked_for_comes_from_another() {
    for manner in [Manner::Lies, Manner::Silent] {
        let a = Node::found("a").await;
        let b = Node::join("b", &a, manner).await;
        let c = Node::join("c", &a, Manner::Honest).await;
        let bytes = noise(6, 12 << 20);
        let survey = survey_of(a.dir.path(), &bytes);
        for n in [&a, &b] {
            n.has(&bytes, &survey, |_| true);
            n.knows(&survey);
            n.is_linked(&c).await;
        }
        let head = c.knows(&survey);
        // What a reader waits for is asked of another soon.
        c.fetch(head, 0..2 << 20, Duration::from_secs(20))
            .await
            .unwrap();
        c.keep(head).await;
        until("all of it", || c.container(&survey).is_some()).await;
        assert!(c.container(&survey) == Some(bytes));
        let asked = b.asked.load(Ordering::Relaxed);
        assert!(
            (1..40).contains(&asked),
            "{manner:?} was asked {asked} times"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_begins_to_lie_among_three_who_do_not_is_put_aside() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let c = Node::join("c", &a, Manner::Honest).await;
    let liar = Node::join("liar", &a, Manner::Turns).await;
    let d = Node::join("d", &a, Manner::Honest).await;
    let bytes = noise(9, 64 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    for n in [&a, &b, &c, &liar] {
        n.has(&bytes, &survey, |_| true);
        n.knows(&survey);
        n.is_linked(&d).await;
    }
    let head = d.knows(&survey);
    d.keep(head).await;
    // A reader, too, who meets the liar as others do.
    d.fetch(head, 40 << 20..44 << 20, DEADLINE).await.unwrap();
    until("all of it", || d.container(&survey).is_some()).await;
    assert!(d.container(&survey) == Some(bytes));
    until("the end", || d.transfers.status().files == 0).await;
    let status = d.transfers.status();
    let from = |n: &Node| {
        status
            .from
            .iter()
            .find(|f| f.0 == n.id())
            .map_or(0, |f| f.1)
    };
    // It was asked for no more than was under way when its first lie was seen, and nothing of what
    // it sent then is here.
    let asked = liar.asked.load(Ordering::Relaxed);
    let all = survey.pieces.len() as u64;
    assert!(
        TURNS_AFTER < asked && asked < all / 3,
        "asked {asked} of {all} times"
    );
    assert!(from(&liar) <= TURNS_AFTER << 20, "{status:?}");
    let honest = [&a, &b, &c].map(from);
    assert!(honest.iter().all(|n| *n > 4 << 20), "{honest:?}");
    let rest: u64 = honest.iter().sum();
    assert_eq!(rest + from(&liar), status.bytes_done);
    // A piece that a reader waits for may come twice.
    assert!((survey.len..survey.len + (8 << 20)).contains(&status.bytes_done));
    assert_eq!(d.lacks(&survey), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strange_requests_get_no_answer_and_do_no_harm() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    a.is_linked(&b).await;
    let other: VolumeName = "other".parse().unwrap();
    let held = AskHeld {
        volume: other.clone(),
        heads: vec![[7; 20]; 3],
    };
    let piece = AskPiece::new(other, Class::Urgent, ChunkId([5; 32]));
    let long = u32::MAX.to_le_bytes().to_vec();
    for (bytes, answer) in [
        (Request::Held(held).encode(), Some(vec![0; 3])),
        (Request::Piece(piece).encode(), Some(vec![0])),
        (b"\x05\0\0\0\x03xxxx".to_vec(), None),
        (b"\0\0\0\0\x04".to_vec(), None),
        (b"\x09\0\0\0\x04".to_vec(), None),
        ([long, vec![4; 100]].concat(), None),
    ] {
        let (mut to, mut from) = b.peers.request(a.id()).await.unwrap();
        to.write_all(&bytes).await.unwrap();
        to.finish();
        assert_eq!(from.read_all(100).await.ok(), answer, "{bytes:?}");
    }
}
