"""Response rules: fields, signing, encrypting, extensions, match; which keys. The ClientId chooses the case."""
import base64
import copy
import re
import subprocess
import threading
import time

import pytest
import xmlsec
from lxml import etree

import kms
import scripted
from kms import NS, XENC, XENC11, q
from scripted import ERROR, Ring, certificate, cert_cache, init, key_prov, key_set, lookup, response

ALICE, NOBODY = "sip:alice@example.org", "sip:nobody@example.org"
P = "/keyprov"
K = scripted.Keys()
# case: (what its request rule adds, its response rules)
CASES = {
    "default": ("", [""]),
    "keep": ("", ["set: { UserUri: keep, KmsUri: keep, KmsId: keep, Time: keep, ClientReqUrl: keep }"]),
    "remove": ("", ["set: { KmsId: remove }"]),
    "bare": ("", ["sign: none"]),
    "always": ("", ["sign: always"]),
    "kw": ("", ["encrypt: { key_wrap: kw-aes256 }"]),
    "kwp": ("", ["encrypt: { key_wrap: kw-aes256-pad }"]),
    "gcm": ("", ["encrypt: { key_wrap: aes256-gcm }"]),
    "message": ("", ["encrypt: { content: message }"]),
    "none": ("", ["encrypt: { content: none }"]),
    "never": ("", ["encrypt: { when: never }"]),
    "requested": ("", ["encrypt: { when: requested }"]),
    "message-requested": ("", ["encrypt: { content: message, when: requested }"]),
    "message-never": ("", ["encrypt: { content: message, when: never }"]),
    "extensions": ("", ["extensions: keep"]),
    "message-extensions": ("", ["extensions: keep, encrypt: { content: message }"]),
    "by-form": ("", ["match: { form: unsigned }, sign: none", "match: { form: signed }, set: { KmsId: remove }"]),
    "by-message": ("", ["match: { message: [KmsInit, error] }",
                        "match: { message: KmsKeyProv }, set: { KmsId: remove }"]),
    "by-status": ("", ["match: { status: [200, 404, 204] }", "match: { status: 201 }, set: { KmsId: remove }"]),
    "by-rule": ("", ["match: { rule: [keep, remove] }", "match: { rule: by-rule }, set: { KmsId: remove }"]),
    "shadow": ("checks: { signature: shadow, time: shadow }", [""]),
    "shadow-always": ("checks: { signature: shadow }", ["sign: always"]),
}


def rules(detail="reason"):
    out = ["version: 1", "kms: { uris: [kms.example.org], id: kms-01 }", "errors: { detail: %s }" % detail, "requests:"]
    for name, (more, _) in CASES.items():
        out.append("  - { id: %s, why: a test, match: { client_id: %s }, accept: [signed, unsigned]%s }" % (
            name, name, ", " + more if more else ""))
    out += ["  - { id: other, why: a test, accept: [signed, unsigned, empty] }", "responses:"]
    for name, (_, responses) in CASES.items():
        for i, r in enumerate(responses):
            match = "" if "match" in r else "match: { rule: %s }" % name
            if "match" in r and "rule:" not in r:
                r = r.replace("match: {", "match: { rule: %s," % name)
            out.append("  - { id: %s-%d, %s }" % (name, i, ", ".join(x for x in (match, r) if x)))
    out.append("  - { id: other, match: { rule: other } }")
    return "\n".join(out) + "\n"


