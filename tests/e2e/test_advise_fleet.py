"""kmsgate advise on a week of a fleet of 5,000 users, in which ten faults are hidden that nobody has told the program of. Each is
found, with how many it concerns, since when and until when; and with the advice nobody is refused but whom it names."""
import gzip
import json
import random
import re
from datetime import datetime, timedelta, timezone

import pytest
import yaml

from kms import BASE
from test_advise import dumped, kind, kmsgate, pasted, rules_of, stamp
from test_replay import ALL, STRICT, decision, refused

BEGIN = datetime(2026, 11, 16, 0, 0, 0, tzinfo=timezone.utc)
PUBLIC = "https://kms.example.org"
PATH = BASE + "/keyprov"
USERS = 5000


def claims(**over):
    return dict({"kms_uri": "kms.example.org", "client_req_url": PUBLIC + PATH, "version": "1.1.0", "trk_id": None,
                 "signature_id": None}, **over)


# Each fault: how many users, the networks that they come from (None: anywhere), the days on which it shows, and what a request of
# theirs becomes. `at`: what all requests have; `now`: when it is judged.
def ahead(at, now, dice):
    at["claims"]["time"] = stamp(now + timedelta(seconds=dice.randrange(30, 48)), False)
    return refused("time.future", "time", **at)


def zoneless(at, now, dice):
    at["claims"]["time"] = (now - timedelta(hours=5)).strftime("%Y-%m-%dT%H:%M:%S")
    return refused("time.stale", "time", **at)


def capitals(at, now, dice):
    at["claims"]["kms_uri"] = dice.choice(["KMS.Example.ORG", "https://kms.example.org"])
    return refused("kms_uri.mismatch", "kms_uri", **at)


def base_alone(at, now, dice):
    at["claims"]["client_req_url"] = PUBLIC + "/keymanagement"
    return refused("client_req_url.mismatch", "client_req_url", **at)


def spelt(at, now, dice):
    at["claims"]["client_req_url"] = "HTTPS://kms.example.org:443" + PATH
    return refused("client_req_url.mismatch", "client_req_url", **at)


def balancer(at, now, dice):
    at["claims"]["client_req_url"] = "https://lb-7.internal.example" + PATH
    return refused("client_req_url.mismatch", "client_req_url", **at)


def empty(at, now, dice):
    at = dict(at, path=BASE + "/init", claims=None, client_id=None, device_id=None, skew_ms=None,
              user=None, expected_url=None)
    return refused("signature.missing", None, form="empty", proven=False, checks=dict.fromkeys(ALL, None), key_id=None,
                   key_type=None, **at)


def lost(at, now, dice):
    return refused("key.revoked", "signature", **at)


def curious(at, now, dice):
    at["path"] = PATH + "/sip%3Achief%40example.org"
    at["claims"]["client_req_url"] = PUBLIC + at["path"]
    return refused("path_user.mismatch", "path_user", **at)


def moved(at, now, dice):
    at["claims"]["kms_uri"] = "kms-old.example.org"
    return refused("kms_uri.mismatch", "kms_uri", **at)


