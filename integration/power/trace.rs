//! Reads what `strace -f -y -xx` wrote: calls in the order in which they ended.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The calls that change a disk or make it keep a change; `pwritev` is the test's own.
pub(crate) const CALLS: &str = "open,openat,creat,write,pwrite64,writev,lseek,\
rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,\
truncate,ftruncate,fallocate,copy_file_range,sendfile,splice,fsync,fdatasync,sync_file_range";

/// An argument: its text, the path of its descriptor, the bytes of its strings.
#[derive(Debug, Default, Clone)]
pub(crate) struct Arg {
    pub(crate) text: String,
    pub(crate) path: Option<PathBuf>,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) args: Vec<Arg>,
    pub(crate) ret: i64,
    /// The path of the descriptor that it returned.
    pub(crate) ret_path: Option<PathBuf>,
    /// Seconds since 1970 when it ended, if the trace has times (`-ttt`) and durations (`-T`).
    pub(crate) time: f64,
}

/// A call began or ended. Calls that nothing interrupted do both at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Began(usize),
    Ended(usize),
}

#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) calls: Vec<Call>,
    pub(crate) steps: Vec<Step>,
    /// Calls that a death cut: it is not known how far they came.
    pub(crate) cut: usize,
}

fn hex(digits: &[u8]) -> Vec<u8> {
    let digit = |d: &u8| {
        (*d as char)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
            .expect("a hex digit")
    };
    let mut out = Vec::with_capacity(digits.len() / 4);
    for part in digits.split(|b| *b == b'\\').skip(1) {
        let [b'x', high, low] = part else {
            panic!("not \\xNN: {}", String::from_utf8_lossy(part));
        };
        out.push(digit(high) << 4 | digit(low));
    }
    out
}

fn path_of(bytes: Vec<u8>) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Arguments up to the closing bracket, and what follows it.
fn arguments(text: &[u8]) -> (Vec<Arg>, &[u8]) {
    let mut args = vec![Arg::default()];
    let mut depth = 0;
    let mut at = 0;
    let until = |at: usize, end: u8| {
        let rest = &text[at + 1..];
        let n = rest.iter().position(|b| *b == end).expect("an end");
        (&rest[..n], at + n + 2)
    };
    while at < text.len() {
        let last = args.last_mut().expect("one");
        match text[at] {
            b'"' => {
                let (digits, next) = until(at, b'"');
                assert!(!text[next..].starts_with(b"..."), "a string was cut");
                last.bytes.extend(hex(digits));
                at = next;
                continue;
            }
            b'<' => {
                let (digits, next) = until(at, b'>');
                if digits.starts_with(b"\\x") {
                    last.path = Some(path_of(hex(digits)));
                }
                at = next;
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' if depth == 0 => {
                for a in args.iter_mut().filter(|a| a.text.contains("deleted")) {
                    a.path = None;
                }
                return (args, &text[at + 1..]);
            }
            b')' | b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                args.push(Arg::default());
                at += 1;
                continue;
            }
            b' ' => {}
            c => last.text.push(c as char),
        }
        at += 1;
    }
    panic!(
        "no end: {}",
        String::from_utf8_lossy(&text[..text.len().min(300)])
    );
}

fn call(text: &[u8]) -> Option<Call> {
    let open = text.iter().position(|b| *b == b'(')?;
    let name = String::from_utf8_lossy(&text[..open]).into_owned();
    let (args, rest) = arguments(&text[open + 1..]);
    let rest = String::from_utf8_lossy(rest).into_owned();
    let result = rest.trim().strip_prefix('=')?.trim();
    let end = result.find(['<', ' ']).unwrap_or(result.len());
    let ret = result[..end].parse().unwrap_or(-1);
    let ret_path = result[end..].strip_prefix('<').map(|p| {
        let p = p.split('>').next().unwrap_or_default();
        path_of(hex(p.as_bytes()))
    });
    Some(Call {
        name,
        args,
        ret,
        ret_path,
        time: 0.0,
    })
}

/// The seconds at the end of a line, as `<0.150021>`; 0 if there are none.
fn duration(line: &[u8]) -> f64 {
    let text = line.strip_suffix(b">").and_then(|l| {
        let from = l.iter().rposition(|b| *b == b'<')?;
        std::str::from_utf8(&l[from + 1..]).ok()
    });
    text.and_then(|t| t.parse().ok()).unwrap_or(0.0)
}

/// Reads a whole trace.
pub(crate) fn read(file: &Path) -> Trace {
    let text = std::fs::read(file).expect("a trace");
    let mut out = Trace::default();
    // What is under way, by thread: its text, and the place kept for its beginning.
    let mut open: HashMap<Vec<u8>, (Vec<u8>, usize)> = HashMap::new();
    let mut began = Vec::new();
    let mut ended: HashMap<usize, usize> = HashMap::new();
    for line in text.split(|b| *b == b'\n') {
        let Some(gap) = line.iter().position(|b| *b == b' ') else {
            continue;
        };
        let pid = line[..gap].to_vec();
        let mut body = line[gap..].trim_ascii();
        let mut time = 0.0;
        if body.first().is_some_and(u8::is_ascii_digit)
            && let Some(n) = body.iter().position(|b| *b == b' ')
        {
            time = String::from_utf8_lossy(&body[..n]).parse().unwrap_or(0.0);
            body = body[n..].trim_ascii();
        }
        if body.starts_with(b"---") || body.starts_with(b"+++") {
            let died = body.starts_with(b"+++") && open.remove(&pid).is_some();
            out.cut += usize::from(died);
            continue;
        }
        if let Some(start) = body.strip_suffix(b"<unfinished ...>") {
            let n = began.len();
            began.push(out.steps.len());
            out.steps.push(Step::Began(usize::MAX));
            open.insert(pid, (start.trim_ascii().to_vec(), n));
            continue;
        }
        let resumed = body.strip_prefix(b"<... ").and_then(|b| {
            let n = b.windows(8).position(|w| w == b"resumed>")?;
            Some(&b[n + 8..])
        });
        let (whole, n) = match resumed {
            Some(rest) => {
                let Some((mut start, n)) = open.remove(&pid) else {
                    continue;
                };
                start.extend_from_slice(rest);
                (start, Some(n))
            }
            None => (body.to_vec(), None),
        };
        let Some(mut c) = call(&whole) else { continue };
        // A line that nothing interrupted has the time of its beginning.
        c.time = time + if n.is_none() { duration(&whole) } else { 0.0 };
        let index = out.calls.len();
        out.calls.push(c);
        match n {
            Some(n) => {
                ended.insert(began[n], index);
            }
            None => out.steps.push(Step::Began(index)),
        }
        out.steps.push(Step::Ended(index));
    }
    for (place, index) in ended {
        out.steps[place] = Step::Began(index);
    }
    out.steps.retain(|s| *s != Step::Began(usize::MAX));
    out
}
