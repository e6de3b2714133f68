"""Refusals and errors: status, text, signature, what is told to whom; statuses and headers of the upstream."""
import re

import pytest
from lxml import etree

import kms
import scripted
from kms import BASE, q
from scripted import ERROR, Ring, key_prov, key_set, response

ALICE = "sip:alice@example.org"
RULES = """\
version: 1
kms: { uris: [kms.example.org, kms2.example.org], id: kms-01 }
errors: { detail: %s }
requests:
  - { id: unsigned, why: a test, match: { client_id: unsigned }, accept: [unsigned] }
  - { id: everyone }
responses: [{ id: default }]
"""
P = "/keyprov"
K = scripted.Keys()
PROV = response(key_prov(key_set(K, ALICE)))


@pytest.fixture(scope="module", params=["generic", "reason"])
def bench(request, tmp_path_factory):
    alice, bob = kms.User(ALICE), kms.User("sip:bob@example.org")
    rita = Ring("sip:rita@example.org", {"ink.1": ("ink", None, None), "ink.0": ("ink", "revoked", None),
                                         "ink.old": ("ink", None, "2020-01-01T00:00:00Z"), "trk.1": ("trk", None,
                                                                                                     None)},
                "ink.1", "trk.1")
    b = scripted.Bench(tmp_path_factory.mktemp(request.param), [alice, bob, rita], RULES % request.param)
    b.alice, b.bob, b.rita, b.detail = alice, bob, rita, request.param
    b.upstream.says(PROV)
    yield b
    b.stop()


def text_of(bench, reason, status):
    if bench.detail == "reason":
        return reason
    return "The request was refused." if status < 500 else "The request could not be served."


def refused(bench, r, d, status, reason, shown=None, user=None, claimed=ALICE, url=None):
    assert (r.status, d["reason"], d["status"]) == (status, reason, status), (r.body, d)
    assert r.error == text_of(bench, shown or reason, status)
    assert r.response.findtext("%s/%s" % (q("KmsError"), q("ErrorCode"))) == str(status)
    assert (r.text("UserUri") or "", r.text("KmsUri"), r.text("KmsId")) == (claimed, "kms.example.org", "kms-01")
    assert r.text("ClientReqUrl") == (url or bench.gate.url(P)) and r.response.get("Id") == "xmldoc"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", r.text("Time"))
    assert r.headers["Content-Type"] == "application/xml; charset=utf-8" and r.headers["Cache-Control"] == "no-store"
    assert r.headers.get_all("Content-Length") == [str(len(r.body))]
    assert r.response.find(q("KmsMessage")) is None and r.text("TrK-ID") is None
    scripted.check_xsd(r)
    assert r.signed == (user is not None)
    if user:
        assert r.verify(*user.signer()[::-1]) and d["response"]["signed_by"] == user.signer()[0]
    else:
        assert "signed_by" not in d.get("response", {})


HELD = {  # the signature holds, something else does not: signed
    "time": (dict(Time=lambda: kms.now(-60)), "time.stale"), "future": (dict(Time=lambda: kms.now(60)), "time.future"),
    "KmsUri": (dict(KmsUri=lambda: "kms.evil.example"), "kms_uri.mismatch"),
    "url": (dict(ClientReqUrl=lambda: "http://elsewhere/keyprov"), "client_req_url.mismatch"),
    "TrK-ID": (dict({"TrK-ID": lambda: "trk.77"}), "key.policy")}


@pytest.mark.parametrize("name", HELD)
def test_signed_where_the_signature_held(bench, name):
    over, reason = HELD[name]
    r, d = bench.ask(bench.alice, P, PROV, **{k: v() for k, v in over.items()})
    refused(bench, r, d, 403, reason, user=bench.alice)


def test_signed_by_the_key_that_signed(bench):
    """Even one that may not: the TrK of a user who has an InK."""
    r, d = bench.ask(bench.alice, P, PROV, signer=(bench.alice.trk_id, bench.alice.trk),
                     **{"Signature-ID": bench.alice.trk_id})
    assert (r.status, d["reason"]) == (403, "key.policy") and r.verify(bench.alice.trk, bench.alice.trk_id)


