"""The contract's sentences on requests, one after the other, against the running program.

One gateway judges all of them. A row is a request that is good but for what the row says; its twin differs by that one
thing and is judged otherwise. A request chooses its rule by its ClientId, so that every row can have a rule of its own.
"""
import base64
import copy
import json
import os
import re
import threading
from datetime import datetime, timedelta, timezone
from http.client import HTTPConnection

import pytest
from lxml import etree

import kms
from conftest import Gateway
from kms import BASE, DS, NS, q

OK = "ok"
STATUS = {
    "http.path": 400, "http.framing": 400, "http.resource": 404, "http.method": 405, "http.media_type": 415,
    "http.too_large": 413, "rule.none": 403, "rule.form": 403, "xml.malformed": 400, "xml.forbidden": 400,
    "xml.invalid": 400, "signature.missing": 403, "signature.invalid": 403, "signature.profile": 403,
    "signature.reference": 403, "key.unknown": 403, "key.policy": 403, "key.revoked": 403, "kms_uri.mismatch": 403,
    "time.stale": 403, "time.future": 403, "time.zone": 403, "client_req_url.mismatch": 403, "path_user.mismatch": 403,
    "replay.seen": 403, "rule.denied": 403, OK: 200}
RULES = """\
version: 1
kms: { uris: [kms.example.org, "kms2.example.org:8443", "https://kms3.example.org/kms"], id: kms-01 }
errors: { detail: reason }
requests:
  - { id: over, match: { client_id: over }, until: 2026-01-01 }
  - { id: not-yet, match: { client_id: not-yet }, since: 2990-01-01 }
  - { id: until-far, match: { client_id: until-far }, since: 2020-02-29, until: 2990-01-01 }
  - { id: by-path, match: { client_id: by-path, path: "/keymanagement/identity/v1/*" } }
  - { id: by-deep-path, match: { client_id: by-deep-path, path: "/keymanagement/identity/v1/**" } }
  - { id: by-source, match: { client_id: by-source, source: [192.0.2.0/24, 127.0.0.0/8, "2001:db8::/32"] } }
  - { id: by-other-source, match: { client_id: by-other-source, source: [192.0.2.0/24, "::/0"] } }
  - { id: by-device, match: { client_id: by-device, device_id: ["radio-*", "car-*-*"] } }
  - { id: by-user, match: { client_id: by-user, user: "sip:*@example.org" } }
  - { id: by-form, match: { client_id: by-form, form: unsigned }, accept: [unsigned], why: a test }
  - { id: bits, match: { client_id: bits }, checks: { signature: { min_hmac_bits: 128 } } }
  - { id: exclusive, match: { client_id: exclusive }, checks: { signature: { canonicalization: [c14n, exc-c14n] } } }
  - { id: c14n11, match: { client_id: c14n11 }, checks: { signature: { canonicalization: [c14n, c14n11] } } }
  - { id: host, match: { client_id: host }, checks: { kms_uri: { compare: host } } }
  - { id: normalized, match: { client_id: normalized }, checks: { client_req_url: { compare: normalized } } }
  - { id: prefix, match: { client_id: prefix }, checks: { client_req_url: { compare: prefix } } }
  - { id: wide, match: { client_id: wide }, checks: { time: { past: 2h, future: 90m }, replay: off }, why: a test }
  - { id: zone, match: { client_id: zone }, checks: { time: { assume_zone: "+01:00" } } }
  - { id: zone-refuse, match: { client_id: zone-refuse }, checks: { time: { assume_zone: refuse } } }
  - { id: old-version, match: { client_id: old-version }, checks: { schema: { versions: [1.0.0] } } }
  - { id: also, match: { client_id: also }, checks: { path_user: { also: ["sip:group-*"] } } }
  - { id: unsigned, match: { client_id: unsigned }, accept: [unsigned], why: a test }
  - { id: any, match: { client_id: any }, accept: [signed, unsigned, empty], why: a test }
  - { id: policy-off, match: { client_id: policy-off }, checks: { key_policy: off }, why: a test }
  - { id: signature-off, match: { client_id: signature-off }, checks: { signature: off, key_policy: off }, why: a test }
  - { id: signature-shadow, match: { client_id: signature-shadow }, why: a test,
      checks: { signature: shadow, key_policy: shadow } }
  - { id: schema-shadow, match: { client_id: schema-shadow }, checks: { schema: shadow }, why: a test }
  - { id: all-off, match: { client_id: all-off }, why: a test, checks: { schema: off, signature: off, key_policy: off,
      kms_uri: off, time: off, client_req_url: off, path_user: off, replay: off } }
  - { id: replay-shadow, match: { client_id: replay-shadow }, checks: { replay: shadow }, why: a test }
  - { id: replay-off, match: { client_id: replay-off }, checks: { replay: off }, why: a test }
  - { id: denied, match: { client_id: denied }, deny: on, why: a test }
  - { id: empty, match: { form: empty, path: "/keymanagement/identity/v1/lookup/*" }, accept: [empty], why: a test }
  - { id: everyone, match: { client_id: "client-*" } }
responses: [{ id: default, encrypt: { when: requested } }]
"""


class World:
    def __init__(self, folder):
        self.alice, self.bob = kms.User("sip:alice@example.org"), kms.User("sip:bob@example.org")
        self.carol = kms.User("sip:carol@example.org", ink=False)    # no InK: her TrK signs
        self.dave = kms.User("sip:dave@example.org")                 # his InK is revoked, his TrK is not
        self.erin = kms.User("sip:erin@example.org")                 # her InK is expired
        self.frank = kms.User("sip:frank@example.org")               # his InK is retiring, another one active
        self.frank2 = ("ink.2.frank", os.urandom(32))
        self.grace = kms.User("sip:grace@example.org")               # her TrK is revoked
        everyone = [self.alice, self.bob, self.carol, self.dave, self.erin, self.frank, self.grace]
        self.gate = Gateway(folder, everyone, rules=RULES, start=False)
        self.lines = {}
        self.read = 0
        run = self.gate.run
        revoke = ("keys", "revoke", "--config", self.gate.config, "--user")
        run(*revoke, self.dave.uri, "--id", self.dave.ink_id)
        run(*revoke, self.grace.uri, "--id", self.grace.trk_id)
        more = [{"user": self.frank.uri, "type": "ink", "id": self.frank2[0], "key": self.frank2[1].hex()},
                {"user": self.erin.uri, "type": "ink", "id": self.erin.ink_id, "key": self.erin.ink.hex(),
                 "not_after": "2020-01-01T00:00:00Z"}]
        run("keys", "import", "--replace", "--config", self.gate.config, "-",
            input="".join(json.dumps(x) + "\n" for x in more))
        self.gate.start()

    def decision(self, reply):
        """The line of the exchange that this is the reply of."""
        wanted = reply.headers["X-Request-Id"]
        path = self.gate.folder / "decisions.jsonl"

        def look():
            with open(path) as f:
                f.seek(self.read)
                for line in iter(f.readline, ""):
                    if not line.endswith("\n"):
                        break
                    self.read = f.tell()
                    d = json.loads(line)
                    assert d["id"] not in self.lines, "two lines for one request"
                    self.lines[d["id"]] = d
            return self.lines.get(wanted)
        return kms.wait_for(look)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    w = World(tmp_path_factory.mktemp("contract"))
    yield w
    code = w.gate.stop()
    assert "ERROR: " not in w.gate.running.err and "runtime error" not in w.gate.running.err, w.gate.running.err
    assert code == 0, w.gate.running.err


