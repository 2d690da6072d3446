#!/usr/bin/env bash
# The demonstration of README.md: the lines below the first empty one are printed there.
set -euo pipefail
trap 'for s in s1 s2; do cellfs umount --all --state $s 2>/dev/null || true; done' EXIT

# Two nodes on one machine: two state directories, two folders, any two free ports.
cd "$(mktemp -d)" && mkdir folder1 folder2
cellfs mount folder1 --state s1 --listen 127.0.0.1:0 --name one
cellfs mount folder2 --state s2 --listen 127.0.0.1:0 --name two --join "$(cellfs invite --state s1)"

# What is written in one folder appears in the other.
echo 'written in folder 1' > folder1/hello.txt
until cat folder2/hello.txt 2>/dev/null; do sleep 0.1; done

# The folder is a git repository for whoever wants one: clone it from any node, push to any.
git clone -q "$(cellfs url --write --state s2)" clone
echo 'pushed by git' >> clone/hello.txt
git -C clone -c user.name=me -c user.email=me@example.org commit -q -a -m 'a line from git'
git -C clone push -q origin main
until grep 'pushed by git' folder1/hello.txt; do sleep 0.1; done

# What happened, and who is here.
cellfs log hello.txt --state s1
cellfs status --state s1
cellfs members --state s2

# The end: written out, unmounted, the other node told.
cellfs umount --all --state s1
cellfs umount --all --state s2
