"""Raw HTTP over plain, TLS and Unix sockets: what is sent is what a test wrote, to the byte."""
import socket
import ssl
import time

from lxml import etree

import kms


class Request:
    """A good signed request, to be changed in one place."""

    def __init__(self, g, user, path="/init"):
        self.method, self.target, self.version = b"POST", (kms.BASE + path).encode(), b"HTTP/1.1"
        self.body = kms.signed_request(user, g.url(path))
        self.headers = [b"Host: kms.example.org", b"Content-Type: application/xml",
                        b"Content-Length: %d" % len(self.body), b"Connection: close"]
        self.line = None   # instead of method, target and version
        self.eol = b"\r\n"
        self.after = b""   # behind the body

    def without(self, name):
        self.headers = [h for h in self.headers if not h.lower().startswith(name.lower() + b":")]
        return self

    def set(self, name, value):
        self.without(name)
        self.headers.insert(0, name + b": " + value)
        return self

    def add(self, line):
        self.headers.append(line)
        return self

    def chunked(self, *sizes, last=b"0\r\n\r\n"):
        self.without(b"Content-Length").add(b"Transfer-Encoding: chunked")
        out, rest = b"", self.body
        for n in sizes:
            out += b"%x\r\n" % len(rest[:n]) + rest[:n] + b"\r\n"
            rest = rest[n:]
        if rest:
            out += b"%x\r\n" % len(rest) + rest + b"\r\n"
        self.body = out + last
        return self

    def head(self):
        line = self.line if self.line is not None else b" ".join((self.method, self.target, self.version))
        return self.eol.join([line, *self.headers, b"", b""])

    def bytes(self):
        return self.head() + self.body + self.after


class Answer:
    def __init__(self, raw):
        head, self.rest = raw.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.line = lines[0]
        self.headers = [tuple(x.split(": ", 1)) for x in lines[1:]]
        n = int(self["Content-Length"] or 0)
        self.body, self.rest = self.rest[:n], self.rest[n:]
        self.complete = len(self.body) == n

    def __getitem__(self, name):
        got = [v for k, v in self.headers if k.lower() == name.lower()]
        assert len(got) <= 1, self.headers
        return got[0] if got else None

    def error_code(self):
        root = etree.fromstring(self.body)
        e = root.find(".//" + kms.q("ErrorCode"))
        return None if e is None else int(e.text)


def connect(g, ca=None, port=None, timeout=10):
    if isinstance(port, str):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(timeout)
        s.connect(port)
        return s
    s = socket.create_connection(("127.0.0.1", port or g.port), timeout=timeout)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if ca:
        s = ssl.create_default_context(cafile=str(ca)).wrap_socket(s, server_hostname="127.0.0.1")
    return s


def until_closed(s):
    out = b""
    while True:
        try:
            got = s.recv(65536)
        except (ConnectionResetError, ssl.SSLError) as e:
            raise AssertionError("%r after %r" % (e, out)) from e
        if not got:
            return out
        out += got


def talk(s, *parts, pause=0.02):
    """Everything that comes back until the other side closes; the parts are sent one after the other."""
    for i, part in enumerate(parts):
        if i:
            time.sleep(pause)
        s.sendall(part)
    out = until_closed(s)
    s.close()
    return out


def answers(raw):
    """All answers that the bytes hold, in order."""
    out = []
    while raw:
        a = Answer(raw)
        out.append(a)
        raw = a.rest
    return out
