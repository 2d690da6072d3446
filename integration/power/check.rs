//! Puts a disk back, opens the volume on it and compares.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use super::disk::{Image, Variant};
use super::workload;

/// A state of a path: bytes, gone, or a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Gone,
    Dir,
    Bytes(Arc<Vec<u8>>),
}

/// What the log said about a path.
#[derive(Debug, Default, Clone)]
struct Path1 {
    states: Vec<State>,
    /// The last state that was reached for sure.
    done: usize,
    /// The last state that was acknowledged.
    acked: Option<usize>,
}

/// The log so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Promises {
    paths: BTreeMap<String, Path1>,
}

impl Promises {
    /// Takes in one line.
    pub(crate) fn line(&mut self, line: &str, states: &Path) {
        let words: Vec<&str> = line.split('\t').collect();
        match words.as_slice() {
            ["S", path, to] => {
                let state = match *to {
                    "-" => State::Gone,
                    "/" => State::Dir,
                    name => {
                        State::Bytes(Arc::new(std::fs::read(states.join(name)).expect("a state")))
                    }
                };
                let p = self
                    .paths
                    .entry((*path).to_owned())
                    .or_insert_with(|| Path1 {
                        states: vec![State::Gone],
                        ..Path1::default()
                    });
                p.states.push(state);
            }
            ["D"] => {
                for p in self.paths.values_mut() {
                    p.done = p.states.len() - 1;
                }
            }
            ["A", "*"] => {
                for p in self.paths.values_mut() {
                    p.acked = Some(p.done);
                }
            }
            ["A", path] => {
                let p = self.paths.entry((*path).to_owned()).or_default();
                p.acked = Some(p.done);
            }
            _ => panic!("what is {line:?}?"),
        }
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.paths.values().filter(|p| p.acked.is_some()).count()
    }
}

/// What a disk looked like after recovery.
pub(crate) type Outcome = Result<BTreeMap<String, State>, String>;

/// Files above this are in the overlay while they are written: of what was not synced any
/// part may be there.
const SMALL: usize = 128 << 10;

/// Whether each byte is that of some state since the acknowledged one.
fn is_mix(got: &[u8], states: &[State]) -> bool {
    let states: Vec<&[u8]> = states
        .iter()
        .filter_map(|s| match s {
            State::Bytes(b) => Some(b.as_slice()),
            _ => None,
        })
        .collect();
    let large = states.iter().any(|s| s.len() > SMALL);
    let shortest = states.iter().map(|s| s.len()).min().unwrap_or(0);
    let byte = |(n, b): (usize, &u8)| {
        states.iter().any(|s| s.get(n) == Some(b)) || (n >= shortest && *b == 0)
    };
    large && states.len() > 1 && got.len() >= shortest && got.iter().enumerate().all(byte)
}

/// What is wrong with what was recovered.
pub(crate) fn judge(p: &Promises, v: Variant, got: &Outcome) -> Vec<String> {
    let got = match got {
        Ok(g) => g,
        Err(e) => return vec![e.clone()],
    };
    let mut wrong = Vec::new();
    for (path, h) in &p.paths {
        let is = got.get(path).unwrap_or(&State::Gone);
        let from = match (v, h.acked) {
            (Variant::All, _) => h.done,
            (_, Some(n)) => n,
            (_, None) => 0,
        };
        let may = h.states.get(from..).unwrap_or_default();
        let fits = may.contains(is)
            || matches!(is, State::Bytes(b) if v != Variant::All && is_mix(b, may))
            // Never acknowledged: the name is there, what it names is not.
            || (h.acked.is_none() && v != Variant::All && may.iter().any(|s| matches!(s, State::Bytes(_))) && matches!(is, State::Bytes(b) if b.iter().all(|b| *b == 0)));
        if !fits {
            wrong.push(format!(
                "{path}: {} instead of {}{}",
                say(is),
                may.iter().map(say).collect::<Vec<_>>().join(" or "),
                if h.acked.is_some() {
                    ", acknowledged"
                } else {
                    ""
                }
            ));
        }
    }
    for path in got
        .keys()
        .filter(|k| !p.paths.contains_key(*k) && !k.starts_with(':'))
    {
        wrong.push(format!("{path}: nobody wrote that"));
    }
    wrong
}

