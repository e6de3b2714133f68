"""Six kinds of clients through rules/mixed-fleet.yaml: each gets what it can read, and no stranger gets it."""
import re
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from lxml import etree

import kms
from kms import q
from scripted import check_xsd

ROOT = Path(__file__).parents[2]
RULES = re.sub(r"until: \S+", "until: %d-12-31" % (date.today().year + 1), re.sub(r"since: \S+", "since: 2020-01-01",
                                                          (ROOT / "rules" / "mixed-fleet.yaml").read_text()))
USERS = {name: kms.User("sip:%s@%s" % (name, domain)) for name, domain in
         [("alice", "example.org"), ("r13", "example.org"), ("dispatch-1", "example.org"), ("console", "example.org"),
          ("radio", "field.example.org"), ("token", "example.org")]}
RADIO = USERS["radio"]


@pytest.fixture
def fleet(gateway):
    return gateway(list(USERS.values()), rules=RULES, listen="    trusted_proxies: [127.0.0.1/32]")


def local_time():
    """Local time, an hour ahead of UTC, without a zone and somewhat late."""
    return (datetime.now(timezone.utc) + timedelta(hours=1, seconds=-20)).strftime("%Y-%m-%dT%H:%M:%S.%f")


def unsigned(user, url, **over):
    return etree.tostring(kms.kms_request(kms.fields(user, url, **dict({"Signature-ID": None, "TrK-ID": None}, **over)),
                                          version=over.pop("version", "1.1.0")))


class Kind:
    """How one kind asks: from where, for what, with which body; what it then gets."""

    def __init__(self, user, source, rule, body, path="/keyprov", signed=True, encrypted=True, proven=True, headers=None):
        self.user, self.source, self.rule, self.body, self.path = USERS[user], source, rule, body, path
        self.signed, self.encrypted, self.proven, self.headers = signed, encrypted, proven, headers or {}

    def ask(self, g, source=None):
        return g.post(self.path, self.body(g, self), dict(self.headers, **{"X-Forwarded-For": source or self.source}))


def signed_body(**over):
    sig = over.pop("sig", {})
    return lambda g, k: kms.signed_request(k.user, g.url(k.path), sig=sig, **over)


