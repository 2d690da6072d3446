//! What git-lfs says and is told: JSON bodies, and errors as its API has them.

use std::io;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{JSON_BYTES_MAX, LfsRefusal, PATIENCE};
use crate::doors::http::{Body, answer};

/// The media type of all JSON here.
pub(super) const MEDIA_TYPE: &str = "application/vnd.git-lfs+json";

/// An answer that says why not.
pub(super) type Refused = Box<Response<Body>>;

/// What is answered.
pub(super) type Answered = Result<Response<Body>, Refused>;

/// `POST objects/batch`. The ref that it may name decides nothing here.
#[derive(Debug, Deserialize)]
pub(super) struct Batch {
    pub(super) operation: String,
    pub(super) transfers: Option<Vec<String>>,
    pub(super) objects: Vec<Asked>,
    pub(super) hash_algo: Option<String>,
}

/// An object that somebody asks for.
#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    pub(super) oid: String,
    pub(super) size: i64,
}

/// The answer to a batch.
#[derive(Debug, Serialize)]
pub(super) struct Batched {
    pub(super) transfer: &'static str,
    pub(super) objects: Vec<Told>,
    pub(super) hash_algo: &'static str,
}

/// What is answered of one object.
#[derive(Debug, Serialize)]
pub(super) struct Told {
    pub(super) oid: String,
    pub(super) size: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) actions: Option<Actions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<ObjectError>,
}

/// What the client is to do next.
#[derive(Debug, Default, Serialize)]
pub(super) struct Actions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) download: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upload: Option<Action>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verify: Option<Action>,
}

/// Where to do it. Who may is asked there again, so nothing expires.
#[derive(Debug, Serialize)]
pub(super) struct Action {
    pub(super) href: String,
}

/// Why nothing can be done with one object.
#[derive(Debug, Serialize)]
pub(super) struct ObjectError {
    pub(super) code: u16,
    pub(super) message: String,
}

#[derive(Serialize)]
struct Message {
    message: String,
}

/// A JSON answer.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    // Strings and numbers only: that cannot fail.
    let text = serde_json::to_vec(value).unwrap_or_default();
    answer(status, MEDIA_TYPE, text)
}

/// An error.
pub(super) fn refused(status: StatusCode, why: impl Into<String>) -> Refused {
    let message = why.into();
    Box::new(json(status, &Message { message }))
}

/// 401, asking for Basic.
pub(super) fn unauthorized() -> Refused {
    let why = "a token is needed: `cellfs url` on a node prints a URL that carries one";
    let mut r = refused(StatusCode::UNAUTHORIZED, why);
    let basic = HeaderValue::from_static("Basic realm=\"cellfs\", charset=\"UTF-8\"");
    r.headers_mut().insert("lfs-authenticate", basic.clone());
    r.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
    r
}

/// Which status says this.
pub(super) fn status(refusal: &LfsRefusal) -> StatusCode {
    match refusal {
        LfsRefusal::NotFound(_) | LfsRefusal::Absent(_) | LfsRefusal::Partly(_) => {
            StatusCode::NOT_FOUND
        }
        LfsRefusal::Wrong(_) => StatusCode::UNPROCESSABLE_ENTITY,
        LfsRefusal::Full => StatusCode::INSUFFICIENT_STORAGE,
        LfsRefusal::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        LfsRefusal::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// What the host refused.
pub(super) fn because(refusal: &LfsRefusal) -> Refused {
    if let LfsRefusal::Failed(why) = refusal {
        tracing::warn!(error = %why, "git-lfs was not served");
    }
    let mut r = refused(status(refusal), refusal.to_string());
    if r.status() == StatusCode::SERVICE_UNAVAILABLE {
        let later = HeaderValue::from_static("5");
        r.headers_mut().insert(header::RETRY_AFTER, later);
    }
    r
}

/// What a disk refused.
pub(super) fn disk(what: &str, e: &io::Error) -> LfsRefusal {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LfsRefusal::Full,
        _ => LfsRefusal::Failed(format!("could not {what}: {e}")),
    }
}

fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str);
    let value = value.and_then(Result::ok).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// The JSON body of a request.
pub(super) async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refused> {
    let (head, body) = request.into_parts();
    let kind = media_type(&head.headers);
    let is_json = [MEDIA_TYPE, "application/json"]
        .iter()
        .any(|k| kind.eq_ignore_ascii_case(k));
    if !is_json || head.headers.contains_key(header::CONTENT_ENCODING) {
        let why = format!("only {MEDIA_TYPE} here, without an encoding");
        return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, why));
    }
    let all = Limited::new(body, JSON_BYTES_MAX).collect();
    let all = match tokio::time::timeout(PATIENCE, all).await {
        Ok(Ok(all)) => all.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            let why = format!("more than {JSON_BYTES_MAX} bytes in one request");
            return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Ok(Err(e)) => return Err(refused(StatusCode::BAD_REQUEST, e.to_string())),
        Err(_) => {
            let why = "the request did not come in time";
            return Err(refused(StatusCode::REQUEST_TIMEOUT, why));
        }
    };
    serde_json::from_slice(&all).map_err(|e| {
        let why = format!("the request is not understood: {e}");
        refused(StatusCode::BAD_REQUEST, why)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_not_in_the_json() {
        let told = Told {
            oid: "a".to_owned(),
            size: 1,
            actions: None,
            error: Some(ObjectError {
                code: 404,
                message: "no".to_owned(),
            }),
        };
        let text = serde_json::to_string(&told).expect("json");
        assert_eq!(
            text,
            r#"{"oid":"a","size":1,"error":{"code":404,"message":"no"}}"#
        );
    }

    #[test]
    fn media_types_have_parameters() {
        let of = |v: &str| {
            let mut h = HeaderMap::new();
            h.insert(header::CONTENT_TYPE, v.parse().expect("a value"));
            media_type(&h).to_owned()
        };
        assert_eq!(
            of("application/vnd.git-lfs+json; charset=utf-8"),
            MEDIA_TYPE
        );
        assert_eq!(media_type(&HeaderMap::new()), "");
    }
}