def build(w, path="/keyprov", user="alice", client=None, signer=None, sig=None, attach=True, ident="xmldoc",
          version="1.1.0", envelope_id=None, request=None, before=None, after=None, order=None, url=None, **over):
    """The body. request(root of KmsRequest), before(root of all, to be signed), after(bytes, signed)."""
    u = getattr(w, user)
    if client:
        over["ClientId"] = client
    f = kms.fields(u, url if url is not None else w.gate.url(path), **over)
    root = kms.kms_request(f, version=version, ident=ident, order=order)
    if request:
        request(root)
    if attach:
        root = kms.envelope(root, ident=envelope_id)
    if before:
        before(root)
    if attach:
        kid, key = signer(w) if signer else u.signer()
        body = kms.sign(root, key, kid, **(sig or {}))
    else:
        body = etree.tostring(root)
    if after:
        new = after(body)
        assert new != body, "the change changed nothing"
        body = new
    return body


def post(w, body, path="/keyprov", headers=None, method="POST"):
    c = HTTPConnection("127.0.0.1", w.gate.port, timeout=20)
    h = {"Content-Type": "application/xml"}
    h.update(headers or {})
    c.request(method, BASE + path, body, {k: v for k, v in h.items() if v is not None})
    r = c.getresponse()
    reply = kms.Reply(r.status, r.headers, r.read())
    c.close()
    return reply


def verdict(w, reason, reply, path="/keyprov"):
    """Status, reply and decision all say this reason."""
    d = w.decision(reply)
    assert d["reason"] == reason, (d, w.gate.running.err[-500:])
    assert reply.status == STATUS[reason] == d["status"]
    assert d["verdict"] == ("accept" if reason == OK else "reject")
    if reason == OK:
        assert reply.response.find(q("KmsError")) is None
        return d
    e = reply.response.find(q("KmsError"))
    shown = "signature.invalid" if reason in ("key.unknown", "key.revoked") else reason
    assert [c.text for c in e] == [str(reply.status), shown]
    assert [etree.QName(c).localname for c in e] == ["ErrorCode", "ErrorMsg"]
    assert reply.response.get("Id") == "xmldoc" and reply.response.get("Version") == "1.0.0"
    assert reply.text("ClientReqUrl") == w.gate.public + BASE + path
    assert reply.text("KmsUri") == "kms.example.org" and reply.text("KmsId") == "kms-01"
    assert reply.signed == d.get("proven", False), "signed when the requester's signature held, and only then"
    return d


def judged(w, reason, path="/keyprov", **kw):
    headers = kw.pop("headers", None)
    return verdict(w, reason, post(w, build(w, path, **kw), path, headers), path)


def text(name, value):
    def change(root):
        root.find(q(name)).text = value
    return {"request": change}


def put(a, b):
    return lambda body: body.replace(a, b, 1)


def at(delta=0.0, form="%Y-%m-%dT%H:%M:%S.%fZ", offset=None):
    """Now and so many seconds, as a client writes it."""
    t = datetime.now(timezone.utc) + timedelta(seconds=delta)
    if offset:
        hours, minutes = map(int, offset[1:].split(":"))
        t += timedelta(hours=hours, minutes=minutes) * (1 if offset[0] == "+" else -1)
        form = "%Y-%m-%dT%H:%M:%S.%f" + offset
    return t.strftime(form)


class Late:
    """A value that is made when the request is."""
    def __init__(self, *a, **kw):
        self.a, self.kw = a, kw

    def now(self):
        return at(*self.a, **self.kw)


EXC = "http://www.w3.org/2001/10/xml-exc-c14n#"
C11 = "http://www.w3.org/2006/12/xml-c14n11"
ENV = DS + "enveloped-signature"


def row(name, reason, **kw):
    return pytest.param(reason, kw, id=name.replace(" ", "-"))


def run_row(w, reason, kw):
    kw = {k: v.now() if isinstance(v, Late) else v for k, v in kw.items()}
    return judged(w, reason, **kw)


# "match keys: path (glob on the raw path; * stays within a segment, ** crosses /), user, client_id, device_id (globs,
# byte for byte), source (CIDRs), form"; "first match decides; no match is refused"; since, until
MATCH = [
    row("a client of everyone", OK),
    row("a client of no rule", "rule.none", client="stranger"),
    row("a client of a rule that refuses all", "rule.denied", client="denied"),
    row("no client", "rule.none", ClientId=None),
    row("an empty client", "rule.none", ClientId=""),
    row("case counts", "rule.none", client="Client-1"),
    row("until is over", "rule.none", client="over"),
    row("until is to come", OK, client="until-far"),
    row("since is to come", "rule.none", client="not-yet"),
    row("star within a segment", OK, client="by-path"),
    row("star does not cross", "rule.none", client="by-path", path="/keyprov/sip%3Aalice%40example.org"),
    row("two stars cross", OK, client="by-deep-path", path="/keyprov/sip%3Aalice%40example.org"),
    row("the raw path", OK, client="by-path", path="/keyprov?x=/a/b"),
    row("a source", OK, client="by-source"),
    row("another source", "rule.none", client="by-other-source"),
    row("a device", OK, client="by-device", DeviceId="radio-" + os.urandom(4).hex()),
    row("a device of two stars", OK, client="by-device", DeviceId="car-1-" + os.urandom(4).hex()),
    row("another device", "rule.none", client="by-device", DeviceId="car-1"),
    row("a user", OK, client="by-user"),
    row("another form", "rule.none", client="by-form"),
    row("that form", OK, client="by-form", attach=False, **{"Signature-ID": None, "TrK-ID": None}),
]

# accept
ACCEPT = [
    row("unsigned where signed is due", "signature.missing", attach=False),
    row("signed where unsigned is due", "rule.form", client="unsigned"),
    row("unsigned where unsigned is due", OK, client="unsigned", attach=False, **{"TrK-ID": None}),
    row("signed where any", OK, client="any"),
    row("unsigned where any", OK, client="any", attach=False, **{"TrK-ID": None}),
    row("a signed one without signature", "signature.missing", client="any",
        after=lambda b: re.sub(rb"<Signature .*</Signature>", b"", b, flags=re.S)),
]

