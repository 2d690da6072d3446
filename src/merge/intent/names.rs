//! Several names of one file (rule 14): a name of its own, and records of other names.
//!
//! What is done by any of the names is done to the file; who takes a name away takes that name
//! alone, and with the last one the file.

use std::collections::BTreeSet;

use super::{
    Bytes, Sight, Target, create, create_from, dots_of, drop_all, end, end_whole, keeper,
    leave_behind, leave_beside, place_of, relocate,
};
use crate::base::id::{FileId, Oid};
use crate::base::stamp::Dot;
use crate::merge::shown::{self, Role, Shown, Version};
use crate::record::Result;
use crate::record::change::{Change, OWN};
use crate::record::model::{Kind, Record};

/// Another name of a file, for what is shown. `fresh` names it; the second id is used when what
/// is shown has to become a file of its own first, because it is one of several versions.
///
/// # Errors
/// When the state cannot be read.
pub fn link(
    at: Sight<'_>,
    shown: &Shown,
    target: Target<'_>,
    (fresh, own): (FileId, FileId),
) -> Result<Vec<Change>> {
    let null = Oid::null(gix::hash::Kind::Sha1);
    let mut out = Vec::new();
    let file = match keeper(at, shown)? {
        Some(keeper) => {
            // Files that show the same bytes are one from now on.
            out.extend(end(at, &shown.versions, Some(keeper.id))?);
            out.extend(keep_own(at, shown, keeper.id)?);
            keeper.id
        }
        None => {
            out.extend(end(at, &shown.versions, None)?);
            out.extend(create_from(place_of(shown), own, shown));
            own
        }
    };
    out.extend(create(target, fresh, (Kind::Link(file), null)));
    Ok(out)
}

/// A place that nobody asserts any more, at which a file is shown for an edit of it, is left once
/// the file has another name: who gives it one asserts both.
///
/// # Errors
/// When the state cannot be read.
pub fn keep_own(at: Sight<'_>, shown: &Shown, file: FileId) -> Result<Option<Change>> {
    let record = at.state.record(at.src, file)?;
    let record = record.filter(|r| shown.link.is_empty() && r.location.is_empty());
    Ok(record.map(|r| relocate(&r, place_of(shown), None)))
}

/// New bytes for a file by another name of it.
pub(super) fn write_link(at: Sight<'_>, shown: &Shown, (kind, blob): Bytes) -> Result<Vec<Change>> {
    let Some(file) = shown.versions.first() else {
        return Ok(Vec::new());
    };
    let mut out = vec![Change::Write {
        id: file.id,
        base: dots_of(&shown.versions, file.id),
        kind,
        blob,
    }];
    let record = at.state.record(at.src, file.id)?;
    let beside = leave_beside(record.as_ref(), file.id, &shown.versions, file.location);
    out.extend(beside);
    if let Role::Copy { .. } = &shown.role {
        // It was a copy because another file has the name. Now it goes by the copy's name.
        for name in &shown.link {
            let record = at.state.record(at.src, name.id)?;
            out.extend(record.map(|r| relocate(&r, place_of(shown), None)));
        }
    }
    Ok(out)
}

/// An end of another name of a file; whether it was the last one is seen when it is done. Versions
/// beside the last one, but for those in `all`, stay the copies that they are: the name becomes the
/// file's own, without what it showed.
fn end_link(at: Sight<'_>, shown: &Shown, all: &[Version]) -> Result<Vec<Change>> {
    let file = shown.versions.first().map(|v| v.id);
    let file = match file {
        Some(id) => at.state.record(at.src, id)?,
        None => None,
    };
    let mut out = Vec::new();
    let stay = match &file {
        Some(file) => beside_last(at, shown, file.id, all)?,
        None => Vec::new(),
    };
    if let (Some(file), false) = (&file, stay.is_empty()) {
        out.push(relocate(file, place_of(shown), None));
        out.push(Change::Drop {
            id: file.id,
            content: dots_of(&shown.versions, file.id),
            location: Vec::new(),
        });
        out.extend(stay.iter().map(|v| Change::MarkCopy {
            id: v.id,
            content: v.content,
            location: OWN,
        }));
    }
    for name in &shown.link {
        let Some(record) = at.state.record(at.src, name.id)? else {
            continue;
        };
        let end = drop_all(&record);
        if let Some(file) = file.as_ref().filter(|_| stay.is_empty()) {
            let location = record.shown_location().map(|l| l.stamp.dot());
            let location: Vec<Dot> = location.into_iter().collect();
            let mut taken = take_name(file, &shown.versions, location);
            // The end of a name's record is followed by what it takes from the file.
            taken.insert(taken.len().saturating_sub(1), end);
            out.append(&mut taken);
        } else {
            out.push(end);
        }
    }
    Ok(out)
}

