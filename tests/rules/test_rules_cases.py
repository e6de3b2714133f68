"""Rules files with their expected faults and lints, by the real binary.

A case is a whole rules file in cases/. A line that ends in

    #! COLUMN: part of the message => the same line, put right     a fault in this line (or several, with && between);
                                                                   its twin without the fault
    #? lint-name                                                   a lint in this line

says what `kmsgate check` must find there. Nothing else may be found, and with every `#!` line put right nothing at all
(but the lints).
"""
import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BUILD = Path(os.environ.get("TESTED_BUILD", HERE.parents[1] / "build")).resolve()
CASES = sorted((HERE / "cases").glob("*.yaml"))
FAULT = re.compile(r"\s+#! (\d+: .*?) => (.*)$")
LINT = re.compile(r"\s+#\? (.*)$")


def check(path, *argv):
    return subprocess.run([BUILD / "kmsgate", "check", *argv, path], capture_output=True, text=True, timeout=60)


def found(run, path):
    """(line, column, message) of each line on stderr."""
    got = []
    for line in run.stderr.splitlines():
        m = re.fullmatch(re.escape(str(path)) + r":(\d+):(\d+): (.*)", line)
        assert m, line
        got.append((int(m.group(1)), int(m.group(2)), m.group(3)))
    return got


def lint_name(message):
    return re.match(r"(?:\w+: )??([a-z]+(?:-[a-z]+)*): (?:rule `|dialect `|the accepted)", message).group(1)


def expectations(text):
    faults, lints, bad, good = [], [], [], []
    for n, line in enumerate(text.split("\n"), 1):
        lint = LINT.search(line)
        if lint:
            lints += [(n, name) for name in lint.group(1).split()]
            line = line[:lint.start()]
        fault = FAULT.search(line)
        if fault:
            for expected in fault.group(1).split(" && "):
                column, message = expected.split(": ", 1)
                faults.append((n, int(column), message))
            bad.append(line[:fault.start()])
            good.append(re.match(r"\s*", line).group(0) + fault.group(2))
        else:
            bad.append(line)
            good.append(line)
    return faults, lints, "\n".join(bad), "\n".join(good)


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.stem)
def test_case(case, tmp_path):
    faults, lints, bad, good = expectations(case.read_text())
    path = tmp_path / "rules.yaml"
    if faults:
        path.write_text(bad)
        run = check(path)
        got = found(run, path)
        missing = [e for e in faults if not any(g[0] == e[0] and g[1] == e[1] and e[2] in g[2] for g in got)]
        surplus = [g for g in got if not any(g[0] == e[0] and g[1] == e[1] and e[2] in g[2] for e in faults)]
        assert not missing and not surplus, (missing, surplus)
        assert run.returncode == 1
        assert [g[0] for g in got] == sorted(g[0] for g in got), "not in the order of the text"
    path.write_text(good)
    run = check(path)
    got = found(run, path)
    assert run.returncode == 0, run.stderr
    assert sorted((g[0], lint_name(g[2])) for g in got) == sorted(lints), run.stderr
    assert check(path, "--strict").returncode == (1 if lints else 0)


def test_there_are_cases():
    assert len(CASES) > 15


@pytest.mark.parametrize("name", ["spec", "rollout", "mixed-fleet", "dialects"])
def test_shipped_rules(name):
    run = check(HERE.parents[1] / "rules" / (name + ".yaml"))
    assert run.returncode == 0, run.stderr


def test_spec_is_without_lint():
    assert check(HERE.parents[1] / "rules" / "spec.yaml", "--strict").returncode == 0


def test_print_tells_origin(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text("version: 1\nkms: { uris: [k] }\nrequests:\n  - id: a\n    checks:\n      time: { past: 7s }\n"
                    "responses: [{ id: default }]\n")
    run = check(path, "--print")
    assert run.returncode == 0
    assert re.search(r"^requests\[a\]\.checks\.time\.past: 7s +# .*rules\.yaml:6$", run.stdout, re.M)
    assert re.search(r"^requests\[a\]\.checks\.time\.future: 5s +# default$", run.stdout, re.M)


def test_wrong_usage():
    kmsgate = str(BUILD / "kmsgate")
    for argv in (["--foo", "x"], ["a", "b"], ["--config"], ["--config", "a", "b"]):
        assert subprocess.run([kmsgate, "check", *argv], capture_output=True).returncode == 2, argv
    run = subprocess.run([kmsgate, "check", "--help"], capture_output=True, text=True)
    assert run.returncode == 0 and "--strict" in run.stdout


@pytest.mark.parametrize("content,message", [
    (b"", "empty"), (b"\0", "NUL"), (b"version: 1\xff", "UTF-8"), (b"a: \x01", "not valid YAML"), (b"a: [", "not valid YAML"),
    (b"a: &x 1", "anchors"), (b"a: *x", "anchors"), (b"a: !!str 1", "anchors"), (b"a: 1\n---\nb: 1\n", "second document"),
    (b"a: *@b.example", "1:4: a text that begins with `*` needs quotes"), (b"a: [x, *@b]", "1:8: a text that begins with `*`"),
    (b"a: &@b", "1:4: a text that begins with `&` needs quotes"), (b"? [a]\n: b\n", "a key is expected"), (b'a: "\\0"', "control"), (b"[" * 100, "32 deep"), (b"a: 1\na: 2\n", "duplicate"),
    (b"# " + b"x" * (4 << 20) + b"\n", "larger"), (b"x", "expected a mapping"), (b"\xfe\xff\0a", "NUL")],
    ids=lambda x: x if isinstance(x, str) else "bytes")
def test_no_rules_at_all(content, message, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_bytes(content)
    run = check(path)
    assert run.returncode == 1 and message in run.stderr, run.stderr
    assert str(path) in run.stderr
