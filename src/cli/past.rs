//! The past and conflicts: conflicts, resolve, merges, log, diff, restore.

use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::args::past::{Conflicts, Diff, Merges, Resolve, Restore};
use super::args::{Log, Volume};
use super::output::{Out, time, visible};
use super::paths::{lexical, quoted};
use super::show::short;
use crate::base::id::VolumeName;
use crate::base::path::VolumePath;
use crate::control::client::Client;
use crate::control::failure::{Answer, Code, Failure};
use crate::control::wire::{
    self, Changed, Checkout, ConflictsOf, DiffOf, Differing, LogOf, MergesOf, Mounted, PathOf,
    ResolveOf, RestoreOf, Take, Version,
};

/// What begins a line that tells versions apart while they are edited.
const MARKS: [&str; 3] = ["<<<<<<< ", "=======", ">>>>>>> "];

/// A path of a volume, by its bytes.
fn bytes(path: &Path) -> Answer<VolumePath> {
    VolumePath::new(path.as_os_str().as_bytes())
        .map_err(|e| Failure::usage(format!("{}: {e}", path.display())))
}

/// A path in a mounted folder is named from its volume's root; any other, if it is relative,
/// is taken to be one already.
fn in_volume(path: &Path, mounts: &[Mounted]) -> Answer<(Option<VolumeName>, VolumePath)> {
    let words = lexical(path);
    let real = match (words.parent(), words.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|p| p.join(name)).ok(),
        _ => None,
    };
    for candidate in [Some(words.as_path()), real.as_deref()]
        .into_iter()
        .flatten()
    {
        let inside = mounts
            .iter()
            .filter_map(|m| Some((m, candidate.strip_prefix(&m.dir).ok()?)))
            .max_by_key(|(m, _)| m.dir.as_os_str().len());
        if let Some((mount, rest)) = inside {
            return Ok((mount.volume.parse().ok(), bytes(rest)?));
        }
    }
    if path.is_absolute() {
        return Err(
            Failure::failed(format!("{} is in no mounted folder", path.display()))
                .hint("cellfs status lists the mounted folders"),
        );
    }
    Ok((None, bytes(path)?))
}

/// What a path on the command line means: with a volume's name, a relative one is of that volume.
pub(super) fn find(client: &mut Client, path: &Path, volume: &Volume) -> Answer<PathOf> {
    let named = volume.name()?;
    if named.is_some() && path.is_relative() {
        return Ok(PathOf {
            volume: named,
            path: bytes(path)?,
        });
    }
    let (volume, path) = in_volume(path, &client.status()?.mounts)?;
    Ok(PathOf {
        volume: volume.or(named),
        path,
    })
}

pub(super) fn log(args: &Log) -> Answer<()> {
    let mut client = Client::connect(&args.show.state.dir())?;
    let mut what = LogOf {
        volume: args.volume.name()?,
        path: None,
        limit: args.limit,
    };
    if let Some(path) = &args.path {
        let of = find(&mut client, path, &args.volume)?;
        what.volume = of.volume;
        what.path = Some(of.path);
    }
    let entries = client.log(what)?;
    let mut out = Out::new();
    if args.show.json {
        return out.json(Some("log"), &entries);
    }
    let paths = entries.iter().any(|e| e.path.is_some());
    let rows: Vec<_> = entries
        .iter()
        .map(|e| {
            let mut row = vec![short(&e.id), time(e.time), e.author.clone()];
            if paths {
                row.extend([e
                    .path
                    .as_ref()
                    .map(VolumePath::to_string)
                    .unwrap_or_default()]);
            }
            row.push(e.summary.clone());
            row
        })
        .collect();
    if paths {
        return out.table(&["COMMIT", "TIME", "AUTHOR", "PATH", "WHAT"], &rows);
    }
    out.table(&["COMMIT", "TIME", "AUTHOR", "WHAT"], &rows)
}

fn whose(v: &Version) -> String {
    match v.name.as_str() {
        "" => short(&v.node),
        name => format!("{name} ({})", short(&v.node)),
    }
}

