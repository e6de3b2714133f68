"""TLS over real sockets: sessions that are resumed and those that must not be; handshakes that fail are counted."""
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time

import pytest

import certs
import kms
import wire

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture
def secured(gateway, alice):
    """Two listeners with client certificates, one with optional ones, all of one server certificate."""
    ports = [kms.free_port() for _ in range(3)]
    pair = "certificate: server.pem, key: server.key"
    g = gateway([alice], start=False, listen="".join(
        "  - address: 127.0.0.1:%d\n    tls: { %s, client_ca: clients.pem%s }\n" % (p, pair, more)
        for p, more in zip(ports, ("", ", client_auth: optional", ""))))
    g.ca = certs.authority(g.folder, "ca")
    certs.authority(g.folder, "clients")
    certs.authority(g.folder, "others")
    certs.issue(g.folder, "ca", "server")
    g.mine, g.theirs = certs.issue(g.folder, "clients", "mine"), certs.issue(g.folder, "others", "theirs")
    g.sure, g.maybe, g.twin = ports
    g.start()
    return g


def context_of(g, version, pair=None):
    context = ssl.create_default_context(cafile=str(g.ca))
    context.minimum_version = context.maximum_version = version
    if pair:
        context.load_cert_chain(*map(str, pair))
    return context


def visit(g, user, context, port, session=None):
    """One request; whether the session was resumed, and what may be brought back."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        with context.wrap_socket(s, server_hostname="127.0.0.1", session=session) as t:
            t.sendall(wire.Request(g, user).bytes())
            a = wire.Answer(wire.until_closed(t))
            assert a.status == 200
            return t.session_reused, t.session


@pytest.mark.parametrize("version", VERSIONS)
def test_resumed(secured, alice, version):
    for port, pair in ((secured.sure, secured.mine), (secured.maybe, secured.mine), (secured.maybe, None)):
        context = context_of(secured, version, pair)
        reused, session = visit(secured, alice, context, port)
        assert not reused and session.has_ticket
        for _ in range(3):
            reused, again = visit(secured, alice, context, port, session)
            assert reused
            session = again or session


@pytest.mark.parametrize("version", VERSIONS)
def test_not_elsewhere(secured, alice, version):
    """What was made without a certificate opens no door that asks for one, and another door's is none."""
    context = context_of(secured, version)
    _, session = visit(secured, alice, context, secured.maybe)
    for port in (secured.sure, secured.twin):
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            visit(secured, alice, context, port, session)
    context = context_of(secured, version, secured.mine)
    _, session = visit(secured, alice, context, secured.sure)
    assert visit(secured, alice, context, secured.twin, session)[0] is False
    assert visit(secured, alice, context, secured.sure, session)[0] is True


@pytest.mark.parametrize("version", VERSIONS)
def test_another_client_ca_ends_them(secured, alice, version):
    g = secured
    context = context_of(g, version, g.mine)
    _, session = visit(g, alice, context, g.sure)
    assert visit(g, alice, context, g.sure, session)[0]
    (g.folder / "clients.pem").write_text((g.folder / "others.pem").read_text())

    def refused():
        try:
            visit(g, alice, context, g.sure, session)
        except (ssl.SSLError, ConnectionError, AssertionError):
            return True
        return False

    def taken():
        try:
            return visit(g, alice, context_of(g, version, g.theirs), g.sure)[0] is False
        except (ssl.SSLError, ConnectionError):
            return False
    kms.wait_for(refused, 20)
    kms.wait_for(taken, 20)  # the workers take new certificates up one after another
    kms.wait_for(lambda: all(refused() for _ in range(4)), 20)


def burst(g, port, version, records, end):
    """All of it in one piece behind the handshake, with or without the client's end; what comes back."""
    come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
    t = context_of(g, version, g.mine).wrap_bio(come, go, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
        def pump(act):
            while True:
                try:
                    return act()
                except ssl.SSLZeroReturnError:
                    return b""
                except ssl.SSLWantReadError:
                    s.sendall(go.read())
                    got = s.recv(65536)
                    come.write(got) if got else come.write_eof()
        pump(t.do_handshake)
        for record in records:
            t.write(record)
        if end:
            with pytest.raises(ssl.SSLWantReadError):
                t.unwrap()
        s.sendall(go.read())
        out = b""
        while got := pump(lambda: t.read(65536)):
            out += got
        return out


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size,end", [(1, False), (1, True), (100, True), (16384, False), (16384, True)])
def test_records_are_no_borders(secured, alice, version, size, end):
    """Requests in many records that come at once: what is read ahead of the socket's next event is not left lying, also
    where reading pauses, since many wait behind the one that is served."""
    count = 3 if size == 1 else 25
    requests = [wire.Request(secured, alice).without(b"Connection") for _ in range(count)]
    if not end:
        requests[-1].add(b"Connection: close")
    text = b"".join(r.bytes() for r in requests)
    got = wire.answers(burst(secured, secured.sure, version, [text[i:i + size] for i in range(0, len(text), size)], end))
    assert [a.status for a in got] == [200] * count


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_handshake_takes_few_system_calls(secured, version):
    """What a connection's descriptor is asked for, from accept4 to close, are ten calls, and those that find nothing yet.
    Header and body of each record by itself, and an event that is asked for anew at each step, are twenty."""
    g, trace = secured, secured.folder / "trace"
    pid = g.running.p.pid
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-s", "0", "-e", "trace=accept4,read,write,writev,recvfrom,sendto,epoll_ctl,close",
                               "-o", trace, "-p", str(pid)], stderr=subprocess.DEVNULL)
    try:
        kms.wait_for(lambda: all("TracerPid:\t%d\n" % tracer.pid in (t / "status").read_text()
                                 for t in pathlib.Path("/proc/%d/task" % pid).iterdir()))
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", g.maybe), timeout=20) as s:
                context_of(g, version).wrap_socket(s, server_hostname="127.0.0.1").unwrap()
        kms.wait_for(lambda: connections_of(trace, 5))
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
    counts = connections_of(trace, 5)
    assert all(6 <= n <= 13 for n in counts), counts


