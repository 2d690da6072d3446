//! Whether all that the ledger has is where it must be.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::edits::{Book, LINE, Token, files, tokens};
use super::git;

/// Git is shown new heads within this.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

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

/// Acknowledged lines that nobody who had read them took away and that are not there.
pub(crate) fn missing(book: &Book, shown: &BTreeSet<Token>) -> Vec<Token> {
    let absent = |t: &&Token| !shown.contains(t) && !book.gone.contains_key(t);
    book.made.keys().filter(absent).copied().collect()
}

/// Finds lines that are lost, from one look to the next.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    /// Lines that blind edits took.
    pub(crate) excused: BTreeSet<Token>,
    blind: usize,
}

impl Losses {
    /// What is wrong with what is shown: missing lines that no blind edit since the last look can
    /// have taken, as none was made at a name that the line ever was in.
    pub(crate) fn look(
        &mut self,
        book: &Book,
        shown: &BTreeSet<Token>,
        repo: &Path,
    ) -> Vec<String> {
        let name = |p: &PathBuf| p.file_name().map(ToOwned::to_owned);
        let since = book.blind.get(self.blind..).unwrap_or_default();
        let blind: BTreeSet<OsString> = since.iter().filter_map(name).collect();
        self.blind = book.blind.len();
        let mut lost = Vec::new();
        for t in missing(book, shown) {
            if self.excused.contains(&t) {
                continue;
            }
            let names = if blind.is_empty() {
                BTreeSet::new()
            } else {
                names_of(repo, t)
            };
            if names.is_disjoint(&blind) {
                lost.push(format!("{t:?}: {}; it was in {names:?}", book.made[&t]));
            } else {
                self.excused.insert(t);
            }
        }
        lost
    }
}

/// Names of the files that a line ever was in. All that is shown is in a commit, but git may be
/// shown the latest heads a moment later.
fn names_of(repo: &Path, token: Token) -> BTreeSet<OsString> {
    let line = token.line();
    let text = String::from_utf8_lossy(line.get(..LINE - 1).unwrap_or_default()).into_owned();
    let find = format!("-S{text}");
    let words = ["log", "--all", "-m", "--name-only", "--format=", &find];
    let began = Instant::now();
    loop {
        let out = git::command(repo, &words).output().expect("git runs");
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let name = |l: &str| Path::new(l).file_name().map(ToOwned::to_owned);
        let names: BTreeSet<OsString> = said.lines().filter_map(name).collect();
        if !names.is_empty() || began.elapsed() > SHOWN_WITHIN {
            return names;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Acknowledged lines that are not in the history, but for those that their own node overwrote:
/// it may do so before it commits.
pub(crate) fn forgotten(
    book: &Book,
    history: &HashSet<Token>,
    node: impl Fn(u16) -> u16,
) -> Vec<String> {
    let by_itself = |t: &Token| {
        let taken = book.gone.get(t);
        taken.is_some_and(|(who, _)| node(*who) == node(t.writer))
    };
    book.made
        .iter()
        .filter(|(t, _)| !history.contains(t) && !by_itself(t))
        .map(|(t, about)| format!("{t:?}: {about}"))
        .collect()
}

/// Errors that no program should have met.
pub(crate) fn failures(book: &Book) -> Vec<String> {
    let bad = |k: &&String| k.contains("uncategorized");
    book.counts.keys().filter(bad).cloned().collect()
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
