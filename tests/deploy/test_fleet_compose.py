"""docker/compose.fleet.yaml: valid, and run for real, each part ended in turn under load: what passes, what is refused for how
long, and that nothing is accepted twice."""
import os
import re
import shutil
import signal
import ssl
from pathlib import Path

import pytest
import yaml

import kms
from composed import composed
from conftest import ROOT, run, tool
from fleet_parts import PUBLIC, Load

FILE = ROOT / "docker/compose.fleet.yaml"
FILES = ROOT / "docker/compose/fleet"
README = (ROOT / "docker/README.md").read_text()
PROJECT = "kmsgatefleet%d" % os.getpid()
NET = "10.%d.%d" % (200 + os.getpid() % 50, os.getpid() // 50 % 250)
SERVICES = yaml.safe_load(FILE.read_text())["services"]


def test_valid():
    run(tool("docker-compose"), "-f", FILE, "config", "-q")


def test_who_has_which_secrets():
    """Each volume of secrets is `setup`'s to write and read by those who need it; no service has more than its own."""
    have = {}
    for name, s in SERVICES.items():
        for v in s.get("volumes", []):
            source, _, rights = v.partition(":")
            have.setdefault(source, set()).add((name, rights.endswith(":ro")))
    gates = {"gateway-1", "gateway-2", "gateway-3"}
    redis = {"redis-1", "redis-2", "sentinel-1", "sentinel-2", "sentinel-3"}
    for volume, who in (("gate", gates), ("balancer", {"haproxy"}), ("redis", redis), ("postgres", {"postgres"}),
                        ("operator", {"import"}), ("handset", {"alice", "bob"})):
        assert have[volume] == {("setup", False)} | {(n, True) for n in who}, volume
    for name, s in SERVICES.items():
        assert not s.get("secrets") and not s.get("env_file"), name
        assert not re.search(r"[0-9a-f]{32}|password=|:[^/@]+@", str(s.get("environment", ""))), name
        assert s["read_only"] and s["cap_drop"] == ["ALL"] and s["security_opt"] == ["no-new-privileges:true"], name
        # what strangers reach is the balancer; what is clear is on networks that end here
        assert not s.get("ports"), name
    networks = yaml.safe_load(FILE.read_text())["networks"]
    assert all((n or {}).get("internal") for name, n in networks.items() if name != "outside")
    assert {n for n, s in SERVICES.items() if "outside" in s.get("networks", [])} == {"haproxy", "alice", "bob"}
    assert SERVICES["kms"]["networks"] == ["inside"]


def test_files_agree_with_the_page():
    """The rights, roles and settings of docker/README.md are those of the fleet."""
    rights = re.search(r"^    ACL SETUSER kmsgate on >PASSWORD (.*)$", README, re.M)[1]
    lines = re.findall(r'^for_gateways="(?:\$for_gateways )?(.*)"$', (FILES / "setup_fleet.sh").read_text(), re.M)
    assert " ".join(lines) == rights
    roles = (FILES / "roles.sql").read_text()
    statements = re.search(r"^```sql\n(CREATE ROLE.*?)^```", README, re.M | re.S)[1].strip().split("\n")
    assert len(statements) > 5 and all(s in roles.split("\n") for s in statements)
    told = {x.split("#")[0].strip() for x in re.search(r"^```\n(maxmemory .*?)^```", README, re.M | re.S)[1].strip().split("\n")}
    assert told <= set((FILES / "redis.conf").read_text().split("\n")) and len(told) == 4
    down = re.search(r"down-after-milliseconds kms (\d+)", (FILES / "sentinel.conf").read_text())
    assert int(down[1]) >= 5000
    balancer = SERVICES["haproxy"]["networks"]["front"]["ipv4_address"]
    gate = yaml.safe_load((FILES / "gateway.yaml").read_text())
    assert gate["listen"][0]["trusted_proxies"] == [balancer + "/32"]
    seconds = lambda name: int(gate[name].rstrip("s"))
    assert seconds("drain_delay") + seconds("drain_timeout") < int(SERVICES["gateway-1"]["stop_grace_period"].rstrip("s"))


@pytest.fixture(scope="module")
def up(containers, tmp_path_factory):
    """All of it, from the files as they are, but on a network of this test's own."""
    folder = tmp_path_factory.mktemp("fleet")
    for parent in folder.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    folder.chmod(0o755)
    shutil.copytree(ROOT / "docker/compose", folder / "docker/compose")
    for name in ("docker/compose.fleet.yaml", "docker/compose/fleet/gateway.yaml"):
        text = (ROOT / name).read_text()
        assert "172.30.95." in text
        text = text.replace("172.30.95.", NET + ".")  # and a busy machine takes its time to answer
        (folder / name).write_text(text.replace("\nreplay:\n", "\nreplay:\n  timeout: 2s\n"))
    with composed(containers, folder / "docker/compose.fleet.yaml", PROJECT, ("kmsgate", "legacy_kms", "setup", "fleet"), folder) as compose:
        try:
            compose.up()
        except AssertionError:
            print(compose("logs", "--no-color", ok=False).stdout[-8000:])
            raise
        yield compose


class User(kms.User):
    """As `setup` made him."""

    def __init__(self, compose, name):
        super().__init__("sip:%s@example.org" % name)
        text = Path(compose.volume("handset"), name + ".jsonl").read_text()
        self.ink, self.trk = (bytes.fromhex(x) for x in re.findall(r'"key":"([0-9a-f]{64})"', text))


def logs(compose, service):
    return compose.containers.logs(compose.container(service))


def test_the_handsets_are_provisioned(up):
    for name in ("alice", "bob"):
        assert up.containers.podman("wait", up.container(name)).stdout.strip() == "0", logs(up, name)
        assert "proven" in logs(up, name)
    everything = up("logs", "--no-color").stdout
    secrets = [x for v in ("gate", "redis", "postgres", "operator", "handset", "balancer") for p in Path(up.volume(v)).iterdir()
               for x in re.findall(r"\b[0-9a-f]{64}\b", p.read_text())]
    assert len(secrets) > 15 and not [x for x in secrets if x in everything], "a secret is in the output"
    # each handset by its own address, though the balancer ended its connection
    sources = set(re.findall(r'"source":"([\d.]+)"', everything))
    assert sources and not any(s.startswith(NET + ".") for s in sources), sources


def crash(compose, service):
    """The process ends as by a fault of its own; `restart` says that it begins anew."""
    pid = compose.inspect(service, "{{.State.Pid}}")
    os.kill(int(pid), signal.SIGKILL)
    kms.wait_for(lambda: compose.inspect(service, "{{.State.Pid}}") not in (pid, "0"), 60)


def stop(compose, service):
    compose("stop", "-t", "20", service)


def primary(compose):
    """As Sentinel has written it down."""
    return re.search(r"^sentinel monitor kms (\S+) ", Path(compose.volume("sentinel-1"), "sentinel.conf").read_text(), re.M)[1]


def replica(compose):
    return {"redis-1": "redis-2", "redis-2": "redis-1"}[primary(compose)]


class Phase:
    """What came of the requests that were sent from its begin to its end."""

    def __init__(self, up, load, name):
        self.up, self.load, self.name = up, load, name

    def __enter__(self):
        self.begin = len(self.load.errors)
        return self

    def __exit__(self, kind, *_):
        if kind:
            print("\n".join("== %s\n%s" % (s, logs(self.up, s)[-3000:]) for s in ("sentinel-1", "sentinel-2", "redis-1", "redis-2")))
        else:
            self.seen = {status for _, status, _ in self.load.errors[self.begin:]}  # 0: the connection closed
            assert not self.load.stolen, (self.name, self.load.stolen)


@pytest.fixture
def load(up):
    ctx = ssl.create_default_context(cafile=str(Path(up.volume("handset"), "ca.pem")))
    address = up.inspect("haproxy", '{{(index .NetworkSettings.Networks "%s_outside").IPAddress}}' % PROJECT)
    ctx.check_hostname = False  # it is asked by its address here
    made = Load((address, 8443), ctx, [User(up, "alice"), User(up, "bob")])
    made.more(20)
    yield made
    made.stop()


DOCKER = """\
#!/bin/bash
set -eu
[ "$1" = compose ] || exec podman %s "$@" # as compose itself does to attach to what it runs
[ "$2 $3" = "-f docker/compose.fleet.yaml" ]
shift 3
[ "$1" != build ] || exit 0
[ "$1" != up ] || set -- up --no-build "${@:2}"
args=()
for a in "$@"; do [ "$a" = --build ] || args+=("$a"); done
exec docker-compose -f docker/compose.fleet.yaml -f %s "${args[@]}"
"""


def none_fails(load, n):
    before = len(load.errors)
    load.more(n)
    return len(load.errors) == before


def test_each_part_in_turn(up, load):
    with Phase(up, load, "PostgreSQL is away") as p:
        stop(up, "postgres")
        load.more(40)
        up("start", "postgres")
        load.more(20)
    assert not p.seen, p.seen
    with Phase(up, load, "one Sentinel is away") as p:
        stop(up, "sentinel-3")
        load.more(20)
        up("start", "sentinel-3")
        load.more(10)
    assert not p.seen, p.seen
    with Phase(up, load, "a gateway ends by itself and is started again") as p:
        crash(up, "gateway-2")
        load.more(60)
    # what it had begun; and 503 until the balancer is aware that it has only just started: how many is the machine's speed
    assert p.seen <= {0, 502, 503}, load.errors[p.begin:]
    assert any(none_fails(load, 30) for _ in range(10)), load.errors[-30:]
    first, second = primary(up), replica(up)
    with Phase(up, load, "Redis' replica is away") as p:
        stop(up, second)
        kms.wait_for(lambda: len(load.errors) > p.begin + 5)
        up("start", second)
        load.more(20, 120)
    assert p.seen == {503}, p.seen
    with Phase(up, load, "its primary is away: a failover") as p:
        stop(up, first)
        kms.wait_for(lambda: primary(up) == second, 120)
        up("start", first)
        load.more(20, 120)
    assert p.seen == {503}, p.seen
    with Phase(up, load, "it crashes, and comes back at once") as p:
        crash(up, second)
        kms.wait_for(lambda: load.errors[p.begin:], 60)
        load.more(20, 120)
    assert p.seen == {503}, p.seen
    text = "".join(logs(up, g) for g in ("gateway-1", "gateway-2", "gateway-3"))
    assert "a new epoch" in text and '"reason":"replay.unavailable"' in text
    assert '"reason":"keys.unavailable"' not in text and '"reason":"key.unknown"' not in text


def test_as_the_readme_says(up, load):
    """The commands of docker/README.md, "A fleet", word by word, but that the images are there; a rolling upgrade among them."""
    page = re.search(r"^## A fleet\n(.*?)^### On Kubernetes", README, re.M | re.S)[1]
    code = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S))
    assert "down --volumes" in page and code.count("docker compose -f docker/compose.fleet.yaml ") == 8
    tree = up.file.parents[1]
    program = tree / "stand-ins/docker"
    program.parent.mkdir()
    program.write_text(DOCKER % (" ".join(up.containers.store), up.limits))
    program.chmod(0o755)
    carol = kms.User("sip:carol@example.org")
    (tree / "alice.jsonl").write_text("\n".join(carol.lines()) + "\n")
    before = {g: up.inspect(g, "{{.Id}}") for g in ("gateway-1", "gateway-2", "gateway-3")}
    with Phase(up, load, "as the page has it") as p, up.nursed():
        r = run("bash", "-euo", "pipefail", "-c", code, cwd=tree, timeout=300,
                env=dict(up.env, PATH="%s:%s" % (program.parent, os.environ["PATH"])))
        load.more(20)
    assert not p.seen, "a rolling upgrade has cost requests: %s" % load.errors[p.begin:][:5]
    assert r.stdout.count("proven") == 2 and "2 added" in r.stdout, r.stdout + r.stderr
    assert not [g for g in before if up.inspect(g, "{{.Id}}") == before[g]]
    assert (tree / "backup/kms.dump").read_bytes().startswith(b"PGDMP")
    path = kms.BASE + "/init"
    c = load.connect()
    reply = load.post(c, path, kms.signed_request(carol, PUBLIC + path))
    c.close()
    assert reply.status == 200 and reply.verify(carol.ink, carol.ink_id)
