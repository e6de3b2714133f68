"""Rules and certificates replaced under a running gateway: whole, or not at all, and never unsaid."""
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import threading
import time

import pytest

import certs
import kms
from conftest import RULES

OTHER = RULES.replace("kms-01", "kms-02")
BROKEN = RULES.replace("requests:", "reqests:")


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


def hup(g):
    g.running.p.send_signal(signal.SIGHUP)


def in_force(g):
    return json.loads(g.admin("/rules")[1])["hash"]


def metric(g, name):
    text = g.admin("/metrics")[1]
    m = re.search(r"^%s (\S+)$" % re.escape(name), text, re.M)
    return float(m.group(1)) if m else None


def reloads(g, result):
    return metric(g, 'kmsgate_rules_reloads_total{result="%s"}' % result)


def put(path, text):
    """As editors and `kubectl cp` do: beside it, then in its place."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    os.replace(new, path)


def kms_id(g, user):
    return g.ask(user, "/init").text("KmsId")


def test_by_signal(gate, alice):
    assert in_force(gate) == sha(RULES) and reloads(gate, "ok") == 0 and reloads(gate, "error") == 0
    (gate.folder / "rules.yaml").write_text(OTHER)
    hup(gate)
    kms.wait_for(lambda: in_force(gate) == sha(OTHER))
    assert kms_id(gate, alice) == "kms-02"
    assert gate.last(1)["rules"] == sha(OTHER)
    assert 'kmsgate_rules_info{hash="%s"} 1' % sha(OTHER) in gate.admin("/metrics")[1]
    assert sha(RULES) not in gate.admin("/metrics")[1]


def test_whoever_has_seen_the_new_rules_is_judged_by_them(gateway, alice):
    """Also while certificates, which come after the rules, are still read: here those of twelve listeners."""
    tls = "\n".join("  - { address: 127.0.0.1:%d, tls: { certificate: s.pem, key: s.key } }" % kms.free_port()
                    for _ in range(12))
    g = gateway(start=False, listen=tls)
    certs.authority(g.folder, "ca")
    certs.issue(g.folder, "ca", "s")
    g.start()
    for i in range(20):
        text = RULES.replace("kms-01", "kms-x%d" % i)
        put(g.folder / "rules.yaml", text)
        hup(g)
        while in_force(g) != sha(text):
            pass
        assert kms_id(g, alice) == "kms-x%d" % i


@pytest.mark.parametrize("how", ["rename", "write", "away for a moment", "link"])
def test_by_itself(gateway, alice, how):
    g = gateway(start=False)
    rules = g.folder / "rules.yaml"
    if how == "link":  # a ConfigMap's volume: rules.yaml -> ..data/rules.yaml, ..data -> a folder with a date
        for name, text in (("..2026_1", RULES), ("..2026_2", OTHER)):
            (g.folder / name).mkdir()
            (g.folder / name / "rules.yaml").write_text(text)
        rules.unlink()
        (g.folder / "..data").symlink_to("..2026_1")
        rules.symlink_to("..data/rules.yaml")
    g.start()
    assert kms_id(g, alice) == "kms-01"
    if how == "rename":
        put(rules, OTHER)
    elif how == "write":
        rules.write_text(OTHER)
    elif how == "link":
        (g.folder / "..data_tmp").symlink_to("..2026_2")
        os.replace(g.folder / "..data_tmp", g.folder / "..data")
    else:
        rules.unlink()
        time.sleep(1.2)
        assert g.admin("/readyz") == (200, "ready\n") and kms_id(g, alice) == "kms-01"
        rules.write_text(OTHER)
    kms.wait_for(lambda: in_force(g) == sha(OTHER), 5)
    assert kms_id(g, alice) == "kms-02"
    assert (reloads(g, "ok"), reloads(g, "error")) == (1, 0)


def test_a_file_that_says_the_same_is_no_reload(gate):
    put(gate.folder / "rules.yaml", RULES)
    time.sleep(1.5)
    assert (reloads(gate, "ok"), reloads(gate, "error")) == (0, 0)


@pytest.mark.parametrize("how", ["signal", "file", "gone"])
def test_refused_rules_leave_the_old_in_force(gate, alice, how):
    rules = gate.folder / "rules.yaml"
    if how == "gone":
        rules.unlink()
    elif how == "file":
        put(rules, BROKEN)
    else:
        rules.write_text(BROKEN)
        hup(gate)
    kms.wait_for(lambda: reloads(gate, "error") == 1, 10)
    assert in_force(gate) == sha(RULES) and kms_id(gate, alice) == "kms-01"
    status, body = gate.admin("/readyz")
    assert status == 200 and body.startswith("ready\nrules: refused at 20"), body
    assert ("rules.yaml:" if how != "gone" else "No such file") in body
    log = gate.running.err
    assert "stay in force" in log and (how == "gone" or re.search(r"rules\.yaml:\d+:\d+: ", log)), log
    time.sleep(1.5)  # said once, not at every look
    assert reloads(gate, "error") == 1 and gate.running.err.count("stay in force") == 1
    put(rules, OTHER)
    kms.wait_for(lambda: in_force(gate) == sha(OTHER), 5)
    assert gate.admin("/readyz") == (200, "ready\n")


def test_the_old_file_put_back_ends_the_trouble(gate):
    put(gate.folder / "rules.yaml", BROKEN)
    kms.wait_for(lambda: "refused" in gate.admin("/readyz")[1], 5)
    put(gate.folder / "rules.yaml", RULES)
    kms.wait_for(lambda: gate.admin("/readyz")[1] == "ready\n", 5)
    assert in_force(gate) == sha(RULES) and reloads(gate, "ok") == 0


def swapper(g, texts):
    """A ConfigMap's volume in place of rules.yaml; what it returns swaps it to texts[n], as the kubelet does."""
    rules = g.folder / "rules.yaml"
    for i, text in enumerate(texts):
        (g.folder / ("..2026_%d" % i)).mkdir()
        (g.folder / ("..2026_%d" % i) / "rules.yaml").write_text(text)
    rules.unlink()
    (g.folder / "..data").symlink_to("..2026_0")
    rules.symlink_to("..data/rules.yaml")

    def swap(n):
        (g.folder / "..data_tmp").symlink_to("..2026_%d" % n)
        os.replace(g.folder / "..data_tmp", g.folder / "..data")
    return swap


