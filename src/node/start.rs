//! From options to a running node, and to its end.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::answers::Answers;
use super::copies::{self, Promises};
use super::git_host::Host;
use super::keep::tags::Tags;
use super::keep::{self, Volumes};
use super::replicate;
use super::serve::Server;
use super::tokens::Tokens;
use super::transfer::Transfers;
use super::{NodeInner, VolumeName};
use crate::config::Options;
use crate::control::failure::{Answer, Failure};
use crate::control::lock::StateLock;
use crate::control::readiness::Readiness;
use crate::control::server::Server as ControlServer;
use crate::doors::git::GitDoor;
use crate::doors::http::{self, Site};
use crate::doors::lfs::LfsDoor;
use crate::peers::{Cell, Config, NodeKey, Peers, PeersError, Ticket};

/// A node that just joined waits this long for what the others have before it is ready.
const FIRST_SYNC: Duration = Duration::from_secs(20);
/// Without any head heard of in this time the cell is taken to be empty.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// Time for the end.
const DRAIN: Duration = Duration::from_secs(30);

/// Runs a node until it is told to end.
///
/// # Errors
/// When it cannot start; what went wrong was also told through `readiness`.
pub fn run(options: Options, readiness: Readiness) -> Answer<()> {
    let done = run_inner(options, &readiness);
    if let Err(f) = &done
        && !readiness.is_told()
    {
        readiness.failed(f.clone());
    }
    done
}

fn run_inner(options: Options, readiness: &Readiness) -> Answer<()> {
    let lock = StateLock::take(&options.state)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("cellfs-io")
        .build()
        .map_err(Failure::bug)?;
    let done = runtime.block_on(serve(options, readiness, &lock));
    runtime.shutdown_timeout(Duration::from_secs(2));
    done
}

async fn serve(options: Options, readiness: &Readiness, lock: &StateLock) -> Answer<()> {
    let key = NodeKey::load_or_create(&options.state.join("node.key"))?;
    let config = Config::new(
        key.clone(),
        options.state.clone(),
        options.listen,
        &options.name,
    );
    let tls = match &options.tls {
        Some(files) => Some(http::load_tls(&files.cert, &files.key)?),
        None => None,
    };
    let listener = http::bind(options.listen).await?;
    let mut config = config;
    let bound = listener.local_addr().map_err(Failure::bug)?;
    config.listen = bound;
    let (cell, joined) = membership(&options, &config, readiness).await?;
    let tokens = Tokens::load_or_create(&options.state.join("tokens")).map_err(Failure::failed)?;
    let state = |what, e| Failure::failed(format!("{what} cannot be read: {e}"));
    let tags = Tags::open(options.state.join("tags")).map_err(|e| state("the node's tags", e))?;
    let copies = Promises::open(options.state.join("promises"));
    let copies = copies.map_err(|e| state("what the node promised", e))?;
    let (core, messages) = mpsc::channel(replicate::MESSAGES);
    let stop = CancellationToken::new();
    let (dir, volume) = (options.dir.clone(), options.volume.clone());
    let plain_http = options.plain_http;
    let mut options = options;
    options.listen = bound;
    let mut inbox = None;
    let node = Arc::new_cyclic(|me| NodeInner {
        transfers: {
            let (transfers, i) = Transfers::new(Arc::new(Volumes(me.clone())));
            inbox = Some(i);
            transfers
        },
        looks: keep::Looks::default(),
        desks: keep::desk::Desks::default(),
        tags,
        tidying: tokio::sync::Notify::new(),
        copies,
        options,
        key,
        peers: OnceLock::new(),
        volumes: RwLock::default(),
        opening: Mutex::default(),
        mounts: Mutex::default(),
        next_mount: 1.into(),
        core,
        tokens,
        behind: Mutex::default(),
        fetches: Mutex::default(),
        skews: Mutex::new(BTreeMap::new()),
        shelves: Mutex::default(),
        histories: Mutex::default(),
        leaving: AtomicBool::new(false),
        stop: stop.clone(),
        me: me.clone(),
    });
    let handler = Arc::new(Server(Arc::downgrade(&node)));
    let (peers, events) = Peers::start(config, cell, handler).await?;
    if node.peers.set(peers.clone()).is_err() {
        return Err(Failure::bug("peers were started twice"));
    }
    let replicator = tokio::spawn(replicate::run(node.clone(), messages, events));
    let (transfers, to, end) = (node.transfers.clone(), peers.clone(), stop.clone());
    let transfers = inbox.map(|i| tokio::spawn(async move { transfers.run(to, i, end).await }));
    tokio::spawn(keep::run(node.clone()));
    tokio::spawn(keep::tidy::run(node.clone()));
    tokio::spawn(keep::scrub::run(node.clone()));
    tokio::spawn(copies::run(node.clone()));
    node.tell_tags()?;
    let end = start_rest(
        &node,
        lock,
        listener,
        tls,
        plain_http,
        (dir, volume),
        joined,
        readiness,
    );
    // Before anybody is told that the node is ready, and before there is a mount to leave behind.
    let signals = Signals::catch()?;
    let result = match end.await {
        Ok(()) => {
            signals.wait(&node).await;
            Ok(())
        }
        Err(f) => Err(f),
    };
    drain(&node, &peers, replicator).await;
    if let Some(transfers) = transfers
        && let Err(e) = transfers.await
    {
        tracing::error!(error = %e, "the task of transfers died");
    }
    result
}

