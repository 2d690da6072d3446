#!/usr/bin/env bash
# Sets a fresh Debian machine up: installs what cellfs needs, builds it, installs it.
#
#   packaging/setup.sh              to run it: packages, Rust, build, /usr/local/bin/cellfs
#   packaging/setup.sh --for-tests  to test it: packages, Rust, pjdfstest, fsx
#
# As root, or as somebody who may use sudo. An ordinary user's cellfs goes to ~/.local/bin;
# PREFIX=/opt/cellfs sends it to /opt/cellfs/bin.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\n== %s\n' "$*"; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

to_run=(git fuse3)
to_build=(ca-certificates curl gcc libc6-dev)
to_test=(faketime openssl python3 diffutils rsync strace iproute2 nftables systemd procps libacl1-dev
    acl make binutils tar stress-ng git-lfs)

packages() {
    local missing=() name
    for name in "$@"; do
        dpkg-query -W -f '${Status}' "$name" 2>/dev/null | grep -q 'ok installed' || missing+=("$name")
    done
    if [ ${#missing[@]} = 0 ]; then
        say "packages: all here: $*"
        return
    fi
    say "packages: installing ${missing[*]}"
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

rust() {
    export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    if ! command -v cargo >/dev/null; then
        say "Rust: installing rustup for $(id -un)"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain none
    fi
    # rust-toolchain.toml names the version.
    if command -v rustup >/dev/null; then
        rustup show active-toolchain >/dev/null 2>&1 || rustup toolchain install
    fi
    say "Rust: $(cargo --version)"
}

if [ "${1-}" = --for-tests ]; then
    packages "${to_run[@]}" "${to_build[@]}" "${to_test[@]}"
    rust
    for tool in pjdfstest@0.2.2 fsx@0.3.2; do
        if ! command -v "${tool%@*}" >/dev/null; then
            say "$tool: building it for $(id -un)"
            cargo install --locked --debug --quiet "$tool"
        fi
    done
    exit
fi

packages "${to_run[@]}" "${to_build[@]}"
rust
say "building cellfs"
cargo build --release --locked
if [ "$(id -u)" = 0 ]; then to=${PREFIX:-/usr/local}/bin; else to=${PREFIX:-$HOME/.local}/bin; fi
# Wherever settings put it.
target=$(cargo metadata --locked --no-deps --format-version 1 | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
install -D -m 755 "$target/release/cellfs" "$to/cellfs"
if [ "$(id -u)" = 0 ] && [ -z "${PREFIX-}" ]; then
    # By this name mount(8) and /etc/fstab find it.
    ln -sfn "$to/cellfs" /sbin/mount.cellfs
fi
say "installed $to/cellfs: $("$to/cellfs" version | head -n 1)"
case ":$PATH:" in *":$to:"*) ;; *) echo "add $to to PATH" ;; esac
