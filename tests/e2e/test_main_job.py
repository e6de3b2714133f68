"""The main job: all resources, all accepted forms, both ways with another implementation."""
import urllib.parse

import pytest
from lxml import etree

import kms
from kms import BASE, C14N, NS, q

ENVELOPED = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
# read before the first signature: python3-xmlsec takes libxml2's reading of files away


def check_compliant(reply, user, url, encrypted):
    key_id, key = user.ink_id and (user.ink_id, user.ink) or (user.trk_id, user.trk)
    assert reply.status == 200
    assert reply.signed and reply.verify(key, key_id)
    assert reply.response.get("Id") == "xmldoc" and reply.response.get("Version") == "1.0.0"
    assert reply.text("UserUri") == user.uri
    assert reply.text("KmsUri") == "kms.example.org"
    assert reply.text("KmsId") == "kms-01"
    assert reply.text("ClientReqUrl") == url
    assert reply.text("TrK-ID") == (user.trk_id if encrypted else None)
    assert reply.headers["Content-Type"] == "application/xml; charset=utf-8"
    assert reply.headers["Cache-Control"] == "no-store"
    assert len(reply.headers["X-Request-Id"]) >= 16
    order = [etree.QName(e).localname for e in reply.response]
    assert order == [n for n in ("UserUri", "KmsUri", "Time", "KmsId", "ClientReqUrl", "KmsMessage", "KmsError",
                                 "TrK-ID", "Signature-ID") if n in order]


RESOURCES = [
    ("/init", "KmsInit", False),
    ("/keyprov", "KmsKeyProv", True),
    ("/keyprov/sip%3Aalice%40example.org", "KmsKeyProv", True),
    ("/keyprov/sip:alice@example.org", "KmsKeyProv", True),
    ("/keyprov/sip%3Aalice%40example.org/D6B4323200000000", "KmsKeyProv", True),
    ("/certcache", "KmsCertCache", False),
    ("/certcache/7", "KmsCertCache", False),
    ("/cert/kms.other.example", "KmsCertCache", False),
    ("/lookup/sip%3Abob%40example.org", "KmsLookup", False),
]


@pytest.mark.parametrize("path,message,keys", RESOURCES)
def test_resource(gate, alice, path, message, keys):
    reply = gate.ask(alice, path)
    check_compliant(reply, alice, gate.url(path), keys)
    payload = reply.response.find(q("KmsMessage"))
    assert [etree.QName(e).localname for e in payload] == [message]
    got = reply.keys(alice.trk, alice.trk_id)
    assert {n for n, _ in got} == ({"UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT"} if keys else set())
    for name, octets in got:
        assert len(octets) == kms.KEY_CONTENT[name]
        assert octets[0] == 4 or name == "UserSigningKeySSK"
    d = gate.last(1)
    assert (d["verdict"], d["reason"], d["user"], d["proven"], d["key_id"]) == \
        ("accept", "ok", alice.uri, True, alice.ink_id)
    assert d["response"]["message"] == message and d["response"]["signed_by"] == alice.ink_id
    assert set(d["checks"].values()) == {"pass"} and len(d["checks"]) == 8
    # byte for byte to the upstream, without the extension's elements
    up = gate.upstream_requests()
    assert len(up) == 1 and up[0]["target"] == BASE + path
    seen = etree.fromstring(up[0]["body"].encode())
    assert seen.tag == q("KmsRequest") and seen.find(q("TrK-ID")) is None and seen.find(q("Signature-ID")) is None
    assert seen.findtext(q("UserUri")) == alice.uri


def test_redirect(gate, alice):
    def request(f):
        r = kms.kms_request(f)
        krr = etree.SubElement(r, q("KrrList"))
        etree.SubElement(krr, "{urn:3gpp:ns:mcsecKMSKRR:1.0}KmsRedirectResponse").text = "x"
        for name in ("TrK-ID", "Signature-ID"):
            r.append(r.find(q(name)))
        return r
    reply = gate.post("/redirect", kms.signed_request(alice, gate.url("/redirect"), request=request))
    check_compliant(reply, alice, gate.url("/redirect"), False)
    assert reply.response.find(q("KmsMessage")) is None and reply.error is None


