//! Under which host this node's HTTP port is offered to git clients.
//!
//! What the person says; else the address that the node listens on. When that is all of them,
//! it is this machine's own name for itself while only this machine may use the port, and the
//! first address at which other nodes are told to find this one when others may, too.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::control::failure::{Answer, Failure};

/// Host and port, as they stand in a URL. `open`: other machines may use the port.
pub(super) fn authority(listen: SocketAddr, open: bool, own: &[SocketAddr]) -> String {
    let loopback = || match listen.ip() {
        IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    let ip = if !listen.ip().is_unspecified() {
        listen.ip()
    } else if open {
        let told = own.iter().map(|a| a.ip());
        told.into_iter()
            .find(|ip| may_be_reached(*ip))
            .unwrap_or_else(loopback)
    } else {
        loopback()
    };
    SocketAddr::new(ip, listen.port()).to_string()
}

fn may_be_reached(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_loopback() || ip.is_unspecified())
}

/// What a person gave as host, with our port unless it has one.
///
/// # Errors
/// When it cannot stand in a URL.
pub(super) fn given(host: &str, port: u16) -> Answer<String> {
    let wrong = || {
        Failure::usage(format!("--host {host}: not a host")).hint(
            "for example: --host files.example.org, --host 192.0.2.7, --host [2001:db8::7]:443",
        )
    };
    let inner = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if let Ok(ip) = inner.unwrap_or(host).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port).to_string());
    }
    if let Ok(at) = host.parse::<SocketAddr>() {
        return Ok(at.to_string());
    }
    let (name, at) = match host.split_once(':') {
        Some((name, at)) => (name, at.parse::<u16>().map_err(|_| wrong())?),
        None => (host, port),
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if name.is_empty() || !name.bytes().all(good) {
        return Err(wrong());
    }
    Ok(format!("{name}:{at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_get_an_address_that_they_can_use() {
        let own: Vec<SocketAddr> = ["[fe80::1]:5", "169.254.0.1:5", "192.0.2.7:5", "127.0.0.1:5"]
            .iter()
            .map(|a| a.parse().unwrap())
            .collect();
        let at = |listen: &str, open| authority(listen.parse().unwrap(), open, &own);
        assert_eq!(at("0.0.0.0:5", true), "192.0.2.7:5");
        assert_eq!(at("0.0.0.0:5", false), "127.0.0.1:5");
        assert_eq!(at("[::]:5", false), "[::1]:5");
        assert_eq!(at("[::]:5", true), "192.0.2.7:5");
        assert_eq!(at("198.51.100.1:5", false), "198.51.100.1:5");
        assert_eq!(at("[2001:db8::1]:5", true), "[2001:db8::1]:5");
        let none = authority("0.0.0.0:5".parse().unwrap(), true, &own[3..]);
        assert_eq!(none, "127.0.0.1:5");
    }

    #[test]
    fn a_given_host_may_have_a_port() {
        let ok = |h| given(h, 5).unwrap();
        assert_eq!(ok("files.example.org"), "files.example.org:5");
        assert_eq!(ok("files.example.org:443"), "files.example.org:443");
        assert_eq!(ok("2001:db8::7"), "[2001:db8::7]:5");
        assert_eq!(ok("[2001:db8::7]"), "[2001:db8::7]:5");
        assert_eq!(ok("[2001:db8::7]:443"), "[2001:db8::7]:443");
        assert_eq!(ok("192.0.2.7:443"), "192.0.2.7:443");
        for bad in ["", "a b", "a/b", "a:b", "user@host", ":443", "a:1:2"] {
            assert!(given(bad, 5).is_err(), "{bad}");
        }
    }
}
