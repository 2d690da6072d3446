//! Objects on their way: down, with ranges, and up, checked as they come.
//!
//! Bytes go between network and disk in pieces through a bounded queue; the disk is used on
//! threads that may block. Whichever side ends, the other ends soon after, and a file that is
//! not whole goes away with the one who was writing it.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use sha2::Digest;
use tempfile::TempPath;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout};

use super::range::{Wanted, wanted};
use super::route::place;
use super::wire::{Answered, Asked, Refused, because, body, disk, refused};
use super::{LfsDoor, LfsId, LfsRefusal, OBJECT_BYTES_MAX, PIECE, PIECES, Presence, STALL, Source};
use crate::base::id::VolumeName;
use crate::doors::http::{answer, stream};

/// For a client that still sends what was refused, so that it hears why.
const LINGER: Duration = Duration::from_secs(30);
const LINGER_BYTES: u64 = 64 << 20;

/// The object without bytes.
struct Nothing;

impl Source for Nothing {
    fn len(&self) -> u64 {
        0
    }

    fn read(&mut self, _: u64, _: usize) -> io::Result<Bytes> {
        Ok(Bytes::new())
    }
}

pub(super) async fn download(
    door: &LfsDoor,
    request: &Request<Incoming>,
    volume: &VolumeName,
    id: LfsId,
) -> Answered {
    let place = place(&door.downloads).await?;
    let source: Box<dyn Source> = if id == LfsId::EMPTY {
        Box::new(Nothing)
    } else {
        let opened = door.host.open(volume, id).await;
        opened.map_err(|r| because(&r))?
    };
    let len = source.len();
    let tag = format!("\"{id}\"");
    let part = range_of(request.headers(), &tag, len);
    let (status, from, to) = match part {
        Wanted::All => (StatusCode::OK, 0, len),
        Wanted::Part(from, to) => (StatusCode::PARTIAL_CONTENT, from, to),
        Wanted::Nothing => {
            let why = format!("object {id} has {len} bytes");
            let mut r = refused(StatusCode::RANGE_NOT_SATISFIABLE, why);
            set(
                r.headers_mut(),
                header::CONTENT_RANGE,
                format!("bytes */{len}"),
            );
            return Err(r);
        }
    };
    let body = if *request.method() == Method::HEAD {
        stream(futures::stream::empty())
    } else {
        let (send, pieces) = channel(PIECES);
        tokio::spawn(async move {
            if let Err(error) = give(source, from, to, &send).await {
                tracing::debug!(%id, %error, "a download was cut short");
                let _ = timeout(STALL, send.send(Err(error))).await;
            }
            drop(place);
        });
        stream(futures::stream::unfold(pieces, |mut pieces| async move {
            pieces.recv().await.map(|piece| (piece, pieces))
        }))
    };
    let mut r = Response::new(body);
    *r.status_mut() = status;
    let h = r.headers_mut();
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {from}-{}/{len}", to - 1);
        set(h, header::CONTENT_RANGE, range);
    }
    set(h, header::CONTENT_LENGTH, (to - from).to_string());
    set(h, header::ETAG, tag);
    for (name, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        h.insert(name, HeaderValue::from_static(value));
    }
    Ok(r)
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = value.parse() {
        headers.insert(name, value);
    }
}

/// What a request wants of an object. What has that name never changes, so a range of another
/// one is of no use to whoever asks.
fn range_of(headers: &HeaderMap, tag: &str, len: u64) -> Wanted {
    let of_this = headers
        .get(header::IF_RANGE)
        .is_none_or(|t| t.as_bytes() == tag.as_bytes());
    let range = headers.get(header::RANGE).and_then(|r| r.to_str().ok());
    match range {
        Some(range) if of_this => wanted(range, len),
        _ => Wanted::All,
    }
}

