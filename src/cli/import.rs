//! `cellfs import`: the bytes of all files below a directory, several at a time.
//!
//! The record lists what is done, a line each, `ID<TAB>PATH<TAB>SIZE<TAB>TIME`: the id, the path
//! with `\t`, `\n`, `\r`, `\\` and `\xHH` for what would break the line or is no UTF-8, and the
//! file's length and time of change (nanoseconds since 1970) as they were. Its last line may be cut
//! off. Invariant: a line is written only after the node has the bytes on its disk, and counts
//! after the record was synced. Threads: one reads the directory and writes the record, others add.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::args::objects::Import;
use super::objects;
use super::output::{Out, visible};
use super::paths::{lexical, quoted};
use crate::base::cid::Cid;
use crate::base::id::VolumeName;
use crate::control::client::Client;
use crate::control::failure::{Answer, Code, Failure};
use crate::control::wire::AddTo;

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// Files that were found and wait.
const AHEAD: usize = 64;
/// Lines that are written with one sync, at most.
const LINES_AT_ONCE: usize = 256;

/// What each line begins with: an id.
const BEGIN: &[u8] = b"bafkrei";

/// How a file is while its bytes are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stand {
    size: u64,
    time_ns: i128,
}

impl Stand {
    fn of(m: &Metadata) -> Self {
        Self {
            size: m.len(),
            time_ns: i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec()),
        }
    }
}

fn escaped(path: &Path) -> String {
    let mut out = String::new();
    for part in path.as_os_str().as_bytes().utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\t' => out += "\\t",
                '\n' => out += "\\n",
                '\r' => out += "\\r",
                '\\' => out += "\\\\",
                c => out.push(c),
            }
        }
        for b in part.invalid() {
            out += &format!("\\x{b:02x}");
        }
    }
    out
}

fn unescaped(text: &str) -> Option<PathBuf> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'\\' {
            out.push(*first);
            continue;
        }
        let (kind, after) = rest.split_first()?;
        rest = after;
        out.push(match kind {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'\\' => b'\\',
            b'x' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(PathBuf::from(std::ffi::OsString::from_vec(out)))
}

fn line(id: &Cid, path: &Path, stand: Stand) -> String {
    let path = escaped(path);
    format!("{id}\t{path}\t{}\t{}\n", stand.size, stand.time_ns)
}

fn parse(line: &str) -> Option<(PathBuf, Stand)> {
    let mut fields = line.split('\t');
    let mut next = || fields.next();
    next()?.parse::<Cid>().ok()?;
    let path = unescaped(next()?)?;
    let size = next()?.parse().ok()?;
    let time_ns = next()?.parse().ok()?;
    next().is_none().then_some((path, Stand { size, time_ns }))
}

/// What is done.
type Known = HashMap<PathBuf, Stand>;

/// The file that says what is done.
#[derive(Debug)]
struct Record {
    path: PathBuf,
    file: File,
}

impl Record {
    /// With what it says.
    fn open(path: &Path) -> Answer<(Self, Known)> {
        let failed = |e: io::Error| Failure::failed(format!("the record {}: {e}", quoted(path)));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        // Two at once would write over one another.
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(
            |_| Failure::failed(format!("another import has the record {}", quoted(path))),
        )?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).map_err(failed)?;
        let end = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        // Whoever names another file by mistake keeps it.
        let none = |n: usize| {
            let what = format!("line {n} of {} is none of a record", quoted(path));
            Err(Failure::failed(what).hint("name another file: --record FILE"))
        };
        let torn = bytes.split_off(end);
        let begins = torn.get(..torn.len().min(BEGIN.len())).unwrap_or_default();
        if !BEGIN.starts_with(begins) {
            return none(1 + bytes.iter().filter(|b| **b == b'\n').count());
        }
        let mut done = Known::new();
        for (n, one) in bytes.split(|b| *b == b'\n').enumerate() {
            let parsed = std::str::from_utf8(one).ok().and_then(parse);
            match parsed {
                Some((path, stand)) => done.insert(path, stand),
                None if one.is_empty() => None,
                None => return none(n + 1),
            };
        }
        file.set_len(end as u64).map_err(failed)?;
        file.seek(io::SeekFrom::End(0)).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty());
        let dir = File::open(dir.unwrap_or_else(|| Path::new("."))).map_err(failed)?;
        dir.sync_all().map_err(failed)?;
        let path = lexical(path);
        Ok((Self { path, file }, done))
    }

    fn add(&mut self, lines: &str) -> Answer<()> {
        let written = self.file.write_all(lines.as_bytes());
        let synced = written.and_then(|()| self.file.sync_data());
        synced.map_err(|e| Failure::failed(format!("the record {}: {e}", quoted(&self.path))))
    }
}

