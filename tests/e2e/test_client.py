"""`kmsgate request` and `kmsgate open`: what they believe, what they prove, what they never show. Every refusal has a twin
that differs by one thing and is accepted."""
import base64
import http.server
import json
import os
import ssl
import subprocess
import threading

import pytest
from lxml import etree

import kms
from conftest import BUILD
from kms import BASE, NS, q

LOOKUP = "/lookup/sip%3Abob%40example.org"


def kmsgate(*argv, env=None):
    return subprocess.run([BUILD / "kmsgate", *map(str, argv)], capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
                          env=dict(os.environ, **env) if env else None)


class Told:
    """What a run said; nothing else but text ever comes out."""

    def __init__(self, run):
        self.code, self.out, self.err = run.returncode, run.stdout.decode(), run.stderr.decode()
        assert "ERROR: " not in self.err and "runtime error" not in self.err, self.err

    def __repr__(self):
        return "exit %d\n%s\n%s" % (self.code, self.out, self.err)


@pytest.fixture
def keys(tmp_path, alice, bob):
    def write(*users, name="client.jsonl", mode=0o600):
        path = tmp_path / name
        path.write_text("".join(line + "\n" for u in users or (alice, bob) for line in u.lines()))
        path.chmod(mode)
        return path
    return write


def ask(url, user, keys, *more, **kw):
    return Told(kmsgate("request", "--url", url, "--user", user.uri, "--keys", keys, "--kms-uri", "kms.example.org", *more,
                        **kw))


# --- what is proven ------------------------------------------------------------------------------------------------------

def test_keys_are_proven(gate, alice, keys):
    r = ask(gate.url("/keyprov"), alice, keys())
    assert r.code == 0 and r.err == "", r
    assert r.out.count("\n  proven: UserID and all three keys are those of sip:alice@example.org at kms.example.org") == 1
    assert "the one that is due" in r.out and "KmsKeyProv for " + alice.uri in r.out
    assert [d["path"] for d in gate.decisions(2)] == [BASE + "/init", BASE + "/keyprov"]


def test_every_set_is_proven(gateway, alice, keys):
    g = gateway(legacy=["--user-sets", "4"])
    r = ask(g.url("/keyprov"), alice, keys())
    assert r.code == 0 and r.out.count("  proven: ") == 4, r
    assert r.out.count(", the one that is due (") == 1 and r.out.count(", the next (") == 1
    assert r.out.count("far from the one that is due") == 2


WRONG = [("wrong-rsk", "UserDecryptKey: expected the RSK of this UserID"),
         ("wrong-ssk", "UserSigningKeySSK, UserPubTokenPVT: expected a pair of this UserID"),
         ("wrong-pvt", "UserSigningKeySSK, UserPubTokenPVT: expected a pair of this UserID"),
         ("wrong-uid", "KmsKeySet: its UserID is `"),
         ("wrong-period", "KmsKeySet: its UserID is `"),
         ("wrong-kms", "KmsKeySet: its KmsUri is `kms.elsewhere.example`, expected the certificate's, `kms.example.org`")]


@pytest.mark.parametrize("fault,told", WRONG)
def test_a_wrong_key_fails_the_command(gateway, alice, keys, fault, told):
    g = gateway(legacy=["--fail", fault])
    r = ask(g.url("/keyprov"), alice, keys())
    assert r.code == 1 and "wrong key: " + told in r.err and "WRONG: " + told in r.out, r
    assert "  proven: " not in r.out
    # without proof nobody could have known
    r = ask(g.url("/keyprov"), alice, keys(), "--no-proof")
    assert r.code == 0 and "not proven: --no-proof was given" in r.out, r


def test_keys_of_an_old_period_are_told(gateway, alice, keys):
    r = ask(gateway(legacy=["--fail", "old-period"]).url("/keyprov"), alice, keys())
    assert r.code == 0 and "  proven: " in r.out and "far from the one that is due" in r.out, r


def test_a_period_that_was_asked_for_is_due(gate, alice, keys):
    r = ask(gate.url("/keyprov/sip%3Aalice%40example.org/D6B4323200000000"), alice, keys())
    assert r.code == 0 and "period 1389, the one that is due (it begins on 2014-02-02)" in r.out, r