def test_replay_is_refused_signed(bench):
    body = kms.signed_request(bench.alice, bench.gate.url(P))
    bench.upstream.says(PROV)
    assert bench.gate.post(P, body).status == 200
    r = bench.gate.post(P, body)
    refused(bench, r, bench.decision(r), 403, "replay.seen", user=bench.alice)


def alike(r):
    """A refusal's bytes but for the time."""
    return re.sub(rb"<Time>[^<]*</Time>", b"", r.body)


def test_unknown_user_unknown_key_revoked_key_and_bad_signature_look_the_same(bench):
    """In bytes, headers too; only the decision log knows."""
    nobody = kms.User("sip:nobody@example.org")
    bad = b"b" * 32
    g = bench.gate
    seen = {}
    for name, user, signer, kid, reason in (
            ("unknown user", nobody, None, None, "key.unknown"),
            ("unknown key", bench.rita, ("ink.77", bad), "ink.77", "key.unknown"),
            ("another's key", bench.rita, (bench.bob.ink_id, bench.bob.ink), bench.bob.ink_id, "key.unknown"),
            ("revoked key", bench.rita, ("ink.0", bench.rita.octets["ink.0"]), "ink.0", "key.revoked"),
            ("expired key", bench.rita, ("ink.old", bench.rita.octets["ink.old"]), "ink.old", "key.revoked"),
            ("revoked key, bad signature", bench.rita, ("ink.0", bad), "ink.0", None),
            ("bad signature", bench.rita, ("ink.1", bad), "ink.1", "signature.invalid")):
        f = {"Signature-ID": kid} if kid else {}
        r, d = bench.ask(user, P, PROV, signer=signer, **f)
        refused(bench, r, d, 403, reason or d["reason"], shown="signature.invalid", claimed=user.uri)
        headers = sorted((k, v) for k, v in r.headers.items() if k not in ("Date", "X-Request-Id", "Content-Length"))
        seen[name] = (alike(r).replace(user.uri.encode(), b""), headers)
    assert len({s[0] for s in seen.values()}) == 1 and len({str(s[1]) for s in seen.values()}) == 1, seen
    assert g.ask(bench.rita, P).status in (200, 502)


CLAIMED = {  # what is claimed, what stands in the refusal
    "sip:a&b@example.org": None, "sip:\u00fc@example.org": None, " sip:a@example.org ": "sip:a@example.org",
    "sip:a%zz@example.org": "", "sip:a b@example.org": "", "a<b": "", "a#b#c": "", "": "", "%41": None}


@pytest.mark.parametrize("claimed", CLAIMED)
def test_user_uri_as_claimed(bench, claimed):
    user = kms.User(ALICE)
    due = CLAIMED[claimed] if CLAIMED[claimed] is not None else claimed
    r, d = bench.ask(user, P, PROV, UserUri=claimed)
    assert r.status in (400, 403) and not r.signed
    assert (r.text("UserUri") or "") == due
    scripted.check_xsd(r)


@pytest.mark.parametrize("target,url", [
    ("/nowhere", "/nowhere"), ("/keyprov/%s" % ("a" * 600), None), ("/init?x=<>\"'&a=%zz",
                                                                    "/init?x=%3C%3E%22'&a=%25zz"),
    ("/keyprov/../init", None), ("/keyprov/%C3%BC", None), ("/keyprov/a%2Fb", None)])
def test_client_req_url_of_a_refusal(bench, target, url):
    r = bench.gate.post(target, b"x")
    assert r.status in (400, 404) and not r.signed
    assert r.text("ClientReqUrl") == bench.gate.public + BASE + (url or target)
    scripted.check_xsd(r)


