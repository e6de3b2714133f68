"""Connections to the upstream: kept, given up, made anew; a pool that is full, an upstream that does not answer."""
import os
import re
import socket
import ssl
import threading
import time

import pytest

import certs
import kms
from bad_upstream import Upstream, reply
from test_upstream_faults import INIT, WHOLE, server_context


def started(gateway, users, up, settings="", config="workers: 1", **kw):
    """A gateway before this upstream, with more settings of it."""
    g = gateway(users, upstream=up if isinstance(up, str) else up.url, start=False, config=config, **kw)
    text = g.config.read_text()
    assert "timeout: 5s }" in text
    g.config.write_text(text.replace("timeout: 5s }", "timeout: 5s%s }" % (", " + settings if settings else "")))
    return g.start()


def keeps(answer=lambda c, n: WHOLE, seen=None):
    """Answers request after request on one connection; None: it ends it."""
    def script(c):
        n = 0
        while c.read_request() is not None:
            n += 1
            if seen is not None:
                seen.append((c.number, n))
            out = answer(c, n)
            if out is None:
                return
            c.send(out)
    return script


@pytest.fixture
def upstream():
    made = []

    def make(script, **kw):
        made.append(Upstream(script, **kw))
        return made[-1]
    yield make
    for up in made:
        up.close()


def used(seen):
    """The connections that requests came over, each once, in order."""
    return list(dict.fromkeys(number for number, _ in seen))


def test_one_connection_carries_request_after_request(gateway, alice, upstream):
    seen = []
    g = started(gateway, [alice], upstream(keeps(seen=seen)))
    assert [g.ask(alice, "/keyprov").status for _ in range(5)] == [200] * 5
    assert len(used(seen)) == 1 and [n for _, n in seen] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("settings, header, again", [
    ("idle_timeout: 600ms", None, False),
    ("idle_timeout: 30s", None, True),
    ("idle_timeout: 30s", b"Keep-Alive: timeout=2", False),       # a second less, since a fifth would be too little
    ("idle_timeout: 30s", b"Keep-Alive: timeout=20", True),
    ("idle_timeout: 600ms", b"Keep-Alive: timeout=20", False),    # the shorter of both
    ("idle_timeout: 30s, lifetime: 1s", None, False),
])
def test_for_how_long_a_connection_is_kept(gateway, alice, upstream, settings, header, again):
    seen = []
    whole = reply(INIT, headers=[header] if header else [])
    g = started(gateway, [alice], upstream(keeps(lambda c, n: whole, seen)), settings)
    assert g.ask(alice, "/keyprov").status == 200
    time.sleep(1.3)
    assert g.ask(alice, "/keyprov").status == 200
    assert len(used(seen)) == (1 if again else 2), seen


@pytest.mark.parametrize("header", [b"Keep-Alive: timeout=1", b"Keep-Alive: timeout=0", b"Keep-Alive: timeout=9, max=0",
                                    b"Connection: close"])
def test_what_is_not_kept_at_all(gateway, alice, upstream, header):
    seen = []
    g = started(gateway, [alice], upstream(keeps(lambda c, n: reply(INIT, headers=[header]), seen)))
    assert [g.ask(alice, "/keyprov").status for _ in range(2)] == [200, 200]
    assert [n for _, n in seen] == [1, 1]


def test_closes_as_the_next_request_arrives(gateway, alice, upstream):
    """Nothing was answered: nobody knows what became of it, and the log says so in a sentence."""
    g = started(gateway, [alice], upstream(keeps(lambda c, n: WHOLE if n == 1 else None)))
    assert g.ask(alice, "/keyprov").status == 200
    assert g.ask(alice, "/keyprov").status == 502
    assert "the connection was closed before a reply came; the request may have been processed" in g.running.err


def test_an_idle_end_costs_nobody_a_reply(gateway, alice, upstream):
    """An upstream with a shorter patience than ours: what it closes while idle is not used again."""
    def script(c):
        c.s.settimeout(0.15)
        keeps()(c)
    g = started(gateway, [alice], upstream(script))
    for _ in range(6):
        assert g.ask(alice, "/keyprov").status == 200
        time.sleep(0.3)