USERS = {
    "alice": kms.User(ALICE),
    "carol": kms.User("sip:carol@example.org", ink=False),
    "dora": kms.User("sip:dora@example.org", trk=False),
    "rita": Ring("sip:rita@example.org", {
        "ink.1": ("ink", "retiring", None), "ink.2": ("ink", None, None), "ink.3": ("ink", None,
                                                                                    "2020-01-01T00:00:00Z"),
        "trk.1": ("trk", "retiring", None), "trk.2": ("trk", None, None), "trk.0": ("trk", "revoked", None),
        "trk.3": ("trk", None, "2020-01-01T00:00:00Z")}, ink="ink.2", trk="trk.2"),
    "ivan": Ring("sip:ivan@example.org", {"ink.1": ("ink", "revoked", None), "trk.1": ("trk", None, None)},
                 ink="ink.1", trk="trk.1"),
    "otto": Ring("sip:otto@example.org", {"ink.1": ("ink", None, None), "trk.1": ("trk", "revoked", None)},
                 ink="ink.1", trk="trk.1"),
    "rosa": Ring("sip:rosa@example.org", {"ink.1": ("ink", None, None), "trk.1": ("trk", "retiring", None)},
                 ink="ink.1", trk="trk.1"),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    b = scripted.Bench(tmp_path_factory.mktemp("rules"), list(USERS.values()), rules())
    yield b
    b.stop()


@pytest.fixture
def alice():
    return USERS["alice"]


def prov(user=ALICE, *more, **kw):
    return response(key_prov(key_set(K, user), *more), user=user, **kw)


def good(r, d, user=None):
    assert (r.status, d["reason"]) == (200, "ok"), (r.body, d)
    scripted.check_xsd(r)
    if user:
        assert r.verify(user.octets[d["key_id"]] if isinstance(user, Ring) else user.signer()[1], d["key_id"])
        assert d["response"]["signed_by"] == d["key_id"]
    return r


def refused(r, d, status, reason, user=None):
    assert (r.status, d["reason"], r.error) == (status, reason, reason), (r.body, d)
    assert r.response.findtext("%s/%s" % (q("KmsError"), q("ErrorCode"))) == str(status)
    scripted.check_xsd(r)
    assert r.signed == (user is not None)
    if user:
        assert r.verify(*user.signer()[::-1])
    for o in K.octets.values():
        assert not any(f in r.body for f in scripted.forms_of(o))


def contents(r, trk, trk_id):
    return [(n, o) for n, o in r.keys(trk, trk_id)]


SET = [(n, K.octets[n]) for n in ("UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT")]


# --- fields

def test_fields_of_the_request_and_the_rules(bench, alice):
    r, d = bench.ask(alice, P, prov())
    good(r, d, alice)
    assert (r.text("UserUri"), r.text("KmsUri"), r.text("KmsId"), r.text("ClientReqUrl")) == (
        ALICE, "kms.example.org", "kms-01", bench.gate.url(P))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
                        r.text("Time")) and not r.text("Time").startswith("2026-11-23")
    assert d["response"] == {"rule": "default-0", "message": "KmsKeyProv", "signed_by": alice.ink_id,
                             "encrypted_by": alice.trk_id}
    assert d["upstream"]["status"] == 200 and d["status"] == 200 and d["upstream"]["ms"] > 0
    assert set(d["ms"]) == {"total", "judge", "upstream", "protect"}


def test_fields_kept(bench, alice):
    r, d = bench.ask(alice, P, prov(), case="keep")
    good(r, d, alice)
    assert [r.text(n) for n in ("UserUri", "KmsUri", "Time", "KmsId", "ClientReqUrl")] == [
        ALICE, "old.example.org", "2026-11-23T18:00:00Z", "Old-1", "http://old.example.org/any"]
    r, d = bench.ask(alice, P, prov(KmsId=None), case="keep")
    assert good(r, d, alice).text("KmsId") is None


