"""The contract's sentences on the users' keys: at rest, tampered with, followed by a running gateway, and which one serves."""
import json
import os
import re
import shutil
import sqlite3
import subprocess
import time
from datetime import datetime, timedelta, timezone

import pytest
from lxml import etree

import kms
from conftest import BUILD
from kms import q
from test_keys import ALICE, Store, line

RULES = """\
version: 1
kms: { uris: [kms.example.org] }
errors: { detail: reason }
requests:
  - { id: always, match: { client_id: always }, accept: [signed, unsigned], why: a test }
  - { id: everyone }
responses:
  - { id: always, match: { rule: always }, sign: always }
  - { id: default }
"""


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def serve_refuses(store, word):
    """`serve` ends at once with 1 and says why; so does every `keys` command."""
    run = subprocess.run([BUILD / "kmsgate", *kms.SERVE, "--config", store.config], cwd=store.folder, capture_output=True,
                         text=True, timeout=60)
    assert run.returncode == 1 and word in run.stderr, (run.returncode, run.stderr)
    said = store.keys("list", code=1)
    assert word in said.stderr and said.stdout == ""


# What somebody who can write the file, but has no master key, may do to it; the twin is the database as it was.
FUTURE = int((time.time() + 3e8) * 1e6)
TAMPERINGS = {
    "another user": "UPDATE keys SET user = 'sip:mallory@example.org' WHERE id = 'ink.1.alice'",
    "another id": "UPDATE keys SET id = 'ink.9.alice' WHERE id = 'ink.1.alice'",
    "another type": "UPDATE keys SET type = 1 - type WHERE id = 'ink.1.alice'",
    "active again": "UPDATE keys SET state = 0 WHERE id = 'old'",
    "retiring again": "UPDATE keys SET state = 1 WHERE id = 'old'",
    "not revoked at all": "UPDATE keys SET state = 7 WHERE id = 'old'",
    "a later end": "UPDATE keys SET not_after = %d WHERE id = 'trk.1.alice'" % FUTURE,
    "no end": "UPDATE keys SET not_after = (SELECT not_after FROM keys WHERE id = 'ink.1.alice') WHERE id = 'trk.1.alice'",
    "a newer seq": "UPDATE keys SET seq = seq + 100 WHERE id = 'ink.1.alice'",
    "a bit of the key": "UPDATE keys SET sealed = CAST(substr(sealed, 1, 20) || x'00' || substr(sealed, 22) AS BLOB) "
                        "WHERE id = 'ink.1.alice'",
    "a shorter key": "UPDATE keys SET sealed = substr(sealed, 1, 59) WHERE id = 'ink.1.alice'",
    "another row's key": "UPDATE keys SET sealed = (SELECT sealed FROM keys WHERE id = 'trk.1.alice') "
                         "WHERE id = 'ink.1.alice'",
    "a row gone": "DELETE FROM keys WHERE id = 'old'",
    "all rows gone": "DELETE FROM keys",
    "a row doubled": "INSERT INTO keys SELECT user, 'copy', type, state, not_after, since, origin, due, keep_old, sent, "
                     "master, seq + 50, sealed FROM keys WHERE id = 'old'",
    "no meta row": "DELETE FROM meta",
    "another count": "DELETE FROM keys WHERE id = 'old'; UPDATE meta SET keys = keys - 1",
    "another salt": "UPDATE meta SET salt = randomblob(32)",
    "another mac": "UPDATE meta SET sums = randomblob(92)",
    "another version": "PRAGMA user_version = 9",
    "another application": "PRAGMA application_id = 1",
    "a trigger": "CREATE TRIGGER t AFTER UPDATE ON keys BEGIN DELETE FROM meta; END",
    "a view": "CREATE VIEW v AS SELECT * FROM keys",
    "a table more": "CREATE TABLE more (a)",
    "an index less": "DROP INDEX keys_seq",
}


def filled(store):
    store.keys("import", store.file(line(), line("trk", not_after="2099-01-01T00:00:00Z"), line(kid="old", state="revoked")))
    return store.db.read_bytes()


