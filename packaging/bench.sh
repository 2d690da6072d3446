#!/usr/bin/env bash
# One run: 5,000 files and small edits through cellfs, an rsync daemon and Syncthing, on loopback.
#
#   packaging/bench.sh
#
# CELLFS_TEST_TREE=DIR copies that tree, CELLFS_TEST_FILES=N another number of files;
# CELLFS_BENCH_SYNCTHING=PROGRAM takes that Syncthing. A rival that is not there is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
# Wherever settings put it.
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

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

echo "machine: $(nproc) cores, load $(cut -d' ' -f1-3 /proc/loadavg), kernel $(uname -r)"
CELLFS_TEST_PROGRAM=$target/release/cellfs exec cargo test --quiet --test integration -- \
    --ignored --exact --nocapture bench::beside_rsync_and_syncthing