def test_no_proof_no_signature(bench):
    r, d = bench.ask_bare(bench.alice, P, PROV, case="unsigned", KmsUri="kms.evil.example")
    refused(bench, r, d, 403, "kms_uri.mismatch")
    r, d = bench.ask_bare(bench.alice, P, b"", case="unsigned")
    refused(bench, r, d, 502, "upstream.invalid")
    r, d = bench.ask_bare(bench.alice, P, PROV, case="signed-only")
    refused(bench, r, d, 403, "signature.missing")
    r = bench.gate.post(P, b"<a/>")
    refused(bench, r, bench.decision(r), 400, "xml.invalid", claimed="")
    # the rule takes unsigned ones alone
    r, d = bench.ask(bench.alice, P, PROV, case="unsigned")
    assert (r.status, d["reason"]) == (403, "rule.form")


STATUSES = [(s, "upstream.error", s) for s in (400, 401, 403, 404, 409, 418, 429, 499, 500, 503, 504, 599)] + \
           [(s, "upstream.invalid", 502) for s in (300, 301, 302, 304, 307, 399)]


@pytest.mark.parametrize("status,reason,out", STATUSES)
def test_statuses(bench, status, reason, out):
    secret = b"secret trace " + K.octets["UserSigningKeySSK"].hex().encode()
    body = b"" if status == 304 else secret
    r, d = bench.ask(bench.alice, P, body, status=status, headers=[("Location", "http://127.0.0.1:1/"), ("Set-Cookie",
                                                                                                         "a=b"),
                                                                   ("X-Trace", "t"), ("Server", "Old/1")])
    refused(bench, r, d, out, reason, user=bench.alice)
    assert b"secret" not in r.body and not {"Location", "Set-Cookie", "X-Trace"} & set(r.headers)
    assert d["verdict"] == "accept" and d["upstream"]["status"] == status
    assert 'reason="%s"' % reason in bench.gate.admin("/metrics")[1]
    # a valid reply under such a status is none either, and its keys stay here
    r, d = bench.ask(bench.alice, P, b"" if status == 304 else PROV, status=status)
    refused(bench, r, d, out, reason, user=bench.alice)


@pytest.mark.parametrize("status", [200, 201, 202, 206, 226, 299])
def test_every_2xx_is_200(bench, status):
    r, d = bench.ask(bench.alice, P, PROV, status=status, headers=[("WWW-Authenticate", "Basic"), ("Retry-After", "1")])
    assert (r.status, d["reason"], d["upstream"]["status"]) == (200, "ok", status)
    assert "WWW-Authenticate" not in r.headers and "Retry-After" not in r.headers
    r, d = bench.ask(bench.alice, P, response(error=ERROR), status=status)
    assert (r.status, d["reason"]) == (200, "ok") and r.error == "The KMS reports an error."


@pytest.mark.parametrize("status", [200, 202, 204, 205])
def test_nothing_where_nothing_is_owed(bench, status):
    r, d = bench.ask(bench.alice, "/redirect", b"", status=status)
    assert (r.status, d["reason"], d["response"]["message"]) == (200, "ok", "none")
    assert r.verify(bench.alice.ink,
                    bench.alice.ink_id) and r.response.find(q("KmsMessage")) is None and r.error is None
    assert r.text("TrK-ID") is None
    scripted.check_xsd(r)
    r, d = bench.ask(bench.alice, P, b"", status=status)
    refused(bench, r, d, 502, "upstream.invalid", user=bench.alice)


@pytest.mark.parametrize("raw,reason", [
    (b"HTTP/1.1 100 Continue\r\n\r\n", "upstream.invalid"), (b"HTTP/1.1 101 Switching\r\n\r\n", "upstream.invalid"),
    (b"HTTP/1.1 199 X\r\n\r\n", "upstream.invalid"), (b"", "upstream.unreachable")])
def test_1xx_alone(bench, raw, reason):
    r, d = bench.ask(bench.alice, P, b"", raw=raw, close=True)
    refused(bench, r, d, 502, reason, user=bench.alice)


