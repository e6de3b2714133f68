"""No byte-equal request reaches the upstream twice: over restarts of every kind, and with clocks that are set."""
import collections
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

import conftest
import kms

AHEAD = 8
RULES = """\
version: 1
kms: { uris: [kms.example.org] }
errors: { detail: reason }
requests:
  - { id: everyone, checks: { time: { past: 10m, future: %ds } } }
responses: [{ id: default }]
"""
FAKETIME = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


class Clients:
    """They sign for times up to AHEAD, and keep what they sent."""

    def __init__(self, g, user):
        self.g, self.user, self.sent, self.accepted = g, user, [], []

    def post(self, path, body):
        try:
            return self.g.post(path, body)
        except OSError:
            return None

    def ask(self, n, ahead):
        path = "/init?n=%d" % n
        body = kms.signed_request(self.user, self.g.url(path), Time=kms.now(ahead))
        self.sent.append((path, body))
        r = self.post(path, body)
        if r is not None and r.status == 200:
            self.accepted.append((path, body))
        return r

    def load(self, seconds, end):
        """Requests of three clients until `end` has ended the gateway, after `seconds` of load."""
        over = threading.Event()

        def run(first):
            rng = random.Random(first)
            n = first
            while not over.is_set():
                self.ask(n, rng.choice([0, 1, 3, 4.9, rng.uniform(0, AHEAD - 0.5)]))
                n += 3
        first = len(self.sent) + 1000
        threads = [threading.Thread(target=run, args=(first * 10 + i,)) for i in range(3)]
        for t in threads:
            t.start()
        kms.wait_for(lambda: len(self.accepted) > 20)
        time.sleep(seconds)
        end()
        over.set()
        for t in threads:
            t.join()

    def replay_all(self):
        """Each once more, also what may have been accepted without an answer; what comes of it."""
        return collections.Counter(r.error if (r := self.post(path, body)) is not None else None
                                   for path, body in self.sent)

    def none_came_twice(self):
        times = collections.Counter(r["target"] for r in self.g.upstream_requests())
        assert times and max(times.values()) == 1, times.most_common(3)


def end(g, how):
    g.running.p.send_signal(how)
    code = g.running.p.wait(30)
    assert code == (0 if how == signal.SIGTERM else -signal.SIGKILL)


