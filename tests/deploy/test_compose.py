"""docker/compose.yaml: valid, and run for real: the handset ends with 0 and holds the right keys."""
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import yaml

from composed import composed
from conftest import ROOT, run, tool

PROJECT = "kmsgatetest%d" % os.getpid()
FILE = ROOT / "docker/compose.yaml"


def test_valid(tmp_path):
    compose = tool("docker-compose")
    run(compose, "-f", FILE, "config", "-q")
    bad = tmp_path / "compose.yaml"
    bad.write_text(FILE.read_text().replace("depends_on:", "dependson:", 1))
    r = run(compose, "-f", bad, "config", "-q", ok=False)
    assert r.returncode != 0 and "dependson" in r.stderr


@pytest.fixture(scope="module")
def up(containers, tmp_path_factory):
    with composed(containers, FILE, PROJECT, ("kmsgate", "legacy_kms", "setup"), tmp_path_factory.mktemp("engine")) as compose:
        compose.up()
        yield compose, containers


def test_the_handset_is_provisioned(up):
    compose, containers = up
    name = [n for n in containers.podman("ps", "-a", "--format", "{{.Names}}").stdout.split() if "handset" in n]
    assert containers.podman("wait", name[0]).stdout.strip() == "0", containers.logs(name[0])
    said = compose("logs", "--no-color").stdout
    decisions = [json.loads(x) for x in re.findall(r"kmsgate_1 +\| (\{.*\})", said)]
    assert {d["response"]["message"] for d in decisions} == {"KmsInit", "KmsKeyProv"}, said
    assert {(d["verdict"], d["reason"], d["user"]) for d in decisions} == {("accept", "ok", "sip:alice@example.org")}
    assert "proven" in containers.logs(name[0]), containers.logs(name[0])
    keys = Path(volume(containers, "handset"), "keys.jsonl").read_text()
    assert not [x for x in re.findall(r"[0-9a-f]{64}", keys) if x in said], "a key is in the output"


def volume(containers, name):
    volumes = containers.podman("volume", "ls", "-q").stdout.split()
    return containers.podman("volume", "inspect", "-f", "{{.Mountpoint}}", [v for v in volumes if v.endswith("_" + name)][-1]).stdout.strip()


def handset(containers, *argv, mount=None):
    """The service `handset`, run once more: with other arguments, with a folder beside its own."""
    service = yaml.safe_load(FILE.read_text())["services"]["handset"]
    options = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
               "--network", PROJECT + "_" + service["networks"][0], "-v", "%s:/handset:ro" % volume(containers, "handset")]
    return containers.podman("run", "--rm", *options, *(["-v", "%s:/mine:ro" % mount] if mount else []), "localhost/kmsgate",
                             *(argv or service["command"]), ok=False)


def test_as_the_readme_says(up):
    """The commands of docker/README.md, "On a laptop", word by word but for --build: the images are there."""
    compose, _ = up
    text = (ROOT / "docker/README.md").read_text()
    page = text[text.index("## On a laptop"):text.index("## Beside your KMS")]
    lines = re.findall(r"^(docker compose .*)$", page, re.M)
    assert len(lines) == 3 and "down --volumes" in page
    said = ""
    for line in lines:
        head = "docker compose -f docker/compose.yaml "
        assert line.startswith(head)
        said += compose(*[w.replace("--build", "--no-build") for w in line[len(head):].split()]).stdout
    assert "proven" in said and '"verdict":"accept"' in said


def test_wrong_keys(up, tmp_path):
    """Twins of the handset: one with another InK, one with another TrK, one whom nobody knows; and the one that is right."""
    _, containers = up
    folder = volume(containers, "handset")
    good = Path(folder, "keys.jsonl").read_text()
    lines = good.strip().split("\n")
    for parent in [tmp_path, *tmp_path.parents]:
        if parent.name.startswith("pytest-") or parent == tmp_path:
            parent.chmod(0o755)
    other = lambda line: json.dumps(dict(json.loads(line), key=os.urandom(32).hex()))
    files = {"good": good, "ink": other(lines[0]) + "\n" + lines[1], "trk": lines[0] + "\n" + other(lines[1]),
             "unknown": good.replace("alice", "mallory")}
    shutil.copy(Path(folder, "ca.pem"), tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
        (tmp_path / name).chmod(0o400)
    for path in tmp_path.iterdir():
        os.chown(path, 65532, 65532)

    def ask(name):
        return handset(containers, "request", "--proof", "--url=https://kms.example.org:8443/keymanagement/identity/v1/keyprov",
                       "--kms-uri=kms.example.org", "--user=sip:%s@example.org" % ("mallory" if name == "unknown" else "alice"),
                       "--keys=/mine/" + name, "--ca=/mine/ca.pem", mount=tmp_path)
    assert ask("good").returncode == 0
    for name in ("ink", "trk", "unknown"):
        r = ask(name)
        assert r.returncode == 1 and "kmsgate: " in r.stdout + r.stderr, (name, r.stdout, r.stderr)


def test_a_kms_that_hands_out_wrong_keys(up, tmp_path):
    """Signed and encrypted as is right, but an RSK of somebody else: the handset ends with 1."""
    compose, containers = up
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("services: { kms: { command: [--listen, '0.0.0.0:9000', --fail, wrong-rsk] } }\n")
    compose("-f", wrong, "up", "--no-build", "-d", "--no-deps", "kms")
    end = time.monotonic() + 40  # the new container has another address: the gateway asks for it again
    while time.monotonic() < end:
        r = handset(containers)
        assert r.returncode == 1, r.stdout + r.stderr
        if "KmsError 50" not in r.stdout + r.stderr:
            break
    assert re.search("UserDecryptKey|RSK", r.stdout + r.stderr), r.stdout + r.stderr


def test_nobody_passes_by_the_gate(up):
    """The handset's network does not know the KMS."""
    _, containers = up
    r = handset(containers, "request", "--url=http://kms:9000/keymanagement/identity/v1/keyprov", "--user=sip:alice@example.org",
                "--keys=/handset/keys.jsonl")
    assert r.returncode == 1 and re.search("resolve|reach", r.stdout + r.stderr), r.stdout + r.stderr
