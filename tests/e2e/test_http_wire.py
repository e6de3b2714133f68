"""Each sentence of the wire contract, over plain HTTP and TLS: a good request, and one that differs in one place."""
import re
import signal
import time

import pytest

import certs
import kms
import wire
from bad_upstream import Upstream
from conftest import Gateway

TARGET = kms.BASE.encode() + b"/init"


@pytest.fixture(scope="module")
def user():
    return kms.User("sip:alice@example.org")


@pytest.fixture(scope="module")
def g(tmp_path_factory, user):
    folder = tmp_path_factory.mktemp("wire")
    ca = certs.authority(folder, "ca")
    certs.issue(folder, "ca", "server")
    tls = kms.free_port()
    g = Gateway(folder, [user], listen="  - address: 127.0.0.1:%d\n"
                "    tls: { certificate: server.pem, key: server.key }" % tls)
    g.ca, g.tls = ca, tls
    yield g
    code = g.stop()
    assert code == 0 and "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err


@pytest.fixture(params=["plain", "tls"])
def open_one(g, request):
    return lambda: wire.connect(g) if request.param == "plain" else wire.connect(g, g.ca, g.tls)


def decision(g, answer):
    ident = answer["X-Request-Id"]
    assert re.fullmatch("[0-9a-f]{32}", ident)

    def look():
        got = [d for d in g.decisions() if d["id"] == ident]
        assert len(got) <= 1
        return got
    return kms.wait_for(look, 5)[0]


def header(line):
    return lambda r: r.add(line)


def first_header(line):
    return lambda r: r.headers.insert(0, line)


def instead(name, value):
    return lambda r: r.set(name, value)


def target(t):
    return lambda r: setattr(r, "target", t)


def line(t):
    return lambda r: setattr(r, "line", t)


def below(path):
    return target(kms.BASE.encode() + path)


def body(change):
    def do(r):
        r.chunked(7)
        r.body = change(r.body)
    return do


def no_length(*more):
    def do(r):
        r.without(b"Content-Length")
        r.headers += more
    return do


def length(text):
    return instead(b"Content-Length", text)


