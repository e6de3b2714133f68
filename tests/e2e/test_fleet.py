"""Many gateways, one replay memory in a real Redis: each request once, whatever happens to the server."""
import collections
import os
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest

import conftest
import kms
import redis_servers
from redis_servers import Redis

FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
RULES = """\
version: 1
kms: { uris: [kms.example.org] }
errors: { detail: reason }
requests: [{ id: everyone, checks: { time: { past: %s, future: %s } } }]
responses: [{ id: default }]
"""
EPOCH = "{kmsgate}:epoch"
# Short, so that an epoch is over soon: 2 s + 3 * 0.7 s. Clocks of one machine are the same, but a busy one may leave a
# request lying between the looks at them, and takes its time to answer: more than the 200 ms that are the default.
SHORT = RULES % ("5s", "2s")
APART_MS, TIMEOUT_S = 700, 2


class Fleet:
    """Gateways with the same users before one upstream, and the servers that they share."""

    def __init__(self, folder, users):
        self.folder, self.users, self.gateways, self.servers = folder, users, [], []
        self.secret = folder / "replay.secret"
        self.secret.write_text(os.urandom(32).hex())
        self.secret.chmod(0o600)

    def redis(self, *options, **kw):
        r = Redis(self.folder / ("redis%d" % len(self.servers)), *options, **kw)
        self.servers.append(r)
        return r

    def replica(self, primary, *options, **kw):
        r = redis_servers.replica_of(primary, self.folder / ("redis%d" % len(self.servers)), *options, **kw)
        self.servers.append(r)
        return r

    def sentinels(self, primary, **kw):
        made = redis_servers.sentinels(primary, self.folder, **kw)
        self.servers += made
        return made

    def replay(self, url, **options):
        more = dict({"secret": "file:%s" % self.secret, "clock_difference": "%dms" % APART_MS,
                     "timeout": "%ds" % TIMEOUT_S}, **options)
        return "{ url: \"%s\", %s }" % (url, ", ".join("%s: %s" % x for x in more.items() if x[1] is not None))

    def gateway(self, url, rules=SHORT, config="", start=True, env=None, ready=True, **options):
        folder = self.folder / ("g%d" % len(self.gateways))
        folder.mkdir()
        first = self.gateways[0] if self.gateways else None
        g = conftest.Gateway(folder, self.users, rules=rules, config=config, start=False,
                             upstream=first.upstream if first else None, public=first.public if first else None,
                             replay=self.replay(url, **options))
        self.gateways.append(g)
        if start:
            g.running = kms.Process([conftest.BUILD / "kmsgate", *kms.SERVE, "--config", g.config], folder, "gateway",
                                    env=dict(os.environ, **env) if env else None)
            kms.wait_for(lambda: self.listens(g))
            if ready:
                kms.wait_for(g.ready)
        return g

    @staticmethod
    def listens(g):
        assert g.running.p.poll() is None, g.running.err
        return "listening" in g.running.err

    def upstream_saw(self):
        return collections.Counter(r["target"] for r in self.gateways[0].upstream_requests())

    def ask(self, g, path="/init", ahead=0.0):
        """What was posted, and its reply."""
        body = kms.signed_request(self.users[0], g.url(path), Time=kms.now(ahead))
        return body, g.post(path, body)

    def end(self):
        for g in self.gateways:
            code = g.stop()
            if g.running:
                assert "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err
                assert code == 0, (code, g.running.err)
        redis_servers.end_all(self.servers)


@pytest.fixture
def fleet(tmp_path, alice, bob):
    f = Fleet(tmp_path, [alice, bob])
    yield f
    f.end()


def errors(g, kind):
    return float(re.search(r'^kmsgate_replay_errors_total\{kind="%s"\} (\S+)' % kind, g.admin("/metrics")[1], re.M).group(1))


def url(r, scheme="redis"):
    return "%s://127.0.0.1:%d" % (scheme, r.port)


def refused(reply, reason="replay.unavailable"):
    return reply.status == 503 and reply.error == reason and reply.headers["Retry-After"]


def test_a_request_is_accepted_once_by_all_together(fleet):
    r = fleet.redis("maxmemory 64mb")
    a, b = fleet.gateway(url(r)), fleet.gateway(url(r))
    body, reply = fleet.ask(a)
    assert reply.status == 200, reply.body
    for g in (b, a):
        again = g.post("/init", body)
        assert again.status == 403 and again.error == "replay.seen"
    assert fleet.ask(b)[1].status == 200
    assert sum(fleet.upstream_saw().values()) == 2
    # who reads the memory learns nobody
    keys = r("KEYS", "*")
    assert "{kmsgate}:" in keys and "alice" not in keys
    assert 'kmsgate_replay_seconds_count 2' in a.admin("/metrics")[1]
    assert a.admin("/metrics")[1].count("kmsgate_replay_errors_total{") == 15


def everywhere_at_once(fleet, gateways, n, copies, posters=8):
    """n requests, each posted so many times by some posters at once, to any gateway: each is accepted once."""
    bodies = [("/init?n=%d" % i, kms.signed_request(fleet.users[i % 2], gateways[0].url("/init?n=%d" % i)))
              for i in range(n)]
    jobs = [(path, body, random.choice(gateways)) for path, body in bodies for _ in range(copies)]
    random.shuffle(jobs)
    results, lock = collections.Counter(), threading.Lock()

    def run():
        while True:
            with lock:
                if not jobs:
                    return
                path, body, g = jobs.pop()
            reply = g.post(path, body)
            with lock:
                results[(reply.status, reply.error)] += 1
    threads = [threading.Thread(target=run) for _ in range(posters)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == {(200, None): n, (403, "replay.seen"): n * (copies - 1)}, results
    saw = fleet.upstream_saw()
    assert len(saw) == n and set(saw.values()) == {1}


def test_the_same_bytes_at_once_everywhere(fleet):
    r = fleet.redis()
    everywhere_at_once(fleet, [fleet.gateway(url(r), config="workers: 2\n") for _ in range(3)], 60, 6)
