"""New keys in replies: when, in which shape and order, confirmed by use, sent again until then, deferred."""
import base64
import concurrent.futures
import copy
import json
import random
import socket
import time

import pytest
from lxml import etree

import conftest
import kms
from kms import XSI, q
from renewing import ALICE, Device, good, killed_while_asked, locked, renewals, states, wait_state

RULES = """\
version: 1
kms: { uris: [kms.example.org], id: kms-01 }
errors: { detail: reason }
requests:
  - { id: lax, why: a test, match: { client_id: lax }, checks: { replay: shadow } }
  - { id: open, why: a test, match: { client_id: open }, accept: [unsigned] }
  - { id: everyone }
responses:
  - { id: never, match: { message: KmsInit }, encrypt: { when: never }, renew: %(renew)s }
  - { id: default, renew: %(renew)s%(more)s }
"""


def rules(age="1s", keep="1h", more=""):
    return RULES % {"renew": "{ trk: %s, ink: %s, keep_old: %s }" % (age, age, keep), "more": more}


@pytest.fixture
def device():
    return Device(ALICE)


@pytest.fixture
def gateway(gateway, keys_at, tmp_path):
    """With the keys in a file, or in PostgreSQL."""
    return lambda *args, **kw: gateway(*args, **dict({"keys": keys_at(tmp_path)}, **kw))


@pytest.fixture
def hold(request):
    """Keeps all other writers of a gateway's keys waiting, until the end of the `with`."""
    def held(g):
        if g.keys.startswith("sqlite:"):
            return locked(g)
        return request.getfixturevalue("cluster").held(g.keys.rsplit("/", 1)[1])
    return held


def started(gateway, device, *others, **kw):
    g = gateway(users=[device.user, *others], rules=rules(**kw))
    time.sleep(2.1)  # active since the whole second before the import
    return g


def test_both_are_renewed_and_used(gateway, device):
    g = started(gateway, device)
    old = kms.User(ALICE)
    old.__dict__.update(device.user.__dict__)
    r = good(g.ask(device.user, "/init"), device)
    new = device.new_keys(r)
    assert [(n[0], n[1], n[3]) for n in new] == [("NewTransportKey", "trk.2.alice", "trk.1.alice"),
                                                  ("NewIntegrityKey", "ink.2.alice", "trk.1.alice")]
    top = next(r.root.iter(q("KmsInit")))
    assert [etree.QName(e).localname for e in top][-2:] == ["NewTransportKey", "NewIntegrityKey"]
    assert top.get(q("type", XSI)) == "KmsInitTkIkType"
    d = g.last(1)
    assert d["response"]["renewed"] == ["trk.2.alice", "ink.2.alice"] and d["response"]["signed_by"] == "ink.1.alice"
    assert d["response"]["encrypted_by"] == "trk.1.alice"
    assert states(g) == {"ink.1.alice": "active", "trk.1.alice": "active", "ink.2.alice": "offered",
                         "trk.2.alice": "offered"}
    device.take(new)
    r = good(g.ask(device.user, "/keyprov"), device)  # signed by the new, encrypted under the new
    assert r.text("TrK-ID") == "trk.2.alice" and "renewed" not in g.last(2)["response"]
    for kind in ("ink", "trk"):
        wait_state(g, kind + ".2.alice", "active")
    assert states(g)["ink.1.alice"] == states(g)["trk.1.alice"] == "retiring"
    assert renewals(g) == {("trk", "offered"): 1, ("ink", "offered"): 1, ("trk", "confirmed"): 1,
                           ("ink", "confirmed"): 1}
    # who lost the reply goes on with the old, and is sent the active ones again
    lost = Device(ALICE)
    lost.user = old
    again = lost.new_keys(good(g.ask(old, "/keyprov"), lost))
    assert [(n[0], n[1], n[2]) for n in again] == [(n[0], n[1], n[2]) for n in new]
    assert renewals(g)[("ink", "resent")] == renewals(g)[("trk", "resent")] == 1


