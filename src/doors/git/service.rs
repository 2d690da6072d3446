//! The routes of smart HTTP: `info/refs`, `git-upload-pack`, `git-receive-pack`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::body::Input;
use super::child::{self, Output, Run};
use super::session::Push;
use super::{Access, GitDoor, GitRefusal};
use crate::base::id::VolumeName;
use crate::doors::http::{Body, basic_password, stream, text, unauthorized};

/// Time for a git process to become free.
const PATIENCE: Duration = Duration::from_secs(60);
/// Largest request of a client that fetches, gunzipped: some 600,000 ids.
const FETCH_BYTES_MAX: u64 = 32 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    UploadPack,
    ReceivePack,
}

impl Service {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "git-upload-pack" => Some(Self::UploadPack),
            "git-receive-pack" => Some(Self::ReceivePack),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "upload-pack",
            Self::ReceivePack => "receive-pack",
        }
    }
}

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    volume: VolumeName,
    service: Service,
    /// `info/refs`, not the service itself.
    refs: bool,
}

type Refused = Box<Response<Body>>;

pub(super) async fn call(door: &GitDoor, request: Request<Incoming>) -> Response<Body> {
    match serve(door, request).await {
        Ok(r) => r,
        Err(r) => *r,
    }
}

async fn serve(door: &GitDoor, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let query = request.uri().query().unwrap_or("");
    let target = target(request.method(), request.uri().path(), query)?;
    authorize(door, request.headers(), target.service).await?;
    if target.refs {
        info_refs(door, &request, target).await
    } else {
        exchange(door, request, target).await
    }
}

fn target(method: &Method, path: &str, query: &str) -> Result<Target, Refused> {
    let not_found = || {
        refused(
            StatusCode::NOT_FOUND,
            "nothing here: git repositories are at /VOLUME.git\n",
        )
    };
    let (volume, rest) = path
        .strip_prefix('/')
        .and_then(|p| p.split_once(".git/"))
        .ok_or_else(not_found)?;
    let volume = volume.parse().map_err(|_| not_found())?;
    let (service, refs, wanted) = match rest {
        "info/refs" => {
            let service = query.split('&').find_map(|p| p.strip_prefix("service="));
            let dumb = "this is for smart git clients: info/refs?service=git-upload-pack\n";
            let service = service
                .and_then(Service::parse)
                .ok_or_else(|| refused(StatusCode::FORBIDDEN, dumb))?;
            (service, true, Method::GET)
        }
        other => (
            Service::parse(other).ok_or_else(not_found)?,
            false,
            Method::POST,
        ),
    };
    if *method != wanted {
        let why = format!("only {wanted} here\n");
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, why));
    }
    Ok(Target {
        volume,
        service,
        refs,
    })
}

async fn authorize(door: &GitDoor, headers: &HeaderMap, service: Service) -> Result<(), Refused> {
    let access = match basic_password(headers) {
        Some(token) => door.host.access(&token).await,
        None => Access::None,
    };
    match (access, service) {
        (Access::None, _) => Err(Box::new(unauthorized())),
        (Access::Read, Service::ReceivePack) => Err(refused(
            StatusCode::FORBIDDEN,
            "this token may read but not push: `cellfs url --write` prints a URL that may push\n",
        )),
        _ => Ok(()),
    }
}

/// The list of refs, or with protocol 2 what the server can do.
async fn info_refs(
    door: &GitDoor,
    request: &Request<Incoming>,
    target: Target,
) -> Result<Response<Body>, Refused> {
    let protocol = protocol(request.headers(), target.service);
    let v2 = is_v2(protocol);
    let repo = match (door.host.repo(&target.volume, false).await, target.service) {
        (Err(GitRefusal::NotFound(_)), Service::ReceivePack) => door.empty.clone(),
        (other, _) => other.map_err(|r| because(&r))?,
    };
    if target.service == Service::UploadPack && !v2 {
        hand_out(door, &target.volume).await?;
    }
    let run = Run {
        args: &[
            target.service.name(),
            "--stateless-rpc",
            "--http-backend-info-refs",
        ],
        repo: &repo,
        protocol,
        push: None,
        permit: permit(door).await?,
    };
    let output = child::start(run, None).map_err(|e| no_git(&e))?;
    let mut head = BytesMut::new();
    if !v2 {
        let line = format!("# service=git-{}\n", target.service.name());
        head.put_slice(format!("{:04x}{line}0000", line.len() + 4).as_bytes());
    }
    respond(output, head.freeze(), target.service, "advertisement").await
}

