"""docker-compose over podman's service, which speaks Docker's API: compose does not see the difference."""
import contextlib
import os
import re
import subprocess
import threading

import pytest
import yaml

import kms
from conftest import run, tool


class Composed:
    """One compose file, under a project's name of its own."""

    def __init__(self, containers, file, env, limits):
        self.containers, self.file, self.env, self.limits = containers, file, env, limits
        self.project = env["COMPOSE_PROJECT_NAME"]

    def __call__(self, *argv, **kw):
        return run(tool("docker-compose"), "-f", self.file, "-f", self.limits, *argv, env=self.env, **kw)

    @contextlib.contextmanager
    def nursed(self):
        """Health checks have a timer of systemd's, which is not here: they are run by hand until all are well."""
        end = threading.Event()

        def nurse():
            while not end.wait(0.5):
                for line in self.containers.podman("ps", "--format", "{{.Names}} {{.Status}}", ok=False).stdout.split("\n"):
                    if line.startswith(self.project + "_") and re.search(r"\((starting|unhealthy)\)", line):
                        self.containers.podman("healthcheck", "run", line.split(" ")[0], ok=False)
        nursing = threading.Thread(target=nurse)
        nursing.start()
        try:
            yield
        finally:
            end.set()
            nursing.join()

    def up(self, *argv):
        with self.nursed():
            self("up", "--no-build", "-d", "--timeout", "20", *argv)

    def container(self, service):
        names = self.containers.podman("ps", "-a", "--format", "{{.Names}}").stdout.split()
        return [n for n in names if n.startswith("%s_%s_" % (self.project, service))][0]

    def inspect(self, service, form):
        return self.containers.podman("inspect", "-f", form, self.container(service)).stdout.strip()

    def volume(self, name):
        return self.containers.podman("volume", "inspect", "-f", "{{.Mountpoint}}", self.project + "_" + name).stdout.strip()


@contextlib.contextmanager
def composed(containers, file, project, targets, folder):
    tool("docker-compose")
    for target in targets:
        containers.build(target)
    for path in ("/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns"):
        if not os.path.exists(path):
            pytest.skip(path + " is not installed: containers cannot find each other by name")
    sock, limits = folder / "podman.sock", folder / "limits.yaml"
    # Limits that can be granted where the caller's own are low; podman's service does not take them from its configuration.
    limit = {"ulimits": {"nofile": {"soft": 1024, "hard": 20000}, "nproc": 4096}}
    whole = yaml.safe_load(file.read_text())
    # And the name that podman has for Docker's way to give addresses.
    networks = {n: dict(v, ipam=dict(v["ipam"], driver="host-local", options={"driver": "host-local"}))
                for n, v in whole["networks"].items() if v and "ipam" in v}
    limits.write_text(yaml.safe_dump({"services": {name: limit for name in whole["services"]}, "networks": networks}))
    service = subprocess.Popen(["podman", *containers.store, "system", "service", "--time=0", "unix://%s" % sock],
                               env=containers.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        kms.wait_for(sock.exists)
        env = dict(containers.env, DOCKER_HOST="unix://%s" % sock, COMPOSE_PROJECT_NAME=project)
        call = Composed(containers, file, env, limits)
        yield call
        call("down", "--volumes", "--timeout", "20", ok=False)
    finally:
        service.terminate()
        try:
            service.wait(20)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()
