"""The admin address by TLS: whom it lets in, what reads it from the same machine, what a reload changes."""
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest

import certs
import kms
from conftest import BUILD, Gateway

TOKEN = "s3cret-t0ken"
AUTH = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"


class Secured(Gateway):
    """One whose admin address is reached by TLS alone."""

    def __init__(self, folder, users, more="", server="server", **kw):
        super().__init__(folder, users, start=False, config="admin_token: file:token", **kw)
        (folder / "token").write_text(TOKEN + "\n")
        for name in ("ca", "clients", "others"):
            certs.authority(folder, name)
        certs.issue(folder, "ca", "server")
        certs.issue(folder, "clients", "mine")
        certs.issue(folder, "others", "theirs")
        self.presents = None
        text = self.config.read_text()
        self.config.write_text(text.replace(
            "admin: 127.0.0.1:%d\n" % self.admin_port,
            "admin: { address: \"127.0.0.1:%d\", tls: { certificate: %s.pem, key: %s.key%s } }\n" % (
                self.admin_port, server, server, more)))

    def context(self, presents=None, ca="ca"):
        context = ssl.create_default_context(cafile=str(self.folder / (ca + ".pem")))
        context.check_hostname = False
        if presents or self.presents:
            name = presents or self.presents
            context.load_cert_chain(str(self.folder / (name + ".pem")), str(self.folder / (name + ".key")))
        return context

    def reach(self, presents=None, ca="ca"):
        s = socket.create_connection(("127.0.0.1", self.admin_port), timeout=30)
        return self.context(presents, ca).wrap_socket(s, server_hostname="127.0.0.1")

    def get(self, path, headers=AUTH, presents=None, ca="ca"):
        with self.reach(presents, ca) as t:
            t.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
            out = b""
            while got := t.recv(65536):
                out += got
        head, body = out.split(b"\r\n\r\n", 1)
        return int(head.split(b" ")[1]), body.decode()

    def admin(self, path):
        try:
            return self.get(path)
        except ssl.SSLError as e:
            raise OSError(str(e))


@pytest.fixture
def secured(tmp_path, alice):
    made = []

    def make(**kw):
        folder = tmp_path / ("g%d" % len(made))
        folder.mkdir()
        made.append(Secured(folder, [alice], **kw))
        return made[-1]
    yield make
    for g in made:
        assert g.stop() == 0 and "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err


def health(g):
    return g.run("health", "--config", g.config, check=False)


def decisions(g, *more):
    return g.run("decisions", "--config", g.config, *more, check=False)


def test_by_tls_alone(secured, alice):
    g = secured()
    g.start()
    assert g.ask(alice, "/init").status == 200
    kms.wait_for(lambda: len(json.loads(g.get("/decisions")[1])) == 1)
    assert g.get("/healthz", b"") == (200, "ok\n") and g.get("/metrics", b"")[0] == 401
    with socket.create_connection(("127.0.0.1", g.admin_port), timeout=30) as s:
        s.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + AUTH + b"\r\n")
        try:
            assert b"HTTP/1.1 200" not in s.recv(1000)
        except ConnectionResetError:
            pass
    metrics = kms.wait_for(lambda: m if "tls_failures_total{" in (m := g.get("/metrics")[1]) else None)
    assert 'kmsgate_tls_failures_total{listener="127.0.0.1:%d",why="plain_http"} 1\n' % g.admin_port in metrics
    assert re.search(r'kmsgate_certificate_expiry_seconds\{file="[^"]*server\.pem"\} \d', metrics)
    assert health(g).returncode == 0
    r = decisions(g)
    assert r.returncode == 0 and alice.uri in r.stdout, r.stderr
    assert TOKEN not in g.running.err


def test_decisions_follow_by_tls(secured, alice):
    g = secured()
    g.start()
    with g.reach() as t:
        t.sendall(b"GET /decisions?follow=1 HTTP/1.1\r\nHost: localhost\r\n" + AUTH + b"\r\n")
        f = t.makefile("rb")
        for line in iter(f.readline, b"\r\n"):
            pass
        for _ in range(3):
            assert g.ask(alice, "/init").status == 200
            assert json.loads(f.readline())["user"] == alice.uri
        g.running.p.send_signal(signal.SIGTERM)
        assert f.readline() == b""
    assert g.running.p.wait(60) == 0


def test_client_certificates(secured):
    g = secured(more=", client_ca: clients.pem")
    g.presents = "mine"
    g.start()
    assert g.get("/readyz") == (200, "ready\n") and g.get("/metrics", b"")[0] == 401, "the token is due all the same"
    for name in ("server", "theirs"):  # of another authority
        with pytest.raises((ssl.SSLError, ConnectionError)):
            g.get("/healthz", presents=name)
    g.presents = None
    with pytest.raises((ssl.SSLError, ConnectionError)):
        g.get("/healthz")
    g.presents = "mine"
    r = health(g)  # it shows the address's own, which is not of that authority
    assert r.returncode == 1 and "no response" in r.stderr
    assert decisions(g).returncode == 1