def test_1xx_before_the_reply(bench):
    final = b"HTTP/1.1 401 X\r\nContent-Length: 0\r\nWWW-Authenticate: Bearer\r\n\r\n"
    r, d = bench.ask(bench.alice, P, b"", raw=b"HTTP/1.1 103 Hints\r\nRetry-After: 7\r\n\r\n" + final)
    assert r.status == 401 and r.headers["WWW-Authenticate"] == "Bearer" and "Retry-After" not in r.headers


@pytest.mark.parametrize("value,passes", [
    ('Bearer realm="kms", error="invalid_token"', True), ("Basic\u00fc", False), ("Bearer a\tb", None), ("x" * 255,
                                                                                                         True),
    ("x" * 5000, False), ("", False)])
def test_headers_sanitized(bench, value, passes):
    raw = ("HTTP/1.1 401 X\r\nContent-Length: 0\r\nWWW-Authenticate: %s\r\n\r\n" % value).encode()
    r, d = bench.ask(bench.alice, P, b"", raw=raw)
    refused(bench, r, d, 401, "upstream.error", user=bench.alice)
    if passes is not None:
        assert r.headers.get_all("WWW-Authenticate") == ([value] if passes else None)


def test_sizes(bench):
    """At most max_reply, 1 MiB: the last octet decides."""
    pad = 1 << 20
    body = response(key_prov(key_set(K, ALICE)), tail="<x:e xmlns:x='urn:x'>~</x:e>")
    for n, status in ((pad, 200), (pad + 1, 502)):
        full = body.replace(b"~", b"~" * (n - len(body) + 1))
        assert len(full) == n
        r, d = bench.ask(bench.alice, P, full)
        assert r.status == status and (d["reason"] == "ok" if status == 200 else d["reason"] == "upstream.invalid"), d


def test_many_key_sets(bench):
    """As many as a reply may hold, opened by others."""
    body = response(key_prov(*[key_set(K, ALICE, KeyPeriodNo=str(i)) for i in range(900)]))
    r, d = bench.ask(bench.alice, P, body)
    assert r.status == 200 and d["reason"] == "ok"
    assert len(r.keys(bench.alice.trk, bench.alice.trk_id)) == 2700
    assert r.verify(bench.alice.ink, bench.alice.ink_id)


def test_lengths_that_lie(bench):
    for raw in (b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % (len(PROV) + 1) + PROV,
                b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + PROV, b"HTTP/1.1 abc\r\n\r\n" + PROV,
                PROV):
        r, d = bench.ask(bench.alice, P, b"", raw=raw, close=True)
        refused(bench, r, d, 502, "upstream.invalid", user=bench.alice)
    chunked = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(PROV) + PROV + b"\r\n0\r\n\r\n"
    assert bench.ask(bench.alice, P, b"", raw=chunked)[0].status == 200


def test_metrics(bench):
    text = bench.gate.admin("/metrics")[1]
    assert 'kmsgate_requests_total{rule="everyone",verdict="accept",reason="ok",form="signed",proven="true"}' in text
    for phase in ("judge", "upstream", "protect", "total"):
        assert 'kmsgate_phase_seconds_count{phase="%s"}' % phase in text


def test_the_decisions_hold_no_secret(bench):
    """What the upstream says with an error is in the log, for its operator, and nowhere else; a key is in neither."""
    bench.ask(bench.alice, P, b"secret trace " + K.octets["UserSigningKeySSK"].hex().encode(), status=400)
    kms.wait_for(lambda: "answered with status 400" in bench.gate.running.err)
    decisions = (bench.gate.folder / "decisions.jsonl").read_text()
    assert "secret trace" not in decisions and "row 4711" not in decisions
    assert "answered with status 400: secret trace" in bench.gate.running.err
    everything = decisions + bench.gate.running.err
    for o in K.octets.values():
        assert o.hex() not in everything


def test_a_reply_is_one_element_and_no_declaration(bench):
    r, _ = bench.ask(bench.alice, P, PROV)
    assert r.body.startswith(b"<SignedKmsResponse ") and r.body.endswith(b"</SignedKmsResponse>")
    root = etree.fromstring(r.body)
    assert root.text is None and all(e.tail is None for e in root.iter())
