//! The routes of git-lfs's API, and who may take which.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap};
use hyper::http::uri::Authority;
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::wire::{Answered, Refused, because, refused, unauthorized};
use super::{LfsDoor, LfsId, LfsRefusal, PATIENCE, batch, locking, transfer};
use crate::base::id::VolumeName;
use crate::doors::git::Access;
use crate::doors::http::{Body, Peer, basic};

/// Where the API of a volume begins, behind the volume's name.
const ROOT: &str = ".git/info/lfs/";

/// What a request is for.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Batch,
    Download(LfsId),
    Upload(LfsId),
    Verify,
    Lock,
    Locks,
    LocksVerify,
    Unlock(u64),
}

/// Who asks.
#[derive(Debug)]
pub(super) struct Caller {
    /// What they may do.
    pub(super) access: Access,
    /// What locks of theirs are of.
    pub(super) name: String,
}

impl Caller {
    /// # Errors
    /// When they may only read.
    pub(super) fn must_write(&self, what: &str) -> Result<(), Refused> {
        if self.access >= Access::Write {
            return Ok(());
        }
        let why = format!(
            "this token may read but not {what}: `cellfs url --write` prints a URL that may"
        );
        Err(refused(StatusCode::FORBIDDEN, why))
    }
}

/// Whether a path is of this API.
pub(super) fn is_lfs(path: &str) -> bool {
    let inside = path.strip_prefix('/').and_then(|p| p.split_once(ROOT));
    inside.is_some_and(|(volume, _)| !volume.contains('/'))
}

pub(super) async fn call(door: &LfsDoor, request: Request<Incoming>, peer: Peer) -> Response<Body> {
    match serve(door, request, peer).await {
        Ok(r) => r,
        Err(r) => *r,
    }
}

async fn serve(door: &LfsDoor, request: Request<Incoming>, peer: Peer) -> Answered {
    let (volume, route) = target(request.method(), request.uri().path())?;
    let caller = caller(door, request.headers()).await?;
    match route {
        Route::Batch => {
            let base = base(request.uri(), request.headers(), peer, &volume)?;
            batch::answer(door, request, &volume, &caller, &base).await
        }
        Route::Download(id) => transfer::download(door, &request, &volume, id).await,
        Route::Upload(id) => {
            caller.must_write("upload")?;
            transfer::upload(door, request, &volume, id).await
        }
        Route::Verify => {
            caller.must_write("upload")?;
            transfer::verify(door, request, &volume).await
        }
        Route::Lock => {
            caller.must_write("lock")?;
            locking::lock(door, request, &volume, &caller).await
        }
        Route::Locks => locking::list(door, request.uri(), &volume).await,
        Route::LocksVerify => {
            caller.must_write("verify locks")?;
            locking::verify(door, request, &volume, &caller).await
        }
        Route::Unlock(id) => {
            caller.must_write("unlock")?;
            locking::unlock(door, request, &volume, &caller, id).await
        }
    }
}

fn target(method: &Method, path: &str) -> Result<(VolumeName, Route), Refused> {
    let not_found = || refused(StatusCode::NOT_FOUND, "nothing here");
    let (volume, rest) = path
        .strip_prefix('/')
        .and_then(|p| p.split_once(ROOT))
        .ok_or_else(not_found)?;
    let volume = volume.parse().map_err(|_| not_found())?;
    let words: Vec<&str> = rest.splitn(4, '/').collect();
    let (route, wanted) = match (words.as_slice(), method) {
        (["objects", "batch"], _) => (Route::Batch, &Method::POST),
        (["objects", "verify"], _) => (Route::Verify, &Method::POST),
        (["objects", id], m) => {
            let id = id.parse().map_err(|_| not_found())?;
            if m == Method::PUT {
                (Route::Upload(id), &Method::PUT)
            } else {
                (Route::Download(id), &Method::GET)
            }
        }
        (["locks"], &Method::POST) => (Route::Lock, &Method::POST),
        (["locks"], _) => (Route::Locks, &Method::GET),
        (["locks", "verify"], _) => (Route::LocksVerify, &Method::POST),
        (["locks", id, "unlock"], _) => {
            let id = id.parse().map_err(|_| not_found())?;
            (Route::Unlock(id), &Method::POST)
        }
        _ => return Err(not_found()),
    };
    // HEAD is GET without a body; hyper leaves that out.
    if method != wanted && !(*wanted == Method::GET && method == Method::HEAD) {
        let why = format!("only {wanted} here");
        return Err(refused(StatusCode::METHOD_NOT_ALLOWED, why));
    }
    Ok((volume, route))
}

async fn caller(door: &LfsDoor, headers: &HeaderMap) -> Result<Caller, Refused> {
    let basic = basic(headers).ok_or_else(unauthorized)?;
    let access = door.host.access(&basic.token).await;
    if access == Access::None {
        return Err(unauthorized());
    }
    Ok(Caller {
        access,
        name: basic.name.unwrap_or_else(|| "cell".to_owned()),
    })
}

