"""The image: linted, built, small, locked down, and run as docker/README.md says."""
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import time

import pytest

import kms
from conftest import BUILD, CACHE, ROOT, npm, run, tool

CONFIG = """\
listen:
  - address: 127.0.0.1:%d
    tls: { certificate: tls/server.pem, key: tls/server.key }
admin: 127.0.0.1:%d
public_url: https://kms.example.org
upstream: { url: "http://127.0.0.1:%d" }
rules: rules.yaml
keys: sqlite:/var/lib/kmsgate/kmsgate.db
master_key: file:master.key
drain_delay: 1s
"""


# What dockerfilelint says that does not hold here, and why.
ACCEPTED = {
    "Base Image Missing Tag": "it takes names of stages, and the argument, for images",
    "`apt-get upgrade` Is Not Allowed": "an old base must not mean old libraries",
    "Invalid Argument Format": "it does not know HEALTHCHECK's options",
}


def dockerfilelint(path):
    out = run("node", npm("dockerfilelint") / "bin/dockerfilelint", "-o", "json", path, ok=False).stdout
    issues = [i for f in json.loads(out)["files"] for i in f["issues"]]
    for i in issues:
        if i["title"] == "Invalid Argument Format" and not i["content"].startswith("HEALTHCHECK"):
            i["title"] += " of " + i["content"]
    return ["%s: %s" % (i["line"], i["title"]) for i in issues if i["title"] not in ACCEPTED]


def dockerfile_utils(path):
    r = run("node", npm("dockerfile-utils") / "bin/dockerfile-utils", "lint", path, ok=False)
    return (r.stdout + r.stderr).split("\n") if r.returncode else []


@pytest.mark.parametrize("linter,bad", [(dockerfilelint, "EXPOSE 99999"), (dockerfile_utils, "COPPY a b")])
def test_linted(linter, bad, tmp_path):
    tool("node")
    text = (ROOT / "docker/Dockerfile").read_text()
    assert not linter(ROOT / "docker/Dockerfile")
    (tmp_path / "Dockerfile").write_text(text + bad + "\n")
    assert linter(tmp_path / "Dockerfile")


@pytest.fixture(scope="module")
def image(containers):
    return containers.build()


@pytest.fixture(scope="module")
def tree(containers, image, tmp_path_factory):
    """The image's files."""
    folder = tmp_path_factory.mktemp("tree")
    made = containers.podman("create", image).stdout.strip()
    try:
        tar = folder.parent / "tree.tar"
        containers.podman("export", "-o", tar, made)
        run("tar", "-xf", tar, "-C", folder)
        tar.unlink()
    finally:
        containers.podman("rm", made)
    return folder


def test_zones(tree):
    """What rules may name under assume_zone, without its doubles."""
    zones = tree / "usr/share/zoneinfo"
    for name in ("Europe/Paris", "America/New_York", "Asia/Kathmandu"):
        assert (zones / name).read_bytes().startswith(b"TZif")
    assert not (zones / "posix").exists() and not (zones / "right").exists()


def test_what_it_says_of_itself(containers, image):
    c = containers.inspect(image)
    config = c["Config"]
    assert config["User"] == "65532:65532" and config["StopSignal"] in ("SIGTERM", "15")
    assert config["Entrypoint"] == ["/usr/bin/kmsgate"] and config["Cmd"] == ["serve", "--config", "/etc/kmsgate/gateway.yaml"]
    labels = config["Labels"]
    version = run(BUILD / "kmsgate", "--version").stdout.split()[1]
    assert labels["org.opencontainers.image.version"] == version
    assert labels["org.opencontainers.image.base.name"] == "docker.io/library/debian:bookworm-slim"
    assert {"title", "description", "revision"} <= {k.split(".")[-1] for k in labels}
    assert c["Healthcheck"]["Test"] == ["CMD", "/usr/bin/kmsgate", "health", "--config", "/etc/kmsgate/gateway.yaml"]
    megabytes = c["Size"] / 1e6
    (CACHE / "image-size").write_text("%.1f MB\n" % megabytes)
    readme = (ROOT / "docker/README.md").read_text()
    told = [int(n) for n in re.findall(r"^\| the image \| (\d+) MB \|$|^Of its (\d+) MB", readme, re.M) for n in n if n]
    assert len(told) == 2 and all(abs(n - megabytes) < 3 for n in told), "docker/README.md says %s, it is %.1f MB" % (told, megabytes)


