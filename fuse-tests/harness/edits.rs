//! Edits that can be accounted for: every line that is written is there once, says who wrote it,
//! and is in a ledger, together with which lines its writer had read and took away.
//!
//! A writer reads before it replaces, as editors do, and knows afterwards whether what it replaced
//! is what it had read: through the same descriptor, by the inode number, or because the inode
//! that it read has lost its last name. Where that fails, nobody knows what was replaced: such an
//! edit is *blind*, and counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags};

/// Length of a line with its end.
pub(crate) const LINE: usize = 32;
/// Files are kept about so short.
const LINES_MAX: usize = 60;
/// What begins a file that is no text, one line long.
pub(crate) const BINARY: &[u8; LINE] = b"\0 a file of records, not a text\n";

/// A line: who wrote it, and which of its writer's it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Token {
    pub(crate) writer: u16,
    pub(crate) number: u32,
}

impl Token {
    pub(crate) fn line(self) -> [u8; LINE] {
        let named = format!("+{:04x}-{:08x}-", self.writer, self.number);
        let hash = blake3::hash(named.as_bytes()).to_hex();
        let text = format!("{named}{}\n", &hash.as_str()[..16]);
        text.as_bytes().try_into().expect("32 bytes")
    }

    /// The token of a line without its end.
    pub(crate) fn of(line: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(line).ok()?;
        let mut parts = text.strip_prefix('+')?.split('-');
        let writer = u16::from_str_radix(parts.next()?, 16).ok()?;
        let number = u32::from_str_radix(parts.next()?, 16).ok()?;
        let token = Self { writer, number };
        (token.line().get(..LINE - 1)? == line).then_some(token)
    }
}

/// The tokens of a file, and the lines that nobody wrote.
pub(crate) fn tokens(bytes: &[u8]) -> (Vec<Token>, Vec<String>) {
    let mut torn = Vec::new();
    let found = bytes
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty() && *l != &BINARY[..LINE - 1])
        .filter_map(|l| {
            let token = Token::of(l);
            if token.is_none() {
                torn.push(String::from_utf8_lossy(l).into_owned());
            }
            token
        })
        .collect();
    (found, torn)
}

fn text(of: &[Token]) -> Vec<u8> {
    of.iter().flat_map(|t| t.line()).collect()
}

/// Numbers that follow from a seed (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) >> 1).expect("63 bits") % n.max(1)
    }

    pub(crate) fn percent(&mut self, of: usize) -> bool {
        self.below(100) < of
    }
}

/// What was written and what was taken away, by all writers.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Book>);

/// See [`Ledger`].
#[derive(Debug, Default, Clone)]
pub(crate) struct Book {
    /// Acknowledged lines, with what wrote them.
    pub(crate) made: BTreeMap<Token, String>,
    /// Lines that somebody who had read them took away, or may have: who, and how.
    pub(crate) gone: BTreeMap<Token, (u16, String)>,
    /// Paths at which an edit replaced nobody knows what.
    pub(crate) blind: Vec<PathBuf>,
    /// How often what was done, and how it ended.
    pub(crate) counts: BTreeMap<String, usize>,
}

/// What an edit does: the lines that were read, those that are new, and those left.
#[derive(Debug, Default, Clone)]
pub(crate) struct Edit {
    seen: Vec<Token>,
    made: Vec<Token>,
    left: BTreeSet<Token>,
}

impl Ledger {
    pub(crate) fn book(&self) -> Book {
        self.0.lock().expect("unpoisoned").clone()
    }

    /// Enters an edit: `Ok` says whether what was replaced is what had been read.
    fn enter(&self, who: u16, what: &str, path: &Path, edit: &Edit, done: &io::Result<bool>) {
        let mut book = self.0.lock().expect("unpoisoned");
        let end = match done {
            Ok(true) => "done".to_owned(),
            Ok(false) => "blind".to_owned(),
            Err(e) => format!("failed: {}", e.kind()),
        };
        *book.counts.entry(format!("{what}: {end}")).or_default() += 1;
        let about = format!("{what} {} ({end})", path.display());
        if done.is_ok() {
            let made = edit.made.iter().map(|t| (*t, about.clone()));
            book.made.extend(made);
        }
        if matches!(done, Ok(false)) {
            book.blind.push(path.to_owned());
        }
        let taken = edit.seen.iter().filter(|t| {
            // What failed may have taken away everything.
            done.is_err() || !edit.left.contains(t)
        });
        let taken: Vec<_> = taken.map(|t| (*t, (who, about.clone()))).collect();
        book.gone.extend(taken);
    }
}

/// How an editor saves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    InPlace,
    Renamed,
    Truncated,
    Append,
}

