"""kmsgate replay: recorded decisions under other rules. What it says for certain is what the gate itself says."""
import copy
import json
import os
import re
import subprocess

import pytest
from lxml import etree

import conftest
import kms
from kms import BASE

STRICT = "version: 1\nkms: { uris: [kms.example.org] }\nrequests: [{ id: everyone }]\nresponses: [{ id: default }]\n"


def rules(checks="", more="", responses="[{ id: default }]", uris="kms.example.org"):
    return ("version: 1\nkms: { uris: [%s] }\nrequests:\n%s  - id: everyone\n    why: a test\n%sresponses: %s\n"
            % (uris, more, "    checks: %s\n" % checks if checks else "", responses))


ALL = {c: "pass" for c in ("schema", "signature", "key_policy", "kms_uri", "time", "client_req_url", "path_user", "replay")}


def decision(**over):
    d = {"time": "2026-11-23T18:00:00.500Z", "id": "0123", "source": "10.1.2.3", "method": "POST", "path": BASE + "/init",
         "rule": "everyone", "form": "signed", "proven": True, "user": "sip:alice@example.org", "client_id": "c-1",
         "device_id": "d-1", "key_id": "ink.1.alice", "key_type": "ink", "checks": dict(ALL), "verdict": "accept",
         "reason": "ok",
         "claims": {"kms_uri": "kms.example.org", "time": "2026-11-23T18:00:00Z",
                    "client_req_url": "https://kms.example.org" + BASE + "/init", "version": "1.1.0",
                    "trk_id": "trk.1.alice", "signature_id": "ink.1.alice"},
         "expected_url": "https://kms.example.org" + BASE + "/init", "rules": "00" * 32, "skew_ms": 500, "status": 200,
         "upstream": {"status": 200, "ms": 1.5}, "response": {"rule": "default", "message": "KmsInit", "signed_by": "ink.1"},
         "ms": {"total": 2.0, "judge": 0.1}}
    d = copy.deepcopy(d)
    for k, v in over.items():
        if isinstance(v, dict) and isinstance(d.get(k), dict):
            d[k].update(v)
            d[k] = {a: b for a, b in d[k].items() if b is not None}
        elif v is None:
            d.pop(k, None)
        else:
            d[k] = v
    return d


def refused(reason, check, **over):
    """Refused by one check; after a failed schema or signature the rest was skipped."""
    checks = dict(ALL, replay="skip")
    if check:
        checks[check] = "fail"
    if check in ("schema", "signature"):
        after = list(ALL)[list(ALL).index(check) + 1:]
        checks.update({c: "skip" for c in after})
    return decision(**dict({"verdict": "reject", "reason": reason, "checks": checks, "response": None, "upstream": None,
                            "proven": check not in ("schema", "signature"),
                            "expected_url": None if check in ("schema", "signature") else decision()["expected_url"]}, **over))


def run(tmp_path, new, lines, *argv, stdin=None, code=0):
    (tmp_path / "new.yaml").write_text(new)
    text = "".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines)
    (tmp_path / "log.jsonl").write_text(text)
    r = subprocess.run([conftest.BUILD / "kmsgate", "replay", "--rules", "new.yaml", *argv,
                        "-" if stdin else "log.jsonl"], capture_output=True, text=True, timeout=120, cwd=tmp_path,
                       input=text if stdin else None)
    assert r.returncode == code, r.stdout + r.stderr
    assert "ERROR: " not in r.stderr and "runtime error" not in r.stderr, r.stderr
    return r


def replayed(tmp_path, new, lines, **kw):
    return json.loads(run(tmp_path, new, lines, "--format", "json", **kw).stdout)


def one(tmp_path, new, d):
    """(change, to) of one decision."""
    got = replayed(tmp_path, new, [d])
    counted = [k for k in got["summary"] if k in NAMES and got["summary"][k]]
    assert len(counted) == 1
    return counted[0], (got["changes"][0]["to"] if got["changes"] else None)


