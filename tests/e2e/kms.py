"""An independent client: lxml and xmlsec (python3-xmlsec) sign and verify, `cryptography` unwraps.

Nothing here shares a line with the program under test.
"""
import base64
import hashlib
import hmac
import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import xmlsec
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from lxml import etree

NS = "urn:3gpp:ns:mcsecKMSInterface:1.0"
DS = "http://www.w3.org/2000/09/xmldsig#"
XENC = "http://www.w3.org/2001/04/xmlenc#"
XENC11 = "http://www.w3.org/2009/xmlenc11#"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
HMAC_SHA256 = "http://www.w3.org/2001/04/xmldsig-more#hmac-sha256"
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"
BASE = "/keymanagement/identity/v1"
_fresh = itertools.count()
# The interface as a real XSD. Read at once: after xmlsec's first signature libxml2 opens no files any more.
SCHEMA = etree.XMLSchema(etree.parse(str(Path(__file__).parents[1] / "xsd" / "kms.xsd")))


def q(name, ns=NS):
    return "{%s}%s" % (ns, name)


def now(offset=0.0):
    return (datetime.now(timezone.utc) + timedelta(seconds=offset)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class User:
    def __init__(self, uri, ink=True, trk=True):
        name = uri.split(":", 1)[1].split("@")[0]
        self.uri = uri
        self.ink_id, self.ink = ("ink.1." + name, os.urandom(32)) if ink else (None, None)
        self.trk_id, self.trk = ("trk.1." + name, os.urandom(32)) if trk else (None, None)

    def lines(self):
        out = []
        for kind, kid, key in (("ink", self.ink_id, self.ink), ("trk", self.trk_id, self.trk)):
            if kid:
                out.append(json.dumps({"user": self.uri, "type": kind, "id": kid, "key": key.hex()}))
        return out

    def signer(self):
        return (self.ink_id, self.ink) if self.ink_id else (self.trk_id, self.trk)


def fields(user, url, **over):
    f = {
        "UserUri": user.uri,
        "KmsUri": "kms.example.org",
        "Time": now(),
        "ClientId": "client-1",
        "DeviceId": "device-%d-%d" % (os.getpid(), next(_fresh)),
        "ClientReqUrl": url,
        "TrK-ID": user.trk_id,
        "Signature-ID": user.signer()[0],
    }
    f.update(over)
    return {k: v for k, v in f.items() if v is not None}


def kms_request(f, version="1.1.0", ident="xmldoc", order=None, nsmap=None):
    """The bare KmsRequest element."""
    root = etree.Element(q("KmsRequest"), nsmap=nsmap or {None: NS})
    if ident is not None:
        root.set("Id", ident)
    if version is not None:
        root.set("Version", version)
    for name in order or f:
        if name in f:
            etree.SubElement(root, q(name)).text = f[name]
    return root


def envelope(request, kind="SignedKmsRequest", ident=None):
    root = etree.Element(q(kind), nsmap=request.nsmap)
    if ident:
        root.set("Id", ident)
    root.append(request)
    return root


def template(uri="#xmldoc", transforms=(), key_name="", c14n=C14N, method=HMAC_SHA256, digest=SHA256, hmac_bits=None):
    sig = etree.Element(q("Signature", DS), nsmap={None: DS})
    si = etree.SubElement(sig, q("SignedInfo", DS))
    etree.SubElement(si, q("CanonicalizationMethod", DS)).set("Algorithm", c14n)
    m = etree.SubElement(si, q("SignatureMethod", DS))
    m.set("Algorithm", method)
    if hmac_bits:
        etree.SubElement(m, q("HMACOutputLength", DS)).text = str(hmac_bits)
    ref = etree.SubElement(si, q("Reference", DS))
    if uri is not None:
        ref.set("URI", uri)
    if transforms:
        ts = etree.SubElement(ref, q("Transforms", DS))
        for t in transforms:
            etree.SubElement(ts, q("Transform", DS)).set("Algorithm", t)
    etree.SubElement(ref, q("DigestMethod", DS)).set("Algorithm", digest)
    etree.SubElement(ref, q("DigestValue", DS))
    etree.SubElement(sig, q("SignatureValue", DS))
    ki = etree.SubElement(sig, q("KeyInfo", DS))
    if key_name is not None:
        etree.SubElement(ki, q("KeyName", DS)).text = key_name
    return sig


def sign(root, key, key_id, **kw):
    """Signs an envelope with xmlsec; returns its bytes."""
    sig = template(key_name=key_id, **kw)
    root.append(sig)
    ctx = xmlsec.SignatureContext()
    ctx.key = xmlsec.Key.from_binary_data(xmlsec.KeyData.HMAC, key)
    for e in root.iter():
        if isinstance(e.tag, str) and e.get("Id"):
            ctx.register_id(e, "Id")
    ctx.sign(sig)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def signed_request(user, url, signer=None, sig=None, request=None, **over):
    f = fields(user, url, **over)
    kid, key = signer or user.signer()
    return sign(envelope(request(f) if request else kms_request(f)), key, kid, **(sig or {}))


class Reply:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body
        self.root = etree.fromstring(body) if body else None
        self.response = None
        if self.root is not None:
            self.response = self.root[0] if self.root.tag == q("SignedKmsResponse") else self.root

    def text(self, name):
        e = self.response.find(q(name))
        return None if e is None else e.text

    @property
    def signed(self):
        return self.root.tag == q("SignedKmsResponse")

    @property
    def error(self):
        return self.response.findtext("%s/%s" % (q("KmsError"), q("ErrorMsg")))

    def verify(self, key, key_id):
        """By xmlsec; raises when the signature does not hold. Checks the profile that clients expect."""
        root = etree.fromstring(self.body)
        assert [c.tag for c in root] == [q("KmsResponse"), q("Signature", DS)]
        assert root.text is None and root[0].tail is None
        sig = root[1]
        assert sig.findtext(".//" + q("KeyName", DS)) == key_id == self.text("Signature-ID")
        assert sig.find(".//" + q("Reference", DS)).get("URI") == "#xmldoc"
        assert sig.find(".//" + q("Transforms", DS)) is None
        ctx = xmlsec.SignatureContext()
        ctx.key = xmlsec.Key.from_binary_data(xmlsec.KeyData.HMAC, key)
        ctx.register_id(root[0], "Id")
        ctx.verify(sig)
        return True

    def keys(self, trk, trk_id):
        """Every encrypted key content: [(element name, octets)]."""
        out = []
        root = self.response
        data = root.find(".//" + q("EncryptedData", XENC))
        if data is not None:
            cek = unwrap(data.find(".//" + q("EncryptedKey", XENC)), trk, trk_id)
            blob = base64.b64decode(data.find(q("CipherData", XENC)).findtext(q("CipherValue", XENC)))
            clear = AESGCM(cek).decrypt(blob[:12], blob[12:], None)
            root = etree.fromstring(b"<x>" + clear + b"</x>")
        for e in root.iter():
            if etree.QName(e).localname not in KEY_CONTENT:
                continue
            ek = e.find(q("EncryptedKey", XENC))
            if ek is None:
                out.append((etree.QName(e).localname, bytes.fromhex(e.text)))
            else:
                assert e.get(q("type", XSI)) == "EncKeyContentType"
                out.append((etree.QName(e).localname, unwrap(ek, trk, trk_id)))
        return out


KEY_CONTENT = {"UserDecryptKey": 257, "UserSigningKeySSK": 32, "UserPubTokenPVT": 65, "NewTransportKey": 32,
               "NewIntegrityKey": 32}


def unwrap(ek, trk, trk_id):
    assert ek.find(q("KeyInfo", DS)).findtext(q("KeyName", DS)) == trk_id
    alg = ek.find(q("EncryptionMethod", XENC)).get("Algorithm")
    blob = base64.b64decode(ek.find(q("CipherData", XENC)).findtext(q("CipherValue", XENC)))
    if alg == XENC + "kw-aes256":
        return keywrap.aes_key_unwrap(trk, blob)
    if alg == XENC11 + "kw-aes-256-pad":
        return keywrap.aes_key_unwrap_with_padding(trk, blob)
    assert alg == XENC11 + "aes256-gcm", alg
    return AESGCM(trk).decrypt(blob[:12], blob[12:], None)


# Below the ports that the system gives to outgoing connections, and a part for each of the tests' processes: a port
# that was free a moment ago is still free when the program under test binds it.
_worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
_ports = itertools.cycle(random.sample(range(10000 + 1000 * _worker, 11000 + 1000 * _worker), 1000))


def free_port():
    for port in _ports:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


# Tests may run as root; a gateway does so only by these words.
SERVE = ["serve"] + ["--allow-root"] * (os.geteuid() == 0)


class Process:
    """A child that is always ended, whose output is kept."""

    def __init__(self, argv, folder, name, env=None):
        self.out_path, self.err_path = folder / (name + ".out"), folder / (name + ".err")
        self.p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=open(self.out_path, "wb"),
                                  stderr=open(self.err_path, "wb"), cwd=folder, env=env)

    @property
    def err(self):
        return self.err_path.read_text(errors="replace")

    @property
    def out(self):
        return self.out_path.read_text(errors="replace")

    def stop(self, sig=signal.SIGTERM, timeout=30):
        if self.p.poll() is None:
            self.p.send_signal(sig)
        try:
            return self.p.wait(timeout)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
            raise


def read_terminal(fd):
    """All that is written to the other end of a pseudo-terminal until nobody has it open; closes this one."""
    seen = b""
    while True:
        try:
            seen += os.read(fd, 65536)
        except OSError:
            os.close(fd)
            return seen


def calls_of(trace):
    """The calls in a file of `strace -f`: each with its name, its number among those of this name in its thread, and its
    line. So strace counts for `inject=NAME:when=NUMBER`: each name for itself."""
    counts, calls = {}, []
    for line, thread, name in re.findall(r"^((\d+) +(\w+)\(.*)$", trace, re.M):
        counts[thread, name] = counts.get((thread, name), 0) + 1
        calls.append((name, counts[thread, name], line))
    return calls


def wait_for(what, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        got = what()
        if got:
            return got
        time.sleep(0.02)
    raise AssertionError("waited %d s in vain for %s" % (seconds, what))
