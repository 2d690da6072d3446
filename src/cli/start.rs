//! `mount` and `serve`: attach to the node that runs, or become one, in front or behind.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::args::{DETACHED, Node};
use super::screen::{Screen, facts};
use super::{Process, folder, logging};
use crate::config::Options;
use crate::control::client::Client;
use crate::control::failure::{Answer, Code, Failure};
use crate::control::lock::{LockError, StateLock};
use crate::control::readiness::{Event, Pipe, Readiness, Starter, Watch};
use crate::control::wire::Attach;

/// A log larger than this is put aside when a node starts.
const LOG_BYTES_MAX: u64 = 16 << 20;

pub(super) fn start(
    args: &Node,
    dir: Option<PathBuf>,
    mount: &[String],
    process: Process<'_>,
) -> Answer<()> {
    let (mut options, names_volume) = args.options(dir, mount)?;
    if let Some(dir) = &options.dir {
        options.dir = Some(folder::prepare(dir)?);
    }
    if args.detached {
        return behind(options, args.yes.clone(), process);
    }
    if let Some(client) = Client::find(&options.state)? {
        return running(client, options, names_volume, args.foreground);
    }
    if args.foreground {
        in_front(options, args.yes.clone(), process)
    } else {
        in_background(&options, process)
    }
}

/// A node runs on this state: ask it to mount one more folder.
fn running(
    mut client: Client,
    options: Options,
    names_volume: bool,
    foreground: bool,
) -> Answer<()> {
    let dir = match options.dir {
        Some(dir) if !foreground => dir,
        _ => {
            let pid = StateLock::holder(&options.state);
            let dir = options.state;
            return Err(LockError::InUse { dir, pid }.into());
        }
    };
    if !options.join.is_empty() {
        Screen::new().tell(&Event::Note {
            text: "a node runs here already: it mounts the folder; --join has no effect".to_owned(),
        });
    }
    let ready = client.attach(Attach {
        dir,
        volume: names_volume.then_some(options.volume),
        read_only: options.read_only,
        options: options.mount,
    })?;
    facts(&ready)
}

/// Runs the node in this process, and has it tell the starter if it could not start.
fn run(options: Options, readiness: Readiness, process: Process<'_>) -> Answer<()> {
    let run = || process.daemon.run(options, readiness.clone());
    let done = super::caught(run);
    match &done {
        Ok(()) => readiness.failed(Failure::failed("the node ended before it was ready")),
        Err(failure) => {
            tracing::error!(hint = failure.hint.as_deref(), "{}", failure.what);
            readiness.failed(failure.clone());
        }
    }
    done
}

fn in_front(options: Options, yes: Option<String>, process: Process<'_>) -> Answer<()> {
    logging::start(&options)?;
    let readiness = Readiness::new(Arc::new(Screen::new()), yes);
    run(options, readiness, process)
}

/// The copy of `cellfs mount` that is the node.
fn behind(options: Options, yes: Option<String>, process: Process<'_>) -> Answer<()> {
    let pipe = Pipe::from_stdin()
        .map_err(|e| Failure::usage(format!("{DETACHED} is for cellfs itself: {e}")))?;
    let readiness = Readiness::new(Arc::new(pipe), yes);
    let told = |f: Failure| {
        readiness.failed(f.clone());
        f
    };
    logging::start(&options).map_err(told)?;
    // Fails only for a leader of a process group, which a fresh child is not.
    let _ = rustix::process::setsid();
    std::env::set_current_dir("/")
        .map_err(|e| Failure::failed(format!("/: {e}")))
        .map_err(told)?;
    run(options, readiness, process)
}

/// Starts a copy of this process as the node and waits until it is ready.
fn in_background(options: &Options, process: Process<'_>) -> Answer<()> {
    let log = log_file(&options.state)?;
    let cannot = |e: io::Error| Failure::failed(format!("the node cannot be started: {e}"));
    let (mut watch, line) = Watch::pair().map_err(cannot)?;
    let mut child = (process.respawn)(&for_the_copy(process.args))
        .and_then(|mut command| {
            // Not as arguments, which every user of the machine can read.
            if let Some(token) = &options.token {
                command.env("CELLFS_TOKEN", token);
            }
            if !options.join.is_empty() {
                command.env("CELLFS_JOIN", options.join.join(","));
            }
            command
                .stdin(Stdio::from(line))
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
        })
        .map_err(cannot)?;
    let screen = Screen::new();
    loop {
        let event = watch.next_event().map_err(cannot)?;
        if let Some(event) = &event {
            screen.tell(event);
        }
        match event {
            Some(Event::Ready(_)) => return Ok(()),
            Some(Event::Failed(failure)) => {
                let _ = ended(&mut child, Duration::from_secs(10));
                let log = || Some(log_hint(&options.state));
                let hint = failure.hint.or_else(log);
                return Err(Failure { hint, ..failure });
            }
            Some(Event::Confirm { code }) => {
                let confirmed = screen.ask(&code);
                watch.reply(confirmed).map_err(cannot)?;
            }
            Some(_) => {}
            None => return Err(died(&mut child, &options.state)),
        }
    }
}

/// The arguments of the copy that is the node: without tokens and tickets.
fn for_the_copy(args: &[OsString]) -> Vec<OsString> {
    const SECRET: [&str; 2] = ["--token", "--join"];
    let mut copy: Vec<OsString> = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            copy.push(word.clone());
            copy.extend(words.cloned());
            break;
        }
        let text = word.to_string_lossy();
        if SECRET.contains(&text.as_ref()) {
            words.next();
        } else if !SECRET
            .iter()
            .any(|s| text.strip_prefix(s).is_some_and(|v| v.starts_with('=')))
        {
            copy.push(word.clone());
        }
    }
    copy.insert(copy.len().min(1), DETACHED.into());
    copy
}

/// A node that went without a word.
fn died(child: &mut Child, state: &Path) -> Failure {
    let how = ended(child, Duration::from_secs(10))
        .map_or_else(|| "it closed its line".to_owned(), |s| s.to_string());
    let code = match ended(child, Duration::ZERO).and_then(|s| s.code()) {
        Some(n) => u8::try_from(n)
            .ok()
            .map(Code::from)
            .filter(|c| *c != Code::Ok)
            .unwrap_or(Code::Failed),
        None => Code::Failed,
    };
    Failure::new(code, format!("the node ended before it was ready ({how})")).hint(log_hint(state))
}

fn log_hint(state: &Path) -> String {
    format!("its log is {}/log", state.display())
}

fn ended(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let begin = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if begin.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return None,
        }
    }
}

fn log_file(state: &Path) -> Answer<File> {
    let cannot = |e: io::Error| {
        Failure::failed(format!("state {} cannot be used: {e}", state.display()))
            .hint("choose a directory that you may write: --state DIR")
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(cannot)?;
    let path = state.join("log");
    if std::fs::metadata(&path).is_ok_and(|m| m.len() > LOG_BYTES_MAX) {
        std::fs::rename(&path, state.join("log.old")).map_err(cannot)?;
    }
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_gets_no_secrets_as_arguments() {
        let copy = |words: &str| {
            let args: Vec<OsString> = words.split(' ').map(Into::into).collect();
            let copy = for_the_copy(&args);
            let words: Vec<_> = copy.iter().filter_map(|w| w.to_str()).collect();
            words.join(" ")
        };
        assert_eq!(
            copy("mount --join T1 --join=T2 /mnt --token X --token=Y --name n"),
            "mount --detached /mnt --name n"
        );
        assert_eq!(copy("mount -- --join"), "mount --detached -- --join");
        assert_eq!(copy("serve"), "serve --detached");
    }
}