def test_own_certificate_is_shown(secured):
    g = secured(more=", client_ca: clients.pem", server="mine")
    g.presents = "mine"
    real = g.context
    g.context = lambda presents=None, ca="ca": real(presents, "clients")
    g.start()
    assert health(g).returncode == 0
    r = decisions(g)
    assert r.returncode == 0 and "TIME" in r.stdout, r.stderr


def test_an_optional_one(secured):
    g = secured(more=", client_ca: clients.pem, client_auth: optional")
    g.start()
    assert g.get("/readyz")[0] == 200 and g.get("/readyz", presents="mine")[0] == 200 and health(g).returncode == 0
    with pytest.raises((ssl.SSLError, ConnectionError)):
        g.get("/healthz", presents="theirs")


def test_another_certificate_by_reload(secured):
    g = secured()
    g.start()
    before = ssl.get_server_certificate(("127.0.0.1", g.admin_port))
    (g.folder / "server.key").write_text("no key\n")
    g.running.p.send_signal(signal.SIGHUP)
    kms.wait_for(lambda: "what was read before stays in use" in g.running.err)
    assert ssl.get_server_certificate(("127.0.0.1", g.admin_port)) == before
    assert "certificate: refused" in kms.wait_for(lambda: g.get("/readyz")[1])
    certs.issue(g.folder, "ca", "server")
    kms.wait_for(lambda: ssl.get_server_certificate(("127.0.0.1", g.admin_port)) != before)
    assert g.get("/readyz") == (200, "ready\n")


def test_the_token_is_for_this_gateway_alone(secured, tmp_path):
    """Somebody else answers at the address, with a certificate of the same authority for the same name."""
    g = secured()
    g.start()
    certs.issue(g.folder, "ca", "impostor")
    assert g.stop() == 0
    seen, done = [], threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(g.folder / "impostor.pem"), str(g.folder / "impostor.key"))
    with socket.create_server(("127.0.0.1", g.admin_port)) as listening:
        def answer():
            s, _ = listening.accept()
            try:
                with context.wrap_socket(s, server_side=True) as t:
                    seen.append(t.recv(65536))
            except OSError:
                pass
            done.set()
        threading.Thread(target=answer, daemon=True).start()
        r = decisions(g)
        assert done.wait(30)
    assert r.returncode == 1 and "certificate" in r.stderr and not any(TOKEN.encode() in s for s in seen)
    context.load_cert_chain(str(g.folder / "server.pem"), str(g.folder / "server.key"))
    with socket.create_server(("127.0.0.1", g.admin_port)) as listening:  # its twin: with the gateway's own it is sent
        done.clear()
        threading.Thread(target=answer, daemon=True).start()
        decisions(g)
        assert done.wait(30)
    assert any(TOKEN.encode() in s for s in seen)


def test_a_crowd_that_does_not_shake_hands(secured, alice):
    g = secured()
    g.start()
    held = []
    for n in range(300):
        s = socket.create_connection(("127.0.0.1", g.admin_port), timeout=30)
        if n % 2:
            s.sendall(b"\x16\x03\x01")
        held.append(s)
        if n % 60 == 59:
            assert g.get("/healthz") == (200, "ok\n") and g.ask(alice, "/init").status == 200
    for s in held:
        s.close()


def test_from_the_environment(secured):
    g = secured()
    text = g.config.read_text()
    g.config.write_text(re.sub(r"admin: .*\n", "", text))
    other = kms.free_port()
    env = {"KMSGATE_ADMIN_ADDRESS": "127.0.0.1:%d" % other,
           "KMSGATE_ADMIN_TLS_CERTIFICATE": str(g.folder / "server.pem"), "KMSGATE_ADMIN_TLS_KEY": str(g.folder / "server.key")}
    r = subprocess.run([BUILD / "kmsgate", "check", "--print", "--config", g.config], env={**os.environ, **env},
                       capture_output=True, text=True, timeout=60)
    assert r.returncode == 0, r.stderr
    assert re.search(r"^admin: 127\.0\.0\.1:%d +# KMSGATE_ADMIN_ADDRESS$" % other, r.stdout, re.M)
    r = subprocess.run([BUILD / "kmsgate", "check", "--config", g.config],
                       env={**os.environ, **env, "KMSGATE_ADMIN": "127.0.0.1:1"}, capture_output=True, text=True,
                       timeout=60)
    assert r.returncode == 1 and "KMSGATE_ADMIN: is set, and so is KMSGATE_ADMIN_ADDRESS" in r.stderr
    g.admin_port = other
    g.start(env=env)
    assert g.get("/readyz") == (200, "ready\n")


def test_check_reads_its_certificate(secured):
    g = secured()
    g.start()
    (g.folder / "server.key").rename(g.folder / "away")
    r = g.run("check", "--config", g.config, check=False)
    assert r.returncode == 1 and "server.key" in r.stderr
    (g.folder / "away").rename(g.folder / "server.key")
    assert g.run("check", "--config", g.config, check=False).returncode == 0
