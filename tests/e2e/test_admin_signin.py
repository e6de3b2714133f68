"""Sign-in at the console: over TLS or on loopback alone, few tries, a cookie that no other page can use."""
import http.cookies
import json
import re
import socket
import ssl
import urllib.parse

import pytest

import certs
import kms
from test_admin_tls import AUTH, TOKEN, Secured

FORM = "application/x-www-form-urlencoded"


class Browser:
    """What a browser does with cookies and Origin, and nothing else."""

    def __init__(self, g, tls=True, host=None):
        self.g, self.tls, self.cookie = g, tls, None
        self.host = host or "127.0.0.1:%d" % g.admin_port
        self.origin = ("https://" if tls else "http://") + self.host

    def ask(self, method, path, body=b"", **headers):
        mine = {"Host": self.host, "Accept": "text/html,*/*;q=0.8"}
        if method == "POST":
            mine |= {"Origin": self.origin, "Content-Type": FORM, "Content-Length": str(len(body))}
        if self.cookie:
            mine["Cookie"] = "theme=dark; %s=%s" % self.cookie
        mine |= {k.replace("_", "-"): v for k, v in headers.items()}
        text = "%s %s HTTP/1.1\r\n" % (method, path) + "".join("%s: %s\r\n" % x for x in mine.items() if x[1] is not None)
        s = socket.create_connection(("127.0.0.1", self.g.admin_port), timeout=30)
        t = self.g.context().wrap_socket(s, server_hostname="127.0.0.1") if self.tls else s
        with t:
            t.sendall(text.encode() + b"\r\n" + body)
            out = b""
            while got := t.recv(65536):
                out += got
        head, body = out.decode().split("\r\n\r\n", 1)
        lines = head.split("\r\n")
        self.head = [tuple(x.split(": ", 1)) for x in lines[1:]]
        for _, value in (h for h in self.head if h[0] == "Set-Cookie"):
            self.set = value
            (name, morsel), = http.cookies.SimpleCookie(value).items()
            self.cookie = (name, morsel.value) if morsel.value else None
        return int(lines[0].split()[1]), dict(self.head), body

    def sign_in(self, token=TOKEN, **headers):
        return self.ask("POST", "/sign-in", b"token=" + urllib.parse.quote_plus(token).encode(), **headers)


@pytest.fixture
def secured(tmp_path, alice):
    made = []

    def make(plain=False, **kw):
        folder = tmp_path / ("g%d" % len(made))
        folder.mkdir()
        made.append(Secured(folder, [alice], **kw))
        if plain:
            text = made[-1].config.read_text()
            made[-1].config.write_text(re.sub(r"admin: .*\n", "admin: %s:%d\n" % (plain, made[-1].admin_port), text))
        return made[-1]
    yield make
    for g in made:
        assert g.stop() == 0 and "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err


def ready(g):
    """By plain HTTP."""
    try:
        return Browser(g, tls=False).ask("GET", "/readyz")[0] == 200
    except OSError:
        return False


def started(g):
    if "tls:" not in re.search(r"admin: .*", g.config.read_text())[0]:
        g.ready = lambda: ready(g)
    g.start()
    return g