NAMES = ["newly_refused", "reply_lost", "newly_accepted", "accepted_if_no_replay", "open", "other_reason", "other_shadow", "open_shadow",
         "other_reply", "other_rule", "unchanged"]

# A recorded decision, new rules, what becomes of it, and words of how.
URL = "https://kms.example.org" + BASE + "/init"
STALE = dict(claims={"time": "2026-11-23T17:59:40Z"}, skew_ms=20500)
KINDS = [
    # nothing is other
    (decision(), STRICT, "unchanged", {}),
    (refused("kms_uri.mismatch", "kms_uri", claims={"kms_uri": "other"}), STRICT, "unchanged", {}),
    (refused("signature.invalid", "signature"), STRICT, "unchanged", {}),
    (decision(form=None, proven=None, rule=None, checks=None, verdict="reject", reason="xml.malformed"), rules("{ time: off }"),
     "unchanged", {}),
    (decision(form=None, proven=None, rule=None, checks=None, verdict="reject", reason="http.busy", path=None), STRICT,
     "unchanged", {}),
    # kms_uri
    (decision(claims={"kms_uri": "kms9.example.org"}), STRICT, "newly_refused", {"reason": "kms_uri.mismatch"}),
    (refused("kms_uri.mismatch", "kms_uri", claims={"kms_uri": "https://kms.example.org"}), rules("{ kms_uri: { compare: host } }"),
     "accepted_if_no_replay", {"accept_if": ["replay"]}),
    (refused("kms_uri.mismatch", "kms_uri", claims={"kms_uri": "https://kms.example.org"}),
     rules("{ kms_uri: { compare: host }, replay: off }"), "newly_accepted", {}),
    (refused("kms_uri.mismatch", "kms_uri", claims={"kms_uri": "k2"}), rules("{ replay: off }", uris="kms.example.org, k2"),
     "newly_accepted", {}),
    (refused("kms_uri.mismatch", "kms_uri", claims={"kms_uri": "k" * 256}), rules("{ replay: off }"), "open",
     {"accept_if": ["kms_uri"]}),
    (decision(claims={"kms_uri": None}), STRICT, "newly_refused", {"reason": "kms_uri.mismatch"}),
    # time
    (decision(claims={"time": "2026-11-23T17:59:55.600Z"}, skew_ms=4900), rules("{ time: { past: 4s } }"), "newly_refused",
     {"reason": "time.stale"}),
    (refused("time.stale", "time", **STALE), rules("{ time: { past: 30s }, replay: off }"), "newly_accepted", {}),
    (refused("time.stale", "time", **STALE), rules("{ time: { past: 20s }, replay: off }"), "unchanged", {}),
    (refused("time.stale", "time", **STALE), rules("{ time: shadow, replay: off }"), "newly_accepted", {"shadow": ["time.stale"]}),
    (decision(claims={"time": "2026-11-23T17:59:55.501Z"}), rules("{ time: { past: 5s } }"), "unchanged", {}),
    (decision(claims={"time": "2026-11-23T17:59:55.500400Z"}, time="2026-11-23T18:00:00.500Z"), rules("{ time: { past: 5s } }"),
     "open", {"accept_if": ["time"]}),  # within the last millisecond
    (refused("time.stale", "time", claims={"time": "2026-11-23T17:59:59Z"}), rules("{ replay: off }"), "open",
     {"accept_if": ["time"]}),  # refused though fresh: the gateway had just started, or its window was narrow
    (decision(claims={"time": "2026-11-23T18:00:00"}), rules("{ time: { assume_zone: refuse } }"), "newly_refused",
     {"reason": "time.zone"}),
    (refused("time.future", "time", claims={"time": "2026-11-23T20:00:00"}), rules("{ time: { assume_zone: '+02:00' }, replay: off }"),
     "newly_accepted", {}),
    # client_req_url: without queries
    (refused("client_req_url.mismatch", "client_req_url", claims={"client_req_url": "HTTPS://KMS.example.org:443" + BASE + "/init"}),
     rules("{ client_req_url: { compare: normalized }, replay: off }"), "newly_accepted", {}),
    (refused("client_req_url.mismatch", "client_req_url", claims={"client_req_url": "https://kms.example.org/keymanagement"}),
     rules("{ client_req_url: { compare: prefix }, replay: off }"), "newly_accepted", {}),
    (refused("client_req_url.mismatch", "client_req_url", claims={"client_req_url": "https://other.example.org" + BASE + "/init"}),
     rules("{ client_req_url: { compare: normalized }, replay: off }"), "open", {"accept_if": ["client_req_url"]}),
    (refused("client_req_url.mismatch", "client_req_url", claims={"client_req_url": URL}), rules("{ replay: off }"), "unchanged", {}),
    (decision(claims={"client_req_url": "https://kms.example.org/keymanagement"}), STRICT, "newly_refused",
     {"reason": "client_req_url.mismatch"}),
    (decision(claims={"client_req_url": "https://kms.example.org/" + "a" * 240}), STRICT, "open", {}),
    (decision(claims={"client_req_url": "https://kms.example.org/keymanagement"}, checks={"client_req_url": "off"}, expected_url=None),
     STRICT, "open", {"accept_if": ["client_req_url"]}),
    (decision(claims={"client_req_url": None}, checks={"client_req_url": "off"}, expected_url=None), STRICT, "newly_refused", {}),
    # path_user
    (decision(path=BASE + "/keyprov/sip%3Abob%40example.org", claims={"client_req_url": "https://kms.example.org" + BASE +
     "/keyprov/sip%3Abob%40example.org"}, expected_url="https://kms.example.org" + BASE + "/keyprov/sip%3Abob%40example.org"),
     STRICT, "newly_refused", {"reason": "path_user.mismatch"}),
    (refused("path_user.mismatch", "path_user", path=BASE + "/keyprov/sip%3Ag1%40example.org", claims={"client_req_url":
     "https://kms.example.org" + BASE + "/keyprov/sip%3Ag1%40example.org"}, expected_url="https://kms.example.org" + BASE +
     "/keyprov/sip%3Ag1%40example.org"), rules("{ path_user: { also: ['sip:g*'] }, replay: off }"), "newly_accepted", {}),
    # schema: Version alone is in the log
    (decision(), rules("{ schema: { versions: [1.0.0] } }"), "newly_refused", {"reason": "xml.invalid"}),
    (refused("xml.invalid", "schema", claims={"version": "2.0.0"}), rules("{ schema: { versions: [2.0.0] } }"), "open", {}),
    (refused("xml.invalid", "schema"), rules("{ schema: { versions: [1.1.0] } }"), "unchanged", {}),
    (refused("xml.invalid", "schema"), rules("{ schema: shadow }"), "open", {}),
    # the signature: its recorded result alone
    (refused("signature.invalid", "signature"), rules("{ signature: shadow, key_policy: off, client_req_url: off }"),
     "newly_accepted", {"shadow": ["signature.invalid"]}),
    (refused("signature.invalid", "signature"), rules("{ signature: shadow, key_policy: off }"), "open",
     {"accept_if": ["client_req_url"]}),  # whose expected URL was never made
    (refused("signature.invalid", "signature"), rules("{ signature: shadow, client_req_url: off }"), "open",
     {"accept_if": ["key_policy"]}),
    (refused("signature.profile", "signature"), rules("{ signature: { min_hmac_bits: 128 } }"), "open", {}),
    # … and what the signature named, where the log tells
    (refused("signature.profile", "signature", claims={"hmac_bits": 128, "c14n": "c14n"}),
     rules("{ signature: { min_hmac_bits: 128 } }"), "open", {}),
    (refused("signature.profile", "signature", claims={"hmac_bits": 128, "c14n": "c14n"}),
     rules("{ signature: { min_hmac_bits: 160 } }"), "unchanged", {}),
    (refused("signature.profile", "signature", claims={"hmac_bits": 256, "c14n": "exc-c14n"}),
     rules("{ signature: { min_hmac_bits: 128 } }"), "unchanged", {}),
    (refused("signature.profile", "signature", claims={"hmac_bits": 256, "c14n": "exc-c14n"}),
     rules("{ signature: { canonicalization: [c14n, exc-c14n] } }"), "open", {}),
    (refused("signature.invalid", "signature"), rules("{ signature: { min_hmac_bits: 128 } }"), "unchanged", {}),
    (decision(checks={"signature": "off", "key_policy": "off", "replay": "off"}), STRICT, "open", {"accept_if": ["key_policy", "replay"]}),
    (decision(proven=False, checks={"signature": "off", "key_policy": "off", "replay": "off"}), STRICT, "newly_refused",
     {"verdict": "reject", "reason": None}),
    (decision(proven=False, checks={"signature": "shadow_fail", "replay": "skip"}, shadow=["key.unknown"]), STRICT, "newly_refused",
     {"reason": "key.unknown"}),
    # recorded results alone
    (decision(checks={"key_policy": "shadow_fail"}, shadow=["key.policy"]), STRICT, "newly_refused", {"reason": "key.policy"}),
    (refused("key.policy", "key_policy"), rules("{ key_policy: shadow }"), "accepted_if_no_replay", {"shadow": ["key.policy"]}),
    (decision(checks={"key_policy": "off"}), STRICT, "open", {"accept_if": ["key_policy"]}),
    (decision(checks={"key_policy": "off"}), rules("{ key_policy: shadow }"), "open_shadow", {"shadow_unknown": ["key_policy"]}),
    (refused("replay.seen", "replay", checks=dict(ALL, replay="fail")), STRICT, "unchanged", {}),
    (refused("replay.seen", "replay", checks=dict(ALL, replay="fail")), rules("{ replay: off }"), "newly_accepted", {}),
    (decision(checks={"replay": "off"}), STRICT, "open", {"accept_if": ["replay"]}),
    (decision(checks={"time": "off"}), STRICT, "unchanged", {}),
    # one certain failure decides, whatever else is unknown; but not which was first
    (decision(checks={"key_policy": "off"}, claims={"kms_uri": "x"}), STRICT, "newly_refused", {"reason": None}),
    (decision(checks={"replay": "off"}, claims={"kms_uri": "x"}), STRICT, "newly_refused", {"reason": "kms_uri.mismatch"}),
    (refused("kms_uri.mismatch", "kms_uri", checks=dict(ALL, kms_uri="fail", time="fail", replay="skip"),
             claims={"kms_uri": "x", "time": "2026-11-23T17:00:00Z"}), rules("{ kms_uri: shadow }"), "other_reason",
     {"reason": "time.stale", "shadow": ["kms_uri.mismatch"]}),
    # forms and rules
    (decision(form="unsigned", proven=False, checks={"signature": "skip", "key_policy": "skip", "replay": "skip"}), STRICT,
     "newly_refused", {"reason": "signature.missing"}),
    (refused("signature.missing", None, form="unsigned", proven=False, checks=None, expected_url=None),
     rules(more="  - id: u\n    why: x\n    match: { form: unsigned }\n    accept: unsigned\n    checks: { client_req_url: off }\n"),
     "open", {"accept_if": ["schema"], "rule": "u"}),
    (refused("signature.missing", None, form="empty", proven=False, checks=None, expected_url=None, claims=None, user=None,
             client_id=None, device_id=None),
     rules(more="  - id: u\n    why: x\n    match: { form: empty }\n    accept: empty\n"), "newly_accepted", {"rule": "u"}),
    (decision(), rules(more="  - id: first\n    match: { user: 'sip:a*' }\n"), "other_rule", {"rule": "first"}),
    (decision(), "version: 1\nkms: { uris: [k] }\nrequests: [{ id: a, match: { user: 'sip:z*' } }]\nresponses: [{ id: default }]\n",
     "newly_refused", {"reason": "rule.none"}),
    (decision(verdict="reject", reason="rule.none", rule=None, checks=None, proven=False, expected_url=None), rules("{ replay: off }"), "open",
     {"accept_if": ["schema", "signature", "key_policy", "client_req_url"]}),
    (decision(user="sip:" + "a" * 252), rules(more="  - id: first\n    match: { user: 'sip:a*' }\n"), "open", {}),
    (decision(user="sip:" + "a" * 252), STRICT, "unchanged", {}),
    (decision(user="sip:" + "a" * 244), rules(more="  - id: first\n    match: { user: 'sip:a*' }\n"), "other_rule", {}),
    (decision(client_id=None), rules(more="  - id: first\n    match: { client_id: '*' }\n"), "open", {}),
    (decision(client_id=None), rules(more="  - id: first\n    match: { client_id: 'x*' }\n"), "unchanged", {}),
    (decision(source="unix"), rules(more="  - id: first\n    match: { source: 10.0.0.0/8 }\n"), "unchanged", {}),
    (decision(), rules(more="  - id: first\n    match: { source: 10.0.0.0/8 }\n"), "other_rule", {"rule": "first"}),
    (decision(), rules(more="  - id: first\n    until: 2026-11-22\n"), "unchanged", {}),
    (decision(), rules(more="  - id: first\n    until: 2026-11-23\n"), "other_rule", {"rule": "first"}),
    # the gateway's own failure says nothing; and what was refused while other rules were asked
    (decision(verdict="reject", reason="internal"), rules("{ time: { past: 9s } }"), "open", {}),
    # replies
    (decision(), rules(responses="[{ id: inits, match: { message: KmsInit } }, { id: default }]"), "other_reply",
     {"response_rule": "inits"}),
    (decision(), rules(responses="[{ id: default, match: { message: KmsKeyProv } }]"), "reply_lost", {"response_rule": "none"}),
    # shadow alone
    (decision(checks={"time": "shadow_fail"}, shadow=["time.stale"], claims={"time": "2026-11-23T17:59:40Z"}),
     rules("{ time: { mode: shadow, past: 30s } }"), "other_shadow", {"shadow": []}),
    (decision(checks={"time": "shadow_fail", "kms_uri": "shadow_fail"}, shadow=["kms_uri.mismatch", "time.stale"],
              claims={"time": "2026-11-23T17:59:40Z", "kms_uri": "x"}), rules("{ time: shadow, kms_uri: shadow }"), "unchanged", {}),
    (decision(claims={"kms_uri": "x"}), rules("{ kms_uri: shadow }"), "other_shadow", {"shadow": ["kms_uri.mismatch"]}),
]


