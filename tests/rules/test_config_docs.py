"""What operators read of gateway.yaml and of decisions, held against the program: its table of options, its JSON Schema, its reasons."""
import json
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
SCHEMA = json.loads((ROOT / "gateway/config.schema.json").read_text())
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)
CONFIG = """\
listen:
  - address: 127.0.0.1:8443
public_url: https://kms.example.org
upstream: { url: "http://127.0.0.1:9000" }
rules: rules.yaml
keys: sqlite:kmsgate.db
master_key: file:master.key
"""


def rows(path, columns):
    """The rows of all tables of that many columns: the cells without their code marks."""
    for line in (ROOT / path).read_text().split("\n"):
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == columns and cells[0].startswith("`"):
            yield cells


LIVE = {}  # which take effect with SIGHUP


def options():
    """{path: preset or None} of the program's table."""
    table = (ROOT / "gateway/base/config_option.c").read_text().split("OPTIONS[] = {")[1].split("\n};")[0]
    found = {}
    for row in re.findall(r"^    \{(\"[^\n]*?(?:\n        [^\n]*)*)\},$", table, re.M):
        path = re.match(r'"([a-z_.]+)"', row)[1]
        preset = re.search(r'\.preset = "([^"]*)"|[A-Z], "([^"]*)"(?:,|$)', row)
        found[path] = next((g for g in preset.groups() if g is not None), None) if preset else None
        LIVE[path] = ".live = true" in row
    assert len(found) > 30
    return found


def listener_keys():
    text = (ROOT / "gateway/base/config_listen.c").read_text()
    tls, listener = (re.search(r"%s\[\] = \{(.*?)\{0\}" % n, text, re.S)[1] for n in ("TLS", "LISTENER"))
    return {"listen." + n for n in re.findall(r'\{"(\w+)"', listener) if n != "tls"} | {
        "listen.tls." + n for n in re.findall(r'\{"(\w+)"', tls)}


def documented():
    return {re.sub(r"[` *]", "", c[0]): c for c in rows("gateway/CONFIG.md", 5)}


def in_schema(node, prefix=""):
    for name, below in node.get("properties", {}).items():
        for other in below.get("anyOf", []):  # a mapping in place of a value
            yield from in_schema(other, prefix + name + ".")
        inner = below.get("items", below) if below.get("type") == "array" else below
        if "properties" in inner:
            yield from in_schema(inner, prefix + name + ".")
        if "properties" not in inner or "string" in inner.get("type", ""): # a value, or a mapping
            yield prefix + name, below


def test_every_key_is_documented_and_in_the_schema():
    known = set(options()) | listener_keys()
    assert set(documented()) - {"listen"} == known
    also = set(re.findall(r'\.also = "([a-z_.]+)"', (ROOT / "gateway/base/config_option.c").read_text()))
    assert {name for name, _ in in_schema(SCHEMA)} == known | also


def test_defaults_are_those_of_the_program():
    schema = {name: below.get("default") for name, below in in_schema(SCHEMA)}
    for path, preset in options().items():
        told = re.findall(r"`([^`]*)`", documented()[path][2])
        if preset is not None:
            assert told == [preset], path
            assert str(schema[path]) == preset, path
        else:
            assert schema[path] is None, path
    assert [c[2] for c in rows("gateway/CONFIG.md", 5) if c[2] == "required"] == ["required"] * 7


def test_what_changes_in_place_is_marked():
    options()
    marked = {name for name, c in documented().items() if c[0].endswith("*")}
    assert marked - {"listen.trusted_proxies"} == {path for path, live in LIVE.items() if live}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "rules.yaml").write_text("version: 1\nkms: { uris: [k] }\nrequests: [{ id: everyone }]\n"
                                         "responses: [{ id: default }]\n")
    (tmp_path / "master.key").write_text("ab" * 32 + "\n")
    (tmp_path / "master.key").chmod(0o600)
    for name in ("admin.token", "tickets.key", "replay.secret"):
        (tmp_path / name).write_text("cd" * 32 + "\n")
        (tmp_path / name).chmod(0o600)
    return tmp_path


def faults(folder, config):
    """What the program says of the file itself; that a certificate is not there is no fault of its text."""
    (folder / "gateway.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    r = subprocess.run([BUILD / "kmsgate", "check", "--config", folder / "gateway.yaml"], capture_output=True, text=True,
                       timeout=60)
    assert r.returncode in (0, 1), r.stderr
    return [x for x in r.stderr.splitlines() if re.match(r"\S*gateway\.yaml:\d+:\d+: (?![a-z-]+: )", x)]


