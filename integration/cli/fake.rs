//! `cellfs` with a stand-in for its node: this test program run once more.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cellfs::base::cid::Cid;
use cellfs::base::path::VolumePath;
use cellfs::config::Options;
use cellfs::control::failure::{Answer, Failure};
use cellfs::control::flow::Flow;
use cellfs::control::lock::StateLock;
use cellfs::control::node::Node;
use cellfs::control::readiness::{Readiness, Ready};
use cellfs::control::server::Server;
use cellfs::control::wire::{
    AddTo, Added, Attach, Changed, Checkout, Conflict, Conflicts, ConflictsOf, DiffOf, Differing,
    FileAt, Gathered, Head, Holder, Invite, Kept, LogEntry, LogOf, Member, Merge, Merges, MergesOf,
    Mounted, Object, ObjectOf, PathOf, PinOf, Pinned, ResolveOf, RestoreOf, Scrubbed, Side, Status,
    Stay, Tagged, TagsOf, UrlOf, Version, Volume, Whereabouts,
};
use sha2::Digest;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What the test harness prints before the program's own output.
pub(crate) const NOISE: &str = "\nrunning 1 test\ntest cli::fake::program ... ";
/// How the stand-in misbehaves.
pub(crate) const ENV_KIND: &str = "CELLFS_FAKE";
const ENV_ARGS: &str = "CELLFS_FAKE_ARGS";
const BETWEEN: &str = "\u{1f}";

/// `cellfs` with these words.
pub(crate) fn cellfs(words: &[&str]) -> Command {
    let mut c = Command::new(std::env::current_exe().expect("a test program"));
    c.args(["--exact", "cli::fake::program", "--ignored", "--nocapture"])
        .args(["--test-threads", "1"])
        .env(ENV_ARGS, [&["cellfs"], words].concat().join(BETWEEN));
    c
}

#[test]
#[ignore = "the program that other tests run"]
fn program() {
    let Ok(args) = std::env::var(ENV_ARGS) else {
        return;
    };
    let code = cellfs::cli::main_with(args.split(BETWEEN).map(Into::into), &node, &|args| {
        let words: Vec<&str> = args.iter().filter_map(|a| a.to_str()).collect();
        Ok(cellfs(&words))
    });
    std::process::exit(code.number().into());
}

fn node(options: Options, readiness: Readiness) -> Answer<()> {
    let lock = StateLock::take(&options.state)?;
    match std::env::var(ENV_KIND).as_deref() {
        Ok("refuse") => {
            return Err(
                Failure::refused("the ticket has expired").hint("ask for another: cellfs invite")
            );
        }
        Ok("die") => std::process::exit(70),
        Ok("panic") => panic!("as told"),
        Ok("quit") => return Ok(()),
        Ok("slow") => std::thread::sleep(Duration::from_secs(60)),
        Ok("pair") => readiness.confirm("QX-77")?,
        _ => {}
    }
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::bug)?;
    runtime.block_on(async {
        let server = Server::bind(&lock).map_err(Failure::failed)?;
        let stop = CancellationToken::new();
        let fake = Fake {
            options: options.clone(),
            mounts: Mutex::default(),
            stop: stop.clone(),
        };
        if let Some(dir) = &options.dir {
            fake.mount(dir, options.volume.as_str(), options.read_only);
        }
        readiness.ready(fake.facts(options.dir.clone()));
        let mut term = signal(SignalKind::terminate()).map_err(Failure::bug)?;
        let served = server.run(Arc::new(fake), stop.clone());
        tokio::select! {
            _ = term.recv() => {}
            () = served => {}
        }
        Ok(())
    })
}

/// Says `abc` of whatever is asked for, unless it is a git object: then it fails behind the `a`.
struct Says(Cid, u8);

#[async_trait]
impl Flow for Says {
    async fn next(&mut self) -> Answer<Option<Bytes>> {
        self.1 += 1;
        match (self.1, self.0) {
            (1, _) => Ok(Some(Bytes::from_static(b"a"))),
            (2, Cid::Git(_)) => Err(Failure::failed("the rest is gone").hint("ask again")),
            (2, _) => Ok(Some(Bytes::from_static(b"bc"))),
            _ => Ok(None),
        }
    }
}