@pytest.mark.parametrize("again", ["refused", "the name is not known"])
def test_what_was_not_sent_may_come_again(gateway, alice, upstream, again):
    port = kms.free_port()
    host = "127.0.0.1" if again == "refused" else "kms.invalid"
    g = started(gateway, [alice], "http://%s:%d" % (host, port))
    body = kms.signed_request(alice, g.url("/keyprov"))
    assert [g.post("/keyprov", body).status for _ in range(2)] == [502, 502]
    assert {d["reason"] for d in g.decisions(2)} == {"upstream.unreachable"}
    if again == "refused":
        up = upstream(keeps(), port=port)
        assert g.post("/keyprov", body).status == 200
        assert g.post("/keyprov", body).status == 403 and len(up.requests) == 1
    else:
        assert "the name cannot be resolved: kms.invalid" in g.running.err


def test_what_was_sent_may_not_come_again(gateway, alice, upstream):
    g = started(gateway, [alice], upstream(keeps(lambda c, n: None)))
    body = kms.signed_request(alice, g.url("/keyprov"))
    assert [g.post("/keyprov", body).status for _ in range(2)] == [502, 403]


def test_a_name_is_resolved_and_both_families_are_tried(gateway, alice, upstream):
    """localhost is ::1 first on many machines, where nobody listens."""
    up = upstream(keeps())
    g = started(gateway, [alice], "http://localhost:%d" % up.port)
    assert [g.ask(alice, "/keyprov").status for _ in range(3)] == [200] * 3
    assert b"\r\nHost: localhost:%d\r\n" % up.port in up.requests[0][0] + b"\r\n"