/// Where and how files are added.
#[derive(Debug)]
struct Way {
    state: PathBuf,
    volume: Option<VolumeName>,
    retry: u8,
}

impl Way {
    fn once(&self, path: &Path, client: &mut Option<Client>) -> Answer<(Cid, Stand)> {
        let mut file = objects::open(path)?;
        let stand = |file: &File| {
            let m = file.metadata();
            m.map(|m| Stand::of(&m)).map_err(Failure::failed)
        };
        let before = stand(&file)?;
        let volume = self.volume.clone();
        let mut c = match client.take() {
            Some(c) => c,
            None => Client::connect(&self.state)?,
        };
        let added = c.add(AddTo { volume }, &mut file)?;
        *client = Some(c);
        if stand(&file)? != before || added.length != before.size {
            return Err(Failure::failed("it changed while it was read"));
        }
        Ok((added.id, before))
    }

    fn add(&self, path: &Path, client: &mut Option<Client>) -> Answer<(Cid, Stand)> {
        let mut tried = 0;
        loop {
            match self.once(path, client) {
                Err(_) if tried < self.retry => {
                    tried += 1;
                    std::thread::sleep(AGAIN);
                }
                done => return done,
            }
        }
    }
}

/// Finds files, in the order of their names; what is not to be done is counted.
struct Walk<'a> {
    top: PathBuf,
    todo: Vec<PathBuf>,
    known: &'a Known,
    /// The record may lie among the files.
    except: Option<PathBuf>,
    skipped: u64,
    failed: Vec<(PathBuf, Failure)>,
}

impl Walk<'_> {
    fn next(&mut self) -> Option<PathBuf> {
        while let Some(path) = self.todo.pop() {
            match self.look(&path) {
                Ok(true) => return Some(path),
                Ok(false) => {}
                Err(e) => self.failed.push((path, Failure::failed(e))),
            }
        }
        None
    }

    /// Whether it is a file that is not done. Links are not followed, but if one is the top.
    fn look(&mut self, path: &Path) -> io::Result<bool> {
        let m = match path == self.top {
            true => path.metadata()?,
            false => path.symlink_metadata()?,
        };
        if m.is_dir() {
            let mut inside = Vec::new();
            for e in std::fs::read_dir(path)? {
                inside.push(e?.path());
            }
            inside.sort_unstable_by(|a, b| b.cmp(a));
            self.todo.extend(inside);
            return Ok(false);
        }
        if !m.is_file() || self.except.as_deref() == Some(path) {
            return Ok(false);
        }
        let is_done = self.known.get(path) == Some(&Stand::of(&m));
        self.skipped += u64::from(is_done);
        Ok(!is_done)
    }
}

/// What became of a file.
type Done = (PathBuf, Answer<(Cid, Stand)>);

/// Takes paths from the others' queue until it ends.
fn work(way: &Way, paths: &Mutex<Receiver<PathBuf>>, tell: &SyncSender<Done>) {
    let mut client = None;
    loop {
        let next = paths.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(path) = next else { return };
        let added = way.add(&path, &mut client);
        if tell.send((path, added)).is_err() {
            return;
        }
    }
}

pub(super) fn import(args: &Import) -> Answer<()> {
    let dir = lexical(&args.dir);
    if !dir.is_dir() {
        let what = format!("{} is no directory", quoted(&args.dir));
        return Err(Failure::usage(what).hint("one file alone: cellfs add FILE"));
    }
    let way = Way {
        state: args.state.dir(),
        volume: args.volume.name()?,
        retry: args.retry,
    };
    // That no node runs is said once.
    drop(Client::connect(&way.state)?);
    let opened = args.record.as_deref().map(Record::open);
    let (mut record, known) = opened.transpose()?.unzip();
    let known = known.unwrap_or_default();
    let walk = Walk {
        top: dir.clone(),
        todo: vec![dir],
        known: &known,
        except: record.as_ref().map(|r: &Record| r.path.clone()),
        skipped: 0,
        failed: Vec::new(),
    };
    let (mut tally, end, walk) = add_all(&way, args.parallel, walk, &mut record);
    tally.skipped = walk.skipped;
    tally.failed.extend(walk.failed);
    tally.tell();
    end?;
    match tally.failed.len() {
        0 => Ok(()),
        1 => Err(Failure::failed("one file was not added")),
        n => Err(Failure::failed(format!("{n} files were not added"))),
    }
    .map_err(|f| f.hint("the same command goes on with them, if it has a --record"))
}

