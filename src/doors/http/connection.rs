//! One connection: TLS or plain by its first byte, then HTTP/1.1 within bounds.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{HEAD_BYTES_MAX, HEAD_TIMEOUT, Peer, Site, route};

/// First byte of every TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;

pub(super) async fn serve(
    stream: TcpStream,
    addr: SocketAddr,
    site: Arc<Site>,
    tls: Option<TlsAcceptor>,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let mut first = [0; 1];
    let secure = match timeout(HEAD_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(1)) => first == [TLS_HANDSHAKE],
        _ => return,
    };
    let peer = Peer { addr, secure };
    match (secure, tls) {
        (false, _) => http(stream, peer, site, stop).await,
        (true, Some(tls)) => match timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => http(stream, peer, site, stop).await,
            Ok(Err(error)) => tracing::debug!(%addr, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(%addr, "TLS handshake took too long"),
        },
        (true, None) => tracing::debug!(%addr, "TLS was tried on a port without TLS"),
    }
}

async fn http<S>(stream: S, peer: Peer, site: Arc<Site>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(route(request, peer, &site).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(addr = %peer.addr, %error, "an HTTP connection ended early");
    }
}
