//! The batch request: for many objects at once, what the client is to do.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use super::route::Caller;
use super::wire::{
    Action, Actions, Answered, Asked, Batch, Batched, ObjectError, Told, because, body, json,
    refused, status,
};
use super::{BATCH_OBJECTS_MAX, LfsDoor, LfsId, LfsRefusal, OBJECT_BYTES_MAX, Presence};
use crate::base::id::VolumeName;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Download,
    Upload,
}

pub(super) async fn answer(
    door: &LfsDoor,
    request: Request<Incoming>,
    volume: &VolumeName,
    caller: &Caller,
    base: &str,
) -> Answered {
    let batch: Batch = body(request).await?;
    let operation = match batch.operation.as_str() {
        "download" => Operation::Download,
        "upload" => Operation::Upload,
        _ => {
            let why = "the operation is download or upload";
            return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, why));
        }
    };
    if operation == Operation::Upload {
        caller.must_write("upload")?;
    }
    let transfers = batch.transfers.unwrap_or_default();
    if !transfers.is_empty() && !transfers.iter().any(|t| t == "basic") {
        let why = "the only transfer here is basic";
        return Err(refused(StatusCode::UNPROCESSABLE_ENTITY, why));
    }
    if batch.objects.len() > BATCH_OBJECTS_MAX {
        let why = format!("more than {BATCH_OBJECTS_MAX} objects in one request");
        return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    let is_sha256 = batch.hash_algo.is_none_or(|h| h == "sha256");
    let checked: Vec<_> = batch
        .objects
        .iter()
        .map(|o| check(o, is_sha256, operation))
        .collect();
    let ids: Vec<LfsId> = checked.iter().flatten().map(|(id, _)| *id).collect();
    let presence = match door
        .host
        .presence(volume, ids.clone(), operation == Operation::Upload)
        .await
    {
        // The first push to a volume makes it, and git-lfs comes before git.
        Err(LfsRefusal::NotFound(_)) if operation == Operation::Upload => {
            vec![Presence::Absent; ids.len()]
        }
        done => done.map_err(|r| because(&r))?,
    };
    let mut presence = presence.into_iter();
    let mut objects = Vec::with_capacity(batch.objects.len());
    for (asked, checked) in batch.objects.into_iter().zip(checked) {
        let done = checked.and_then(|(id, size)| {
            let here = presence.next().unwrap_or(Presence::Absent);
            actions(operation, id, size, here, base)
        });
        let (actions, error) = match done {
            Ok(actions) => (actions, None),
            Err(error) => (None, Some(error)),
        };
        objects.push(Told {
            oid: asked.oid,
            size: asked.size,
            actions,
            error,
        });
    }
    let told = Batched {
        transfer: "basic",
        objects,
        hash_algo: "sha256",
    };
    Ok(json(StatusCode::OK, &told))
}

fn wrong(status: StatusCode, message: impl Into<String>) -> ObjectError {
    ObjectError {
        code: status.as_u16(),
        message: message.into(),
    }
}

/// The name and length of an object that there can be.
fn check(
    asked: &Asked,
    is_sha256: bool,
    operation: Operation,
) -> Result<(LfsId, u64), ObjectError> {
    if !is_sha256 {
        let why = "objects are named by sha256 here";
        return Err(wrong(StatusCode::CONFLICT, why));
    }
    let invalid = |why: String| wrong(StatusCode::UNPROCESSABLE_ENTITY, why);
    let id: LfsId = asked.oid.parse().map_err(|e| invalid(format!("{e}")))?;
    let size = u64::try_from(asked.size)
        .map_err(|_| invalid(format!("{} bytes are no length", asked.size)))?;
    if operation == Operation::Upload && size > OBJECT_BYTES_MAX {
        let why = format!("objects have at most {OBJECT_BYTES_MAX} bytes here");
        return Err(invalid(why));
    }
    Ok((id, size))
}

fn actions(
    operation: Operation,
    id: LfsId,
    size: u64,
    here: Presence,
    base: &str,
) -> Result<Option<Actions>, ObjectError> {
    let here = if id == LfsId::EMPTY {
        Presence::Here(0)
    } else {
        here
    };
    if let Presence::Here(len) | Presence::Partly(len) | Presence::Near(len) = here
        && len != size
    {
        let why = format!("object {id} has {len} bytes, not {size}");
        return Err(wrong(StatusCode::UNPROCESSABLE_ENTITY, why));
    }
    let object = format!("{base}/objects/{id}");
    match (operation, here) {
        (Operation::Download, Presence::Here(_) | Presence::Near(_)) => Ok(Some(Actions {
            download: Some(Action { href: object }),
            ..Actions::default()
        })),
        (Operation::Download, other) => {
            let why = match other {
                Presence::Partly(_) => LfsRefusal::Partly(id),
                _ => LfsRefusal::Absent(id),
            };
            Err(wrong(status(&why), why.to_string()))
        }
        (Operation::Upload, Presence::Here(_)) => Ok(None),
        (Operation::Upload, _) => Ok(Some(Actions {
            upload: Some(Action {
                href: format!("{object}?size={size}"),
            }),
            verify: Some(Action {
                href: format!("{base}/objects/verify"),
            }),
            ..Actions::default()
        })),
    }
}
