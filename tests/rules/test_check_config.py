"""`kmsgate check --config`: the configuration, what it names, and its rules, in one run."""
import os
import re
import subprocess
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("TESTED_BUILD", Path(__file__).parents[2] / "build")).resolve()
RULES = "version: 1\nkms: { uris: [k] }\nrequests: [{ id: everyone }]\nresponses: [{ id: default }]\n"
CONFIG = """\
listen:
  - address: 127.0.0.1:8443
    tls: { certificate: server.pem, key: server.key, client_ca: ca.pem }
public_url: https://kms.example.org
upstream: { url: "http://127.0.0.1:9000" }
rules: rules.yaml
keys: sqlite:kmsgate.db
master_key: file:master.key
"""


def make_pair(folder, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=" + name, "-keyout", folder / (name + ".key"), "-out", folder / (name + ".pem")],
                   check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path):
    for name in ("server", "ca"):
        make_pair(tmp_path, name)
    (tmp_path / "rules.yaml").write_text(RULES)
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    (tmp_path / "master.key").write_text("ab" * 32 + "\n")
    (tmp_path / "master.key").chmod(0o600)
    return tmp_path


def check(folder, *argv, env=None):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}
    return subprocess.run([BUILD / "kmsgate", "check", "--config", "gateway.yaml", *argv], cwd=folder, capture_output=True,
                          text=True, timeout=60, env=dict(clean, **(env or {})))


def test_good(folder):
    run = check(folder, "--strict")
    assert run.returncode == 0 and run.stderr == "", run.stderr


@pytest.mark.parametrize("name,message", [
    ("rules.yaml", "rules.yaml: cannot be read: No such file"),
    ("server.pem", "server.pem: cannot be read: No such file"),
    ("server.key", "server.key: cannot be read: No such file"),
    ("ca.pem", "ca.pem: cannot be read: No such file"),
    ("master.key", "master.key: cannot be read: No such file"),
    ("gateway.yaml", "gateway.yaml: cannot be read: No such file")])
def test_missing_files(folder, name, message):
    (folder / name).unlink()
    run = check(folder)
    assert run.returncode == 1 and run.stderr.startswith("kmsgate: " + message), run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("name,message", [
    ("server.pem", "holds no certificate that can be read"), ("server.key", "holds no private key that can be read"),
    ("master.key", "is not a valid master key"), ("rules.yaml", "expected a mapping"), ("gateway.yaml", "expected a mapping")])
def test_rubbish(folder, name, message):
    (folder / name).write_text("rubbish\n")
    run = check(folder)
    assert run.returncode == 1 and message in run.stderr and name in run.stderr, run.stderr


def test_what_serve_would_say_of_the_keys(folder):
    """No database is no fault, since `keys import` makes it; one that `serve` would refuse is one."""
    assert check(folder).returncode == 0 and not (folder / "kmsgate.db").exists()
    key = '{"user":"sip:a@example.org","type":"ink","id":"ink.1","key":"%s"}\n' % os.urandom(32).hex()
    subprocess.run([BUILD / "kmsgate", "keys", "import", "--config", "gateway.yaml", "-"], cwd=folder, input=key,
                   text=True, check=True, capture_output=True, timeout=60)
    whole = (folder / "kmsgate.db").read_bytes()
    assert check(folder).returncode == 0 and (folder / "kmsgate.db").read_bytes() == whole
    master = (folder / "master.key").read_text()
    (folder / "master.key").write_text(os.urandom(32).hex())
    run = check(folder)
    assert run.returncode == 1 and run.stderr.startswith("kmsgate: kmsgate.db: the master key is not the one"), run
    (folder / "master.key").write_text(master)
    (folder / "kmsgate.db").write_bytes(whole[:5000])
    run = check(folder)
    assert run.returncode == 1 and run.stderr.startswith("kmsgate: kmsgate.db: "), run.stderr


def test_a_key_of_another_certificate(folder):
    (folder / "server.key").write_bytes((folder / "ca.key").read_bytes())
    run = check(folder)
    assert run.returncode == 1 and "server.key: is not the key of the certificate in server.pem" in run.stderr


def test_world_readable_master_key(folder):
    (folder / "master.key").chmod(0o644)
    run = check(folder)
    assert run.returncode == 1 and "open to all users" in run.stderr
    (folder / "master.key").chmod(0o640)
    assert check(folder).returncode == 0


def test_faults_of_all_files_in_one_run(folder):
    (folder / "gateway.yaml").write_text(CONFIG + "workers: 0\n")
    run = check(folder)
    assert run.returncode == 1 and re.search(r"^gateway\.yaml:9:10: ", run.stderr, re.M)
    (folder / "gateway.yaml").write_text(CONFIG)
    (folder / "rules.yaml").write_text(RULES.replace("everyone", "every one"))
    (folder / "server.pem").unlink()
    run = check(folder)
    assert "rules.yaml:3:18: " in run.stderr and "server.pem: " in run.stderr


