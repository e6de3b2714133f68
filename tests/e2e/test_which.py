"""kmsgate which: the rules that a request meets, and why not those above."""
import json
import re
import subprocess

import pytest

from conftest import BUILD
from kms import BASE

RULES = """version: 1
kms: { uris: [kms.example.org] }
requests:
  - id: old
    until: 2026-10-31
    why: a test
    accept: [unsigned]
  - id: radios
    why: a test
    match: { source: [10.20.0.0/16], user: "sip:*@field.example.org" }
    accept: [signed, unsigned]
    checks: { time: { past: 30s } }
  - id: denied
    why: a test
    match: { client_id: "lost-*" }
    deny: on
  - id: shadowed
    why: a test
    match: { path: "%s/lookup/**", not: { user: "sip:admin@*" } }
    shadow_accept: [unsigned]
  - id: everyone
responses:
  - id: plain
    match: { rule: radios, form: unsigned }
  - id: init
    match: { message: [KmsInit] }
  - id: default
    match: { rule: [radios, everyone, shadowed] }
""" % BASE


def which(tmp_path, *argv, rules=RULES, code=0, text=False):
    (tmp_path / "r.yaml").write_text(rules)
    r = subprocess.run([BUILD / "kmsgate", "which", "--rules", "r.yaml", "--at", "2026-11-23T18:00:00Z", *argv,
                        *([] if text else ["--format", "json"])], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert r.returncode == code, r.stdout + r.stderr
    if code == 2:
        return r.stderr
    return r.stdout if text else json.loads(r.stdout)


RADIO = ["--user", "sip:r1@field.example.org", "--source", "10.20.3.4"]


@pytest.mark.parametrize("argv,rule,missed", [
    (RADIO, "radios", ["until: matched until 2026-10-31"]),
    (RADIO[:2] + ["--source", "10.21.3.4"], "everyone",
     ["until", "source: 10.21.3.4, which is in none of its networks", "client_id: not given, not `lost-*`",
      "path: not given, not `%s/lookup/**`" % BASE]),
    (["--source", "10.20.3.4", "--user", "sip:x\u202e@example.org"], "everyone",
     ["until", "user: `sip:x\\u202e@example.org`, not `sip:*@field.example.org`", "client_id", "path"]),
    (["--user", "sip:admin@example.org", "--path", BASE + "/lookup/sip%3Aa@b"], "everyone",
     ["until", "source: not given", "client_id", "not: its exception by user holds"]),
])
def test_the_rule_and_why_not_those_above(tmp_path, argv, rule, missed):
    j = which(tmp_path, *argv)
    assert (j["verdict"], j["reason"], j["request"]["id"]) == ("accept", "ok", rule)
    assert j["request"]["line"] == 1 + RULES[:RULES.index("id: " + rule)].count("\n")
    assert len(j["not"]) == len(missed)
    for got, due in zip(j["not"], missed):
        assert got["why"].startswith(due), got
    text = which(tmp_path, *argv, text=True)
    for n in j["not"]:
        assert "r.yaml:%d: not `%s`: %s\n" % (n["line"], n["id"], n["why"]) in text
    assert "r.yaml:%d: request rule `%s`: signed requests are accepted" % (j["request"]["line"], rule) in text


MORE = """version: 1
kms: { uris: [kms.example.org] }
requests:
  - { id: group, match: { path_user: "sip:group-*" } }
  - { id: watch, match: { device_id: "watch-*" } }
  - { id: bare, why: a test, match: { form: [unsigned, empty] }, accept: [unsigned, empty] }
  - { id: only, match: { client_id: c } }
responses:
  - { id: refusals, match: { status: [404] } }
  - { id: default }
"""


@pytest.mark.parametrize("argv,missed", [
    ([], ["path_user: not given, not `sip:group-*`", "device_id: not given, not `watch-*`", "form: signed, not unsigned, empty"]),
    (["--path", BASE + "/init"], ["path_user: the path names none", "device_id", "form"]),
    (["--path", BASE + "/keyprov/sip%3Ax"], ["path_user: `sip:x`, not `sip:group-*`", "device_id", "form"]),
])
def test_each_kind_of_miss(tmp_path, argv, missed):
    j = which(tmp_path, *argv, "--client-id", "c", rules=MORE)
    assert j["request"]["id"] == "only" and len(j["not"]) == len(missed)
    for got, due in zip(j["not"], missed):
        assert got["why"].startswith(due), got
    text = which(tmp_path, *argv, "--client-id", "c", rules=MORE, text=True)
    assert re.search(r"not `refusals` for a reply with \w+: status: 200 is not among its statuses", text), text


def test_none_matches(tmp_path):
    assert "request rule: none matches; refused (rule.none)\n" in which(tmp_path, rules=MORE, code=1, text=True)
    r = subprocess.run([BUILD / "kmsgate", "which", "--rules", "r.yaml", "--path", "/elsewhere"], capture_output=True, text=True, cwd=tmp_path)
    assert r.returncode == 2 and "which: --path: found `/elsewhere`: no such resource" in r.stderr


def test_settings_have_their_lines(tmp_path):
    settings = {s["key"]: s for s in which(tmp_path, *RADIO)["request"]["settings"]}
    line = 1 + RULES[:RULES.index("past: 30s")].count("\n")
    assert settings["checks.time.past"] == {"key": "checks.time.past", "value": "30s", "line": line}
    assert settings["checks.time.future"] == {"key": "checks.time.future", "value": "5s"}
    text = which(tmp_path, *RADIO, text=True).splitlines()
    assert any(x.startswith("  checks.time.past: 30s ") and x.endswith("# r.yaml:%d" % line) for x in text)
    assert any(x.startswith("  checks.time.future: 5s ") and x.endswith("# default") for x in text)


def test_refusals_are_negative_answers(tmp_path):
    j = which(tmp_path, "--client-id", "lost-7", code=1)
    assert (j["verdict"], j["reason"], j["request"]["id"], j["responses"]) == ("reject", "rule.denied", "denied", [])
    assert which(tmp_path, "--form", "unsigned", code=1)["reason"] == "signature.missing"
    lookup = ["--path", BASE + "/lookup/sip%3Aa@b", "--form", "unsigned"]
    assert which(tmp_path, *lookup)["shadow_accept"] is True
    assert which(tmp_path, *RADIO, "--form", "empty", code=1)["reason"] == "signature.missing"
    none = RULES.replace("  - id: everyone\n", "  - id: everyone\n    match: { user: 'sip:a*' }\n")
    j = which(tmp_path, rules=none, code=1)
    assert j["reason"] == "rule.none" and "request" not in j and len(j["not"]) == 5


@pytest.mark.parametrize("path,message,rule,missed", [
    ("/init", "KmsInit", "init", ["rule: `everyone`, not `radios`"]),
    ("/keyprov", "KmsKeyProv", "default", ["rule", "message: KmsKeyProv is not among its messages"]),
    ("/redirect", "none", "default", ["rule", "message: none"]),
])
def test_the_response_rule(tmp_path, path, message, rule, missed):
    j = which(tmp_path, "--path", BASE + path)["responses"]
    assert [(r["message"], r["rule"]["id"]) for r in j] == [(message, rule)]
    assert [n["why"][:len(m)] for n, m in zip(j[0]["not"], missed)] == missed


def test_without_path_each_message_has_its_response_rule(tmp_path):
    j = which(tmp_path, *RADIO)["responses"]
    assert {r["message"]: r["rule"]["id"] for r in j} == {
        "none": "default", "KmsInit": "init", "KmsKeyProv": "default", "KmsCertCache": "default", "KmsLookup": "default"}
    assert {r["rule"]["id"] for r in which(tmp_path, *RADIO, "--form", "unsigned")["responses"]} == {"plain"}
    lost = RULES.replace("[radios, everyone, shadowed]", "radios")
    j = which(tmp_path, rules=lost, code=1)["responses"]
    assert [r["message"] for r in j if "rule" not in r] == ["none", "KmsKeyProv", "KmsCertCache", "KmsLookup"]
    assert "none fits; upstream.invalid" in which(tmp_path, rules=lost, code=1, text=True)


def test_wrong_usage(tmp_path):
    assert "--path: found `/elsewhere`: no such resource; expected a" in which(tmp_path, "--path", "/elsewhere", code=2)
    assert "--form: found `x`, expected" in which(tmp_path, "--form", "x", code=2)
    assert "--source" in which(tmp_path, "--source", "10.20.0.0/16", code=2)
