//! Where large files are, and where they are to be: where, why, pin, unpin, drop, tags.

use super::args::keep::{At, Tags};
use super::output::{Out, visible};
use super::past::find;
use super::show::short;
use crate::control::client::Client;
use crate::control::failure::{Answer, Failure};
use crate::control::wire::{FileAt, PinOf, Pinned, TagsOf, Whereabouts};

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} bytes"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

fn ask(args: &At) -> Answer<Whereabouts> {
    let mut client = Client::connect(&args.show.state.dir())?;
    let what = find(&mut client, &args.path, &args.volume)?;
    client.whereabouts(what)
}

fn rest(out: &mut Out, told: &Whereabouts) -> Answer<()> {
    if told.more > 0 {
        out.line(format_args!("and {} files more", told.more))?;
    }
    if !told.silent.is_empty() {
        let names = told.silent.join(", ");
        out.line(format_args!("not to be asked now: {}", visible(&names)))?;
    }
    Ok(())
}

/// How much of it who has.
fn holders(f: &FileAt) -> Vec<String> {
    let part = |bytes: u64| match bytes == f.length {
        true => "all".to_owned(),
        false => format!("{} of {}", size(bytes), size(f.length)),
    };
    let how = |keeps: bool| if keeps { "" } else { ", not kept" };
    let all = f.nodes.iter();
    all.map(|h| format!("{} ({}{})", visible(&h.name), part(h.bytes), how(h.keeps)))
        .collect()
}

pub(super) fn whereabouts(args: &At) -> Answer<()> {
    let told = ask(args)?;
    let mut out = Out::new();
    if args.show.json {
        return out.json(None, &told);
    }
    let rows: Vec<_> = told
        .files
        .iter()
        .map(|f| {
            let nodes = match f.nodes.is_empty() {
                true => "nobody who can be asked".to_owned(),
                false => holders(f).join(", "),
            };
            vec![f.path.to_string(), size(f.length), nodes]
        })
        .collect();
    out.table(&["FILE", "SIZE", "NODES"], &rows)?;
    rest(&mut out, &told)
}

pub(super) fn why(args: &At) -> Answer<()> {
    let told = ask(args)?;
    let mut out = Out::new();
    if args.show.json {
        return out.json(None, &told);
    }
    for f in &told.files {
        out.line(visible(&f.path.to_string()))?;
        let kept = if f.kept { "is" } else { "is not" };
        out.line(format_args!(
            "  it {kept} to be kept here: {}",
            visible(&f.because)
        ))?;
        match &f.coming {
            None => out.line("  all of it is here")?,
            Some(how) => out.line(format_args!("  not all of it is here; {}", visible(how)))?,
        }
        match f.nodes.is_empty() {
            true => out.line("  nobody who can be asked has any of it")?,
            false => out.line(format_args!("  who has it: {}", holders(f).join(", ")))?,
        }
    }
    rest(&mut out, &told)
}

fn say(args: &At, kept: Option<bool>) -> Answer<Pinned> {
    let mut client = Client::connect(&args.show.state.dir())?;
    let of = find(&mut client, &args.path, &args.volume)?;
    client.pin(PinOf {
        volume: of.volume,
        path: of.path,
        kept,
    })
}

pub(super) fn pin(args: &At) -> Answer<()> {
    told(args, &say(args, Some(true))?)
}

pub(super) fn unpin(args: &At) -> Answer<()> {
    told(args, &say(args, None)?)
}

fn told(args: &At, p: &Pinned) -> Answer<()> {
    let mut out = Out::new();
    if args.show.json {
        return out.json(None, p);
    }
    let files = if p.files == 1 {
        "large file"
    } else {
        "large files"
    };
    out.line(format_args!(
        "{} {files}, {} of {} here",
        p.files,
        size(p.bytes_here),
        size(p.bytes)
    ))
}

pub(super) fn drop(args: &At) -> Answer<()> {
    let p = say(args, Some(false))?;
    told(args, &p)?;
    let Some(first) = p.stays.first() else {
        return Ok(());
    };
    let count = p.stays.len() as u64 + p.stays_more;
    if !args.show.json {
        let mut out = Out::new();
        for s in &p.stays {
            out.line(format_args!(
                "stays: {}: {}",
                visible(&s.path.to_string()),
                visible(&s.why)
            ))?;
        }
        if p.stays_more > 0 {
            out.line(format_args!("and {} more", p.stays_more))?;
        }
    }
    let what = format!("{count} of {} files stay for now: {}", p.files, first.why);
    Err(Failure::failed(what)
        .hint("they go by themselves when they may; to keep them: cellfs pin PATH"))
}

pub(super) fn tags(args: &Tags) -> Answer<()> {
    let mut client = Client::connect(&args.show.state.dir())?;
    let all = client.tags(TagsOf { set: args.set() })?;
    let mut out = Out::new();
    if args.show.json {
        return out.json(Some("nodes"), &all);
    }
    let rows: Vec<_> = all
        .iter()
        .map(|t| {
            let us = if t.us { "this node" } else { "" };
            let tags = t.tags.join(", ");
            vec![
                short(&t.node),
                t.name.clone(),
                t.keeps.clone(),
                tags,
                us.to_owned(),
            ]
        })
        .collect();
    out.table(&["NODE", "NAME", "KEEPS", "TAGS", ""], &rows)
}
