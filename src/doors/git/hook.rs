//! The hooks' side: what `cellfs hook` does when git runs it during a push.
//!
//! Blocking, one question and one answer over the door's `hook.sock`. When the node is not
//! there, or no longer knows the push, the hook fails and with it the push.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pkt::{self, Pkt};
use crate::control::socket::SocketPath;

/// Environment of the hook: the directory of `hook.sock`.
pub(super) const ENV_DIR: &str = "CELLFS_HOOK_DIR";
/// Environment of the hook: the secret of the push.
pub(super) const ENV_PUSH: &str = "CELLFS_PUSH";
/// Name of the socket in the door's directory.
pub(super) const SOCKET_NAME: &str = "hook.sock";
/// Longest question or answer, in bytes: some 400,000 refs.
pub(super) const LINE_BYTES_MAX: u64 = 64 << 20;

/// Which hook asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Which {
    /// Objects are in quarantine.
    PreReceive,
    /// Objects are in the repository; refs are to be moved.
    ProcReceive,
}

/// What a hook asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    pub(super) push: String,
    pub(super) hook: Which,
    pub(super) atomic: bool,
    pub(super) options: Vec<String>,
    /// Old id, new id, name.
    pub(super) updates: Vec<(String, String, String)>,
}

/// What it is told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reply {
    /// Why nothing is accepted.
    pub(super) refused: Option<String>,
    /// For each update why it is not accepted, or null.
    pub(super) verdicts: Vec<Option<String>>,
}