def test_a_revoked_certificate_proves_nothing(gateway, alice, keys):
    r = ask(gateway(legacy=["--fail", "revoked"]).url("/keyprov"), alice, keys())
    assert r.code == 0 and "not proven: the KMS certificate is revoked" in r.out, r


def test_no_certificate_is_told(gateway, alice, keys):
    rules = """\
version: 1
kms: { uris: [kms.example.org] }
requests: [{ id: keys-alone, match: { path: "/keymanagement/identity/v1/keyprov" } }]
responses: [{ id: default }]
"""
    r = ask(gateway(rules=rules).url("/keyprov"), alice, keys())
    assert r.code == 0 and "not proven: no KMS certificate could be had: to init came KmsError 403" in r.out, r
    assert r.out.count("octets") == 3


def test_proof_on_demand(gateway, gate, alice, keys):
    """--proof: exit 0 says that the keys are right; not told, not there, not provable are no such thing."""
    k = keys()
    r = ask(gate.url("/keyprov"), alice, k, "--proof")
    assert r.code == 0 and "  proven: " in r.out, r
    r = ask(gate.url("/init"), alice, k, "--proof")
    assert r.code == 1 and "0 of 0 key sets are proven" in r.err, r
    r = ask(gateway(legacy=["--fail", "revoked"]).url("/keyprov"), alice, k, "--proof")
    assert r.code == 1 and "0 of 1 key sets are proven" in r.err, r
    r = ask(gate.url("/keyprov"), alice, k, "--proof", "--no-proof")
    assert r.code == 2 and "expected one of them" in r.err, r


def test_a_stored_certificate_proves(gate, alice, bob, keys, tmp_path):
    k = keys()
    assert ask(gate.url("/init"), alice, k, "--out", tmp_path / "init.xml").code == 0
    r = ask(gate.url("/keyprov"), alice, k, "--certificate", tmp_path / "init.xml", "--out", tmp_path / "keys.xml")
    assert r.code == 0 and "  proven: " in r.out and len(gate.decisions(2)) == 2, r
    for name, oct_ in (("init.xml", 0o600), ("keys.xml", 0o600)):
        assert (tmp_path / name).stat().st_mode & 0o777 == oct_
    opened = Told(kmsgate("open", "--user", alice.uri, "--keys", k, "--certificate", tmp_path / "init.xml",
                          tmp_path / "keys.xml"))
    assert opened.code == 0 and "  proven: " in opened.out, opened
    opened = Told(kmsgate("open", "--user", alice.uri, "--keys", k, tmp_path / "keys.xml"))
    assert opened.code == 0 and "not proven: no KMS certificate (--certificate FILE)" in opened.out, opened
    # the reply to keyprov is no reply to init; another's reply to init is not hers
    r = ask(gate.url("/keyprov"), alice, k, "--certificate", tmp_path / "keys.xml")
    assert r.code == 1 and "expected a reply to init that is signed for this user" in r.err, r
    r = ask(gate.url("/keyprov"), bob, k, "--certificate", tmp_path / "init.xml")
    assert r.code == 1 and "failed verification" in r.err, r
    r = ask(gate.url("/keyprov"), alice, k, "--certificate", tmp_path / "none.xml")
    assert r.code == 1 and "none.xml: cannot be read: No such file" in r.err, r


def set_text(path, value):
    def change(response):
        e = response.find(path)
        e.text = value(e.text) if callable(value) else value
    return change


def drop(path):
    def change(response):
        e = response.find(path)
        e.getparent().remove(e)
    return change


KEY = "{*}KmsMessage/{*}KmsKeyProv/{*}KmsKeySet/{*}UserSigningKeySSK/{*}EncryptedKey/"
CERTIFICATE = "{*}KmsMessage/{*}KmsInit//{*}KmsCertificate/"