def test_each_tampering_refuses_the_start(store):
    whole = filled(store)
    for name, sql in TAMPERINGS.items():
        db = sqlite3.connect(store.db)
        before = list(db.iterdump())
        db.executescript(sql)
        db.commit()
        meta = "PRAGMA" in sql
        assert meta or list(db.iterdump()) != before, "%s changed nothing" % name
        db.close()
        said = store.keys("list", code=1)
        assert "kmsgate.db" in said.stderr and said.stdout == "", name
        store.db.write_bytes(whole)
        store.keys("list")
    db = sqlite3.connect(store.db)
    db.executescript(TAMPERINGS["active again"])
    db.close()
    serve_refuses(store, "tampered with")


def test_an_older_row_put_back(store):
    """A revoked key that gets the row back that it had before: a valid row, but not of this state of the database."""
    filled(store)
    db = sqlite3.connect(store.db)
    row = db.execute("SELECT type, state, not_after, seq, sealed FROM keys WHERE id = 'ink.1.alice'").fetchone()
    db.close()
    store.keys("revoke", "--user", ALICE, "--id", "ink.1.alice")
    db = sqlite3.connect(store.db)
    db.execute("UPDATE keys SET type = ?, state = ?, not_after = ?, seq = ?, sealed = ? WHERE id = 'ink.1.alice'", row)
    db.commit()
    db.close()
    serve_refuses(store, "tampered with")


def test_wrong_master_key_and_damage(store):
    whole, master = filled(store), store.master.read_text()
    store.master.write_text(os.urandom(32).hex())
    serve_refuses(store, "master key is not the one")
    store.master.write_text(master)
    store.master.chmod(0o644)
    serve_refuses(store, "open to all users")
    store.master.chmod(0o600)
    for damage in (whole[:4096 * 2], b"x" * len(whole), b"", whole[:100] + os.urandom(3000) + whole[3100:]):
        store.db.write_bytes(damage)
        store.keys("list", code=1)
    store.db.write_bytes(b"x" * len(whole))
    serve_refuses(store, "damaged")
    store.db.write_bytes(whole)
    assert len(store.listed()) == 3


def test_rows_do_not_move_between_databases(store, tmp_path):
    """Two databases under one master key: neither takes the other's rows."""
    filled(store)
    (tmp_path / "second").mkdir()
    other = Store(tmp_path / "second")
    other.master.write_text(store.master.read_text())
    filled(other)
    db = sqlite3.connect(store.db)
    db.execute("ATTACH ? AS other", (str(other.db),))
    db.execute("UPDATE keys SET sealed = (SELECT sealed FROM other.keys o WHERE o.id = keys.id) WHERE id = 'ink.1.alice'")
    db.commit()
    db.close()
    serve_refuses(store, "tampered with")
    assert len(other.listed()) == 3


@pytest.mark.parametrize("bad", [line("trk", key="00" * 32), line("trk", kid="ink.1.alice"), line(key="11" * 32)])
def test_all_or_nothing_on_top_of_what_is_there(store, bad):
    filled(store)
    before = store.keys("export", "--with-secrets").stdout
    store.keys("import", store.file(line(kid="new"), bad), code=1)
    assert store.keys("export", "--with-secrets").stdout == before
    store.keys("import", store.file(line(kid="new")))
    assert len(store.listed()) == 4


def test_replace_does_not_lift_the_other_rules(store):
    key = "31" * 32
    store.keys("import", store.file(line(key=key)))
    for bad in (line("trk", key=key), line("trk", key="00" * 32), line("trk", kid="ink.1.alice")):
        store.keys("import", "--replace", store.file(bad), code=1)
    store.keys("import", store.file(line("trk", key=key, user="sip:bob@example.org")))  # of two users, they may be equal
    # a revoked one stays revoked: the same key again is no change, and no way back
    store.keys("revoke", "--user", ALICE, "--id", "ink.1.alice")
    store.keys("import", "--replace", store.file(line(key=key)))
    assert store.listed("--user", ALICE)[0][3] == "revoked"


def state_changes(g, user, argv):
    """Runs a `keys` command; seconds from its end until a signed request of the user is judged otherwise."""
    was = g.ask(user, "/init").status
    g.run("keys", *argv, "--config", g.config)
    since = time.monotonic()
    while g.ask(user, "/init").status == was:
        assert time.monotonic() - since < 30, "never followed"
    return time.monotonic() - since


