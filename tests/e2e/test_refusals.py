"""What is let through, and what is not: each refusal with its reason, and nothing of it reaches the upstream."""
import copy
import time

import pytest
from lxml import etree

import kms
from kms import BASE, DS, NS, q

TWIN_SECONDS = 5


def refused(g, reply, status, reason, n=1, signed=False):
    assert reply.status == status, reply.body
    assert reply.error in (reason, "signature.invalid" if reason in ("key.unknown", "key.revoked") else reason)
    d = g.last(n)
    assert (d["verdict"], d["reason"], d["status"]) == ("reject", reason, status)
    assert reply.signed == signed
    assert reply.response.findtext("%s/%s" % (q("KmsError"), q("ErrorCode"))) == str(status)
    assert g.upstream_requests() == []


def test_forged(gate, alice):
    body = kms.signed_request(alice, gate.url("/keyprov"))
    refused(gate, gate.post("/keyprov", body.replace(b"client-1", b"client-2")), 403, "signature.invalid")
    assert gate.post("/keyprov", body).status == 200


def test_stale_and_future(gate, alice):
    refused(gate, gate.ask(alice, "/keyprov", Time=kms.now(-60)), 403, "time.stale", 1, signed=True)
    refused(gate, gate.ask(alice, "/keyprov", Time=kms.now(60)), 403, "time.future", 2, signed=True)


def test_before_the_start_is_stale(gate, alice):
    assert gate.ask(alice, "/keyprov").status == 200
    d = gate.last(1)
    assert d["claims"]["time"] and abs(d["skew_ms"]) < 60000


def test_misdirected(gate, alice):
    body = kms.signed_request(alice, gate.url("/init"))
    refused(gate, gate.post("/keyprov", body), 403, "client_req_url.mismatch", signed=True)
    assert gate.post("/init", body).status == 200


def test_another_kms(gate, alice):
    refused(gate, gate.ask(alice, "/init", KmsUri="kms.evil.example"), 403, "kms_uri.mismatch", signed=True)


def test_another_users_keys(gate, alice, bob):
    path = "/keyprov/sip%3Abob%40example.org"
    refused(gate, gate.ask(alice, path), 403, "path_user.mismatch", signed=True)
    assert gate.ask(bob, path).status == 200


def test_replayed(gate, alice):
    body = kms.signed_request(alice, gate.url("/keyprov"))
    assert gate.post("/keyprov", body).status == 200
    again = gate.post("/keyprov", body)
    assert (again.status, again.error) == (403, "replay.seen")
    # the same SignatureValue written another way is the same message
    root = etree.fromstring(body)
    v = root.find(".//" + q("SignatureValue", DS))
    v.text = "\n" + v.text[:20] + "\n  " + v.text[20:]
    again = gate.post("/keyprov", etree.tostring(root))
    assert (again.status, again.error) == (403, "replay.seen")
    assert len(gate.upstream_requests()) == 1


def test_unknown_key_user_and_bad_signature_look_alike(gateway, alice, bob):
    g = gateway([alice, bob], rules="""\
version: 1
kms: { uris: [kms.example.org] }
requests: [{ id: everyone }]
responses: [{ id: default }]
""")
    stranger = kms.User("sip:carol@example.org")
    g.run("keys", "revoke", "--config", g.config, "--user", bob.uri, "--id", bob.ink_id)
    kms.wait_for(lambda: 'state="revoked"} 1' in g.admin("/metrics")[1])
    bodies = [
        (kms.signed_request(stranger, g.url("/init")), stranger, "key.unknown"),
        (kms.signed_request(alice, g.url("/init"), signer=("ink.9.alice", alice.ink), **{"Signature-ID": "ink.9.alice"}),
         alice, "key.unknown"),
        (kms.signed_request(bob, g.url("/init")), bob, "key.revoked"),
        (kms.signed_request(alice, g.url("/init"), signer=(alice.ink_id, bob.ink)), alice, "signature.invalid"),
    ]
    seen = set()
    for n, (body, user, reason) in enumerate(bodies, 1):
        r = g.post("/init", body)
        assert g.last(n)["reason"] == reason and r.status == 403
        for e in r.response.iter(q("Time"), q("UserUri")):
            e.text = ""
        seen.add(etree.tostring(r.root))
    assert len(seen) == 1 and b"revoked" not in list(seen)[0]


def test_one_users_key_under_anothers_name(gate, alice, bob):
    refused(gate, gate.ask(alice, "/init", signer=(bob.ink_id, bob.ink), **{"Signature-ID": bob.ink_id}),
            403, "key.unknown")


def test_signature_id_must_agree(gate, alice):
    refused(gate, gate.ask(alice, "/init", **{"Signature-ID": "ink.2.alice"}), 403, "key.policy", 1, True)
    refused(gate, gate.ask(alice, "/init", **{"Signature-ID": None}), 403, "key.policy", 2, True)
    refused(gate, gate.ask(alice, "/init", **{"TrK-ID": "trk.9.alice"}), 403, "key.policy", 3, True)


