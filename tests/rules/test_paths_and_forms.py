"""Rules about paths hold however a path is spelled; `not`, `deny` and `shadow_accept`: by kmsgate test, check and replay."""
import json
import os
import subprocess
from pathlib import Path

BUILD = Path(os.environ.get("TESTED_BUILD", Path(__file__).parents[2] / "build")).resolve()
CHECKS = ["schema", "signature", "key_policy", "kms_uri", "time", "client_req_url", "path_user", "replay"]
BASE = "/keymanagement/identity/v1"
RULES = """version: 1
kms: { uris: [kms.example.org] }
requests:
  - id: police
    match: { path_user: "sip:group-police@example.org", source: 10.1.0.0/16 }
    checks: { path_user: { also: "sip:group-police@example.org" } }
  - id: nobody-else
    why: the police group's keys are for the police network
    match: { path_user: "sip:group-police@example.org" }
    deny: on
  - id: by-path
    match: { path: "/**/lookup/sip:bob@*", not: { source: [10.9.0.0/16, "2001:db8::/32"], client_id: "c-*" } }
  - id: old
    why: they do not sign yet
    until: 2199-12-31
    match: { source: 10.20.0.0/16 }
    shadow_accept: [unsigned, empty]
  - id: quiet
    match: { source: 10.30.0.0/16 }
    checks: { key_policy: { trk_id: required } }
  - id: commented
    match: { source: 10.50.0.0/16 }
    checks: { signature: { canonicalization: [c14n-comments, exc-c14n-comments, c14n11-comments] } }
  - id: west
    match: { source: 10.60.0.0/16 }
    checks: { time: { assume_zone: America/New_York } }
  - id: everyone
    checks: { path_user: { also: "sip:group-*@example.org" }, time: { assume_zone: Europe/Paris } }
responses: [{ id: default, encrypt: { when: requested } }]
"""
# Name, facts, and what is expected; KEYPROV and LOOKUP are their resources.
ROWS = [
    ('police', 'source: 10.1.2.3, path: KEYPROV/sip%3Agroup-police%40example.org', '{ verdict: accept, rule: police }'),
    ('with a time', 'source: 10.1.2.3, path: KEYPROV/sip:group-police@example.org/D6B4323200000000',
     '{ verdict: accept, rule: police }'),
    ('escaped', 'path: "KEYPROV/%73ip:group-p%6Flice@example.org"',
     '{ verdict: reject, rule: nobody-else, reason: rule.denied }'),
    ('plain', 'path: "KEYPROV/sip:group-police@example.org"', '{ verdict: reject, reason: rule.denied }'),
    ('elsewhere with a time', 'path: "KEYPROV/sip%3agroup-police%40example.org/D6B4323200000000"',
     '{ verdict: reject, reason: rule.denied }'),
    ('looked up', 'form: empty, path: "LOOKUP/sip:group-police@example.org"',
     '{ verdict: reject, reason: rule.denied }'),
    ('another group', 'path: "KEYPROV/sip:group-fire@example.org"', '{ verdict: accept, rule: everyone }'),
    ('a path', 'path: "LOOKUP/%73ip%3Abob%40example.org"', '{ verdict: accept, rule: by-path }'),
    ('not from there', 'source: 10.9.0.1, path: LOOKUP/sip:bob@example.org', '{ verdict: accept, rule: everyone }'),
    ('nor from there', 'source: "2001:db8::7", path: LOOKUP/sip:bob@example.org',
     '{ verdict: accept, rule: everyone }'),
    ('nor by that client', 'client_id: c-1, path: LOOKUP/sip:bob@example.org', '{ verdict: accept, rule: everyone }'),
    ('by another', 'client_id: d-1, path: LOOKUP/sip:bob@example.org', '{ verdict: accept, rule: by-path }'),
    ('unsigned', 'source: 10.20.0.1, form: unsigned', '{ verdict: accept, rule: old, shadow: [signature.missing] }'),
    ('empty', 'source: 10.20.0.1, form: empty', '{ verdict: accept, shadow: [signature.missing] }'),
    ('signed', 'source: 10.20.0.1', '{ verdict: accept, rule: old, shadow: [] }'),
    ('no TrK-ID', 'source: 10.30.0.1, without: trk_id', '{ verdict: reject, reason: key.policy }'),
    ('with TrK-ID', 'source: 10.30.0.1', '{ verdict: accept, rule: quiet }'),
    ('summer', 'at: "2027-07-01T10:00:00Z", time: "2027-07-01T12:00:00"', 'accept'),
    ('winter', 'at: "2027-12-01T11:00:00Z", time: "2027-12-01T12:00:00"', 'accept'),
    ('winter in summer', 'at: "2027-07-01T11:00:00Z", time: "2027-07-01T12:00:00"',
     '{ verdict: reject, reason: time.stale }'),
    ('a time that never was', 'at: "2027-03-28T01:30:00Z", time: "2027-03-28T02:30:00"',
     '{ verdict: reject, reason: time.zone }'),
    ('an hour that was there twice', 'at: "2026-10-25T00:30:00Z", time: "2026-10-25T02:30:00"', 'accept'),
    ('the same hour again', 'at: "2026-10-25T01:30:00Z", time: "2026-10-25T02:30:00"', 'accept'),
    ('far later under another rule', 'at: "2027-07-01T14:00:00Z", time: "2027-07-01T10:00:00", source: 10.60.0.1',
     '{ verdict: accept, rule: west }'),
    ('comments', 'source: 10.50.0.1, canonicalization: c14n-comments', '{ verdict: accept, rule: commented }'),
    ('comments exclusive', 'source: 10.50.0.1, canonicalization: exc-c14n-comments', 'accept'),
    ('comments of 1.1', 'source: 10.50.0.1, canonicalization: c14n11-comments', 'accept'),
    ('none where comments are due', 'source: 10.50.0.1', '{ verdict: reject, reason: signature.profile }'),
    ('comments elsewhere', 'canonicalization: c14n-comments', '{ verdict: reject, reason: signature.profile }'),
]
CASES = "version: 1\ncases:\n" + "".join(
    "  - { name: %s, request: { %s }, expect: %s }\n" % row for row in ROWS
).replace("KEYPROV", BASE + "/keyprov").replace("LOOKUP", BASE + "/lookup")