pub(crate) const ALL: [How; 4] = [How::InPlace, How::Renamed, How::Truncated, How::Append];

/// Somebody who edits.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    ledger: &'a Ledger,
    pub(crate) rng: Rng,
    id: u16,
    next: u32,
    /// Percent of the edits that take lines away.
    pub(crate) greed: usize,
    /// A file with more lines is cut.
    pub(crate) most: usize,
    /// So many last lines are left alone.
    pub(crate) tail: usize,
    /// Whether to stop now and then in the middle of an edit.
    pub(crate) dawdles: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(ledger: &'a Ledger, id: u16, first: u32, seed: u64) -> Self {
        let rng = Rng(seed ^ (u64::from(id) << 32));
        Self {
            ledger,
            rng,
            id,
            next: first,
            greed: 30,
            most: LINES_MAX,
            tail: 0,
            dawdles: false,
        }
    }

    pub(crate) fn token(&mut self) -> Token {
        self.next += 1;
        Token {
            writer: self.id,
            number: self.next,
        }
    }

    /// Sometimes a moment passes, seldom so long that an open file is committed.
    fn dawdle(&mut self) {
        if self.dawdles {
            let us = match self.rng.below(200) {
                0 => 1_300_000,
                1..60 => self.rng.below(4_000),
                _ => return,
            };
            std::thread::sleep(Duration::from_micros(us as u64));
        }
    }

    /// What to write in place of these lines.
    fn change(&mut self, seen: &[Token]) -> (Edit, Vec<Token>) {
        let mut lines = seen.to_vec();
        let token = self.token();
        if lines.len() > self.most {
            let from = self.rng.below(lines.len() / 2);
            lines.drain(from..from + lines.len() / 2);
        }
        let room = lines.len().saturating_sub(self.tail);
        if room > 0 && self.rng.percent(self.greed) {
            lines[self.rng.below(room)] = token;
        } else {
            lines.insert(self.rng.below(room + 1), token);
        }
        (edit(seen, &[token], &lines), lines)
    }

    /// Makes a file that is not there, or fails.
    pub(crate) fn create(&mut self, path: &Path) -> io::Result<()> {
        let lines: Vec<Token> = (0..=self.rng.below(8)).map(|_| self.token()).collect();
        let done = File::create_new(path).and_then(|mut f| f.write_all(&text(&lines)));
        let entry = edit(&[], &lines, &lines);
        self.enter("create", path, &entry, done.map(|()| true))
    }

    /// One edit of a file.
    pub(crate) fn edit(&mut self, path: &Path, how: How) -> io::Result<()> {
        let mut entry = Edit::default();
        let done = match how {
            How::InPlace => self.in_place(path, &mut entry),
            How::Renamed => self.renamed(path, &mut entry),
            How::Truncated => self.truncated(path, &mut entry),
            How::Append => self.append(path, &mut entry),
        };
        self.enter(&format!("{how:?}"), path, &entry, done)
    }

    fn in_place(&mut self, path: &Path, entry: &mut Edit) -> io::Result<bool> {
        let f = OpenOptions::new().read(true).write(true).open(path)?;
        let seen = read(&f)?;
        let (e, lines) = self.change(&seen);
        *entry = e;
        let same = seen.iter().zip(&lines).take_while(|(a, b)| a == b).count();
        let end = if seen.len() == lines.len() {
            same + 1
        } else {
            lines.len()
        };
        self.dawdle();
        f.write_all_at(&text(&lines[same..end]), (same * LINE) as u64)?;
        if lines.len() < seen.len() {
            f.set_len((lines.len() * LINE) as u64)?;
        }
        self.sync(&f)?;
        Ok(true)
    }

    fn renamed(&mut self, path: &Path, entry: &mut Edit) -> io::Result<bool> {
        let old = File::open(path)?;
        let (e, lines) = self.change(&read(&old)?);
        *entry = e;
        let tmp = path.with_file_name(format!(".tmp-{:x}-{:x}", self.id, self.next));
        let mut f = File::create_new(&tmp)?;
        f.write_all(&text(&lines))?;
        self.sync(&f)?;
        drop(f);
        self.dawdle();
        fs::rename(&tmp, path)?;
        is_nameless(&old)
    }

    fn truncated(&mut self, path: &Path, entry: &mut Edit) -> io::Result<bool> {
        let old = File::open(path)?;
        let (e, lines) = self.change(&read(&old)?);
        *entry = e;
        let mut f = OpenOptions::new().write(true).truncate(true).open(path)?;
        self.dawdle();
        f.write_all(&text(&lines))?;
        self.sync(&f)?;
        Ok(old.metadata()?.ino() == f.metadata()?.ino())
    }

    fn append(&mut self, path: &Path, entry: &mut Edit) -> io::Result<bool> {
        let mut f = OpenOptions::new().append(true).open(path)?;
        let token = self.token();
        *entry = edit(&[], &[token], &[token]);
        self.dawdle();
        f.write_all(&token.line())?;
        self.sync(&f)?;
        Ok(true)
    }

    /// Writes a line through a descriptor that is kept open, as to a log.
    pub(crate) fn log(&mut self, path: &Path, mut f: &File) -> io::Result<Token> {
        let token = self.token();
        let done = f.write_all(&token.line()).and_then(|()| self.sync(f));
        let entry = edit(&[], &[token], &[token]);
        self.enter("log", path, &entry, done.map(|()| true))?;
        Ok(token)
    }

    /// Writes a record over one of a file of records, through an open descriptor; the one that
    /// was there.
    pub(crate) fn record(&mut self, path: &Path, f: &File, at: usize) -> io::Result<[Token; 2]> {
        let mut old = [0; LINE];
        f.read_exact_at(&mut old, (at * LINE) as u64)?;
        let old = Token::of(&old[..LINE - 1]).ok_or(io::ErrorKind::InvalidData)?;
        let new = self.token();
        self.dawdle();
        let done = f.write_all_at(&new.line(), (at * LINE) as u64);
        let done = done.and_then(|()| self.sync(f)).map(|()| true);
        self.enter("record", path, &edit(&[old], &[new], &[new]), done)?;
        Ok([old, new])
    }

    /// Writes a new file of so many lines or records.
    pub(crate) fn fill(&mut self, path: &Path, lines: usize, binary: bool) -> io::Result<()> {
        let made: Vec<Token> = (0..lines).map(|_| self.token()).collect();
        let head: &[u8] = if binary { BINARY } else { &[] };
        let done = fs::write(path, [head, &text(&made)].concat());
        let entry = edit(&[], &made, &made);
        self.enter("create", path, &entry, done.map(|()| true))
    }

    fn sync(&mut self, f: &File) -> io::Result<()> {
        if self.rng.percent(20) {
            f.sync_all()?;
        }
        Ok(())
    }

    /// Removes a file.
    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let mut entry = Edit::default();
        let done = (|| {
            let old = File::open(path)?;
            entry = edit(&read(&old)?, &[], &[]);
            fs::remove_file(path)?;
            is_nameless(&old)
        })();
        self.enter("remove", path, &entry, done)
    }

    /// Moves a file or directory, possibly over another file.
    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let mut entry = Edit::default();
        let done = (|| {
            let old = File::open(to).ok().filter(|_| to.is_file());
            if let Some(old) = &old {
                entry = edit(&read(old)?, &[], &[]);
            }
            fs::rename(from, to)?;
            match &old {
                Some(old) => is_nameless(old),
                None => Ok(true),
            }
        })();
        self.enter("rename", to, &entry, done)
    }

    /// Edits a text that is kept elsewhere, as in a working tree of git; what to enter once it
    /// counts.
    pub(crate) fn edit_outside(&mut self, path: &Path) -> io::Result<Edit> {
        let seen = tokens(&fs::read(path)?).0;
        let (entry, lines) = self.change(&seen);
        fs::write(path, text(&lines))?;
        Ok(entry)
    }

    pub(crate) fn create_outside(&mut self, path: &Path) -> io::Result<Edit> {
        let token = self.token();
        fs::write(path, token.line())?;
        Ok(edit(&[], &[token], &[token]))
    }

    /// Enters what was done in other ways.
    pub(crate) fn enter(
        &mut self,
        what: &str,
        path: &Path,
        entry: &Edit,
        done: io::Result<bool>,
    ) -> io::Result<()> {
        self.ledger.enter(self.id, what, path, entry, &done);
        done.map(|_| ())
    }
}

/// An edit by the lines before and after.
pub(crate) fn edit(seen: &[Token], made: &[Token], left: &[Token]) -> Edit {
    Edit {
        seen: seen.to_vec(),
        made: made.to_vec(),
        left: left.iter().copied().collect(),
    }
}

fn read(mut f: &File) -> io::Result<Vec<Token>> {
    let mut bytes = Vec::new();
    f.read_to_end(&mut bytes)?;
    Ok(tokens(&bytes).0)
}

/// Whether the inode has lost its last name, as the node knows it and not only the kernel.
fn is_nameless(f: &File) -> io::Result<bool> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let s = rustix::fs::statx(f, c"", flags, StatxFlags::NLINK)?;
    Ok(s.stx_nlink == 0)
}

/// All plain files below a directory.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for e in entries.filter_map(Result::ok) {
            match e.file_type() {
                Ok(t) if t.is_dir() => todo.push(e.path()),
                _ => found.push(e.path()),
            }
        }
    }
    found.sort();
    found
}