@pytest.mark.parametrize("path,change,told", [
    ("/keyprov", set_text("{*}TrK-ID", "trk.9.alice"), "TrK-ID: expected the KeyName of what is encrypted"),
    ("/keyprov", drop("{*}TrK-ID"), "TrK-ID"),
    ("/keyprov", set_text(KEY + "{*}KeyInfo/{*}KeyName", "trk.9.alice"), "UserSigningKeySSK: found another KeyName"),
    ("/keyprov", set_text(KEY + "{*}CipherData/{*}CipherValue", lambda v: v[:-4] + ("AAAA" if v[-4:] != "AAAA" else "BBBB")),
     "UserSigningKeySSK: does not open under the TrK, expected 32 octets"),
    ("/keyprov", lambda r: r.find(KEY + "{*}EncryptionMethod").set("Algorithm", "urn:rot13"), "EncryptionMethod"),
    ("/keyprov", lambda r: r.find(KEY + "{*}EncryptionMethod").attrib.pop("Algorithm"), "EncryptionMethod"),
    ("/init", set_text(CERTIFICATE + "{*}PubEncKey", "0400"), "PubEncKey: found 2 octets as hex, expected 257 as hex"),
    ("/keyprov", lambda r: None, None),
    ("/init", lambda r: None, None),
])
def test_signed_and_yet_not_in_order(gate, alice, keys, tmp_path, path, change, told):
    """By whoever has the key, too: the signature says who it is from, not that it can be read. The twins are unchanged."""
    k = keys()
    assert ask(gate.url(path), alice, k, "--out", tmp_path / "good.xml").code == 0
    response = etree.fromstring((tmp_path / "good.xml").read_bytes())[0]
    change(response)
    (tmp_path / "bad.xml").write_bytes(kms.sign(kms.envelope(response, "SignedKmsResponse"), alice.ink, alice.ink_id))
    r = Told(kmsgate("open", "--user", alice.uri, "--keys", k, "--with-secrets", tmp_path / "bad.xml"))
    if told is None:
        assert r.code == 0 and r.err == "", r
        return
    assert r.code == 1 and told in r.err, r
    assert r.err.startswith("kmsgate: ") and "UserDecryptKey" not in r.out, r


def test_keys_of_a_group(gateway, alice, keys):
    """{UserUri} of the path is another's whose keys she may ask for."""
    g = gateway(rules="""\
version: 1
kms: { uris: [kms.example.org] }
requests: [{ id: everyone, checks: { path_user: { also: ["sip:group-*@example.org"] } } }]
responses: [{ id: default }]
""")
    r = ask(g.url("/keyprov/sip%3Agroup-7%40example.org"), alice, keys())
    assert r.code == 0 and "are those of sip:group-7@example.org at kms.example.org" in r.out, r


@pytest.mark.parametrize("content,wrap", [("message", "auto"), ("keys", "aes256-gcm"), ("none", "auto")])
def test_however_it_is_protected(gateway, alice, keys, content, wrap):
    g = gateway(rules="""\
version: 1
kms: { uris: [kms.example.org] }
requests: [{ id: everyone }]
responses: [{ id: default, encrypt: { content: %s, key_wrap: %s } }]
""" % (content, wrap))
    r = ask(g.url("/keyprov"), alice, keys())
    assert r.code == 0 and "  proven: " in r.out, r
    assert ("came in clear" in r.out) == (content != "keys")


# --- a server that sends what no gateway would ---------------------------------------------------------------------------

def lookup(user, url, sign_by=None, attrs=None, **over):
    """A signed reply to a lookup, by another implementation."""
    f = {"UserUri": user.uri, "KmsUri": "kms.example.org", "Time": kms.now()[:19] + "Z", "ClientReqUrl": url}
    f.update({k: v for k, v in over.items() if k in f})
    root = etree.Element(q("KmsResponse"), nsmap={None: NS}, Id="xmldoc", Version="1.0.0")
    for name, text in f.items():
        etree.SubElement(root, q(name)).text = text
    if "error" in over:
        e = etree.SubElement(root, q("KmsError"))
        etree.SubElement(e, q("ErrorCode")).text = "403"
        etree.SubElement(e, q("ErrorMsg")).text = over["error"]
    else:
        e = etree.SubElement(etree.SubElement(root, q("KmsMessage")), q("KmsLookup"))
        etree.SubElement(e, q("KmsUri")).text = "kms.other.example"
    if sign_by is False:
        return etree.tostring(root)
    kid, key = sign_by or user.signer()
    etree.SubElement(root, q("Signature-ID")).text = kid
    return kms.sign(kms.envelope(root, "SignedKmsResponse"), key, kid)


