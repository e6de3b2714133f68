"""`kmsgate keys`: what an operator types, what he gets, and what a running gateway makes of it."""
import json
import os
import re
import resource
import sqlite3
import stat
import subprocess
import time
from pathlib import Path

import pytest

import kms
from conftest import BUILD

ALICE = "sip:alice@example.org"


class Store:
    def __init__(self, folder, keys="sqlite:kmsgate.db"):
        self.folder, self.config, self.db = folder, folder / "gateway.yaml", folder / "kmsgate.db"
        self.master, self.cwd, self.at = folder / "master.key", folder, keys
        self.master.write_text(os.urandom(32).hex() + "\n")
        self.master.chmod(0o600)
        (folder / "rules.yaml").write_text(
            "version: 1\nkms: {uris: [kms.example.org]}\nrequests: [{id: everyone}]\nresponses: [{id: default}]\n")
        self.config.write_text("""\
listen: [{ address: 127.0.0.1:8080 }]
admin: 127.0.0.1:9090
public_url: https://kms.example.org
upstream: { url: http://127.0.0.1:9000 }
rules: rules.yaml
keys: "%s"
state: .
master_key: file:master.key
replay: memory
decisions: stdout
""" % keys)

    def run(self, *argv, code=0, stdin="", env=None):
        r = subprocess.run([BUILD / "kmsgate", *map(str, argv)], input=stdin, text=True, capture_output=True, timeout=120,
                           cwd=self.cwd, env=dict(os.environ, **env) if env else None)
        assert r.returncode == code, (argv, r.returncode, r.stdout, r.stderr)
        return r

    def keys(self, *argv, code=0, stdin="", env=None):
        config = () if "--help" in argv else ("--config", self.config)
        r = self.run("keys", *argv, *config, code=code, stdin=stdin, env=env)
        assert code == 0 or all(re.match(r"kmsgate: (?!.*kmsgate: )|\S+:\d+(:\d+)?: |usage: |  |$|`", x)
                                for x in r.stderr.splitlines()), r.stderr
        return r

    def check(self, *argv, code=0, env=None):
        return self.run("check", "--config", self.config, *argv, code=code, env=env)

    def serve(self, code):
        """Which ends by itself, at once."""
        return self.run(*kms.SERVE, "--config", self.config, code=code)

    def place(self, keys):
        """Other keys, from now on."""
        self.config.write_text(self.config.read_text().replace('keys: "%s"' % self.at, 'keys: "%s"' % keys))
        self.at = keys

    def file(self, *lines, name="keys.jsonl", mode=0o600):
        path = self.folder / name
        path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        path.chmod(mode)
        return path

    def listed(self, *argv):
        """user, type, ID, state, not_after of each; age and origin stand behind."""
        return [tuple(x.split("\t"))[:5] for x in self.keys("list", *argv).stdout.splitlines()]


@pytest.fixture
def file_store(tmp_path):
    return Store(tmp_path)


@pytest.fixture
def store(tmp_path, keys_at):
    """In a file, or in PostgreSQL."""
    s = Store(tmp_path, keys_at(tmp_path))
    s.another = lambda folder: Store(folder, keys_at(folder))
    return s


def line(kind="ink", kid=None, key=None, user=ALICE, **more):
    key = key or os.urandom(32).hex()
    return dict({"user": user, "type": kind, "id": kid or kind + ".1.alice", "key": key}, **more)


def test_what_root_makes_belongs_to_the_folder_s_owner(file_store, tmp_path):
    """The service's user, whoever imports: else the gateway cannot open its own database."""
    store = file_store
    if os.geteuid() != 0:
        pytest.skip("root alone can make files of others")
    state = tmp_path / "state"
    state.mkdir(mode=0o750)
    os.chown(state, 65532, 65533)
    store.config.write_text(store.config.read_text().replace("sqlite:kmsgate.db", "sqlite:state/kmsgate.db")
                            .replace("state: .", "state: state") + "keys_counter: file:state/kmsgate.count\n")
    store.keys("import", "--first", store.file(line()))
    store.keys("add", "--user", ALICE, "--type", "trk", "--id", "trk.1.alice", "--generate")
    files = {p.name: (p.stat().st_uid, p.stat().st_gid, stat.S_IMODE(p.stat().st_mode)) for p in state.iterdir()}
    assert files["kmsgate.db"] == (65532, 65533, 0o600)
    assert {x[:2] for x in files.values()} == {(65532, 65533)}, files
    assert set(files) == {"kmsgate.db", "kmsgate.count", "replay.mark"}, files
    # the twin: in root's own folder it is root's
    store.config.write_text(store.config.read_text().replace("sqlite:state/", "sqlite:")
                            .replace("keys_counter", "# "))
    store.keys("import", store.folder / "keys.jsonl")
    assert store.db.stat().st_uid == 0


