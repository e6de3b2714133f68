"""A fleet for ten minutes, and many posts of the same bytes at once. Three gateways behind HAProxy, Redis with its replica and three Sentinels, PostgreSQL. Each part is
ended, killed or paused in turn, at random, while handsets ask and are given new keys, and all that was accepted is sent again.

    TESTED_BUILD=build-tests/gcc python3 -m pytest -q -s tests/long/test_ten_minutes.py

What came out is in README.md.
"""
import collections
import http.client
import json
import os
import random
import re
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kms
import postgres
import redis_servers
from conftest import BUILD
from renewing import Device
from test_fleet import everywhere_at_once, fleet, url  # noqa: F401

sys.path.append(str(Path(__file__).parents[1] / "deploy"))
from fleet_parts import PUBLIC, ROOT, Balancer, Gate, Load  # noqa: E402

SECONDS = int(os.environ.get("LONG_FLEET", "600"))
RULES = """\
version: 1
kms: { uris: [kms.example.org] }
errors: { detail: reason }
requests: [{ id: everyone }]
responses: [{ id: default, renew: { trk: 3s, ink: 3s, keep_old: 20s } }]
"""
REPLICAS = ("min-replicas-to-write 1", "min-replicas-max-lag 2", "repl-timeout 10")


class Owners(Load):
    """Handsets that keep each key that they are given, and use it at once."""

    def handset(self, device):
        c = None
        while not self.end.is_set():
            path, began = "%s/init?of=%s" % (kms.BASE, os.urandom(8).hex()), time.time()
            body = kms.signed_request(device.user, PUBLIC + path)
            try:
                c = c or self.connect()
                reply = self.post(c, path, body)
                if reply.status == 200:
                    reply.verify(*reversed(device.user.signer()))
                    device.take(device.new_keys(reply))
                self.count(began, reply, path, body)
                time.sleep(0.02)
            except (OSError, http.client.HTTPException, ssl.SSLError) as e:
                with self.lock:
                    self.errors.append((began, 0, repr(e)))
                c = None
                time.sleep(0.05)


@pytest.fixture
def parts(tmp_path):
    made = collections.namedtuple("Parts", "gates balancer cluster redis sentinels devices log context")
    subprocess.run([ROOT / "certs/make_certs.sh", "--out", tmp_path / "certs"], check=True, capture_output=True)
    certs, log, ends = tmp_path / "certs", tmp_path / "legacy.jsonl", []
    try:
        cluster = postgres.Cluster()
        ends.append(cluster.end)
        primary = redis_servers.Redis(tmp_path / "redis0", *REPLICAS)
        redis = [primary, redis_servers.replica_of(primary, tmp_path / "redis1", *REPLICAS)]
        sentinels = redis_servers.sentinels(primary, tmp_path)
        ends.append(lambda: redis_servers.end_all(redis + sentinels))
        legacy = kms.Process([BUILD / "legacy_kms", "--listen", "127.0.0.1:0", "--log", log], tmp_path, "legacy")
        ends.append(legacy.stop)
        kms.wait_for(lambda: " on " in legacy.out and "\n" in legacy.out)
        secrets = [tmp_path / x for x in ("master.key", "replay.secret", "admin.token")]
        for f in secrets:
            f.write_text(os.urandom(32).hex())
            f.chmod(0o600)
        keys = cluster.socket_url(cluster.database())
        url = "redis+sentinel://%s/kms" % ",".join("127.0.0.1:%d" % s.port for s in sentinels)
        gates = [Gate(tmp_path, "gateway-%d" % i, BUILD / "kmsgate", keys, url, legacy.out.split("\n")[0].split(" on ")[1].strip(),
                      secrets, certs, rules=RULES) for i in (1, 2, 3)]
        devices = [Device("sip:u%d@example.org" % i) for i in range(6)]
        users = tmp_path / "keys.jsonl"
        users.write_text("\n".join(x for d in devices for x in d.user.lines()) + "\n")
        users.chmod(0o600)
        subprocess.run([BUILD / "kmsgate", "keys", "import", "--config", gates[0].config, users], check=True, timeout=60)
        for g in gates:
            g.start(wait=False)
            ends.append(g.stop)
        [kms.wait_for(g.ready, 60) for g in gates]
        balancer = Balancer(tmp_path, gates, certs)
        ends.append(balancer.process.stop)
        yield made(gates, balancer, cluster, redis, sentinels, devices, log,
                   ssl.create_default_context(cafile=str(certs / "ca.pem")))
    finally:
        [end() for end in reversed(ends)]


