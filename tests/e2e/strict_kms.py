"""A KMS with the security extension, by lxml and python3-xmlsec alone; each switch takes one of its virtues away.

For one user. Nothing here shares a line with the program under test.
"""
import base64
import hashlib
import hmac
import http.server
import threading
from datetime import datetime, timedelta, timezone

from cryptography.hazmat.primitives import keywrap
from lxml import etree

import kms
from kms import BASE, DS, NS, XENC, XENC11, XSI, q

SWITCHES = ("any-digest any-signature any-user unsigned any-kms-uri any-past any-future any-url replays trk-signs any-signature-id "
            "clear-keys wrong-signature bare-reply no-signature-id wrong-trk-id wrong-fields wrong-message text-errors "
            "any-trk-id any-length any-schema any-dtd any-place url-prefix last-only init-only bare-errors cut-keys old-time "
            "other-user untyped-keys misnamed-keys busy").split()
KMS_URI = "kms.example.org"
CONTENTS = {"UserDecryptKey": b"\4" + b"\1" * 256, "UserSigningKeySSK": b"\2" * 32, "UserPubTokenPVT": b"\4" + b"\3" * 64}


class Refused(Exception):
    def __init__(self, status, why):
        super().__init__(why)
        self.status = status


def certificate():
    c = etree.Element(q("KmsCertificate"), Version="1.1.0", Role="Root")
    for name, text in (("CertUri", "cert1.example.org"), ("KmsUri", KMS_URI), ("UserIdFormat", "2"), ("UserKeyPeriod", "2592000"),
                       ("UserKeyOffset", "0"), ("PubEncKey", "04" + "11" * 256), ("PubAuthKey", "04" + "22" * 64)):
        etree.SubElement(c, q(name)).text = text
    return c


def canonical(element):
    """Of a document of its own: lxml's canonical form of an inner element undeclares default namespaces."""
    copy = etree.fromstring(etree.tostring(element, with_tail=False))
    return etree.tostring(copy, method="c14n")


def digest_holds(root, wherever=False):
    due = base64.b64decode(root[1].findtext(".//" + q("DigestValue", DS)))
    signed = root.xpath("//*[@Id='xmldoc']")[0] if wherever else root[0]
    return hashlib.sha256(canonical(signed)).digest() == due


def mac_holds(sig, key):
    info = canonical(sig.find(q("SignedInfo", DS)))
    given = base64.b64decode(sig.findtext(q("SignatureValue", DS)))
    return hmac.new(key, info, hashlib.sha256).digest()[:len(given)] == given


