//! What the node answers to commands and over HTTP.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::{NodeInner, address};
use crate::base::id::{NodeId, VolumeName};
use crate::control::failure::{Answer, Failure};
use crate::control::flow::Flow;
use crate::control::node::Node;
use crate::control::readiness::Ready;
use crate::control::wire::{
    AddTo, Added, Attach, Changed, Checkout, Conflicts, ConflictsOf, DiffOf, Differing, Gathered,
    Head, Invite, Kept, LogEntry, LogOf, Member, Merges, MergesOf, Mounted, Object, ObjectOf,
    PathOf, Peer, PinOf, Pinned, ResolveOf, RestoreOf, Scrubbed, Source, Status, Tagged, TagsOf,
    Transfer, UrlOf, Volume as VolumeStatus, Whereabouts,
};
use crate::doors::git::Access;
use crate::doors::http::Pages;
use crate::peers::{self, MemberState, Peers, PeersError};
use crate::volume::Volume;

/// Clocks further apart than this are worth a warning, seconds.
const SKEW_S_MAX: i64 = 300;

/// How long the ticket is good that is printed when a folder is mounted.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Answers(pub(super) Arc<NodeInner>);

impl From<PeersError> for Failure {
    fn from(e: PeersError) -> Self {
        match e {
            PeersError::Refused(r) => Self::refused(r),
            e => Self::failed(e),
        }
    }
}

/// Whether a file has the name that folders keep for themselves.
fn hides(v: &Volume) -> bool {
    let view = v.view();
    let name = crate::base::name::OWN_NAME;
    let found = crate::record::git_tree::find(&*view.stage, &view.tree, name);
    found.is_ok_and(|e| e.is_some())
}

fn state_name(m: &peers::Member) -> &'static str {
    match &m.state {
        MemberState::Us => "us",
        MemberState::Alive if m.connected => "connected",
        MemberState::Alive => "alive",
        MemberState::Unreachable => "unreachable",
        MemberState::Left => "left",
        MemberState::Forgotten => "forgotten",
        MemberState::Pending { .. } => "pending",
    }
}

fn member(m: peers::Member) -> Member {
    let state = match &m.state {
        MemberState::Us | MemberState::Alive | MemberState::Unreachable => "member",
        _ => state_name(&m),
    };
    let code = match &m.state {
        MemberState::Pending { code, .. } => Some(code.clone()),
        _ => None,
    };
    Member {
        node: m.node.to_string(),
        state: state.to_owned(),
        name: m.name,
        code,
        addr: m.addr.map(|a| a.to_string()),
        since: i64::try_from(m.since_ms / 1000).unwrap_or(0),
    }
}

fn peer(m: peers::Member) -> Peer {
    Peer {
        node: m.node.to_string(),
        state: state_name(&m).to_owned(),
        name: m.name,
        addr: m.addr.map(|a| a.to_string()),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a round trip in whole milliseconds"
        )]
        rtt_ms: m.rtt_ms.map(|r| r.round() as u64),
    }
}

impl NodeInner {
    pub(super) fn the_peers(&self) -> Answer<&Arc<Peers>> {
        self.peers()
            .ok_or_else(|| Failure::failed("the node is still starting"))
    }

