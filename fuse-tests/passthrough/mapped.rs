//! Mappings of files that the kernel has, and all that happens beside them, in many orders.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{LET_GO, LINE, MANY, MORE, Program, ends_well, lines};
use crate::harness::{self, Lab, Node, SOON, agree, rounds, wait_until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// To the mapping; when it is gone, by the descriptor.
    Store,
    Msync,
    Munmap,
    Close,
    /// The other node changes the file, and this one has heard of it.
    EditedThere,
    /// Nobody does anything for as long as it takes to let a file go.
    LetGo,
    /// The node is killed, and started again. Programs open and map what they had.
    Killed,
}
use Event::{Close, EditedThere, Killed, LetGo, Msync, Munmap, Store};

/// One file, and what happens to it.
struct Case {
    name: String,
    len: usize,
    order: Vec<Event>,
    program: Program,
    open: bool,
    mapped: bool,
    /// What has to be there at the end.
    written: Vec<String>,
    /// So many of them were before the program opened the file, and may be in a copy.
    earlier: usize,
}

impl Case {
    fn new(name: String, many: usize, order: Vec<Event>) -> Self {
        Self {
            name,
            len: many * LINE,
            order,
            program: Program::new(),
            open: false,
            mapped: false,
            written: Vec::new(),
            earlier: 0,
        }
    }

    fn opens(&mut self, path: &Path) {
        self.program.open("f", path, "both");
        self.program.tell("map m f");
        (self.open, self.mapped) = (true, true);
        self.earlier = self.written.len();
    }

    fn happens(&mut self, step: usize, b: &Node) {
        match self.order[step] {
            Store => {
                let text = format!("HERE-{step}-{}", self.name);
                let at = 3 * 4_096 + (step * 3 + 1) * LINE;
                if self.mapped {
                    self.program.tell(&format!("store m {at} {text}"));
                } else if self.open {
                    self.program.tell(&format!("pwrite f {at} {text}"));
                } else {
                    return;
                }
                self.written.push(text);
            }
            Msync if self.mapped => drop(self.program.tell("msync m")),
            Munmap if self.mapped => {
                self.program.tell("munmap m");
                self.mapped = false;
            }
            Close if self.open => {
                self.program.tell("close f");
                self.open = false;
            }
            EditedThere => {
                let text = format!("THERE-{step}-{}", self.name);
                let file = fs::OpenOptions::new().write(true).open(b.at(&self.name));
                let file = file.expect("opened");
                let at = (step as u64 * 3 + 1) * LINE as u64;
                file.write_all_at(text.as_bytes(), at).expect("written");
                self.written.push(text);
            }
            Msync | Munmap | Close | LetGo | Killed => {}
        }
    }

    /// What a mapping shows is what was stored to it, and no zeros.
    fn sees_its_own(&mut self, when: usize) {
        if !self.mapped {
            return;
        }
        let is = self.program.tell(&format!("load m 0 {}", self.len));
        let order = &self.order[..=when];
        assert!(!is.contains('\0'), "{}: zeros after {order:?}", self.name);
        let own = self.written[self.earlier..].iter();
        for text in own.filter(|t| t.starts_with("HERE")) {
            assert!(
                is.contains(text),
                "{}: no {text} after {order:?}",
                self.name
            );
        }
    }

    /// All that was written, in the file or in copies beside it.
    fn lacks(&self, node: &Node) -> Vec<String> {
        let entries = fs::read_dir(node.dir()).expect("listed");
        let names = entries.map(|e| e.expect("an entry").file_name());
        let copies = format!("{}.conflict-", self.name);
        let mut all = Vec::new();
        for n in names.filter(|n| {
            let n = n.to_string_lossy();
            n == self.name.as_str() || n.starts_with(&copies)
        }) {
            let is = fs::read(node.at(&n)).expect("read");
            let order = &self.order;
            assert_eq!(is.len(), self.len, "{n:?} on {}: {order:?}", node.name());
            assert!(
                !is.contains(&0),
                "{n:?} on {}: zeros: {order:?}",
                node.name()
            );
            all.push(String::from_utf8(is).expect("text"));
        }
        let is_there = |t: &&String| !all.iter().any(|f| f.contains(t.as_str()));
        self.written.iter().filter(is_there).cloned().collect()
    }
}

