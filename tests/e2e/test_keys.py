"""`kmsgate keys`: what an operator types, what he gets, and what a running gateway makes of it."""
import json
import os
import re
import resource
import stat
import subprocess

import pytest

import kms
from conftest import BUILD

ALICE = "sip:alice@example.org"


class Store:
    def __init__(self, folder):
        self.folder, self.config, self.db = folder, folder / "gateway.yaml", folder / "kmsgate.db"
        self.master = folder / "master.key"
        self.master.write_text(os.urandom(32).hex() + "\n")
        self.master.chmod(0o600)
        (folder / "rules.yaml").write_text("version: 1\n")
        self.config.write_text("""\
listen: [{ address: 127.0.0.1:8080 }]
admin: 127.0.0.1:9090
public_url: https://kms.example.org
upstream: { url: http://127.0.0.1:9000 }
rules: rules.yaml
keys: sqlite:kmsgate.db
master_key: file:master.key
replay: memory
decisions: stdout
""")

    def keys(self, *argv, code=0, stdin=""):
        config = () if "--help" in argv else ("--config", self.config)
        r = subprocess.run([BUILD / "kmsgate", "keys", *map(str, argv), *map(str, config)], input=stdin, text=True,
                           capture_output=True, timeout=120, cwd=self.folder)
        assert r.returncode == code, (argv, r.returncode, r.stdout, r.stderr)
        assert code == 0 or all(re.match(r"kmsgate: (?!.*kmsgate: )|\S+:\d+(:\d+)?: |usage: |  |$|`", x)
                                for x in r.stderr.splitlines()), r.stderr
        return r

    def file(self, *lines, name="keys.jsonl", mode=0o600):
        path = self.folder / name
        path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        path.chmod(mode)
        return path

    def listed(self, *argv):
        return [tuple(x.split("\t")) for x in self.keys("list", *argv).stdout.splitlines()]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def line(kind="ink", kid=None, key=None, user=ALICE, **more):
    key = key or os.urandom(32).hex()
    return dict({"user": user, "type": kind, "id": kid or kind + ".1.alice", "key": key}, **more)


def test_import_list_export(store):
    lines = [line(), line("trk", not_after="2099-01-01T00:00:00Z"),
             line(user="sip:bob@example.org", kid="i", state="revoked")]
    r = store.keys("import", store.file(*lines))
    assert r.stdout == "3 added, 0 replaced, 0 unchanged\n" and r.stderr == ""
    assert stat.S_IMODE(store.db.stat().st_mode) == 0o600
    assert store.keys("import", "-", stdin=(store.folder / "keys.jsonl").read_text()).stdout.endswith("3 unchanged\n")
    assert store.listed() == [(ALICE, "ink", "ink.1.alice", "active", "-"),
                              (ALICE, "trk", "trk.1.alice", "active", "2099-01-01T00:00:00Z"),
                              ("sip:bob@example.org", "ink", "i", "revoked", "-")]
    assert store.listed("--user", "sip:bob@example.org") == store.listed()[2:]
    plain = store.keys("export").stdout
    assert [sorted(json.loads(x)) for x in plain.splitlines()][0] == ["id", "state", "type", "user"]
    secret = store.keys("export", "--with-secrets")
    assert [json.loads(x) for x in secret.stdout.splitlines()] == [dict({"state": "active"}, **x) for x in lines]
    (store.folder / "other").mkdir()
    other = Store(store.folder / "other")
    other.keys("import", "-", stdin=secret.stdout)  # what went out comes in
    assert other.keys("export", "--with-secrets").stdout == secret.stdout


def test_no_key_value_but_by_export(store):
    key = os.urandom(32)
    f = store.file(line(key=key.hex()), line("trk"))
    bad = store.file(line(key=key.hex()), line("trk", key=key.hex()), line(kid="x", key=key.hex() + "0"),
                     name="bad.jsonl")
    said = [store.keys("import", f), store.keys("import", bad, code=1), store.keys("list"), store.keys("export"),
            store.keys("show", "--user", ALICE), store.keys("retire", "--user", ALICE, "--id", "ink.1.alice"),
            store.keys("add", "--user", ALICE, "--type", "ink", "--id", "ink.1.alice", "--key-stdin", stdin=key.hex())]
    for r in said:
        for form in (key.hex()[:20], key.hex().upper()[:20]):
            assert form not in r.stdout + r.stderr
    assert key.hex() in store.keys("export", "--with-secrets").stdout
    assert key not in store.db.read_bytes() and key.hex().encode() not in store.db.read_bytes()


