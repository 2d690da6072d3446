//! What people ask and say about where large files are: `where`, `why`, `pin`, `unpin`, `drop`,
//! `tags`.
//!
//! Invariant: what is answered about other nodes they said themselves just now. Threads: the
//! runtime's; the disk is used on those that may wait.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::NodeInner;
use super::keep::rules::Reason;
use super::keep::tags;
use crate::base::cid::Cid;
use crate::base::id::{NodeId, Oid};
use crate::base::path::VolumePath;
use crate::control::failure::{Answer, Failure};
use crate::control::wire::{
    FileAt, Holder, PathOf, PinOf, Pinned, Stay, Tagged, TagsOf, Whereabouts,
};
use crate::peers::MemberState;
use crate::volume::Volume;
use crate::volume::place::{Placed, Places};

/// Files that are told of.
const FILES_MAX: usize = 200;
/// Files that stay, of which is told why.
const STAYS_MAX: usize = 100;

impl Reason {
    fn said(&self) -> String {
        match self {
            Self::Said(path) => {
                let path = VolumePath::new(path).unwrap_or_default();
                format!("that was said of {}", place(&path))
            }
            Self::Tag(tag) => format!("it is for tag {tag}, which this node has"),
            Self::NoTag(None) => {
                "--keep tagged, and .gitattributes gives it no keep=TAG".to_owned()
            }
            Self::NoTag(Some(tags)) => format!("it is for tag {tags}, which this node has not"),
            Self::Keep(keep) => format!("--keep {keep}"),
        }
    }
}

/// A path for people.
fn place(path: &VolumePath) -> String {
    match path.is_root() {
        true => "the whole volume".to_owned(),
        false => path.to_string(),
    }
}

/// The large files at a path. Blocking.
fn files_at(v: &Arc<Volume>, path: &VolumePath) -> Answer<Vec<Placed>> {
    v.settle().map_err(Failure::failed)?;
    let files = v.large_below(&v.view(), path.as_bytes());
    let files = files.map_err(Failure::failed)?;
    if files.is_empty() {
        let what = format!("there is no large file at {}", place(path));
        return Err(Failure::failed(what).hint(format!(
            "every node keeps files of up to {} MiB; others have to be written and closed first",
            super::LARGE_ABOVE >> 20
        )));
    }
    Ok(files)
}

fn path_of(p: &Placed) -> VolumePath {
    VolumePath::new(&p.path).unwrap_or_default()
}

impl NodeInner {
    /// See [`crate::control::node::Node::whereabouts`].
    pub(super) async fn whereabouts(&self, what: PathOf) -> Answer<Whereabouts> {
        let v = self.known(what.volume)?;
        let volume = v.clone();
        let (files, more) = self
            .blocking(move |n| {
                let mut files = files_at(&volume, &what.path)?;
                let more = files.len().saturating_sub(FILES_MAX) as u64;
                files.truncate(FILES_MAX);
                let told = files.iter().map(|p| n.file_at(&volume, p));
                let told: Vec<FileAt> = told.collect::<Answer<_>>()?;
                Ok((files.into_iter().zip(told).collect::<Vec<_>>(), more))
            })
            .await?;
        let mut out = Whereabouts {
            more,
            ..Whereabouts::default()
        };
        let peers = self.the_peers()?;
        let connected: Vec<NodeId> = peers.connected().into_iter().map(|(n, _)| n).collect();
        let names = peers.members();
        let out_of_reach = names.iter().filter(|m| {
            let is_other = matches!(m.state, MemberState::Alive | MemberState::Unreachable);
            is_other && !connected.contains(&m.node)
        });
        out.silent = out_of_reach.map(|m| m.name.clone()).collect();
        for (placed, mut file) in files {
            let name = (v.name().clone(), placed.head);
            let name = &name;
            let one = |peer: NodeId| async move { (peer, self.told_by(peer, name).await) };
            let mut asked: FuturesUnordered<_> = connected.iter().map(|p| one(*p)).collect();
            while let Some((peer, told)) = asked.next().await {
                match told {
                    Some(told) if told.here > 0 => file.nodes.push(Holder {
                        node: peer.to_string(),
                        name: self.name_of(peer),
                        bytes: told.here,
                        keeps: told.keeps,
                    }),
                    Some(_) => {}
                    None => out.silent.push(self.name_of(peer)),
                }
            }
            // Ours stays first.
            let ours = self.id().to_string();
            file.nodes
                .sort_by(|a, b| (a.node != ours, &a.name).cmp(&(b.node != ours, &b.name)));
            out.files.push(file);
        }
        out.silent.sort();
        out.silent.dedup();
        Ok(out)
    }

    /// What this node knows of a file by itself. Blocking.
    fn file_at(&self, v: &Arc<Volume>, p: &Placed) -> Answer<FileAt> {
        let head = p.head;
        let list = v.large_head(&head).map_err(Failure::failed)?;
        let view = v.view();
        let judged = self.judge(v, &p.path, &mut Places::new(v, &view));
        let (kept, reason) = judged.map_err(Failure::failed)?;
        let told = self.told(&(v.name().clone(), head));
        let told = told.ok_or_else(|| Failure::failed("its list of pieces cannot be read"))?;
        let ours = Holder {
            node: self.id().to_string(),
            name: self.options.name.clone(),
            bytes: told.here,
            keeps: told.keeps,
        };
        Ok(FileAt {
            path: path_of(p),
            id: Cid::File(list.sha256.0),
            length: list.len,
            kept,
            because: reason.said(),
            coming: (told.here < told.len).then(|| self.coming(v, &head, kept)),
            nodes: Vec::from([ours].map(|h| (h.bytes > 0).then_some(h)))
                .into_iter()
                .flatten()
                .collect(),
        })
    }