def test_nothing_in_it_but_the_program_and_its_libraries(tree):
    programs = [p for p in tree.rglob("*") if p.is_file() and not p.is_symlink() and p.stat().st_mode & 0o111 and ".so" not in p.name]
    assert [str(p.relative_to(tree)) for p in programs if "proc" not in p.parts] == ["usr/bin/kmsgate"]
    assert not [p for p in tree.rglob("*") if not p.is_symlink() and p.is_file() and p.stat().st_mode & 0o6000], "set-uid files"
    assert not [p for p in tree.rglob("*") if p.name == "sources.list" or "apt" in p.parts]
    owned = [p for p in tree.rglob("*") if not p.is_symlink() and p.lstat().st_uid not in (0,)]
    assert [str(p.relative_to(tree)) for p in owned] == ["var/lib/kmsgate"]


def test_bill_of_materials(tree):
    """Each library in the image is of a package that is listed, with version and purl; and each listed is in the image."""
    sbom = json.loads((tree / "usr/share/doc/kmsgate/sbom.spdx.json").read_text())
    assert sbom["spdxVersion"] == "SPDX-2.3" and sbom["dataLicense"] == "CC0-1.0" and sbom["SPDXID"] == "SPDXRef-DOCUMENT"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", sbom["creationInfo"]["created"])
    packages = {p["name"]: p for p in sbom["packages"]}
    ids = [p["SPDXID"] for p in sbom["packages"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", i) for i in ids)
    related = {r["relatedSpdxElement"] for r in sbom["relationships"]}
    assert related == set(ids)
    status = {p.name: p.read_text() for p in (tree / "var/lib/dpkg/status.d").iterdir()}
    assert set(status) == set(packages) - {"kmsgate"}
    for name, text in status.items():
        version = re.search(r"^Version: (.*)$", text, re.M)[1]
        assert packages[name]["versionInfo"] == version
        purl = packages[name]["externalRefs"][0]["referenceLocator"]
        assert purl.startswith("pkg:deb/debian/%s@%s?arch=" % (name, version.replace("+", "%2B").replace(":", "%3A")))
        assert (tree / "usr/share/doc" / name / "copyright").exists() or name == "base-files", name
    for soname, package in {"libevhtp": "libevhtp0", "libxml2": "libxml2", "libssl": "libssl3", "libc": "libc6", "libcurl": "libcurl4", "libsqlite3": "libsqlite3-0"}.items():
        assert list(tree.rglob(soname + ".so*")) and package in packages, soname
    libraries = [p for p in tree.rglob("*.so*") if not p.is_symlink()]
    assert len(libraries) >= len(packages) - 4 - 1, "packages are listed that nothing is of"
    import hashlib
    assert packages["kmsgate"]["checksums"][0]["checksumValue"] == hashlib.sha256((tree / "usr/bin/kmsgate").read_bytes()).hexdigest()


def test_base_is_an_argument(containers):
    """BASE by digest or another name; one that is not there is an error that names it."""
    r = run("buildah", *containers.store, "bud", "--isolation", "chroot", "--pull-never", "-f", ROOT / "docker/Dockerfile",
            "--target", "libraries", "--build-arg", "BASE=registry.invalid/debian:none", ROOT, env=containers.env, ok=False)
    assert r.returncode != 0 and "registry.invalid/debian:none" in r.stderr


class Deployment:
    """A folder as it is mounted, a legacy KMS, and the image's own `keys import` to fill the volume."""

    def __init__(self, containers, image, certs, users, tmp_path):
        self.c, self.image = containers, image
        self.port, self.admin_port, kms_port = kms.free_port(), kms.free_port(), kms.free_port()
        self.etc, self.state = tmp_path / "etc", tmp_path / "state"
        (self.etc / "tls").mkdir(parents=True)
        self.state.mkdir()
        os.chown(self.state, 65532, 65532)
        (self.etc / "gateway.yaml").write_text(CONFIG % (self.port, self.admin_port, kms_port))
        shutil.copy(ROOT / "rules/spec.yaml", self.etc / "rules.yaml")
        self.secret(self.etc / "master.key", os.urandom(32).hex())
        self.secret(self.etc / "keys.jsonl", "\n".join(x for u in users for x in u.lines()))
        shutil.copy(certs / "server.pem", self.etc / "tls/server.pem")
        self.secret(self.etc / "tls/server.key", (certs / "server.key").read_text())
        self.legacy = kms.Process([BUILD / "legacy_kms", "--listen", "127.0.0.1:%d" % kms_port], tmp_path, "legacy")
        self.options = ["-v", "%s:/etc/kmsgate:ro" % self.etc, "-v", "%s:/var/lib/kmsgate" % self.state]
        self.started = []
        for parent in tmp_path.parents:  # pytest's folders are root's alone
            if parent.name.startswith("pytest-"):
                parent.chmod(0o755)

    @staticmethod
    def secret(path, text):
        path.write_text(text + "\n")
        path.chmod(0o400)
        os.chown(path, 65532, 65532)

    def once(self, *argv, ok=True):
        return self.c.podman("run", "--rm", "--network", "host", "--read-only", "--cap-drop", "ALL", *self.options, self.image, *argv,
                             ok=ok)

    def start(self):
        self.started.append(self.c.start(self.image, options=self.options))
        return self.started[-1]

    def end(self):
        for c in self.started:
            self.c.remove(c)
        self.legacy.stop()


@pytest.fixture
def deployment(containers, image, certs, alice, tmp_path):
    d = Deployment(containers, image, certs, [alice], tmp_path)
    yield d
    d.end()


def test_deployed(deployment, containers, certs, alice):
    d = deployment
    assert "2 added" in d.once("keys", "import", "--config", "/etc/kmsgate/gateway.yaml", "/etc/kmsgate/keys.jsonl").stdout
    name = d.start()
    healthy = lambda: containers.podman("healthcheck", "run", name, ok=False).returncode == 0
    kms.wait_for(healthy)
    import http.client
    ctx = ssl.create_default_context(cafile=str(certs / "ca.pem"))
    c = http.client.HTTPSConnection("127.0.0.1", d.port, context=ctx, timeout=20)
    path = kms.BASE + "/keyprov"
    c.request("POST", path, kms.signed_request(alice, "https://kms.example.org" + path), {"Content-Type": "application/xml"})
    r = c.getresponse()
    reply = kms.Reply(r.status, r.headers, r.read())
    assert reply.status == 200 and reply.verify(alice.ink, alice.ink_id) and len(reply.keys(alice.trk, alice.trk_id)) == 3
    c.close()
    decision = [json.loads(x) for x in containers.logs(name).split("\n") if x.startswith('{"time"')]
    assert [x["reason"] for x in decision] == ["ok"]
    # it is process 1, no root, and can write nowhere but to its volume
    pid = containers.podman("inspect", "-f", "{{.State.Pid}}", name).stdout.strip()
    status = open("/proc/%s/status" % pid).read()
    assert re.search(r"^NSpid:\s+%s\s+1$" % pid, status, re.M) and re.search(r"^Uid:\s+65532\s", status, re.M)
    assert re.search(r"^CapEff:\s+0+$", status, re.M) and re.search(r"^NoNewPrivs:\s+1$", status, re.M)
    assert re.search(r"^Seccomp:\s+2$", status, re.M)
    # told to end: not ready at once, and done after drain_delay
    began = time.monotonic()
    stop = subprocess.Popen(["podman", *containers.store, "stop", "-t", "20", name], env=containers.env, stdout=subprocess.DEVNULL)
    kms.wait_for(lambda: not healthy())
    assert stop.wait(30) == 0 and 0.9 < time.monotonic() - began < 15
    assert containers.podman("inspect", "-f", "{{.State.ExitCode}}", name).stdout.strip() == "0"


def test_its_own_configuration_by_environment(containers, image):
    """No file mounted: the image's gateway.yaml, two variables; what is missing is named, all of it."""
    r = containers.podman("run", "--rm", "--network", "none", "--read-only", "-e", "KMSGATE_UPSTREAM_URL=http://kms:9000",
                          "-e", "KMSGATE_PUBLIC_URL=https://kms.example.org:8443", image, "check", "--print", "--config",
                          "/etc/kmsgate/gateway.yaml", ok=False)
    assert r.returncode == 1
    assert "/etc/kmsgate/tls/server.pem: cannot be read" in r.stderr
    assert "/etc/kmsgate/master.key: cannot be read" in r.stderr
    assert "# KMSGATE_UPSTREAM_URL" in r.stdout and "# KMSGATE_PUBLIC_URL" in r.stdout
    r = containers.podman("run", "--rm", "--network", "none", "-e", "KMSGATE_UPSTREAM_URL=kms:9000", image, "check", "--config",
                          "/etc/kmsgate/gateway.yaml", ok=False)
    assert r.returncode == 1 and "KMSGATE_UPSTREAM_URL: found `kms:9000`, expected http://" in r.stderr


def test_a_master_key_that_all_may_read(deployment):
    d = deployment
    (d.etc / "master.key").chmod(0o444)
    r = d.once("keys", "import", "--config", "/etc/kmsgate/gateway.yaml", "/etc/kmsgate/keys.jsonl", ok=False)
    assert r.returncode == 1 and "open to all users" in r.stderr
    (d.etc / "master.key").chmod(0o400)
    os.chown(d.etc / "master.key", 0, 0)
    r = d.once("check", "--config", "/etc/kmsgate/gateway.yaml", ok=False)
    assert r.returncode == 1 and "master.key: cannot be read: Permission denied" in r.stderr


def test_no_shell(containers, image):
    r = containers.podman("run", "--rm", "--network", "none", "--entrypoint", "/bin/sh", image, "-c", "true", ok=False)
    assert r.returncode == 127
