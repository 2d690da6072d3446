//! Rules of the house that no compiler keeps: layers, sizes, docs, words, dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A room of the library: its rank, and the rooms or parts of rooms that it may import.
struct Room {
    name: &'static str,
    rank: u8,
    may: &'static [&'static str],
}

const fn room(name: &'static str, rank: u8, may: &'static [&'static str]) -> Room {
    Room { name, rank, may }
}

/// The law of imports: what is named here, and strictly lower ranks only. Tests of a room may
/// import all that is lower.
const ROOMS: &[Room] = &[
    room("base", 0, &[]),
    room("store", 1, &["base"]),
    room("chunk", 1, &["base"]),
    room("peers", 1, &["base"]),
    room("control", 1, &["base"]),
    room("config", 1, &["base"]),
    room("driver", 1, &[]),
    room("record", 2, &["base", "store::objects", "driver"]),
    room("doors", 2, &["base", "control"]),
    room("swarm", 2, &["base", "chunk"]),
    room("copies", 2, &["base"]),
    room("merge", 3, &["base", "store::objects", "chunk", "record"]),
    room("journal", 3, &["base", "record"]),
    room(
        "replicator",
        3,
        &["base", "store::objects", "store::incoming", "record"],
    ),
    room("history", 4, &["base", "store", "chunk", "record", "merge"]),
    room(
        "volume",
        4,
        &[
            "base", "store", "chunk", "driver", "record", "merge", "journal",
        ],
    ),
    room(
        "fs",
        5,
        &["base", "record", "merge", "journal", "history", "volume"],
    ),
    room("fuse", 6, &["base", "record::model", "volume", "fs"]),
    room(
        "node",
        7,
        &[
            "base",
            "store",
            "chunk",
            "peers",
            "control",
            "config",
            "record",
            "doors",
            "swarm",
            "copies",
            "replicator",
            "history",
            "volume",
            "fs",
            "fuse",
        ],
    ),
    room("cli", 8, &["base", "control", "config", "doors::git"]),
];

/// Longest file, in lines.
const LINES_MAX: usize = 800;
/// Most packages in the lock file: the count of the first release and 5 %.
const PACKAGES_MAX: usize = 540;
/// What may lie at the top: the parts of the house, and what tools insist on.
const TOP: &[&str] = &[
    ".ci",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "clippy.toml",
    "deny.toml",
    "fuse-tests",
    "integration",
    "packaging",
    "rust-toolchain.toml",
    "src",
];

/// Words that no code here has, written in two pieces so that this file passes, too.
const BANNED: &[(&str, &str)] = &[
    (concat!("to", "do!("), "finish it"),
    (concat!("unimple", "mented!("), "finish it"),
    (concat!("d", "bg!("), "use tracing"),
    (concat!("#[al", "low("), "use expect, with a reason"),
    (concat!("TO", "DO"), "do it, or write it into the README"),
    (concat!("FIX", "ME"), "do it, or write it into the README"),
    (concat!("unbounded_", "channel"), "every queue has a bound"),
    (concat!("/wo", "rk/"), "a path of some machine"),
];

/// Words that tests may use and the rest may not.
const TEST_ONLY: &[(&str, &str)] = &[
    (concat!("#![al", "low("), "use expect, with a reason"),
    (
        concat!(".unw", "rap()"),
        "use ? or expect(\"why it holds\")",
    ),
    (
        concat!("print", "ln!("),
        "say it through cli::output or tracing",
    ),
];

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All Rust files under these folders, by their paths from the top.
fn sources(folders: &[&str]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    let mut todo: Vec<PathBuf> = folders.iter().map(|f| top().join(f)).collect();
    while let Some(dir) = todo.pop() {
        for e in fs::read_dir(&dir).expect("a folder") {
            let path = e.expect("an entry").path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|x| x == "rs") {
                out.push(path.strip_prefix(top()).expect("below the top").to_owned());
            }
        }
    }
    assert!(!out.is_empty());
    out.sort();
    out
}

fn all_sources() -> Vec<PathBuf> {
    sources(&["src", "integration", "fuse-tests"])
}

/// Whether a file holds nothing but tests.
fn is_test_file(path: &Path) -> bool {
    let text = path.to_string_lossy();
    !text.starts_with("src/")
        || text.contains("/tests/")
        || text.ends_with("/tests.rs")
        || text.ends_with("_tests.rs")
}

/// A file without its inline tests, which stand at its foot.
fn production(text: &str) -> &str {
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|t| t.find("#[cfg(test)]\nmod ")) {
        let start = at + found;
        let line = text[start..].lines().nth(1).unwrap_or_default();
        if line.ends_with('{') {
            return &text[..start];
        }
        at = start + 1;
    }
    text
}

