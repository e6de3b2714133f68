"""What files seldom hold, by the commands that read them: each is told for what it is."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import certs  # noqa: E402

BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
NS = "urn:3gpp:ns:mcsecKMSInterface:1.0"
RULES = "version: 1\nkms: { uris: [kms.example.org] }\nrequests: [{ id: all }]\nresponses: [{ id: default%s }]\n"
CONFIG = """listen: [{ address: 127.0.0.1:8443 }]
public_url: https://kms.example.org
upstream: { url: http://127.0.0.1:9000 }
rules: rules.yaml
keys: sqlite:kmsgate.db
master_key: %s
"""
ALICE = "sip:alice@example.org"


def kmsgate(folder, *argv, **env):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}
    return subprocess.run([BUILD / "kmsgate", *argv], cwd=folder, capture_output=True, text=True, timeout=120,
                          env=dict(clean, **env))


def rules(folder, response="", more=""):
    (folder / "rules.yaml").write_text(RULES % response + more)


def config(folder, more="", master="file:master.key"):
    rules(folder)
    (folder / "master.key").write_text("ab" * 32 + "\n")
    (folder / "master.key").chmod(0o600)
    (folder / "gateway.yaml").write_text(CONFIG % master + more)


HIDDEN = [('<v:x xmlns:v="u:v" v:OldKey="x"/>', "found the name of a key in an attribute of another namespace"),
          ('<v:x xmlns:v="u:v" OldKey="x"/>', "found the name of a key in an attribute of another namespace"),
          ('<v:x xmlns:v="u:v" xsi:type="Clear"/>', "found the type of a key in an element of another namespace"),
          ('<v:x xmlns:v="u:v" v:Other="x" xsi:type="Other"/>', None)]


@pytest.mark.parametrize("extension,said", HIDDEN)
def test_a_key_by_the_vendors_name_in_an_extension(tmp_path, extension, said):
    """What a dialect calls a key is one in any namespace, as an attribute and as a type, too, though it is dropped."""
    rules(tmp_path, ", dialect: old", "dialects: { old: { namespaces: ['%s'], rename: { OldKey: UserDecryptKey }, "
          "rename_types: { Clear: KeyContentType } } }\n" % NS)
    (tmp_path / "reply.xml").write_text(
        '<KmsResponse xmlns="%s" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" Id="a" Version="1.0.0">'
        "<UserUri>%s</UserUri><KmsUri>old</KmsUri><Time>2026-11-23T18:00:00Z</Time>"
        "<ClientReqUrl>http://old/</ClientReqUrl>"
        '<KmsMessage><KmsCertCache Version="1.0.0"/></KmsMessage>%s</KmsResponse>' % (NS, ALICE, extension))
    (tmp_path / "cases.yaml").write_text(
        "version: 1\npublic_url: https://kms.example.org\ncases:\n  - { name: old, request: { user: '%s', path: "
        "/keymanagement/identity/v1/certcache }, reply: reply.xml, "
        "expect: { verdict: accept, response: { reason: ok } } }\n" % ALICE)
    r = kmsgate(tmp_path, "test", "rules.yaml", "cases.yaml")
    assert r.returncode == (1 if said else 0), r.stdout + r.stderr
    assert not said or (said in r.stderr and "upstream.invalid" in r.stderr), r.stderr


@pytest.mark.parametrize("more,said", [
    ("[]", "rules.yaml:5:11: found a list, expected a mapping of names to dialects"), ("{}", "")])
def test_dialects_that_are_none(tmp_path, more, said):
    rules(tmp_path, "", "dialects: %s\n" % more)
    r = kmsgate(tmp_path, "check", "rules.yaml")
    assert said in r.stderr and r.returncode == (1 if said else 0), r.stderr[:1000]


@pytest.mark.parametrize("checks,said", [
    ("signature: { min_hmac_bits: [128] }", "found a list, expected a number"),
    ("time: { past: [1s] }", "found a list, expected a duration such as 5s")])
def test_values_of_another_kind(tmp_path, checks, said):
    rules(tmp_path)
    text = (tmp_path / "rules.yaml").read_text()
    (tmp_path / "rules.yaml").write_text(text.replace("id: all", "id: all, checks: { %s }" % checks))
    r = kmsgate(tmp_path, "check", "rules.yaml")
    assert r.returncode == 1 and re.search(r"^rules\.yaml:3:\d+: " + re.escape(said), r.stderr, re.M), r.stderr


@pytest.mark.parametrize("where,good", [
    ("[::1]:514", True), ("localhost:514", True), ("[::1:514", False), ("a@b:514", False), ("a b:514", False),
    ("localhost:0", False), ("localhost:65536", False), (":514", False), ("[]:514", False)])
def test_where_a_syslog_server_is(tmp_path, where, good):
    config(tmp_path, "decisions: 'syslog+tcp://%s'\n" % where)
    r = kmsgate(tmp_path, "check", "--config", "gateway.yaml")
    assert r.returncode == (0 if good else 1) and good != ("gateway.yaml:7:12: " in r.stderr), r.stderr


def test_a_syslog_socket_without_its_path(tmp_path):
    config(tmp_path, "decisions: 'syslog:unix:'\n")
    r = kmsgate(tmp_path, "check", "--config", "gateway.yaml")
    assert r.returncode == 1 and "gateway.yaml:7:12: " in r.stderr and "syslog:unix:PATH" in r.stderr, r.stderr


def test_master_keys_of_variables_with_the_gateways_prefix(tmp_path):
    """The second of the list, too, is no setting that is unknown."""
    config(tmp_path, master="[env:KMSGATE_FIRST, env:KMSGATE_SECOND]")
    keys = {"KMSGATE_FIRST": "ab" * 32, "KMSGATE_SECOND": "cd" * 32}
    r = kmsgate(tmp_path, "check", "--config", "gateway.yaml", **keys)
    assert r.returncode == 0 and "KMSGATE_" not in r.stderr, r.stderr
    r = kmsgate(tmp_path, "check", "--config", "gateway.yaml", KMSGATE_THIRD="ef" * 32, **keys)
    assert "KMSGATE_THIRD" in r.stderr and "KMSGATE_SECOND" not in r.stderr, r.stderr


def test_a_certificate_that_has_expired(tmp_path):
    config(tmp_path)
    certs.authority(tmp_path, "ca")
    certs.issue(tmp_path, "ca", "a", past=True)
    text = (tmp_path / "gateway.yaml").read_text()
    (tmp_path / "gateway.yaml").write_text(text.replace("8443 }", "8443, tls: { certificate: a.pem, key: a.key } }"))
    r = kmsgate(tmp_path, "check", "--config", "gateway.yaml")
    assert r.returncode == 0 and "a.pem: certificate-expired: " in r.stderr, r.stderr


def test_the_password_of_a_shared_memory_is_read(tmp_path):
    """And never shown."""
    config(tmp_path, "replay: { url: 'redis://127.0.0.1:1', secret: file:secret, password: file:password }\n")
    for name, text in (("secret", "cd" * 32), ("password", "open-sesame")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    r = kmsgate(tmp_path, "check", "--config", "gateway.yaml", "--print")
    assert r.returncode == 0 and "sesame" not in r.stdout + r.stderr, r.stderr
    (tmp_path / "password").unlink()
    r = kmsgate(tmp_path, "check", "--config", "gateway.yaml")
    assert r.returncode == 1 and "password: cannot be read" in r.stderr, r.stderr


def test_which_of_a_path_that_is_none(tmp_path):
    rules(tmp_path)
    for path in ("/init", "/keymanagement/identity/v1/nothing", "/keymanagement/identity/v1//init"):
        r = kmsgate(tmp_path, "which", "--rules", "rules.yaml", "--path", path)
        assert r.returncode in (1, 2) and r.stderr.startswith("kmsgate: "), r.stdout + r.stderr


def imported(folder, key_id, key):
    file = folder / "keys.jsonl"
    file.write_text(json.dumps({"user": ALICE, "type": "ink", "id": key_id, "key": key}) + "\n")
    file.chmod(0o600)
    return kmsgate(folder, "keys", "import", "--config", "gateway.yaml", "keys.jsonl")


def test_a_new_master_key_takes_along_what_was_pruned(tmp_path):
    """A tombstone, too, is sealed anew, so that the old master key can go: the bytes of it stay refused."""
    config(tmp_path)
    keys = ["%064x" % (i + 1) for i in range(6)]
    for i, key in enumerate(keys):
        assert imported(tmp_path, "ink.%d.alice" % (i + 1), key).returncode == 0
        if i:
            assert kmsgate(tmp_path, "keys", "revoke", "--config", "gateway.yaml", "--user", ALICE,
                           "--id", "ink.%d.alice" % (i + 1)).returncode == 0
    listed = kmsgate(tmp_path, "keys", "list", "--config", "gateway.yaml").stdout
    assert "ink.2.alice" not in listed and "ink.6.alice" in listed, listed
    (tmp_path / "new.key").write_text("cd" * 32)
    (tmp_path / "new.key").chmod(0o600)
    both, alone = "master_key: [file:new.key, file:master.key]", "master_key: file:new.key"
    text = (tmp_path / "gateway.yaml").read_text()
    (tmp_path / "gateway.yaml").write_text(text.replace("master_key: file:master.key", both))
    r = kmsgate(tmp_path, "keys", "rekey", "--config", "gateway.yaml")
    assert r.returncode == 0 and "all are under the first master key" in r.stdout, r.stdout + r.stderr
    (tmp_path / "gateway.yaml").write_text(text.replace("master_key: file:master.key", alone))
    (tmp_path / "master.key").unlink()
    assert kmsgate(tmp_path, "keys", "list", "--config", "gateway.yaml").stdout.split("\t")[0] == ALICE
    r = imported(tmp_path, "ink.9.alice", keys[1])
    assert r.returncode == 1 and "has the bytes of ink.2.alice, which was revoked" in r.stderr, r.stderr
    assert imported(tmp_path, "ink.9.alice", "ab" * 32).returncode == 0


def test_a_renewal_that_was_asked_for_is_told(tmp_path):
    config(tmp_path)
    assert imported(tmp_path, "ink.1.alice", "%064x" % 1).returncode == 0
    listing = ["keys", "list", "--config", "gateway.yaml", "--format", "json"]
    assert '"due"' not in kmsgate(tmp_path, *listing).stdout
    assert kmsgate(tmp_path, "keys", "renew", "--config", "gateway.yaml", "--user", ALICE).returncode == 0
    assert '"due":true' in kmsgate(tmp_path, *listing).stdout


def test_a_file_that_ends_inside_of_a_character(tmp_path):
    config(tmp_path)
    assert imported(tmp_path, "ink.1.alice", "%064x" % 1).returncode == 0
    (tmp_path / "cut.xml").write_bytes(b'<KmsRequest xmlns="%s"><UserUri>\xc3' % NS.encode())
    r = kmsgate(tmp_path, "explain", "--config", "gateway.yaml", "cut.xml")
    assert r.returncode == 1 and "the file ends after" in r.stderr and "it is truncated" in r.stderr, r.stderr


@pytest.mark.parametrize("keys,said", [
    ("postgresql://kmsgate:a@b@localhost/keys", "its host has an `@`"),
    ("postgresql://kmsgate:a:b@localhost:x/keys", "its port is not a number")])
def test_a_password_that_is_not_escaped(tmp_path, keys, said):
    """Its rest would be taken for a host or a port: which is told, without the password."""
    config(tmp_path)
    text = (tmp_path / "gateway.yaml").read_text()
    (tmp_path / "gateway.yaml").write_text(text.replace("sqlite:kmsgate.db", "'%s'" % keys))
    r = kmsgate(tmp_path, "check", "--config", "gateway.yaml")
    assert r.returncode == 1 and said in r.stderr and "a@b" not in r.stderr and "a:b" not in r.stderr, r.stderr


@pytest.mark.parametrize("pad", ["", "a"])
def test_a_long_value_is_cut_between_characters(tmp_path, pad):
    rules(tmp_path)
    path = tmp_path / "rules.yaml"
    path.write_text(path.read_text().replace("id: all", "id: all, accept: [%s]" % (pad + "é" * 300)), encoding="utf-8")
    run = kmsgate(tmp_path, "check", path)
    found = re.search("found `(%sé+)\\.\\.\\.`, expected signed" % pad, run.stderr)
    assert run.returncode == 1 and found and len(found[1]) < 300, run.stderr
