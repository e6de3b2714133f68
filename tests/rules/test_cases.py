"""kmsgate test: the shipped rules hold their cases; a case tells what differs, where it stands; the language is strict."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
SHIPPED = sorted((ROOT / "rules").glob("*.cases.yaml"))
RULES = """\
version: 1
kms: { uris: [kms.example.org, "http://second.example.org:8080/x"] }
requests:
  - id: loose
    why: a test
    match: { device_id: "loose-*" }
    accept: [signed, unsigned, empty]
    checks:
      schema: { versions: [7.7.7] }
      signature: { min_hmac_bits: 128, canonicalization: [c14n, exc-c14n, c14n11] }
      kms_uri: { compare: host }
      time: { mode: shadow, assume_zone: "+01:00" }
      client_req_url: { compare: prefix }
      path_user: { also: ["sip:group-*@example.org"] }
  - id: signature-off
    why: a test
    match: { device_id: "off-*" }
    checks: { signature: off, key_policy: off, replay: off }
  - id: network
    match: { source: [10.0.0.0/8, "2001:db8::/32"], client_id: "c-*" }
    forward: { headers: { X-User: "{user}", X-Rule: "{rule}/{key_id}" } }
  - id: everyone
responses:
  - id: errors
    match: { message: error }
    sign: none
  - id: default
"""


def run(tmp_path, cases, rules=RULES, *argv):
    (tmp_path / "rules.yaml").write_text(rules)
    (tmp_path / "cases.yaml").write_text(cases)
    return subprocess.run([BUILD / "kmsgate", "test", *argv, "rules.yaml", "cases.yaml"], capture_output=True, text=True,
                          timeout=120, cwd=tmp_path)


def one(tmp_path, request, expect, upstream="{}"):
    return run(tmp_path, "version: 1\ncases:\n  - name: a\n    request: %s\n    upstream: %s\n    expect: %s\n"
               % (request, upstream, expect))


@pytest.mark.parametrize("cases", SHIPPED, ids=lambda p: p.name)
def test_shipped_rules_hold_their_cases(cases):
    rules = cases.with_name(cases.name.replace(".cases.yaml", ".yaml"))
    r = subprocess.run([BUILD / "kmsgate", "test", "--strict", rules, cases], capture_output=True, text=True, timeout=120)
    assert r.returncode == 0, r.stdout + r.stderr
    assert re.search(r": \d+ cases, 0 failed; (\d+) of \1 rules touched$", r.stdout, re.M)


def test_there_are_cases():
    """Every shipped file has them but dialects.yaml, whose proof are stored replies."""
    rules = {p.name for p in (ROOT / "rules").glob("*.yaml")} - {p.name for p in SHIPPED} - {"dialects.yaml"}
    assert {p.name for p in SHIPPED} == {p.replace(".yaml", ".cases.yaml") for p in rules} and len(rules) >= 3


@pytest.mark.parametrize("old,new,names", [
    ("  - id: everyone\n", "  - id: everyone\n    why: x\n    checks: { kms_uri: off }\n", {"another KMS", "the KMS by its URL"}),
    ("  - id: everyone\n", "  - id: everyone\n    why: x\n    checks: { replay: off }\n", {"the same once more"}),
    ("  - id: everyone\n", "  - id: everyone\n    why: x\n    checks: { path_user: off }\n", {"another user's keys"}),
    ("  - id: everyone\n", "  - id: everyone\n    checks: { time: { past: 4s } }\n", {"five seconds ago"}),
    ("  - id: everyone\n", "  - id: everyone\n    checks: { signature: { min_hmac_bits: 128 } }\n", {"a short HMAC"}),
    ("  - id: everyone\n", "  - id: everyone\n    why: x\n    accept: [signed, empty]\n", {"empty"}),
])
def test_a_change_of_the_rules_is_noticed(tmp_path, old, new, names):
    """The shipped cases fail where the standard's rules are loosened: each by its name, none besides."""
    spec = (ROOT / "rules/spec.yaml").read_text()
    assert old in spec
    r = run(tmp_path, (ROOT / "rules/spec.cases.yaml").read_text(), spec.replace(old, new))
    assert r.returncode == 1
    assert set(re.findall(r"case `(.*?)`: ", r.stderr)) == names, r.stderr


