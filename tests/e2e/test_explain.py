"""kmsgate explain, fed with messages that other implementations made: well, and wrongly in each of the usual ways.

lxml canonicalizes, hashlib and hmac hash: what explain says must be what was done to the message.
"""
import base64
import copy
import hashlib
import hmac
import json
import os
import re
import shutil
import sqlite3
import subprocess
from datetime import datetime, timedelta, timezone

import pytest
from lxml import etree

import conftest
import kms
from kms import BASE, DS, NS, q

RULES = """\
version: 1
kms: { uris: [kms.example.org, kms2.example.org] }
requests:
  - id: field
    why: old firmware
    match: { source: 10.20.0.0/16 }
    accept: [unsigned, empty]
  - id: dispatch
    match: { user: "sip:dispatch-*@example.org", path: "/keymanagement/identity/v1/key*" }
  - id: next-year
    since: 2199-01-01
  - id: last-year
    until: 2020-12-31
  - id: consoles
    match: { client_id: "console-*" }
  - id: watches
    why: their clocks
    match: { device_id: "watch-*" }
    checks:
      time: { mode: shadow, past: 1s }
      kms_uri: { compare: host }
      client_req_url: off
  - id: looking
    why: the first day
    match: { device_id: "look-*" }
    checks:
      schema: shadow
      signature: shadow
      key_policy: shadow
      kms_uri: shadow
      time: shadow
      client_req_url: shadow
      path_user: shadow
  - id: shorts
    match: { device_id: "short-*" }
    checks:
      signature: { min_hmac_bits: 128, canonicalization: [c14n, exc-c14n] }
  - id: everyone
responses: [{ id: default }]
"""
PUBLIC = "https://kms.example.org:8443"
AT = datetime(2026, 11, 23, 18, 0, 0, tzinfo=timezone.utc)


HIDDEN = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
                    "\U000e0000-\U000e0fff]")