def run(folder, *argv, code=0):
    r = subprocess.run([BUILD / "kmsgate", *argv], cwd=folder, capture_output=True, text=True, timeout=60)
    assert r.returncode == code, r.stdout + r.stderr
    return r.stdout


def decision(**over):
    d = {"time": "2026-11-23T18:00:00.500Z", "id": "0123", "source": "10.40.0.1", "method": "POST", "path": BASE + "/init",
         "rule": "everyone", "form": "signed", "proven": True, "user": "sip:alice@example.org", "key_id": "ink.1",
         "key_type": "ink", "checks": dict.fromkeys(CHECKS, "pass"),
         "verdict": "accept", "reason": "ok",
         "claims": {"kms_uri": "kms.example.org", "time": "2026-11-23T18:00:00Z", "trk_id": "trk.1", "signature_id": "ink.1",
                    "client_req_url": "https://kms.example.org" + BASE + "/init", "version": "1.1.0"},
         "expected_url": "https://kms.example.org" + BASE + "/init", "rules": "0" * 64}
    d.update(over)
    path = d["path"]
    d["claims"] = dict(d["claims"], client_req_url="https://kms.example.org" + path)
    d["expected_url"] = "https://kms.example.org" + path
    return d


def test_cases(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "cases.yaml").write_text(CASES)
    run(tmp_path, "test", "rules.yaml", "cases.yaml")
    shown = run(tmp_path, "check", "--print", "rules.yaml")
    for line in ("requests[nobody-else].deny: on", "requests[old].shadow_accept: [unsigned, empty]",
                 "requests[by-path].match.not.client_id: ", "requests[quiet].checks.key_policy.trk_id: required",
                 "requests[everyone].checks.time.assume_zone: Europe/Paris"):
        assert line in shown, (line, shown)


def test_replay(tmp_path):
    (tmp_path / "rules.yaml").write_text(RULES)
    unproven = {"form": "unsigned", "proven": False, "key_id": None, "key_type": None,
                "checks": dict(decision()["checks"], signature="skip", key_policy="skip", replay="skip")}
    no_trk = {"kms_uri": "kms.example.org", "time": "2026-11-23T18:00:00Z", "signature_id": "ink.1", "version": "1.1.0"}
    log = [
        (decision(path=BASE + "/lookup/%73ip:group-police@example.org"), ("reject", "rule.denied", "nobody-else")),
        (decision(path=BASE + "/lookup/sip%3Abob%40example.org"), ("accept", None, "by-path")),
        (decision(source="10.20.0.1", **unproven), ("accept", None, "old")),
        (decision(source="10.30.0.1", claims=no_trk), ("reject", "key.policy", "quiet")),
        (decision(source="10.30.0.1"), ("accept", None, "quiet")),
        (decision(verdict="reject", reason="key.policy", claims=no_trk,
                  checks=dict(decision()["checks"], key_policy="fail", replay="skip")), ("unknown", None, "everyone")),
    ]
    for d, (verdict, reason, rule) in log:
        d = {k: v for k, v in d.items() if v is not None}
        (tmp_path / "log.jsonl").write_text(json.dumps(d) + "\n")
        told = json.loads(run(tmp_path, "replay", "--rules", "rules.yaml", "--format", "json", "log.jsonl"))
        to = told["changes"][0]["to"]
        assert (to["verdict"], to.get("reason"), to["rule"]) == (verdict, reason, rule), (d, to)
        if rule == "old":
            assert to["shadow"] == ["signature.missing"]
        if verdict == "unknown":
            assert to["accept_if"] == ["replay"]
