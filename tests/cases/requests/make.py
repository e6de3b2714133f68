"""Writes the cases beside this file, and verdicts.tsv: run it with Debian's python3 after changing a case.

Messages are signed by xmlsec with the published keys of ../vectors, in the bytes given here: the signature is made over
the parsed text and put into the text, so that CDATA, references and white space stay as they are written. A change that is
made `after` is what an attacker without the key can do; a change of the text before is what a client can do.

verdicts.tsv: file, options of the rule, reason, the case that differs by one thing and is judged otherwise.
"""
import base64
import hmac
import json
from pathlib import Path

import xmlsec
from lxml import etree

HERE = Path(__file__).parent
KEYS = {}
for line in (HERE / "../vectors/keys.jsonl").read_text().splitlines():
    KEYS[json.loads(line)["id"]] = bytes.fromhex(json.loads(line)["key"])

KMS = "urn:3gpp:ns:mcsecKMSInterface:1.0"
KRR = "urn:3gpp:ns:mcsecKMSKRR:1.0"
DS = "http://www.w3.org/2000/09/xmldsig#"
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
EXC = "http://www.w3.org/2001/10/xml-exc-c14n#"
C14N11 = "http://www.w3.org/2006/12/xml-c14n11"
ENVELOPED = DS + "enveloped-signature"
HMAC = "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"

FIRST = "<UserUri>sip:alice@example.org</UserUri><KmsUri>kms.example.org</KmsUri>"
TIME = "<Time>2026-11-23T18:00:00Z</Time>"
CLIENT = "<ClientId>client-1</ClientId><DeviceId>device-1</DeviceId>"
URL = "<ClientReqUrl>http://127.0.0.1:8080/keymanagement/identity/v1/keyprov</ClientReqUrl>"
IDS = "<TrK-ID>trk.1.alice</TrK-ID><Signature-ID>ink.1.alice</Signature-ID>"
FIELDS = FIRST + TIME + CLIENT + URL + IDS
REQUEST = '<KmsRequest Id="xmldoc" Version="1.1.0">' + FIELDS + "</KmsRequest>"


def transforms(*names):
    return "<Transforms>%s</Transforms>" % "".join('<Transform Algorithm="%s"/>' % n for n in names)


def reference(uri="#xmldoc", tr="", digest=SHA256):
    return '<Reference URI="%s">%s<DigestMethod Algorithm="%s"/><DigestValue>@D@</DigestValue></Reference>' % (uri, tr, digest)


def signature(ref=None, c14n=C14N, method=HMAC, bits="", key="ink.1.alice", extra="", more_info=""):
    return ('<Signature xmlns="%s"><SignedInfo><CanonicalizationMethod Algorithm="%s"/><SignatureMethod Algorithm="%s">%s'
            '</SignatureMethod>%s</SignedInfo><SignatureValue>@S@</SignatureValue><KeyInfo><KeyName>%s</KeyName>%s</KeyInfo>%s'
            '</Signature>' % (DS, c14n, method, bits, ref or reference(), key, more_info, extra))


def envelope(request=REQUEST, sig=None, attributes=""):
    return '<SignedKmsRequest xmlns="%s"%s>%s%s</SignedKmsRequest>' % (KMS, attributes, request, sig or signature())


def sign(text, key="ink.1.alice"):
    """The text with @D@ and @S@ filled in."""
    raw = text.encode() if isinstance(text, str) else text
    root = etree.fromstring(raw.replace(b"@D@", b"").replace(b"@S@", b""))
    ctx = xmlsec.SignatureContext()
    ctx.key = xmlsec.Key.from_binary_data(xmlsec.KeyData.HMAC, KEYS[key])
    for e in root.iter():
        if isinstance(e.tag, str) and e.get("Id"):
            try:
                ctx.register_id(e, "Id")
            except xmlsec.Error:
                pass  # a double, as the case wants it
    node = root.find("{%s}Signature" % DS)
    ctx.sign(node)
    for mark, name in ((b"@D@", "DigestValue"), (b"@S@", "SignatureValue")):
        for e in node.iter("{%s}%s" % (DS, name)):
            raw = raw.replace(mark, (e.text or "").replace("\n", "").encode(), 1)
    return raw


cases = []


def case(name, reason, text=None, twin="plain", options="-", after=None, key="ink.1.alice", signed=True):
    text = envelope() if text is None else text
    raw = sign(text, key) if signed else (text.encode() if isinstance(text, str) else text)
    if after:
        new = after(raw)
        assert new != raw, name
        raw = new
    assert name not in [c[0] for c in cases], name
    cases.append((name, options, reason, "-" if reason == "ok" else twin))
    (HERE / (name + ".xml")).write_bytes(raw)


def ok(name, text=None, **kw):
    case(name, "ok", text, **kw)


def req(a, b, n=1):
    """The envelope with a changed request, signed as changed."""
    assert a in REQUEST, a
    return envelope(REQUEST.replace(a, b, n))


