"""An upstream at fault at every stage: the client always gets an answer of the gateway's own, and a POST goes out
at most once."""
import gzip
import re
import ssl
import threading
import time

import pytest

import certs
import kms
from bad_upstream import Upstream, chunked, reply
from conftest import Gateway
from kms import NS

INIT = ("<KmsResponse xmlns='%s'><UserUri>sip:alice@example.org</UserUri><KmsUri>kms.example.org</KmsUri>"
        "<Time>2026-11-23T18:00:00Z</Time><ClientReqUrl>http://x/</ClientReqUrl><KmsMessage><KmsKeyProv/>"
        "</KmsMessage></KmsResponse>" % NS).encode()
SECRET = b"5EC12E7"
LEAK = INIT.replace(b"<KmsKeyProv/>", b"<KmsKeyProv>" + SECRET + b"</KmsKeyProv>")


@pytest.fixture(scope="module")
def alice():
    return kms.User("sip:alice@example.org")


class Scripts:
    """What the upstream of this module does: set before each request."""

    def __init__(self):
        self.script = None


@pytest.fixture
def place(module_place):
    """With no connection left over from the test before."""
    module_place.up.drop()
    time.sleep(0.05)
    return module_place


@pytest.fixture(scope="module")
def module_place(tmp_path_factory, alice):
    now = Scripts()
    up = Upstream(lambda c: now.script and now.script(c)) # none yet: the gateway asks whether it is there
    g = Gateway(tmp_path_factory.mktemp("faults"), [alice], upstream=up.url,
                config="workers: 1\nlimits: { idle_timeout: 20s }")
    # the shortest timeout that a slow machine under sanitizers still keeps to
    text = g.config.read_text().replace("timeout: 5s }", "timeout: 1500ms, max_reply: 64KiB }")
    assert "1500ms" in text
    g.config.write_text(text)
    g.running.stop()
    g.start()
    g.up, g.now = up, now
    yield g
    up.close()
    code = g.stop()
    assert code == 0 and "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err


def once(*parts, pause=0.05, end="close"):
    """Reads one request, sends the parts, ends."""
    def script(c):
        if c.read_request() is None:
            return
        c.send(*parts, pause=pause)
        if end == "reset":
            c.reset()
        elif end == "hold":
            c.hold()
    return script


def drip(data, pause):
    def script(c):
        if c.read_request() is None:
            return
        c.send(*(data[i:i + 1] for i in range(len(data))), pause=pause)
    return script


def before_reading(end):
    def script(c):
        if end == "reset":
            c.reset()
    return script


def after_head(end):
    def script(c):
        c.read_head()
        if end == "reset":
            c.reset()
    return script


def flood(piece, first=b"HTTP/1.1 200 OK\r\n"):
    def script(c):
        if c.read_request() is None:
            return
        c.send(first)
        while True:
            c.send(piece)
    return script