def test_import_list_export(store):
    lines = [line(), line("trk", not_after="2099-01-01T00:00:00Z"),
             line(user="sip:bob@example.org", kid="i", state="revoked")]
    r = store.keys("import", store.file(*lines))
    assert r.stdout == "3 added, 0 replaced, 0 unchanged\n" and r.stderr == ""
    assert not store.db.exists() or stat.S_IMODE(store.db.stat().st_mode) == 0o600
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
    other = store.another(store.folder / "other")
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
    if store.db.exists():
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
    assert not store.db.exists()
    store.keys("import", store.file(good, line("trk")))


def test_every_fault_in_one_run(store):
    same = os.urandom(32).hex()
    r = store.keys("import", store.file(line(key="00" * 32), line("trk"), line(kid="x", user="no uri"),
                                        line(kid="i", user="sip:b", key=same), line("trk", "t", same, "sip:b")), code=1)
    assert [int(n) for n in re.findall(r"keys.jsonl:(\d+):", r.stderr)] == [1, 3, 5], r.stderr


def test_faults_of_lines_and_of_keys_in_one_run(store):
    """A line that cannot be read hides no fault of another, with --dry-run or without; in the order of the file."""
    same = os.urandom(32).hex()
    store.keys("import", store.file(line(key=same)))
    before = store.keys("list", "--format", "json").stdout
    lines = store.file(line(kid="zero", key="00" * 32), line(kid="short", key="ab"), line(user="sip:b", kid="good"),
                       line("trk", "twice"), line("trk", "twice"), "{", line(key=os.urandom(32).hex()),
                       line("trk", "equal", same), line(kid="x", user="no uri"), line(state="lost"))
    for argv in ((), ("--dry-run",), ("--replace",)):
        r = store.keys("import", *argv, lines, code=1)
        found = [int(n) for n in re.findall(r"^\S*keys.jsonl:(\d+)[: ]", r.stderr, re.M)]
        assert found == [1, 2, 5, 6] + [7] * ("--replace" not in argv) + [8] * ("--replace" not in argv) + [9, 10], r.stderr
        assert "nothing was imported" in r.stderr and not r.stdout
        assert [{**x, "age_s": 0} for x in map(json.loads, store.keys("list", "--format", "json").stdout.splitlines())] \
            == [{**x, "age_s": 0} for x in map(json.loads, before.splitlines())]


def test_day_2(store):
    """What an operator asks of a store that lives: all of a stolen device's, what ends soon, a trial, what is due."""
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 10 * 86400))
    bob = "sip:bob@example.org"
    lines = store.file(line(), line("trk", not_after=soon), line(user=bob, kid="i"))
    assert store.keys("import", "--dry-run", lines).stdout == "would be: 3 added, 0 replaced, 0 unchanged\n"
    assert not store.db.exists()
    store.keys("import", lines)
    assert [x[2] for x in store.listed("--expiring", "30d")] == ["trk.1.alice"]
    assert store.listed("--expiring", "5d") == [] and len(store.listed("--state", "active")) == 3
    rows = [json.loads(x) for x in store.keys("list", "--format", "json").stdout.splitlines()]
    assert [x["origin"] for x in rows] == ["imported"] * 3 and all(0 <= x["age_s"] < 60 for x in rows)
    assert "2 keys are due" in store.keys("renew", "--user", ALICE).stdout
    assert [x.split("\t")[6] for x in store.keys("list", "--user", ALICE).stdout.splitlines()] == ["imported (due)"] * 2
    assert "no active key" in store.keys("renew", "--user", "sip:nobody@example.org", code=1).stderr
    assert store.keys("prune").stdout == "0 keys gone\n"
    said = store.keys("revoke", "--user", ALICE, "--all").stdout
    assert "ink ink.1.alice: revoked" in said and "trk trk.1.alice: revoked" in said
    assert [x[3] for x in store.listed()] == ["revoked", "revoked", "active"]
    assert "due" not in store.keys("list").stdout + store.keys("list", "--format", "json").stdout
    assert "nothing is left" in store.keys("revoke", "--user", ALICE, "--all").stdout
    store.keys("revoke", "--user", ALICE, "--all", "--id", "x", code=2)