# A fact, and what the gate makes of it.
HOLDS = [
    ("{}", "accept"),
    ("{ user: 'sip:zo\u00eb@example.org' }", "{ verdict: accept, proven: true, rule: everyone }"),
    ("{ device_id: loose-1, version: 7.7.7 }", "{ verdict: accept, rule: loose }"),
    ("{ device_id: loose-1 }", "{ verdict: reject, reason: xml.invalid, checks: { schema: fail, time: skip } }"),
    ("{ device_id: loose-1, without: version }", "{ verdict: accept, rule: loose }"),
    ("{ device_id: loose-1, without: version, hmac_bits: 128 }", "{ verdict: accept, checks: { signature: pass } }"),
    ("{ device_id: loose-1, without: version, canonicalization: exc-c14n }", "accept"),
    ("{ device_id: loose-1, without: version, canonicalization: c14n11 }", "accept"),
    ("{ canonicalization: c14n11 }", "{ verdict: reject, reason: signature.profile }"),
    ("{ device_id: loose-1, without: version, kms_uri: 'https://KMS.example.org/' }", "accept"),
    ("{ kms_uri: 'http://second.example.org:8080/x' }", "accept"),
    ("{ device_id: loose-1, without: version, offset: +1h, zone: none }", "{ verdict: accept, shadow: [] }"),
    ("{ device_id: loose-1, without: version, offset: +2h, zone: none }", "{ verdict: accept, shadow: [time.future] }"),
    ("{ device_id: loose-1, without: version, client_req_url: 'https://kms.example.org/keymanagement' }", "accept"),
    ("{ path: /keymanagement/identity/v1/keyprov/sip%3Agroup-7%40example.org, device_id: loose-1, without: version }", "accept"),
    ("{ path: /keymanagement/identity/v1/keyprov/sip%3Agroup-7%40example.org, device_id: loose-1, without: version, "
     "form: unsigned }", "{ verdict: reject, reason: path_user.mismatch }"),
    ("{ device_id: off-1, fails: signature }", "{ verdict: accept, proven: false, checks: { signature: off, key_policy: off } }"),
    ("{ device_id: off-1 }", "{ verdict: accept, proven: true }"),
    ("{ source: 10.1.2.3, client_id: c-7 }", "{ verdict: accept, rule: network, headers: { x-user: 'sip:alice@example.org', "
     "X-Rule: network/ink.1, X-Other: none } }"),
    ("{ source: '2001:db8::7', client_id: c-7 }", "{ verdict: accept, rule: network }"),
    ("{ source: 10.1.2.3, client_id: d-7 }", "{ verdict: accept, rule: everyone }"),
    ("{ without: time }", "{ verdict: reject, reason: xml.invalid }"),
    ("{ without: [trk_id, signature_id] }", "{ verdict: reject, reason: key.policy }"),
    ("{ without: user }", "{ verdict: reject, reason: xml.invalid }"),
    ("{ without: kms_uri }", "{ verdict: reject, reason: xml.invalid }"),
    ("{ without: client_req_url }", "{ verdict: reject, reason: xml.invalid }"),
    ("{ trk_id: trk.7 }", "{ verdict: reject, reason: key.policy, checks: { signature: pass, key_policy: fail } }"),
    ("{ time: '2026-01-01T00:00:00Z', at: '2026-01-01T00:00:03Z' }", "accept"),
    ("{ time: noon }", "{ verdict: reject, reason: xml.invalid }"),
    ("{ at: 2026-01-01, offset: -4s }", "accept"),
    ("{ fails: time }", "{ verdict: reject, reason: time.stale }"),
    ("{ fails: client_req_url }", "{ verdict: reject, reason: client_req_url.mismatch }"),
    ("{ fails: kms_uri, form: unsigned, device_id: loose-1, without: version }", "{ verdict: reject, reason: kms_uri.mismatch }"),
    ("{ fails: replay, signed_by: retiring }", "{ verdict: reject, reason: replay.seen, proven: true }"),
    ("{ keys: none }", "{ verdict: reject, reason: key.unknown }"),
    ("{ keys: trk, signed_by: revoked }", "{ verdict: reject, reason: key.revoked }"),
    ("{ keys: trk, signed_by: trk }", "accept"),
    ("{ method: PUT }", "{ verdict: reject, reason: http.method, rule: none, checks: { schema: none } }"),
    ("{ body: '<!DOCTYPE a><a/>' }", "{ verdict: reject, reason: xml.forbidden }"),
    ("{ form: empty }", "{ verdict: reject, rule: everyone, reason: signature.missing }"),
]