def test_unsigned(gate, alice):
    body = etree.tostring(kms.kms_request(kms.fields(alice, gate.url("/init"))))
    refused(gate, gate.post("/init", body), 403, "signature.missing", 1)
    refused(gate, gate.post("/init", b""), 403, "signature.missing", 2)
    empty = etree.tostring(kms.envelope(kms.kms_request(kms.fields(alice, gate.url("/init")))))
    refused(gate, gate.post("/init", empty), 403, "signature.missing", 3)


PROFILE = {
    "sha1": {"digest": "http://www.w3.org/2000/09/xmldsig#sha1"},
    "hmac-sha1": {"method": "http://www.w3.org/2000/09/xmldsig#hmac-sha1"},
    "hmac-sha512": {"method": "http://www.w3.org/2001/04/xmldsig-more#hmac-sha512"},
    "exclusive": {"c14n": "http://www.w3.org/2001/10/xml-exc-c14n#"},
    "with comments": {"c14n": kms.C14N + "#WithComments"},
    "128 bits": {"hmac_bits": 128},
    "exclusive transform": {"transforms": ["http://www.w3.org/2001/10/xml-exc-c14n#"]},
    "three transforms": {"transforms": [kms.C14N] * 3},
}


@pytest.mark.parametrize("name", PROFILE)
def test_profile(gate, alice, name):
    refused(gate, gate.ask(alice, "/init", sig=PROFILE[name]), 403, "signature.profile")


def wrapped(gate, alice, move):
    """A signed request whose signed part was moved away, a forged one in its place."""
    root = etree.fromstring(kms.signed_request(alice, gate.url("/init")))
    forged = copy.deepcopy(root[0])
    forged.find(q("UserUri")).text = "sip:bob@example.org"
    move(root, forged)
    return etree.tostring(root)


def into_object(root, forged):
    obj = etree.SubElement(root[1], q("Object", DS))
    obj.append(root[0])
    root.insert(0, forged)


def beside(root, forged):
    forged.set("Id", "other")
    root.insert(0, forged)


def same_id(root, forged):
    root.insert(0, forged)


def into_extension(root, forged):
    forged.set("Id", "other")
    e = etree.SubElement(forged, "{urn:example:x}Box")
    e.append(root[0])
    root.insert(0, forged)


def outer(root, forged):
    old = copy.deepcopy(root)
    for e in list(root):
        root.remove(e)
    root.append(forged)
    root.append(old)


@pytest.mark.parametrize("move", [into_object, beside, same_id, into_extension, outer])
def test_wrapping(gate, alice, move):
    r = gate.post("/init", wrapped(gate, alice, move))
    assert r.status in (400, 403) and not r.signed
    assert gate.last(1)["reason"] in ("xml.invalid", "signature.profile", "signature.reference", "signature.invalid",
                                      "key.unknown")
    assert gate.upstream_requests() == []


def test_own_key_in_the_message(gate, alice):
    key = b"k" * 32
    root = kms.envelope(kms.kms_request(kms.fields(alice, gate.url("/init"))))
    body = kms.sign(root, key, alice.ink_id)
    root = etree.fromstring(body)
    ki = root.find(".//" + q("KeyInfo", DS))
    kv = etree.SubElement(ki, q("KeyValue", DS))
    etree.SubElement(kv, "{http://www.aleksey.com/xmlsec/2002}HMACKeyValue").text = "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s="
    refused(gate, gate.post("/init", etree.tostring(root)), 403, "signature.profile")


XML = {
    "not xml": (b"hello", "xml.malformed"),
    "truncated": (b"<KmsRequest xmlns='%s'>" % NS.encode(), "xml.malformed"),
    "trailing": (b"<KmsRequest xmlns='%s'/><a/>" % NS.encode(), "xml.malformed"),
    "unbound prefix": (b"<k:KmsRequest/>", "xml.malformed"),
    "doctype": (b"<!DOCTYPE KmsRequest [<!ENTITY a 'b'>]><KmsRequest xmlns='%s'/>" % NS.encode(), "xml.forbidden"),
    "billion laughs": (b"<!DOCTYPE x [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'>]><x>&b;</x>",
                       "xml.forbidden"),
    "comment": (b"<KmsRequest xmlns='%s'><!-- a --></KmsRequest>" % NS.encode(), "xml.forbidden"),
    "pi": (b"<KmsRequest xmlns='%s'><?a b?></KmsRequest>" % NS.encode(), "xml.forbidden"),
    "latin1": (b"<?xml version='1.0' encoding='ISO-8859-1'?><KmsRequest xmlns='%s'/>" % NS.encode(), "xml.forbidden"),
    "utf16": ("<KmsRequest xmlns='%s'/>" % NS).encode("utf-16"),
    "relative namespace": (b"<KmsRequest xmlns='TOBEDEFINED'/>", "xml.forbidden"),
    "deep": (b"<a>" * 40 + b"</a>" * 40, "xml.forbidden"),
    "wide": (b"<a>" + b"<b/>" * 400 + b"</a>", "xml.forbidden"),
    "attributes": (b"<a " + b" ".join(b"a%d='1'" % i for i in range(40)) + b"/>", "xml.forbidden"),
    "namespaces": (b"<a " + b" ".join(b"xmlns:a%d='urn:%d'" % (i, i) for i in range(40)) + b"/>", "xml.forbidden"),
    "another root": (b"<KmsResponse xmlns='%s'/>" % NS.encode(), "xml.invalid"),
    "another namespace": (b"<KmsRequest xmlns='urn:x'/>", "xml.invalid"),
}


