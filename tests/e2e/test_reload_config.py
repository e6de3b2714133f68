"""gateway.yaml read again by SIGHUP: what changes in place, what needs a restart, what is refused."""
import json
import os
import re
import resource
import signal
import threading
import time

import pytest

import certs
import kms
import wire
from bad_upstream import Upstream, reply
from test_reload import hup, metric


def results(g):
    return tuple(metric(g, 'kmsgate_config_reloads_total{result="%s"}' % r) for r in ("ok", "error"))


def edit(g, *pairs):
    text = g.config.read_text()
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    g.config.write_text(text)


def again(g, *pairs):
    """Edits the file and has it read: it is taken over."""
    ok, error = results(g)
    edit(g, *pairs)
    hup(g)
    kms.wait_for(lambda: results(g) != (ok, error), 20)
    assert results(g) == (ok + 1, error), g.running.err


def kept(g, user):
    """A request after which the connection is kept."""
    return wire.Request(g, user).without(b"Connection")


def read_answer(s):
    raw = b""
    while b"\r\n\r\n" not in raw or not wire.Answer(raw).complete:
        got = s.recv(65536)
        assert got, raw
        raw += got
    return wire.Answer(raw)


def test_nothing_has_changed(gate, alice):
    again(gate)
    assert results(gate) == (1, 0)
    assert " is now " not in gate.running.err and "restart" not in gate.running.err
    assert gate.ask(alice, "/init").status == 200


def test_the_largest_body(gateway, alice):
    g = gateway(config="limits: { body: 1KiB }")
    assert g.ask(alice, "/init").status == 413
    again(g, ("body: 1KiB", "body: 32KiB"))
    assert g.ask(alice, "/init").status == 200
    assert re.search(r"config \S+gateway\.yaml: limits\.body is now 32KiB \(was 1KiB\)", g.running.err)
    again(g, ("body: 32KiB", "body: 1KiB"))
    assert g.ask(alice, "/init").status == 413