# the forms of the request: protocol.md, "The request"
ORDER = ["UserUri", "KmsUri", "ClientId", "DeviceId", "Time", "ClientReqUrl", "TrK-ID", "Signature-ID"]
SCHEMA = [
    row("the schema's order", OK),
    row("the table's order", OK, order=ORDER),
    row("a mixed order", "xml.invalid", order=["UserUri", "KmsUri", "ClientId", "Time", "DeviceId", *ORDER[5:]]),
    row("ids anywhere behind ClientReqUrl", OK, order=["UserUri", "KmsUri", "Time", "ClientReqUrl", "Signature-ID", "TrK-ID"],
        client=None, ClientId="client-1", request=lambda r: r.insert(3, etree.fromstring(
            "<ClientId xmlns='%s'>client-1</ClientId>" % NS))),
    row("ids before ClientReqUrl", "xml.invalid", order=["UserUri", "KmsUri", "Time", "ClientId", "TrK-ID",
                                                         "ClientReqUrl", "Signature-ID"]),
    row("no device", OK, DeviceId=None, Time=Late()),
    row("no KmsUri", "xml.invalid", KmsUri=None),
    row("no Time", "xml.invalid", Time=None),
    row("no ClientReqUrl", "xml.invalid", request=lambda r: r.remove(r.find(q("ClientReqUrl")))),
    row("twice", "xml.invalid", request=lambda r: r.insert(1, copy.deepcopy(r[0]))),
    row("an unknown child", "xml.invalid", request=lambda r: etree.SubElement(r, q("Surprise"))),
    row("an extension", OK, request=lambda r: etree.SubElement(r, "{urn:example:x}Surprise")),
    row("an extension in no namespace", "xml.invalid", request=lambda r: etree.SubElement(r, "Surprise")),
    row("ours within an extension", "xml.invalid", request=lambda r: etree.SubElement(
        etree.SubElement(r, "{urn:example:x}Surprise"), q("UserUri"))),
    row("ClientError", OK, request=lambda r: r.insert(6, etree.fromstring(
        "<ClientError xmlns='%s'><ErrorCode>7</ErrorCode><ErrorMsg>m</ErrorMsg></ClientError>" % NS))),
    row("ClientError without its code", "xml.invalid", request=lambda r: r.insert(6, etree.fromstring(
        "<ClientError xmlns='%s'><ErrorMsg>m</ErrorMsg></ClientError>" % NS))),
    row("KrrList elsewhere", "xml.invalid", request=lambda r: r.insert(6, etree.Element(q("KrrList")))),
    row("KrrList with redirect", OK, path="/redirect", request=lambda r: r.insert(6, etree.Element(q("KrrList")))),
    row("version 1.0.0", OK, version="1.0.0"),
    row("no version", OK, version=None),
    row("another version", "xml.invalid", version="1.2.0"),
    row("a version that the rule lists", OK, version="1.0.0", client="old-version"),
    row("a version that the rule does not list", "xml.invalid", version="1.1.0", client="old-version"),
    row("no version where the rule lists one", OK, version=None, client="old-version"),
    row("another Id", OK, ident="r-17", sig={"uri": "#r-17"}),
    row("an attribute", "xml.invalid", request=lambda r: r.set("Extra", "1")),
    row("an Id of the envelope", OK, envelope_id="e"),
    row("text between", "xml.invalid", request=lambda r: setattr(r[0], "tail", "x")),
    row("white space between", OK, request=lambda r: setattr(r[0], "tail", "\n \t")),
    row("a child in a value", "xml.invalid", request=lambda r: etree.SubElement(r[0], "{urn:x}b")),
    row("the schema in shadow", OK, client="schema-shadow", request=lambda r: r.set("Extra", "1")),
]

# "Time is xs:dateTime, years 0001 to 9999, offsets to ±14:00; 24:00:00 and :60 are xml.invalid; fractions beyond
# microseconds are cut"
DAY = lambda s: datetime.now(timezone.utc).strftime("%Y-%m-%d") + s
TIME = [
    row("microseconds", OK, Time=Late()),
    row("whole seconds", OK, Time=Late(0, "%Y-%m-%dT%H:%M:%SZ"), client="wide"),
    row("a thousand digits", OK, client="wide", Time=Late(0, "%Y-%m-%dT%H:%M:%S." + "9" * 1000 + "Z")),
    row("an offset", OK, Time=Late(offset="+05:30")),
    row("a negative offset", OK, Time=Late(offset="-03:15")),
    row("the widest offset", OK, Time=Late(offset="+14:00")),
    row("the widest negative offset", OK, Time=Late(offset="-14:00")),
    row("too wide an offset", "xml.invalid", Time=Late(offset="+14:01")),
    row("an offset of 15 hours", "xml.invalid", Time=Late(offset="-15:00")),
    row("24:00:00", "xml.invalid", Time=DAY("T24:00:00Z")),
    row("a leap second", "xml.invalid", Time=DAY("T23:59:60Z")),
    row("year 0", "xml.invalid", Time="0000-01-01T00:00:00Z"),
    row("year 1", "time.stale", Time="0001-01-01T00:00:00Z"),
    row("year 9999", "time.future", Time="9999-12-31T23:59:59.999999Z"),
    row("year 10000", "xml.invalid", Time="10000-01-01T00:00:00Z"),
    row("a negative year", "xml.invalid", Time="-2026-01-01T00:00:00Z"),
    row("29 February of no leap year", "xml.invalid", Time="2027-02-29T00:00:00Z"),
    row("a lower case z", "xml.invalid", Time=Late(0, "%Y-%m-%dT%H:%M:%Sz")),
    row("a space for the T", "xml.invalid", Time=Late(0, "%Y-%m-%d %H:%M:%SZ")),
    row("no seconds", "xml.invalid", Time=Late(0, "%Y-%m-%dT%H:%MZ")),
    row("a point without digits", "xml.invalid", Time=Late(0, "%Y-%m-%dT%H:%M:%S.Z")),
    row("full-width digits", "xml.invalid", Time="２０２６-01-01T00:00:00Z"),
    row("white space around", OK, Time=Late(0, "\n %Y-%m-%dT%H:%M:%S.%fZ\t")),
    # with replay, a Time that another rule reads an hour earlier is held against the floor by that
    row("no zone is UTC", OK, client="replay-off", Time=Late(0, "%Y-%m-%dT%H:%M:%S.%f")),
    row("no zone, assumed", OK, client="zone", Time=Late(3600, "%Y-%m-%dT%H:%M:%S.%f")),
    row("no zone, assumed wrongly", "time.stale", client="zone", Time=Late(0, "%Y-%m-%dT%H:%M:%S.%f")),
    row("a zone where one is assumed", OK, client="zone", Time=Late()),
    row("no zone, refused", "time.zone", client="zone-refuse", Time=Late(0, "%Y-%m-%dT%H:%M:%S.%f")),
    row("a zone where none is refused", OK, client="zone-refuse", Time=Late()),
    row("4 s ahead", OK, Time=Late(4)),
    row("7 s ahead", "time.future", Time=Late(7)),
    row("7 s ago", "time.stale", Time=Late(-7)),
    row("an hour ago in a wide window", OK, client="wide", Time=Late(-3600)),
    row("three hours ago in a wide window", "time.stale", client="wide", Time=Late(-3 * 3600)),
    row("an hour ahead in a wide window", OK, client="wide", Time=Late(3600)),
    row("two hours ahead in a wide window", "time.future", client="wide", Time=Late(2 * 3600)),
]

