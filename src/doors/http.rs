//! The TCP port: who may ask for what, and bounds on all that comes in.
//!
//! `GET /v1/node` is answered to everybody. Git and `GET /v1/status` are answered to this
//! machine, to others over TLS, and to others in clear only when that was asked for: tokens
//! would travel in clear. On a port with TLS the first byte tells TLS from plain HTTP, so
//! `GET /v1/node` works both ways.
//!
//! Invariant: headers, connections and waits are bounded; bytes from outside never panic.

mod connection;
mod reply;
mod tls;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::control::failure::Failure;

pub use reply::{Basic, Body, answer, basic, basic_password, json, stream, text, unauthorized};
pub use tls::{TlsError, load as load_tls};

/// Most connections at once; more are closed at once.
pub const CONNECTIONS_MAX: usize = 512;
/// Most of them from other machines: this one always gets in.
pub const CONNECTIONS_OTHERS_MAX: usize = 384;
/// Time for a request's head, and for a TLS handshake.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request head, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 << 10;
/// Time for open requests when the node ends.
const DRAIN: Duration = Duration::from_secs(5);

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where from.
    pub addr: SocketAddr,
    /// Over TLS.
    pub secure: bool,
}

impl Peer {
    /// Whether it is a process of this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.addr.ip().to_canonical().is_loopback()
    }
}

/// What the node itself answers.
#[async_trait]
pub trait Pages: Send + Sync + 'static {
    /// Body of `GET /v1/node`: what anybody may know.
    fn node(&self) -> serde_json::Value;
    /// Body of `GET /v1/status`.
    async fn status(&self) -> serde_json::Value;
    /// Whether a token lets its bearer read; other machines need one for the status.
    async fn may_read(&self, token: &str) -> bool;
}

/// Something that answers every request that is not the node's own.
#[async_trait]
pub trait Door: Send + Sync + 'static {
    /// Answers a request by somebody who may ask.
    async fn call(&self, request: Request<Incoming>, peer: Peer) -> Response<Body>;
}

/// What is served, and to whom.
#[derive(Clone)]
pub struct Site {
    /// The node's own pages.
    pub pages: Arc<dyn Pages>,
    /// Everything else.
    pub door: Arc<dyn Door>,
    /// TLS, if it is on: [`load_tls`].
    pub tls: Option<Arc<tokio_rustls::rustls::ServerConfig>>,
    /// Whether other machines may use everything without TLS.
    pub plain_http: bool,
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site")
            .field("tls", &self.tls.is_some())
            .field("plain_http", &self.plain_http)
            .finish_non_exhaustive()
    }
}

/// The port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on TCP {addr}: {source}")]
pub struct BindError {
    /// Where.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: std::io::Error,
}

impl From<BindError> for Failure {
    fn from(e: BindError) -> Self {
        if e.source.kind() == std::io::ErrorKind::AddrInUse {
            let port = e.addr.port();
            return Self::failed(format!("TCP port {port} is taken by another program")).hint(
                format!(
                    "choose another: --listen {}:{}",
                    e.addr.ip(),
                    port.wrapping_add(1)
                ),
            );
        }
        Self::failed(&e).hint("choose another address: --listen ADDR:PORT")
    }
}

/// Takes the port. Within a tokio runtime.
///
/// # Errors
/// When it is taken or not allowed.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr)
        .await
        .map_err(|source| BindError { addr, source })
}

/// Serves until `stop`, then lets open requests end for a few seconds.
pub async fn serve(listener: TcpListener, site: Site, stop: CancellationToken) {
    let places = Places::default();
    let tls = site.tls.clone().map(TlsAcceptor::from);
    let site = Arc::new(site);
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            a = listener.accept() => a,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
        };
        let (stream, addr) = match accepted {
            Ok(pair) => pair,
            Err(error) => {
                tracing::warn!(%error, "the HTTP port could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(place) = places.take(addr) else {
            tracing::debug!(%addr, "closed: too many connections are open");
            continue;
        };
        let (site, tls, stop) = (Arc::clone(&site), tls.clone(), stop.clone());
        open.spawn(async move {
            connection::serve(stream, addr, site, tls, stop).await;
            drop(place);
        });
    }
    drop(listener);
    let all = async { while open.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, all).await;
}

/// Room for connections.
struct Places {
    all: Arc<Semaphore>,
    others: Arc<Semaphore>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            others: Arc::new(Semaphore::new(CONNECTIONS_OTHERS_MAX)),
        }
    }
}

impl Places {
    /// A place, to be dropped with the connection.
    fn take(
        &self,
        addr: SocketAddr,
    ) -> Option<(OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
        let take = |s: &Arc<Semaphore>| Arc::clone(s).try_acquire_owned().ok();
        let secure = false;
        let other = if (Peer { addr, secure }).is_local() {
            None
        } else {
            Some(take(&self.others)?)
        };
        Some((take(&self.all)?, other))
    }
}

/// Answers one request.
async fn route(request: Request<Incoming>, peer: Peer, site: &Site) -> Response<Body> {
    if request.uri().path() == "/v1/node" {
        return only_get(&request).unwrap_or_else(|| json(&site.pages.node()));
    }
    if !(peer.is_local() || peer.secure || site.plain_http) {
        return text(StatusCode::FORBIDDEN, refusal(site.tls.is_some()));
    }
    if request.uri().path() != "/v1/status" {
        return site.door.call(request, peer).await;
    }
    if let Some(wrong) = only_get(&request) {
        return wrong;
    }
    // A page in a browser on this machine can reach the port under a name of its own.
    let open = peer.is_local() && names_this_machine(&request);
    let token = basic_password(request.headers());
    if open
        || match token {
            Some(token) => site.pages.may_read(&token).await,
            None => false,
        }
    {
        return json(&site.pages.status().await);
    }
    unauthorized()
}

fn only_get(request: &Request<Incoming>) -> Option<Response<Body>> {
    let get = matches!(*request.method(), Method::GET | Method::HEAD);
    (!get).then(|| text(StatusCode::METHOD_NOT_ALLOWED, "only GET here\n"))
}

fn refusal(tls_is_on: bool) -> &'static str {
    if tls_is_on {
        "This node answers other machines over TLS only, because tokens would travel in \
         clear: use https:// here, or start the node with --plain-http on a network that \
         you trust.\n"
    } else {
        "This node answers other machines on this port only with GET /v1/node, because \
         tokens would travel in clear: start it with --tls-cert FILE and --tls-key FILE, or \
         with --plain-http on a network that you trust.\n"
    }
}

fn names_this_machine(request: &Request<Incoming>) -> bool {
    let host = request.headers().get(hyper::header::HOST);
    let Some(host) = host.and_then(|h| h.to_str().ok()) else {
        return true;
    };
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}
