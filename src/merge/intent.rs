//! What an author's wish means, as changes of records (rule 11).
//!
//! The author sees names; each helper takes what a name shows and returns the changes that make
//! his next look what he expects. Whatever he saw at the name is acted on: all equal versions,
//! and all versions that were merged into one text. What he takes a name away from stays a
//! copy for good, so that no other bytes appear under a name that he cleared; and versions that
//! he left lying beside what he wrote are not merged into it afterwards.

mod names;

pub use names::{keep_own, link};

use std::collections::{BTreeMap, BTreeSet};

use crate::base::id::{FileId, Oid};
use crate::base::name::EntryName;
use crate::base::stamp::Dot;
use crate::merge::shown::{self, Role, Shown, Version};
use crate::record::change::{Change, OWN, SetField};
use crate::record::model::{Content, Kind, Record};
use crate::record::state::State;
use crate::record::{Result, Source};

/// A state and where to read it: what an author looks at.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// Where to read.
    pub src: Source<'a>,
    /// What is seen.
    pub state: &'a State,
}

/// Where something is to be: the ids of the directory and the name.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// All ids of the directory, sorted.
    pub dirs: &'a [FileId],
    /// The name.
    pub name: &'a EntryName,
}

impl Target<'_> {
    fn dir(&self) -> FileId {
        self.dirs.first().copied().unwrap_or(FileId::ROOT)
    }
}

/// Bytes and what they are.
pub type Bytes = (Kind, Oid);

/// A new file, link or directory at a name that shows nothing.
#[must_use]
pub fn create(target: Target<'_>, id: FileId, (kind, blob): Bytes) -> Vec<Change> {
    vec![Change::Born {
        id,
        parent: target.dir(),
        name: target.name.clone(),
        kind,
        blob,
    }]
}

/// What is shown becomes a file of its own, with its attributes.
#[must_use]
pub fn create_from(target: Target<'_>, id: FileId, shown: &Shown) -> Vec<Change> {
    let mut fields = attributes_of(shown);
    fields.push(SetField::SetMtime(shown.mtime));
    let fields = fields.into_iter().map(|field| Change::Field { id, field });
    let born = create(target, id, (shown.kind, shown.blob));
    born.into_iter().chain(fields).collect()
}

/// What a file of its own takes along from what it was shown as, but for the time.
#[must_use]
pub fn attributes_of(shown: &Shown) -> Vec<SetField> {
    let mut fields = vec![SetField::SetMode(shown.mode)];
    fields.extend(shown.uid.map(SetField::SetUid));
    fields.extend(shown.gid.map(SetField::SetGid));
    let xattrs = shown.xattrs.iter().map(|(name, value)| SetField::SetXattr {
        name: name.clone(),
        value: Some(value.clone()),
    });
    fields.extend(xattrs);
    fields
}

/// New bytes for what is shown. `fresh` is used when they need a file of their own.
///
/// # Errors
/// When the state cannot be read.
pub fn write(
    at: Sight<'_>,
    shown: &Shown,
    (kind, blob): Bytes,
    fresh: FileId,
) -> Result<Vec<Change>> {
    if (kind, blob) == (shown.kind, shown.blob) {
        return Ok(Vec::new());
    }
    write_anew(at, shown, (kind, blob), fresh)
}

