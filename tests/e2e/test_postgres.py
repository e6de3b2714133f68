"""Users' keys in PostgreSQL: several gateways, one database, and what becomes of them when it stops, hangs, loses commits, is
another, is full, or lies. What both stores have in common is in test_keys.py and test_renewal.py."""
import concurrent.futures
import json
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest

import certs
import conftest
import kms
import postgres
import test_renewal
from listening import Listening, shut
from test_keys import ALICE, Store, line
from test_restart_replay import faked, needs_faketime


@pytest.fixture
def server():
    """A cluster that this test may do to what it likes."""
    made = []

    def make(**kw):
        made.append(postgres.Cluster(**kw))
        return made[-1]
    yield make
    for c in made:
        c.end()


def metric(g, name):
    return float(re.search(r"^%s (\S+)" % re.escape(name), g.admin("/metrics")[1], re.M)[1])


def keys(g, *argv, **kw):
    return g.run("keys", *argv, "--config", g.config, **kw)


def listed(g, **kw):
    """Without the keys' ages, which go on."""
    return re.sub(r"\t\d+[smhd]\t", "\t-\t", keys(g, "list", **kw).stdout)


def follows(g, user, status, seconds=30):
    return kms.wait_for(lambda: g.ask(user, "/init").status == status, seconds)


def fleet(gateway, url, n, users, **kw):
    first = gateway(users, keys=url, **kw)
    return [first] + [gateway(users, peer=first, **kw) for _ in range(n - 1)]


# --- making it ---

