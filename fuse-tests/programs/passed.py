"""Does to files what its standard input says, a line each, and answers `ok` and what it found, or
`error` and its name. Descriptors and mappings have names."""
import ctypes
import errno
import mmap
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
files, maps = {}, {}
FLAGS = {
    "read": os.O_RDONLY,
    "write": os.O_WRONLY,
    "both": os.O_RDWR,
    "append": os.O_WRONLY | os.O_APPEND,
    "trunc": os.O_WRONLY | os.O_TRUNC,
    "direct": os.O_RDONLY | os.O_DIRECT,
}


NUMBER, PLACE, SIZE = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
libc.fallocate64.argtypes = [NUMBER, NUMBER, SIZE, SIZE]
libc.mmap.argtypes = [PLACE, SIZE, NUMBER, NUMBER, NUMBER, SIZE]
libc.mmap.restype = SIZE
libc.munmap.argtypes = [PLACE, SIZE]
libc.msync.argtypes = [PLACE, SIZE, NUMBER]


def call(name, *a):
    answer = getattr(libc, name)(*a)
    if answer == -1:
        raise OSError(ctypes.get_errno(), name)
    return answer


class Mapping:
    """That of Python keeps a descriptor."""

    def __init__(self, fd):
        self.len = os.fstat(fd).st_size
        both, shared = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED
        self.at = call("mmap", None, self.len, both, shared, fd, 0)

    def store(self, at, text):
        assert at + len(text) <= self.len
        ctypes.memmove(self.at + at, text, len(text))

    def load(self, at, many):
        return ctypes.string_at(self.at + at, min(many, self.len - at))

    def sync(self):
        call("msync", self.at, self.len, 4)

    def close(self):
        call("munmap", self.at, self.len)


def burst(name, many, text):
    for n in range(int(many)):
        os.pwrite(files[name], text.encode(), n * len(text))


def uncached(name, many):
    page = mmap.mmap(-1, 4096)
    for n in range(int(many)):
        os.preadv(files[name], [page], n * 4096)


def do(word, *a):
    if word == "user":
        os.setgroups([])
        os.setgid(int(a[0]))
        os.setuid(int(a[0]))
    elif word == "open":
        files[a[0]] = os.open(a[1], FLAGS[a[2]])
    elif word == "opens":
        for _ in range(int(a[2])):
            os.close(os.open(a[0], FLAGS[a[1]]))
    elif word == "close":
        os.close(files.pop(a[0]))
    elif word == "pwrite":
        os.pwrite(files[a[0]], a[2].encode(), int(a[1]))
    elif word == "write":
        os.write(files[a[0]], a[1].encode() + b"\n")
    elif word == "appends":
        for n in range(int(a[2])):
            os.write(files[a[0]], f"{a[1]}{n:05}\n".encode())
    elif word == "pread":
        return os.pread(files[a[0]], int(a[2]), int(a[1])).decode()
    elif word == "burst":
        burst(*a)
    elif word == "uncached":
        uncached(*a)
    elif word == "fsync":
        os.fsync(files[a[0]])
    elif word == "size":
        return str(os.fstat(files[a[0]]).st_size)
    elif word == "ftruncate":
        os.ftruncate(files[a[0]], int(a[1]))
    elif word == "fallocate":
        call("fallocate64", files[a[0]], *map(int, a[1:]))
    elif word == "map":
        maps[a[0]] = Mapping(files[a[1]])
    elif word == "store":
        maps[a[0]].store(int(a[1]), a[2].encode())
    elif word == "load":
        return maps[a[0]].load(int(a[1]), int(a[2])).decode().replace("\n", " ")
    elif word == "msync":
        maps[a[0]].sync()
    elif word == "munmap":
        maps.pop(a[0]).close()
    else:
        raise ValueError(word)
    return ""


for line in sys.stdin:
    try:
        print("ok", do(*line.split()), flush=True)
    except OSError as e:
        print("error", errno.errorcode.get(e.errno, e.errno), flush=True)
