"""rules/schema.json, by which editors judge a rules file, and the program judge alike.

Compared over all files of cases/ (each fault alone, in a file that is right otherwise), over the shipped files and the
reference's examples, and over mutations of these. What no JSON Schema can say is listed here, by the program's words.
"""
import copy
import json
import os
import random
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest
import yaml

from test_rules_cases import CASES, FAULT, LINT

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
SCHEMA = json.loads((ROOT / "rules" / "schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
SHIPPED = sorted(p for p in (ROOT / "rules").glob("*.yaml") if not p.name.endswith(".cases.yaml"))
SHIPPED_SPEC = (ROOT / "rules" / "spec.yaml").read_text()
EXAMPLES = [t for t in re.findall(r"^```yaml\n(.*?)^```", (ROOT / "rules" / "README.md").read_text(), re.M | re.S)
            if t.startswith("version:")]

# Faults of a whole file: references between its parts, doubles by another measure than equality, values that a pattern
# cannot tell, and the language's own strictness on YAML.
ONLY_THE_PROGRAM = [
    r"there is no (request rule|rule|dialect) ",
    r"duplicate",
    r"a zone of the system's tzdata",  # of those that look like one
    r"expected a date",              # of those of the right form that do not exist, such as 30 February
    r"`until` is before `since`",
    r"`pass` names the header",
    r"host bits are zero",           # of those of the right form
    r"expected UTF-8|anchors|second document|a key is expected|not valid YAML|a text of several lines",
]


class Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, as editors read: `off` and dates are texts."""


Loader.yaml_implicit_resolvers = {}
for tag, pattern, first in [
        ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
        ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", "-+0123456789"),
        ("tag:yaml.org,2002:float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789")]:
    Loader.add_implicit_resolver(tag, re.compile("^(?:%s)$" % pattern), list(first))
Loader.yaml_constructors = dict(yaml.SafeLoader.yaml_constructors)
Loader.yaml_constructors["tag:yaml.org,2002:int"] = lambda loader, node: int(loader.construct_scalar(node))


def by_program(text, path):
    """(accepted, messages) of `kmsgate check`; lints are none of the matter."""
    path.write_text(text)
    run = subprocess.run([BUILD / "kmsgate", "check", path], capture_output=True, text=True, timeout=60)
    assert run.returncode in (0, 1), run.stderr
    return run.returncode == 0, run.stderr


def by_schema(text):
    return not next(VALIDATOR.iter_errors(yaml.load(text, Loader)), None)


def disagreement(text, path):
    """What is wrong with their agreement; None: nothing."""
    accepted, messages = by_program(text, path)
    said = by_schema(text)
    if said == accepted:
        return None
    faults = [m for m in messages.splitlines() if not re.search(r": [a-z-]+: (rule|dialect|the accepted)", m)]
    if said and faults and all(any(re.search(p, m) for p in ONLY_THE_PROGRAM) for m in faults):
        return None
    why = next(iter(VALIDATOR.iter_errors(yaml.load(text, Loader))), None)
    return "the schema %s, the program %s\n%s\n%s\n%s" % (
        "accepts" if said else "refuses", "accepts" if accepted else "refuses", text, messages, why)


def test_the_schema_is_one():
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def one_fault_each(case):
    """The file with all its faults put right, then for each line with a fault the file with that one alone."""
    lines = case.read_text().split("\n")
    right, wrong = [], []
    for line in lines:
        lint = LINT.search(line)
        line = line[:lint.start()] if lint else line
        fault = FAULT.search(line)
        wrong.append(line[:fault.start()] if fault else None)
        right.append(re.match(r"\s*", line).group(0) + fault.group(2) if fault else line)
    yield "\n".join(right)
    for i, bad in enumerate(wrong):
        if bad is not None:
            yield "\n".join(right[:i] + [bad] + right[i + 1:])


@pytest.mark.parametrize("case", CASES, ids=lambda p: p.stem)
def test_cases(case, tmp_path):
    for text in one_fault_each(case):
        wrong = disagreement(text, tmp_path / "rules.yaml")
        assert not wrong, wrong


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_files(path, tmp_path):
    text = path.read_text()
    assert by_schema(text) and by_program(text, tmp_path / "rules.yaml")[0]
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")


@pytest.mark.parametrize("zone", ["posix/Europe/Paris", "posixrules", "localtime", "Etc/GMT+5", "EST5EDT", "right/UTC",
                                  "posix/europe", "../UTC", "tzdata.zi"])
def test_zones(zone, tmp_path):
    """Some of these only some systems have; what is no zone of any is refused by both."""
    text = re.sub(r"requests:.*", "requests: [{ id: everyone, checks: { time: { assume_zone: %s } } }]" % zone,
                  "version: 1\nkms: { uris: [kms.example.org] }\nrequests:\nresponses: [{ id: default }]\n")
    accepted = by_program(text, tmp_path / "rules.yaml")[0]
    assert by_schema(text) or not accepted
    assert not by_schema(text) or Path("/usr/share/zoneinfo", zone).exists() == accepted


def test_examples_of_the_reference(tmp_path):
    assert EXAMPLES
    for text in EXAMPLES:
        assert by_schema(text) and by_program(text, tmp_path / "rules.yaml")[0], text


@pytest.mark.parametrize("text", ["0s", "0ms", "00s", "007s", "7d", "8d", "168h", "169h", "604800s", "604801s", "604800000ms",
                                  "604800001ms", "10080m", "10081m", "5 s", "5S", "+5s", "-5s", "1h30m", "5", "s", ""])
def test_durations(text, tmp_path):
    wrong = disagreement(SHIPPED_SPEC.replace("- id: everyone", "- id: everyone\n    checks: { time: { past: '%s' } }" % text),
                         tmp_path / "rules.yaml")
    assert not wrong, wrong


def dump(value):
    """JSON, which is YAML, but for what has to stand without quotes."""
    return re.sub(r'"(on|off)"', r"\1", json.dumps(value, ensure_ascii=False, indent=1))


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for k, v in value.items():
            yield from places(v, path + (k,))
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield from places(v, path + (i,))


def at(value, path):
    for step in path:
        value = value[step]
    return value


OTHER = [None, True, False, 0, 1, -1, 7, 256, 200, 1.5, "", " ", "x", "a b", "é", "*", "/", "5s", "8d", "0ms", "on", "off",
         "shadow", "signed", "empty", "GET", "json", "request", "{user}", "{usr}", "2026-02-28", "2026-2-1", "10.0.0.0/8",
         "::/0", "10.0.0.256", "https://a.example/", "Host", "X-Other", "content_type", "KmsKeySet", "UserDecryptKey",
         "Userdecryptkey", "UTC", "+14:00", "+14:01", [], {}, ["x"], ["x", "y"], ["signed"], ["unsigned"], {"x": "y"},
         {"mode": "off"}, [["x"]]]


def mutants(rng, documents, n):
    """One thing changed in a good file."""
    for _ in range(n):
        value = copy.deepcopy(rng.choice(documents))
        path = rng.choice([p for p in places(value) if p])
        holder, last = at(value, path[:-1]), path[-1]
        kind = rng.randrange(6)
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(["x", "mode", "id", "why", "Host", "UserDecryptKey", "a b", "match", "when"])] = \
                copy.deepcopy(rng.choice(OTHER))
        elif kind == 3 and isinstance(holder, dict):
            holder[rng.choice(["X", str(last) + "s", str(last).upper()])] = holder.pop(last)
        else:
            holder[last] = copy.deepcopy(rng.choice(OTHER))
        yield dump(value)


def test_mutations(tmp_path):
    """The same seed, the same mutants: a disagreement is found again. TESTED_MUTANTS sets how many."""
    rng = random.Random(33180)
    texts = [p.read_text() for p in SHIPPED] + EXAMPLES + [next(one_fault_each(c)) for c in CASES]
    documents = [yaml.load(t, Loader) for t in texts]
    n = int(os.environ.get("TESTED_MUTANTS", 300))
    work = list(enumerate(mutants(rng, documents, n)))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        wrong = [w for w in pool.map(lambda i: disagreement(i[1], tmp_path / ("%d.yaml" % i[0])), work) if w]
    assert not wrong, "%d of %d:\n%s" % (len(wrong), n, "\n\n".join(wrong[:5]))
    refused = sum(not by_schema(t) for _, t in work)
    assert n // 4 < refused < n, "the mutations make nothing wrong, or nothing right"