/// Lines without comments.
fn code(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let cut = line.find("//").filter(|n| !line[..*n].ends_with(':'));
        out.push_str(&line[..cut.unwrap_or(line.len())]);
        out.push('\n');
    }
    out
}

/// The paths of a use tree that starts here: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(text: &str, prefix: &str, out: &mut Vec<String>) {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if let Some(inner) = text.strip_prefix('{') {
        let mut depth = 0;
        let mut start = 0;
        for (n, c) in inner.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    let part = inner[start..n].trim();
                    if !part.is_empty() {
                        paths(part, prefix, out);
                    }
                    start = n + 1;
                    if c == '}' {
                        return;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
        return;
    }
    let end = text.find(|c| !word(c)).unwrap_or(text.len());
    let mut path = prefix.to_owned();
    if !path.is_empty() {
        path.push_str("::");
    }
    path.push_str(&text[..end]);
    match text[end..].strip_prefix("::") {
        Some(rest) if rest.starts_with(|c| word(c) || c == '{') => paths(rest, &path, out),
        _ => out.push(path),
    }
}

/// What a file imports from its crate.
fn imports(text: &str) -> Vec<String> {
    let text = code(text);
    let mut out = Vec::new();
    for (n, _) in text.match_indices("crate::") {
        let is_path = !text[..n].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if is_path {
            paths(&text[n + "crate::".len()..], "", &mut out);
        }
    }
    out
}

