"""New keys that the upstream itself issues: `new_keys: learn` and `replace`, and what each refuses."""
import base64
import copy
import itertools
import json
import os

import pytest
from cryptography.hazmat.primitives import keywrap
from lxml import etree

import kms
import scripted
from kms import DS, XENC
from renewing import Device, good, locked, renewals, states
from scripted import certificate, init, key_prov, key_set, response

K = scripted.Keys()
# ClientId: (what its request rule adds, its response rule)
CASES = {
    "default": ("", "new_keys: learn"),
    "hour": ("", "new_keys: { learn: { keep_old: 1h } }"),
    "unnamed": ("", "new_keys: learn, carried_key_name: off"),
    "message": ("", "new_keys: learn, encrypt: { content: message }"),
    "never": ("", "new_keys: learn, encrypt: { when: never }"),
    "signature": ("checks: { signature: shadow }", "new_keys: learn"),
    "policy": ("checks: { key_policy: shadow }", "new_keys: learn"),
    "again": ("checks: { replay: off }", "new_keys: learn"),
    "replace": ("", "new_keys: replace"),
    "replace-renew": ("", "new_keys: replace, renew: { ink: 90d, keep_old: 2h }"),
    "replace-again": ("checks: { replay: off }", "new_keys: replace"),
    "vendor": ("", "new_keys: learn, dialect: vendor"),
}
_names = itertools.count()


def rules():
    out = ["version: 1", "kms: { uris: [kms.example.org], id: kms-01 }", "errors: { detail: reason }", "requests:"]
    out += ["  - { id: %s, why: a test, match: { client_id: %s }, accept: [signed, unsigned]%s }" % (
        n, n, ", " + more if more else "") for n, (more, _) in CASES.items()]
    out += ["responses:"] + ["  - { id: %s, match: { rule: %s }, %s }" % (n, n, r) for n, (_, r) in CASES.items()]
    out.append("dialects: { vendor: { namespaces: [''], key_text: base64,"
               " rename: { NewTrK: NewTransportKey, NewInK: NewIntegrityKey } } }")
    return "\n".join(out) + "\n"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    b = scripted.Bench(tmp_path_factory.mktemp("learning"), [kms.User("sip:first@example.org")], rules())
    yield b
    b.stop()


@pytest.fixture
def device(bench):
    """A user of this test alone."""
    return user_of(bench)


def user_of(bench, **kw):
    d = Device("sip:user%d@example.org" % next(_names), **kw)
    add(bench, *d.user.lines())
    return d


def add(bench, *lines):
    file = bench.gate.folder / "more.jsonl"
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o600)
    bench.gate.run("keys", "import", "--config", bench.gate.config, file)
    for line in map(json.loads, lines):  # the gateway follows within a second
        user = kms.User(line["user"])
        user.ink_id = user.trk_id = None
        setattr(user, line["type"] + "_id", line["id"])
        setattr(user, line["type"], bytes.fromhex(line["key"]))
        if line.get("state") != "revoked":
            kms.wait_for(lambda: knows(bench, user))


def knows(bench, user):
    _, d = bench.ask(user, "/init", response(init(certificate()), user=user.uri), case="again")
    return d["checks"]["signature"] == "pass"


def clear(element, octets=None):
    return "<%s>%s</%s>" % (element, (octets or K.octets[element]).hex(), element)


def wrapped(element, octets, trk, trk_id, name=None):
    blob = base64.b64encode(keywrap.aes_key_wrap(trk, octets)).decode()
    return ("<%s><EncryptedKey xmlns='%s'><EncryptionMethod Algorithm='%skw-aes256'/><KeyInfo xmlns='%s'><KeyName>%s"
            "</KeyName></KeyInfo><CipherData><CipherValue>%s</CipherValue></CipherData>%s</EncryptedKey></%s>" % (
                element, XENC, XENC, DS, trk_id, blob, "<CarriedKeyName>%s</CarriedKeyName>" % name if name else "",
                element))


def issuing(bench, device, *new, path="/init", case="default", **over):
    """A signed request that the upstream answers with those new keys: (reply, decision)."""
    uri = device.user.uri
    body = (response(init(certificate(), *new), user=uri) if path == "/init"
            else response(key_prov(key_set(K, uri), *new), user=uri))
    return bench.ask(device.user, path, body, case=case, **over)