def test_the_old_one_ends(gateway, device):
    g = started(gateway, device, keep="2s")
    old = kms.User(ALICE)
    old.__dict__.update(device.user.__dict__)
    device.take(device.new_keys(good(g.ask(device.user, "/init"), device)))
    good(g.ask(device.user, "/init"), device)
    wait_state(g, "ink.2.alice", "active")
    time.sleep(2.5)
    assert g.ask(old, "/keyprov").error == "signature.invalid"
    assert g.decisions(3)[-1]["reason"] == "key.revoked"
    good(g.ask(device.user, "/keyprov"), device)


def test_nobody_else_is_given_one(gateway, device):
    """Not other messages, not under checks that only look on, not unsigned, not a user without TrK, not young keys."""
    dora = kms.User("sip:dora@example.org", trk=False)
    g = started(gateway, device, dora)
    assert not device.new_keys(good(g.ask(device.user, "/certcache"), device))
    assert not device.new_keys(good(g.ask(device.user, "/init", ClientId="lax"), device))
    bare = etree.tostring(kms.kms_request(kms.fields(device.user, g.url("/init"), ClientId="open",
                                                     **{"Signature-ID": None, "TrK-ID": None})))
    r = g.post("/init", bare)
    assert r.status == 200 and b"NewIntegrityKey" not in r.body
    r = g.ask(dora, "/init")
    assert r.status == 200 and b"NewIntegrityKey" not in r.body
    assert g.ask(device.user, "/init", signer=(device.user.ink_id, b"x" * 32)).status == 403
    assert renewals(g) == {} and not any("renewed" in d.get("response", {}) for d in g.decisions(5))
    assert device.new_keys(good(g.ask(device.user, "/init"), device))  # the twin of them all


def test_young_keys_stay(gateway, device):
    g = started(gateway, device, age="1h", keep="1s")
    assert not device.new_keys(good(g.ask(device.user, "/init"), device))
    g.run("keys", "renew", "--config", g.config, "--user", ALICE)
    kms.wait_for(lambda: device.new_keys(good(g.ask(device.user, "/init"), device)))


def test_the_first_ink(gateway):
    carol = Device("sip:carol@example.org", ink=False)
    g = gateway(users=[carol.user], rules=rules(age="1h"))
    new = carol.new_keys(good(g.ask(carol.user, "/init"), carol))
    assert [n[:2] for n in new] == [("NewIntegrityKey", "ink.1")]
    assert [n[:3] for n in carol.new_keys(good(g.ask(carol.user, "/keyprov"), carol))] == [n[:3] for n in new]
    carol.take(new)
    good(g.ask(carol.user, "/init"), carol)
    kms.wait_for(lambda: states(g, carol.user.uri)["ink.1"] == "active")
    trk = (carol.user.trk_id, carol.user.trk)
    assert kms.wait_for(lambda: g.ask(carol.user, "/init", signer=trk, **{"Signature-ID": trk[0]}).status == 403)


def test_fifty_at_once_give_one(gateway, device):
    g = started(gateway, device)
    bodies = [kms.signed_request(device.user, g.url("/init")) for _ in range(50)]
    with concurrent.futures.ThreadPoolExecutor(25) as pool:
        replies = list(pool.map(lambda b: g.post("/init", b), bodies))
    given = {n[:3] for r in replies for n in device.new_keys(good(r, device))}
    assert {n[:2] for n in given} == {("NewTransportKey", "trk.2.alice"), ("NewIntegrityKey", "ink.2.alice")}
    assert len(given) == 2
    counted = renewals(g)
    assert counted[("ink", "offered")] == counted[("trk", "offered")] == 1


def test_a_reply_that_is_lost_comes_again(gateway, device):
    g = started(gateway, device)
    first = {n[:3] for n in device.new_keys(good(g.ask(device.user, "/init"), device))}
    for _ in range(20):
        assert {n[:3] for n in device.new_keys(good(g.ask(device.user, "/init"), device))} == first


