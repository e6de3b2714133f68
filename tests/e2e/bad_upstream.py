"""An upstream that does with its connections what a test says, to the byte."""
import socket
import struct
import time

from listening import Listening


class Upstream(Listening):
    """`script(conn)` is run for each connection, which has .read_request(), .send(), .reset(), .number."""

    def __init__(self, script, context=None, listen=True, port=0):
        self.script, self.requests = script, []
        super().__init__(lambda c, number: self.script(Conn(self, c, number)), port=port, tls=context, listen=listen)
        self.url = "http%s://127.0.0.1:%d" % ("s" if context else "", self.port)


class Conn:
    def __init__(self, up, s, number):
        self.up, self.s, self.number = up, s, number
        self.rest = b""

    def read_head(self):
        while b"\r\n\r\n" not in self.rest:
            got = self.s.recv(65536)
            if not got:
                return None
            self.rest += got
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        return head

    def read_request(self):
        """The head and the body, or None when the other side is gone."""
        head = self.read_head()
        if head is None:
            return None
        n = 0
        for line in head.split(b"\r\n")[1:]:
            if line.lower().startswith(b"content-length:"):
                n = int(line.split(b":")[1])
        while len(self.rest) < n:
            got = self.s.recv(65536)
            if not got:
                return None
            self.rest += got
        body, self.rest = self.rest[:n], self.rest[n:]
        self.up.requests.append((head, body))
        return head, body

    def send(self, *parts, pause=0.05):
        for i, part in enumerate(parts):
            if i:
                time.sleep(pause)
            self.s.sendall(part)

    def reset(self):
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.s.close()

    def hold(self, seconds=20):
        """Says nothing until the other side goes."""
        self.s.settimeout(seconds)
        try:
            while self.s.recv(65536):
                pass
        except OSError:
            pass


def reply(body, status=b"200 OK", headers=()):
    return b"HTTP/1.1 " + status + b"\r\n" + b"".join(h + b"\r\n" for h in headers) + \
        b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(body, status=b"200 OK", end=b"0\r\n\r\n"):
    return b"HTTP/1.1 " + status + b"\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n" + end
