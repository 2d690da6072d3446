//! The commands' side of the control socket. Blocking: commands have no runtime.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::failure::{Answer, Code, Failure};
use super::readiness::Ready;
use super::socket::SocketPath;
use super::wire::{
    AnswerLine, Attach, Changed, Checkout, Conflicts, ConflictsOf, DiffOf, Differing, Gathered,
    Invite, LogEntry, LogOf, Member, Merges, MergesOf, PathOf, PinOf, Pinned, Request, RequestLine,
    ResolveOf, RestoreOf, Scrubbed, Status, Tagged, TagsOf, UrlOf, Whereabouts,
};
use super::{LINE_BYTES_MAX, PROTOCOL_VERSION, SOCKET_NAME};

mod bytes;

/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to the node of a state directory.
#[derive(Debug)]
pub struct Client {
    state: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects, or says that no node runs there.
    ///
    /// # Errors
    /// [`Code::Unreachable`] when nobody answers.
    pub fn connect(state: &Path) -> Answer<Self> {
        Self::find(state)?.ok_or_else(|| {
            let arg = state.display();
            Failure::new(
                Code::Unreachable,
                format!("no node runs on state {arg}"),
            )
            .hint(format!(
                "start one: cellfs mount DIR --state {arg} (commands find their node by --state DIR or CELLFS_STATE)"
            ))
        })
    }

    /// Connects if a node runs there.
    ///
    /// # Errors
    /// When the socket is there but may not be used.
    pub fn find(state: &Path) -> Answer<Option<Self>> {
        let connected = SocketPath::new(state, SOCKET_NAME)
            .and_then(|path| UnixStream::connect(path.path()))
            .and_then(|s| {
                s.set_read_timeout(Some(PATIENCE))?;
                s.set_write_timeout(Some(PATIENCE))?;
                Ok(s)
            });
        match connected {
            Ok(stream) => Ok(Some(Self {
                state: state.to_owned(),
                stream: BufReader::new(stream),
            })),
            Err(e) => match e.kind() {
                io::ErrorKind::NotFound
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::NotADirectory => Ok(None),
                _ => Err(Failure::new(
                    Code::Unreachable,
                    format!("the node on state {} cannot be asked: {e}", state.display()),
                )
                .hint("run the command as the user who runs the node")),
            },
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// What the node says, or that it does not answer.
    pub fn ask<T: DeserializeOwned>(&mut self, request: Request) -> Answer<T> {
        self.send(request)?;
        self.answer()
    }

    fn send(&mut self, request: Request) -> Answer<()> {
        let v = PROTOCOL_VERSION;
        let mut line = serde_json::to_vec(&RequestLine { v, request })
            .map_err(|e| Failure::usage(format!("the request has no JSON: {e}")))?;
        if line.len() >= LINE_BYTES_MAX {
            return Err(Failure::usage("the request is too long"));
        }
        line.push(b'\n');
        let sent = self.stream.get_mut().write_all(&line);
        sent.map_err(|e| self.silent(&e))
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Answer<T> {
        let answer = self.line().map_err(|e| self.silent(&e))?;
        let answer: AnswerLine = serde_json::from_slice(&answer)
            .map_err(|e| Failure::failed(format!("the node's answer makes no sense: {e}")))?;
        if let Some(failure) = answer.error {
            return Err(failure);
        }
        serde_json::from_value(answer.ok.unwrap_or(serde_json::Value::Null))
            .map_err(|e| Failure::failed(format!("the node's answer is of another version: {e}")))
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut answer)?;
        if answer.ends_with(b"\n") {
            Ok(answer)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn silent(&self, e: &io::Error) -> Failure {
        let why = match e.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("it said nothing for {} s", PATIENCE.as_secs())
            }
            io::ErrorKind::UnexpectedEof => "it ended the connection".to_owned(),
            _ => e.to_string(),
        };
        let state = self.state.display();
        Failure::new(
            Code::Unreachable,
            format!("the node on state {state} does not answer: {why}"),
        )
        .hint(format!("its log is {state}/log"))
    }

    /// How the node is.
    ///
    /// # Errors
    /// As [`Self::ask`], like all that follow.
    pub fn status(&mut self) -> Answer<Status> {
        self.ask(Request::Status)
    }

    /// Mounts another folder.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn attach(&mut self, what: Attach) -> Answer<Ready> {
        self.ask(Request::Attach(what))
    }

    /// Unmounts a folder.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn detach(&mut self, dir: PathBuf) -> Answer<()> {
        self.ask(Request::Detach { dir })
    }