/// Adds what is found, until all is done, or the node or the record is gone.
fn add_all<'a>(
    way: &Way,
    parallel: u8,
    mut walk: Walk<'a>,
    record: &mut Option<Record>,
) -> (Tally, Answer<()>, Walk<'a>) {
    let mut tally = Tally::default();
    let (give, paths) = sync_channel(AHEAD);
    let (tell, done) = sync_channel(AHEAD);
    let paths = Arc::new(Mutex::new(paths));
    std::thread::scope(|s| {
        for _ in 0..parallel {
            let (paths, tell) = (paths.clone(), tell.clone());
            s.spawn(move || work(way, &paths, &tell));
        }
        drop((paths, tell));
        let walking = s.spawn(move || {
            while let Some(path) = walk.next() {
                // They end early when nobody takes what they did.
                if give.send(path).is_err() {
                    break;
                }
            }
            walk
        });
        let end = tally.take(done, record);
        match walking.join() {
            Ok(walk) => (tally, end, walk),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// What became of all files.
#[derive(Debug, Default)]
struct Tally {
    added: u64,
    skipped: u64,
    failed: Vec<(PathBuf, Failure)>,
}

impl Tally {
    fn take(&mut self, done: Receiver<Done>, record: &mut Option<Record>) -> Answer<()> {
        let mut out = Out::new();
        while let Ok(first) = done.recv() {
            let (mut lines, mut shown) = (String::new(), Vec::new());
            let more = done.try_iter().take(LINES_AT_ONCE);
            let mut gone = None;
            for (path, added) in std::iter::once(first).chain(more) {
                match added {
                    Ok((id, stand)) => {
                        lines += &line(&id, &path, stand);
                        shown.push(format!("{id}\t{}", escaped(&path)));
                    }
                    // All others would fail, too.
                    Err(e) if e.code == Code::Unreachable => gone = Some(e),
                    Err(e) => self.failed.push((path, e)),
                }
            }
            if let Some(record) = record {
                record.add(&lines)?;
            }
            self.added += shown.len() as u64;
            if !shown.is_empty() {
                out.line(shown.join("\n"))?;
            }
            if let Some(e) = gone {
                return Err(e);
            }
        }
        Ok(())
    }

    fn tell(&self) {
        let mut err = io::stderr().lock();
        for (path, f) in &self.failed {
            let path = visible(&path.display().to_string());
            let what = visible(&f.what);
            let said = match what.contains(&path) {
                true => what,
                false => format!("{path}: {what}"),
            };
            let _ = writeln!(err, "failed: {said}");
        }
        let _ = writeln!(
            err,
            "{} added, {} known from the record, {} failed",
            self.added,
            self.skipped,
            self.failed.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_record_are_read_as_they_were_written() {
        let id = Cid::File([9; 32]);
        let stand = Stand {
            size: 7,
            time_ns: -5,
        };
        let strange: [&[u8]; 5] = [
            b"/a b",
            b"/t\tn\nr\r\\x41",
            b"/\xff\xfe/x",
            "/é".as_bytes(),
            b"",
        ];
        for bytes in strange {
            let path = PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
            let text = line(&id, &path, stand);
            let text = text.strip_suffix('\n').unwrap();
            assert!(!text.contains(['\n', '\r']));
            assert_eq!(parse(text), Some((path, stand)));
            for (n, _) in text.char_indices() {
                // What is cut off is no other path.
                let other = parse(&text[..n]);
                assert!(other.is_none_or(|(p, _)| line(&id, &p, stand).starts_with(&text[..90])));
            }
        }
        for text in [
            "",
            "x",
            "\t\t\t",
            "bafkrei\t/a\t1\t1",
            &format!("{id}\t\\q\t1\t1"),
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_record_goes_on_behind_its_last_whole_line_and_no_other_file_is_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record");
        let stand = Stand {
            size: 1,
            time_ns: 2,
        };
        let one = line(&Cid::File([1; 32]), Path::new("/one"), stand);
        let two = line(&Cid::File([2; 32]), Path::new("/two"), stand);
        std::fs::write(&path, format!("{one}{}", &two[..two.len() - 1])).unwrap();
        let (mut record, known) = Record::open(&path).unwrap();
        assert_eq!(known.len(), 1);
        assert!(
            Record::open(&path)
                .unwrap_err()
                .what
                .contains("another import")
        );
        record.add(&two).unwrap();
        drop(record);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            format!("{one}{two}")
        );
        assert_eq!(Record::open(&path).unwrap().1.len(), 2);
        let text = dir.path().join("text");
        for diary in ["dear diary\n", "dear diary", "bad", &format!("{one}d")] {
            std::fs::write(&text, diary).unwrap();
            assert!(Record::open(&text).is_err());
            assert_eq!(std::fs::read_to_string(&text).unwrap(), diary);
        }
        for torn in ["", "b", "bafkrei", &format!("{one}{}", &two[..30])] {
            std::fs::write(&text, torn).unwrap();
            drop(Record::open(&text).unwrap());
            assert!(torn.starts_with(&std::fs::read_to_string(&text).unwrap()));
        }
    }
}