def test_changes_are_followed(gateway, alice, bob):
    g = gateway([alice, bob], rules=RULES)
    slack = 20 # the request that sees it, on a busy machine
    assert state_changes(g, alice, ("revoke", "--user", alice.uri, "--id", alice.ink_id)) < 1 + slack
    carol = kms.User("sip:carol@example.org")
    (g.folder / "carol.jsonl").write_text("\n".join(carol.lines()))
    (g.folder / "carol.jsonl").chmod(0o600)
    assert state_changes(g, carol, ("import", str(g.folder / "carol.jsonl"))) < 1 + slack
    assert g.ask(bob, "/init").status == 200


def test_an_end_that_passes_while_serving(gateway, alice):
    g = gateway([alice], rules=RULES)
    end = datetime.now(timezone.utc) + timedelta(seconds=8)
    entry = {"user": alice.uri, "type": "ink", "id": alice.ink_id, "key": alice.ink.hex(),
             "not_after": end.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    g.run("keys", "import", "--replace", "--config", g.config, "-", input=json.dumps(entry))
    assert g.ask(alice, "/init").status == 200
    while datetime.now(timezone.utc) <= end:
        time.sleep(0.05)
    r = g.ask(alice, "/init")
    assert (r.status, r.error, r.signed) == (403, "signature.invalid", False)
    assert [d["reason"] for d in g.decisions(2)] == ["ok", "key.revoked"]
    # it counts as revoked, and the user still has an InK: signing by TrK stays refused
    r = g.ask(alice, "/init", signer=(alice.trk_id, alice.trk), **{"Signature-ID": alice.trk_id})
    assert r.error == "key.policy"


def test_tampering_under_a_running_gateway(gateway, alice):
    """The keys in use stay, whatever the file says now, and what looks like a change is told."""
    g = gateway([alice], rules=RULES)

    def tamper(sql):
        db = sqlite3.connect(g.folder / "kmsgate.db")
        db.execute(sql)
        db.commit()
        db.close()
    tamper("UPDATE keys SET state = 2")
    time.sleep(1.2)
    assert g.ask(alice, "/init").status == 200
    tamper("UPDATE keys SET seq = seq + 100")
    kms.wait_for(lambda: "tampered with" in g.running.err)
    assert g.ask(alice, "/init").status == 200
    assert 'kmsgate_keys{type="ink",state="active"} 1' in g.admin("/metrics")[1]


def keys_age(g):
    return float(re.search(r"^kmsgate_keys_age_seconds (\S+)", g.admin("/metrics")[1], re.M)[1])


def test_a_database_that_was_replaced_undoes_no_revocation(gateway, alice, bob):
    """Put back, put back and changed on, made anew, cut, gone: what was revoked stays refused, and it is said."""
    g = gateway([alice, bob], rules=RULES)
    db = g.folder / "kmsgate.db"
    old = db.read_bytes()

    def keys(*argv, stdin=None, code=0):
        r = subprocess.run([BUILD / "kmsgate", "keys", *argv, "--config", g.folder / "gateway.yaml"], input=stdin,
                           capture_output=True, text=True, cwd=g.folder)
        assert r.returncode == code, r.stderr
    keys("revoke", "--user", alice.uri, "--id", alice.ink_id)
    kms.wait_for(lambda: g.ask(alice, "/init").status == 403)
    new = db.read_bytes()

    def stays(word):
        kms.wait_for(lambda: keys_age(g) > 1.5)
        assert g.ask(alice, "/init").status == 403 and g.ask(bob, "/init").status == 200
        kms.wait_for(lambda: word in g.running.err)
        db.unlink(missing_ok=True)
        db.write_bytes(new)
        db.chmod(0o600)
        kms.wait_for(lambda: keys_age(g) < 1, seconds=30)

    db.write_bytes(old)                                  # an older state, in place
    stays("older")
    (g.folder / "other").write_bytes(old)                # the same under another inode, changed until it is further
    (g.folder / "other").chmod(0o600)
    os.replace(g.folder / "other", db)
    for i in range(4):
        keys("add", "--user", bob.uri, "--type", "trk", "--id", "x%d" % i, "--generate", code=1)
    stays("revoked")
    db.unlink()                                          # made anew
    keys("add", "--user", alice.uri, "--type", "ink", "--id", alice.ink_id, "--key-stdin", stdin=alice.ink.hex(), code=1)
    stays("another database")
    db.write_bytes(new[:len(new) // 2])                  # cut
    stays("damaged")
    db.unlink()
    stays("no such file")


def encrypted_under(reply):
    return reply.text("TrK-ID")


def test_which_key(gateway, alice):
    carol = kms.User("sip:carol@example.org", ink=False)
    g = gateway([alice, carol], rules=RULES)
    trk2, trk3, ink2 = (("trk.2.alice", os.urandom(32)), ("trk.3.alice", os.urandom(32)), ("ink.2.alice", os.urandom(32)))

    def put(*keys):
        g.run("keys", "import", "--config", g.config, "-", input="".join(json.dumps(dict(
            {"user": alice.uri, "type": kid[:3], "id": kid, "key": key.hex()}, **more)) + "\n" for kid, key, more in keys))
        kms.wait_for(lambda: 'type="trk",state="retiring"} 2' in g.admin("/metrics")[1])
    put((*trk2, {}), (*trk3, {"state": "retiring"}), (*ink2, {}))
    # the TrK that encrypts: the request's, if active or retiring, else the newest active
    for asked, used, key in ((alice.trk_id, alice.trk_id, alice.trk), (trk2[0], *trk2), (trk3[0], *trk3), (None, *trk2)):
        r = g.ask(alice, "/keyprov", **{"TrK-ID": asked})
        assert r.status == 200 and encrypted_under(r) == used and len(r.keys(key, used)) == 3
    # the reply is signed by the key that signed the request
    for kid, key in ((alice.ink_id, alice.ink), ink2):
        assert g.ask(alice, "/init", signer=(kid, key), **{"Signature-ID": kid}).verify(key, kid)
    # an unsigned one: by the newest active InK
    def unsigned(user):
        f = kms.fields(user, g.url("/init"), ClientId="always", **{"TrK-ID": None, "Signature-ID": None})
        return g.post("/init", etree.tostring(kms.kms_request(f)))
    r = unsigned(alice)
    assert r.status == 200 and r.verify(ink2[1], ink2[0])
    # else by the TrK, but never for a user who has an InK, whatever its state
    assert unsigned(carol).verify(carol.trk, carol.trk_id)
    g.run("keys", "retire", "--config", g.config, "--user", alice.uri, "--id", ink2[0])
    kms.wait_for(lambda: unsigned(alice).error == "protect.no_key")
    # a revoked one encrypts nothing: named, it is refused; the newest active takes its place where none is named
    g.run("keys", "revoke", "--config", g.config, "--user", alice.uri, "--id", trk3[0])
    kms.wait_for(lambda: g.ask(alice, "/keyprov", **{"TrK-ID": trk3[0]}).error == "key.policy")
    assert encrypted_under(g.ask(alice, "/keyprov", **{"TrK-ID": None})) == trk2[0]


def test_nothing_of_a_key_is_in_the_database_or_in_memory(gateway, alice):
    """In memory keys stay encrypted; a clear key lives for one exchange."""
    g = gateway([alice], rules=RULES)
    for _ in range(3):
        assert g.ask(alice, "/keyprov").status == 200
    time.sleep(0.3)
    found = []
    with open("/proc/%d/maps" % g.running.p.pid) as maps, open("/proc/%d/mem" % g.running.p.pid, "rb", 0) as mem:
        for region in maps:
            place, rights = region.split()[:2]
            begin, end = (int(x, 16) for x in place.split("-"))
            if "r" not in rights or end - begin > 1 << 28 or "[v" in region:
                continue
            try:
                mem.seek(begin)
                text = mem.read(end - begin)
            except OSError:
                continue
            for name, key in (("ink", alice.ink), ("trk", alice.trk)):
                for form in (key, key.hex().encode(), key.hex().upper().encode()):
                    if form in text:
                        found.append((name, region.strip()))
    assert found == []
    for path in (g.folder / "kmsgate.db", g.folder / "decisions.jsonl", g.folder / "gateway.err"):
        raw = path.read_bytes()
        assert alice.ink not in raw and alice.ink.hex().encode() not in raw and alice.trk not in raw
