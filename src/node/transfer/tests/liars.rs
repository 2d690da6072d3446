//! Files that are called by the SHA-256 of others.

use super::*;

/// A list of other pieces, by the name of this file.
fn forged(dir: &Path, of: &Survey, bytes: &[u8]) -> Survey {
    Survey {
        sha256: of.sha256,
        ..survey_of(dir, bytes)
    }
}

/// What a node has of a false file when the true one comes.
async fn comes_after(fill: impl Fn(usize) -> bool) {
    let a = Node::found("a").await;
    let c = Node::join("c", &a, Manner::Honest).await;
    let bytes = noise(90, 5 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    a.has(&bytes, &survey, |_| true);
    a.knows(&survey);
    let other = noise(91, 5 << 20);
    let lie = forged(a.dir.path(), &survey, &other);
    c.knows(&lie);
    let chunks = &c.shelf.chunks;
    chunks.begin(lie.sha256, &lie.pieces).unwrap();
    let mut at = 0;
    for (n, p) in lie.pieces.iter().enumerate() {
        let piece = &other[at..at + p.len as usize];
        if fill(n) {
            let index = u32::try_from(n).unwrap();
            chunks.fill(&lie.sha256, index, piece).unwrap();
        }
        at += piece.len();
    }
    chunks.flush().unwrap();
    let had = lie.pieces.len() - c.lacks(&lie);
    a.is_linked(&c).await;
    let head = c.knows(&survey);
    c.keep(head).await;
    until("all of it", || c.lacks(&survey) == 0).await;
    until("the end", || c.transfers.status().files == 0).await;
    let status = c.transfers.status();
    assert_eq!(status.bytes_done, survey.len, "each piece came once");
    assert_eq!((status.waiting, status.bytes_left), (0, 0));
    // What was proven to be the file has its name from then on.
    assert!(c.container(&survey) == Some(bytes));
    assert_eq!(lie.pieces.len() - c.lacks(&lie), had, "what was here is");
    let c = c.kill_and_start().await;
    assert_eq!(c.lacks(&survey), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_true_file_comes_where_all_of_a_false_one_has_its_name() {
    comes_after(|_| true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_true_file_comes_where_a_part_of_a_false_one_has_its_name() {
    comes_after(|n| n % 3 == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_file_comes_and_leaves_the_true_one_its_name() {
    let a = Node::found("a").await;
    let c = Node::join("c", &a, Manner::Honest).await;
    let bytes = noise(92, 5 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    let path = c.dir.path().join("true");
    std::fs::write(&path, &bytes).unwrap();
    c.shelf.chunks.adopt(&path, &survey, true).unwrap();
    let other = noise(93, 5 << 20);
    let lie = forged(a.dir.path(), &survey, &other);
    a.has(&other, &lie, |_| true);
    a.knows(&lie);
    a.is_linked(&c).await;
    let head = c.knows(&lie);
    c.keep(head).await;
    until("all of it", || c.lacks(&lie) == 0).await;
    until("the end", || c.transfers.status().files == 0).await;
    assert_eq!(c.transfers.status().waiting, 0);
    assert!(c.container(&survey) == Some(bytes));
    assert_eq!(c.lacks(&survey), 0);
}

/// Its place was taken while pieces were under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_goes_elsewhere_when_another_file_takes_the_name() {
    let a = Node::found("a").await;
    let c = Node::join("c", &a, Manner::Slow).await;
    let d = Node::join("d", &a, Manner::Honest).await;
    let bytes = noise(94, 5 << 20);
    let survey = survey_of(a.dir.path(), &bytes);
    c.has(&bytes, &survey, |_| true);
    c.knows(&survey);
    c.is_linked(&d).await;
    let head = d.knows(&survey);
    d.keep(head).await;
    let chunks = &d.shelf.chunks;
    let begun = || chunks.container(&survey.sha256).unwrap().is_some();
    until("it begins", begun).await;
    chunks.evict(&survey.sha256, &mut |_| true).unwrap();
    let other = noise(95, 5 << 20);
    let lie = forged(a.dir.path(), &survey, &other);
    let path = d.dir.path().join("false");
    std::fs::write(&path, &other).unwrap();
    chunks.adopt(&path, &lie, true).unwrap();
    until("all of it", || d.lacks(&survey) == 0).await;
    until("the end", || d.transfers.status().files == 0).await;
    let status = d.transfers.status();
    assert_eq!(status.bytes_done, survey.len, "each piece came once");
    assert!(d.container(&survey) == Some(bytes));
    assert_eq!(d.lacks(&lie), 0);
}