def test_revoked_bytes_and_strange_names(store):
    key = os.urandom(32).hex()
    store.keys("import", store.file(line(key=key)))
    store.keys("revoke", "--user", ALICE, "--id", "ink.1.alice")
    again = store.file(line(kid="ink.2.alice", key=key))
    assert "was revoked" in store.keys("import", again, code=1).stderr
    assert "was revoked" in store.keys("add", "--user", ALICE, "--type", "ink", "--id", "x", "--key-stdin", stdin=key,
                                       code=1).stderr
    assert store.keys("import", "--force", again).stdout.startswith("1 added")
    for c in "\u0085\u009b\u200e\u2028\u202e\ufeff\u061c\U000e0041":
        assert "character" in store.keys("import", store.file(line(kid="a" + c + "b")), code=1).stderr
        assert store.keys("import", store.file(line(kid="k", user="sip:a" + c + "b@x")), code=1).stderr
    store.keys("import", store.file(line(kid="ä €", user="sip:ä@x")))


def test_the_master_key_changes(store):
    """Old and new in the list: each row opens under one of them, whatever ends it half way."""
    lines = [line(kid="ink.1.u%d" % i, user="sip:u%d@example.org" % i) for i in range(900)]
    store.keys("import", store.file(*lines))
    before = store.keys("export", "--with-secrets").stdout
    new = store.folder / "new.key"
    new.write_text(os.urandom(32).hex() + "\n")
    new.chmod(0o600)
    text = store.config.read_text()
    store.config.write_text(text.replace("file:master.key", "[file:new.key, file:master.key]"))
    assert store.keys("export", "--with-secrets").stdout == before
    for wait in (0.05, 0.1, 0.2, 0.3):
        with subprocess.Popen([BUILD / "kmsgate", "keys", "rekey", "--config", store.config], cwd=store.folder,
                              stdout=subprocess.DEVNULL) as p:
            time.sleep(wait)
            p.kill()
        assert store.keys("export", "--with-secrets").stdout == before
    store.keys("rekey")
    assert store.keys("rekey").stdout.startswith("0 keys")
    store.config.write_text(text.replace("file:master.key", "file:new.key"))
    assert store.keys("export", "--with-secrets").stdout == before
    store.config.write_text(text)
    assert "master key is not the one" in store.keys("list", code=1).stderr


