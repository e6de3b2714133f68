"""Every command of docker/README.md and certs/README.md, as somebody types them. What is not here has a stand-in of its own:
`docker` is podman and buildah, `kubectl` asks no cluster."""
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import kms
from conftest import BUILD, CACHE, ROOT, run, tool

DOCKER = (ROOT / "docker/README.md").read_text()
CERTS = (ROOT / "certs/README.md").read_text()


def blocks(text, kind=None):
    """(heading, language and words, code) of each fenced block."""
    out, heading = [], ""
    for m in re.finditer(r"^#+ ([^\n]*)$|^```([^\n]*)\n(.*?)^```$", text, re.M | re.S):
        if m[1]:
            heading = m[1]
        elif kind is None or m[2] == kind:
            out.append((heading, m[2], m[3]))
    return out


def sh(code, cwd, env, ok=True):
    return run("bash", "-euo", "pipefail", "-c", code, cwd=cwd, env=env, ok=ok, timeout=600)


SHIM = {
    "sudo": '#!/bin/sh\nexec "$@"\n',
    "docker": """#!/bin/bash
set -eu
podman=(podman %(store)s)
case $1 in
build)
    shift
    cd %(root)s
    exec buildah %(store)s bud --isolation chroot --pull-never --layers --format docker "${@:1:$#-1}" . ;;
compose)
    shift
    args=()
    for a in "$@"; do [ "$a" = --build ] || args+=("$a"); done
    exec docker-compose -f docker/compose.yaml -f %(limits)s "${args[@]:2}" ;;
*) exec "${podman[@]}" "$@" ;;
esac
""",
    "kubectl": """#!/bin/bash
set -eu
namespace=()
[ "$1" != -n ] || { namespace=(-n "$2"); shift 2; }
case "$1 $2" in
"create "*) exec %(kubectl)s "${namespace[@]}" "$@" --dry-run=client -o yaml ;;
"apply -k") exec %(kubectl)s kustomize "$3" ;;
"rollout "*) exec %(kubectl)s "$1" "$2" --help ;;
*) echo "kubectl: no stand-in for $*" >&2; exit 1 ;;
esac
""",
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """What a clone has, where nothing is lost when it is written to."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("docker", "certs", "rules"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("secrets", "*.pem", "*.key"))
    for parent in folder.parents:
        if parent.name.startswith("pytest-"):
            parent.chmod(0o755)
    folder.chmod(0o755)
    return folder


def shims(tree, **values):
    folder = tree / "stand-ins"
    folder.mkdir(exist_ok=True)
    for name, text in SHIM.items():
        if all("%%(%s)s" % n in text and n in values or "%%(%s)s" % n not in text for n in ("store", "root", "limits", "kubectl")):
            (folder / name).write_text(text % values if "%(" in text else text)
            (folder / name).chmod(0o755)
    return dict({k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}, PATH="%s:%s" % (folder, os.environ["PATH"]))


def test_certificates(tmp_path):
    shutil.copytree(ROOT / "certs", tmp_path / "certs")
    env = dict(os.environ)
    said = "".join(sh(code, tmp_path, env).stdout for _, _, code in blocks(CERTS, "sh"))
    assert said.count(": OK") == 4
    assert os.readlink(tmp_path / "tls/now") == "2026-12" and not (tmp_path / "tls/next").exists()
    for folder in ("2026-11", "2026-12"):
        assert {p.name for p in (tmp_path / "tls" / folder).iterdir()} == {"server.pem", "server.key"}
        assert (tmp_path / "tls" / folder / "server.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "tls").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "tls/2026-11/server.pem").read_bytes() != (tmp_path / "tls/2026-12/server.pem").read_bytes()


def test_beside_a_kms(containers, tree):
    """The five minutes, then upgrade, backup and restore, and the bill of materials, in the order of the page."""
    for target in ("kmsgate", "legacy_kms"):
        containers.build(target)
    env = dict(shims(tree, store=" ".join(containers.store), root=ROOT, limits="/nonexistent"))
    env.update({k: containers.env[k] for k in ("CONTAINERS_CONF", "BUILDAH_ISOLATION")})
    wanted = ("Beside your KMS, in five minutes", "Ending, upgrading, going back", "Backup and restore of keys", "The image")
    said = {}
    port = kms.free_port()
    for name in ("kmsgate", "kms", "look"):
        containers.podman("rm", "-f", name, ok=False)
    containers.podman("volume", "rm", "kmsgate-keys", ok=False)
    try:
        for heading, _, code in blocks(DOCKER, "sh"):
            if heading in wanted:
                r = sh(code.replace("-p 8443:8443", "-p 127.0.0.1:%d:8443" % port), tree, env)
                said[heading] = said.get(heading, "") + r.stdout + r.stderr
        assert set(said) == set(wanted)
        first = said[wanted[0]]
        assert "0 faults" in first and "2 added" in first and "proven" in first and '"verdict":"accept"' in first, first
        assert "0 faults" in said[wanted[1]]
        assert said[wanted[2]].count("sip:alice@example.org") == 2 and "2 added" in said[wanted[2]]
        assert (tree / "safe/master.key").read_text() != (tree / "gate/master.key").read_text()
        assert json.loads((tree / "sbom.json").read_text())["spdxVersion"] == "SPDX-2.3"
        # the restored one serves the same handset
        ask = [c for h, _, c in blocks(DOCKER, "sh") if "kmsgate request" in c][0]
        assert "proven" in sh(re.search(r"^until.*?ca\.pem$", ask, re.M | re.S)[0], tree, env).stdout
    finally:
        for name in ("kmsgate", "kms", "look"):
            containers.podman("rm", "-f", "-t", "3", name, ok=False)
        containers.podman("volume", "rm", "kmsgate-keys", ok=False)


def test_kubernetes(tree, certs):
    env = shims(tree, kubectl=tool("kubectl"))
    if not (tree / "alice.jsonl").exists():
        (tree / "alice.jsonl").write_text("{}\n")
    shutil.copytree(certs, tree / "try-out", dirs_exist_ok=True)
    code = "".join(c for h, _, c in blocks(DOCKER, "sh") if h == "Kubernetes")
    r = sh(code, tree, env)
    for part in ("kind: Namespace", "type: kubernetes.io/tls", "kind: Deployment", "kind: NetworkPolicy", "rollout status"):
        assert part in r.stdout, part


def test_kubernetes_fleet(tree, certs, alice, bob, cluster):
    """The operator's import is a real one, by a role that may do no more."""
    env = shims(tree, kubectl=tool("kubectl"))
    db = cluster.database()
    statements = [c for h, kind, c in blocks(DOCKER, "sql") if h == "Keys in PostgreSQL"]
    for role in ("kms_operator", "kms_gateway", "kms_reader"):
        cluster.sql("DROP ROLE IF EXISTS %s" % role)
    cluster.sql("".join(statements), db)
    shutil.copytree(certs, tree / "try-out", dirs_exist_ok=True)
    (tree / "stand-ins/kmsgate").symlink_to(BUILD / "kmsgate")
    for name, text in (("replay.password", "p"), ("gateway.url", cluster.socket_url(db, "kms_gateway")), ("engines-ca.pem", "ca"),
                       ("operator.url", cluster.socket_url(db, "kms_operator")), ("keys.jsonl", "\n".join(alice.lines() + bob.lines()) + "\n")):
        (tree / name).write_text(text)
        (tree / name).chmod(0o600)
    try:
        r = sh("".join(c for _, _, c in blocks(DOCKER, "sh fleet")), tree, env)
        assert "4 added" in r.stdout, r.stdout
        for part in ("kind: Namespace", "type: kubernetes.io/tls", "kind: HorizontalPodAutoscaler", "kind: NetworkPolicy", "rollout status"):
            assert part in r.stdout, part
        assert cluster.sql("SELECT count(*) FROM kmsgate.keys", db, "kms_gateway") == "4"
    finally:
        cluster.sql("DROP DATABASE %s WITH (FORCE)" % db)


class Machine:
    """Debian with systemd as process 1. It may do what a machine's own may, but to this kernel: /proc/sys is read-only."""

    def __init__(self, containers, folder):
        self.c = containers
        r = containers.podman("run", "-d", "--systemd=always", "--network", "none", "--cap-add=ALL", "--security-opt", "seccomp=unconfined",
                              "-v", "%s:/work-here:ro" % folder, containers.with_systemd())
        self.name = r.stdout.strip().split("\n")[-1]

    def sh(self, code, ok=True):
        r = self.c.podman("exec", "-w", "/work-here", self.name, "bash", "-euo", "pipefail", "-c", code, ok=ok, timeout=120)
        return r.stdout + r.stderr

    def until(self, condition):
        """Asked inside, since each way in costs half a second."""
        self.sh("for i in $(seq 300); do ! { %s; } >/dev/null 2>&1 || exit 0; sleep 0.1; done; journalctl --no-pager; exit 1" % condition)

    def journal(self):
        return self.sh("journalctl --no-pager -u kmsgate")

    def of_unit(self, name):
        return self.sh("systemctl show --value -p %s kmsgate" % name).strip()


@pytest.fixture
def machine(deb, containers, certs, alice, tmp_path):
    for source, name in ((deb, deb.name), (certs / "server.pem", "server.pem"), (certs / "server.key", "server.key")):
        shutil.copy(source, tmp_path / name)
    (tmp_path / "keys.jsonl").write_text("\n".join(alice.lines()) + "\n")
    m = Machine(containers, tmp_path)
    try:
        try:
            m.until("systemctl is-system-running --wait")
        except AssertionError:
            pytest.skip("systemd does not start as process 1 of a container here: " + containers.logs(m.name)[-500:])
        # as on a machine, where systemd does it itself: else what it mounts for a service, its credentials, reaches none
        m.sh("mount --make-rshared /")
        yield m
    finally:
        containers.podman("rm", "-f", "-t", "0", "-v", m.name, ok=False)


def test_on_a_machine(machine):
    """The page's commands under the real systemd; then what its unit promises, an upgrade, and the package's end."""
    said = machine.sh("".join(c for _, _, c in blocks(DOCKER, "sh machine")))
    assert "0 faults" in said and "2 added" in said, said
    machine.until("journalctl -u kmsgate | grep 'rules and certificates again'")
    assert machine.of_unit("ActiveState") == "active" and "listening" in machine.journal()
    status = machine.sh("cat /proc/%s/status" % machine.of_unit("MainPID"))
    assert re.search(r"^CapBnd:\s+0+$", status, re.M) and re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    assert re.search(r"^Seccomp:\s+2$", status, re.M) and not re.search(r"^Uid:\s+0\s", status, re.M)
    exposure = re.search(r"exposure level for kmsgate.service: ([\d.]+)", machine.sh("systemd-analyze --no-pager security kmsgate"))
    assert float(exposure[1]) <= 1.5
    assert machine.sh("ls /run/credentials/kmsgate.service").split() == ["master_key"]
    ready = "kmsgate health --config /etc/kmsgate/gateway.yaml"
    machine.sh("sed -i 's/^drain_delay: .*/drain_delay: 200ms/' /etc/kmsgate/gateway.yaml")
    # it ends unasked: it is there again
    machine.sh("kill -9 %s" % machine.of_unit("MainPID"))
    machine.until("[ $(systemctl show --value -p NRestarts kmsgate) = 1 ] && " + ready)
    # without its credential it does not run, and the reason is told; the key back, it does
    machine.sh("mv /etc/kmsgate/master.key /root/master.key")
    assert "failed" in machine.sh("systemctl restart kmsgate", ok=False)
    assert "CREDENTIALS" in machine.sh("systemctl status --no-pager kmsgate", ok=False)
    machine.sh("mv /root/master.key /etc/kmsgate/master.key")
    machine.until(ready)
    # an upgrade: what runs is run anew with the same key, and the administrator's file stays as it is
    before = machine.of_unit("MainPID")
    machine.sh("cp /etc/kmsgate/master.key /root/; dpkg -i kmsgate_*.deb; cmp /root/master.key /etc/kmsgate/master.key")
    assert machine.of_unit("MainPID") not in (before, "0")
    machine.until(ready)
    assert machine.sh("grep drain_delay /etc/kmsgate/gateway.yaml").strip() == "drain_delay: 200ms"
    machine.sh("systemctl stop kmsgate")
    assert machine.of_unit("Result") == "success" and machine.of_unit("ExecMainStatus") == "0"
    machine.sh("systemctl start kmsgate; dpkg -r kmsgate")
    assert "could not be found" in machine.sh("systemctl status kmsgate", ok=False)
    assert not machine.sh("pidof kmsgate; ls /etc/systemd/system/multi-user.target.wants | grep kmsgate", ok=False).strip()


KEY = "head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' >%s"


def test_another_master_key_by_credentials(machine):
    """A folder of keys, which systemd makes a list of; the page's steps, and `keys rekey` between them by the page's own command."""
    machine.sh("".join(c for _, _, c in blocks(DOCKER, "sh machine")))
    (rekey,) = [c for _, _, c in blocks(DOCKER, "sh credentials")]
    ready = "kmsgate health --config /etc/kmsgate/gateway.yaml"
    folder, dropin = "/etc/kmsgate/keys", "/etc/systemd/system/kmsgate.service.d"
    line = re.search(r"`(LoadCredential=master_key:%s/)`" % folder, DOCKER)[1]
    # the old one alone, from the folder and from nowhere else
    machine.sh("mkdir -m 700 %s; mv /etc/kmsgate/master.key %s/1; mkdir %s" % (folder, folder, dropin))
    machine.sh("printf '[Service]\\nLoadCredential=\\n%s\\n' >%s/keys.conf; systemctl daemon-reload" % (line, dropin))

    def start(*listed):
        machine.sh("systemctl restart kmsgate || { journalctl --no-pager -n 25 -u kmsgate; exit 1; }")
        machine.until(ready)
        there = machine.sh("ls /run/credentials/kmsgate.service")
        assert there.split() == ["master_key_%s" % n for n in listed], there
    start(1)
    machine.sh(KEY % (folder + "/2"))  # the new one behind it
    start(1, 2)
    machine.sh("cd %s; mv 1 old; mv 2 1; mv old 2" % folder)  # in front
    start(1, 2)
    # too early: what is sealed under the old one is not given up, the service does not run without it
    machine.sh("mv %s/2 /root/old" % folder)
    assert "failed" in machine.sh("systemctl restart kmsgate", ok=False)
    machine.sh("mv /root/old %s/2" % folder)
    start(1, 2)
    assert "2 keys sealed anew" in machine.sh(rekey)
    machine.sh("rm %s/2" % folder)
    start(1)
    assert "0 keys sealed anew" in machine.sh(rekey)
    # and the database opens under the new one alone
    machine.sh("cp %s/1 /root/new" % folder)
    machine.sh(KEY % (folder + "/1"))
    assert "failed" in machine.sh("systemctl restart kmsgate", ok=False)
    machine.sh("cp /root/new %s/1" % folder)
    start(1)


def test_the_package_is_built_as_told(deb):
    """By the page's own commands (conftest.py), with the packages that it names."""
    assert deb.parent == BUILD and deb.stat().st_size > 100000
    packages = re.search(r"`gateway/install-deps ([^`]*)`", DOCKER)[1].split()
    assert packages == ["dpkg-dev", "file"]


def test_day_by_day(gateway, alice, tmp_path):
    """The page's changes of keys, one after the other, on a gateway's own database."""
    g = gateway(start=False)
    program = tmp_path / "bin/kmsgate"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nexec %s "$@" --config %s\n' % (BUILD / "kmsgate", g.config))
    program.chmod(0o755)
    new = [{"user": alice.uri, "type": t, "id": t + ".9.alice", "key": os.urandom(32).hex()} for t in ("ink", "trk")]
    (tmp_path / "new-keys-of-alice.jsonl").write_text("".join(json.dumps(x) + "\n" for x in new))
    (tmp_path / "new-keys-of-alice.jsonl").chmod(0o600)
    env = dict(os.environ, PATH="%s:%s" % (program.parent, os.environ["PATH"]))
    code = [c for h, _, c in blocks(DOCKER, "sh") if h == "Keys, day by day"]
    assert len(code) == 2
    said = sh(code[0].replace("trk.1.alice", alice.trk_id), tmp_path, env).stdout
    assert "trk.2.alice" in said
    assert "2 added" in sh(code[1], tmp_path, env).stdout
    states = {x.split("\t")[2]: x.split("\t")[3] for x in sh("kmsgate keys list", tmp_path, env).stdout.splitlines() if alice.uri in x}
    assert {k for k, v in states.items() if v == "active"} == {"ink.9.alice", "trk.9.alice"}, states


def test_yaml(tmp_path):
    rules = [c for _, _, c in blocks(DOCKER, "yaml") if c.startswith("version:")]
    assert len(rules) == 1
    listener = [c for _, _, c in blocks(DOCKER, "yaml listener")]
    assert len(listener) == 1 and "trusted_proxies" in listener[0]
    config = (ROOT / "docker/etc/gateway.yaml").read_text()
    (tmp_path / "gateway.yaml").write_text(re.sub(r"^listen:\n(  .*\n)+", listener[0], config, flags=re.M))
    r = run(BUILD / "kmsgate", "check", "--print", "--config", tmp_path / "gateway.yaml", ok=False)
    assert "trusted_proxies" not in r.stderr and "`listen" not in r.stderr and "gateway.yaml:" not in r.stderr, r.stderr
    (tmp_path / "rules.yaml").write_text(rules[0])
    r = run(BUILD / "kmsgate", "check", tmp_path / "rules.yaml")
    assert "0 faults" in r.stdout
    scrape = [c for _, _, c in blocks(DOCKER, "yaml") if c.startswith("scrape_configs:")]
    (tmp_path / "token").write_text("t")
    (tmp_path / "prometheus.yml").write_text(scrape[0].replace("/etc/prometheus/kmsgate.token", str(tmp_path / "token")))
    run(tool("promtool"), "check", "config", tmp_path / "prometheus.yml")


def test_what_is_made_is_ignored(tmp_path):
    """Whatever the commands make in a clone is not taken into a commit, and the backup's two halves lie apart."""
    pages = DOCKER + CERTS + (ROOT / "README.md").read_text()
    code = "\n".join(re.findall(r"^```sh[^\n]*\n(.*?)^```$", pages, re.M | re.S))
    made = {w for line in re.findall(r"mkdir -p ([^#&\n]*)", code) for w in line.split()}
    made |= set(re.findall(r">(?!/)([\w./-]+\.\w+)", code)) | set(re.findall(r"--out ([\w./-]+)", code))
    assert {"first", "gate/tls", "gate.sh", "try-out", "safe", "backup", "alice.jsonl", "docker/kubernetes/pod/secrets"} <= made
    run("git", "init", "-q", tmp_path)
    shutil.copy(ROOT / ".gitignore", tmp_path)
    seen = {p for p in made if run("git", "-C", tmp_path, "check-ignore", "-q", p + ("" if "." in p else "/x"), ok=False).returncode}
    assert not seen, seen
    heading = [c for h, _, c in blocks(DOCKER, "sh") if h.startswith("Backup")]
    assert not any(re.search(r"master\.key \S*backup", c) for c in heading)


def test_nothing_is_left_out():
    """Each block is of a kind that some test runs."""
    kinds = {"sh", "sh build", "sh machine", "sh fleet", "sh credentials", "sql", "yaml", "yaml listener", ""}
    run_somewhere = {"On a laptop", "Beside your KMS, in five minutes", "Ending, upgrading, going back", "Backup and restore of keys",
                     "The image", "Kubernetes", "Keys, day by day", "A fleet"}
    for heading, kind, code in blocks(DOCKER):
        assert kind in kinds, (heading, kind)
        assert kind != "sh" or heading in run_somewhere, heading
    for page, text in (("docker", DOCKER), ("certs", CERTS)):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
            assert (ROOT / page / target).exists(), (page, target)
        for name in set(re.findall(r"kmsgate_\w+(?=[`{])", text)):
            assert name in (ROOT / "gateway/base/metrics.h").read_text(), name