WHOLE = reply(INIT)
BOMB = gzip.compress(b" " * 50000000)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(INIT)
UNREACHABLE, INVALID, TIMEOUT = (502, "upstream.unreachable"), (502, "upstream.invalid"), (504, "upstream.timeout")
OK = (200, "ok")
FAULTS = {
    # ends
    "closes at once": (before_reading("close"), UNREACHABLE),
    "resets at once": (before_reading("reset"), UNREACHABLE),
    "closes after the head": (after_head("close"), UNREACHABLE),
    "resets after the head": (after_head("reset"), UNREACHABLE),
    "closes after the request": (once(), UNREACHABLE),
    "resets after the request": (once(end="reset"), UNREACHABLE),
    "closes in the status line": (once(WHOLE[:10]), UNREACHABLE),
    "closes in the head": (once(WHOLE[:25]), INVALID),
    "resets in the head": (once(WHOLE[:25], b"", end="reset"), INVALID),
    "closes after its head": (once(HEAD + b"\r\n"), INVALID),
    "closes in the body": (once(WHOLE[:-5]), INVALID),
    "resets in the body": (once(WHOLE[:-5], b"", end="reset"), INVALID),
    "closes in a chunk": (once(chunked(INIT)[:-20]), INVALID),
    "closes before the last chunk": (once(chunked(INIT, end=b"")), INVALID),
    "closes in the last chunk": (once(chunked(INIT, end=b"0\r\n")), INVALID),
    # silence
    "silent": (once(end="hold"), TIMEOUT),
    "silent after its head": (once(HEAD + b"\r\n", end="hold"), TIMEOUT),
    "silent in the body": (once(WHOLE[:-5], end="hold"), TIMEOUT),
    "slow without end": (drip(WHOLE, 0.05), TIMEOUT),
    "interim replies without end": (flood(b"HTTP/1.1 100 Continue\r\n\r\n", b""), INVALID),
    # lengths
    "length twice": (once(HEAD + b"Content-Length: %d\r\n\r\n" % len(INIT) + INIT), INVALID),
    "lengths unlike": (once(HEAD + b"Content-Length: 5\r\n\r\n" + INIT), INVALID),
    "lengths in a list": (once(b"HTTP/1.1 200 OK\r\nContent-Length: %d, %d\r\n\r\n" % (len(INIT), len(INIT)) + INIT),
                          INVALID),
    "length with a sign": (once(b"HTTP/1.1 200 OK\r\nContent-Length: +%d\r\n\r\n" % len(INIT) + INIT), INVALID),
    "length negative": (once(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + INIT), INVALID),
    "length no number": (once(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n" + INIT), INVALID),
    "length of 20 digits": (once(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n" + INIT), INVALID),
    "length short": (once(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + INIT), INVALID),
    "chunked and length": (once(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + chunked(INIT)[17:]), INVALID),
    "chunked twice": (once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + chunked(INIT)[17:]), INVALID),
    "chunked under HTTP/1.0": (once(chunked(INIT).replace(b"HTTP/1.1", b"HTTP/1.0")), INVALID),
    "another encoding of the transfer": (once(chunked(INIT).replace(b": chunked", b": gzip, chunked")), INVALID),
    "chunk with an extension": (once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x;a=b\r\n" % len(INIT) + INIT
                                     + b"\r\n0\r\n\r\n"), INVALID),
    "trailers": (once(chunked(INIT, end=b"0\r\nX: y\r\n\r\n")), OK),
    "a trailer that is no field": (once(chunked(INIT, end=b"0\r\nHTTP/1.1 200 OK\r\n\r\n")), INVALID),
    "chunk size broken": (once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + INIT), INVALID),
    "chunk size wraps": (once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000005\r\n" + INIT),
                         INVALID),
    "chunk without its end": (once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n" + INIT), INVALID),
    "too large by its length": (once(reply(INIT + b" " * 65536)), INVALID),
    "too large in chunks": (once(chunked(INIT + b" " * 65536)), INVALID),
    "too large until it closes": (flood(b" " * 1000, b"HTTP/1.0 200 OK\r\n\r\n"), INVALID),
    "until it closes": (once(b"HTTP/1.0 200 OK\r\n\r\n" + INIT), OK),
    # heads
    "no HTTP": (once(b"SSH-2.0-x\r\n"), INVALID),
    "HTTP/0.9": (once(INIT), INVALID),
    "HTTP/2": (once(b"\0\0\x12\x04\0\0\0\0\0" + b"\0" * 18), INVALID),
    "HTTP/3 in words": (once(WHOLE.replace(b"HTTP/1.1", b"HTTP/3.0")), INVALID),
    "ICY": (once(WHOLE.replace(b"HTTP/1.1", b"ICY")), INVALID),
    "status of two digits": (once(reply(INIT, b"20 OK")), INVALID),
    "status of four digits": (once(reply(INIT, b"2000 OK")), INVALID),
    "status 0": (once(reply(INIT, b"000 OK")), INVALID),
    "status 600": (once(reply(INIT, b"600 OK")), INVALID),
    "status 999": (once(reply(INIT, b"999 OK")), INVALID),
    "bare CR in a header": (once(HEAD + b"X: a\rY: b\r\n\r\n" + INIT), INVALID),
    "bare LF in the head": (once(HEAD + b"X: a\n\r\n" + INIT), INVALID),
    "bare LF in the status line": (once(WHOLE.replace(b"OK\r\n", b"OK\n")), INVALID),
    "a folded header": (once(HEAD + b"X: a\r\n b\r\n\r\n" + INIT), INVALID),
    "a blank before the colon": (once(b"HTTP/1.1 200 OK\r\nContent-Length : %d\r\n\r\n" % len(INIT) + INIT), INVALID),
    "a header without a name": (once(HEAD + b": x\r\n\r\n" + INIT), INVALID),
    "no reason phrase": (once(WHOLE.replace(b" OK", b"")), OK),
    "an empty reason phrase": (once(WHOLE.replace(b"OK", b"")), OK),
    "NUL in the head": (once(HEAD + b"X: \0\r\n\r\n" + INIT), INVALID),
    "header of 200 KiB": (once(HEAD + b"X: " + b"a" * 200000 + b"\r\n\r\n" + INIT), INVALID),
    "10000 headers": (once(HEAD + b"".join(b"X-%d: abcdefgh\r\n" % i for i in range(10000)) + b"\r\n" + INIT), INVALID),
    "headers without end": (flood(b"X: abcdefgh\r\n"), INVALID),
    "a header without end": (flood(b"X" * 1000), INVALID),
    # statuses
    "101": (once(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + INIT), INVALID),
    "101, then silence": (once(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", end="hold"),
                          INVALID),
    "100, then silence": (once(b"HTTP/1.1 100 Continue\r\n\r\n", end="hold"), INVALID),
    "199 with a length, then silence": (once(b"HTTP/1.1 199 X\r\nContent-Length: 0\r\n\r\n", end="hold"), INVALID),
    "100, a head, then silence": (once(b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"\r\n", end="hold"), TIMEOUT),
    "102 first": (once(b"HTTP/1.1 102 Processing\r\n\r\n" + WHOLE), INVALID),
    "100 with a length first": (once(b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n" + WHOLE), INVALID),
    "100 first": (once(b"HTTP/1.1 100 Continue\r\n\r\n", WHOLE), OK),
    "103 first": (once(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + WHOLE), OK),
    "204": (once(b"HTTP/1.1 204 No Content\r\n\r\n"), INVALID),
    "204 with a length": (once(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nabcde"), INVALID),
    "205": (once(reply(b"", b"205 Reset")), INVALID),
    "300": (once(reply(INIT, b"300 Multiple Choices")), INVALID),
    "304": (once(b"HTTP/1.1 304 Not Modified\r\n\r\n"), INVALID),
    "400": (once(reply(LEAK, b"400 Bad")), (400, "upstream.error")),
    "404": (once(reply(LEAK, b"404 Not")), (404, "upstream.error")),
    "418": (once(reply(b"", b"418 I")), (418, "upstream.error")),
    "500": (once(reply(LEAK, b"500 Server")), (500, "upstream.error")),
    "503": (once(reply(LEAK, b"503 Busy")), (503, "upstream.error")),
    "599": (once(reply(LEAK, b"599 X")), (599, "upstream.error")),
    # encodings
    "gzip": (once(reply(gzip.compress(INIT), headers=[b"Content-Encoding: gzip"])), INVALID),
    "gzip, unsaid": (once(reply(gzip.compress(INIT))), INVALID),
    "gzip bomb": (once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n%x\r\n" % len(BOMB) +
                       BOMB + b"\r\n0\r\n\r\n"), INVALID),
    "no content": (once(reply(b"")), INVALID),
    "UTF-16": (once(reply(INIT.decode().encode("utf-16"))), INVALID),
    "white space around": (once(reply(INIT + b"\n\n")), OK),
    "as it should be": (once(WHOLE), OK),
    "as it should be, in pieces": (once(*(WHOLE[i:i + 50] for i in range(0, len(WHOLE), 50)), pause=0.01), OK),
    "as it should be, in chunks": (once(chunked(INIT)), OK),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(place, alice, name):
    script, due = FAULTS[name]
    place.now.script = script
    before = len(place.up.requests)
    began = time.monotonic()
    r = place.ask(alice, "/keyprov")
    d = kms.wait_for(lambda: [x for x in place.decisions() if x["id"] == r.headers["X-Request-Id"]], 5)[0]
    assert time.monotonic() - began < 30
    assert (r.status, d["reason"]) == due, d
    assert d["verdict"] == "accept" and d["status"] == r.status
    assert SECRET not in r.body and r.signed and r.verify(alice.ink, alice.ink_id)
    if r.status != 200:
        assert r.response.find(kms.q("KmsMessage")) is None and r.response.find(kms.q("KmsError")) is not None
    assert len(place.up.requests) - before <= 1, "sent twice"


def keep_alive(answer):
    """Answers request after request on one connection; answer(n) gives the bytes, None: ends it."""
    def script(c):
        n = 0
        while c.read_request() is not None:
            n += 1
            out = answer(c, n)
            if out is None:
                return
            c.send(out)
    return script


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_kept_connection_that_dies_under_a_request(place, alice, end):
    """The upstream has read it: it may have acted on it, so that it is not sent again."""
    def answer(c, n):
        if n == 1:
            return WHOLE
        if end == "reset":
            c.reset()
        return None
    place.now.script = keep_alive(answer)
    assert place.ask(alice, "/keyprov").status == 200
    before = len(place.up.requests)
    r = place.ask(alice, "/keyprov")
    assert (r.status, len(place.up.requests) - before) == (502, 1)
    assert place.ask(alice, "/keyprov").status == 200  # a new connection


def test_a_kept_connection_that_was_closed_meanwhile(place, alice):
    place.now.script = once(WHOLE, b"")
    assert place.ask(alice, "/keyprov").status == 200
    time.sleep(0.3)
    opened = place.up.count
    assert place.ask(alice, "/keyprov").status == 200 and place.up.count == opened + 1


@pytest.mark.parametrize("when", ["with the reply", "later"])
def test_a_reply_that_nobody_asked_for(place, alice, when):
    """What an upstream says before it is asked is no reply to the next one who asks."""
    foreign = reply(INIT.replace(b"KmsKeyProv", b"KmsCertCache"))
    opened = place.up.count

    def script(c):
        if c.number == opened + 1 and c.read_request() is not None:
            if when == "later":
                c.send(WHOLE, foreign)
            else:
                c.send(WHOLE + foreign)
        while c.read_request() is not None:
            c.send(WHOLE)
    place.now.script = script
    before = len(place.up.requests)
    assert place.ask(alice, "/keyprov").status == 200
    time.sleep(0.3)
    for _ in range(3):
        r = place.ask(alice, "/keyprov")
        assert r.status == 200 and r.response.find(".//" + kms.q("KmsKeyProv")) is not None
    assert place.up.count == opened + 2 and len(place.up.requests) == before + 4


HEADERS = {
    "as they are": ([b'WWW-Authenticate: Bearer realm="kms"', b"Retry-After: 30"], 'Bearer realm="kms"', "30"),
    "other case": ([b"www-authenticate:Bearer", b"RETRY-AFTER:  7 "], "Bearer", "7"),
    "a date": ([b"Retry-After: Fri, 31 Dec 2027 23:59:59 GMT"], None, "Fri, 31 Dec 2027 23:59:59 GMT"),
    "8 bits": ([b"WWW-Authenticate: B\xe9", b"Retry-After: \xe9"], None, None),
    "control": ([b"WWW-Authenticate: B\x01", b"Retry-After: 1\x7f"], None, None),
    "too long": ([b"WWW-Authenticate: " + b"a" * 300, b"Retry-After: " + b"1" * 300], None, None),
    "no number and no date": ([b"Retry-After: <script>"], None, None),
    "empty": ([b"WWW-Authenticate:", b"Retry-After:"], None, None),
    "others": ([b"Set-Cookie: a=b", b"X-Secret: 1", b"Location: http://x/", b"Server: x"], None, None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_pass(place, alice, name):
    headers, authenticate, after = HEADERS[name]
    place.now.script = once(reply(b"", b"401 Unauthorized", headers))
    r = place.ask(alice, "/keyprov")
    assert r.status == 401
    assert (r.headers["WWW-Authenticate"], r.headers["Retry-After"]) == (authenticate, after)
    assert set(r.headers) <= {"Content-Type", "Content-Length", "Cache-Control", "X-Request-Id", "WWW-Authenticate",
                              "Retry-After", "Connection"}


def test_headers_of_interim_replies_and_trailers_do_not_pass(place, alice):
    place.now.script = once(b"HTTP/1.1 103 Early\r\nWWW-Authenticate: Early\r\n\r\n" +
                            chunked(b"x", b"401 Unauthorized",
                                    b"0\r\nWWW-Authenticate: Late\r\nRetry-After: 9\r\n\r\n"))
    r = place.ask(alice, "/keyprov")
    assert (r.status, r.headers["WWW-Authenticate"], r.headers["Retry-After"]) == (401, None, None)


def test_a_client_that_has_gone(place, alice):
    """The reply has nobody left; the decision is written all the same, and nothing stays behind."""
    import socket
    import struct
    import wire
    place.now.script = once(b"", WHOLE, pause=0.6)
    time.sleep(0.3)
    before = len(place.decisions())
    for end in ("close", "reset"):
        s = wire.connect(place)
        s.sendall(wire.Request(place, alice, "/keyprov").bytes())
        time.sleep(0.2)
        if end == "reset":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    lines = kms.wait_for(lambda: place.decisions()[before:] if len(place.decisions()) >= before + 2 else None)
    assert [d["reason"] for d in lines] == ["ok", "ok"]
    kms.wait_for(lambda: "kmsgate_connections 0\n" in place.admin("/metrics")[1]
                 and "kmsgate_in_flight 0\n" in place.admin("/metrics")[1], 10)


def test_what_the_upstream_sees(gateway, alice):
    """Only what is the gateway's, and of the client's only what may pass."""
    up = Upstream(once(WHOLE))
    g = gateway([alice], upstream=up.url + "/legacy/kms/", rules="""\
version: 1
kms: { uris: [kms.example.org] }
requests: [{ id: everyone, forward: { pass: [X-Fleet, X-Hop, X_Under, Accept-Language] } }]
responses: [{ id: default }]
""")
    body = kms.signed_request(alice, g.url("/keyprov?a=%41&b"))
    r = g.post("/keyprov?a=%41&b", body, headers={
        "Accept": "application/xml", "Accept-Language": "de", "User-Agent": "radio", "Authorization": "Bearer t",
        "X-Fleet": "north", "X-Hop": "1", "Connection": "X-Hop, Accept-Language", "TE": "trailers", "Upgrade": "h2c",
        "Keep-Alive": "5", "Proxy-Authorization": "x", "Proxy-Connection": "x", "Forwarded": "for=6.6.6.6",
        "X-Forwarded-For": "6.6.6.6", "X-Forwarded-Host": "x", "X-Real-IP": "6.6.6.6", "X-Request-Id": "mine",
        "Cookie": "a=b", "Referer": "x", "Accept-Encoding": "gzip", "Origin": "x", "Range": "bytes=0-1",
        "X-3GPP-Asserted-Identity": "sip:mallory@example.org", "Expect": "100-continue", "Via": "1.1 x"})
    assert r.status == 200
    head = up.requests[0][0].decode()
    assert head.split("\r\n")[0] == "POST /legacy/kms" + kms.BASE + "/keyprov?a=%41&b HTTP/1.1"
    seen = {}
    for line in head.split("\r\n")[1:]:
        name, value = line.split(": ", 1)
        assert name.lower() not in seen
        seen[name.lower()] = value
    assert seen.pop("content-length") == str(len(up.requests[0][1]))
    assert seen.pop("content-type").startswith("application/xml")
    assert re.fullmatch("00-%s-[0-9a-f]{16}-00" % r.headers["X-Request-Id"], seen.pop("traceparent"))
    assert seen == {"host": up.url.split("//")[1], "x-request-id": r.headers["X-Request-Id"],
                    "accept": "application/xml", "user-agent": "radio", "authorization": "Bearer t", "x-fleet": "north"}
    up.close()


def server_context(pair, client_ca=None, **kw):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*map(str, pair))
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    for k, v in kw.items():
        setattr(context, k, v)
    return context


def with_tls(g, text):
    config = g.config.read_text()
    assert "timeout: 5s }" in config
    g.config.write_text(config.replace("timeout: 5s }", "timeout: 5s, tls: { %s } }" % text))
    return g.start()


TLS_FAULTS = {
    "as it should be": ("good", None),
    "another authority": ("foreign", "certificate"),
    "another host": ("elsewhere", "IP address mismatch"),
    "expired": ("old", "expired"),
    "for clients": ("client", "purpose"),
    "TLS 1.1": ("good", "TLS: the handshake"),
    "no TLS": (None, "TLS: the handshake"),
}


@pytest.mark.parametrize("name", TLS_FAULTS)
def test_tls_to_the_upstream(gateway, alice, tmp_path, name):
    folder = tmp_path / "certs"
    folder.mkdir()
    ca = certs.authority(folder, "ca")
    certs.authority(folder, "other")
    which, words = TLS_FAULTS[name]
    pair = {"good": lambda: certs.issue(folder, "ca", "good"),
            "foreign": lambda: certs.issue(folder, "other", "foreign"),
            "elsewhere": lambda: certs.issue(folder, "ca", "elsewhere", host="DNS:kms.example.org"),
            "old": lambda: certs.issue(folder, "ca", "old", past=True),
            "client": lambda: certs.issue(folder, "ca", "client", usage="clientAuth"),
            None: lambda: None}[which]()
    context = server_context(pair) if pair else None
    if name == "TLS 1.1":
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
    up = Upstream(once(WHOLE) if pair else lambda c: (c.s.recv(1000), c.send(b"HTTP/1.1 400 Bad\r\n\r\n")), context)
    g = gateway([alice], upstream="https://127.0.0.1:%d" % up.port, start=False)
    with_tls(g, "ca: %s" % ca)
    r = g.ask(alice, "/keyprov")
    d = g.last(1)
    if words is None:
        assert (r.status, d["reason"]) == (200, "ok") and "can be reached" in g.running.err
    else:
        assert (r.status, d["reason"]) == (502, "upstream.unreachable") and up.requests == []
        assert re.search("WARN|warn", g.running.err) and words in g.running.err, g.running.err
    up.close()


def test_new_certificates_for_the_upstream(gateway, alice, tmp_path):
    """The authority and the client certificate are read again when they change; what is at fault leaves the old."""
    folder = tmp_path / "certs"
    folder.mkdir()
    for name in ("ca", "next", "clients"):
        certs.authority(folder, name)
    first = certs.issue(folder, "ca", "first")
    second = certs.issue(folder, "next", "second")
    certs.issue(folder, "clients", "me")
    (folder / "trust.pem").write_text((folder / "ca.pem").read_text())
    seen = []

    def script(c):
        seen.append(dict(x[0] for x in c.s.getpeercert()["subject"])["commonName"])
        once(WHOLE)(c)
    up = Upstream(script, server_context(first, folder / "clients.pem"))
    g = gateway([alice], upstream="https://127.0.0.1:%d" % up.port, start=False)
    with_tls(g, "ca: {0}/trust.pem, certificate: {0}/me.pem, key: {0}/me.key".format(folder))
    assert g.ask(alice, "/keyprov").status == 200 and set(seen) == {"me"}
    assert 'kmsgate_certificate_expiry_seconds{file="%s/me.pem"}' % folder in g.admin("/metrics")[1]
    up.tls = server_context(second, folder / "clients.pem")
    assert g.ask(alice, "/keyprov").status == 502
    (folder / "trust.pem").write_text("nothing")
    kms.wait_for(lambda: "certificate: refused" in g.admin("/readyz")[1], 5)
    up.tls = server_context(first, folder / "clients.pem")
    assert g.ask(alice, "/keyprov").status == 200
    up.tls = server_context(second, folder / "clients.pem")
    (folder / "trust.pem").write_text((folder / "next.pem").read_text())
    kms.wait_for(lambda: g.admin("/readyz")[1] == "ready\n", 5)
    kms.wait_for(lambda: g.ask(alice, "/keyprov").status == 200, 5)
    certs.issue(folder, "clients", "other")
    (folder / "me.pem").write_text((folder / "other.pem").read_text())
    (folder / "me.key").write_text((folder / "other.key").read_text())
    kms.wait_for(lambda: g.ask(alice, "/keyprov").status == 200 and seen[-1] == "other", 5)
    up.close()


def test_comes_and_goes(gateway, alice):
    """Once a change, not once a request; also when nobody asks."""
    port = kms.free_port()
    g = gateway([alice], upstream="http://127.0.0.1:%d" % port, config="workers: 2")
    kms.wait_for(lambda: "requests get an error until it answers" in g.running.err, 5)
    assert "refused" in g.running.err
    assert {g.ask(alice, "/keyprov").status for _ in range(10)} == {502}
    assert g.running.err.count("requests get an error") == 1
    assert "does not answer" in g.admin("/api/state")[1]
    # it says that it closes: else the next request may be on its way when it does, which nobody may repeat
    up = Upstream(once(reply(INIT, headers=[b"Connection: close"])), port=port)
    kms.wait_for(lambda: re.search(r"can be reached again after \d+ s; 10 requests failed", g.running.err), 6)
    assert {g.ask(alice, "/keyprov").status for _ in range(10)} == {200}
    up.close()
    time.sleep(5.5)  # it is let come and go without a line for five seconds
    assert {g.ask(alice, "/keyprov").status for _ in range(10)} == {502}
    assert g.running.err.count("requests get an error") == 2


def test_more_requests_than_connections(gateway, alice):
    """With as many calls under way as there may be, the next is refused at once, and does not wait for its turn."""
    go = threading.Event()

    def script(c):
        while c.read_request() is not None:
            go.wait(20)
            c.send(WHOLE)
    up = Upstream(script)
    g = gateway([alice], upstream=up.url, start=False, config="workers: 2")
    config = g.config.read_text()
    g.config.write_text(config.replace("timeout: 5s }", "timeout: 20s, connections: 2 }"))
    g.start()
    got = []
    threads = [threading.Thread(target=lambda: got.append(g.ask(alice, "/keyprov").status)) for _ in range(2)]
    for t in threads:
        t.start()
    kms.wait_for(lambda: len(up.requests) == 2, 10)
    began = time.monotonic()
    r = g.ask(alice, "/keyprov")
    assert (r.status, r.headers["Retry-After"]) == (503, "1") and time.monotonic() - began < 10
    assert g.last(1)["reason"] == "http.busy" and len(up.requests) == 2
    assert 'kmsgate_limit{name="upstream_connections"} 1\n' in g.admin("/metrics")[1]
    assert "upstream.connections is reached" in g.admin("/readyz")[1] and "upstream.connections" in g.running.err
    go.set()
    for t in threads:
        t.join()
    assert got == [200, 200]
    assert g.ask(alice, "/keyprov").status == 200  # there is room again
    up.close()
