"""What an upstream may say: the form without dialect, what is owed, whose it is. Each fault has a twin that passes."""
import re

import pytest
from lxml import etree

import kms
import scripted
from kms import NS, q
from scripted import (CERT_ORDER, ENVELOPE, ERROR, SET_ORDER, XSI_DECLARED, cert_cache, certificate, init, key_prov,
                      key_set,
                      lookup, response)

RULES = """\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
errors: { detail: reason }
requests: [{ id: everyone, checks: { path_user: { also: ["*"] } }, why: groups }]
responses: [{ id: default }]
"""
ALICE, BOB = "sip:alice@example.org", "sip:bob@example.org"
K = scripted.Keys()
SET = key_set(K, ALICE)
X = " xmlns:x='urn:x'"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    alice, bob = kms.User(ALICE), kms.User(BOB)
    b = scripted.Bench(tmp_path_factory.mktemp("read"), [alice, bob], RULES)
    b.alice, b.bob = alice, bob
    yield b
    b.stop()


def prov(**kw):
    return response(key_prov(key_set(K, ALICE, **kw)))


def cert(**kw):
    return response(init(certificate(**kw)))


def enveloped(inner, tail="<Signature xmlns='%s'/>" % kms.DS, head="", attributes=""):
    return ("<SignedKmsResponse xmlns='%s'%s>%s" % (NS, attributes, head)).encode() + inner + tail.encode() + \
        b"</SignedKmsResponse>"


def many(n):
    """A reply of exactly n elements: KmsResponse, five fields, KmsMessage, KmsKeyProv, extensions."""
    return response(key_prov("<x:e%s>%s</x:e>" % (X, "<x:f/>" * (n - 9))))


def deep(n):
    """The innermost element stands n deep."""
    inner = "<x:d/>"
    for _ in range(n - 5):
        inner = "<x:d>%s</x:d>" % inner
    return response(key_prov("<x:e%s>%s</x:e>" % (X, inner)))


def spread(n):
    """n namespace declarations in scope of an element, and many more beside it."""
    around = " ".join("xmlns:p%d='urn:p%d'" % (i, i) for i in range(n - 2))
    return response(key_prov("<p:e xmlns:p='urn:p' %s/>" % around, *["<p:e xmlns:p='urn:p%d'/>" % i for i in range(40)]))


def attributes(n):
    return response(key_prov("<x:e%s %s/>" % (X, " ".join("a%d='1'" % i for i in range(n)))))


