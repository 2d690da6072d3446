//! Bodies and answers.

use std::io;

use bytes::Bytes;
use data_encoding::BASE64;
use futures::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

/// The body of an answer: all at once or as a stream.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A body that is all here.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body that comes in pieces; an error breaks the connection off.
pub fn stream(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    use futures::StreamExt;
    StreamBody::new(pieces.map(|p| p.map(Frame::data))).boxed_unsync()
}

/// A plain text answer.
pub fn text(status: StatusCode, body: impl Into<String>) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", body.into())
}

/// A JSON answer.
#[must_use]
pub fn json(value: &serde_json::Value) -> Response<Body> {
    answer(StatusCode::OK, "application/json", format!("{value}\n"))
}

/// 401, asking for Basic.
#[must_use]
pub fn unauthorized() -> Response<Body> {
    let mut r = text(
        StatusCode::UNAUTHORIZED,
        "a token is needed: `cellfs url` on a node prints a URL that carries one\n",
    );
    r.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Basic realm=\"cellfs\", charset=\"UTF-8\""),
    );
    r
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut r = Response::new(full(body));
    *r.status_mut() = status;
    let h = r.headers_mut();
    h.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    h.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    r
}

/// The password of Basic authentication for the user `cell`.
#[must_use]
pub fn basic_password(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = BASE64.decode(rest.trim().as_bytes()).ok()?;
    let (user, password) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
    (user == "cell" && !password.is_empty()).then(|| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(value: &str) -> Option<String> {
        let mut h = HeaderMap::new();
        h.insert(header::AUTHORIZATION, value.parse().expect("a value"));
        basic_password(&h)
    }

    #[test]
    fn only_basic_for_cell_counts() {
        let basic = |s: &str| password(&format!("Basic {}", BASE64.encode(s.as_bytes())));
        assert_eq!(basic("cell:a:b").as_deref(), Some("a:b"));
        assert_eq!(basic("other:a"), None);
        assert_eq!(basic("cell:"), None);
        assert_eq!(password("Bearer abc"), None);
        assert_eq!(password("Basic ???"), None);
        assert_eq!(password("Basic"), None);
    }
}
