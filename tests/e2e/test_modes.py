"""Every check in every mode: what it refuses, what it only remarks on, what it does not look at."""
import json
import re

import pytest

import kms

CHECKS = {"schema": "xml.invalid", "signature": "signature.invalid", "key_policy": "key.policy",
          "kms_uri": "kms_uri.mismatch", "time": "time.stale", "client_req_url": "client_req_url.mismatch",
          "path_user": "path_user.mismatch", "replay": "replay.seen"}
MODES = ["enforce", "shadow", "off"]
RULES = json.dumps({
    "version": 1, "kms": {"uris": ["kms.example.org"]}, "errors": {"detail": "reason"},
    "requests": [{"id": "%s-%s" % (c, m), "why": "a test", "match": {"client_id": "%s-%s" % (c, m)}, "checks": {c: m}}
                 for c in CHECKS for m in MODES] +
    [{"id": "all-" + m, "why": "a test", "match": {"client_id": "all-" + m}, "checks": {c: m for c in CHECKS}}
     for m in MODES] + [{"id": "everyone"}],
    "responses": [{"id": "default"}]})


@pytest.fixture(scope="module")
def alice():
    return kms.User("sip:alice@example.org")


@pytest.fixture(scope="module")
def gate(tmp_path_factory, alice):
    from conftest import Gateway
    g = Gateway(tmp_path_factory.mktemp("modes"), [alice, kms.User("sip:bob@example.org")], rules=RULES)
    yield g
    code = g.stop()
    assert code == 0 and "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err


def request(gate, alice, rule, check=None):
    """A signed request that is good but for one check: its body and where it goes. None: good."""
    path = "/keyprov/sip%3Abob%40example.org" if check == "path_user" else "/keyprov"
    over = {"ClientId": rule}
    over.update({"kms_uri": {"KmsUri": "kms.evil.example"}, "time": {"Time": kms.now(-3600)},
                 "client_req_url": {"ClientReqUrl": gate.url("/init")},
                 "key_policy": {"Signature-ID": alice.trk_id}}.get(check, {}))
    f = kms.fields(alice, gate.url(path), **over)
    signer = (alice.trk_id, alice.trk) if check == "key_policy" else (alice.ink_id, alice.ink)
    root = kms.kms_request(f, version="7.7" if check == "schema" else "1.1.0")
    body = kms.sign(kms.envelope(root), signer[1], signer[0])
    return path, body.replace(b"device-", b"divece-") if check == "signature" else body


def failures(gate, check, mode):
    """Over all rules."""
    found = re.findall(r'^kmsgate_check_failures_total\{check="%s",mode="%s",rule="[^"]*"\} (\d+)' % (check, mode),
                       gate.admin("/metrics")[1], re.M)
    return sum(map(int, found))


def decision(gate, reply):
    ident = reply.headers["X-Request-Id"]
    return kms.wait_for(lambda: next((d for d in gate.decisions() if d["id"] == ident), None))


def ask(gate, alice, rule, check):
    path, body = request(gate, alice, rule, check)
    if check == "replay":
        assert gate.post(path, body).status == 200
    before = {m: failures(gate, check, m) for m in ("enforce", "shadow")}, len(gate.upstream_requests())
    reply = gate.post(path, body)
    after = {m: failures(gate, check, m) for m in ("enforce", "shadow")}, len(gate.upstream_requests())
    return reply, decision(gate, reply), {m: after[0][m] - before[0][m] for m in before[0]}, after[1] - before[1]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("check", CHECKS)
def test_a_check_in_a_mode(gate, alice, check, mode):
    rule, reason = "%s-%s" % (check, mode), CHECKS[check]
    reply, d, counted, sent = ask(gate, alice, rule, check)
    assert d["rule"] == rule
    if mode == "enforce":
        assert (d["verdict"], d["reason"], d["checks"][check]) == ("reject", reason, "fail")
        assert reply.status == (400 if check == "schema" else 403) and reply.error == reason
        assert (counted, sent) == ({"enforce": 1, "shadow": 0}, 0)
    else:
        assert (d["verdict"], d["reason"], reply.status) == ("accept", "ok", 200), (d, reply.body)
        assert d["checks"][check] == ("shadow_fail" if mode == "shadow" else "off")
        assert (counted, sent) == ({"enforce": 0, "shadow": int(mode == "shadow")}, 1)
    assert d.get("shadow", []) == ([reason] if mode == "shadow" else [])
    others = {c: r for c, r in d["checks"].items() if c != check}
    assert set(others.values()) <= {"pass", "skip"}, others
    unproven = check == "signature" or (check == "schema" and mode == "enforce")  # nobody has looked at the signature
    assert d["proven"] is not unproven


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("check", CHECKS)
def test_its_twin(gate, alice, check, mode):
    """What is good is so in each mode, and nothing is remarked on."""
    path, body = request(gate, alice, "%s-%s" % (check, mode))
    reply = gate.post(path, body)
    d = decision(gate, reply)
    assert (reply.status, d["verdict"], d["reason"]) == (200, "accept", "ok") and "shadow" not in d
    assert set(d["checks"].values()) == ({"pass", "off"} if mode == "off" else {"pass"})
    assert reply.signed and reply.verify(alice.ink, alice.ink_id) and d["proven"] is True


@pytest.mark.parametrize("check", CHECKS)
def test_all_in_shadow(gate, alice, check):
    """On the first day nothing is refused: a check that looks on does not hide what the others see."""
    reply, d, counted, sent = ask(gate, alice, "all-shadow", check)
    assert (reply.status, d["verdict"], sent) == (200, "accept", 1)
    assert CHECKS[check] in d["shadow"] and d["checks"][check] == "shadow_fail"
    assert counted == {"enforce": 0, "shadow": 1}
    reply, d, counted, _ = ask(gate, alice, "all-off", check)
    assert reply.status == 200 and "shadow" not in d and set(d["checks"].values()) <= {"off", "skip"}
    assert counted == {"enforce": 0, "shadow": 0}


def test_several_in_shadow_are_all_told(gate, alice):
    f = kms.fields(alice, gate.url("/init"), ClientId="all-shadow", KmsUri="kms.evil.example", Time=kms.now(3600))
    body = kms.sign(kms.envelope(kms.kms_request(f)), alice.ink, alice.ink_id)
    reply = gate.post("/keyprov/sip%3Abob%40example.org", body)
    d = decision(gate, reply)
    assert reply.status == 200
    assert d["shadow"] == ["kms_uri.mismatch", "time.future", "client_req_url.mismatch", "path_user.mismatch"]


def test_what_no_mode_switches_off(gate, alice):
    """Form and limits are no checks."""
    path, body = request(gate, alice, "all-off")
    for bad in (b"<!DOCTYPE a>" + body.split(b"?>", 1)[1], body.replace(b"<DeviceId>", b"<!-- --><DeviceId>"),
                body.replace(b"</ClientId>", b""), body.replace(b"SignedKmsRequest", b"SignedKmsRequests")):
        assert gate.post(path, bad).status == 400
    assert gate.post(path, body).status == 200