def connections_of(trace, count):
    """How many calls that did something each accepted descriptor was in; None: fewer were closed."""
    found, done = {}, []
    for line in trace.read_text().splitlines():
        if m := re.search(r"accept4\b.* = (\d+)$", line):
            found[m[1]] = 1
        elif (m := re.search(r" (?:epoll_ctl\(\d+, \w+, |(?:read|write|writev|recvfrom|sendto|close)\()(\d+)", line)) and m[1] in found:
            found[m[1]] += "EAGAIN" not in line
            if " close(" in line:
                done.append(found.pop(m[1]))
    return done if len(done) >= count else None


def test_a_fleet_shares_them(gateway, alice):
    """The same secret and the same address: what one gateway has given, another resumes, after a restart, too."""
    port = kms.free_port()
    g = gateway([alice], start=False, config="tickets: file:tickets.key", listen="  - address: 127.0.0.1:%d\n"
                "    tls: { certificate: server.pem, key: server.key }" % port)
    g.ca = certs.authority(g.folder, "ca")
    certs.issue(g.folder, "ca", "server")
    key = g.folder / "tickets.key"
    r = g.run("serve", "--config", g.config, check=False)
    assert r.returncode == 1 and "tickets.key" in r.stderr
    key.write_text("ab" * 32 + "\n")
    key.chmod(0o600)
    context = context_of(g, VERSIONS[1])
    sessions = []
    for secret in ("ab", "ab", "cd"):
        key.write_text(secret * 32 + "\n")
        g.start()
        sessions.append(visit(g, alice, context, port, sessions[-1][1] if sessions else None))
        g.running.stop()
    assert [reused for reused, _ in sessions] == [False, True, False]


def failures(g):
    return {x.split(" ")[0].split("{")[1][:-1]: float(x.split()[-1])
            for x in g.admin("/metrics")[1].splitlines() if x.startswith("kmsgate_tls_failures_total{")}


def test_failed_handshakes_are_counted(gateway, alice):
    port = kms.free_port()
    g = gateway([alice], start=False, config="limits: { header_timeout: 1s }", listen="  - address: 127.0.0.1:%d\n"
                "    tls: { certificate: server.pem, key: server.key, client_ca: clients.pem }" % port)
    g.ca = certs.authority(g.folder, "ca")
    certs.authority(g.folder, "clients")
    certs.authority(g.folder, "others")
    certs.issue(g.folder, "ca", "server")
    mine, theirs = certs.issue(g.folder, "clients", "mine"), certs.issue(g.folder, "others", "theirs")
    g.start()

    def shake(context):
        try:
            return visit(g, alice, context, port)
        except (ssl.SSLError, ConnectionError, AssertionError):
            return None

    def knock(data, wait):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as s:
            s.sendall(data)
            if wait:
                try:
                    s.recv(100)
                except ConnectionError:
                    pass
    old = context_of(g, ssl.TLSVersion.TLSv1_1, mine)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    weak = context_of(g, VERSIONS[0], mine)
    weak.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    stranger = ssl.create_default_context()
    stranger.load_cert_chain(*map(str, mine))
    for why, act in (("plain_http", lambda: knock(b"POST / HTTP/1.1\r\n\r\n", True)),
                     ("not_tls", lambda: knock(b"\0" * 20, True)), ("closed", lambda: knock(b"", False)),
                     ("timeout", lambda: knock(b"\x16\x03\x01", True)), ("version", lambda: shake(old)),
                     ("cipher", lambda: shake(weak)), ("no_client_certificate", lambda: shake(context_of(g, VERSIONS[0]))),
                     ("client_certificate", lambda: shake(context_of(g, VERSIONS[0], theirs))),
                     ("refused_by_client", lambda: shake(stranger))):
        label = 'listener="127.0.0.1:%d",why="%s"' % (port, why)
        before = failures(g).get(label, 0)
        assert act() is None
        kms.wait_for(lambda: failures(g).get(label, 0) == before + 1, 10)
    before = failures(g)
    assert shake(context_of(g, VERSIONS[1], mine))
    time.sleep(0.3)
    assert failures(g) == before and len(before) == 9
