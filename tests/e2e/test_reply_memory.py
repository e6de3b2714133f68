"""The process's memory, read from outside: no dump, no swap, no key left when nothing is under way. Of a build without
sanitizers: they keep what was freed, and lock nothing."""
import os
import re

import pytest

import kms
import scripted
from conftest import BUILD
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


def pages(pid):
    """All that the process could write to."""
    with open("/proc/%d/maps" % pid) as maps, open("/proc/%d/mem" % pid, "rb", 0) as mem:
        for line in maps:
            at, perms = line.split()[:2]
            low, high = (int(x, 16) for x in at.split("-"))
            if perms.startswith("rw") and "[v" not in line:
                mem.seek(low)
                yield line.split()[-1], mem.read(high - low)


def found_in(pid, keys):
    found = {}
    for where, text in pages(pid):
        for name, octets in keys.items():
            part = octets[3:27]
            for form in (part, part.hex().encode(), part.hex().upper().encode()):
                if form in text:
                    found.setdefault(name, set()).add((where, "octets" if form is part else "hex"))
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