/// As [`write()`], for somebody who wrote the bytes, be they those that there were: what he does
/// next is done to the version that he made.
///
/// # Errors
/// When the state cannot be read.
pub fn write_anew(
    at: Sight<'_>,
    shown: &Shown,
    (kind, blob): Bytes,
    fresh: FileId,
) -> Result<Vec<Change>> {
    if !shown.link.is_empty() {
        return names::write_link(at, shown, (kind, blob));
    }
    let keeper = match keeper(at, shown)? {
        Some(keeper) if !goes_apart(at, shown)? => keeper,
        _ => return write_apart(at, shown, (kind, blob), fresh),
    };
    let mut out = end(at, &shown.versions, Some(keeper.id))?;
    out.push(Change::Write {
        id: keeper.id,
        base: dots_of(&shown.versions, keeper.id),
        kind,
        blob,
    });
    let record = at.state.record(at.src, keeper.id)?;
    let mut location = keeper.location;
    if let (Role::Copy { .. }, Some(record)) = (&shown.role, &record) {
        // It was a copy because another file has the name. Now it goes by the copy's name.
        out.push(relocate(record, place_of(shown), None));
        location = OWN;
    }
    out.extend(leave_beside(
        record.as_ref(),
        keeper.id,
        &shown.versions,
        location,
    ));
    Ok(out)
}

/// Whether [`write()`] makes a file of its own of new bytes for this: a copy that is no file's latest
/// version, or whose file has the plain name by another one, or whose file's other versions are shown
/// as one, which must not be parted.
///
/// # Errors
/// When the state cannot be read.
pub fn goes_apart(at: Sight<'_>, shown: &Shown) -> Result<bool> {
    match (keeper(at, shown)?, &shown.role) {
        (None, _) => Ok(true),
        (Some(_), Role::Main) => Ok(false),
        (Some(k), Role::Copy { .. }) => parts_merged(at, k.id, &shown.versions),
    }
}

/// New bytes for what is shown, in a file of their own.
///
/// # Errors
/// When the state cannot be read.
pub fn write_apart(
    at: Sight<'_>,
    shown: &Shown,
    bytes: Bytes,
    fresh: FileId,
) -> Result<Vec<Change>> {
    let mut out = end(at, &shown.versions, None)?;
    out.extend(create(place_of(shown), fresh, bytes));
    Ok(out)
}

/// What is shown, said again by this author, so that it stays whatever others did to it.
/// `fresh` is used when the bytes need a file of their own.
///
/// # Errors
/// When the state cannot be read.
pub fn assert(at: Sight<'_>, shown: &Shown, fresh: FileId) -> Result<Vec<Change>> {
    let file = match (keeper(at, shown)?, &shown.role) {
        (Some(keeper), Role::Main) if shown.link.is_empty() && shown.links == 0 => Some(keeper),
        _ => None,
    };
    let record = file.map_or(Ok(None), |f| at.state.record(at.src, f.id))?;
    let (Some(file), Some(record)) = (file, record) else {
        let mut out = delete(at, shown)?;
        out.extend(create_from(place_of(shown), fresh, shown));
        return Ok(out);
    };
    let write = Change::Write {
        id: file.id,
        base: dots_of(&shown.versions, file.id),
        kind: shown.kind,
        blob: shown.blob,
    };
    let mut out = vec![relocate(&record, place_of(shown), None), write];
    out.extend(leave_beside(Some(&record), file.id, &shown.versions, OWN));
    Ok(out)
}

/// An end of what is shown. What else is at its name stays beside it.
///
/// # Errors
/// When the state cannot be read.
pub fn delete(at: Sight<'_>, shown: &Shown) -> Result<Vec<Change>> {
    delete_with(at, shown, &[])
}

/// The same of one of several that one commit ends, given by all their versions: of those nothing
/// stays beside it.
///
/// # Errors
/// When the state cannot be read.
pub fn delete_with(at: Sight<'_>, shown: &Shown, all: &[Version]) -> Result<Vec<Change>> {
    let mut out = Vec::new();
    for id in &shown.dirs {
        out.extend(at.state.record(at.src, *id)?.map(|r| end_whole(&r)));
    }
    if shown.dirs.is_empty() {
        out.extend(names::end_name(at, shown, all)?);
    }
    if shown.role == Role::Main {
        out.extend(leave_behind(at, shown, None, all)?);
    }
    Ok(out)
}

