//! POSIX access control lists, as Linux keeps them in two extended attributes: who may use a file,
//! and what is made in a directory inherits.
//!
//! Invariant: a list and the permission bits never disagree, however both were merged. The bits say
//! what the owner, the mask and all others may; a list that is stored adds users, groups and what
//! the file's own group may, and its entries for owner, mask and others are not looked at. So a
//! `chmod` changes the bits alone, and the later of it and a `setfacl` that did not know of it
//! decides what the bits are. A list that says no more than bits is not stored.
//!
//! The kernel enforces them, from what it is told here.

use std::collections::BTreeMap;

use crate::record::model::{Kind, XattrName};

/// Who may use a file.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// What is made in a directory inherits this.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";
/// Names of this kind are lists or nothing.
const ANY: &[u8] = b"system.posix_acl_";

/// The kernel reads no more.
const BYTES_MAX: usize = 4096;
const VERSION: u32 = 2;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;
const PERM_BITS: u32 = 0o777;

/// Whether an attribute's name is one of lists.
pub(super) fn is_acl(name: &[u8]) -> bool {
    name.starts_with(ANY)
}

/// Whom an entry is about, in the order of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner,
    User,
    Group,
    NamedGroup,
    Mask,
    Others,
}

const TAGS: [(u16, Tag); 6] = [
    (0x01, Tag::Owner),
    (0x02, Tag::User),
    (0x04, Tag::Group),
    (0x08, Tag::NamedGroup),
    (0x10, Tag::Mask),
    (0x20, Tag::Others),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    perm: u16,
    id: u32,
}

/// A list that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// What these bytes say; nothing if they are no list.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > BYTES_MAX {
            return None;
        }
        let (version, rest) = bytes.split_first_chunk()?;
        let (entries, tail) = rest.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !tail.is_empty() {
            return None;
        }
        let entries: Option<Vec<Entry>> = entries.iter().map(entry).collect();
        let all = Self(entries?);
        all.makes_sense().then_some(all)
    }

    fn makes_sense(&self) -> bool {
        let count = |tag| self.0.iter().filter(|e| e.tag == tag).count();
        let named = count(Tag::User) + count(Tag::NamedGroup);
        self.0.is_sorted_by_key(|e| e.tag)
            && [Tag::Owner, Tag::Group, Tag::Others].map(count) == [1; 3]
            && (count(Tag::Mask) == 1 || count(Tag::Mask) == 0 && named == 0)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            let tag = TAGS
                .iter()
                .find(|(_, t)| *t == e.tag)
                .map_or(0, |(n, _)| *n);
            out.extend(tag.to_le_bytes());
            out.extend(e.perm.to_le_bytes());
            out.extend(e.id.to_le_bytes());
        }
        out
    }

    /// Whether it says more than permission bits can.
    pub(super) fn says_more_than_bits(&self) -> bool {
        self.0.iter().any(|e| e.tag == Tag::Mask)
    }

    /// The entry that the bits for the group are: the mask, if there is one.
    fn class(&self) -> Tag {
        match self.says_more_than_bits() {
            true => Tag::Mask,
            false => Tag::Group,
        }
    }

    /// The permission bits of a file with this list.
    pub(super) fn bits(&self) -> u32 {
        let of = |tag| {
            let found = self.0.iter().find(|e| e.tag == tag);
            found.map_or(0, |e| u32::from(e.perm))
        };
        of(Tag::Owner) << 6 | of(self.class()) << 3 | of(Tag::Others)
    }

    /// The list of a file with these permission bits.
    pub(super) fn with_bits(mut self, mode: u32) -> Self {
        let class = self.class();
        for e in &mut self.0 {
            let shift = match e.tag {
                Tag::Owner => 6,
                tag if tag == class => 3,
                Tag::Others => 0,
                _ => continue,
            };
            e.perm = u16::try_from(mode >> shift & 7).unwrap_or(0);
        }
        self
    }
}

fn entry(bytes: &[u8; 8]) -> Option<Entry> {
    let [t0, t1, p0, p1, id @ ..] = *bytes;
    let tag = u16::from_le_bytes([t0, t1]);
    let (_, tag) = TAGS.iter().find(|(n, _)| *n == tag)?;
    let perm = u16::from_le_bytes([p0, p1]);
    let id = match tag {
        Tag::User | Tag::NamedGroup => u32::from_le_bytes(id),
        _ => NOBODY,
    };
    let named = matches!(tag, Tag::User | Tag::NamedGroup);
    (perm <= 7 && named == (id != NOBODY)).then_some(Entry {
        tag: *tag,
        perm,
        id,
    })
}

/// What is told of a list that is stored with a file of this mode. What is no list, or says no
/// more than the bits, is not there.
pub(super) fn shown(name: &[u8], stored: &[u8], mode: u32) -> Option<Vec<u8>> {
    let acl = Acl::parse(stored)?;
    match name {
        ACCESS => acl
            .says_more_than_bits()
            .then(|| acl.with_bits(mode).bytes()),
        DEFAULT => Some(acl.bytes()),
        _ => None,
    }
}

/// What a new file begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    /// Its mode.
    pub(super) mode: u32,
    /// Its lists.
    pub(super) xattrs: BTreeMap<XattrName, Vec<u8>>,
}

