"""docker/compose.yaml: valid, and run for real: the handset ends with 0 and holds the right keys."""
import json
import os
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

import kms
from conftest import CACHE, ROOT, run, tool

FILE = ROOT / "docker/compose.yaml"


def test_valid(tmp_path):
    compose = tool("docker-compose")
    run(compose, "-f", FILE, "config", "-q")
    bad = tmp_path / "compose.yaml"
    bad.write_text(FILE.read_text().replace("depends_on:", "dependson:", 1))
    r = run(compose, "-f", bad, "config", "-q", ok=False)
    assert r.returncode != 0 and "dependson" in r.stderr


@pytest.fixture(scope="module")
def engine(containers, tmp_path_factory):
    """podman's service speaks Docker's API: compose does not see the difference."""
    compose = tool("docker-compose")
    for target in ("kmsgate", "legacy_kms", "setup"):
        containers.build(target)
    for path in ("/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns"):
        if not os.path.exists(path):
            pytest.skip(path + " is not installed: containers cannot find each other by name")
    sock = tmp_path_factory.mktemp("engine") / "podman.sock"
    service = subprocess.Popen(["podman", *containers.store, "system", "service", "--time=0", "unix://%s" % sock],
                               env=containers.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kms.wait_for(sock.exists)
    env = dict(containers.env, DOCKER_HOST="unix://%s" % sock, COMPOSE_PROJECT_NAME="kmsgatetest%d" % os.getpid())
    call = lambda *a, **kw: run(compose, "-f", FILE, *a, env=env, **kw)
    yield call, containers
    call("down", "--volumes", "--timeout", "20", ok=False)
    service.terminate()
    service.wait(20)


@pytest.fixture(scope="module")
def up(engine):
    """All of it, once. Health checks have a timer of systemd's, which is not here: they are run by hand meanwhile."""
    compose, containers = engine
    end = threading.Event()

    def nurse():
        while not end.wait(0.5):
            names = containers.podman("ps", "--format", "{{.Names}}", ok=False).stdout.split()
            for name in names:
                if re.search(r"[-_]kmsgate[-_]1$", name):
                    containers.podman("healthcheck", "run", name, ok=False)
    nursing = threading.Thread(target=nurse)
    nursing.start()
    try:
        return compose("up", "--no-build", "--abort-on-container-exit", "--exit-code-from", "handset", "--timeout", "20", ok=False)
    finally:
        end.set()
        nursing.join()


def test_the_handset_is_provisioned(up):
    assert up.returncode == 0, up.stdout + up.stderr
    assert re.search(r"kmsgate.*\"verdict\":\"accept\",\"reason\":\"ok\"", up.stdout), up.stdout
    assert "RSK" in up.stdout or "UserDecryptKey" in up.stdout, up.stdout
    assert not re.search(r"[0-9a-f]{64}", up.stdout), "a key is in the output"


@pytest.fixture
def again(engine, up):
    """The gateway, up; a handset of one's own choice."""
    compose, containers = engine
    compose("up", "--no-build", "-d", "--no-deps", "kms", "kmsgate")
    yield compose, containers
    compose("stop", "--timeout", "20")


def test_wrong_keys(again, tmp_path):
    """Twins of the handset: it itself, one with another TrK, one with another InK, one whom nobody knows."""
    compose, containers = again
    volume = [v for v in containers.podman("volume", "ls", "-q").stdout.split() if v.endswith("_handset")][0]
    folder = containers.podman("volume", "inspect", "-f", "{{.Mountpoint}}", volume).stdout.strip()
    good = Path(folder, "keys.jsonl").read_text()
    lines = [json.loads(x) for x in good.split("\n") if x]

    def ask(text, user="sip:alice@example.org"):
        mine = tmp_path / "handset"
        shutil.rmtree(mine, ignore_errors=True)
        shutil.copytree(folder, mine)
        (mine / "keys.jsonl").write_text(text)
        os.chown(mine / "keys.jsonl", 65532, 65532)
        return compose("run", "--rm", "--no-deps", "-v", "%s:/mine:ro" % mine, "handset", "request",
                       "--url=https://kms.example.org:8443/keymanagement/identity/v1/keyprov", "--user=" + user,
                       "--kms-uri=kms.example.org", "--keys=/mine/keys.jsonl", "--ca=/mine/ca.pem", ok=False)
    for parent in tmp_path.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    dump = lambda: "\n".join(json.dumps(x) for x in lines) + "\n"
    end = time.monotonic() + 30
    while ask(good).returncode != 0:
        assert time.monotonic() < end, ask(good).stderr
    for i in (1, 0):
        lines[i]["key"], old = os.urandom(32).hex(), lines[i]["key"]
        r = ask(dump())
        assert r.returncode != 0 and "kmsgate: " in r.stdout + r.stderr, r.stdout + r.stderr
        lines[i]["key"] = old
    assert ask(good.replace("alice", "mallory"), "sip:mallory@example.org").returncode != 0


def test_nobody_passes_by_the_gate(again):
    """The handset's network does not know the KMS."""
    compose, _ = again
    r = compose("run", "--rm", "--no-deps", "handset", "request", "--url=http://kms:9000/keymanagement/identity/v1/keyprov",
                "--user=sip:alice@example.org", "--keys=/handset/keys.jsonl", ok=False)
    assert r.returncode != 0 and re.search("resolve|unreachable|reach", r.stdout + r.stderr), r.stdout + r.stderr