def test_an_older_database_is_known_by_its_counter(file_store):
    store = file_store
    store.config.write_text(store.config.read_text() + "keys_counter: file:elsewhere/count\n")
    (store.folder / "elsewhere").mkdir()
    counter = store.folder / "elsewhere" / "count"
    store.keys("import", store.file(line(), line("trk")))
    old = store.db.read_bytes()
    store.keys("revoke", "--user", ALICE, "--id", "ink.1.alice")
    assert counter.read_text().endswith("%020d\n" % 3) and stat.S_IMODE(counter.stat().st_mode) == 0o600
    new = store.db.read_bytes()
    store.db.write_bytes(old)
    for argv in (("list",), ("revoke", "--user", ALICE, "--id", "trk.1.alice")):
        assert "put back to an earlier state" in store.keys(*argv, code=1).stderr
    (store.folder / "rules.yaml").write_text(
        "version: 1\nkms: {uris: [kms.example.org]}\nrequests: [{id: everyone}]\nresponses: [{id: default}]\n")
    r = subprocess.run([BUILD / "kmsgate", *kms.SERVE, "--config", store.config], capture_output=True, text=True, timeout=60,
                       cwd=store.folder)
    assert r.returncode == 1 and "earlier state" in r.stderr
    assert re.search("elsewhere/count: counts 3 .* holds 2: .*earlier state", store.check(code=1).stderr)
    store.db.write_bytes(new)  # the twin
    store.check()
    assert store.listed()[0][3] == "revoked"
    text = counter.read_text()
    for bad in (text[:-3], text.replace("counter", "kounter"), text.replace(text[23:30], "0" * 7)):
        counter.write_text(bad)
        assert "elsewhere/count" in store.keys("list", code=1).stderr
        assert "elsewhere/count" in store.check(code=1).stderr
    counter.unlink()
    store.check()
    assert not counter.exists()
    store.db.write_bytes(old)
    store.keys("list")  # without the file nothing is known: docker/README.md says so
    assert counter.read_text().endswith("%020d\n" % 2)


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
    assert [x[3] for x in store.listed()] == ["retiring", "active", "expired"]
    show = store.keys("show", *who).stdout
    assert "ink.2: active; signs" in show and "ink.1: retiring; verifies" in show and "expired" in show
    store.keys("revoke", *who, "--id", "ink.1", "--type", "trk", code=1)
    store.keys("revoke", *who, "--id", "ink.1", "--type", "ink")
    store.keys("revoke", *who, "--id", "ink.1")
    assert "ink.1: revoked; refused" in store.keys("show", *who).stdout
    assert "for good" in store.keys("retire", *who, "--id", "ink.1", code=1).stderr
    assert "no such key" in store.keys("retire", *who, "--id", "ink.9", code=1).stderr
    store.keys("retire", *who, "--id", "ink.2")
    assert [x[3] for x in store.listed()] == ["revoked", "retiring", "expired"]
    keys = {x["id"]: x["key"] for x in map(json.loads, store.keys("export", "--with-secrets").stdout.splitlines())}
    assert keys["ink.1"] == "22" * 32 and len(set(keys.values())) == 3
    for given in ("", "22" * 31, "22" * 33, "22" * 32 + "\n\n", "zz" * 32):
        store.keys("add", *who, "--type", "ink", "--id", "ink.3", "--key-stdin", stdin=given, code=1)
    again = store.keys("add", *who, "--type", "ink", "--id", "ink.2", "--generate", code=1).stderr
    assert again == ("kmsgate: user %s, key ink.2: is known with other bytes (`keys import --replace` overwrites it)\n"
                     % ALICE)
    assert "equals" in store.keys("add", *who, "--type", "trk", "--id", "trk.2", "--key-stdin", stdin="22" * 32,
                                  code=1).stderr


def test_nothing_is_said_of_what_was_not_committed(file_store):
    """The disk fails as a revocation is to become durable, and then does not."""
    store = file_store
    store.keys("import", store.file(line("ink"), line("trk")))
    argv = [BUILD / "kmsgate", "keys", "revoke", "--config", store.config, "--user", ALICE, "--all"]
    r = subprocess.run(["strace", "-o", store.folder / "trace", "-e", "inject=fsync,fdatasync:error=EIO", *argv],
                       capture_output=True, text=True, timeout=120, env=dict(os.environ, ASAN_OPTIONS="detect_leaks=0"))
    assert (r.returncode, r.stdout) == (1, "") and "kmsgate.db: cannot write: disk I/O error" in r.stderr, r
    assert [x[3] for x in store.listed()] == ["active"] * 2
    assert store.keys("revoke", "--user", ALICE, "--all").stdout.count(": revoked\n") == 2


@pytest.mark.parametrize("argv", [
    (), ("rename",), ("import",), ("import", "a", "b"), ("import", "--forced", "a"), ("list", "x"), ("show",),
    ("list", "--user"), ("add", "--user", "u:", "--type", "ink", "--id", "i"),
    ("add", "--user", "u:", "--type", "ink", "--id", "i", "--generate", "--key-stdin"),
    ("add", "--user", "u:", "--type", "key", "--id", "i", "--generate"),
    ("add", "--type", "ink", "--id", "i", "--generate"),
    ("add", "--user", "u:", "--type", "ink", "--id", "i", "--generate", "--not-after", "tomorrow"),
    ("revoke", "--user", "u:"), ("revoke", "--id", "i"), ("revoke", "--user", "a:", "--user", "b:", "--id", "i"),
    ("list", "--expiring", "0s"), ("list", "--expiring", "soon"), ("list", "--with-secrets"), ("export", "--with-secrets=yes"),
])
def test_wrong_usage(store, argv):
    store.keys("import", "-")
    assert store.keys(*argv, code=2).stderr
    assert not store.keys(*argv, code=2).stdout


