//! The wire: QUIC connections between node keys, over iroh. The only file that knows iroh.
//!
//! Invariant: a [`Conn`] is encrypted and both ends have proved their node keys; until
//! [`Conn::trust`] is called the other end can open one stream and make us buffer at most
//! [`STRANGER_WINDOW_BYTES`]. No relays, no discovery, no port mapping: nothing leaves for
//! third parties, and it works without internet. Tasks: those of iroh.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use iroh::endpoint::{
    BindOpts, ConnectionError, IdleTimeout, Incoming as QuicIncoming, IncomingAddr,
    PortmapperConfig, QuicTransportConfig, Side, VarInt, presets,
};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, SecretKey, TransportAddr};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::{PeersError, Refusal};
use super::key::NodeKey;
use super::ticket::ADDRS_MAX;
use super::wire;
use crate::base::id::NodeId;

/// ALPN of connections between members.
pub(crate) const ALPN_PEER: &[u8] = b"cellfs/peer/1";
/// ALPN of connections by which a node joins.
pub(crate) const ALPN_JOIN: &[u8] = b"cellfs/join/1";
/// An address that does not answer fails after this long.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// What a round trip is taken to be before one was measured. The end of a node waits about nine
/// times as long for peers that never answered.
const FIRST_RTT: Duration = Duration::from_millis(100);
/// What an unauthenticated end can make us buffer.
const STRANGER_WINDOW_BYTES: u32 = 128 << 10;
/// What a member can make us buffer, per connection and per stream.
const MEMBER_WINDOW_BYTES: u32 = 48 << 20;
/// The transport gives a connection up when more than 2048 packets of one stream wait for their
/// reader, also when none is missing: what fits into so many of the smallest packets is less.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// What we have under way on a connection.
const SEND_WINDOW_BYTES: u64 = 8 << 20;
/// Streams that a member can have open at a time, of each kind.
const MEMBER_STREAMS_MAX: u32 = 256;
/// A silent connection is pinged this often and given up after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
const PATH_IDLE_MAX: Duration = Duration::from_millis(6_500);
const IDLE_MAX: Duration = Duration::from_secs(8);

/// Why a connection is closed; travels as the QUIC error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Close {
    /// All said.
    Done,
    /// A [`Refusal`] follows in the reason.
    Refused,
    /// Another connection between the two serves.
    Duplicate,
    /// The closing node stops for now.
    Shutdown,
    /// The other end is no member any more.
    NotMember,
    /// The other end broke the protocol.
    Protocol,
}

impl Close {
    const ALL: [Self; 6] = [
        Self::Done,
        Self::Refused,
        Self::Duplicate,
        Self::Shutdown,
        Self::NotMember,
        Self::Protocol,
    ];

    fn code(self) -> VarInt {
        let at = Self::ALL.iter().position(|c| *c == self).unwrap_or(0);
        VarInt::from_u32(u32::try_from(at).unwrap_or(0))
    }

    fn of(code: VarInt) -> Option<Self> {
        let at = usize::try_from(code.into_inner()).ok()?;
        Self::ALL.get(at).copied()
    }
}

/// How a connection came to its end, as seen here.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    /// The other end refused us.
    Refused(Refusal),
    /// The other end closed it.
    Closed(Close),
    /// Anything else.
    Failed(String),
}

/// The UDP port with all that runs on it.
#[derive(Debug, Clone)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    listen: SocketAddr,
}