/// Lets all cases go their ways at the same time, and compares.
fn all_at_once(mut a: Node, b: Node, cases: &mut [Case]) -> (Node, Node) {
    for case in &*cases {
        a.write(&case.name, lines(case.len / LINE));
    }
    agree(&[&a, &b], "cell", 2 * SOON);
    cases.iter_mut().for_each(|c| c.opens(&a.at(&c.name)));
    let steps = cases[0].order.len();
    for step in 0..steps {
        let is = |e: Event, c: &[Case]| c.iter().any(|c| c.order[step] == e);
        for case in &mut *cases {
            case.happens(step, &b);
        }
        if is(EditedThere, cases) {
            // The other node's commit is here, wherever it is shown.
            let mark = format!("mark-{}-{step}", cases[0].name);
            b.settled();
            b.write(&mark, "edited");
            a.wait_for(&mark, "edited");
        }
        if is(LetGo, cases) {
            std::thread::sleep(LET_GO);
        }
        if is(Killed, cases) {
            let setup = a.kill();
            for case in &mut *cases {
                case.program = Program::new();
            }
            a = setup.start();
            for case in &mut *cases {
                let (open, mapped) = (case.open, case.mapped);
                case.opens(&a.at(&case.name));
                if !mapped {
                    case.program.tell("munmap m");
                }
                if !open {
                    case.program.tell("close f");
                }
                (case.open, case.mapped) = (open, mapped);
            }
        } else {
            cases.iter_mut().for_each(|c| c.sees_its_own(step));
        }
    }
    for case in &mut *cases {
        case.program = Program::new();
    }
    a.settled();
    b.settled();
    agree(&[&a, &b], "cell", 3 * SOON);
    // What was stored last is seen at the next look.
    for case in &*cases {
        for node in [&a, &b] {
            wait_until(
                SOON,
                || case.lacks(node).is_empty(),
                || {
                    format!(
                        "{} on {}: {:?} lacks {:?}",
                        case.name,
                        node.name(),
                        case.order,
                        case.lacks(node)
                    )
                },
            );
        }
    }
    agree(&[&a, &b], "cell", 2 * SOON);
    harness::tree::assert_same(a.dir(), b.dir());
    (a, b)
}

fn orders(of: &[Event]) -> Vec<Vec<Event>> {
    if of.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (n, first) in of.iter().enumerate() {
        let mut rest = of.to_vec();
        rest.remove(n);
        for mut o in orders(&rest) {
            o.insert(0, *first);
            all.push(o);
        }
    }
    all
}

#[test]
fn each_order_of_store_close_unmap_and_edit_keeps_all() {
    if !harness::fuse() {
        return;
    }
    let lab = Lab::new();
    let mut nodes = lab.cell(2);
    let b = nodes.pop().expect("two");
    let a = nodes.pop().expect("two");
    // After an unmapping a store is a write, if there is a descriptor.
    let mut cases: Vec<Case> = orders(&[Store, Close, Munmap, EditedThere])
        .into_iter()
        .enumerate()
        .map(|(n, mut order)| {
            // One more store at the end, or what is left of it.
            order.push(Store);
            Case::new(
                format!("f{n:02}"),
                if n % 3 == 0 { MORE } else { MANY },
                order,
            )
        })
        .collect();
    let (a, b) = all_at_once(a, b, &mut cases);
    ends_well(vec![a, b]);
}

/// Numbers that follow from a seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap_or(0)
    }
}

#[test]
fn stores_edits_and_kills_in_any_order_lose_nothing() {
    if !harness::fuse() {
        return;
    }
    let seeds = rounds("CELLFS_TEST_PASSED", 2);
    let lab = Lab::with_patience(std::time::Duration::from_secs(120 + 60 * seeds as u64));
    let mut nodes = lab.cell(2);
    let mut b = nodes.pop().expect("two");
    let mut a = nodes.pop().expect("two");
    for round in 0..seeds {
        let seed = rounds("CELLFS_TEST_PASSED_SEED", 0) as u64;
        let seed = match seed {
            0 => u64::from(getrandom::u32().expect("randomness")) | 1,
            n => n,
        };
        eprintln!("CELLFS_TEST_PASSED_SEED={seed}");
        let mut chance = Chance(seed);
        let killed = 1 + chance.below(7);
        let mut cases = Vec::new();
        for n in 0..10 {
            let mut left = vec![Store, Store, Msync, Munmap, Close, EditedThere, LetGo];
            let mut order = Vec::new();
            while !left.is_empty() {
                order.push(left.remove(chance.below(left.len())));
            }
            order.insert(killed, Killed);
            order.push(Store);
            let many = if chance.below(3) == 0 { MORE } else { MANY };
            cases.push(Case::new(format!("r{round}-{n}"), many, order));
        }
        (a, b) = all_at_once(a, b, &mut cases);
    }
    ends_well(vec![a, b]);
}