struct Fake {
    options: Options,
    mounts: Mutex<Vec<Mounted>>,
    stop: CancellationToken,
}

impl Fake {
    fn mount(&self, dir: &std::path::Path, volume: &str, read_only: bool) {
        self.mounts.lock().expect("lock").push(Mounted {
            dir: dir.to_owned(),
            volume: volume.to_owned(),
            read_only,
        });
    }

    fn facts(&self, dir: Option<PathBuf>) -> Ready {
        Ready {
            node: "abc123".to_owned(),
            join: Some("TICKET-1-86400".to_owned()),
            url: Some(self.git("read", "cell")),
            dir,
        }
    }

    fn git(&self, token: &str, volume: &str) -> String {
        format!("http://cell:{token}@{}/{volume}.git", self.options.listen)
    }

    fn other(state: &str) -> Member {
        Member {
            node: "def456".to_owned(),
            name: "n2".to_owned(),
            state: state.to_owned(),
            code: (state == "pending").then(|| "AB-12".to_owned()),
            ..Member::default()
        }
    }
}

#[async_trait]
impl Node for Fake {
    async fn status(&self) -> Answer<Status> {
        Ok(Status {
            node: "abc123".to_owned(),
            pid: std::process::id(),
            version: "0.1.0".to_owned(),
            name: self.options.name.clone(),
            listen: self.options.listen.to_string(),
            mounts: self.mounts.lock().expect("lock").clone(),
            volumes: vec![Volume {
                name: "cell".to_owned(),
                heads: vec![Head::default()],
                journal: "ok".to_owned(),
                ..Volume::default()
            }],
            ..Status::default()
        })
    }

    async fn attach(&self, what: Attach) -> Answer<Ready> {
        let volume = what.volume.map_or_else(|| "cell".to_owned(), String::from);
        self.mount(&what.dir, &volume, what.read_only);
        Ok(self.facts(Some(what.dir)))
    }

    async fn detach(&self, dir: PathBuf) -> Answer<()> {
        let mut mounts = self.mounts.lock().expect("lock");
        let before = mounts.len();
        mounts.retain(|m| m.dir != dir);
        if mounts.len() < before {
            return Ok(());
        }
        Err(Failure::failed(format!(
            "nothing is mounted on {}",
            dir.display()
        )))
    }

    async fn invite(&self, what: Invite) -> Answer<String> {
        Ok(format!("TICKET-{}-{}", what.uses, what.expires_s))
    }

    async fn url(&self, what: UrlOf) -> Answer<String> {
        let volume = what.volume.map_or_else(|| "cell".to_owned(), String::from);
        let url = self.git(if what.write { "write" } else { "read" }, &volume);
        Ok(match what.host {
            Some(host) => url.replace(&self.options.listen.to_string(), &host),
            None => url,
        })
    }

    async fn members(&self) -> Answer<Vec<Member>> {
        Ok(vec![Self::other("pending")])
    }

    async fn admit(&self, code: String) -> Answer<Member> {
        if code == "AB-12" {
            return Ok(Self::other("member"));
        }
        Err(Failure::refused(format!("no node shows {code}")))
    }

    async fn leave(&self, _force: bool) -> Answer<()> {
        Ok(())
    }

    async fn forget(&self, _: String) -> Answer<Member> {
        Ok(Self::other("forgotten"))
    }

    async fn log(&self, what: LogOf) -> Answer<Vec<LogEntry>> {
        let volume = what.volume.map_or_else(String::new, String::from);
        let path = what.path.unwrap_or_default();
        Ok(vec![LogEntry {
            time: 1_795_247_703,
            summary: format!("{volume} {path} {}", what.limit),
            ..LogEntry::default()
        }])
    }

    async fn conflicts(&self, what: ConflictsOf) -> Answer<Conflicts> {
        let one = Conflict {
            path: VolumePath::new(b"a").expect("a path"),
            copies: vec![Version::default()],
            ..Conflict::default()
        };
        // Two answers, to be put together.
        Ok(Conflicts {
            conflicts: if what.skip < 2 { vec![one] } else { Vec::new() },
            total: 2,
        })
    }