impl Transport {
    /// Opens the port.
    pub(crate) async fn bind(key: &NodeKey, listen: SocketAddr) -> Result<Self, PeersError> {
        let failed = |why: String| PeersError::Bind { addr: listen, why };
        let config = QuicTransportConfig::builder()
            .max_concurrent_bidi_streams(VarInt::from_u32(1))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .receive_window(VarInt::from_u32(STRANGER_WINDOW_BYTES))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
            .send_window(SEND_WINDOW_BYTES)
            .datagram_receive_buffer_size(None)
            .initial_rtt(FIRST_RTT)
            .keep_alive_interval(KEEP_ALIVE)
            .default_path_keep_alive_interval(KEEP_ALIVE)
            .default_path_max_idle_timeout(PATH_IDLE_MAX)
            .max_idle_timeout(IdleTimeout::try_from(IDLE_MAX).ok())
            .build();
        let mut builder = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .secret_key(SecretKey::from_bytes(&key.seed()))
            .alpns(vec![ALPN_PEER.to_vec(), ALPN_JOIN.to_vec()])
            .transport_config(config)
            .clear_ip_transports()
            .bind_addr(listen)
            .map_err(|e| failed(e.to_string()))?;
        if listen.ip().is_unspecified() {
            let other = match listen.ip() {
                IpAddr::V4(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            };
            let opts = BindOpts::default().set_is_required(false);
            builder = builder
                .bind_addr_with_opts(SocketAddr::new(other, listen.port()), opts)
                .map_err(|e| failed(e.to_string()))?;
        }
        let endpoint = builder.bind().await.map_err(|e| failed(e.to_string()))?;
        Ok(Self { endpoint, listen })
    }

    /// The address that the port got.
    pub(crate) fn local_addr(&self) -> SocketAddr {
        let bound = self.endpoint.bound_sockets();
        bound
            .iter()
            .find(|a| a.is_ipv4() == self.listen.is_ipv4())
            .copied()
            .unwrap_or(self.listen)
    }

    /// Addresses at which others may find us, as far as this machine knows.
    pub(crate) fn addrs(&self) -> Vec<SocketAddr> {
        let local = self.local_addr();
        if !local.ip().is_unspecified() {
            return vec![local];
        }
        let mut addrs: Vec<_> = self.endpoint.addr().ip_addrs().copied().collect();
        // A loopback address means another machine to others: last.
        addrs.sort_by_key(|a| (a.ip().is_loopback(), !a.is_ipv4()));
        addrs.truncate(ADDRS_MAX);
        addrs
    }

    /// Connects to a node at these addresses.
    pub(crate) async fn dial(
        &self,
        node: NodeId,
        addrs: &[SocketAddr],
        alpn: &[u8],
    ) -> Result<Conn, String> {
        let id = EndpointId::from_bytes(&node.0).map_err(|e| e.to_string())?;
        let to = EndpointAddr::new(id).with_addrs(addrs.iter().map(|a| TransportAddr::Ip(*a)));
        match tokio::time::timeout(DIAL_TIMEOUT, self.endpoint.connect(to, alpn)).await {
            Ok(Ok(conn)) => Ok(Conn(conn)),
            Ok(Err(e)) => Err(format!("{e:#}")),
            Err(_) => Err(format!("no answer in {} s", DIAL_TIMEOUT.as_secs())),
        }
    }

    /// The next connection that somebody tries to make; `None` after [`Self::close`].
    pub(crate) async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await.map(Incoming)
    }

    /// Closes the port after what was said has been sent.
    pub(crate) async fn close(&self) {
        self.endpoint.close().await;
    }
}

/// Somebody knocks. Nothing is known about it.
pub(crate) struct Incoming(QuicIncoming);

impl Incoming {
    /// Turns it away at the cost of one packet.
    pub(crate) fn refuse(self) {
        self.0.refuse();
    }

    /// Makes it prove its address first; `None` when it has been sent away to do so.
    pub(crate) fn validated(self) -> Option<Self> {
        if self.0.remote_addr_validated() {
            return Some(self);
        }
        match self.0.retry() {
            Ok(()) => None,
            Err(e) => Some(Self(e.into_incoming())),
        }
    }

    /// The address it knocks from.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        match self.0.remote_addr() {
            IncomingAddr::Ip(addr) => Some(addr),
            _ => None,
        }
    }

    /// Completes the TLS handshake.
    pub(crate) async fn accept(self) -> Result<Conn, String> {
        let accepting = self.0.accept().map_err(|e| e.to_string())?;
        accepting.await.map(Conn).map_err(|e| format!("{e:#}"))
    }
}

/// A connection to a node that has proved its key. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Conn(iroh::endpoint::Connection);

impl Conn {
    /// Who is at the other end.
    pub(crate) fn node(&self) -> NodeId {
        NodeId(*self.0.remote_id().as_bytes())
    }

    /// What the connection is for.
    pub(crate) fn is_join(&self) -> bool {
        self.0.alpn() == ALPN_JOIN
    }

    /// Whether we dialled.
    pub(crate) fn is_dialler(&self) -> bool {
        self.0.side() == Side::Client
    }

    /// Where the other end is now.
    pub(crate) fn addr(&self) -> Option<SocketAddr> {
        let paths = self.0.paths();
        let path = paths
            .iter()
            .find(|p| p.is_selected())
            .or_else(|| paths.iter().next())?;
        match path.remote_addr() {
            TransportAddr::Ip(addr) => Some(*addr),
            _ => None,
        }
    }

