"""The contract's sentences on gateway.yaml, its environment and `kmsgate check`, against the program."""
import json
import os
import re
import subprocess

import pytest
import yaml

import kms
from conftest import BUILD

RULES = """\
version: 1
kms: { uris: [kms.example.org] }
requests: [{ id: everyone }]
responses: [{ id: default }]
"""
# name, default as shown, good values, bad values
SIZE, COUNT, WAIT = ["63", "0KiB", "1", "1kb", "1 KiB", "-1KiB", "1.5KiB", "65MiB", "1GiB", "x"], ["0", "-1", "x", "1.5"], \
    ["0s", "-1s", "5", "5 s", "5sec", "1.5s", "2h30m", "x", "1d", "99999999999999999999s"]
SCALARS = [
    ("upstream.timeout", "5s", ["200ms", "30s", "1m"], WAIT),
    ("upstream.connections", "64", ["1", "500"], COUNT),
    ("upstream.max_reply", "1MiB", ["64KiB", "4MiB"], SIZE),
    ("upstream.idle_timeout", "15s", ["1s", "60s"], WAIT),
    ("upstream.lifetime", "5m", ["1s", "1d"], ["0s", "999ms", "8d", "-1s", "5", "x"]),
    ("upstream.breaker.failures", "20", ["1", "1000"], COUNT),
    ("upstream.breaker.probe", "1s", ["100ms", "30s"], WAIT + ["99ms"]),
    ("workers", None, ["1", "8"], COUNT + ["1000"]),
    ("limits.body", "64KiB", ["1KiB", "1MiB"], SIZE),
    ("limits.target", "8KiB", ["1KiB"], SIZE),
    ("limits.header", "8KiB", ["1KiB"], SIZE),
    ("limits.headers", "16KiB", ["32KiB"], SIZE),
    ("limits.header_count", "64", ["5"], COUNT),
    ("limits.connections", "10000", ["5"], COUNT),
    ("limits.in_flight", "1024", ["5"], COUNT),
    ("limits.header_timeout", "5s", ["1s"], WAIT),
    ("limits.body_timeout", "5s", ["1s"], WAIT),
    ("limits.idle_timeout", "60s", ["10m"], WAIT),
    ("limits.replay_entries", "1048576", ["1000"], COUNT + ["1"]),
    ("log.level", "info", ["error", "warn", "debug"], ["Info", "trace", ""]),
    ("log.format", "text", ["json"], ["xml", ""]),
    ("drain_delay", "0s", ["3s", "0s", "1m"], ["-1s", "x", "5", "2d"]),
    ("drain_timeout", "10s", ["0s", "1m"], ["-1s", "x", "5"]),
    ("sandbox", "on", ["off"], ["yes", "no", "maybe", ""]),
    ("replay", "memory", ["memory"], ["disk", ""]),
    ("state", None, ["state", "/var/lib/kmsgate"], [""]),
    ("decisions", "stdout", ["none", "d.jsonl"], ["", "file:d.jsonl", "stderr", "syslog"]),
    ("keys_counter", None, ["file:count"], ["count", "env:COUNT", "file:", ""]),
    ("admin", "127.0.0.1:9090", ["127.0.0.1:1", "[::1]:9000"],
     ["9090", "localhost:9090", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", "::1:90", "unix:/a", ""]),
    ("public_url", None, ["https://kms.example.org", "http://127.0.0.1:8080/base"],
     ["kms.example.org", "ftp://a", "https://", "https://a/?q", "https://a/#f", "https://u@a/", ""]),
    ("upstream.url", None, ["http://127.0.0.1:9000/prefix", "https://kms"],
     ["127.0.0.1:9000", "ftp://a", "http://", "http://a/?q", "http://a/#f", ""]),
    ("keys", None, ["sqlite:other.db", "sqlite:/tmp/other.db"], ["other.db", "mysql:x", "sqlite:", ""]),
    ("rules", None, ["rules.yaml"], [""]),
]


class Folder:
    def __init__(self, path):
        self.path = path
        (path / "rules.yaml").write_text(RULES)
        (path / "master.key").write_text("ab" * 32)
        (path / "master.key").chmod(0o600)
        self.config = {
            "listen": [{"address": "127.0.0.1:8443"}], "public_url": "https://kms.example.org",
            "upstream": {"url": "http://127.0.0.1:9000"}, "rules": "rules.yaml", "keys": "sqlite:kmsgate.db",
            "master_key": "file:master.key"}

    def put(self, name, value):
        at = self.config
        *above, last = name.split(".")
        for key in above:
            at = at.setdefault(key, {})
        at[last] = Plain(value) if isinstance(value, str) and re.fullmatch(r"\d+|on|off", value) else value
        return self

    def check(self, *argv, env=None, cwd=None, text=None):
        file = self.path / "gateway.yaml"
        file.write_text(text if text is not None else yaml.dump(self.config, sort_keys=False, Dumper=Dumper))
        clean = {k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}
        name = "gateway.yaml" if cwd is None else str(file)
        return subprocess.run([BUILD / "kmsgate", "check", "--config", name, *argv], cwd=cwd or self.path, timeout=60,
                              capture_output=True, text=True, env=dict(clean, **(env or {})))


class Plain(str):
    """Written without quotes."""


class Dumper(yaml.SafeDumper):
    pass


Dumper.add_representer(Plain, lambda d, s: d.represent_scalar(
    "tag:yaml.org,2002:%s" % ("int" if s.isdigit() else "bool"), str(s)))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def environment(name):
    return "KMSGATE_" + name.replace(".", "_").upper()


def effective(run):
    """{name: (value, origin)} of --print."""
    return {m.group(1): (m.group(2), m.group(3))
            for m in re.finditer(r"^([\w.\[\]]+): (.*?) +# (.*)$", run.stdout, re.M)}


def rounds(which):
    """The n-th value of every option, as long as any has one: [{name: value}]."""
    longest = max(len(s[which]) for s in SCALARS)
    return [{s[0]: s[which][n] for s in SCALARS if n < len(s[which])} for n in range(longest)]


def test_defaults(folder):
    run = folder.check("--print")
    assert run.returncode == 0, run.stderr
    for name, preset, _, _ in SCALARS:
        assert preset is None or effective(run)[name] == (preset, "default"), name


@pytest.mark.parametrize("values", rounds(2))
def test_good_values(folder, values):
    """In the file; in the environment, which wins over it; in a file that the environment names."""
    for name, value in values.items():
        folder.put(name, value)
    run = folder.check("--print")
    assert run.returncode == 0, run.stderr
    for name, value in values.items():
        got, origin = effective(run)[name]
        assert got == value and origin.startswith("gateway.yaml:"), name
    other = Folder(folder.path)
    for name, _, good, _ in SCALARS:
        other.put(name, good[-1])
    run = other.check("--print", env={environment(n): v for n, v in values.items()})
    assert run.returncode == 0, run.stderr
    for name, value in values.items():
        assert effective(run)[name] == (value, environment(name))
        (folder.path / (name + ".value")).write_text(value + "\n")
    run = other.check("--print", env={environment(n) + "_FILE": n + ".value" for n in values})
    assert run.returncode == 0, run.stderr
    for name, value in values.items():
        assert effective(run)[name] == (value, environment(name) + "_FILE")


@pytest.mark.parametrize("values", rounds(3))
def test_bad_values(folder, values):
    """Each is told, all in one run, with what was expected there."""
    for name, value in values.items():
        folder.put(name, value)
    run = folder.check()
    places = re.findall(r"^gateway\.yaml:(\d+):\d+: .*expected ", run.stderr, re.M)
    assert run.returncode == 1 and len(set(places)) == len(run.stderr.splitlines()) == len(values), run.stderr
    run = Folder(folder.path).check(env={environment(n): v for n, v in values.items()})
    told = re.findall(r"^kmsgate: (KMSGATE_\w+): (?:found |value hidden).*expected ", run.stderr, re.M)
    assert run.returncode == 1 and sorted(told) == sorted(map(environment, values)), run.stderr


def test_the_environment_and_its_files(folder):
    (folder.path / "value").write_text("5s")
    run = folder.check(env={"KMSGATE_DRAIN_DELAY": "5s", "KMSGATE_DRAIN_DELAY_FILE": "value",
                            "KMSGATE_DRAIN_TIMEOUT_FILE": "nothing"})
    assert run.returncode == 1 and re.search(r"^kmsgate: KMSGATE_DRAIN_DELAY: .*expected one of them", run.stderr, re.M)
    assert re.search(r"^kmsgate: KMSGATE_DRAIN_TIMEOUT_FILE: .*nothing.*No such file", run.stderr, re.M)


def test_the_shortest_file_that_serves(folder):
    """What is required is said to be missing, all of it in one run."""
    assert folder.check("--strict").returncode == 0
    run = folder.check(text="admin: 127.0.0.1:9090\n")
    for name in ("listen", "public_url", "upstream.url", "rules", "keys", "master_key"):
        assert "`%s` is missing" % name in run.stderr


@pytest.mark.parametrize("text,near", [
    ("worker: 1", "workers"), ("publik_url: x", "public_url"), ("Rules: x", "rules"), ("drain-delay: 1s", "drain_delay"),
    ("limits: { bodi: 1KiB }", "body"), ("limits: { header_timeouts: 1s }", "header_timeout"),
    ("log: { levels: info }", "level"), ("upstreams: { url: x }", "upstream"), ("replays: memory", "replay")])
def test_an_unknown_key_names_the_nearest(folder, text, near):
    run = folder.check(text=yaml.dump(folder.config) + text + "\n")
    line = len(yaml.dump(folder.config).splitlines()) + 1
    assert run.returncode == 1
    assert re.search(r"^gateway\.yaml:%d:\d+: unknown key .*did you mean `%s`" % (line, near), run.stderr, re.M), run.stderr


@pytest.mark.parametrize("listener,near", [
    ({"addres": "127.0.0.1:1"}, "address"), ({"address": "127.0.0.1:1", "trusted_proxy": []}, "trusted_proxies"),
    ({"address": "127.0.0.1:1", "tls": {"certificate": "a", "key": "b", "client_auh": "optional"}}, "client_auth")])
def test_an_unknown_key_of_a_listener(folder, listener, near):
    folder.config["listen"] = [listener]
    run = folder.check()
    assert run.returncode == 1 and "did you mean `%s`" % near in run.stderr, run.stderr


@pytest.mark.parametrize("text", ["workers: 2\nworkers: 3\n", "workers: &a 2\n", "workers: !!int 2\n", "a: [\n", "--- a\n--- b\n",
                                  "workers: 2\x00\n", "\tworkers: 2\n", "workers: [2]\n", "limits: 3\n", "listen: 3\n",
                                  "listen: []\n", "public_url: []\n", "workers: '2'\n", "sandbox: 'on'\n"])
def test_yaml_that_is_refused(folder, text):
    """A duplicate key, an anchor, a tag, a second document, a value of another kind: each with its place."""
    rest = {k: v for k, v in folder.config.items() if k != text.split(":")[0]}
    run = folder.check(text=text + yaml.dump(rest))
    assert run.returncode == 1 and re.search(r"^gateway\.yaml:\d+:\d+: ", run.stderr, re.M), run.stderr
    assert folder.check(text="workers: 2\n" + yaml.dump(folder.config)).returncode == 0


def test_all_faults_in_one_run_in_order(folder):
    folder.put("workers", "0").put("limits.body", "1").put("log.level", "loud").put("public_url", "x")
    (folder.path / "rules.yaml").write_text(RULES.replace("version: 1", "version: 7"))
    run = folder.check(env={"KMSGATE_DRAIN_DELAY": "soon"})
    lines = [int(n) for n in re.findall(r"^gateway\.yaml:(\d+):", run.stderr, re.M)]
    assert run.returncode == 1 and len(lines) == 4 and lines == sorted(lines), run.stderr
    assert "KMSGATE_DRAIN_DELAY" in run.stderr


@pytest.mark.parametrize("listener,ok", [
    ("127.0.0.1:8080", True), ("[::1]:8443", True), ("0.0.0.0:0", True), ("unix:kms.sock", True), ("unix:" + "/x" * 60, False),
    ("unix:", False), ("::1:80", False), ("localhost:80", False), ("127.0.0.1", False), ("127.0.0.1:08", False), (":80", False),
    ("[127.0.0.1]:80", False), ("1.2.3:80", False), ("*:80", False)])
def test_addresses(folder, listener, ok):
    folder.config["listen"] = [{"address": listener}]
    run = folder.check()
    assert (run.returncode == 0) == ok, run.stderr
    assert ok or re.search(r"^gateway\.yaml:\d+:\d+: (?:found |value hidden).*expected ", run.stderr, re.M), run.stderr


@pytest.mark.parametrize("networks,ok", [
    (["127.0.0.1/32", "::1/128", "10.0.0.0/8"], True), (["10.0.0.1"], True), (["10.0.0.0/33"], False), (["10.0.0.1/8"], False),
    (["x"], False), (["::1/129"], False)])
def test_trusted_proxies(folder, networks, ok):
    folder.config["listen"] = [{"address": "127.0.0.1:1", "trusted_proxies": networks}]
    run = folder.check()
    assert (run.returncode == 0) == ok, run.stderr


def test_what_belongs_together(folder):
    def fault(**more):
        f = Folder(folder.path)
        for k, v in more.items():
            f.put(k.replace("__", "."), v)
        return f.check().stderr
    assert "admin_token" in fault(admin="0.0.0.0:9090")
    assert "admin_token" in fault(admin="192.0.2.1:9090")
    assert "admin_token" not in fault(admin="127.3.2.1:9090") + fault(admin="[::1]:9090")
    (folder.path / "token").write_text("a-token\n")
    assert fault(admin="0.0.0.0:9090", admin_token="file:token") == ""
    assert "belong together" in fault(upstream__url="https://a", upstream__tls__certificate="x")
    assert "not an https URL" in fault(upstream__tls__ca="x")
    assert "duplicate address" in fault(listen=[{"address": "127.0.0.1:1"}, {"address": "127.0.0.1:1"}])
    assert "client_ca" in fault(listen=[{"address": "127.0.0.1:1", "tls": {
        "certificate": "a", "key": "b", "client_auth": "required"}}])
    assert "`key`" in fault(listen=[{"address": "127.0.0.1:1", "tls": {"certificate": "a"}}])
    assert "admin" in fault(admin="127.0.0.1:1", listen=[{"address": "127.0.0.1:1"}])


@pytest.mark.parametrize("content,mode,ok", [
    ("ab" * 32, 0o600, True), ("AB" * 32 + "\n", 0o640, True), ("ab" * 32 + "\r\n", 0o400, True), ("ab" * 32, 0o644, False),
    ("ab" * 32, 0o604, False), ("ab" * 32, 0o602, False), ("ab" * 31, 0o600, False), ("ab" * 33, 0o600, False),
    ("00" * 32, 0o600, False), ("zz" * 32, 0o600, False), ("", 0o600, False), (" " + "ab" * 32, 0o600, False)])
def test_master_key(folder, content, mode, ok):
    (folder.path / "master.key").write_text(content)
    (folder.path / "master.key").chmod(mode)
    run = folder.check()
    assert (run.returncode == 0) == ok, run.stderr
    assert ok or "master.key" in run.stderr
    assert not content.strip() or content.strip() not in run.stdout + run.stderr


def test_the_master_key_of_the_environment(folder):
    hexes = "cd" * 32
    folder.put("master_key", "env:KMS_MASTER")
    assert folder.check(env={"KMS_MASTER": hexes}).returncode == 0
    run = folder.check()
    assert run.returncode == 1 and "KMS_MASTER" in run.stderr and "not set" in run.stderr
    run = folder.check("--print", env={"KMS_MASTER": hexes + "0"})
    assert run.returncode == 1 and hexes not in run.stdout + run.stderr
    # KMSGATE_MASTER_KEY_FILE names the file that holds the key
    (folder.path / "secret").write_text(hexes + "\n")
    (folder.path / "secret").chmod(0o600)
    run = folder.check("--print", env={"KMSGATE_MASTER_KEY_FILE": "secret"})
    assert run.returncode == 0 and effective(run)["master_key"] == ("file:secret", "KMSGATE_MASTER_KEY_FILE"), run.stderr
    # the key where its place is due is an error that does not repeat it
    run = folder.check("--print", env={"KMSGATE_MASTER_KEY": hexes})
    assert run.returncode == 1 and hexes not in run.stdout + run.stderr
    run = folder.put("master_key", hexes).check("--print")
    assert run.returncode == 1 and hexes not in run.stdout + run.stderr


def test_relative_paths(folder, tmp_path_factory):
    """Relative to the file, also behind sqlite: and file:; those of the environment to the working directory."""
    away = tmp_path_factory.mktemp("away")
    assert effective(folder.check("--print", cwd=away))["state"][0] == str(folder.path)  # beside the keys
    folder.put("decisions", "d.jsonl").put("admin_token", "file:token").put("state", "s")
    (folder.path / "token").write_text("a-token")
    run = folder.check("--print", cwd=away)
    assert run.returncode == 0, run.stderr
    e = effective(run)
    base = str(folder.path) + "/"
    assert e["rules"][0] == base + "rules.yaml" and e["keys"][0] == "sqlite:" + base + "kmsgate.db"
    assert e["master_key"][0] == "file:" + base + "master.key" and e["decisions"][0] == base + "d.jsonl"
    assert e["state"][0] == base + "s"
    (away / "r.yaml").write_text(RULES)
    run = folder.check("--print", cwd=away, env={"KMSGATE_RULES": "r.yaml", "KMSGATE_KEYS": "sqlite:k.db"})
    assert run.returncode == 0 and effective(run)["rules"][0] == "r.yaml" and effective(run)["keys"][0] == "sqlite:k.db"


def test_public_urls(folder):
    folder.config["public_url"] = ["https://a.example/", "https://b.example:8443/base/"]
    run = folder.check("--print")
    assert effective(run)["public_url"][0] == "[https://a.example, https://b.example:8443/base]"
    run = folder.check("--print", env={"KMSGATE_PUBLIC_URL": "https://c.example"})
    assert effective(run)["public_url"] == ("https://c.example", "KMSGATE_PUBLIC_URL")


def test_strict_and_lints(folder):
    (folder.path / "rules.yaml").write_text(RULES.replace(
        "{ id: everyone }", "{ id: everyone, why: x, checks: { time: { past: 2h } } }"))
    run = folder.check()
    assert run.returncode == 0 and "wide-window" in run.stderr
    assert folder.check("--strict").returncode == 1
    (folder.path / "rules.yaml").write_text(RULES)
    assert folder.check("--strict").returncode == 0


@pytest.mark.parametrize("argv,code", [
    (["a", "b"], 2), (["--config"], 2), (["--config", "gateway.yaml", "rules.yaml"], 2), (["--wrong"], 2),
    (["rules.yaml"], 0), (["--strict", "rules.yaml"], 0), (["--help"], 0), (["nothing.yaml"], 1),
    (["--config", "gateway.yaml", "--print", "--strict"], 0)])
def test_usage(folder, argv, code):
    folder.check()
    run = subprocess.run([BUILD / "kmsgate", "check", *argv], cwd=folder.path, capture_output=True, text=True)
    assert run.returncode == code, run.stderr
    assert (code == 0) == (run.stderr == "")
    assert code != 2 or run.stderr.startswith("kmsgate: ")


def test_the_folder_of_the_state(folder):
    """`serve` would refuse these."""
    (folder.path / "mark").mkdir()
    assert folder.put("state", "mark").check("--strict").returncode == 0
    run = folder.put("state", "not-yet").check("--strict")
    assert run.returncode == 0 and "not-yet: `state` is not there yet" in run.stderr, run.stderr
    run = folder.put("state", "rules.yaml").check()
    assert run.returncode == 1 and "rules.yaml: `state` is not a folder" in run.stderr, run.stderr
    run = folder.put("state", "rules.yaml/mark").check()
    assert run.returncode == 1 and "`state` cannot be looked at" in run.stderr, run.stderr
    if os.geteuid():
        (folder.path / "mark").chmod(0o500)
        run = folder.put("state", "mark").check()
        assert run.returncode == 1 and "`state` cannot be written" in run.stderr, run.stderr


@pytest.mark.parametrize("key,value,said", [
    ("tickets", "file:none", "none: cannot be read: No such file"),
    ("tickets", "file:short", "short: is not a valid key of tickets"),
    ("keys_counter", "file:none/count", "none/count: the counter of keys cannot be created: "),
    ("listen", [{"address": "203.0.113.7:8443"}], "203.0.113.7:8443: this machine cannot listen there: "),
    ("admin", "[2001:db8::7]:9090", "[2001:db8::7]:9090: this machine cannot listen there: "),
    ("listen", [{"address": "unix:none/socket"}], "none/socket: the socket cannot be created: ")])
def test_what_serve_would_refuse_is_found(folder, key, value, said):
    """A secret that is none, and places that are not there."""
    (folder.path / "short").write_text("ab")
    (folder.path / "short").chmod(0o600)
    (folder.path / "token").write_text("t")
    assert folder.put("admin_token", "file:token").check().returncode == 0
    run = folder.put(key, value).check()
    assert run.returncode == 1 and said in run.stderr, run.stderr


def test_serve_refuses_what_check_refuses(folder):
    """And says the same."""
    folder.put("workers", "0").put("log.level", "loud")
    said = folder.check().stderr
    run = subprocess.run([BUILD / "kmsgate", *kms.SERVE, "--config", "gateway.yaml"], cwd=folder.path, capture_output=True,
                         text=True, timeout=60)
    assert run.returncode == 1 and said.strip() in run.stderr


def test_unknown_environment_is_told_and_ignored(gateway, alice):
    g = gateway([alice], start=False)
    g.start(env={"KMSGATE_PORT_8443_TCP": "tcp://10.0.0.1:8443", "KMSGATE_WORKERS": "1"})
    assert g.ask(alice, "/init").status == 200
    assert "`KMSGATE_PORT_8443_TCP` is not a setting of kmsgate: ignored" in g.running.err
    g = gateway([alice], start=False, config="log: { format: json }")  # then every line is JSON, the first ones too
    g.start(env={"KMSGATE_PORT_8443_TCP": "tcp://10.0.0.1:8443"})
    assert "`KMSGATE_PORT_8443_TCP` is not a setting" in g.running.err
    assert all(json.loads(x)["level"] for x in g.running.err.splitlines())


def test_the_environment_is_what_serves(gateway, alice):
    other = kms.free_port()
    g = gateway([alice], start=False)
    g.admin_port = other
    g.start(env={"KMSGATE_ADMIN": "127.0.0.1:%d" % other, "KMSGATE_LIMITS_BODY": "1KiB"})
    assert g.post("/init", b"<a>" + b" " * 1100).status == 413
