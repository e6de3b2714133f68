"""The admin address: what it shows, to whom, and that nobody can make it silent."""
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

import kms
import wire
from conftest import BUILD, Gateway


def raw(g, data, timeout=30, port=None):
    s = socket.create_connection(("127.0.0.1", port or g.admin_port), timeout=timeout)
    s.sendall(data)
    out = b""
    while True:
        got = s.recv(65536)
        if not got:
            return out
        out += got


def get(g, path, *headers, method=b"GET"):
    out = raw(g, method + b" " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" +
              b"".join(h + b"\r\n" for h in headers) + b"\r\n")
    head, body = out.split(b"\r\n\r\n", 1)
    return int(head.split(b" ")[1]), head.decode(), body.decode()


def test_what_it_shows(gate, alice):
    for _ in range(3):
        gate.ask(alice, "/init")
    gate.decisions(3)
    assert get(gate, "/healthz")[::2] == (200, "ok\n")
    assert get(gate, "/readyz")[::2] == (200, "ready\n")
    status, head, body = get(gate, "/decisions?n=2")
    assert status == 200 and "application/json" in head and "Cache-Control: no-store" in head
    assert [d["id"] for d in json.loads(body)] == [d["id"] for d in gate.decisions()][:0:-1]
    assert len(json.loads(get(gate, "/decisions")[2])) == 3 and json.loads(get(gate, "/decisions?n=0")[2]) == []
    rules = json.loads(get(gate, "/rules")[2])
    assert rules["text"] == (gate.folder / "rules.yaml").read_text() and rules["hash"] == gate.last(3)["rules"]
    assert "/console.js" in get(gate, "/")[2]  # test_console.py
    metrics = get(gate, "/metrics")[2]
    for line in ('kmsgate_requests_total{rule="everyone",verdict="accept",reason="ok",form="signed",proven="true"} 3', "kmsgate_in_flight 0",
                 'kmsgate_phase_seconds_count{phase="total"} 3', "kmsgate_replay_entries 3",
                 'kmsgate_keys{type="ink",state="active"} 2', "kmsgate_decisions_dropped_total 0",
                 'kmsgate_rules_info{hash="%s"} 1' % rules["hash"]):
        assert line + "\n" in metrics, line
    for line in metrics.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) (kmsgate|process)_\w+ .+|(kmsgate|process)_\w+(\{(\w+="(\\.|[^"\\\n])*",?)+\})? \S+', line), line


def test_what_the_process_takes(gateway, alice):
    """As the system tells it from outside, from within the sandbox; what is opened is counted."""
    def told(name):
        return float(re.search(r"^process_%s (\S+)$" % name, get(g, "/metrics")[2], re.M)[1])
    began = time.time()
    g = gateway([alice])
    at = "/proc/%d/" % g.running.p.pid
    assert began - 1 <= told("start_time_seconds") <= time.time()
    assert 2**20 < told("resident_memory_bytes") < told("virtual_memory_bytes")
    limit = re.search(r"^Max open files +(\d+)", Path(at + "limits").read_text(), re.M)[1]
    assert told("max_fds") == int(limit)
    before = told("open_fds")
    assert abs(before - len(os.listdir(at + "fd"))) <= 4
    kept = [socket.create_connection(("127.0.0.1", g.port)) for _ in range(20)]
    kms.wait_for(lambda: told("open_fds") >= before + 18, 30)
    spent = told("cpu_seconds_total")
    while told("cpu_seconds_total") < spent + 0.01:
        assert g.ask(alice, "/init").status == 200
    assert 0 < spent < told("cpu_seconds_total")
    for c in kept:
        c.close()


def test_decisions_are_chosen(gateway, alice, bob):
    g = gateway([alice, bob])
    for user, path in ((alice, "/init"), (bob, "/init"), (alice, "/keyprov"), (bob, "/init")):
        assert g.ask(user, path).status == 200
    g.post("/init", b"<x/>")
    all_of_them = g.decisions(5)[::-1]
    assert all_of_them[0]["verdict"] == "reject"
    kms.wait_for(lambda: len(json.loads(get(g, "/decisions")[2])) == 5)
    refused = all_of_them[0]["reason"]
    for query, want in (
            ("user=sip:alice@example.org", lambda d: d.get("user") == alice.uri),
            ("user=sip%3Aalice%40example.org", lambda d: d.get("user") == alice.uri),
            ("user=sip:*@example.org", lambda d: "user" in d),
            ("user=alice", lambda d: False), ("user=sip:ALICE@example.org", lambda d: False),
            ("verdict=reject", lambda d: d["verdict"] == "reject"),
            ("verdict=accept", lambda d: d["verdict"] == "accept"),
            ("reason=ok&user=sip:bob@example.org", lambda d: d.get("user") == bob.uri and d["reason"] == "ok"),
            ("reason=" + refused, lambda d: d["reason"] == refused), ("reason=o", lambda d: False),
            ("rule=everyone", lambda d: d.get("rule") == "everyone"), ("rule=every", lambda d: False),
            ("source=127.0.0.1", lambda d: True), ("source=127.*", lambda d: True), ("source=10.*", lambda d: False),
            ("form=signed", lambda d: d.get("form") == "signed"), ("form=unsigned", lambda d: d.get("form") == "unsigned")):
        status, _, body = get(g, "/decisions?" + query)
        assert status == 200 and json.loads(body) == [d for d in all_of_them if want(d)], query
    newest = json.loads(get(g, "/decisions?n=1&user=*alice*")[2])  # of those that hold, not of all
    assert [d["id"] for d in newest] == [all_of_them[2]["id"]]
    assert json.loads(get(g, "/decisions?user=*alice*&n=0")[2]) == []


class Stream:
    def __init__(self, g, query="", timeout=30):
        self.s = socket.create_connection(("127.0.0.1", g.admin_port), timeout=timeout)
        self.s.sendall(b"GET /decisions?follow=1%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % query.encode())
        self.f = self.s.makefile("rb")
        self.status = int(self.f.readline().split()[1])
        self.head = {}
        for line in iter(self.f.readline, b"\r\n"):
            k, v = line.decode().strip().split(": ", 1)
            self.head[k] = v

    def next(self):
        line = self.f.readline()
        return json.loads(line) if line else None

    def close(self):
        self.f.close()
        self.s.close()


def test_decisions_are_followed(gateway, alice, bob):
    g = gateway([alice, bob])
    for user in (alice, bob, alice):
        g.ask(user, "/init")
    before = g.decisions(3)
    kms.wait_for(lambda: len(json.loads(get(g, "/decisions")[2])) == 3)
    everything, of_bob, one_before = Stream(g), Stream(g, "&user=*bob*"), Stream(g, "&user=*alice*&n=1")
    assert everything.status == 200 and everything.head["Content-Type"] == "application/x-ndjson"
    assert "Content-Length" not in everything.head and everything.head["Connection"] == "close"
    assert one_before.next()["id"] == before[2]["id"]
    for user in (alice, bob):
        g.ask(user, "/init")
    after = g.decisions(5)[3:]
    assert [everything.next()["id"] for _ in after] == [d["id"] for d in after]
    assert of_bob.next()["id"] == after[1]["id"]
    assert one_before.next()["id"] == after[0]["id"]
    assert get(g, "/decisions?follow=1", method=b"HEAD")[2] == ""
    for s in (everything, of_bob, one_before):
        s.close()


def test_sixteen_follow_at_a_time(gateway, alice):
    g = gateway()
    streams = [Stream(g) for _ in range(16)]
    assert get(g, "/decisions?follow=1")[0] == 503
    assert get(g, "/readyz")[0] == 200
    g.ask(alice, "/init")
    assert len({s.next()["id"] for s in streams}) == 1
    streams.pop().close()  # who goes makes room
    kms.wait_for(lambda: Stream(g).status == 200, 20)
    for s in streams:
        s.close()


def test_a_slow_follower_is_told_what_he_missed(gateway, alice):
    g = gateway(config="log: { level: error }")
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(60)
    s.connect(("127.0.0.1", g.admin_port))
    s.sendall(b"GET /decisions?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    f = s.makefile("rb", buffering=0)
    assert f.read(12) == b"HTTP/1.1 200"
    c = wire.connect(g, timeout=60)
    wanted = 6000  # more than the sockets, 256 KiB and the newest 1000 hold
    one = b"POST %s/init HTTP/1.1\r\nHost: a\r\nContent-Type: application/xml\r\nContent-Length: 4\r\n\r\n<x/>" % \
        kms.BASE.encode()
    threading.Thread(target=lambda: [c.sendall(one * 40) for _ in range(wanted // 40)], daemon=True).start()
    answered = bytearray()
    while answered.count(b"HTTP/1.1 ") < wanted:
        got = c.recv(1 << 20)
        assert got
        answered += got
    g.ask(alice, "/init")
    rest = s.makefile("rb")
    for line in iter(rest.readline, b"\r\n"):
        pass
    seen = lost = 0
    while seen + lost < wanted + 1:
        d = json.loads(rest.readline())
        lost += d.get("lost", 0)
        seen += "id" in d
    assert lost > 0 and seen >= 1000 and d["reason"] == "ok"
    s.close()


def test_the_end_ends_them(gateway, alice):
    g = gateway(config="drain_delay: 1s")
    s = Stream(g)
    g.ask(alice, "/init")
    assert s.next()["user"] == alice.uri
    g.running.p.send_signal(signal.SIGTERM)
    assert s.next() is None
    assert g.running.p.wait(60) == 0


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    g = Gateway(tmp_path_factory.mktemp("admin"), [kms.User("sip:alice@example.org")])
    yield g
    assert g.stop() == 0 and "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/decisions", "/rules", "/", "/none"])
def test_head_is_get_without_a_body(shared, path):
    gets, heads = get(shared, path), get(shared, path, method=b"HEAD")
    assert heads[0] == gets[0] and heads[2] == "" and gets[2]
    strip = lambda h: re.sub(r"Content-Length: \d+", "", h)  # noqa: E731: what is measured changes its length
    assert strip(heads[1]) == strip(gets[1])


BAD = {
    "POST": (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "DELETE": (b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "get": (b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
    "none": (b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "dots": (b"GET /x/../metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "the gateway's path": (b"GET /keymanagement/identity/v1/init HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "too many decisions": (b"GET /decisions?n=1001 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions negative": (b"GET /decisions?n=-1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions of something": (b"GET /decisions?m=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions of somebody twice": (b"GET /decisions?user=a&user=b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, n twice": (b"GET /decisions?n=1&n=2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions of nobody": (b"GET /decisions?user= HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, half an escape": (b"GET /decisions?user=a%4 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, a NUL": (b"GET /decisions?user=a%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, a long name": (b"GET /decisions?user=" + b"a" * 1500 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, an end too many": (b"GET /decisions?n=1& HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, nothing asked": (b"GET /decisions? HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, follow what": (b"GET /decisions?follow=2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, follow twice": (b"GET /decisions?follow=1&follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "decisions, no number": (b"GET /decisions?n= HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no HTTP": (b"hello\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /metrics\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\n", 400),
    "binary": (bytes(range(256)) + b"\r\n\r\n", 400),
    "a ClientHello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a huge head": (b"GET / HTTP/1.1\r\nX: " + b"a" * 20000, 431),
    "another host": (b"GET /rules HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    "another host with a port": (b"GET /decisions HTTP/1.1\r\nHost: evil.example:9090\r\n\r\n", 403),
    "localhost of another": (b"GET /rules HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 403),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(shared, name):
    data, status = BAD[name]
    out = raw(shared, data)
    assert out.startswith(b"HTTP/1.1 %d " % status), out
    assert (b"Allow: GET, HEAD\r\n" in out) == (status == 405)
    assert shared.ready() and shared.decisions() == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.0.0.1:1", "[::1]:9090", "10.0.0.7"])
def test_own_hosts(shared, host):
    assert raw(shared, b"GET /rules HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    assert raw(shared, b"GET /readyz HTTP/1.1\r\nHost: pod.example\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_the_token(gateway):
    g = gateway(start=False, config="admin_token: file:token")
    (g.folder / "token").write_text("s3cret-t0ken\n")
    g.start()
    for path in ("/metrics", "/decisions", "/rules", "/", "/none"):
        for headers in ((), (b"Authorization: Bearer s3cret-t0ke",), (b"Authorization: Bearer s3cret-t0kenX",),
                        (b"Authorization: s3cret-t0ken",), (b"Authorization: Basic s3cret-t0ken",),
                        (b"Authorization: Bearer ",), (b"Authorization: Bearer " + b"a" * 4000,),
                        (b"X-Authorization: Bearer s3cret-t0ken",),
                        (b"Authorization: Bearer x", b"Authorization: Bearer s3cret-t0ken")):
            status, head, _ = get(g, path, *headers)
            assert status == 401 and "WWW-Authenticate: Bearer" in head, (path, headers)
        status, _, body = get(g, path, b"authorization:Bearer s3cret-t0ken")
        assert status == (404 if path == "/none" else 200) and "s3cret" not in body
    assert get(g, "/healthz")[0] == get(g, "/readyz")[0] == 200
    (g.folder / "rules.yaml").write_text("nonsense: 1\n")
    kms.wait_for(lambda: "rules: refused" in get(g, "/readyz")[2], 5)
    assert "nonsense" not in get(g, "/readyz")[2] and str(g.folder) not in get(g, "/readyz")[2]
    assert "nonsense" in get(g, "/readyz", b"Authorization: Bearer s3cret-t0ken")[2]
    assert "s3cret" not in g.running.err


def test_reasons_are_for_those_who_are_known(gate):
    """A web page that renames its own host to this address may learn whether it is ready, and no file's name."""
    (gate.folder / "rules.yaml").write_text("nonsense: 1\n")
    kms.wait_for(lambda: "nonsense" in get(gate, "/readyz")[2], 5)
    out = raw(gate, b"GET /readyz HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    assert out.startswith(b"HTTP/1.1 200 ") and b"rules: refused" in out
    assert b"nonsense" not in out and str(gate.folder).encode() not in out


def test_a_token_too_long(gateway):
    g = gateway(start=False, config="admin_token: file:token")
    (g.folder / "token").write_text("a" * 513)
    r = g.run("serve", "--config", g.config, check=False)
    assert r.returncode == 1 and "is too long" in r.stderr and "aaaa" not in r.stderr
    (g.folder / "token").write_text("a" * 512)
    g.start()
    assert get(g, "/", b"Authorization: Bearer " + b"a" * 512)[0] == 200
    assert get(g, "/", b"Authorization: Bearer " + b"a" * 511)[0] == 401


def test_another_address_than_loopback_needs_one(gateway):
    g = gateway(start=False)
    text = g.config.read_text()
    g.config.write_text(text.replace("admin: 127.0.0.1", "admin: 0.0.0.0"))
    r = g.run("serve", "--config", g.config, check=False)
    assert r.returncode == 1 and "admin_token" in r.stderr
    g.config.write_text(text)
    g.start()


def test_a_crowd_at_the_door(gate, alice):
    """Slow ones, garbage, floods: the health check is answered in time, and requests are served as before."""
    stop = threading.Event()

    def slow():
        held = []
        while not stop.is_set():
            try:
                s = socket.create_connection(("127.0.0.1", gate.admin_port), timeout=30)
                s.sendall(b"GET / HT")
                held.append(s)
            except OSError:
                pass
            held = held[-150:]
            time.sleep(0.002)

    def flood():
        while not stop.is_set():
            try:
                s = socket.create_connection(("127.0.0.1", gate.admin_port), timeout=30)
                s.sendall(os.urandom(30000))
                s.close()
            except OSError:
                pass

    def never_reads():
        while not stop.is_set():
            try:
                s = socket.create_connection(("127.0.0.1", gate.admin_port), timeout=30)
                s.sendall(b"GET /decisions?n=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
                time.sleep(0.05)
                s.close()
            except OSError:
                pass
    threads = [threading.Thread(target=t) for t in (slow, flood, never_reads)]
    for t in threads:
        t.start()
    worst = 0
    try:
        for _ in range(15):
            began = time.monotonic()
            assert gate.admin("/readyz") == (200, "ready\n")
            worst = max(worst, time.monotonic() - began)
            assert gate.ask(alice, "/init").status == 200
            time.sleep(0.1)
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert worst < 20, "it waits behind the slow ones"


def test_who_comes_in_a_burst_is_heard(gate, alice):
    """More than there are places, all at once and all silent; some take no reply. The one who asks is answered."""
    for _ in range(40):
        gate.ask(alice, "/init")
    gate.decisions(40)
    held = []
    for n in range(300):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(30)
        s.connect(("127.0.0.1", gate.admin_port))
        if n % 2:
            s.sendall(b"GET /decisions?n=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        held.append(s)
        if n % 50 == 49:
            assert gate.admin("/healthz") == (200, "ok\n")
    assert gate.admin("/readyz") == (200, "ready\n"), "nobody's requests suffer, so nothing is told here"
    assert 'kmsgate_limit{name="admin_connections"} 1\n' in gate.admin("/metrics")[1]
    assert 'kmsgate_limit{name="connections"} 0\n' in gate.admin("/metrics")[1]
    assert gate.ask(alice, "/init").status == 200
    for s in held:
        s.close()


def test_serving_full_leaves_the_admin_address_alone(gateway, alice):
    g = gateway(config="limits: { connections: 16, memory: 1MiB }")
    crowd = [wire.connect(g) for _ in range(40)]
    kms.wait_for(lambda: 'kmsgate_limit{name="connections"} 1\n' in g.admin("/metrics")[1])
    assert g.admin("/healthz") == (200, "ok\n")
    assert 'kmsgate_limit{name="admin_connections"} 0\n' in g.admin("/metrics")[1]
    for s in crowd:
        s.close()


@pytest.mark.parametrize("delay", ["0s", "1s"])
def test_the_last_decision_is_followed_to_the_end(gateway, alice, delay):
    g = gateway(config="drain_delay: " + delay)
    s = Stream(g)
    g.ask(alice, "/init")
    g.running.p.send_signal(signal.SIGTERM)
    assert s.next()["user"] == alice.uri and s.next() is None
    assert g.running.p.wait(60) == 0


def test_a_body_is_read_and_a_large_one_refused(shared):
    """Behind the same guard as requests: what two readers could read differently is nobody's second request."""
    hidden = b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n"
    out = raw(shared, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(hidden) + hidden)
    assert out.startswith(b"HTTP/1.1 200 ") and out.count(b"HTTP/1.1") == 1
    for framing, status in ((b"Content-Length: 5000", 413), (b"Content-Length: 1\r\nContent-Length: 1", 400),
                            (b"Content-Length: 4\r\nTransfer-Encoding: chunked", 400), (b"Expect: something", 417),
                            (b"X-Folded: a\r\n b", 400), (b"X : a", 400)):
        out = raw(shared, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n\r\n")
        assert out.startswith(b"HTTP/1.1 %d " % status), (framing, out)
    assert raw(shared, b"GET /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_slow_ones_lose_their_place(gate):
    s = socket.create_connection(("127.0.0.1", gate.admin_port), timeout=30)
    began = time.monotonic()
    try:
        while time.monotonic() - began < 5:
            s.sendall(b"G")
            time.sleep(0.1)
    except OSError:
        pass
    assert 1.5 < time.monotonic() - began < 30
    s = wire.connect(gate, port=gate.admin_port)
    assert s.recv(10) == b"" and time.monotonic() - began < 30


ENDED = """\
version: 1
kms: { uris: [kms.example.org] }
requests:
  - { id: gone, why: a test, until: 2026-01-31, match: { client_id: x }, accept: [unsigned] }
  - { id: everyone, checks: { time: { future: 40s } } }
responses: [{ id: default }]
"""


def troubles(g):
    return [(t["level"], t["what"], t["do"]) for t in json.loads(get(g, "/api/state")[2])["troubles"]]


def test_troubles_as_json(gateway, alice):
    """What is wrong, how badly, and what to do: an exception that has ended, no key in use, a start that must wait."""
    g = gateway([alice], rules=ENDED)
    kms.wait_for(lambda: ("note", "The rule `gone` (line 4) has ended with 2026-01-31.", "Take it out of the file.") in troubles(g))
    assert len(troubles(g)) == 1
    g.run("keys", "revoke", "--config", g.config, "--user", alice.uri, "--all")
    kms.wait_for(lambda: ("bad", "No key is in use: every signed request is refused.",
                          "`kmsgate keys import` brings them; it is seen within a second.") in troubles(g))
    g.running.p.send_signal(signal.SIGTERM)
    assert g.running.p.wait(30) == 0
    (g.folder / "replay.mark").unlink()  # nobody knows what was accepted: 40 s
    g.running = kms.Process([BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "gateway")
    kms.wait_for(lambda: "listening" in g.running.err)
    assert [t for t in troubles(g) if t[0] == "bad" and "not yet told from a replay" in t[1]], troubles(g)