def put(a, b, n=1):
    """A change after signing."""
    a, b = a.encode() if isinstance(a, str) else a, b.encode() if isinstance(b, str) else b
    return lambda raw: raw.replace(a, b, n)


def accepted():
    ok("plain")
    ok("twin-of-doctype", '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n' + envelope() + "\n")
    ok("bom", b"\xef\xbb\xbf" + envelope().encode())
    ok("bom-and-declaration", b"\xef\xbb\xbf<?xml version='1.0' encoding='utf-8'?>" + envelope().encode())
    ok("pretty", etree.tostring(etree.fromstring(envelope()), pretty_print=True).replace(b"><", b">\n  <")
       .replace(b">\n  </SignatureMethod>", b"></SignatureMethod>"))
    ok("prefixed", '<k:SignedKmsRequest xmlns:k="%s">%s%s</k:SignedKmsRequest>' % (
        KMS, REQUEST.replace("</", "</k:").replace("<", "<k:").replace("<k:/k:", "</k:"), signature()))
    ok("prefixed-signature", envelope(sig=signature().replace("</", "</ds:").replace("<", "<ds:").replace("<ds:/ds:", "</ds:")
                                      .replace('xmlns="', 'xmlns:ds="')))
    ok("other-id", envelope(REQUEST.replace("xmldoc", "_7f.a-b"), signature(reference("#_7f.a-b"))))
    ok("table-order", req(TIME + CLIENT, CLIENT + TIME))
    ok("no-client-no-device", req(CLIENT, ""))
    ok("empty-client-id", req("client-1", ""))
    ok("version-1-0-0", req("1.1.0", "1.0.0"))
    ok("no-version", req(' Version="1.1.0"', ""))
    ok("no-trk-id", req("<TrK-ID>trk.1.alice</TrK-ID>", ""))
    ok("no-signature-id", req("<Signature-ID>ink.1.alice</Signature-ID>", ""))
    ok("ids-swapped", req(IDS, "<Signature-ID>ink.1.alice</Signature-ID><TrK-ID>trk.1.alice</TrK-ID>"))
    ok("by-trk", envelope(REQUEST.replace("ink.1.alice", "trk.1.alice"), signature(key="trk.1.alice")), key="trk.1.alice")
    ok("extension", req(IDS, IDS + '<x:Fleet xmlns:x="urn:example:x" a="1">7<x:Deep><y/></x:Deep></x:Fleet>'
                        .replace("<y/>", '<y xmlns=""/>')))
    ok("extension-before-ids", req(IDS, '<x:Fleet xmlns:x="urn:example:x"/><x:Fleet xmlns:x="urn:example:x"/>' + IDS))
    ok("client-error", req(URL, URL + "<ClientError><ErrorCode> -7 </ErrorCode><ErrorMsg>lost</ErrorMsg></ClientError>"))
    ok("krr-list", req(URL, URL + '<KrrList><r:Krr xmlns:r="%s">x</r:Krr></KrrList>' % KRR), options="redirect")
    ok("cdata", req("client-1", "<![CDATA[<client>]]>-1<![CDATA[&]]>"))
    ok("character-references", req("sip:alice", "sip&#58;&#x61;lice"))
    ok("white-space-in-values", req("<Time>2", "<Time>\n 2").replace("kms.example.org<", " kms.example.org\t<"))
    ok("line-ends", envelope().replace("><", ">\r\n<").replace(">\r\n</SignatureMethod>", "></SignatureMethod>"))
    ok("time-with-fraction-and-offset", req("18:00:00Z", "19:30:00.123456+01:30"))
    ok("time-without-zone", req("18:00:00Z", "18:00:00"))
    ok("client-error-extension", req(URL, URL + '<ClientError><ErrorCode>5</ErrorCode><ErrorMsg>no key</ErrorMsg>'
                                                '<v:x xmlns:v="urn:v">1</v:x></ClientError>'))
    ok("request-foreign-attribute", req(' Version=', ' xmlns:v="urn:v" v:tag="1" xml:lang="en" Version='))
    ok("extra-namespaces", envelope(attributes=' xmlns:a="urn:example:a" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
                                               'xsi:schemaLocation="%s kms.xsd"' % KMS))
    ok("namespace-undeclared", req(IDS, IDS + '<x:A xmlns:x="urn:example:x"><y xmlns=""/></x:A>'))
    ok("sixteen-namespaces", envelope(attributes="".join(' xmlns:a%d="urn:example:%d"' % (i, i) for i in range(14))))
    ok("envelope-id", envelope(attributes=' Id="all"', sig=signature(reference("#all", transforms(ENVELOPED)))))
    ok("envelope-id-c14n", envelope(attributes=' Id="all"', sig=signature(reference("#all", transforms(ENVELOPED, C14N)))))
    ok("envelope-empty-uri", envelope(sig=signature(reference("", transforms(ENVELOPED)))))
    ok("envelope-empty-uri-c14n", envelope(sig=signature(reference("", transforms(ENVELOPED, C14N)))))
    ok("envelope-empty-uri-no-id", envelope(REQUEST.replace('Id="xmldoc" ', ""),
                                            signature(reference("", transforms(ENVELOPED)))))
    ok("c14n-transform", envelope(sig=signature(reference(tr=transforms(C14N)))))
    ok("hmac-256", envelope(sig=signature(bits="<HMACOutputLength>256</HMACOutputLength>")))
    ok("hmac-128-by-rule", envelope(sig=signature(bits="<HMACOutputLength>128</HMACOutputLength>")), options="bits=128")
    ok("exc-c14n-by-rule", envelope(sig=signature(reference(tr=transforms(EXC)), c14n=EXC)), options="exc-c14n")
    ok("c14n11-by-rule", envelope(sig=signature(reference(tr=transforms(C14N11)), c14n=C14N11)), options="c14n11")
    ok("signature-ids", envelope(sig=signature().replace("<SignedInfo>", '<SignedInfo Id="s">')
                                 .replace("<KeyInfo>", '<KeyInfo Id="k">')))
    ok("value-in-lines", after=lambda raw: raw.replace(b"<SignatureValue>", b"<SignatureValue>\n  ")
       .replace(b"</SignatureValue>", b"\n</SignatureValue>"))
    ok("long-values", req("device-1", "d" * 40000))


