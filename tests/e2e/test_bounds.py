"""What an upstream can do to others: replies that come slowly, a name that nobody answers for, one that moves."""
import contextlib
import os
import random
import socket
import subprocess
import threading
import time

import pytest

import kms
import scripted
import wire
from conftest import BUILD
from listening import Listening
from scripted import Keys, key_prov, key_set, response

ALICE = "sip:alice@example.org"


class Stalls(Listening):
    """An upstream that begins when four have asked, and whose replies stop before their end until they are to go on."""

    def __init__(self, body, stop_at):
        self.body, self.stop_at, self.go, self.waiting = body, stop_at, threading.Event(), 0
        super().__init__(self.answer)
        self.url = "http://127.0.0.1:%d" % self.port

    def answer(self, c, _):
        data = b""
        while b"</KmsRequest>" not in data:
            more = c.recv(65536)
            if not more:
                return  # it was only asked whether somebody is there
            data += more
        self.waiting += 1
        while self.waiting < 4:  # none is sent before the last has come, or the memory of the first keeps that one out
            time.sleep(0.01)
        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(self.body))
        c.sendall(self.body[:self.stop_at])
        self.go.wait(60)
        c.sendall(self.body[self.stop_at:])

    def close(self):
        self.go.set()
        super().close()


def limit(g):
    return 'kmsgate_limit{name="memory"} 1' in g.admin("/metrics")[1]


def test_replies_under_way_count(gateway):
    alice = kms.User(ALICE)
    text = response(key_prov(*[key_set(Keys(), ALICE)] * 700))
    assert 500 << 10 < len(text) < 1 << 20
    up = Stalls(text, 500 << 10)
    g = gateway(users=[alice], upstream=up.url, start=False,
                config="limits: { memory: 1MiB, body_timeout: 10s, header_timeout: 20s, in_flight: 256 }\nworkers: 2")
    g.config.write_text(g.config.read_text().replace("timeout: 5s }", "timeout: 60s }"))
    g.start()
    statuses = []

    def ask():
        s = wire.connect(g, timeout=120)
        s.sendall(wire.Request(g, alice, "/keyprov").bytes())
        statuses.append(wire.Answer(wire.until_closed(s)).status)
    askers = [threading.Thread(target=ask) for _ in range(4)]
    [t.start() for t in askers]
    kms.wait_for(lambda: up.waiting == 4 and limit(g))
    assert "limits.memory is reached" in g.running.err
    began = time.monotonic()
    r = g.ask(alice, "/keyprov")  # its body waits as long as it may, and nobody is slow but the upstream
    assert (r.status, r.error, r.headers["Retry-After"]) == (503, "http.busy", "1")
    assert time.monotonic() - began > 9.8
    waits = wire.connect(g)
    q = wire.Request(g, alice, "/keyprov")
    waits.sendall(q.bytes())
    time.sleep(0.5)
    up.go.set()  # room is made while it waits: it is served
    assert wire.Answer(wire.until_closed(waits)).status == 200
    [t.join() for t in askers]
    assert statuses == [200] * 4
    assert g.ask(alice, "/keyprov").status == 200
    up.close()


def test_a_reply_that_is_taken_in_pieces(gateway):
    """What the socket does not take at once follows, where it broke off."""
    alice = kms.User(ALICE)
    up = scripted.Scripted()
    up.says(response(key_prov(*[key_set(Keys(), ALICE)] * 700)))
    g = gateway([alice], upstream=up.url, config="workers: 1")
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)  # or the other side's buffer takes it all
    s.settimeout(20)
    s.connect(("127.0.0.1", g.port))
    s.sendall(wire.Request(g, alice, "/keyprov").bytes())
    g.decisions(1)
    a = wire.Answer(wire.until_closed(s))
    s.close()
    assert a.status == 200 and a.complete and len(a.body) > 500 << 10
    kms.Reply(a.status, a.headers, a.body).verify(alice.ink, alice.ink_id)
    up.close()


