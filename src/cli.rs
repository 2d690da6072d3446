//! The `cellfs` command: from arguments to requests and back to a person.
//!
//! Commands block and have no runtime; they ask the node of a state directory through
//! [`crate::control::client`]. Only `mount` and `serve` may become a node: then the
//! [`Daemon`] that `main` hands in runs in this process (`-f`) or in a copy of it in the
//! background. Standard output has what was asked for, standard error everything else.

mod args;
mod beside;
mod duration;
mod folder;
mod follow;
mod helper;
mod hook;
mod import;
mod keep;
mod logging;
mod objects;
mod output;
mod past;
mod paths;
mod screen;
mod show;
mod start;

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, ExitCode};

use clap::Parser;

use crate::config::Options;
use crate::control::client::Client;
use crate::control::failure::{Answer, Code, Failure};
use crate::control::readiness::Readiness;
use crate::control::wire::Invite;
use args::{Args, Verb};
use output::Out;

/// What turns checked options into a running node.
///
/// Blocks until the node has drained and ended, on SIGTERM, on SIGINT or by request. Calls
/// [`Readiness::ready`] when the folder answers; an error before that is told to the starter
/// by the caller.
pub trait Daemon: Sync {
    /// Runs the node.
    ///
    /// # Errors
    /// Why it could not run, or why it ended.
    fn run(&self, options: Options, readiness: Readiness) -> Answer<()>;
}

impl<F: Fn(Options, Readiness) -> Answer<()> + Sync> Daemon for F {
    fn run(&self, options: Options, readiness: Readiness) -> Answer<()> {
        self(options, readiness)
    }
}

/// How a background node is started: the command that runs these arguments once more.
pub type Respawn<'a> = &'a dyn Fn(&[OsString]) -> std::io::Result<Command>;

/// What a command may need from its process.
#[derive(Clone, Copy)]
struct Process<'a> {
    args: &'a [OsString],
    daemon: &'a dyn Daemon,
    respawn: Respawn<'a>,
}

/// Runs the command line, whose first word is the program's name.
pub fn main(args: impl IntoIterator<Item = OsString>, daemon: &dyn Daemon) -> ExitCode {
    let code = main_with(args, daemon, &|args| {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args);
        Ok(command)
    });
    ExitCode::from(code.number())
}

/// As [`main`], with another way to start a background node.
pub fn main_with(
    args: impl IntoIterator<Item = OsString>,
    daemon: &dyn Daemon,
    respawn: Respawn<'_>,
) -> Code {
    let mut words: Vec<OsString> = args.into_iter().collect();
    if helper::is_called(&words) {
        words = match helper::words(&words) {
            Ok(Some(words)) => words,
            Ok(None) => return Code::Ok,
            Err(failure) => {
                complain(&failure);
                return failure.code;
            }
        };
    }
    let parsed = match Args::try_parse_from(&words) {
        Ok(parsed) => parsed,
        Err(e) => return explain(&e),
    };
    let process = Process {
        args: words.get(1..).unwrap_or_default(),
        daemon,
        respawn,
    };
    match caught(|| run(parsed, process)) {
        Ok(()) => Code::Ok,
        Err(failure) => {
            complain(&failure);
            failure.code
        }
    }
}

/// A panic is a bug of ours, and told as one.
fn caught(run: impl FnOnce() -> Answer<()>) -> Answer<()> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Failure::bug(format!("a bug in cellfs: {said}"))
            .hint("please report it, with what the log or the lines above say"))
    })
}

/// Prints a failure as people see it. Nothing is said to a reader who has gone.
fn complain(failure: &Failure) {
    if failure.code == Code::BrokenPipe {
        return;
    }
    let mut err = std::io::stderr().lock();
    let _ = writeln!(err, "Error: {}", failure.what);
    if let Some(hint) = &failure.hint {
        let _ = writeln!(err, "Hint: {hint}");
    }
}

/// Help and version go to standard output; wrong usage is an error like any other.
fn explain(e: &clap::Error) -> Code {
    let text = e.render().to_string();
    if e.use_stderr() {
        let text = text
            .strip_prefix("error: ")
            .map_or_else(|| text.clone(), |t| format!("Error: {t}"));
        let _ = write!(std::io::stderr(), "{text}");
        Code::Usage
    } else {
        let _ = write!(std::io::stdout(), "{text}");
        Code::Ok
    }
}

fn run(args: Args, process: Process<'_>) -> Answer<()> {
    match args.verb {
        Verb::Mount(a) => start::start(&a.node, Some(a.dir), &a.options, process),
        Verb::Serve(a) => start::start(&a.node, None, &[], process),
        Verb::Umount(a) => folder::umount(&a),
        Verb::Status(a) if a.follow => follow::follow(&a.show.state.dir()),
        Verb::Status(a) => show::status(&a.show.state.dir(), a.show.json),
        Verb::Members(a) => show::members(&a.state.dir(), a.json),
        Verb::Log(a) => past::log(&a),
        Verb::Diff(a) => past::diff(&a),
        Verb::Restore(a) => past::restore(&a),
        Verb::Conflicts(a) => past::conflicts(&a),
        Verb::Resolve(a) => past::resolve(&a),
        Verb::Merges(a) => past::merges(&a),
        Verb::Add(a) => objects::add(&a),
        Verb::Get(a) => objects::get(&a),
        Verb::Object(args::objects::Object::Stat(a)) => objects::stat(&a),
        Verb::Import(a) => import::import(&a),
        Verb::Where(a) => keep::whereabouts(&a),
        Verb::Why(a) => keep::why(&a),
        Verb::Pin(a) => keep::pin(&a),
        Verb::Unpin(a) => keep::unpin(&a),
        Verb::Drop(a) => keep::drop(&a),
        Verb::Tags(a) => keep::tags(&a),
        Verb::Gc(a) => show::gc(&a.state.dir(), a.json),
        Verb::Scrub(a) => show::scrub(&a.state.dir(), a.json),
        Verb::Version(a) => show::version(a.json),
        Verb::Invite(a) => {
            let expires_s = duration::parse(&a.expires).map_err(|why| {
                Failure::usage(format!("--expires {}: {why}", a.expires))
                    .hint("for example: --expires 30m, --expires 24h, --expires 7d")
            })?;
            let what = Invite {
                uses: a.uses,
                expires_s,
                only_token: a.token,
            };
            let text = Client::connect(&a.state.dir())?.invite(what)?;
            Out::new().line(text)
        }
        Verb::Url(a) => {
            let url = Client::connect(&a.state.dir())?.url(a.what()?)?;
            Out::new().line(url)
        }
        Verb::Admit(a) => {
            let member = Client::connect(&a.state.dir())?.admit(a.code)?;
            Out::new().line(format_args!("admitted {} ({})", member.node, member.name))
        }
        Verb::Forget(a) => {
            let member = Client::connect(&a.state.dir())?.forget(a.node)?;
            Out::new().line(format_args!("forgot {} ({})", member.node, member.name))
        }
        Verb::Leave(a) => Client::connect(&a.state.dir())?.leave(a.force),
        Verb::Hook(a) => hook::run(&a),
    }
}
