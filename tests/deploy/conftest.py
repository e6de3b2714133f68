"""Deployments: the real image, package, unit and manifests. What a test needs and this machine cannot have, it skips by name."""
import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import signal
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
alice, bob, gateway, gate, cluster = e2e.alice, e2e.bob, e2e.gateway, e2e.gate, e2e.cluster
sys.dont_write_bytecode = True


def run(*argv, ok=True, timeout=300, **kw):
    """A command's result; its output is the message where it should have succeeded and has not. What it started ends with it
    when it takes too long, so that nobody waits for a pipe that a grandchild holds."""
    argv = [str(a) for a in argv]
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                         start_new_session=True, **kw)
    try:
        out, err = p.communicate(timeout=timeout)
    except BaseException as e:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        assert not isinstance(e, subprocess.TimeoutExpired), "%s: not done after %d s" % (" ".join(argv), timeout)
        raise
    assert not ok or p.returncode == 0, "%s\n%s%s" % (" ".join(argv), out, err)
    return subprocess.CompletedProcess(argv, p.returncode, out, err)


@contextlib.contextmanager
def alone(name):
    """Tests run in several processes; what is made once is made by one of them, the others find it then."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / ("lock-" + name), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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


@pytest.fixture(scope="session")
def deb(tmp_path_factory):
    """The Debian package, made once for all, as docker/README.md says: its commands, in the build that is tested."""
    for name in ("cpack", "dpkg-deb", "dpkg-shlibdeps", "file"):
        tool(name)
    if b"__asan_init" in (BUILD / "kmsgate").read_bytes():
        pytest.skip("a package is made of a release build only")
    code = re.search(r"^```sh build\n(.*?)^```$", (ROOT / "docker/README.md").read_text(), re.M | re.S)[1]
    for told, here in (("-B build", "-B %s"), ("--build build", "--build %s"), ("(cd build ", "(cd %s ")):
        assert code.count(told) == 1
        code = code.replace(told, here % BUILD)
    folder = tmp_path_factory.getbasetemp()
    said = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "package-said"
    with alone("package"):
        if not said.exists():
            said.write_text(run("bash", "-euo", "pipefail", "-c", code, cwd=ROOT).stdout)
    return Path(re.search(r"package: (\S+/kmsgate_\S+\.deb) generated", said.read_text())[1])


# What takes containers waits for their image: it begins first, what needs none comes meanwhile, the rest last.
ORDER = ["test_compose", "test_certs", "test_fleet_compose", "test_environment", "test_kubernetes",
         "test_monitoring", "test_fleet_rolling", "test_rolling", "test_sizing",
         "test_unit", "test_readme", "test_package", "test_image"]


def pytest_collection_modifyitems(items):
    at = {name: n for n, name in enumerate(ORDER)}
    items.sort(key=lambda i: at.get(Path(str(i.fspath)).stem, len(ORDER)))


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # told to end: fixtures and tidy() still run
        tidy(session)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        tidy(session)


def tidy(session):
    """Before and after, however the tests ended: no container, process or mount of theirs. Where several runs share this
    tree, the first and the last of them do it."""
    import containers as module
    CACHE.mkdir(parents=True, exist_ok=True)
    lock = session.config.__dict__.setdefault("deploy_lock", open(CACHE / "lock-runs", "w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        module.clear_away()
    except BlockingIOError:
        pass
    fcntl.flock(lock, fcntl.LOCK_SH)