#[expect(
    clippy::too_many_arguments,
    reason = "the parts of a start, in one place"
)]
async fn start_rest(
    node: &Arc<NodeInner>,
    lock: &StateLock,
    listener: tokio::net::TcpListener,
    tls: Option<Arc<tokio_rustls::rustls::ServerConfig>>,
    plain_http: bool,
    (dir, volume): (Option<std::path::PathBuf>, VolumeName),
    joined: bool,
    readiness: &Readiness,
) -> Answer<()> {
    node.clear_scratch();
    open_all(node, &volume).await?;
    for v in node.all_volumes() {
        if v.waits_for_room() {
            readiness.note(format!(
                "volume {}: the disk is full: all can be read, nothing is written until there is room",
                v.name()
            ));
        }
    }
    let exe = std::env::current_exe().map_err(Failure::bug)?;
    let host = Arc::new(Host(node.clone()));
    let git = GitDoor::open(host.clone(), &node.state().join("git-door"), &exe)
        .map_err(|e| Failure::failed(format!("the git door: {e}")).hint("apt-get install git"))?;
    let site = Site {
        pages: Arc::new(Answers(node.clone())),
        door: Arc::new(LfsDoor::before(Arc::new(git), host)),
        tls,
        plain_http,
    };
    tokio::spawn(http::serve(listener, site, node.stop.clone()));
    let control =
        ControlServer::bind(lock).map_err(|e| Failure::failed(format!("control socket: {e}")))?;
    tokio::spawn(control.run(Arc::new(Answers(node.clone())), node.stop.clone()));
    if joined {
        first_sync(node, &volume, readiness).await;
    }
    if let Some(dir) = dir.clone() {
        let v = volume.clone();
        node.blocking(move |n| n.mount(&dir, &v, n.options.mount))
            .await?;
    }
    readiness.ready(node.facts(dir, &volume).await);
    Ok(())
}

/// The cell that this node is in: as on disk, joined, or founded. Tells whether just joined.
async fn membership(
    options: &Options,
    config: &Config,
    readiness: &Readiness,
) -> Answer<(Cell, bool)> {
    match Cell::load(&config.key, &config.state_dir) {
        Ok(cell) => {
            let other = |t: Ticket| t.cell != cell.id();
            if options.join.iter().any(|j| j.parse().is_ok_and(other)) {
                return Err(Failure::failed(format!(
                    "the ticket is of another cell than state {}",
                    options.state.display()
                ))
                .hint(
                    "choose another state for it: --state DIR; or leave this cell: cellfs leave",
                ));
            }
            return Ok((cell, false));
        }
        Err(PeersError::NoCell) => {}
        Err(e) if options.join.is_empty() => return Err(e.into()),
        Err(e) => tracing::info!(error = %e, "joining anew"),
    }
    let mut last = None;
    for host in &options.join {
        match join(host, options, config, readiness).await {
            Ok(cell) => return Ok((cell, true)),
            Err(f) => last = Some(f),
        }
    }
    match last {
        Some(f) => Err(f),
        None => Ok((
            Cell::found(&config.key, &config.state_dir, &config.name)?,
            false,
        )),
    }
}