/// Why a hook failed. Its text is shown to the person who pushes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HookError {
    /// Run by hand, or by a receive-pack that is not ours.
    #[error(
        "this hook runs only during a push through cellfs: push to what `cellfs url --write` prints"
    )]
    NotOurs,
    /// The node cannot be asked.
    #[error("the node cannot be asked: {0}")]
    Node(#[source] io::Error),
    /// git said something unexpected.
    #[error("git cannot be understood: {0}")]
    Git(#[source] io::Error),
    /// The node refuses the push.
    #[error("{0}")]
    Refused(String),
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn text(bytes: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| bad("names of refs and push options must be UTF-8"))
}

fn update(line: &[u8]) -> io::Result<(String, String, String)> {
    let line = text(line)?.trim_end_matches('\n');
    let mut words = line.splitn(3, ' ').map(str::to_owned);
    match (words.next(), words.next(), words.next()) {
        (Some(old), Some(new), Some(name)) => Ok((old, new, name)),
        _ => Err(bad("an update is `OLD NEW REF`")),
    }
}

/// The `pre-receive` hook.
///
/// # Errors
/// When the push is refused, or nobody can be asked.
pub fn pre_receive() -> Result<(), HookError> {
    let lines = io::stdin().lock().split(b'\n');
    let updates = lines.map(|l| update(&l?)).collect::<io::Result<Vec<_>>>();
    ask(
        Which::PreReceive,
        updates.map_err(HookError::Git)?,
        false,
        Vec::new(),
    )
    .map(drop)
}

/// The `proc-receive` hook: githooks(5), version 1.
///
/// # Errors
/// When git is not understood, or nobody can be asked.
pub fn proc_receive() -> Result<(), HookError> {
    let (mut from, mut to) = (io::stdin().lock(), io::stdout().lock());
    let asked = read_push(&mut from, &mut to).map_err(HookError::Git)?;
    let names: Vec<String> = asked.updates.iter().map(|u| u.2.clone()).collect();
    let verdicts = match ask(
        Which::ProcReceive,
        asked.updates,
        asked.atomic,
        asked.options,
    ) {
        Ok(verdicts) => verdicts,
        Err(HookError::Refused(why)) => names.iter().map(|_| Some(why.clone())).collect(),
        Err(other) => return Err(other),
    };
    report(&mut to, &names, &verdicts).map_err(HookError::Git)
}

struct Asked {
    atomic: bool,
    options: Vec<String>,
    updates: Vec<(String, String, String)>,
}

fn read_push(from: &mut impl Read, to: &mut impl Write) -> io::Result<Asked> {
    let hello = section(from)?;
    let hello = hello.first().ok_or_else(|| bad("no version"))?;
    let (version, features) = match hello.iter().position(|b| *b == 0) {
        Some(n) => (hello.get(..n), hello.get(n + 1..)),
        None => (Some(hello.as_slice()), None),
    };
    if text(version.unwrap_or_default())?.trim_end() != "version=1" {
        return Err(bad("another version of proc-receive than 1"));
    }
    let features = text(features.unwrap_or_default())?;
    let has = |f: &str| features.split_ascii_whitespace().any(|x| x == f);
    pkt::write(to, b"version=1\0atomic push-options\n")?;
    pkt::flush(to)?;
    let updates = section(from)?;
    let options = if has("push-options") {
        section(from)?
    } else {
        Vec::new()
    };
    Ok(Asked {
        atomic: has("atomic"),
        options: options
            .iter()
            .map(|o| text(o).map(|o| o.trim_end_matches('\n').to_owned()))
            .collect::<io::Result<_>>()?,
        updates: updates
            .iter()
            .map(|u| update(u))
            .collect::<io::Result<_>>()?,
    })
}

/// Lines up to a flush.
fn section(from: &mut impl Read) -> io::Result<Vec<Vec<u8>>> {
    let mut lines = Vec::new();
    loop {
        match pkt::read(from)? {
            Some(Pkt::Data(line)) => lines.push(line),
            Some(Pkt::Flush) => return Ok(lines),
            None => return Err(bad("the end came early")),
        }
    }
}

fn report(to: &mut impl Write, names: &[String], verdicts: &[Option<String>]) -> io::Result<()> {
    if names.len() != verdicts.len() {
        return Err(bad("the node answered for other refs than asked"));
    }
    for (name, verdict) in names.iter().zip(verdicts) {
        let line = match verdict {
            None => format!("ok {name}"),
            Some(why) => {
                let why: String = why
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .take(1_000)
                    .collect();
                format!("ng {name} {why}")
            }
        };
        pkt::write(to, line.as_bytes())?;
    }
    pkt::flush(to)
}

fn ask(
    hook: Which,
    updates: Vec<(String, String, String)>,
    atomic: bool,
    options: Vec<String>,
) -> Result<Vec<Option<String>>, HookError> {
    let (Some(dir), Ok(push)) = (std::env::var_os(ENV_DIR), std::env::var(ENV_PUSH)) else {
        return Err(HookError::NotOurs);
    };
    let question = Question {
        push,
        hook,
        atomic,
        options,
        updates,
    };
    let reply = exchange(Path::new(&dir), &question).map_err(HookError::Node)?;
    match reply.refused {
        Some(why) => Err(HookError::Refused(why)),
        None => Ok(reply.verdicts),
    }
}

fn exchange(dir: &Path, question: &Question) -> io::Result<Reply> {
    let path = SocketPath::new(dir, SOCKET_NAME)?;
    let mut stream = UnixStream::connect(path.path())?;
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    BufReader::new(stream)
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_read_and_reported_as_githooks_5_says() {
        let id = "1".repeat(40);
        let zero = "0".repeat(40);
        let mut from = Vec::new();
        pkt::write(&mut from, b"version=1\0push-options atomic").expect("short");
        pkt::flush(&mut from).expect("memory");
        pkt::write(&mut from, format!("{zero} {id} refs/heads/a").as_bytes()).expect("short");
        pkt::flush(&mut from).expect("memory");
        pkt::write(&mut from, b"key=value").expect("short");
        pkt::flush(&mut from).expect("memory");
        let mut to = Vec::new();
        let asked = read_push(&mut from.as_slice(), &mut to).expect("good");
        assert!(asked.atomic && asked.options == ["key=value"]);
        assert_eq!(asked.updates, [(zero, id, "refs/heads/a".to_owned())]);
        to.clear();
        let names = ["refs/heads/a".to_owned(), "refs/heads/b".to_owned()];
        report(&mut to, &names, &[None, Some("not\nnow".to_owned())]).expect("memory");
        assert_eq!(to, b"0013ok refs/heads/a001bng refs/heads/b not now0000");
        assert!(report(&mut to, &names, &[None]).is_err());
    }

    #[test]
    fn nonsense_from_git_is_an_error() {
        for bad in [
            &b""[..],
            b"0000",
            b"000dversion=20000",
            b"0007abc",
            b"000eversion=1\n",
        ] {
            assert!(read_push(&mut &*bad, &mut Vec::new()).is_err());
        }
    }
}
