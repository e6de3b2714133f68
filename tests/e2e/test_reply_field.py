"""What real KMSs send beside what the standard says: extensions, unsigned certificates, other encodings, their own words;
what the log says of it, and clients that read nothing but their vendor's words."""
import base64
import json
import re
import subprocess
from pathlib import Path

import pytest
from lxml import etree

import kms
from kms import NS, q
from conftest import BUILD
from scripted import (CERT_ORDER, Keys, cert_cache, certificate, check_xsd, init, key_prov, key_set, lookup, of_a_file,
                      response)

ROOT = Path(__file__).parents[2]
FIELD = ROOT / "tests" / "cases" / "field"
ALICE = "sip:alice@example.org"
VENDOR = "http://vendor.example/kms"
V = " xmlns:v='urn:example:vendor'"
K = Keys()
DIALECTS = {"types": {"rename_types": {"KmsKeyProvTkType": "KmsKeyProvTkIkType"}}, "numeric": {"key_octets": "numeric"},
            "declared": {"encoding": "declared"}, "hex": {"key_text": "hex"}, "base64": {"key_text": "base64"},
            "vendor": {"namespaces": [VENDOR, ""], "rename": {"KmsKeyset": "KmsKeySet", "Answer": "KmsResponse"}}}
RULES = json.dumps({
    "version": 1, "kms": {"uris": ["kms.example.org"]}, "errors": {"detail": "reason"},
    "requests": [{"id": "quiet", "match": {"client_id": "quiet"}, "accept": ["unsigned"], "why": "old",
                  "checks": {"kms_uri": "off"}},
                 {"id": "strict", "match": {"client_id": "strict"}, "accept": ["signed", "unsigned"], "why": "old"},
                 {"id": "standard", "match": {"client_id": "standard"}, "accept": ["unsigned"], "why": "old"}] +
    [{"id": n, "match": {"client_id": n}} for n in ("keep", "message", "named", *DIALECTS)] + [{"id": "everyone"}],
    "responses": [{"id": "keep", "match": {"rule": "keep"}, "extensions": "keep"},
                  {"id": "message", "match": {"rule": "message"}, "extensions": "keep",
                   "encrypt": {"content": "message"}},
                  {"id": "named", "match": {"rule": "named"}, "encrypt": {"key_wrap": "kw-aes256-named"}},
                  {"id": "quiet", "match": {"rule": ["quiet", "strict"], "message": ["KmsInit", "KmsKeyProv", "error"]},
                   "dialect": "vendor", "speak": "dialect", "encrypt": {"when": "never"}}] +
    [{"id": n, "match": {"rule": n}, "dialect": n} for n in DIALECTS] + [{"id": "default"}],
    "dialects": DIALECTS})


alice, bench = of_a_file(RULES, "sip:bob@example.org")


def good(r, alice):
    assert r.status == 200, r.body
    check_xsd(r)
    assert r.verify(alice.ink, alice.ink_id)
    return r


PATHS = {"init": "/init", "keyprov": "/keyprov", "certcache": "/certcache", "lookup": "/lookup/sip%3Abob%40example.org"}


def with_at(element, attribute):
    """name: (path, reply) with a foreign element, or attribute, in each place where the schema has room for one."""
    places = {
        "KmsResponse": ("init", response(init(), tail=element, root=" xmlns='%s'%s" % (NS, attribute))),
        "KmsInit": ("init", response(init(certificate(), element, attributes=attribute))),
        "KmsKeyProv": ("keyprov", response(key_prov(key_set(K, ALICE), element, attributes=attribute))),
        "KmsKeySet": ("keyprov", response(key_prov(key_set(K, ALICE, attributes=attribute).replace(
            "</KmsKeySet>", element + "</KmsKeySet>")))),
        "KmsKeySet, first": ("keyprov", response(key_prov(key_set(K, ALICE, attributes=attribute).replace(
            "<KmsUri>", element + "<KmsUri>", 1)))),
        "KmsCertCache": ("certcache", response(cert_cache(certificate(), element, attributes=attribute))),
        "KmsCertificate": ("init", response(init(certificate(attributes=" Role='Root'" + attribute).replace(
            "</KmsCertificate>", element + "</KmsCertificate>")))),
        "KmsLookup": ("lookup", response(lookup(element + "<KmsUri>k</KmsUri>").replace(
            "<KmsLookup>", "<KmsLookup%s>" % attribute))),
        "KmsMessage": ("init", response(init() + element).replace(b"<KmsMessage>",
                                                                  b"<KmsMessage%s>" % attribute.encode())),
        "KmsError": ("init", response(error="<KmsError%s><ErrorCode>1</ErrorCode><ErrorMsg>m</ErrorMsg>%s</KmsError>"
                                      % (attribute, element))),
    }
    return places