def forged():
    bad = "signature.invalid"
    for name, a, b in [("user", "sip:alice@", "sip:bob@"), ("time", "18:00:00Z", "18:00:01Z"), ("client", "client-1", "client-2"),
                       ("id-of-key", "<Signature-ID>ink", "<Signature-ID>trk"), ("version", 'Version="1.1.0"', 'Version="1.0.0"'),
                       ("space-in-value", "client-1<", "client-1 <"), ("line-end", "client-1<", "client-1\n<"),
                       ("carriage-return", "client-1<", "client-1&#13;<"),
                       ("element-gone", "<ClientId>client-1</ClientId>", ""),
                       ("extension-added", "</KmsRequest>", '<x:A xmlns:x="urn:x"/></KmsRequest>'),
                       ("namespace-added", "<KmsRequest ", '<KmsRequest xmlns:x="urn:x" '),
                       ("namespace-added-above", "<SignedKmsRequest ", '<SignedKmsRequest xmlns:x="urn:x" '),
                       ("swapped", IDS, "<Signature-ID>ink.1.alice</Signature-ID><TrK-ID>trk.1.alice</TrK-ID>"),
                       ("signed-info-space", "<SignedInfo>", "<SignedInfo> "),
                       ("signed-info-namespace", "<SignedInfo>", '<SignedInfo xmlns:x="urn:x">')]:
        case("forged-" + name, bad, after=put(a, b))
    case("forged-digest", bad, after=lambda r: r.replace(b"<DigestValue>", b"<DigestValue>A").replace(b"=</DigestValue>", b"</DigestValue>"))
    case("forged-digest-length", bad, after=lambda r: r.replace(b"<DigestValue>", b"<DigestValue>AAAA"))
    case("value-no-base64", bad, after=put("<SignatureValue>", "<SignatureValue>?"))
    case("value-padding-bits", bad, after=loose_padding)
    case("another-users-key", bad, key="ink.1.bob")
    case("value-without-padding", bad, after=put("=</SignatureValue>", "</SignatureValue>"))
    case("value-of-no-break-spaces", bad, after=put("<SignatureValue>", "<SignatureValue>\u00a0"))
    case("value-url-alphabet", bad, after=lambda r: (lambda i: r[:i] + b"-" + r[i + 1:])(r.index(b"<SignatureValue>") + 20))
    for name, octets in (("empty", b""), ("zero", bytes(32)), ("hex-text", KEYS["ink.1.alice"].hex().encode()),
                         ("base64-text", base64.b64encode(KEYS["ink.1.alice"]))):
        case("key-" + name, bad, after=lambda r, k=octets: by_hand(r, k))
    case("trk-where-ink-signs", bad, key="trk.1.alice")
    case("hmac-128-other-key", bad, envelope(sig=signature(bits="<HMACOutputLength>128</HMACOutputLength>")), options="bits=128",
         twin="hmac-128-by-rule", key="ink.1.bob")
    case("envelope-forged", bad, envelope(sig=signature(reference("", transforms(ENVELOPED)))), twin="envelope-empty-uri",
         after=put("sip:alice@", "sip:bob@"))


def by_hand(raw, key):
    """The same request with the HMAC of SignedInfo under this key."""
    root = etree.fromstring(raw)
    info = etree.fromstring(etree.tostring(root.find(".//{%s}SignedInfo" % DS)))
    value = root.find(".//{%s}SignatureValue" % DS).text.encode()
    mac = lambda k: base64.b64encode(hmac.new(k, etree.tostring(info, method="c14n"), "sha256").digest())
    assert mac(KEYS["ink.1.alice"]) == value
    return raw.replace(value, mac(key))


