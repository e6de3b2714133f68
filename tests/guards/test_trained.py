"""A release is compiled by a profile of serving (tests/train): where it shall be, and nowhere that a profile could make
code branch on what is secret."""
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
# Keys in clear pass through these, or who asks is told from who is unknown by them.
SECRET = re.compile(r"gateway/(keys/.*|base/(buf|crypto|crypto_memory|locked|provided|random|secret)|gate/checks_key|"
                    r"message/(xmlenc.*|kms_response_spill.*))\.c")


def commands():
    path = BUILD / "compile_commands.json"
    if not path.exists():
        pytest.skip("no build")
    return json.loads(path.read_text())


def option(name):
    found = re.search(r"^%s:\w+=(.*)$" % name, (BUILD / "CMakeCache.txt").read_text(), re.M)
    return found[1] if found else ""


def source(command):
    return str(Path(command["file"]).relative_to(ROOT))


def used():
    """The commands that a profile is used by."""
    return [c for c in commands() if "-fprofile-use" in c["command"].split()]


def test_a_release_is_trained():
    plain = not any(option("KMSGATE_" + name) not in ("", "OFF") for name in ("TESTS", "SANITIZE", "COVERAGE", "FUZZ"))
    gcc = not re.search("clang", option("CMAKE_C_COMPILER"))
    if option("CMAKE_BUILD_TYPE") == "Release" and plain and gcc:
        assert len(used()) > 20
    else:
        assert not used()


def test_each_profile_is_there_and_not_older():
    for c in used():
        command = c["command"].split()
        made = Path(c["directory"]) / command[command.index("-o") + 1]
        profile = made.with_suffix(".gcda")
        assert profile.stat().st_size > 100, profile
        if made.exists():  # the whole program was built, or a part of it
            assert profile.stat().st_mtime_ns <= made.stat().st_mtime_ns, profile


def test_branches_are_counted_and_no_data():
    watched = [c for c in commands() if "-fprofile-generate" in c["command"].split()]
    assert {source(c) for c in watched} == {source(c) for c in used()}
    for c in watched + used():
        assert "-fno-profile-values" in c["command"].split(), source(c)


def test_what_handles_keys_is_not_trained():
    """Also in builds that are not: by the list."""
    text = (ROOT / "CMakeLists.txt").read_text()
    listed = []
    for layer, rest in re.findall(r"^kmsgate_layer\((\w+) (.*?)\)$", text, re.M | re.S):
        listed += ["gateway/%s/%s.c" % (layer, name) for name in rest.partition("TRAINED")[2].split()]
    assert len(listed) > 20 and all((ROOT / name).exists() for name in listed)
    secret = list(filter(SECRET.fullmatch, (str(p.relative_to(ROOT)) for p in ROOT.glob("gateway/*/*.c"))))
    assert len(secret) > 30
    assert not set(listed) & set(secret)
    assert {source(c) for c in used()} <= set(listed)
