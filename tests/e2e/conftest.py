"""The real binaries, each test in a folder and on ports of its own."""
import json
import os
import re
import shutil
import subprocess
import tempfile
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest

import kms
import postgres

BUILD = Path(os.environ.get("TESTED_BUILD", Path(__file__).parents[2] / "build")).resolve()
RULES = """\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
errors: { detail: reason }
requests: [{ id: everyone }]
responses: [{ id: default }]
"""
# Files of minutes, and what waits for clocks. Files are shared out in the order of the collection: whoever came last with
# one of these would be waited for by all.
FIRST = ["test_postgres.py", "test_keys.py", "test_console_parts.py", "test_bounds.py", "test_contract_keys.py",
         "test_replay.py", "test_schema.py", "test_sandbox.py", "test_fleet_sentinel.py", "test_fleet_failures.py"]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda i: FIRST.index(i.path.name) if i.path.name in FIRST else len(FIRST))


class Gateway:
    def __init__(self, folder, users, rules=RULES, config="", upstream=None, listen=None, start=True, legacy=(),
                 keys="sqlite:kmsgate.db", peer=None,
                 replay="memory", public=None):
        """keys: where they are, or a database's URI. peer: a gateway whose keys this one has, too."""
        self.folder, self.users, self.keys = folder, users, peer.keys if peer else keys
        if not self.keys.startswith("sqlite:"):
            config += "state: .\n"
        self.port, self.admin_port = kms.free_port(), kms.free_port()
        self.legacy = None
        self.running = None
        if upstream is None:
            self.legacy_log = folder / "legacy.jsonl"
            self.legacy = kms.Process([BUILD / "legacy_kms", "--listen", "127.0.0.1:0", "--log", self.legacy_log,
                                       *legacy], folder, "legacy")
            upstream = kms.wait_for(lambda: self._legacy_url())
        self.upstream = upstream
        self.public = public or "http://127.0.0.1:%d" % self.port
        (folder / "master.key").write_text((peer.folder / "master.key").read_text() if peer else os.urandom(32).hex())
        (folder / "master.key").chmod(0o600)
        (folder / "rules.yaml").write_text(rules)
        self.config = folder / "gateway.yaml"
        self.config.write_text("""\
listen:
  - address: 127.0.0.1:%d
%s
admin: 127.0.0.1:%d
public_url: %s
upstream: { url: "%s", timeout: 5s }
rules: rules.yaml
keys: "%s"
master_key: file:master.key
replay: %s
decisions: decisions.jsonl
%s
""" % (self.port, listen or "", self.admin_port, self.public, upstream, self.keys, replay, config))
        keys = folder / "keys.jsonl"
        keys.write_text("\n".join(line for u in users for line in u.lines()) + "\n")
        keys.chmod(0o600)
        if peer:  # nobody has accepted anything here either
            shutil.copy(peer.first_mark, folder / "replay.mark")
        else:
            self.run("keys", "import", "--first", "--config", self.config, keys)
        self.first_mark = folder / "first.mark"
        shutil.copy(folder / "replay.mark", self.first_mark)
        if start:
            self.start()

    def _legacy_url(self):
        if self.legacy.p.poll() is not None:
            raise AssertionError("legacy_kms ended: " + self.legacy.err)
        first = self.legacy.out.split("\n")[0]
        return first.split(" on ")[1].strip() if " on " in first and "\n" in self.legacy.out else None

    def run(self, *argv, check=True, **kw):
        argv = [*kms.SERVE, *argv[1:]] if argv[0] == "serve" else argv
        r = subprocess.run([BUILD / "kmsgate", *map(str, argv)], capture_output=True, text=True, timeout=120, **kw)
        assert not check or r.returncode == 0, r.stdout + r.stderr
        return r

    def start(self, env=None):
        first = []
        if "TESTED_TRACE" in os.environ:  # every system call into a file: test_sandbox.py looks at them
            trace = tempfile.mktemp(suffix=".trace", dir=os.environ["TESTED_TRACE"])
            first = ["strace", "-D", "-f", "-qq", "-s", "0", "-o", trace]
            env = dict(env or {}, ASAN_OPTIONS="detect_leaks=0")
        self.running = kms.Process([*first, BUILD / "kmsgate", *kms.SERVE, "--config", self.config], self.folder, "gateway",
                                   env=dict(os.environ, **env) if env else None)
        kms.wait_for(self.ready)
        return self

    def ready(self):
        if self.running.p.poll() is not None:
            raise AssertionError("kmsgate ended: " + self.running.err)
        try:
            return self.admin("/readyz")[0] == 200
        except OSError:
            return False

    def admin(self, path):
        c = HTTPConnection("127.0.0.1", self.admin_port, timeout=60)
        c.request("GET", path)
        r = c.getresponse()
        return r.status, r.read().decode()

    def url(self, path):
        return self.public + kms.BASE + path

    def post(self, path, body, headers=None, context=None, port=None):
        args = ("127.0.0.1", port or self.port)
        c = HTTPSConnection(*args, context=context, timeout=60) if context else HTTPConnection(*args, timeout=60)
        h = {"Content-Type": "application/xml"}
        h.update(headers or {})
        c.request("POST", kms.BASE + path if path.startswith("/") else path, body, h)
        r = c.getresponse()
        reply = kms.Reply(r.status, r.headers, r.read())
        c.close()
        return reply

    def ask(self, user, path, **kw):
        """A signed request of this user, posted."""
        return self.post(path, kms.signed_request(user, self.url(path), **kw))

    def decisions(self, n=None):
        """All decision lines; with n, waits until there are so many."""
        path = self.folder / "decisions.jsonl"

        def lines():
            got = [json.loads(x) for x in path.read_text().split("\n") if x] if path.exists() else []
            return got if n is None or len(got) >= n else None
        return kms.wait_for(lines) if n else lines()

    def last(self, n):
        got = self.decisions(n)
        assert len(got) == n, got
        return got[-1]

    def upstream_requests(self):
        return [json.loads(x) for x in self.legacy_log.read_text().split("\n") if x] if self.legacy_log.exists() else []

    def stop(self):
        if "TESTED_REASONS" in os.environ:
            log = self.folder / "decisions.jsonl"
            with open(os.environ["TESTED_REASONS"], "a") as f:
                f.writelines(r + "\n" for r in re.findall(r'"reason":"([a-z_.]+)"', log.read_text() if log.exists() else ""))
        code = None
        if self.running:
            code = self.running.stop()
            self.running_err = self.running.err
        if self.legacy:
            self.legacy.stop()
        return code