def test_a_first_import_that_is_killed_leaves_nothing(cluster, tmp_path):
    """Killed at its system calls that the server can tell of, each of the last ones: no tables, or all keys."""
    store, calls = Store(tmp_path, cluster.socket_url(cluster.database())), "sendto,recvfrom,poll"
    many = store.file(*(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i) for i in range(2500)))
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")  # which cannot be looked for under strace

    def run(*how):
        db = cluster.database()
        store.place(cluster.socket_url(db))
        code = subprocess.run(["strace", "-f", "-o", store.folder / "trace", "-e", "trace=" + calls, *how, conftest.BUILD /
                               "kmsgate", "keys", "import", "--config", store.config, many], cwd=store.folder, env=env,
                              capture_output=True, text=True, timeout=120).returncode
        kms.wait_for(lambda: cluster.sql("SELECT count(*) FROM pg_stat_activity WHERE datname = '%s'" % db) == "0")
        return db, code

    def left(db):
        if cluster.sql("SELECT to_regclass('kmsgate.meta') IS NOT NULL OR to_regnamespace('kmsgate') IS NOT NULL",
                       db) == "f":
            return 0
        return int(cluster.sql("SELECT keys FROM kmsgate.meta", db))

    db, code = run()
    made = kms.calls_of((store.folder / "trace").read_text())
    assert code == 0 and left(db) == 2500
    seen = set()
    for n in sorted({*range(0, len(made), max(1, len(made) // 12)), *range(max(0, len(made) - 12), len(made))}):
        db, code = run("-e", "inject=%s:signal=KILL:when=%d" % made[n][:2])
        assert left(db) in ((2500,) if code == 0 else (0, 2500)), (code, made[n])  # how often it polls is the server's pace
        seen.add((code == 0, left(db)))
        if not left(db):  # and it may be done again
            again = db
    assert (False, 0) in seen and (False, 2500) in seen, seen
    store.place(cluster.socket_url(again))
    store.keys("import", many)
    assert left(again) == 2500


def test_a_role_that_may_make_nothing(cluster, tmp_path):
    db = cluster.database()
    cluster.sql("CREATE ROLE maker_of_none LOGIN")
    store = Store(tmp_path, cluster.socket_url(db, user="maker_of_none"))
    assert "cannot make the schema `kmsgate`: permission denied" in \
        store.keys("import", store.file(line()), code=1).stderr
    assert cluster.sql("SELECT to_regnamespace('kmsgate') IS NULL", db) == "t"


# --- the place and its secrets ---

def test_no_password_is_ever_shown(cluster, tmp_path):
    """Neither where it works nor where it does not, in no form that it has."""
    db, clear, escaped = cluster.database(), cluster.password, quote(cluster.password, safe="")
    store = Store(tmp_path, cluster.url(db))
    said = [store.keys("import", store.file(line())), store.keys("list"), store.check("--print")]
    assert "keys: postgresql://postgres:***@127.0.0.1:%d/%s?sslmode=prefer" % (cluster.port, db) in said[-1].stdout
    broken = [cluster.url(db, password="wr0ng/s3cret@"), cluster.url(db, host="nowhere.invalid"),
              cluster.url(db).replace(str(cluster.port), "1"), cluster.url(db).replace(":%d/" % cluster.port, ":x/"),
              cluster.url(db) + "&pass%77ord=s3cret", cluster.url(db) + "&password=s3cret&sslmode=bad",
              cluster.url(db) + "&nothing=s3cret", "postgresql://u:s3cret/@h@i/" + db, "postgresql:/u:s3cret@h/" + db,
              "postgresql://127.0.0.1/x?password=s3cret&port=1", "postgresq://h/x?password=s3cret"]
    for url in broken:
        store.place(url)
        said += [store.keys("list", code=1), store.check("--print", code=1), store.serve(code=1)]
    for r in said:
        for secret in (clear, escaped, "s3cret", "wr0ng"):
            assert secret not in r.stdout + r.stderr, r
    assert all("***" in r.stdout + r.stderr or "hidden" in r.stderr for r in said[2:]), said


def test_a_password_from_a_file(cluster, tmp_path):
    db = cluster.database()
    url = "postgresql://postgres@127.0.0.1:%d/%s" % (cluster.port, db)
    store = Store(tmp_path, url)
    file = tmp_path / "pass"
    file.write_text("127.0.0.1:*:*:postgres:%s\n" % cluster.password.replace(":", "\\:"))
    file.chmod(0o600)
    assert "no password supplied" in store.keys("import", store.file(line()), code=1).stderr
    store.place(url + "?passfile=pass")  # relative to gateway.yaml, like all paths in it
    cwd, store.cwd = store.cwd, "/"
    store.keys("import", store.folder / "keys.jsonl")
    store.cwd = cwd
    store.place(url)
    store.keys("list", env={"PGPASSWORD": cluster.password})
    file.write_text(cluster.url(db))
    store.keys("list", env={"KMSGATE_KEYS_FILE": str(file)})


def test_nothing_else_of_the_environment(cluster, tmp_path):
    """What the URI does not say is libpq's preset, not what some variable or file of the machine says."""
    db, other = cluster.database(), cluster.database()
    store = Store(tmp_path, cluster.url(db))
    store.keys("import", store.file(line()))
    (tmp_path / "services").write_text("[x]\nhost=127.0.0.2\n")
    lies = {"PGHOST": "127.0.0.2", "PGHOSTADDR": "127.0.0.2", "PGPORT": "1", "PGDATABASE": other, "PGUSER": "nobody",
            "PGSSLMODE": "verify-full", "PGOPTIONS": "-c search_path=evil", "PGSERVICE": "x", "PGCLIENTENCODING": "LATIN1",
            "PGSERVICEFILE": str(tmp_path / "services"), "PGTARGETSESSIONATTRS": "standby", "PGREQUIRESSL": "1"}
    assert len(store.keys("list", env=lies).stdout.splitlines()) == 1
    for bad in ("service=x", "options=-c%20log_statement%3Dall", "replication=database"):
        store.place(cluster.url(db, more="&" + bad))
        assert "is not for key databases" in store.keys("list", code=1).stderr


@pytest.mark.parametrize("place,linted", [
    ("postgresql://kms-db.example.org/k", True), ("postgresql://kms-db.example.org/k?sslmode=require", True),
    ("postgresql://10.0.0.1,127.0.0.1/k?sslmode=verify-ca", True),
    ("postgresql://kms-db.example.org/k?hostaddr=10.0.0.1", True),
    ("postgresql://kms-db.example.org/k?sslmode=verify-full", False), ("postgresql://127.0.0.1/k", False),
    ("postgresql:///k?host=/run/postgresql", False), ("postgresql://[::1],localhost/k", False)])
def test_an_unverified_server_is_linted(tmp_path, place, linted):
    store = Store(tmp_path, place)
    assert ("database-unverified" in store.check(code=1, env={"PGCONNECT_TIMEOUT": "1"}).stderr) == linted


def test_which_databases_are_taken(cluster, server, tmp_path):
    store = Store(tmp_path, cluster.socket_url(cluster.database()))
    for argv in (("list",), ("export",), ("show", "--user", ALICE), ("revoke", "--user", ALICE, "--id", "i")):
        assert "`kmsgate keys import` makes their tables" in store.keys(*argv, code=1).stderr
    cluster.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
    store.place(cluster.socket_url("latin"))
    assert "UTF8 is expected, and this one's encoding is: LATIN1" in store.keys("import", store.file(line()), code=1).stderr
    store.place(cluster.socket_url("nowhere"))
    assert "does not exist" in store.keys("list", code=1).stderr


# --- several at once ---

def test_two_gateways_and_commands_at_once(cluster, gateway, alice, bob):
    """Eight writers, two gateways: one active key of a type, all see the same, nothing is missed."""
    url = cluster.socket_url(cluster.database())
    gs = fleet(gateway, url, 2, [alice, bob])
    add = [conftest.BUILD / "kmsgate", "keys", "add", "--config", gs[0].config, "--user", alice.uri, "--type", "ink",
           "--generate", "--id"]

    def writer(w):
        for i in range(6):
            r = subprocess.run([*add, "ink.%d.%d" % (w, i)], capture_output=True, text=True, timeout=120)
            assert r.returncode == 0, r.stderr
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(writer, range(8)))
    both = [listed(g) for g in gs]
    assert both[0] == both[1]
    states = [x.split("\t")[3] for x in both[0].splitlines() if "\tink\t" in x and alice.uri in x]
    assert states.count("active") == 1 and states.count("retiring") == 8
    count = [r'kmsgate_keys{type="ink",state="%s"}' % s for s in ("active", "retiring", "revoked")]
    for g in gs:
        kms.wait_for(lambda: [metric(g, c) for c in count[:2]] == [2, 8])
        assert "tampered" not in g.running.err


def test_two_renew_at_once_give_the_same_key(cluster, gateway):
    device = test_renewal.Device(ALICE)
    gs = fleet(gateway, cluster.socket_url(cluster.database()), 3, [device.user], rules=test_renewal.rules())
    time.sleep(2.1)
    work = [(g, kms.signed_request(device.user, g.url("/init"))) for _ in range(10) for g in gs]
    with concurrent.futures.ThreadPoolExecutor(15) as pool:
        replies = list(pool.map(lambda w: w[0].post("/init", w[1]), work))
    given = {n[:3] for r in replies for n in device.new_keys(test_renewal.good(r, device))}
    assert {n[:2] for n in given} == {("NewTransportKey", "trk.2.alice"), ("NewIntegrityKey", "ink.2.alice")}
    assert len(given) == 2


def test_a_change_is_followed_within_a_second(cluster, gateway, alice, bob):
    gs = fleet(gateway, cluster.socket_url(cluster.database()), 2, [alice, bob])
    assert [g.ask(bob, "/init").status for g in gs] == [200, 200]
    keys(gs[0], "revoke", "--user", bob.uri, "--id", bob.ink_id)
    began = time.monotonic()
    for g in gs:
        follows(g, bob, 403)
    assert time.monotonic() - began < 1 + 20  # a busy machine
    assert [g.ask(alice, "/init").status for g in gs] == [200, 200]


def test_only_what_changed_is_read(cluster, gateway, alice, bob):
    """By the server's own count of the rows that it read."""
    db = cluster.database()
    g = gateway([alice, bob], keys=cluster.socket_url(db))
    many = "".join(json.dumps(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i)) + "\n" for i in range(5000))
    keys(g, "import", "-", input=many)
    kms.wait_for(lambda: metric(g, 'kmsgate_keys{type="ink",state="active"}') == 5002)
    copied(g)  # it reads on a connection of its own, later than the gateway

    def read():
        return int(cluster.sql("SELECT pg_stat_clear_snapshot(); SELECT seq_tup_read + idx_tup_fetch FROM "
                               "pg_stat_user_tables WHERE relname = 'keys'", db).splitlines()[-1])
    before = kms.wait_for(lambda: (lambda a: (time.sleep(1.5), a == read())[1] and a)(read()), 60)
    for i in range(10):  # by SQL alone: `kmsgate keys` reads all keys when it starts
        cluster.sql("UPDATE kmsgate.meta SET one = one", db)
    time.sleep(3)
    assert read() - before < 100


# --- away, and back ---

@pytest.mark.parametrize("how", ["stopped", "killed", "paused"])
def test_away_and_back(server, gateway, alice, bob, how):
    """Verdicts from memory; writes refused at once; ready until keys_max_age, then 503; all comes back by itself."""
    c = server()
    db = c.database()
    device = test_renewal.Device("sip:dora@example.org")
    g = gateway([alice, bob, device.user], keys=c.socket_url(db), rules=test_renewal.rules(),
                config="keys_max_age: 8s\n")
    time.sleep(2.1)
    keys(g, "revoke", "--user", bob.uri, "--id", bob.ink_id)
    follows(g, bob, 403)
    gone = time.monotonic()
    if how == "paused":
        c.pause()
    else:
        c.stop(signal.SIGINT if how == "stopped" else signal.SIGQUIT)
    r = test_renewal.good(g.ask(device.user, "/init"), device)
    assert not device.new_keys(r) and g.ask(bob, "/init").status == 403
    assert test_renewal.renewals(g)[("ink", "deferred")] >= 1
    began = time.monotonic()
    refused = keys(g, "revoke", "--user", alice.uri, "--id", alice.ink_id, check=False)
    assert refused.returncode == 1 and "cannot connect" in refused.stderr or "in time" in refused.stderr, refused.stderr
    assert time.monotonic() - began < 30
    if time.monotonic() - gone < 7:
        assert g.admin("/readyz")[0] == 200 or metric(g, "kmsgate_keys_age_seconds") >= 8
    kms.wait_for(lambda: g.admin("/readyz")[0] == 503)
    status, text = g.admin("/readyz")
    assert text.startswith("keys\n") and "no change of the database could be taken over" in text
    assert metric(g, "kmsgate_keys_age_seconds") >= 8
    assert g.ask(alice, "/init").status == 200
    assert len(re.findall("the keys known before stay in force", g.running.err)) == 1  # a line a minute
    if how == "paused":
        c.resume()
    else:
        c.start()
    kms.wait_for(lambda: g.admin("/readyz")[0] == 200)
    assert metric(g, "kmsgate_keys_age_seconds") < 5
    keys(g, "revoke", "--user", alice.uri, "--id", alice.ink_id)
    follows(g, alice, 403)
    assert kms.wait_for(lambda: device.new_keys(test_renewal.good(g.ask(device.user, "/init"), device)))


def test_a_hang_holds_no_request_up(server, gateway, alice):
    """The worst: it takes connections and says nothing."""
    c = server()
    g = gateway([alice], keys=c.socket_url(c.database()))
    c.pause()
    slowest = 0
    for _ in range(40):
        began = time.monotonic()
        assert g.ask(alice, "/init").status == 200
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.1)
    c.resume()
    assert slowest < 3, slowest  # a statement's deadline; alone it is some milliseconds


def test_a_writer_that_stops_half_way(cluster, gateway, alice, tmp_path):
    """Stopped with the meta row held: others are refused or deferred, and go on when it is gone; its change is not there."""
    db = cluster.database()
    g = gateway([alice], keys=cluster.socket_url(db))
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i)) + "\n" for i in range(20000)))
    many.chmod(0o600)
    p = subprocess.Popen([conftest.BUILD / "kmsgate", "keys", "import", "--config", g.config, many],
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    held = "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE a.datname = '%s' AND " \
           "a.state = 'idle in transaction' AND l.mode = 'RowShareLock'" % db  # whoever only reads has none
    kms.wait_for(lambda: cluster.sql(held) != "0" or p.poll() is not None)
    assert p.poll() is None
    p.send_signal(signal.SIGSTOP)
    try:
        kms.wait_for(lambda: cluster.sql(held) != "0")
        r = keys(g, "renew", "--user", ALICE, check=False)
        assert r.returncode == 1 and "another process is writing" in r.stderr
        assert g.ask(alice, "/init").status == 200
    finally:
        p.kill()
        p.wait()
    kms.wait_for(lambda: keys(g, "renew", "--user", ALICE, check=False).returncode == 0, 60)
    assert len(keys(g, "list").stdout.splitlines()) == 2


# --- another, older, emptied, tampered with ---

def dump(c, db):
    return subprocess.run([c.bin / "pg_dump", "-h", c.folder, "-p", str(c.port), "-U", "postgres", db], check=True,
                          capture_output=True, timeout=60).stdout


def restore(c, db, text):
    """In one transaction: nobody sees half of it."""
    text = b"DROP SCHEMA IF EXISTS kmsgate CASCADE;\n" + text
    subprocess.run([c.bin / "psql", "-qX1", "-v", "ON_ERROR_STOP=1", "-h", c.folder, "-p", str(c.port), "-U", "postgres", db],
                   input=text, check=True, capture_output=True, timeout=60)


def test_no_revocation_is_undone(cluster, gateway, alice, bob, tmp_path):
    """Restored to an earlier state; restored and written on; emptied; made anew: the keys in use stay, and it is told."""
    db = cluster.database()
    g = gateway([alice, bob], keys=cluster.socket_url(db))
    old = dump(cluster, db)
    keys(g, "revoke", "--user", alice.uri, "--id", alice.ink_id)
    follows(g, alice, 403)
    new = dump(cluster, db)

    def stays(word):
        kms.wait_for(lambda: metric(g, "kmsgate_keys_age_seconds") > 1.5)
        assert g.ask(alice, "/init").status == 403 and g.ask(bob, "/init").status == 200
        kms.wait_for(lambda: word in g.running.err)
        restore(cluster, db, new)
        kms.wait_for(lambda: metric(g, "kmsgate_keys_age_seconds") < 1)
    restore(cluster, db, old)
    stays("is older than what is in use")
    elsewhere = cluster.database()
    restore(cluster, elsewhere, old)
    (tmp_path / "further").mkdir()
    other = Store(tmp_path / "further", cluster.socket_url(elsewhere))
    other.master.write_text((g.folder / "master.key").read_text())
    for i in range(4):
        other.keys("add", "--user", bob.uri, "--type", "trk", "--id", "x%d" % i, "--generate")
    restore(cluster, db, dump(cluster, elsewhere))
    stays("another history")
    cluster.sql("DROP SCHEMA kmsgate CASCADE", db)
    stays("no keys of kmsgate")
    cluster.sql("TRUNCATE kmsgate.keys, kmsgate.meta, kmsgate.removed", db)
    stays("meta row is gone")
    empty = cluster.database()
    other.place(cluster.socket_url(empty))
    other.keys("add", "--user", alice.uri, "--type", "ink", "--id", alice.ink_id, "--key-stdin", stdin=alice.ink.hex())
    restore(cluster, db, dump(cluster, empty))
    stays("another database")


TAMPERINGS = {
    "another user": "UPDATE kmsgate.keys SET user_uri = 'sip:mallory@example.org' WHERE id = 'ink.1.alice'",
    "another id": "UPDATE kmsgate.keys SET id = 'ink.9.alice' WHERE id = 'ink.1.alice'",
    "another type": "UPDATE kmsgate.keys SET type = 1 - type WHERE id = 'ink.1.alice'",
    "an unknown type": "UPDATE kmsgate.keys SET type = 2 WHERE id = 'ink.1.alice'",
    "active again": "UPDATE kmsgate.keys SET state = 0 WHERE id = 'old'",
    "an unknown state": "UPDATE kmsgate.keys SET state = 7 WHERE id = 'old'",
    "a negative state": "UPDATE kmsgate.keys SET state = -1 WHERE id = 'old'",
    "a later end": "UPDATE kmsgate.keys SET not_after = 4102444800000000 WHERE id = 'trk.1.alice'",
    "another age": "UPDATE kmsgate.keys SET since = since + 1000000 WHERE id = 'trk.1.alice'",
    "another origin": "UPDATE kmsgate.keys SET origin = 1 WHERE id = 'trk.1.alice'",
    "due": "UPDATE kmsgate.keys SET due = 1 WHERE id = 'trk.1.alice'",
    "another keep_old": "UPDATE kmsgate.keys SET keep_old = 5 WHERE id = 'trk.1.alice'",
    "sent under": "UPDATE kmsgate.keys SET sent = E'trk.1.alice\\n' WHERE id = 'ink.1.alice'",
    "a long text": "UPDATE kmsgate.keys SET sent = repeat('x', 5000) WHERE id = 'ink.1.alice'",
    "a huge text": "UPDATE kmsgate.keys SET sent = repeat('x', 5000000) WHERE id = 'ink.1.alice'",
    "another master": "UPDATE kmsgate.keys SET master = master # 1 WHERE id = 'ink.1.alice'",
    "a newer seq": "UPDATE kmsgate.keys SET seq = seq + 100 WHERE id = 'ink.1.alice'",
    "a seq without bounds": "UPDATE kmsgate.keys SET seq = 1::bigint << 41 WHERE id = 'ink.1.alice'",
    "a bit of the key": "UPDATE kmsgate.keys SET sealed = set_bit(sealed, 100, 1 - get_bit(sealed, 100)) WHERE id = 'old'",
    "a shorter key": "UPDATE kmsgate.keys SET sealed = substr(sealed, 1, 59) WHERE id = 'old'",
    "no key": "UPDATE kmsgate.keys SET sealed = '' WHERE id = 'old'",
    "another row's key": "UPDATE kmsgate.keys SET sealed = (SELECT sealed FROM kmsgate.keys WHERE id = 'trk.1.alice') "
                         "WHERE id = 'ink.1.alice'",
    "a row gone": "DELETE FROM kmsgate.keys WHERE id = 'old'",
    "all rows gone": "DELETE FROM kmsgate.keys",
    "a row doubled": "INSERT INTO kmsgate.keys SELECT user_uri, 'copy', type, state, not_after, since, origin, due, "
                     "keep_old, sent, master, seq + 50, sealed FROM kmsgate.keys WHERE id = 'old'",
    "no meta row": "DELETE FROM kmsgate.meta",
    "another count": "DELETE FROM kmsgate.keys WHERE id = 'old'; UPDATE kmsgate.meta SET keys = keys - 1",
    "a negative count": "UPDATE kmsgate.meta SET keys = -1",
    "another salt": "UPDATE kmsgate.meta SET salt = sealed FROM kmsgate.keys WHERE id = 'old'",
    "another sum": "UPDATE kmsgate.meta SET sums = set_bit(sums, 7, 1 - get_bit(sums, 7))",
    "another version": "UPDATE kmsgate.meta SET version = 9",
    "a column of another type": "ALTER TABLE kmsgate.keys ALTER COLUMN state TYPE text",
    "a column less": "ALTER TABLE kmsgate.keys DROP COLUMN due",
    "a view that lies": "ALTER TABLE kmsgate.meta RENAME TO m; CREATE VIEW kmsgate.meta AS SELECT true AS one, 2::bigint AS "
                        "version, keys, last_seq, salt, key_check, substr(sums, 1, 91) AS sums FROM kmsgate.m",
    "two meta rows": "ALTER TABLE kmsgate.meta DROP CONSTRAINT meta_pkey; INSERT INTO kmsgate.meta SELECT * FROM "
                     "kmsgate.meta",
}


NAMED = {"an unknown type": "ink.1.alice", "a negative state": "old", "a seq without bounds": "ink.1.alice", "no key": "old",
         "another age": "trk.1.alice", "a bit of the key": "old"}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_each_tampering_is_refused(cluster, tmp_path, what):
    db = cluster.database()
    store = Store(tmp_path, cluster.socket_url(db))
    store.keys("import", store.file(line(), line("trk", not_after="2090-01-01T00:00:00Z"), line(kid="old", state="revoked")))
    whole = dump(cluster, db)
    assert len(store.listed()) == 3
    cluster.sql(TAMPERINGS[what], db)
    for r in (store.keys("list", code=1), store.keys("renew", "--user", ALICE, code=1), store.serve(code=1)):
        assert r.stdout == "" and re.search("tampered with|cannot read|master key is not", r.stderr), r.stderr
        assert what not in NAMED or "tampered with: user %s, key %s " % (ALICE, NAMED[what]) in r.stderr, r.stderr
    restore(cluster, db, whole)
    assert len(store.listed()) == 3


def test_a_tampered_row_under_a_running_gateway(cluster, gateway, alice, bob):
    db = cluster.database()
    g = gateway([alice, bob], keys=cluster.socket_url(db))
    cluster.sql("UPDATE kmsgate.keys SET state = 2 WHERE id = 'ink.1.alice'", db)
    r = keys(g, "renew", "--user", alice.uri, check=False)
    assert r.returncode == 1 and "user sip:alice@example.org, key ink.1.alice does not verify" in r.stderr
    assert g.ask(alice, "/init").status == 200
    cluster.sql("UPDATE kmsgate.keys SET state = 0 WHERE id = 'ink.1.alice'; UPDATE kmsgate.meta SET keys = 7", db)
    kms.wait_for(lambda: "tampered with: the meta row does not verify" in g.running.err)
    assert g.ask(alice, "/init").status == 200 and g.ask(bob, "/init").status == 200


def test_the_counter_knows_an_older_database(cluster, tmp_path):
    db = cluster.database()
    store = Store(tmp_path, cluster.socket_url(db))
    store.config.write_text(store.config.read_text() + "keys_counter: file:count\n")
    store.keys("import", store.file(line(), line("trk")))
    old = dump(cluster, db)
    store.keys("revoke", "--user", ALICE, "--id", "ink.1.alice")
    new = dump(cluster, db)
    restore(cluster, db, old)
    for r in (store.keys("list", code=1), store.keys("revoke", "--user", ALICE, "--id", "trk.1.alice", code=1),
              store.serve(code=1)):
        assert "put back to an earlier state" in r.stderr
    restore(cluster, db, new)
    assert store.listed()[0][3] == "revoked"


def test_from_sqlite_and_back(cluster, tmp_path):
    """docker/README.md's way: an export, an import."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = Store(tmp_path / "a"), Store(tmp_path / "b", cluster.socket_url(cluster.database()))
    a.keys("import", a.file(line(), line("trk", not_after="2090-01-01T00:00:00Z"), line(kid="old", state="revoked")))
    out = a.keys("export", "--with-secrets").stdout
    assert b.keys("import", "-", stdin=out).stdout == "3 added, 0 replaced, 0 unchanged\n"
    assert b.keys("export", "--with-secrets").stdout == out and a.listed() == b.listed()
    (tmp_path / "c").mkdir()
    c = Store(tmp_path / "c")
    c.keys("import", "-", stdin=b.keys("export", "--with-secrets").stdout)
    assert c.listed() == a.listed()


# --- a look before a refusal ---

def test_a_key_that_one_gateway_gave_works_at_every_other_at_once(cluster, gateway):
    """Each exchange at the next gateway, with the key that the one before has just given."""
    device = test_renewal.Device(ALICE)
    gs = fleet(gateway, cluster.socket_url(cluster.database()), 3, [device.user], rules=test_renewal.rules(keep="1s"))
    time.sleep(2.1)
    given = 0
    for i in range(45):
        r = gs[i % 3].ask(device.user, "/init")
        assert r.status == 200, (i, gs[i % 3].decisions()[-1])
        new = device.new_keys(test_renewal.good(r, device))
        given += len(new)
        device.take(new)
        if i % 5 == 4:
            time.sleep(1.2)  # they are due again
    assert given >= 8


class Road(Listening):
    """To a server's port; cut, it refuses connections."""

    def __init__(self, to):
        self.to = to
        super().__init__(self.carry)

    def carry(self, c, _):
        with socket.create_connection(("127.0.0.1", self.to)) as there:
            self.connections.append(there)
            back = threading.Thread(target=self.one_way, args=(there, c), daemon=True)
            back.start()
            self.one_way(c, there)
            back.join()

    @staticmethod
    def one_way(a, b):
        try:
            while some := a.recv(65536):
                b.sendall(some)
            b.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it was cut

    def cut(self):
        self.close()
        self.drop()

    def mend(self):
        super().__init__(self.carry, port=self.port)


class Short(Road):
    """Breaks off when the server has sent so much."""
    most = 0

    def one_way(self, a, b):
        left = self.most
        try:
            while left > 0 and (some := a.recv(min(65536, left))):
                b.sendall(some)
                if a.getpeername()[1] == self.to:
                    left -= len(some)
        except OSError:
            pass  # it was cut
        shut(a, b)


class NoTrailer(Road):
    """What a COPY ends with does not come through; all else does."""

    def one_way(self, a, b):
        rest = b""
        try:
            while some := a.recv(65536):
                if a.getpeername()[1] != self.to:
                    b.sendall(some)
                    continue
                rest += some
                while len(rest) >= 5 and len(rest) > (n := struct.unpack("!I", rest[1:5])[0]):
                    if rest[:n + 1] != b"d\0\0\0\6\xff\xff":
                        b.sendall(rest[:n + 1])
                    rest = rest[n + 1:]
        except OSError:
            pass  # it was cut
        shut(a, b)


def test_rows_without_their_end_are_not_all(cluster, gateway, alice):
    """Every message is whole, and the server says that it is done."""
    db = cluster.database()
    g = gateway([alice], keys=cluster.socket_url(db), start=False)
    url = cluster.url(db) + ("&" if "?" in cluster.url(db) else "?") + "sslmode=disable"
    for road, code in ((NoTrailer(cluster.port), 1), (Road(cluster.port), 0)):
        env = dict(os.environ, KMSGATE_KEYS=url.replace(":%d/" % cluster.port, ":%d/" % road.port))
        r = g.run("keys", "list", "--config", g.config, check=False, env=env)
        assert r.returncode == code, r.stderr
        assert ("the rows end half way" in r.stderr) == (code == 1), r.stderr


def test_a_commit_that_no_standby_confirmed(server, tmp_path):
    """It is there, and may be lost yet: no success, and it is said."""
    c = server()
    store = Store(tmp_path, c.socket_url(c.database()))
    store.keys("add", "--user", ALICE, "--type", "ink", "--id", "one", "--generate")
    c.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    c.sql("SELECT pg_reload_conf()")
    waits = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        adds = pool.submit(store.keys, "add", "--user", ALICE, "--type", "ink", "--id", "two", "--generate", code=1)
        kms.wait_for(lambda: adds.done() or c.sql(waits) == "t")
        assert "not by a standby that should have confirmed it: it may be lost" in adds.result().stderr
    c.sql("ALTER SYSTEM RESET synchronous_standby_names")
    c.sql("SELECT pg_reload_conf()")
    assert "two" in store.keys("list").stdout


def test_who_has_not_found_back_yet_knows_a_new_key(cluster, gateway, alice):
    """A database that is back is asked before a key is refused, not when it is a turn's time."""
    db = cluster.database()
    road = Road(cluster.port)
    a = gateway([alice], keys=cluster.socket_url(db))
    b = gateway([alice], peer=a, start=False)
    b.start(env={"KMSGATE_KEYS": cluster.url(db).replace(":%d/" % cluster.port, ":%d/" % road.port)})

    def known(n):
        road.cut()
        kms.wait_for(lambda: metric(b, "kmsgate_keys_age_seconds") > 1)
        new = "ink.%d.alice" % n, os.urandom(32)
        assert b.ask(alice, "/init", signer=new, **{"Signature-ID": new[0]}).status == 403
        keys(a, "import", "-", input=json.dumps({"user": ALICE, "type": "ink", "id": new[0], "key": new[1].hex()}) + "\n")
        assert a.ask(alice, "/init", signer=new, **{"Signature-ID": new[0]}).status == 200
        road.mend()
        return b.ask(alice, "/init", signer=new, **{"Signature-ID": new[0]}).status == 200
    assert any(known(n) for n in range(2, 10))  # a busy machine may take longer than a request waits


def test_a_new_trk_is_known_at_once(cluster, gateway):
    """Named in a request that the old InK signs."""
    device = test_renewal.Device(ALICE)
    gs = fleet(gateway, cluster.socket_url(cluster.database()), 2, [device.user], rules=test_renewal.rules())
    time.sleep(2.1)
    new = device.new_keys(test_renewal.good(gs[0].ask(device.user, "/init"), device))
    device.take([n for n in new if n[0] == "NewTransportKey"])
    assert device.user.trk_id == "trk.2.alice" and gs[1].ask(device.user, "/keyprov").status == 200
    assert gs[1].ask(device.user, "/keyprov", **{"TrK-ID": "trk.9.alice"}).error == "key.policy"


def test_at_most_twenty_looks_a_second(cluster, gateway, alice):
    db = cluster.database()
    g = gateway([alice], keys=cluster.socket_url(db))
    stranger = kms.User("sip:nobody@example.org")

    def looks():
        return int(cluster.sql("SELECT xact_commit FROM pg_stat_database WHERE datname = '%s'" % db))
    before, began = looks(), time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        while time.monotonic() - began < 4:
            assert {r.status for r in pool.map(lambda _: g.ask(stranger, "/init"), range(48))} == {403}
            assert g.ask(alice, "/init").status == 200
    took = time.monotonic() - began
    time.sleep(1.5)  # until the server has counted
    done = looks() - before
    assert 5 < done <= 20 * took + 2.5 * (took + 2) + 10, (done, took)


@pytest.mark.parametrize("what", ["unknown user", "unknown key", "revoked key", "wrong signature", "digest"])
def test_all_wait_alike(server, gateway, alice, bob, what):
    """Nothing of a refusal tells whether the user, or the key, is known: not the time either."""
    c = server()
    g = gateway([alice, bob], keys=c.socket_url(c.database()))
    keys(g, "revoke", "--user", bob.uri, "--id", bob.ink_id)
    follows(g, bob, 403)
    url = g.url("/init")
    body = {"unknown user": lambda: kms.signed_request(kms.User("sip:x@example.org"), url),
            "unknown key": lambda: kms.signed_request(alice, url, signer=("ink.9", os.urandom(32)), **{"Signature-ID": "ink.9"}),
            "revoked key": lambda: kms.signed_request(bob, url),
            "wrong signature": lambda: kms.signed_request(alice, url, signer=(alice.ink_id, os.urandom(32))),
            "digest": lambda: kms.signed_request(alice, url).replace(b"client-1", b"client-2")}[what]()
    time.sleep(0.5)
    c.pause()
    began = time.monotonic()
    r = g.post("/init", body)
    took = time.monotonic() - began
    c.resume()
    assert r.status == 403 and 0.3 < took < 10
    lines = kms.wait_for(lambda: [d for d in g.decisions() if d["id"] == r.headers["X-Request-Id"]])
    assert len(lines) == 1, lines
    # where nobody can be looked at, nobody waits: what is known decides at once
    c.stop()
    kms.wait_for(lambda: metric(g, "kmsgate_keys_age_seconds") > 1.5)
    assert g.ask(alice, "/init").status == 200 and g.post("/init", body).status == 403


def test_a_client_that_leaves_while_a_look_is_waited_for(server, gateway, alice):
    c = server()
    g = gateway([alice], keys=c.socket_url(c.database()))
    body = kms.signed_request(kms.User("sip:x@example.org"), g.url("/init"))
    c.pause()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", g.port)) as s:
            s.sendall(b"POST %s/init HTTP/1.1\r\nHost: %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n"
                      % (kms.BASE.encode(), g.public[7:].encode(), len(body)) + body)
            time.sleep(0.1)
    assert len(g.decisions(3)) == 3
    c.resume()
    assert g.ask(alice, "/init").status == 200


# --- the sealed copy ---

def copied(g):
    """Until the copy says that it holds what the database holds."""
    stamp = g.folder / "keys-copy.stamp"
    kms.wait_for(stamp.exists)
    was = stamp.read_text()
    kms.wait_for(lambda: stamp.read_text() != was)  # one that was begun after this call
    was = stamp.read_text()
    kms.wait_for(lambda: stamp.read_text() != was)


def ends(g):
    assert g.running.stop() == 0, g.running.err


def refused_start(g):
    r = g.run("serve", "--config", g.config, check=False)
    assert r.returncode == 1, r.stderr
    return r.stderr


@pytest.mark.parametrize("what", ["another age", "a bit of the key", "a row gone", "a row doubled", "another row's key"])
def test_a_start_with_a_copy_reads_every_row(cluster, gateway, alice, what):
    db = cluster.database()
    g = gateway([alice], keys=cluster.socket_url(db))
    keys(g, "add", "--user", alice.uri, "--type", "ink", "--id", "old", "--generate")
    keys(g, "revoke", "--user", alice.uri, "--id", "old")
    copied(g)
    ends(g)
    whole = dump(cluster, db)
    cluster.sql(TAMPERINGS[what], db)
    assert re.search("tampered with|does not verify", refused_start(g))
    restore(cluster, db, whole)
    g.start()
    assert g.ask(alice, "/init").status in (200, 403)


def test_a_start_while_the_database_is_away(server, gateway, alice, bob):
    c = server()
    g = gateway([alice, bob], keys=c.socket_url(c.database()), config="keys_max_age: 20s\n")
    copied(g)
    keys(g, "revoke", "--user", bob.uri, "--id", bob.ink_id)
    follows(g, bob, 403)
    copied(g)
    ends(g)
    c.stop()
    g.start()
    assert "the keys are those of the sealed copy" in g.running.err
    assert g.ask(alice, "/init").status == 200 and g.ask(bob, "/init").status == 403
    assert 0 < metric(g, "kmsgate_keys_age_seconds") < 20
    kms.wait_for(lambda: g.admin("/readyz")[0] == 503)  # the age goes on from where it was
    ends(g)
    assert re.search(r"the sealed copy keys-copy.db is \d+ s old: keys_max_age is 20 s", refused_start(g))
    c.start()
    g.start()
    keys(g, "revoke", "--user", alice.uri, "--id", alice.ink_id)
    follows(g, alice, 403)


def test_a_start_while_the_database_goes_away(cluster, gateway, alice, bob):
    """Each connection breaks after so many octets of the server's: from the copy, or, when all has come, from the database."""
    db = cluster.database()
    g = gateway([alice, bob], keys=cluster.socket_url(db))
    many = "".join(json.dumps(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i)) + "\n" for i in range(500))
    keys(g, "import", "-", input=many)
    keys(g, "revoke", "--user", bob.uri, "--id", bob.ink_id)
    kms.wait_for(lambda: metric(g, 'kmsgate_keys{type="ink",state="active"}') == 501)
    copied(g)
    ends(g)
    road = Short(cluster.port)
    seen = set()
    for road.most in (1, 600, 1500, 5000, 40000, 1 << 30):
        g.start(env={"KMSGATE_KEYS": cluster.url(db).replace(":%d/" % cluster.port, ":%d/" % road.port)})
        assert g.ask(alice, "/init").status == 200 and g.ask(bob, "/init").status == 403
        assert metric(g, 'kmsgate_keys{type="ink",state="active"}') == 501
        seen.add((road.most, "the keys are those of the sealed copy" in g.running.err))
        ends(g)
    assert {(1, True), (40000, True), (1 << 30, False)} <= seen, seen  # all of it takes more
    (g.folder / "keys-copy.db").unlink()
    road.most = 40000
    r = g.run("serve", "--config", g.config, check=False,
              env=dict(os.environ, KMSGATE_KEYS=cluster.url(db).replace(":%d/" % cluster.port, ":%d/" % road.port)))
    assert r.returncode == 1 and "the connection broke" in r.stderr, r.stderr