PLACES = list(with_at("", ""))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["element", "attribute", "both"])
def test_extensions(bench, alice, place, form):
    """Dropped or kept, never an error: but for a key."""
    e = "<v:Hint%s v:a='1'>told</v:Hint>" % V if form != "attribute" else ""
    a = V + " v:batch='told'" if form != "element" else ""
    path, body = with_at(e, a)[place]
    for case in ("default", "keep", "message"):
        r = good(bench.reply(alice, PATHS[path], body, case=case), alice)
        kept = case != "default"
        if case != "message" or place in ("KmsResponse", "KmsError", "KmsMessage"):
            assert (b"told" in r.body) == kept or (case == "message" and form == "element"), r.body
    bad = [("<v:UserDecryptKey%s/>" % V, ""), ("<v:e%s v:NewTransportKey='1'/>" % V, ""),
           ("", V + " v:UserSigningKeySSK='1'"),
           ("<v:e%s xmlns:xsi='%s' xsi:type='q:KeyContentType'/>" % (V, kms.XSI), "")]
    for element, attribute in bad:
        path, body = with_at(element, attribute)[place]
        for case in ("default", "keep"):
            assert bench.reply(alice, PATHS[path], body, case=case).error == "upstream.invalid", (element, case)
    key = K.octets["UserSigningKeySSK"].hex()
    path, body = with_at("<v:e%s>%s</v:e>" % (V, key) if form != "attribute" else "",
                         V + " v:a='%s'" % key if form != "element" else "")[place]
    if path == "keyprov":
        assert bench.reply(alice, PATHS[path], body, case="keep").error == "upstream.invalid"
        assert key.encode() not in good(bench.reply(alice, PATHS[path], body), alice).body


@pytest.mark.parametrize("name", ["UserID", "Issuer", "KmsDomainList"])
def test_no_room_for_extensions(bench, alice, name):
    for inside in ("<v:e%s/>" % V, None):
        text = certificate(Issuer="i") if name != "UserID" else key_set(K, ALICE)
        open_tag = "<%s>" % name
        put = open_tag + inside if inside else "<%s%s v:a='1'>" % (name, V)
        body = response(init(text.replace(open_tag, put)) if name != "UserID" else key_prov(text.replace(open_tag, put)))
        path = "/init" if name != "UserID" else "/keyprov"
        assert bench.reply(alice, path, body, case="keep").error == "upstream.invalid"


@pytest.mark.parametrize("case", ["default", "keep"])
def test_a_signed_certificate_without_signature(bench, alice, case):
    """Is a certificate in an envelope: put in order, extensions as by the rule; in a cache, too."""
    inner = certificate(order=CERT_ORDER[::-1], attributes=" Role='Root'").replace(
        "</KmsCertificate>", "<v:Hint%s/></KmsCertificate>" % V)
    signed = "<SignedKmsCertificate Id='c1'>%s</SignedKmsCertificate>" % inner
    for path, body in (("/init", response(init(signed))), ("/certcache", response(cert_cache(signed, certificate())))):
        r = good(bench.reply(alice, path, body, case=case), alice)
        got = r.response.find(".//" + q("SignedKmsCertificate"))
        assert got.get("Id") == "c1" and [etree.QName(e).localname for e in got] == ["KmsCertificate"]
        assert got[0].get("Version") == "1.1.0" and (b"Hint" in r.body) == (case == "keep")
    for bad in (signed.replace("</Signed", "<UserUri>a</UserUri></Signed"), signed.replace(inner, ""),
                signed.replace(inner, inner + inner), signed.replace("<SignedKmsCertificate", "<SignedKmsCertificate" +
                                                                     V + " v:a='1'")):
        assert bench.reply(alice, "/init", response(init(bad)), case=case).error == "upstream.invalid"