async fn join(
    host: &str,
    options: &Options,
    config: &Config,
    readiness: &Readiness,
) -> Answer<Cell> {
    if is_ticket(host) {
        return Ok(Cell::join_with_ticket(config, host).await?);
    }
    let host = with_port(host);
    if let Some(token) = &options.token {
        return Ok(Cell::join_with_token(config, &host, token).await?);
    }
    let r = readiness.clone();
    let refused = Arc::new(Mutex::new(None));
    let why = refused.clone();
    let confirm: crate::peers::Confirm = Box::new(move |code| {
        Box::pin(async move {
            let asked = tokio::task::spawn_blocking(move || r.confirm(&code)).await;
            match asked {
                Ok(Ok(())) => true,
                Ok(Err(f)) => {
                    *why.lock().unwrap_or_else(PoisonError::into_inner) = Some(f);
                    false
                }
                Err(_) => false,
            }
        })
    });
    let done = Cell::join_with_code(config, &host, confirm).await;
    let said = refused
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    match (done, said) {
        (Ok(cell), _) => Ok(cell),
        (Err(_), Some(f)) => Err(f),
        (Err(e), None) => Err(e.into()),
    }
}

/// Whether a `--join` is a ticket: no host name is that long in one piece.
fn is_ticket(text: &str) -> bool {
    text.starts_with("cellfs1") && text.len() > 64 && !text.contains(['.', ':'])
}

/// Adds the usual port to a host without one.
fn with_port(host: &str) -> String {
    let has = match host.rsplit_once(':') {
        Some((left, port)) => {
            port.parse::<u16>().is_ok() && (!left.contains(':') || left.ends_with(']'))
        }
        None => false,
    };
    if has {
        host.to_owned()
    } else if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:3838")
    } else {
        format!("{host}:3838")
    }
}

/// Opens the volumes on disk, and the one to be shown.
async fn open_all(node: &Arc<NodeInner>, volume: &VolumeName) -> Answer<()> {
    let dir = node.volumes_dir();
    crate::base::durable::dirs(&dir).map_err(Failure::failed)?;
    let mut names = vec![volume.clone()];
    for e in std::fs::read_dir(&dir).map_err(Failure::failed)? {
        let name = e.map_err(Failure::failed)?.file_name();
        if let Some(n) = name.to_str().and_then(|n| n.parse::<VolumeName>().ok()) {
            names.push(n);
        }
    }
    for name in names {
        node.blocking(move |n| n.open_volume(&name).map(|_| ()))
            .await?;
    }
    Ok(())
}

/// Waits until what the others have is here, so that a folder does not start out empty.
async fn first_sync(node: &Arc<NodeInner>, volume: &VolumeName, readiness: &Readiness) {
    let began = Instant::now();
    while began.elapsed() < FIRST_SYNC && !node.stop.is_cancelled() {
        let shown = node
            .volume(volume)
            .is_some_and(|v| !v.view().heads.is_empty());
        let behind = {
            let b = node.behind.lock().unwrap_or_else(PoisonError::into_inner);
            b.get(volume).copied().unwrap_or(0)
        };
        if behind == 0 && (shown || began.elapsed() > FIRST_WORD) {
            return;
        }
        let fetch = node.fetches().get(volume).cloned();
        readiness.sync(fetch.map(|f| f.progress()).unwrap_or_default());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if !node.stop.is_cancelled() {
        readiness.note(format!(
            "not all is here after {} s; the rest comes while the node runs: cellfs status",
            FIRST_SYNC.as_secs()
        ));
    }
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn catch() -> Answer<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate()).map_err(Failure::bug)?,
            int: signal(SignalKind::interrupt()).map_err(Failure::bug)?,
        })
    }

    async fn wait(mut self, node: &NodeInner) {
        tokio::select! {
            _ = self.term.recv() => tracing::info!("told to end"),
            _ = self.int.recv() => tracing::info!("interrupted"),
            () = node.stop.cancelled() => tracing::info!("asked to end"),
        }
    }
}

/// Mounts detached, journals flushed into commits, peers told.
async fn drain(node: &Arc<NodeInner>, peers: &Arc<Peers>, replicator: tokio::task::JoinHandle<()>) {
    let work = node.blocking(|n| {
        n.unmount_all();
        for v in n.all_volumes() {
            if let Err(e) = v.stop() {
                tracing::error!(volume = %v.name(), error = %e, "not all is in a commit; the journal has it");
            }
        }
        Ok(())
    });
    if tokio::time::timeout(DRAIN, work).await.is_err() {
        tracing::error!("draining took too long; the journal has what is not in a commit");
    }
    // The last commits go out before the connections do.
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.stop.cancel();
    replicator.abort();
    peers.shutdown().await;
}