/// A new place for what is shown. `replaced` is what the target shows, which ends. `fresh` is
/// used when the bytes need a file of their own.
///
/// # Errors
/// When the state cannot be read.
pub fn rename(
    at: Sight<'_>,
    shown: &Shown,
    target: Target<'_>,
    replaced: Option<&Shown>,
    fresh: FileId,
) -> Result<Vec<Change>> {
    if !shown.dirs.is_empty() {
        return rename_dir(at, shown, target, replaced);
    }
    if !shown.link.is_empty() {
        return names::rename_link(at, shown, target, replaced);
    }
    let over: &[Version] = replaced.map_or(&[], |r| &r.versions);
    let mut out = Vec::new();
    let other_names = replaced.filter(|r| !r.link.is_empty() || r.links > 0);
    if let Some(r) = other_names {
        out.extend(names::end_name(at, r, &[])?);
    }
    for id in replaced.iter().flat_map(|r| &r.dirs) {
        out.extend(at.state.record(at.src, *id)?.map(|r| end_whole(&r)));
    }
    let over: &[Version] = match replaced {
        Some(r) if !r.dirs.is_empty() || other_names.is_some() => &[],
        _ => over,
    };
    let all: Vec<Version> = shown.versions.iter().chain(over).copied().collect();
    let at_target = match replaced {
        Some(r) if !over.is_empty() => keeper(at, r)?,
        _ => None,
    };
    match (keeper(at, shown)?, at_target) {
        // A copy over the file whose version it is: the file gets its bytes.
        (_, Some(there)) if shown.versions.iter().any(|v| v.id == there.id) => {
            let id = there.id;
            out.extend(end(at, &all, Some(id))?);
            out.push(Change::Write {
                id,
                base: dots_of(&all, id),
                kind: shown.kind,
                blob: shown.blob,
            });
            let record = at.state.record(at.src, id)?;
            out.extend(leave_beside(record.as_ref(), id, &all, there.location));
        }
        (Some(keeper), _) => {
            let id = keeper.id;
            out.extend(end(at, &all, Some(id))?);
            if let Some(record) = at.state.record(at.src, id)? {
                // Another version of the file may be at the target, as one of equal bytes.
                out.extend(end_some(&record, &dots_of(over, id)));
                let from = (shown.parents.first().copied(), &shown.name);
                let prev = match (&shown.role, from.0) {
                    (Role::Main, Some(dir)) => Some((dir, from.1.clone())),
                    _ => record.place().map(|p| (p.parent, p.name)),
                };
                out.push(relocate(&record, target, prev));
                out.extend(leave_beside(Some(&record), id, &all, OWN));
                let own = dots_of(&shown.versions, id);
                if shown.merged && own.len() > 1 {
                    // Elsewhere another driver may rule: the bytes that were seen go along.
                    out.push(Change::Write {
                        id,
                        base: dots_of(&all, id),
                        kind: shown.kind,
                        blob: shown.blob,
                    });
                }
            }
            if shown.role == Role::Main {
                out.extend(leave_behind(at, shown, Some(id), over)?);
            }
        }
        (None, _) => {
            out.extend(end(at, &all, None)?);
            out.extend(create_from(target, fresh, shown));
        }
    }
    Ok(out)
}

fn rename_dir(
    at: Sight<'_>,
    shown: &Shown,
    target: Target<'_>,
    replaced: Option<&Shown>,
) -> Result<Vec<Change>> {
    let mut out = Vec::new();
    for id in replaced.iter().flat_map(|r| &r.dirs) {
        if !shown.dirs.contains(id) {
            out.extend(at.state.record(at.src, *id)?.map(|r| end_whole(&r)));
        }
    }
    for id in &shown.dirs {
        let Some(record) = at.state.record(at.src, *id)? else {
            continue;
        };
        let prev = record.place().map(|p| (p.parent, p.name));
        out.push(relocate(&record, target, prev));
    }
    out.extend(leave_behind(at, shown, None, &[])?);
    Ok(out)
}