    fn volume_status(&self, v: &Volume) -> VolumeStatus {
        let view = v.view();
        let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = behind.get(v.name()).copied().unwrap_or(0) as u64;
        VolumeStatus {
            name: v.name().to_string(),
            view: view.commit.map(|c| c.to_string()),
            heads: view
                .heads
                .iter()
                .map(|h| Head {
                    node: h.node.to_string(),
                    branch: h.stamp.branch.to_string(),
                    seq: h.stamp.seq,
                    id: h.id.to_string(),
                    content: h.content.map(|c| c.to_string()).unwrap_or_default(),
                })
                .collect(),
            dirty: v.dirty() as u64,
            behind,
            journal: match v.journal().poisoned() {
                None => "ok".to_owned(),
                Some(why) => format!("poisoned: {why}"),
            },
            sync: self.fetches().get(v.name()).map(|f| f.progress()),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let skews = self.skews.lock().unwrap_or_else(PoisonError::into_inner);
        let far = skews.iter().filter(|(_, s)| s.abs() > SKEW_S_MAX);
        let clocks = far.map(|(n, s)| {
            format!(
                "the clock of node {} differs from ours by {s} s; set both by NTP",
                n.short()
            )
        });
        let volumes = self.all_volumes();
        let full = volumes.iter().filter(|v| v.waits_for_room()).map(|v| {
            format!(
                "volume {}: the disk was full when the node started: all can be read, nothing is \
                 written until there is room",
                v.name()
            )
        });
        let troubles = volumes.iter().filter_map(|v| {
            let why = v.trouble()?;
            Some(format!(
                "volume {}: commits fail, what is written stays in the journal: {why}",
                v.name()
            ))
        });
        let damaged = volumes.iter().filter_map(|v| {
            let what = v.damage()?;
            Some(format!(
                "volume {}: what was written last may be lost: {what}",
                v.name()
            ))
        });
        let hidden = volumes.iter().filter(|v| hides(v)).map(|v| {
            format!(
                "volume {}: what is called .cellfs at the top is not shown in folders; rename it in \
                 a clone: git mv .cellfs NAME",
                v.name()
            )
        });
        let aside = volumes.iter().filter_map(|v| {
            let (dir, n) = v.kept_aside()?;
            let what = if n == 1 {
                "file that is"
            } else {
                "files that are"
            };
            Some(format!(
                "volume {}: {n} {what} in no commit: take what you need of {}, then remove it",
                v.name(),
                dir.display()
            ))
        });
        let all = clocks.chain(full).chain(troubles).chain(damaged);
        all.chain(hidden).chain(aside).collect()
    }

    pub(super) fn status_now(&self) -> Status {
        let all = self.peers().map(|p| p.members()).unwrap_or_default();
        let mounts = self.mounts.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            node: self.id().to_string(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            name: self.options.name.clone(),
            listen: self.options.listen.to_string(),
            cell: self
                .peers()
                .map(|p| p.cell().to_string())
                .unwrap_or_default(),
            state: self.options.state.clone(),
            warnings: self.warnings(),
            peers: all
                .into_iter()
                .filter(|m| !matches!(m.state, MemberState::Us | MemberState::Pending { .. }))
                .map(peer)
                .collect(),
            mounts: mounts
                .iter()
                .map(|m| Mounted {
                    dir: m.dir().to_owned(),
                    volume: m.volume().name().to_string(),
                    read_only: m.is_read_only(),
                })
                .collect(),
            volumes: self
                .all_volumes()
                .iter()
                .map(|v| self.volume_status(v))
                .collect(),
            transfer: self.transfer(),
        }
    }

    fn transfer(&self) -> Option<Transfer> {
        let s = self.transfers.status();
        let source = |(node, bytes_done, rate): &(NodeId, u64, u64)| Source {
            node: node.to_string(),
            bytes_done: *bytes_done,
            rate: *rate,
        };
        (s.files + s.waiting + s.bytes_done > 0).then(|| Transfer {
            files: s.files,
            waiting: s.waiting,
            bytes_done: s.bytes_done,
            bytes_left: s.bytes_left,
            rate: s.rate,
            seconds_left: s.seconds_left(),
            from: s.from.iter().map(source).collect(),
            stuck: s.stuck,
        })
    }

    /// What is printed when a folder is mounted.
    pub(super) async fn facts(&self, dir: Option<PathBuf>, volume: &VolumeName) -> Ready {
        let ticket = match self.peers() {
            Some(p) => p.shown_invite(DAY, DAY / 2).await.ok(),
            None => None,
        };
        Ready {
            node: self.id().to_string(),
            join: ticket.map(|t| t.to_string()),
            url: self.url(volume, false, None).ok(),
            dir,
        }
    }

    fn url(&self, volume: &VolumeName, write: bool, host: Option<&str>) -> Answer<String> {
        let token = if write {
            &self.tokens.write
        } else {
            &self.tokens.read
        };
        let scheme = if self.options.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let listen = self.options.listen;
        let at = match host {
            Some(host) => address::given(host, listen.port())?,
            None => {
                let open = self.options.tls.is_some() || self.options.plain_http;
                let own = self.peers().map(|p| p.node_info().addresses);
                address::authority(listen, open, &own.unwrap_or_default())
            }
        };
        Ok(format!("{scheme}://cell:{token}@{at}/{volume}.git"))
    }

    pub(super) fn known(&self, name: Option<VolumeName>) -> Answer<Arc<Volume>> {
        let name = name.unwrap_or_else(|| self.options.volume.clone());
        self.volume(&name).ok_or_else(|| {
            Failure::failed(format!("there is no volume {name} here")).hint("cellfs status")
        })
    }
}

#[async_trait]
impl Node for Answers {
    async fn status(&self) -> Answer<Status> {
        self.0.blocking(|n| Ok(n.status_now())).await
    }