    fn coming(&self, v: &Volume, head: &Oid, kept: bool) -> String {
        let s = self.transfers.status();
        let of = s
            .each
            .iter()
            .find(|f| f.volume == *v.name() && f.head == *head);
        match of {
            Some(f) => match &f.stuck {
                Some(why) => format!("it does not get on: {why}"),
                None if f.rate > 0 => format!(
                    "it comes: {} of {} MB lack, {} MB/s",
                    f.left / 1_000_000,
                    f.total / 1_000_000,
                    f.rate / 1_000_000
                ),
                None => "it is asked for".to_owned(),
            },
            None if kept => format!("it waits for its turn; {} files wait", s.waiting),
            None => "what is read of it is fetched when it is read".to_owned(),
        }
    }

    /// See [`crate::control::node::Node::pin`].
    pub(super) async fn pin(&self, what: PinOf) -> Answer<Pinned> {
        let v = self.known(what.volume)?;
        let (volume, path, kept) = (v.clone(), what.path.clone(), what.kept);
        let files = self
            .blocking(move |n| {
                let files = match files_at(&volume, &path) {
                    // What comes to be there later goes by it, too.
                    Err(_) if kept != Some(false) || path.is_root() => Vec::new(),
                    files => files?,
                };
                let said = n.say(&volume, path.as_bytes(), kept);
                said.map_err(Failure::failed)?;
                Ok(files)
            })
            .await?;
        let mut out = Pinned {
            files: files.len() as u64,
            ..Pinned::default()
        };
        if kept == Some(false) {
            self.drop_all(&v, &files, &mut out).await?;
        }
        for p in &files {
            let file = (v.name().clone(), p.head);
            let told = self.blocking(move |n| Ok(n.told(&file))).await?;
            if let Some(told) = told {
                out.bytes += told.len;
                out.bytes_here += told.here;
            }
        }
        Ok(out)
    }

    /// Lets go of what was dropped, and tells what stays.
    async fn drop_all(&self, v: &Arc<Volume>, files: &[Placed], out: &mut Pinned) -> Answer<()> {
        let volume = v.clone();
        // Another file may have the same bytes, and be kept.
        let wanted = self
            .blocking(move |n| {
                let desk = n.desk_of(&volume).map_err(Failure::failed)?;
                let wanted = super::keep::desk::lock(&desk).wanted();
                Ok(wanted)
            })
            .await?;
        let mut heads: Vec<Oid> = files.iter().flat_map(|p| p.heads.iter().copied()).collect();
        heads.retain(|h| !wanted.contains(h));
        heads.sort_unstable();
        heads.dedup();
        let stays = self.drop_files(v, heads).await?;
        for p in files {
            let why = p.heads.iter().find_map(|h| match wanted.contains(h) {
                true => Some("another file with the same bytes is kept here".to_owned()),
                false => stays.get(h).cloned(),
            });
            let Some(why) = why else { continue };
            if out.stays.len() < STAYS_MAX {
                let path = path_of(p);
                out.stays.push(Stay { path, why });
            } else {
                out.stays_more += 1;
            }
        }
        Ok(())
    }

    /// See [`crate::control::node::Node::tags`].
    pub(super) async fn tags(&self, what: TagsOf) -> Answer<Vec<Tagged>> {
        let peers = self.the_peers()?.clone();
        if let Some(set) = what.set {
            self.blocking(move |n| {
                n.tags.set(set).map_err(|why| {
                    Failure::usage(why).hint("for example: cellfs tags --set ssd,berlin")
                })?;
                n.tell_tags()?;
                n.looks_anew().map_err(Failure::failed)
            })
            .await?;
        }
        let states = peers.states();
        let of = |node: &NodeId, key: &str| states.get(node).and_then(|s| s.get(key).cloned());
        let all = peers.members().into_iter();
        let all = all.filter(|m| {
            matches!(
                m.state,
                MemberState::Us | MemberState::Alive | MemberState::Unreachable
            )
        });
        let mut out: Vec<Tagged> = all
            .map(|m| {
                let us = matches!(m.state, MemberState::Us);
                let told = of(&m.node, tags::KEY).unwrap_or_default();
                let told = if us { self.tags.told() } else { told };
                let keeps = of(&m.node, tags::KEY_KEEPS).unwrap_or_default();
                Tagged {
                    node: m.node.to_string(),
                    name: m.name,
                    us,
                    keeps: match us {
                        true => self.options.keep.to_string(),
                        false => keeps,
                    },
                    tags: tags::parse(&told),
                }
            })
            .collect();
        out.sort_by(|a, b| (!a.us, &a.name).cmp(&(!b.us, &b.name)));
        Ok(out)
    }

    /// Tells members this node's tags and what it keeps.
    pub(super) fn tell_tags(&self) -> Answer<()> {
        let peers = self.the_peers()?;
        peers.set_state(tags::KEY, &self.tags.told())?;
        peers.set_state(tags::KEY_KEEPS, &self.options.keep.to_string())?;
        Ok(())
    }
}
