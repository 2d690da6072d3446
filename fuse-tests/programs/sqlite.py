"""A program that keeps its data in SQLite.

    sqlite.py write DB MODE WHO ACKS    transactions for ever; a line in ACKS for each that is committed
    sqlite.py check DB ACKS             whether the database is whole and has all of those
"""
import os
import sqlite3
import sys


def opened(db):
    return sqlite3.connect(db, timeout=60, isolation_level=None)


def write(db, mode, who, acks):
    c = opened(db)
    c.execute(f"pragma journal_mode={mode}")
    c.execute("pragma synchronous=full")
    c.execute("create table if not exists t(who text, n integer, b blob, primary key(who, n))")
    last = c.execute("select max(n) from t where who=?", (who,)).fetchone()[0]
    n = (last or 0) + 1
    with open(acks, "a") as out:
        while True:
            c.execute("begin immediate")
            # Above the size from which a file is not in memory while it is written, and back.
            c.execute("insert into t values(?,?,?)", (who, n, os.urandom(n * 97 % 9000 + 100)))
            c.execute("update t set b=? where who=? and n=?", (os.urandom(50), who, n // 2))
            c.execute("commit")
            out.write(f"{who} {n}\n")
            out.flush()
            n += 1


def check(db, acks):
    c = opened(db)
    (whole,) = c.execute("pragma integrity_check").fetchone()
    here = set(c.execute("select who, n from t"))
    with open(acks) as lines:
        told = [line.split() for line in lines if line.endswith("\n")]
    lost = [(who, n) for who, n in told if (who, int(n)) not in here]
    if whole != "ok" or lost:
        sys.exit(f"{db}: {whole}; of {len(told)} transactions {len(lost)} are lost: {lost[:10]}")


{"write": write, "check": check}[sys.argv[1]](*sys.argv[2:])
