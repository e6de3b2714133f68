"""Memory that ends in a running gateway: at each allocation of a connection, a request and its reply in turn. It never ends with it, accepts
nothing that it should not, and serves the next one. Of a build without sanitizers: they have an allocator of their own."""
import http.client
import mmap
import os
import ssl
import struct
import subprocess
from pathlib import Path

import pytest
from lxml import etree

import certs
import kms
import scripted
import wire
from conftest import BUILD, Gateway
from scripted import key_prov, key_set, response

HERE = Path(__file__).parent
SANITIZED = b"__asan_init" in (BUILD / "kmsgate").read_bytes() or b"__tsan_init" in (BUILD / "kmsgate").read_bytes()
pytestmark = pytest.mark.skipif(SANITIZED, reason="sanitizers have an allocator of their own")


class Scarce:
    def __init__(self, folder):
        self.library = folder / "scarce.so"
        subprocess.run(["cc", "-Wall", "-Werror", "-O1", "-fPIC", "-shared", "-o", self.library, HERE / "scarce.c", "-ldl"], check=True)
        (folder / "scarce").write_bytes(bytes(4096))
        with open(folder / "scarce", "r+b") as f:
            self.page = mmap.mmap(f.fileno(), 4096)
        self.env = {"LD_PRELOAD": str(self.library), "SCARCE": str(folder / "scarce")}

    def at(self, n, many=1):
        """The n-th allocation from now on fails, and so many in all; 0: none."""
        self.page[0:8] = bytes(8)
        self.page[8:24] = struct.pack("=QQ", many, 0)
        self.page[0:8] = struct.pack("=Q", n)

    def seen(self):
        return struct.unpack("=Q", self.page[16:24])[0]

    def live(self):
        """Blocks in use."""
        return struct.unpack("=Q", self.page[24:32])[0]


RULES = """\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
requests: [{ id: everyone }]
responses: [{ id: default, extensions: keep }]
"""
ENOUGH = 1 << 40  # no exchange has so many


@pytest.mark.parametrize("tls,by_tree,many", [(False, False, 1), (True, False, 1), (True, False, 40), (False, True, 1), (False, True, ENOUGH)])
def test_each_allocation_in_turn(tmp_path, tls, by_tree, many):
    """One after the other fails, or a row of them. A good request is answered as ever, by 500, 502 or 503, or not at all; a forged one is never accepted; the next good one is served;
    neither blocks nor descriptors are lost but what is remembered of an accepted request."""
    alice = kms.User("sip:alice@example.org")
    scarce, context = Scarce(tmp_path), None
    if tls:
        certs.authority(tmp_path, "ca")
        certs.issue(tmp_path, "ca", "server")
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        context.check_hostname = False
    upstream = scripted.Scripted()
    extension = "<x:e xmlns:x='urn:x'>t</x:e>" if by_tree else ""  # what the readers of one pass leave to libxml2
    upstream.says(response(key_prov(key_set(scripted.Keys(), alice.uri)), tail=extension))
    g = Gateway(tmp_path, [alice], rules=RULES, start=False, config="workers: 1", upstream=upstream.url,
                listen="    tls: { certificate: server.pem, key: server.key }" if tls else "")
    if tls:
        g.public = g.public.replace("http:", "https:")
        g.config.write_text(g.config.read_text().replace("public_url: http:", "public_url: https:"))

    def request(f):
        root = kms.kms_request(f)
        if by_tree:
            etree.SubElement(root, "{urn:x}e").text = "t"
        return root

    def ask(forged=False):
        body = kms.signed_request(alice, g.url("/keyprov"), request=request)
        return lambda: answer(body.replace(b">device-", b">divice-", 1) if forged else body)

    def answer(body):
        try:
            return g.post("/keyprov", body, context=context).status
        except (OSError, http.client.HTTPException):
            return None  # closed without an answer
    try:
        g.start(scarce.env)
        for _ in range(1000):  # as many decisions as the console remembers
            assert answer(b"") == 403
        for _ in range(5):
            assert ask()() == 200
        fds, live = len(os.listdir("/proc/%d/fd" % g.running.p.pid)), scarce.live()
        scarce.at(ENOUGH)
        assert ask()() == 200
        total, n, results, step = scarce.seen(), 0, set(), 1
        assert 10 < total < 5000
        while n < total + 20:
            n += step
            good, forged = ask(), ask(forged=True)
            scarce.at(n, many)
            results.add(good())
            scarce.at(n, many)
            said = forged()
            scarce.at(0)
            assert g.running.p.poll() is None, (n, g.running.p.returncode, g.running.err[-2000:])
            assert results <= {None, 200, 500, 502, 503}, (n, results)
            assert said in (None, 403, 500, 503), (n, said)
            assert ask()() == 200, n
        assert 200 in results or many == ENOUGH
        assert None in results or results & {500, 503}, results
        for _ in range(20):
            assert ask()() == 200
        assert len(os.listdir("/proc/%d/fd" % g.running.p.pid)) <= fds + 2
        assert scarce.live() < live + 2 * n + 100, "lost in %d failures: %d blocks" % (2 * n, scarce.live() - live)
    finally:
        assert g.stop() == 0, g.running.err[-3000:]
        upstream.close()


def test_what_was_read_ahead(tmp_path):
    """One request and a part of the next in one piece, the rest of it when the first is answered. Where there is no room for the part,
    the connection ends behind the first reply: the second is answered as ever, by 500, 502 or 503, or not at all, and never by 400."""
    alice = kms.User("sip:alice@example.org")
    scarce, upstream = Scarce(tmp_path), scripted.Scripted()
    upstream.says(response(key_prov(key_set(scripted.Keys(), alice.uri))))
    g = Gateway(tmp_path, [alice], rules=RULES, start=False, config="workers: 1", upstream=upstream.url)

    def ask(n):
        first, second = wire.Request(g, alice, "/keyprov").without(b"Connection"), wire.Request(g, alice, "/keyprov")
        raw = b""
        with wire.connect(g) as s:
            scarce.at(n)
            try:
                s.sendall(first.bytes() + second.head() + second.body[:100])
                raw = s.recv(65536)
                s.sendall(second.body[100:])
                while got := s.recv(65536):
                    raw += got
            except ConnectionError:  # closed while the rest was on its way
                pass
            seen = scarce.seen()
            scarce.at(0)
        return [a.status for a in wire.answers(raw)], seen
    try:
        g.start(scarce.env)
        for _ in range(5):
            both, total = ask(ENOUGH)
            assert both == [200, 200] and 10 < total < 5000
        results = [ask(n)[0] for n in range(1, total + 20)]
        assert {status for r in results for status in r} <= {200, 500, 502, 503}, results
        assert results[-1] == [200, 200]
    finally:
        assert g.stop() == 0, g.running.err[-3000:]
        upstream.close()