def refused(r, d, status, reason):
    assert (r.status, d["reason"], r.error) == (status, reason, reason), (r.body, d)
    assert b"NewIntegrityKey" not in r.body and "renewed" not in d.get("response", {})
    scripted.check_xsd(r)


def listed(bench, device):
    out = bench.gate.run("keys", "list", "--config", bench.gate.config, "--user", device.user.uri, "--format", "json")
    return {k["id"]: k for k in map(json.loads, out.stdout.splitlines())}


def end_of(key, seconds, of):
    end = kms.datetime.fromisoformat(key["not_after"].replace("Z", "+00:00")).timestamp()
    return abs(end - of - seconds) < 60


def random_pair():
    return os.urandom(32), os.urandom(32)


@pytest.mark.parametrize("path", ["/init", "/keyprov"])
def test_in_clear_and_counted(bench, path):
    device = user_of(bench)
    name = device.user.ink_id[6:]
    old, before = copy.copy(device.user), renewals(bench.gate)
    trk, ink = random_pair()
    r, d = issuing(bench, device, clear("NewTransportKey", trk), clear("NewIntegrityKey", ink), path=path, case="hour")
    new = device.new_keys(good(r, device))
    assert [n[:3] for n in new] == [("NewTransportKey", "trk.2." + name, trk),
                                    ("NewIntegrityKey", "ink.2." + name, ink)]
    assert ink.hex().encode() not in r.body.lower() and trk.hex().encode() not in r.body.lower()
    assert d["reason"] == "ok" and d["response"]["renewed"] == ["trk.2." + name, "ink.2." + name]
    assert d["response"]["signed_by"] == old.ink_id and d["response"]["encrypted_by"] == old.trk_id
    keys = listed(bench, device)
    assert {k: (v["state"], v["origin"]) for k, v in keys.items()} == {
        old.ink_id: ("active", "imported"), old.trk_id: ("active", "imported"),
        "ink.2." + name: ("offered", "learnt"), "trk.2." + name: ("offered", "learnt")}
    device.take(new)
    r, d = issuing(bench, device, path=path, case="hour")  # signed by the new InK, under the new TrK
    assert good(r, device).text("TrK-ID") == (None if path == "/init" else "trk.2." + name)
    used = kms.time.time()
    assert "renewed" not in d["response"]
    kms.wait_for(lambda: {states(bench.gate, old.uri).get("%s.2.%s" % (t, name)) for t in ("ink", "trk")} == {"active"})
    keys = listed(bench, device)
    assert keys[old.ink_id]["state"] == keys[old.trk_id]["state"] == "retiring"
    assert end_of(keys[old.ink_id], 3600, used)
    for kind in ("ink", "trk"):
        for result in ("learnt", "confirmed"):
            assert renewals(bench.gate)[(kind, result)] == before.get((kind, result), 0) + 1
    assert bench.ask(old, "/init", response(init(), user=old.uri))[0].status == 200  # the old one goes on


def test_under_a_trk_and_named(bench, device):
    """The ID is what CarriedKeyName says; the TrK may be another of the user's than the reply's."""
    u, (trk, ink) = device.user, random_pair()
    other = os.urandom(32)
    add(bench, json.dumps({"user": u.uri, "type": "trk", "id": "trk.0", "key": other.hex(), "state": "retiring"}))
    r, d = issuing(bench, device, wrapped("NewTransportKey", trk, other, "trk.0", "the-new-trk"),
                   wrapped("NewIntegrityKey", ink, u.trk, u.trk_id, "ink.x"))
    assert [n[:3] for n in device.new_keys(good(r, device))] == [("NewTransportKey", "the-new-trk", trk),
                                                                 ("NewIntegrityKey", "ink.x", ink)]
    assert d["response"]["renewed"] == ["the-new-trk", "ink.x"]
    assert states(bench.gate, u.uri)["ink.x"] == "offered"