# name: (users, network or None, first and last day of the week, maker, how advise names it, whether it is excused)
FAULTS = {
    "ahead": (35, "10.44.1", (0, 7), ahead, "clock-ahead", True),
    "zoneless": (60, "10.45.2", (2, 7), zoneless, "local-time", True),
    "capitals": (45, None, (0, 7), capitals, "kms-uri-host", True),
    "base alone": (25, "10.46.3", (3, 5), base_alone, "url-prefix", True),
    "spelt": (30, "10.47.4", (0, 7), spelt, "url-spelling", True),
    "empty": (80, "10.48.5", (0, 7), empty, "form", True),
    "balancer": (50, None, (5, 6), balancer, "url-host", False),
    "lost": (4, None, (1, 7), lost, "revoked-key", False),
    "curious": (1, "10.49.6", (6, 7), curious, "path-user", False),
    "moved": (40, "10.50.7", (0, 7), moved, "kms-uri", False),
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    dice = random.Random(5000)
    numbers = dice.sample(range(100000), USERS)  # whom a fault concerns is nothing that a name tells
    users, events, of = [], [], {}
    for name, (n, net, days, make, _, _) in FAULTS.items():
        of[name] = [("sip:%05d@example.org" % numbers.pop(), net or "10.%d.%d" % (60 + dice.randrange(40), dice.randrange(250)))
                    for _ in range(n)]
        users += [(u, net, make, days) for u, net in of[name]]
    users += [("sip:%05d@example.org" % n, "10.%d.%d" % (60 + dice.randrange(40), dice.randrange(250)), None, (0, 7))
              for n in numbers]
    assert len(users) == len({u for u, *_ in users}) == USERS
    for user, net, make, (first, last) in users:
        source = "%s.%d" % (net, dice.randrange(1, 250))
        for _ in range(2):
            events.append((BEGIN + timedelta(seconds=dice.uniform(first, last) * 86400), user, source, make))
    events.sort(key=lambda e: e[0])
    lines, seen = [], {}
    for n, (now, user, source, make) in enumerate(events):
        at = {"time": stamp(now), "id": "%032x" % n, "user": user, "source": source, "path": PATH, "skew_ms": None,
              "claims": claims(time=stamp(now, False)), "expected_url": PUBLIC + PATH}
        if make is curious:
            at["expected_url"] = PUBLIC + PATH + "/sip%3Achief%40example.org"
        lines.append(make(at, now, dice) if make else decision(**at))
        if make:
            seen.setdefault(make.__name__, []).append(stamp(now)[:19] + "Z")
    folder = tmp_path_factory.mktemp("week")
    half = len(lines) // 2
    (folder / "log.1.gz").write_bytes(gzip.compress(dumped(lines[:half]), 1))
    (folder / "log").write_bytes(dumped(lines[half:]))
    (folder / "strict.yaml").write_text(STRICT)
    said = kmsgate(folder, "advise", "--rules", "strict.yaml", "log.1.gz", "log", code=1)
    return {"folder": folder, "said": said, "of": of, "seen": seen, "lines": lines}


def blocks(said):
    """What is said of each group: its counts, and all lines up to the next."""
    heads = list(re.finditer(r"^\s*# (\d+) requests? of (\d+) users? from (\d+) address(?:es)?, first (\S+), last (\S+)$", said, re.M))
    ends = [h.start() for h in heads[1:]] + [len(said)]
    return [(int(h[1]), int(h[2]), h[4], h[5], said[h.start():end]) for h, end in zip(heads, ends)]


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found(fleet, name):
    n, net, _, make, cause, excused = FAULTS[name]
    mine = [b for b in blocks(fleet["said"])
            if re.search(r"- id: advise-\d+-%s$" % cause if excused else r"^# [A-Z].*: %s: " % cause, b[4], re.M)]
    assert mine, fleet["said"][:3000]
    seen = fleet["seen"][make.__name__]
    assert sum(b[0] for b in mine) == len(seen) == 2 * n
    assert sum(b[1] for b in mine) == (n if make is not empty else 0)
    assert min(b[2] for b in mine) == min(seen) and max(b[3] for b in mine) == max(seen)
    for b in mine:
        assert ("Costs: " in b[4]) == excused
    if net and excused:
        rule, = [r for r in rules_of(fleet["said"]) if kind(r) == cause]
        assert [s.rsplit(".", 1)[0] for s in rule["match"]["source"]] == [net] and rule["until"] and rule["why"]


def test_no_other_is_excused_or_blamed(fleet):
    assert {kind(r) for r in rules_of(fleet["said"])} == {c for *_, c, excused in FAULTS.values() if excused}
    assert sum(b[0] for b in blocks(fleet["said"])) == sum(len(s) for s in fleet["seen"].values())
    faulty = {u for users in fleet["of"].values() for u, _ in users}
    assert set(re.findall(r"sip:\d{5}@example\.org", fleet["said"])) <= faulty
    comments = "\n".join(x for x in fleet["said"].splitlines() if x.lstrip().startswith("#"))
    for words in ("add it to `public_url`", "lb-7.internal.example", "add it to `kms.uris`", "kms-old.example.org",
                  "give the user a new key", "path_user.also"):
        assert words in comments, words


def test_with_the_advice_nobody_is_refused_but_the_named(fleet):
    folder = fleet["folder"]
    (folder / "new.yaml").write_text(pasted(fleet["said"]))
    kmsgate(folder, "check", "new.yaml")
    replayed = json.loads(kmsgate(folder, "replay", "--format", "json", "--rules", "new.yaml", "log.1.gz", "log"))
    assert replayed["summary"]["newly_refused"] == replayed["summary"]["reply_lost"] == 0
    let_in = {c["id"] for c in replayed["changes"] if c["to"]["verdict"] != "reject"}
    still = {d["user"] for d in fleet["lines"] if d["verdict"] == "reject" and d["id"] not in let_in}
    named = {u for name, users in fleet["of"].items() for u, _ in users if not FAULTS[name][5]}
    assert still == named
    again = kmsgate(folder, "advise", "--rules", "new.yaml", "log.1.gz", "log", code=1)
    assert yaml.safe_load(again) == {"requests": []} and "No exception" in again
