"""kmsgate advise on a made fleet: ten faults hidden among thousands of decisions, and what must never be excused."""
import gzip
import json
import random
import subprocess
from datetime import datetime, timedelta, timezone

import pytest
import yaml

from conftest import BUILD
from kms import BASE
from test_replay import ALL, STRICT, decision, refused

T0 = datetime(2026, 11, 23, 18, 0, 0, tzinfo=timezone.utc)
URL = "https://kms.example.org" + BASE + "/init"


def stamp(t, ms=True):
    return t.strftime("%Y-%m-%dT%H:%M:%S") + (".%03dZ" % (t.microsecond // 1000) if ms else "Z")


class Fleet:
    """5,000 users, each in a network of the fleet; every user also asks as it should."""

    def __init__(self, seed):
        self.random, self.lines, self.now, self.users = random.Random(seed), [], T0, {}
        numbers = iter(range(10000))
        # fault: (how many users, what a refusal looks like)
        for fault, n in (("good", 4486), ("late", 40), ("unsigned", 300), ("local", 30), ("http", 20), ("slash", 7),
                         ("short", 12), ("port", 90), ("unknown", 5), ("replay", 4), ("forged", 6)):
            self.users[fault] = []
            for _ in range(n):
                k = next(numbers)
                net = "10.77.%d" % self.random.randrange(4) if fault == "unsigned" else "10.%d.%d" % (
                    20 + k % 3, self.random.randrange(250))
                self.users[fault].append(("sip:u%04d@%s" % (k, "old.example.org" if fault == "unsigned" else "example.org"),
                                          "%s.%d" % (net, self.random.randrange(1, 250))))

    def claims(self, late=0):
        return {"kms_uri": "kms.example.org", "time": stamp(self.now - timedelta(seconds=late), False), "client_req_url": URL,
                "version": "1.1.0", "trk_id": None, "signature_id": "ink.1"}

    def request(self, fault, user, source):
        """One decision of a user with that fault under the standard's rules."""
        self.now += timedelta(milliseconds=self.random.randrange(50, 900))
        at = {"time": stamp(self.now), "id": "%032x" % len(self.lines), "user": user, "source": source,
              "claims": self.claims(), "skew_ms": None}
        claims = at["claims"]
        if fault == "late":
            claims["time"] = self.claims(self.random.randrange(8, 21))["time"]
            return refused("time.stale", "time", **at)
        if fault == "unsigned":
            return refused("signature.missing", None, form="unsigned", proven=False, checks=dict.fromkeys(ALL, None),
                           key_id=None, key_type=None, **at)
        if fault == "local":
            claims["time"] = (self.now + timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S")
            return refused("time.future", "time", **at)
        if fault == "http":
            claims["client_req_url"] = "http" + URL[5:]
            return refused("client_req_url.mismatch", "client_req_url", **at)
        if fault == "slash":
            claims["client_req_url"] = URL + "/"
            return refused("client_req_url.mismatch", "client_req_url", **at)
        if fault == "short":
            claims["hmac_bits"] = 128
            return refused("signature.profile", "signature", **at)
        if fault == "port":
            claims["kms_uri"] = "https://kms.example.org:8443"
            return refused("kms_uri.mismatch", "kms_uri", **at)
        if fault == "unknown":
            return refused("key.unknown", "signature", **at)
        if fault == "forged":
            return refused("signature.invalid", "signature", **at)
        if fault == "replay":
            return refused("replay.seen", "replay", **at)
        return decision(**at)

    def make(self, each=2):
        queue = [(f, u) for f, users in self.users.items() for u in users for _ in range(each)]
        self.random.shuffle(queue)
        for fault, (user, source) in queue:
            self.lines.append(self.request(fault, user, source))
        return self.lines


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    f = Fleet(20261123)
    f.make()
    f.folder = tmp_path_factory.mktemp("fleet")
    (f.folder / "log.gz").write_bytes(gzip.compress(dumped(f.lines), 1))
    (f.folder / "strict.yaml").write_text(STRICT)
    f.said = kmsgate(f.folder, "advise", "--rules", "strict.yaml", "log.gz", code=1)
    return f


def dumped(lines):
    return "".join(json.dumps(x) + "\n" for x in lines).encode()


def kmsgate(folder, *argv, stdin=None, code=0):
    r = subprocess.run([BUILD / "kmsgate", *argv], capture_output=True, timeout=300, cwd=folder, input=stdin)
    assert r.returncode == code, r.stdout[:3000].decode() + r.stderr[:3000].decode()
    assert b"runtime error" not in r.stderr and b"ERROR: " not in r.stderr
    return r.stdout.decode()


def advise(tmp_path, lines, rules=STRICT, code=1):
    (tmp_path / "r.yaml").write_text(rules)
    return kmsgate(tmp_path, "advise", "--rules", "r.yaml", "-", stdin=dumped(lines), code=code)


def rules_of(said):
    doc = yaml.safe_load(said)
    assert list(doc) == ["requests"]
    return doc["requests"]


def pasted(said, rules=STRICT):
    """The advice above the rules' own."""
    doc = yaml.safe_load(rules)
    doc["requests"] = rules_of(said) + doc["requests"]
    return yaml.safe_dump(doc, sort_keys=False)


def kind(rule):
    return rule["id"].split("-", 2)[2]


def test_the_ten_faults_are_found(fleet):
    found = {}
    for rule in rules_of(fleet.said):
        found.setdefault(kind(rule), []).append(rule)
    assert set(found) == {"clock-behind", "form", "local-time", "short-hmac", "kms-uri-host"}
    assert all("until" in r and "why" in r and r["match"]["source"] for rules in found.values() for r in rules)
    assert {r["checks"]["time"]["assume_zone"] for r in found["local-time"]} == {"+02:00"}
    assert {r["checks"]["signature"]["min_hmac_bits"] for r in found["short-hmac"]} == {128}
    assert {r["checks"]["kms_uri"]["compare"] for r in found["kms-uri-host"]} == {"host"}
    assert all(10 <= int(r["checks"]["time"]["past"][:-1]) <= 25 for r in found["clock-behind"])
    form, = found["form"]
    assert form["match"]["user"].startswith("sip:u") and form["match"]["user"].endswith("*@old.example.org")
    assert form["match"]["source"] == ["10.77.0.0/22"] and form["accept"] == ["unsigned"] and "checks" not in form
    comments = "\n".join(x for x in fleet.said.splitlines() if x.startswith("#"))
    for words in ("url-scheme: ", "found http://kms.example.org.", "add it to `public_url`", "url-slash: ", "trailing slash",
                  "unknown-key: ", "import their keys", "signature: the signature is wrong", "replay: the same signed request"):
        assert words in comments, words


def test_each_names_its_users_and_no_other(fleet):
    for fault, name in (("late", "clock-behind"), ("local", "local-time"), ("short", "short-hmac"), ("port", "kms-uri-host")):
        named = {u for r in rules_of(fleet.said) if kind(r) == name for u in r["match"]["user"]}
        assert named == {u for u, _ in fleet.users[fault]}, fault
    good = {u for u, _ in fleet.users["good"]}
    assert not [u for u in good if '"%s"' % u in fleet.said]


def test_the_advice_passes_check_and_lets_in_all_but_the_named(fleet):
    (fleet.folder / "new.yaml").write_text(pasted(fleet.said))
    kmsgate(fleet.folder, "check", "new.yaml")
    summary = json.loads(kmsgate(fleet.folder, "replay", "--format", "json", "--rules", "new.yaml", "log.gz"))
    assert summary["summary"]["newly_refused"] == 0
    left = {}
    for c in summary["changes"]:
        left[c["user"]] = c["to"]
    for fault in ("late", "unsigned", "local", "port", "short"):  # what a signature hides, replay calls unknown
        assert all(left[u]["verdict"] != "reject" for u, _ in fleet.users[fault]), fault
    for fault in ("http", "slash", "unknown", "replay", "forged"):
        assert not [u for u, _ in fleet.users[fault] if u in left], fault
    again = kmsgate(fleet.folder, "advise", "--rules", "new.yaml", "log.gz", code=1)
    assert rules_of(again) == []


def test_nobody_is_locked_out(tmp_path):
    said = advise(tmp_path, [decision()] * 3, code=0)
    assert rules_of(said) == [] and "Nobody is locked out" in said
    for reason, check in (("replay.seen", "replay"), ("http.timeout", None), ("upstream.timeout", None)):
        assert rules_of(advise(tmp_path, [refused(reason, check, rule=None if not check else "everyone")], code=0)) == []


@pytest.mark.parametrize("reason,check,words", [
    ("signature.invalid", "signature", "no exception: compare the key"), ("signature.reference", "signature", "no exception"),
    ("key.unknown", "signature", "import their keys"), ("key.revoked", "signature", "give the user a new key"),
    ("key.policy", "key_policy", "import that TrK"), ("path_user.mismatch", "path_user", "path_user.also"),
    ("xml.invalid", "schema", "`kmsgate explain`"), ("signature.profile", "signature", "`kmsgate explain`"),
])
def test_what_gets_no_exception(tmp_path, reason, check, words):
    over = {"path": BASE + "/keyprov/sip%3Abob%40example.org"} if check == "path_user" else {}
    said = advise(tmp_path, [refused(reason, check, **over)])
    assert rules_of(said) == [] and words in said


def late(seconds, **over):
    t = datetime(2026, 11, 23, 18, 0, 0, tzinfo=timezone.utc) - timedelta(seconds=seconds)
    return refused("time.stale", "time", claims={"time": stamp(t, False)}, **over)


def test_a_clock_has_an_exception_up_to_five_minutes(tmp_path):
    rule, = rules_of(advise(tmp_path, [late(22)]))
    assert rule["checks"] == {"time": {"past": "25s"}}
    assert rule["match"] == {"form": "signed", "source": ["10.1.2.3/32"], "user": ["sip:alice@example.org"]}
    assert rules_of(advise(tmp_path, [late(290)]))[0]["checks"] == {"time": {"past": "295s"}}
    said = advise(tmp_path, [late(301)])
    assert rules_of(said) == [] and "set its clock" in said


def test_a_late_replay_is_not_a_slow_clock(tmp_path):
    first = decision(claims={"time": "2026-11-23T17:59:38Z"}, time="2026-11-23T17:59:39.000Z")
    said = advise(tmp_path, [first, late(22)], code=0)
    assert rules_of(said) == [] and "accepted before" in said


@pytest.mark.parametrize("url,words", [
    ("http://kms.example.org" + BASE + "/init", "url-scheme: "), ("https://kms.example.org:8443" + BASE + "/init", "url-host: "),
    ("https://kms.example.org/kms" + BASE + "/init", "url-path: "), (URL + "/", "url-slash: "), (URL, "url-query: "),
    ("https://other.example/x", "url: "),
])
def test_urls_that_are_mended_elsewhere(tmp_path, url, words):
    said = advise(tmp_path, [refused("client_req_url.mismatch", "client_req_url", claims={"client_req_url": url})])
    assert rules_of(said) == [] and words in said


@pytest.mark.parametrize("url,compare", [("https://kms.example.org", "prefix"), ("HTTPS://KMS.example.org:443" + BASE + "/init", "normalized")])
def test_urls_that_can_be_compared(tmp_path, url, compare):
    lines = [refused("client_req_url.mismatch", "client_req_url", claims={"client_req_url": url})]
    rule, = rules_of(advise(tmp_path, lines))
    assert rule["checks"] == {"client_req_url": {"compare": compare}}
    assert rules_of(advise(tmp_path, lines, pasted(advise(tmp_path, lines)), code=0)) == []


def test_two_faults_at_once_need_one_rule(tmp_path):
    both = late(22)
    both["checks"]["kms_uri"] = "fail"
    both.update(reason="kms_uri.mismatch")
    both["claims"]["kms_uri"] = "https://kms.example.org:8443"
    lines = [late(12), both]
    said = advise(tmp_path, lines)
    rule, = rules_of(said)
    assert rule["checks"] == {"kms_uri": {"compare": "host"}, "time": {"past": "25s"}}
    assert rules_of(advise(tmp_path, lines, pasted(said), code=0)) == []


def test_without_a_bound_there_is_no_exception(tmp_path):
    unsigned = dict(form="unsigned", proven=False, checks=dict.fromkeys(ALL, None))
    said = advise(tmp_path, [refused("signature.missing", None, source="unix", **unsigned)])
    assert rules_of(said) == [] and "would be for everybody" in said
    said = advise(tmp_path, [refused("signature.missing", None, user="sip:*@example.org", **unsigned)])
    rule, = rules_of(said)
    assert rule["match"] == {"form": "unsigned", "source": ["10.1.2.3/32"]}, "a user cannot write the glob of its own exception"
    rule, = rules_of(advise(tmp_path, [late(22, source="unix")]))
    assert rule["match"]["user"] == ["sip:alice@example.org"] and "source" not in rule["match"]


def test_what_is_no_fault_of_a_client_is_named(tmp_path):
    """A denial that was meant, a reply for which there was no TrK: no exception is offered."""
    denied = refused("rule.denied", None, checks=dict.fromkeys(ALL, None))
    shut = STRICT.replace("[{ id: everyone }]", "[{ id: shut, why: a test, deny: on }, { id: everyone }]")
    said = advise(tmp_path, [denied], shut)
    assert rules_of(said) == [] and "denied: " in said, said
    said = advise(tmp_path, [decision(reason="protect.no_key", status=500)])
    assert rules_of(said) == [] and "no-trk: " in said, said


def test_parameters_are_kept_as_they_are(tmp_path):
    """Those that differ from the standard's: an exception is its rule, but for the one thing."""
    checks = {"schema": {"versions": ["1.1.0", "7"]}, "signature": {"min_hmac_bits": 128, "canonicalization": ["c14n", "exc-c14n"]},
              "time": {"assume_zone": "refuse"}}
    doc = yaml.safe_load(STRICT)
    doc["requests"][0]["checks"] = checks
    rule, = rules_of(advise(tmp_path, [late(22)], yaml.safe_dump(doc, sort_keys=False)))
    assert rule["checks"] == dict(checks, time={"past": "25s", "assume_zone": "refuse"}), rule


def test_the_rest_of_the_rule_is_kept(tmp_path):
    rules = """version: 1
kms: { uris: [kms.example.org] }
requests:
  - id: dispatch
    why: a test
    match: { user: "sip:a*" }
    checks: { time: { future: 9s, assume_zone: Europe/Paris }, kms_uri: { mode: shadow }, path_user: { also: ["sip:group-*@example.org"] } }
    forward: { headers: { X-3GPP-Asserted-Identity: "{user}", X-A: 'it''s "{rule}": #1' }, body: signed }
  - id: everyone
responses:
  - { id: one, match: { rule: dispatch } }
  - { id: default }
"""
    said = advise(tmp_path, [late(22)], rules)
    rule, = rules_of(said)
    kept = yaml.safe_load(rules)["requests"][0]
    assert rule["forward"] == kept["forward"]
    assert rule["checks"] == dict(kept["checks"], time={"past": "25s", "future": "9s", "assume_zone": "Europe/Paris"})
    assert "Paste it above `dispatch` (line 4)" in said
    assert "Add `advise-1-clock-behind` to match.rule of the response rule `one` (line 11)" in said
    (tmp_path / "new.yaml").write_text(pasted(said, rules))
    kmsgate(tmp_path, "check", "new.yaml")
    unsigned = refused("signature.missing", None, form="unsigned", proven=False, checks=dict.fromkeys(ALL, None))
    said = advise(tmp_path, [unsigned], rules.replace("body: signed", "body: request"))
    (tmp_path / "new.yaml").write_text(pasted(said, rules))
    kmsgate(tmp_path, "check", "new.yaml")
    assert "headers" not in rules_of(said)[0].get("forward", {}) and "forward.headers is left out" in said


def test_what_strangers_wrote_stays_in_its_line(tmp_path):
    evil = "sip:eve\n  - id: open\n    match: {}@example.org"
    said = advise(tmp_path, [late(22, user=evil)])
    assert "- id: open" not in [x.strip() for x in said.splitlines()] and "sip:eve\\x0a" in said
    rule, = rules_of(said)
    assert rule["match"] == {"form": "signed", "source": ["10.1.2.3/32"]}
    quoted = 'sip:q"\\"x@example.org'
    assert rules_of(advise(tmp_path, [late(22, user=quoted)]))[0]["match"]["user"] == [quoted]


def test_no_rule_for_them(tmp_path):
    rules = STRICT.replace("{ id: everyone }", "{ id: everyone, match: { user: 'sip:b*' } }")
    lines = [refused("rule.none", None, rule=None)]
    said = advise(tmp_path, lines, rules)
    rule, = rules_of(said)
    assert rule["accept"] == ["signed"] and "checks" not in rule and "below all other rules" in said


@pytest.mark.parametrize("claims,signature", [
    ({"c14n": "exc-c14n", "hmac_bits": 256}, {"canonicalization": ["c14n", "exc-c14n"]}),
    ({"c14n": "c14n11", "hmac_bits": 256}, {"canonicalization": ["c14n", "c14n11"]}),
    ({"c14n": "exc-c14n", "hmac_bits": 160}, {"canonicalization": ["c14n", "exc-c14n"], "min_hmac_bits": 160})])
def test_a_signature_in_another_form(tmp_path, claims, signature):
    """Both are excused where both are at fault: with one of them alone nobody would be let in."""
    line = refused("signature.profile", "signature", claims=claims)
    said = advise(tmp_path, [line])
    rule, = rules_of(said)
    assert rule["checks"] == {"signature": signature} and rule["match"]["source"] and rule["until"]
    assert "nothing proves yet that these users sent them" in said
    again = advise(tmp_path, [line], pasted(said), code=0)
    assert rules_of(again) == [] and "Nobody is locked out" in again


@pytest.mark.parametrize("claims", [{}, {"c14n": "exc-c14n"}, {"c14n": "c14n", "hmac_bits": 256}, {"hmac_bits": 64, "c14n": "exc-c14n"},
                                    {"hmac_bits": 120}])
def test_a_signature_that_no_rule_takes(tmp_path, claims):
    said = advise(tmp_path, [refused("signature.profile", "signature", claims=claims)])
    assert rules_of(said) == [] and "# Clients to be mended: signature-profile: " in said


MENDED = {
    "version": (refused("xml.invalid", "schema", claims={"version": "1.2.0"}),
                "Clients to be mended: version: Version is one that the rules do not name: found 1.2.0."),
    "xml": (refused("xml.invalid", "schema"), "Clients to be mended: xml: "),
    "trk-signs": (refused("key.policy", "key_policy", key_type="trk", key_id="trk.1.alice",
                          claims={"signature_id": "trk.1.alice"}), "Clients to be mended: trk-signs: "),
    "signature-id": (refused("key.policy", "key_policy", claims={"signature_id": "ink.2"}), "Clients to be mended: signature-id: "),
    "trk-id": (refused("key.policy", "key_policy", claims={"trk_id": "trk.0"}),
               "Keys: trk-id: TrK-ID names no TrK of the user that is in use, or is missing where a rule demands it, such as trk.0."),
    "path-user": (refused("path_user.mismatch", "path_user", path=BASE + "/keyprov/sip%3Agroup-7%40example.org"),
                  "path-user: the user asks for the keys of another, such as sip:group-7@example.org."),
}


@pytest.mark.parametrize("what", MENDED)
def test_what_is_at_fault_is_named(tmp_path, what):
    line, words = MENDED[what]
    said = advise(tmp_path, [line])
    assert rules_of(said) == [] and words in said, said


def test_what_a_whole_fleet_has_is_told_once(tmp_path):
    """Of one fault, in forty networks; and of one source that sends more than all others."""
    def of(n, reason, check, **over):
        return refused(reason, check, user="sip:u%02d@example.org" % n, source="10.%d.0.1" % n, **over)
    slashes = [of(n, "client_req_url.mismatch", "client_req_url", claims={"client_req_url": URL + "/"}) for n in range(40)]
    forged = [of(n, "signature.invalid", "signature") for n in range(30)] + \
        [refused("signature.invalid", "signature", user="sip:victim@example.org", source="192.0.2.66")] * 50
    said = advise(tmp_path, slashes + forged)
    assert "refused requests fall into 3 groups" in said
    assert "# 40 requests of 40 users from 40 addresses" in said and "# From: 10.0.0.0/10, 40 networks in it" in said
    assert "# 50 requests of 1 user from 1 address" in said and "# From: 192.0.2.66/32\n" in said
    assert "# 30 requests of 30 users from 30 addresses" in said
    head = said[:said.index("requests:")]
    assert "#   signature              80 requests of 31 users: the signature is wrong" in head
    assert "#   url-slash              40 requests of 40 users: ClientReqUrl has a trailing slash" in head


def named(n):
    """In each of n networks three users with a KmsUri that names the right host."""
    return [refused("kms_uri.mismatch", "kms_uri", user="sip:u%02d-%d@example.org" % (i, j), source="10.%d.0.%d" % (i, j + 1),
                    claims={"kms_uri": "https://kms.example.org"}) for i in range(n) for j in range(3)]


def test_an_exception_of_many_networks_is_one_rule(tmp_path):
    """Of forty networks: no forty rules, and none that is not bounded by both, or names a network whole."""
    lines = named(40)
    said = advise(tmp_path, lines)
    rules = rules_of(said)
    assert len(rules) == 2 and "One rule for 21 networks: whom it names may come from any of them." in said, said
    assert sorted(u for r in rules for u in r["match"]["user"]) == sorted(d["user"] for d in lines)
    assert sorted(s for r in rules for s in r["match"]["source"]) == sorted("10.%d.0.0/30" % i for i in range(40))
    assert sum(int(r["why"].split()[-3]) for r in rules) == 120 and all(len(r["match"]["user"]) <= 64 for r in rules)
    assert {json.dumps(r["checks"]) for r in rules} == {'{"kms_uri": {"compare": "host"}}'} and len({r["id"] for r in rules}) == 2
    relaxed = pasted(said)
    assert rules_of(advise(tmp_path, lines, relaxed, code=0)) == []
    for other in ({"user": "sip:u00-9@example.org"}, {"source": "10.0.0.77"}, {"source": "10.40.0.1"}):
        assert rules_of(advise(tmp_path, [dict(lines[0], **other)], relaxed)), other


def test_a_glob_of_many_networks_is_one_rule(tmp_path):
    lines = [dict(d, user="sip:%s-%02d@example.org" % (d["user"][4:7], k)) for d in named(6) for k in range(70)]
    rule, = rules_of(advise(tmp_path, lines))
    assert len(rule["match"]["source"]) == 6 and len(rule["match"]["user"]) == 6 and "sip:u00-*@example.org" in rule["match"]["user"]


def test_few_networks_keep_their_own_rules(tmp_path):
    said = advise(tmp_path, named(4))
    assert len(rules_of(said)) == 4 and "One rule for" not in said
    assert len(rules_of(advise(tmp_path, named(5)))) == 1


def test_an_exception_of_many_networks_takes_in_nobody_else(tmp_path):
    """One of those users comes late from another of those networks: he needs another rule, and this one would be first."""
    lines = named(40) + [late(22, user="sip:u00-0@example.org", source="10.5.0.1")]
    said = advise(tmp_path, lines)
    rules = rules_of(said)
    assert {r["id"].split("-", 2)[2] for r in rules} == {"kms-uri-host", "clock-behind"}, said
    assert len(rules) == 4 and all(len(r["checks"]) == 1 for r in rules), said
    assert rules_of(advise(tmp_path, lines, pasted(said), code=0)) == []