# signature: protocol.md, "Signature profile"
SIGNATURE = [
    row("by the request's Id", OK),
    row("by the request's Id and C14N", OK, sig={"transforms": [kms.C14N]}),
    row("by the envelope's Id", OK, envelope_id="e", sig={"uri": "#e", "transforms": [ENV]}),
    row("by the envelope's Id and C14N", OK, envelope_id="e", sig={"uri": "#e", "transforms": [ENV, kms.C14N]}),
    row("by an empty URI", OK, sig={"uri": "", "transforms": [ENV]}),
    row("by an empty URI and C14N", OK, sig={"uri": "", "transforms": [ENV, kms.C14N]}),
    row("by an empty URI and two C14N", "signature.profile", sig={"uri": "", "transforms": [ENV, kms.C14N, kms.C14N]}),
    row("enveloped of the request", "signature.profile", sig={"transforms": [ENV]}),
    row("two C14N", "signature.profile", sig={"transforms": [kms.C14N] * 2}),
    row("256 bits said", OK, sig={"hmac_bits": 256}),
    row("128 bits", "signature.profile", sig={"hmac_bits": 128}),
    row("128 bits by rule", OK, sig={"hmac_bits": 128}, client="bits"),
    row("256 bits by a rule for 128", OK, client="bits"),
    row("120 bits by a rule for 128", "signature.profile", sig={"hmac_bits": 120}, client="bits"),
    row("exclusive", "signature.profile", sig={"c14n": EXC}),
    row("exclusive by rule", OK, sig={"c14n": EXC, "transforms": [EXC]}, client="exclusive"),
    row("inclusive by a rule for exclusive", OK, client="exclusive"),
    row("C14N 1.1 by a rule for exclusive", "signature.profile", sig={"c14n": C11}, client="exclusive"),
    row("C14N 1.1 by rule", OK, sig={"c14n": C11, "transforms": [C11]}, client="c14n11"),
    row("SHA-1 digest", "signature.profile", sig={"digest": DS + "sha1"}),
    row("HMAC-SHA1", "signature.profile", sig={"method": DS + "hmac-sha1"}),
    row("HMAC-SHA512", "signature.profile", sig={"method": "http://www.w3.org/2001/04/xmldsig-more#hmac-sha512"}),
    row("a reference to elsewhere", "signature.reference", after=put(b'URI="#xmldoc"', b'URI="#other"')),
    row("a reference to the net", "signature.reference", after=put(b'URI="#xmldoc"', b'URI="http://127.0.0.1:9/"')),
    row("no KeyName", "signature.profile", after=lambda b: re.sub(rb"<KeyName>.*?</KeyName>", b"", b)),
    row("company in KeyInfo", "signature.profile", after=put(b"</KeyName>", b"</KeyName><KeyName>x</KeyName>")),
    row("another value", "signature.invalid", after=lambda b: re.sub(
        rb"<SignatureValue>(.)", lambda m: b"<SignatureValue>" + (b"A" if m.group(1) != b"A" else b"B"), b)),
    row("a longer value", "signature.profile", after=put(b"<SignatureValue>", b"<SignatureValue>AAAA")),
    row("another field", "signature.invalid", after=put(b"device-", b"Device-")),
    row("CDATA", OK, after=put(b">client-1<", b"><![CDATA[client-1]]><")),
    row("a character reference", OK, after=put(b">client-1<", b">&#99;lient&#x2d;1<")),
]

# key_policy, and "Which key"
KEYS = [
    row("InK", OK),
    row("TrK though there is an InK", "key.policy", signer=lambda w: (w.alice.trk_id, w.alice.trk),
        **{"Signature-ID": "trk.1.alice"}),
    row("TrK without an InK", OK, user="carol"),
    row("TrK though the InK is revoked", "key.policy", user="dave", signer=lambda w: (w.dave.trk_id, w.dave.trk),
        **{"Signature-ID": "trk.1.dave"}),
    row("TrK though the InK is expired", "key.policy", user="erin", signer=lambda w: (w.erin.trk_id, w.erin.trk),
        **{"Signature-ID": "trk.1.erin"}),
    row("a revoked InK", "key.revoked", user="dave"),
    row("an expired InK", "key.revoked", user="erin"),
    row("a retiring InK", OK, user="frank"),
    row("the active InK", OK, user="frank", signer=lambda w: w.frank2, **{"Signature-ID": "ink.2.frank"}),
    row("an unknown key", "key.unknown", signer=lambda w: ("ink.9.alice", w.alice.ink),
        **{"Signature-ID": "ink.9.alice"}),
    row("a key of another user", "key.unknown", signer=lambda w: (w.bob.ink_id, w.bob.ink),
        **{"Signature-ID": "ink.1.bob"}),
    row("another user", "key.unknown", UserUri="sip:nobody@example.org"),
    row("another user in other case", "key.unknown", UserUri="sip:Alice@example.org"),
    row("another's key under the own name", "signature.invalid", signer=lambda w: (w.alice.ink_id, w.bob.ink)),
    row("TrK under the InK's name", "signature.invalid", signer=lambda w: (w.alice.ink_id, w.alice.trk)),
    row("a zero key", "signature.invalid", signer=lambda w: (w.alice.ink_id, bytes(32))),
    row("the key's hex text", "signature.invalid", signer=lambda w: (w.alice.ink_id, w.alice.ink.hex().encode())),
    row("the key's base64 text", "signature.invalid",
        signer=lambda w: (w.alice.ink_id, base64.b64encode(w.alice.ink))),
    row("a huge KeyName", "key.unknown", signer=lambda w: ("k" * 5000, w.alice.ink), **{"Signature-ID": "k" * 5000}),
    row("a KeyName like a path", "key.unknown", signer=lambda w: ("../../master.key", w.alice.ink),
        **{"Signature-ID": "../../master.key"}),
    row("a KeyName with a space", "key.unknown", signer=lambda w: (w.alice.ink_id + " ", w.alice.ink)),
    row("no Signature-ID", "key.policy", **{"Signature-ID": None}),
    row("another Signature-ID", "key.policy", **{"Signature-ID": "ink.2.alice"}),
    row("an empty Signature-ID", "key.policy", **{"Signature-ID": ""}),
    row("the Signature-ID of the TrK", "key.policy", **{"Signature-ID": "trk.1.alice"}),
    row("no TrK-ID", OK, **{"TrK-ID": None}),
    row("an unknown TrK-ID", "key.policy", **{"TrK-ID": "trk.9.alice"}),
    row("an empty TrK-ID", "key.policy", **{"TrK-ID": ""}),
    row("a TrK-ID of another", "key.policy", **{"TrK-ID": "trk.1.bob"}),
    row("a TrK-ID that is an InK", "key.policy", **{"TrK-ID": "ink.1.alice"}),
    row("a revoked TrK-ID", "key.policy", user="grace"),
    row("a revoked TrK, not named", OK, user="grace", **{"TrK-ID": None}),
    row("TrK though there is an InK, off", OK, client="policy-off", signer=lambda w: (w.alice.trk_id, w.alice.trk)),
]

