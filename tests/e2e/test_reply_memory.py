"""The process's memory, read from outside: no dump, no swap, no key left when nothing is under way. Of a build without
sanitizers: they keep what was freed, and lock nothing."""
import base64
import os
import random
import re
import signal
import ssl
import threading
import time

import pytest

import certs
import kms
import scripted
from conftest import BUILD, Gateway
from scripted import key_prov, key_set, response

ALICE = "sip:alice@example.org"
P = "/keyprov"
RULES = """\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
requests:
  - { id: keep, match: { client_id: keep } }
  - { id: message, match: { client_id: message } }
  - { id: everyone }
responses:
  - { id: keep, match: { rule: keep }, extensions: keep }
  - { id: message, match: { rule: message }, encrypt: { content: message } }
  - { id: default }
"""
SANITIZED = b"__asan_init" in (BUILD / "kmsgate").read_bytes() or b"__tsan_init" in (BUILD / "kmsgate").read_bytes()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    alice = kms.User(ALICE)
    b = scripted.Bench(tmp_path_factory.mktemp("memory"), [alice], RULES)
    b.alice = alice
    yield b
    b.stop()


def locked(pid):
    """Where the mappings begin that are never swapped, in no dump and empty in a fork."""
    found, at = set(), None
    for line in open("/proc/%d/smaps" % pid):
        first = re.match(r"([0-9a-f]+)-[0-9a-f]+ ", line)
        at = first[1] if first else at
        if line.startswith("VmFlags:") and {"lo", "dd", "wf"} <= set(line.split()):
            found.add(int(at, 16))
    return found


def pages(pid, but=()):
    """All that the process could write to, but for mappings that begin there."""
    with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb", 0) as mem:
        for line in maps:
            at, perms = line.split()[:2]
            low, high = (int(x, 16) for x in at.split("-"))
            if perms.startswith("rw") and "[v" not in line and low not in but:
                mem.seek(low)
                yield line.split()[-1], mem.read(high - low)


def found_in(pid, keys, but=()):
    found = {}
    for where, text in pages(pid, but):
        for name, octets in keys.items():
            part = octets[3:27]
            # base64 of three octets is four letters, wherever the key begins in what was encoded
            base64s = [base64.b64encode(octets[i:i + 24]) for i in (1, 2, 3)]
            for form in (part, part.hex().encode(), part.hex().upper().encode(), part[::-1], *base64s):
                if form in text:
                    kind = "octets" if form is part else "base64" if form in base64s else "hex or reversed"
                    found.setdefault(name, set()).add((where, kind))
    return found


def test_no_core(bench):
    limits = open("/proc/%d/limits" % bench.gate.running.p.pid).read()
    assert re.search(r"Max core file size\s+0\s+0\s", limits)


@pytest.mark.skipif(SANITIZED, reason="sanitizers lock nothing")
def test_the_working_keys_pages(bench):
    """Left out of dumps, and locked where the limit lets it."""
    smaps = open("/proc/%d/smaps" % bench.gate.running.p.pid).read()
    flags = [m.split() for m in re.findall(r"VmFlags: (.*)", smaps)]
    assert any("dd" in f and "lo" in f for f in flags), flags


@pytest.mark.skipif(SANITIZED, reason="sanitizers keep what was freed")
def test_memory_after_exchanges(bench):
    """Good ones under each kind of rule, refused ones, broken ones: no key of the user's, none of the upstream's."""
    k = scripted.Keys()
    good = response(key_prov(key_set(k, ALICE)), tail="<x:e xmlns:x='urn:x'>t</x:e>")
    for case in ("default", "message", "keep"):
        assert bench.reply(bench.alice, P, good, case=case).status == 200
        for bad in (good + b"broken", good.replace(b"<UserID>", b"<UserId>"), good.replace(b"alice", b"bob"),
                    good[:900],
                    good.replace(b"</KmsKeyProv>", k.element("UserDecryptKey").encode() + b"</KmsKeyProv>")):
            assert bench.reply(bench.alice, P, bad, case=case).status == 502
        assert bench.reply(bench.alice, P, good, case=case, status=500).status == 500
    pid = bench.gate.running.p.pid
    master = bytes.fromhex((bench.gate.folder / "master.key").read_text().strip())
    keys = dict(k.octets, ink=bench.alice.ink, trk=bench.alice.trk, master=master)
    del keys["NewIntegrityKey"], keys["NewTransportKey"]  # never sent
    assert not found_in(pid, keys)
    assert found_in(pid, {"twin": b"..." + RULES[60:90].encode()}), "the search finds nothing at all"
    assert os.path.exists("/proc/%d" % pid)


