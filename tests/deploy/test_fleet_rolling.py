"""A rolling upgrade of three gateways behind HAProxy, with Redis and PostgreSQL, to a program that brings a newer function
library, and back: no honest request fails, no captured one passes. All of it by the files of docker/compose/fleet."""
import collections
import json
import os
import ssl
import subprocess

import pytest

import fleet_parts
import kms
import postgres
from conftest import BUILD, tool
from fleet_parts import Balancer, Gate, Load
from redis_servers import VERSION, Redis

EPOCH = "{kmsgate}:epoch"
LIBRARY = b"\nlocal VERSION = %d\n"


def newer(path):
    """The program of a later day: the same, but that its function library has the next version."""
    text = (BUILD / "kmsgate").read_bytes()
    assert text.count(LIBRARY % VERSION) >= 1  # an optimizing linker may keep two copies
    path.write_bytes(text.replace(LIBRARY % VERSION, LIBRARY % (VERSION + 1)))
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory, certs):
    """Three gateways, their engines, the balancer, and two users."""
    tool("haproxy")
    tmp_path = tmp_path_factory.mktemp("fleet")
    owners = [kms.User("sip:%s@example.org" % n) for n in ("alice", "bob")]
    made = []
    cluster = postgres.Cluster()
    redis = Redis(tmp_path / "redis", "maxmemory 64mb", "maxmemory-policy noeviction")
    log = tmp_path / "legacy.jsonl"
    legacy = kms.Process([BUILD / "legacy_kms", "--listen", "127.0.0.1:0", "--log", log], tmp_path, "legacy")
    try:
        kms.wait_for(lambda: " on " in legacy.out and "\n" in legacy.out)
        upstream = legacy.out.split("\n")[0].split(" on ")[1].strip()
        secrets = [tmp_path / x for x in ("master.key", "replay.secret", "admin.token")]
        for f in secrets:
            f.write_text(os.urandom(32).hex())
            f.chmod(0o600)
        keys = cluster.socket_url(cluster.database())
        for i in (1, 2, 3):
            made.append(Gate(tmp_path, "gateway-%d" % i, BUILD / "kmsgate", keys, "redis://127.0.0.1:%d" % redis.port, upstream,
                             secrets, certs))
        users = tmp_path / "keys.jsonl"
        users.write_text("\n".join(line for u in owners for line in u.lines()) + "\n")
        users.chmod(0o600)
        subprocess.run([BUILD / "kmsgate", "keys", "import", "--config", made[0].config, users], check=True, timeout=60)
        [g.start(wait=False) for g in made]
        [kms.wait_for(g.ready, 60) for g in made]
        balancer = Balancer(tmp_path, made, certs)
        made.append(balancer.process)
        yield made[:3], balancer, redis, log, owners
    finally:
        running = [x.running if isinstance(x, Gate) else x for x in made]
        running = [p for p in running if p and p.p.poll() is None]
        [p.p.terminate() for p in running]
        [p.stop() for p in running]
        legacy.stop()
        redis.stop()
        cluster.end()


def roll(gate, program, load):
    """As an orchestrator does it: told to end, waited for, the new one started, waited for, and it is given work again."""
    load.more(5)
    gate.stop()
    load.more(5)  # by the two others
    gate.program = program
    before = gate.accepted()
    gate.start()
    kms.wait_for(lambda: gate.accepted() >= before + 5, 60)


def test_up_and_back(parts, certs, tmp_path):
    gates, balancer, redis, log, owners = parts
    version = lambda: int(redis("FCALL", "kmsgate_version", "0"))
    new, old = newer(tmp_path / "kmsgate-2"), BUILD / "kmsgate"
    owner, floor = redis("GET", EPOCH).split()[1:3]
    load = Load(("localhost", balancer.port), ssl.create_default_context(cafile=str(certs / "ca.pem")), owners)
    try:
        load.more(40)
        assert version() == VERSION
        for n, g in enumerate(gates):
            roll(g, new, load)
            assert version() == VERSION + 1  # the older ones go on with it
            assert "the function library is older: loading version %d" % (VERSION + 1) in gates[0].running.err
        for g in gates[1:]:
            assert "loading version" not in g.running.err
        # and one goes back: it takes the library as it is
        roll(gates[0], old, load)
        assert version() == VERSION + 1 and "loading version" not in gates[0].running.err
        load.more(20)
    finally:
        load.stop()
    assert not load.errors, load.errors[:5]
    assert load.good > 100 and sum(load.replies.values()) > 20
    assert set(load.replies) == {403}, load.replies
    # no new epoch: the floor is the first one's
    assert redis("GET", EPOCH).split()[1:3] == [owner, floor]
    saw = collections.Counter(json.loads(x)["target"] for x in log.read_text().split("\n") if x)
    assert len(saw) == load.good and set(saw.values()) == {1}


def test_the_twin_that_does_not_drain(parts, certs):
    """What the test above would see: a gateway that is killed under load, as often as it takes."""
    gates, balancer, _, _, owners = parts
    load = Load(("localhost", balancer.port), ssl.create_default_context(cafile=str(certs / "ca.pem")), owners, each=4)

    def killed():
        load.more(20)
        gates[0].running.p.kill()
        gates[0].running.p.wait()
        load.more(10)  # the others have it
        gates[0].start()
        return load.errors
    try:
        kms.wait_for(killed, 300)
    finally:
        load.stop()
