"""An upstream that answers with the bytes it is given, replies to give it, and one gateway for many of them."""
import json
import os
import ssl

import pytest
from lxml import etree

import kms
from conftest import Gateway
from kms import NS, XSI
from listening import Listening

XSI_DECLARED = " xmlns:xsi='%s'" % XSI


class Scripted(Listening):
    """Answers every request with `self.raw`, byte for byte; closes behind it where that says so."""

    def __init__(self, tls=None, host="127.0.0.1", port=0):
        """tls: the files of a certificate and its key."""
        self.raw, self.closes, self.seen = b"", False, []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if tls:
            context.load_cert_chain(*tls)
        self.gate = None  # an Event: nothing is answered until it is set
        super().__init__(self._answer, host, port, context)
        self.url = "http%s://%s:%d" % ("s" if tls else "", host, self.port)

    def says(self, body, status=200, headers=(), raw=None, close=False):
        """The next answers; `raw` instead of all else."""
        lines = ["HTTP/1.1 %d Whatever" % status] + ["%s: %s" % h for h in headers]
        if status not in (204, 304):
            lines.append("Content-Length: %d" % len(body))
        self.raw = raw if raw is not None else ("\r\n".join(lines) + "\r\n\r\n").encode() + body
        self.closes = close

    def _answer(self, c, _):
        data = b""
        while True:
            while b"\r\n\r\n" not in data:
                got = c.recv(65536)
                if not got:
                    return
                data += got
            head, data = data.split(b"\r\n\r\n", 1)
            fields = dict(x.lower().split(b":", 1) for x in head.split(b"\r\n")[1:])
            n = int(fields.get(b"content-length", b"0"))
            while len(data) < n:
                data += c.recv(65536)
            self.seen.append((head, data[:n]))
            data = data[n:]
            if self.gate:
                self.gate.wait(30)
            c.sendall(self.raw)
            if self.closes:
                return


class Ring(kms.User):
    """A user with more keys: {id: (type, state or None, not_after or None)}; ink and trk name those to use first."""

    def __init__(self, uri, keys, ink=None, trk=None):
        self.uri, self.kinds = uri, keys
        self.octets = {kid: os.urandom(32) for kid in keys}
        self.ink_id, self.ink = ink, self.octets.get(ink)
        self.trk_id, self.trk = trk, self.octets.get(trk)

    def lines(self):
        out = []
        for kid, (kind, state, end) in self.kinds.items():
            line = {"user": self.uri, "type": kind, "id": kid, "key": self.octets[kid].hex()}
            line.update({"state": state} if state else {})
            line.update({"not_after": end} if end else {})
            out.append(json.dumps(line))
        return out


class Keys:
    """Random key contents, by element name."""

    def __init__(self):
        self.octets = {"UserDecryptKey": b"\x04" + os.urandom(256), "UserSigningKeySSK": os.urandom(32),
                       "UserPubTokenPVT": b"\x04" + os.urandom(64), "NewTransportKey": os.urandom(32),
                       "NewIntegrityKey": os.urandom(32)}

    def element(self, name, attributes=""):
        return "<%s%s>%s</%s>" % (name, attributes, self.octets[name].hex(), name)


SET_ORDER = ["KmsUri", "CertUri", "Issuer", "UserUri", "UserID", "ValidFrom", "ValidTo", "KeyPeriodNo", "Revoked",
             "UserDecryptKey", "UserSigningKeySSK", "UserPubTokenPVT"]


def key_set(keys, user, order=None, attributes=" Version='1.1.0'", **over):
    f = {"KmsUri": "old.example.org", "UserUri": user, "UserID": "0123ABCD", "KeyPeriodNo": "1514"}
    f.update(over)
    parts = {k: "<%s>%s</%s>" % (k, v, k) for k, v in f.items() if v is not None}
    parts.update({n: keys.element(n) for n in SET_ORDER[-3:] if n not in over})
    return "<KmsKeySet%s>%s</KmsKeySet>" % (attributes, "".join(parts[n] for n in order or SET_ORDER if n in parts))


def key_prov(*content, attributes=" Version='1.0.0'"):
    return "<KmsKeyProv%s>%s</KmsKeyProv>" % (attributes, "".join(content))


CERT_ORDER = ["CertUri", "KmsUri", "Issuer", "ValidFrom", "ValidTo", "Revoked", "UserIdFormat", "UserKeyPeriod",
              "UserKeyOffset", "PubEncKey", "PubAuthKey", "ParameterSet", "KmsDomainList"]
PUB_ENC, PUB_AUTH = "04" + "1E" * 256, "04" + "2A" * 64


def certificate(order=None, attributes=" Version='1.1.0' Role='Root'", **over):
    f = {"CertUri": "cert.example.org", "KmsUri": "old.example.org", "UserIdFormat": "2", "UserKeyPeriod": "2592000",
         "UserKeyOffset": "0", "PubEncKey": PUB_ENC, "PubAuthKey": PUB_AUTH, "ParameterSet": "1",
         "KmsDomainList": "<KmsDomain>a.example</KmsDomain>"}
    f.update(over)
    f = {k: v for k, v in f.items() if v is not None}
    return "<KmsCertificate%s>%s</KmsCertificate>" % (
        attributes, "".join("<%s>%s</%s>" % (n, f[n], n) for n in order or CERT_ORDER if n in f))