/// What is shown at `from` replaces the bytes at `to` and ends: how editors save. The file at
/// `to` stays the file that it was.
///
/// # Errors
/// When the state cannot be read.
pub fn save_over(at: Sight<'_>, from: &Shown, to: &Shown, fresh: FileId) -> Result<Vec<Change>> {
    let mut out = write(at, to, (from.kind, from.blob), fresh)?;
    out.extend(delete_with(at, from, &to.versions)?);
    Ok(out)
}

/// New values of fields, for all files that the entry stands for.
#[must_use]
pub fn set_fields(shown: &Shown, fields: &[SetField]) -> Vec<Change> {
    let ids: BTreeSet<FileId> = shown.versions.iter().map(|v| v.id).collect();
    let each = ids.into_iter().flat_map(|id| {
        let set = fields.iter().map(move |field| (id, field.clone()));
        set.map(|(id, field)| Change::Field { id, field })
    });
    each.collect()
}

fn place_of(shown: &Shown) -> Target<'_> {
    Target {
        dirs: &shown.parents,
        name: &shown.name,
    }
}

/// The file that goes on living under an entry that is written or moved: at a plain name the
/// latest; a copy only if it is the latest version of some file, and that file's own name is not
/// the plain one, by another version.
fn keeper(at: Sight<'_>, shown: &Shown) -> Result<Option<Version>> {
    let Role::Copy { of } = &shown.role else {
        return Ok(shown.versions.first().copied());
    };
    let Some(first) = shown.versions.iter().find(|v| v.first).copied() else {
        return Ok(None);
    };
    let main = shown::lookup(at.src, at.state, &shown.parents, of)?;
    let is_main =
        main.is_some_and(|m| m.link.is_empty() && m.versions.iter().any(|v| v.id == first.id));
    Ok((!is_main).then_some(first))
}

fn dots_of(versions: &[Version], id: FileId) -> Vec<Dot> {
    let own = versions.iter().filter(|v| v.id == id);
    own.map(|v| v.content)
        .collect::<BTreeSet<Dot>>()
        .into_iter()
        .collect()
}

fn relocate(record: &Record, to: Target<'_>, prev: Option<(FileId, EntryName)>) -> Change {
    let shown = record.shown_location().map(|l| l.stamp.dot());
    let all = record.location.iter().map(|l| l.stamp.dot()).chain(shown);
    Change::Move {
        id: record.id,
        base: all.collect::<BTreeSet<Dot>>().into_iter().collect(),
        parent: to.dir(),
        name: to.name.clone(),
        prev,
    }
}

/// An end of these versions, but for those of the file `except`.
fn end(at: Sight<'_>, versions: &[Version], except: Option<FileId>) -> Result<Vec<Change>> {
    let ids: BTreeMap<FileId, ()> = versions.iter().map(|v| (v.id, ())).collect();
    let mut out = Vec::new();
    for id in ids.into_keys().filter(|id| Some(*id) != except) {
        if let Some(record) = at.state.record(at.src, id)? {
            let dots = dots_of(versions, id);
            out.extend(end_some(&record, &dots));
            // The latest one left that is no copy has the plain name, or may yet take it; it alone
            // can merge with none, and what is merged already stays so.
            let place = record.shown_location().map(|l| l.stamp.dot());
            let place = place.unwrap_or(OWN);
            let stays =
                |c: &&Content| !dots.contains(&c.stamp.dot()) && !c.copy_at.contains(&place);
            let mut free = merged_beside(&record, versions);
            if free.is_empty() {
                free.extend(record.content.iter().find(stays).map(|c| c.stamp.dot()));
            }
            let beside = leave_beside(Some(&record), id, versions, place).into_iter();
            out.extend(beside.filter(
                |c| !matches!(c, Change::MarkCopy { content, .. } if free.contains(content)),
            ));
        }
    }
    Ok(out)
}

