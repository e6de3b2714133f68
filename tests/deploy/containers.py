"""Images built by buildah, containers run by podman and runc: no daemon, nothing outside build-tests/deploy."""
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from conftest import CACHE, ROOT, alone, run, tool

BASE = "docker.io/library/debian:bookworm-slim"
# runc rather than crun, and limits that can be granted where the caller's own are low
CONF = """\
[containers]
default_ulimits = ["nofile=1024:20000", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "%s"
""" % (CACHE / "networks")
SYSTEMD = """\
FROM localhost/libraries
RUN apt-get update && apt-get install -y --no-install-recommends systemd systemd-sysv dbus && rm -rf /var/lib/apt/lists/*
CMD ["/sbin/init"]
"""
STORE = ["--storage-driver", "overlay", "--root", str(CACHE / "store"), "--runroot", str(CACHE / "run")]
# What apt says where a package cannot be fetched: that is this machine's, not the image's
NO_PACKAGES = re.compile("package lists cannot be fetched|Temporary failure resolving|Unable to fetch some archives|"
                         "Could not connect to|Failed to fetch http")


def environment():
    CACHE.mkdir(parents=True, exist_ok=True)
    conf = CACHE / "containers.conf"
    if not conf.exists() or conf.read_text() != CONF:
        conf.write_text(CONF)
    return dict(os.environ, CONTAINERS_CONF=str(conf), BUILDAH_ISOLATION="chroot")


def clear_away():
    """No container, network, volume, process or mount of these tests; images and layers stay, so that the next run is quick."""
    if os.geteuid() != 0 or not (CACHE / "store").exists() or not shutil.which("podman"):
        return
    env = environment()
    for words in (["podman", *STORE, "rm", "-f", "-a", "-v", "-t", "1"], ["podman", *STORE, "network", "prune", "-f"],
                  ["podman", *STORE, "volume", "rm", "-f", "-a"], ["buildah", *STORE, "rm", "-a"]):
        run(*words, env=env, ok=False, timeout=120)
    for sig in (signal.SIGTERM, signal.SIGKILL):  # by the folder in their arguments; nobody else has it
        left = leftover_processes()
        for pid in left:
            os.kill(pid, sig)
        time.sleep(1 if left else 0)
    for mount in leftover_mounts():
        run("umount", "-l", mount, ok=False)
    assert not leftover_mounts() and not leftover_processes(), (leftover_mounts(), leftover_processes())


def leftover_mounts():
    """Mount points below the cache, the innermost first."""
    points = [x.split()[4] for x in Path("/proc/self/mountinfo").read_text().split("\n") if x]
    return [p for p in reversed(points) if p.startswith(str(CACHE) + "/")]


def leftover_processes():
    """Of podman, conmon and their helpers, with this cache among their arguments."""
    out = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if Path(words[0]).name in ("podman", "buildah", "conmon", "runc", "aardvark-dns") if words else False:
            if any(w == str(CACHE) or w.startswith(str(CACHE) + "/") for w in words):
                out.append(int(entry.name))
    return out


class Containers:
    def __init__(self):
        if os.geteuid() != 0:
            pytest.skip("images are built and run as root here")
        for name in ("buildah", "podman", "runc"):
            tool(name)
        self.env = environment()
        self.store = STORE
        self.offline = False
        with alone("image"):
            self.can_mount()
            self.have_base()

    def can_mount(self):
        """Layers are overlay mounts; in a container without the right to mount, or above another overlay, there are none."""
        work = CACHE / "probe"
        for name in ("lower", "upper", "work", "merged"):
            (work / name).mkdir(parents=True, exist_ok=True)
        r = run("mount", "-t", "overlay", "overlay", "-o", "lowerdir=%s,upperdir=%s,workdir=%s" % tuple(
            work / n for n in ("lower", "upper", "work")), work / "merged", ok=False)
        if r.returncode == 0:
            run("umount", work / "merged")
        shutil.rmtree(work, ignore_errors=True)
        if r.returncode:
            pytest.skip("containers cannot be run here: no overlay can be mounted in %s: %s" % (CACHE, r.stderr.strip()))

    def have_base(self):
        if self.podman("image", "exists", BASE, ok=False).returncode:
            tar = CACHE / "base.tar"
            if not tar.exists():
                pytest.skip("there is no base image; tests/deploy/install-deps makes it where mmdebstrap can be had")
            self.podman("import", "-q", tar, BASE)

    def podman(self, *argv, **kw):
        return run("podman", *self.store, *argv, env=self.env, **kw)

    def build(self, target="kmsgate"):
        """The name of the image of that stage; layers are kept, so that only the first time is slow."""
        name = "localhost/" + {"legacy_kms": "kmsgate-legacy-kms", "setup": "kmsgate-setup", "fleet": "kmsgate-fleet"}.get(target, target)
        session = os.environ.get("PYTEST_XDIST_TESTRUNUID", "%d" % os.getpid())
        mark = CACHE / ("built-" + target)  # even to find that all is cached costs seconds: once a session
        with alone("image"):
            if not mark.exists() or mark.read_text() != session:
                self.have(name, "-f", ROOT / "docker/Dockerfile", "--target", target, ROOT)
                mark.write_text(session)
        return name

    def have(self, name, *argv):
        r = None
        if not self.offline:
            r = run("buildah", *self.store, "bud", "--isolation", "chroot", "--pull-never", "--layers", "--format", "docker",
                    "-t", name + ":latest", *argv, env=self.env, ok=False, timeout=900)
            self.offline = r.returncode != 0 and bool(NO_PACKAGES.search(r.stdout + r.stderr))
        if self.offline:
            pytest.skip("%s cannot be built: Debian's packages cannot be fetched here" % name)
        assert r.returncode == 0, "%s\n%s%s" % (name, r.stdout[-20000:], r.stderr[-20000:])

    def with_systemd(self):
        """Debian with the libraries and systemd as process 1."""
        self.build("libraries")
        folder = CACHE / "systemd"
        with alone("image"):
            folder.mkdir(exist_ok=True)
            (folder / "Dockerfile").write_text(SYSTEMD)
            self.have("localhost/kmsgate-systemd", folder)
        return "localhost/kmsgate-systemd"

    def inspect(self, image):
        return json.loads(self.podman("image", "inspect", image).stdout)[0]

    def start(self, image, *argv, options=()):
        """A running container, locked down as docker/README.md says; ended by stop()."""
        r = self.podman("run", "-d", "--network", "host", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
                        "--security-opt", "no-new-privileges", *options, image, *argv)
        return r.stdout.strip().split("\n")[-1]

    def logs(self, container):
        r = self.podman("logs", container)
        return r.stdout + r.stderr

    def remove(self, container):
        self.podman("rm", "-f", "-t", "5", "-v", container, ok=False)