KINDS = {
    "standard": Kind("alice", "192.0.2.1", "standard", signed_body()),
    "release-13": Kind("r13", "10.13.0.9", "release-13", signed_body(sig={"hmac_bits": 128})),
    "dispatch": Kind("dispatch-1", "10.14.0.9", "dispatch", signed_body(KmsUri="http://kms.example.org:8080"),
                     path="/keyprov/sip%3Agroup-7%40example.org"),
    "console": Kind("console", "10.40.0.9", "console", lambda g, k: unsigned(k.user, g.url(k.path)), proven=False),
    "radio": Kind("radio", "10.20.0.9", "radio", lambda g, k: unsigned(
        k.user, g.url("/keyprov"), KmsUri="http://kms.example.org:9000", Time=local_time(), ClientId=None, DeviceId=None),
        path="/keyprov/sip%3Aradio%40field.example.org", signed=False, encrypted=False, proven=False,
        headers={"X-Fleet": "7"}),
    "token": Kind("token", "10.30.0.9", "token", lambda g, k: b"", path="/keyprov/sip%3Atoken%40example.org", signed=False,
                  encrypted=False, proven=False, headers={"Authorization": "Bearer abc.def"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_kind(fleet, name):
    kind = KINDS[name]
    reply = kind.ask(fleet)
    assert reply.status == 200, (reply.body, fleet.last(1))
    check_xsd(reply)
    decision = fleet.last(1)
    assert (decision["verdict"], decision["reason"], decision["rule"]) == ("accept", "ok", kind.rule)
    assert decision["proven"] is kind.proven and decision["user"] == kind.user.uri
    assert decision["source"] == kind.source
    assert reply.signed == kind.signed
    if kind.signed:
        assert reply.verify(*[kind.user.ink, kind.user.ink_id])
    else:
        assert reply.root.tag == q("KmsResponse") and reply.root.get("Id") and reply.root.get("Version") == "1.0.0"
        assert reply.text("Signature-ID") is None
    assert (reply.text("TrK-ID") is not None) == kind.encrypted
    keys = dict(reply.keys(kind.user.trk, kind.user.trk_id))
    assert {n: len(o) for n, o in keys.items()} == {n: kms.KEY_CONTENT[n] for n in keys} and len(keys) == 3
    assert reply.text("UserUri") == kind.user.uri and reply.text("KmsUri") == "kms.example.org"
    seen = fleet.upstream_requests()
    assert len(seen) == 1


def test_all_at_once(fleet):
    """The whole fleet in turn: a rule for one kind takes nothing from another."""
    for _ in range(2):
        for kind in KINDS.values():
            assert kind.ask(fleet).status == 200
    decisions = fleet.decisions(2 * len(KINDS))
    assert [d["rule"] for d in decisions] == 2 * [k.rule for k in KINDS.values()]


@pytest.mark.parametrize("name", [n for n in KINDS if n != "standard"])
def test_the_same_from_elsewhere(fleet, name):
    """What a kind is excused from is so in its own network only."""
    kind = KINDS[name]
    reply = kind.ask(fleet, source="198.51.100.1")
    due = {"release-13": "signature.profile", "dispatch": "kms_uri.mismatch"}.get(name, "signature.missing")
    assert (reply.status, fleet.last(1)["reason"], fleet.last(1)["rule"]) == (403, due, "standard")
    assert fleet.upstream_requests() == []
    assert kind.ask(fleet).status == 200


def test_a_radio_that_was_updated(fleet):
    """It signs from its old network: it is proven, and gets all that the standard gives."""
    body = kms.signed_request(RADIO, fleet.url("/keyprov"))
    reply = fleet.post("/keyprov", body, {"X-Forwarded-For": "10.20.0.9"})
    assert reply.status == 200 and reply.verify(RADIO.ink, RADIO.ink_id)
    assert len(reply.keys(RADIO.trk, RADIO.trk_id)) == 3 and reply.text("TrK-ID") == RADIO.trk_id
    assert fleet.last(1)["proven"] is True
    assert fleet.post("/keyprov", body, {"X-Forwarded-For": "10.20.0.9"}).status == 403  # it cannot be replayed


def test_a_radio_that_names_its_trk(fleet):
    body = unsigned(RADIO, fleet.url("/keyprov"), Time=local_time(), **{"TrK-ID": RADIO.trk_id})
    reply = fleet.post("/keyprov", body, {"X-Forwarded-For": "10.20.0.9"})
    assert reply.status == 200 and not reply.signed
    assert reply.text("TrK-ID") == RADIO.trk_id and len(reply.keys(RADIO.trk, RADIO.trk_id)) == 3


def test_an_unsigned_console_without_keys(fleet):
    """Nothing could be encrypted for a user whom nobody knows: nothing is sent."""
    stranger = kms.User("sip:stranger@example.org")
    reply = fleet.post("/keyprov", unsigned(stranger, fleet.url("/keyprov")), {"X-Forwarded-For": "10.40.0.9"})
    assert (reply.status, fleet.last(1)["reason"]) == (500, "protect.no_key")


def test_who_is_told_to_the_kms(fleet):
    """The header that the KMS believes is the gateway's; a client's own of that name never arrives."""
    forged = {"X-3GPP-Asserted-Identity": "sip:bob@example.org"}
    told = []
    for kind in KINDS.values():
        kind = Kind(kind.user.uri.split(":")[1].split("@")[0], kind.source, kind.rule, kind.body, kind.path,
                    headers=dict(kind.headers, **forged))
        assert kind.ask(fleet).status == 200
        headers = {k.lower(): v for k, v in fleet.upstream_requests()[-1]["headers"].items()}
        told.append(headers.get("x-3gpp-asserted-identity"))
    assert told == [k.user.uri if k.rule != "token" else None for k in KINDS.values()]
    assert {k.lower(): v for k, v in fleet.upstream_requests()[4]["headers"].items()}["x-fleet"] == "7"


def test_the_file_has_no_lint_that_nobody_has_decided_about(gateway, fleet, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    run = fleet.run("check", path, check=False)
    left = [line for line in run.stderr.splitlines() if "shadow-old" not in line]
    assert run.returncode == 0 and left == []