@pytest.mark.parametrize("n", range(len(KINDS)))
def test_kinds(tmp_path, n):
    d, new, change, to = KINDS[n]
    got, became = one(tmp_path, new, d)
    assert got == change, (got, became)
    for key, value in to.items():
        assert became.get(key) == value, became


def test_the_same_rules_change_nothing(tmp_path):
    """Whatever a line says: these very rules judged it."""
    import hashlib
    h = hashlib.sha256(STRICT.encode()).hexdigest()
    assert one(tmp_path, STRICT, decision(rules=h, claims={"kms_uri": "other"}))[0] == "unchanged"
    assert one(tmp_path, STRICT, decision(claims={"kms_uri": "other"}))[0] == "newly_refused"


BROKEN = [("{", "no JSON: "), ("[]", "found no JSON object"), ("{}", "`verdict`"), ("\x00", "no JSON"), ("x" * 2000000, "1 MiB"),
          (json.dumps(decision(verdict="maybe")), "`verdict`: expected accept or reject"),
          (json.dumps(decision(reason="time.late")), "`reason`"), (json.dumps(decision(time="2026-11-23T18:00:00")), "`time`"),
          (json.dumps(decision(form="other")), "`form`"), (json.dumps(decision(checks={"time": "perhaps"})), "`time`: expected pass"),
          (json.dumps(decision(shadow=["x"])), "`shadow`"), (json.dumps(decision(user=7)), "`user`: expected a text"),
          (json.dumps(decision(upstream={"status": -1})), "upstream.status"), (json.dumps(decision()) + "}", "no JSON"),
          (json.dumps(decision(proven="yes")), "`proven`"),
          (json.dumps(decision(claims={"hmac_bits": 99999})), "`hmac_bits`: expected a number of bits"),
          (json.dumps(decision(claims={"c14n": "c14n12"})), "`c14n`: expected a canonicalization")]