# kms_uri
KMS_URI = [
    row("the first", OK),
    row("the second", OK, KmsUri="kms2.example.org:8443"),
    row("the third", OK, KmsUri="https://kms3.example.org/kms"),
    row("white space around", OK, KmsUri=" kms.example.org\n"),
    row("case", "kms_uri.mismatch", KmsUri="KMS.example.org"),
    row("scheme", "kms_uri.mismatch", KmsUri="https://kms.example.org"),
    row("port", "kms_uri.mismatch", KmsUri="kms.example.org:443"),
    row("trailing dot", "kms_uri.mismatch", KmsUri="kms.example.org."),
    row("homoglyph", "kms_uri.mismatch", KmsUri="kms.еxample.org"),
    row("full width", "kms_uri.mismatch", KmsUri="ｋms.example.org"),
    row("a prefix", "kms_uri.mismatch", KmsUri="kms.example.org.evil"),
    row("host: case", OK, client="host", KmsUri="KMS.Example.ORG"),
    row("host: scheme and port", OK, client="host", KmsUri="HTTP://kms.example.org:9000"),
    row("host: a lone slash", OK, client="host", KmsUri="https://kms.example.org/"),
    row("host: two slashes", "kms_uri.mismatch", client="host", KmsUri="https://kms.example.org//"),
    row("host: path", "kms_uri.mismatch", client="host", KmsUri="https://kms.example.org/a/b"),
    row("host: the third's path", OK, client="host", KmsUri="http://KMS3.example.org:80/kms"),
    row("host: the third without its path", "kms_uri.mismatch", client="host", KmsUri="https://kms3.example.org"),
    row("host: query", "kms_uri.mismatch", client="host", KmsUri="https://kms.example.org?"),
    row("host: another scheme", "kms_uri.mismatch", client="host", KmsUri="ftp://kms.example.org"),
    row("host: the second without its port", OK, client="host", KmsUri="kms2.example.org"),
    row("host: userinfo", "kms_uri.mismatch", client="host", KmsUri="http://kms.example.org@evil.example"),
    row("host: userinfo before", "kms_uri.mismatch", client="host", KmsUri="http://evil@kms.example.org"),
    row("host: in the path", "kms_uri.mismatch", client="host", KmsUri="http://evil.example/kms.example.org"),
    row("host: in the query", "kms_uri.mismatch", client="host", KmsUri="http://evil.example?://kms.example.org"),
    row("host: in the fragment", "kms_uri.mismatch", client="host", KmsUri="evil.example#://kms.example.org"),
    row("host: as scheme", "kms_uri.mismatch", client="host", KmsUri="kms.example.org://evil.example"),
    row("host: as port", "kms_uri.mismatch", client="host", KmsUri="kms.example.org:evil"),
    row("host: no host", "kms_uri.mismatch", client="host", KmsUri="http://"),
    row("host: escaped", "kms_uri.mismatch", client="host", KmsUri="http://kms%2Eexample.org/"),
    row("host: longer", "kms_uri.mismatch", client="host", KmsUri="http://kms.example.org.evil"),
    row("host: shorter", "kms_uri.mismatch", client="host", KmsUri="http://example.org"),
    row("host: homoglyph", "kms_uri.mismatch", client="host", KmsUri="http://kms.еxample.org"),
]


class Url(Late):
    """A ClientReqUrl made of the gateway's: {base} is its public URL, {port} its port."""
    def __init__(self, form):
        self.form = form


def url_rows(client, rows):
    return [row("%s: %s" % (client or "exact", name), reason, client=client, url=Url(u),
                path=p) for name, reason, p, u in rows]


