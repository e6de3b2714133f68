"""Debian's redis-server and redis-sentinel, each in a folder and on a port of its own."""
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import kms

PASSWORD = "of-the-test"
LIBRARY = (Path(__file__).parents[2] / "gateway/replay/library.lua").read_text()
VERSION = int(re.search(r"^local VERSION = (\d+)$", LIBRARY, re.M)[1])


class Redis:
    """A server; `options` are lines of redis.conf. sentinel: it watches others instead."""

    def __init__(self, folder, *options, sentinel=False, port=None, env=None, tls=None, start=True):
        folder.mkdir(exist_ok=True)
        self.folder, self.sentinel, self.env, self.tls = folder, sentinel, env, tls
        self.port = port or kms.free_port()
        self.p = None
        lines = ["bind 127.0.0.1", "dir " + str(folder), 'save ""', "daemonize no", "repl-diskless-sync-delay 0",
                 "tls-port %d" % self.port if tls else "port %d" % self.port, *options]
        if tls:
            lines.append("port 0")
        self.conf = folder / "redis.conf"
        self.conf.write_text("\n".join(x for x in lines if not (sentinel and x.startswith(("save", "repl-")))) + "\n")
        if start:
            self.start()

    def start(self):
        program = "redis-sentinel" if self.sentinel else "redis-server"
        self.log = open(self.folder / "log", "ab")
        self.p = subprocess.Popen([program, str(self.conf)], stdout=self.log, stderr=self.log,
                                  env=dict(os.environ, **self.env) if self.env else None)
        kms.wait_for(self.answers)
        return self

    def answers(self):
        assert self.p.poll() is None, (self.folder / "log").read_text()
        try:
            return self.tls or self("PING").startswith(("PONG", "NOAUTH"))
        except OSError:
            return False

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def __call__(self, *command):
        """One command, its reply as text: a line, a bulk, or an array's items with a line each."""
        with self.connect() as s:
            s.sendall(encode(*command))
            return read_reply(s.makefile("rb"))

    def info(self, section, field):
        """A field of INFO, or None: also where a Sentinel that gives the server another role cut the asker off."""
        try:
            lines = self("INFO", section).split("\r\n")
        except ConnectionError:
            if self.p.poll() is not None:
                raise
            return None
        return next((line.split(":", 1)[1] for line in lines if line.startswith(field + ":")), None)

    def pause(self):
        self.p.send_signal(signal.SIGSTOP)

    def resume(self):
        self.p.send_signal(signal.SIGCONT)

    def stop(self, how=signal.SIGTERM):
        if self.p and self.p.poll() is None:
            self.p.send_signal(how)
            self.p.send_signal(signal.SIGCONT)
            self.p.wait(30)
            self.log.close()


def encode(*command):
    parts = [c if isinstance(c, bytes) else str(c).encode() for c in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(x), x) for x in parts)


def read_reply(f):
    line = f.readline()
    if not line:
        raise ConnectionError("closed")
    kind, rest = line[:1], line[1:-2]
    if kind == b"$":
        n = int(rest)
        return "" if n < 0 else f.read(n + 2)[:-2].decode("utf-8", "replace")
    if kind == b"*":
        return "\n".join(str(read_reply(f)) for _ in range(max(int(rest), 0)))
    return rest.decode("utf-8", "replace")


def replica_of(primary, folder, *options, **kw):
    r = Redis(folder, "replicaof 127.0.0.1 %d" % primary.port, *options, **kw)
    kms.wait_for(lambda: r.info("replication", "master_link_status") == "up")
    return r


def sentinels(primary, folder, n=3, down_after=1000):
    made = []
    for i in range(n):
        made.append(Redis(folder / ("sentinel%d" % i), "sentinel monitor kms 127.0.0.1 %d %d" % (primary.port, n // 2 + 1),
                          "sentinel down-after-milliseconds kms %d" % down_after,
                          "sentinel failover-timeout kms 3000", sentinel=True))
    kms.wait_for(lambda: all("num-other-sentinels\n%d" % (n - 1) in s("SENTINEL", "MASTER", "kms") for s in made))
    return made


def end_all(servers):
    for s in servers:
        s.stop()


def sleep_until(moment):
    time.sleep(max(0, moment - time.time()))