def test_broken_lines_are_told_and_counted(tmp_path):
    lines = [x for b, _ in BROKEN for x in (b, decision())]
    r = run(tmp_path, STRICT, lines)
    told = r.stderr.splitlines()
    assert len(told) == len(BROKEN)
    for n, (line, (_, words)) in enumerate(zip(told, BROKEN)):
        assert line.startswith("log.jsonl:%d: " % (2 * n + 1)) and words in line, line
    assert "%d decisions from" % len(BROKEN) in r.stdout and "%d lines could not be read" % len(BROKEN) in r.stdout


def test_standard_input_and_empty_lines(tmp_path):
    r = run(tmp_path, STRICT, [decision(), "", "broken"], stdin=True)
    assert r.stderr.startswith("standard input:3: ") and r.stdout.startswith("1 decision from ")
    assert "holds no decision" in run(tmp_path, STRICT, [], code=1).stderr
    assert "holds no decision" in run(tmp_path, STRICT, ["x"], stdin=True, code=1).stderr


def test_text_and_json_tell_the_same(tmp_path):
    lines = [k[0] for k in KINDS] + ["broken"]
    new = rules("{ kms_uri: { compare: host }, time: { past: 30s } }", more="  - id: first\n    match: { user: 'sip:b*' }\n")
    text, j = run(tmp_path, new, lines), replayed(tmp_path, new, lines)
    listed = [x for x in text.stdout.splitlines() if x.startswith("2026-")]
    assert len(listed) == len(j["changes"]) == sum(j["summary"][n] for n in NAMES if n != "unchanged")
    assert j["summary"]["decisions"] == len(KINDS) == sum(j["summary"][n] for n in NAMES)
    assert j["summary"]["broken"] == 1
    for key in ("by_rule", "by_user"):
        for name in NAMES[:-1]:
            assert sum(row.get(name, 0) for row in j["summary"][key]) == j["summary"][name]
    assert "by rule" in text.stdout and "by user" in text.stdout