FRAMING = {
    # Content-Length and Transfer-Encoding
    "two lengths": lambda r: r.add(r.headers[2]),
    "two lengths, unlike": header(b"Content-Length: 1"),
    "length list": lambda r: r.set(b"Content-Length", b"%d, %d" % (len(r.body), len(r.body))),
    "length plus": lambda r: r.set(b"Content-Length", b"+%d" % len(r.body)),
    "length minus": length(b"-1"),
    "length hex": length(b"0x10"),
    "length fraction": length(b"5.0"),
    "length empty": length(b""),
    "length blank inside": length(b"1 0"),
    "length letters": length(b"ten"),
    "length space before colon": lambda r: r.without(b"Content-Length").add(b"Content-Length : %d" % len(r.body)),
    "length tab before colon": lambda r: r.without(b"Content-Length").add(b"Content-Length\t: %d" % len(r.body)),
    "length and chunked": lambda r: (r.chunked(7), r.add(b"Content-Length: 5")),
    "chunked and length": lambda r: (r.chunked(7), r.headers.insert(0, b"Content-Length: 5")),
    "chunked twice": lambda r: (r.chunked(7), r.add(b"Transfer-Encoding: chunked")),
    "chunked, chunked": lambda r: (r.chunked(7), r.set(b"Transfer-Encoding", b"chunked, chunked")),
    "gzip, chunked": lambda r: (r.chunked(7), r.set(b"Transfer-Encoding", b"gzip, chunked")),
    "chunked, identity": lambda r: (r.chunked(7), r.set(b"Transfer-Encoding", b"chunked, identity")),
    "identity": no_length(b"Transfer-Encoding: identity"),
    "Chunked": lambda r: (r.chunked(7), r.set(b"Transfer-Encoding", b"Chunked")),
    "xchunked": lambda r: (r.chunked(7), r.set(b"Transfer-Encoding", b"xchunked")),
    "chunked;q": lambda r: (r.chunked(7), r.set(b"Transfer-Encoding", b"chunked;q=1")),
    "chunked vertical tab": lambda r: (r.chunked(7), r.set(b"Transfer-Encoding", b"\x0bchunked")),
    "quoted chunked": lambda r: (r.chunked(7), r.set(b"Transfer-Encoding", b'"chunked"')),
    "encoding empty": no_length(b"Transfer-Encoding:"),
    "encoding space before colon": lambda r: (r.chunked(7), r.without(b"Transfer-Encoding"),
                                              r.add(b"Transfer-Encoding : chunked")),
    "chunked in 1.0": lambda r: (r.chunked(7), setattr(r, "version", b"HTTP/1.0")),
    # chunks
    "chunk extension": body(lambda b: b.replace(b"7\r\n", b"7;a=b\r\n", 1)),
    "chunk size space": body(lambda b: b.replace(b"7\r\n", b"7 \r\n", 1)),
    "chunk size space before": body(lambda b: b" " + b),
    "chunk size 0x": body(lambda b: b"0x" + b),
    "chunk size minus": body(lambda b: b"-" + b),
    "chunk size plus": body(lambda b: b"+" + b),
    "chunk size empty": body(lambda b: b.replace(b"7\r\n", b"\r\n", 1)),
    "chunk size nine digits": body(lambda b: b"00000000" + b),
    "chunk size bare LF": body(lambda b: b.replace(b"7\r\n", b"7\n", 1)),
    "chunk size bare CR": body(lambda b: b.replace(b"7\r\n", b"7\rx", 1)),
    "chunk data bare LF": body(lambda b: b[:10] + b"\n" + b[12:]),
    "chunk without its end": body(lambda b: b[:10] + b[12:]),
    "chunk longer than said": body(lambda b: b.replace(b"7\r\n", b"6\r\n", 1)),
    "trailer": body(lambda b: b[:-2] + b"X: y\r\n\r\n"),
    "trailer bare LF": body(lambda b: b[:-2] + b"\n"),
    # header lines
    "obs-fold": header(b"X: a\r\n b"),
    "obs-fold tab": header(b"X: a\r\n\tb"),
    "obs-fold first": first_header(b" X: a"),
    "obs-fold in a length": lambda r: r.set(b"Content-Length", b"1\r\n 0"),
    "no colon": header(b"X"),
    "no name": header(b": a"),
    "space in a name": header(b"X Y: a"),
    "tab in a name": header(b"X\tY: a"),
    "NUL in a name": header(b"X\0: a"),
    "control in a name": header(b"X\x01: a"),
    "8 bits in a name": header(b"X\xe9: a"),
    "DEL in a name": header(b"X\x7f: a"),
    "bracket in a name": header(b"X(: a"),
    "at in a name": header(b"X@y: a"),
    "quote in a name": header(b'"X": a'),
    "NUL in a value": header(b"X: a\0b"),
    "control in a value": header(b"X: a\x01b"),
    "escape in a value": header(b"X: a\x1b[2Jb"),
    "DEL in a value": header(b"X: a\x7fb"),
    "bare CR in a value": header(b"X: a\rb"),
    "bare LF in a value": header(b"X: a\nb"),
    "bare LF smuggles a header": header(b"X: a\nTransfer-Encoding: chunked"),
    "CR CR LF": header(b"X: a\r"),
    "bare LF ends": lambda r: setattr(r, "eol", b"\n"),
    "bare CR ends": lambda r: setattr(r, "eol", b"\r"),
    "two types": header(b"Content-Type: text/xml"),
    "two authorizations": lambda r: r.headers.extend([b"Authorization: Bearer a", b"Authorization: Bearer b"]),
    "two encodings": lambda r: r.headers.extend([b"Content-Encoding: gzip", b"Content-Encoding: identity"]),
    # Host
    "no Host": lambda r: r.without(b"Host"),
    "no Host in 1.0": lambda r: (r.without(b"Host"), setattr(r, "version", b"HTTP/1.0")),
    "two Hosts": header(b"Host: kms.example.org"),
    "two Hosts, other case": header(b"HOST: other.example"),
    "Host empty": instead(b"Host", b""),
    "Host with a path": instead(b"Host", b"kms.example.org/a"),
    "Host with user": instead(b"Host", b"a@kms.example.org"),
    "Host list": instead(b"Host", b"a, b"),
    "Host with a space": instead(b"Host", b"a b"),
    "Host 8 bits": instead(b"Host", b"k\xe9"),
    "Host backslash": instead(b"Host", b"a\\b"),
    # the request line
    "two spaces": line(b"POST  " + TARGET + b" HTTP/1.1"),
    "space at the end": line(b"POST " + TARGET + b" HTTP/1.1 "),
    "space at the beginning": line(b" POST " + TARGET + b" HTTP/1.1"),
    "tab": line(b"POST\t" + TARGET + b" HTTP/1.1"),
    "no version": line(b"POST " + TARGET),
    "space in the target": line(b"POST " + TARGET + b" x HTTP/1.1"),
    "http": line(b"POST " + TARGET + b" http/1.1"),
    "HTTP 1.1": line(b"POST " + TARGET + b" HTTP 1.1"),
    "HTTP/1.10": line(b"POST " + TARGET + b" HTTP/1.10"),
    "HTTP/01.1": line(b"POST " + TARGET + b" HTTP/01.1"),
    "HTTP/1": line(b"POST " + TARGET + b" HTTP/1"),
    "HTTP/1.x": line(b"POST " + TARGET + b" HTTP/1.x"),
    "HTTPS/1.1": line(b"POST " + TARGET + b" HTTPS/1.1"),
    "method with a bracket": line(b"PO(ST " + TARGET + b" HTTP/1.1"),
    "method with NUL": line(b"POST\0 " + TARGET + b" HTTP/1.1"),
    "method empty": line(b" " + TARGET + b" HTTP/1.1"),
    "method of 33 letters": line(b"A" * 33 + b" " + TARGET + b" HTTP/1.1"),
    "NUL in the target": line(b"POST " + TARGET + b"\0 HTTP/1.1"),
    "two empty lines before": line(b"\r\n\r\nPOST " + TARGET + b" HTTP/1.1"),
    "bare LF before": line(b"\nPOST " + TARGET + b" HTTP/1.1"),
    "a ClientHello": line(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r"),
}
FRAMING_REASON = {name: (400, "http.framing") for name in FRAMING}

VERSION = {v: line(b"POST " + TARGET + b" HTTP/" + v.encode()) for v in ("2.0", "0.9", "1.2", "1.9", "3.0", "9.9")}

METHODS = {m: (lambda m: lambda r: setattr(r, "method", m.encode()))(m) for m in (
    "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "post", "Post", "POSTX", "PRI", "PROPFIND")}

PATHS = {
    "absolute form": target(b"http://kms.example.org" + TARGET),
    "absolute form, other scheme": target(b"ftp://a" + TARGET),
    "asterisk": target(b"*"),
    "authority": target(b"kms.example.org:443"),
    "no slash": target(TARGET[1:]),
    "fragment": target(TARGET + b"#a"),
    "fragment behind a query": target(TARGET + b"?a#b"),
    "dot": below(b"/./init"),
    "dot dot": below(b"/x/../init"),
    "dot dot at the end": below(b"/init/.."),
    "dot, escaped": below(b"/%2e/init"),
    "dot dot, escaped": below(b"/x/%2e%2E/init"),
    "dot dot, half escaped": below(b"/x/.%2e/init"),
    "dot dot with parameter": below(b"/x/..;a/init"),
    "dot segment for a user": below(b"/keyprov/.."),
    "dot segment for a user, escaped": below(b"/keyprov/%2e%2e"),
    "doubled slash": below(b"//init"),
    "doubled slash in front": target(b"/" + TARGET),
    "doubled slash in the middle": target(TARGET.replace(b"/identity", b"//identity")),
    "escaped letter": below(b"/%69nit"),
    "escaped slash": below(b"/keyprov/a%2Fb"),
    "escaped slash, small": below(b"/keyprov/a%2fb"),
    "escaped backslash": below(b"/keyprov/a%5Cb"),
    "backslash": below(b"\\init"),
    "escape cut": below(b"/keyprov/a%2"),
    "escape of no hex": below(b"/keyprov/a%zz"),
    "percent alone": below(b"/keyprov/a%"),
    "escaped NUL": below(b"/keyprov/a%00b"),
    "escaped LF": below(b"/keyprov/a%0ab"),
    "escaped DEL": below(b"/keyprov/a%7f"),
    "broken UTF-8": below(b"/keyprov/a%ff"),
    "overlong slash": below(b"/keyprov/a%c0%af"),
    "8 bits": below(b"/keyprov/\xc3\xa9"),
    "control": below(b"/keyprov/a\x01"),
    "DEL": below(b"/keyprov/a\x7f"),
    "brackets": below(b"/keyprov/{user}"),
    "angle": below(b"/keyprov/<a>"),
    "quote": below(b'/keyprov/"a"'),
    "caret": below(b"/keyprov/a^b"),
    "query control": target(TARGET + b"?\x01"),
    "query 8 bits": target(TARGET + b"?\xe9"),
    "query escape cut": target(TARGET + b"?a=%4"),
}

RESOURCES = {p: below(p.encode()) for p in (
    "", "/", "/Init", "/init/", "/init/x", "/initx", "/keyprov/", "/keyprov/a/b", "/keyprov/a/D6B432320000000",
    "/keyprov/a/D6B4323200000000/x", "/certcache/x", "/certcache/%37", "/certcache/-1",
    "/cert", "/cert/", "/lookup", "/redirect/x",
    "/healthz", "/metrics", "/unknown")}
RESOURCES.update({p: target(p.encode()) for p in ("/", "/metrics", "/keymanagement", "/keymanagement/identity/v2/init",
                                                  "/KeyManagement/identity/v1/init")})

TYPES = {t: instead(b"Content-Type", t.encode()) for t in (
    "application/json", "text/plain", "application/xhtml+xml", "application/xml2", "application/", "xml", "", "*/*",
    "application/xml, text/xml", "application/xml; charset=utf-16", "application/xml; charset=iso-8859-1",
    "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/xml; version=1")}
ENCODINGS = {e: header(b"Content-Encoding: " + e.encode()) for e in ("gzip", "identity", "deflate", "br", "x")}
EXPECT = {e: header(b"Expect: " + e.encode()) for e in ("200-ok", "100-continue, x", "100", "x=y")}

LARGE = {
    "length": (length(b"65537"), 413),
    "length of 20 digits": (length(b"99999999999999999999"), 413),
    "length wraps to 5": (length(b"18446744073709551621"), 413),
    "chunk": (lambda r: (r.chunked(), setattr(r, "body", b"10001\r\n")), 413),
    "chunk wraps": (lambda r: (r.chunked(), setattr(r, "body", b"FFFFFFFF\r\n")), 413),
    "sum of chunks": (lambda r: (r.chunked(), setattr(r, "body", b"8000\r\n" + b" " * 32768 + b"\r\n8001\r\n")), 413),
    "target": (target(TARGET + b"?" + b"a" * (8192 - len(TARGET))), 414),
    "endless line": (line(b"P" * 20000), 414),
    "header": (header(b"X: " + b"a" * 8190), 431),
    "endless header": (header(b"X" * 20000), 431),
    "headers": (lambda r: r.headers.extend(b"X%d: " % i + b"a" * 4000 for i in range(5)), 431),
    "header count": (lambda r: r.headers.extend(b"X%d: a" % i for i in range(61)), 431),
}

TABLES = [
    (FRAMING, 400, "http.framing"), (VERSION, 505, "http.version"), (METHODS, 405, "http.method"),
    (PATHS, 400, "http.path"), (RESOURCES, 404, "http.resource"), (TYPES, 415, "http.media_type"),
    (ENCODINGS, 415, "http.media_type"), (EXPECT, 417, "http.expect"),
]
CASES = [pytest.param(change, status, reason, id="%s-%s" % (reason, name))
         for table, status, reason in TABLES for name, change in table.items()]
CASES += [pytest.param(change, status, "http.too_large", id="too_large-" + name)
          for name, (change, status) in LARGE.items()]


@pytest.mark.parametrize("change,status,reason", CASES)
def test_refused(g, user, open_one, change, status, reason):
    r = wire.Request(g, user)
    before = len(g.upstream_requests())
    change(r)
    raw = wire.talk(open_one(), r.bytes())
    a = wire.Answer(raw)
    d = decision(g, a)
    assert (a.status, d["reason"], d["status"], d["verdict"]) == (status, reason, status, "reject"), (raw, d)
    assert a.complete and a.rest == b"", "one answer, and the connection is closed"
    assert a.line.startswith("HTTP/1.1 %d " % status) and a["Connection"] == "close"
    assert a["Content-Type"] == "application/xml; charset=utf-8" and a["Cache-Control"] == "no-store"
    assert a.error_code() == status and b"<KmsResponse" in a.body
    assert a["Allow"] == ("POST" if status == 405 else None)
    assert len(g.upstream_requests()) == before


GOOD = {
    "as it is": lambda r: None,
    "an empty line before": line(b"\r\nPOST " + TARGET + b" HTTP/1.1"),
    "length with zeros": lambda r: r.set(b"Content-Length", b"000%d" % len(r.body)),
    "length in blanks": lambda r: r.set(b"Content-Length", b" \t%d\t " % len(r.body)),
    "chunked": lambda r: r.chunked(1, 2, 3),
    "chunked in bytes": lambda r: r.chunked(*[1] * len(r.body)),
    "chunk size with zeros": body(lambda b: b"0000000" + b),
    "chunk size in capitals": lambda r: (r.chunked(0xab), setattr(r, "body", r.body.replace(b"ab\r\n", b"AB\r\n", 1))),
    "HTTP/1.0": lambda r: setattr(r, "version", b"HTTP/1.0"),
    "Expect in 1.0 is nothing": lambda r: (setattr(r, "version", b"HTTP/1.0"), r.add(b"Expect: x")),
    "text/xml": instead(b"Content-Type", b"text/xml"),
    "no type": lambda r: r.without(b"Content-Type"),
    "type in capitals": instead(b"Content-Type", b"Application/XML"),
    "type with charset": instead(b"Content-Type", b'application/xml ; charset="UTF-8"'),
    "8 bits in a value": header(b"X: \xe9"),
    "tab in a value": header(b"X: a\tb"),
    "empty value": header(b"X:"),
    "a name of all characters": header(b"!#$%&'*+-.^_`|~09azAZ: a"),
    "Host with a port": instead(b"Host", b"kms.example.org:8443"),
    "Host IPv6": instead(b"Host", b"[::1]:8443"),
    "Connection in a list": instead(b"Connection", b"te, CLOSE"),
    "the most headers": lambda r: r.headers.extend(b"X%d: a" % i for i in range(60)),
    "the longest header": header(b"X: " + b"a" * 8189),
}


@pytest.mark.parametrize("name", GOOD)
def test_accepted(g, user, open_one, name):
    r = wire.Request(g, user)
    GOOD[name](r)
    raw = wire.talk(open_one(), r.bytes())
    a = wire.Answer(raw)
    assert a.status == 200 and a.complete and a.rest == b"" and a["Connection"] == "close", raw
    assert decision(g, a)["reason"] == "ok"


def test_the_longest_target(g, user):
    path = "/init?" + "a" * (8192 - len(TARGET) - 1)
    a = wire.Answer(wire.talk(wire.connect(g), wire.Request(g, user, path).bytes()))
    assert a.status == 200 and g.upstream_requests()[-1]["target"] == kms.BASE + path


def test_the_largest_body(g, user, open_one):
    r = wire.Request(g, user)
    r.body = r.body.replace(b"<SignedKmsRequest", b" " * (65536 - len(r.body)) + b"<SignedKmsRequest", 1)
    a = wire.Answer(wire.talk(open_one(), r.set(b"Content-Length", b"65536").bytes()))
    assert len(r.body) == 65536 and a.status == 200


@pytest.mark.parametrize("cut", ["every byte", "thirds"])
def test_in_pieces(g, user, open_one, cut):
    data = wire.Request(g, user).bytes()
    step = 1 if cut == "every byte" else len(data) // 3
    s = open_one()
    for i in range(0, len(data), step):
        s.sendall(data[i:i + step])
    assert wire.Answer(wire.until_closed(s)).status == 200


def test_head_has_no_body(g, open_one):
    raw = wire.talk(open_one(), b"HEAD " + TARGET + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    head, rest = raw.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 405 ") and b"Allow: POST\r\n" in head and rest == b""


def test_pipelined_in_order(g, user, open_one):
    """Ten at once, good and bad in turn; the answers come in the order of the requests, and the bad ones close nothing
    that was not at fault in its framing."""
    requests = []
    for i in range(10):
        r = wire.Request(g, user).without(b"Connection")
        if i % 2:
            r.body = r.body.replace(b"client-1", b"client-2")  # another text than was signed
        requests.append(r)
    requests[-1].add(b"Connection: close")
    got = wire.answers(wire.talk(open_one(), b"".join(r.bytes() for r in requests)))
    assert [a.status for a in got] == [200, 403] * 5
    assert [a["Connection"] for a in got] == [None] * 9 + ["close"]
    assert len({a["X-Request-Id"] for a in got}) == 10


def test_pipelining_takes_nobodys_turn(gateway, user):
    """One connection has a turn of a few requests, however many it has sent; then others have theirs."""
    g = gateway([user], config="workers: 1")
    many, one = wire.connect(g), wire.connect(g)
    empty = b"POST " + kms.BASE.encode() + b"%s HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n%s\r\n"
    g.running.p.send_signal(signal.SIGSTOP)  # so that both have sent before either is read
    many.sendall(empty % (b"/init", b"") * 120)
    one.sendall(empty % (b"/keyprov", b"Connection: close\r\n"))
    g.running.p.send_signal(signal.SIGCONT)
    paths = [d["path"] for d in g.decisions(121)]
    assert 0 < paths.index(kms.BASE + "/keyprov") < 50 and paths.count(kms.BASE + "/init") == 120
    many.close()
    one.close()


def test_who_is_being_served_is_not_read_far_ahead(gateway, user):
    """What follows a request that the upstream has stays with the client: it takes no memory here."""
    up = Upstream(lambda c: c.hold(60))
    g = gateway([user], upstream=up.url, start=False, config="workers: 1")
    g.config.write_text(g.config.read_text().replace("timeout: 5s }", "timeout: 60s }"))
    g.start()
    s = wire.connect(g)
    s.sendall(wire.Request(g, user).without(b"Connection").bytes())
    kms.wait_for(lambda: "kmsgate_in_flight 1\n" in g.admin("/metrics")[1])
    s.settimeout(2)
    with pytest.raises(TimeoutError):
        for _ in range(64):
            s.sendall(b"x" * (1 << 20))
    s.close()
    up.close()


def test_nothing_behind_the_last_is_answered(g, user, open_one):
    """After Connection: close, or after a refusal, what follows is thrown away: it could be anything."""
    time.sleep(0.3)  # lines of the tests before
    before = len(g.decisions())
    for last in (wire.Request(g, user).bytes(),
                 wire.Request(g, user).add(b"Content-Length: 5").without(b"Connection").bytes()):
        more = wire.Request(g, user)
        got = wire.answers(wire.talk(open_one(), last + more.bytes() * 3))
        assert len(got) == 1 and got[0]["Connection"] == "close"
    time.sleep(0.3)
    assert len(g.decisions()) == before + 2


def test_a_smuggled_request_is_none(g, user, open_one):
    """What the front server took for the body is never taken for a request here."""
    inner = wire.Request(g, user).bytes()
    r = wire.Request(g, user)
    r.chunked(7)
    r.add(b"Content-Length: %d" % len(r.body)).without(b"Connection")
    before = len(g.upstream_requests())
    got = wire.answers(wire.talk(open_one(), r.bytes() + inner))
    assert [a.status for a in got] == [400] and len(g.upstream_requests()) == before


def test_kept_alive(g, user, open_one):
    s = open_one()
    for _ in range(5):
        s.sendall(wire.Request(g, user).without(b"Connection").bytes())
        raw = b""
        while b"</SignedKmsResponse>" not in raw:
            raw += s.recv(65536)
        a = wire.Answer(raw)
        assert a.status == 200 and a["Connection"] is None and a.rest == b""
    s.close()


@pytest.mark.parametrize("keep", [b"Connection: keep-alive", None])
def test_http_1_0_closes(g, user, keep):
    r = wire.Request(g, user).without(b"Connection")
    r.version = b"HTTP/1.0"
    if keep:
        r.add(keep)
    a = wire.Answer(wire.talk(wire.connect(g), r.bytes()))
    assert a.status == 200 and a["Connection"] == "close"


def test_expect(g, user, open_one):
    r = wire.Request(g, user).add(b"Expect: 100-Continue")
    s = open_one()
    s.sendall(r.head())
    assert s.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    s.sendall(r.body)
    assert wire.Answer(wire.until_closed(s)).status == 200
    # nor who has not waited for it
    assert wire.Answer(wire.talk(open_one(), wire.Request(g, user).add(b"Expect: 100-continue").bytes())).status == 200
    # who is refused by his head is not asked for more
    r = wire.Request(g, user).add(b"Expect: 100-continue").set(b"Content-Type", b"text/plain")
    s = open_one()
    s.sendall(r.head())
    assert wire.Answer(wire.until_closed(s)).status == 415


def test_half_closed_after_the_request(g, user):
    s = wire.connect(g)
    s.sendall(wire.Request(g, user).without(b"Connection").bytes())
    s.shutdown(1)
    assert wire.Answer(wire.until_closed(s)).status == 200


@pytest.mark.parametrize("where", ["line", "head", "body"])
def test_broken_off(g, user, where):
    """Half a request is none; whoever can still read is told, and the log has its line."""
    data = wire.Request(g, user).bytes()
    at = {"line": 10, "head": data.index(b"\r\n\r\n") - 3, "body": len(data) - 3}[where]
    s = wire.connect(g)
    s.sendall(data[:at])
    s.shutdown(1)
    a = wire.Answer(wire.until_closed(s))
    d = decision(g, a)
    assert (a.status, d["reason"]) == (400, "http.framing")
    assert d.get("path") == (kms.BASE + "/init" if where == "body" else None) or d.get("path") == ""


def test_an_early_refusal_can_be_read(g, user, open_one):
    """The refusal is out before the body is; what is still on its way is drained, so that no reset destroys it."""
    r = wire.Request(g, user).set(b"Content-Length", b"400000")
    s = open_one()
    s.sendall(r.head())
    for _ in range(20):
        s.sendall(b" " * 20000)
        time.sleep(0.005)
    a = wire.Answer(wire.until_closed(s))
    assert a.status == 413


def test_but_not_for_ever(g, user):
    s = wire.connect(g)
    s.sendall(wire.Request(g, user).set(b"Content-Length", b"400000").head())
    began = time.monotonic()
    with pytest.raises(OSError):
        while time.monotonic() < began + 5:
            s.sendall(b" " * 1000)
            time.sleep(0.02)
    assert 0.8 < time.monotonic() - began < 30


def test_the_order_of_judging(g, user):
    """Framing, method, path, media type, sizes."""
    r = wire.Request(g, user)
    r.method = b"GET"
    r.target = b"/x/../y"
    r.set(b"Content-Type", b"text/plain").set(b"Content-Length", b"999999").add(b"X: a\0")
    steps = [("http.framing", lambda: r.headers.pop()), ("http.method", lambda: setattr(r, "method", b"POST")),
             ("http.path", lambda: setattr(r, "target", TARGET)),
             ("http.media_type", lambda: r.set(b"Content-Type", b"text/xml")), ("http.too_large", lambda: None)]
    for reason, repair in steps:
        assert decision(g, wire.Answer(wire.talk(wire.connect(g), r.bytes())))["reason"] == reason
        repair()