def test_a_reply_that_is_cut_off_comes_again(gateway, device):
    g = started(gateway, device)
    rng = random.Random(3)
    for _ in range(20):
        body = kms.signed_request(device.user, g.url("/init"))
        with socket.create_connection(("127.0.0.1", g.port)) as s:
            s.sendall(b"POST %s/init HTTP/1.1\r\nHost: %s\r\nContent-Type: application/xml\r\nContent-Length: %d"
                      b"\r\n\r\n" % (kms.BASE.encode(), g.public[7:].encode(), len(body)) + body)
            s.recv(rng.randrange(1, 2000))
    g.decisions(20)
    new = device.new_keys(good(g.ask(device.user, "/init"), device))
    assert [n[1] for n in new] == ["trk.2.alice", "ink.2.alice"]
    assert [n[:3] for n in device.new_keys(good(g.ask(device.user, "/init"), device))] == [n[:3] for n in new]
    assert sum(s == "offered" for s in states(g).values()) == 2
    assert renewals(g)[("ink", "offered")] == 1


def test_killed_at_a_random_moment(gateway, device):
    """Whatever its client got, it is not refused afterwards. (tests/long does so two hundred times.)"""
    g, rng = started(gateway, device), random.Random(1)
    for _ in range(2):
        killed_while_asked(g, device, rng)
        for _ in range(2):
            device.take(device.new_keys(good(g.ask(device.user, "/init"), device)))
        now = states(g)
        assert all(sum(k.startswith(kind) and s == state for k, s in now.items()) <= 1
                   for kind in ("ink", "trk") for state in ("active", "offered")), now


def test_a_locked_store_defers(gateway, device, hold):
    g = started(gateway, device)
    with hold(g):
        began = time.monotonic()
        r = good(g.ask(device.user, "/init"), device)
        took = time.monotonic() - began
        assert not device.new_keys(r) and 0.2 < took < 10
        assert "renewed" not in g.last(1)["response"] and g.last(1)["reason"] == "ok"
        assert renewals(g) == {("trk", "deferred"): 1, ("ink", "deferred"): 1}
        good(g.ask(device.user, "/init"), device)
        assert g.running.err.count(": no key can be offered, learnt or confirmed at present: ") == 1  # a minute
    kms.wait_for(lambda: device.new_keys(good(g.ask(device.user, "/init"), device)))


def test_what_was_sent_comes_again_without_the_store(gateway, device, hold):
    """Whoever was offered a key, or goes on using the older one, is given it again though the database is locked."""
    g = started(gateway, device)
    old = copy.copy(device.user)
    new = device.new_keys(good(g.ask(device.user, "/init"), device))
    lost = Device(ALICE)
    lost.user = old
    for result, take in (("offered", False), ("confirmed", True)):
        if take:
            device.take(new)
            good(g.ask(device.user, "/keyprov"), device)
            wait_state(g, "ink.2.alice", "active")
            wait_state(g, "trk.2.alice", "active")
        kms.wait_for(lambda: renewals(g).get(("ink", result)))
        kms.wait_for(lambda: lost.new_keys(good(g.ask(old, "/init"), lost)))
        time.sleep(1)  # what this gateway committed itself is followed at once; what another did, within that
        with hold(g):
            before = renewals(g).get(("ink", "resent"), 0)
            assert lost.new_keys(good(g.ask(old, "/init"), lost)) == new
            assert renewals(g)[("ink", "resent")] == before + 1 and ("ink", "deferred") not in renewals(g)