def test_what_changes_of_the_reply_is_told(tmp_path):
    new = rules(responses="[{ id: new-one }]")
    r = run(tmp_path, new, [decision()])
    assert re.search(r"^2026-11-23T18:00:00\.500\d*Z 0123 .*; reply by default -> new-one$", r.stdout, re.M), r.stdout
    new = rules(responses="[{ id: lookups, match: { message: KmsLookup } }]")
    r = run(tmp_path, new, [decision()])
    assert re.search(r"; reply by default -> no rule: upstream\.invalid$", r.stdout, re.M), r.stdout


def test_what_shadow_cannot_know_is_told(tmp_path):
    """The query is not in the log: whether ClientReqUrl would hold in shadow stays open."""
    d = decision(claims={"client_req_url": URL + "?" + "q" * 300}, expected_url=URL)
    r = run(tmp_path, rules("{ client_req_url: shadow }"), [refused("kms_uri.mismatch", "kms_uri"), d])
    assert "unknown" in r.stdout, r.stdout


def test_many_users(tmp_path):
    """Tallies grow; the text names the first twenty, JSON all."""
    lines = [decision(user="sip:u%d@example.org" % (i % 300), claims={"kms_uri": "x"}) for i in range(900)]
    j = replayed(tmp_path, STRICT, lines)
    assert len(j["summary"]["by_user"]) == 300 and all(r["newly_refused"] == 3 for r in j["summary"]["by_user"])
    text = run(tmp_path, STRICT, lines).stdout
    assert "would be refused that were accepted (300 users)" in text and "and 280 more" in text