@pytest.fixture
def over_tls(tmp_path):
    """TLS to the client and to the KMS; the master key comes by the environment. (gateway, upstream, alice, post, master key)"""
    alice = kms.User(ALICE)
    for name in ("server", "kms"):
        certs.authority(tmp_path, name + "-ca")
        certs.issue(tmp_path, name + "-ca", name)
    upstream = scripted.Scripted(tls=(tmp_path / "kms.pem", tmp_path / "kms.key"))
    g = Gateway(tmp_path, [alice], rules=RULES, start=False, upstream=upstream.url,
                listen="    tls: { certificate: server.pem, key: server.key }")
    master = (tmp_path / "master.key").read_text().strip()
    text = g.config.read_text().replace("public_url: http:", "public_url: https:").replace("file:master.key", "env:CANARY_MASTER")
    g.config.write_text(text.replace("timeout: 5s }", "timeout: 60s, tls: { ca: kms-ca.pem } }"))
    (tmp_path / "master.key").unlink()
    g.public = g.public.replace("http:", "https:")
    context = ssl.create_default_context(cafile=str(tmp_path / "server-ca.pem"))
    context.check_hostname = False
    try:
        g.start({"CANARY_MASTER": master})
        yield g, upstream, alice, lambda: g.post(P, kms.signed_request(alice, g.url(P)), context=context), master
    finally:
        assert g.stop() == 0, g.running.err
        upstream.close()


@pytest.mark.skipif(SANITIZED, reason="sanitizers keep what was freed")
def test_memory_after_exchanges_over_tls(over_tls):
    """Records are decrypted in buffers of OpenSSL's. The master key is nowhere afterwards but in locked pages, and a reload finds
    it there."""
    g, upstream, alice, post, master = over_tls
    k = scripted.Keys()
    good = response(key_prov(key_set(k, ALICE)))
    pid = g.running.p.pid
    for n in range(40):
        upstream.says(good if n % 4 else good[:-20], 200)
        assert post().status == (200 if n % 4 else 502), g.running.err
    keys = dict(k.octets, ink=alice.ink, trk=alice.trk, master=bytes.fromhex(master))
    del keys["NewIntegrityKey"], keys["NewTransportKey"]  # never sent
    kept = locked(pid)
    assert not found_in(pid, keys, kept)
    assert set(found_in(pid, keys)) <= {"master"}  # as it came, for the next reload
    with open("/proc/%d/environ" % pid, "rb") as f:
        environ = f.read()
    assert b"CANARY_MASTER=" in environ and master.encode() not in environ
    assert found_in(pid, {"twin": b"..." + RULES[60:90].encode()}), "the search finds nothing at all"
    g.running.p.send_signal(signal.SIGHUP)
    kms.wait_for(lambda: "1 master key in force" in g.running.err)
    upstream.says(good, 200)
    assert post().status == 200


def found_at(pid, keys, but=()):
    """As octets or hex, in less time."""
    found = {}
    for where, text in pages(pid, but):
        for name, octets in keys.items():
            if octets[3:27] in text or octets[3:27].hex().encode() in text:
                found.setdefault(name, set()).add(where)
    return found


def at_work(pid, keys, samples, told):
    """Keys outside of locked memory, while the process is stopped at so many moments; told: those that were in clear at all."""
    found = {}
    for _ in range(samples):
        time.sleep(0.003 * random.random())
        os.kill(pid, signal.SIGSTOP)
        try:
            kms.wait_for(lambda: open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[0] == "T")
            kept = locked(pid)
            everywhere, elsewhere = found_at(pid, keys), found_at(pid, keys, kept)
            told.update(everywhere)
            for name, where in elsewhere.items():
                found.setdefault(name, set()).update(where)
        finally:
            os.kill(pid, signal.SIGCONT)
    return found


@pytest.mark.skipif(SANITIZED, reason="sanitizers lock nothing")
def test_keys_in_clear_are_in_locked_memory(over_tls):
    """While exchanges are under way: a reply that has come by half, and whatever a stop at a random moment finds."""
    g, upstream, alice, post, _ = over_tls
    k = scripted.Keys()
    good = response(key_prov(key_set(k, ALICE)))
    pid = g.running.p.pid
    mine = dict(k.octets, ink=alice.ink, trk=alice.trk)
    del mine["NewIntegrityKey"], mine["NewTransportKey"]
    upstream.says(good)
    assert post().status == 200
    upstream.says(b"", raw=upstream.raw[:-40])

    def asks():
        try:
            post()
        except OSError:
            pass  # it gave up waiting
    waiting = threading.Thread(target=asks)
    waiting.start()
    told = set()
    kms.wait_for(lambda: at_work(pid, mine, 1, told) or told)
    assert not at_work(pid, mine, 1, told)
    assert told >= {"UserDecryptKey", "UserSigningKeySSK"}, told
    upstream.drop()
    waiting.join()
    ends, statuses = threading.Event(), []

    def load():
        while not ends.is_set():
            try:
                statuses.append(post().status)
            except OSError:
                pass  # stopped for so long that the client gave up
    upstream.says(good)
    clients = [threading.Thread(target=load) for _ in range(4)]
    for c in clients:
        c.start()
    told, found = set(), None
    for _ in range(10):  # as often as it takes to meet one
        found = at_work(pid, mine, 40, told)
        if found or told:
            break
    ends.set()
    for c in clients:
        c.join()
    assert not found and 200 in statuses and set(statuses) <= {200, 403, 502, 503, 504}, set(statuses)  # late ones are stale
    assert told, "no stop met a key in clear"