pub(super) fn conflicts(args: &Conflicts) -> Answer<()> {
    let mut client = Client::connect(&args.show.state.dir())?;
    let mut what = ConflictsOf {
        volume: args.volume.name()?,
        ..ConflictsOf::default()
    };
    if let Some(below) = &args.below {
        let of = find(&mut client, below, &args.volume)?;
        (what.volume, what.below) = (of.volume, of.path);
    }
    let mut all: Vec<wire::Conflict> = Vec::new();
    loop {
        what.skip = all.len() as u64;
        let some = client.conflicts(what.clone())?;
        let end = some.conflicts.is_empty();
        all.extend(some.conflicts);
        if end || all.len() as u64 >= some.total {
            break;
        }
    }
    let mut out = Out::new();
    if args.show.json {
        return out.json(Some("conflicts"), &all);
    }
    let mut rows = Vec::new();
    for c in &all {
        let none = Version {
            path: c.path.clone(),
            ..Version::default()
        };
        let main = c.main.as_ref().unwrap_or(&none);
        for (what, v) in std::iter::once(("main", main)).chain(c.copies.iter().map(|v| ("copy", v)))
        {
            let gone = c.main.is_none() && what == "main";
            rows.push(vec![
                if gone { "gone" } else { what }.to_owned(),
                v.path.to_string(),
                if gone { String::new() } else { whose(v) },
                if gone { String::new() } else { time(v.time) },
                if gone {
                    String::new()
                } else {
                    v.size.to_string()
                },
            ]);
        }
    }
    out.table(&["", "PATH", "FROM", "WRITTEN", "BYTES"], &rows)
}

pub(super) fn resolve(args: &Resolve) -> Answer<()> {
    let mut client = Client::connect(&args.show.state.dir())?;
    let of = find(&mut client, &args.path, &args.volume)?;
    let done = match &args.take {
        Some(take) => client.resolve(ResolveOf {
            take: parse_take(take)?,
            of,
        })?,
        None => edit(&mut client, of)?,
    };
    told(&done, "resolved", args.show.json)
}

fn parse_take(text: &Path) -> Answer<Take> {
    if text.as_os_str() == "main" {
        return Ok(Take::Main);
    }
    if let Some(node) = text.to_str().and_then(|t| t.strip_prefix("node:")) {
        return Ok(Take::Node(node.to_owned()));
    }
    // A path from anywhere: the name is enough.
    let name = text.file_name().unwrap_or_default();
    bytes(Path::new(name)).map(Take::Copy)
}

fn told(done: &Changed, verb: &str, json: bool) -> Answer<()> {
    let mut out = Out::new();
    if json {
        return out.json(None, done);
    }
    let path = match done.path.is_root() {
        true => "the whole folder".to_owned(),
        false => visible(&done.path.to_string()),
    };
    match &done.commit {
        Some(c) => out.line(format_args!("{verb} {path}: commit {}", short(c))),
        None => out.line(format_args!("{path} is so already")),
    }
}

/// Removes what the node wrote out for us.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            let _ = writeln!(io::stderr(), "{}: {e}", self.0.display());
        }
    }
}

