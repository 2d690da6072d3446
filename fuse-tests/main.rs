//! Tests through real mounts, with the real program. They need `/dev/fuse` and root, and fail
//! without.
//!
//! Some are small here and larger when an environment variable says so, as in
//! `CELLFS_TEST_KILLS=100 cargo test --test fuse -- --nocapture killed_while_writing`:
//!
//! | variable | what it sets | without it | in full | tests |
//! |---|---|---|---|---|
//! | `CELLFS_TEST_VOLUME_FILES` | files of a volume that is mounted and joined | 5,000 | 1,000,000 | `a_large_volume` |
//! | `CELLFS_TEST_ENTRIES` | entries of one directory | 20,000 | 100,000 | `many_entries` |
//! | `CELLFS_TEST_KILLS` | `kill -9` of a node that is written to, or gathers its packs | 10, 6 | 100 | `killed_while_writing`, `killed_at_any_time` |
//! | `CELLFS_TEST_GC_EDITS` | edits while packs are gathered | 30 | 500 | `edits_go_on_while` |
//! | `CELLFS_TEST_STATS_S` | seconds that 1,000 stats take | 2 | 10 | `a_quiet_folder` |
//! | `CELLFS_TEST_SENT_FILES` | files of a volume in which one is changed | 10,000 | 10,000 | `exactly_the_new` |
//! | `CELLFS_TEST_QUIET_S` | seconds in which nothing is written, and so nothing committed | 5 and 10 | 60 | `nothing_is_committed`; `five_nodes` in `--test integration` |
//! | `CELLFS_TEST_FILES` | files of a real tree that is copied; none takes 200 MB of memory | 5,000 | 5,000 | `a_copied_tree`; `packaging/bench.sh` |
//! | `CELLFS_TEST_CUT_FILES` | files written on each side of a cut | 500 | 500 | `five_nodes` in `--test integration` |
//! | `CELLFS_TEST_SWEEP` | a node is killed at each of so many system calls | a sample | 400 | `killed_at_each` |
//! | `CELLFS_TEST_FAULTS` | the disk fails at each of so many system calls, in each of the ways | a sample | 100 | `fails` |
//! | `CELLFS_TEST_JOURNAL` | journals that a disk damages | 200 | 20,000 | `whatever_the_disk_does` in `--lib` |
//! | `CELLFS_TEST_RACE_ROUNDS` | rounds in which one file is edited on two nodes at once | 100 to 320 | 3,000 | `race` |
//! | `CELLFS_TEST_RACE_SEED` | what its writers choose, though not when | random | | `race` |
//! | `CELLFS_TEST_HOUR_S` | seconds of edits, cuts and kills on five nodes | 20 | 3,600 | `an_hour` in `--test integration` |
//! | `CELLFS_TEST_HOUR_SEED` | what is chosen there | random | | `an_hour` |
//! | `CELLFS_TEST_BESIDE` | files that a second node writes in a second while programs run | 50 | 100 | `programs` |
//! | `CELLFS_TEST_FSX` | operations of `fsx` on each of three files | 2,000 | 1,000,000 | `fsx_finds_nothing` |
//! | `CELLFS_TEST_FSX_SEED` | what is chosen there | random | | `fsx_finds_nothing` |
//! | `CELLFS_TEST_SQLITE` | kills of programs, and of their node, that write SQLite databases | 1 | 20 | `sqlite_loses` |
//! | `CELLFS_TEST_STRESS_S` | seconds of each stressor | 1 | 20 | `stress_ng` |
//! | `CELLFS_TEST_MAPPED` | orders of what happens to a mapped file | 4 | 24 | `a_mapped_file` |
//! | `CELLFS_TEST_LARGE_KILLS` | `kill -9` of a node while large files come | 4 | 100 | `whoever_is_killed_while_large` |
//! | `CELLFS_TEST_SAME_MIB` | MiB of a file of which a little is changed, or moved by one byte | 48 | 256 | `what_is_the_same` |
//! | `CELLFS_TEST_LARGE_MIB` | MiB of a file without repetition | 192 | 5,120 | `a_file_of_any_size` |
//! | `CELLFS_TEST_SPARSE_MIB` | MiB of a file with a place of 64 KiB written in each 100 of them | 1,024 | 20,480 | `a_sparse_file_written` |
//! | `CELLFS_TEST_GROW_S` | seconds in which a file is appended to that another node reads | 10 | 600 | `a_file_that_grows` |
//! | `CELLFS_TEST_SEEKS` | places of a film that is elsewhere that are read | 4 | 30 | `a_film` in `--test integration` |
//! | `CELLFS_TEST_FILM_S` | seconds in which it is read at 4 MB/s | 2 | 20 | `a_film` |
//! | `CELLFS_TEST_DROPS` | times that two nodes drop the same file at once | 3 | 50 | `two_that_drop`, also in `--test integration` |
//! | `CELLFS_TEST_PASSED` | rounds of ten files that are mapped, stored to, edited elsewhere, and whose node is killed | 2 | 30 | `stores_edits_and_kills` |
//! | `CELLFS_TEST_PASSED_SEED` | what is chosen there | random | | `stores_edits_and_kills` |
//! | `CELLFS_TEST_TREE` | a directory to copy in place of sources on this machine | | | those that copy |
//! | `CELLFS_TEST_PROGRAM` | another build of `cellfs`, as `target/release/cellfs` | | | all |
//! | `CELLFS_TEST_KEEP` | 1: what a failed test leaves is kept | | | all |
//! | `CELLFS_NO_FUSE`, `CELLFS_NO_NETNS` | 1: no tests with mounts, with network namespaces | | | all |

mod acl;
mod crash;
mod dead_mount;
mod demo;
mod departed;
mod faults;
mod fetches;
mod gc;
mod git;
mod harness;
mod held_open;
mod holes;
mod keep;
mod large;
mod links;
mod listing;
mod living;
mod mounts;
mod operations;
mod ordinary_user;
mod passthrough;
mod past;
mod posix;
mod programs;
mod race;
mod real_tree;
mod scale;
mod sizes;
mod special;
mod strace_order;
mod sweep;
mod trouble;
mod two_nodes;
mod xattr;
