//! The node's side of the control socket.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::failure::{Answer, Failure};
use super::flow::{self, Coming};
use super::lock::StateLock;
use super::node::Node;
use super::socket::SocketPath;
use super::wire::{AnswerLine, Request, RequestLine};
use super::{CONNECTIONS_MAX, LINE_BYTES_MAX, PROTOCOL_VERSION, SOCKET_NAME};

/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// A bound control socket. Dropped, its file goes.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    file: PathBuf,
}

impl Server {
    /// Binds the socket of a state directory that this process holds; one left behind by a
    /// dead daemon is replaced. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(lock: &StateLock) -> io::Result<Self> {
        // Under another name until its mode is right, so that nobody else ever connects.
        let new = format!("{SOCKET_NAME}.new");
        let path = SocketPath::new(lock.dir(), &new)?;
        match std::fs::remove_file(path.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(path.path())?;
        std::fs::set_permissions(path.path(), std::fs::Permissions::from_mode(0o600))?;
        let file = lock.dir().join(SOCKET_NAME);
        std::fs::rename(lock.dir().join(&new), &file)?;
        Ok(Self { listener, file })
    }

    /// Answers requests until `stop`.
    pub async fn run(self, node: Arc<dyn Node>, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                a = self.listener.accept() => a,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the control socket could not accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let node = Arc::clone(&node);
            tokio::spawn(async move {
                if let Err(error) = serve(stream, node.as_ref()).await {
                    tracing::debug!(%error, "a control connection ended early");
                }
                drop(place);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody else can have replaced it: the state is locked.
        let _ = std::fs::remove_file(&self.file);
    }
}

async fn serve(stream: UnixStream, node: &dyn Node) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut bounded = (&mut read).take(limit);
        let got = tokio::time::timeout(IDLE, bounded.read_until(b'\n', &mut line)).await;
        let Ok(got) = got else { return Ok(()) };
        if got? == 0 {
            return Ok(());
        }
        let complete = line.ends_with(b"\n");
        let asked = if complete {
            request(&line)
        } else {
            Err(Failure::usage(format!(
                "a request is one line of at most {LINE_BYTES_MAX} bytes"
            )))
        };
        let mut goes_on = complete;
        let answer = match asked {
            Ok(Request::Add(what)) => {
                let mut coming = Coming::new(&mut read);
                let added = node.add(what, &mut coming).await;
                goes_on = coming.is_at_end();
                added.and_then(value)
            }
            Ok(Request::Get(what)) => match node.get(what).await {
                Ok((length, mut flow)) => {
                    write.write_all(&encode(value(length))).await?;
                    let ended = flow::send(&mut *flow, &mut write).await?;
                    ended.and_then(value)
                }
                Err(failure) => Err(failure),
            },
            Ok(request) => dispatch(request, node).await,
            Err(failure) => Err(failure),
        };
        write.write_all(&encode(answer)).await?;
        if !goes_on {
            return Ok(());
        }
    }
}

fn encode(answer: Answer<serde_json::Value>) -> Vec<u8> {
    let (ok, error) = match answer {
        Ok(value) => (Some(value), None),
        Err(failure) => (None, Some(failure)),
    };
    let v = PROTOCOL_VERSION;
    let mut bytes = serde_json::to_vec(&AnswerLine { v, ok, error }).unwrap_or_default();
    if bytes.len() >= LINE_BYTES_MAX {
        let failure = Failure::failed("the answer is too long for one line")
            .hint("ask for less, for example: cellfs log -n 100");
        let error = Some(failure);
        bytes = serde_json::to_vec(&AnswerLine { v, ok: None, error }).unwrap_or_default();
    }
    bytes.push(b'\n');
    bytes
}

fn request(line: &[u8]) -> Answer<Request> {
    /// Only the version, so that a newer request is told apart from garbage.
    #[derive(serde::Deserialize)]
    struct Version {
        v: u32,
    }
    let version: Version =
        serde_json::from_slice(line).map_err(|e| Failure::usage(format!("not a request: {e}")))?;
    if version.v != PROTOCOL_VERSION {
        return Err(Failure::failed(format!(
            "the command speaks control protocol {}, the node speaks {PROTOCOL_VERSION}",
            version.v
        ))
        .hint("use the cellfs that the node was started with, or restart the node"));
    }
    let line: RequestLine = serde_json::from_slice(line)
        .map_err(|e| Failure::usage(format!("not a request that this node knows: {e}")))?;
    Ok(line.request)
}

async fn dispatch(request: Request, node: &dyn Node) -> Answer<serde_json::Value> {
    match request {
        Request::Status => value(node.status().await?),
        Request::Attach(what) => value(node.attach(what).await?),
        Request::Detach { dir } => value(node.detach(dir).await?),
        Request::Invite(what) => value(node.invite(what).await?),
        Request::Url(what) => value(node.url(what).await?),
        Request::Members => value(node.members().await?),
        Request::Admit { code } => value(node.admit(code).await?),
        Request::Leave { force } => value(node.leave(force).await?),
        Request::Forget { node: id } => value(node.forget(id).await?),
        Request::Log(what) => value(node.log(what).await?),
        Request::Conflicts(what) => value(node.conflicts(what).await?),
        Request::Resolve(what) => value(node.resolve(what).await?),
        Request::Checkout(what) => value(node.checkout(what).await?),
        Request::Merges(what) => value(node.merges(what).await?),
        Request::Diff(what) => value(node.diff(what).await?),
        Request::Restore(what) => value(node.restore(what).await?),
        Request::Object(what) => value(node.object(what).await?),
        Request::Add(_) | Request::Get(_) => Err(Failure::bug("bytes were not looked for")),
        Request::Where(what) => value(node.whereabouts(what).await?),
        Request::Pin(what) => value(node.pin(what).await?),
        Request::Tags(what) => value(node.tags(what).await?),
        Request::Gc => value(node.gc().await?),
        Request::Scrub => value(node.scrub().await?),
        Request::Shutdown => value(node.shutdown().await?),
    }
}

fn value(v: impl Serialize) -> Answer<serde_json::Value> {
    serde_json::to_value(v).map_err(|e| Failure::bug(format!("the answer has no JSON: {e}")))
}