@pytest.mark.parametrize("request_,expect", HOLDS)
def test_facts(tmp_path, request_, expect):
    expect = expect.replace("checks: { schema: none }", "proven: false")
    r = one(tmp_path, request_, expect)
    assert r.returncode == 0, r.stderr
    assert "1 case, 0 failed" in r.stdout


REPLIES = [
    ("{}", "{ rule: default, reason: ok, status: 200, message: KmsInit, signed_by: ink, encrypted: false }"),
    ("{ message: error }", "{ rule: errors, reason: ok, status: 200, message: error, signed_by: none }"),
    ("{ status: 503 }", "{ rule: errors, reason: upstream.error, status: 503, message: error }"),
    ("{ status: 302 }", "{ rule: none, reason: upstream.invalid, status: 502 }"),
    ("{ message: KmsKeyProv }", "{ reason: upstream.invalid, status: 502 }"),
    ("{ message: none }", "{ reason: upstream.invalid }"),
    ("{ body: '<x/>' }", "{ reason: upstream.invalid }"),
]


@pytest.mark.parametrize("upstream,expect", REPLIES)
def test_replies(tmp_path, upstream, expect):
    r = one(tmp_path, "{}", "{ verdict: accept, response: %s }" % expect, upstream)
    assert r.returncode == 0, r.stderr


@pytest.mark.parametrize("path,message", [
    ("init", "KmsInit"), ("keyprov", "KmsKeyProv"), ("certcache", "KmsCertCache"), ("cert/kms.example.org", "KmsCertCache"),
    ("lookup/sip%3Abob%40example.org", "KmsLookup"), ("redirect", "none"), ("keyprov/sip%3Aalice%40example.org", "KmsKeyProv"),
    ("keyprov/sip%3Aalice%40example.org/D6B4323200000000", "KmsKeyProv")])
def test_each_resource_gets_what_it_is_owed(tmp_path, path, message):
    r = one(tmp_path, "{ path: /keymanagement/identity/v1/%s }" % path,
            "{ verdict: accept, response: { reason: ok, message: %s, signed_by: ink } }" % message)
    assert r.returncode == 0, r.stderr


DIFFERS = [  # what is expected wrongly, and what is told there
    ("{}", "reject", 'verdict: expected reject, found accept, by rule everyone'),
    ("{ kms_uri: x }", "accept", "verdict: expected accept, found reject: kms_uri.mismatch (KmsUri is x, not kms.example.org)"),
    ("{ kms_uri: x }", "{ verdict: reject, reason: time.stale }", "reason: expected `time.stale`, found `kms_uri.mismatch`"),
    ("{}", "{ verdict: accept, rule: loose }", "rule: expected `loose`, found `everyone`"),
    ("{}", "{ verdict: accept, rule: everyon }",
     "rule: expected `everyon`, found `everyone`; no such rule has that id: did you mean `everyone`?"),
    ("{}", "{ verdict: accept, response: { rule: everyone } }",
     "response.rule: expected `everyone`, found `default`; no such rule has that id"),
    ("{}", "{ verdict: accept, rule: none }", "rule: expected `none`, found `everyone`"),
    ("{}", "{ verdict: accept, proven: false }", "proven: expected false, found true"),
    ("{ device_id: loose-1, without: version, fails: time }", "accept", "shadow: expected nothing (no `shadow` is stated), found `time.stale`"),
    ("{ device_id: loose-1, without: version, fails: time }", "{ verdict: accept, shadow: [] }", "shadow: expected only what is listed"),
    ("{}", "{ verdict: accept, shadow: [time.stale] }", "shadow: expected `time.stale`, found no such failure"),
    ("{}", "{ verdict: accept, checks: { kms_uri: off } }", "kms_uri: expected `off`, found `pass`"),
    ("{ source: 10.0.0.1, client_id: c-1 }", "{ verdict: accept, headers: { X-User: bob } }",
     "X-User: expected `bob`, found `sip:alice@example.org`"),
    ("{}", "{ verdict: accept, headers: { X-User: bob } }", "X-User: expected `bob`, found none"),
    ("{}", "{ verdict: accept, response: { rule: errors } }", "response.rule: expected `errors`, found `default`"),
    ("{}", "{ verdict: accept, response: { status: 500 } }", "response.status: expected `500`, found `200`"),
    ("{}", "{ verdict: accept, response: { encrypted: true } }", "response.encrypted: expected true, found false"),
    ("{}", "{ verdict: accept, response: { signed_by: none } }", "response.signed_by: expected `none`, found `ink`"),
    ("{}", "{ verdict: accept, response: { message: none } }", "response.message: expected `none`, found `KmsInit`"),
]