def test_the_reply_holds_against_the_schema(gate, alice):
    for path in ("/init", "/keyprov", "/certcache"):
        kms.SCHEMA.assertValid(etree.fromstring(gate.ask(alice, path).body))
    kms.SCHEMA.assertValid(etree.fromstring(gate.ask(alice, "/keyprov", Time=kms.now(-60)).body))


def pretty(f):
    r = kms.kms_request(f)
    etree.indent(r, "\t")
    return r


def prefixed(f):
    return kms.kms_request(f, nsmap={"k": NS, "unused": "urn:example:unused"})


def both_orders(f):
    return kms.kms_request(f, order=["UserUri", "KmsUri", "ClientId", "DeviceId", "Time", "ClientReqUrl", "TrK-ID",
                                     "Signature-ID"])


def extended(f):
    r = kms.kms_request(f)
    e = etree.SubElement(r, "{urn:example:ext}Radio", nsmap={"e": "urn:example:ext"})
    etree.SubElement(e, "{urn:example:ext}Serial").text = "42 & 43"
    return r


def cdata(f):
    r = kms.kms_request(f)
    r.find(q("UserUri")).text = etree.CDATA(f["UserUri"])
    return r


FORMS = {
    "plain": {},
    "pretty": {"request": pretty},
    "prefixed": {"request": prefixed},
    "published order": {"request": both_orders},
    "extensions": {"request": extended},
    "cdata": {"request": cdata},
    "another Id": {"request": lambda f: kms.kms_request(f, ident="id-77"), "sig": {"uri": "#id-77"}},
    "no Version": {"request": lambda f: kms.kms_request(f, version=None)},
    "Version 1.0.0": {"request": lambda f: kms.kms_request(f, version="1.0.0")},
    "c14n named": {"sig": {"transforms": [C14N]}},
    "HMACOutputLength 256": {"sig": {"hmac_bits": 256}},
    "whole document": {"sig": {"uri": "", "transforms": [ENVELOPED]}},
    "whole document, c14n": {"sig": {"uri": "", "transforms": [ENVELOPED, C14N]}},
    "fractions": {"Time": lambda: kms.now()[:-1] + "123456Z"},
    "no fractions": {"Time": lambda: kms.now(1)[:19] + "Z"},
    "offset": {"Time": lambda: kms.now(2 * 3600)[:-1] + "+02:00"},
    "no zone": {"Time": lambda: kms.now()[:-1]},
    "no ClientId": {"ClientId": None},
    "no TrK-ID": {"TrK-ID": None},
}


@pytest.mark.parametrize("name", FORMS)
def test_form(gate, alice, name):
    kw = {k: v() if k == "Time" else v for k, v in FORMS[name].items()}
    kms.wait_for(lambda: gate.ready())
    if name in ("no fractions",):
        import time
        time.sleep(1.1)
    check_compliant(gate.ask(alice, "/keyprov", **kw), alice, gate.url("/keyprov"), True)


def test_envelope_by_id(gate, alice):
    f = kms.fields(alice, gate.url("/init"))
    root = kms.envelope(kms.kms_request(f), ident="whole")
    body = kms.sign(root, alice.ink, alice.ink_id, uri="#whole", transforms=[ENVELOPED])
    check_compliant(gate.post("/init", body), alice, gate.url("/init"), False)


def test_byte_order_mark(gate, alice):
    body = kms.signed_request(alice, gate.url("/init"))
    check_compliant(gate.post("/init", b"\xef\xbb\xbf" + body), alice, gate.url("/init"), False)


def test_without_an_ink_the_trk_signs(gateway, alice):
    carol = kms.User("sip:carol@example.org", ink=False)
    g = gateway([alice, carol])
    check_compliant(g.ask(carol, "/keyprov"), carol, g.url("/keyprov"), True)
    d = g.last(1)
    assert d["key_type"] == "trk" and d["key_id"] == carol.trk_id
    # the twin: a user who has an InK may not
    refused = g.ask(alice, "/keyprov", signer=(alice.trk_id, alice.trk), **{"Signature-ID": alice.trk_id})
    assert (refused.status, refused.error) == (403, "key.policy")


def test_query_is_passed_on_and_not_logged(gate, alice):
    path = "/init?device=7&x=%20"
    check_compliant(gate.ask(alice, path), alice, gate.url(path), False)
    assert gate.upstream_requests()[0]["target"] == BASE + path
    assert gate.last(1)["path"] == BASE + "/init"


