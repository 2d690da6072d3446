//! Whether all that the ledger has is where it must be.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

use super::edits::{Book, Token, files, tokens};
use super::git;

/// What a folder shows.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) tokens: BTreeSet<Token>,
    pub(crate) files: usize,
    pub(crate) copies: usize,
    /// Lines that nobody wrote, and marks of merges.
    pub(crate) wrong: Vec<String>,
}

/// Reads all files of a folder.
pub(crate) fn shown(dir: &Path) -> Shown {
    let mut all = Shown::default();
    for path in files(dir) {
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (found, torn) = tokens(&bytes);
        all.tokens.extend(found);
        all.files += 1;
        all.copies += usize::from(path.to_string_lossy().contains(".conflict-"));
        let torn = torn.iter().map(|t| format!("{}: {t:?}", path.display()));
        all.wrong.extend(torn);
    }
    all
}

/// What is wrong with what is shown: acknowledged lines that nobody who knew them took away and
/// that are not there, beyond those that blind edits may have taken.
pub(crate) fn missing(book: &Book, shown: &BTreeSet<Token>) -> Vec<String> {
    let absent = |t: &&Token| !shown.contains(t) && !book.gone.contains_key(t);
    book.made
        .keys()
        .filter(absent)
        .map(|t| format!("{t:?}: {}", book.made[t]))
        .collect()
}

/// Acknowledged lines that are not in the history.
pub(crate) fn forgotten(book: &Book, history: &HashSet<Token>) -> Vec<String> {
    book.made
        .iter()
        .filter(|(t, _)| !history.contains(t))
        .map(|(t, about)| format!("{t:?}: {about}"))
        .collect()
}

/// All lines of all files of all commits that a repository's refs reach.
pub(crate) fn history(repo: &Path) -> HashSet<Token> {
    let mut list = git::command(
        repo,
        &["rev-list", "--objects", "--no-object-names", "--all"],
    )
    .stdout(Stdio::piped())
    .spawn()
    .expect("git starts");
    let ids = list.stdout.take().expect("piped");
    let mut cat = git::command(repo, &["cat-file", "--batch", "--buffer"])
        .stdin(ids)
        .stdout(Stdio::piped())
        .spawn()
        .expect("git starts");
    let mut out = BufReader::new(cat.stdout.take().expect("piped"));
    let mut found = HashSet::new();
    let mut head = String::new();
    loop {
        head.clear();
        if out.read_line(&mut head).expect("a line") == 0 {
            break;
        }
        let mut words = head.split_whitespace().skip(1);
        let is_blob = words.next() == Some("blob");
        let size: usize = words.next().and_then(|n| n.parse().ok()).expect("a size");
        let mut bytes = vec![0; size + 1];
        out.read_exact(&mut bytes).expect("an object");
        if is_blob {
            found.extend(bytes.split(|b| *b == b'\n').filter_map(Token::of));
        }
    }
    assert!(list.wait().expect("git").success(), "rev-list fails");
    assert!(cat.wait().expect("git").success(), "cat-file fails");
    found
}

/// Fails with the first of what is wrong.
pub(crate) fn none(what: &str, wrong: &[String]) {
    let some: Vec<&String> = wrong.iter().take(20).collect();
    assert!(wrong.is_empty(), "{} {what}:\n{some:#?}", wrong.len());
}

/// Counts in one line.
pub(crate) fn line(counts: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = counts.iter().map(|(k, n)| format!("{k} {n}")).collect();
    parts.join(", ")
}