/// Sends bytes until all are sent or the client has gone.
async fn give(
    mut source: Box<dyn Source>,
    mut from: u64,
    to: u64,
    send: &Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    while from < to {
        let most = usize::try_from(to - from).unwrap_or(PIECE).min(PIECE);
        let read = tokio::task::spawn_blocking(move || {
            let piece = source.read(from, most);
            (source, piece)
        });
        let (back, piece) = read.await.map_err(io::Error::other)?;
        source = back;
        let piece = piece?;
        if piece.is_empty() || piece.len() > most {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        from += piece.len() as u64;
        match timeout(STALL, send.send(Ok(piece))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
    Ok(())
}

pub(super) async fn upload(
    door: &LfsDoor,
    request: Request<Incoming>,
    volume: &VolumeName,
    id: LfsId,
) -> Answered {
    let (head, mut body) = request.into_parts();
    if let Err(r) = keep(door, &head, &mut body, volume, id).await {
        linger(body).await;
        return Err(r);
    }
    Ok(answer(
        StatusCode::OK,
        "application/octet-stream",
        Bytes::new(),
    ))
}

/// Takes the body in and gives it to the host.
async fn keep(
    door: &LfsDoor,
    head: &Parts,
    body: &mut Incoming,
    volume: &VolumeName,
    id: LfsId,
) -> Result<(), Refused> {
    let size = length(head.uri.query().unwrap_or_default(), &head.headers)?;
    let _place = place(&door.uploads).await?;
    if let Some(file) = receive(door, body, volume, size, id).await? {
        let taken = door.host.take(volume, id, file).await;
        taken.map_err(|r| because(&r))?;
    }
    Ok(())
}

/// How long the object is that comes: as was said in the batch and as is said now.
fn length(query: &str, headers: &HeaderMap) -> Result<u64, Refused> {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok())?
    };
    let said = query.split('&').find_map(|p| p.strip_prefix("size="));
    let sent = headers.get(header::CONTENT_LENGTH);
    let sent = sent.and_then(|v| v.to_str().ok());
    let (size, sent) = match (said, sent) {
        (None, None) => {
            let why = "the length of the object has to be said";
            return Err(refused(StatusCode::LENGTH_REQUIRED, why));
        }
        (Some(said), None) => (number(said), number(said)),
        (None, Some(sent)) => (number(sent), number(sent)),
        (Some(said), Some(sent)) => (number(said), number(sent)),
    };
    if headers.contains_key(header::CONTENT_ENCODING) {
        let why = "objects are sent as they are, without an encoding";
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    match (size, sent) {
        (Some(size), Some(sent)) if size == sent && size <= OBJECT_BYTES_MAX => Ok(size),
        (Some(size), Some(_)) if size > OBJECT_BYTES_MAX => {
            let why = format!("objects have at most {OBJECT_BYTES_MAX} bytes here");
            Err(refused(StatusCode::UNPROCESSABLE_ENTITY, why))
        }
        _ => Err(refused(
            StatusCode::UNPROCESSABLE_ENTITY,
            "another length was said than is sent",
        )),
    }
}

/// What is written of an object that comes.
struct Written {
    file: TempPath,
    sha256: [u8; 32],
}

/// Takes the body in. None for the object without bytes, which needs no file.
async fn receive(
    door: &LfsDoor,
    body: &mut Incoming,
    volume: &VolumeName,
    size: u64,
    id: LfsId,
) -> Result<Option<TempPath>, Refused> {
    let room = door.room(volume, true).await;
    let room = room.map_err(|r| because(&r))?;
    let (send, pieces) = channel(PIECES);
    let writing = tokio::task::spawn_blocking(move || write(room.incoming(), pieces));
    let came = feed(body, size, &send).await;
    drop(send);
    let written = writing.await.map_err(io::Error::other).flatten();
    // A disk that fails is why not all was taken from the client.
    let written = written.map_err(|e| because(&disk("keep an upload", &e)))?;
    let came = came?;
    if came != size {
        let why = format!("{came} bytes came of an object of {size}");
        return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, why));
    }
    if written.sha256 != id.0 {
        return Err(because(&LfsRefusal::Wrong(id)));
    }
    Ok((size > 0).then_some(written.file))
}

/// Gives the bytes of a body to the one who writes, as long as it takes them; how many came.
async fn feed(body: &mut Incoming, size: u64, send: &Sender<Bytes>) -> Result<u64, Refused> {
    let mut came = 0;
    loop {
        let frame = match timeout(STALL, body.frame()).await {
            Ok(None) => return Ok(came),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(e))) => {
                let why = format!("the upload was cut off: {e}");
                return Err(refused(StatusCode::BAD_REQUEST, why));
            }
            Err(_) => {
                let why = "the upload stalled";
                return Err(refused(StatusCode::REQUEST_TIMEOUT, why));
            }
        };
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        came += piece.len() as u64;
        if came > size {
            let why = format!("more bytes came than the {size} of the object");
            return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, why));
        }
        if send.send(piece).await.is_err() {
            return Ok(came);
        }
    }
}

/// Writes what comes to a new file, and hashes it. The file goes when what is returned goes.
fn write(dir: &Path, mut pieces: Receiver<Bytes>) -> io::Result<Written> {
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    let mut hash = sha2::Sha256::new();
    while let Some(piece) = pieces.blocking_recv() {
        hash.update(&piece);
        file.write_all(&piece)?;
    }
    Ok(Written {
        file: file.into_temp_path(),
        sha256: hash.finalize().into(),
    })
}

/// Reads on for a while after a refusal: a client that still sends when the connection is
/// closed does not hear why.
async fn linger(mut body: Incoming) {
    let end = Instant::now() + LINGER;
    let mut left = LINGER_BYTES;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(end, body.frame()).await {
        let n = frame.data_ref().map_or(0, |d| d.len() as u64);
        let Some(rest) = left.checked_sub(n) else {
            return;
        };
        left = rest;
    }
}

pub(super) async fn verify(
    door: &LfsDoor,
    request: Request<Incoming>,
    volume: &VolumeName,
) -> Answered {
    let asked: Asked = body(request).await?;
    let id: LfsId = asked
        .oid
        .parse()
        .map_err(|e| refused(StatusCode::UNPROCESSABLE_ENTITY, format!("{e}")))?;
    let here = if id == LfsId::EMPTY {
        Presence::Here(0)
    } else {
        let all = door.host.presence(volume, vec![id], false).await;
        let all = all.map_err(|r| because(&r))?;
        all.into_iter().next().unwrap_or(Presence::Absent)
    };
    match here {
        Presence::Here(len) if u64::try_from(asked.size) == Ok(len) => Ok(answer(
            StatusCode::OK,
            super::wire::MEDIA_TYPE,
            Bytes::from_static(b"{}"),
        )),
        Presence::Here(len) => {
            let why = format!("object {id} has {len} bytes, not {}", asked.size);
            Err(refused(StatusCode::UNPROCESSABLE_ENTITY, why))
        }
        Presence::Partly(_) | Presence::Near(_) => Err(because(&LfsRefusal::Partly(id))),
        Presence::Absent => Err(because(&LfsRefusal::Absent(id))),
    }
}
