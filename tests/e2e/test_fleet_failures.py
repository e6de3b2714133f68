"""The shared replay memory fails in each way of the table in docker/README.md: what is answered, for how long, and what is told."""
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import certs
import conftest
import kms
from listening import Listening
from redis_servers import LIBRARY, VERSION, Redis, encode
from test_fleet import (APART_MS, EPOCH, FAKETIME, RULES, SHORT, TIMEOUT_S, Fleet, errors, fleet, refused,  # noqa: F401
                        url)
from test_postgres import Road

README = (conftest.Path(__file__).parents[2] / "docker/README.md").read_text()


def unready(g, word):
    return kms.wait_for(lambda: g.admin("/readyz") == (503, "replay: %s\n" % word) or
                        g.admin("/readyz")[1].startswith("replay: %s\n" % word))


def honest(f, g):
    return f.ask(g)[1].status == 200


def in_use(f, *gateways):
    """By each worker of theirs: one that has found out about a trouble is not back with the others."""
    kms.wait_for(lambda: all(honest(f, g) for g in gateways for _ in range(6)))


def accept_some(f, g, n=6, most=1.8):
    """Requests of many Times, as far ahead as is allowed."""
    in_use(f, g)
    first = sum(f.upstream_saw().values())  # each has a name of its own
    sent = [f.ask(g, "/init?t=%d" % (first + i), ahead=most * i / n) for i in range(n)]
    assert [r.status for _, r in sent] == [200] * n, sent
    return [("/init?t=%d" % (first + i), body) for i, (body, _) in enumerate(sent)]


def replays(gateways, sent):
    return {gateways[i % len(gateways)].post(path, body).error for i, (path, body) in enumerate(sent)}


def replays_until_honest(f, gateways, sent):
    """All once more and again, until an honest request passes, and once more then."""
    began, seen = time.monotonic(), set()
    while not honest(f, gateways[0]):
        assert time.monotonic() - began < 60
        seen |= replays(gateways, sent)
    took = time.monotonic() - began
    seen |= replays(gateways, sent)
    assert seen <= {"replay.seen", "replay.unavailable", "time.stale"}, seen
    return took


def once(f):
    saw = {t: n for t, n in f.upstream_saw().items() if "t=" in t}
    assert set(saw.values()) == {1}, saw


def test_paused(fleet):
    r = fleet.redis()
    g = fleet.gateway(url(r), config="workers: 1\n")
    assert honest(fleet, g)
    before = sum(fleet.upstream_saw().values())
    r.pause()
    times = []
    for _ in range(4):
        began = time.monotonic()
        assert refused(fleet.ask(g)[1])
        times.append(time.monotonic() - began)
    assert times[0] > 0.95 * TIMEOUT_S and min(times) < 0.5 * TIMEOUT_S, times  # the first waits, then it is known
    unready(g, "timeout")
    assert errors(g, "timeout") > 0
    assert sum(fleet.upstream_saw().values()) == before
    r.resume()
    kms.wait_for(lambda: honest(fleet, g))
    kms.wait_for(g.ready)


def test_client_pause(fleet):
    r = fleet.redis()
    g = fleet.gateway(url(r), config="workers: 1\n", timeout="200ms")
    kms.wait_for(lambda: honest(fleet, g))
    r("CLIENT", "PAUSE", "4000", "ALL")
    assert refused(fleet.ask(g)[1])
    kms.wait_for(lambda: honest(fleet, g))


class Slow(Road):
    """What the server says arrives, and each octet so much later."""
    delay = 0

    def one_way(self, a, b):
        under_way, answers = queue.Queue(), a.getpeername()[1] == self.to

        def arrive():
            try:
                while (one := under_way.get())[1]:
                    time.sleep(max(0, one[0] - time.monotonic()))
                    b.sendall(one[1])
                b.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it was cut
        arriving = threading.Thread(target=arrive, daemon=True)
        arriving.start()
        try:
            while some := a.recv(65536):
                under_way.put((time.monotonic() + self.delay * answers, some))
        except OSError:
            pass
        under_way.put((0, b""))
        arriving.join()