fn edit(client: &mut Client, of: PathOf) -> Answer<Changed> {
    let c = client.checkout(of.clone())?;
    let scratch = Scratch(c.dir.clone());
    let fail = |e: io::Error| Failure::failed(format!("{}: {e}", c.result.display()));
    let before = together(&c)?;
    fs::write(&c.result, &before).map_err(fail)?;
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|v| std::env::var_os(v).filter(|e| !e.is_empty()))
        .unwrap_or_else(|| OsString::from("vi"));
    // As git does: the variable is a command line, not only a program.
    let status = Command::new("sh")
        .args(["-c", "exec $0 \"$@\""])
        .arg(&editor)
        .arg(&c.result)
        .status()
        .map_err(|e| Failure::failed(format!("no editor: {e}")).hint("set EDITOR"))?;
    if !status.success() {
        return Err(Failure::failed(format!(
            "the editor ended with {status}; nothing was changed"
        ))
        .hint("set EDITOR to the editor that you use"));
    }
    let after = fs::read(&c.result).map_err(fail)?;
    let marked = |line: &[u8]| {
        let [first, _, last] = MARKS;
        line.starts_with(first.as_bytes()) || line.starts_with(last.as_bytes())
    };
    let keep = |scratch: Scratch, f: Failure| {
        let path = scratch.0.join("result");
        std::mem::forget(scratch);
        Failure {
            what: format!("{}; your text is in {}", f.what, path.display()),
            ..f
        }
    };
    if after.split(|b| *b == b'\n').any(marked) && before != after {
        let f = Failure::failed("lines that tell the versions apart are still there")
            .hint("take them out: cellfs resolve --edit");
        return Err(keep(scratch, f));
    }
    if before == after {
        return Err(
            Failure::failed("nothing was edited, so nothing was changed")
                .hint("take a version as it is: cellfs resolve PATH --take main"),
        );
    }
    let what = ResolveOf {
        of,
        take: Take::Edited {
            file: c.result.clone(),
            seen: c.seen.clone(),
        },
    };
    match client.resolve(what) {
        Ok(done) => Ok(done),
        Err(f) => Err(keep(scratch, f)),
    }
}

/// The versions in one text: what two have in common once, everything else between marks.
fn together(c: &Checkout) -> Answer<Vec<u8>> {
    let all = c.conflict.main.iter().chain(&c.conflict.copies);
    let mut texts = Vec::new();
    for (v, file) in all.zip(&c.files) {
        let text =
            fs::read(file).map_err(|e| Failure::failed(format!("{}: {e}", file.display())))?;
        if v.kind != "file" || text.contains(&0) {
            return Err(Failure::failed(format!("{} is no text", v.path))
                .hint("take one of the versions as it is: cellfs resolve PATH --take COPY"));
        }
        let label = format!("{}: {}, {}", v.path, whose(v), time(v.time));
        texts.push((visible(&label), file, text));
    }
    if let [(a, one, _), (b, other, _)] = texts.as_slice() {
        let merged = Command::new("git")
            .args(["merge-file", "-p", "-q", "-L", a, "-L", "", "-L", b])
            .arg(one)
            .arg("/dev/null")
            .arg(other)
            .stdin(Stdio::null())
            .output();
        // Beyond 127 it is no count of conflicts.
        if let Ok(out) = merged
            && out.status.code().is_some_and(|n| (0..=127).contains(&n))
        {
            return Ok(out.stdout);
        }
    }
    let [first, _, last] = MARKS;
    let mut out = Vec::new();
    for (label, _, text) in texts {
        out.extend_from_slice(format!("{first}{label}\n").as_bytes());
        out.extend_from_slice(&text);
        if !text.ends_with(b"\n") {
            out.push(b'\n');
        }
        out.extend_from_slice(format!("{last}{label}\n").as_bytes());
    }
    Ok(out)
}

pub(super) fn merges(args: &Merges) -> Answer<()> {
    let what = MergesOf {
        volume: args.volume.name()?,
        limit: args.limit,
    };
    let found = Client::connect(&args.show.state.dir())?.merges(what)?;
    let mut out = Out::new();
    if args.show.json {
        return out.json(None, &found);
    }
    for m in &found.merges {
        let path = visible(&m.path.to_string());
        out.line(format_args!("{}  {:<9}  {path}", time(m.time), m.what))?;
        for s in &m.sides {
            let who = if s.name.is_empty() {
                short(&s.node)
            } else {
                s.name.clone()
            };
            out.line(format_args!(
                "    {} of {}: {}",
                visible(&who),
                time(s.time),
                visible(&s.undo)
            ))?;
        }
    }
    if !found.complete {
        let more = "history goes on further back than was looked";
        let _ = writeln!(io::stderr(), "{more}");
    }
    Ok(())
}