def init(*content, attributes=" Version='1.0.0'"):
    return "<KmsInit%s>%s</KmsInit>" % (attributes, "".join(content or [certificate()]))


def cert_cache(*content, attributes=" Version='1.0.0' CacheNum='4'"):
    return "<KmsCertCache%s>%s</KmsCertCache>" % (attributes, "".join(content))


def lookup(content="<KmsUri>kms.other.example</KmsUri>"):
    return "<KmsLookup>%s</KmsLookup>" % content


ERROR = "<KmsError><ErrorCode>17</ErrorCode><ErrorMsg>row 4711 of table keys</ErrorMsg></KmsError>"
ENVELOPE = ["UserUri", "KmsUri", "Time", "KmsId", "ClientReqUrl"]


def response(message="", user="sip:alice@example.org", tail="", order=None,
             root=" xmlns='%s' Id='r1' Version='1.0.0'" % NS,
             name="KmsResponse", head="", error="", **over):
    """An older KMS's reply, as text; fields given as None are left out."""
    f = {"UserUri": user, "KmsUri": "old.example.org", "Time": "2026-11-23T18:00:00Z", "KmsId": "Old-1",
         "ClientReqUrl": "http://old.example.org/any"}
    f.update(over)
    parts = {k: "<%s>%s</%s>" % (k, v, k) for k, v in f.items() if v is not None}
    if message:
        parts["KmsMessage"] = "<KmsMessage>%s</KmsMessage>" % message
    parts["error"], parts["tail"] = error, tail
    return (head + "<%s%s>" % (name, root) + "".join(
        parts[n] for n in order or ENVELOPE + ["KmsMessage", "error", "tail"] if n in parts) + "</%s>" % name).encode()


class Bench:
    """One gateway in front of one scripted upstream; the ClientId of a request chooses its rules."""

    def __init__(self, folder, users, rules, **kw):
        self.upstream = Scripted()
        self.read, self.decisions = 0, {}
        self.gate = Gateway(folder, users, rules=rules, upstream=self.upstream.url, **kw)

    def ask(self, user, path, body, case="default", status=200, headers=(), signer=None, raw=None, close=False, **over):
        """A signed request under the rule `case`, which the upstream answers with body: (reply, decision)."""
        self.upstream.says(body, status, headers, raw, close)
        r = self.gate.ask(user, path, signer=signer, ClientId=case, **over)
        return r, self.decision(r)

    def reply(self, user, path, body, case="default", status=200):
        """The same where the reply tells enough: the decision, which comes up to 100 ms later, is not waited for."""
        self.upstream.says(body, status)
        return self.gate.ask(user, path, ClientId=case)

    def ask_bare(self, user, path, body, case="default", status=200, **over):
        """The same, unsigned."""
        self.upstream.says(body, status)
        f = kms.fields(user, self.gate.url(path), ClientId=case, **dict({"Signature-ID": None}, **over))
        r = self.gate.post(path, etree.tostring(kms.kms_request(f)))
        return r, self.decision(r)

    def ask_empty(self, path, body, status=200):
        self.upstream.says(body, status)
        r = self.gate.post(path, b"")
        return r, self.decision(r)

    def decision(self, reply):
        path = self.gate.folder / "decisions.jsonl"

        def found():
            if path.exists():
                with open(path) as f:
                    f.seek(self.read)
                    lines = f.read()
                whole = lines[:lines.rfind("\n") + 1]
                self.read += len(whole.encode())
                self.decisions.update((d["id"], d) for d in map(json.loads, filter(None, whole.split("\n"))))
            return self.decisions.get(reply.headers["X-Request-Id"])
        return kms.wait_for(found)

    def stop(self):
        code = self.gate.stop()
        self.upstream.close()
        err = self.gate.running.err
        assert "ERROR: " not in err and "runtime error" not in err, err
        assert code == 0, (code, err)


def of_a_file(rules, *others):
    """The fixtures `alice` and `bench` of a file whose tests share one gateway, she and users of these URIs its users."""
    @pytest.fixture(scope="module")
    def alice():
        return kms.User("sip:alice@example.org")

    @pytest.fixture(scope="module")
    def bench(tmp_path_factory, alice):
        b = Bench(tmp_path_factory.mktemp("bench"), [alice, *map(kms.User, others)], rules)
        yield b
        b.stop()
    return alice, bench


def check_xsd(reply):
    """Valid by tests/xsd, which shares nothing with the program."""
    kms.SCHEMA.assertValid(etree.fromstring(reply.body))


def forms_of(octets):
    """How a key might leave: raw, hex of both cases, base64 at each alignment, each reversed as well."""
    import base64
    out = set()
    for o in (octets, octets[::-1]):
        out |= {o, o.hex().encode(), o.hex().upper().encode()}
        for skip in range(3):
            b64 = base64.b64encode(bytes(skip) + o)
            out.add(b64[4 if skip else 0:len(b64) - 4])
    return out | {x[::-1] for x in out}