class Server:
    """Answers every POST with what `reply` makes of the request's ClientReqUrl."""

    def __init__(self, reply, context=None, status=200):
        self.seen = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.seen.append((self.path, dict(self.headers), body))
                url = etree.fromstring(body).findtext(".//" + q("ClientReqUrl"))
                out = reply(url)
                self.send_response(status)
                self.send_header("Content-Length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)

            def log_message(self, *a):
                pass
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.http.server_address[1]
        self.thread = threading.Thread(target=self.http.serve_forever, daemon=True)
        self.thread.start()

    def url(self, path=LOOKUP):
        return "http://127.0.0.1:%d%s%s" % (self.port, BASE, path)

    def stop(self):
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server():
    made = []

    def make(reply, **kw):
        made.append(Server(reply, **kw))
        return made[-1]
    yield make
    for s in made:
        s.stop()


def flip(reply, old, new):
    assert reply.count(old) == 1
    return reply.replace(old, new)


TWIN = lambda a, b, url: lookup(a, url)
NOT_BELIEVED = {
    "tampered": (lambda a, b, url: flip(lookup(a, url), b"kms.other.example", b"kms.mine.example"), "does not hold"),
    "of another user": (lambda a, b, url: lookup(a, url, UserUri=b.uri), "the reply is for `sip:bob@example.org`"),
    "signed by another": (lambda a, b, url: lookup(a, url, sign_by=b.signer()), "by `ink.1.bob`"),
    "signed by her TrK": (lambda a, b, url: lookup(a, url, sign_by=(a.trk_id, a.trk)), "by `trk.1.alice`"),
    "by her key's name alone": (lambda a, b, url: lookup(a, url, sign_by=(a.ink_id, b.ink)), "does not hold"),
    "not signed": (lambda a, b, url: lookup(a, url, sign_by=False), "has no signature"),
    "to another URL": (lambda a, b, url: lookup(a, url + "x"), "the reply answers `"),
    "old": (lambda a, b, url: lookup(a, url, Time=kms.now(-31)[:19] + "Z"), "which is not now"),
    "of the future": (lambda a, b, url: lookup(a, url, Time=kms.now(33)[:19] + "Z"), "which is not now"),
    "a request": (lambda a, b, url: kms.signed_request(a, url), "not a KmsResponse"),
    "a page": (lambda a, b, url: b"<html><body>Bad Gateway</body></html>", "not a KmsResponse"),
    "no XML": (lambda a, b, url: b"Bad Gateway", "not a KmsResponse"),
    "nothing": (lambda a, b, url: b"", "not a KmsResponse"),
    "a DTD": (lambda a, b, url: flip(lookup(a, url), b"?>\n", b"?>\n<!DOCTYPE x>\n"), "not a KmsResponse"),
}


@pytest.mark.parametrize("name", NOT_BELIEVED)
def test_not_to_be_believed(server, alice, bob, keys, name):
    make, told = NOT_BELIEVED[name]
    s = server(lambda url: make(alice, bob, url))
    r = ask(s.url(), alice, keys())
    assert r.code == 1 and told in r.err and "failed verification" in r.err and r.out == "", r


def test_the_twin_is_believed(server, alice, bob, keys):
    for over in ({}, {"Time": kms.now(-25)[:19] + "Z"}):
        r = ask(server(lambda url: lookup(alice, url, **over)).url(), alice, keys())
        assert r.code == 0 and r.out.startswith("KmsLookup for sip:alice@example.org from kms.example.org at "), r


def test_what_the_client_sends(server, alice, keys, tmp_path):
    """As another implementation reads it, and with nothing in it that it was not told."""
    s = server(lambda url: lookup(alice, url))
    for _ in range(2):
        assert ask(s.url(), alice, keys(), "--client-id", "radio <7> & co").code == 0
    for path, headers, body in s.seen:
        assert path == BASE + LOOKUP and headers["Content-Type"] == "application/xml"
        assert "Authorization" not in headers and "Expect" not in headers
        root = etree.fromstring(body)
        ctx = kms.xmlsec.SignatureContext()
        ctx.key = kms.xmlsec.Key.from_binary_data(kms.xmlsec.KeyData.HMAC, alice.ink)
        ctx.register_id(root[0], "Id")
        ctx.verify(root[1])
        assert [c.tag for c in root] == [q("KmsRequest"), q("Signature", kms.DS)]
        assert [etree.QName(e).localname for e in root[0]] == ["UserUri", "KmsUri", "Time", "ClientId", "DeviceId",
                                                               "ClientReqUrl", "TrK-ID", "Signature-ID"]
        assert root[0].findtext(q("ClientId")) == "radio <7> & co" and root[0].findtext(q("UserUri")) == alice.uri
        assert root[0].findtext(q("KmsUri")) == "kms.example.org"
    assert s.seen[0][2] != s.seen[1][2], "two requests are never the same"


def test_kms_uri_is_the_host_of_the_url(server, alice, keys):
    s = server(lambda url: lookup(alice, url))
    r = Told(kmsgate("request", "--url", s.url(), "--user", alice.uri, "--keys", keys()))
    assert r.code == 0 and etree.fromstring(s.seen[0][2]).findtext(".//" + q("KmsUri")) == "127.0.0.1", r


@pytest.mark.parametrize("signed", [True, False])
def test_a_refusal_is_told(server, alice, keys, signed):
    s = server(lambda url: lookup(alice, url, error="time.stale", sign_by=None if signed else False), status=403)
    r = ask(s.url(), alice, keys())
    assert r.code == 1 and r.out == "", r
    assert "refused: KmsError 403 time.stale " + ("(signed by ink.1.alice)" if signed else "(not signed)") in r.err


def test_a_refusal_by_the_gate(gate, alice, keys):
    r = Told(kmsgate("request", "--url", gate.url("/keyprov"), "--user", alice.uri, "--keys", keys()))
    assert r.code == 1 and "refused: KmsError 403 kms_uri.mismatch (signed by ink.1.alice)" in r.err, r


def test_a_user_that_the_gate_does_not_know(gate, keys):
    carol = kms.User("sip:carol@example.org")
    r = ask(gate.url("/keyprov"), carol, keys(carol))
    assert r.code == 1 and "refused: KmsError 403 signature.invalid (not signed)" in r.err, r


def test_a_forged_refusal_is_not_believed(server, alice, bob, keys):
    s = server(lambda url: lookup(alice, url, error="go away", sign_by=(alice.ink_id, bob.ink)), status=403)
    r = ask(s.url(), alice, keys())
    assert r.code == 1 and "does not hold" in r.err and "go away" not in r.err, r


def test_control_characters_do_not_reach_the_terminal(server, alice, keys):
    s = server(lambda url: lookup(alice, url, error="x\u009b31m\ty", sign_by=False), status=403)
    r = ask(s.url(), alice, keys())
    assert r.code == 1 and "\u009b" not in r.err and "\t" not in r.err, r


# --- TLS, tokens, addresses ----------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    d = tmp_path_factory.mktemp("pki")

    def run(*argv):
        subprocess.run(argv, check=True, capture_output=True, cwd=d)
    for ca in ("ca", "other-ca"):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + ca,
            "-keyout", ca + ".key", "-out", ca + ".pem", "-days", "2")
    for name, san in (("server", "DNS:kms.example.org"), ("device", "DNS:device")):
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + name,
            "-keyout", name + ".key", "-out", name + ".csr")
        (d / (name + ".ext")).write_text("subjectAltName=" + san + "\n")
        run("openssl", "x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out",
            name + ".pem", "-days", "2", "-extfile", name + ".ext")
    return d