fn say(s: &State) -> String {
    match s {
        State::Gone => "nothing".to_owned(),
        State::Dir => "a directory".to_owned(),
        State::Bytes(b) => {
            let start = String::from_utf8_lossy(&b[..b.len().min(24)]).into_owned();
            format!(
                "{} bytes {:?} ({})",
                b.len(),
                start,
                &workload::state_name(b)[..6]
            )
        }
    }
}

/// Recovered disks, by what was on them.
#[derive(Debug, Default)]
pub(crate) struct Recoveries {
    known: Mutex<HashMap<u128, Arc<OnceLock<Outcome>>>>,
    bytes: Mutex<HashMap<String, Arc<Vec<u8>>>>,
}

impl Recoveries {
    pub(crate) fn of(&self, image: &Image) -> Arc<OnceLock<Outcome>> {
        let cell = match image.print {
            None => Arc::default(),
            Some(p) => self
                .known
                .lock()
                .expect("lock")
                .entry(p)
                .or_default()
                .clone(),
        };
        cell.get_or_init(|| self.recover(image));
        cell
    }

    pub(crate) fn count(&self) -> usize {
        self.known.lock().expect("lock").len()
    }

    fn recover(&self, image: &Image) -> Outcome {
        let home = ["/dev/shm", "/tmp"]
            .into_iter()
            .find(|d| Path::new(d).is_dir());
        let dir = tempfile::tempdir_in(home.expect("a place")).expect("tempdir");
        for (path, bytes) in &image.entries {
            let to = dir.path().join(path);
            match bytes {
                None => std::fs::create_dir(&to).expect("made"),
                Some(b) => std::fs::write(&to, b.as_slice()).expect("written"),
            }
        }
        let at = dir.path().join("volumes/cell");
        let seen = std::panic::catch_unwind(|| {
            std::fs::create_dir_all(at.parent().expect("one")).map_err(|e| e.to_string())?;
            let v = workload::open(&at, 1).map_err(|e| format!("it does not open: {e}"))?;
            let shown = workload::shown(&workload::mount(&v))
                .map_err(|e| format!("it cannot be read: {e}"))?;
            let refs = v.repo().refs().map_err(|e| e.to_string())?;
            v.stop().map_err(|e| format!("it does not stop: {e}"))?;
            drop(v);
            // Once more: a recovery must not leave anything to recover.
            let v = workload::open(&at, 1).map_err(|e| format!("it does not open again: {e}"))?;
            let again = workload::shown(&workload::mount(&v))
                .map_err(|e| format!("it cannot be read again: {e}"))?;
            v.stop()
                .map_err(|e| format!("it does not stop again: {e}"))?;
            if again != shown {
                let differ: Vec<&String> = again
                    .keys()
                    .chain(shown.keys())
                    .filter(|k| again.get(*k) != shown.get(*k))
                    .collect();
                return Err(format!("opened again it shows something else: {differ:?}"));
            }
            fsck(&at.join("git"))?;
            Ok((shown, refs))
        });
        let (shown, refs) = seen.unwrap_or_else(|_| Err("a panic".to_owned()))?;
        let mut kept = self.bytes.lock().expect("lock");
        let mut keep = |b: Vec<u8>| {
            let b = kept
                .entry(workload::state_name(&b))
                .or_insert_with(|| Arc::new(b));
            State::Bytes(b.clone())
        };
        let mut out = BTreeMap::new();
        for (path, b) in shown {
            out.insert(path, b.map_or(State::Dir, &mut keep));
        }
        for (name, id) in refs {
            if let Some(id) = id.filter(|_| name.starts_with("refs/heads/pushed-")) {
                out.insert(format!(":{name}"), keep(id.to_string().into_bytes()));
            }
        }
        Ok(out)
    }
}

fn git(repo: &Path, args: &[&str]) -> Result<String, String> {
    let out = Command::new("git")
        .arg("--git-dir")
        .arg(repo)
        .args(["-c", "safe.directory=*"])
        .args(args)
        .output()
        .map_err(|e| e.to_string())?;
    let err = String::from_utf8_lossy(&out.stderr);
    if !out.status.success() || err.contains("error") || err.contains("fatal") {
        return Err(format!(
            "git {args:?}: {err}{}",
            String::from_utf8_lossy(&out.stdout)
        ));
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

fn fsck(repo: &Path) -> Result<(), String> {
    git(repo, &["fsck", "--strict", "--full", "--no-dangling"]).map(drop)
}