    /// The round-trip time now.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        let paths = self.0.paths();
        let path = paths
            .iter()
            .find(|p| p.is_selected())
            .or_else(|| paths.iter().next())?;
        Some(path.rtt())
    }

    /// Bytes that were sent, of whatever kind.
    #[cfg(test)]
    pub(crate) fn sent(&self) -> u64 {
        self.0.stats().udp_tx.bytes
    }

    /// Raises the limits for the other end: it is a member.
    pub(crate) fn trust(&self) {
        self.0
            .set_receive_window(VarInt::from_u32(MEMBER_WINDOW_BYTES));
        self.0
            .set_max_concurrent_bi_streams(VarInt::from_u32(MEMBER_STREAMS_MAX));
        self.0
            .set_max_concurrent_uni_streams(VarInt::from_u32(MEMBER_STREAMS_MAX));
    }

    /// 32 bytes that only the two ends of this connection know.
    pub(crate) fn exporter(&self, label: &[u8]) -> Result<[u8; 32], String> {
        let mut secret = [0; 32];
        self.0
            .export_keying_material(&mut secret, label, b"")
            .map_err(|_| "the session has no keys".to_owned())?;
        Ok(secret)
    }

    /// Opens a stream both ways.
    pub(crate) async fn open_bi(&self) -> io::Result<(SendStream, RecvStream)> {
        let (s, r) = self.0.open_bi().await?;
        Ok((SendStream::new(s), RecvStream(r)))
    }

    /// The next stream both ways that the other end opens.
    pub(crate) async fn accept_bi(&self) -> io::Result<(SendStream, RecvStream)> {
        let (s, r) = self.0.accept_bi().await?;
        Ok((SendStream::new(s), RecvStream(r)))
    }

    /// Opens a stream one way.
    pub(crate) async fn open_uni(&self) -> io::Result<SendStream> {
        Ok(SendStream::new(self.0.open_uni().await?))
    }

    /// The next stream one way that the other end opens.
    pub(crate) async fn accept_uni(&self) -> io::Result<RecvStream> {
        Ok(RecvStream(self.0.accept_uni().await?))
    }

    /// Closes the connection.
    pub(crate) fn close(&self, why: Close) {
        self.0.close(why.code(), b"");
    }

    /// Closes the connection and says why.
    pub(crate) fn refuse(&self, why: &Refusal) {
        self.0.close(Close::Refused.code(), &wire::encode(why));
    }

    /// Waits for the end of the connection.
    pub(crate) async fn ended(&self) -> Ended {
        match self.0.closed().await {
            ConnectionError::ApplicationClosed(close) => match Close::of(close.error_code) {
                Some(Close::Refused) => {
                    Ended::Refused(wire::decode(&close.reason).unwrap_or(Refusal::Malformed))
                }
                Some(why) => Ended::Closed(why),
                None => Ended::Failed(close.to_string()),
            },
            other => Ended::Failed(other.to_string()),
        }
    }
}

/// The writing half of a stream. Finished by `shutdown`; dropped before that it is reset, so
/// that the reader never takes a cut stream for a whole one.
#[derive(Debug)]
pub struct SendStream {
    inner: iroh::endpoint::SendStream,
    finished: bool,
}

impl SendStream {
    fn new(inner: iroh::endpoint::SendStream) -> Self {
        Self {
            inner,
            finished: false,
        }
    }

    /// What of several streams of a connection is sent first: the larger number. Streams have 0
    /// until this is called.
    pub fn set_priority(&self, priority: i32) {
        let _a_closed_stream_sends_nothing = self.inner.set_priority(priority);
    }

    /// Ends the stream: the reader sees its end after the last byte.
    pub fn finish(&mut self) {
        self.finished = true;
        let _ = self.inner.finish();
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.inner), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.inner), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut self.inner), cx)
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.finished {
            let _ = self.inner.reset(Close::Done.code());
        }
    }
}

/// The reading half of a stream. Dropped before its end it tells the writer to stop.
#[derive(Debug)]
pub struct RecvStream(iroh::endpoint::RecvStream);

impl RecvStream {
    /// Reads the whole stream, of at most `max` bytes.
    pub(crate) async fn read_all(&mut self, max: usize) -> io::Result<Vec<u8>> {
        self.0.read_to_end(max).await.map_err(io::Error::other)
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.0), cx, buf)
    }
}