@pytest.mark.parametrize("bad,at", [
    (line("trk", key="00" * 32), r":2: .*all-zero"),
    ('{"user":"sip:a"', r":2:\d+: "),
    (line("xyz"), r":2:\d+: .*type"),
    (line("trk", key="0" * 63), r":2:\d+: .*64 hex"),
    (line("trk", user="no uri"), r":2: .*URI"),
    (line("ink"), r":2: .*twice"),
    (dict(line("trk"), extra="x"), r":2:\d+: .*unknown member"),
])
def test_bad_file(store, bad, at):
    good = line()
    r = store.keys("import", store.file(good, bad), code=1)
    assert re.search("keys.jsonl" + at, r.stderr), r.stderr
    assert store.listed() == []
    store.keys("import", store.file(good, line("trk")))


def test_every_fault_in_one_run(store):
    same = os.urandom(32).hex()
    r = store.keys("import", store.file(line(key="00" * 32), line("trk"), line(kid="x", user="no uri"),
                                        line(kid="i", user="sip:b", key=same), line("trk", "t", same, "sip:b")), code=1)
    assert [int(n) for n in re.findall(r"keys.jsonl:(\d+):", r.stderr)] == [1, 3, 5], r.stderr


def test_replace(store):
    store.keys("import", store.file(line()))
    r = store.keys("import", store.file(line(key="11" * 32)), code=1)
    assert "--replace" in r.stderr and "keys.jsonl:1:" in r.stderr
    assert store.keys("import", "--replace", store.file(line(key="11" * 32))).stdout.startswith("0 added, 1 replaced")
    assert "11" * 32 in store.keys("export", "--with-secrets").stdout


def test_add_rotate_retire_revoke(store):
    who = ("--user", ALICE)
    store.keys("add", *who, "--type", "ink", "--id", "ink.1", "--key-stdin", stdin="22" * 32 + "\n")
    store.keys("add", *who, "--type", "ink", "--id", "ink.2", "--generate")
    store.keys("add", "--type=trk", "--id=trk.1", "--user=" + ALICE, "--generate", "--not-after",
               "2000-01-01T00:00:00Z")
    assert [x[3] for x in store.listed()] == ["retiring", "active", "active"]
    show = store.keys("show", *who).stdout
    assert "ink.2: active; signs" in show and "ink.1: retiring; verifies" in show and "expired" in show
    store.keys("revoke", *who, "--id", "ink.1", "--type", "trk", code=1)
    store.keys("revoke", *who, "--id", "ink.1", "--type", "ink")
    store.keys("revoke", *who, "--id", "ink.1")
    assert "for good" in store.keys("retire", *who, "--id", "ink.1", code=1).stderr
    assert "no such key" in store.keys("retire", *who, "--id", "ink.9", code=1).stderr
    store.keys("retire", *who, "--id", "ink.2")
    assert [x[3] for x in store.listed()] == ["revoked", "retiring", "active"]
    keys = {x["id"]: x["key"] for x in map(json.loads, store.keys("export", "--with-secrets").stdout.splitlines())}
    assert keys["ink.1"] == "22" * 32 and len(set(keys.values())) == 3
    for given in ("", "22" * 31, "22" * 33, "22" * 32 + "\n\n", "zz" * 32):
        store.keys("add", *who, "--type", "ink", "--id", "ink.3", "--key-stdin", stdin=given, code=1)
    again = store.keys("add", *who, "--type", "ink", "--id", "ink.2", "--generate", code=1).stderr
    assert again == ("kmsgate: user %s, key ink.2: is known with other bytes (`keys import --replace` overwrites it)\n"
                     % ALICE)
    assert "equals" in store.keys("add", *who, "--type", "trk", "--id", "trk.2", "--key-stdin", stdin="22" * 32,
                                  code=1).stderr


