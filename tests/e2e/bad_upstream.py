"""An upstream that does with its connections what a test says, to the byte."""
import socket
import ssl
import struct
import threading
import time


class Upstream:
    """`script(conn)` is run for each connection, which has .read_request(), .send(), .reset(), .number."""

    def __init__(self, script, context=None, listen=True, port=0):
        self.script, self.context = script, context
        self.requests, self.errors, self.open, self.conns = [], [], 0, []
        self.s = socket.socket()
        self.s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.s.bind(("127.0.0.1", port))
        self.port = self.s.getsockname()[1]
        self.url = "http%s://127.0.0.1:%d" % ("s" if context else "", self.port)
        self.ended = False
        if listen:
            self.listen()

    def listen(self):
        self.s.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while not self.ended:
            try:
                c, _ = self.s.accept()
            except OSError:
                return
            self.open += 1
            self.conns.append(c)
            threading.Thread(target=self._run, args=(c, self.open), daemon=True).start()

    def _run(self, c, number):
        try:
            if self.context:
                c = self.context.wrap_socket(c, server_side=True)
            self.script(Conn(self, c, number))
        except (OSError, ssl.SSLError) as e:
            self.errors.append(e)
        finally:
            try:
                c.close()
            except OSError:
                pass

    def drop(self):
        """Ends all connections."""
        for c in self.conns:
            try:
                c.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.conns = []

    def close(self):
        self.ended = True
        try:
            self.s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.s.close()


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
