"""What a long `kmsgate keys` tells on a terminal after a second: how far it is, how fast, how long it will take."""
import os
import pty
import re
import sqlite3
import subprocess
import time

import pytest

import kms
from conftest import BUILD
from test_keys import Store, line

USERS = 900
SHOWN = r"(\d+) of (\d+) (keys|users), \d+ a second, \d+ s left"


@pytest.fixture
def store(tmp_path):
    s = Store(tmp_path)
    s.lines = [line(kid="ink.1.u%d" % i, user="sip:u%d@example.org" % i) for i in range(USERS)]
    return s


class Command:
    """`kmsgate keys …` with stderr on a terminal, or in a pipe."""

    def __init__(self, store, *argv, terminal=True, **kw):
        self.here, there = pty.openpty() if terminal else os.pipe()
        self.p = subprocess.Popen([BUILD / "kmsgate", "keys", *argv, "--config", store.config], cwd=store.folder,
                                  stdout=subprocess.PIPE, stderr=there, **kw)
        os.close(there)

    def ticks(self):
        fields = open("/proc/%d/stat" % self.p.pid).read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def waits(self):
        """For the database: it is open, and no time of the processor is used any more."""
        def still():
            fds = "/proc/%d/fd" % self.p.pid
            try:
                is_open = any(os.readlink(os.path.join(fds, f)).endswith("kmsgate.db") for f in os.listdir(fds))
            except FileNotFoundError:
                return False
            before = self.ticks()
            time.sleep(0.3)
            return is_open and self.ticks() - before <= 1
        kms.wait_for(still)

    def end(self):
        out, seen = self.p.stdout.read(), b""
        while True:
            try:
                got = os.read(self.here, 4096)
            except OSError:  # how a terminal ends
                got = b""
            if not got:
                break
            seen += got
        os.close(self.here)
        self.p.stdout.close()
        assert self.p.wait(120) == 0, seen
        return out.decode(), seen.decode()


def held(store, *argv, **kw):
    """The command, kept waiting by another writer until more than a second of it is over."""
    db = sqlite3.connect(store.db, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    c = Command(store, *argv, **kw)
    c.waits()
    time.sleep(1.2)
    db.execute("ROLLBACK")
    db.close()
    return c.end()


def test_import_and_rekey(store):
    store.keys("import", store.file(store.lines[0]))
    file = store.file(*store.lines)
    out, seen = held(store, "import", file)
    assert "%d added" % (USERS - 1) in out
    shown = re.findall(SHOWN, seen)
    assert shown and all(s[1:] == (str(USERS), "keys") for s in shown) and seen.endswith("\r\x1b[K"), seen
    new = store.folder / "new.key"
    new.write_text(os.urandom(32).hex())
    new.chmod(0o600)
    store.config.write_text(store.config.read_text().replace("file:master.key", "[file:new.key, file:master.key]"))
    out, seen = held(store, "rekey")
    shown = re.findall(SHOWN, seen)
    assert shown and shown[0][2] == "users" and int(shown[0][0]) > 0 and seen.endswith("\r\x1b[K"), seen
    assert out.startswith("%d keys sealed anew" % USERS)


def test_nothing_is_shown_where_nobody_looks(store):
    store.keys("import", store.file(store.lines[0]))
    out, seen = held(store, "import", store.file(*store.lines), terminal=False)
    assert "%d added" % (USERS - 1) in out and seen == ""


def test_export(store):
    """Nobody reads what it writes for a while."""
    store.keys("import", store.file(*store.lines))
    for terminal in (True, False):
        c = Command(store, "export", "--with-secrets", terminal=terminal)
        first = c.p.stdout.read(1)
        time.sleep(1.2)
        out, seen = c.end()
        assert (first.decode() + out).count("\n") == USERS
        shown = re.findall(SHOWN, seen)
        assert (bool(shown) and all(s[1:] == (str(USERS), "keys") for s in shown)) == terminal, seen
        assert terminal or seen == ""


def test_no_keys_beside_it(store):
    """On one terminal with the keys, it would stand between them."""
    store.keys("import", store.file(*store.lines))
    here, there = pty.openpty()
    p = subprocess.Popen([BUILD / "kmsgate", "keys", "export", "--config", store.config], cwd=store.folder,
                         stdout=there, stderr=there)
    os.close(there)
    time.sleep(1.2)
    seen = kms.read_terminal(here)
    assert p.wait(120) == 0 and b" a second" not in seen and seen.count(b"\n") == USERS
