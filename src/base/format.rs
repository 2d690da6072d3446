//! Versions of what nodes say to each other and of what they keep: one list for all rooms, so
//! that `cellfs version` can name them. Whoever changes a format changes its number here.

/// What nodes speak among each other; named in the first frame of a connection.
pub const PEER_PROTOCOL: u16 = 2;
/// The journal; in its magic.
pub const JOURNAL: u8 = 1;
/// Record commits; the first byte of their heads.
pub const RECORDS: u8 = 2;
/// Leaves of the tries of records and names; their first byte.
pub const TRIES: u8 = 2;
/// Branches and tags of a volume; the first byte of their blob.
pub const REFS: u8 = 1;
/// How views are derived; in a header of derived commits.
pub const MERGE: u8 = 2;
/// Frames between nodes, and the membership's files; their first byte.
pub const CELL: u8 = 1;
/// Packs, indices and containers of chunks; in their magics.
pub const CHUNKS: u8 = 1;
/// Manifests of large files; the first byte of each node.
pub const MANIFESTS: u8 = 1;
/// Locks that git-lfs takes; in their file.
pub const LFS_LOCKS: u8 = 1;
/// Which manifest is of which large file that came by git-lfs; in the file's magic.
pub const LFS_HEADS: u8 = 1;

/// Which large files need not be here; in the file's magic.
pub const AWAY: u8 = 1;
/// Paths that are kept on a node, or are not; in the file's magic.
pub const PINS: u8 = 1;
/// What was promised to nodes that let go of their copies; the first byte of the file.
pub const PROMISES: u8 = 1;

/// What is on disk, by name.
pub const DISK: [(&str, u8); 13] = [
    ("away", AWAY),
    ("cell", CELL),
    ("chunks", CHUNKS),
    ("journal", JOURNAL),
    ("lfs-heads", LFS_HEADS),
    ("lfs-locks", LFS_LOCKS),
    ("manifests", MANIFESTS),
    ("merge", MERGE),
    ("pins", PINS),
    ("promises", PROMISES),
    ("records", RECORDS),
    ("refs", REFS),
    ("tries", TRIES),
];