def test_the_rest_of_the_rule_holds(bench, device):
    trk, ink = random_pair()
    new = [clear("NewTransportKey", trk), clear("NewIntegrityKey", ink)]
    r, d = issuing(bench, device, *new, case="unnamed", path="/keyprov")
    assert [n[1:3] for n in device.new_keys(good(r, device))] == [(None, trk), (None, ink)]
    names = d["response"]["renewed"]
    r, d = issuing(bench, device, *new, case="message", path="/keyprov")
    assert b"NewIntegrityKey" not in good(r, device).body and d["response"]["renewed"] == names
    found = dict(r.keys(device.user.trk, device.user.trk_id))
    assert (found["NewTransportKey"], found["NewIntegrityKey"]) == (trk, ink)
    r, d = issuing(bench, device, *new, case="never", path="/keyprov")  # a new key is never in clear
    assert [n[2] for n in device.new_keys(good(r, device))] == [trk, ink] and d["response"]["renewed"] == names
    assert b"<UserSigningKeySSK" in r.body and K.octets["UserSigningKeySSK"].hex().encode() in r.body.lower()


def test_a_dialect_that_calls_them_otherwise(bench, device):
    ink = os.urandom(32)
    body = response(key_prov("<NewInK>%s</NewInK>" % base64.b64encode(ink).decode()), user=device.user.uri, root="")
    r, d = bench.ask(device.user, "/keyprov", body, case="vendor")
    assert [(n[0], n[2]) for n in device.new_keys(good(r, device))] == [("NewIntegrityKey", ink)]


def test_what_is_refused(bench, device):
    """Each beside its twin, which is learnt; nothing of the refused is in the store."""
    u, (trk, ink), other = device.user, random_pair(), kms.User("sip:first@example.org")
    dead = os.urandom(32)
    add(bench, json.dumps({"user": u.uri, "type": "ink", "id": "dead", "key": dead.hex(), "state": "revoked"}),
        json.dumps({"user": u.uri, "type": "trk", "id": "dead.trk", "key": trk.hex(), "state": "revoked"}))
    before = states(bench.gate, u.uri)
    name, ok = "NewIntegrityKey", os.urandom(32)
    bad = {
        "other bytes than the TrK's": [wrapped(name, ink, os.urandom(32), u.trk_id)],
        "no TrK of that ID": [wrapped(name, ink, u.trk, "trk.1.nobody")],
        "an InK's ID": [wrapped(name, ink, u.ink, u.ink_id)],
        "a TrK that was revoked": [wrapped(name, ink, trk, "dead.trk")],
        "two of a type": [clear(name, ink), clear(name, ok)],
        "all zero": [clear(name, bytes(32))],
        "the TrK": [clear(name, u.trk)],
        "one key for both": [clear("NewTransportKey", ink), clear(name, ink)],
        "a good TrK beside it": [clear("NewTransportKey", os.urandom(32)), clear(name, bytes(32))],
        "a TrK of a known ID beside it": [wrapped("NewTransportKey", os.urandom(32), u.trk, u.trk_id, u.trk_id),
                                          clear(name, ink)],
        "a known ID, other bytes": [wrapped(name, ink, u.trk, u.trk_id, u.ink_id)],
        "the ID of a TrK": [wrapped(name, ink, u.trk, u.trk_id, u.trk_id)],
        "bytes that were revoked": [clear(name, dead)],
        "… under their ID": [wrapped(name, dead, u.trk, u.trk_id, "dead")],
        "… under another": [wrapped(name, dead, u.trk, u.trk_id, "alive")],
        "an ID with a space behind": [wrapped(name, ink, u.trk, u.trk_id, "ink.9 ")],
        "an ID that no screen shows": [wrapped(name, ink, u.trk, u.trk_id, "ink.\u202e9")],
        "an ID that is too long": [wrapped(name, ink, u.trk, u.trk_id, "i" * 1025)],
        "no key": ["<%s>%s</%s>" % (name, ink.hex()[:-2], name)],
    }
    for what, new in bad.items():
        r, d = issuing(bench, device, *new)
        assert (r.status, d["reason"]) == (502, "upstream.invalid"), what
        refused(r, d, 502, "upstream.invalid")
        assert states(bench.gate, u.uri) == before, what
    err = bench.gate.running.err
    for part in ("expected one at most", "all-zero", "is known with other bytes, or was revoked", "which was revoked",
                 "InK and TrK of the user are the same", "expected the ID of a TrK that the user has"):
        assert part in err, part
    r, d = issuing(bench, device, wrapped(name, ok, u.trk, u.trk_id, "ink.good"))
    assert [n[1:3] for n in device.new_keys(good(r, device))] == [("ink.good", ok)]