fn room_of(path: &Path) -> Option<String> {
    let rest = path.strip_prefix("src").ok()?;
    let first = rest.iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

fn covers(permit: &str, path: &str) -> bool {
    path.strip_prefix(permit)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn fail_if_any(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn use_trees_are_read() {
    let text = "use crate::a::{b, c::{d, e}};\nlet x = crate::f::G::new(); // crate::no\n";
    assert_eq!(imports(text), ["a::b", "a::c::d", "a::c::e", "f::G::new"]);
}

#[test]
fn rooms_import_only_what_is_below_them() {
    let rooms: BTreeMap<&str, &Room> = ROOMS.iter().map(|r| (r.name, r)).collect();
    let mut wrong = Vec::new();
    for r in ROOMS {
        for m in r.may {
            let of = m.split("::").next().unwrap_or_default();
            let lower = rooms.get(of).is_some_and(|o| o.rank < r.rank);
            if !lower {
                wrong.push(format!(
                    "the law lets {} import {m}, which is not below",
                    r.name
                ));
            }
        }
    }
    let mut used: BTreeSet<(&str, &str)> = BTreeSet::new();
    let mut met = BTreeSet::new();
    for path in sources(&["src"]) {
        let Some(name) = room_of(&path) else { continue };
        let Some(r) = rooms.get(name.as_str()) else {
            wrong.push(format!("{}: a room without a rank", path.display()));
            continue;
        };
        met.insert(r.name);
        let text = read(&top().join(&path));
        let shipped = if is_test_file(&path) {
            ""
        } else {
            production(&text)
        };
        for import in imports(shipped) {
            if covers(r.name, &import) {
                continue;
            }
            match r.may.iter().find(|m| covers(m, &import)) {
                Some(m) => {
                    used.insert((r.name, m));
                }
                None => wrong.push(format!("{}: imports crate::{import}", path.display())),
            }
        }
        for import in imports(&text) {
            let of = import.split("::").next().unwrap_or_default();
            if of != r.name && rooms.get(of).is_none_or(|o| o.rank >= r.rank) {
                wrong.push(format!("{}: crate::{import} is not below", path.display()));
            }
        }
    }
    for r in ROOMS {
        if !met.contains(r.name) {
            wrong.push(format!("{} has a rank and is no room", r.name));
        }
        for m in r.may {
            if !used.contains(&(r.name, m)) {
                wrong.push(format!("{} may import {m} and does not", r.name));
            }
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn the_map_shows_the_rooms_and_tests_that_exist() {
    let map = read(&top().join("src/ARCHITECTURE.md"));
    let mut wrong = Vec::new();
    for r in ROOMS {
        if !map.contains(&format!("| {} | `{}` |", r.rank, r.name)) {
            wrong.push(format!("ARCHITECTURE.md: {} of rank {}", r.name, r.rank));
        }
    }
    let code: String = all_sources()
        .iter()
        .map(|p| code(&read(&top().join(p))))
        .collect();
    let (_, rest) = map.split_once("## Invariants").expect("a list");
    let (list, _) = rest.split_once("\n## ").expect("and more");
    for line in list.lines().filter(|l| l.starts_with("| ")) {
        let tests = line.rsplit(" | ").next().unwrap_or_default();
        for span in tests.split('`').skip(1).step_by(2) {
            let name = span.rsplit([' ', ':']).next().unwrap_or_default();
            let there =
                code.contains(&format!("fn {name}(")) || code.contains(&format!("mod {name};"));
            if !there {
                wrong.push(format!("ARCHITECTURE.md: no test {span}"));
            }
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn no_path_climbs_out_of_its_room() {
    let mut wrong = Vec::new();
    for path in sources(&["src"]) {
        if room_of(&path).is_none() {
            continue;
        }
        let text = read(&top().join(&path));
        let depth = path.iter().count() - 1;
        let climbs = |text: &str, most: usize| {
            let chain = "super::".repeat(most);
            code(text).contains(&chain)
        };
        // Inline tests are one level deeper.
        if climbs(production(&text), depth) || climbs(&text, depth + 1) {
            wrong.push(format!("{}: climbs out by super", path.display()));
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for path in all_sources() {
        let text = read(&top().join(&path));
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
        if !text.starts_with("//! ") {
            wrong.push(format!("{}: does not begin with //!", path.display()));
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn no_file_is_forgotten() {
    let mut wrong = Vec::new();
    let files: BTreeSet<PathBuf> = all_sources().into_iter().collect();
    for path in &files {
        let (Some(dir), Some(stem)) = (path.parent(), path.file_stem()) else {
            continue;
        };
        if matches!(stem.to_str(), Some("main" | "lib")) && dir.iter().count() == 1 {
            continue;
        }
        let stem = stem.to_string_lossy();
        let beside = dir.with_extension("rs");
        let roots = [dir.join("lib.rs"), dir.join("main.rs"), beside];
        let by_name = format!("mod {stem};");
        let by_path = format!("#[path = \"{stem}.rs\"]");
        let named = |f: &PathBuf| {
            files.contains(f) && {
                let text = code(&read(&top().join(f)));
                text.contains(&by_name) || text.contains(&by_path)
            }
        };
        let sibling = files.iter().filter(|f| f.parent() == Some(dir));
        let declared = roots.iter().any(named)
            || sibling
                .into_iter()
                .any(|f| read(&top().join(f)).contains(&by_path));
        if !declared {
            wrong.push(format!("{}: no module of anything", path.display()));
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn words_that_do_not_belong_in_code_are_not_there() {
    let mut wrong = Vec::new();
    for path in all_sources() {
        let text = read(&top().join(&path));
        let mut look = |words: &[(&str, &str)], text: &str| {
            for (n, line) in text.lines().enumerate() {
                for (word, instead) in words.iter().filter(|(w, _)| line.contains(w)) {
                    wrong.push(format!("{}:{}: {word} ({instead})", path.display(), n + 1));
                }
            }
        };
        look(BANNED, &text);
        if !is_test_file(&path) {
            look(TEST_ONLY, &code(production(&text)));
        }
    }
    fail_if_any(&wrong);
}

#[test]
fn packages_stay_few() {
    let lock = read(&top().join("Cargo.lock"));
    let count = lock.lines().filter(|l| *l == "[[package]]").count();
    assert!(
        count <= PACKAGES_MAX,
        "{count} packages in Cargo.lock, {PACKAGES_MAX} allowed: leave one out, or say in the \
         commit why not and raise the ceiling"
    );
}

#[test]
fn dependencies_say_why_they_are_here_and_are_used() {
    let manifest = read(&top().join("Cargo.toml"));
    let code: String = all_sources()
        .iter()
        .map(|p| code(&read(&top().join(p))))
        .collect();
    let mut wrong = Vec::new();
    let mut section = "";
    let mut before = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]")
            && !line.starts_with('#')
            && let Some((name, _)) = line.split_once(" =")
        {
            if !before.starts_with("# ") {
                wrong.push(format!("Cargo.toml: {name}: no comment above says why"));
            }
            if !code.contains(&format!("{}::", name.replace('-', "_"))) {
                wrong.push(format!("Cargo.toml: {name}: nothing uses it"));
            }
        }
        before = line;
    }
    fail_if_any(&wrong);
}

#[test]
fn the_top_level_holds_nothing_else() {
    let mut wrong = Vec::new();
    for e in fs::read_dir(top()).expect("the top") {
        let name = e.expect("an entry").file_name();
        let name = name.to_string_lossy();
        if !TOP.contains(&&*name) && !matches!(&*name, ".git" | "target") {
            wrong.push(format!("{name}: does not belong at the top level"));
        }
    }
    for name in TOP {
        if !top().join(name).exists() {
            wrong.push(format!("{name}: is missing"));
        }
    }
    fail_if_any(&wrong);
}