/// The service itself.
async fn exchange(
    door: &GitDoor,
    request: Request<Incoming>,
    target: Target,
) -> Result<Response<Body>, Refused> {
    let kind = format!("application/x-git-{}-request", target.service.name());
    let (head, body) = request.into_parts();
    if head
        .headers
        .get(header::CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        != Some(kind.as_bytes())
    {
        let why = format!("only {kind} here\n");
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let gzip = gzip(&head.headers)?;
    let protocol = protocol(&head.headers, target.service);
    let limit = match target.service {
        Service::UploadPack => FETCH_BYTES_MAX,
        Service::ReceivePack => u64::MAX,
    };
    let mut input = Input::new(body, gzip, limit);
    let repo = repo_for(door, &target, &mut input, protocol);
    let repo = tokio::time::timeout(PATIENCE, repo)
        .await
        .map_err(|_| refused(StatusCode::REQUEST_TIMEOUT, "nothing was sent\n"))??;
    let permit = permit(door).await?;
    let push = match target.service {
        Service::UploadPack => None,
        Service::ReceivePack => {
            let push = Push {
                volume: target.volume,
                repo: repo.clone(),
                announced: None,
            };
            let session = door.sessions.begin(push).map_err(|e| no_git(&e))?;
            Some((door.hook_socket.as_path(), session))
        }
    };
    let run = Run {
        args: &[target.service.name(), "--stateless-rpc"],
        repo: &repo,
        protocol,
        push,
        permit,
    };
    let output = child::start(run, Some(input)).map_err(|e| no_git(&e))?;
    respond(output, Bytes::new(), target.service, "result").await
}

/// The repository, which a push makes; and what it hands out is fresh when refs are listed.
async fn repo_for(
    door: &GitDoor,
    target: &Target,
    input: &mut Input,
    protocol: Option<&str>,
) -> Result<PathBuf, Refused> {
    let broken = |e: io::Error| refused(StatusCode::BAD_REQUEST, format!("{e}\n"));
    match target.service {
        Service::UploadPack => {
            let found = door.host.repo(&target.volume, false).await;
            let repo = found.map_err(|r| because(&r))?;
            let lists = input
                .begins_with(b"command=ls-refs")
                .await
                .map_err(broken)?;
            if lists && is_v2(protocol) {
                hand_out(door, &target.volume).await?;
            }
            Ok(repo)
        }
        // A client with a large push asks first whether it may, with a flush alone.
        Service::ReceivePack if input.is_flush_alone().await.map_err(broken)? => {
            Ok(door.empty.clone())
        }
        Service::ReceivePack => {
            let made = door.host.repo(&target.volume, true).await;
            made.map_err(|r| because(&r))
        }
    }
}

async fn hand_out(door: &GitDoor, volume: &VolumeName) -> Result<(), Refused> {
    let done = door.host.hand_out(volume).await;
    done.map_err(|r| because(&r))
}

async fn permit(door: &GitDoor) -> Result<OwnedSemaphorePermit, Refused> {
    let waiting = Arc::clone(&door.children).acquire_owned();
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(because(&GitRefusal::Busy(
            "too many git requests at once".to_owned(),
        ))),
    }
}

/// The client's `Git-Protocol`, if it is well formed. receive-pack has no version 2.
fn protocol(headers: &HeaderMap, service: Service) -> Option<&str> {
    let value = headers.get("git-protocol")?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"=:._-".contains(&b);
    let ok = value.len() <= 200 && value.bytes().all(plain);
    (ok && !(service == Service::ReceivePack && is_v2(Some(value)))).then_some(value)
}

fn is_v2(protocol: Option<&str>) -> bool {
    protocol.is_some_and(|p| p.split(':').any(|w| w == "version=2"))
}

fn gzip(headers: &HeaderMap) -> Result<bool, Refused> {
    match headers
        .get(header::CONTENT_ENCODING)
        .map(HeaderValue::as_bytes)
    {
        None | Some(b"identity") => Ok(false),
        Some(b"gzip" | b"x-gzip") => Ok(true),
        Some(_) => Err(refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "only gzip here\n",
        )),
    }
}

