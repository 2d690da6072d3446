//! The HTTP port: who may ask for what, with and without TLS, and garbage.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use cellfs::doors::http::{CONNECTIONS_MAX, load_tls};

use crate::git_door::git;
use crate::git_door::host::{READ, Served, WRITE, eventually};

/// What comes back for these bytes.
fn send(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    // The server may hang up on what it will not read.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(addr: SocketAddr, path: &str, headers: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    send(addr, head.as_bytes())
}

fn basic(token: &str) -> String {
    let pair = data_encoding::BASE64.encode(format!("cell:{token}").as_bytes());
    format!("Authorization: Basic {pair}\r\n")
}

/// An address of this machine that is not a loopback one, if it has any.
fn outer_ip() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn this_machine_gets_everything() {
    let served = Served::start();
    let node = get(served.addr, "/v1/node", "Host: x\r\n");
    assert!(
        node.starts_with("HTTP/1.1 200") && node.ends_with("{\"node\":\"abc\"}\n"),
        "{node}"
    );
    let host = "Host: 127.0.0.1:1\r\n";
    assert!(get(served.addr, "/v1/status", host).contains("{\"pid\":1}"));
    // A page in a browser that calls this machine by a name of its own gets nothing.
    let rebound = get(served.addr, "/v1/status", "Host: evil.example:1\r\n");
    assert!(rebound.starts_with("HTTP/1.1 401"), "{rebound}");
    let with = format!("Host: evil.example\r\n{}", basic(READ));
    assert!(get(served.addr, "/v1/status", &with).contains("pid"));
    for (path, status) in [("/", 404), ("/cell.git/config", 404), ("/v1/nodes", 404)] {
        let said = get(served.addr, path, host);
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
    }
    let post =
        b"POST /v1/node HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(send(served.addr, post).starts_with("HTTP/1.1 405"));
}

#[test]
fn other_machines_get_one_page_unless_they_are_let_in() {
    let ip = outer_ip().expect("an address other than loopback: ip addr add 192.0.2.77/24 dev ...");
    let at = |s: &Served| SocketAddr::new(ip, s.addr.port());
    let closed = Served::start_with("0.0.0.0:0", |_| {});
    assert!(get(at(&closed), "/v1/node", "Host: x\r\n").contains("abc"));
    let headers = format!("Host: x\r\n{}", basic(WRITE));
    for path in ["/v1/status", "/cell.git/info/refs?service=git-upload-pack"] {
        let said = get(at(&closed), path, &headers);
        assert!(said.starts_with("HTTP/1.1 403"), "{said}");
        assert!(
            said.contains("--tls-cert") && said.contains("--plain-http"),
            "{said}"
        );
    }
    let open = Served::start_with("0.0.0.0:0", |site| site.plain_http = true);
    let said = get(at(&open), "/v1/status", "Host: 10.0.0.1\r\n");
    assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    assert!(get(at(&open), "/v1/status", &headers).contains("pid"));
    let refs = "/cell.git/info/refs?service=git-upload-pack";
    assert!(get(at(&open), refs, &headers).starts_with("HTTP/1.1 404"));
}

#[test]
fn one_port_speaks_tls_and_plain() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (cert, key) = certificate(dir.path());
    let tls = load_tls(&cert, &key).expect("good");
    assert!(load_tls(&key, &cert).is_err() && load_tls(Path::new("/x"), &key).is_err());
    let served = Served::start_with("0.0.0.0:0", |site| site.tls = Some(tls));
    let local = SocketAddr::from(([127, 0, 0, 1], served.addr.port()));
    assert!(get(local, "/v1/node", "Host: x\r\n").contains("abc"));
    let port = local.port();
    let repo = dir.path().join("repo");
    std::fs::create_dir(&repo).expect("made");
    let secure = |words: &[&str]| {
        let out = git(&repo, words).env("GIT_SSL_NO_VERIFY", "1").output();
        let out = out.expect("git runs");
        let err = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{words:?}: {err}");
    };
    secure(&["init", "-q"]);
    secure(&["commit", "-q", "--allow-empty", "-m", "x"]);
    let ip = outer_ip().unwrap_or_else(|| local.ip());
    let url = format!("https://cell:{WRITE}@{ip}:{port}/cell.git");
    secure(&["push", "-q", &url, "main"]);
    secure(&["clone", "-q", &url, "../clone"]);
    if !ip.is_loopback() {
        let said = get(SocketAddr::new(ip, port), "/v1/status", &basic(READ));
        assert!(
            said.starts_with("HTTP/1.1 403") && said.contains("https://"),
            "{said}"
        );
    }
}

pub(crate) fn certificate(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let done = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .expect("openssl is installed");
    assert!(done.status.success(), "{done:?}");
    (cert, key)
}

#[test]
fn a_thousand_connections_of_garbage_do_no_harm() {
    let served = Served::start();
    for n in 0..1_000_usize {
        let mut bytes = vec![0; n % 300];
        getrandom::fill(&mut bytes).expect("chance");
        if n % 3 == 0 {
            bytes.splice(0..0, b"GET /cell.git/info/refs?service=".iter().copied());
        }
        if n % 7 == 0 {
            bytes.insert(0, 0x16);
        }
        let mut stream = TcpStream::connect(served.addr).expect("connected");
        let _ = stream.write_all(&bytes);
    }
    for head in [
        format!(
            "GET /v1/node HTTP/1.1\r\nX: {}\r\n\r\n",
            "a".repeat(200_000)
        ),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200_000)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5_000)),
    ] {
        let said = send(served.addr, head.as_bytes());
        assert!(!said.starts_with("HTTP/1.1 200"), "{said}");
    }
    let push = format!(
        "POST /cell.git/git-receive-pack HTTP/1.1\r\nHost: x\r\n{}Connection: close\r\n\
         Content-Type: application/x-git-receive-pack-request\r\nContent-Encoding: gzip\r\n\
         Content-Length: 9\r\n\r\nnot gzip!",
        basic(WRITE)
    );
    assert!(send(served.addr, push.as_bytes()).starts_with("HTTP/1.1 400"));
    eventually("it answers", || {
        get(served.addr, "/v1/node", "Host: x\r\n").contains("abc")
    });
    assert!(served.host.pushes().is_empty());
}

#[test]
fn connections_and_silent_clients_are_bounded() {
    let served = Served::start();
    let mut open: Vec<_> = (0..CONNECTIONS_MAX + 50)
        .map(|_| TcpStream::connect(served.addr).expect("connected"))
        .collect();
    // The last one is closed at once; the first ones when their time is up.
    let mut byte = [0];
    let last = open.last_mut().expect("many");
    last.set_read_timeout(Some(Duration::from_secs(5)))
        .expect("set");
    assert_eq!(last.read(&mut byte).ok(), Some(0));
    let first = open.first_mut().expect("many");
    first
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("set");
    assert_eq!(first.read(&mut byte).ok(), Some(0));
    assert!(get(served.addr, "/v1/node", "Host: x\r\n").contains("abc"));
}