/// An end of one of a file's names, given by its places, the one shown first. Versions beside what
/// it showed live on beside the others, as copies; and without the name, should the others be taken
/// away meanwhile.
fn take_name(file: &Record, versions: &[Version], location: Vec<Dot>) -> Vec<Change> {
    let content = dots_of(versions, file.id);
    let mut out = Vec::new();
    if let Some(shown) = location.first() {
        out.extend(leave_beside(Some(file), file.id, versions, *shown));
    }
    out.push(Change::Unlink {
        id: file.id,
        content,
        location,
    });
    out
}

/// The versions of a file that are shown as copies beside its last name.
fn beside_last(
    at: Sight<'_>,
    shown: &Shown,
    file: FileId,
    all: &[Version],
) -> Result<Vec<Version>> {
    if shown.role != Role::Main || shown.links > 0 {
        return Ok(Vec::new());
    }
    let group = shown::group(at.src, at.state, &shown.parents, &shown.name)?;
    let copies = group
        .into_iter()
        .filter(|s| s.role != Role::Main && s.link.is_empty());
    let own = copies.flat_map(|s| s.versions);
    Ok(own.filter(|v| v.id == file && !all.contains(v)).collect())
}

/// An end of what is shown at a name, but for files that have others: those lose this one.
pub(super) fn end_name(at: Sight<'_>, shown: &Shown, all: &[Version]) -> Result<Vec<Change>> {
    if !shown.link.is_empty() {
        return end_link(at, shown, all);
    }
    if shown.links == 0 {
        return end(at, &shown.versions, None);
    }
    if shown.role == Role::Main {
        return unlink(at, &shown.versions);
    }
    // Other names of a displaced file show its latest version too.
    let (latest, older): (Vec<Version>, Vec<Version>) =
        shown.versions.iter().partition(|v| v.first);
    let mut out = unlink(at, &latest)?;
    let ended = |v: &Version| latest.iter().any(|l| l.id == v.id);
    let older: Vec<Version> = older.into_iter().filter(|v| !ended(v)).collect();
    out.extend(end(at, &older, None)?);
    Ok(out)
}

/// A new place for another name of a file.
pub(super) fn rename_link(
    at: Sight<'_>,
    shown: &Shown,
    target: Target<'_>,
    replaced: Option<&Shown>,
) -> Result<Vec<Change>> {
    let mut out = Vec::new();
    for id in replaced.iter().flat_map(|r| &r.dirs) {
        out.extend(at.state.record(at.src, *id)?.map(|r| end_whole(&r)));
    }
    if let Some(r) = replaced.filter(|r| r.dirs.is_empty()) {
        out.extend(end_name(at, r, &[])?);
    }
    for (i, name) in shown.link.iter().enumerate() {
        let Some(record) = at.state.record(at.src, name.id)? else {
            continue;
        };
        if i > 0 {
            out.push(end_whole(&record));
            continue;
        }
        let prev = record.place().map(|p| (p.parent, p.name));
        out.push(relocate(&record, target, prev));
    }
    if shown.role == Role::Main {
        let own = shown.link.first().map(|l| l.id);
        out.extend(leave_behind(at, shown, own, &[])?);
    }
    Ok(out)
}

/// An end of these versions at a plain name: files that have other names live on under those.
fn unlink(at: Sight<'_>, versions: &[Version]) -> Result<Vec<Change>> {
    let ids: BTreeSet<FileId> = versions.iter().map(|v| v.id).collect();
    let mut out = Vec::new();
    for id in ids {
        let Some(record) = at.state.record(at.src, id)? else {
            continue;
        };
        if record.filled.links > 0 {
            // Other names show the latest version; another one ends with the name that has it.
            let acted_on = dots_of(versions, id);
            let latest = record.shown_content().first().map(|c| c.stamp.dot());
            if latest.is_some_and(|l| !acted_on.contains(&l)) {
                out.push(Change::Drop {
                    id,
                    content: acted_on,
                    location: Vec::new(),
                });
            }
            let own: Vec<Version> = versions.iter().filter(|v| v.id == id).copied().collect();
            let shown = record.shown_location().map(|l| l.stamp.dot());
            let all = record.location.iter().map(|l| l.stamp.dot());
            let others = all.filter(|l| Some(*l) != shown);
            out.extend(take_name(
                &record,
                &own,
                shown.into_iter().chain(others).collect(),
            ));
        } else {
            let own: Vec<Version> = versions.iter().filter(|v| v.id == id).copied().collect();
            out.extend(end(at, &own, None)?);
        }
    }
    Ok(out)
}