@pytest.mark.parametrize("how", ["signal", "link"])
def test_a_storm_under_load(gateway, alice, bob, how):
    """Two rule sets in turn, one of which refuses: every request is answered, logged, and judged by one of them. By
    SIGHUP after each rewriting, and by nothing but the swap of a link."""
    lets = RULES
    refuses = RULES.replace("id: everyone", "id: everyone, match: { user: 'sip:nobody@*' }")
    g = gateway(config="workers: 2", start=False)
    swap = swapper(g, (lets, refuses, BROKEN)) if how == "link" else None
    g.start()
    end = time.monotonic() + 6
    seen, failed = [], []

    def ask(user):
        while time.monotonic() < end:
            try:
                r = g.ask(user, "/init")
                seen.append((r.headers["X-Request-Id"], r.status, r.error))
            except Exception as e:  # noqa: BLE001: any is a request lost
                failed.append(repr(e))
                return
    threads = [threading.Thread(target=ask, args=(u,)) for u in (alice, bob, alice, bob)]
    for t in threads:
        t.start()
    n = 0
    while time.monotonic() < end:
        n += 1
        if swap:
            swap(n % 3)
            time.sleep(0.6)
        else:
            (g.folder / "rules.yaml").write_text((lets, refuses, BROKEN)[n % 3])
            hup(g)
            time.sleep(0.01)
    for t in threads:
        t.join()
    assert not failed
    lines = {d["id"]: d for d in g.decisions(len(seen))}
    assert len(lines) == len(seen) > 50
    hashes = {sha(lets): (200, "ok"), sha(refuses): (403, "rule.none")}
    for ident, status, error in seen:
        d = lines[ident]
        assert hashes[d["rules"]] == (status, d["reason"]) == (d["status"], d["reason"])
        assert error in (None, d["reason"])
    assert {d["rules"] for d in lines.values()} == set(hashes)
    least = (2, 1) if swap else (11, 6)
    assert reloads(g, "ok") >= least[0] and reloads(g, "error") >= least[1]


def test_the_decision_log_is_reopened(gate, alice):
    path = gate.folder / "decisions.jsonl"
    gate.ask(alice, "/init")
    gate.last(1)
    path.rename(gate.folder / "decisions.1")
    gate.ask(alice, "/init")
    kms.wait_for(lambda: len((gate.folder / "decisions.1").read_text().splitlines()) == 2)
    hup(gate)
    kms.wait_for(path.exists)
    gate.ask(alice, "/init")
    assert len(gate.decisions(1)) == 1 and "reopened" in gate.running.err


def tls_listen(folder, more=""):
    port = kms.free_port()
    return port, "    tls: { certificate: %s/server.pem, key: %s/server.key%s }" % (folder, folder, more)