/// The URL that the client has of this API, so that it comes the same way again.
fn base(
    uri: &Uri,
    headers: &HeaderMap,
    peer: Peer,
    volume: &VolumeName,
) -> Result<String, Refused> {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let host = host.or_else(|| uri.authority().map(Authority::as_str));
    let host = host.and_then(|h| h.parse::<Authority>().ok());
    let host = host.filter(|h| !h.as_str().contains('@'));
    let host = host.ok_or_else(|| {
        let why = "a Host is needed, as objects are named by their URLs";
        refused(StatusCode::BAD_REQUEST, why)
    })?;
    let scheme = if peer.secure { "https" } else { "http" };
    Ok(format!("{scheme}://{host}/{volume}.git/info/lfs"))
}

/// A place among the transfers.
pub(super) async fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refused> {
    let waiting = Arc::clone(places).acquire_owned();
    match tokio::time::timeout(PATIENCE, waiting).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(because(&LfsRefusal::Busy(
            "too many transfers at once".to_owned(),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn at(method: &Method, path: &str) -> Result<Route, u16> {
        let done = target(method, path);
        done.map(|(_, r)| r).map_err(|r| r.status().as_u16())
    }

    #[test]
    fn only_the_routes_of_the_api_exist() {
        let (get, put, post) = (Method::GET, Method::PUT, Method::POST);
        let object = format!("/a.git/info/lfs/objects/{ID}");
        for (method, path, route) in [
            (&post, "/a.git/info/lfs/objects/batch", Route::Batch),
            (&post, "/a.git/info/lfs/objects/verify", Route::Verify),
            (&get, &object, Route::Download(LfsId::EMPTY)),
            (&Method::HEAD, &object, Route::Download(LfsId::EMPTY)),
            (&put, &object, Route::Upload(LfsId::EMPTY)),
            (&post, "/a.git/info/lfs/locks", Route::Lock),
            (&get, "/a.git/info/lfs/locks", Route::Locks),
            (&post, "/a.git/info/lfs/locks/verify", Route::LocksVerify),
            (&post, "/a.git/info/lfs/locks/7/unlock", Route::Unlock(7)),
        ] {
            assert_eq!(at(method, path), Ok(route), "{method} {path}");
        }
        for (method, path, status) in [
            (&get, "/a.git/info/lfs/objects/batch", 405),
            (&post, object.as_str(), 405),
            (&put, "/a.git/info/lfs/locks", 405),
            (&get, "/a.git/info/lfs/", 404),
            (&get, "/a.git/info/lfs/objects/../../HEAD", 404),
            (&put, "/a.git/info/lfs/objects/..", 404),
            (&put, "/a.git/info/lfs/objects/%2e%2e%2fx", 404),
            (&put, "/../a.git/info/lfs/objects/batch", 404),
            (&post, "/%2e.git/info/lfs/objects/batch", 404),
            (&post, "/a.git/info/lfs/locks/-1/unlock", 404),
            (&post, "/a.git/info/lfs/locks/1/unlock/2", 404),
        ] {
            assert_eq!(at(method, path), Err(status), "{method} {path}");
        }
        let long = format!("{object}/{ID}");
        assert_eq!(at(&get, &long), Err(404));
    }

    #[test]
    fn what_is_not_of_the_api_goes_to_the_door_behind() {
        assert!(is_lfs("/a.git/info/lfs/"));
        assert!(is_lfs("/%2e.git/info/lfs/x"));
        for path in [
            "/",
            "/a.git/info/refs",
            "/a.git/info/lfs",
            "/x/a.git/info/lfs/x",
            "a.git/info/lfs/",
        ] {
            assert!(!is_lfs(path), "{path}");
        }
    }

    #[test]
    fn a_client_is_sent_back_the_way_it_came() {
        let volume: VolumeName = "a".parse().expect("a name");
        let with = |host: &str, secure| {
            let mut h = HeaderMap::new();
            h.insert(header::HOST, host.parse().expect("a value"));
            let addr = ([127, 0, 0, 1], 1).into();
            let base = base(&Uri::from_static("/"), &h, Peer { addr, secure }, &volume);
            base.map_err(|r| r.status().as_u16())
        };
        let want = "https://files.example:3838/a.git/info/lfs";
        assert_eq!(with("files.example:3838", true).as_deref(), Ok(want));
        let want = "http://[::1]:8/a.git/info/lfs";
        assert_eq!(with("[::1]:8", false).as_deref(), Ok(want));
        for bad in ["", "a b", "a/b", "x@y", "a\"b"] {
            assert_eq!(with(bad, false), Err(400), "{bad}");
        }
    }
}
