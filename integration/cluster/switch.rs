//! A switch in user space, between TAP devices: links with delay and loss.
//!
//! The kernels on which these tests run need not have `netem`.

use std::collections::{BinaryHeap, HashMap};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::net::Net;
use crate::harness::run;

/// Frames that wait; more are dropped, as a router does.
const QUEUE_MAX: usize = 20_000;

/// How links are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// One way.
    pub(super) delay: Duration,
    /// In 1,000 frames.
    pub(super) loss: u32,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    due: std::cmp::Reverse<(Instant, u64)>,
    port: usize,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<BinaryHeap<Frame>>,
    more: Condvar,
    stop: AtomicBool,
}

/// Runs until it is dropped.
#[derive(Debug)]
pub(super) struct Switch(Arc<Shared>);

impl Switch {
    /// Connects the namespaces of a net that has no bridge.
    pub(super) fn start(net: &Net, count: usize, link: Link) -> Self {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            more: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let taps: Vec<Arc<File>> = (1..=count).map(|i| Arc::new(tap(net, i))).collect();
        let macs: Arc<Mutex<HashMap<[u8; 6], usize>>> = Arc::default();
        let ports = taps.len();
        for (port, tap) in taps.iter().cloned().enumerate() {
            let (shared, macs) = (shared.clone(), macs.clone());
            std::thread::spawn(move || {
                let mut chance = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(port as u64 + 1);
                let mut number = port as u64;
                let mut buf = vec![0; 65_536];
                while !shared.stop.load(Ordering::Relaxed) {
                    let Ok(n) = (&*tap).read(&mut buf) else {
                        return;
                    };
                    let (Some(to), Some(from)) = (mac(&buf, 0), mac(&buf, 6)) else {
                        continue;
                    };
                    let known = {
                        let mut macs = macs.lock().expect("unpoisoned");
                        macs.insert(from, port);
                        macs.get(&to).copied()
                    };
                    let outs: Vec<usize> = match known {
                        Some(p) => vec![p],
                        None => (0..ports).filter(|p| *p != port).collect(),
                    };
                    let mut queue = shared.queue.lock().expect("unpoisoned");
                    for out in outs {
                        chance ^= chance << 13;
                        chance ^= chance >> 7;
                        chance ^= chance << 17;
                        let lost = u32::try_from(chance % 1000).expect("small") < link.loss;
                        if lost || queue.len() >= QUEUE_MAX {
                            continue;
                        }
                        number += ports as u64;
                        queue.push(Frame {
                            due: std::cmp::Reverse((Instant::now() + link.delay, number)),
                            port: out,
                            bytes: buf[..n].to_vec(),
                        });
                    }
                    drop(queue);
                    shared.more.notify_one();
                }
            });
        }
        let out = shared.clone();
        std::thread::spawn(move || deliver(&out, &taps));
        Self(shared)
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.0.more.notify_all();
    }
}

fn deliver(shared: &Shared, taps: &[Arc<File>]) {
    let mut queue = shared.queue.lock().expect("unpoisoned");
    while !shared.stop.load(Ordering::Relaxed) {
        let now = Instant::now();
        let wait = match queue.peek() {
            Some(f) if f.due.0.0 <= now => {
                let f = queue.pop().expect("peeked");
                drop(queue);
                // A device that is down loses the frame, as a cable would.
                let _ = (&*taps[f.port]).write(&f.bytes);
                queue = shared.queue.lock().expect("unpoisoned");
                continue;
            }
            Some(f) => f.due.0.0 - now,
            None => Duration::from_millis(100),
        };
        queue = shared.more.wait_timeout(queue, wait).expect("unpoisoned").0;
    }
}

fn mac(frame: &[u8], at: usize) -> Option<[u8; 6]> {
    frame.get(at..at + 6)?.try_into().ok()
}

/// The end of a TAP device that is `eth0` of a namespace.
#[expect(
    unsafe_code,
    reason = "the ioctl that names a TAP device has no safe wrapper"
)]
fn tap(net: &Net, i: usize) -> File {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TAP: i16 = 0x0002;
    const IFF_NO_PI: i16 = 0x1000;
    let name = format!("t{}", net.name(i));
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("this machine has /dev/net/tun");
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI).to_ne_bytes());
    // SAFETY: the kernel reads and writes a `struct ifreq`, which is 40 bytes.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(
        done,
        0,
        "TUNSETIFF {name}: {}",
        std::io::Error::last_os_error()
    );
    let ns = net.name(i);
    run(Command::new("ip").args(["link", "set", &name, "netns", &ns, "name", "eth0"]));
    net.address(i);
    file
}