def test_only_for_who_has_proved_who_he_is(bench, device):
    new, u = [clear("NewIntegrityKey", os.urandom(32))], device.user
    for case in ("signature", "policy", "again"):
        refused(*issuing(bench, device, *new, case=case), 502, "upstream.invalid")
    body = response(init(certificate(), *new), user=u.uri)
    r, d = bench.ask_bare(u, "/init", body)
    refused(r, d, 502, "upstream.invalid")
    assert not r.signed and not d["proven"]
    assert len(states(bench.gate, u.uri)) == 2
    assert len(device.new_keys(good(issuing(bench, device, *new)[0], device))) == 1  # the twin of them all


def test_without_a_trk(bench):
    dora = user_of(bench, trk=False)
    r, d = issuing(bench, dora, clear("NewTransportKey"))
    refused(r, d, 500, "protect.no_key")
    assert list(states(bench.gate, dora.user.uri).values()) == ["active"]


def test_the_first_ink(bench):
    carol, ink = user_of(bench, ink=False), os.urandom(32)
    new = carol.new_keys(good(issuing(bench, carol, clear("NewIntegrityKey", ink))[0], carol))
    assert [n[1:3] for n in new] == [("ink.1", ink)]
    trk = carol.user.signer()
    carol.take(new)
    good(issuing(bench, carol)[0], carol)
    kms.wait_for(lambda: states(bench.gate, carol.user.uri)["ink.1"] == "active")
    kms.wait_for(lambda: issuing(bench, carol, signer=trk, **{"Signature-ID": trk[0]})[0].status == 403)


def test_an_older_offer_goes_on(bench, device):
    """A reply that the client got late, or twice: what it goes on with is active then."""
    u, first, second = device.user, os.urandom(32), os.urandom(32)
    name = u.ink_id[6:]
    one = device.new_keys(good(issuing(bench, device, clear("NewIntegrityKey", first), case="hour")[0], device))
    two = device.new_keys(good(issuing(bench, device, clear("NewIntegrityKey", second), case="hour")[0], device))
    assert [n[1] for n in one + two] == ["ink.2." + name, "ink.3." + name]
    keys = listed(bench, device)
    assert [keys["ink.%d.%s" % (i, name)]["state"] for i in (1, 2, 3)] == ["active", "retiring", "offered"]
    assert end_of(keys["ink.2." + name], 3600, kms.time.time())
    device.take(one)
    good(issuing(bench, device)[0], device)
    kms.wait_for(lambda: states(bench.gate, u.uri)["ink.2." + name] == "active")
    assert states(bench.gate, u.uri)["ink.1." + name] == "retiring"
    assert "not_after" not in listed(bench, device)["ink.2." + name]
    device.take(two)
    good(issuing(bench, device)[0], device)
    kms.wait_for(lambda: states(bench.gate, u.uri)["ink.3." + name] == "active")


def test_the_same_again(bench, device):
    """An upstream that repeats itself until its key is used, or for ever; nobody waits for the store then."""
    u, (trk, ink) = device.user, random_pair()
    new = [clear("NewTransportKey", trk), clear("NewIntegrityKey", ink)]
    first = device.new_keys(good(issuing(bench, device, *new)[0], device))
    before = renewals(bench.gate)
    kms.wait_for(lambda: issuing(bench, device)[0].status == 200 and states(bench.gate, u.uri))
    with locked(bench.gate):
        kms.wait_for(lambda: issuing(bench, device, *new)[0].status == 200)  # followed by now
        r, d = issuing(bench, device, *new)
        assert device.new_keys(good(r, device)) == first and d["response"]["renewed"] == [n[1] for n in first]
    assert renewals(bench.gate)[("ink", "resent")] > before.get(("ink", "resent"), 0)
    assert sum(s == "offered" for s in states(bench.gate, u.uri).values()) == 2
    device.take(first)
    good(issuing(bench, device, *new)[0], device)  # the one that he has already
    kms.wait_for(lambda: sorted(states(bench.gate, u.uri).values()) == ["active"] * 2 + ["retiring"] * 2)
    assert len(states(bench.gate, u.uri)) == 4


