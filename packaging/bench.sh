#!/usr/bin/env bash
# One run of each, or of those that are named:
#
#   packaging/bench.sh [files] [derive] [growth]
#
# files: 5,000 files and small edits through cellfs, an rsync daemon and Syncthing, on loopback.
# derive: the view of heads that changed a tree of 100,000 files, beside git merge-tree.
# growth: what 10,000 one-line edits take on the disk, before and after cellfs gc.
#
# CELLFS_BENCH_FILES=N derives in a tree of N files, CELLFS_BENCH_EDITS=N makes so many edits.
# CELLFS_TEST_TREE=DIR copies that tree, CELLFS_TEST_FILES=N another number of files;
# CELLFS_BENCH_SYNCTHING=PROGRAM takes that Syncthing. A rival that is not there is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
# Wherever settings put it.
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

what=" ${*:-files derive growth} "
wanted() { case "$what" in *" $1 "*) ;; *) return 1 ;; esac; }
machine() { echo "machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg), kernel $(uname -r)"; }

if wanted files; then
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

    machine
    CELLFS_TEST_PROGRAM=$target/release/cellfs cargo test --locked --quiet --test integration -- \
        --ignored --exact --nocapture bench::beside_rsync_and_syncthing
fi

# The library itself, so the tests are built as it is.
for one in derive::beside_git_merge_tree growth::small_edits; do
    wanted "${one%%::*}" || continue
    cargo test --release --locked --quiet --test integration --no-run
    machine
    cargo test --release --locked --quiet --test integration -- --ignored --exact --nocapture "$one"
done
