//! `cellfs add`, `get` and `object stat`: bytes by their ids.
//!
//! Files are read and written here, as the user who runs the command, and go through the socket.
//! Invariant: what `get` writes has its name only when all of it is there, is what the id says, and
//! is on the disk ([`super::beside`]). No threads.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use sha2::Digest;

use super::args::objects::{Add, Get, Stat};
use super::beside::Beside;
use super::output::Out;
use super::paths::quoted;
use crate::base::cid::Cid;
use crate::control::client::Client;
use crate::control::failure::{Answer, Code, Failure};
use crate::control::wire::{AddTo, ObjectOf};

/// A file whose name is this is standard input or output.
const STANDARD: &str = "-";

/// A failure that says of which file, unless it is the node's.
fn named<'a>(path: &'a Path) -> impl Fn(io::Error) -> Failure + 'a {
    move |e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Code::BrokenPipe, e),
        _ => Failure::failed(format!("{}: {e}", quoted(path))),
    }
}

/// Opens a file to be added; nothing but files has bytes that end.
pub(super) fn open(path: &Path) -> Answer<File> {
    let file = File::open(path).map_err(named(path))?;
    let kind = file.metadata().map_err(named(path))?.file_type();
    if kind.is_dir() {
        let f = Failure::usage(format!("{} is a directory", quoted(path)));
        return Err(f.hint(format!("all files in it: cellfs import {}", quoted(path))));
    }
    Ok(file)
}

pub(super) fn add(args: &Add) -> Answer<()> {
    let volume = args.volume.name()?;
    let mut client = Client::connect(&args.state.dir())?;
    let what = AddTo { volume };
    let added = if args.file.as_os_str() == STANDARD {
        client.add(what, &mut io::stdin().lock())?
    } else {
        client.add(what, &mut open(&args.file)?)?
    };
    Out::new().line(added.id)
}

/// Hashes what goes through.
struct Hashed<W> {
    to: W,
    hash: sha2::Sha256,
    length: u64,
}

impl<W: Write> Hashed<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            hash: sha2::Sha256::new(),
            length: 0,
        }
    }

    /// Fails unless what went through is what was asked for. A git object's hash was looked at by
    /// the node.
    fn check(self, id: &Cid, length: u64) -> Answer<()> {
        let is_it = match id {
            Cid::File(sha256) => *sha256 == <[u8; 32]>::from(self.hash.finalize()),
            Cid::Git(_) => true,
        };
        if is_it && self.length == length {
            return Ok(());
        }
        let what = format!("what the node has is not {id}: the disk may have damaged it");
        Err(Failure::failed(what).hint("add it again on a node that has the file"))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.to.write(buf)?;
        self.hash.update(buf.get(..n).unwrap_or_default());
        self.length += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// What the client says of the file that it writes to has no name in it.
fn into(path: &Path, f: Failure) -> Failure {
    let of_file = f.hint.is_none() && f.code == Code::Failed;
    match of_file {
        true => Failure::failed(format!("{}: {}", quoted(path), f.what)),
        false => f,
    }
}

fn refuse_what_is_there(args: &Get) -> Answer<()> {
    let out = &args.out;
    match out.symlink_metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(named(out)(e)),
        Ok(m) if !m.is_file() => Err(Failure::failed(format!(
            "{} is there and is no file",
            quoted(out)
        ))),
        Ok(_) if args.force => Ok(()),
        Ok(_) => Err(is_there(out)),
    }
}

fn is_there(out: &Path) -> Failure {
    Failure::failed(format!("{} is there", quoted(out))).hint("to replace it: --force")
}

pub(super) fn get(args: &Get) -> Answer<()> {
    let what = ObjectOf {
        volume: args.volume.name()?,
        id: args.id,
    };
    let mut client = Client::connect(&args.state.dir())?;
    if args.out.as_os_str() == STANDARD {
        let mut to = Hashed::new(io::stdout().lock());
        let length = client.get(what, &mut to)?;
        to.flush().map_err(named(&args.out))?;
        return to.check(&args.id, length);
    }
    refuse_what_is_there(args)?;
    let beside = Beside::new(&args.out).map_err(named(&args.out))?;
    let mut to = Hashed::new(beside.file());
    let length = client.get(what, &mut to);
    let length = length.map_err(|f| into(&args.out, f))?;
    to.check(&args.id, length)?;
    beside.persist(args.force).map_err(|e| match e.kind() {
        io::ErrorKind::AlreadyExists => is_there(&args.out),
        _ => named(&args.out)(e),
    })
}

pub(super) fn stat(args: &Stat) -> Answer<()> {
    let what = ObjectOf {
        volume: args.volume.name()?,
        id: args.id,
    };
    let o = Client::connect(&args.show.state.dir())?.object(what)?;
    let mut out = Out::new();
    if args.show.json {
        return out.json(None, &o);
    }
    let here = match o.length_here {
        n if n == o.length => "all".to_owned(),
        n => format!("{n} of {} bytes", o.length),
    };
    let mut rows = vec![
        vec!["id".to_owned(), o.id.to_string()],
        vec!["kind".to_owned(), o.kind],
        vec!["length".to_owned(), format!("{} bytes", o.length)],
    ];
    if let (Some(all), Some(some)) = (o.pieces, o.pieces_here) {
        let text = match some == all {
            true => all.to_string(),
            false => format!("{all}, {some} of them here"),
        };
        rows.push(vec!["pieces".to_owned(), text]);
    }
    rows.push(vec!["here".to_owned(), here]);
    out.table(&["", ""], &rows)
}