@pytest.mark.parametrize("field", ["UserUri", "KmsUri", "Time", "ClientReqUrl"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_field_kept_that_is_not_there(bench, alice, field, value):
    if field == "Time" and value == "":
        return  # no dateTime at all
    kw = {"user": ALICE, field: value} if field != "UserUri" else {"user": value}
    body = response(key_prov(key_set(K, ALICE)), **kw)
    refused(*bench.ask(alice, P, body, case="keep"), 502, "upstream.invalid", alice)
    good(*bench.ask(alice, P, body), alice)


def test_the_paths_user_is_kept(bench, alice):
    body = prov("sip:carol@example.org")
    path = "/keyprov/sip%3Acarol%40example.org"
    r, d = bench.ask(alice, path, body, case="keep")
    refused(r, d, 403, "path_user.mismatch", alice)  # the twin in test_reply_read.py has `also`


@pytest.mark.parametrize("kept,due", [
    ("2026-11-23T18:00:00.999999Z", "2026-11-23T18:00:00Z"), ("2026-11-23T18:00:00+01:00", "2026-11-23T17:00:00Z"),
    ("2026-11-23T18:00:00", "2026-11-23T18:00:00Z"), ("2026-11-23T18:00:00.5", "2026-11-23T18:00:00Z"),
    ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59Z"), ("2024-02-29T23:30:00-14:00", "2024-03-01T13:30:00Z"),
    ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"), ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z")])
def test_time_kept_in_whole_seconds(bench, alice, kept, due):
    r, d = bench.ask(alice, P, prov(Time=kept), case="keep")
    assert good(r, d, alice).text("Time") == due


@pytest.mark.parametrize("kept", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_time_kept_that_utc_cannot_say(bench, alice, kept):
    r, d = bench.ask(alice, P, prov(Time=kept), case="keep")
    assert (r.status, d["reason"]) in ((502, "upstream.invalid"), (200, "ok"))
    scripted.check_xsd(r)
    good(*bench.ask(alice, P, prov(Time=kept)), alice)


def test_kms_id_removed(bench, alice):
    r, d = bench.ask(alice, P, prov(), case="remove")
    assert good(r, d, alice).text("KmsId") is None


# --- which key signs

@pytest.mark.parametrize("name,signer", [("alice", None), ("carol", None), ("dora", None), ("rita", "ink.1"),
                                         ("rita", "ink.2")])
def test_the_key_that_signed_the_request_signs_the_reply(bench, name, signer):
    user = USERS[name]
    kid, key = (signer, user.octets[signer]) if signer else user.signer()
    r, d = bench.ask(user, "/init", response(init(), user=user.uri), signer=(kid, key), **{"Signature-ID": kid})
    good(r, d)
    assert r.verify(key, kid) and d["response"]["signed_by"] == kid == d["key_id"]


def test_revoked_between_request_and_reply(bench, tmp_path):
    """An exchange keeps the keys that it began with: what was accepted is answered."""
    user = Ring("sip:late@example.org", {"ink.9": ("ink", None, None), "trk.9": ("trk", None, None)}, "ink.9", "trk.9")
    g = bench.gate
    (tmp_path / "k.jsonl").write_text("\n".join(user.lines()))
    (tmp_path / "k.jsonl").chmod(0o600)
    g.run("keys", "import", "--config", g.config, tmp_path / "k.jsonl")

    def works():
        return bench.ask(user, P, prov(user.uri))[0].status == 200
    kms.wait_for(works)
    n = len(bench.upstream.seen)
    bench.upstream.gate = threading.Event()
    bench.upstream.says(prov(user.uri))
    got = []
    t = threading.Thread(target=lambda: got.append(g.ask(user, P)))
    t.start()
    try:
        kms.wait_for(lambda: len(bench.upstream.seen) > n)
        for kid in ("ink.9", "trk.9"):
            g.run("keys", "revoke", "--config", g.config, "--user", user.uri, "--id", kid)
        time.sleep(1)  # it follows within a second; who asked before that would wait for the upstream, too
        assert g.ask(user, P).status == 403
    finally:
        bench.upstream.gate.set()
        bench.upstream.gate = None
    t.join()
    r = got[0]
    assert r.status == 200 and r.verify(user.ink, "ink.9")
    assert contents(r, user.trk, "trk.9") == SET
    r, d = bench.ask(user, P, prov(user.uri))  # the next one finds no key
    assert r.status == 403 and d["reason"] == "key.revoked" and not r.signed


@pytest.mark.parametrize("name,kid", [("alice", "ink.1.alice"), ("carol", "trk.1.carol"), ("rita", "ink.2"),
                                      ("dora", "ink.1.dora")])
def test_unsigned_and_signed_always(bench, name, kid):
    user = USERS[name]
    body = response(init(), user=user.uri)
    r, d = bench.ask_bare(user, "/init", body, case="always")
    good(r, d)
    key = user.octets[kid] if isinstance(user, Ring) else user.signer()[1]
    assert r.verify(key, kid) and d["proven"] is False and d["response"]["signed_by"] == kid
    r, d = bench.ask_bare(user, "/init", body)
    good(r, d)
    assert not r.signed and r.text("Signature-ID") is None and r.response.get("Id") == "xmldoc"
    assert r.response.get("Version") == "1.0.0" and "signed_by" not in d["response"]


def test_a_user_whose_inks_are_revoked_is_not_signed_for_by_his_trk(bench):
    ivan = USERS["ivan"]
    body = response(init(), user=ivan.uri)
    refused(*bench.ask_bare(ivan, "/init", body, case="always"), 500, "protect.no_key")
    good(*bench.ask_bare(ivan, "/init", body))


def test_nobody_and_signed_always(bench):
    nobody = kms.User(NOBODY)
    r, d = bench.ask_bare(nobody, "/init", response(init(), user=NOBODY), case="always")
    assert not good(r, d).signed and r.text("UserUri") == NOBODY


def test_no_signature_by_rule(bench, alice):
    r, d = bench.ask(alice, P, prov(), case="bare")
    assert not good(r, d).signed and r.text("Signature-ID") is None and contents(r, alice.trk, alice.trk_id) == SET
    r, d = bench.ask(alice, P, b"", case="bare")  # a refusal is no reply by a rule: its requester is proven
    refused(r, d, 502, "upstream.invalid", alice)


def test_signature_in_shadow(bench, alice):
    """Proven only where it held."""
    r, d = bench.ask(alice, P, prov(), case="shadow")
    good(r, d, alice)
    assert d["proven"] is True
    forged = (alice.ink_id, b"x" * 32)
    r, d = bench.ask(alice, P, prov(), case="shadow", signer=forged)
    assert not good(r, d).signed and d["proven"] is False and d["shadow"] == ["signature.invalid"]
    assert contents(r, alice.trk, alice.trk_id) == SET
    r, d = bench.ask(alice, P, prov(), case="shadow-always", signer=forged)
    assert good(r, d).verify(alice.ink, alice.ink_id)
    r, d = bench.ask(alice, P, b"", case="shadow-always", signer=forged)
    refused(r, d, 502, "upstream.invalid")


# --- what is encrypted, how, for whom

@pytest.mark.parametrize("case,uris", [
    ("default", {XENC11 + "kw-aes-256-pad", XENC + "kw-aes256"}), ("kwp", {XENC11 + "kw-aes-256-pad"}),
    ("gcm", {XENC11 + "aes256-gcm"})])
def test_key_wrap(bench, alice, case, uris):
    r, d = bench.ask(alice, P, prov(ALICE), case=case)
    good(r, d, alice)
    by = {etree.QName(e.getparent()).localname: e.find(q("EncryptionMethod", XENC)).get("Algorithm")
          for e in r.response.iter(q("EncryptedKey", XENC))}
    assert set(by.values()) == uris and len(by) == 3
    if case == "default":
        assert {n for n, a in by.items() if a == XENC + "kw-aes256"} == {"UserSigningKeySSK"}
    assert contents(r, alice.trk, alice.trk_id) == SET
    assert r.text("TrK-ID") == alice.trk_id == d["response"]["encrypted_by"]


def test_a_wrap_that_cannot_take_the_length(bench, alice):
    r, d = bench.ask(alice, P, prov(), case="kw")
    refused(r, d, 500, "internal", alice)
    r, d = bench.ask(alice, "/init", response(init(certificate())), case="kw")
    good(r, d, alice)


ENCRYPTED = [  # case, TrK-ID in the request, keys wrapped, message encrypted
    ("default", True, True, False), ("default", False, True, False), ("requested", True, True, False),
    ("requested", False, False, False), ("never", True, False, False), ("none", True, False, False),
    ("message", True, False, True), ("message", False, False, True), ("message-requested", False, False, False),
    ("message-requested", True, False, True), ("message-never", True, False, False)]


@pytest.mark.parametrize("case,named,keys,message", ENCRYPTED)
def test_when(bench, alice, case, named, keys, message):
    over = {} if named else {"TrK-ID": None}
    r, d = bench.ask(alice, P, prov(), case=case, **over)
    good(r, d, alice)
    assert contents(r, alice.trk, alice.trk_id) == SET
    assert len(r.response.findall(".//" + q("EncryptedData", XENC))) == message
    assert len(r.response.findall(".//" + q("EncryptedKey", XENC))) == (3 if keys else 1 if message else 0)
    assert (r.text("TrK-ID") == alice.trk_id) == (keys or message) == ("encrypted_by" in d["response"])
    clear = K.octets["UserSigningKeySSK"].hex().encode() in r.body
    assert clear != (keys or message)
    if not (keys or message):
        assert r.response.find(".//" + q("UserDecryptKey")).get(q("type", kms.XSI)) == "KeyContentType"
    # without a key content nothing is encrypted, unless the whole message is
    r, d = bench.ask(alice, "/init", response(init()), case=case, **over)
    good(r, d, alice)
    assert (r.text("TrK-ID") is not None) == message


@pytest.mark.parametrize("path,body", ids=["init", "certcache", "lookup", "keyprov"], argvalues=[
    ("/init", response(init())), ("/certcache", response(cert_cache(certificate()))), ("/lookup/a", response(lookup())),
    (P, prov())])
def test_whole_message(bench, alice, path, body):
    r, d = bench.ask(alice, path, body, case="message")
    good(r, d, alice)
    data = r.response.find(q("KmsMessage"))[0]
    assert data.tag == q("EncryptedData", XENC) and data.get("Type") == XENC + "Content" and len(data.getparent()) == 1
    assert data.find(q("EncryptionMethod", XENC)).get("Algorithm") == XENC11 + "aes256-gcm"
    key = data.find(q("KeyInfo", kms.DS))[0]
    assert key.find(q("EncryptionMethod", XENC)).get("Algorithm") == XENC + "kw-aes256"
    cek = kms.unwrap(key, alice.trk, alice.trk_id)
    blob = base64.b64decode(data.find(q("CipherData", XENC)).findtext(q("CipherValue", XENC)))
    clear = etree.fromstring(kms.AESGCM(cek).decrypt(blob[:12], blob[12:], None))  # stands by itself
    assert etree.QName(clear).localname == d["response"]["message"] and clear.tag.startswith("{%s}" % NS)
    r2, _ = bench.ask(alice, path, body, case="message")
    assert r2.response.find(".//" + q("CipherValue", XENC)).text != r.response.find(".//" + q("CipherValue", XENC)).text
    # an error is no payload
    r, d = bench.ask(alice, path, response(error=ERROR), case="message")
    assert good(r, d, alice).text("TrK-ID") is None


@pytest.mark.parametrize("name,named,due", [
    ("rita", "trk.1", "trk.1"), ("rita", "trk.2", "trk.2"), ("rita", None, "trk.2"), ("carol", None, "trk.1.carol"),
    ("alice", "trk.1.alice", "trk.1.alice"), ("rosa", "trk.1", "trk.1"), ("rosa", None, "trk.1")])
def test_which_trk(bench, name, named, due):
    user = USERS[name]
    r, d = bench.ask(user, P, prov(user.uri), **{"TrK-ID": named})
    good(r, d)
    assert r.text("TrK-ID") == due == d["response"]["encrypted_by"]
    assert contents(r, user.octets[due] if isinstance(user, Ring) else user.trk, due) == SET


@pytest.mark.parametrize("named", ["trk.0", "trk.3", "trk.77", "ink.2"])
def test_an_unsigned_request_that_names_no_good_trk(bench, named):
    """The newest active one: unsigned, since key_policy holds signed requests to a TrK that is good."""
    rita = USERS["rita"]
    r, d = bench.ask_bare(rita, P, prov(rita.uri), **{"TrK-ID": named})
    assert good(r, d).text("TrK-ID") == "trk.2" and contents(r, rita.trk, "trk.2") == SET


@pytest.mark.parametrize("name", ["dora", "otto"])
def test_without_trk(bench, name):
    """Never had one, or all revoked."""
    user, none = USERS[name], {"TrK-ID": None}
    refused(*bench.ask(user, P, prov(user.uri), **none), 500, "protect.no_key", user)
    refused(*bench.ask(user, "/init", response(init(), user=user.uri), case="message", **none), 500, "protect.no_key",
            user)
    for case in ("never", "none", "requested"):
        r, d = bench.ask(user, P, prov(user.uri), case=case, **none)
        assert good(r, d).text("TrK-ID") is None
        assert [n for n, _ in contents(r, None, None)] == [n for n, _ in SET]
    for body, path in ((response(init(), user=user.uri), "/init"), (response(key_prov(), user=user.uri), P),
                       (response(error=ERROR, user=user.uri), P)):
        good(*bench.ask(user, path, body, **none))


def test_new_keys_of_the_upstream(bench, alice):
    """Refused by default, since nobody here would know them; another's whatever else is set aside."""
    for new in ("NewTransportKey", "NewIntegrityKey"):
        for case in ("default", "never", "none", "requested"):
            r, d = bench.ask(alice, P, prov(ALICE, K.element(new)), case=case)
            refused(r, d, 502, "upstream.invalid", alice)
        r, d = bench.ask(alice, "/init", response(init(certificate(), K.element(new))))
        refused(r, d, 502, "upstream.invalid", alice)
        for user in (None, "sip:bob@example.org"):
            r, d = bench.ask(alice, "/init", response(init(certificate(), K.element(new)), user=user))
            refused(r, d, 502, "upstream.wrong_user", alice)


def test_what_came_encrypted_is_wrapped_anew(bench, alice):
    """From the upstream, under the user's TrK; under another key it opens for nobody."""
    for key, status in ((alice.trk, 200), (b"k" * 32, 502)):
        blob = base64.b64encode(kms.keywrap.aes_key_wrap(key, K.octets["UserSigningKeySSK"])).decode()
        enc = ("<EncryptedKey xmlns='%s'><EncryptionMethod Algorithm='%skw-aes256'/><KeyInfo xmlns='%s'>"
               "<KeyName>%s</KeyName></KeyInfo><CipherData><CipherValue>%s</CipherValue></CipherData></EncryptedKey>" % (
                   XENC, XENC, kms.DS, alice.trk_id, blob))
        body = response(key_prov(key_set(K, ALICE, UserSigningKeySSK=enc)))
        for case in ("default", "never", "none"):
            r, d = bench.ask(alice, P, body, case=case)
            assert r.status == status, d
            if status == 200:
                assert contents(good(r, d, alice), alice.trk, alice.trk_id) == SET and blob.encode() in r.body
            else:
                refused(r, d, 502, "upstream.invalid", alice)


# --- extensions, sealed certificates

EXT = "<x:e xmlns:x='urn:x' b='1' a='2'>t &amp; u<y xmlns='urn:y'/></x:e>"


def test_extensions(bench, alice):
    body = response(key_prov(key_set(K, ALICE), EXT), tail=EXT)
    r, d = bench.ask(alice, P, body)
    assert b"urn:x" not in good(r, d, alice).body
    r, d = bench.ask(alice, P, body, case="extensions")
    good(r, d, alice)
    assert r.body.count(b'<x:e xmlns:x="urn:x" a="2" b="1">t &amp; u<y xmlns="urn:y"></y></x:e>') == 2
    assert [etree.QName(e).localname for e in r.response.find(".//" + q("KmsKeyProv"))] == ["KmsKeySet", "e"]
    assert etree.QName(r.response[-1]).localname == "e"
    # what says that it is a key is one, whatever its name; whether it would be dropped or kept
    xsi = scripted.XSI_DECLARED
    for kind in ("KeyContentType", " k:KeyContentType "):
        e = "<x:secret xmlns:x='urn:x' xmlns:k='%s'%s xsi:type='%s'>%s</x:secret>" % (NS, xsi, kind, "5a17" * 16)
        deep = "<x:e xmlns:x='urn:x'>%s</x:e>" % e
        for body in (response(key_prov(), tail=e), response(key_prov(key_set(K, ALICE), deep))):
            for case in ("default", "extensions"):
                r, d = bench.ask(alice, P, body, case=case)
                refused(r, d, 502, "upstream.invalid", alice)
                assert b"5a17" not in r.body
    e = "<x:secret xmlns:x='urn:x' xmlns:k='%s'%s xsi:type='k:Other'>%s</x:secret>" % (NS, xsi, "5a17" * 16)
    r, d = bench.ask(alice, P, response(key_prov(), tail=e), case="extensions")
    assert (r.status, d["reason"]) == (200, "ok") and b"k:Other" in r.body
    # no namespace but ours is ours: an extension of none is refused
    r, d = bench.ask(alice, P, response(key_prov(), tail="<e xmlns=''/>"), case="extensions")
    refused(r, d, 502, "upstream.invalid", alice)


def test_a_prefixed_reply_keeps_its_extensions(bench, alice):
    body = response(key_prov(key_set(K, ALICE))).decode().replace("<", "<k:").replace("<k:/", "</k:")
    body = body.replace("xmlns=", "xmlns:k=").replace("</k:KmsKeyProv>", "<e xmlns='urn:e'><f/></e></k:KmsKeyProv>")
    r, d = bench.ask(alice, P, body.encode(), case="extensions")
    e = good(r, d, alice).response.find(".//{urn:e}e")
    assert e is not None and e[0].tag == "{urn:e}f"


def sealed(ident="cert-1", prefix="", xsi=False, key=b"c" * 32):
    """A SignedKmsCertificate, signed by xmlsec as a document of its own: (text, key)."""
    text = certificate(attributes=" Id='%s' Role='Root' Version='1.1.0'" % ident)
    if prefix:
        text = text.replace("<", "<%s:" % prefix).replace("<%s:/" % prefix, "</%s:" % prefix)
    declare = " xmlns%s='%s'" % (":" + prefix if prefix else "", NS) + (scripted.XSI_DECLARED if xsi else "")
    name = (prefix + ":" if prefix else "") + "SignedKmsCertificate"
    root = etree.fromstring("<%s%s>%s</%s>" % (name, declare, text, name))
    sig = kms.template(uri="#" + ident, key_name="ca")
    root.append(sig)
    ctx = xmlsec.SignatureContext()
    ctx.key = xmlsec.Key.from_binary_data(xmlsec.KeyData.HMAC, key)
    ctx.register_id(root[0], "Id")
    ctx.sign(sig)
    return etree.tostring(root).decode(), key


def seal_holds(reply, key):
    """Its signature, verified where it stands now."""
    root = etree.fromstring(reply.body)
    cert = root.find(".//" + q("SignedKmsCertificate"))
    ctx = xmlsec.SignatureContext()
    ctx.key = xmlsec.Key.from_binary_data(xmlsec.KeyData.HMAC, key)
    ctx.register_id(cert[0], "Id")
    ctx.verify(cert[1])
    return True


@pytest.mark.parametrize("form", [{}, {"prefix": "k"}, {"xsi": True}])
@pytest.mark.parametrize("path", ["/init", "/certcache", "/cert/kms.other.example"])
def test_a_sealed_certificate_keeps_its_form(bench, alice, form, path):
    text, key = sealed(**form)
    for case in ("default", "extensions", "bare"):
        for declare in ("", scripted.XSI_DECLARED if form.get("xsi") else ""):
            body = response(init(text) if path == "/init" else cert_cache(text),
                            root=" xmlns='%s'%s" % (NS, declare))
            if form.get("prefix"):  # signed where no default namespace was in scope
                body = body.decode().replace(text, "@@").replace("<", "<k:").replace("<k:/", "</k:")
                body = body.replace("xmlns=", "xmlns:k=").replace("@@", text).encode()
            r, d = bench.ask(alice, path, body, case=case)
            good(r, d)
            assert seal_holds(r, key)


def test_a_sealed_certificate_with_the_replys_id(bench, alice):
    text, key = sealed(ident="xmldoc")
    r, d = bench.ask(alice, "/init", response(init(text)))
    refused(r, d, 502, "upstream.invalid", alice)
    text, key = sealed(ident="xmldoc1")
    assert seal_holds(good(*bench.ask(alice, "/init", response(init(text))), alice), key)


def test_a_sealed_certificate_out_of_order(bench, alice):
    text, _ = sealed()
    e = etree.fromstring(text)
    e[0].append(copy.deepcopy(e[0][0]))
    e[0].remove(e[0][0])
    r, d = bench.ask(alice, "/init", response(init(etree.tostring(e).decode())))
    refused(r, d, 502, "upstream.invalid", alice)


def test_the_ids_of_others(bench, alice):
    """Ids that an upstream chose: xmldoc stays the response's alone."""
    r, d = bench.ask(alice, P, response(key_prov(key_set(K, ALICE, attributes=" Id='xmldoc'"),
                                                 attributes=" Id='xmldoc'")))
    good(r, d, alice)
    assert [e.get("Id") for e in r.root.iter() if e.get("Id")] == ["xmldoc"]
    for name in ("Id", "ID", "id"):
        body = response(key_prov(key_set(K, ALICE)), tail="<x:e xmlns:x='urn:x' %s='xmldoc'/>" % name)
        r, d = bench.ask(alice, P, body, case="extensions")
        refused(r, d, 502, "upstream.invalid", alice)
        good(*bench.ask(alice, P, body), alice)


# --- match

MATCH = [  # case, signed, path, body, status, rule that answers or None
    ("by-form", True, P, prov(), 200, "by-form-1"), ("by-form", False, P, prov(), 200, "by-form-0"),
    ("by-message", True, P, prov(), 200, "by-message-1"), ("by-message", True, "/init", response(init()), 200,
                                                           "by-message-0"),
    ("by-message", True, P, response(error=ERROR), 200, "by-message-0"),
    ("by-message", True, "/lookup/a", response(lookup()), 200, None), ("by-message", True, "/redirect", b"", 204, None),
    ("by-message", True, P, b"x", 500, "by-message-0"),
    ("by-status", True, P, prov(), 200, "by-status-0"), ("by-status", True, P, prov(), 201, "by-status-1"),
    ("by-status", True, P, prov(), 202, None), ("by-status", True, P, b"", 404, "by-status-0"),
    ("by-status", True, P, b"", 403, None), ("by-status", True, "/redirect", b"", 204, "by-status-0"),
    ("by-rule", True, P, prov(), 200, "by-rule-1"), ("default", True, P, prov(), 299, "default-0")]


@pytest.mark.parametrize("case,is_signed,path,body,status,rule", MATCH, ids=[str(i) for i in range(len(MATCH))])
def test_match(bench, alice, case, is_signed, path, body, status, rule):
    r, d = (bench.ask if is_signed else bench.ask_bare)(alice, path, body, case=case, status=status)
    if rule:
        assert d["response"]["rule"] == rule and r.status == (200 if status < 300 else status)
        assert d["reason"] == ("ok" if status < 300 else "upstream.error")
        if rule.endswith("-1") or not is_signed:
            assert r.text("KmsId") == (None if rule.endswith("-1") else "kms-01")
    else:
        refused(r, d, 502, "upstream.invalid", alice)
        assert "rule" not in d["response"]


# --- unproven requesters

def test_empty_requests(bench):
    r, d = bench.ask_empty(P, response(key_prov(), user="sip:whoever@example.org"))
    good(r, d)
    assert not r.signed and r.text("UserUri") == "sip:whoever@example.org" and d["proven"] is False and "user" not in d
    assert r.text("ClientReqUrl") == bench.gate.url(P) and r.text("KmsId") == "kms-01"
    refused(*bench.ask_empty(P, response(key_prov(), user=None)), 502, "upstream.invalid")
    refused(*bench.ask_empty(P, prov("sip:whoever@example.org")), 500, "protect.no_key")  # nothing can be encrypted
    path = "/keyprov/sip%3Aalice%40example.org"
    r, d = bench.ask_empty(path, prov())
    good(r, d)
    assert contents(r, USERS["alice"].trk, USERS["alice"].trk_id) == SET and not r.signed and d["user"] == ALICE
    refused(*bench.ask_empty(path, prov("sip:whoever@example.org")), 502, "upstream.wrong_user")


def test_verified_by_the_xmlsec1_program(bench, alice, tmp_path):
    """The whole once more by the program that people have at hand."""
    for case in ("default", "message", "none"):
        r, d = bench.ask(alice, P, prov(), case=case)
        (tmp_path / "reply.xml").write_bytes(r.body)
        (tmp_path / "key.bin").write_bytes(alice.ink)
        out = subprocess.run(["xmlsec1", "--verify", "--hmackey:" + alice.ink_id, tmp_path / "key.bin", "--id-attr:Id",
                              NS + ":KmsResponse", tmp_path / "reply.xml"], capture_output=True, text=True)
        assert out.returncode == 0 and "OK" in out.stderr + out.stdout, out.stderr
        (tmp_path / "reply.xml").write_bytes(r.body.replace(b"kms-01", b"kms-02"))
        out = subprocess.run(["xmlsec1", "--verify", "--hmackey:" + alice.ink_id, tmp_path / "key.bin", "--id-attr:Id",
                              NS + ":KmsResponse", tmp_path / "reply.xml"], capture_output=True, text=True)
        assert out.returncode != 0
