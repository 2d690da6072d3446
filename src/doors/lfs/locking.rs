//! The requests for locks. Whoever may push may lock, and take any lock away by force; others may
//! look. A lock keeps nobody from writing: git-lfs looks at them before it pushes.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::Incoming;
use hyper::{Request, StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use super::locks::{Lock, LockError, Locks, Page};
use super::route::Caller;
use super::wire::{self, Answered, Refused, because, body, disk, refused};
use super::{LOCKS_LISTED_MAX, LfsDoor, LfsRefusal};
use crate::base::id::VolumeName;

/// Locks in an answer, unless fewer are asked for.
const LISTED: usize = 100;

#[derive(Debug, Deserialize)]
struct ToLock {
    path: String,
}

#[derive(Debug, Deserialize)]
struct ToUnlock {
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
struct ToVerify {
    cursor: Option<String>,
    limit: Option<usize>,
}

/// Which locks somebody wants to see.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    path: Option<String>,
    id: Option<u64>,
    from: u64,
    limit: Option<usize>,
}

pub(super) async fn lock(
    door: &LfsDoor,
    request: Request<Incoming>,
    volume: &VolumeName,
    caller: &Caller,
) -> Answered {
    let wish: ToLock = body(request).await?;
    let owner = caller.name.clone();
    let done = with_locks(door, volume, move |locks| {
        locks.lock(&wish.path, &owner, now())
    });
    let (id, lock) = done.await?;
    Ok(wire::json(
        StatusCode::CREATED,
        &json!({ "lock": lock.shown(id) }),
    ))
}

pub(super) async fn unlock(
    door: &LfsDoor,
    request: Request<Incoming>,
    volume: &VolumeName,
    caller: &Caller,
    id: u64,
) -> Answered {
    let wish: ToUnlock = body(request).await?;
    let who = caller.name.clone();
    let done = with_locks(door, volume, move |locks| {
        locks.unlock(id, &who, wish.force)
    });
    let lock = done.await?;
    Ok(wire::json(
        StatusCode::OK,
        &json!({ "lock": lock.shown(id) }),
    ))
}

pub(super) async fn list(door: &LfsDoor, uri: &Uri, volume: &VolumeName) -> Answered {
    let filter = filter(uri.query().unwrap_or_default())?;
    let page = with_locks(door, volume, move |locks| {
        Ok(locks.list(filter.from, most(filter.limit), |id, lock| {
            filter.id.is_none_or(|want| want == id)
                && filter.path.as_ref().is_none_or(|want| *want == lock.path)
        }))
    });
    let page = page.await?;
    let told = with_next(json!({ "locks": shown(&page.locks) }), &page);
    Ok(wire::json(StatusCode::OK, &told))
}

pub(super) async fn verify(
    door: &LfsDoor,
    request: Request<Incoming>,
    volume: &VolumeName,
    caller: &Caller,
) -> Answered {
    let wish: ToVerify = body(request).await?;
    let from = cursor(wish.cursor.as_deref())?;
    let page = match door.host.dir(volume, false).await {
        // It is asked for before the first push to a volume, too.
        Err(LfsRefusal::NotFound(_)) => Page::default(),
        _ => {
            let all = with_locks(door, volume, move |locks| {
                Ok(locks.list(from, most(wish.limit), |_, _| true))
            });
            all.await?
        }
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = page
        .locks
        .iter()
        .cloned()
        .partition(|(_, lock)| lock.owner == caller.name);
    let told = json!({ "ours": shown(&ours), "theirs": shown(&theirs) });
    Ok(wire::json(StatusCode::OK, &with_next(told, &page)))
}

/// Does something with the locks of a volume, on a thread that may wait for the disk.
async fn with_locks<T: Send + 'static>(
    door: &LfsDoor,
    volume: &VolumeName,
    work: impl FnOnce(&mut Locks) -> Result<T, LockError> + Send + 'static,
) -> Result<T, Refused> {
    let room = door.room(volume, false).await;
    let room = room.map_err(|r| because(&r))?;
    let done = tokio::task::spawn_blocking(move || room.with_locks(work)).await;
    match done {
        Ok(done) => done.map_err(|e| why(&e)),
        Err(e) => Err(because(&LfsRefusal::Failed(e.to_string()))),
    }
}

fn why(e: &LockError) -> Refused {
    let status = match e {
        LockError::Taken(id, lock) => {
            let told = json!({ "lock": lock.shown(*id), "message": e.to_string() });
            return Box::new(wire::json(StatusCode::CONFLICT, &told));
        }
        LockError::Path(_) => StatusCode::UNPROCESSABLE_ENTITY,
        LockError::Many => StatusCode::INSUFFICIENT_STORAGE,
        LockError::Absent(_) => StatusCode::NOT_FOUND,
        LockError::Foreign(_) => StatusCode::FORBIDDEN,
        LockError::Io(what, e) => return because(&disk(what, e)),
    };
    refused(status, e.to_string())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

fn shown(locks: &[(u64, Lock)]) -> Vec<serde_json::Value> {
    locks.iter().map(|(id, lock)| lock.shown(*id)).collect()
}

fn with_next(mut told: serde_json::Value, page: &Page) -> serde_json::Value {
    if let (Some(next), Some(all)) = (page.next, told.as_object_mut()) {
        all.insert("next_cursor".to_owned(), next.to_string().into());
    }
    told
}

/// How many to list: at least one, so that whoever turns pages comes to the end.
fn most(limit: Option<usize>) -> usize {
    match limit {
        None | Some(0) => LISTED,
        Some(n) => n.min(LOCKS_LISTED_MAX),
    }
}

fn cursor(text: Option<&str>) -> Result<u64, Refused> {
    match text {
        None | Some("") => Ok(0),
        Some(text) => text.parse().map_err(|_| unclear("cursor")),
    }
}

fn unclear(what: &str) -> Refused {
    refused(
        StatusCode::UNPROCESSABLE_ENTITY,
        format!("the {what} is not understood"),
    )
}

fn filter(query: &str) -> Result<Filter, Refused> {
    let mut out = Filter::default();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value).ok_or_else(|| unclear("query"))?;
        if value.is_empty() {
            continue;
        }
        match name {
            "path" => out.path = Some(value),
            // What is no id of ours is of no lock.
            "id" => out.id = Some(value.parse().unwrap_or(0)),
            "cursor" => out.from = cursor(Some(&value))?,
            "limit" => out.limit = Some(value.parse().map_err(|_| unclear("limit"))?),
            _ => {}
        }
    }
    Ok(out)
}