@pytest.fixture
def tls(server, pki, alice):
    def make(client_certificates=False):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pki / "server.pem", pki / "server.key")
        if client_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(pki / "ca.pem")
        return server(lambda url: lookup(alice, url), context=context)
    return make


URL = "https://kms.example.org" + BASE + LOOKUP


def test_tls(tls, pki, alice, keys):
    s, k = tls(), keys()
    to = ("--connect", "127.0.0.1:%d" % s.port)
    r = ask(URL, alice, k, *to, "--ca", pki / "ca.pem")
    assert r.code == 0 and s.seen[0][1]["Host"] == "kms.example.org", r
    assert etree.fromstring(s.seen[0][2]).findtext(".//" + q("ClientReqUrl")) == URL
    for more, url in ((("--ca", pki / "other-ca.pem"), URL), ((), URL),
                      (("--ca", pki / "ca.pem"), URL.replace("kms.example.org", "kms.example.net")),
                      (("--ca", pki / "none.pem"), URL)):
        r = ask(url, alice, k, *to, *more)
        assert r.code == 1 and r.out == "" and "kmsgate: 127.0.0.1:%d: " % s.port in r.err, r
    assert len(s.seen) == 1, "nothing was sent to a server that was not believed"


def test_mutual_tls(tls, pki, alice, keys):
    s, k = tls(client_certificates=True), keys()
    to = ("--connect", "127.0.0.1:%d" % s.port, "--ca", pki / "ca.pem")
    assert ask(URL, alice, k, *to, "--cert", pki / "device.pem", "--key", pki / "device.key").code == 0
    assert ask(URL, alice, k, *to).code == 1
    assert ask(URL, alice, k, *to, "--cert", pki / "device.pem", "--key", pki / "server.key").code == 1
    assert len(s.seen) == 1