    async fn attach(&self, what: Attach) -> Answer<Ready> {
        let volume = what.volume.unwrap_or_else(|| self.0.options.volume.clone());
        let (dir, name) = (what.dir.clone(), volume.clone());
        let mut options = what.options;
        options.read_only |= what.read_only;
        self.0
            .blocking(move |n| n.mount(&dir, &name, options))
            .await?;
        Ok(self.0.facts(Some(what.dir), &volume).await)
    }

    async fn detach(&self, dir: PathBuf) -> Answer<()> {
        self.0.blocking(move |n| n.unmount(&dir)).await
    }

    async fn invite(&self, what: Invite) -> Answer<String> {
        let expires = Duration::from_secs(what.expires_s);
        let t = self.0.the_peers()?.invite(what.uses, expires, &[]).await?;
        Ok(if what.only_token {
            t.token.to_string()
        } else {
            t.to_string()
        })
    }

    async fn url(&self, what: UrlOf) -> Answer<String> {
        let name = what.volume.unwrap_or_else(|| self.0.options.volume.clone());
        self.0.url(&name, what.write, what.host.as_deref())
    }

    async fn members(&self) -> Answer<Vec<Member>> {
        Ok(self
            .0
            .the_peers()?
            .members()
            .into_iter()
            .map(member)
            .collect())
    }

    async fn admit(&self, code: String) -> Answer<Member> {
        let p = self.0.the_peers()?;
        let node = p.admit(&code).await?;
        let found = p.members().into_iter().find(|m| m.node == node);
        Ok(found.map(member).unwrap_or_default())
    }

    async fn leave(&self, force: bool) -> Answer<()> {
        super::leave::leave(&self.0, force).await
    }

    async fn forget(&self, node: String) -> Answer<Member> {
        let p = self.0.the_peers()?;
        let id = find_member(p, &node)?;
        let heads = self.0.heads_of(id);
        p.forget(id, heads).await?;
        let found = p.members().into_iter().find(|m| m.node == id);
        Ok(found.map(member).unwrap_or_default())
    }

    async fn log(&self, what: LogOf) -> Answer<Vec<LogEntry>> {
        let v = self.0.known(what.volume.clone())?;
        let of = what.clone();
        match self.0.blocking(move |n| n.file_log(&of)).await? {
            Some(entries) => Ok(entries),
            None => {
                let w = v.clone();
                let settled = move |_: &_| w.settle().map_err(Failure::failed);
                self.0.blocking(settled).await?;
                super::history::log(&v, what.path, what.limit).await
            }
        }
    }

    async fn conflicts(&self, what: ConflictsOf) -> Answer<Conflicts> {
        self.0.blocking(move |n| n.conflicts(&what)).await
    }

    async fn resolve(&self, what: ResolveOf) -> Answer<Changed> {
        self.0.blocking(move |n| n.resolve(what)).await
    }

    async fn checkout(&self, what: PathOf) -> Answer<Checkout> {
        self.0.blocking(move |n| n.checkout(&what)).await
    }