def test_a_store_that_cannot_be_written_defers(tmp_path, device):
    """On a file system that is mounted read-only, in a name space of the gateway's own."""
    (tmp_path / "keys").mkdir()
    g = conftest.Gateway(tmp_path, [device.user], rules=rules(), keys="sqlite:keys/kmsgate.db", config="state: .\n",
                         start=False)
    read_only = 'mount --bind keys keys && mount -o remount,ro,bind keys || exit 77; exec "$@"'
    serve = [conftest.BUILD / "kmsgate", *kms.SERVE, "--config", g.config]
    time.sleep(2.1)
    g.running = kms.Process(["unshare", "--mount", "sh", "-c", read_only, "sh", *serve], tmp_path, "gateway")
    try:
        kms.wait_for(lambda: g.running.p.poll() is not None or g.ready())
        if g.running.p.returncode in (1, 77) and ("unshare: " in g.running.err or "mount: " in g.running.err):
            pytest.skip("no name space of one's own: " + g.running.err)
        assert not device.new_keys(good(g.ask(device.user, "/init"), device))
        assert renewals(g) == {("trk", "deferred"): 1, ("ink", "deferred"): 1} and g.last(1)["reason"] == "ok"
        assert g.stop() == 0 and "ERROR: " not in g.running.err
    finally:
        g.stop()


def test_no_carried_key_name(gateway, device):
    g = started(gateway, device, more=", carried_key_name: off")
    new = device.new_keys(good(g.ask(device.user, "/keyprov"), device))
    assert [n[:2] for n in new] == [("NewTransportKey", None), ("NewIntegrityKey", None)]
    assert g.last(1)["response"]["renewed"] == ["trk.2.alice", "ink.2.alice"]


def test_within_an_encrypted_message(gateway, device):
    g = started(gateway, device, more=", encrypt: { content: message }")
    r = good(g.ask(device.user, "/keyprov"), device)
    assert b"NewIntegrityKey" not in r.body
    assert g.last(1)["response"]["renewed"] == ["trk.2.alice", "ink.2.alice"]


def test_no_new_key_in_what_is_written_down(gateway, device):
    """Nor in what others are answered."""
    bob = Device("sip:carl@example.org")
    g = started(gateway, device, bob.user)
    octets = [n[2] for n in device.new_keys(good(g.ask(device.user, "/init"), device))]
    assert len(octets) == 2
    other = g.ask(kms.User("sip:bob@example.org"), "/init").body + g.ask(bob.user, "/init").body
    g.decisions(3)
    files = [p for p in g.folder.iterdir() if p.is_file()]
    assert len(files) > 5
    for o in octets:
        for form in (o, o.hex().encode(), o.hex().upper().encode(), base64.b64encode(o)):
            assert not [p for p in files if form in p.read_bytes()]
            assert form not in other + g.admin("/decisions?n=10")[1].encode() + g.admin("/metrics")[1].encode()


def test_a_client_that_leaves_while_it_is_waited_for(gateway, device, hold):
    g = started(gateway, device)
    def leave(body):
        with socket.create_connection(("127.0.0.1", g.port)) as s:
            s.sendall(b"POST %s/init HTTP/1.1\r\nHost: %s\r\nContent-Type: application/xml\r\nContent-Length: %d"
                      b"\r\n\r\n" % (kms.BASE.encode(), g.public[7:].encode(), len(body)) + body)
            time.sleep(0.1)
    with hold(g), concurrent.futures.ThreadPoolExecutor(5) as pool:
        list(pool.map(leave, [kms.signed_request(device.user, g.url("/init")) for _ in range(5)]))
        g.decisions(5)
    kms.wait_for(lambda: device.new_keys(good(g.ask(device.user, "/init"), device)))


# --- `kmsgate request` and `open`, which keep what they are given

def client(g, user, file, *more, path="/keyprov", code=0, **kw):
    r = g.run("request", "--url", g.url(path), "--user", user.uri, "--keys", file, "--kms-uri", "kms.example.org", *more,
              check=False, **kw)
    assert r.returncode == code and "ERROR: " not in r.stderr, r.stdout + r.stderr
    return r


@pytest.fixture
def wallet(tmp_path, device):
    path = tmp_path / "wallet.jsonl"
    path.write_text("\n".join(device.user.lines() + kms.User("sip:bob@example.org").lines()))  # no end of line
    path.chmod(0o640)
    return path


