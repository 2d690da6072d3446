#!/usr/bin/env bash
# One run of each, or of those that are named:
#
#   packaging/bench.sh [files] [large] [reader] [derive] [growth] [mount] [big]
#
# files: 5,000 files and small edits through cellfs, an rsync daemon and Syncthing, on loopback.
# large: a file of 1 GiB (CELLFS_BENCH_FILE_MIB) and 4 KiB inside it through the same. What goes through
#   the loopback device is counted: nothing else should.
# reader: a file of 1 GiB (CELLFS_BENCH_FILE_MIB) that another node has, for one reader: through the folder,
#   by its id, and pinned. Run only when it is named.
# derive: the view of heads that changed a tree of 100,000 files, beside git merge-tree.
# growth: what 10,000 one-line edits take on the disk, before and after cellfs gc.
# mount: what programs do in a folder, beside the same on ext4 and through bindfs. As root, for it
#   mounts; run only when it is named.
# big: a volume of a million files, and a directory of 200,000, on two nodes: minutes, and memory.
#   Run only when it is named. CELLFS_BENCH_BIG_FILES and CELLFS_BENCH_WIDE_FILES are other numbers.
#
# mount makes an ext4 image in /dev/shm (CELLFS_BENCH_MEMORY=DIR: elsewhere) that holds the directory
# for ext4, the node's state and what bindfs shows, so that no disk of the machine has a say; where
# there is no loop device or less than 6 GiB of room, it takes a directory and says so. Each line is
# measured CELLFS_BENCH_ROUNDS=5 times, on each of them in turn, so that what else the machine does
# weighs on all of them: no figure is worth anything but beside those of its line. It prints what ext4
# did at its best; of the others their speed as a part of ext4's, best by best, and in brackets median
# by median; and the processor seconds of the node with its commits, at least.
# What a line needs is made, in commits and on the disk before its clock starts. "First" is in a new
# process and a new mount, with the disk below still in memory; for a large file after somebody read a
# byte of it, for which a node unpacks what is in a commit.
# CELLFS_BENCH_ONLY=WORDS,... runs the lines that begin so; CELLFS_BENCH_BESIDE=PROGRAM measures another
# build of cellfs, too. Sizes: CELLFS_BENCH_SMALL (5000 files of 4 KiB), CELLFS_BENCH_LARGE_MIB (128),
# CELLFS_BENCH_RANDOM (10000 pages), CELLFS_BENCH_TREE (4500 files), CELLFS_BENCH_THREADS (4) with
# CELLFS_BENCH_MAILS (50) each.
#
# CELLFS_BENCH_FILES=N derives in a tree of N files, CELLFS_BENCH_EDITS=N makes so many edits.
# CELLFS_TEST_TREE=DIR copies that tree, CELLFS_TEST_FILES=N another number of files;
# CELLFS_BENCH_SYNCTHING=PROGRAM takes that Syncthing. A rival that is not there is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
# Wherever settings put it.
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

what=" ${*:-files large derive growth} "
wanted() { case "$what" in *" $1 "*) ;; *) return 1 ;; esac; }
machine() { echo "machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg), kernel $(uname -r)"; }

if wanted reader; then
    cargo build --release --locked --quiet
    machine
    CELLFS_TEST_PROGRAM=$target/release/cellfs cargo test --locked --quiet --test integration -- \
        --ignored --exact --nocapture bench::one_reader::a_large_file_for_one_reader
fi

if wanted files || wanted large; then
    cargo build --release --locked --quiet

    # Debian's package, unpacked beside and not installed: it starts no service.
    if [ -z "${CELLFS_BENCH_SYNCTHING-}" ] && ! command -v syncthing >/dev/null; then
        beside=$target/syncthing
        if [ ! -x "$beside/usr/bin/syncthing" ] && command -v apt-get >/dev/null; then
            mkdir -p "$beside"
            (cd "$beside" && apt-get download -q syncthing >/dev/null 2>&1 && dpkg -x syncthing_*.deb .) ||
                echo "Syncthing cannot be downloaded: left out"
        fi
        [ -x "$beside/usr/bin/syncthing" ] && export CELLFS_BENCH_SYNCTHING=$beside/usr/bin/syncthing
    fi

    one=()
    wanted files && one+=(bench::beside_rsync_and_syncthing)
    wanted large && one+=(bench::large::a_large_file_beside_rsync_and_syncthing)
    for each in "${one[@]}"; do
        machine
        CELLFS_TEST_PROGRAM=$target/release/cellfs cargo test --locked --quiet --test integration -- \
            --ignored --exact --nocapture "$each"
    done
fi

# The library itself, so the tests are built as it is.
for one in derive::beside_git_merge_tree growth::small_edits; do
    wanted "${one%%::*}" || continue
    cargo test --release --locked --quiet --test integration --no-run
    machine
    cargo test --release --locked --quiet --test integration -- --ignored --exact --nocapture "$one"
done

if wanted mount; then
    cargo build --release --locked --quiet
    cargo test --release --locked --quiet --test integration --no-run
    command -v bindfs >/dev/null || echo "bindfs is not installed (apt-get install bindfs): left out"
    machine
    CELLFS_TEST_PROGRAM=$target/release/cellfs cargo test --release --locked --quiet --test integration -- \
        --ignored --exact --nocapture mount::beside_ext4_and_bindfs
fi

if wanted big; then
    cargo build --release --locked --quiet
    machine
    CELLFS_TEST_PROGRAM=$target/release/cellfs cargo test --locked --quiet --test integration -- \
        --ignored --exact --nocapture big::a_volume_of_a_million_files
fi