def test_every_answer_is_late(fleet):
    """Each comes, and none in time: refused at once and not ready, until one is."""
    r = fleet.redis()
    road = Slow(r.port)
    g = fleet.gateway("redis://127.0.0.1:%d" % road.port, config="workers: 1\n")
    assert honest(fleet, g)
    before = sum(fleet.upstream_saw().values())
    road.delay = 1.5 * TIMEOUT_S
    assert refused(fleet.ask(g)[1])
    unready(g, "timeout")
    known = errors(g, "timeout")
    kms.wait_for(lambda: errors(g, "timeout") >= known + 3)  # late answers come all the while
    assert g.admin("/readyz") == (503, "replay: timeout\n") and refused(fleet.ask(g)[1])
    assert sum(fleet.upstream_saw().values()) == before
    road.delay = 0
    kms.wait_for(lambda: honest(fleet, g))
    kms.wait_for(g.ready)


@pytest.mark.parametrize("kept", [False, True], ids=["emptied", "with its data"])
def test_killed_and_started_again(fleet, kept):
    r = fleet.redis(*(["appendonly yes", "appendfsync always"] if kept else []))
    a, b = fleet.gateway(url(r)), fleet.gateway(url(r))
    sent = accept_some(fleet, a)
    r.stop(signal.SIGKILL)
    kms.wait_for(lambda: refused(fleet.ask(a)[1]))
    began = time.monotonic()
    assert refused(fleet.ask(b)[1]) and time.monotonic() - began < 5
    unready(a, "connection")
    assert errors(a, "connection") > 0
    owner = None if not kept else 1
    r.start()
    took = replays_until_honest(fleet, [a, b], sent)
    assert took > 1 and (owner is None or r("GET", EPOCH).startswith("2 "))
    kms.wait_for(a.ready)
    once(fleet)
    assert "a new epoch: signed requests are refused until" in a.running.err + b.running.err


def test_emptied(fleet):
    r = fleet.redis()
    a, b = fleet.gateway(url(r)), fleet.gateway(url(r))
    sent = accept_some(fleet, a)
    r("FLUSHALL")
    replays_until_honest(fleet, [b, a], sent)
    once(fleet)


def of_version(n):
    assert LIBRARY.count("\nlocal VERSION = %d\n" % VERSION) == 1
    return LIBRARY.replace("\nlocal VERSION = %d\n" % VERSION, "\nlocal VERSION = %d\n" % n)


def test_its_library_flushed_and_replaced(fleet):
    r = fleet.redis()
    a, b = fleet.gateway(url(r)), fleet.gateway(url(r))
    sent = accept_some(fleet, a)
    floor = r("GET", EPOCH).split()[2]
    r("FUNCTION", "FLUSH")
    in_use(fleet, a, b)
    assert r("FCALL", "kmsgate_version", "0") == str(VERSION)
    # a newer one comes with a newer gateway: those of today go on with it, in the same epoch
    assert r("FUNCTION", "LOAD", "REPLACE", of_version(VERSION + 1)) == "kmsgate"
    assert honest(fleet, a) and honest(fleet, b)
    # an older one is replaced, in the same epoch, too
    assert r("FUNCTION", "LOAD", "REPLACE", of_version(VERSION - 1)) == "kmsgate"
    r("CLIENT", "KILL", "TYPE", "normal")
    kms.wait_for(lambda: r("FCALL", "kmsgate_version", "0") == str(VERSION))
    in_use(fleet, a, b)
    assert replays([a, b], sent) <= {"replay.seen", "time.stale"}
    assert r("GET", EPOCH).split()[2] == floor
    once(fleet)


def test_wider_windows_open_an_epoch(fleet):
    r = fleet.redis()
    a, b = fleet.gateway(url(r)), fleet.gateway(url(r))
    sent = accept_some(fleet, a)
    (b.folder / "rules.yaml").write_text(RULES % ("8s", "2s"))
    b.running.p.send_signal(signal.SIGHUP)
    kms.wait_for(lambda: int(r("GET", EPOCH).split()[3]) == 8000 + 2000 + 2 * APART_MS)
    replays_until_honest(fleet, [b, a], sent)
    once(fleet)