@needs_faketime
def test_a_copy_of_a_later_clock(server, gateway, alice):
    """How old it is cannot be known; a minute is what clocks may be set back by."""
    c = server()
    g = gateway([alice], keys=c.socket_url(c.database()), config="keys_max_age: 1h\nsandbox: off\n")
    copied(g)
    ends(g)
    c.stop()
    _, env = faked(g.folder, "-3600s")
    r = g.run("serve", "--config", g.config, check=False, env=dict(os.environ, **env))
    assert r.returncode == 1 and re.search(r"was made when this machine's clock was 3\d+ s ahead", r.stderr), r.stderr
    _, env = faked(g.folder, "-30s")
    g.running = kms.Process([conftest.BUILD / "kmsgate", *kms.SERVE, "--config", g.config], g.folder, "gateway",
                            env=dict(os.environ, **env))
    kms.wait_for(lambda: "the keys are those of the sealed copy" in g.running.err)


def test_a_copy_that_was_changed_is_of_no_use(server, gateway, alice):
    c = server()
    g = gateway([alice], keys=c.socket_url(c.database()))
    copied(g)
    old = (g.folder / "keys-copy.db").read_bytes()
    keys(g, "revoke", "--user", alice.uri, "--id", alice.trk_id)
    kms.wait_for(lambda: metric(g, 'kmsgate_keys{type="trk",state="revoked"}') == 1)
    copied(g)
    ends(g)
    db, stamp = g.folder / "keys-copy.db", g.folder / "keys-copy.stamp"
    new, at = db.read_bytes(), stamp.read_text()
    digit = str((int(at[93]) + 1) % 10)
    cases = {"an older copy": (old, at), "half a copy": (new[:len(new) // 2], at), "no copy": (None, at),
             "no stamp": (new, None), "a later stamp": (new, at[:93] + digit + at[94:]), "half a stamp": (new, at[:60]),
             "another's row": (new.replace(b"ink.1.alice", b"ink.2.alice"), at)}
    c.stop()
    for what, (copy, said) in cases.items():
        db.write_bytes(copy) if copy is not None else db.unlink(missing_ok=True)
        copy is None or db.chmod(0o600)
        stamp.write_text(said) if said is not None else stamp.unlink(missing_ok=True)
        assert re.search("cannot connect", refused_start(g)), what
    db.write_bytes(new)
    db.chmod(0o600)
    stamp.write_text(at)
    g.start()  # the twin
    ends(g)
    c.start()
    db.write_bytes(new[:len(new) // 2])
    g.start()
    assert "the sealed copy is of no use" in g.running.err and g.ask(alice, "/init").status in (200, 403)
    copied(g)
    assert len(db.read_bytes()) >= len(new)  # made anew


def test_a_start_knows_an_older_database_and_another_past(cluster, gateway, alice, bob, tmp_path):
    db = cluster.database()
    g = gateway([alice, bob], keys=cluster.socket_url(db))
    old = dump(cluster, db)
    keys(g, "revoke", "--user", alice.uri, "--id", alice.ink_id)
    follows(g, alice, 403)
    copied(g)
    ends(g)
    new = dump(cluster, db)
    restore(cluster, db, old)
    assert re.search("held against the sealed copy keys-copy.db: is older .*remove that file", refused_start(g))
    for i in range(3):
        keys(g, "add", "--user", bob.uri, "--type", "trk", "--id", "x%d" % i, "--generate")
    assert "another history" in refused_start(g)
    cluster.sql("DROP SCHEMA kmsgate CASCADE", db)
    assert "no keys of kmsgate" in refused_start(g)  # and none are made
    assert cluster.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'kmsgate'", db) == "0"
    restore(cluster, db, new)
    g.start()
    assert g.ask(alice, "/init").status == 403 and g.ask(bob, "/init").status == 200
    ends(g)
    restore(cluster, db, old)
    (g.folder / "keys-copy.db").unlink()
    g.start()  # as the operator wishes: docker/README.md says what it costs
    assert g.ask(alice, "/init").status == 200


def test_commands_say_whom_a_change_does_not_reach(cluster, gateway, alice, bob):
    """A database that was put back takes changes, and the gateways none of them."""
    db = cluster.database()
    gs = fleet(gateway, cluster.socket_url(db), 2, [alice, bob])
    old = dump(cluster, db)

    def add(n, code):
        r = keys(gs[0], "add", "--user", bob.uri, "--type", "trk", "--id", "t%d" % n, "--generate", check=False)
        assert r.returncode == code and "t%d: added" % n in r.stdout, r
        return r.stderr
    assert add(1, 0) == add(2, 0) == ""
    new = dump(cluster, db)
    restore(cluster, db, old)
    for user in (alice, bob):  # still older; then another history of as many changes
        r = keys(gs[0], "revoke", "--user", user.uri, "--id", user.ink_id, check=False)
        assert r.returncode == 1 and "%s: revoked" % user.ink_id in r.stdout, r
        assert len(re.findall(r"the running gateway of PostgreSQL's process \d+", r.stderr)) == 2, r.stderr
        assert [g.ask(user, "/init").status for g in gs] == [200, 200]  # so it is
    assert gs[1].running.stop() == 0
    assert add(3, 1).count("the running gateway") == 1
    assert keys(gs[0], "list").stderr == ""  # which changes nothing
    restore(cluster, db, new)
    kms.wait_for(lambda: gs[0].admin("/readyz")[1].strip() == "ready")
    assert add(4, 0) == ""  # the twin: followed again
    # what somebody else calls himself is nobody's word
    with subprocess.Popen([cluster.bin / "psql", "-qX", "-h", cluster.folder, "-p", str(cluster.port), "-U", "postgres",
                           db], stdin=subprocess.PIPE, env=dict(os.environ, PGAPPNAME="kmsgate - 0 0 0")) as stranger:
        kms.wait_for(lambda: cluster.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'kmsgate - 0 0 0'")
                     == "1")
        assert add(5, 0) == ""
        stranger.stdin.close()


# --- rights, a full disk, a failover, TLS, a server that lies ---

def readme_sql():
    text = (Path(__file__).parents[2] / "docker" / "README.md").read_text()
    return re.search(r"^```sql\n(.*?)^```$", text, re.M | re.S)[1]


def test_the_rights_of_the_operators_page(server, gateway, tmp_path):
    """Its lines, word by word: what each role may do, and what not."""
    c = server()
    db = c.database()
    for statement in readme_sql().split(";\n"):
        statement.strip() and c.sql(statement, db)
    place = {r: c.socket_url(db, "kms_" + r) for r in ("operator", "gateway", "reader")}
    store = Store(tmp_path, place["gateway"])
    assert "permission denied" in store.keys("import", store.file(line()), code=1).stderr
    store.place(place["operator"])
    device = test_renewal.Device(ALICE)
    g = gateway([device.user], keys=place["operator"], rules=test_renewal.rules(), start=False)
    g.config.write_text(g.config.read_text().replace(place["operator"], place["gateway"]))
    g.start()
    time.sleep(2.1)
    assert device.new_keys(test_renewal.good(g.ask(device.user, "/init"), device))
    keys(g, "revoke", "--user", ALICE, "--id", "trk.1.alice")
    keys(g, "prune")
    for denied in ("DROP TABLE kmsgate.keys", "TRUNCATE kmsgate.keys", "CREATE TABLE kmsgate.x (a int)"):
        with pytest.raises(AssertionError, match="permission denied|must be owner"):
            c.sql(denied, db, "kms_gateway")
    store.place(place["reader"])
    store.master.write_text((g.folder / "master.key").read_text())
    assert len(store.listed()) == 4
    assert "may only read" in store.keys("renew", "--user", ALICE, code=1).stderr
    for denied in ("UPDATE kmsgate.meta SET keys = 1", "DELETE FROM kmsgate.keys"):
        with pytest.raises(AssertionError, match="permission denied"):
            c.sql(denied, db, "kms_reader")


def test_a_full_disk(server, gateway, alice):
    """No room for the write-ahead log: PostgreSQL panics and comes back; what was committed is there, nothing half done."""
    if os.geteuid() != 0:
        pytest.skip("root alone can mount a small file system")
    folder = Path(tempfile.mkdtemp(prefix="kmsgate-pg-", dir="/tmp"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=150m", "kmsgate-test", folder], capture_output=True).returncode:
        folder.rmdir()
        pytest.skip("no file system can be mounted here")
    try:
        c = server(folder=folder, settings="max_wal_size = 32MB\nmin_wal_size = 32MB\nshared_buffers = 16MB")
        g = gateway([alice], keys=c.socket_url(c.database()))
        before = listed(g)
        filler = folder / "filler"
        many = "".join(json.dumps(line(kid="ink.%d" % i, user="sip:u%d@example.org" % i)) + "\n" for i in range(20000))
        with open(filler, "wb") as f:
            try:
                while True:
                    f.write(b"x" * 65536)
                    f.flush()
            except OSError:
                pass
        r = keys(g, "import", "-", input=many, check=False)
        assert r.returncode == 1 and "nothing was imported" in r.stderr, r
        assert g.ask(alice, "/init").status == 200
        filler.unlink()
        if c.server.poll() is not None:
            c.start()
        kms.wait_for(lambda: listed(g, check=False) == before, 60)
        kms.wait_for(lambda: keys(g, "import", "-", input=many, check=False).returncode == 0, 60)
        kms.wait_for(lambda: metric(g, 'kmsgate_keys{type="ink",state="active"}') == 20001)
        g.stop()
        c.stop()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def standby_of(c, made):
    """A hot standby by streaming, of its own port."""
    s = postgres.Cluster.__new__(postgres.Cluster)
    s.__dict__.update(c.__dict__)
    s.folder = Path(tempfile.mkdtemp(prefix="kmsgate-pg-", dir="/tmp"))
    s.own(s.folder)
    s.data, s.port, s.log, s.server, s.stopped = s.folder / "data", kms.free_port(), s.folder / "log", None, False
    s.call("pg_basebackup", "-h", c.folder, "-p", c.port, "-U", "postgres", "-D", s.data, "-R", "--no-sync", "-c", "fast")
    s.configure(c.settings)
    s.start()
    made.append(s)
    return s


def test_a_failover(server, gateway, alice, bob):
    """The standby is promoted: the gateways find it by themselves, and nothing that was revoked lives again."""
    c, made = server(), []
    db = c.database()
    both = "postgresql://postgres@%s:%d,%s:%d/" + db
    try:
        s = standby_of(c, made)
        at = both % (quote(str(c.folder), safe=""), c.port, quote(str(s.folder), safe=""), s.port)
        g = gateway([alice, bob], keys=at)
        keys(g, "revoke", "--user", bob.uri, "--id", bob.ink_id)
        follows(g, bob, 403)
        lag = "SELECT pg_last_wal_replay_lsn() >= '%s'" % c.sql("SELECT pg_current_wal_lsn()")
        kms.wait_for(lambda: s.sql(lag) == "t")
        alone = g.config.with_name("alone.yaml")  # a standby alone: nobody would know that it follows no more
        alone.write_text(g.config.read_text().replace(at, s.socket_url(db)))
        said = g.run("keys", "list", "--config", alone, check=False)
        assert said.returncode == 1 and "standby" in said.stderr, said
        c.stop(signal.SIGQUIT)
        assert g.ask(alice, "/init").status == 200
        assert keys(g, "renew", "--user", alice.uri, check=False).returncode == 1  # the standby alone takes no writes
        s.sql("SELECT pg_promote()")
        kms.wait_for(lambda: metric(g, "kmsgate_keys_age_seconds") < 1)
        kms.wait_for(lambda: keys(g, "revoke", "--user", alice.uri, "--id", alice.ink_id, check=False).returncode == 0)
        follows(g, alice, 403)
        assert g.ask(bob, "/init").status == 403
    finally:
        for m in made:
            m.end()


def test_tls_and_who_vouches(server, tmp_path):
    """verify-full: by the authority and by the name. Nothing else passes for the database, and no byte of a key is sent."""
    c = server()
    for ca in ("ca", "evil"):
        certs.authority(tmp_path, ca)
    certs.issue(tmp_path, "ca", "server")
    certs.issue(tmp_path, "ca", "other", host="DNS:other.example.org")
    db = c.database()

    def serve_as(name):
        for end in ("pem", "key"):
            shutil.copy(tmp_path / (name + "." + end), c.folder / ("tls." + end))
            (c.folder / ("tls." + end)).chmod(0o600)
            c.own(c.folder / ("tls." + end))
        c.stop()
        c.configure("ssl = on\nssl_cert_file = '%s/tls.pem'\nssl_key_file = '%s/tls.key'" % (c.folder, c.folder))
        c.start()

    def at(mode, ca):
        return c.url(db).replace("sslmode=prefer", "sslmode=%s&sslrootcert=%s" % (mode, ca))
    serve_as("server")
    store = Store(tmp_path, at("verify-full", "ca.pem"))  # relative to gateway.yaml
    store.keys("import", store.file(line()))
    assert store.check().stderr == ""
    store.place(at("verify-full", "evil.pem"))
    assert "certificate verify failed" in store.keys("list", code=1).stderr
    store.place(at("verify-full", "nothing.pem"))
    assert "does not exist" in store.keys("list", code=1).stderr
    serve_as("other")
    store.place(at("verify-full", "ca.pem"))
    assert "does not match host name" in store.keys("list", code=1).stderr
    store.place(at("verify-ca", "ca.pem"))
    assert len(store.listed()) == 1
    c.stop()
    c.configure("")
    c.start()
    store.place(at("verify-full", "ca.pem"))
    assert "does not support SSL" in store.keys("list", code=1).stderr


def message(kind, body=b""):
    return kind + struct.pack("!I", len(body) + 4) + body


READY, DONE = message(b"Z", b"I"), message(b"C", b"SELECT 1\0")


def row(*values):
    return message(b"D", struct.pack("!H", len(values)) + b"".join(
        struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in values))


def columns(n, form=1):
    return message(b"T", struct.pack("!H", n) + b"".join(b"c\0" + struct.pack("!IhIhih", 0, 0, 20, 8, -1, form)
                                                        for _ in range(n)))


BOUND = message(b"1") + message(b"2")
NUMBER = struct.pack("!q", 2)
GOOD = (NUMBER, NUMBER, NUMBER, b"s" * 32, b"c" * 32, b"m" * 92)
LIES = {
    "no columns": BOUND + columns(0) + row() + DONE + READY,
    "as text": BOUND + columns(6, 0) + row(*GOOD) + DONE + READY,
    "a column more": BOUND + columns(7) + row(*GOOD, b"x") + DONE + READY,
    "a NULL": BOUND + columns(6) + row(*GOOD[:5], None) + DONE + READY,
    "a longer salt": BOUND + columns(6) + row(*GOOD[:3], b"s" * 33, *GOOD[4:]) + DONE + READY,
    "a longer number": BOUND + columns(6) + row(b"x" * 9, *GOOD[1:]) + DONE + READY,
    "a negative number": BOUND + columns(6) + row(struct.pack("!q", -2), *GOOD[1:]) + DONE + READY,
    "a value of megabytes": BOUND + columns(6) + row(*GOOD[:5], b"m" * 5000000) + DONE + READY,
    "two rows": BOUND + columns(6) + row(*GOOD) * 2 + DONE + READY,
    "no row": BOUND + columns(6) + DONE + READY,
    "good, but not sealed": BOUND + columns(6) + row(*GOOD) + DONE + READY,
    "a copy": message(b"H", b"\1\0\0"),
    "a copy from here": message(b"G", b"\1\0\0"),
    "an error without a code": message(b"E", b"Moh\x1b[31m\0\0") + READY,
    "an error with controls": message(b"E", b"SERROR\0VERROR\0CXX000\0Mgo\x1b]0;x\x07od\0\0") + READY,
    "an unknown message": message(b"!", b"x"),
    "half a message": b"D" + struct.pack("!I", 1 << 30) + b"x" * 1000,
    "no length": b"D" + struct.pack("!I", 0),
    "garbage": bytes(range(256)) * 20,
    "silence": b"",
}


class Liar(Listening):
    """Answers as PostgreSQL does until it is asked for the meta row; then with `lie`, again and again where it is endless."""

    def __init__(self, lie, endless=False):
        self.lie, self.endless = lie, endless
        super().__init__(self.talk)

    def talk(self, c, _):
        f = c.makefile("rb")
        f.read(struct.unpack("!I", f.read(4))[0] - 4)
        status = b"".join(message(b"S", k + b"\0" + v + b"\0") for k, v in
                          ((b"server_version", b"15.1"), (b"server_encoding", b"UTF8"), (b"client_encoding", b"UTF8")))
        c.sendall(message(b"R", b"\0" * 4) + status + READY)
        while True:
            kind = f.read(1)
            if not kind:
                return
            body = f.read(struct.unpack("!I", f.read(4))[0] - 4)
            if kind == b"Q":
                c.sendall(message(b"C", b"SET\0") + READY)
            elif kind == b"P" and b"to_regclass" in body:
                c.sendall(BOUND + columns(2) + row(b"\1", b"\0") + DONE + READY)
            elif kind == b"P":
                c.sendall(self.lie)
                while self.endless:
                    c.sendall(self.lie)


@pytest.mark.parametrize("what", LIES)
def test_a_server_that_lies(tmp_path, what):
    liar = Liar(LIES[what])
    store = Store(tmp_path, "postgresql://u@127.0.0.1:%d/x?sslmode=disable" % liar.port)
    r = store.keys("list", code=1)
    liar.close()
    assert r.stdout == "" and r.stderr.startswith("kmsgate: postgresql://u@127.0.0.1") and "\x1b" not in r.stderr
    assert re.search("tampered with|the connection broke|in time|cannot|master key is not", r.stderr), r.stderr


@pytest.mark.parametrize("what", ["rows", "notices", "parameters"])
def test_a_server_that_never_ends(tmp_path, what):
    """It is given up in time, and the memory that it took is bounded."""
    lie = {"rows": row(*GOOD) * 100, "notices": message(b"N", b"SWARNING\0VWARNING\0C01000\0Mx\0\0") * 100,
           "parameters": message(b"S", b"x\0y\0") * 100}[what]
    liar = Liar(BOUND + columns(6) + lie if what == "rows" else lie, endless=True)
    store = Store(tmp_path, "postgresql://u@127.0.0.1:%d/x?sslmode=disable" % liar.port)
    began = time.monotonic()
    store.keys("list", code=1)
    liar.close()
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2000000  # KiB, with the sanitizers'