def test_lints_only_fail_when_strict(folder):
    (folder / "rules.yaml").write_text(RULES.replace("id: everyone", "id: everyone, why: x, checks: { time: off }"))
    run = check(folder)
    assert run.returncode == 0 and "check-off: " in run.stderr
    assert check(folder, "--strict").returncode == 1


def test_print_never_shows_secrets(folder):
    env = {"KMSGATE_ADMIN_TOKEN": "env:THE_TOKEN", "THE_TOKEN": "hush-hush", "KMSGATE_DRAIN_DELAY": "3s"}
    run = check(folder, "--print", env=env)
    assert run.returncode == 0, run.stderr
    assert "hush-hush" not in run.stdout + run.stderr and "abab" not in run.stdout + run.stderr
    assert re.search(r"^drain_delay: 3s +# KMSGATE_DRAIN_DELAY$", run.stdout, re.M)
    assert re.search(r"^admin_token: env:THE_TOKEN +# KMSGATE_ADMIN_TOKEN$", run.stdout, re.M)
    assert re.search(r"^master_key: file:master.key +# gateway.yaml:8$", run.stdout, re.M)
    assert re.search(r"^drain_timeout: 10s +# default$", run.stdout, re.M)
    assert "requests[everyone].checks.time.past: 5s" in run.stdout


