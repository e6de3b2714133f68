"""Raw bytes on the wire: what is ambiguous is refused readably and never reaches the upstream."""
import socket
import time

import pytest

import kms

HEAD = b"POST " + kms.BASE.encode() + b"/init HTTP/1.1\r\nHost: a\r\n"


def talk(g, *parts):
    s = socket.create_connection(("127.0.0.1", g.port), timeout=10)
    for part in parts:
        s.sendall(part)
        time.sleep(0.02)
    out = b""
    while True:
        got = s.recv(65536)
        if not got:
            return out
        out += got


REFUSED = {
    "length-and-chunked": (HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "http.framing"),
    "two-lengths": (HEAD + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400, "http.framing"),
    "obs-fold": (HEAD + b"X: a\r\n b\r\n\r\n", 400, "http.framing"),
    "two-hosts": (HEAD + b"Host: b\r\n\r\n", 400, "http.framing"),
    "method": (HEAD.replace(b"POST", b"GET", 1) + b"\r\n", 405, "http.method"),
    "version": (HEAD.replace(b"/1.1", b"/2.0", 1) + b"\r\n", 505, "http.version"),
    "expect": (HEAD + b"Expect: tea\r\n\r\n", 417, "http.expect"),
    "too-large": (HEAD + b"Content-Length: 65537\r\n\r\n", 413, "http.too_large"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(gate, case):
    data, status, reason = REFUSED[case]
    out = talk(gate, data)
    assert out.startswith(b"HTTP/1.1 %d " % status) and out.count(b"HTTP/1.1 ") == 1, out
    assert b"Connection: close\r\n" in out and b"<KmsError>" in out
    d = gate.last(1)
    assert (d["status"], d["reason"]) == (status, reason)
    assert gate.upstream_requests() == []


def test_pipelined_in_order(gate):
    out = talk(gate, HEAD + b"\r\n" + HEAD + b"\r\n" + HEAD + b"Connection: close\r\n\r\n")
    assert out.count(b"HTTP/1.1 403 ") == 3


def test_slow_head(gateway):
    g = gateway(config="limits: { header_timeout: 1s }")
    assert talk(g, HEAD).startswith(b"HTTP/1.1 408 ")