def test_connect_elsewhere_in_plain_http(server, alice, keys):
    """Behind a TLS terminator: the public URL is https, the address speaks HTTP."""
    s = server(lambda url: lookup(alice, url))
    r = ask(URL, alice, keys(), "--connect", "http://127.0.0.1:%d" % s.port)
    assert r.code == 0 and s.seen[0][1]["Host"] == "kms.example.org", r
    assert ask(URL, alice, keys(), "--connect", "127.0.0.1:%d" % s.port).code == 1


def test_connect_to_a_socket(gateway, alice, keys):
    g = gateway(listen="  - address: unix:%s" % "gate.sock")
    r = ask(g.url("/keyprov"), alice, keys(), "--connect", "unix:%s" % (g.folder / "gate.sock"))
    assert r.code == 0 and "  proven: " in r.out, r
    assert ask(g.url("/keyprov"), alice, keys(), "--connect", "unix:%s" % (g.folder / "none.sock")).code == 1


def test_token(server, alice, keys, tmp_path):
    s = server(lambda url: lookup(alice, url))
    token = tmp_path / "token"
    token.write_text("opaque.token-77\n")
    r = ask(s.url(), alice, keys(), "--token-file", token)
    assert r.code == 0 and s.seen[0][1]["Authorization"] == "Bearer opaque.token-77", r
    assert "opaque" not in r.out + r.err
    for bad in ("two words", "", "x\r\nX-Evil: 1"):
        token.write_text(bad)
        r = ask(s.url(), alice, keys(), "--token-file", token)
        assert r.code == 1 and "is not a valid token" in r.err and "X-Evil" not in r.err, r
    assert ask(s.url(), alice, keys(), "--token-file", tmp_path / "none").code == 1
    assert len(s.seen) == 1


def test_nobody_answers(alice, keys):
    url = "http://127.0.0.1:%d%s/keyprov" % (kms.free_port(), BASE)
    r = ask(url, alice, keys())
    assert r.code == 1 and r.err.startswith("kmsgate: " + url + ": ") and r.err.count("\n") == 1, r


# --- key files and words -------------------------------------------------------------------------------------------------