def test_what_is_offered_retires_by_its_use_alone(gateway, device):
    g = started(gateway, device)
    assert device.new_keys(good(g.ask(device.user, "/init"), device))
    own = ("--config", g.config, "--user", device.user.uri, "--id")
    r = g.run("keys", "retire", *own, "ink.2.alice", check=False)
    assert r.returncode == 1 and "is offered and becomes active when its user uses it" in r.stderr
    assert "ink.2.alice: offered" in g.run("keys", "show", *own[:4]).stdout
    g.run("keys", "revoke", *own, "ink.2.alice")  # what it names


def test_request_keeps_new_keys(gateway, device, wallet, tmp_path):
    g = started(gateway, device)
    before = wallet.read_text()
    link = tmp_path / "link.jsonl"
    link.symlink_to(wallet)
    r = client(g, device.user, link, "--no-proof", "--out", tmp_path / "reply.xml")
    assert "NewIntegrityKey" in r.stdout and "named ink.2.alice" in r.stdout and ": trk trk.2.alice" in r.stdout
    after = wallet.read_text()
    assert after.startswith(before + "\n") and link.is_symlink()
    assert wallet.stat().st_mode & 0o777 == 0o640
    added = [json.loads(x) for x in after[len(before) + 1:].splitlines()]
    assert [(k["user"], k["type"], k["id"]) for k in added] == [(ALICE, "trk", "trk.2.alice"),
                                                                (ALICE, "ink", "ink.2.alice")]
    assert not any(k["key"] in r.stdout + r.stderr for k in added)
    assert [p for p in tmp_path.iterdir() if p.name.startswith("wallet.jsonl.")] == []
    r = client(g, device.user, wallet, "--no-proof")  # signed by the new one
    assert "signed by ink.2.alice" in r.stdout and "under trk.2.alice" in r.stdout and "New" not in r.stdout
    assert wallet.read_text() == after
    wait_state(g, "ink.2.alice", "active")
    wait_state(g, "trk.2.alice", "active")
    r = g.run("open", "--user", ALICE, "--keys", wallet, tmp_path / "reply.xml")
    assert "named trk.2.alice" in r.stdout and "named ink.2.alice" in r.stdout and "kept" not in r.stdout
    assert wallet.read_text() == after
    assert g.run("keys", "import", "--config", g.config, "--dry-run", wallet).returncode == 0


def test_request_keeps_what_the_request_for_the_certificate_brought(gateway, device, wallet):
    g = started(gateway, device)
    r = client(g, device.user, wallet, "--proof")
    assert "signed by ink.2.alice" in r.stdout and "proven: " in r.stdout
    assert [d["key_id"] for d in g.decisions(2)] == ["ink.1.alice", "ink.2.alice"]


def test_many_requests_keep_one_file(gateway, device, wallet):
    g = started(gateway, device)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client(g, device.user, wallet, "--no-proof"), range(8)))
    ids = [json.loads(x)["id"] for x in wallet.read_text().splitlines()]
    assert sorted(ids) == sorted(["ink.1.alice", "trk.1.alice", "ink.1.bob", "trk.1.bob", "ink.2.alice", "trk.2.alice"])


def test_what_cannot_be_kept_is_told(gateway, device, wallet):
    g = started(gateway, device)
    other = dict(json.loads(device.user.lines()[0]), id="ink.2.alice", key="ab" * 32, state="retiring")
    wallet.write_text("\n".join(device.user.lines() + [json.dumps(other)]) + "\n")
    before = wallet.read_text()
    r = client(g, device.user, wallet, "--no-proof", code=1)
    assert "another key under the ID of a new one" in r.stderr and wallet.read_text() == before
    with wallet.open() as keys:  # nowhere to keep them
        r = client(g, device.user, "-", "--no-proof", code=1, stdin=keys)
    assert "which cannot be kept: --keys is standard input" in r.stderr
