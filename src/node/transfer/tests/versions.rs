//! Versions of one file, one after the other.

use std::os::unix::fs::MetadataExt;

use super::*;

/// What a directory takes on the disk.
fn disk(dir: &Path) -> u64 {
    let all = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let each = all.map(|p| match p.is_dir() {
        true => disk(&p),
        false => p.metadata().map_or(0, |m| m.blocks() * 512),
    });
    each.sum()
}

/// Has one file grow on `a` and come to `b`, version by version; their lists.
async fn grows(a: &Node, b: &Node, bytes: &[u8], from: usize, by: usize) -> Vec<(Survey, Oid)> {
    let mut all: Vec<(Survey, Oid)> = Vec::new();
    for len in (from..=bytes.len()).step_by(by) {
        let survey = survey_of(a.dir.path(), &bytes[..len]);
        a.has(&bytes[..len], &survey, |_| true);
        a.knows(&survey);
        let head = b.knows(&survey);
        b.keep_over(head, all.last().map(|(_, h)| *h)).await;
        until("a version", || b.lacks(&survey) == 0).await;
        until("its end", || b.transfers.status().files == 0).await;
        all.push((survey, head));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_follow_one_another_take_the_room_of_what_changed() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    a.is_linked(&b).await;
    let bytes = noise(120, 20 << 20);
    let all = grows(&a, &b, &bytes, 8 << 20, 1 << 20).await;
    let (first, last) = (&all[0].0, &all[all.len() - 1].0);
    // Of each version all is here; of its end a piece or two of its own.
    let most = (20 + 2 * all.len() as u64 + 8) << 20;
    let chunks = b.dir.path().join("chunks");
    let is = disk(&chunks);
    assert!(is < most, "{is} bytes for {} versions", all.len());
    // When nothing more comes the last one is a container, and the first one's bytes are in it.
    until("it is ripe", || b.container(last).is_some()).await;
    assert!(b.container(last) == Some(bytes));
    until("the first goes", || b.container(first).is_none()).await;
    until("packs go", || disk(&chunks) < most).await;
    for (survey, _) in &all {
        assert_eq!(b.lacks(survey), 0);
    }
    let b = b.kill_and_start().await;
    assert!(all.iter().all(|(s, _)| b.lacks(s) == 0));
    assert!(b.container(last).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_two_versions_lack_that_come_at_once_comes_once() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    a.is_linked(&b).await;
    let bytes = noise(122, 48 << 20);
    let mut all: Vec<(Survey, Oid)> = Vec::new();
    for mib in [24, 36, 48] {
        let survey = survey_of(a.dir.path(), &bytes[..mib << 20]);
        a.has(&bytes[..mib << 20], &survey, |_| true);
        a.knows(&survey);
        let head = b.knows(&survey);
        all.push((survey, head));
    }
    let mut over = None;
    for (_, head) in &all {
        b.keep_over(*head, over.replace(*head)).await;
    }
    let is_all_here = || all.iter().all(|(s, _)| b.lacks(s) == 0);
    until("all of them", || {
        is_all_here() && b.transfers.status().files == 0
    })
    .await;
    let came = b.transfers.status().bytes_done;
    // Twice comes what was on the way for one when it was asked for for another.
    let most = (48 + 2 * 9) << 20;
    assert!(came < most, "{came} bytes came");
    until("it is ripe", || b.container(&all[2].0).is_some()).await;
    assert!(b.container(&all[2].0) == Some(bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_not_wanted_any_more_becomes_no_container() {
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    a.is_linked(&b).await;
    let bytes = noise(121, 10 << 20);
    let all = grows(&a, &b, &bytes, 8 << 20, 1 << 20).await;
    let (last, head) = &all[all.len() - 1];
    let (t, head) = (b.transfers.clone(), *head);
    let work = move || t.unkeep(&volume(), vec![head]);
    tokio::task::spawn_blocking(work).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(b.container(last).is_none());
    assert_eq!(b.lacks(last), 0, "what is here stays");
}
