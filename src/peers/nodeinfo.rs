//! `GET /v1/node`: what a node tells anybody, and how a joiner asks for it.
//!
//! Invariant: three facts (node id, addresses, protocol version) and nothing else. The answer
//! of a stranger is read within [`FETCH_TIMEOUT`] and [`INFO_BYTES_MAX`] and believed in
//! nothing: the node id only says whom to dial.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::error::PeersError;
use super::ticket::ADDRS_MAX;
use crate::base::id::NodeId;

/// Asking takes at most this long, all addresses together.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest answer, head included.
const INFO_BYTES_MAX: u64 = 16 << 10;
/// Addresses of a host that are tried.
const HOST_ADDRS_MAX: usize = 8;

/// What `GET /v1/node` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The node id, in hex.
    pub node: String,
    /// UDP addresses at which it can be dialled.
    pub addresses: Vec<SocketAddr>,
    /// Version of the peer protocol.
    pub protocol: u16,
}

/// A node found at a host.
#[derive(Debug, Clone)]
pub struct Found {
    /// Who.
    pub node: NodeId,
    /// Where: first the address that answered, then those it named.
    pub addrs: Vec<SocketAddr>,
    /// Version of the peer protocol that it speaks.
    pub protocol: u16,
}

/// Asks `host:port` over TCP who it is.
///
/// # Errors
/// Nothing answers there in time, or not as a cellfs node.
pub async fn fetch_node_info(host: &str) -> Result<Found, PeersError> {
    let unreachable = |why: String| PeersError::Unreachable {
        what: host.to_owned(),
        why,
    };
    timeout(FETCH_TIMEOUT, fetch(host))
        .await
        .map_err(|_| unreachable(format!("no answer in {} s", FETCH_TIMEOUT.as_secs())))?
        .map_err(unreachable)
}

async fn fetch(host: &str) -> Result<Found, String> {
    let addrs: Vec<_> = lookup_host(host)
        .await
        .map_err(|e| e.to_string())?
        .take(HOST_ADDRS_MAX)
        .collect();
    let mut last = "the name has no address".to_owned();
    for addr in addrs {
        match ask(host, addr).await {
            Ok(info) => return found(addr, &info),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn ask(host: &str, addr: SocketAddr) -> Result<NodeInfo, String> {
    let mut stream = TcpStream::connect(addr).await.map_err(|e| e.to_string())?;
    let request = format!(
        "GET /v1/node HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    let mut limited = stream.take(INFO_BYTES_MAX);
    loop {
        if let Some(body) = body(&bytes)? {
            return serde_json::from_slice(body)
                .map_err(|_| "it does not answer as a cellfs node".to_owned());
        }
        let read = limited.read_buf(&mut bytes).await;
        if read.map_err(|e| e.to_string())? == 0 {
            return Err("it does not answer as a cellfs node".to_owned());
        }
    }
}

/// The whole body of an answer with a `Content-Length`; `None` when more must come.
///
/// As much of HTTP/1.1 as one small answer needs.
fn body(bytes: &[u8]) -> Result<Option<&[u8]>, String> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let odd = || "it does not answer as a cellfs node".to_owned();
    let (head, rest) = bytes.split_at(end + 4);
    let head = std::str::from_utf8(head).map_err(|_| odd())?;
    let (status, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    if !(status.starts_with("HTTP/1.1 200") || status.starts_with("HTTP/1.0 200")) {
        return Err(odd());
    }
    let length = headers
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or_else(odd)?;
    Ok(rest.get(..length))
}

fn found(answered: SocketAddr, info: &NodeInfo) -> Result<Found, String> {
    let node = info.node.parse().map_err(|_| "its node id is malformed")?;
    let mut addrs = vec![answered];
    for addr in &info.addresses {
        if addrs.len() < ADDRS_MAX && !addrs.contains(addr) {
            addrs.push(*addr);
        }
    }
    Ok(Found {
        node,
        addrs,
        protocol: info.protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    async fn serve(answer: Vec<u8>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 512];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(&answer).await;
            }
        });
        addr
    }

    #[tokio::test]
    async fn a_node_is_found_and_a_stranger_is_not() {
        let node = NodeId([5; 32]);
        let json = serde_json::to_string(&NodeInfo {
            node: node.to_string(),
            addresses: vec!["10.0.0.1:7".parse().unwrap()],
            protocol: 1,
        })
        .unwrap();
        let good = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{json}",
            json.len()
        );
        let addr = serve(good.into_bytes()).await;
        let found = fetch_node_info(&addr.to_string()).await.unwrap();
        assert_eq!((found.node, found.protocol), (node, 1));
        assert_eq!(found.addrs, [addr, "10.0.0.1:7".parse().unwrap()]);
        for bad in [
            &b""[..],
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\n\r\n{}",
            &[b'a'; 20_000],
        ] {
            let addr = serve(bad.to_vec()).await;
            let error = fetch_node_info(&addr.to_string()).await.unwrap_err();
            assert!(error.to_string().contains("port is open"), "{error}");
        }
        assert!(fetch_node_info("127.0.0.1:1").await.is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = body(&bytes);
            let mut framed = b"HTTP/1.1 200 OK\r\n".to_vec();
            framed.extend(bytes);
            let _ = body(&framed);
        }
    }
}