def test_no_more_are_kept_than_there_may_be(gateway, alice, upstream):
    """Each worker keeps its own, and together they may have made more: the rest is closed."""
    open_now, seen = set(), []

    def script(c):
        open_now.add(c.number)
        try:
            keeps(lambda c, n: time.sleep(0.05) or WHOLE, seen)(c)
        finally:
            open_now.discard(c.number)
    g = started(gateway, [alice], upstream(script), "connections: 2, idle_timeout: 10m", config="workers: 4")

    def ask_two():
        threads = [threading.Thread(target=g.ask, args=(alice, "/keyprov")) for _ in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        return len(open_now) > 2
    kms.wait_for(ask_two, 30)
    kms.wait_for(lambda: len(open_now) <= 2, 30)
    assert open_now


def test_a_large_request_and_an_answer_before_its_end(gateway, alice, upstream):
    """An upstream that refuses a body while it is still being sent is heard; nothing else goes over that connection,
    where it would be read as the rest of the body."""
    seen = []

    def script(c):
        while c.read_head() is not None:
            seen.append((c.number, 1))
            c.send(reply(b"", b"413 Large"))

    def wide(f):
        request = kms.kms_request(f)
        request[0].tail = " " * (6 << 20)
        return request
    up = upstream(script, listen=False)
    up.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    up.listen()
    g = started(gateway, [alice], up, config="workers: 1\nlimits: { body: 8MiB }",
                rules="version: 1\nkms: { uris: [kms.example.org] }\nresponses: [{ id: default }]\n"
                      "requests: [{ id: everyone, forward: { body: signed } }]\n")
    assert [g.ask(alice, "/keyprov", request=wide).status, g.ask(alice, "/keyprov").status] == [413, 413]
    assert [d["reason"] for d in g.decisions(2)] == ["upstream.error"] * 2 and len(used(seen)) == 2


def test_the_breaker(gateway, alice, upstream):
    """Opens after so many calls without an answer, lets one through now and then, and closes with the first answer."""
    answers = threading.Event()
    up = upstream(keeps(lambda c, n: WHOLE if answers.is_set() else None))
    g = started(gateway, [alice], up, "breaker: { failures: 3, probe: 2s }")
    assert [g.ask(alice, "/keyprov").status for _ in range(3)] == [502] * 3 and len(up.requests) == 3
    r = g.ask(alice, "/keyprov")
    assert (r.status, r.headers["Retry-After"], len(up.requests)) == (502, "2", 3)
    d = g.decisions(4)[-1]
    assert d["reason"] == "upstream.unreachable" and d["verdict"] == "accept"
    assert "3 calls in a row without an answer" in g.running.err
    assert 'kmsgate_limit{name="breaker"} 1\n' in g.admin("/metrics")[1]
    status, text = g.admin("/readyz")
    assert status == 200 and text.startswith("ready\n") and "the upstream does not answer" in text
    time.sleep(2.1)
    assert [g.ask(alice, "/keyprov").status for _ in range(3)] == [502] * 3
    assert len(up.requests) == 4, "one probe, and no more"
    answers.set()
    time.sleep(2.1)
    assert [g.ask(alice, "/keyprov").status for _ in range(3)] == [200] * 3
    assert "requests are let through again; 3 had been refused" in g.running.err
    assert 'kmsgate_limit{name="breaker"} 0\n' in g.admin("/metrics")[1] and g.admin("/readyz")[1] == "ready\n"


def test_what_the_breaker_refuses_may_come_again(gateway, alice, upstream):
    answers = threading.Event()
    up = upstream(keeps(lambda c, n: WHOLE if answers.is_set() else None))
    g = started(gateway, [alice], up, "breaker: { failures: 1, probe: 1s }")
    assert g.ask(alice, "/keyprov").status == 502
    body = kms.signed_request(alice, g.url("/keyprov"))
    assert g.post("/keyprov", body).status == 502 and len(up.requests) == 1
    answers.set()
    time.sleep(1.1)
    assert g.post("/keyprov", body).status == 200


def test_an_answer_between_keeps_the_breaker_closed(gateway, alice, upstream):
    """In a row is in a row; an error is an answer, and so is one that cannot be used."""
    outs = [None, reply(b"", b"500 X"), None, b"SSH-2.0\r\n", None, WHOLE] * 2
    up = upstream(keeps(lambda c, n: outs[len(up.requests) - 1]))
    g = started(gateway, [alice], up, "breaker: { failures: 2, probe: 1h }")
    got = [g.ask(alice, "/keyprov").status for _ in range(len(outs))]
    assert got == [502, 500, 502, 502, 502, 200] * 2 and len(up.requests) == len(outs)


def test_the_breaker_of_one_that_is_away_tries_as_soon_as_it_can_be_reached(gateway, alice, upstream):
    port = kms.free_port()
    g = started(gateway, [alice], "http://127.0.0.1:%d" % port, "breaker: { failures: 2, probe: 1h }")
    assert [g.ask(alice, "/keyprov").status for _ in range(3)] == [502] * 3
    upstream(keeps(), port=port)
    kms.wait_for(lambda: "can be reached again" in g.running.err, 10)
    assert g.ask(alice, "/keyprov").status == 200


def test_to_be_reached_is_no_answer(gateway, alice, upstream):
    """One that can be connected to, and ends each connection, is tried once; the breaker stays open."""
    port = kms.free_port()
    g = started(gateway, [alice], "http://127.0.0.1:%d" % port, "breaker: { failures: 2, probe: 1h }")
    assert [g.ask(alice, "/keyprov").status for _ in range(3)] == [502] * 3
    up = upstream(keeps(lambda c, n: None), port=port)
    kms.wait_for(lambda: "can be reached again" in g.running.err, 10)
    assert [g.ask(alice, "/keyprov").status for _ in range(4)] == [502] * 4
    assert len(up.requests) == 1
    assert 'kmsgate_limit{name="breaker"} 1\n' in g.admin("/metrics")[1]


def test_a_mute_upstream_ends_no_later(gateway, alice, upstream):
    """Calls under way are cut when the time to drain is over; the gateway does not wait for their timeout."""
    up = upstream(lambda c: c.hold(60))
    g = started(gateway, [alice], up, config="workers: 1\ndrain_timeout: 200ms")
    threading.Thread(target=lambda: _ignore(g, alice), daemon=True).start()
    kms.wait_for(lambda: "kmsgate_in_flight 1\n" in g.admin("/metrics")[1], 10)
    began = time.monotonic()
    g.running.stop()
    assert time.monotonic() - began < 4


def _ignore(g, user):
    try:
        g.ask(user, "/keyprov")
    except OSError:
        pass


def tls_place(folder):
    folder.mkdir()
    return certs.authority(folder, "ca"), certs.issue(folder, "ca", "good")


def test_a_tls_connection_is_kept_too(gateway, alice, upstream, tmp_path):
    ca, pair = tls_place(tmp_path / "certs")
    seen = []
    up = upstream(keeps(seen=seen), context=server_context(pair))
    g = started(gateway, [alice], up, "tls: { ca: %s }" % ca)
    assert [g.ask(alice, "/keyprov").status for _ in range(4)] == [200] * 4
    assert len(used(seen)) == 1


def test_a_tls_connection_ends_with_the_certificates_it_was_made_by(gateway, alice, upstream, tmp_path):
    """However long it could be kept: a client certificate that was replaced is not used any more."""
    folder = tmp_path / "certs"
    ca, pair = tls_place(folder)
    certs.authority(folder, "clients")
    certs.issue(folder, "clients", "me")
    names, seen = {}, []

    def script(c):
        names[c.number] = dict(x[0] for x in c.s.getpeercert()["subject"])["commonName"]
        keeps(seen=seen)(c)
    up = upstream(script, context=server_context(pair, folder / "clients.pem"))
    g = started(gateway, [alice], up, "idle_timeout: 10m, tls: {{ ca: {1}, certificate: {0}/me.pem, key: {0}/me.key }}"
                .format(folder, ca))
    assert [g.ask(alice, "/keyprov").status for _ in range(3)] == [200] * 3
    assert [names[n] for n in used(seen)] == ["me"]
    certs.issue(folder, "clients", "other")
    (folder / "me.pem").write_text((folder / "other.pem").read_text())
    (folder / "me.key").write_text((folder / "other.key").read_text())
    kms.wait_for(lambda: g.ask(alice, "/keyprov").status == 200 and names[seen[-1][0]] == "other")
    assert g.ask(alice, "/keyprov").status == 200 and [names[n] for n in used(seen)] == ["me", "other"]


def test_the_name_goes_into_the_handshake(gateway, alice, upstream, tmp_path):
    ca, pair = tls_place(tmp_path / "certs")
    context = server_context(certs.issue(tmp_path / "certs", "ca", "named", host="DNS:localhost"))
    names = []
    context.sni_callback = lambda s, name, c: names.append(name)
    up = upstream(keeps(), context=context)
    g = started(gateway, [alice], "https://localhost:%d" % up.port, "tls: { ca: %s }" % ca)
    assert g.ask(alice, "/keyprov").status == 200 and "localhost" in names and None not in names


def test_tls_that_is_cut_is_no_end_of_a_reply(gateway, alice, upstream, tmp_path):
    """A reply that ends with its connection ends with TLS's own word; a cut connection is what an attacker can make."""
    ca, pair = tls_place(tmp_path / "certs")
    cut = threading.Event()

    def script(c):
        if c.read_request() is None:
            return
        c.send(b"HTTP/1.0 200 OK\r\n\r\n" + INIT)
        if cut.is_set():
            os.close(os.dup(c.s.fileno()))
            socket.socket(fileno=c.s.detach()).close()
        else:
            c.s.unwrap()
    up = upstream(script, context=server_context(pair))
    g = started(gateway, [alice], up, "tls: { ca: %s }" % ca)
    assert g.ask(alice, "/keyprov").status == 200
    cut.set()
    assert (g.ask(alice, "/keyprov").status, g.decisions(2)[-1]["reason"]) == (502, "upstream.invalid")


def test_the_log_says_what_a_reply_has(gateway, alice, upstream):
    said = {b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na": "more than one Content-Length",
            b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n": "a folded header line"}
    outs = list(said)
    up = upstream(keeps(lambda c, n: outs[len(up.requests) - 1]))
    g = started(gateway, [alice], up)
    for text in said.values():
        assert g.ask(alice, "/keyprov").status == 502
        kms.wait_for(lambda: re.search(r"warn +upstream http.*its reply has %s" % text, g.running.err), 5)
        time.sleep(1.1)


def hangs_at_keyprov(hang):
    """Whoever asks is answered in his own name; who asks for keys, after `hang`."""
    def script(c):
        while True:
            got = c.read_request()
            if got is None:
                return
            if b"/keyprov " in got[0].split(b"\r\n")[0]:
                hang(c)
            user = re.search(rb"UserUri>([^<]+)<", got[1]).group(1)
            c.send(reply(INIT.replace(b"sip:alice@example.org", user)))
    return script


def test_a_resource_that_hangs_leaves_room_for_the_others(gateway, upstream):
    """It has half of what may be in flight, and no more while others ask."""
    go = threading.Event()
    users = [kms.User("sip:u%d@example.org" % i) for i in range(12)]
    up = upstream(hangs_at_keyprov(lambda c: go.wait(20)))
    g = started(gateway, users, up, config="workers: 2\nlimits: { in_flight: 8 }")
    assert g.ask(users[0], "/init").status in (200, 502)  # others ask
    got = []
    threads = [threading.Thread(target=lambda u=u: got.append(g.ask(u, "/keyprov").status)) for u in users[:6]]
    for t in threads:
        t.start()
    kms.wait_for(lambda: got.count(503) == 2, 10)
    assert [g.ask(u, "/init").status for u in users[6:]] == [502] * 6  # asked, and answered: with another message
    assert 'kmsgate_limit{name="resource"} 1\n' in g.admin("/metrics")[1]
    go.set()
    for t in threads:
        t.join()
    assert sorted(got) == [200] * 4 + [503] * 2


def test_nor_does_it_take_all_connections(gateway, upstream):
    """The last of eight that may run is kept from it while others ask, and when its own run out of time the breaker stays
    closed: the others are answered before, meanwhile and after."""
    users = [kms.User("sip:u%d@example.org" % i) for i in range(12)]
    up = upstream(hangs_at_keyprov(lambda c: c.hold(60)))
    g = started(gateway, users, up, "connections: 8, breaker: { failures: 3, probe: 1h }")
    assert g.ask(users[0], "/init").status == 502  # asked, and answered: with another message
    got = []
    threads = [threading.Thread(target=lambda u=u: got.append(g.ask(u, "/keyprov").status)) for u in users[:8]]
    for t in threads:
        t.start()
    kms.wait_for(lambda: got == [503] and len(up.requests) == 8, 10)
    asked = 0
    while any(t.is_alive() for t in threads):
        assert g.ask(users[8 + asked % 4], "/init").status == 502
        asked += 1
    assert sorted(got) == [503] + [504] * 7 and asked > 1
    assert len(up.requests) == 1 + 7 + asked
    assert g.ask(users[0], "/init").status == 502 and len(up.requests) == 9 + asked, "the breaker is closed"
    assert 'kmsgate_limit{name="resource"} 1\n' in g.admin("/metrics")[1]
    assert 'kmsgate_limit{name="breaker"} 0\n' in g.admin("/metrics")[1]
    assert "no reply within 5000 ms, though others were answered meanwhile" in g.running.err


def test_one_user_has_a_sixteenth(gateway, alice, bob, upstream):
    """What he has too much of is refused, may come again, and takes nobody else's place."""
    go = threading.Event()
    up = upstream(keeps(lambda c, n: go.wait(20) and WHOLE))
    g = started(gateway, [alice, bob], up, config="workers: 2\nlimits: { in_flight: 32 }")
    got = []
    threads = [threading.Thread(target=lambda: got.append(g.ask(alice, "/keyprov").status)) for _ in range(2)]
    for t in threads:
        t.start()
    kms.wait_for(lambda: len(up.requests) == 2, 10)
    body = kms.signed_request(alice, g.url("/keyprov"))
    assert g.post("/keyprov", body).status == 503 and g.last(1)["reason"] == "http.busy"
    assert 'kmsgate_limit{name="user"} 1\n' in g.admin("/metrics")[1]
    threads.append(threading.Thread(target=lambda: got.append(g.ask(bob, "/keyprov").status)))
    threads[-1].start()
    kms.wait_for(lambda: len(up.requests) == 3, 10)
    go.set()
    for t in threads:
        t.join()
    assert g.post("/keyprov", body).status == 200
