"""What docker/README.md says of memory, held. Time is no business of a test that shares its machine; tests/bench/run measures it."""
import os
import re
import resource
import socket
import ssl
import time
from pathlib import Path

import pytest

import kms
from conftest import BUILD, ROOT

README = (ROOT / "docker/README.md").read_text()


def told(row, unit):
    """The number in the table's line that begins like this."""
    m = re.search(r"^\| %s[^|]*\|[^|]*?([\d.,]+) %s" % (re.escape(row), unit), README, re.M)
    assert m, row
    return float(m[1].replace(",", ""))


def of(pid, what):
    return int(re.search(r"^%s:\s+(\d+) kB" % what, Path("/proc/%d/status" % pid).read_text(), re.M)[1])


def cpu_us(pid):
    fields = Path("/proc/%d/stat" % pid).read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * 1000000 // os.sysconf("SC_CLK_TCK")


def test_memory(gateway, certs, record_property):
    if b"__asan_init" in (BUILD / "kmsgate").read_bytes():
        pytest.skip("sanitizers multiply memory; the release build is measured")
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
                                                resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    users = [kms.User("sip:user%d@example.org" % i) for i in range(1000)]
    g = gateway(users=users, listen="    tls: { certificate: %s/server.pem, key: %s/server.key }" % (certs, certs),
                config="workers: 2\nlimits: { header_timeout: 60s, idle_timeout: 60s }")
    ctx = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    pid = g.running.p.pid
    g.post("/init", kms.signed_request(users[0], g.url("/init")), context=ctx)
    idle = of(pid, "VmRSS")
    n, cpu = 400, cpu_us(pid)
    held = [ctx.wrap_socket(socket.create_connection(("127.0.0.1", g.port), 30), server_hostname="localhost") for _ in range(n)]
    try:
        handshake = (cpu_us(pid) - cpu) / n
        each = (of(pid, "VmRSS") - idle) / n
        assert "kmsgate_connections %d" % n in g.admin("/metrics")[1]
    finally:
        [s.close() for s in held]
    database = (g.folder / "kmsgate.db").stat().st_size / len(users)
    print("idle %.1f MiB, a TLS connection %.1f KiB, a handshake %.0f us of CPU, a user on disk %.0f bytes" % (
        idle / 1024, each, handshake, database))
    assert idle / 1024 <= 1.3 * told("the process, 1,000 users", "MiB")
    assert each <= 1.3 * told("an open TLS connection", "KiB")
    assert database <= 1.3 * told("a user with two keys", "bytes on disk")


def test_decision_line(gate, alice):
    gate.ask(alice, "/keyprov")
    gate.decisions(1)
    line = (gate.folder / "decisions.jsonl").read_text()
    print("a decision: %d bytes" % len(line))
    assert len(line) <= 1.3 * told("a line of the decision log", "bytes")