def test_paths_are_relative_to_the_file(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    run = subprocess.run([BUILD / "kmsgate", "check", "--config", folder / "gateway.yaml"], cwd=elsewhere, capture_output=True,
                         text=True)
    assert run.returncode == 0, run.stderr
    (elsewhere / "other.yaml").write_text(RULES)
    env = dict(os.environ, KMSGATE_RULES="other.yaml")  # the environment's: to the working directory
    run = subprocess.run([BUILD / "kmsgate", "check", "--config", folder / "gateway.yaml", "--print"], cwd=elsewhere,
                         capture_output=True, text=True, env=env)
    assert run.returncode == 0 and re.search(r"^rules: other.yaml +# KMSGATE_RULES$", run.stdout, re.M), run.stderr


PROXIED = """\
version: 1
kms: { uris: [k] }
requests:
  - { id: field, why: old radios, match: { source: [%s] }, accept: [%s] }
  - { id: everyone }
responses: [{ id: default }]
"""


@pytest.mark.parametrize("source,accept,trusted,told", [
    ("192.0.2.7/32", "unsigned", "192.0.2.7/32", True),
    ("192.0.2.7/32", "empty", "192.0.2.0/24", True),                # each of them is a proxy
    ("198.51.100.0/24, 192.0.2.7/32", "signed, unsigned", "192.0.2.7/32", True),
    ("192.0.2.0/24", "unsigned", "192.0.2.7/32", False),            # the twins: a network that holds others, too,
    ("192.0.2.8/32", "unsigned", "192.0.2.7/32", False),            # another address,
    ("192.0.2.7/32", "signed", "192.0.2.7/32", False),              # and what proves itself
])
def test_a_proxy_s_own_address_bounds_nothing(folder, source, accept, trusted, told):
    (folder / "rules.yaml").write_text(PROXIED % (source, accept))
    config = (folder / "gateway.yaml").read_text()
    (folder / "gateway.yaml").write_text(config.replace(
        "public_url", "  - { address: '127.0.0.1:8081', trusted_proxies: [%s] }\npublic_url" % trusted, 1))
    run = check(folder)
    assert run.returncode == 0, run.stderr
    line = "rules.yaml:4:1: proxy-source: rule `field` bounds what is unsigned by 192.0.2.7, which is a trusted proxy's own address"
    assert (line in run.stderr) == told and ("(listen[1].trusted_proxies)" in run.stderr) == told, run.stderr
    assert check(folder, "--strict").returncode == (1 if run.stderr else 0)


@pytest.mark.parametrize("accepted,told", [
    ("name: proxy-source, rule: field", {"capture-nowhere"}), ("name: proxy-source", {"capture-nowhere"}),
    ("name: capture-nowhere, rule: field", {"proxy-source"}), ("name: proxy-source, rule: everyone", {"proxy-source", "capture-nowhere"})])
def test_what_both_files_tell_can_be_accepted(folder, accepted, told):
    """By its name, of one rule or of all; alone, the rules' file tells neither, nor that nothing matches."""
    rules = PROXIED % ("192.0.2.7/32", "unsigned")
    (folder / "rules.yaml").write_text(rules.replace("why: old radios", "why: old radios, capture: on, until: 2027-06-30") +
                                       "lints: { accepted: [{ %s, why: known }] }\n" % accepted)
    config = (folder / "gateway.yaml").read_text()
    (folder / "gateway.yaml").write_text(config.replace(
        "public_url", "  - { address: '127.0.0.1:8081', trusted_proxies: [192.0.2.7/32] }\npublic_url", 1))
    run = check(folder)
    assert run.returncode == 0 and {n for n in ("proxy-source", "capture-nowhere") if n + ": rule `field`" in run.stderr} == told, run.stderr
    assert "accepted-unused" not in run.stderr


ZONES = """\
version: 1
kms: { uris: [k] }
requests:
  - { id: a, match: { client_id: a }, checks: { time: { assume_zone: %s } } }
  - { id: b, match: { client_id: b }, checks: { time: { assume_zone: %s } } }
responses: [{ id: default }]
"""


@pytest.mark.parametrize("a,b,told", [
    ("Europe/Paris", "UTC", {"a": "2 h 00 min earlier than `b`"}),      # in summer
    ("UTC", "America/New_York", {"a": "5 h 00 min earlier than `b`"}),  # in winter
    ("Europe/Paris", "America/New_York", {"a": "6 h 00 min earlier than `b`"}),
    ("Asia/Kolkata", '"+05:30"', {}),                                   # the same all the year
    ('"+02:00"', '"+01:00"', {"a": "1 h 00 min earlier than `b`"}),
    ("refuse", "America/New_York", {}),
])
def test_zones_after_a_restart(folder, a, b, told):
    (folder / "rules.yaml").write_text(ZONES % (a, b))
    run = check(folder)
    found = dict(re.findall(r"rule `(\w)`: reads a Time without a zone as (.*?) does", run.stderr) or
                 re.findall(r"zone-restart: rule `(\w)` reads a Time without a zone as (.*?) does", run.stderr))
    assert run.returncode == 0 and {k: v for k, v in found.items()} == told, run.stderr


VALUES = [  # a line more, and what is told of it; its twin, of which nothing is
    ("decisions: 'syslog:unix:'", "found `syslog:unix:`, expected syslog:unix:PATH", "decisions: syslog:unix:/dev/log"),
    ("decisions: syslog:unix:/%s" % ("x" * 107), "expected syslog:unix:PATH", "decisions: syslog:unix:/%s" % ("x" * 106)),
    ("keys_counter: count", "found `count`, expected file:PATH", "keys_counter: file:count"),
    ("master_key: [%s]" % ", ".join("env:K%d" % n for n in range(9)), "expected at most 8 master keys",
     "master_key: [%s]" % ", ".join("env:K%d" % n for n in range(8))),
    ("replay: { url: 'redis://127.0.0.1:6379', secret: env:S, user: 'a b' }",
     "found `a b`, expected a name of letters, digits, `-`, `.` and `_`",
     "replay: { url: 'redis://[::1]:6379', secret: env:S, user: a-b.c_1 }"),
    ("replay: { url: 'redis+sentinel://127.0.0.1:1/my master', secret: env:S }", "redis+sentinel://HOST:PORT,HOST:PORT",
     "replay: { url: 'redis+sentinel://[::1]:1,h:2/my-master.1', secret: env:S }"),
    ("admin: { address: 127.0.0.1:9091, tls: {} }", "gateway.yaml:9:40: found admin.tls without a `certificate`",
     "admin: { address: 127.0.0.1:9091 }"),
    ("limits: { in_flight: [1] }", "found a list, expected a single value", "limits: { in_flight: 1 }"),
]


@pytest.mark.parametrize("line,told,twin", VALUES)
def test_values_of_a_configuration(folder, line, told, twin):
    config = (folder / "gateway.yaml").read_text()
    env = dict({"K%d" % n: "ab" * 31 + "%02x" % n for n in range(8)}, S="cd" * 32)
    for text in (line, twin):
        base = config.replace("master_key: file:master.key\n", "") if text.startswith("master_key") else config
        (folder / "gateway.yaml").write_text(base + text + "\n")
        run = check(folder, env=env)
        assert (run.returncode == 1 and "gateway.yaml:" in run.stderr and told in run.stderr) == (text == line), run.stderr
        assert text == line or "found `" not in run.stderr, run.stderr


def test_an_upstream_s_tls_with_nothing_in_it(folder):
    """Without https nothing is verified; with it the system's authorities are meant."""
    for scheme, code in (("http", 1), ("https", 0)):
        (folder / "gateway.yaml").write_text(CONFIG.replace('{ url: "http:', '{ tls: {}, url: "%s:' % scheme))
        run = check(folder)
        assert run.returncode == code and ("5:18: upstream.tls is given, but" in run.stderr) == bool(code), run.stderr


def test_secrets_of_files(folder):
    """One that is no secret for its size; one with the line end of another system."""
    (folder / "master.key").write_bytes(b"a" * 70000)
    run = check(folder)
    assert run.returncode == 1 and "master.key: is larger than " in run.stderr and "no secret" in run.stderr
    (folder / "master.key").write_bytes(b"ab" * 32 + b"\r\n")
    (folder / "url").write_bytes(b"https://kms.example.org\r\n")
    run = check(folder, env={"KMSGATE_PUBLIC_URL_FILE": str(folder / "url")})
    assert "public_url" not in run.stderr, run.stderr


def test_what_cannot_be_written(folder):
    """`check` finds what `serve` would refuse: a folder where a file is due, a database and a state that nobody can write."""
    (folder / "gateway.yaml").write_text(CONFIG + "decisions: .\n")
    run = check(folder)
    assert run.returncode == 1 and "the decision log cannot be written: Is a directory" in run.stderr, run.stderr