def test_help(store):
    names = ["import", "export", "list", "show", "add", "retire", "revoke", "renew", "prune", "rekey"]
    assert all(n in store.keys("--help").stdout for n in names)
    for n in names:
        assert "usage: kmsgate keys " + n in store.keys(n, "--help").stdout


def test_no_database_and_no_keys(file_store):
    store = file_store
    for argv in (("list",), ("export",), ("show", "--user", ALICE), ("revoke", "--user", ALICE, "--id", "i")):
        assert "no such file" in store.keys(*argv, code=1).stderr
    assert not store.db.exists()
    assert store.keys("import", store.file()).stdout.startswith("0 added")
    assert store.listed() == [] and store.keys("export").stdout == ""
    assert ALICE in store.keys("show", "--user", ALICE, code=1).stderr
    assert "cannot open" in store.keys("import", "nothing.jsonl", code=1).stderr


def test_a_file_that_may_not_grow(file_store):
    """As on a full disk: an error that says so, and the database is what it was."""
    store = file_store
    store.keys("import", store.file(line()))
    before = store.keys("export", "--with-secrets").stdout
    many = store.file(*(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i) for i in range(2000)))
    r = subprocess.run([BUILD / "kmsgate", "keys", "import", "--config", store.config, many], cwd=store.folder,
                       text=True, capture_output=True, timeout=60,
                       preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536)))
    assert r.returncode == 1 and r.stderr.startswith("kmsgate: ") and "kmsgate.db: cannot write" in r.stderr, r
    assert store.keys("export", "--with-secrets").stdout == before


def test_what_is_wrong_with_the_files(file_store):
    store = file_store
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