def test_too_far_ahead_is_a_fault(fleet):
    r = fleet.redis()
    g = fleet.gateway(url(r), rules=RULES % ("5s", "60s"), ready=False)
    (g.folder / "rules.yaml").write_text(RULES % ("5s", "61s"))
    told = "takes a Time up to 61s ahead (`future`), and gateway.yaml has a shared replay memory: expected at most 60 s"
    checked = g.run("check", "--config", g.config, check=False)
    assert checked.returncode == 1 and told in checked.stderr and "rules.yaml:4:" in checked.stderr, checked.stderr
    g.running.p.send_signal(signal.SIGHUP)
    kms.wait_for(lambda: told in g.running.err and "stay in force" in g.running.err)
    g.running.stop() # its addresses are taken before its files are read
    bad = g.run("serve", "--config", g.config, check=False)
    assert bad.returncode == 1 and told in bad.stderr


def test_a_replica(fleet):
    primary = fleet.redis()
    r = fleet.replica(primary)
    g = fleet.gateway(url(r), ready=False)
    unready(g, "role")
    assert refused(fleet.ask(g)[1]) and "the server is a replica; a primary is due" in g.running.err
    r("REPLICAOF", "NO", "ONE")
    kms.wait_for(lambda: honest(fleet, g))
    # and taken down again while it is in use
    r("REPLICAOF", "127.0.0.1", primary.port)
    kms.wait_for(lambda: refused(fleet.ask(g)[1]))
    unready(g, "role")


def test_promoted_back_opens_an_epoch(fleet):
    """The same process, twice a primary: what was accepted elsewhere meanwhile is not forgotten."""
    r = fleet.redis()
    other = fleet.replica(r)
    a, b = fleet.gateway(url(r)), fleet.gateway(url(other), ready=False)
    kms.wait_for(lambda: honest(fleet, a))
    other("REPLICAOF", "NO", "ONE")
    kms.wait_for(lambda: honest(fleet, b))
    sent = accept_some(fleet, b)  # which r does not get to know
    r("REPLICAOF", "127.0.0.1", 1)
    r("REPLICAOF", "NO", "ONE")
    replays_until_honest(fleet, [a], sent)
    once(fleet)


def test_another_secret(fleet):
    r = fleet.redis()
    g = fleet.gateway(url(r))
    other = fleet.folder / "other.secret"
    other.write_text("ab" * 32)
    other.chmod(0o600)
    stranger = fleet.gateway(url(r), ready=False, secret="file:%s" % other)
    unready(stranger, "secret")
    assert refused(fleet.ask(stranger)[1]) and errors(stranger, "secret") > 0
    assert "another `secret`" in stranger.running.err
    assert honest(fleet, g)


