"""docker/kmsgate.service: sound, locked down, and no tighter than the program can bear."""
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import kms
from conftest import BUILD, ROOT, run, tool

UNIT = ROOT / "docker/kmsgate.service"


def with_program(tmp_path, text=None):
    """The unit with the built program, since /usr/bin has none."""
    path = tmp_path / "kmsgate.service"
    path.write_text((text or UNIT.read_text()).replace("/usr/bin/kmsgate", str(BUILD / "kmsgate")))
    return path


def verify(path):
    return run(tool("systemd-analyze"), "verify", "--man=no", "--recursive-errors=no", path, ok=False)


def test_no_decision_is_lost_in_the_journal():
    assert settings()["LogRateLimitIntervalSec"] == ["0"] and settings()["LogsDirectory"] == ["kmsgate"]


def test_verified(tmp_path):
    r = verify(with_program(tmp_path))
    assert r.returncode == 0 and "kmsgate.service" not in r.stderr, r.stderr


@pytest.mark.parametrize("good,bad", [("NoNewPrivileges=", "NoNewPriviledges="), ("UMask=0077", "UMask=0999"),
                                      ("SystemCallFilter=@system-service", "SystemCallFilter=@system-servic")])
def test_verify_finds(tmp_path, good, bad):
    text = UNIT.read_text()
    assert good in text
    assert "kmsgate.service:" in verify(with_program(tmp_path, text.replace(good, bad))).stderr


def exposure(path):
    r = run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=100", path)
    return float(re.search(r"Overall exposure level for \S+: ([\d.]+)", r.stdout)[1])


def test_exposure(tmp_path):
    assert exposure(with_program(tmp_path)) <= 1.5
    loose = UNIT.read_text().replace("ProtectSystem=strict", "").replace("CapabilityBoundingSet=\n", "")
    assert exposure(with_program(tmp_path, loose)) > 1.5


def settings():
    out = {}
    for line in UNIT.read_text().split("\n"):
        if "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            out.setdefault(name, []).append(value)
    return out


def calls_of(group, known={}):
    """The system calls of a systemd set, sets in it resolved."""
    if not group.startswith("@"):
        return {group}
    if group not in known:
        lines = run(tool("systemd-analyze"), "syscall-filter", group).stdout.split("\n")[1:]
        names = {x.strip() for x in lines if x.strip() and not x.strip().startswith("#")}
        known[group] = set().union(*(calls_of(n) for n in names)) if names else set()
    return known[group]


def test_the_filter_lets_all_through_that_is_used(gateway, alice, certs, tmp_path):
    """A whole life under strace: start, TLS and plain requests, reload, keys changed, drain. No call but those allowed."""
    strace = tool("strace")
    allowed = set()
    for line in settings()["SystemCallFilter"]:
        for word in line.lstrip("~").split():
            allowed = allowed - calls_of(word) if line.startswith("~") else allowed | calls_of(word)
    assert "execve" in allowed and "ptrace" not in allowed and "mount" not in allowed and "reboot" not in allowed
    sanitized = b"__asan_init" in (BUILD / "kmsgate").read_bytes()
    if sanitized:
        pytest.skip("a build with sanitizers calls what the program itself does not; the release build is looked at")
    g = gateway(start=False)
    trace = tmp_path / "trace"
    p = kms.Process([strace, "-f", "-qq", "-o", trace, BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "gateway")
    g.running = p
    try:
        kms.wait_for(g.ready)
        assert g.ask(alice, "/keyprov").status == 200
        g.run("keys", "add", "--config", g.config, "--user", alice.uri, "--type", "trk", "--id", "trk.2.alice", "--generate")
        kms.wait_for(lambda: "changes taken over" in p.err)
        children = Path("/proc/%d/task/%d/children" % (p.p.pid, p.p.pid)).read_text().split()
        os.kill(int(children[0]), signal.SIGHUP)
        kms.wait_for(lambda: "in force" in p.err)
        g.admin("/metrics")
        os.kill(int(children[0]), signal.SIGTERM)
        assert p.p.wait(20) == 0
    finally:
        g.running = None
        p.stop(signal.SIGKILL)
    used = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(), re.M))
    assert {"sendto", "epoll_wait", "seccomp", "openat"} & used >= {"openat", "seccomp"}, used
    if os.geteuid() == 0:  # the unit's user has no capabilities to drop, and no file to give away
        used -= {"capset", "fchown"}
    assert not used - allowed, "the unit refuses what the gateway needs: %s" % sorted(used - allowed)
