"""Deployments: the real image, package, unit and manifests. What a test needs and this machine cannot have, it skips by name."""
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
E2E = ROOT / "tests/e2e"
sys.path[:0] = [str(E2E), str(Path(__file__).parent)]
spec = importlib.util.spec_from_file_location("e2e_conftest", E2E / "conftest.py")
e2e = importlib.util.module_from_spec(spec)
sys.modules["e2e_conftest"] = e2e
spec.loader.exec_module(e2e)

BUILD = e2e.BUILD
CACHE = ROOT / "build-tests/deploy"
alice, bob, gateway, gate = e2e.alice, e2e.bob, e2e.gateway, e2e.gate
sys.dont_write_bytecode = True


def run(*argv, ok=True, **kw):
    """A command's result; its output is the message where it should have succeeded and has not."""
    r = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=kw.pop("timeout", 300), **kw)
    assert not ok or r.returncode == 0, "%s\n%s%s" % (" ".join(map(str, argv)), r.stdout, r.stderr)
    return r


def tool(name):
    """The path of a tool, or a skip that says what is missing."""
    known = {"promtool": CACHE / "prometheus/usr/bin/promtool", "prometheus": CACHE / "prometheus/usr/bin/prometheus"}
    path = known.get(name) or shutil.which(name)
    if not path or not os.access(path, os.X_OK):
        pytest.skip("%s is not installed; tests/deploy/install-deps installs it where it can be had" % name)
    return str(path)


def npm(package):
    path = CACHE / "npm/node_modules" / package
    if not path.is_dir():
        pytest.skip("npm's %s is not installed; tests/deploy/install-deps installs it where it can be had" % package)
    return path


@pytest.fixture(scope="session")
def containers():
    import containers as module
    return module.Containers()


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    """A folder with everything that certs/make_certs.sh makes, valid for 127.0.0.1, localhost and kms.example.org."""
    folder = tmp_path_factory.mktemp("certs")
    run(ROOT / "certs/make_certs.sh", "--out", folder)
    return folder