def at(seconds=0.0):
    return (AT + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def flat(text):
    """Without the line breaks that a terminal needs."""
    return " ".join(text.split())


class Desk:
    """A gateway that does not run, and whoever explains what it would have done."""

    def __init__(self, folder):
        self.folder = folder
        self.alice, self.bob = kms.User("sip:alice@example.org"), kms.User("sip:bob@example.org")
        self.carol = kms.User("sip:carol@example.org", ink=False)
        self.old, self.gone, self.before, self.past = (os.urandom(32) for _ in range(4))
        (folder / "master.key").write_text(os.urandom(32).hex())
        (folder / "master.key").chmod(0o600)
        (folder / "rules.yaml").write_text(RULES)
        self.config = folder / "gateway.yaml"
        self.config.write_text("listen: [{ address: 127.0.0.1:1 }]\nadmin: 127.0.0.1:2\npublic_url: [%s, http://localhost]\n"
                               "upstream: { url: http://127.0.0.1:9 }\nrules: rules.yaml\nkeys: sqlite:k.db\n"
                               "master_key: file:master.key\nreplay: memory\ndecisions: none\n" % PUBLIC)
        lines = [x for u in (self.alice, self.bob, self.carol) for x in u.lines()]
        for kid, key, more in (("ink.0.alice", self.old, {"not_after": "2026-01-01T00:00:00Z"}),
                               ("ink.r.alice", self.gone, {"state": "revoked"}),
                               ("ink.b.alice", self.before, {"state": "retiring"}),
                               ("trk.0.alice", self.past, {"not_after": "2026-01-01T00:00:00Z"})):
            lines.append(json.dumps(dict(user=self.alice.uri, type=kid[:3], id=kid, key=key.hex(), **more)))
        keys = folder / "keys.jsonl"
        keys.write_text("\n".join(lines) + "\n")
        keys.chmod(0o600)
        r = self.run("keys", "import", "--config", self.config, keys)
        assert r.returncode == 0, r.stderr
        self.secrets = [u.ink for u in (self.alice, self.bob)] + [u.trk for u in (self.alice, self.bob, self.carol)]
        self.secrets += [self.old, self.gone, self.before, self.past]

    def run(self, *argv, **kw):
        return subprocess.run([conftest.BUILD / "kmsgate", *map(str, argv)], capture_output=True, text=True, timeout=60,
                              **kw)

    def explain(self, body, *argv, when=AT, code=None):
        path = self.folder / "request.xml"
        path.write_bytes(body)
        r = self.run("explain", "--config", self.config, "--at", when.strftime("%Y-%m-%dT%H:%M:%SZ"), *argv, path)
        everything = r.stdout + r.stderr
        assert "ERROR: " not in everything and "runtime error" not in everything, everything
        for key in self.secrets:
            for text in (key.hex(), key.hex().upper(), base64.b64encode(key).decode()):
                assert text not in everything, "a key is shown"
        if code is not None:
            assert r.returncode == code, everything
        if "json" not in argv: # but for what has no place to break, such as a URL
            assert not [x for x in r.stdout.split("\n") if len(x) > 100 and not re.fullmatch(r" {9}\S+", x)], r.stdout
        assert not HIDDEN.search(everything), "a terminal would obey it"
        return r

    def json(self, body, *argv, **kw):
        r = self.explain(body, "--format", "json", *argv, **kw)
        return json.loads(r.stdout)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    return Desk(tmp_path_factory.mktemp("desk"))


def fields(user, **over):
    return dict(dict(kms.fields(user, PUBLIC + BASE + "/init"), Time=at(-1)), **over)


def good(user, signer=None, sig=None, **over):
    f = {k: v for k, v in fields(user, **over).items() if v is not None}
    kid, key = signer or user.signer()
    return kms.sign(kms.envelope(kms.kms_request(f)), key, kid, **(sig or {}))


def c14n(e, exclusive=False):
    return etree.tostring(copy.deepcopy(e), method="c14n", exclusive=exclusive, with_comments=False)


def handmade(user, request=c14n, info=c14n, key=None, key_id=None, cut=32, after=None, nsmap=None, f=None):
    """Signed by hashlib and hmac alone: `request` and `info` make the octets that are hashed from the elements."""
    root = etree.Element(q("SignedKmsRequest"), nsmap=nsmap or {None: NS})
    root.append(kms.kms_request(f or fields(user), nsmap={None: NS}))
    sig = kms.template(key_name=key_id or user.ink_id)
    root.append(sig)
    root[0].tail = None
    sig.find(".//" + q("DigestValue", DS)).text = base64.b64encode(hashlib.sha256(request(root[0])).digest()).decode()
    mac = hmac.new(key or user.ink, info(sig[0]), hashlib.sha256).digest()[:cut]
    sig.find(q("SignatureValue", DS)).text = base64.b64encode(mac).decode()
    if after:
        after(root)
    return etree.tostring(root)


def alone(e):
    """The element as its maker had it before it went into the envelope."""
    return c14n(etree.fromstring(etree.tostring(copy.deepcopy(e), method="c14n", exclusive=True)))


def in_place(e):
    """With all that is declared above it."""
    return etree.tostring(e, method="c14n", with_tail=False)


URIS = {"soap": "http://schemas.xmlsoap.org/soap/envelope/", "xsd": "http://www.w3.org/2001/XMLSchema", "xsi": kms.XSI}


def declaring(*prefixes):
    """The canonical form, had an element above declared these, too."""
    more = "".join(' xmlns:%s="%s"' % (p, URIS[p]) for p in prefixes).encode()
    return lambda e: re.sub(rb'( xmlns="[^"]*")', lambda m: m.group(1) + more, c14n(e), count=1)


def cause(r):
    return " | ".join(r["cause"])


def test_good(desk):
    r = desk.json(good(desk.alice), code=0)
    assert r["verdict"] == "accept" and r["rule"] == "everyone" and r["proven"] is True
    results = {c["name"]: (c["mode"], c["result"]) for c in r["checks"]}
    assert list(results) == ["schema", "signature", "key_policy", "kms_uri", "time", "client_req_url", "path_user", "replay"]
    assert all(v == ("enforce", "pass") for k, v in results.items() if k != "replay")
    assert results["replay"] == ("enforce", "skip")
    assert "not judged offline" in [c["found"] for c in r["checks"] if c["name"] == "replay"][0]
    assert not r["cause"] and not r["to_mend"]
    r = desk.explain(good(desk.alice), code=0)
    assert "accepted by rule `everyone`, unless it is a replay" in r.stdout


def test_handmade_is_right(desk):
    """The twin of all that follows: nothing done wrongly, nothing found."""
    assert desk.json(handmade(desk.alice), code=0)["verdict"] == "accept"


def test_rules_that_did_not_match(desk):
    r = desk.json(good(desk.alice))
    got = {x["id"]: x for x in r["rules"]}
    assert [x["matches"] for x in r["rules"]] == [False] * 8 + [True]
    assert got["field"]["why"] == "source is 127.0.0.1, expected 10.20.0.0/16"
    assert got["dispatch"]["why"].startswith("path is ") or got["dispatch"]["why"].startswith("user is ")
    assert got["next-year"]["why"] == "begins on 2199-01-01 (since)"
    assert got["last-year"]["why"] == "ended with 2020-12-31 (until)"
    assert got["consoles"]["why"] == "client_id is client-1, expected console-*"
    assert got["everyone"]["line"] == RULES.split("\n").index("  - id: everyone") + 1


# What a sender did, and the words that must be in the cause.
WRONG = {
    "exclusive": (lambda d: handmade(d.alice, nsmap={None: NS, "x": "urn:x"}, request=lambda e: c14n(e, True)),
                  ["hashed the message", "exclusive", "alone: without the namespaces that its ancestors declare"]),
    "lost-ancestors": (lambda d: handmade(d.alice, nsmap={None: NS, "xsi": kms.XSI},
                                          request=alone),
                       ["hashed the message", "alone: without the namespaces that its ancestors declare"]),
    # by a proxy: one that the request does not use, beside others of the client's own; on the envelope, on the request
    "added-on-the-way": (lambda d: good(d.alice).replace(b"<SignedKmsRequest ", b'<SignedKmsRequest xmlns:p="urn:proxy" ', 1),
                         ["declared around the message here, and not in what was hashed: p.",
                          "declared around SignedInfo here, and not in what was hashed: p.", "added it after signing"]),
    "added-beside-others": (lambda d: handmade(d.alice, nsmap={None: NS, "v": "urn:vendor"}, request=in_place, info=in_place).replace(
        b"<SignedKmsRequest ", b'<SignedKmsRequest xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/" xmlns:a="urn:a" ', 1),
        ["with fewer namespace declarations around it", "not in what was hashed: a, soap.", "added it after signing"]),
    "added-to-the-request": (lambda d: good(d.alice).replace(b"<KmsRequest ", b'<KmsRequest xmlns:p="urn:proxy" ', 1),
                             ["SignatureValue is right", "declared around the message here, and not in what was hashed: p.",
                              "added it after signing"]),
    "lost-on-the-way": (lambda d: handmade(d.alice, request=lambda e: c14n(e).replace(
        b' xmlns="%s"' % NS.encode(), b' xmlns="%s" xmlns:xsi="%s"' % (NS.encode(), kms.XSI.encode()), 1)),
        ["got lost on the way", "the declarations of xsi"]),
    "lost-soap": (lambda d: handmade(d.alice, request=declaring("soap", "xsd", "xsi"), info=declaring("soap", "xsd", "xsi")),
                  ["SignedInfo was hashed in an envelope that declared more namespaces", "the declarations of soap, xsd, xsi",
                   "hashed the message in an envelope"]),
    "naked": (lambda d: handmade(d.alice, nsmap={None: NS, "x": "urn:x"}, request=lambda e: re.sub(
        rb' xmlns(:x)?="[^"]*"', b"", c14n(e, True))), ["hashed the message without", "namespace"]),
    "retiring": (lambda d: handmade(d.alice, key=d.before), ["under InK ink.b.alice, which is retiring", "KeyName names another"]),
    "crlf": (lambda d: handmade(d.alice, f=fields(d.alice, ClientId="a\nb"),
                                request=lambda e: c14n(e).replace(b"\n", b"\r\n")), ["CR LF"]),
    "cr-references": (lambda d: handmade(d.alice, f=fields(d.alice, ClientId="a\nb"),
                                         request=lambda e: c14n(e).replace(b"\n", b"&#xD;\n")), ["&#xD;"]),
    "indented-after": (lambda d: handmade(d.alice, after=lambda root: [setattr(e, "tail", "\n  ") for e in root[0]]),
                       ["indented after signing"]),
    "bare-info": (lambda d: handmade(d.alice, info=lambda e: c14n(e).replace(b' xmlns="%s"' % DS.encode(), b"")),
                  ["SignedInfo was hashed without its namespace declaration"]),
    "raw-info": (lambda d: handmade(d.alice, info=lambda e: etree.tostring(e, with_tail=False).replace(
        b' xmlns="%s"' % DS.encode(), b"")), ["as the bytes stand in the message"]),
    "hex-key": (lambda d: handmade(d.alice, key=d.alice.ink.hex().encode()), ["64 hex digits in lower case"]),
    "hex-key-upper": (lambda d: handmade(d.alice, key=d.alice.ink.hex().upper().encode()),
                      ["64 hex digits in upper case"]),
    "hex-key-of-a-file": (lambda d: handmade(d.alice, key=d.alice.ink.hex().encode() + b"\n"), ["64 hex digits and the line end"]),
    "base64-key": (lambda d: handmade(d.alice, key=base64.b64encode(d.alice.ink)), ["its base64"]),
    "trk": (lambda d: handmade(d.alice, key=d.alice.trk), ["under TrK trk.1.alice", "KeyName names another"]),
    "hex-of-trk": (lambda d: handmade(d.alice, key=d.alice.trk.hex().encode()), ["under TrK trk.1.alice", "hex digits"]),
    "old-key": (lambda d: handmade(d.alice, key=d.old), ["ink.0.alice, which is expired", "KeyName names another"]),
    "expired": (lambda d: good(d.alice, signer=("ink.0.alice", d.old), **{"Signature-ID": "ink.0.alice"}),
                ["which KeyName names, is expired", "would be right under InK ink.0.alice, which is expired"]),
    "revoked": (lambda d: good(d.alice, signer=("ink.r.alice", d.gone), **{"Signature-ID": "ink.r.alice"}),
                ["which KeyName names, is revoked"]),
    "anothers": (lambda d: good(d.alice, signer=(d.bob.ink_id, d.bob.ink)),
                 ["none of the ID ink.1.bob", "belongs to sip:bob@example.org"]),
    "nobody": (lambda d: good(kms.User("sip:nobody@example.org")), ["has no keys here at all"]),
    "other-key": (lambda d: handmade(d.alice, key=os.urandom(32)),
                  ["wrong under each of the 6 keys", "DigestValue is right"]),
    "changed": (lambda d: handmade(d.alice).replace(b"client-1", b"client-2"),
                ["SignatureValue is right under InK ink.1.alice", "DigestValue is wrong", "changed after signing"]),
    "cut": (lambda d: handmade(d.alice, cut=16), ["cut to 128 bits"]),
    "cut-and-hex": (lambda d: handmade(d.alice, cut=16, key=d.alice.ink.hex().encode()), ["cut to 128 bits", "hex digits"]),
    "declared-cut": (lambda d: good(d.alice, sig={"hmac_bits": 128}), ["cut to 128 bits"]),
    "crlf-and-hex": (lambda d: handmade(d.alice, f=fields(d.alice, ClientId="a\nb"), key=d.alice.ink.hex().encode(),
                                        request=lambda e: c14n(e).replace(b"\n", b"\r\n")), ["CR LF", "hex digits"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_signature(desk, name):
    make, words = WRONG[name]
    r = desk.json(make(desk), code=1)
    assert r["verdict"] == "reject" and r["reason"] in ("signature.invalid", "signature.profile", "key.unknown",
                                                        "key.revoked")
    assert all(w in cause(r) for w in words), cause(r)
    assert r["to_mend"][0]["place"] == "the client"


@pytest.mark.parametrize("name", ["added-on-the-way", "added-beside-others", "added-to-the-request", "lost-on-the-way"])
def test_what_stands_between_is_told_what_to_do(desk, name):
    r = desk.json(WRONG[name][0](desk), code=1)
    assert ("what stands between client and gateway", True) in {(m["place"], "byte for byte" in m["change"]) for m in r["to_mend"]}
    assert not [m for m in desk.json(WRONG["hex-key"][0](desk), code=1)["to_mend"] if "between" in m["place"]]


def test_lost_ancestors_by_name(desk):
    """Signed alone, then put into an envelope that declares more: shown apart from exclusive canonicalization by a
    namespace that the request itself declares and does not use."""
    root = etree.Element(q("SignedKmsRequest"), nsmap={None: NS, "xsi": kms.XSI})
    request = kms.kms_request(fields(desk.alice), nsmap={None: NS, "v": "urn:vendor"})
    text = c14n(request)
    root.append(request)
    sig = kms.template(key_name=desk.alice.ink_id)
    root.append(sig)
    sig.find(".//" + q("DigestValue", DS)).text = base64.b64encode(hashlib.sha256(text).digest()).decode()
    mac = hmac.new(desk.alice.ink, c14n(sig[0]), hashlib.sha256).digest()
    sig.find(q("SignatureValue", DS)).text = base64.b64encode(mac).decode()
    r = desk.json(etree.tostring(root), code=1)
    assert "without the namespaces that its envelope declares" in cause(r)


def test_first_difference(desk):
    r = desk.json(WRONG["crlf"][0](desk))
    lines = [x for x in r["cause"] if ", at octet " in x]
    ours, theirs = lines
    assert "the gateway hashes" in ours and "the client hashed" in theirs
    assert "a\\nb" in ours and "a\\r\\nb" in theirs
    at_octet = int(re.search(r"at octet (\d+)", ours).group(1))
    text = c14n(etree.fromstring((desk.folder / "request.xml").read_bytes())[0])
    assert text[at_octet:at_octet + 1] == b"\n"


def test_profile_that_a_rule_can_allow(desk):
    r = desk.json(good(desk.alice, sig={"hmac_bits": 128}), code=1)
    line = RULES.split("\n").index("  - id: everyone") + 1
    mend = [m for m in r["to_mend"] if "min_hmac_bits: 128" in m["change"]]
    assert mend and mend[0]["place"] == "%s:%d" % (desk.folder / "rules.yaml", line) and "strength" in mend[0]["costs"]
    # where the rule does, it passes; and where the rule has a line of its own, that line is named
    assert desk.json(good(desk.alice, sig={"hmac_bits": 128}, DeviceId="short-1"), code=0)["verdict"] == "accept"
    r = desk.json(good(desk.alice, sig={"c14n": "http://www.w3.org/2006/12/xml-c14n11"}, DeviceId="short-1"), code=1)
    line = [i for i, x in enumerate(RULES.split("\n"), 1) if "min_hmac_bits" in x][0]
    assert any(m["place"].endswith("rules.yaml:%d" % line) and "c14n11" in m["change"] for m in r["to_mend"])


EXC = "http://www.w3.org/2001/10/xml-exc-c14n#"
C14N11 = "http://www.w3.org/2006/12/xml-c14n11"


@pytest.mark.parametrize("sig,change,words", [
    ({"c14n": EXC}, "{ canonicalization: [c14n, exc-c14n] }", "declares exclusive canonicalization (exc-c14n)"),
    ({"transforms": [EXC]}, "{ canonicalization: [c14n, exc-c14n] }", "declares exclusive canonicalization"),
    ({"c14n": C14N11}, "{ canonicalization: [c14n, c14n11] }", "(c14n11), which rule `everyone` does not take (c14n)"),
    ({"c14n": EXC, "transforms": [C14N11]}, "{ canonicalization: [c14n, exc-c14n, c14n11] }", "exclusive"),
    ({"c14n": EXC, "hmac_bits": 160}, "{ min_hmac_bits: 160, canonicalization: [c14n, exc-c14n] }", "cut to 160 bits"),
    ({"hmac_bits": 128}, "{ min_hmac_bits: 128 }", "cut to 128 bits"),
])
def test_the_line_that_allows_a_profile(desk, tmp_path, sig, change, words):
    """Neither more nor less than what this message needs; and with that line it passes."""
    body = good(desk.alice, sig=sig)
    r = desk.json(body, code=1)
    changes = [m["change"] for m in r["to_mend"] if m["place"] != "the client"]
    assert r["reason"] == "signature.profile" and words in cause(r), cause(r)
    assert changes == ["above rule `everyone`, a rule of its own: checks: { signature: %s }" % change]
    for name in ("master.key", "k.db", "gateway.yaml"):
        shutil.copy(desk.folder / name, tmp_path / name)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "rules.yaml").write_text(RULES.replace("  - id: everyone", "  - id: everyone\n    checks: { signature: %s }" % change))
    r = desk.run("explain", "--config", tmp_path / "gateway.yaml", "--at", at(), desk.folder / "request.xml")
    assert r.returncode == 0, r.stdout + r.stderr


@pytest.mark.parametrize("make,words", [
    (lambda d: good(d.alice, signer=(d.alice.trk_id, d.alice.trk), **{"Signature-ID": d.alice.trk_id}),
     ["key_policy: TrK not allowed: user has an InK on record"]),
    (lambda d: good(d.alice, **{"Signature-ID": "ink.7"}), ["key_policy: Signature-ID is ink.7, KeyName ink.1.alice"]),
    (lambda d: good(d.alice, **{"TrK-ID": "trk.7"}), ["key_policy: TrK-ID is trk.7"]),
    (lambda d: good(d.alice, KmsUri="kms9.example.org", ClientReqUrl=PUBLIC + BASE + "/keyprov"),
     ["kms_uri: kms9.example.org; expected kms.example.org, kms2.example.org"]),
    (lambda d: good(d.alice).replace(b"<UserUri>", b"<Usr/><UserUri>"), ["schema: UserUri: found Usr"]),
    (lambda d: handmade(d.alice, after=lambda root: root.remove(root[1])), ["signature: found no Signature"]),
    (lambda d: handmade(d.alice, after=lambda root: etree.SubElement(root[1][0][1], q("HMACOutputLength", DS)).__setattr__(
        "text", "128")), ["HMACOutputLength: found 128, expected 256"]),
])
def test_each_refusal_has_a_cause(desk, make, words):
    r = desk.json(make(desk), code=1)
    assert all(w in cause(r) for w in words), cause(r)


def test_versions_that_are_there_stay(desk):
    root = kms.kms_request({k: v for k, v in fields(desk.alice).items()}, version="1.2.0")
    r = desk.json(kms.sign(kms.envelope(root), desk.alice.ink, desk.alice.ink_id), code=1)
    assert any("versions: [1.1.0, 1.0.0, 1.2.0]" in m["change"] for m in r["to_mend"]), r["to_mend"]


@pytest.mark.parametrize("text,words,mend", [
    (at(-1), None, None),
    (at(7200).replace("Z", ""), "off by +2 h 00 min, no zone: the client sends local time (UTC+02:00)", '"+02:00"'),
    (at(3598).replace("Z", ""), "off by +1 h 00 min, no zone: the client sends local time (UTC+01:00)", '"+01:00"'),
    (at(3598), "+1 h 00 min from now: it looks like the local time of UTC+01:00", None),
    (at(-5 * 3600 + 2).replace("Z", ""), "no zone: the client sends local time (UTC-05:00)", '"-05:00"'),
    (at(20700).replace("Z", ""), "(UTC+05:45)", '"+05:45"'),
    (at(7200), "looks like the local time of UTC+02:00 with another zone", None),
    (at(-20), "Time is 20.000 s ago: the clocks", "past: 20s"),
    (at(12.5), "Time is 12.500 s ahead", "future: 13s"),
    (at(-400 * 86400), "Time is 400 d 00 h ago", None),
    ("1970-01-01T00:00:07Z", "was never set", None),
], ids=lambda x: None)
def test_time(desk, text, words, mend):
    r = desk.json(good(desk.alice, Time=text), code=0 if words is None else 1)
    if words is None:
        assert not r["cause"]
        return
    assert r["reason"] in ("time.stale", "time.future") and words in cause(r), cause(r)
    changes = [m["change"] for m in r["to_mend"]]
    assert any(mend in c for c in changes) if mend else len(changes) == 1, changes


def test_advice_holds(desk, tmp_path):
    """What explain says would mend it does, put into the rules at the place that it names."""
    body = good(desk.alice, Time=at(7200).replace("Z", ""), KmsUri="kms9.example.org")
    mend = desk.json(body, code=1)["to_mend"]
    changes = [m["change"] for m in mend if m["place"] != "the client"]
    for name in ("master.key", "k.db", "gateway.yaml"):
        shutil.copy(desk.folder / name, tmp_path / name)
        (tmp_path / name).chmod(0o600)
    checks = [re.search(r"checks: (\{.*\})$", c).group(1) for c in changes if "checks:" in c]
    uri = [re.search(r"add (\S+)$", c).group(1) for c in changes if c.startswith("kms.uris")]
    (tmp_path / "rules.yaml").write_text(RULES.replace("  - id: everyone", "  - id: everyone\n    checks: " + checks[0])
                                         .replace("kms2.example.org", uri[0]))
    r = desk.run("explain", "--config", tmp_path / "gateway.yaml", "--at", at(), desk.folder / "request.xml")
    assert r.returncode == 0, r.stdout + r.stderr


def test_a_capture_without_at(desk):
    path = desk.folder / "old.xml"
    path.write_bytes(good(desk.alice, Time="2026-01-23T18:00:00Z"))
    r = desk.run("explain", "--config", desk.config, path)
    assert r.returncode == 1 and "say when it arrived: `--at TIME`" in r.stdout


@pytest.mark.parametrize("over,path,compare", [
    ({"ClientReqUrl": "HTTPS://KMS.example.org:8443" + BASE + "/init"}, BASE + "/init", "normalized"),
    ({"ClientReqUrl": PUBLIC + "/keymanagement"}, BASE + "/init", "prefix"),
    ({"ClientReqUrl": "https://old.example.org" + BASE + "/init"}, BASE + "/init", "public_url"),
    ({"ClientReqUrl": PUBLIC + BASE + "/init?a=1"}, BASE + "/init?a=2", None),
])
def test_client_req_url(desk, over, path, compare):
    r = desk.json(good(desk.alice, **over), "--path", path, code=1)
    assert r["reason"] == "client_req_url.mismatch"
    check = [c for c in r["checks"] if c["name"] == "client_req_url"][0]
    assert check["found"] == over["ClientReqUrl"] and PUBLIC + path in check["expected"]
    others = [m for m in r["to_mend"] if m["place"] != "the client"]
    assert (compare in others[0]["change"]) if compare else not others


def test_path_is_that_of_client_req_url(desk):
    url = PUBLIC + BASE + "/keyprov/sip%3Aalice%40example.org?x=1"
    r = desk.json(good(desk.alice, ClientReqUrl=url), code=0)
    assert r["target"] == BASE + "/keyprov/sip%3Aalice%40example.org?x=1"
    assert r["target_from"] == "as its ClientReqUrl says"
    r = desk.json(good(desk.alice, ClientReqUrl="https://elsewhere.example" + BASE + "/init"), code=1)
    assert r["target"] == BASE + "/init" and "begins with no public_url" in r["target_from"]
    r = desk.explain(good(desk.alice, ClientReqUrl="nowhere"), code=1)
    assert "use --path" in r.stderr


def test_path_user_and_policy_and_uri(desk):
    path = BASE + "/keyprov/sip%3Agroup%40example.org"
    r = desk.json(good(desk.alice, ClientReqUrl=PUBLIC + path), code=1)
    assert r["reason"] == "path_user.mismatch"
    assert any('also: ["sip:group@example.org"]' in m["change"] and "never for a person" in flat(m["costs"]) for m in r["to_mend"])
    r = desk.json(good(desk.alice, signer=(desk.alice.trk_id, desk.alice.trk), **{"Signature-ID": desk.alice.trk_id}), code=1)
    assert r["reason"] == "key.policy" and any("stolen TrK" in m["costs"] for m in r["to_mend"])
    assert desk.json(good(desk.carol), code=0)["verdict"] == "accept"
    r = desk.json(good(desk.alice, KmsUri="http://kms.example.org:8080"), code=1)
    assert r["reason"] == "kms_uri.mismatch" and any("compare: host" in m["change"] for m in r["to_mend"])
    r = desk.json(good(desk.alice, KmsUri="http://kms.example.org:8080", DeviceId="watch-1"), code=0)
    assert r["rule"] == "watches"


def test_shadow_is_told(desk):
    r = desk.json(good(desk.alice, Time=at(-3), DeviceId="watch-1", ClientReqUrl="https://no.example" + BASE + "/init"), code=0)
    assert r["shadow"] == ["time.stale"]
    modes = {c["name"]: (c["mode"], c["result"]) for c in r["checks"]}
    assert modes["time"] == ("shadow", "shadow_fail") and modes["client_req_url"] == ("off", "off")


def test_shadow_is_told_in_words(desk):
    r = desk.explain(good(desk.alice, Time=at(-3), DeviceId="watch-1"), code=0)
    assert "verdict  accepted by rule `watches`, unless it is a replay\n" in r.stdout
    assert "         time in shadow: would be refused with time.stale\n" in r.stdout


def elsewhere(desk, folder, rules):
    """The same keys under other rules."""
    for name in ("master.key", "k.db", "gateway.yaml"):
        shutil.copy(desk.folder / name, folder / name)
        (folder / name).chmod(0o600)
    (folder / "rules.yaml").write_text(rules)
    return folder / "gateway.yaml"


HEAD = "version: 1\nkms: { uris: [kms.example.org] }\nresponses: [{ id: default }]\nrequests:\n"


@pytest.mark.parametrize("rules,over,told", [
    ("  - { id: empty, match: { form: empty } }\n", {},
     ["form is signed, expected empty", "verdict  refused: rule.none (HTTP 403)", "no rule matches the request",
      "requests: a rule that matches this request (path /keymanagement/identity/v1/init, user sip:alice@example.org)"]),
    ("  - { id: open, why: x, match: { form: [unsigned, empty] }, accept: [unsigned, empty] }\n  - { id: everyone }\n", {},
     ["form is signed, expected unsigned, empty", "accepted by rule `everyone`"]),
    ("  - { id: everyone, checks: { time: { assume_zone: refuse } } }\n", {"Time": at(-1).replace("Z", "")},
     ["refused: time.zone", "Time has no zone, and the rule refuses such a Time (assume_zone: refuse)"]),
    ("  - { id: everyone }\n", {"Time": at(-95)}, ["refused: time.stale", "1 min 35 s"]),
    ("  - { id: shut, why: closed for now, deny: on }\n", {},
     ["refused: rule.denied", "rule `shut` denies all that it matches: closed for now", "above rule `shut`, a rule of its own",
      "read its `why` before"]),
    ("  - { id: others, match: { not: { user: \"sip:alice@*\" } } }\n  - { id: everyone }\n", {},
     ["user is sip:alice@example.org, `not` has sip:alice@*", "accepted by rule `everyone`"]),
    ("  - { id: soon, why: x, accept: [unsigned], shadow_accept: [signed] }\n", {},
     ["the request is signed: rule `soon` lets it through by `shadow_accept` alone, and tells of it"]),
    ("  - { id: everyone }\n", {"TrK-ID": "ink.1.alice"},
     ["refused: key.policy", "TrK-ID ink.1.alice names an InK", "give the device a new TrK"]),
    ("  - { id: everyone }\n", {"TrK-ID": "trk.0.alice"},
     ["refused: key.policy", "TrK-ID trk.0.alice names a TrK that has expired", "give the device a new TrK"]),
    ("  - { id: everyone, checks: { time: { assume_zone: '+05:00' } } }\n", {"Time": at(7200).replace("Z", "")},
     ["refused: time.stale", "the client sends local time (", "Without a zone a Time counts as UTC+05:00 here"]),
])
def test_under_other_rules(desk, tmp_path, rules, over, told):
    (tmp_path / "request.xml").write_bytes(good(desk.alice, **over))
    r = desk.run("explain", "--config", elsewhere(desk, tmp_path, HEAD + rules), "--at", at(), tmp_path / "request.xml")
    for words in told:
        assert flat(words) in flat(r.stdout), (words, r.stdout + r.stderr)


@pytest.mark.parametrize("make,words,mend", [
    (lambda d, **o: good(d.alice, Time=at(7200).replace("Z", ""), **o), "the client sends local time",
     ("time", 'assume_zone: "+02:00"')),
    (lambda d, **o: good(d.alice, KmsUri="http://kms.example.org:80", **o), "kms_uri: http://kms.example.org:80",
     ("kms_uri", "compare: host")),
    (lambda d, **o: good(d.alice, sig={"hmac_bits": 128}, **o), "cut to 128 bits", ("signature", "min_hmac_bits: 128")),
    (lambda d, **o: handmade(d.alice, key=d.alice.trk, f=fields(d.alice, **o)), "under TrK trk.1.alice", None),
    (lambda d, **o: good(d.alice, signer=(d.alice.trk_id, d.alice.trk), **dict(o, **{"Signature-ID": d.alice.trk_id})),
     "key_policy: TrK not allowed", None),
])
def test_what_shadow_lets_through_is_explained_too(desk, make, words, mend):
    """Before a check is enforced somebody has to know what to mend: the same is said as of a refusal."""
    r = desk.json(make(desk, DeviceId="look-1"), code=0)
    assert r["verdict"] == "accept" and r["rule"] == "looking" and r["shadow"]
    assert words in cause(r) and r["to_mend"][0]["place"] == "the client"
    rest = [m for m in r["to_mend"] if m["place"] != "the client"]
    if mend:
        line = RULES.split("\n").index("      %s: shadow" % mend[0]) + 1
        assert [m["place"].endswith("rules.yaml:%d" % line) and mend[1] in m["change"] for m in rest] == [True], rest
    else:
        assert not rest
    refused = desk.json(make(desk, DeviceId="strict-1"), code=1)
    assert words in cause(refused)
    assert not desk.json(good(desk.alice, DeviceId="look-1"), code=0)["to_mend"]


@pytest.mark.parametrize("body,argv,reason,words", [
    (b"", ["--path", BASE + "/init"], "signature.missing", None),
    (b"", ["--path", BASE + "/init", "--source", "10.20.1.1"], "ok", None),
    (b"<a", ["--path", BASE + "/init"], "xml.malformed", "expected"),
    (b"<!DOCTYPE a><a/>", ["--path", BASE + "/init"], "xml.forbidden", "document type"),
    (b"<a/>", ["--path", BASE + "/init"], "xml.invalid", "neither KmsRequest nor SignedKmsRequest"),
    (b"", ["--path", "/nowhere"], "http.resource", None),
    (b"", ["--path", BASE + "/init/../x"], "http.path", "dot"),
])
def test_before_the_checks(desk, body, argv, reason, words):
    r = desk.json(body, *argv, code=0 if reason == "ok" else 1)
    assert r["reason"] == reason
    assert words is None or words in cause(r), r["cause"]
    text = desk.explain(body, *argv, code=0 if reason == "ok" else 1).stdout
    assert words is None or re.search(r"^cause    .*" + words.split()[0], text, re.M), text


def test_unsigned(desk):
    body = etree.tostring(kms.kms_request(fields(desk.alice, **{"Signature-ID": "x"})))
    r = desk.json(body, code=1)
    assert r["form"] == "unsigned" and r["reason"] == "signature.missing"
    assert r["cause"] == ["the request is unsigned; rule `everyone` accepts signed"]
    assert any("accept: [unsigned]" in m["change"] and m["costs"].startswith("much") for m in r["to_mend"])
    assert desk.json(body, "--source", "10.20.3.4", code=0)["proven"] is False
    r = desk.json(good(desk.alice), "--source", "10.20.3.4", code=1)
    assert r["cause"] == ["the request is signed; rule `field` accepts unsigned, empty"]
    assert r["reason"] == "rule.form" and any("accept: [signed" in m["change"] for m in r["to_mend"])


@pytest.mark.parametrize("body,words", [
    (b"POST /keymanagement/identity/v1/init HTTP/1.1\r\nHost: k\r\n\r\n<x/>", "found HTTP's own lines (`POST /keymanagement"),
    (b"HTTP/1.1 200 OK\r\n\r\n", "found HTTP's own lines"),
    (b"\x1f\x8b\x08\x00", "gzip"),
    (b"x" * 70000, "larger than 65536 octets"),
])
def test_no_body(desk, body, words):
    r = desk.explain(body, code=1)
    assert words in r.stderr and not r.stdout


@pytest.mark.parametrize("argv", [
    [], ["--config"], ["--config", "g.yaml"], ["--config", "g.yaml", "a", "b"],
    ["--config", "g.yaml", "--format", "xml", "a"], ["--config", "g.yaml", "--source", "here", "a"],
    ["--config", "g.yaml", "--at", "noon", "a"], ["--config", "g.yaml", "--at", "2026-11-23T18:00:00", "a"],
    ["--config", "g.yaml", "--path", "x", "a"], ["--foo", "--config", "g.yaml", "a"]])
def test_wrong_usage(desk, argv):
    r = desk.run("explain", *argv)
    assert r.returncode == 2 and r.stderr.startswith("kmsgate: explain: ")


def test_help(desk):
    r = desk.run("explain", "--help")
    assert r.returncode == 0 and "--source" in r.stdout and not r.stderr


def test_what_cannot_be_read_is_told(desk, tmp_path):
    r = desk.run("explain", "--config", desk.config, tmp_path / "none.xml")
    assert r.returncode == 1 and "none.xml: cannot be read" in r.stderr
    broken = tmp_path / "gateway.yaml"
    broken.write_text(desk.config.read_text().replace("rules.yaml", str(tmp_path / "r.yaml"))
                      .replace("k.db", str(desk.folder / "k.db")).replace("master.key", str(desk.folder / "master.key")))
    (tmp_path / "r.yaml").write_text("version: 2\n")
    r = desk.run("explain", "--config", broken, desk.config)
    assert r.returncode == 1 and "r.yaml:1:10: " in r.stderr


def test_only_reads(desk, tmp_path):
    """Read-only files in a read-only folder are enough, and nothing of them changes."""
    for name in ("master.key", "k.db", "gateway.yaml", "rules.yaml"):
        shutil.copy(desk.folder / name, tmp_path / name)
        (tmp_path / name).chmod(0o400)
    body = tmp_path / "request.xml"
    body.write_bytes(good(desk.alice))
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()}
    tmp_path.chmod(0o500)
    trace = shutil.which("strace")
    argv = [conftest.BUILD / "kmsgate", "explain", "--config", tmp_path / "gateway.yaml", "--at", at(), body]
    r = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=60)
    tmp_path.chmod(0o700)
    assert r.returncode == 0, r.stderr
    assert {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.iterdir()} == before
    if trace and "asan" not in subprocess.run(["ldd", argv[0]], capture_output=True, text=True).stdout:
        t = subprocess.run([trace, "-f", "-e", "trace=network", *map(str, argv)], capture_output=True, text=True, timeout=60)
        assert "socket(" not in t.stderr.replace("AF_UNIX", "")


def test_beside_a_writer(desk):
    """A writer's transaction that is open does not stop it: what was committed is read."""
    db = sqlite3.connect(desk.folder / "k.db", timeout=1, isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    try:
        desk.json(good(desk.alice), code=0)
    finally:
        db.execute("ROLLBACK")
        db.close()


def pasted(desk, tmp_path, rule, above="everyone"):
    """A desk's gateway with the rule that was advised, above the one that refused."""
    at_rule = "  - id: " + above
    assert RULES.count(at_rule) == 1
    text = RULES.replace(at_rule, rule + at_rule)
    config = elsewhere(desk, tmp_path, text)
    checked = desk.run("check", tmp_path / "rules.yaml")
    assert checked.returncode == 0, checked.stderr
    return config


@pytest.mark.parametrize("over,source,bound", [
    ({"Time": at(-95)}, "192.0.2.7", "source: [192.0.2.7/32]"),
    ({"Time": at(-95)}, "2001:db8::7", "source: [2001:db8::7/128]"),
    ({"Time": at(-95)}, "127.0.0.1", 'user: "sip:alice@example.org"\n      path:'),
    ({"ClientReqUrl": "HTTPS://KMS.example.org:8443" + BASE + "/init"}, "192.0.2.7", "compare: normalized"),
    ({"KmsUri": "http://kms.example.org:8080"}, "192.0.2.7", "compare: host"),
])
def test_a_loosening_is_a_rule_of_its_own(desk, tmp_path, over, source, bound):
    """Bounded by user or source, with an end; pasted, it lets this request through, and nobody else's."""
    argv = ("--source", source, "--path", BASE + "/init")
    advised = [m["rule"] for m in desk.json(good(desk.alice, **over), *argv, code=1)["to_mend"] if "rule" in m]
    assert len(advised) == 1 and bound in advised[0], advised
    end = re.search(r"^    until: (\d{4}-\d\d-\d\d)$", advised[0], re.M).group(1)
    assert timedelta(days=28) < datetime.fromisoformat(end) - datetime.now() < timedelta(days=31)
    assert advised[0] in desk.explain(good(desk.alice, **over), *argv, code=1).stdout
    config = pasted(desk, tmp_path, advised[0])
    (tmp_path / "alice.xml").write_bytes(good(desk.alice, **over))
    (tmp_path / "bob.xml").write_bytes(good(desk.bob, **over))
    explain = ("explain", "--config", config, "--at", at(), *argv)
    assert desk.run(*explain, tmp_path / "alice.xml").returncode == 0
    assert desk.run(*explain, tmp_path / "bob.xml").returncode == 1


def test_an_unsigned_request_is_bounded_by_its_source(desk, tmp_path):
    body = etree.tostring(kms.kms_request(fields(desk.alice)))
    r = desk.json(body, "--source", "192.0.2.7", "--path", BASE + "/init", code=1)
    rule, = [m["rule"] for m in r["to_mend"] if "rule" in m]
    assert "accept: [unsigned]" in rule and "source: [192.0.2.7/32]" in rule and "until: " in rule


@pytest.mark.parametrize("user", ["sip:*@example.org", "sip:a\u202eb@example.org"])
def test_a_hostile_user_widens_no_rule(desk, user):
    """What a stranger wrote is never a glob in a rule that somebody pastes."""
    body = etree.tostring(kms.kms_request(fields(kms.User(user))))
    for m in desk.json(body, "--source", "192.0.2.7", "--path", BASE + "/init", code=1)["to_mend"]:
        assert "rule" not in m or ("user:" not in m["rule"] and "source: [192.0.2.7/32]" in m["rule"]), m


@pytest.mark.parametrize("url,says,place", [
    ("http://kms.example.org:8443" + BASE + "/init", "begins with http://, public_url with https://", "gateway.yaml"),
    ("https://kms.other.example" + BASE + "/init", "names kms.other.example, public_url names", "gateway.yaml"),
    (PUBLIC + BASE + "/init/", "differ in a slash at the end", None),
])
def test_whose_fault_a_client_req_url_is(desk, url, says, place):
    """Both may be wrong, so both are named."""
    r = desk.json(good(desk.alice, ClientReqUrl=url), "--path", BASE + "/init", code=1)
    assert r["reason"] == "client_req_url.mismatch" and says in " ".join(r["cause"]), r["cause"]
    places = [m["place"] for m in r["to_mend"]]
    assert places[0] == "the client" and ([p for p in places if place and p.endswith(place)] != []) == bool(place), places
    assert not [m for m in r["to_mend"] if place and "rule" in m], "no rule mends a wrong public_url"


def test_a_revoked_key_is_never_imported_again(desk):
    r = desk.json(good(desk.alice, signer=("ink.r.alice", desk.gone), **{"Signature-ID": "ink.r.alice"}), code=1)
    keys = [m["change"] for m in r["to_mend"] if m["place"] == "kmsgate keys"]
    assert len(keys) == 1 and "ink.r.alice was revoked" in keys[0] and "never imported again" in keys[0]
    r = desk.json(good(desk.alice, signer=("ink.x.alice", os.urandom(32)), **{"Signature-ID": "ink.x.alice"}), code=1)
    keys = [m["change"] for m in r["to_mend"] if m["place"] == "kmsgate keys"]
    assert len(keys) == 1 and keys[0].startswith("import the key") and "revoked" not in keys[0]


def test_an_unknown_trk(desk):
    r = desk.json(good(desk.alice, **{"TrK-ID": "trk.9.alice"}), code=1)
    assert r["reason"] == "key.policy" and any("TrK-ID trk.9.alice is not known here" in x for x in r["cause"])
    assert [m["change"] for m in r["to_mend"] if m["place"] == "kmsgate keys"] == \
        ["import the TrK trk.9.alice of this user (kmsgate keys import)"]
    assert not [m for m in r["to_mend"] if "rule" in m], "no rule replaces a key"


@pytest.mark.parametrize("make,says", [
    (lambda b: b.decode().encode("utf-16"), "found UTF-16, expected UTF-8"),
    (lambda b: b.decode().encode("utf-16-be"), "found UTF-16, expected UTF-8"),
    (lambda b: b.decode().encode("utf-32"), "found UTF-32, expected UTF-8"),
    (lambda b: b'<?xml version="1.0"?>' + b.replace(b"watch", b"w\xe4tch"), "0xe4) is not UTF-8"),
    (lambda b: b[:len(b) // 2], "it is truncated"),
    (lambda b: b[:-1], "it is truncated"),
    (lambda b: b"<!DOCTYPE html><html></html>", "found an HTML page"),
    (lambda b: b'{"a": 1}', "found JSON"),
    (lambda b: b"not at all", "not valid XML"),
])
def test_bytes_that_are_no_request(desk, make, says):
    """The cause, not that a path is missing; with a path the same cause stands in the explanation."""
    body = make(good(desk.alice, DeviceId="watch-1"))
    r = desk.explain(body, code=1)
    assert says in r.stderr and "--path" not in r.stderr and not r.stdout, r.stderr
    r = desk.json(body, "--path", BASE + "/init", code=1)
    assert r["reason"].startswith("xml.") and (says == "not valid XML" or says in " ".join(r["cause"])), r["cause"]


def test_hostile_texts_stay_on_their_line(desk):
    """No control and no format character of a request reaches the terminal, as text and as JSON."""
    body = good(desk.alice, DeviceId="watch-\u0085\u009b31m\ufeff-1", KmsUri="kms\u202e.example.org", ClientId="x" * 3000)
    r = desk.explain(body, code=1)
    assert "kms\\u202e.example.org" in r.stdout and all(len(line) < 2200 for line in r.stdout.split("\n"))
    found = {c["name"]: c.get("found") for c in desk.json(body, code=1)["checks"]}
    assert found["kms_uri"] == "kms\u202e.example.org"