    /// Makes a ticket.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn invite(&mut self, what: Invite) -> Answer<String> {
        self.ask(Request::Invite(what))
    }

    /// Makes a git URL.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn url(&mut self, what: UrlOf) -> Answer<String> {
        self.ask(Request::Url(what))
    }

    /// Lists members.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn members(&mut self) -> Answer<Vec<Member>> {
        self.ask(Request::Members)
    }

    /// Lets a pending node in.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn admit(&mut self, code: String) -> Answer<Member> {
        self.ask(Request::Admit { code })
    }

    /// Leaves the cell.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn leave(&mut self, force: bool) -> Answer<()> {
        self.ask(Request::Leave { force })
    }

    /// Puts a node out of the cell.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn forget(&mut self, node: String) -> Answer<Member> {
        self.ask(Request::Forget { node })
    }

    /// Lists commits.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn log(&mut self, what: LogOf) -> Answer<Vec<LogEntry>> {
        self.ask(Request::Log(what))
    }

    /// Lists conflict copies: those that follow after so many.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn conflicts(&mut self, what: ConflictsOf) -> Answer<Conflicts> {
        self.ask(Request::Conflicts(what))
    }

    /// Settles a conflict.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn resolve(&mut self, what: ResolveOf) -> Answer<Changed> {
        self.ask(Request::Resolve(what))
    }

    /// Has the versions of a conflict written to files.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn checkout(&mut self, what: PathOf) -> Answer<Checkout> {
        self.ask(Request::Checkout(what))
    }

    /// Lists what merges did.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn merges(&mut self, what: MergesOf) -> Answer<Merges> {
        self.ask(Request::Merges(what))
    }

    /// Has two states of a path written to files.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn diff(&mut self, what: DiffOf) -> Answer<Differing> {
        self.ask(Request::Diff(what))
    }

    /// Brings a path back.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn restore(&mut self, what: RestoreOf) -> Answer<Changed> {
        self.ask(Request::Restore(what))
    }

    /// Where large files are.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn whereabouts(&mut self, what: PathOf) -> Answer<Whereabouts> {
        self.ask(Request::Where(what))
    }

    /// Says of a path whether its large files are kept on the node. Others may have to read all of
    /// what is let go of before they promise to keep it, however long that takes.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn pin(&mut self, what: PinOf) -> Answer<Pinned> {
        let patient = self.stream.get_mut().set_read_timeout(None);
        patient.map_err(|e| self.silent(&e))?;
        self.ask(Request::Pin(what))
    }

    /// Gives the node tags, and lists those of all.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn tags(&mut self, what: TagsOf) -> Answer<Vec<Tagged>> {
        self.ask(Request::Tags(what))
    }

    /// Has the repositories of all volumes made small, however long that takes.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn gc(&mut self) -> Answer<Vec<Gathered>> {
        let patient = self.stream.get_mut().set_read_timeout(None);
        patient.map_err(|e| self.silent(&e))?;
        self.ask(Request::Gc)
    }

    /// Has all bytes of large files read, however long that takes.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn scrub(&mut self) -> Answer<Vec<Scrubbed>> {
        let patient = self.stream.get_mut().set_read_timeout(None);
        patient.map_err(|e| self.silent(&e))?;
        self.ask(Request::Scrub)
    }

    /// Ends the node.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn shutdown(&mut self) -> Answer<()> {
        self.ask(Request::Shutdown)
    }
}
