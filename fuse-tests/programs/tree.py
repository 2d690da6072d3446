"""Makes a tree with all that a file system can hold, in a new directory."""
import os
import socket
import sys

os.umask(0o22)
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])


def put(path, data=b"x", mode=None):
    with open(path, "wb") as f:
        f.write(data)
    if mode is not None:
        os.chmod(path, mode)


for d in ["d", "d/e", "sp ace", "empty"]:
    os.mkdir(d)
for d, mode in [("sticky", 0o1777), ("closed", 0), ("group", 0o2755)]:
    os.mkdir(d)
    os.chmod(d, mode)
put("a")
for link in ["hard", "d/hard", "d/e/hard"]:
    os.link("a", link)
os.symlink("a", "symbolic")
os.symlink("/nonexistent/somewhere", "d/dangling")
os.symlink("e", "d/directory")
os.mkfifo("fifo")
s = socket.socket(socket.AF_UNIX)
s.bind("socket")
os.mknod("character", 0o20600, os.makedev(1, 3))
os.mknod("block", 0o60640, os.makedev(7, 99))
put("new\nline")
put(b"\xff\xfe not utf-8")
put("suid", mode=0o4755)
put("secret", mode=0)
put("none", b"")
for size in [131071, 131072, 131073, 1500000]:
    put(f"size{size}", os.urandom(size))
with open("sparse", "wb") as f:
    f.truncate(20 << 20)
    f.seek(5 << 20)
    f.write(b"an island")
os.chown("d/hard", 1000, 1001)
os.chown("symbolic", 12, 13, follow_symlinks=False)
os.setxattr("a", "user.text", b"a value")
os.setxattr("d", "user.bytes", b"\0\xff\1")
os.setxattr("none", "user.none", b"")
os.setxattr("size131073", "user.long", b"l" * 3000)
os.setxattr("suid", "trusted.t", b"root's")
os.setxattr("d/e", "security.s", b"secure")
os.setxattr("symbolic", "trusted.link", b"on the link", follow_symlinks=False)
for n in range(200):
    put(f"d/e/{n}", os.urandom(n * 7))
# None of this second: rsync leaves a time alone that differs by less.
ns = 1_600_000_000_123_456_789
for at, below, names in os.walk(".", topdown=False):
    for name in names + below + ["."]:
        ns += 1
        os.utime(os.path.join(at, name), ns=(ns, ns), follow_symlinks=False)
for path, ns in [
    ("suid", -1_500_000_000),
    ("none", 2_149_000_000_987_654_321),
    ("fifo", 1),
]:
    os.utime(path, ns=(ns, ns))
