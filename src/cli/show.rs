//! Printers: status, members, log, conflicts, version.

use std::path::Path;

use super::args::{Conflicts, Log};
use super::output::{Out, time, visible};
use super::paths::lexical;
use super::screen::progress;
use crate::base::format;
use crate::base::id::VolumeName;
use crate::control::PROTOCOL_VERSION;
use crate::control::client::Client;
use crate::control::failure::{Answer, Failure};
use crate::control::wire::{LogOf, Mounted, Status};

pub(super) fn status(state: &Path, json: bool) -> Answer<()> {
    let status = Client::connect(state)?.status()?;
    let mut out = Out::new();
    if json {
        return out.json(None, &status);
    }
    let facts = [
        ("node", format!("{} ({})", status.node, status.name)),
        ("cell", status.cell.clone()),
        ("listen", status.listen.clone()),
        (
            "process",
            format!("{}, cellfs {}", status.pid, status.version),
        ),
    ];
    for (what, text) in facts {
        out.line(format_args!("{what:<8} {}", visible(&text)))?;
    }
    for warning in &status.warnings {
        out.line(format_args!("warning  {}", visible(warning)))?;
    }
    volumes(&mut out, &status)?;
    let mounts: Vec<_> = status
        .mounts
        .iter()
        .map(|m| {
            let how = if m.read_only {
                "read-only"
            } else {
                "read-write"
            };
            vec![
                m.dir.display().to_string(),
                m.volume.clone(),
                how.to_owned(),
            ]
        })
        .collect();
    section(&mut out, &["MOUNT", "VOLUME", ""], &mounts)?;
    let peers: Vec<_> = status
        .peers
        .iter()
        .map(|p| {
            let rtt = p.rtt_ms.map_or_else(String::new, |ms| format!("{ms} ms"));
            let addr = p.addr.clone().unwrap_or_default();
            vec![short(&p.node), p.name.clone(), p.state.clone(), addr, rtt]
        })
        .collect();
    section(
        &mut out,
        &["PEER", "NAME", "STATE", "ADDRESS", "RTT"],
        &peers,
    )
}

fn volumes(out: &mut Out, status: &Status) -> Answer<()> {
    let rows: Vec<_> = status
        .volumes
        .iter()
        .map(|v| {
            vec![
                v.name.clone(),
                v.view.as_deref().map_or_else(|| "-".to_owned(), short),
                v.heads.len().to_string(),
                v.dirty.to_string(),
                v.behind.to_string(),
                v.journal.clone(),
            ]
        })
        .collect();
    for v in &status.volumes {
        if let Some(p) = &v.sync {
            let (what, from) = (progress(p, None), short(&p.from));
            out.line(format_args!("syncing  {}: {what} from {from}", v.name))?;
        }
    }
    let headings = ["VOLUME", "VIEW", "HEADS", "DIRTY", "BEHIND", "JOURNAL"];
    section(out, &headings, &rows)
}

fn section(out: &mut Out, headings: &[&str], rows: &[Vec<String>]) -> Answer<()> {
    if rows.is_empty() {
        return Ok(());
    }
    out.line("")?;
    out.table(headings, rows)
}

fn short(id: &str) -> String {
    id.chars().take(10).collect()
}

pub(super) fn members(state: &Path, json: bool) -> Answer<()> {
    let members = Client::connect(state)?.members()?;
    let mut out = Out::new();
    if json {
        return out.json(Some("members"), &members);
    }
    let rows: Vec<_> = members
        .iter()
        .map(|m| {
            vec![
                short(&m.node),
                m.name.clone(),
                m.state.clone(),
                if m.since == 0 {
                    String::new()
                } else {
                    time(m.since)
                },
                m.addr.clone().unwrap_or_default(),
                m.code.clone().unwrap_or_default(),
            ]
        })
        .collect();
    out.table(
        &["NODE", "NAME", "STATE", "SINCE", "ADDRESS", "CODE"],
        &rows,
    )
}