def attributes_in_all(n):
    """A reply of exactly n attributes; declarations of namespaces are none."""
    def reply(counts):
        return response(key_prov("<x:e%s>%s</x:e>" % (X, "".join(
            "<x:f %s/>" % " ".join("a%d='1'" % i for i in range(count)) for count in counts))))
    n -= len(re.findall(r"\s(?!xmlns[:=])[\w:]+=['\"]", reply([]).decode()))
    return reply([16] * (n // 16) + [n % 16])


PREFIXED = response(key_prov(SET)).decode().replace("<", "<k:").replace("<k:/", "</k:").replace("xmlns=", "xmlns:k=")
P = "/keyprov"
# name: (path, good, bad); the same but for one thing. A list of goods stands for forms that must all pass.
TWINS = {
    "order of the envelope": (P, [response(key_prov(SET), order=["KmsMessage"] + ENVELOPE[::-1]),
                                  response(key_prov(SET))],
                              response(key_prov(SET), tail="<Other/>")),
    "order of a key set": (P, prov(order=SET_ORDER[::-1]), prov(Other="x", order=SET_ORDER + ["Other"])),
    "order of a certificate": ("/init", cert(order=CERT_ORDER[::-1]), cert(Other="x", order=CERT_ORDER + ["Other"])),
    "Version and Id of the response": (P, [response(key_prov(SET), root=" xmlns='%s'%s" % (NS, a)) for a in (
        "", " Version='9'", " Id='xmldoc'", " Id=''", " Version=''")],
        response(key_prov(SET), root=" xmlns='%s' Other='1'" % NS)),
    "Version of the payload": (P, [response(key_prov(SET, attributes=a)) for a in ("", " Version='7'", " Id='a'")],
                               response(key_prov(SET, attributes=" Versions='7'"))),
    "Version of a key set": (P, [prov(attributes=a) for a in ("", " Version='1.0.0'", " Id='xmldoc'")],
                             prov(attributes=" version='1.1.0'")),
    "namespace": (P, PREFIXED.encode(), response(key_prov(SET), root=" xmlns='urn:3gpp:ns:mcsecKMSInterface:1.1'")),
    "no namespace": (P, response(key_prov(SET)), response(key_prov(SET), root="")),
    "a key set of none": (P, prov(), response(key_prov(SET.replace("<KmsKeySet", "<KmsKeySet xmlns=''")))),
    "root": (P, enveloped(response(key_prov(SET))), response(key_prov(SET), name="KmsReply")),
    "envelope": (P, enveloped(response(key_prov(SET))), enveloped(response(key_prov(SET)), tail="")),
    "envelope, two responses": (P, enveloped(response(key_prov(SET))),
                                enveloped(response(key_prov(SET)) + response(key_prov(SET)))),
    "envelope, text": (P, enveloped(response(key_prov(SET)), head=" \n"), enveloped(response(key_prov(SET)), head="x")),
    "xsi:type of a key": (P, [response(key_prov(SET.replace("<UserDecryptKey", "<UserDecryptKey%s xsi:type='%s'" % (
        XSI_DECLARED, t)))) for t in ("KeyContentType", " KeyContentType ")],
        response(key_prov(SET.replace("<UserDecryptKey",
                                      "<UserDecryptKey%s xsi:type='EncKeyContentType'" % XSI_DECLARED)))),
    "xsi:type of KmsKeyProv": (P, [response(key_prov(SET, attributes=XSI_DECLARED + " xsi:type='%s'" % t)) for t in (
        "KmsKeyProvType", "KmsKeyProvTkIkType")],
        response(key_prov(SET, attributes=XSI_DECLARED + " xsi:type='KmsInitType'"))),
    "xsi:nil": (P, response(key_prov(SET, attributes=XSI_DECLARED + " xsi:schemaLocation='a b'")),
                response(key_prov(SET, attributes=XSI_DECLARED + " xsi:nil='false'"))),
    "payload owed, init": ("/init", response(init()), response(cert_cache(certificate()))),
    "payload owed, keyprov": (P, response(key_prov()), response(init())),
    "payload owed, certcache": ("/certcache", [response(cert_cache()), response(cert_cache(certificate(),
                                                                                           certificate()))],
                                response(init())),
    "payload owed, cert": ("/cert/kms.other.example", response(cert_cache(certificate())),
                           response(cert_cache(certificate(), certificate()))),
    "payload owed, cert, none": ("/cert/kms.other.example", response(error=ERROR), response(cert_cache())),
    "payload owed, lookup": ("/lookup/sip%3Abob%40example.org", response(lookup()), response(cert_cache())),
    "payload owed, redirect": ("/redirect", response(), response(lookup())),
    "payload owed, none": (P, response(error=ERROR), response()),
    "two payloads": (P, response(key_prov()), response(key_prov() + key_prov())),
    "an empty KmsMessage": ("/redirect", response(), response(tail="<KmsMessage/>")),
    "two KmsMessages": (P, response(key_prov()), response(key_prov(), tail="<KmsMessage>%s</KmsMessage>" % key_prov())),
    "a foreign payload": (P, response(key_prov("<x:e%s/>" % X)), response("<x:e%s/>" % X)),
    "an error and a payload": (P, response(error=ERROR), response(key_prov(), error=ERROR)),
    "ErrorCode": (P, [response(error=ERROR.replace("17", c)) for c in ("0", "-5", "+5", " 5 ", "9223372036854775807")],
                  response(error=ERROR.replace("17", "9223372036854775808"))),
    "ErrorCode, text": (P, response(error=ERROR), response(error=ERROR.replace("17", "0x11"))),
    "ErrorMsg": (P, response(error="<KmsError><ErrorCode>1</ErrorCode><ErrorMsg/></KmsError>"),
                 response(error="<KmsError><ErrorCode>1</ErrorCode></KmsError>")),
    "a user's URI twice": (P, response(key_prov(SET)), response(key_prov(SET), tail="<UserUri>%s</UserUri>" % ALICE)),
    "length of UserDecryptKey": (P, prov(UserDecryptKey="04" + "1e" * 256), prov(UserDecryptKey="04" + "1e" * 255)),
    "length of UserSigningKeySSK": (P, prov(UserSigningKeySSK=" %s\n" % ("Aa" * 32)),
                                    prov(UserSigningKeySSK="Aa" * 33)),
    "length of UserPubTokenPVT": (P, prov(UserPubTokenPVT="04" + "Aa" * 64), prov(UserPubTokenPVT="Aa" * 64)),
    "hex": (P, prov(UserSigningKeySSK="0f" * 32), prov(UserSigningKeySSK="0g" * 32)),
    "hex, a blank in it": (P, prov(UserSigningKeySSK="0f" * 32), prov(UserSigningKeySSK="0f" * 16 + " " + "0f" * 16)),
    "hex, a comment in it": (P, prov(UserSigningKeySSK="0f" * 16 + "<!-- a -->" + "0f" * 16),
                             prov(UserSigningKeySSK="0f" * 16 + "<a/>" + "0f" * 16)),
    "a key gone": (P, prov(), prov(UserPubTokenPVT=None)),
    "a key twice": (P, prov(), response(key_prov(SET.replace("</KmsKeySet>", K.element("UserSigningKeySSK") +
                                                               "</KmsKeySet>")))),
    "a key's case": (P, prov(), response(key_prov(SET.replace("UserPubTokenPVT", "UserPubTokenPvt")))),
    "KeyPeriodNo": (P, [prov(KeyPeriodNo=n) for n in ("0", "-1", " 7 ")], prov(KeyPeriodNo="1.5")),
    "KeyPeriodNo gone": (P, prov(), prov(KeyPeriodNo=None)),
    "UserID gone": (P, prov(UserID=""), prov(UserID=None)),
    "Revoked": (P, [prov(Revoked=v) for v in ("true", "false", "1", "0")], prov(Revoked="True")),
    "ValidFrom": (P, [prov(ValidFrom=v) for v in ("2026-11-23T18:00:00", "2026-11-23T18:00:00.5+01:00")],
                  prov(ValidFrom="2026-11-23")),
    "CertUri": (P, prov(CertUri="cert.example.org"), prov(CertUri="cert example")),
    "Issuer": (P, prov(Issuer="any <![CDATA[<text>]]> &amp; more"), prov(Issuer="<b/>")),
    "text in a key set": (P, response(key_prov(SET.replace("<UserID>", "\n <UserID>"))),
                          response(key_prov(SET.replace("<UserID>", "x<UserID>")))),
    "Role": ("/init", [cert(attributes=" Version='1' Role='%s'" % r) for r in ("Root", "External")],
             cert(attributes=" Version='1.1.0' Role='root'")),
    "Role gone": ("/init", cert(), cert(attributes=" Version='1.1.0'")),
    "IsSecurityGateway": ("/init", cert(attributes=" Role='Root' IsSecurityGateway='true'"),
                          cert(attributes=" Role='Root' IsSecurityGateway='yes'")),
    "UserIdFormat gone": ("/init", cert(UserIdFormat=""), cert(UserIdFormat=None)),
    "UserKeyPeriod": ("/init", cert(UserKeyPeriod="0"), cert(UserKeyPeriod="month")),
    "PubEncKey": ("/init", cert(), cert(PubEncKey="04" + "1E" * 255)),
    "PubAuthKey": ("/init", cert(), cert(PubAuthKey="04" + "1E" * 65)),
    "ParameterSet": ("/init", cert(ParameterSet=None), cert(ParameterSet="one")),
    "KmsDomainList": ("/init", cert(KmsDomainList="<KmsDomain>a</KmsDomain><KmsDomain>b</KmsDomain>"),
                      cert(KmsDomainList="")),
    "CacheNum": ("/certcache", [response(cert_cache(attributes=a)) for a in ("", " CacheNum='-1'", " CacheNum=' 2 '")],
                 response(cert_cache(attributes=" CacheNum='x'"))),
    "no certificate in init": ("/init", response(init()), response("<KmsInit></KmsInit>")),
    "two certificates in init": ("/init", response(init()), response(init(certificate(), certificate()))),
    "KmsInit xsi:type": ("/init", [response(init(attributes=XSI_DECLARED + " xsi:type='%s'" % t)) for t in (
        "KmsInitType", "KmsInitTkIkType")], response(init(attributes=XSI_DECLARED + " xsi:type='KmsCertCacheType'"))),
    "a new key": (P, response(key_prov(SET)), response(key_prov(SET, K.element("NewTransportKey")))),
    "a new key in a certificate cache": ("/certcache", response(cert_cache(certificate())),
                                         response(cert_cache(certificate(), K.element("NewTransportKey")))),
    "a key content beside its set": (P, response(key_prov(SET)), response(key_prov(SET,
                                                                                   K.element("UserSigningKeySSK")))),
    "a key content in the envelope": (P, response(key_prov(SET)),
                                      response(key_prov(SET), tail=K.element("UserSigningKeySSK"))),
    "an extension": (P, response(key_prov(SET), tail="<x:e%s>t</x:e>" % X),
                     response(key_prov(SET), tail="<x:e%s><UserUri>a</UserUri></x:e>" % X)),
    "an extension in a key set": (P, [response(key_prov(SET, "<x:e%s/>" % X)),
                                      response(key_prov(SET.replace("</KmsKeySet>", "<x:e%s/></KmsKeySet>" % X)))],
                                  response(key_prov(SET.replace("</UserID>", "<x:e%s/></UserID>" % X)))),
    "a key's name in an extension": (P, response(key_prov(SET), tail="<x:UserKey%s>t</x:UserKey>" % X),
                                     response(key_prov(SET), tail="<x:USERDECRYPTKEY%s>t</x:USERDECRYPTKEY>" % X)),
    "a key's name as an attribute": (P, response(key_prov(SET), tail="<x:e%s a='1'/>" % X),
                                     response(key_prov(SET), tail="<x:e%s NewIntegrityKey='1'/>" % X)),
    "an attribute of another namespace": (P, [response(key_prov(SET), tail="<x:e%s x:a='1'/>" % X),
                                              response(key_prov(SET, attributes=X + " x:a='1'"))],
                                          response(key_prov(SET.replace("<UserID>", "<UserID%s x:a='1'>" % X)))),
    "depth": (P, deep(32), deep(33)),
    "elements": (P, many(20000), many(20001)),
    "attributes": (P, attributes(16), attributes(17)),
    "attributes in all": (P, attributes_in_all(20000), attributes_in_all(20001)),
    "namespaces": (P, spread(16), spread(17)),
    "a relative namespace": (P, response(key_prov(SET), tail="<x:e%s/>" % X),
                             response(key_prov(SET), tail="<e xmlns='TOBEDEFINED'/>")),
    "a DTD": (P, response(key_prov(SET), head="<?xml version='1.0'?><!-- c --><?pi d?>"),
              response(key_prov(SET), head="<?xml version='1.0'?><!DOCTYPE KmsResponse>")),
    "an entity": (P, response(key_prov(SET), KmsId="&lt;&#x41;&amp;"), response(key_prov(SET), KmsId="&nbsp;")),
    "encoding": (P, response(key_prov(SET), head="<?xml version='1.0' encoding='utf-8'?>"),
                 response(key_prov(SET), head="<?xml version='1.0' encoding='iso-8859-1'?>")),
    "bytes": (P, b"\xef\xbb\xbf" + response(key_prov(SET), KmsId="\u00fc"),
              response(key_prov(SET), KmsId="\u00fc").replace("\u00fc".encode(), b"\xfc")),
    "UTF-16": (P, response(key_prov(SET)), response(key_prov(SET)).decode().encode("utf-16")),
    "NUL": (P, response(key_prov(SET)) + b"\n", response(key_prov(SET)) + b"\0"),
    "truncated": (P, response(key_prov(SET)), response(key_prov(SET))[:-1]),
    "a second root": (P, response(key_prov(SET)) + b"<!-- c -->", response(key_prov(SET)) + b"<a/>"),
    "no XML": (P, response(key_prov(SET)), b"{\"UserUri\": \"%s\"}" % ALICE.encode()),
    "empty": (P, response(key_prov(SET)), b""),
    "blank": ("/redirect", b"", b" "),
    "Time": (P, [response(key_prov(), Time=t) for t in ("2026-11-23T18:00:00.123456+00:00", "2026-11-23T18:00:00",
                                                        " 2026-11-23T18:00:00Z ", "0001-01-01T00:00:00-14:00")],
             response(key_prov(), Time="2026-11-23T24:00:00Z")),
    "KmsUri": (P, response(key_prov(), KmsUri="http://10.0.0.1:80"), response(key_prov(), KmsUri="a b")),
    "KmsId": (P, response(key_prov(), KmsId=""), response(key_prov(), KmsId="<a/>")),
    "ClientReqUrl": (P, response(key_prov(), ClientReqUrl="x"), response(key_prov(), ClientReqUrl="a\\b")),
    "lookup, depth": ("/lookup/a", response(lookup("<a><b><c><d>t</d></c></b></a>")),
                      response(lookup("<a><b><c><d><e>t</e></d></c></b></a>"))),
    "lookup, text between": ("/lookup/a", response(lookup("\n<a>t</a>\n")), response(lookup("t<a>t</a>"))),
    "lookup, another namespace": ("/lookup/a", [response(lookup(a)) for a in ("<a>t</a>", "<x:a%s>t</x:a>" % X)],
                                  response(lookup("<x:a%s><UserUri>t</UserUri></x:a>" % X))),
    "lookup, a key's name": ("/lookup/a", response(lookup("<UserKey>t</UserKey>")),
                             response(lookup("<a><UserSigningkeyssk>t</UserSigningkeyssk></a>"))),
    "lookup, attributes": ("/lookup/a", response(lookup("<a Id='1' Version='2'>t</a>")),
                           response(lookup("<a b='1'>t</a>"))),
}
USERS = {  # name: (path, good, bad)
    "the envelope's": (P, [response(key_prov()), response(key_prov(), user=None), response(key_prov(),
                                                                                           user=" %s " % ALICE),
                           response(key_prov(), user="")], response(key_prov(), user=BOB)),
    "a key set's": (P, response(key_prov(SET, SET)), response(key_prov(SET, key_set(K, BOB)))),
    "case": (P, response(key_prov()), response(key_prov(), user="sip:Alice@example.org")),
    "another form": (P, response(key_prov()), response(key_prov(), user="sip%3Aalice%40example.org")),
    "the path's": ("/keyprov/sip%3Abob%40example.org", [response(key_prov(key_set(K, BOB)), user=BOB),
                                                         response(key_prov(key_set(K, BOB), SET))],
                   response(key_prov(key_set(K, "sip:carol@example.org")), user=BOB)),
    "an error's": (P, response(error=ERROR), response(error=ERROR, user=BOB)),
    "a certificate's": ("/init", response(init()), response(init(), user=BOB)),
}
CASES = [(n, "upstream.invalid") + TWINS[n] for n in TWINS] + \
        [("user: " + n, "upstream.wrong_user") + USERS[n] for n in USERS]


@pytest.mark.parametrize("name,reason,path,good,bad", CASES, ids=[c[0] for c in CASES])
def test_twins(bench, name, reason, path, good, bad):
    for body in good if isinstance(good, list) else [good]:
        r, d = bench.ask(bench.alice, path, body)
        assert (r.status, d["reason"], d["verdict"]) == (200, "ok", "accept"), (body[:3000], d,
                                                                                bench.gate.running.err[-500:])
        assert r.verify(bench.alice.ink, bench.alice.ink_id)
        scripted.check_xsd(r)
        assert b"row 4711" not in r.body and b"<!--" not in r.body and b"<?" not in r.body and r.response.tail is None
    r, d = bench.ask(bench.alice, path, bad)
    assert (r.status, d["reason"], d["verdict"]) == (502, reason, "accept"), (r.body, d)
    assert r.verify(bench.alice.ink, bench.alice.ink_id) and r.response.find(q("KmsMessage")) is None
    assert (r.error, r.text("UserUri"), r.text("KmsId")) == (reason, ALICE, "kms-01")
    assert d["response"]["signed_by"] == bench.alice.ink_id and "encrypted_by" not in d["response"]
    scripted.check_xsd(r)


def test_what_stands_in_the_reply(bench):
    """Written by the standard: order, Versions, types, values trimmed; nothing between the elements."""
    body = response(
        key_prov(key_set(K, ALICE, order=SET_ORDER[::-1], attributes=" Id='s1' Version='1.0.0'", Issuer=" I = J ",
                         CertUri=" cert.example.org\n", ValidFrom="2026-11-23T18:00:00.5+01:00", Revoked=" 0 ")),
        order=["KmsMessage"] + ENVELOPE[::-1])
    r, _ = bench.ask(bench.alice, P, body)
    prov_ = r.response.find(".//" + q("KmsKeyProv"))
    got = prov_[0]
    assert prov_.get("Version") == "1.0.0" and got.get("Version") == "1.1.0" and got.get("Id") == "s1"
    assert [etree.QName(e).localname for e in got] == [n for n in SET_ORDER if n != "ValidTo"]
    assert got.findtext(q("Issuer")) == " I = J " and got.findtext(q("CertUri")) == "cert.example.org"
    assert got.findtext(q("ValidFrom")) == "2026-11-23T18:00:00.5+01:00" and got.findtext(q("Revoked")) == "0"
    assert {n: o for n, o in r.keys(bench.alice.trk, bench.alice.trk_id)} == {
        n: K.octets[n] for n in SET_ORDER[-3:]}
    assert all(e.tail is None for e in r.root.iter())


def test_lookup_unchanged(bench):
    inner = "<a Id='1' Version='2'> x &amp; <![CDATA[<y>]]> </a><b><c/><d><e>t</e></d></b>"
    r, d = bench.ask(bench.alice, "/lookup/sip%3Abob%40example.org", response(lookup(inner)))
    got = r.response.find(".//" + q("KmsLookup"))
    want = etree.fromstring("<KmsLookup xmlns='%s'>%s</KmsLookup>" % (NS, inner))
    assert etree.tostring(got, method="c14n", exclusive=True) == etree.tostring(want, method="c14n",
                                                                                exclusive=True), r.body
    assert d["response"]["message"] == "KmsLookup" and "encrypted_by" not in d["response"]


def test_the_kmss_error(bench):
    r, d = bench.ask(bench.alice, P, response(error=ERROR))
    assert (r.status, d["reason"], d["response"]["message"]) == (200, "ok", "error")
    assert r.response.findtext("%s/%s" % (q("KmsError"), q("ErrorCode"))) == "17" and "row" not in r.error
    assert r.text("TrK-ID") is None