    async fn resolve(&self, what: ResolveOf) -> Answer<Changed> {
        Err(Failure::failed(format!("{:?} for {:?}", what.take, what.of)).hint("cellfs conflicts"))
    }

    async fn checkout(&self, _: PathOf) -> Answer<Checkout> {
        Err(Failure::failed("no versions"))
    }

    async fn merges(&self, what: MergesOf) -> Answer<Merges> {
        let merge = Merge {
            what: format!("text {}", what.limit),
            sides: vec![Side::default()],
            ..Merge::default()
        };
        Ok(Merges {
            merges: vec![merge],
            complete: false,
        })
    }

    async fn diff(&self, what: DiffOf) -> Answer<Differing> {
        Err(Failure::failed(format!(
            "{} {} {}",
            what.a, what.b, what.of.path
        )))
    }

    async fn restore(&self, what: RestoreOf) -> Answer<Changed> {
        Ok(Changed {
            path: what.of.path,
            commit: Some(what.at),
            ..Changed::default()
        })
    }

    async fn add(&self, what: AddTo, bytes: &mut dyn Flow) -> Answer<Added> {
        if what.volume.is_some() {
            return Err(Failure::failed("there is no such volume here").hint("cellfs status"));
        }
        let mut hash = sha2::Sha256::new();
        let mut length = 0;
        while let Some(b) = bytes.next().await? {
            length += b.len() as u64;
            if b.starts_with(b"bad") {
                return Err(Failure::failed("the disk of the node is full"));
            }
            hash.update(&b);
        }
        let id = Cid::File(hash.finalize().into());
        Ok(Added { id, length })
    }

    async fn get(&self, what: ObjectOf) -> Answer<(u64, Box<dyn Flow>)> {
        Ok((3, Box::new(Says(what.id, 0))))
    }

    async fn object(&self, what: ObjectOf) -> Answer<Object> {
        Ok(Object {
            id: what.id,
            kind: "file".to_owned(),
            length: 300,
            length_here: 100,
            pieces: Some(3),
            pieces_here: Some(1),
        })
    }

    async fn whereabouts(&self, what: PathOf) -> Answer<Whereabouts> {
        let holder = |name: &str, bytes, keeps| Holder {
            node: name.repeat(64),
            name: name.to_owned(),
            bytes,
            keeps,
        };
        Ok(Whereabouts {
            files: vec![FileAt {
                path: what.path,
                id: Cid::File([7; 32]),
                length: 20_000_000,
                kept: false,
                because: "--keep pinned".to_owned(),
                coming: Some("what is read of it is fetched when it is read".to_owned()),
                nodes: vec![holder("a", 5_000_000, false), holder("b", 20_000_000, true)],
            }],
            more: 2,
            silent: vec!["c".to_owned()],
        })
    }

    async fn pin(&self, what: PinOf) -> Answer<Pinned> {
        let stays = match what.kept {
            Some(false) => vec![Stay {
                path: what.path,
                why: "0 other nodes have promised to keep a copy; 1 must".to_owned(),
            }],
            _ => Vec::new(),
        };
        Ok(Pinned {
            files: 1,
            bytes: 20_000_000,
            bytes_here: 5_000_000,
            stays,
            stays_more: 0,
        })
    }

    async fn tags(&self, what: TagsOf) -> Answer<Vec<Tagged>> {
        Ok(vec![Tagged {
            node: "a".repeat(64),
            name: "n".to_owned(),
            us: true,
            keeps: "tagged".to_owned(),
            tags: what.set.unwrap_or_default(),
        }])
    }

    async fn gc(&self) -> Answer<Vec<Gathered>> {
        let kept = |packs| Kept {
            packs,
            objects: 10,
            bytes: 4096,
        };
        Ok(vec![Gathered {
            volume: "cell".to_owned(),
            before: kept(3),
            after: kept(1),
            seconds: 0.25,
        }])
    }

    async fn scrub(&self) -> Answer<Vec<Scrubbed>> {
        Ok(vec![Scrubbed {
            volume: "cell".to_owned(),
            bytes: 4_000_000_000,
            damaged: 2,
            seconds: 2.0,
        }])
    }

    async fn shutdown(&self) -> Answer<()> {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            stop.cancel();
        });
        Ok(())
    }
}