@pytest.mark.parametrize("name", XML)
def test_xml(gate, name):
    body, reason = XML[name] if isinstance(XML[name], tuple) else (XML[name], None)
    r = gate.post("/init", body)
    assert r.status == 400 and not r.signed
    got = gate.last(1)["reason"]
    assert got == reason if reason else got in ("xml.malformed", "xml.forbidden")


def test_schema(gate, alice):
    n = 0
    for change in (
            lambda r: r.remove(r.find(q("UserUri"))),
            lambda r: r.append(copy.deepcopy(r.find(q("UserUri")))),
            lambda r: etree.SubElement(r, q("Surprise")),
            lambda r: r.set("Extra", "1"),
            lambda r: r.set("Version", "9.9.9"),
            lambda r: etree.SubElement(r.find(q("Time")), q("b")),
            lambda r: setattr(r.find(q("Time")), "text", "yesterday"),
            lambda r: setattr(r.find(q("Time")), "text", "2026-11-23T24:00:00Z"),
            lambda r: setattr(r.find(q("UserUri")), "tail", "text"),
            lambda r: r.insert(0, r.find(q("Time"))),
            lambda r: etree.SubElement(r, q("KrrList"))):
        def request(f):
            r = kms.kms_request(f)
            change(r)
            return r
        n += 1
        refused(gate, gate.ask(alice, "/init", request=request), 400, "xml.invalid", n)


def test_no_rule(gateway, alice, bob):
    g = gateway(rules="""\
version: 1
kms: { uris: [kms.example.org] }
errors: { detail: reason }
requests:
  - { id: bob, match: { user: "sip:bob@*" } }
responses: [{ id: default }]
""")
    refused(g, g.ask(alice, "/init"), 403, "rule.none")
    assert g.ask(bob, "/init").status == 200


def test_shadow_lets_through_and_tells(gateway, alice):
    g = gateway(rules="""\
version: 1
kms: { uris: [kms.example.org] }
requests:
  - id: everyone
    why: first day
    checks: { time: shadow, kms_uri: { mode: shadow }, client_req_url: off }
responses: [{ id: default }]
""")
    r = g.ask(alice, "/init", Time=kms.now(-3600), KmsUri="http://10.0.0.1:80", ClientReqUrl="http://elsewhere/")
    assert r.status == 200
    d = g.last(1)
    assert d["shadow"] == ["kms_uri.mismatch", "time.stale"]
    assert d["checks"]["time"] == "shadow_fail" and d["checks"]["client_req_url"] == "off"
    assert d["verdict"] == "accept" and 3590000 < d["skew_ms"] < 3700000
    assert 'kmsgate_check_failures_total{check="time",mode="shadow",rule="everyone"} 1' in g.admin("/metrics")[1]


def test_unsigned_allowed_by_rule(gateway, alice):
    g = gateway(rules="""\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
errors: { detail: reason }
requests:
  - id: legacy
    why: firmware 4.1 does not sign yet
    accept: [signed, unsigned, empty]
responses: [{ id: default, encrypt: { when: requested } }]
""")
    body = etree.tostring(kms.kms_request(kms.fields(alice, g.url("/init"), **{"TrK-ID": None, "Signature-ID": None})))
    r = g.post("/init", body)
    assert r.status == 200 and not r.signed and r.response.get("Id") == "xmldoc"
    d = g.last(1)
    assert d["proven"] is False and d["form"] == "unsigned" and d["checks"]["signature"] == "skip"
    r = g.post("/keyprov/sip%3Aalice%40example.org", b"")
    assert r.status == 200 and not r.signed and r.text("UserUri") == alice.uri
    d = g.last(2)
    assert d["form"] == "empty" and d["user"] == alice.uri and d["checks"]["time"] == "skip"
    # a signed one is still judged in full
    r = g.ask(alice, "/init", Time=kms.now(-60))
    assert (r.status, r.error) == (403, "time.stale")


def test_a_full_replay_memory_refuses(gateway, alice, bob):
    """At most a sixteenth of it is one user's, so that nobody can fill it for all."""
    g = gateway(config="limits: { replay_entries: 32 }")
    replies = [g.ask(alice, "/init") for _ in range(3)]
    assert [r.status for r in replies] == [200, 200, 503]
    assert replies[2].error == "replay.full" and int(replies[2].headers["Retry-After"]) > 0 and replies[2].signed
    assert len(g.upstream_requests()) == 2
    assert g.ask(bob, "/init").status == 200