/// The versions of a file that are shown as one, if none of these is among them.
fn merged_beside(record: &Record, acted_on: &[Version]) -> Vec<Dot> {
    let acted_on = dots_of(acted_on, record.id);
    let merged = record.filled.text.as_ref().map(|t| t.versions.clone());
    merged
        .filter(|m| !m.iter().any(|d| acted_on.contains(d)))
        .unwrap_or_default()
}

/// Whether other versions of the file than these are shown as one.
fn parts_merged(at: Sight<'_>, id: FileId, acted_on: &[Version]) -> Result<bool> {
    let record = at.state.record(at.src, id)?;
    Ok(record.is_some_and(|r| !merged_beside(&r, acted_on).is_empty()))
}

/// An end of some versions of a file, and of the file if no other is left.
fn end_some(record: &Record, dots: &[Dot]) -> Option<Change> {
    if dots.is_empty() {
        return None;
    }
    let others = record
        .shown_content()
        .iter()
        .any(|c| !dots.contains(&c.stamp.dot()));
    if !others {
        return Some(end_whole(record));
    }
    Some(Change::Drop {
        id: record.id,
        content: dots.to_vec(),
        location: Vec::new(),
    })
}

/// An end of all that is asserted at the file's own place.
fn end_whole(record: &Record) -> Change {
    let all = drop_all(record);
    match all {
        Change::Drop {
            id,
            content,
            location,
        } if record.filled.links > 0 => Change::Unlink {
            id,
            content,
            location,
        },
        other => other,
    }
}

fn drop_all(record: &Record) -> Change {
    let content = record.content.iter().chain(&record.filled.content);
    let location = record
        .location
        .iter()
        .chain(record.filled.location.as_deref());
    Change::Drop {
        id: record.id,
        content: content.map(|c| c.stamp.dot()).collect(),
        location: location.map(|l| l.stamp.dot()).collect(),
    }
}

/// The other versions of a file that was acted on stay what they were shown as: copies.
fn leave_beside(
    record: Option<&Record>,
    id: FileId,
    acted_on: &[Version],
    location: Dot,
) -> Vec<Change> {
    let acted_on = dots_of(acted_on, id);
    let others = record
        .into_iter()
        .flat_map(|r| &r.content)
        .map(|c| c.stamp.dot())
        .filter(|dot| !acted_on.contains(dot));
    let mark = |content| Change::MarkCopy {
        id,
        content,
        location,
    };
    others.map(mark).collect()
}

fn writes(change: &Change, file: FileId) -> bool {
    matches!(change, Change::Write { id, .. } if *id == file)
}

/// What is left at a name that someone took away stays a copy, but for the file `except` and for
/// what is acted on as well.
fn leave_behind(
    at: Sight<'_>,
    shown: &Shown,
    except: Option<FileId>,
    acted_on: &[Version],
) -> Result<Vec<Change>> {
    let mut out = Vec::new();
    for other in shown::group(at.src, at.state, &shown.parents, &shown.name)? {
        let is_acted_on = || other.versions.iter().all(|v| acted_on.contains(v));
        if other.role == Role::Main || (other.link.is_empty() && is_acted_on()) {
            continue;
        }
        if !other.link.is_empty() {
            let names = other.link.iter().filter(|l| Some(l.id) != except);
            out.extend(names.map(|l| Change::MarkCopy {
                id: l.id,
                content: l.content,
                location: l.location,
            }));
            continue;
        }
        let others = other.versions.iter().filter(|v| Some(v.id) != except);
        for v in others {
            let mut content = v.content;
            if other.merged && dots_of(&other.versions, v.id).len() > 1 {
                // Marks would part what is shown as one: it becomes a version of its own.
                content = OWN;
                if !out.iter().any(|c| writes(c, v.id)) {
                    out.push(Change::Write {
                        id: v.id,
                        base: dots_of(&other.versions, v.id),
                        kind: other.kind,
                        blob: other.blob,
                    });
                }
            }
            out.push(Change::MarkCopy {
                id: v.id,
                content,
                location: v.location,
            });
        }
    }
    Ok(out)
}