@pytest.mark.parametrize("request_,expect,told", DIFFERS)
def test_what_differs_is_told_where_it_stands(tmp_path, request_, expect, told):
    r = one(tmp_path, request_, expect)
    assert r.returncode == 1 and "1 case, 1 failed" in r.stdout
    lines = r.stderr.splitlines()
    assert len(lines) == 1 and re.match(r"cases\.yaml:6:\d+: case `a`: ", lines[0]) and told in lines[0], r.stderr


FAULTS = [  # a whole cases file, and the fault
    ("version: 2\ncases: [{ name: a, expect: accept }]\n", "1:10: found `2`, expected 1"),
    ("cases: [{ name: a, expect: accept }]\n", "version"),
    ("version: 1\n", "cases"),
    ("version: 1\ncases: []\n", "2:8: found 0 cases"),
    ("version: 1\ncases: [{ name: a }]\n", "expect"),
    ("version: 1\ncases: [{ expect: accept }]\n", "name"),
    ("version: 1\ncases: [{ name: a, expect: acept }]\n", "did you mean `accept`"),
    ("version: 1\ncases: [{ name: a, expect: { rule: a } }]\n", "verdict"),
    ("version: 1\ncases: [{ name: a, expect: { verdict: reject, reason: time.late } }]\n", "found `time.late`, expected a reason"),
    ("version: 1\ncases: [{ name: a, expect: { verdict: accept, reason: ok } }]\n", "an accepted request has no reason"),
    ("version: 1\ncases: [{ name: a, expect: { verdict: reject, reason: ok } }]\n", "expected the reason of a refusal"),
    ("version: 1\ncases: [{ name: a, expect: { verdict: reject, response: { rule: a } } }]\n", "never reaches the upstream"),
    ("version: 1\ncases: [{ name: a, expect: { verdict: accept, shadow: time.stale } }]\n", "a list of reasons"),
    ("version: 1\ncases: [{ name: a, expect: { verdict: accept, checks: { tim: pass } } }]\n", "did you mean `time`"),
    ("version: 1\ncases: [{ name: a, expect: accept, requests: {} }]\n", "did you mean `request`"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { usr: x } }]\n", "did you mean `user`"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { offset: 3s } }]\n", "a duration with its sign"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { zone: CET } }]\n", "2:53: found `CET`"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { at: 2026-01-01T00:00:00 } }]\n", "a time with a zone"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { source: home } }]\n", "an address such as"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { time: x, offset: -3s } }]\n", "`time` is the whole text"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { keys: [none, ink] } }]\n", "beside other keys"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { fails: path_user } }]\n", "write such a path"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { fails: replay, form: unsigned } }]\n", "for unsigned requests"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { fails: time, body: x } }]\n", "sent as it stands"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { form: empty, body: x } }]\n", "has no body"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { hmac_bits: 80 } }]\n", "from 128 to 256"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { hmac_bits: 129 } }]\n", "multiple of 8"),
    ("version: 1\ncases: [{ name: a, expect: accept }, { name: a, expect: accept }]\n", "duplicate"),
    ("version: 1\npublic_url: kms.example.org\ncases: [{ name: a, expect: accept }]\n", "2:13: found `kms.example.org`"),
    ("version: 1\npublic_url: 'https://k/'\ncases: [{ name: a, expect: accept }]\n", "without a slash"),
    ("version: 1\ndefaults: { request: { usr: x } }\ncases: [{ name: a, expect: accept }, { name: b, expect: accept }]\n",
     "2:24: unknown key `usr`"),
    ("version: 1\ncases: [{ name: a, expect: accept, upstream: { status: 20 } }]\n", "from 100 to 599"),
    ("version: 1\ncases: [{ name: a, expect: [accept] }]\n", "a mapping"),
    ("version: 1\ncases: { name: a }\n", "a list of cases"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { at: [2026-01-01] } }]\n", "a date or a time with a zone"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { offset: [3s] } }]\n", "a duration with its sign"),
    ("version: 1\ncases: [{ name: a, expect: accept, request: { zone: [Z] } }]\n", "Z, none or an offset"),
    ("version: 1\ncases: [{ name: a, expect: accept, reply: r.xml, upstream: { body: x } }]\n", "stands beside a `body`"),
    ("", "empty"),
]