def test_a_store_that_is_away(bench, device):
    """Never a reply without the key: the client would go on with one that nobody here knows."""
    ink = os.urandom(32)
    before = renewals(bench.gate)
    with locked(bench.gate):
        r, d = issuing(bench, device, clear("NewIntegrityKey", ink))
        refused(r, d, 503, "keys.unavailable")
        assert r.headers["Retry-After"] and r.verify(device.user.ink, device.user.ink_id)
        assert d["verdict"] == "accept" and d["status"] == 503 and d["upstream"]["status"] == 200
        good(issuing(bench, device)[0], device)  # whatever brings none goes on
    assert renewals(bench.gate)[("ink", "deferred")] == before.get(("ink", "deferred"), 0) + 1
    kms.wait_for(lambda: issuing(bench, device, clear("NewIntegrityKey", ink))[0].status == 200)
    assert ink.hex().encode() not in (bench.gate.folder / "decisions.jsonl").read_bytes()


def test_no_issued_key_in_what_is_written_down(bench, device):
    """Learnt, replaced, refused or not to be committed: nor in what others are answered."""
    u, octets = device.user, [os.urandom(32) for _ in range(6)]
    name = "NewIntegrityKey"
    good(issuing(bench, device, clear("NewTransportKey", octets[0]), clear(name, octets[1]))[0], device)
    good(issuing(bench, device, wrapped(name, octets[2], u.trk, u.trk_id, "ink.named"))[0], device)
    good(issuing(bench, device, clear(name, octets[3]), case="replace")[0], device)
    refused(*issuing(bench, device, clear(name, octets[4]), clear(name, octets[4])), 502, "upstream.invalid")
    with locked(bench.gate):
        refused(*issuing(bench, device, clear(name, octets[5])), 503, "keys.unavailable")
    other = kms.User("sip:first@example.org")
    told = bench.gate.running.err.encode() + bench.gate.ask(other, "/init").body + b"".join(
        bench.gate.admin(path)[1].encode() for path in ("/decisions?n=100", "/metrics", "/", "/rules"))
    files = [p for p in bench.gate.folder.rglob("*") if p.is_file()]
    assert {"kmsgate.db", "decisions.jsonl"} <= {p.name for p in files}
    for o in octets:
        for form in (o, o.hex().encode(), o.hex().upper().encode(), base64.b64encode(o)):
            assert not [p for p in files if form in p.read_bytes()] and form not in told


def test_another_users(bench, device):
    body = response(init(certificate(), clear("NewIntegrityKey")), user="sip:first@example.org")
    for case in ("default", "replace"):
        refused(*bench.ask(device.user, "/init", body, case=case), 502, "upstream.wrong_user")


def test_seventy(bench, device):
    u = device.user
    for i in range(70):
        ink = os.urandom(32)
        new = device.new_keys(good(issuing(bench, device, clear("NewIntegrityKey", ink))[0], device))
        assert [n[1:3] for n in new] == [("ink.%d.%s" % (i + 2, u.ink_id.split(".", 2)[2]), ink)]
        device.take(new)
        good(issuing(bench, device)[0], device)
    kms.wait_for(lambda: states(bench.gate, u.uri)[u.ink_id] == "active")
    assert len(states(bench.gate, u.uri)) <= 1 + 1 + 8 + 2


def test_no_id_comes_twice(bench, device):
    """A client that never uses what it is given: old offers are pruned, but no other bytes get their IDs, under which
    it would name a key that it has not."""
    given = []
    for _ in range(16):
        trk, ink = random_pair()
        new = clear("NewTransportKey", trk), clear("NewIntegrityKey", ink)
        tries = (issuing(bench, device, *new)[0] for _ in range(50))
        r = next(r for r in tries if r.status != 503)  # which a slow disk makes of it
        given += [n[1] for n in device.new_keys(good(r, device))]
    assert len(given) == len(set(given)) == 32, given
    assert len(states(bench.gate, device.user.uri)) < 32, "none was pruned"


# --- replace