def test_a_database_of_an_earlier_version_is_taken_over_by_who_changes(file_store, alice):
    """`check`, `explain` and the commands that only look read it as it will be, and leave each byte of it alone: the older
    program may still be serving it."""
    store = file_store
    old = Path(__file__).parents[1].joinpath("cases/keys/version-1.db").read_bytes()
    store.db.write_bytes(old)
    store.db.chmod(0o600)
    store.master.write_text("5a" * 32)
    request = store.folder / "request.xml"
    alice.ink, alice.ink_id, alice.trk, alice.trk_id = b"\x21" * 32, "ink.2.alice", b"\x02" * 32, "trk.1.alice"
    request.write_bytes(kms.signed_request(alice, "https://kms.example.org" + kms.BASE + "/init",
                                         **{"TrK-ID": None}))
    for argv in (("check", "--config", store.config), ("explain", "--config", store.config, request)):
        r = subprocess.run([BUILD / "kmsgate", *argv], capture_output=True, text=True, timeout=60, cwd=store.folder)
        assert r.returncode == 0 and "kmsgate.db: is of an earlier version" in r.stderr, r.stdout + r.stderr
        assert store.db.read_bytes() == old and not list(store.folder.glob("kmsgate.db-*"))
    store.config.write_text(store.config.read_text() + "keys_counter: file:count\n")
    lines = store.file(line(), line("trk"))
    for argv, said in ((("list",), "ink.2.alice\tactive"), (("show", "--user", ALICE), "ink.2.alice"),
                       (("export",), '"ink.2.alice"'), (("import", "--dry-run", lines), "would be: ")):
        r = store.keys(*argv, code=argv[0] == "import")
        assert said in r.stdout or "is known with other bytes" in r.stderr, (argv, r)
        assert store.db.read_bytes() == old and not list(store.folder.glob("kmsgate.db-*")), argv
        assert not (store.folder / "count").exists()
    assert ("sip:alice@example.org", "ink", "ink.2.alice", "active", "-") in store.listed()
    store.keys("add", "--user", "sip:new@example.org", "--type", "ink", "--id", "ink.1", "--generate")
    assert store.db.read_bytes() != old and (store.folder / "count").exists()
    r = subprocess.run([BUILD / "kmsgate", "check", "--config", store.config], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and "earlier version" not in r.stderr, r


def test_at_once(store):
    add = [BUILD / "kmsgate", "keys", "add", "--config", store.config, "--user", ALICE, "--type", "ink", "--generate"]
    ps = [subprocess.Popen([*add, "--id", "ink.%d" % i], stdout=subprocess.DEVNULL) for i in range(8)]
    assert [p.wait(60) for p in ps] == [0] * 8
    assert sorted(x[3] for x in store.listed()) == ["active"] + ["retiring"] * 7


def test_a_first_import_that_is_killed_leaves_nothing(file_store):
    """Killed at its system calls that a file can tell of, each of the last ones: no database, or the whole one."""
    store = file_store
    store.config.write_text(store.config.read_text() + "keys_counter: file:count\n")
    many = store.file(*(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i) for i in range(200)))
    before = sorted(p.name for p in store.folder.iterdir())
    calls = "openat,write,pwrite64,fsync,fdatasync,ftruncate,linkat,unlink,unlinkat,rename,flock,fcntl"
    argv = [BUILD / "kmsgate", "keys", "import", "--config", store.config, many]
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")  # which cannot be looked for under strace

    def run(*how):
        return subprocess.run(["strace", "-f", "-o", store.folder / "trace", *how, *argv], cwd=store.folder, env=env,
                              capture_output=True, text=True, timeout=120).returncode

    def left():
        names = sorted(p.name for p in store.folder.iterdir() if p.name != "trace")
        for path in (store.db, store.folder / "count"):
            path.unlink(missing_ok=True)
        (store.folder / "trace").unlink()
        return [n for n in names if n not in before]

    assert run("-e", "trace=" + calls) == 0
    made = kms.calls_of((store.folder / "trace").read_text())
    first = next(i for i, call in enumerate(made) if "keys.jsonl" in call[2])
    made = made[:next((i for i, call in enumerate(made) if ".gcda" in call[2]), len(made))]  # the rest is gcov's
    assert left() == ["count", "kmsgate.db"]
    seen = set()
    last = range(max(first + 1, len(made) - 30), len(made))  # where it gets its name: each; before that a part
    for n in sorted({*range(first + 1, len(made), 7), *last}):
        assert run("-e", "trace=" + calls, "-e", "inject=%s:signal=KILL:when=%d" % made[n][:2]) != 0, made[n]
        there = store.db.exists()
        if there:
            assert len(store.listed()) == 200  # whole; and the counter comes to it
            assert left() == ["count", "kmsgate.db"]
        else:
            assert left() == [], made[n]
        seen.add(there)
    assert len(made) - first > 10 and seen == {False, True}, made[first:]
    store.keys("import", many)
    assert len(store.listed()) == 200


