//! Bounds on what others may send and on what we keep. Each says its unit in its name.

/// Longest name of a directory entry, as on Linux.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Longest volume name.
pub const VOLUME_NAME_BYTES_MAX: usize = 100;
/// Most records in one leaf of a record trie.
pub const TRIE_LEAF_ENTRIES_MAX: usize = 64;
/// Largest object that a peer may send outside a large-file transfer.
pub const OBJECT_BYTES_MAX: u64 = 4 << 30;
/// Largest file: its bytes are one git object, which is made in memory.
pub const FILE_BYTES_MAX: u64 = 2 << 30;
/// Files up to this size live in memory and in the journal while they are dirty.
pub const SMALL_FILE_BYTES_MAX: u64 = 128 << 10;
/// Commits whose objects are at most this large, not compressed, go to the journal first.
pub const LOGGED_COMMIT_BYTES_MAX: usize = 64 << 10;
/// Packs up to this size travel with the announcement of their commit.
pub const CARRIED_PACK_BYTES_MAX: usize = 16 << 10;
/// Commits that a head knows by their content only; of more it knows the last.
pub const CARRIED_COMMITS_MAX: usize = 256;
/// Files whose ids a content commit names; of a larger one those who lack its records give ids.
pub const NAMED_IDS_MAX: usize = 4096;
/// Parents of one commit that we mint.
pub const PARENTS_MAX: usize = 64;
