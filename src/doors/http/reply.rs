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

/// Longest name that a sender may have.
const NAME_BYTES_MAX: usize = 100;

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

/// An answer of a media type.
pub fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut r = Response::new(full(body));
    *r.status_mut() = status;
    let h = r.headers_mut();
    h.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    h.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    r
}

/// What a request says of who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Basic {
    /// What the sender calls itself: `NAME` for the user `cell+NAME`, nothing for `cell`.
    pub name: Option<String>,
    /// The password.
    pub token: String,
}

/// Basic authentication for the user `cell` or `cell+NAME`. The token alone says what is allowed;
/// the name is only told to others.
#[must_use]
pub fn basic(headers: &HeaderMap) -> Option<Basic> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let plain = BASE64.decode(rest.trim().as_bytes()).ok()?;
    let (user, token) = std::str::from_utf8(&plain).ok()?.split_once(':')?;
    let name = match user.split_once('+') {
        None => None,
        Some((_, name)) if is_name(name) => Some(name.to_owned()),
        Some(_) => return None,
    };
    let is_cell = user.split('+').next() == Some("cell");
    (is_cell && !token.is_empty()).then(|| Basic {
        name,
        token: token.to_owned(),
    })
}

fn is_name(name: &str) -> bool {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
    fits && !name.chars().any(char::is_control)
}

/// The password of [`basic`].
#[must_use]
pub fn basic_password(headers: &HeaderMap) -> Option<String> {
    basic(headers).map(|b| b.token)
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
        assert_eq!(basic("cell+anna:a").as_deref(), Some("a"));
        assert_eq!(basic("cell+:a"), None);
        assert_eq!(basic("cellar:a"), None);
        assert_eq!(basic(&format!("cell+{}:a", "n".repeat(101))), None);
        assert_eq!(basic("cell:"), None);
        assert_eq!(password("Bearer abc"), None);
        assert_eq!(password("Basic ???"), None);
        assert_eq!(password("Basic"), None);
    }

    #[test]
    fn a_sender_may_have_a_name() {
        let name = |user: &str| {
            let mut h = HeaderMap::new();
            let value = format!("Basic {}", BASE64.encode(format!("{user}:t").as_bytes()));
            h.insert(header::AUTHORIZATION, value.parse().expect("a value"));
            basic(&h).map(|b| b.name)
        };
        assert_eq!(name("cell"), Some(None));
        assert_eq!(name("cell+a b+c"), Some(Some("a b+c".to_owned())));
        assert_eq!(name("cell+a\n"), None);
    }
}