/// What is made in a directory with these attributes by somebody who asks for `mode` with this
/// umask, which counts where nothing is inherited.
pub(super) fn inherit(
    above: &BTreeMap<XattrName, Vec<u8>>,
    kind: Kind,
    mode: u32,
    umask: u32,
) -> Given {
    let plain = |mode| Given {
        mode,
        xattrs: BTreeMap::new(),
    };
    if kind == Kind::Symlink {
        return plain(mode);
    }
    let stored = above.get(DEFAULT);
    let Some(default) = stored.and_then(|b| Acl::parse(b)) else {
        return plain(mode & !umask);
    };
    let bits = default.bits() & mode;
    let mut out = plain(mode & !PERM_BITS | bits);
    if default.says_more_than_bits() {
        let access = default.clone().with_bits(bits);
        out.xattrs.insert(ACCESS.to_vec(), access.bytes());
    }
    if kind == Kind::Dir {
        out.xattrs.insert(DEFAULT.to_vec(), default.bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            out.extend(tag.to_le_bytes());
            out.extend(perm.to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }

    const NO: u32 = NOBODY;

    #[test]
    fn the_bits_are_owner_mask_and_others() {
        let bytes = list(&[
            (1, 7, NO),
            (2, 6, 1000),
            (4, 1, NO),
            (16, 4, NO),
            (32, 0, NO),
        ]);
        let acl = Acl::parse(&bytes).expect("a list");
        assert_eq!(acl.bytes(), bytes);
        assert!(acl.says_more_than_bits());
        assert_eq!(acl.bits(), 0o740);
        let other = acl.with_bits(0o625);
        assert_eq!(other.bits(), 0o625);
        let wanted = [
            (1, 6, NO),
            (2, 6, 1000),
            (4, 1, NO),
            (16, 2, NO),
            (32, 5, NO),
        ];
        assert_eq!(other.bytes(), list(&wanted));
        // Without a mask they are the group's own.
        let plain = Acl::parse(&list(&[(1, 7, NO), (4, 5, NO), (32, 4, NO)])).expect("a list");
        assert!(!plain.says_more_than_bits());
        assert_eq!(plain.bits(), 0o754);
        assert_eq!(shown(ACCESS, &plain.bytes(), 0o754), None);
    }

    #[test]
    fn what_the_kernel_refuses_is_no_list() {
        let good = [
            (1, 7, NO),
            (2, 6, 1000),
            (4, 1, NO),
            (16, 4, NO),
            (32, 0, NO),
        ];
        assert!(Acl::parse(&list(&good)).is_some());
        for at in 0..good.len() {
            let mut without = good.to_vec();
            without.remove(at);
            let stays = at == 1;
            assert_eq!(Acl::parse(&list(&without)).is_some(), stays, "without {at}");
            let mut twice = good.to_vec();
            twice.insert(at, good[at]);
            // Two entries of one user are as odd to the kernel as to us: it takes them.
            assert_eq!(Acl::parse(&list(&twice)).is_some(), at == 1, "twice {at}");
            let mut perm = good;
            perm[at].1 = 8;
            assert!(Acl::parse(&list(&perm)).is_none(), "a permission in {at}");
        }
        let mut order = good;
        order.swap(0, 1);
        assert!(Acl::parse(&list(&order)).is_none());
        let nobody = [(1, 7, NO), (2, 6, NO), (4, 1, NO), (16, 4, NO), (32, 0, NO)];
        assert!(Acl::parse(&list(&nobody)).is_none());
        let mut short = list(&good);
        short.pop();
        assert!(Acl::parse(&short).is_none());
        for bytes in [
            &b""[..],
            b"\x02\0\0",
            b"\x02\0\0\0",
            b"\x01\0\0\0\x01\0\x07\0",
        ] {
            assert!(Acl::parse(bytes).is_none());
        }
        let many = (0..600).map(|id| (2, 6, id));
        let mut all = good.to_vec();
        all.splice(1..2, many);
        assert!(Acl::parse(&list(&all)).is_none());
    }

    #[test]
    fn what_is_made_inherits_and_the_umask_counts_only_without() {
        let none = BTreeMap::new();
        assert_eq!(inherit(&none, Kind::File, 0o4666, 0o027).mode, 0o4640);
        assert_eq!(inherit(&none, Kind::Symlink, 0o777, 0o077).mode, 0o777);
        let default = list(&[(1, 7, NO), (2, 6, 9), (4, 5, NO), (16, 7, NO), (32, 4, NO)]);
        let above = BTreeMap::from([(DEFAULT.to_vec(), default.clone())]);
        let file = inherit(&above, Kind::File, 0o660, 0o777);
        assert_eq!(file.mode, 0o660);
        let access = list(&[(1, 6, NO), (2, 6, 9), (4, 5, NO), (16, 6, NO), (32, 0, NO)]);
        assert_eq!(file.xattrs, BTreeMap::from([(ACCESS.to_vec(), access)]));
        let dir = inherit(&above, Kind::Dir, 0o2777, 0o777);
        assert_eq!(dir.mode, 0o2774);
        assert_eq!(dir.xattrs.get(DEFAULT), Some(&default));
        assert_eq!(dir.xattrs.get(ACCESS), Some(&default));
        let link = inherit(&above, Kind::Symlink, 0o777, 0o077);
        assert_eq!((link.mode, link.xattrs.len()), (0o777, 0));
        // A default that says no more than bits makes bits.
        let plain = list(&[(1, 7, NO), (4, 5, NO), (32, 0, NO)]);
        let above = BTreeMap::from([(DEFAULT.to_vec(), plain)]);
        let file = inherit(&above, Kind::File, 0o666, 0o777);
        assert_eq!((file.mode, file.xattrs.len()), (0o640, 0));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..80), mode: u32) {
            if let Some(acl) = Acl::parse(&bytes) {
                prop_assert_eq!(Acl::parse(&acl.bytes()), Some(acl.clone()));
                prop_assert_eq!(acl.with_bits(mode).bits(), mode & 0o777);
            }
            for name in [ACCESS, DEFAULT, b"system.posix_acl_x"] {
                shown(name, &bytes, mode);
            }
        }
    }
}
