"""Users' keys in one PostgreSQL for three gateways: revocations beside a million users, and eight writers at once.

    TESTED_BUILD=build-tests/release python3 -m pytest -q -s tests/long/test_shared_keys.py

How long each takes, and what came out, is in README.md.
"""
import collections
import concurrent.futures
import hashlib
import json
import os
import random
import re
import subprocess
import threading
import time

import pytest

import conftest
import kms
import postgres
from test_postgres import metric

USERS = int(os.environ.get("LONG_MILLION", "1000000"))
REVOKED = int(os.environ.get("LONG_REVOKED", "100"))
WRITERS, CHANGES, STEPS = 8, int(os.environ.get("LONG_CHANGES", "500")), 5


class Strangers:
    """So many users of whom nobody asks."""

    def __init__(self, n):
        self.n = n

    def lines(self):
        return (json.dumps({"user": "sip:s%d@example.org" % i, "type": t, "id": t + ".1", "key": os.urandom(32).hex()})
                for i in range(self.n) for t in ("ink", "trk"))


@pytest.fixture
def server():
    c = postgres.Cluster("max_wal_size = 8GB\nshared_buffers = 256MB\ntrack_commit_timestamp = on")
    yield c
    c.end()


def fleet(gateway, url, users):
    """Three, started beside each other; the second and third import nothing. Some moments pass before all is loaded."""
    gs = [gateway(users, keys=url, start=False)]
    gs += [gateway(users[-1:], peer=gs[0], start=False) for _ in range(2)]
    for g in gs:
        g.running = kms.Process([conftest.BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "gateway")
    [kms.wait_for(g.ready, 600) for g in gs]
    return gs


class Watch:
    """A user who asks a gateway again and again: when each request was sent, and what became of it."""

    def __init__(self, gate, user):
        self.gate, self.user, self.seen, self.end = gate, user, [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.end.wait(0.01):
            body = kms.signed_request(self.user, self.gate.url("/init"))
            sent = time.time()
            reply = self.gate.post("/init", body)
            self.seen.append((sent, reply.status, reply.error))

    def refused(self):
        return self.seen and self.seen[-1][1] != 200


def test_revoked_everywhere_within_a_second(server, gateway):
    """At a random gateway, at random moments; counted from the database's own time of the commit."""
    db, rng = server.database(), random.Random()
    owners = [kms.User("sip:u%d@example.org" % i) for i in range(REVOKED)]
    began = time.monotonic()
    gs = fleet(gateway, server.socket_url(db), [Strangers(USERS - REVOKED), *owners])
    print("\n%d users imported and three gateways ready in %.0f s" % (USERS, time.monotonic() - began))
    took, ran = [], []
    for user in owners:
        watches = [Watch(g, user) for g in gs]
        try:
            kms.wait_for(lambda: all(w.seen for w in watches))
            time.sleep(rng.uniform(0, 1))
            began = time.monotonic()
            at = rng.choice(gs)
            at.run("keys", "revoke", "--config", at.config, "--user", user.uri, "--id", user.ink_id)
            ran.append(time.monotonic() - began)
            kms.wait_for(lambda: all(w.refused() for w in watches))
            time.sleep(0.2)
        finally:
            [w.end.set() for w in watches]
            [w.thread.join() for w in watches]
        commit = float(server.sql("SELECT extract(epoch FROM pg_xact_commit_timestamp(xmin)) FROM kmsgate.meta", db))
        for w in watches:
            good = [sent for sent, status, _ in w.seen if status == 200]
            bad = [(sent, status, error) for sent, status, error in w.seen if status != 200]
            assert good and good[-1] < bad[0][0], w.seen[-40:]  # and never accepted again
            assert {x[1:] for x in bad} == {(403, "signature.invalid")} or {x[1:] for x in bad} == {(403, "key.revoked")}, bad
            took.append(bad[0][0] - commit)
            assert good[-1] - commit < 1 and took[-1] < 1, (good[-1] - commit, took[-1])
    took.sort()
    print("%d revocations, each at three gateways: refused %.2f s after the commit at the median, %.2f at most; a command %.1f s" % (
        len(owners), took[len(took) // 2], took[-1], sorted(ran)[len(ran) // 2]))


# --- eight writers ---

class Writer:
    """Changes users' keys by commands, one after the other, each user's in turn; `due`: what has to be there afterwards."""

    def __init__(self, number, gates):
        self.number, self.gates, self.due, self.users, self.commands = number, gates, {}, [], 0

    def command(self, *argv, stdin=None):
        g = self.gates[self.commands % len(self.gates)]
        self.commands += 1
        r = subprocess.run([conftest.BUILD / "kmsgate", "keys", argv[0], "--config", g.config, *argv[1:]], input=stdin,
                           capture_output=True, text=True, timeout=300)
        assert r.returncode == 0, r.stderr

    def run(self):
        for n in range(CHANGES // STEPS):
            u = kms.User("sip:w%d.%d@example.org" % (self.number, n))
            at = ("--user", u.uri)
            self.command("import", "-", stdin="\n".join(u.lines()) + "\n")
            old, u.ink_id, u.ink = (u.ink_id, u.ink), "ink.2", os.urandom(32)
            self.command("add", *at, "--type", "ink", "--id", "ink.2", "--key-stdin", stdin=u.ink.hex())
            self.command("revoke", *at, "--id", old[0])
            self.command("add", *at, "--type", "trk", "--id", "trk.2", "--generate")
            states = {old[0]: "revoked", "ink.2": "active", u.trk_id: "retiring", "trk.2": "active"}
            if n % 3 == 0:
                self.command("retire", *at, "--id", "ink.2")
                states["ink.2"] = "retiring"
            elif n % 3 == 1:
                self.command("revoke", *at, "--id", u.trk_id)
                states[u.trk_id], states["trk.2"] = "revoked", "active"
                u.trk_id = "trk.2"
            else:  # one user is everybody's
                self.command("add", "--user", "sip:all@example.org", "--type", "ink", "--id", "ink.%d.%d" % (self.number, n),
                             "--generate")
            self.users.append((u, old))
            self.due.update({(u.uri, k): s for k, s in states.items()})
        return self


def listing(gate, keys=None):
    """Without the keys' ages, which go on; keys: of another database than the gateway's own."""
    config = gate.config
    if keys:
        config = gate.folder / "other.yaml"
        config.write_text(re.sub(r"^keys: .*$", "keys: " + keys, gate.config.read_text(), flags=re.M))
    return re.sub(r'"age_s":\d+', "", gate.run("keys", "list", "--config", config, "--format", "json").stdout)


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_eight_writers_at_once(server, gateway):
    """Nothing is lost, nothing missed: by what each writer did, by every gateway's list and copy, and by what each accepts."""
    everybody = kms.User("sip:all@example.org")
    gs = fleet(gateway, server.socket_url(server.database()), [everybody])
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        writers = list(pool.map(Writer.run, [Writer(n, gs) for n in range(WRITERS)]))
    took = time.monotonic() - began
    assert {w.commands for w in writers} == {CHANGES // STEPS * STEPS}
    lists = [listing(g) for g in gs]
    rows = [json.loads(line) for line in lists[0].replace(",,", ",").splitlines()]
    due = {k: s for w in writers for k, s in w.due.items()}
    assert {(r["user"], r["id"]): r["state"] for r in rows if r["user"] != everybody.uri} == due
    inks = [r["state"] for r in rows if r["user"] == everybody.uri and r["type"] == "ink"]
    assert inks.count("active") == 1 and (CHANGES < 100 or inks.count("retiring") == 8), inks
    counted = collections.Counter((r["type"], r["state"].replace("expired", "revoked")) for r in rows)

    def follows(g):
        return all(metric(g, 'kmsgate_keys{type="%s",state="%s"}' % k) == n for k, n in counted.items())
    for g in gs:
        kms.wait_for(lambda: follows(g))
        assert "tampered" not in g.running.err
    # each gateway's own memory
    owners = [x for w in writers for x in w.users]

    def accepts(x):
        g, (user, old) = x
        return (g.ask(user, "/init").status, g.ask(user, "/init", signer=old, **{"Signature-ID": old[0]}).status)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        seen = collections.Counter(pool.map(accepts, [(g, x) for g in gs for x in owners]))
    assert seen == {(200, 403): 3 * len(owners)}, seen
    # and its sealed copy, which is made on a connection of its own
    for g in gs:
        kms.wait_for(lambda: listing(g, keys="sqlite:keys-copy.db") == lists[0])
    hashes = {sha256(x) for x in lists + [listing(g, keys="sqlite:keys-copy.db") for g in gs]}
    assert len(hashes) == 1 and lists[0].count("\n") > CHANGES, hashes
    print("\n%d writers, %d changes each, %.0f s: %d keys, three lists and three copies alike (sha256 %s); asked for %d keys" % (
        WRITERS, CHANGES, took, len(rows), hashes.pop()[:16], 2 * sum(seen.values())))