def test_key_files(server, alice, bob, keys, tmp_path):
    s = server(lambda url: lookup(alice, url))
    r = ask(s.url(), alice, tmp_path / "none.jsonl")
    assert r.code == 1 and "none.jsonl: cannot open: No such file" in r.err, r
    r = ask(s.url(), alice, keys(bob))
    assert r.code == 1 and "no key that can sign for sip:alice@example.org" in r.err, r
    bad = keys()
    bad.write_text(bad.read_text().replace('"ink"', '"kink"', 1))
    r = ask(s.url(), alice, bad)
    assert r.code == 1 and "client.jsonl:1:" in r.err and "`type` must be ink or trk" in r.err, r
    revoked = keys(name="revoked.jsonl")
    lines = [json.loads(x) for x in revoked.read_text().splitlines()]
    revoked.write_text("\n".join(json.dumps(dict(x, state="revoked") if x["type"] == "ink" else x) for x in lines))
    r = ask(s.url(), alice, revoked)
    assert r.code == 1 and "no key that can sign" in r.err, "the TrK does not sign for a user who had an InK"
    assert not s.seen
    r = ask(s.url(), alice, keys(mode=0o644))
    assert r.code == 0 and "warning: " in r.err and "readable by all" in r.err, r


def test_without_an_ink_the_trk_signs(server, keys):
    carol = kms.User("sip:carol@example.org", ink=False)
    r = ask(server(lambda url: lookup(carol, url)).url(), carol, keys(carol))
    assert r.code == 0 and "signed by trk.1.carol" in r.out, r


NEED = ("--url", "http://127.0.0.1:1" + BASE + "/init", "--user", "sip:alice@example.org", "--keys", "k.jsonl")
USAGE = [
    ((), "missing option `--url RESOURCE-URL`"),
    (NEED[:2], "missing option `--user URI`"),
    (NEED[:4], "missing option `--keys FILE.jsonl`"),
    (NEED + ("more",), "unexpected argument `more`"),
    (NEED + ("--nosuch",), "unknown option `--nosuch`"),
    (NEED + ("--url", "x"), "option `--url` given twice"),
    (NEED + ("--print=yes",), "option `--print` takes no argument"),
    (NEED + ("--ca",), "option `--ca` requires an argument: FILE"),
    (NEED + ("--ca=",), "option `--ca` requires an argument: FILE"),
    (("--url", "ftp://a/b") + NEED[2:], "--url: found `ftp://a/b`, expected an http:// or https:// URL"),
    (("--url", "http://u@a/b") + NEED[2:], "--url: found"),
    (("--url", "http://a/b#c") + NEED[2:], "--url: found"),
    (NEED[:2] + ("--user", "a b") + NEED[4:], "--user: found `a b`, expected a URI"),
    (NEED + ("--kms-uri", "a b"), "--kms-uri: found `a b`, expected a URI"),
    (NEED + ("--connect", "nowhere"), "--connect: found `nowhere`, expected HOST:PORT"),
    (NEED + ("--connect", "a:0"), "--connect: found"),
    (NEED + ("--connect", "a:1/x"), "--connect: found"),
    (NEED + ("--connect", "ftp://a:1"), "--connect: found"),
    (NEED + ("--connect", "::1:80"), "--connect: found"),
    (NEED + ("--connect", "unix:relative"), "--connect: found"),
    (NEED + ("--cert", "a"), "--cert and --key: found `a`, expected both of them"),
    (NEED + ("--certificate", "a", "--no-proof"), "--no-proof: found"),
]


@pytest.mark.parametrize("argv,told", USAGE)
def test_wrong_usage_of_request(argv, told):
    r = Told(kmsgate("request", *argv))
    assert r.code == 2 and r.err.startswith("kmsgate: request: " + told) and r.out == "", r


def test_wrong_usage_of_open(alice, keys, tmp_path):
    for argv, told in (((), "missing option `--user URI`"), (("--user", "u:u", "--keys", "k"), "missing argument: RESPONSE.xml"),
                       (("--user", "u:u", "--keys", "k", "a", "b"), "unexpected argument `b`"),
                       (("--user", "u:u", "--keys", "k", "--url", "x", "a"), "unknown option `--url`")):
        r = Told(kmsgate("open", *argv))
        assert r.code == 2 and told in r.err and r.out == "", r
    r = Told(kmsgate("open", tmp_path / "none.xml", "--keys=%s" % keys(), "--user=" + alice.uri))
    assert r.code == 1 and "none.xml: cannot be read: No such file" in r.err, r