FIELD_CASES = {"init-signed-certificate-without-signature": ("/init", "default", None),
               "init-extension-in-certificate": ("/init", "default", None),
               "keyprov-foreign-attribute": ("/keyprov", "default", None),
               "keyprov-ssk-34-octets": ("/keyprov", "numeric", "UserSigningKeySSK: found 34 octets as hex, expected 32 as "
                                         "hex; `key_octets: numeric` in a dialect reads it"),
               "keyprov-release-13-type": ("/keyprov", "types", "KmsKeyProv: found KmsKeyProvTkType, expected "
                                           "KmsKeyProvTkIkType; a dialect's `rename_types` reads"),
               "init-latin-1-declared": ("/init", "declared", "found encoding ISO-8859-1, expected UTF-8; a dialect's "
                                         "`encoding: declared` reads")}


def test_field_cases_are_all():
    assert {p.stem for p in FIELD.glob("*.xml")} == set(FIELD_CASES)


@pytest.mark.parametrize("name", FIELD_CASES)
def test_field(bench, alice, name):
    """Each is read, without a dialect or by the one key of it that is for it; else the log says which, and no key."""
    path, case, said = FIELD_CASES[name]
    body = (FIELD / (name + ".xml")).read_bytes()
    r = good(bench.reply(alice, path, body, case=case), alice)
    if path == "/keyprov":
        assert dict(r.keys(alice.trk, alice.trk_id))["UserSigningKeySSK"] == b"\x13" * 32
    if said:
        r, _ = bench.ask(alice, path, body)
        assert r.error == "upstream.invalid" and logged(bench, r, said)
        assert "1313131313" not in bench.gate.running.err


LEFT_OUT = [("Issuer", "x" * 129, "Issuer: found 129 characters, expected at most 128 letters, digits, spaces and"),
            ("Issuer", "M\u00fcller", "Issuer: found another character at octet 1, expected at most 128"),
            ("Issuer", "x" * 128, None)]


IDS_LEFT_OUT = [("K\u00e9y", "KmsKeySet: its Id: found another character at octet 1, expected at most 128"),
                ("x" * 129, "KmsKeySet: its Id: found 129 characters, expected at most 128 letters"),
                ("xmldoc", "KmsKeySet: its Id: found xmldoc, which is the response's own, expected at most 128"),
                ("x" * 128, None)]


@pytest.mark.parametrize("own", [b"", b"<!-- read as a tree -->"], ids=["one-pass", "tree"])
@pytest.mark.parametrize("value,said", IDS_LEFT_OUT)
def test_an_id_that_is_left_out_is_told(bench, alice, value, said, own):
    """As a text is, in both ways of reading; the reply goes out without it."""
    body = response(key_prov(key_set(K, ALICE))).replace(b"<KmsKeySet ", b'<KmsKeySet Id="%s" ' % value.encode())
    r = good(bench.reply(alice, "/keyprov", body.replace(b"<KmsMessage>", own + b"<KmsMessage>")), alice)
    assert (b'<KmsKeySet Id="%s"' % value.encode() in r.body) == (said is None)
    if said:
        assert logged(bench, r, said) and logged(bench, r, "it is left out of the reply")
    else:
        assert r.headers["X-Request-Id"] not in bench.gate.running.err


@pytest.mark.parametrize("name,text,said", LEFT_OUT)
def test_what_is_left_out_is_told(bench, alice, name, text, said):
    """An old KMS's text that could hide a key is not passed on; its operator reads which, and what would pass."""
    r = good(bench.reply(alice, "/keyprov", response(key_prov(key_set(K, ALICE, **{name: text})))), alice)
    assert (text.encode() in r.body) == (said is None)
    if said:
        assert logged(bench, r, said) and logged(bench, r, "it is left out of the reply")
    else:
        assert r.headers["X-Request-Id"] not in bench.gate.running.err