BAD_URL = "client_req_url.mismatch"
V1 = "{base}" + BASE
USER = "/keyprov/sip%3Aalice%40example.org"
CLIENT_REQ_URL = url_rows(None, [
    ("exact", OK, "/keyprov", V1 + "/keyprov"),
    ("with a query", OK, "/keyprov?a=1&b", V1 + "/keyprov?a=1&b"),
    ("with another query", BAD_URL, "/keyprov?a=1&b", V1 + "/keyprov?a=1&c"),
    ("without its query", BAD_URL, "/keyprov?a=1", V1 + "/keyprov"),
    ("with a query of its own", BAD_URL, "/keyprov", V1 + "/keyprov?a=1"),
    ("with an empty query", BAD_URL, "/keyprov", V1 + "/keyprov?"),
    ("escapes as received", OK, USER, V1 + USER),
    ("escapes decoded", BAD_URL, USER, V1 + "/keyprov/sip:alice@example.org"),
    ("escapes in other case", BAD_URL, USER, V1 + USER.replace("%3A", "%3a")),
    ("scheme in other case", BAD_URL, "/keyprov", "HTTP://127.0.0.1:{port}" + BASE + "/keyprov"),
    ("https", BAD_URL, "/keyprov", "https://127.0.0.1:{port}" + BASE + "/keyprov"),
    ("another host", BAD_URL, "/keyprov", "http://localhost:{port}" + BASE + "/keyprov"),
    ("another port", BAD_URL, "/keyprov", "http://127.0.0.1:1" + BASE + "/keyprov"),
    ("another resource", BAD_URL, "/keyprov", V1 + "/init"),
    ("a trailing slash", BAD_URL, "/keyprov", V1 + "/keyprov/"),
    ("the path alone", BAD_URL, "/keyprov", BASE + "/keyprov"),
    ("a part", BAD_URL, USER, V1 + "/keyprov"),
]) + url_rows("normalized", [
    ("exact", OK, "/keyprov", V1 + "/keyprov"),
    ("scheme in other case", OK, "/keyprov", "HTTP://127.0.0.1:{port}" + BASE + "/keyprov"),
    ("unreserved escapes", OK, "/keyprov", V1 + "/key%70rov"),
    ("escapes in other case", OK, USER, V1 + USER.replace("%3A", "%3a")),
    ("reserved escapes decoded", BAD_URL, USER, V1 + "/keyprov/sip:alice@example.org"),
    ("dot segments", OK, "/keyprov", V1 + "/a/../././keyprov"),
    ("a port with zeros", OK, "/keyprov", "http://127.0.0.1:0{port}" + BASE + "/keyprov"),
    ("another port", BAD_URL, "/keyprov", "http://127.0.0.1" + BASE + "/keyprov"),
    ("case of the path", BAD_URL, "/keyprov", V1 + "/KEYPROV"),
    ("userinfo", BAD_URL, "/keyprov", "http://u@127.0.0.1:{port}" + BASE + "/keyprov"),
    ("a fragment", BAD_URL, "/keyprov", V1 + "/keyprov#a"),
    ("an escaped slash", BAD_URL, "/keyprov", V1 + "%2Fkeyprov"),
    ("a doubled slash", BAD_URL, "/keyprov", V1 + "//keyprov"),
    ("a trailing slash", BAD_URL, "/keyprov", V1 + "/keyprov/"),
    ("another query", BAD_URL, "/keyprov?a=1", V1 + "/keyprov?a=2"),
    ("the query, unreserved escapes", OK, "/keyprov?a=1", V1 + "/keyprov?%61=1"),
    ("dots out of the query", BAD_URL, "/keyprov?a=/../b", V1 + "/keyprov?b"),
]) + url_rows("prefix", [
    ("exact", OK, USER, V1 + USER),
    ("without the user", OK, USER, V1 + "/keyprov"),
    ("without the resource", OK, USER, V1),
    ("the base alone", OK, "/keyprov", "{base}"),
    ("less than the base", BAD_URL, "/keyprov", "http:/"),
    ("within a segment", BAD_URL, USER, V1 + "/keypr"),
    ("ending behind the slash", BAD_URL, USER, V1 + "/keyprov/"),
    ("the user, without the time", OK, USER + "/D6B4323200000000", V1 + USER),
    ("without the query", BAD_URL, "/keyprov?a=b", V1 + "/keyprov"),
    ("a slash of the query", BAD_URL, "/keyprov?a=b/c", V1 + "/keyprov?a=b"),
    ("another resource", BAD_URL, USER, V1 + "/init"),
    ("nothing", "xml.invalid", "/keyprov", ""),
])

# path_user
PATH_USER = [
    row("the own", OK, path=USER),
    row("the own, in clear", OK, path="/keyprov/sip:alice@example.org"),
    row("the own, escaped throughout", OK, path="/keyprov/" + "".join("%%%02x" % c for c in b"sip:alice@example.org")),
    row("the own, with a time", OK, path=USER + "/D6B4323200000000"),
    row("another's", "path_user.mismatch", path="/keyprov/sip%3Abob%40example.org"),
    row("another's, with a time", "path_user.mismatch", path="/keyprov/sip%3Abob%40example.org/D6B4323200000000"),
    row("in other case", "path_user.mismatch", path="/keyprov/sip%3AAlice%40example.org"),
    row("escaped twice", "path_user.mismatch", path="/keyprov/sip%253Aalice%2540example.org"),
    row("longer", "path_user.mismatch", path=USER + ".evil"),
    row("a group", "path_user.mismatch", path="/keyprov/sip%3Agroup-7%40example.org"),
    row("a group by rule", OK, client="also", path="/keyprov/sip%3Agroup-7%40example.org"),
    row("another group by rule", "path_user.mismatch", client="also", path="/keyprov/sip%3Agroup%40example.org"),
    row("another's, where groups are allowed", "path_user.mismatch", client="also",
        path="/keyprov/sip%3Abob%40example.org"),
    row("somebody to look up", OK, path="/lookup/sip%3Abob%40example.org"),
    row("another's, unsigned", "path_user.mismatch", client="any", attach=False,
        path="/keyprov/sip%3Abob%40example.org", **{"TrK-ID": None}),
]

# resources, paths and media types
HEAD = [
    row("no media type", OK, headers={"Content-Type": None}),
    row("text/xml", OK, headers={"Content-Type": "text/xml; charset=utf-8"}),
    row("case of the type", OK, headers={"Content-Type": "Application/XML"}),
    row("json", "http.media_type", headers={"Content-Type": "application/json"}),
    row("xml of another kind", "http.media_type", headers={"Content-Type": "application/soap+xml"}),
    row("another charset", "http.media_type", headers={"Content-Type": "application/xml; charset=latin1"}),
    row("compressed", "http.media_type", headers={"Content-Encoding": "gzip"}),
    row("compressed not at all", "http.media_type", headers={"Content-Encoding": "identity"}),
    row("no such resource", "http.resource", path="/keys"),
    row("a resource in other case", "http.resource", path="/Init"),
    row("more segments", "http.resource", path="/init/x"),
    row("cert without one", "http.resource", path="/cert"),
    row("lookup without a user", "http.resource", path="/lookup"),
    row("a cache number", OK, path="/certcache/17"),
    row("no cache number", "http.resource", path="/certcache/x"),
    row("a time that is none", "http.resource", path=USER + "/D6B432320000000"),
    row("a trailing slash", "http.resource", path="/keyprov/"),
    row("dots", "http.path", path="/a/../keyprov"),
    row("escaped dots", "http.path", path="/%2e%2e/keyprov"),
    row("a doubled slash", "http.path", path="//keyprov"),
    row("an escape in the resource", "http.path", path="/%6beyprov"),
    row("an escaped slash", "http.path", path="/keyprov/a%2Fb"),
    row("an escaped NUL", "http.path", path="/keyprov/a%00b"),
    row("a malformed escape", "http.path", path="/keyprov/a%zz"),
    row("a backslash", "http.path", path="/keyprov/a\\b"),
    row("a fragment", "http.path", path="/keyprov#a"),
]


def late(w, kw):
    out = {}
    for k, v in kw.items():
        if isinstance(v, Url):
            v = v.form.format(base=w.gate.public, port=w.gate.port)
        out[k] = v.now() if isinstance(v, Late) else v
    return out


@pytest.mark.parametrize("reason,kw", [
    pytest.param(*p.values, id=table + ":" + p.id) for table, rows in (
        ("match", MATCH), ("accept", ACCEPT), ("schema", SCHEMA), ("time", TIME), ("signature", SIGNATURE),
        ("keys", KEYS), ("kms_uri", KMS_URI), ("url", CLIENT_REQ_URL), ("path_user", PATH_USER)) for p in rows])
