"""Images built by buildah, containers run by podman and runc: no daemon, nothing outside build-tests/deploy."""
import contextlib
import fcntl
import json
import os

import pytest

from conftest import CACHE, ROOT, run, tool

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
"""


class Containers:
    def __init__(self):
        if os.geteuid() != 0:
            pytest.skip("images are built and run as root here")
        for name in ("buildah", "podman", "runc"):
            tool(name)
        CACHE.mkdir(parents=True, exist_ok=True)
        conf = CACHE / "containers.conf"
        conf.write_text(CONF)
        self.env = dict(os.environ, CONTAINERS_CONF=str(conf), BUILDAH_ISOLATION="chroot")
        self.store = ["--storage-driver", "overlay", "--root", str(CACHE / "store"), "--runroot", str(CACHE / "run")]
        self.built = {}
        with self.alone():
            self.have_base()

    @contextlib.contextmanager
    def alone(self):
        """Tests run in several processes; images are built by one at a time, the others find them then."""
        with open(CACHE / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def have_base(self):
        if self.podman("image", "exists", BASE, ok=False).returncode:
            tar = CACHE / "base.tar"
            if not tar.exists():
                pytest.skip("there is no base image; tests/deploy/install-deps makes it where mmdebstrap can be had")
            self.podman("import", "-q", tar, BASE)

    def podman(self, *argv, **kw):
        return run("podman", *self.store, *argv, env=self.env, **kw)

    def build(self, target="kmsgate", *argv, ok=True):
        """The name of the image of that stage; layers are kept, so that only the first time is slow."""
        name = "localhost/" + {"legacy_kms": "kmsgate-legacy-kms", "setup": "kmsgate-setup"}.get(target, target)
        bud = ["buildah", *self.store, "bud", "--isolation", "chroot", "--pull-never", "--layers", "--format", "docker", "-f",
               ROOT / "docker/Dockerfile", "--target", target]
        if argv:  # a build of its own, without a name
            return run(*bud, *argv, ROOT, env=self.env, ok=ok, timeout=900)
        if name not in self.built:
            with self.alone():
                run(*bud, "-t", name + ":latest", ROOT, env=self.env, timeout=900)
            self.built[name] = True
        return name

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
