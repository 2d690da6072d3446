//! Who reads on, and what is read ahead of him.

use super::*;

/// Waits until nothing comes any more of what is read ahead.
async fn rests(n: &Node, survey: &Survey) {
    let mut lacks = usize::MAX;
    loop {
        let now = n.lacks(survey);
        if now == lacks {
            return;
        }
        lacks = now;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ever_more_is_read_ahead_of_who_reads_on() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let bytes = noise(130, 48 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    a.has(&bytes, &survey, |_| true);
    a.knows(&survey);
    let head = b.knows(&survey);
    // As a folder does it: what is here is read, and what is not is asked for.
    let (mut stops, mut at) = (0, 0);
    for piece in &survey.pieces {
        let end = at + u64::from(piece.len);
        if !b.shelf.chunks.has(&piece.id) {
            b.fetch(head, at..end, DEADLINE).await.unwrap();
            rests(&b, &survey).await;
            stops += 1;
        }
        at = end;
    }
    assert!(stops <= 8, "{stops} times it waited");
    // Who looks here and there has little read ahead.
    let other = noise(131, 48 << 20);
    let survey = survey_of(a.dir.path(), &other);
    a.has(&other, &survey, |_| true);
    a.knows(&survey);
    let head = b.knows(&survey);
    for at in [30_u64 << 20, 3 << 20, 40 << 20, 12 << 20] {
        b.fetch(head, at..at + 10, DEADLINE).await.unwrap();
        rests(&b, &survey).await;
    }
    let lacks = b.lacks(&survey);
    let all = survey.pieces.len();
    assert!(lacks > all / 2, "{lacks} of {all} lack");
}