pub(super) fn log(args: &Log) -> Answer<()> {
    let mut client = Client::connect(&args.show.state.dir())?;
    let mut what = LogOf {
        volume: args.volume.name()?,
        path: None,
        limit: args.limit,
    };
    if let Some(path) = &args.path {
        let status = client.status()?;
        let (volume, path) = in_volume(path, &status.mounts)?;
        what.volume = what.volume.or(volume);
        what.path = Some(path);
    }
    let entries = client.log(what)?;
    let mut out = Out::new();
    if args.show.json {
        return out.json(Some("log"), &entries);
    }
    let rows: Vec<_> = entries
        .iter()
        .map(|e| {
            vec![
                short(&e.id),
                time(e.time),
                e.author.clone(),
                e.summary.clone(),
            ]
        })
        .collect();
    out.table(&["COMMIT", "TIME", "AUTHOR", "WHAT"], &rows)
}

/// A path in a mounted folder is named from its volume's root; any other, if it is relative,
/// is taken to be one already.
fn in_volume(path: &Path, mounts: &[Mounted]) -> Answer<(Option<VolumeName>, String)> {
    let text = |p: &Path| {
        p.to_str()
            .map(str::to_owned)
            .ok_or_else(|| Failure::usage(format!("{}: not UTF-8", p.display())))
    };
    let words = lexical(path);
    let real = match (words.parent(), words.file_name()) {
        (Some(parent), Some(name)) => parent.canonicalize().map(|p| p.join(name)).ok(),
        _ => None,
    };
    for candidate in [Some(words.as_path()), real.as_deref()]
        .into_iter()
        .flatten()
    {
        let inside = mounts
            .iter()
            .filter_map(|m| Some((m, candidate.strip_prefix(&m.dir).ok()?)))
            .max_by_key(|(m, _)| m.dir.as_os_str().len());
        if let Some((mount, rest)) = inside {
            return Ok((mount.volume.parse().ok(), text(rest)?));
        }
    }
    if path.is_absolute() {
        return Err(
            Failure::failed(format!("{} is in no mounted folder", path.display()))
                .hint("cellfs status lists the mounted folders"),
        );
    }
    Ok((None, text(path)?))
}

pub(super) fn conflicts(args: &Conflicts) -> Answer<()> {
    let volume = args.volume.name()?;
    let conflicts = Client::connect(&args.show.state.dir())?.conflicts(volume)?;
    let mut out = Out::new();
    if args.show.json {
        return out.json(Some("conflicts"), &conflicts);
    }
    let rows: Vec<_> = conflicts
        .iter()
        .map(|c| {
            vec![
                c.path.clone(),
                c.copy.clone(),
                c.kind.clone(),
                short(&c.node),
                time(c.time),
            ]
        })
        .collect();
    out.table(&["FILE", "COPY", "WHAT", "FROM", "TIME"], &rows)
}

pub(super) fn version(json: bool) -> Answer<()> {
    let version = env!("CARGO_PKG_VERSION");
    let mut out = Out::new();
    if json {
        let disk: serde_json::Map<_, _> = format::DISK
            .iter()
            .map(|(name, n)| ((*name).to_owned(), (*n).into()))
            .collect();
        let facts = serde_json::json!({
            "version": version,
            "control": PROTOCOL_VERSION,
            "peer": format::PEER_PROTOCOL,
            "disk": disk,
        });
        return out.json(None, &facts);
    }
    out.line(format_args!("cellfs {version}"))?;
    out.line(format_args!("control protocol {PROTOCOL_VERSION}"))?;
    out.line(format_args!("peer protocol {}", format::PEER_PROTOCOL))?;
    let disk: Vec<_> = format::DISK
        .iter()
        .map(|(name, n)| format!("{name} {n}"))
        .collect();
    out.line(format_args!("disk formats: {}", disk.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_mounts_are_named_from_the_volumes_root() {
        let mount = |dir: &str, volume: &str| Mounted {
            dir: dir.into(),
            volume: volume.to_owned(),
            read_only: false,
        };
        let mounts = [mount("/mnt/cell", "cell"), mount("/mnt/cell/x", "inner")];
        let find = |p: &str| in_volume(Path::new(p), &mounts);
        let (volume, path) = find("/mnt/cell/a/../b").expect("inside");
        assert_eq!(volume.map(String::from).as_deref(), Some("cell"));
        assert_eq!(path, "b");
        let (volume, path) = find("/mnt/cell/x/y").expect("inside");
        assert_eq!(volume.map(String::from).as_deref(), Some("inner"));
        assert_eq!(path, "y");
        assert_eq!(find("src/a").expect("relative"), (None, "src/a".to_owned()));
        assert!(find("/etc/passwd").is_err());
    }
}
