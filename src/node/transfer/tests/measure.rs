//! How fast it is over loopback: run by hand, for the figures.

use super::*;

/// Bytes a second, and what is beside it: a copy of the file, and the same bytes over TCP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --lib transfer::tests::measure -- --ignored --nocapture"]
async fn a_large_file_over_loopback() {
    let len = 256 << 20;
    let bytes = noise(7, len);
    let rate = |took: Duration| len as f64 / took.as_secs_f64() / 1e6;
    let a = Node::found("a").await;
    let b = Node::join("b", &a, Manner::Honest).await;
    let survey = survey_of(a.dir.path(), &bytes);
    let path = a.dir.path().join("file");
    std::fs::write(&path, &bytes).unwrap();
    a.shelf.chunks.adopt(&path, &survey, true).unwrap();
    a.knows(&survey);
    let head = b.knows(&survey);
    a.is_linked(&b).await;
    let began = Instant::now();
    b.keep(head).await;
    until("all of it", || b.container(&survey).is_some()).await;
    let took = began.elapsed();
    assert!(b.container(&survey) == Some(bytes.clone()));
    let pieces = survey.pieces.len();
    eprintln!("swarm   {:7.0} MB/s, {pieces} pieces", rate(took));
    eprintln!("        asked {} times", a.asked.load(Ordering::Relaxed));
    // The same path without the swarm: the file copied, and synced.
    let (from, to) = (a.dir.path().join("from"), b.dir.path().join("to"));
    std::fs::write(&from, &bytes).unwrap();
    let began = Instant::now();
    let mut out = File::create(&to).unwrap();
    std::io::copy(&mut File::open(&from).unwrap(), &mut out).unwrap();
    out.sync_all().unwrap();
    eprintln!("copy    {:7.0} MB/s, synced", rate(began.elapsed()));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let began = Instant::now();
    let gives = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().unwrap();
        std::io::copy(&mut File::open(&from).unwrap(), &mut s).unwrap();
    });
    let mut out = File::create(&to).unwrap();
    std::io::copy(&mut std::net::TcpStream::connect(at).unwrap(), &mut out).unwrap();
    out.sync_all().unwrap();
    gives.join().unwrap();
    eprintln!("tcp     {:7.0} MB/s, synced", rate(began.elapsed()));
    // One stream of the members' connection: nothing read from disk, hashed or written.
    let began = Instant::now();
    let (mut to, mut from) = b.peers.request(a.id()).await.unwrap();
    to.write_all(b"\x01\0\0\0\xff").await.unwrap();
    to.finish();
    let mut step = vec![0; 256 << 10];
    let mut came = 0;
    while came < len {
        came += from.read(&mut step).await.unwrap();
    }
    eprintln!(
        "stream  {:7.0} MB/s, memory to memory",
        rate(began.elapsed())
    );
}