def test_replaced_by_our_own(bench, device):
    u, (trk, ink) = device.user, random_pair()
    name = u.ink_id[6:]
    r, d = issuing(bench, device, clear("NewTransportKey", trk), clear("NewIntegrityKey", ink), case="replace")
    new = device.new_keys(good(r, device))
    assert [n[:2] for n in new] == [("NewTransportKey", "trk.2." + name), ("NewIntegrityKey", "ink.2." + name)]
    assert not {trk, ink} & {n[2] for n in new} and d["response"]["renewed"] == ["trk.2." + name, "ink.2." + name]
    assert listed(bench, device)["ink.2." + name]["origin"] == "renewed"
    device.take(new)
    good(issuing(bench, device, case="replace")[0], device)
    kms.wait_for(lambda: states(bench.gate, u.uri)["ink.2." + name] == "active")
    assert end_of(listed(bench, device)["ink.1." + name], 7 * 86400, kms.time.time())
    # only what it issues: no age is said
    r, d = issuing(bench, device, clear("NewTransportKey", os.urandom(32)), case="replace")
    assert [n[:2] for n in device.new_keys(good(r, device))] == [("NewTransportKey", "trk.3." + name)]


def test_replaced_beside_renew(bench, device):
    u = device.user
    name = u.ink_id[6:]
    r, _ = issuing(bench, device, case="replace-renew")
    assert not device.new_keys(good(r, device))  # young
    new = device.new_keys(good(issuing(bench, device, clear("NewIntegrityKey"), case="replace-renew")[0], device))
    assert [n[:2] for n in new] == [("NewIntegrityKey", "ink.2." + name)]
    device.take(new)
    good(issuing(bench, device, case="replace-renew")[0], device)
    kms.wait_for(lambda: states(bench.gate, u.uri)["ink.2." + name] == "active")
    assert end_of(listed(bench, device)["ink.1." + name], 7200, kms.time.time())


def test_replaced_by_nothing(bench, device):
    """Where nobody may be given one, or it cannot be committed, what the upstream issues is left out: nobody is locked
    out by that."""
    u, (trk, ink) = device.user, random_pair()
    odd = [clear("NewTransportKey", trk), clear("NewTransportKey", ink),
           wrapped("NewIntegrityKey", ink, os.urandom(32), "nobody's")]

    def without(r, d):
        assert (r.status, d["reason"]) == (200, "ok"), (r.body, d)
        assert not r.response.findall(".//" + kms.q("NewTransportKey")) and b"NewIntegrityKey" not in r.body
        assert b"TkIkType" not in r.body and "renewed" not in d["response"]
        assert not any(f in r.body for o in (trk, ink) for f in scripted.forms_of(o))
        scripted.check_xsd(r)

    for path in ("/init", "/keyprov"):
        without(*issuing(bench, device, *odd, path=path, case="replace-again"))
    without(*bench.ask_bare(u, "/init", response(init(certificate(), *odd), user=u.uri), case="replace"))
    dora = user_of(bench, trk=False)
    without(*issuing(bench, dora, *odd, case="replace"))
    with locked(bench.gate):
        without(*issuing(bench, device, *odd, case="replace"))
    assert len(states(bench.gate, u.uri)) == 2
    assert len(device.new_keys(good(issuing(bench, device, *odd, case="replace")[0], device))) == 2


def test_kmsgate_request_takes_them_up(bench, device, tmp_path):
    ink = os.urandom(32)
    wallet = tmp_path / "wallet.jsonl"
    wallet.write_text("\n".join(device.user.lines()) + "\n")
    bench.upstream.says(response(key_prov(key_set(K, device.user.uri), clear("NewIntegrityKey", ink)),
                                 user=device.user.uri))
    ask = ["request", "--url", bench.gate.url("/keyprov"), "--user", device.user.uri, "--keys", wallet, "--kms-uri",
           "kms.example.org", "--no-proof", "--client-id", "default"]
    assert "NewIntegrityKey" in bench.gate.run(*ask).stdout
    new = json.loads(wallet.read_text().splitlines()[-1])
    assert bytes.fromhex(new["key"]) == ink
    assert "signed by " + new["id"] in bench.gate.run(*ask).stdout
    assert etree.fromstring(bench.upstream.seen[-1][1]).findtext(kms.q("UserUri")) == device.user.uri