def with_value(path, value):
    config = yaml.safe_load(CONFIG)
    at = config["listen"][0] if path.startswith("listen.") else config
    parts = path.removeprefix("listen.").split(".")
    for part in parts[:-1]:
        at = at.setdefault(part, {})
    at[parts[-1]] = value
    if path == "admin":
        config["admin_token"] = "file:admin.token"
    for tls in [at["tls"] for at in (config["listen"][0], config.get("admin")) if isinstance(at, dict) and "tls" in at]:
        tls.setdefault("certificate", "tls/server.pem")
        tls.setdefault("key", "tls/server.key")
        if "client_auth" in tls:
            tls.setdefault("client_ca", "tls/clients.pem")
    if path.startswith("upstream.tls."):
        config["upstream"]["url"] = "https://kms.internal.example"
    if path.startswith("replay."):
        config["replay"] = dict({"url": "rediss://127.0.0.1:6379", "secret": "file:replay.secret", "password": "env:PASSWORD"},
                                **config["replay"])
    if path in ("upstream.tls.certificate", "upstream.tls.key"):
        config["upstream"]["tls"] = {"certificate": "a.pem", "key": "a.key"}
    return config


@pytest.mark.parametrize("path", sorted(documented()))
def test_examples_are_taken(path, folder):
    example = documented()[path][4].strip("`")
    if path == "listen":
        return
    config = with_value(path, yaml.safe_load(example))
    assert faults(folder, config) == []
    assert [e.message for e in VALIDATOR.iter_errors(config)] == []


BAD = [("upstream.timeout", "5"), ("upstream.timeout", "fast"), ("limits.body", "64kb"), ("limits.connections", 0),
       ("limits.connections", "many"), ("workers", 0), ("workers", 1000), ("log.level", "loud"), ("log.format", "xml"),
       ("master_key", "ab" * 32), ("admin_token", "secret"), ("keys", "kmsgate.db"), ("keys", "postgresql:/x"), ("keys", "postgresql://h/a b"), ("public_url", "kms.example.org"),
       ("public_url", []), ("upstream.url", "ftp://127.0.0.1/"), ("admin", "9090"), ("admin", "localhost:9090"),
       ("admin.address", "localhost:9090"), ("admin.colour", "red"), ("admin.tls.client_auth", "maybe"), ("admin.tls.colour", "red"),
       ("listen.address", "8443"), ("listen.tls.client_auth", "maybe"), ("listen.colour", "red"), ("listen.trusted_proxies", []), ("upstream.tls.colour", "red"),
       ("limits.colour", 1), ("colour", "red"), ("sandbox", "half"), ("user", "root"), ("user", 0), ("user", "a b"), ("user", ""), ("replay", "disk"), ("drain_delay", -1),
       ("limits.replay_entries", 1), ("decisions", "syslog:/dev/log"), ("decisions", "syslog+udp://127.0.0.1:514"),
       ("decisions", "syslog+tcp://127.0.0.1"), ("decisions", "file:decisions.jsonl"), ("decisions", "stderr"), ("decisions", "syslog"),
       ("decisions_format", "cef"),
       ("replay", "redis://"), ("replay", "redis://h:1/2"), ("replay", "redis+sentinel://a,b"),
       ("replay.url", "redis://user@h"), ("replay.secret", "ab" * 32), ("replay.wait_replicas", 17), ("replay.timeout", "fast"),
       ("replay.colour", "red"), ("replay", {"secret": "file:replay.secret"})]


@pytest.mark.parametrize("path,value", BAD)
def test_program_and_schema_refuse_the_same(path, value, folder):
    config = with_value(path, value)
    assert faults(folder, config), "the program takes it"
    assert list(VALIDATOR.iter_errors(config)), "the schema takes it"


def test_shipped_configurations_hold_by_the_schema():
    for path in ("docker/etc/gateway.yaml", "docker/kubernetes/pod/gateway.yaml", "docker/kubernetes/fleet/gateway.yaml",
                 "docker/compose/fleet/gateway.yaml"):
        assert [e.message for e in VALIDATOR.iter_errors(yaml.safe_load((ROOT / path).read_text()))] == [], path


def test_every_reason_is_explained():
    listed = dict(re.findall(r'^    X\(\w+, "([a-z_.]+)", (\d+)\)', (ROOT / "gateway/base/reason.h").read_text(), re.M))
    told = {}
    for cells in rows("docker/DECISIONS.md", 4):
        if not re.match(r"\d|the KMS's", cells[1]): # a table of other schemas
            continue
        for name in re.findall(r"`([a-z_.]+)`", cells[0]):
            told[name] = cells[1]
    assert set(told) == set(listed)
    assert set(json.loads((ROOT / "docker/decision.schema.json").read_text())["properties"]["reason"]["enum"]) == set(listed)
    for name, status in told.items():
        assert name == "upstream.error" or listed[name] in status, name


def test_every_field_of_a_decision_is_explained():
    code = (ROOT / "gateway/gate/decision.c").read_text()
    written = set(re.findall(r'\b(?:decision_text|url|ms|json_\w+)\(&?j, (?:STR\()?"(\w+)"', code))
    told = "\n".join(c[0] + c[1] for c in rows("docker/DECISIONS.md", 2))
    schema = json.loads((ROOT / "docker/decision.schema.json").read_text())
    inner = [p["properties"] for p in schema["properties"].values() if "properties" in p and p["description"] != "what each check said"]
    assert {n for p in [schema["properties"], *inner] for n in p} == written
    missing = [name for name in written if "`%s`" % name not in told]
    assert not missing
    first = [n for c in rows("docker/DECISIONS.md", 2) for n in re.findall(r"`(\w+)`", c[0])]
    assert [n for n in first if n not in written] == []