/// A value of a query, as forms have them.
fn decode(value: &str) -> Option<String> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        out.push(match first {
            b'+' => b' ',
            b'%' => {
                let (digits, after) = rest.split_first_chunk::<2>()?;
                rest = after;
                let byte = data_encoding::HEXLOWER_PERMISSIVE.decode(digits).ok()?;
                *byte.first()?
            }
            other => *other,
        });
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_go_writes_them() {
        let want = Filter {
            path: Some("a b/ü+.bin".to_owned()),
            id: Some(7),
            from: 3,
            limit: Some(20),
        };
        let query = "cursor=3&id=7&limit=20&path=a+b%2F%C3%BC%2B.bin&refspec=refs%2Fheads%2Fmain";
        assert_eq!(filter(query).ok(), Some(want));
        assert_eq!(
            filter("path=&id=&cursor=&limit=").ok(),
            Some(Filter::default())
        );
        assert_eq!(filter("").ok(), Some(Filter::default()));
        assert_eq!(filter("id=x").ok().and_then(|f| f.id), Some(0));
        for bad in ["path=%", "path=%zz", "path=%ff", "limit=-1", "cursor=x"] {
            assert!(filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_have_at_least_one_and_not_too_many() {
        assert_eq!(most(None), 100);
        assert_eq!(most(Some(0)), 100);
        assert_eq!(most(Some(1)), 1);
        assert_eq!(most(Some(1_000_000)), LOCKS_LISTED_MAX);
    }
}