def test_row(world, reason, kw):
    judged(world, reason, **late(world, kw))


@pytest.mark.parametrize("reason,kw", HEAD)
def test_head(world, reason, kw):
    """A refused head is no more than that: nothing of the body is looked at."""
    kw = dict(kw)
    headers, path = kw.pop("headers", None), kw.pop("path", "/keyprov")
    reply = post(world, build(world, path), path, headers)
    d = world.decision(reply)
    assert (d["reason"], reply.status) == (reason, STATUS[reason]), reply.body
    assert reason == OK or ("form" not in d and "checks" not in d and not reply.signed)
    assert "?" not in d["path"]


def test_the_order_of_judging(world):
    """All faults at once; the first is taken away, and the next one shows."""
    far = "/keyprov/sip%3Abob%40example.org"
    faults = [
        ("http.method", dict(method="GET"), dict(method="POST")),
        ("http.path", dict(path="/../keyprov"), dict(path=far)),
        ("http.media_type", dict(headers={"Content-Type": "text/plain"}), dict(headers=None)),
        ("http.too_large", dict(after=lambda b: b + b" " * 70000), dict(after=lambda b: b + b"<!-- -->")),
        ("xml.forbidden", {}, dict(after=lambda b: b.replace(b"SignedKmsRequest", b"SignedKmsResponse"))),
        ("xml.invalid", {}, dict(after=None)),
        ("rule.none", dict(client="stranger"), dict(client="unsigned")),
        ("rule.form", {}, dict(client="client-1")),
        ("xml.invalid", dict(version="9"), dict(version="1.1.0")),
        ("signature.profile", dict(sig={"hmac_bits": 128}), dict(sig=None)),
        ("signature.invalid", dict(signer=lambda w: (w.alice.ink_id, w.bob.ink)), dict(signer=None)),
        ("key.policy", {"Signature-ID": "other"}, {"Signature-ID": world.alice.ink_id}),
        ("kms_uri.mismatch", dict(KmsUri="evil.example"), dict(KmsUri="kms.example.org")),
        ("time.stale", dict(Time=kms.now(-3600)), dict(Time=None)),
        (BAD_URL, dict(url="http://evil.example/"), dict(url=None)),
        ("path_user.mismatch", {}, dict(path=USER)),
    ]
    state, got, expected = {}, [], []
    for _, bad, _ in faults:
        state.update({k: v for k, v in bad.items() if k not in state})
    for reason, _, good in faults + [(OK, {}, {})]:
        kw = {k: v for k, v in state.items() if k not in ("method", "path", "headers")}
        kw = {k: v for k, v in kw.items() if v is not None}
        path = state["path"]
        body = build(world, path, **kw)
        reply = post(world, body if state["method"] == "POST" else None, path, state["headers"], state["method"])
        expected.append(reason)
        got.append(world.decision(reply)["reason"])
        state.update(good)
        if "Time" in good:
            del state["Time"]
    assert got == expected
    again = post(world, body, path)
    assert world.decision(again)["reason"] == "replay.seen"


def test_method(world):
    for method in ("GET", "PUT", "DELETE", "post", "OPTIONS"):
        reply = post(world, None, method=method)
        assert (reply.status, reply.headers["Allow"]) == (405, "POST"), method
        assert world.decision(reply)["method"] == method
    assert post(world, build(world)).status == 200


def checks_of(world, reason, **kw):
    d = judged(world, reason, **kw)
    return d, d.get("checks", {})


NAMES = ["schema", "signature", "key_policy", "kms_uri", "time", "client_req_url", "path_user", "replay"]


def test_after_a_failed_schema_or_signature_the_rest_is_skipped(world):
    _, c = checks_of(world, "xml.invalid", version="9")
    assert c == dict({n: "skip" for n in NAMES}, schema="fail")
    _, c = checks_of(world, "signature.invalid", after=put(b"device-", b"Device-"))
    assert c == dict({n: "skip" for n in NAMES}, schema="pass", signature="fail")
    _, c = checks_of(world, OK)
    assert c == {n: "pass" for n in NAMES}
    # otherwise all but replay are still evaluated, for the log
    _, c = checks_of(world, "key.policy", path="/keyprov/sip%3Abob%40example.org", KmsUri="evil.example",
                     Time=kms.now(-60), url="http://evil.example/", **{"Signature-ID": "other"})
    assert c == dict({n: "fail" for n in NAMES}, schema="pass", signature="pass", replay="skip")


def test_shadow_and_off(world):
    d, c = checks_of(world, OK, client="schema-shadow", version="9")
    assert c["schema"] == "shadow_fail" and d["shadow"] == ["xml.invalid"] and c["replay"] == "pass"
    d, c = checks_of(world, OK, client="policy-off")
    assert c["key_policy"] == "off" and "shadow" not in d and d["proven"] is True
    # with `signature` in shadow or off a signed request counts as unproven, unless its signature holds
    for client in ("signature-shadow", "signature-off"):
        d, c = checks_of(world, OK, client=client)
        assert d["proven"] is True and c["replay"] == "pass", (d, c)
        d, c = checks_of(world, OK, client=client, after=put(b"device-", b"Device-"), **{"TrK-ID": None})
        assert d["proven"] is False and c["replay"] == "skip", (d, c)
        assert c["signature"] == ("off" if client.endswith("off") else "shadow_fail")
    d, c = checks_of(world, OK, client="all-off", version="9", KmsUri="x", Time="yesterday", url="nowhere",
                     path="/keyprov/sip%3Aalice%40example.org")
    assert c == {n: "off" for n in NAMES}


def test_replay_semantics(world):
    body = build(world)
    verdict(world, OK, post(world, body))
    verdict(world, "replay.seen", post(world, body))
    for change in (lambda r: etree.tostring(r, xml_declaration=True, encoding="UTF-8", standalone=True),
                   lambda r: etree.tostring(r).replace(b"><", b" ><", 0) + b"\n\n",
                   lambda r: etree.tostring(r).replace(b"client-1", b"&#99;lient-1")):
        verdict(world, "replay.seen", post(world, change(etree.fromstring(body))))
    # a refused one is not spent
    path = "/init"
    body = build(world, path)
    verdict(world, BAD_URL, post(world, body, "/keyprov"))
    verdict(world, OK, post(world, body, path), path)
    # nor one that cannot be judged to the end
    body = build(world)
    verdict(world, "signature.invalid", post(world, body.replace(b"device-", b"Device-")))
    verdict(world, OK, post(world, body))
    # in shadow it is told, off it is not looked at
    body = build(world, client="replay-shadow")
    verdict(world, OK, post(world, body))
    d = verdict(world, OK, post(world, body))
    assert d["shadow"] == ["replay.seen"] and d["checks"]["replay"] == "shadow_fail"
    body = build(world, client="replay-off")
    for _ in range(2):
        assert verdict(world, OK, post(world, body))["checks"]["replay"] == "off"