def test_in_and_out(secured, alice):
    g = started(secured())
    b = Browser(g)
    for path in ("/", "/rules"):
        status, head, body = b.ask("GET", path)
        assert status == 401 and "<form" in body and 'action="/sign-in"' in body
        assert head["WWW-Authenticate"] == "Bearer" and head["Content-Type"] == "text/html; charset=utf-8"
        csp = head["Content-Security-Policy"]
        assert "default-src 'none'" in csp and "form-action 'self'" in csp and "frame-ancestors 'none'" in csp
    assert b.ask("GET", "/sign-in")[0] == 200 and "text/css" in b.ask("GET", "/sign-in.css")[1]["Content-Type"]
    assert b.ask("GET", "/rules", Accept="application/json")[2].startswith("expected `Authorization: Bearer`")
    status, head, body = b.sign_in()
    assert status == 303 and head["Location"] == "/" and body == ""
    assert re.fullmatch(r"__Host-kmsgate=[0-9a-f]{64}; Path=/; HttpOnly; Secure; SameSite=Strict", b.set)
    for path in ("/", "/metrics", "/rules", "/decisions"):
        assert b.ask("GET", path)[0] == 200 and b.ask("HEAD", path)[0] == 200
    assert b.ask("GET", "/none")[0] == 404
    assert b.ask("GET", "/sign-in")[::2] == (303, "")
    first = b.cookie
    assert b.sign_in()[0] == 303 and b.cookie != first, "a session's name is never taken over"
    b.cookie, second = first, b.cookie
    assert b.ask("GET", "/rules")[0] == 401
    b.cookie = second
    status, head, _ = b.ask("POST", "/sign-out")
    assert status == 303 and head["Location"] == "/sign-in" and b.cookie is None and "Max-Age=0" in b.set
    b.cookie = second
    assert b.ask("GET", "/rules")[0] == 401
    assert b.ask("GET", "/sign-out")[0] == 405 and b.ask("GET", "/sign-out")[1]["Allow"] == "POST"
    assert b.ask("POST", "/rules")[1]["Allow"] == "GET, HEAD" and b.ask("PUT", "/sign-in")[1]["Allow"] == "GET, HEAD, POST"
    assert g.running.err.count("signed in at the console") == 2
    for secret in (TOKEN, first[1], second[1]):
        assert secret not in g.running.err and secret not in g.get("/metrics")[1] + g.get("/decisions")[1]


def test_five_tries(secured):
    g = started(secured())
    b = Browser(g)
    for n in range(5):
        status, head, body = b.sign_in(TOKEN[:n] + "x")
        assert status == 401 and "This is not the admin token" in body and "Set-Cookie" not in head
    status, head, body = b.sign_in()
    assert status == 429 and 0 < int(head["Retry-After"]) <= 60 and "Too many tries" in body and "Set-Cookie" not in head
    assert g.get("/rules")[0] == 200, "the token itself still holds for programs"
    assert g.running.err.count("a sign-in at the console was refused") == 5


@pytest.mark.parametrize("change,status", [
    ({"Origin": None}, 403), ({"Origin": "null"}, 403), ({"Origin": "https://evil.example"}, 403),
    ({"Origin": "http://127.0.0.1"}, 403), ({"Host": "evil.example", "Origin": "https://evil.example"}, 403),
    ({"Host": "127.0.0.2", "Origin": "https://127.0.0.2"}, 403), ({"Host": "localhost", "Origin": "https://localhost"}, 403),
    ({"Content_Type": None}, 415), ({"Content_Type": "text/plain"}, 415), ({"Content_Type": "multipart/form-data"}, 415),
    ({"Content_Type": FORM + "; charset=utf-8"}, 303), ({"Host": "127.0.0.1", "Origin": "HTTPS://127.0.0.1"}, 303)])
def test_only_by_the_own_form(secured, change, status):
    g = started(secured())
    b = Browser(g)
    assert b.sign_in(**change)[0] == status and (b.cookie is not None) == (status == 303)
    if "Origin" in change and status == 403:  # who is signed in is not signed out by another page either
        assert b.sign_in()[0] == 303
        mine = b.cookie
        assert b.ask("POST", "/sign-out", **change)[0] == 403 and b.cookie == mine and b.ask("GET", "/rules")[0] == 200


@pytest.mark.parametrize("body,status", [
    (b"", 400), (b"token=", 400), (b"token", 400), (b"tok=" + TOKEN.encode(), 400), (b"token=%4", 400), (b"token=%00", 400),
    (b"token=%s&token=x" % TOKEN.encode(), 400), (b"x=1&token=" + TOKEN.encode(), 400), (b"token=" + b"a" * 2049, 400),
    (b"token=" + b"a" * 2000, 401), (b"token=" + TOKEN.encode() + b"+", 401), (b"token=" + TOKEN.encode() + b"%0A", 400),
    (b"token=" + b"a" * 5000, 413), (b"token=s3cret%2Dt0ken", 303)],
    ids=lambda x: x.decode()[:20] if isinstance(x, bytes) else str(x))
