"""Does to a mapped file what its standard input says, a line each, and answers `ok`."""
import mmap
import os
import sys

path, mapped, inode = None, None, None
for line in sys.stdin:
    word, *rest = line.split()
    if word == "map":
        path = rest[0]
        f = os.open(path, os.O_RDWR)
        inode = os.fstat(f).st_ino
        mapped = mmap.mmap(f, 0)
        os.close(f)
    elif word == "store":
        at, text = int(rest[0]), rest[1].encode()
        mapped[at : at + len(text)] = text
    elif word == "msync":
        mapped.flush()
    elif word == "evict":
        mapped.madvise(mmap.MADV_DONTNEED)
        f = os.open(path, os.O_RDONLY)
        if os.fstat(f).st_ino == inode:
            os.posix_fadvise(f, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(f)
    elif word == "read":
        with open(rest[0], "wb") as out:
            out.write(mapped[:])
    print("ok", flush=True)
