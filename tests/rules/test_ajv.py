"""The JSON Schemas that are shipped, in npm's ajv: it compiles each in its strictest mode, where a keyword that it does
not know, or that cannot hold, is an error, and judges as python's jsonschema does, by which all other tests go."""
import copy
import json
import random
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

from test_schema import BUILD, CASES, EXAMPLES, ROOT, SHIPPED, Loader, at, mutants, one_fault_each, places

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def ajv():
    """Installed once, by its lock file; only there is it missing where npm or what it asks cannot be reached."""
    folder = BUILD / "ajv"
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        pytest.skip("ajv: there is no npm here")
    if not (folder / "installed").exists():
        folder.mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "ajv" / name, folder)
        got = subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder,
                             capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        if got.returncode:
            pytest.skip("ajv: npm cannot install it here: " + (got.stderr.strip().split("\n") or ["?"])[0])
        (folder / "installed").touch()

    def judge(schema, documents=()):
        r = subprocess.run(["node", HERE / "ajv" / "main.js", folder], capture_output=True, text=True, timeout=120,
                           input=json.dumps({"schema": schema, "documents": list(documents)}))
        return (json.loads(r.stdout) if r.returncode == 0 else None), r.stderr
    return judge


def rules():
    """Right ones, each fault of the cases, and mutations."""
    right = [p.read_text() for p in SHIPPED] + EXAMPLES
    faulty = [t for c in CASES for t in one_fault_each(c)]
    documents = [yaml.load(t, Loader) for t in right + faulty]
    return documents + [yaml.load(t, Loader) for t in mutants(random.Random(33180), documents, 200)]


def changed(document):
    """A document, and each of its values made another."""
    yield document
    for path in places(document):
        for other in ({}, [], 7, "x", None):
            if path:
                new = copy.deepcopy(document)
                at(new, path[:-1])[path[-1]] = other
                yield new


def gateways():
    text = (ROOT / "docker/etc/gateway.yaml").read_text()
    return list(changed(yaml.load(text, Loader)))


LINE = {"time": "2026-11-01T00:00:00.000Z", "id": "0" * 32, "source": "10.0.0.1", "method": "POST", "path": "/",
        "rule": "r", "form": "signed", "proven": True, "user": "sip:a@example.org", "verdict": "accept", "reason": "ok",
        "checks": {"schema": "pass"}, "status": 200, "trace_id": "0" * 32, "ms": {"total": 1.5}}


@pytest.mark.parametrize("schema,documents", [
    ("rules/schema.json", rules), ("gateway/config.schema.json", gateways),
    ("docker/decision.schema.json", lambda: list(changed(LINE)))], ids=lambda x: x if isinstance(x, str) else "")
def test_compiles_and_judges_alike(ajv, schema, documents):
    text = json.loads((ROOT / schema).read_text())
    documents = [d for d in documents()]
    got, said = ajv(text, documents)
    assert got is not None, said
    want = [jsonschema.Draft7Validator(text).is_valid(d) for d in documents]
    wrong = [(w, d) for w, g, d in zip(want, got, documents) if w != g]
    assert not wrong, "%d of %d, such as %s" % (len(wrong), len(want), wrong[0])
    assert any(want) and not all(want)


@pytest.mark.parametrize("bad", [{"type": "objekt"}, {"propertys": {}}, {"properties": {"a": {"pattern": "("}}},
                                 {"required": ["a"]}, {"type": "object", "minimum": 1}])
def test_what_ajv_refuses(ajv, bad):
    """The twin: what is wrong with a schema is told."""
    assert ajv(bad)[0] is None