class Server:
    def __init__(self, user, switches=()):
        assert set(switches) <= set(SWITCHES)
        self.user, self.off, self.seen = user, set(switches), set()
        kms_self = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                kms_self.serve(self)

            def log_message(self, *a):
                pass
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self.http.server_address[1]
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()

    def key(self, name):
        return {self.user.ink_id: self.user.ink, self.user.trk_id: self.user.trk}.get(name)

    def serve(self, h):
        body = h.rfile.read(int(h.headers["Content-Length"]))
        signer = self.user.ink_id
        try:
            signer = self.judge(h.path, body)
            status, out = 200, self.answer(h.path, signer)
        except Refused as e:
            status, out = e.status, self.error(h.path, signer, e)
        h.send_response(status)
        h.send_header("Content-Type", "application/xml" if out.startswith(b"<") else "text/plain")
        h.send_header("Content-Length", str(len(out)))
        h.end_headers()
        h.wfile.write(out)

    # Requests

    def judge(self, path, body):
        if b"<!DOCTYPE" in body and "any-dtd" not in self.off:
            raise Refused(400, "DTD")
        root = etree.fromstring(body, etree.XMLParser(resolve_entities=False, no_network=True))
        request = root if root.tag == q("KmsRequest") else root.find(q("KmsRequest"))
        f = {etree.QName(e).localname: e.text for e in request}
        if "init-only" in self.off and not path.endswith("/init"):
            return self.user.ink_id
        if ("KmsUri" not in f or len(f) < len(request)) and "any-schema" not in self.off:
            raise Refused(400, "schema")
        signer = self.signature(root, request, f)
        if f["UserUri"] != self.user.uri and "any-user" not in self.off:
            raise Refused(403, "user")
        if f.get("TrK-ID", self.user.trk_id) != self.user.trk_id and "any-trk-id" not in self.off:
            raise Refused(403, "TrK-ID")
        if f.get("KmsUri", KMS_URI) != KMS_URI and "any-kms-uri" not in self.off:
            raise Refused(403, "KmsUri")
        age = (datetime.now(timezone.utc) - datetime.fromisoformat(f["Time"].replace("Z", "+00:00"))).total_seconds()
        if (age > 5 and "any-past" not in self.off) or (age < -5 and "any-future" not in self.off):
            raise Refused(403, "Time")
        due = self.url + path
        leading = "url-prefix" in self.off and due.startswith(f["ClientReqUrl"])
        if f["ClientReqUrl"] != due and not leading and "any-url" not in self.off:
            raise Refused(403, "ClientReqUrl")
        if body in self.seen and "replays" not in self.off:
            raise Refused(503 if "busy" in self.off else 403, "replay")
        if "last-only" in self.off:
            self.seen.clear()
        self.seen.add(body)
        return signer

    def signature(self, root, request, f):
        sig = root.find(q("Signature", DS))
        if sig is None:
            if "unsigned" in self.off:
                return self.user.ink_id
            raise Refused(403, "unsigned")
        name = sig.findtext(".//" + q("KeyName", DS))
        if sig.find(".//" + q("HMACOutputLength", DS)) is not None and "any-length" not in self.off:
            raise Refused(403, "HMAC")
        if name == self.user.trk_id and self.user.ink and "trk-signs" not in self.off:
            raise Refused(403, "TrK signs")
        if f.get("Signature-ID") != name and "any-signature-id" not in self.off:
            raise Refused(403, "Signature-ID")
        key = self.key(name)
        if key is None and "any-signature" in self.off:
            return self.user.ink_id
        if key is None:
            raise Refused(403, "key")
        if not digest_holds(root, "any-place" in self.off) and "any-digest" not in self.off:
            raise Refused(403, "digest")
        if not mac_holds(sig, key) and "any-signature" not in self.off:
            raise Refused(403, "signature")
        return name

    # Replies

    def answer(self, path, signer):
        kind = path[len(BASE) + 1:].split("/")[0]
        message = etree.Element(q("KmsMessage"))
        name = {"init": "KmsInit", "keyprov": "KmsKeyProv", "certcache": "KmsCertCache", "cert": "KmsCertCache", "lookup": "KmsLookup"}[kind]
        if "wrong-message" in self.off and kind == "lookup":
            name = "KmsCertCache"
        m = etree.SubElement(message, q(name), Version="1.0.0")
        if name == "KmsInit":
            m.append(certificate())
        if name == "KmsCertCache":
            m.set("CacheNum", "1")
            m.append(certificate())
        if name == "KmsLookup":
            etree.SubElement(m, q("KmsUri")).text = KMS_URI
        if name == "KmsKeyProv":
            self.key_set(m)
        return self.finish(path, signer, message, name == "KmsKeyProv")

    def key_set(self, m):
        s = etree.SubElement(m, q("KmsKeySet"), Version="1.1.0")
        for name, text in (("KmsUri", KMS_URI), ("UserUri", self.user.uri), ("UserID", "ab" * 32), ("KeyPeriodNo", "1")):
            etree.SubElement(s, q(name)).text = text
        for name, octets in CONTENTS.items():
            e = etree.SubElement(s, q(name))
            if "clear-keys" in self.off:
                e.set(q("type", XSI), "KeyContentType")
                e.text = octets.hex()
                continue
            if "untyped-keys" not in self.off:
                e.set(q("type", XSI), "EncKeyContentType")
            if "cut-keys" in self.off:
                octets = octets[:24]
            ek = etree.SubElement(e, q("EncryptedKey", XENC), nsmap={"xenc": XENC})
            whole = len(octets) % 8 == 0
            method = XENC + "kw-aes256" if whole or "misnamed-keys" in self.off else XENC11 + "kw-aes-256-pad"
            etree.SubElement(ek, q("EncryptionMethod", XENC)).set("Algorithm", method)
            ki = etree.SubElement(ek, q("KeyInfo", DS), nsmap={"ds": DS})
            etree.SubElement(ki, q("KeyName", DS)).text = "trk.other" if "wrong-trk-id" in self.off else self.user.trk_id
            wrap = keywrap.aes_key_wrap if whole else keywrap.aes_key_wrap_with_padding
            etree.SubElement(etree.SubElement(ek, q("CipherData", XENC)), q("CipherValue", XENC)).text = \
                base64.b64encode(wrap(self.user.trk, octets)).decode()

    def error(self, path, signer, e):
        if "text-errors" in self.off:
            return b"refused"
        error = etree.Element(q("KmsError"))
        etree.SubElement(error, q("ErrorCode")).text = str(e.status)
        etree.SubElement(error, q("ErrorMsg")).text = str(e)
        return self.finish(path, signer, error, False, "bare-errors" in self.off)

    def finish(self, path, signer, content, encrypted, bare=False):
        signer = signer or self.user.signer()[0]
        r = etree.Element(q("KmsResponse"), nsmap={None: NS, "xsi": XSI}, Id="xmldoc", Version="1.0.0")
        url = self.url + (path if "wrong-fields" not in self.off else "/elsewhere")
        now = datetime.now(timezone.utc) - timedelta(hours="old-time" in self.off)
        user = "sip:another@example.org" if "other-user" in self.off else self.user.uri
        for name, text in (("UserUri", user), ("KmsUri", KMS_URI), ("Time", now.strftime("%Y-%m-%dT%H:%M:%SZ")),
                           ("ClientReqUrl", url)):
            etree.SubElement(r, q(name)).text = text
        r.append(content)
        if encrypted:
            etree.SubElement(r, q("TrK-ID")).text = self.user.trk_id
        if "no-signature-id" not in self.off and "bare-reply" not in self.off:
            etree.SubElement(r, q("Signature-ID")).text = signer
        if bare or "bare-reply" in self.off:
            return etree.tostring(r)
        key = b"\7" * 32 if "wrong-signature" in self.off else self.key(signer)
        return kms.sign(kms.envelope(r, "SignedKmsResponse"), key, signer)
