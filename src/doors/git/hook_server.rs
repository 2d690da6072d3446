//! The node's side of the hooks: asks the host, and keeps what git does not keep: all or
//! nothing, and objects durable before refs move.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::task::AbortOnDropHandle;

use super::hook::{LINE_BYTES_MAX, Question, Reply, SOCKET_NAME, Which};
use super::session::{Push, Sessions};
use super::{GitHost, RefUpdate};
use crate::base::id::Oid;
use crate::control::socket::SocketPath;

/// Time for a hook's question to come in.
const PATIENCE: Duration = Duration::from_secs(30);

/// Binds `hook.sock` in `dir` and answers hooks until the handle is dropped.
pub(super) fn start(
    dir: &Path,
    host: Arc<dyn GitHost>,
    sessions: Arc<Sessions>,
) -> io::Result<(PathBuf, AbortOnDropHandle<()>)> {
    let path = SocketPath::new(dir, SOCKET_NAME)?;
    match std::fs::remove_file(path.path()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path.path())?;
    std::fs::set_permissions(path.path(), std::fs::Permissions::from_mode(0o600))?;
    let task = tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let (host, sessions) = (Arc::clone(&host), Arc::clone(&sessions));
            tokio::spawn(async move {
                if let Err(error) = serve(stream, host.as_ref(), &sessions).await {
                    tracing::warn!(%error, "a git hook could not be answered");
                }
            });
        }
    });
    Ok((dir.to_owned(), AbortOnDropHandle::new(task)))
}

async fn serve(stream: UnixStream, host: &dyn GitHost, sessions: &Sessions) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read).take(LINE_BYTES_MAX);
    tokio::time::timeout(PATIENCE, read.read_until(b'\n', &mut line)).await??;
    let question: Question = serde_json::from_slice(&line)?;
    drop(line);
    let reply = answer(question, host, sessions).await;
    let mut bytes = serde_json::to_vec(&reply.unwrap_or_else(|why| Reply {
        refused: Some(why),
        verdicts: Vec::new(),
    }))?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

/// The reply, or why nothing of the push is accepted.
async fn answer(
    question: Question,
    host: &dyn GitHost,
    sessions: &Sessions,
) -> Result<Reply, String> {
    let gone = || "this push is no longer running".to_owned();
    let push = sessions.find(&question.push).ok_or_else(gone)?;
    let updates = parse(question.updates)?;
    if question.hook == Which::PreReceive {
        sessions.announce(&question.push, updates.len());
        host.vet(&push.volume, &updates).await?;
        return Ok(Reply::default());
    }
    if question.atomic && push.announced != Some(updates.len()) {
        // git leaves refs out that it refused itself, and asks for the rest all the same.
        return Err("another ref of this atomic push was refused".to_owned());
    }
    sync_packs(&push).await?;
    tracing::info!(
        volume = %push.volume, refs = updates.len(), atomic = question.atomic,
        options = ?question.options, "push"
    );
    let asked = updates.len();
    let mut verdicts = host.push(&push.volume, updates, question.atomic).await;
    if verdicts.len() != asked {
        tracing::error!(asked, got = verdicts.len(), "the host judged other refs");
        verdicts.resize(asked, Err("the node did not judge this ref".to_owned()));
    }
    Ok(Reply {
        refused: None,
        verdicts: verdicts.into_iter().map(Result::err).collect(),
    })
}

fn parse(updates: Vec<(String, String, String)>) -> Result<Vec<RefUpdate>, String> {
    let id = |hex: String| {
        Oid::from_hex(hex.as_bytes())
            .map(|id| (!id.is_null()).then_some(id))
            .map_err(|_| format!("{hex} is not the id of an object"))
    };
    updates
        .into_iter()
        .map(|(old, new, name)| {
            Ok(RefUpdate {
                name,
                old: id(old)?,
                new: id(new)?,
            })
        })
        .collect()
}

/// git has synced the packs; their names in the directory are synced here.
async fn sync_packs(push: &Push) -> Result<(), String> {
    let objects = push.repo.join("objects");
    let sync = move || {
        File::open(objects.join("pack"))?.sync_all()?;
        File::open(&objects)?.sync_all()
    };
    let done = tokio::task::spawn_blocking(sync).await;
    done.map_err(io::Error::other)
        .flatten()
        .map_err(|e| format!("the pushed objects could not be made durable: {e}"))
}