def primary_of(p):
    port = int(p.sentinels[0]("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "kms").split("\n")[1])
    return [r for r in p.redis if r.port == port][0]


def replica(p):
    return [r for r in p.redis if r is not primary_of(p)][0]


def paired(p):
    return primary_of(p).info("replication", "role") == "master" and replica(p).info("replication", "master_link_status") == "up"


def gateway_killed(p):
    g = random.choice(p.gates)
    g.running.p.kill()
    g.running.p.wait()
    time.sleep(random.random())
    g.start()


def gateway_rolled(p):
    g = random.choice(p.gates)
    g.stop()
    g.start()


def followed(p):
    """All gateways see changes of keys again: one that does not yet refuses what another has just given out."""
    for g in p.gates:
        kms.wait_for(lambda: float(re.search(r"^kmsgate_keys_age_seconds (\S+)", g.admin("/metrics")[1], re.M)[1]) < 2, 60)


def database_crashes(p):
    p.cluster.stop(signal.SIGQUIT)
    time.sleep(3)
    p.cluster.start()
    followed(p)


def database_hangs(p):
    p.cluster.pause()
    time.sleep(3)
    p.cluster.resume()
    followed(p)


def sentinel_away(p):
    s = p.sentinels[random.randrange(1, 3)]
    s.stop(signal.SIGKILL)
    time.sleep(2)
    s.start()


def primary_crashes(p):
    r = primary_of(p)
    r.stop(signal.SIGKILL)
    r.start()
    kms.wait_for(lambda: paired(p), 120)


def failover(p):
    was, other = primary_of(p), replica(p)
    was.stop(signal.SIGKILL)
    kms.wait_for(lambda: primary_of(p) is other, 120)
    was.start()
    kms.wait_for(lambda: paired(p), 120)


def replica_hangs(p):
    r = replica(p)
    r.pause()
    time.sleep(4)
    r.resume()
    kms.wait_for(lambda: paired(p), 120)


# What may be seen, and nothing else: an HTTP status, 0 for a connection that closed, and the reason.
ENGINE = {(503, "replay.unavailable"), (503, None)}  # None: the balancer's own, since no gateway is ready
EVENTS = {
    gateway_killed: {(0, None), (502, None), *ENGINE},  # 503: it has just started, and the balancer thinks that it never ended
    gateway_rolled: set(),
    database_crashes: {(403, "signature.invalid")},  # key.unknown: what another gateway gave out in the moment before
    database_hangs: {(403, "signature.invalid")},
    sentinel_away: set(),
    primary_crashes: ENGINE,
    failover: ENGINE,
    replica_hangs: ENGINE,
}


def test_ten_minutes(parts):
    p = parts
    load = Owners(("localhost", p.balancer.port), p.context, p.devices, each=1)
    counted, began = collections.Counter(), time.monotonic()
    try:
        load.more(30)
        while time.monotonic() - began < SECONDS:
            for event in random.sample(list(EVENTS), len(EVENTS)):
                first = len(load.errors)
                event(p)
                load.more(30, 180)
                kms.wait_for(lambda: not load.errors[first:] or time.time() - load.errors[-1][0] > 2, 120)
                seen = {(status, reason if status else None) for _, status, reason in load.errors[first:]}
                assert seen <= EVENTS[event], (event.__name__, load.errors[first:][:10])
                assert not load.stolen, (event.__name__, load.stolen)
                counted[event.__name__] += 1
                quiet = len(load.errors)
                load.more(20)
                assert len(load.errors) == quiet, (event.__name__, load.errors[quiet:])
    finally:
        load.stop()
    # no key is lost: each handset's last ones are known at every gateway
    for d in p.devices:
        for g in p.gates:
            c = http.client.HTTPSConnection("localhost", g.port, timeout=20, context=p.context)
            reply = load.post(c, kms.BASE + "/init", kms.signed_request(d.user, PUBLIC + kms.BASE + "/init"))
            assert reply.status == 200, reply.error
            d.take(d.new_keys(reply))
    saw = collections.Counter(json.loads(x)["target"] for x in p.log.read_text().split("\n") if "?of=" in x)
    assert set(saw.values()) == {1} and len(saw) >= load.good
    print("\n%d requests accepted, %d refused; sent once more: %s; %s; keys in use: %s" % (
        load.good, len(load.errors), dict(load.replies), dict(counted), ", ".join(d.user.ink_id for d in p.devices)))


def test_two_thousand_requests_eight_times_each(fleet):
    """Before a Time leaves its window on a slow machine, it is wide."""
    rules = "version: 1\nkms: { uris: [kms.example.org] }\nerrors: { detail: reason }\nresponses: [{ id: default }]\n" \
            "requests: [{ id: everyone, checks: { time: { past: 10m, future: 2s } } }]\n"
    r = fleet.redis()
    gates = [fleet.gateway(url(r), rules=rules, config="workers: 2\n") for _ in range(4)]
    everywhere_at_once(fleet, gates, 2000, 8)
    print("\n2,000 requests, 16,000 posts: 2,000 accepted")