pub(super) fn diff(args: &Diff) -> Answer<()> {
    let mut client = Client::connect(&args.state.dir())?;
    let of = find(&mut client, &args.path, &args.volume)?;
    let d = client.diff(DiffOf {
        of,
        a: args.a.clone(),
        b: args.b.clone(),
    })?;
    let scratch = Scratch(d.dir.clone());
    let done = d.paths.iter().try_for_each(|p| one_diff(&d, p));
    drop(scratch);
    done
}

fn one_diff(d: &Differing, path: &VolumePath) -> Answer<()> {
    let side = |name: &str| -> PathBuf {
        let rest = OsString::from_vec(path.as_bytes().to_vec());
        let here = Path::new(name).join(rest);
        match d.dir.join(&here).symlink_metadata() {
            Ok(_) => here,
            Err(_) => "/dev/null".into(),
        }
    };
    let color = if io::stdout().is_terminal() {
        "always"
    } else {
        "never"
    };
    let mut child = Command::new("git")
        .args([
            "--no-pager",
            "diff",
            "--no-index",
            "--no-prefix",
            "--no-ext-diff",
        ])
        .arg(format!("--color={color}"))
        .arg("--")
        .arg(side("a"))
        .arg(side("b"))
        .current_dir(&d.dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CEILING_DIRECTORIES", &d.dir)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| {
            Failure::failed(format!("git cannot be run: {e}")).hint("apt-get install git")
        })?;
    let status = child.wait().map_err(Failure::failed)?;
    match status.code() {
        // 1: they differ.
        Some(0 | 1) => Ok(()),
        None => Err(Failure::new(Code::BrokenPipe, "the reader has gone")),
        _ => Err(Failure::failed(format!("git diff ended with {status}"))),
    }
}

pub(super) fn restore(args: &Restore) -> Answer<()> {
    let mut client = Client::connect(&args.show.state.dir())?;
    let of = find(&mut client, &args.path, &args.volume)?;
    let done = client.restore(RestoreOf {
        of,
        at: args.at.clone(),
    })?;
    if done.commit.is_none() && !args.show.json {
        let path = quoted(&args.path);
        return Out::new().line(format_args!("{path} is as it was at {}", visible(&args.at)));
    }
    told(&done, "restored", args.show.json)?;
    if !args.show.json && done.made + done.changed + done.removed > 1 {
        let n = (done.made, done.changed, done.removed);
        Out::new().line(format_args!(
            "{} came back, {} changed, {} removed",
            n.0, n.1, n.2
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_mounts_are_named_from_the_volumes_root() {
        let mount = |dir: &str, volume: &str| Mounted {
            dir: dir.into(),
            volume: volume.to_owned(),
            read_only: false,
        };
        let mounts = [mount("/mnt/cell", "cell"), mount("/mnt/cell/x", "inner")];
        let find = |p: &str| {
            let (volume, path) = in_volume(Path::new(p), &mounts)?;
            Ok::<_, Failure>((volume.map(String::from), path.to_string()))
        };
        let cell = Some("cell".to_owned());
        let inner = Some("inner".to_owned());
        assert_eq!(
            find("/mnt/cell/a/../b").expect("inside"),
            (cell.clone(), "b".to_owned())
        );
        assert_eq!(find("/mnt/cell").expect("itself"), (cell, String::new()));
        assert_eq!(
            find("/mnt/cell/x/y").expect("inside"),
            (inner, "y".to_owned())
        );
        assert_eq!(find("src/a").expect("relative"), (None, "src/a".to_owned()));
        assert!(find("/etc/passwd").is_err());
        assert!(find("../x/../../y").is_err());
    }

    #[test]
    fn versions_are_named_in_three_ways() {
        let take = |t: &str| parse_take(Path::new(t)).expect("a version");
        assert_eq!(take("main"), Take::Main);
        assert_eq!(take("node:n1"), Take::Node("n1".to_owned()));
        let copy = VolumePath::new(b"f.conflict-01234567").expect("a name");
        assert_eq!(take("/mnt/cell/d/f.conflict-01234567"), Take::Copy(copy));
    }
}
