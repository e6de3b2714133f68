"""Renewal for as long as its promises are about: kills at any moment, many at once, many renewals, a whole fleet.

    TESTED_BUILD=build-tests/gcc python3 -m pytest -q tests/long/test_renewal.py

How long each takes, and what came out, is in README.md.
"""
import concurrent.futures
import json
import os
import random
import time
from datetime import datetime

import pytest

import conftest
import kms
import scripted
from renewing import Device, good, killed_while_asked, renewals, states

KILLS, EXCHANGES = int(os.environ.get("LONG_KILLS", "200")), 500
LANES = 10  # gateways beside each other: most of a restart is waiting
USERS = int(os.environ.get("LONG_USERS", "100000"))
RULES = """\
version: 1
kms: { uris: [kms.example.org] }
errors: { detail: reason }
requests: [{ id: everyone }]
responses: [{ id: default, %s }]
"""


def renew(age, keep="1h"):
    return RULES % "renew: { trk: %s, ink: %s, keep_old: %s }" % (age, age, keep)


class Issuing(scripted.Scripted):
    """An upstream that issues a fresh TrK and a fresh InK in each reply."""

    def __init__(self, user):
        self.user = user
        super().__init__()

    @property
    def raw(self):
        keys = scripted.Keys()
        body = scripted.response(scripted.init(scripted.certificate(), keys.element("NewTransportKey"),
                                               keys.element("NewIntegrityKey")), user=self.user)
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    @raw.setter
    def raw(self, value):
        pass


@pytest.mark.parametrize("who", ["renew", "learn"])
def test_killed_at_any_moment(tmp_path, who):
    """The client keeps what it gets whole. It is never refused afterwards, and never has two offers of a type."""
    def lane(n):
        folder = tmp_path / str(n)
        folder.mkdir()
        device, rng = Device("sip:u%d@example.org" % n), random.Random(n)
        upstream = Issuing(device.user.uri) if who == "learn" else None
        rules = renew("1s") if who == "renew" else RULES % "new_keys: { learn: { keep_old: 1h } }"
        g = conftest.Gateway(folder, [device.user], rules=rules, upstream=upstream.url if upstream else None)
        asked = kept = 0
        try:
            for _ in range(KILLS // LANES):
                time.sleep(1.2 if who == "renew" else 0)  # due again
                kept += killed_while_asked(g, device, rng)
                asked += 1
                for _ in range(2):  # what it has now is taken, and what that brings
                    new = device.new_keys(good(g.ask(device.user, "/init"), device))
                    device.take(new)
                    asked += 1
                now = list(states(g, device.user.uri).items())
                for kind in ("ink", "trk"):
                    assert sum(k.startswith(kind) and s == "offered" for k, s in now) <= 1, now
                    assert sum(k.startswith(kind) and s == "active" for k, s in now) <= 1, now
            assert g.stop() == 0 and "ERROR: " not in g.running.err
        finally:
            g.stop()
            if upstream:
                upstream.stop()
        return asked, kept

    with concurrent.futures.ThreadPoolExecutor(LANES) as pool:
        done = list(pool.map(lane, range(LANES)))
    asked, kept = map(sum, zip(*done))
    print("\n%s: %d kills, %d exchanges, of %d the reply came whole before the kill" % (who, KILLS, asked, kept))
    assert asked >= KILLS * EXCHANGES / 200 and (kept > 0 or KILLS < 20) and kept < KILLS


def test_fifty_at_once_at_two_gateways(cluster, tmp_path):
    """Twenty times: all get the same two keys, whichever gateway they ask."""
    users = [Device("sip:u%d@example.org" % i) for i in range(20)]
    gates = []
    url = cluster.socket_url(cluster.database())
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        gates.append(conftest.Gateway(tmp_path / name, [d.user for d in users], rules=renew("1s"), keys=url,
                                      peer=gates[0] if gates else None))
    time.sleep(2.1)
    try:
        with concurrent.futures.ThreadPoolExecutor(25) as pool:
            for d in users:
                asked = [(gates[i % 2], kms.signed_request(d.user, gates[i % 2].url("/init"))) for i in range(50)]
                replies = list(pool.map(lambda a: a[0].post("/init", a[1]), asked))
                given = {n[:3] for r in replies for n in d.new_keys(good(r, d))}
                assert len({n[1] for n in given}) == len(given) == 2, given
        offered = sum(renewals(g).get((t, "offered"), 0) for g in gates for t in ("ink", "trk"))
        assert offered == 2 * len(users)
    finally:
        assert [g.stop() for g in gates] == [0, 0]


def test_seventy_renewals(gateway, keys_at, tmp_path):
    """The old ones end soon: while eight of a type retire, nothing new is offered."""
    d = Device("sip:u@example.org")
    g = gateway(users=[d.user], rules=renew("1s", keep="2s"), keys=keys_at(tmp_path))

    def came():
        d.take(d.new_keys(good(g.ask(d.user, "/init"), d)))
        return all(int(i.split(".")[1]) > 70 for i in (d.user.ink_id, d.user.trk_id))
    kms.wait_for(came, 600)
    good(g.ask(d.user, "/init"), d)
    kms.wait_for(lambda: states(g, d.user.uri)[d.user.ink_id] == "active")
    held = states(g, d.user.uri)
    print("\nafter 70 renewals: %d keys of the user" % len(held))
    assert len(held) <= 2 * (1 + 1 + 8 + 2)


def test_a_fleet_imported_at_once(gateway, tmp_path):
    """Who is due when, of a sample that asks all through the last tenth of the age."""
    age, sample = 200, 2000
    lines, devices = [], []
    for i in range(USERS):
        u = "sip:u%d@example.org" % i
        if i % (USERS // sample) == 0:
            d = Device(u)
            devices.append(d)
            lines += d.user.lines()
            continue
        lines += [json.dumps({"user": u, "type": t, "id": t + ".1", "key": os.urandom(32).hex()})
                  for t in ("ink", "trk")]
    g = gateway(users=[], rules=renew("%ds" % age), start=False)
    file = g.folder / "fleet.jsonl"
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o600)
    began = time.monotonic()
    g.run("keys", "import", "--config", g.config, file)
    print("\n%d users imported in %.0f s" % (USERS, time.monotonic() - began))
    since = json.loads(g.run("keys", "list", "--config", g.config, "--user", devices[0].user.uri, "--format",
                             "json").stdout.splitlines()[0])["since"]
    since = datetime.fromisoformat(since.replace("Z", "+00:00")).timestamp()
    g.start()
    random.Random(7).shuffle(devices)
    due = []
    start, end = since + 0.89 * age, since + 1.01 * age
    assert time.time() < start, "this machine is too slow for this age"

    def ask(d):
        r = g.ask(d.user, "/init")
        due.append((time.time() - since, bool(d.new_keys(good(r, d)))))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, d in enumerate(devices):
            time.sleep(max(0, start + (end - start) * i / len(devices) - time.time()))
            pool.submit(ask, d)
    assert len(due) == len(devices)
    first = min(t for t, yes in due if yes)
    last = max(t for t, yes in due if not yes)
    tenth = age / 10
    print("due from %.1f to %.1f s of %d" % (first, last, age))
    assert last - first >= 0.9 * tenth and first >= age - tenth - 0.5 and last <= age + 0.5
    for k in range(1, 10):  # and evenly between: so many of those who ask at that time
        at = [yes for t, yes in due if abs(t - (age - tenth + tenth * k / 10)) < tenth / 20]
        assert abs(sum(at) / len(at) - k / 10) < 0.2, (k, sum(at), len(at))
