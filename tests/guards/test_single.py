"""A build for one gateway alone (-DKMSGATE_FLEET=OFF) has neither libpq nor libhiredis in it, and says so where they are asked
for. `tests/run single` makes one; any other build is the twin that has both."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
SINGLE = "KMSGATE_FLEET:BOOL=OFF" in (BUILD / "CMakeCache.txt").read_text()
WITHOUT = "this kmsgate was built without KMSGATE_FLEET"
CONFIG = """\
listen: [{ address: "127.0.0.1:8080" }]
public_url: https://kms.example.org
upstream: { url: "http://127.0.0.1:9000" }
rules: rules.yaml
state: .
keys: "%s"
master_key: file:master.key
replay: %s
"""
MAPPING = "{ url: \"%s://127.0.0.1:1\", secret: file:master.key }"


def test_what_is_linked():
    said = subprocess.run(["readelf", "-d", BUILD / "kmsgate"], capture_output=True, text=True, check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(lib[a-z]+)", said)
    assert "libevent" in needed and "libsqlite" in needed, needed
    assert [x in needed for x in ("libpq", "libhiredis")] == [not SINGLE] * 2, needed


def check(folder, keys="sqlite:kmsgate.db", replay="memory", command=("check",)):
    (folder / "rules.yaml").write_text((ROOT / "rules/spec.yaml").read_text())
    (folder / "master.key").touch(mode=0o600)
    (folder / "master.key").write_text("ab" * 32)
    (folder / "gateway.yaml").write_text(CONFIG % (keys, replay))
    return subprocess.run([BUILD / "kmsgate", *command, "--config", folder / "gateway.yaml"], capture_output=True, text=True,
                          timeout=60, cwd=folder)


def test_one_gateway_needs_none_of_it(tmp_path):
    r = check(tmp_path)
    assert r.returncode == 0 and WITHOUT not in r.stderr, r.stderr


@pytest.mark.parametrize("what,line,expected", [
    ({"replay": "redis://127.0.0.1:1"}, 8, "memory"), ({"replay": MAPPING % "redis"}, 8, "memory"),
    ({"replay": MAPPING % "rediss"}, 8, "memory"), ({"replay": "\"redis+sentinel://a,b/kms\""}, 8, "memory"),
    ({"keys": "postgresql://127.0.0.1:1/keys"}, 6, "sqlite:PATH")])
@pytest.mark.parametrize("command", [("check",), ("keys", "list"), ("serve",)])
def test_shared_engines_are_refused_in_plain_words(tmp_path, what, line, expected, command):
    """By each command that reads the file, at the place, before anything is asked of a network."""
    if not SINGLE:
        pytest.skip("this build has them: tests/run single makes one that has not")
    r = check(tmp_path, command=command, **what)
    assert r.returncode == 1 and not list(tmp_path.glob("kmsgate.db*")), r
    assert re.search(r"gateway\.yaml:%d:\d+: .*expected %s: %s" % (line, expected, WITHOUT), r.stderr), r.stderr