@pytest.mark.parametrize("argv", [
    (), ("rename",), ("import",), ("import", "a", "b"), ("import", "--force", "a"), ("list", "x"), ("show",),
    ("list", "--user"), ("add", "--user", "u:", "--type", "ink", "--id", "i"),
    ("add", "--user", "u:", "--type", "ink", "--id", "i", "--generate", "--key-stdin"),
    ("add", "--user", "u:", "--type", "key", "--id", "i", "--generate"),
    ("add", "--type", "ink", "--id", "i", "--generate"),
    ("add", "--user", "u:", "--type", "ink", "--id", "i", "--generate", "--not-after", "tomorrow"),
    ("revoke", "--user", "u:"), ("revoke", "--id", "i"), ("revoke", "--user", "a:", "--user", "b:", "--id", "i"),
    ("list", "--with-secrets"), ("export", "--with-secrets=yes"),
])
def test_wrong_usage(store, argv):
    store.keys("import", "-")
    assert store.keys(*argv, code=2).stderr
    assert not store.keys(*argv, code=2).stdout


def test_help(store):
    names = ["import", "export", "list", "show", "add", "retire", "revoke"]
    assert all(n in store.keys("--help").stdout for n in names)
    for n in names:
        assert "usage: kmsgate keys " + n in store.keys(n, "--help").stdout


def test_no_database_and_no_keys(store):
    for argv in (("list",), ("export",), ("show", "--user", ALICE), ("revoke", "--user", ALICE, "--id", "i")):
        assert "no such file" in store.keys(*argv, code=1).stderr
    assert not store.db.exists()
    assert store.keys("import", store.file()).stdout.startswith("0 added")
    assert store.listed() == [] and store.keys("export").stdout == ""
    assert ALICE in store.keys("show", "--user", ALICE, code=1).stderr
    assert "cannot open" in store.keys("import", "nothing.jsonl", code=1).stderr


def test_a_file_that_may_not_grow(store):
    """As on a full disk: an error that says so, and the database is what it was."""
    store.keys("import", store.file(line()))
    before = store.keys("export", "--with-secrets").stdout
    many = store.file(*(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i) for i in range(2000)))
    r = subprocess.run([BUILD / "kmsgate", "keys", "import", "--config", store.config, many], cwd=store.folder,
                       text=True, capture_output=True, timeout=60,
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)))
    assert r.returncode == 1 and r.stderr.startswith("kmsgate: ") and "kmsgate.db: cannot write" in r.stderr, r
    assert store.keys("export", "--with-secrets").stdout == before


def test_what_is_wrong_with_the_files(store):
    path = store.file(line())
    assert store.keys("import", path).stderr == ""
    path.chmod(0o644)
    assert "warning" in store.keys("import", path).stderr
    good = store.master.read_text()
    store.master.write_text(os.urandom(32).hex())
    assert "master key is not the one" in store.keys("list", code=1).stderr
    store.master.write_text(good)
    store.master.chmod(0o644)
    store.keys("list", code=1)
    store.master.chmod(0o600)
    store.db.chmod(0o666)
    assert "chmod 600" in store.keys("list", code=1).stderr
    store.db.chmod(0o600)
    whole = store.db.read_bytes()
    store.db.write_bytes(whole[:5000])
    assert "damaged" in store.keys("list", code=1).stderr
    store.db.write_bytes(whole)
    assert len(store.listed()) == 1
    assert [p.name for p in store.folder.iterdir() if p.name.startswith("kmsgate.db")] == ["kmsgate.db"]


def test_at_once(store):
    add = [BUILD / "kmsgate", "keys", "add", "--config", store.config, "--user", ALICE, "--type", "ink", "--generate"]
    ps = [subprocess.Popen([*add, "--id", "ink.%d" % i], stdout=subprocess.DEVNULL) for i in range(8)]
    assert [p.wait(60) for p in ps] == [0] * 8
    assert sorted(x[3] for x in store.listed()) == ["active"] + ["retiring"] * 7


def test_a_running_gateway_follows(gateway, alice, bob):
    g = gateway([alice])
    assert g.ask(bob, "/init").status == 403
    g.run("keys", "import", "--config", g.config, "-", input="\n".join(bob.lines()))
    kms.wait_for(lambda: 'type="ink",state="active"} 2' in g.admin("/metrics")[1])
    assert g.ask(bob, "/init").status == 200
    g.run("keys", "revoke", "--config", g.config, "--user", bob.uri, "--id", bob.ink_id)
    kms.wait_for(lambda: 'type="ink",state="revoked"} 1' in g.admin("/metrics")[1])
    assert g.ask(bob, "/init").status == 403 and g.ask(alice, "/init").status == 200