def with_own_etc(g, hosts=None, name_server=None):
    """Starts it where /etc is a copy of its own, g.folder / "etc"."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    etc = g.folder / "etc"
    subprocess.run(["cp", "-a", "/etc", etc], check=True)
    (etc / "nsswitch.conf").write_text("hosts: files dns\n")
    (etc / "resolv.conf").unlink()
    (etc / "resolv.conf").write_text("nameserver %s\noptions timeout:30 attempts:1\n" % (name_server or "127.0.0.1"))
    (etc / "hosts").write_text("127.0.0.1 localhost\n" + (hosts or ""))
    within = 'mount --bind "$0" /etc && exec "$@"'
    g.running = kms.Process(["unshare", "-m", "sh", "-c", within, etc, BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "gateway")
    kms.wait_for(g.ready)


def test_a_mute_name_server_stops_nobody(gateway):
    """Who waits for the upstream's name waits alone: others are judged and refused meanwhile, in the one worker there is."""
    if os.geteuid() != 0:
        pytest.skip("only root can listen on port 53")
    mute = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    address = "127.83.%d.%d" % (random.randrange(1, 250), random.randrange(1, 250))
    mute.bind((address, 53))
    alice = kms.User(ALICE)
    g = gateway([alice], start=False, upstream="http://kms.mute.example:9000", config="workers: 1")
    g.config.write_text(g.config.read_text().replace("timeout: 5s }", "timeout: 20s }"))
    with_own_etc(g, name_server=address)
    statuses = []
    waits = threading.Thread(target=lambda: statuses.append(g.ask(alice, "/keyprov").status))
    waits.start()
    assert b"mute" in mute.recv(512)  # it was asked, and says nothing
    kms.wait_for(lambda: "kmsgate_in_flight 1" in g.admin("/metrics")[1])
    for _ in range(20):
        forged = kms.signed_request(alice, g.url("/keyprov")).replace(b">device-", b">divice-", 1)
        assert g.post("/keyprov", forged).status == 403
    assert waits.is_alive() and not statuses
    waits.join()
    assert statuses[0] in (502, 504)
    mute.close()


def test_a_name_that_moves_is_followed(gateway):
    """A kept connection has an end, and the next one asks for the name again."""
    if os.geteuid() != 0:
        pytest.skip("only root can have an /etc of its own")
    alice = kms.User(ALICE)
    old, new = scripted.Scripted(), None
    port = old.port
    g = gateway([alice], start=False, upstream="http://kms.moves.example:%d" % port, config="workers: 1")
    g.config.write_text(g.config.read_text().replace("timeout: 5s }", "timeout: 5s, idle_timeout: 1m, lifetime: 1s }"))
    with_own_etc(g, "127.0.0.1 kms.moves.example\n")
    new = scripted.Scripted(host="127.0.0.2", port=port)
    for up in (old, new):
        up.says(response(key_prov(key_set(Keys(), ALICE))))
    assert g.ask(alice, "/keyprov").status == 200
    assert (len(old.seen), len(new.seen)) == (1, 0)
    with open(g.folder / "etc/hosts", "r+") as f:  # in place: the same file
        f.write("127.0.0.1 localhost\n127.0.0.2 kms.moves.example\n")
        f.truncate()

    def moved():
        assert g.ask(alice, "/keyprov").status == 200
        return len(new.seen) > 0
    kms.wait_for(moved)
    told = len(old.seen)
    assert [g.ask(alice, "/keyprov").status for _ in range(3)] == [200] * 3 and len(old.seen) == told
    for up in (old, new):
        up.close()


def test_an_address_that_swallows_has_its_part_of_the_time(gateway):
    """Nothing comes back from the first of two: the second is tried while there is time for it."""
    if os.geteuid() != 0:
        pytest.skip("only root can have an /etc of its own")
    alice = kms.User(ALICE)
    up = scripted.Scripted(host="127.0.0.9")
    up.says(response(key_prov(key_set(Keys(), ALICE))))
    with socket.create_server(("127.0.0.1", up.port), backlog=0) as first, contextlib.ExitStack() as waiting:
        for _ in range(4):  # as many as it has room for; what comes then is dropped, and sent again
            s = waiting.enter_context(socket.socket())
            s.setblocking(False)
            s.connect_ex(first.getsockname())
        g = gateway([alice], start=False, upstream="http://kms.two.example:%d" % up.port, config="workers: 1")
        g.config.write_text(g.config.read_text().replace("timeout: 5s }", "timeout: 10s }"))
        with_own_etc(g, "127.0.0.1 kms.two.example\n127.0.0.9 kms.two.example\n")
        began = time.monotonic()
        assert g.ask(alice, "/keyprov").status == 200
        assert time.monotonic() - began > 4, "the first was not asked first, or answered"
    up.close()