def test_a_request_is_finished_under_the_limits_it_was_begun_with(gateway, alice):
    """Its body is already longer than the new limit when that comes."""
    g = gateway(config="limits: { body: 64KiB, body_timeout: 30s }\nworkers: 1")
    r = wire.Request(g, alice)
    length = len(r.body)
    r.set(b"Content-Length", b"%d" % length).add(b"Expect: 100-continue")
    s = wire.connect(g, timeout=60)
    s.sendall(r.head())
    assert b" 100 " in s.recv(4096)  # the head has been read
    s.sendall(r.body[:length // 2])
    again(g, ("body: 64KiB", "body: 64B"))
    assert g.ask(alice, "/init").status == 413  # the worker goes by the new
    s.sendall(r.body[length // 2:])
    assert wire.Answer(wire.until_closed(s)).status == 200


@pytest.mark.parametrize("key,value", [("header", "64B"), ("target", "64B"), ("headers", "64B"), ("header_count", "2")])
def test_the_limits_of_a_head(gateway, alice, key, value):
    g = gateway(config="limits: { idle_timeout: 60s }")
    more = {"X-Long": "a" * 100, "X-More": "b"}
    path = "/init?" + "q" * 40
    assert g.post(path, b"", headers=more).status not in (414, 431)
    again(g, ("idle_timeout: 60s", "idle_timeout: 60s, %s: %s" % (key, value)))
    assert g.post(path, b"", headers=more).status == (414 if key == "target" else 431)
    assert g.last(2)["reason"] == "http.too_large"


@pytest.mark.parametrize("key", ["header_timeout", "body_timeout"])
def test_deadlines_of_requests(gateway, alice, key):
    g = gateway(config="limits: { header_timeout: 50s, body_timeout: 50s }")
    again(g, (key + ": 50s", key + ": 200ms"))
    s = wire.connect(g, timeout=30)
    head = wire.Request(g, alice).head()
    s.sendall(head[:20] if key == "header_timeout" else head)
    assert s.recv(12) == b"HTTP/1.1 408"


def test_the_deadline_of_an_idle_connection(gateway, alice):
    """Also of one that is idle when the new deadline comes."""
    g = gateway(config="limits: { idle_timeout: 600s }\nworkers: 1")
    s = wire.connect(g, timeout=30)
    s.sendall(kept(g, alice).bytes())
    assert read_answer(s).status == 200
    again(g, ("idle_timeout: 600s", "idle_timeout: 300ms"))
    assert s.recv(1) == b""


def test_the_most_in_flight_and_its_shares(gateway, alice, bob):
    go = threading.Event()

    def script(c):
        while c.read_request() is not None:
            go.wait(60)
            c.send(reply(b"", b"404 Not Found"))
    up = Upstream(script)
    g = gateway([alice, bob], upstream=up.url, config="limits: { in_flight: 64 }\nworkers: 2")
    edit(g, ("timeout: 5s", "timeout: 60s"))
    again(g, ("in_flight: 64", "in_flight: 1"))
    first = threading.Thread(target=g.ask, args=(alice, "/init"))
    first.start()
    kms.wait_for(lambda: metric(g, "kmsgate_in_flight") == 1)
    assert g.ask(bob, "/init").error == "http.busy"
    again(g, ("in_flight: 1", "in_flight: 32"))
    assert metric(g, "kmsgate_in_flight") == 1
    second = threading.Thread(target=g.ask, args=(alice, "/init"))
    second.start()  # of 32 one user has two
    kms.wait_for(lambda: metric(g, "kmsgate_in_flight") == 2)
    assert g.ask(alice, "/init").error == "http.busy"
    go.set()
    first.join()
    second.join()
    up.close()


def test_the_most_connections(gateway, alice):
    g = gateway(config="limits: { connections: 4 }\nworkers: 2")

    def held(n):
        conns = [wire.connect(g) for _ in range(n)]
        r = wire.Request(g, alice)
        for s in conns:
            s.sendall(r.head()[:30])
        return conns
    conns = held(4)
    kms.wait_for(lambda: metric(g, "kmsgate_connections") == 4)
    again(g, ("connections: 4", "connections: 40"))
    conns += held(20)
    kms.wait_for(lambda: metric(g, "kmsgate_connections") == 24)
    again(g, ("connections: 40", "connections: 3"))  # those that are too many go at once
    kms.wait_for(lambda: metric(g, "kmsgate_connections") == 3)
    assert g.ask(alice, "/init").status == 200
    for s in conns:
        s.close()


def test_the_most_memory(gateway, alice):
    g = gateway(config="limits: { memory: 64MiB, body_timeout: 50s }\nworkers: 1")
    r = wire.Request(g, alice)
    r.set(b"Content-Length", b"65536")
    crowd = [wire.connect(g, timeout=60) for _ in range(40)]
    for s in crowd:
        s.sendall(r.head() + b" " * 60000)
    kms.wait_for(lambda: metric(g, "kmsgate_connections") == 40)
    again(g, ("memory: 64MiB", "memory: 1MiB"))
    time.sleep(0.6)  # nobody is called slow sooner
    assert g.ask(alice, "/init").status == 200
    assert "limits.memory is reached" in g.running.err
    for s in crowd:
        s.close()


def test_the_most_that_is_remembered(gateway, alice):
    g = gateway(config="limits: { replay_entries: 1048576 }\nworkers: 1")
    again(g, ("replay_entries: 1048576", "replay_entries: 16"))
    assert g.ask(alice, "/init").status == 200
    assert g.ask(alice, "/init").status == 503 and g.last(2)["reason"] == "replay.full"
    again(g, ("replay_entries: 16", "replay_entries: 1000"))
    assert g.ask(alice, "/init").status == 200


def test_the_upstreams_deadline(gateway, alice):
    up = Upstream(lambda c: c.read_request() is not None and c.hold(60))
    g = gateway([alice], upstream=up.url, config="")
    again(g, ("timeout: 5s", "timeout: 300s"))
    again(g, ("timeout: 300s", "timeout: 200ms"))
    r = g.ask(alice, "/init")
    assert r.status == 504 and "no reply within 200 ms" in g.running.err
    up.close()


def test_public_url(gate, alice):
    other = "https://kms.example.com"
    body = kms.signed_request(alice, other + kms.BASE + "/init")
    assert gate.post("/init", body).status == 403
    again(gate, ("public_url: " + gate.public, "public_url: [%s, %s]" % (gate.public, other)))
    assert gate.post("/init", kms.signed_request(alice, other + kms.BASE + "/init")).status == 200
    assert gate.ask(alice, "/init").status == 200


def test_trusted_proxies(gateway, alice):
    g = gateway()
    far = {"X-Forwarded-For": "192.0.2.7"}

    def source():
        r = g.post("/init", kms.signed_request(alice, g.url("/init")), headers=far)
        return kms.wait_for(lambda: [d for d in g.decisions() if d["id"] == r.headers["X-Request-Id"]])[0]["source"]
    assert source() == "127.0.0.1"
    line = "  - address: 127.0.0.1:%d\n" % g.port
    again(g, (line, line + "    trusted_proxies: [127.0.0.0/8]\n"))
    assert source() == "192.0.2.7"
    assert "listen[0].trusted_proxies has changed and is in effect" in g.running.err
    again(g, ("127.0.0.0/8", "10.0.0.0/8"))
    assert source() == "127.0.0.1"


def test_the_log(gateway, alice):
    g = gateway(config="log: { level: error, format: text }")
    again(g, ("level: error, format: text", "level: info, format: json"))
    again(g)
    last = g.running.err.strip().splitlines()[-1]
    assert json.loads(last)["level"] == "info"
    again(g, ("level: info", "level: error"))
    lines = len(g.running.err.splitlines())
    again(g)
    assert len(g.running.err.splitlines()) == lines


def test_draining(gateway, alice):
    g = gateway(config="drain_delay: 0s\ndrain_timeout: 600s")
    again(g, ("drain_delay: 0s", "drain_delay: 1500ms"), ("drain_timeout: 600s", "drain_timeout: 1s"))
    s = wire.connect(g)
    s.sendall(wire.Request(g, alice).head())  # it never ends
    kms.wait_for(lambda: metric(g, "kmsgate_connections") == 1)
    began = time.monotonic()
    g.running.p.send_signal(signal.SIGTERM)
    kms.wait_for(lambda: g.admin("/readyz")[0] == 503)
    assert g.running.p.wait(60) == 0 and 2 <= time.monotonic() - began
    s.close()


RESTART = [("upstream.url", 'url: "http', 'url: "https'), ("rules", "rules: rules.yaml", "rules: other.yaml"),
           ("keys", "kmsgate.db", "other.db"), ("decisions", "decisions.jsonl", "other.jsonl"),
           ("workers", "workers: 1", "workers: 2"), ("sandbox", "sandbox: on", "sandbox: off"),
           ("upstream.max_reply", "timeout: 5s", "timeout: 5s, max_reply: 2MiB"),
           ("upstream.breaker.failures", "timeout: 5s", "timeout: 5s, breaker: { failures: 7 }"),
           ("admin_token", "sandbox: on", "sandbox: on\nadmin_token: file:token"),
           ("listen", "admin:", "  - address: 127.0.0.1:{port}\nadmin:")]


@pytest.mark.parametrize("key,old,new", RESTART, ids=[r[0] for r in RESTART])
def test_what_needs_a_restart_is_named(gateway, alice, key, old, new):
    g = gateway(config="workers: 1\nsandbox: on\nlimits: { body: 32KiB }")
    again(g, (old, new.replace("{port}", str(kms.free_port()))), ("body: 32KiB", "body: 33KiB"))
    log = g.running.err
    assert re.search(r" warn +config \S+gateway\.yaml: %s has changed: restart kmsgate to apply it" % re.escape(key),
                     log), log
    assert "limits.body is now 33KiB" in log  # the rest is taken over
    assert results(g) == (1, 0)
    assert g.ask(alice, "/init").status == 200 and g.admin("/readyz") == (200, "ready\n")
    again(g)
    assert log.count("restart kmsgate") * 2 == g.running.err.count("restart kmsgate")  # until it is done


def test_certificates_of_a_listener_need_a_restart(gateway, tmp_path, alice):
    certs.authority(tmp_path, "ca")
    for name in ("one", "two"):
        certs.issue(tmp_path, "ca", name)
    g = gateway(listen="    tls: { certificate: %s/one.pem, key: %s/one.key }" % (tmp_path, tmp_path))
    again(g, ("one.pem", "two.pem"), ("one.key", "two.key"))
    for key in ("certificate", "key"):
        assert "listen[0].tls.%s has changed: restart kmsgate to apply it" % key in g.running.err


@pytest.mark.parametrize("old,new,words", [
    ("upstream:", "upstraem:", "unknown key"), ("body: 1KiB", "body: 1", "expected"),
    ("body: 1KiB", "body: [", "gateway.yaml:"), (None, None, "No such file")])
def test_a_bad_file_is_refused_and_the_old_stays(gateway, alice, old, new, words):
    g = gateway(config="limits: { body: 1KiB }\nlog: { format: json }")
    good = g.config.read_text()
    if old:
        edit(g, (old, new), ("format: json", "format: text"))
    else:
        g.config.unlink()
    hup(g)
    kms.wait_for(lambda: results(g) == (0, 1), 20)
    status, body = g.admin("/readyz")
    assert status == 200 and body.startswith("ready\ngateway.yaml: refused at 20") and "gateway.yaml" in body, body
    lines = [json.loads(x) for x in g.running.err.splitlines()]  # the format is the old, too
    told = [x for x in lines if x["level"] == "error"]
    assert "the settings read before stay in effect" in told[-1]["message"]
    assert any(words in x["message"] for x in told), told
    assert g.ask(alice, "/init").status == 413
    g.config.write_text(good.replace("body: 1KiB", "body: 32KiB"))
    time.sleep(1.5)
    assert g.ask(alice, "/init").status == 413  # by signal, and by it alone
    hup(g)
    kms.wait_for(lambda: g.ask(alice, "/init").status == 200, 20)
    assert g.admin("/readyz") == (200, "ready\n") and results(g) == (1, 1)


def test_the_environment_still_wins(gateway, alice):
    g = gateway(config="limits: { body: 64KiB }", start=False)
    g.start(env={"KMSGATE_LIMITS_BODY": "1KiB"})
    again(g, ("body: 64KiB", "body: 48KiB"))
    assert g.ask(alice, "/init").status == 413
    assert "limits.body" not in g.running.err


def test_a_storm_of_signals_under_load(gateway, alice, bob):
    """Every setting that can change does, many times a second, while requests run on kept and new connections."""
    limits = "limits: { body: %dKiB, connections: %d, in_flight: %d, memory: %dMiB, " \
             "idle_timeout: %ds, replay_entries: %d }"
    a, b = limits % (32, 200, 640, 32, 20, 500000), limits % (48, 900, 999, 48, 30, 900000)
    g = gateway([alice, bob], config=a + "\nworkers: 2\nlog: { level: warn }")
    text = g.config.read_text()
    line = "  - address: 127.0.0.1:%d\n" % g.port
    texts = (text, text.replace(a, b).replace(line, line + "    trusted_proxies: [127.0.0.1/32]\n")
             .replace("timeout: 5s", "timeout: 9s")
             .replace("public_url: " + g.public, "public_url: [https://a.example, %s]" % g.public),
             text.replace("rules:", "rulse:"))
    end = time.monotonic() + 5
    done, failed = [], []

    def ask(user, keep):
        s = wire.connect(g, timeout=60)
        while time.monotonic() < end:
            try:
                if not keep:
                    done.append(g.ask(user, "/init").status)
                    continue
                s.sendall(kept(g, user).bytes())
                done.append(read_answer(s).status)
            except Exception as e:  # noqa: BLE001: any is a request lost
                failed.append(repr(e))
                return
    threads = [threading.Thread(target=ask, args=x) for x in
               ((alice, True), (bob, True), (alice, False), (bob, False))]
    for t in threads:
        t.start()
    n = 0
    while time.monotonic() < end:
        n += 1
        g.config.write_text(texts[n % 3])
        hup(g)
        time.sleep(0.01)
    for t in threads:
        t.join()
    assert not failed and set(done) == {200} and len(done) > 20
    assert all(x >= 3 for x in results(g))
    g.config.write_text(text)
    hup(g)
    kms.wait_for(lambda: g.admin("/readyz") == (200, "ready\n"), 20)
    assert g.ask(alice, "/init").status == 200


def settled(pid):
    time.sleep(0.5)
    return {int(n) for n in os.listdir("/proc/%d/fd" % pid)}


def test_want_of_descriptors_is_no_last_word(gateway, alice):
    """Rules that cannot be opened since no descriptor is left are read as soon as one is."""
    g = gateway(config="workers: 1")
    pid = g.running.p.pid
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used, before = settled(pid), None
    while used != before:  # a connection that still ends would leave a place free
        used, before = settled(pid), used
    free = next(n for n in range(len(used) + 1) if n not in used)
    rules = g.folder / "rules.yaml"
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, most[1]))
    rules.write_text(rules.read_text().replace("kms-01", "kms-09"))
    hup(g)
    kms.wait_for(lambda: "Too many open files" in g.running.err, 20)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, most)
    kms.wait_for(lambda: g.ask(alice, "/init").text("KmsId") == "kms-09", 30)
    kms.wait_for(lambda: g.admin("/readyz") == (200, "ready\n"), 30)


def test_the_list_of_master_keys(gate, alice):
    """A key goes only when nothing is sealed under it any more."""
    new = gate.folder / "new.key"
    new.write_text(os.urandom(32).hex())
    new.chmod(0o600)
    ok = "master_key: file:master.key"
    again(gate, (ok, "master_key: [file:new.key, file:master.key]"))
    assert "2 master keys in force" in gate.running.err
    assert "master_key has changed and is in effect" in gate.running.err
    edit(gate, ("[file:new.key, file:master.key]", "file:new.key"))
    hup(gate)
    kms.wait_for(lambda: results(gate) == (1, 1), 20)
    assert "gateway.yaml: refused" in gate.admin("/readyz")[1]
    assert gate.ask(alice, "/init").status == 200
    gate.run("keys", "rekey", "--config", edited(gate, "master_key: file:new.key",
                                                 "master_key: [file:new.key, file:master.key]"))
    kms.wait_for(lambda: "changes taken over" in gate.running.err)
    again(gate)
    assert gate.ask(alice, "/init").status == 200 and gate.admin("/readyz") == (200, "ready\n")


def edited(g, old, new):
    """A copy of the configuration with another text in it."""
    copy = g.folder / "copy.yaml"
    copy.write_text(g.config.read_text().replace(old, new))
    return copy