def test_hostile_texts_stay_on_their_line(tmp_path):
    hidden = "\x1b\r\x07\x85\x9b\u061c\u2028\u202e\u2066\ufeff\U000e0001"
    for argv in ((), ("--format", "json")):
        r = run(tmp_path, STRICT, [decision(user="sip:\x1b[31m\nfake" + hidden, id="\r\x07" + hidden,
                                            claims={"kms_uri": "x"}, rule="\x9b" + hidden)], *argv)
        assert len([x for x in r.stdout.split("\n") if re.match(r'2026-|{"change"', x)]) == 1
        assert not set(hidden) & set(r.stdout) and "\\u202e" in r.stdout


@pytest.mark.parametrize("argv", [[], ["log"], ["--rules", "r"], ["--rules", "r", "--format", "x", "a"],
                                  ["--rules", "r", "--foo", "a"]])
def test_wrong_usage(argv):
    r = subprocess.run([conftest.BUILD / "kmsgate", "replay", *argv], capture_output=True, text=True)
    assert r.returncode == 2 and r.stderr.startswith("kmsgate: replay: ")


def test_what_cannot_be_read_is_told(tmp_path):
    assert "new.yaml:1:10: " in run(tmp_path, "version: 2\n", [decision()], code=1).stderr
    r = subprocess.run([conftest.BUILD / "kmsgate", "replay", "--rules", tmp_path / "new.yaml", tmp_path / "none"],
                       capture_output=True, text=True)
    (tmp_path / "new.yaml").write_text(STRICT)
    r = subprocess.run([conftest.BUILD / "kmsgate", "replay", "--rules", tmp_path / "new.yaml", tmp_path / "none"],
                       capture_output=True, text=True)
    assert r.returncode == 1 and "none: cannot be read" in r.stderr
    r = subprocess.run([conftest.BUILD / "kmsgate", "replay", "--rules", tmp_path / "new.yaml", tmp_path], capture_output=True,
                       text=True)
    assert r.returncode == 1 and "cannot be read" in r.stderr
    r = subprocess.run([conftest.BUILD / "kmsgate", "replay", "--help"], capture_output=True, text=True)
    assert r.returncode == 0 and "--rules" in r.stdout