    async fn merges(&self, what: MergesOf) -> Answer<Merges> {
        self.0.blocking(move |n| n.merges(&what)).await
    }

    async fn diff(&self, what: DiffOf) -> Answer<Differing> {
        self.0.blocking(move |n| n.diff(&what)).await
    }

    async fn restore(&self, what: RestoreOf) -> Answer<Changed> {
        self.0.blocking(move |n| n.restore(what)).await
    }

    async fn add(&self, what: AddTo, bytes: &mut dyn Flow) -> Answer<Added> {
        self.0.add(what, bytes).await
    }

    async fn get(&self, what: ObjectOf) -> Answer<(u64, Box<dyn Flow>)> {
        self.0.get(what).await
    }

    async fn object(&self, what: ObjectOf) -> Answer<Object> {
        self.0.object(what).await
    }

    async fn whereabouts(&self, what: PathOf) -> Answer<Whereabouts> {
        self.0.whereabouts(what).await
    }

    async fn pin(&self, what: PinOf) -> Answer<Pinned> {
        self.0.pin(what).await
    }

    async fn tags(&self, what: TagsOf) -> Answer<Vec<Tagged>> {
        self.0.tags(what).await
    }

    async fn gc(&self) -> Answer<Vec<Gathered>> {
        let of = |v: Arc<Volume>| move |_: &NodeInner| gathered(&v);
        let mut out = Vec::new();
        for v in self.0.all_volumes() {
            out.push(self.0.blocking(of(v)).await?);
        }
        Ok(out)
    }

    async fn scrub(&self) -> Answer<Vec<Scrubbed>> {
        self.0.blocking(NodeInner::scrub_all).await
    }

    async fn shutdown(&self) -> Answer<()> {
        self.0.stop.cancel();
        Ok(())
    }
}

fn gathered(v: &Volume) -> Answer<Gathered> {
    let begin = Instant::now();
    let done = v
        .gc()
        .map_err(|e| Failure::failed(format!("volume {}: {e}", v.name())))?;
    let [before, after] = [done.0, done.1].map(|s| Kept {
        packs: s.packs,
        objects: s.objects,
        bytes: s.bytes,
    });
    Ok(Gathered {
        volume: v.name().to_string(),
        before,
        after,
        seconds: begin.elapsed().as_secs_f64(),
    })
}

/// A member by its id, the start of its id, or its name.
fn find_member(p: &Peers, text: &str) -> Answer<NodeId> {
    let all = p.members();
    let hits: Vec<NodeId> = all
        .iter()
        .filter(|m| m.name == text || (text.len() >= 4 && m.node.to_string().starts_with(text)))
        .map(|m| m.node)
        .collect();
    match hits.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::failed(format!("no member is called {text}")).hint("cellfs members")),
        _ => Err(Failure::failed(format!("several members match {text}"))
            .hint("give more of the node's id: cellfs members")),
    }
}

impl NodeInner {
    /// The last heads of a node that were accepted here, as an opaque note.
    fn heads_of(&self, id: NodeId) -> Vec<u8> {
        let mut heads = Vec::new();
        for v in self.all_volumes() {
            for h in v.view().heads.iter().filter(|h| h.node == id) {
                heads.push((v.name().clone(), h.id.to_string()));
            }
        }
        postcard::to_stdvec(&heads).unwrap_or_default()
    }
}

#[async_trait]
impl Pages for Answers {
    fn node(&self) -> serde_json::Value {
        self.0
            .peers()
            .and_then(|p| serde_json::to_value(p.node_info()).ok())
            .unwrap_or_default()
    }

    async fn status(&self) -> serde_json::Value {
        let s = self.0.blocking(|n| Ok(n.status_now())).await;
        s.ok()
            .and_then(|s| serde_json::to_value(s).ok())
            .unwrap_or_default()
    }

    async fn may_read(&self, token: &str) -> bool {
        self.0.tokens.access(token) >= Access::Read
    }
}
