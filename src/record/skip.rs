//! How long the encoding of a record is, without making the record: only lengths are looked at.
//!
//! Invariant: [`record`] ends where decoding would, and refuses what the encoder would have
//! written otherwise, so that equal records have equal bytes.

use crate::base::id::FileId;

/// The id and the length of a record's encoding that begins here.
pub(super) fn record(data: &[u8]) -> Option<(FileId, usize)> {
    let mut at = Skip(data);
    let id = FileId {
        branch: at.number()?,
        n: at.number()?,
    };
    at.list(Skip::content)?;
    at.list(Skip::location)?;
    for _ in 0..4 {
        // The time is in another form than the other values, of the same shape.
        at.maybe(|s| s.numbers(4))?;
    }
    let mut last = None;
    for _ in 0..at.number()? {
        let name = at.bytes()?;
        if last.is_some_and(|l| l >= name) {
            return None;
        }
        last = Some(name);
        at.numbers(3)?;
        at.maybe(|s| s.bytes().map(drop))?;
    }
    at.list(Skip::content)?;
    at.maybe(Skip::location)?;
    at.maybe(|s| {
        s.raw(20)?;
        s.list(|s| s.numbers(2))
    })?;
    at.number()?;
    Some((id, data.len() - at.0.len()))
}

/// What is left.
struct Skip<'a>(&'a [u8]);

impl<'a> Skip<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut out = 0u64;
        for shift in (0..64).step_by(7) {
            let (b, rest) = self.0.split_first()?;
            self.0 = rest;
            out |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                let shortest = shift == 0 || *b > 0;
                return (shortest && (shift < 63 || *b == 1)).then_some(out);
            }
        }
        None
    }

    fn numbers(&mut self, n: usize) -> Option<()> {
        for _ in 0..n {
            self.number()?;
        }
        Some(())
    }

    fn raw(&mut self, n: usize) -> Option<()> {
        self.0 = self.0.get(n..)?;
        Some(())
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.number()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(bytes)
    }

    fn maybe(&mut self, some: impl Fn(&mut Self) -> Option<()>) -> Option<()> {
        match self.0.split_first()? {
            (0, rest) => {
                self.0 = rest;
                Some(())
            }
            (1, rest) => {
                self.0 = rest;
                some(self)
            }
            _ => None,
        }
    }

    fn list(&mut self, each: impl Fn(&mut Self) -> Option<()>) -> Option<()> {
        for _ in 0..self.number()? {
            each(self)?;
        }
        Some(())
    }

    fn content(&mut self) -> Option<()> {
        self.numbers(3)?;
        // The number of a device, or the file of another name.
        match self.number()? {
            0..=5 | 9 => {}
            6 | 7 => self.numbers(1)?,
            8 => self.numbers(2)?,
            _ => return None,
        }
        self.raw(20)?;
        for _ in 0..3 {
            self.list(|s| s.numbers(2))?;
        }
        Some(())
    }

    fn location(&mut self) -> Option<()> {
        self.numbers(5)?;
        self.bytes()?;
        self.maybe(|s| {
            s.numbers(2)?;
            s.bytes().map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::id::{BranchId, Oid};
    use crate::base::name::EntryName;
    use crate::base::stamp::{Dot, Hlc, Stamp};
    use crate::record::model::{Content, Kind, Location, Lww, MergedText, Record};

    /// A record out of bytes: each says what the next part is.
    fn made(choices: &[u64]) -> Record {
        let mut rest = choices.iter().copied().cycle();
        let mut next = move || rest.next().unwrap_or(0);
        let id = |a: u64, b: u64| FileId { branch: a, n: b };
        let name = |n: u64| EntryName::new(vec![b'n'; usize::try_from(n % 200).unwrap() + 1]);
        let mut stamp = {
            let mut n = 0;
            move |s: u64| {
                n += 1;
                Stamp {
                    hlc: Hlc(s),
                    branch: BranchId(s.rotate_left(n)),
                    seq: s >> (n % 60),
                }
            }
        };
        let dots = |n: u64| -> Vec<Dot> {
            let dot = |i| Dot {
                branch: BranchId(n.wrapping_mul(i)),
                seq: n ^ i,
            };
            (0..n % 4).map(dot).collect()
        };
        let mut r = Record::new(id(next(), next()));
        let mut content = |n: u64| Content {
            stamp: stamp(n),
            kind: match n % 10 {
                0 => Kind::Dir,
                1 => Kind::File,
                2 => Kind::Symlink,
                3 => Kind::Gitlink,
                4 => Kind::Fifo,
                5 => Kind::Socket,
                6 => Kind::CharDevice(u32::MAX),
                7 => Kind::BlockDevice(3),
                8 => Kind::Large,
                _ => Kind::Link(id(n, !n)),
            },
            blob: Oid::from([7; 20]),
            over: dots(n >> 4),
            copy_at: dots(n >> 6),
            gone_from: dots(n >> 8),
        };
        for _ in 0..next() % 4 {
            r.content.push(content(next()));
        }
        if next().is_multiple_of(3) {
            for _ in 0..=next() % 3 {
                r.filled.content.push(content(next()));
            }
        }
        let at = Stamp {
            hlc: Hlc(next()),
            branch: BranchId(next()),
            seq: next(),
        };
        let location = |n: u64| Location {
            stamp: at,
            parent: id(n, n >> 40),
            name: name(n).unwrap(),
            prev: n
                .is_multiple_of(2)
                .then(|| (id(!n, n), name(n >> 9).unwrap())),
        };
        for _ in 0..next() % 3 {
            r.location.push(location(next()));
        }
        if next().is_multiple_of(3) {
            r.filled.location = Some(Box::new(location(next())));
        }
        if next().is_multiple_of(3) {
            r.filled.text = Some(Box::new(MergedText {
                blob: Oid::from([9; 20]),
                versions: dots(next()),
            }));
        }
        r.filled.links = u32::try_from(next() % 70_000).unwrap();
        let f = &mut r.fields;
        let lww = |value| Lww { stamp: at, value };
        let small = |n: u64| u32::try_from(n >> 32).unwrap();
        f.mode = next().is_multiple_of(2).then(|| lww(small(next())));
        f.uid = next().is_multiple_of(2).then(|| lww(small(next())));
        f.gid = next().is_multiple_of(2).then(|| lww(small(next())));
        let time = Lww {
            stamp: at,
            value: next().cast_signed(),
        };
        f.mtime = next().is_multiple_of(2).then_some(time);
        for n in 0..next() % 3 {
            let value = next().is_multiple_of(2).then(|| vec![b'v'; 300]);
            f.xattrs
                .insert(format!("user.{n}").into_bytes(), Lww { stamp: at, value });
        }
        r
    }

    proptest::proptest! {
        #[test]
        fn a_record_ends_where_its_encoding_does(
            choices in proptest::collection::vec(proptest::prelude::any::<u64>(), 1..60),
        ) {
            let r = made(&choices);
            let mut bytes = postcard::to_stdvec(&r).unwrap();
            let len = bytes.len();
            bytes.extend_from_slice(b"more");
            assert_eq!(record(&bytes), Some((r.id, len)));
            for cut in 0..len.min(80) {
                assert_eq!(record(&bytes[..cut]), None);
            }
        }
    }
}