def peer(port, ca, client=None):
    """What the server shows on a new connection."""
    context = ssl.create_default_context(cafile=ca)
    if client:
        context.load_cert_chain(*client)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
        with context.wrap_socket(s, server_hostname="127.0.0.1") as t:
            return dict(x[0] for x in t.getpeercert()["subject"])["commonName"]


@pytest.fixture
def secured(gateway, tmp_path):
    folder = tmp_path / "certs"
    folder.mkdir()
    ca = certs.authority(folder, "ca")
    certs.issue(folder, "ca", "first")
    certs.issue(folder, "ca", "second", days=20)

    def use(name):
        for kind in (".pem", ".key"):
            put(folder / ("server" + kind), (folder / (name + kind)).read_text())
    use("first")
    g = gateway(listen=tls_listen(folder)[1])
    g.ca, g.certs, g.use = ca, folder, use
    return g


def test_a_new_certificate_is_for_new_connections(secured):
    g = secured
    context = ssl.create_default_context(cafile=g.ca)
    plain = socket.create_connection(("127.0.0.1", g.port), timeout=10)
    before = context.wrap_socket(plain, server_hostname="127.0.0.1")
    assert peer(g.port, g.ca) == "first"
    left = metric(g, 'kmsgate_certificate_expiry_seconds{file="%s/server.pem"}' % g.certs)
    assert 199 * 86400 < left <= 200 * 86400
    assert "expires at" not in g.running.err
    g.use("second")
    kms.wait_for(lambda: peer(g.port, g.ca) == "second", 5)
    left = metric(g, 'kmsgate_certificate_expiry_seconds{file="%s/server.pem"}' % g.certs)
    assert 19 * 86400 < left <= 20 * 86400
    kms.wait_for(lambda: "in 19 days" in g.running.err, 5)
    before.sendall(b"POST /x HTTP/1.1\r\nHost: a\r\n\r\n")
    assert before.recv(100).startswith(b"HTTP/1.1 404 ")
    time.sleep(1)
    assert g.running.err.count("expires at") == 1  # once a day
    before.close()


@pytest.mark.parametrize("fault", ["mismatch", "garbage", "empty", "pass phrase", "gone"])
def test_a_certificate_that_cannot_be_used_leaves_the_old(secured, fault):
    g = secured
    cert, key = g.certs / "server.pem", g.certs / "server.key"
    words = {"mismatch": "is not the key of the certificate", "garbage": "no certificate that can be read",
             "empty": "is empty", "pass phrase": "without a pass phrase", "gone": "cannot be read"}[fault]
    if fault == "mismatch":
        put(cert, (g.certs / "second.pem").read_text())
    elif fault == "garbage":
        put(cert, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif fault == "empty":
        put(cert, "")
    elif fault == "pass phrase":
        certs.run("ec", "-aes256", "-passout", "pass:x", "-in", "server.key", "-out", "locked.key", cwd=g.certs)
        put(key, (g.certs / "locked.key").read_text())
    else:
        cert.unlink()
    kms.wait_for(lambda: words in g.running.err, 10)
    assert "stays in use" in g.running.err
    assert peer(g.port, g.ca) == "first"
    status, body = g.admin("/readyz")
    assert status == 200 and "certificate: refused" in body and words in body
    g.use("second")
    kms.wait_for(lambda: peer(g.port, g.ca) == "second", 5)
    kms.wait_for(lambda: g.admin("/readyz")[1] == "ready\n", 5)


def test_another_client_authority(gateway, tmp_path):
    folder = tmp_path / "certs"
    folder.mkdir()
    ca = certs.authority(folder, "ca")
    certs.authority(folder, "other")
    certs.issue(folder, "ca", "server")
    mine = certs.issue(folder, "ca", "mine")
    theirs = certs.issue(folder, "other", "theirs")
    put(folder / "clients.pem", ca.read_text())
    g = gateway(listen=tls_listen(folder, ", client_ca: %s/clients.pem" % folder)[1])

    def served(pair):
        context = ssl.create_default_context(cafile=ca)
        if pair:
            context.load_cert_chain(*pair)
        try:
            return g.post("/none", b"", context=context).status == 404
        except (ssl.SSLError, ConnectionError):
            return False
    assert served(mine) and not served(theirs) and not served(None)
    put(folder / "clients.pem", (folder / "other.pem").read_text())
    kms.wait_for(lambda: served(theirs), 5)
    assert not served(mine) and not served(None)
    assert len(g.decisions(2)) == 2  # refused handshakes are no requests