@pytest.mark.parametrize("cases,told", FAULTS)
def test_faults(tmp_path, cases, told):
    r = run(tmp_path, cases)
    assert r.returncode == 1 and not r.stdout
    lines = r.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("cases.yaml") and told in lines[0], r.stderr


def test_every_fault_is_told_in_order(tmp_path):
    r = run(tmp_path, "version: 1\ncases:\n  - { name: a, expect: x }\n  - { name: b, expect: accept, request: { zone: q } }\n")
    assert [x.split(":")[1] for x in r.stderr.splitlines()] == ["3", "4"]


def test_rules_that_no_case_touches(tmp_path):
    cases = "version: 1\ncases: [{ name: a, expect: accept }]\n"
    r = run(tmp_path, cases)
    assert r.returncode == 0
    assert "rules.yaml:4: no case is decided by the request rule `loose`" in r.stdout
    assert "no case expects a `response` of the response rule `default`" in r.stdout
    assert "1 of 6 rules touched" in r.stdout and "`everyone`" not in r.stdout
    assert run(tmp_path, cases, RULES, "--strict").returncode == 1


def test_defaults_and_what_wins(tmp_path):
    r = run(tmp_path, """\
version: 1
public_url: [https://a.example, https://b.example]
defaults:
  request: { source: 10.0.0.1, client_id: c-1, time: "2026-01-01T00:00:00Z", at: 2026-01-01 }
  upstream: { status: 404 }
cases:
  - { name: as it is, expect: { verdict: accept, rule: network, response: { status: 404 } } }
  - { name: another source, request: { source: 192.0.2.1 }, expect: { verdict: accept, rule: everyone } }
  - { name: its own offset, request: { offset: -6s }, expect: { verdict: reject, reason: time.stale } }
  - { name: the other base, request: { client_req_url: "https://b.example/keymanagement/identity/v1/init" }, expect: accept }
  - { name: a third, request: { client_req_url: "https://c.example/keymanagement/identity/v1/init" },
      expect: { verdict: reject, reason: client_req_url.mismatch } }
""")
    assert r.returncode == 0, r.stderr


def test_faulty_rules_are_told(tmp_path):
    r = run(tmp_path, "version: 1\ncases: [{ name: a, expect: accept }]\n", "version: 3\n")
    assert r.returncode == 1 and "rules.yaml:1:10: " in r.stderr


@pytest.mark.parametrize("argv", [[], ["a"], ["a", "b", "c"], ["--foo", "a", "b"]])
def test_wrong_usage(argv):
    r = subprocess.run([BUILD / "kmsgate", "test", *argv], capture_output=True, text=True)
    assert r.returncode == 2 and r.stderr.startswith("kmsgate: test: ")


def test_help():
    r = subprocess.run([BUILD / "kmsgate", "test", "--help"], capture_output=True, text=True)
    assert r.returncode == 0 and "--strict" in r.stdout