@pytest.fixture
def alice():
    return kms.User("sip:alice@example.org")


@pytest.fixture
def bob():
    return kms.User("sip:bob@example.org")


@pytest.fixture(scope="session")
def cluster():
    """A PostgreSQL server; each test makes a database of its own in it."""
    c = postgres.Cluster()
    yield c
    c.end()


@pytest.fixture(params=["sqlite", "postgresql"])
def keys_at(request):
    """Where the keys are, for tests that hold for either store: a function of the folder."""
    if request.param == "sqlite":
        return lambda folder: "sqlite:kmsgate.db"
    cluster = request.getfixturevalue("cluster")
    return lambda folder: cluster.socket_url(cluster.database())


@pytest.fixture
def gateway(tmp_path, alice, bob):
    """A factory; every gateway that it made is ended, and must end well and without a sanitizer's word."""
    made = []

    def make(users=None, **kw):
        folder = tmp_path / ("g%d" % len(made))
        folder.mkdir()
        g = Gateway(folder, users or [alice, bob], **kw)
        made.append(g)
        return g
    yield make
    for g in made:
        code = g.stop()
        if g.running:
            assert "ERROR: " not in g.running.err and "runtime error" not in g.running.err, g.running.err
            assert code == 0, (code, g.running.err)


@pytest.fixture
def gate(gateway):
    return gateway()