def test_the_same_request_many_times_at_once_passes_once(world):
    body, replies, n = build(world), [], 40

    def send():
        replies.append(post(world, body).status)
    threads = [threading.Thread(target=send) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(replies) == [200] + [403] * (n - 1)


def test_a_flood_of_bad_signatures_takes_no_place(world):
    def entries():
        return int(re.search(r"^kmsgate_replay_entries (\d+)", world.gate.admin("/metrics")[1], re.M).group(1))
    body = build(world)
    before = entries()
    for i in range(30):
        post(world, body.replace(b"device-", b"Device%d-" % i))
    assert entries() <= before  # less: what has left the window is forgotten
    verdict(world, OK, post(world, body))
    verdict(world, "replay.seen", post(world, body))


def test_empty_requests(world):
    path = "/lookup/sip%3Aalice%40example.org"
    d = verdict(world, OK, post(world, b"", path), path)
    assert (d["form"], d["rule"], d["user"], d["proven"]) == ("empty", "empty", "sip:alice@example.org", False)
    assert d["checks"] == dict({n: "skip" for n in NAMES}, path_user="pass")
    assert verdict(world, "rule.none", post(world, b"", "/init"), "/init")["form"] == "empty"
    verdict(world, "xml.malformed", post(world, b" ", path), path)


def test_unsigned_requests_skip(world):
    d, c = checks_of(world, OK, client="any", attach=False, **{"TrK-ID": None})
    assert c == dict({n: "pass" for n in NAMES}, signature="skip", key_policy="skip", replay="skip")
    assert d["form"] == "unsigned" and d["proven"] is False


def test_the_user_of_a_refusal(world):
    """UserUri as claimed where it could be read as anyURI, else empty."""
    for user, shown in (("sip:alice@example.org", "sip:alice@example.org"), ("sip:a%zz@example.org", None),
                        ("sip:<a>@example.org", None), ("", None), ("sip:é@example.org", "sip:é@example.org")):
        reply = post(world, build(world, attach=False, UserUri=user))
        assert reply.status in (400, 403) and reply.text("UserUri") == shown, user
    reply = post(world, b"not xml")
    assert reply.text("UserUri") is None and reply.response.find(q("UserUri")) is not None


def test_refusals_are_signed_when_the_signature_held(world):
    reply = post(world, build(world, KmsUri="evil.example"))
    assert reply.signed and reply.verify(world.alice.ink, world.alice.ink_id)
    reply = post(world, build(world, user="carol", KmsUri="evil.example"))
    assert reply.signed and reply.verify(world.carol.trk, world.carol.trk_id)
    reply = post(world, build(world, user="frank", KmsUri="evil.example"))
    assert reply.signed and reply.verify(world.frank.ink, world.frank.ink_id)
    for kw in (dict(user="dave"), dict(after=put(b"device-", b"Device-")), dict(sig={"hmac_bits": 128})):
        assert not post(world, build(world, **kw)).signed


def test_every_decision_field(world):
    path = USER + "?token=hush"
    reply = post(world, build(world, path), path, {"Authorization": "Bearer hush"})
    d = verdict(world, OK, reply, path)
    want = {"time", "id", "source", "method", "path", "rule", "form", "proven", "user", "client_id", "device_id", "key_id",
            "key_type", "checks", "verdict", "reason", "claims", "expected_url", "rules", "skew_ms", "status", "upstream",
            "response", "trace_id", "ms"}
    assert set(d) == want and d["trace_id"] == d["id"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", d["time"])
    assert (d["source"], d["method"], d["path"]) == ("127.0.0.1", "POST", BASE + USER)
    assert (d["rule"], d["form"], d["proven"], d["key_type"]) == ("everyone", "signed", True, "ink")
    assert (d["user"], d["client_id"], d["key_id"]) == (world.alice.uri, "client-1", world.alice.ink_id)
    assert set(d["claims"]) == {"kms_uri", "time", "client_req_url", "trk_id", "signature_id", "version", "c14n", "hmac_bits"}
    assert d["expected_url"] == d["claims"]["client_req_url"] == world.gate.public + BASE + USER
    assert re.fullmatch("[0-9a-f]{64}", d["rules"]) and abs(d["skew_ms"]) < 5000
    assert d["upstream"]["status"] == 200 and set(d["upstream"]) == {"status", "ms"}
    assert set(d["response"]) == {"rule", "message", "signed_by", "encrypted_by"}
    assert d["response"]["signed_by"] == world.alice.ink_id and d["response"]["encrypted_by"] == world.alice.trk_id
    assert set(d["ms"]) == {"total", "judge", "upstream", "protect"} and all(v >= 0 for v in d["ms"].values())
    raw = (world.gate.folder / "decisions.jsonl").read_text() + world.gate.running.err + world.gate.running.out
    assert "hush" not in raw


def test_no_query_of_a_claim_is_logged(world):
    for kw in (dict(url="http://evil.example/?token=secret-q"), dict(KmsUri="http://evil.example/?token=secret-q")):
        d = judged(world, BAD_URL if "url" in kw else "kms_uri.mismatch", **kw)
        assert "secret-q" not in json.dumps(d)


def test_long_and_strange_values_in_the_log(world):
    d = judged(world, OK, DeviceId="\u00e9" * 300 + "\n\"\\\u2028<&>")
    assert len(d["device_id"].encode()) <= 256 and set(d["device_id"]) == {"\u00e9"}
    d = judged(world, OK, DeviceId="a\n\"b\\\t\u007f\u2028" + os.urandom(4).hex())
    assert d["device_id"].startswith("a\n\"b\\\t\u007f\u2028")
    judged(world, OK, DeviceId="one\u2028two\u2029three\u0085four" + os.urandom(4).hex())
    log = (world.gate.folder / "decisions.jsonl").read_text()
    assert log.splitlines() == log.split("\n")[:-1]  # a line is one to readers that know more ends of lines, too


def test_nothing_refused_reached_the_upstream(world):
    """Last in the file: all that was accepted is there, and nothing else."""
    body = build(world)
    verdict(world, OK, post(world, body))
    accepted = [d for d in world.lines.values() if d["verdict"] == "accept"]
    at_upstream = world.gate.upstream_requests()
    assert len(at_upstream) >= len(accepted) > 0
    assert all("upstream" in d for d in accepted)
    assert not [d for d in world.lines.values() if d["verdict"] == "reject" and "upstream" in d]