def test_a_case_tells_what_is_left_out(tmp_path):
    """`kmsgate test` says the same of a stored reply, though all that was expected holds."""
    (tmp_path / "rules.yaml").write_text("version: 1\nkms: { uris: [kms.example.org] }\nrequests: [{ id: all }]\n"
                                         "responses: [{ id: default }]\n")
    (tmp_path / "reply.xml").write_bytes(response(key_prov(key_set(K, ALICE, Issuer="a|b"))))
    (tmp_path / "cases.yaml").write_text("version: 1\npublic_url: https://kms.example.org\ncases:\n  - { name: old, request: { user: \"%s\", path: /keymanagement/identity/v1/keyprov }, "
                                         "reply: reply.xml, expect: { verdict: accept, response: { rule: default } } }\n" % ALICE)
    r = subprocess.run([BUILD / "kmsgate", "test", "rules.yaml", "cases.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode == 0, r.stdout + r.stderr
    assert "cases.yaml:4: case `old`: the upstream's reply: Issuer: found another character at octet 1" in r.stdout, r.stdout


def logged(bench, reply, text):
    """The warning about that reply."""
    lines = [line for line in bench.gate.running.err.split("\n") if reply.headers["X-Request-Id"] in line]
    assert len(lines) == 1 and " warn " in lines[0], lines
    assert text in lines[0], lines
    return True


def test_numbers(bench, alice):
    """An SSK of few or many zeros in front, in hex and base64; nothing else is a number, nor one that is too long."""
    import base64
    ssk = K.octets["UserSigningKeySSK"]
    small = b"\0\0" + ssk[2:]
    base = response(key_prov(key_set(K, ALICE)))
    for octets, text in ((ssk, "00" * 9 + ssk.hex()), (small, small[2:].hex()), (b"\0" * 31 + b"\x07", "7"),
                         (ssk, base64.b64encode(b"\0" + ssk).decode()), (ssk, ssk.hex())):
        body = base.replace(ssk.hex().encode(), text.encode())
        r = good(bench.reply(alice, "/keyprov", body, case="numeric"), alice)
        assert dict(r.keys(alice.trk, alice.trk_id))["UserSigningKeySSK"] == octets
    pvt = K.octets["UserPubTokenPVT"].hex()
    for old, text in ((ssk.hex(), "01" + ssk.hex()), (ssk.hex(), ""), (pvt, "00" + pvt), (pvt, pvt[2:])):
        body = base.replace(b">%s<" % old.encode(), b">%s<" % text.encode())
        assert bench.reply(alice, "/keyprov", body, case="numeric").error == "upstream.invalid"


def test_encodings(bench, alice):
    text = response(init(certificate(CertUri="caf\u00e9"))).decode()
    for head, encoding in (("<?xml version='1.0' encoding='ISO-8859-1'?>", "latin-1"),
                           (" \n<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>", "latin-1"),
                           ("\r\n<?xml version='1.0'?>", "utf-8"), ("<?xml version='1.0' encoding='UTF-8'?>", "utf-8")):
        r = good(bench.reply(alice, "/init", (head + text).encode(encoding), case="declared"), alice)
        assert r.response.findtext(".//" + q("CertUri")) == "caf\u00e9"
    ascii_ = response(init()).decode()
    head = "<?xml version='1.0' encoding='US-ASCII'?>"
    good(bench.reply(alice, "/init", (head + ascii_).encode(), case="declared"), alice)
    for bad in ((head + text).encode("latin-1"), "<?xml version='1.0' encoding='ISO-8859-15'?>".encode() + ascii_.encode(),
                ("<?xml version='1.0' encoding='UTF-8'?>" + text).encode("latin-1"),
                text.encode("utf-16"), b" \n<!DOCTYPE a>" + ascii_.encode()):
        assert bench.reply(alice, "/init", bad, case="declared").error == "upstream.invalid"


SAID = {  # what is wrong: what the log says of it
    "namespace": (response(init()).replace(NS.encode(), b"urn:other"), "in the namespace urn:other, expected"),
    "no namespace": (response(init()).replace(b" xmlns='%s'" % NS.encode(), b""), "in the namespace none, expected"),
    "name": (response(init()).replace(b"UserIdFormat", b"IdFormat"), "found IdFormat, expected no such element; a "
             "dialect's `rename`"),
    "user": (response(init(), user="alice@example.org"), "UserUri: found alice@example.org, expected the requester's"),
    "another message": (response(key_prov(key_set(K, ALICE))), "another message than the resource owes"),
    "a new key": (response(init(certificate(), K.element("NewIntegrityKey"))), "`new_keys: refuse`"),
    "a new key of nobody": (response(init(certificate(), K.element("NewIntegrityKey")), user=None),
                            "does not name the requester"),
    "bare point": (response(init(certificate(PubEncKey="1E" * 256))), "PubEncKey: found 256 octets as hex, expected 257 as "
                   "hex; `point_prefix: add`"),
    "no hex": (response(init(certificate(PubAuthKey="no key at all!"))), "PubAuthKey: found 14 characters that are neither "
               "hex nor base64"),
    "relative": (response(init()).replace(NS.encode(), b"TOBEDEFINED"), "found a relative namespace URI, expected an "
                 "absolute one; a dialect's `namespaces` reads those that it lists"),
    "not UTF-8": (response(init()).replace(b"<KmsUri>", b"<KmsUri>caf\xe9"), "at byte %d: the text is not UTF-8"
                  % (response(init()).index(b"<KmsUri>") + len("<KmsUri>caf"))),
    "empty": (b"", "the upstream's reply is empty"),
    "a DTD": (b"<!DOCTYPE a>" + response(init()), "document type declaration"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_the_log_says(bench, alice, name):
    body, said = SAID[name]
    r, d = bench.ask(alice, "/init", body)
    assert r.status == 502 and logged(bench, r, said)
    assert said not in json.dumps(d) and said.encode() not in r.body


SSK, RSK = (K.octets[n].hex() for n in ("UserSigningKeySSK", "UserDecryptKey"))
SAID_OF_A_KEY = {  # a dialect, a key's text: what the log says
    "odd": ("declared", {"UserSigningKeySSK": "0" + SSK}, "UserSigningKeySSK: found 65 hex digits, an odd number, expected 32 "
            "octets as hex; `key_octets: numeric`"),
    "odd, no number": ("numeric", {"UserSigningKeySSK": "f" + SSK + "01"}, "UserSigningKeySSK: found 67 hex digits, an odd "
                       "number, expected 32 octets as hex"),
    "not base64": ("base64", {}, "UserDecryptKey: found 257 octets as hex, expected 257 as base64; `key_text: hex`"),
    "not base64, bare": ("base64", {"UserDecryptKey": RSK[2:]}, "UserDecryptKey: found 256 octets as hex, expected 257 as "
                         "base64; `key_text: hex` and `point_prefix: add`"),
    "not hex": ("hex", {"UserSigningKeySSK": base64.b64encode(bytes.fromhex(SSK)).decode()}, "UserSigningKeySSK: found 32 "
                "octets as base64, expected 32 as hex; `key_text: base64`"),
    "too long": ("hex", {"UserSigningKeySSK": "ff" + SSK}, "UserSigningKeySSK: found 33 octets as hex, expected 32 as hex"),
    "blank": ("default", {"UserSigningKeySSK": SSK[:10] + " " + SSK[10:]}, "UserSigningKeySSK: found 32 octets as hex with "
              "white space in it, expected 32 as hex; `key_text: hex`"),
}


@pytest.mark.parametrize("name", SAID_OF_A_KEY)
def test_what_the_log_says_of_a_key(bench, alice, name):
    """What was found, what was due under that dialect, and no key of a dialect that would not help."""
    case, keys, said = SAID_OF_A_KEY[name]
    body = response(key_prov(key_set(K, ALICE)))
    for element, text in keys.items():
        body = body.replace(K.octets[element].hex().encode(), text.encode())
    r = bench.reply(alice, "/keyprov", body, case=case)
    said += " in a dialect reads it" if "`" in said else ""
    assert r.status == 502 and logged(bench, r, said)
    line = next(x for x in bench.gate.running.err.split("\n") if r.headers["X-Request-Id"] in x)
    assert line.rstrip().endswith(said)


def test_what_an_upstream_says_with_an_error(bench, alice):
    """Its status and two hundred characters, on one line; nobody but the log gets them."""
    text = "no such user: \u00e4\n\x1b[31m" + "x" * 250
    for status in (400, 404, 500, 503):
        r, d = bench.ask(alice, "/init", text.encode(), status=status)
        assert r.status == status and d["reason"] == "upstream.error"
        assert logged(bench, r, "answered with status %d: no such user: \u00e4" % status)
        assert b"no such user" not in r.body and "no such user" not in json.dumps(d)
    line = next(x for x in bench.gate.running.err.split("\n") if r.headers["X-Request-Id"] in x)
    assert "\x1b" not in line and line.count("x" * (200 - len("no such user: \u00e4\n\x1b[31m"))) == 1
    assert "x" * 190 not in line
    r, _ = bench.ask(alice, "/init", b"key " + K.octets["UserSigningKeySSK"].hex().encode(), status=500)
    assert logged(bench, r, "answered with status 500: key ****")
    r, _ = bench.ask(alice, "/init", b"", status=404)
    assert logged(bench, r, "answered with status 404, and nothing else")


def test_named_wrap(bench, alice):
    """The octets of auto, one name; the program's own client opens them."""
    r = good(bench.reply(alice, "/keyprov", response(key_prov(key_set(K, ALICE))), case="named"), alice)
    methods = {e.get("Algorithm") for e in r.response.iter(q("EncryptionMethod", kms.XENC))}
    assert methods == {kms.XENC + "kw-aes256"}
    folder = bench.gate.folder
    (folder / "named.xml").write_bytes(r.body)
    (folder / "alice.jsonl").write_text("\n".join(alice.lines()) + "\n")
    run = subprocess.run([BUILD / "kmsgate", "open", "--user", ALICE, "--keys", folder / "alice.jsonl", "--with-secrets",
                          folder / "named.xml"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for name in ("UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT"):
        assert K.octets[name].hex() in run.stdout.lower()


def spoken(text):
    return text.replace("KmsKeySet", "KmsKeyset").replace("KmsResponse", "Answer")


@pytest.mark.parametrize("ns", [VENDOR, "", NS])
def test_speaking_a_dialect(bench, alice, ns):
    """A plain reply: the vendor's names, its namespace and order; a signed one is the standard's."""
    body = response(key_prov(key_set(K, ALICE, order=["UserUri", "UserID", "KmsUri", "KeyPeriodNo", "UserSigningKeySSK",
                                                      "UserDecryptKey", "UserPubTokenPVT"])),
                    order=["KmsUri", "KmsMessage", "UserUri", "Time", "ClientReqUrl"],
                    root=" xmlns='%s'" % ns if ns else "").decode()
    r, d = bench.ask_bare(alice, "/keyprov", spoken(body).encode(), case="strict")
    assert (r.status, d["reason"], d["proven"]) == (200, "ok", False), r.body
    root = etree.fromstring(r.body)
    assert root.tag == (("{%s}" % ns if ns else "") + "Answer")
    assert [etree.QName(e).localname for e in root] == ["KmsUri", "KmsMessage", "UserUri", "Time", "ClientReqUrl"]
    key_sets = [e for e in root.iter() if etree.QName(e).localname == "KmsKeyset"]
    assert [etree.QName(e).localname for e in key_sets[0]][:3] == ["UserUri", "UserID", "KmsUri"]
    assert {etree.QName(e).namespace or "" for e in root.iter()} == {ns}
    assert K.octets["UserSigningKeySSK"].hex().encode() in r.body.lower()
    assert root.findtext("{*}KmsUri") == "kms.example.org"  # the envelope is the gateway's own
    r, d = bench.ask(alice, "/keyprov", spoken(body).encode(), case="strict")
    assert r.signed and good(r, alice).response.find(".//" + q("KmsKeySet")) is not None


def test_refusals_in_a_dialect(bench, alice):
    """By the first response rule that the request can meet; the dialect's first namespace."""
    for case, body, status in (("quiet", b"nonsense", 502), ("strict", response(init()), 502), ("quiet", b"no", 404)):
        r, d = bench.ask_bare(alice, "/keyprov", body, case=case, status=status if status == 404 else 200)
        root = etree.fromstring(r.body)
        assert r.status == status and root.tag == "{%s}Answer" % VENDOR, r.body
        assert root.findtext("{%s}KmsError/{%s}ErrorCode" % (VENDOR, VENDOR)) == str(status)
    r, d = bench.ask_bare(alice, "/keyprov", b"", case="strict", KmsUri="another.example")
    assert d["reason"] == "kms_uri.mismatch" and etree.fromstring(r.body).tag == "{%s}Answer" % VENDOR
    r, d = bench.ask_bare(alice, "/keyprov", b"", case="standard", KmsUri="another.example")
    assert d["reason"] == "kms_uri.mismatch" and etree.fromstring(r.body).tag == "{%s}KmsResponse" % NS
    r, d = bench.ask(alice, "/keyprov", b"", case="strict", KmsUri="another.example")
    assert r.signed and r.response.tag == q("KmsResponse")
    r = bench.gate.post("/keyprov", b"<nonsense/>")  # no rule has been asked
    assert r.status == 400 and etree.fromstring(r.body).tag == "{%s}KmsResponse" % NS


def test_a_stored_reply_as_a_case(tmp_path):
    """kmsgate test puts it through the rules' dialect, and says what the log would."""
    rules = tmp_path / "rules.yaml"
    cases = tmp_path / "cases" / "c.yaml"
    cases.parent.mkdir()
    for name, (path, _, _) in FIELD_CASES.items():
        (cases.parent / (name + ".xml")).write_bytes((FIELD / (name + ".xml")).read_bytes())

    def run(names, dialect):
        rules.write_text("version: 1\nkms: { uris: [kms.example.org] }\nrequests: [{ id: everyone }]\n"
                         "responses: [{ id: default%s }]\n%s" % (
                             ", dialect: d" if dialect else "",
                             "dialects: { d: %s }\n" % json.dumps(dialect) if dialect else ""))
        cases.write_text("version: 1\ncases:\n" + "".join(
            "  - { name: %s, reply: %s.xml, request: { path: /keymanagement/identity/v1%s },\n"
            "      expect: { verdict: accept, response: { rule: default, reason: ok } } }\n"
            % (n, n, FIELD_CASES[n][0]) for n in names))
        return subprocess.run([BUILD / "kmsgate", "test", rules, cases], capture_output=True, text=True)
    merged = dict(DIALECTS["types"], **DIALECTS["numeric"], **DIALECTS["declared"])
    ok = run(FIELD_CASES, merged)
    assert ok.returncode == 0, ok.stdout + ok.stderr
    bad = run(FIELD_CASES, None)
    assert bad.returncode == 1 and "3 failed" in bad.stdout
    for name, (_, _, said) in FIELD_CASES.items():
        assert (said is None) or re.search(r"c\.yaml:\d+:\d+: case `%s`: the upstream's reply: .*%s" % (
            name, re.escape(said)), bad.stderr), bad.stderr
    cases.write_text("version: 1\ncases: [{ name: a, reply: nowhere.xml, expect: accept }]\n")
    gone = subprocess.run([BUILD / "kmsgate", "test", rules, cases], capture_output=True, text=True)
    assert gone.returncode == 1 and "nowhere.xml` cannot be read as a stored reply" in gone.stderr