OLD = """\
version: 1
kms: { uris: [kms.example.org, other.example.org] }
requests:
  - id: watches
    why: a test
    match: { device_id: "watch-*" }
    accept: [signed, unsigned, empty]
    checks: { time: { mode: shadow }, kms_uri: shadow, client_req_url: { compare: normalized } }
  - id: everyone
responses: [{ id: default }]
"""
NEW = [
    rules("{ kms_uri: { compare: host }, time: { past: 30s, future: 3h, assume_zone: '+02:00' }, client_req_url: { compare: prefix } }"),
    rules(more="  - id: w\n    why: x\n    match: { device_id: '*7' }\n    accept: unsigned\n", uris="other.example.org"),
    rules("{ schema: { versions: [1.0.0] }, signature: shadow, key_policy: shadow, path_user: { also: ['sip:*'] } }"),
    STRICT,
]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A gateway's log of all kinds of requests, with each one's bytes beside its decision."""
    folder = tmp_path_factory.mktemp("recorded")
    alice, bob = kms.User("sip:alice@example.org"), kms.User("sip:bob@example.org")
    g = conftest.Gateway(folder, [alice, bob], rules=OLD)

    def unsigned(user, path, **over):
        return etree.tostring(kms.kms_request({k: v for k, v in kms.fields(user, g.url(path), **over).items() if v}))

    sent = []
    try:
        for prefix in ("phone-", "watch-", "watch-7"):
            over = lambda n, **kw: dict({"DeviceId": "%s%d7" % (prefix, n)}, **kw)
            bodies = [
                ("/init", kms.signed_request(alice, g.url("/init"), **over(1))),
                ("/init", kms.signed_request(alice, g.url("/init"), **over(2, KmsUri="other.example.org"))),
                ("/init", kms.signed_request(alice, g.url("/init"), **over(3, KmsUri="https://kms.example.org:1"))),
                ("/init", kms.signed_request(alice, g.url("/init"), **over(4, Time=kms.now(-20)))),
                ("/init", kms.signed_request(alice, g.url("/init"), **over(5, Time=kms.now(7200).replace("Z", "")))),
                ("/init", kms.signed_request(alice, g.public + "/keymanagement", **over(6))),
                ("/init", kms.signed_request(alice, g.url("/init").replace("http", "HTTP"), **over(7))),
                ("/init", kms.signed_request(alice, g.url("/init"), **over(8)).replace(b"client-1", b"client-2")),
                ("/init", kms.signed_request(alice, g.url("/init"), signer=(alice.trk_id, alice.trk), **over(9, **{
                    "Signature-ID": alice.trk_id}))),
                ("/keyprov/sip%3Abob%40example.org", kms.signed_request(alice, g.url("/keyprov/sip%3Abob%40example.org"), **over(10))),
                ("/init", unsigned(bob, "/init", **over(11))),
                ("/init", unsigned(bob, "/init", **over(12, Time=kms.now(-20)))),
                ("/init", b""), ("/init", b"<x"),
                ("/init", kms.signed_request(bob, g.url("/init"), request=lambda f: kms.kms_request(f, version="1.0.0"), **over(13))),
                ("/init", kms.signed_request(bob, g.url("/init"), request=lambda f: kms.kms_request(f, version="3"), **over(14))),
            ]
            for path, body in bodies:
                g.post(path, body)
                sent.append((path, body))
        log = [x for x in (g.folder / "decisions.jsonl").read_text().split("\n") if x] if g.decisions(len(sent)) else []
    finally:
        g.stop()
    assert len(log) == len(sent)
    return g, sent, log


@pytest.mark.parametrize("n", range(len(NEW)))
def test_what_is_certain_is_true(recorded, tmp_path, n):
    """Each recorded message, judged again by the gate as of its time under the new rules: where replay is certain it says
    the same, and where it is not it has a reason. `explain` judges no replay: what hangs on that alone is accepted there."""
    g, sent, log = recorded
    got = replayed(tmp_path, NEW[n], log)
    changes = {c["id"]: c for c in got["changes"]}
    (g.folder / "rules.yaml").write_text(NEW[n])
    certain = 0
    for (path, body), line in zip(sent, log):
        d = json.loads(line)
        (tmp_path / "request.xml").write_bytes(body)
        r = g.run("explain", "--config", g.config, "--at", d["time"], "--path", BASE + path, "--format", "json",
                  tmp_path / "request.xml", check=False)
        truth = json.loads(r.stdout)
        said = changes.get(d["id"])
        to = said["to"] if said else {"verdict": d["verdict"], "reason": d["reason"], "shadow": d.get("shadow", [])}
        if to["verdict"] == "unknown":
            if to.get("accept_if") == ["replay"]:
                assert truth["verdict"] == "accept", (d, truth)
            continue
        certain += 1
        assert to["verdict"] == truth["verdict"], (d, said, truth)
        if to["verdict"] == "reject" and "reason" in to:
            assert to["reason"] == truth["reason"], (d, said, truth)
        if to["verdict"] == "accept" and "shadow_unknown" not in to:
            assert to["shadow"] == truth["shadow"], (d, said, truth)
    assert certain > len(sent) / 2
