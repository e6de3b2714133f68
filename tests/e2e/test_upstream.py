"""An upstream that is broken, hostile or away."""
import http.server
import threading

import pytest
from lxml import etree

import kms
from kms import NS, q

FAILS = {
    "error-403": (403, "upstream.error"),
    "error-500": (500, "upstream.error"),
    "plain-text": (502, "upstream.invalid"),
    "wrong-user": (502, "upstream.wrong_user"),
    "extra-element": (502, "upstream.invalid"),
    "dtd": (502, "upstream.invalid"),
    "truncated": (502, None),
    "oversized": (502, "upstream.invalid"),
    "redirect": (502, "upstream.invalid"),
    "empty": (502, "upstream.invalid"),
    "bad-length": (502, "upstream.invalid"),
    "reset": (502, None),
    "silent": (504, "upstream.timeout"),
    "kms-error": (200, "ok"),
}


@pytest.mark.parametrize("mode", FAILS)
def test_broken_upstream(gateway, alice, mode):
    status, reason = FAILS[mode]
    g = gateway(legacy=["--fail", mode])
    r = g.ask(alice, "/keyprov")
    d = g.last(1)
    assert r.status == status, (r.body, d)
    assert d["verdict"] == "accept"
    assert d["reason"] == reason if reason else d["reason"] in ("upstream.invalid", "upstream.unreachable")
    assert r.signed and r.verify(alice.ink, alice.ink_id)
    assert r.response.find(q("KmsMessage")) is None and r.response.find(q("KmsError")) is not None
    assert r.text("UserUri") == alice.uri


def test_comments_are_dropped(gateway, alice):
    g = gateway(legacy=["--fail", "key-in-comment"])
    r = g.ask(alice, "/keyprov")
    assert r.status in (200, 502) and b"<!--" not in r.body


def test_unreachable_at_the_start(gateway, alice):
    g = gateway(upstream="http://127.0.0.1:%d" % kms.free_port())
    r = g.ask(alice, "/keyprov")
    assert (r.status, g.last(1)["reason"]) == (502, "upstream.unreachable")
    assert "upstream" in g.running.err


class Scripted:
    """An upstream that answers what a test tells it."""

    def __init__(self, status, body, headers=()):
        outer = self
        self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.path, dict(self.headers), data))
                text = body(outer, data) if callable(body) else body
                self.send_response(status)
                for k, v in headers:
                    self.send_header(k, v)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *a):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def keyprov(user, keyset=None, envelope="", message=None):
    octets = {"UserDecryptKey": b"\x04" + b"\x11" * 256, "UserSigningKeySSK": b"\x22" * 32,
              "UserPubTokenPVT": b"\x04" + b"\x33" * 64}
    keys = "".join("<%s>%s</%s>" % (n, o.hex(), n) for n, o in octets.items())
    ks = keyset if keyset is not None else (
        "<KmsKeySet><KmsUri>kms.example.org</KmsUri><UserUri>%s</UserUri><UserID>%s</UserID>"
        "<KeyPeriodNo>1514</KeyPeriodNo>%s</KmsKeySet>" % (user, "AB" * 32, keys))
    return ("<KmsResponse xmlns='%s'><UserUri>%s</UserUri><KmsUri>kms.example.org</KmsUri>"
            "<Time>2026-11-23T18:00:00Z</Time><ClientReqUrl>http://x/</ClientReqUrl>"
            "<KmsMessage>%s</KmsMessage>%s</KmsResponse>"
            % (NS, user, message or "<KmsKeyProv>%s</KmsKeyProv>" % ks, envelope)).encode()


HOSTILE = {
    "key in an extension of the envelope": dict(envelope="<x:Copy xmlns:x='urn:x'><x:UserSigningKeySSK>%s"
                                                "</x:UserSigningKeySSK></x:Copy>" % ("22" * 32)),
    "key in an unknown element": dict(message="<KmsKeyProv><Surprise>%s</Surprise></KmsKeyProv>" % ("22" * 32)),
    "key beside the key set": dict(message="<KmsKeyProv><UserSigningKeySSK>%s</UserSigningKeySSK></KmsKeyProv>"
                                   % ("22" * 32)),
    "two messages": dict(message="<KmsKeyProv/><KmsKeyProv/>"),
    "another message than owed": dict(message="<KmsLookup><KmsUri>kms.example.org</KmsUri></KmsLookup>"),
    "text between": dict(message="<KmsKeyProv>2222</KmsKeyProv>"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_reply(gateway, alice, name):
    up = Scripted(200, keyprov(alice.uri, **HOSTILE[name]))
    g = gateway(upstream=up.url)
    r = g.ask(alice, "/keyprov")
    assert b"22222222" not in r.body
    if r.status == 200:  # dropping an extension is right as well
        assert "extension" in name and len(r.keys(alice.trk, alice.trk_id)) == 3
    else:
        assert (r.status, g.last(1)["reason"]) == (502, "upstream.invalid")
    up.server.shutdown()


def test_the_twin_of_the_hostile_ones(gateway, alice):
    up = Scripted(200, keyprov(alice.uri))
    g = gateway(upstream=up.url)
    r = g.ask(alice, "/keyprov")
    assert r.status == 200 and len(r.keys(alice.trk, alice.trk_id)) == 3
    up.server.shutdown()


def test_a_user_without_trk(gateway, alice):
    dora = kms.User("sip:dora@example.org", trk=False)
    g = gateway([alice, dora])
    r = g.ask(dora, "/keyprov")
    assert (r.status, g.last(1)["reason"]) == (500, "protect.no_key")
    assert g.ask(dora, "/init").status == 200


def test_error_text_and_headers_of_the_upstream(gateway, alice):
    up = Scripted(401, b"secret stack trace", [("WWW-Authenticate", 'Bearer realm="kms", error="invalid_token"'),
                                               ("Retry-After", "30"), ("Set-Cookie", "a=b"), ("Server", "Old/1")])
    g = gateway(upstream=up.url)
    r = g.ask(alice, "/keyprov")
    assert r.status == 401 and b"secret stack" not in r.body
    assert r.headers["WWW-Authenticate"] == 'Bearer realm="kms", error="invalid_token"'
    assert r.headers["Retry-After"] == "30" and "Set-Cookie" not in r.headers
    up.server.shutdown()


def test_empty_answer_to_redirect(gateway, alice):
    up = Scripted(204, b"")
    g = gateway(upstream=up.url)
    r = g.ask(alice, "/redirect")
    assert r.status == 200 and r.verify(alice.ink, alice.ink_id) and r.response.find(q("KmsMessage")) is None
    up.server.shutdown()