@pytest.mark.parametrize("how", ["ended", "killed", "killed, rules narrowed", "killed, state lost", "ended, state lost"])
def test_a_restart_under_load(gateway, alice, how):
    g = gateway([alice], rules=RULES % AHEAD)
    c = Clients(g, alice)
    c.load(0.5, lambda: end(g, signal.SIGTERM if how.startswith("ended") else signal.SIGKILL))
    assert len(c.accepted) > 20
    mark = g.folder / "replay.mark"
    assert (" end clean " in mark.read_text()) == how.startswith("ended")
    if "narrowed" in how:
        (g.folder / "rules.yaml").write_text(RULES % 0)
    if "lost" in how:
        mark.unlink()
    g.running = kms.Process([conftest.BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "gateway")
    kms.wait_for(lambda: "listening" in g.running.err)
    assert " end open " in mark.read_text()  # the word is taken away before anything is accepted
    known = set(c.replay_all())
    kms.wait_for(g.ready)
    known |= set(c.replay_all())
    if "narrowed" in how:
        known -= {"time.future"}
    # what was cut off before it was accepted may be accepted now: it went to the upstream once, all the same
    assert known <= {"replay.unavailable", "replay.seen", None}, known
    again = [r.error for path, body in c.accepted for r in [c.post(path, body)]]
    assert set(again) <= {"replay.unavailable", "replay.seen"}, set(again)
    c.none_came_twice()
    assert c.ask(1, 0).status == 200  # honest ones pass


def test_an_end_in_order_costs_nothing(gateway, alice):
    g = gateway([alice], rules=RULES % AHEAD)
    c = Clients(g, alice)
    assert c.ask(1, 0).status == 200
    end(g, signal.SIGTERM)
    began = time.time()
    g.start()
    first = c.ask(2, 0)
    assert first.status == 200 and "the last run ended in order" in g.running.err
    assert set(c.replay_all()) <= {"replay.unavailable", "replay.seen"} and time.time() > began
    c.none_came_twice()


def test_first_is_for_a_new_gateway(gateway, alice, bob):
    g = gateway([alice], start=False)
    keys = g.folder / "more.jsonl"
    keys.write_text("\n".join(bob.lines()) + "\n")
    keys.chmod(0o600)
    r = g.run("keys", "import", "--first", "--config", g.config, keys, check=False)
    assert r.returncode == 1 and "holds keys" in r.stderr and "replay.mark is there" in r.stderr
    assert "nothing was imported" in r.stderr
    shutil.copy(g.config, g.folder / "other.yaml")
    (g.folder / "other.yaml").write_text(g.config.read_text().replace("kmsgate.db", "other.db"))
    r = g.run("keys", "import", "--first", "--config", g.folder / "other.yaml", keys, check=False)
    assert r.returncode == 1 and "holds keys" not in r.stderr and "replay.mark is there" in r.stderr
    (g.folder / "replay.mark").unlink()
    (g.folder / "other.db").unlink(missing_ok=True)
    r = g.run("keys", "import", "--first", "--config", g.folder / "other.yaml", keys)
    assert " end clean " in (g.folder / "replay.mark").read_text()


def test_another_database_has_another_mark(gateway, alice, bob):
    """A mark of other keys says nothing: the start waits as if there were none."""
    g = gateway([alice], rules=RULES % AHEAD)
    end(g, signal.SIGTERM)
    (g.folder / "kmsgate.db").unlink()
    (g.folder / "master.key").write_text(os.urandom(32).hex())
    g.run("keys", "import", "--config", g.config, g.folder / "keys.jsonl")
    began = time.time()
    g.start()
    assert time.time() - began > AHEAD - 1 and "was made under other keys" in g.running.err


def test_a_state_that_cannot_be_written(gateway, alice):
    g = gateway([alice], start=False)
    g.config.write_text(g.config.read_text() + "state: nowhere\n")
    r = g.run("serve", "--config", g.config, check=False)
    assert r.returncode == 1 and "nowhere: replay.mark cannot be written: No such file" in r.stderr and "`state`" in r.stderr


def faked(folder, offset):
    """What makes a program of ours believe in another wall clock; the offset can be changed while it runs."""
    file = folder / "clock"
    file.write_text(offset + "\n")
    needs = subprocess.run(["ldd", conftest.BUILD / "kmsgate"], capture_output=True, text=True).stdout
    first = [line.split(" => ")[1].split(" ")[0] for line in needs.split("\n") if "san.so" in line and " => " in line]
    return file, {"LD_PRELOAD": ":".join(first + [str(FAKETIME)]), "FAKETIME_TIMESTAMP_FILE": str(file),
                  "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


needs_faketime = pytest.mark.skipif(not FAKETIME, reason="the package faketime is missing")


@needs_faketime
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_clock_that_is_set_back_between(gateway, alice, how):
    g = gateway([alice], rules=RULES % 60)
    c = Clients(g, alice)
    for n in range(30):
        assert c.ask(n, n % 5).status == 200
    end(g, how)
    _, env = faked(g.folder, "-20s")
    g.running = kms.Process([conftest.BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "gateway",
                            env=dict(os.environ, **env))
    kms.wait_for(lambda: "listening" in g.running.err)
    assert g.admin("/readyz") == (503, "clock\n")
    assert set(c.replay_all()) == {"replay.unavailable"}
    assert "this machine's clock stands before" in g.running.err
    c.none_came_twice()


ZONED = RULES.replace("past: 10m, future: %ds", 'past: 5s, future: 5s, assume_zone: "%s"')


@needs_faketime
@pytest.mark.parametrize("how", ["reloaded", "ended", "killed"])
def test_a_zone_that_is_changed(gateway, alice, how):
    """A Time without a zone that was accepted by one reading is not new an hour later, by another."""
    g = gateway([alice], rules=ZONED % "+01:00")
    end(g, signal.SIGTERM)
    clock, env = faked(g.folder, "+0s")
    g.start(env=env)

    def ask(n, ahead):
        path = "/init?n=%d" % n
        body = kms.signed_request(alice, g.url(path), Time=kms.now(ahead).rstrip("Z"))
        return path, body, g.post(path, body)
    path, body, first = ask(1, 3600)
    assert first.status == 200
    assert (g.post(path, body).status, g.post(path, body).error) == (403, "replay.seen")
    (g.folder / "rules.yaml").write_text(ZONED % "UTC")
    clock.write_text("+3600s\n")
    if how == "reloaded":
        before = g.admin("/rules")[1]
        g.running.p.send_signal(signal.SIGHUP)
        kms.wait_for(lambda: g.admin("/rules")[1] != before)
    else:
        end(g, signal.SIGTERM if how == "ended" else signal.SIGKILL)
        g.start(env=env)
        kms.wait_for(g.ready)
    # the window of the old reading is over, that of the new one begins
    again = [g.post(path, body) for _ in range(3)]
    assert {r.error for r in again} <= {"replay.seen", "replay.unavailable", "time.stale"}
    if how == "reloaded":
        assert {r.error for r in again} == {"replay.unavailable"}
    if how == "killed":  # who was cut off may have read such a Time up to his last moment: an hour later all is told
        assert ask(2, 3600)[2].error == "replay.unavailable"
        clock.write_text("+7210s\n")
    later = 7210 if how == "killed" else 3600
    kms.wait_for(lambda: ask(int(time.monotonic() * 1000), later)[2].status == 200)
    times = collections.Counter(r["target"] for r in g.upstream_requests())
    assert times["/keymanagement/identity/v1" + path] == 1


@needs_faketime
def test_health_before_the_floor(gateway, alice):
    """Of a process that runs, and as long as it is not ready; its twin is every other gateway's start."""
    g = gateway([alice], rules=RULES % 60, start=False)
    (g.folder / "replay.mark").unlink()
    g.running = kms.Process([conftest.BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "gateway")

    def health():
        r = g.run("health", "--config", g.config, check=False)
        assert r.returncode == 1, r.stdout + r.stderr
        return "health: not ready" in r.stderr
    kms.wait_for(health)


def test_a_clock_that_steps(gateway, alice):
    g = gateway([alice], rules=RULES % 5)
    end(g, signal.SIGTERM)
    clock, env = faked(g.folder, "+0s")
    g.start(env=env)
    c = Clients(g, alice)

    def steps(way):
        return [line for line in g.admin("/metrics")[1].split("\n") if 'clock_steps_total{direction="%s"} 1' % way in line]
    assert c.ask(1, 0).status == 200
    clock.write_text("+3600s\n")
    kms.wait_for(lambda: steps("forward"))
    kms.wait_for(lambda: c.ask(len(c.sent) + 10, 3600).status == 200)
    assert c.ask(2, 3600).status == 200 and g.admin("/readyz")[0] == 200
    clock.write_text("+0s\n")
    kms.wait_for(lambda: steps("back"))
    r = c.ask(3, 0)
    assert (r.status, r.error) == (503, "replay.unavailable")
    assert g.admin("/readyz") == (503, "clock\n")
    assert set(c.replay_all()) <= {"replay.unavailable", "replay.seen", "time.future"}
    assert re.search(r"clock stepped back by 3(599|600)\.", g.running.err)
    clock.write_text("+3600s\n")
    kms.wait_for(lambda: g.admin("/readyz")[0] == 200)
    c.none_came_twice()