/// Answers once git has said something, so that a git that fails is not a success.
async fn respond(
    mut output: Output,
    head: Bytes,
    service: Service,
    what: &str,
) -> Result<Response<Body>, Refused> {
    let first = match output.recv().await {
        Some(Ok(piece)) => piece,
        Some(Err(e)) => return Err(no_git(&e)),
        None => Bytes::new(),
    };
    let rest = futures::stream::unfold(output, |mut output| async move {
        output.recv().await.map(|piece| (piece, output))
    });
    let begin = [head, first]
        .into_iter()
        .filter(|b| !b.is_empty())
        .map(Ok::<_, io::Error>);
    let body = stream(futures::stream::iter(begin).chain(rest));
    let mut r = Response::new(body);
    let kind = format!("application/x-git-{}-{what}", service.name());
    let h = r.headers_mut();
    if let Ok(kind) = kind.parse() {
        h.insert(header::CONTENT_TYPE, kind);
    }
    for (name, value) in [
        (header::EXPIRES, "Fri, 01 Jan 1980 00:00:00 GMT"),
        (header::PRAGMA, "no-cache"),
        (
            header::CACHE_CONTROL,
            "no-cache, max-age=0, must-revalidate",
        ),
    ] {
        h.insert(name, HeaderValue::from_static(value));
    }
    Ok(r)
}

fn refused(status: StatusCode, why: impl Into<String>) -> Refused {
    Box::new(text(status, why))
}

fn no_git(e: &io::Error) -> Refused {
    tracing::warn!(error = %e, "git failed");
    let why = format!("git failed on this node: {e}\n");
    refused(StatusCode::INTERNAL_SERVER_ERROR, why)
}

fn because(refusal: &GitRefusal) -> Refused {
    let status = match refusal {
        GitRefusal::NotFound(_) => StatusCode::NOT_FOUND,
        GitRefusal::Refused(_) => StatusCode::FORBIDDEN,
        GitRefusal::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        GitRefusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut r = text(status, format!("{refusal}\n"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        r.headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
    }
    Box::new(r)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_four_routes_exist() {
        let at = |m: Method, p: &str, q: &str| {
            target(&m, p, q)
                .map(|t| (t.volume.to_string(), t.service, t.refs))
                .map_err(|r| r.status().as_u16())
        };
        let up = "service=git-upload-pack";
        assert_eq!(
            at(Method::GET, "/a.git/info/refs", up),
            Ok(("a".to_owned(), Service::UploadPack, true))
        );
        assert_eq!(
            at(Method::POST, "/a.git/git-receive-pack", ""),
            Ok(("a".to_owned(), Service::ReceivePack, false))
        );
        for (m, p, q, status) in [
            (Method::GET, "/a.git/info/refs", "", 403),
            (Method::GET, "/a.git/info/refs", "service=git-evil", 403),
            (Method::POST, "/a.git/info/refs", up, 405),
            (Method::GET, "/a.git/git-upload-pack", "", 405),
            (Method::GET, "/a.git/HEAD", "", 404),
            (Method::GET, "/../a.git/info/refs", up, 404),
            (Method::GET, "/a.git.git/info/refs", up, 404),
            (Method::GET, "/%2e.git/info/refs", up, 404),
            (Method::GET, "/", "", 404),
        ] {
            assert_eq!(at(m, p, q), Err(status), "{p}?{q}");
        }
    }

    #[test]
    fn protocols_are_checked_before_git_sees_them() {
        let with = |v: &str| {
            let mut h = HeaderMap::new();
            h.insert("git-protocol", v.parse().expect("a value"));
            h
        };
        let v2 = with("version=2");
        assert_eq!(protocol(&v2, Service::UploadPack), Some("version=2"));
        assert_eq!(protocol(&v2, Service::ReceivePack), None);
        assert_eq!(protocol(&with("a b"), Service::UploadPack), None);
        assert!(is_v2(Some("x:version=2")) && !is_v2(Some("version=22")) && !is_v2(None));
    }
}