def test_a_first_import_waits_for_another(store):
    """Of two that want to make the database one waits for the other, and then changes what that one made."""
    many = store.file(*(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i) for i in range(2000)))
    argv = [BUILD / "kmsgate", "keys", "import", "--config", store.config]
    ps = [subprocess.Popen([*argv, many], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = sorted(p.communicate(timeout=120)[0] for p in ps)
    assert said == ["0 added, 0 replaced, 2000 unchanged\n"] * 3 + ["2000 added, 0 replaced, 0 unchanged\n"]


def changes(db):
    with sqlite3.connect(db) as c:
        return c.execute("SELECT last_seq FROM meta").fetchone()[0]


def test_keys_that_a_running_gateway_does_not_follow(gateway, alice, bob):
    """What was changed in another database than the one in use, or in an older state of it, is said, and exits 1."""
    g = gateway([alice])
    text = g.config.read_text()
    other = g.folder / "other"
    other.mkdir()
    port = kms.free_port()
    (other / "gateway.yaml").write_text(re.sub(r"127.0.0.1:%d" % g.port, "127.0.0.1:%d" % port, text)
                                        .replace("127.0.0.1:%d" % g.admin_port, "127.0.0.1:%d" % kms.free_port())
                                        .replace("sqlite:kmsgate.db", "sqlite:%s/kmsgate.db" % g.folder)
                                        .replace("file:master.key", "file:%s/master.key" % g.folder)
                                        .replace("rules.yaml", "%s/rules.yaml" % g.folder) + "state: .\n")
    second = kms.Process([BUILD / "kmsgate", *kms.SERVE, "--config", other / "gateway.yaml"], other, "gateway")
    kms.wait_for(lambda: "listening" in second.err)
    first, both = str(g.running.p.pid), {str(g.running.p.pid), str(second.p.pid)}
    db = g.folder / "kmsgate.db"

    def add(n, code, said=()):
        r = g.run("keys", "add", "--config", g.config, "--user", bob.uri, "--type", "trk", "--id", "t%d" % n, "--generate",
                  check=False)
        assert r.returncode == code and "t%d: added" % n in r.stdout, r
        assert set(re.findall(r"running gateway (\d+)", r.stderr)) == set(said), r.stderr
        return r.stderr

    beside = g.folder / "kmsgate.db.followers"

    def known():
        return set(re.findall(r"change (\S+)", beside.read_text()))

    try:
        assert beside.stat().st_mode & 0o777 == 0o600
        assert add(1, 0) == add(2, 0) == ""
        g.run("keys", "list", "--config", g.config)
        old = db.read_bytes()
        add(3, 0)
        kms.wait_for(lambda: len(known()) == 1 and max(known()).startswith("%020d:" % changes(db)))
        new = db.read_bytes()
        db.write_bytes(old)                       # put back to an older state
        assert "newer state" in add(4, 1, both)
        db.write_bytes(new)
        assert add(5, 0) == ""                    # the twin: followed again
        os.rename(db, g.folder / "kept")          # made anew, and what stood beside it is gone, too
        beside.unlink()
        kms.wait_for(lambda: beside.exists() and beside.read_text().count("follower") == 2)
        assert "another key database" in add(6, 1, both)
        second.p.kill()                           # who is no more follows nothing
        second.p.wait()
        assert "another key database" in add(7, 1, {first})
        assert g.run("keys", "list", "--config", g.config).stderr == ""  # which changes nothing
        assert "another key database" in g.run("keys", "revoke", "--config", g.config, "--user", bob.uri, "--all",
                                               check=False).stderr
        os.replace(g.folder / "kept", db)
        kms.wait_for(lambda: g.admin("/readyz")[1].strip() == "ready")
        assert add(8, 0) == ""
        # where nothing can be written beside the database nothing is said
        beside.unlink()
        beside.mkdir()
        os.rename(db, g.folder / "kept")
        assert add(9, 0) == ""
        os.replace(g.folder / "kept", db)
        beside.rmdir()
    finally:
        second.stop()
    g.stop()
    g.running = None
    assert add(10, 0) == ""                       # nobody runs


@pytest.mark.parametrize("what", ["damaged", "deleted"])
def test_not_ready_when_the_keys_cannot_be_followed_for_too_long(gateway, alice, what):
    g = gateway([alice], config="keys_max_age: 3s")
    db = g.folder / "kmsgate.db"
    whole = db.read_bytes()
    if what == "damaged":
        db.write_bytes(whole[:len(whole) // 2])
    else:
        db.unlink()
    kms.wait_for(lambda: "the keys known before stay" in g.running.err)
    assert g.ask(alice, "/init").status == 200  # what is in memory goes on
    kms.wait_for(lambda: g.admin("/readyz")[0] == 503)
    age = float(re.search(r"^kmsgate_keys_age_seconds (\S+)", g.admin("/metrics")[1], re.M)[1])
    assert age >= 3 and "keys" in g.admin("/readyz")[1]
    db.unlink(missing_ok=True)
    db.write_bytes(whole)
    db.chmod(0o600)
    kms.wait_for(lambda: g.admin("/readyz")[0] == 200)
    assert g.ask(alice, "/init").status == 200


def test_a_running_gateway_follows(gateway, alice, bob, keys_at, tmp_path):
    g = gateway([alice], keys=keys_at(tmp_path))
    assert g.ask(bob, "/init").status == 403
    g.run("keys", "import", "--config", g.config, "-", input="\n".join(bob.lines()))
    kms.wait_for(lambda: 'type="ink",state="active"} 2' in g.admin("/metrics")[1])
    assert g.ask(bob, "/init").status == 200
    g.run("keys", "revoke", "--config", g.config, "--user", bob.uri, "--id", bob.ink_id)
    kms.wait_for(lambda: 'type="ink",state="revoked"} 1' in g.admin("/metrics")[1])
    assert g.ask(bob, "/init").status == 403 and g.ask(alice, "/init").status == 200