def loose_padding(raw):
    """The same octets in base64 whose unused bits are not zero."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    end = raw.index(b"=</SignatureValue>")
    return raw[:end - 1] + alphabet[alphabet.index(raw[end - 1]) + 1:][:1] + raw[end:]


def profile():
    bad = "signature.profile"
    other = {
        "hmac-sha1": dict(method=DS + "hmac-sha1"), "hmac-sha224": dict(method=HMAC.replace("256", "224")),
        "hmac-sha384": dict(method=HMAC.replace("256", "384")), "hmac-sha512": dict(method=HMAC.replace("256", "512")),
        "hmac-md5": dict(method=HMAC.replace("sha256", "md5")),
        "c14n-comments": dict(c14n=C14N + "#WithComments"), "exc-c14n": dict(c14n=EXC), "c14n11": dict(c14n=C14N11),
        "digest-sha1": dict(ref=reference(digest=DS + "sha1")),
        "digest-sha512": dict(ref=reference(digest="http://www.w3.org/2001/04/xmlenc#sha512")),
        "exc-transform": dict(ref=reference(tr=transforms(EXC))), "c14n11-transform": dict(ref=reference(tr=transforms(C14N11))),
        "comments-transform": dict(ref=reference(tr=transforms(C14N + "#WithComments"))),
        "two-c14n": dict(ref=reference(tr=transforms(C14N, C14N))),
        "fifty-c14n": dict(ref=reference(tr=transforms(*[C14N] * 50))),
        "base64-transform": dict(ref=reference(tr=transforms(DS + "base64"))),
        "enveloped-on-request": dict(ref=reference(tr=transforms(ENVELOPED))),
        "enveloped-twice": dict(ref=reference("", transforms(ENVELOPED, ENVELOPED))),
        "enveloped-last": dict(ref=reference("", transforms(C14N, ENVELOPED))),
        "no-enveloped": dict(ref=reference("")), "no-transform-in-transforms": dict(ref=reference(tr="<Transforms/>")),
        "xpath": dict(ref=reference(tr='<Transforms><Transform Algorithm="http://www.w3.org/TR/1999/REC-xpath-19991116"><XPath>'
                                       "self::node()</XPath></Transform></Transforms>")),
        "xslt": dict(ref=reference(tr='<Transforms><Transform Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"/></Transforms>')),
        "no-reference": dict(ref=" "), "two-references": dict(ref=reference() + reference()),
        "many-references": dict(ref=reference() * 20), "object": dict(extra="<Object/>"),
        "manifest": dict(ref=reference("#m"), extra='<Object><Manifest Id="m">%s</Manifest></Object>' % reference("http://127.0.0.1:9/")),
        "two-key-names": dict(more_info="<KeyName>ink.1.bob</KeyName>"),
        "key-value": dict(more_info='<KeyValue><HMACKeyValue xmlns="http://www.aleksey.com/xmlsec/2002">a2tra2tra2s=</HMACKeyValue></KeyValue>'),
        "retrieval": dict(more_info='<RetrievalMethod URI="http://127.0.0.1:9/key" Type="http://www.w3.org/2000/09/xmldsig#KeyName"/>'),
        "empty-key-name": dict(key=""),
        "hmac-ripemd160": dict(method="http://www.w3.org/2001/04/xmldsig-more#hmac-ripemd160"),
        "rsa-sha256": dict(method="http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"),
        "xpath-filter-2": dict(ref=reference(tr='<Transforms><Transform Algorithm="http://www.w3.org/2002/06/xmldsig-filter2"/></Transforms>')),
        "decrypt-transform": dict(ref=reference(tr=transforms("http://www.w3.org/2002/07/decrypt#XML"))),
        "transform-parameters": dict(ref=reference(tr='<Transforms><Transform Algorithm="%s"><InclusiveNamespaces xmlns="%s" '
                                                      'PrefixList="x"/></Transform></Transforms>' % (C14N, EXC))),
        "digest-value-twice": dict(ref=reference().replace("</Reference>", "<DigestValue>@D@</DigestValue></Reference>")),
        "reference-type": dict(ref=reference().replace("<Reference ", '<Reference Type="%sManifest" ' % DS)),
    }
    for name, kw in other.items():
        case("profile-" + name, bad, envelope(sig=signature(**kw)), signed=False)
    for bits in ("0", "8", "80", "127", "128", "160", "248", "255", "264", "512", "-256", "", "0x100", "99999999999999999999"):
        case("hmac-bits-" + (bits or "none"), bad, signed=False, twin="hmac-256",
             text=envelope(sig=signature(bits="<HMACOutputLength>%s</HMACOutputLength>" % bits)))
    case("hmac-two-lengths", bad, signed=False, twin="hmac-256",
         text=envelope(sig=signature(bits="<HMACOutputLength>256</HMACOutputLength>" * 2)))
    case("hmac-120-by-rule", bad, signed=False, twin="hmac-128-by-rule", options="bits=8",
         text=envelope(sig=signature(bits="<HMACOutputLength>120</HMACOutputLength>")))
    case("value-shortened", bad, after=lambda r: r[:(i := r.index(b"<SignatureValue>") + 16)] + r[i:i + 20] + r[r.index(b"</SignatureValue>"):])
    case("value-lengthened", bad, after=put("<SignatureValue>", "<SignatureValue>AAAA"))
    case("key-value-without-name", bad, signed=False,
         text=envelope(sig=signature(more_info="<KeyValue/>").replace("<KeyName>ink.1.alice</KeyName>", "")))
    for name, old in (("before", '<KeyInfo>'), ("alone", '<KeyInfo><KeyName>ink.1.alice</KeyName>')):
        case("key-value-" + name, bad, signed=False, text=envelope(sig=signature().replace(
            old, '<KeyInfo><KeyValue><HMACKeyValue xmlns="http://www.aleksey.com/xmlsec/2002">a2tra2tra2s=</HMACKeyValue></KeyValue>')))
    case("key-name-in-parts", bad, after=put("<KeyName>ink.1.alice", '<KeyName><x:a xmlns:x="urn:x"/>ink.1.alice'))
    case("no-key-info", bad, after=put("<KeyInfo><KeyName>ink.1.alice</KeyName></KeyInfo>", ""))
    case("no-key-name", bad, after=put("<KeyName>ink.1.alice</KeyName>", ""))
    case("two-key-infos", bad, after=put("</KeyInfo>", "</KeyInfo><KeyInfo><KeyName>ink.1.alice</KeyName></KeyInfo>"))
    case("two-signed-infos", bad, after=lambda r: r.replace(b"<SignedInfo>", r[r.index(b"<SignedInfo>"):r.index(b"<SignatureValue>")] + b"<SignedInfo>"))
    case("two-values", bad, after=put("<KeyInfo>", "<SignatureValue>AAAA</SignatureValue><KeyInfo>"))
    case("no-value", bad, after=lambda r: r[:r.index(b"<SignatureValue>")] + r[r.index(b"<KeyInfo>"):])
    case("key-info-first", bad, after=lambda r: r.replace(b"<KeyInfo><KeyName>ink.1.alice</KeyName></KeyInfo>", b"")
         .replace(b"<SignedInfo>", b"<KeyInfo><KeyName>ink.1.alice</KeyName></KeyInfo><SignedInfo>"))
    case("text-in-signature", bad, after=put("<SignedInfo>", "text<SignedInfo>"))
    case("attribute-in-signature", bad, after=put("<SignedInfo>", '<SignedInfo xml:lang="en">'))
    case("algorithm-of-another-namespace", bad, after=put("<DigestMethod Alg", '<DigestMethod xmlns:x="urn:x" x:Alg'))
    case("algorithm-case", bad, after=put("hmac-sha256", "HMAC-SHA256"))
    case("algorithm-space", bad, after=put("hmac-sha256", "hmac-sha256 "))
    case("signature-namespace-of-children", bad, after=put("<SignedInfo>", '<SignedInfo xmlns="urn:example:ds">'))
    case("three-transforms", bad, envelope(sig=signature(reference("", transforms(ENVELOPED, C14N, C14N)))), signed=False)
    case("min-bits-not-met", bad, envelope(sig=signature(bits="<HMACOutputLength>128</HMACOutputLength>")), options="bits=136",
         twin="hmac-128-by-rule")


def references():
    bad = "signature.reference"
    for name, uri in [("missing-target", "#other"), ("http", "http://127.0.0.1:9/x"), ("file", "file:///etc/hostname"),
                      ("relative", "xmldoc"), ("hash-alone", "#"), ("xpointer", "#xpointer(id('xmldoc'))"),
                      ("xpointer-root", "#xpointer(/)"), ("xpath-injection", "#x') | //*[@Id='xmldoc"), ("escaped", "#xmldo%63"),
                      ("case", "#XMLDOC"), ("space", "# xmldoc"), ("two-hashes", "##xmldoc"), ("query", "?#xmldoc")]:
        case("reference-" + name, bad, envelope(sig=signature(reference(uri))), signed=False)
    case("reference-none", bad, envelope(sig=signature(reference().replace(' URI="#xmldoc"', ""))), signed=False)
    case("reference-request-without-id", bad, envelope(REQUEST.replace('Id="xmldoc" ', "")), signed=False)
    case("reference-signature", bad, envelope(sig=signature(reference("#s")).replace("<Signature ", '<Signature Id="s" ')),
         signed=False)
    case("reference-signed-info", bad, envelope(sig=signature(reference("#s")).replace("<SignedInfo>", '<SignedInfo Id="s">')),
         signed=False)
    x = '<x:A xmlns:x="urn:x" %s="xmldoc"/>'
    for name in ("Id", "ID", "id", "xml:id", "x:Id"):
        case("double-" + name.replace(":", "-"), bad, req(IDS, IDS + x % name), signed=False, twin="extension")
    case("double-in-envelope", bad, envelope(attributes=' Id="xmldoc"'), signed=False, twin="envelope-id")
    case("double-in-signature", bad, after=put("<KeyInfo>", '<KeyInfo Id="xmldoc">'))
    case("reference-extension", bad, signed=False, twin="extension",
         text=envelope(REQUEST.replace(IDS, IDS + '<x:A xmlns:x="urn:x" Id="e"/>'), signature(reference("#e"))))


def wrappings():
    signed = sign(envelope()).decode()
    forged = REQUEST.replace("sip:alice@", "sip:bob@")
    sig = signed[signed.index("<Signature xmlns"):signed.index("</SignedKmsRequest>")]
    into = lambda a: sig.replace("</KeyInfo>", "</KeyInfo>" + a)
    other = forged.replace("xmldoc", "other")
    invalid = "xml.invalid"
    case("wrap-in-object", invalid, envelope(forged, into("<Object>%s</Object>" % REQUEST.replace("<KmsRequest", '<KmsRequest xmlns="%s"' % KMS))), signed=False)
    case("wrap-in-object-other-id", invalid, envelope(other, into("<Object>%s</Object>" % REQUEST.replace("<KmsRequest", '<KmsRequest xmlns="%s"' % KMS))), signed=False)
    case("wrap-in-extension", invalid, envelope(other.replace(IDS, IDS + '<x:B xmlns:x="urn:x">%s</x:B>' % REQUEST), sig), signed=False)
    case("wrap-in-krr-list", invalid, envelope(other.replace(URL, URL + "<KrrList>%s</KrrList>" % REQUEST), sig), signed=False, options="redirect", twin="krr-list")
    case("wrap-before", invalid, envelope(REQUEST + other, sig), signed=False)
    case("wrap-after", invalid, envelope(other + REQUEST, sig), signed=False)
    case("wrap-behind-signature", invalid, envelope(other, sig + REQUEST), signed=False)
    case("wrap-signature-first", invalid, envelope(sig, REQUEST), signed=False)
    case("wrap-envelope-in-envelope", invalid, envelope(other, signed), signed=False)
    case("wrap-signature-in-request", "signature.missing", signed=False, text=envelope(REQUEST.replace("</KmsRequest>", sig + "</KmsRequest>"), " "))
    case("wrap-two-signatures", invalid, envelope(REQUEST, sig + sig), signed=False)
    case("wrap-moved-away", "signature.reference", signed=False,
         text=envelope(other.replace(IDS, IDS + '<x:KmsRequest xmlns:x="urn:x" Id="xmldoc"/>'), sig))
    case("wrap-other-message", invalid, signed=False, text=envelope("<KmsResponse Id=\"xmldoc\">%s</KmsResponse>" % FIELDS, sig))
    case("reply-as-request", invalid, signed=False, text='<SignedKmsResponse xmlns="%s">%s%s</SignedKmsResponse>' % (
        KMS, REQUEST.replace("KmsRequest", "KmsResponse"), sig))
    case("unsigned", "signature.missing", REQUEST.replace("<KmsRequest", '<KmsRequest xmlns="%s"' % KMS), signed=False)
    case("no-signature", "signature.missing", envelope(sig=" "), signed=False)
    case("signature-of-another-namespace", invalid, after=put('<Signature xmlns="' + DS, '<Signature xmlns="urn:example:ds'))


def schema():
    bad = "xml.invalid"
    for name, a, b in [
            ("no-user-uri", "<UserUri>sip:alice@example.org</UserUri>", ""), ("no-kms-uri", "<KmsUri>kms.example.org</KmsUri>", ""),
            ("no-time", TIME, ""), ("no-url", URL, ""), ("two-users", FIRST, "<UserUri>sip:bob@example.org</UserUri>" + FIRST),
            ("two-times", TIME, TIME * 2), ("two-trk-ids", IDS, IDS + "<TrK-ID>x</TrK-ID>"),
            ("two-signature-ids", IDS, IDS + "<Signature-ID>x</Signature-ID>"),
            ("order", FIRST, "<KmsUri>kms.example.org</KmsUri><UserUri>sip:alice@example.org</UserUri>"),
            ("mixed-order", TIME + CLIENT, "<ClientId>client-1</ClientId>" + TIME + "<DeviceId>device-1</DeviceId>"),
            ("device-before-client", CLIENT, "<DeviceId>device-1</DeviceId><ClientId>client-1</ClientId>"),
            ("ids-before-url", URL + IDS, IDS + URL), ("url-before-time", TIME + CLIENT + URL, URL + TIME + CLIENT),
            ("unknown-element", IDS, IDS + "<Fleet/>"), ("misspelt", "<ClientId>client-1</ClientId>", "<ClientID>client-1</ClientID>"),
            ("element-in-no-namespace", IDS, IDS + '<Fleet xmlns=""/>'), ("text", TIME, TIME + "text"),
            ("user-in-no-namespace", "<UserUri>", '<UserUri xmlns="">'),
            ("extension-before-url", URL, '<x:A xmlns:x="urn:x"/>' + URL),
            ("interface-in-extension", IDS, IDS + '<x:A xmlns:x="urn:x"><UserUri>sip:bob@example.org</UserUri></x:A>'),
            ("child-in-value", "client-1", 'client<x:A xmlns:x="urn:x"/>-1'), ("empty-user", "sip:alice@example.org", ""),
            ("blank-user", "sip:alice@example.org", " \n "), ("space-in-uri", "kms.example.org", "kms.example.org evil"),
            ("angle-in-uri", "kms.example.org", "kms.example.org&lt;x>"), ("no-time-value", "2026-11-23T18:00:00Z", "now"),
            ("time-24", "T18:00:00Z", "T24:00:00Z"), ("time-60", "18:00:00Z", "18:00:60Z"), ("time-offset", "00Z", "00+14:01"),
            ("time-year-0", "2026", "0000"), ("time-year-10000", "2026", "10000"), ("time-date", "T18:00:00Z", ""),
            ("attribute", "<Time>", '<Time zone="Z">'), ("xsi-type", "<Time>", '<Time xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:type="x">'),
            ("request-attribute", ' Version=', ' lang="en" Version='), ("version", "1.1.0", "1.2.0"),
            ("version-space", "1.1.0", " 1.1.0"), ("version-both", "1.1.0", "1.1.0 1.0.0"), ("version-empty", '"1.1.0"', '""'),
            ("error-code", URL, URL + "<ClientError><ErrorCode>x</ErrorCode><ErrorMsg/></ClientError>"),
            ("error-order", URL, URL + "<ClientError><ErrorMsg/><ErrorCode>1</ErrorCode></ClientError>"),
            ("error-more", URL, URL + "<ClientError><ErrorCode>1</ErrorCode><ErrorMsg/><ErrorMsg/></ClientError>"),
            ("error-after-extension", IDS, '<x:A xmlns:x="urn:x"/><ClientError><ErrorCode>1</ErrorCode><ErrorMsg/></ClientError>' + IDS),
            ("krr-list-elsewhere", URL, URL + "<KrrList/>")]:
        case("schema-" + name, bad, req(a, b))
    case("schema-two-krr-lists", bad, req(URL, URL + "<KrrList/><KrrList/>"), options="redirect", twin="krr-list")
    case("schema-envelope-attribute", bad, envelope(attributes=' Version="1.1.0"'))
    case("schema-envelope-text", bad, envelope(REQUEST + "text"))
    case("schema-namespace", bad, envelope().replace(KMS, "urn:3gpp:ns:mcsecKMSInterface:1.1"))
    case("schema-namespace-case", bad, envelope().replace(KMS, KMS.lower()))
    case("schema-root", bad, envelope().replace("SignedKmsRequest", "SignedKmsRequests"))
    case("schema-version-not-listed", bad, options="versions=1.0.0", twin="version-1-0-0")
    case("schema-redefined-namespace", bad, req("<KmsUri>", '<KmsUri xmlns="urn:x">'))


def text():
    no, bad = "xml.forbidden", "xml.malformed"
    head = lambda a: (lambda raw: a.encode() + raw)
    case("doctype", no, after=head("<!DOCTYPE SignedKmsRequest>"), twin="twin-of-doctype")
    case("entity-internal", no, after=head("<!DOCTYPE a [<!ENTITY e 'x'>]>"))
    case("entity-nested", no, after=head("<!DOCTYPE a [<!ENTITY e '&#38;f;'><!ENTITY f '&#38;e;'>]>"))
    case("entity-parameter", no, after=head("<!DOCTYPE a [<!ENTITY %% p SYSTEM 'http://127.0.0.1:9/'> %%p;]>"))
    case("entity-external", no, after=lambda r: b"<!DOCTYPE a [<!ENTITY e SYSTEM 'file:///etc/hostname'>]>" + r.replace(b"client-1", b"&e;"))
    case("doctype-external", no, after=head("<!DOCTYPE a SYSTEM 'http://127.0.0.1:9/a.dtd'>"))
    case("entity-unknown", bad, after=put("client-1", "&client;"), twin="character-references")
    case("comment-in-value", no, after=put("kms.example.org", "kms.example.org<!-- -->.evil"))
    case("comment-before", no, after=head("<!-- a -->"))
    case("comment-behind", no, after=lambda r: r + b"<!-- a -->")
    case("comment-in-signed-info", no, after=put("<SignedInfo>", "<SignedInfo><!-- a -->"))
    case("instruction", no, after=put("<Time>", "<?a b?><Time>"))
    case("stylesheet", no, after=head('<?xml-stylesheet href="http://127.0.0.1:9/"?>'))
    for name in ("ISO-8859-1", "UTF-16", "US-ASCII", "IBM037", "UTF-7", "utf8x"):
        case("encoding-" + name.lower(), no, after=head('<?xml version="1.0" encoding="%s"?>' % name), twin="twin-of-doctype")
    for name in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"):
        case("bytes-" + name, no, after=lambda r, n=name: r.decode().encode(n))
    case("bytes-ebcdic", no, after=lambda r: b"<?xml version='1.0'?>".decode().encode("cp037") + r.decode().encode("cp037"))
    case("bytes-latin1", bad, after=put(b"client-1", b"client-\xe9"))
    case("bytes-overlong", bad, after=put(b"client-1", b"client-\xc0\xb1"))
    case("bytes-surrogate", bad, after=put(b"client-1", b"client-\xed\xa0\x80"))
    case("bytes-ffff", bad, after=put(b"client-1", b"client-\xef\xbf\xbf"))
    case("nul", bad, after=put(b"client-1", b"client-1\0"))
    case("nul-behind", bad, after=lambda r: r + b"\0")
    case("control", bad, after=put(b"client-1", b"client-\x01"))
    case("reference-to-nul", bad, after=put("client-1", "client-&#0;"))
    case("reference-to-control", bad, after=put("client-1", "client-&#1;"))
    case("reference-open", bad, after=put("client-1", "client-&#49"))
    case("xml-1-1", no, after=head('<?xml version="1.1"?>'), twin="twin-of-doctype")
    case("declaration-late", no, after=head('\n<?xml version="1.0"?>'), twin="twin-of-doctype")
    case("declaration-malformed", bad, after=head('<?xml version="1.0" encoding=UTF-8?>'), twin="twin-of-doctype")
    case("second-root", bad, after=lambda r: r + b"<a/>")
    case("trailing-text", bad, after=lambda r: r + b"x")
    case("truncated", bad, after=lambda r: r[:-5])
    case("not-closed", bad, after=lambda r: r.replace(b"</SignedKmsRequest>", b""))
    case("crossed-tags", bad, after=put("</ClientId><DeviceId>", "</DeviceId><DeviceId>"))
    case("unbound-prefix", bad, after=put("<Time>", "<x:A/><Time>"))
    case("unbound-attribute-prefix", bad, after=put("<Time>", '<Time x:a="1">'))
    case("double-attribute", bad, after=put('Id="xmldoc"', 'Id="xmldoc" Id="xmldoc"'))
    case("double-attribute-by-namespace", bad, after=put("<Time>", '<Time xmlns:a="urn:a" xmlns:b="urn:a" a:x="" b:x="">'))
    case("less-than-in-attribute", bad, after=put('Id="xmldoc"', 'Id="xml<doc"'))
    case("unquoted-attribute", bad, after=put('Id="xmldoc"', "Id=xmldoc"))
    case("bracket-in-text", bad, after=put("client-1", "client]]>1"))
    case("xmlns-prefix-undeclared", bad, after=put("<KmsRequest ", '<KmsRequest xmlns:x="" '))
    case("xml-prefix-rebound", bad, after=put("<KmsRequest ", '<KmsRequest xmlns:xml="urn:x" '))
    for name, uri in (("word", "TOBEDEFINED"), ("path", "../x"), ("host", "//example.org/x"), ("fragment", "#x")):
        case("relative-namespace-" + name, no, req(IDS, IDS + '<x:A xmlns:x="%s"/>' % uri), signed=False, twin="extension")
    case("empty", bad, b" ", signed=False)


def caps():
    no, ext = "xml.forbidden", '<x:A xmlns:x="urn:x">%s</x:A>'
    with_ext = lambda inner: req(IDS, IDS + ext % inner)
    deep = lambda n: "<x:B>" * n + "</x:B>" * n
    ok("depth-16", with_ext(deep(13)))
    case("depth-17", no, with_ext(deep(14)), twin="depth-16", signed=False)
    used = len(list(etree.fromstring(with_ext("")).iter()))
    ok("elements-256", with_ext("<x:B/>" * (256 - used)))
    case("elements-257", no, with_ext("<x:B/>" * (257 - used)), twin="elements-256", signed=False)
    attributes = lambda n: "<x:B %s/>" % " ".join('a%d="1"' % i for i in range(n))
    ok("attributes-16", with_ext(attributes(16)))
    case("attributes-17", no, with_ext(attributes(17)), twin="attributes-16", signed=False)
    names = lambda n: envelope(attributes="".join(' xmlns:a%d="urn:%d"' % (i, i) for i in range(n)))
    case("namespaces-17", no, names(15), twin="sixteen-namespaces", signed=False)
    spread = "".join('<x:B xmlns:b="urn:b"/>' for _ in range(61))
    ok("namespaces-64-spread", with_ext(spread))
    case("namespaces-65-spread", no, with_ext(spread + '<x:B xmlns:b="urn:b"/>'), twin="namespaces-64-spread", signed=False)
    case("references-1000", no, envelope(sig=signature(reference() * 1000)), signed=False, twin="plain")
    long = lambda n: req(IDS, IDS + '<x:%s xmlns:x="urn:x"/>' % ("n" * n))
    ok("name-of-20000", long(20000))
    case("name-of-60000", "xml.malformed", long(60000), twin="name-of-20000", signed=False)
    case("attributes-4000", no, with_ext(attributes(4000)), twin="attributes-16", signed=False)


for old in HERE.glob("*.xml"):
    old.unlink()
for make in (accepted, forged, profile, references, wrappings, schema, text, caps):
    make()
names = {c[0] for c in cases}
assert all(c[3] in names or c[3] == "-" for c in cases)
(HERE / "verdicts.tsv").write_text("".join("\t".join(c) + "\n" for c in cases))
print(len(cases), "cases")