def test_headers_to_the_upstream(gateway, alice):
    rules = """\
version: 1
kms: { uris: [kms.example.org] }
requests:
  - id: everyone
    forward: { headers: { X-3GPP-Asserted-Identity: "{user}", X-Rule: "{rule}/{key_id}" }, pass: [X-Fleet] }
responses: [{ id: default }]
"""
    g = gateway(rules=rules)
    reply = g.post("/init", kms.signed_request(alice, g.url("/init")), headers={
        "Authorization": "Bearer secret-token-77", "User-Agent": "radio/1", "X-Fleet": "north", "Cookie": "a=b",
        "X-3GPP-Asserted-Identity": "sip:mallory@example.org", "X-Forwarded-For": "6.6.6.6", "X-Request-Id": "mine",
        "Accept": "application/xml", "X-Other": "1"})
    assert reply.status == 200
    h = {k.lower(): v for k, v in g.upstream_requests()[0]["headers"].items()}
    assert h["authorization"] == "Bearer secret-token-77" and h["user-agent"] == "radio/1"
    assert h["x-fleet"] == "north" and h["accept"] == "application/xml"
    assert h["x-3gpp-asserted-identity"] == alice.uri and h["x-rule"] == "everyone/" + alice.ink_id
    assert h["host"] == g.upstream.split("//")[1] and h["x-request-id"] == reply.headers["X-Request-Id"]
    assert not {"cookie", "x-forwarded-for", "x-other"} & set(h)
    everything = (g.folder / "decisions.jsonl").read_text() + g.running.err
    assert "secret-token-77" not in everything and alice.ink.hex() not in everything


def test_whole_message_encrypted(gateway, alice):
    g = gateway(rules="""\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
requests: [{ id: everyone }]
responses: [{ id: default, encrypt: { content: message } }]
""")
    reply = g.ask(alice, "/keyprov")
    check_compliant(reply, alice, g.url("/keyprov"), True)
    message = reply.response.find(q("KmsMessage"))
    assert [e.tag for e in message] == [q("EncryptedData", kms.XENC)]
    assert len(reply.keys(alice.trk, alice.trk_id)) >= 3


@pytest.mark.parametrize("wrap,uri", [("kw-aes256-pad", kms.XENC11 + "kw-aes-256-pad"),
                                      ("aes256-gcm", kms.XENC11 + "aes256-gcm")])
def test_key_wrap(gateway, alice, wrap, uri):
    g = gateway(rules="""\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
requests: [{ id: everyone }]
responses: [{ id: default, encrypt: { key_wrap: %s } }]
""" % wrap)
    reply = g.ask(alice, "/keyprov")
    check_compliant(reply, alice, g.url("/keyprov"), True)
    assert {e.get("Algorithm") for e in reply.response.iter(q("EncryptionMethod", kms.XENC))} == {uri}
    assert len(reply.keys(alice.trk, alice.trk_id)) >= 3


def test_our_client_opens_what_the_gate_sends(gate, alice):
    (gate.folder / "client.jsonl").write_text("\n".join(alice.lines()))
    (gate.folder / "client.jsonl").chmod(0o600)
    r = gate.run("request", "--url", gate.url("/keyprov"), "--user", alice.uri, "--keys", gate.folder / "client.jsonl",
                 "--kms-uri", "kms.example.org", "--out", gate.folder / "reply.xml")
    assert "UserDecryptKey" in r.stdout
    clear = dict(kms.Reply(200, {}, (gate.folder / "reply.xml").read_bytes()).keys(alice.trk, alice.trk_id))
    assert clear["UserSigningKeySSK"].hex() not in r.stdout.lower()
    r = gate.run("open", "--user", alice.uri, "--keys", gate.folder / "client.jsonl", "--with-secrets",
                 gate.folder / "reply.xml")
    assert clear["UserSigningKeySSK"].hex() in r.stdout.lower()
    broken = (gate.folder / "reply.xml").read_bytes().replace(b"kms-01", b"kms-02")
    (gate.folder / "broken.xml").write_bytes(broken)
    r = gate.run("open", "--user", alice.uri, "--keys", gate.folder / "client.jsonl", gate.folder / "broken.xml",
                 check=False)
    assert r.returncode == 1 and "signature" in r.stderr