@pytest.mark.skipif(not FAKETIME, reason="the package faketime is missing")
def test_clocks_apart(fleet):
    r = fleet.redis()
    needs = subprocess.run(["ldd", conftest.BUILD / "kmsgate"], capture_output=True, text=True).stdout
    first = [x.split(" => ")[1].split(" ")[0] for x in needs.split("\n") if "san.so" in x and " => " in x]
    fake = fleet.folder / "faketime"
    fake.write_text("+3s")
    g = fleet.gateway(url(r), rules=RULES % ("8s", "2s"), ready=False, config="sandbox: off", # faketime reads a file of its own
                      env={"LD_PRELOAD": ":".join(first + [str(FAKETIME)]), "FAKETIME_TIMESTAMP_FILE": str(fake),
                           "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    unready(g, "clock")
    assert all(refused(fleet.ask(g)[1]) for _ in range(3)) and errors(g, "clock") > 0
    assert re.search(r"apart", g.running.err) and re.search(r"\b(29|3\d)\d\d ms apart, more than %d" % APART_MS, g.running.err)
    fake.write_text("+0s")
    kms.wait_for(lambda: honest(fleet, g))


def test_a_policy_that_forgets(fleet):
    r = fleet.redis("maxmemory 64mb", "maxmemory-policy allkeys-lru")
    g = fleet.gateway(url(r), ready=False)
    unready(g, "eviction")
    assert refused(fleet.ask(g)[1]) and "maxmemory-policy is allkeys-lru" in g.running.err
    r("CONFIG", "SET", "maxmemory-policy", "noeviction")
    kms.wait_for(lambda: honest(fleet, g))
    # it is looked at while it is in use, too
    r("CONFIG", "SET", "maxmemory-policy", "volatile-ttl")
    unready(g, "eviction")
    assert refused(fleet.ask(g)[1])


def test_what_was_evicted_is_not_accepted_again(fleet):
    """By a policy that was in force for too short a time to be seen; the epoch's own record is not among it."""
    r = fleet.redis("maxmemory 256mb")
    a, b = fleet.gateway(url(r)), fleet.gateway(url(r))
    sent = accept_some(fleet, a)
    r("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    r("CONFIG", "SET", "maxmemory", int(r.info("memory", "used_memory")) - 100000)
    kms.wait_for(lambda: int(r.info("stats", "evicted_keys")) > 0)
    r("CONFIG", "SET", "maxmemory", "256mb")
    r("CONFIG", "SET", "maxmemory-policy", "noeviction")
    replays_until_honest(fleet, [b, a], sent)
    once(fleet)
    # and what was counted then opens no other one
    floor = r("GET", EPOCH).split()[2]
    assert honest(fleet, a) and honest(fleet, b) and r("GET", EPOCH).split()[2] == floor


def test_full(fleet):
    r = fleet.redis("maxmemory 64mb")
    g = fleet.gateway(url(r))
    sent = accept_some(fleet, g)
    r("CONFIG", "SET", "maxmemory", "100kb")
    assert refused(fleet.ask(g)[1], "replay.full") and refused(g.post(*sent[0]), "replay.full")
    unready(g, "full")
    assert errors(g, "full") > 0
    r("CONFIG", "SET", "maxmemory", "64mb")
    kms.wait_for(lambda: honest(fleet, g))
    assert replays([g], sent) <= {"replay.seen", "time.stale"}
    once(fleet)


def test_its_disk_is_full(fleet):
    """As far as Redis can tell: it cannot save, and takes no writes until it can."""
    r = fleet.redis("save 3600 1000000")
    g = fleet.gateway(url(r))
    assert honest(fleet, g)
    (r.folder / "dump.rdb").mkdir()
    r("BGSAVE")
    kms.wait_for(lambda: r.info("persistence", "rdb_last_bgsave_status") == "err")
    kms.wait_for(lambda: refused(fleet.ask(g)[1]))
    unready(g, "server")
    assert "MISCONF" in g.running.err
    (r.folder / "dump.rdb").rmdir()
    r("BGSAVE")
    kms.wait_for(lambda: honest(fleet, g))


def test_one_user_has_a_sixteenth(fleet):
    r = fleet.redis()
    a, b = (fleet.gateway(url(r), config="limits: { replay_entries: 96 }\n") for _ in range(2))
    for i in range(6):
        assert honest(fleet, (a, b)[i % 2])
    assert refused(fleet.ask(a)[1], "replay.full")
    assert b.post("/init", kms.signed_request(fleet.users[1], b.url("/init"))).status == 200


def test_too_few_replicas(fleet):
    primary = fleet.redis("min-replicas-to-write 1", "min-replicas-max-lag 2")
    r = fleet.replica(primary)
    g = fleet.gateway(url(primary))
    kms.wait_for(lambda: honest(fleet, g))
    r.stop(signal.SIGKILL)
    kms.wait_for(lambda: refused(fleet.ask(g)[1]))
    unready(g, "replicas")
    assert errors(g, "replicas") > 0
    r.start()
    kms.wait_for(lambda: honest(fleet, g))


def test_a_replica_that_lags_is_waited_for(fleet):
    primary = fleet.redis()
    r = fleet.replica(primary)
    g = fleet.gateway(url(primary), wait_replicas=1)
    kms.wait_for(lambda: honest(fleet, g))
    r.pause()
    body, reply = fleet.ask(g, "/init?t=1")
    assert refused(reply)
    unready(g, "replicas")
    r.resume()
    kms.wait_for(lambda: honest(fleet, g))
    assert g.post("/init?t=1", body).error in ("replay.seen", "time.stale")  # it stays spent
    assert "/init?t=1" not in str(fleet.upstream_saw())


USER = re.search(r"^    (ACL SETUSER kmsgate .*)$", README, re.M).group(1) if "ACL SETUSER kmsgate" in README else None


def test_rights(fleet):
    """The documented line is enough, and nothing of it too much."""
    line = USER.replace("PASSWORD", "of-the-test").split()
    r = fleet.redis()
    word = fleet.folder / "password"
    word.write_text("of-the-test")
    rights = [x for x in line if x.startswith("+")]
    assert len(rights) > 8
    assert r(*line) == "OK"
    g = fleet.gateway(url(r), user="kmsgate", password="file:%s" % word, ready=False, wait_replicas=0)
    kms.wait_for(lambda: honest(fleet, g))
    r("FUNCTION", "FLUSH")
    kms.wait_for(lambda: honest(fleet, g))
    with r.connect() as s:
        f = s.makefile("rb")
        s.sendall(encode("AUTH", "kmsgate", "of-the-test") + encode("FLUSHALL") + encode("DEL", EPOCH) + encode("KEYS", "*"))
        assert [f.readline()[:8] for _ in range(4)] == [b"+OK\r\n", b"-NOPERM ", b"-NOPERM ", b"-NOPERM "]
    for right in rights:
        if right == "+wait":  # where there are replicas to wait for
            continue
        assert r("ACL", "SETUSER", "kmsgate", "-" + right[1:]) == "OK"
        if right == "+function|load":
            r("FUNCTION", "FLUSH")
        r("CLIENT", "KILL", "TYPE", "normal")
        kms.wait_for(lambda: refused(fleet.ask(g)[1]))
        unready(g, "auth")
        assert r("ACL", "SETUSER", "kmsgate", right) == "OK"
        kms.wait_for(lambda: honest(fleet, g))
    word.write_text("another")
    h = fleet.gateway(url(r), user="kmsgate", password="file:%s" % word, ready=False)
    unready(h, "auth")
    assert "another" not in h.running.err and "of-the-test" not in g.running.err


@pytest.fixture
def tls(fleet):
    certs.authority(fleet.folder, "redis-ca")
    certs.authority(fleet.folder, "other-ca")
    cert, key = certs.issue(fleet.folder, "redis-ca", "redis")
    return fleet.redis("tls-cert-file %s" % cert, "tls-key-file %s" % key, "tls-ca-cert-file %s/redis-ca.pem" % fleet.folder,
                       "tls-auth-clients no", tls=True)


def test_tls(fleet, tls):
    g = fleet.gateway(url(tls, "rediss"), ca=fleet.folder / "redis-ca.pem")
    body, reply = fleet.ask(g)
    assert reply.status == 200 and g.post("/init", body).error == "replay.seen"
    wrong = fleet.gateway(url(tls, "rediss"), ready=False, ca=fleet.folder / "other-ca.pem")
    assert refused(fleet.ask(wrong)[1])
    kms.wait_for(lambda: "TLS: " in wrong.running.err)
    plain = fleet.gateway(url(tls), ready=False)
    assert refused(fleet.ask(plain)[1])


def test_the_name_of_the_certificate_counts(fleet):
    certs.authority(fleet.folder, "redis-ca")
    cert, key = certs.issue(fleet.folder, "redis-ca", "redis", host="DNS:redis.example.org")
    r = fleet.redis("tls-cert-file %s" % cert, "tls-key-file %s" % key, "tls-ca-cert-file %s/redis-ca.pem" % fleet.folder,
                    "tls-auth-clients no", tls=True)
    g = fleet.gateway(url(r, "rediss"), ready=False, ca=fleet.folder / "redis-ca.pem")
    kms.wait_for(lambda: "IP address mismatch" in g.running.err)
    assert refused(fleet.ask(g)[1])


def test_what_came_to_nothing_is_given_back(fleet):
    r = fleet.redis()
    g = fleet.gateway(url(r), start=False)
    g.config.write_text(g.config.read_text().replace(g.upstream, "http://127.0.0.1:1"))
    g.start()
    body, reply = fleet.ask(g)
    assert reply.status == 502 and reply.error == "upstream.unreachable"
    again = g.post("/init", body)
    assert again.error == "upstream.unreachable"


class Hostile(Listening):
    """Answers as the handshake is due, and then with `last`."""

    def __init__(self, last, greets=True):
        self.last, self.greets, self.commands = last, greets, 0
        super().__init__(self.answer)

    def answer(self, c, _):
        def bulk(text):
            return b"$%d\r\n%s\r\n" % (len(text), text)
        f = c.makefile("rb")
        while line := f.readline():
            words = [f.read(int(f.readline()[1:]) + 2)[:-2] for _ in range(int(line[1:]))]
            self.commands += 1
            if self.greets and words[0] == b"INFO":
                c.sendall(bulk(b"maxmemory:1\r\nmaxmemory_policy:noeviction\r\nrole:master\r\n"))
            elif self.greets and words[1] in (b"kmsgate_version", b"kmsgate_probe"):
                c.sendall(b":%d\r\n" % VERSION)
            elif self.greets and words[1] == b"kmsgate_spend" and words[2] == b"2":  # of no request
                c.sendall(b"*3\r\n:0\r\n:%d\r\n:1\r\n" % int(time.time() * 1000))
            else:
                c.sendall(self.last)


NOW = b"%d" % (time.time() * 1000)
HOSTILE = {
    "two verdicts": b"*5\r\n:0\r\n:" + NOW + b"\r\n:1\r\n:0\r\n:0\r\n", "none": b"*3\r\n:0\r\n:" + NOW + b"\r\n:1\r\n",
    "another verdict": b"*4\r\n:0\r\n:" + NOW + b"\r\n:1\r\n:9\r\n", "a text": b"*4\r\n:0\r\n:" + NOW + b"\r\n:1\r\n$1\r\n0\r\n",
    "negative": b"*4\r\n:0\r\n:-1\r\n:1\r\n:0\r\n", "a status alone": b"+OK\r\n", "one": b":0\r\n", "nil": b"$-1\r\n",
    "an array in it": b"*4\r\n:0\r\n:" + NOW + b"\r\n:1\r\n*1\r\n:0\r\n", "endless": b"*2147483647\r\n" + b":1\r\n" * 10,
    "huge": b"$1000000000\r\n" + b"x" * 200000, "no reply": b"HTTP/1.1 200 OK\r\n\r\n", "nothing": b"\r\n", "another number": b"*x\r\n",
    "an unknown status": b"*3\r\n:7\r\n:" + NOW + b"\r\n:1\r\n", "far away": b"*4\r\n:0\r\n:9223372036854775807\r\n:1\r\n:0\r\n",
    "an error of control characters": b"-ERR \x1b[2Jevil\r\n",
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_hostile_replies(fleet, what):
    h = Hostile(HOSTILE[what])
    g = fleet.gateway("redis://127.0.0.1:%d" % h.port, config="workers: 1\n")
    assert refused(fleet.ask(g)[1])
    assert sum(fleet.upstream_saw().values()) == 0
    kms.wait_for(lambda: errors(g, "server" if what.startswith("an error") else "protocol") > 0)
    assert "\x1b" not in g.running.err
    h.last = b"*4\r\n:0\r\n:%d\r\n:1\r\n:0\r\n" % int(time.time() * 1000)
    kms.wait_for(lambda: honest(fleet, g))  # and its positive twin


@pytest.mark.parametrize("greeting", [b"-NOAUTH Authentication required.\r\n", b"-LOADING Redis is loading the dataset in memory\r\n",
                                      b"-ERR unknown command `INFO`\r\n", b"$3\r\nabc\r\n", b""])
def test_a_server_that_never_gets_through_its_greeting(fleet, greeting):
    h = Hostile(greeting, greets=False)
    g = fleet.gateway("redis://127.0.0.1:%d" % h.port, ready=False)
    kms.wait_for(lambda: h.commands >= 2)
    assert refused(fleet.ask(g)[1]) and g.admin("/readyz")[0] == 503