@pytest.mark.parametrize("command", ["request", "open", "demo"])
def test_help(command):
    r = Told(kmsgate(command, "--help"))
    assert r.code == 0 and r.out.startswith("usage: kmsgate " + command) and r.err == ""
    assert max(map(len, r.out.splitlines())) <= 120


def test_print(gate, alice, keys):
    """The signed request, for others to post: accepted as it is."""
    r = ask(gate.url("/keyprov"), alice, keys(), "--print")
    assert r.code == 0 and not gate.decisions(), r
    assert gate.post("/keyprov", r.out.encode()).status == 200


def test_the_output_file_cannot_be_written(gate, alice, keys, tmp_path):
    r = ask(gate.url("/keyprov"), alice, keys(), "--no-proof", "--out", tmp_path / "no" / "folder")
    assert r.code == 1 and "cannot be written: No such file" in r.err and r.out == "", r


def test_standard_output_is_full(gate, alice, keys):
    with open("/dev/full", "w") as full:
        r = subprocess.run([BUILD / "kmsgate", "request", "--url", gate.url("/keyprov"), "--user", alice.uri, "--keys", keys(),
                            "--kms-uri", "kms.example.org"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert r.returncode == 1 and b"cannot write to standard output" in r.stderr


# --- secrets -------------------------------------------------------------------------------------------------------------

def forms(key):
    """How a key could show up, in any case and alignment."""
    hexed = key.hex()
    out = [key, hexed.encode(), hexed.upper().encode(), key[::-1], key[::-1].hex().encode()]
    for shift in range(3):
        out.append(base64.b64encode(b"\0" * shift + key)[4 if shift else 0:-4])
    return out


def test_secrets_are_shown_only_when_asked_for(gate, alice, keys, tmp_path):
    k = keys()
    argv = ["request", "--url", gate.url("/keyprov"), "--user", alice.uri, "--keys", k, "--kms-uri", "kms.example.org"]
    run = kmsgate(*argv, "--out", tmp_path / "reply.xml")
    clear = dict(kms.Reply(200, {}, (tmp_path / "reply.xml").read_bytes()).keys(alice.trk, alice.trk_id))
    secrets = [alice.ink, alice.trk, clear["UserSigningKeySSK"], clear["UserDecryptKey"], clear["UserPubTokenPVT"]]
    quiet = [run, kmsgate(*argv, "--print"), kmsgate("open", "--user", alice.uri, "--keys", k, tmp_path / "reply.xml")]
    for r in quiet:
        assert r.returncode == 0
        for secret in secrets:
            for form in forms(secret):
                assert form not in r.stdout and form not in r.stderr
    for r in (kmsgate("open", "--user", alice.uri, "--keys", k, "--with-secrets", tmp_path / "reply.xml"),
              kmsgate(*argv, "--with-secrets")):
        for name in ("UserSigningKeySSK", "UserDecryptKey", "UserPubTokenPVT"):
            # a PVT is made anew for each set that is issued, an SSK with it; this KMS keeps them
            assert b"\n    " + clear[name].hex().encode() + b"\n" in r.stdout
        for secret in (alice.ink, alice.trk):
            for form in forms(secret):
                assert form not in r.stdout and form not in r.stderr


def test_a_wrong_key_is_not_shown(gateway, alice, keys, tmp_path):
    g = gateway(legacy=["--fail", "wrong-ssk"])
    run = kmsgate("request", "--url", g.url("/keyprov"), "--user", alice.uri, "--keys", keys(), "--kms-uri",
                  "kms.example.org", "--out", tmp_path / "reply.xml")
    assert run.returncode == 1
    for _, secret in kms.Reply(200, {}, (tmp_path / "reply.xml").read_bytes()).keys(alice.trk, alice.trk_id):
        for form in forms(secret):
            assert form not in run.stdout and form not in run.stderr