def test_forms(secured, body, status):
    g = started(secured())
    b = Browser(g)
    assert b.ask("POST", "/sign-in", body)[0] == status and (b.cookie is not None) == (status == 303)


def test_a_session_is_a_cookie_of_this_address(secured):
    g = started(secured())
    b = Browser(g)
    b.sign_in()
    name, value = b.cookie
    for cookie in ("kmsgate=" + value, name + "=" + value[:-1], name + "=" + value + "0", "x" + name + "=" + value,
                   name + " =" + value, name.lower() + "=" + value, name + "=", name, "x=" + name + "=" + value):
        assert b.ask("GET", "/rules", Cookie=cookie)[0] == 401, cookie
    for cookie in (name + "=" + value, "a=b; c; " + name + "=" + value + "; d=e", "a=b;" + name + "=" + value):
        assert b.ask("GET", "/rules", Cookie=cookie)[0] == 200, cookie
    assert b.ask("GET", "/rules", Host="evil.example")[0] == 401
    assert b.ask("GET", "/rules", Host="127.0.0.1")[0] == 200
    plus = started(secured())
    assert Browser(plus).ask("GET", "/rules", Cookie=name + "=" + value)[0] == 401, "nor of another gateway's"


def test_names_of_the_certificate(secured):
    g = secured()
    certs.issue(g.folder, "ca", "server", host="DNS:kms.example.org,IP:127.0.0.1")
    started(g)
    for host, status in (("kms.example.org", 303), ("KMS.example.org:9090", 303), ("example.org", 403),
                         ("kms.example.org.evil.example", 403)):
        assert Browser(g, host=host).sign_in()[0] == status, host


def test_a_stream_ends_with_its_session(secured, alice):
    g = started(secured())
    b = Browser(g)
    b.sign_in()
    with g.reach() as t:
        t.sendall(("GET /decisions?follow=1 HTTP/1.1\r\nHost: %s\r\nCookie: %s=%s\r\n\r\n" % (b.host, *b.cookie)).encode())
        f = t.makefile("rb")
        for line in iter(f.readline, b"\r\n"):
            pass
        g.ask(alice, "/init")
        assert json.loads(f.readline())["user"] == alice.uri
        b.ask("POST", "/sign-out")
        assert f.readline() == b""


def test_plain_http_on_loopback(secured):
    g = started(secured(plain="127.0.0.1"))
    b = Browser(g, tls=False)
    assert "<form" in b.ask("GET", "/")[2]
    assert b.sign_in()[0] == 303
    assert re.fullmatch(r"kmsgate=[0-9a-f]{64}; Path=/; HttpOnly; SameSite=Strict", b.set)
    assert b.ask("GET", "/rules")[0] == 200
    assert b.ask("GET", "/rules", Host="evil.example")[0] == 401, "a name that was turned to this machine"
    evil = Browser(g, tls=False, host="evil.example")
    assert evil.sign_in()[0] == 403 and evil.cookie is None


def test_plain_http_elsewhere_has_no_form(secured):
    g = started(secured(plain="0.0.0.0"))
    b = Browser(g, tls=False)
    for path, status in (("/", 401), ("/sign-in", 200)):
        got, _, body = b.ask("GET", path)
        assert got == status and "<form" not in body and "certificate" in body
    assert b.sign_in()[0] == 403 and b.cookie is None
    assert b.ask("GET", "/rules", Authorization="Bearer " + TOKEN)[0] == 200
    assert TOKEN not in g.running.err


def test_without_a_token_nobody_signs_in(gateway):
    g = gateway()
    b = Browser(g, tls=False)
    assert b.ask("GET", "/")[0] == 200
    assert b.ask("GET", "/sign-in")[1]["Location"] == "/" and b.sign_in("")[0] == 400
    assert b.sign_in("x")[1]["Location"] == "/" and b.cookie is None
