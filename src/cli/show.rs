//! Printers: status, members, version.

use std::path::Path;

use super::output::{Out, time, visible};
use super::screen::progress;
use crate::base::format;
use crate::control::PROTOCOL_VERSION;
use crate::control::client::Client;
use crate::control::failure::Answer;
use crate::control::wire::Status;

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
    if let Some(t) = status.transfer.as_ref().filter(|t| t.files + t.waiting > 0) {
        let left = t.seconds_left.map(|s| format!(", {s} s left"));
        out.line(format_args!(
            "fetching {} large files, {} wait: {} MB lack, {} MB/s from {} nodes{}",
            t.files,
            t.waiting,
            t.bytes_left / 1_000_000,
            t.rate / 1_000_000,
            t.from.iter().filter(|f| f.rate > 0).count(),
            left.unwrap_or_default(),
        ))?;
        for why in &t.stuck {
            out.line(format_args!("stuck    {why}"))?;
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

pub(super) fn short(id: &str) -> String {
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

pub(super) fn gc(state: &Path, json: bool) -> Answer<()> {
    let done = Client::connect(state)?.gc()?;
    let mut out = Out::new();
    if json {
        return out.json(Some("gc"), &done);
    }
    let change = |a: u64, b: u64| format!("{a} -> {b}");
    let rows: Vec<_> = done
        .iter()
        .map(|g| {
            vec![
                g.volume.clone(),
                change(g.before.packs, g.after.packs),
                change(g.before.objects, g.after.objects),
                change(g.before.bytes, g.after.bytes),
                format!("{:.1}", g.seconds),
            ]
        })
        .collect();
    out.table(&["VOLUME", "PACKS", "OBJECTS", "BYTES", "SECONDS"], &rows)
}

pub(super) fn scrub(state: &Path, json: bool) -> Answer<()> {
    let done = Client::connect(state)?.scrub()?;
    let mut out = Out::new();
    if json {
        return out.json(Some("scrub"), &done);
    }
    let rows: Vec<_> = done
        .iter()
        .map(|s| {
            let damaged = match s.damaged {
                0 => "nothing".to_owned(),
                1 => "1 piece, which comes again".to_owned(),
                n => format!("{n} pieces, which come again"),
            };
            let mb = s.bytes / 1_000_000;
            vec![
                s.volume.clone(),
                mb.to_string(),
                format!("{:.1}", s.seconds),
                damaged,
            ]
        })
        .collect();
    out.table(&["VOLUME", "MB", "SECONDS", "DAMAGED"], &rows)
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
