"""Older KMSs behind the real program: each dialect of rules/dialects.yaml with the stored reply that it reads."""
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from kms import q
from scripted import check_xsd, forms_of, of_a_file

ROOT = Path(__file__).parents[2]
REPLIES = ROOT / "tests" / "cases" / "replies"
sys.path.insert(0, str(REPLIES))
import make  # noqa: E402

DIALECTS = yaml.safe_load((ROOT / "rules" / "dialects.yaml").read_text())["dialects"]
WITHOUT = ["default", "no-versions"]  # what needs no dialect
KEYS = [(n, make.octets(n)) for n in make.LENGTHS]


def rules():
    """A request's ClientId names its rule and so its dialect."""
    names = list(DIALECTS) + ["by-message"]
    return json.dumps({
        "version": 1, "kms": {"uris": ["kms.example.org"], "id": "kms-01"}, "errors": {"detail": "reason"},
        "requests": [{"id": n, "match": {"client_id": n}} for n in names] + [{"id": "everyone"}],
        "responses": [{"id": n, "match": {"rule": n}, "dialect": n} for n in DIALECTS] +
        [{"id": "init", "match": {"rule": "by-message", "message": "KmsInit"}, "dialect": "placeholder-namespace"},
         {"id": "error", "match": {"rule": "by-message", "message": "error"}, "dialect": "no-namespace"},
         {"id": "keys", "match": {"rule": "by-message", "message": "KmsKeyProv"}, "dialect": "no-namespace"},
         {"id": "rest"}],
        "dialects": DIALECTS})


alice, bench = of_a_file(rules(), "sip:bob@example.org")


def stored(name):
    return (REPLIES / (name + ".xml")).read_bytes()


def assert_whole(reply, alice):
    """All that the standard says of a reply, by other implementations; the very keys that the KMS sent."""
    assert reply.status == 200, reply.body
    check_xsd(reply)
    assert reply.verify(alice.ink, alice.ink_id)
    assert reply.keys(alice.trk, alice.trk_id) == KEYS
    assert reply.text("UserUri") == alice.uri and reply.text("KmsUri") == "kms.example.org"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", reply.text("Time"))
    assert [k.get("Version") for k in reply.response.iter(q("KmsKeySet"))] == ["1.1.0"]


def assert_no_key(text):
    for name in make.LENGTHS:
        for form in forms_of(make.octets(name)):
            assert form not in text


def test_the_stored_replies_are_those_that_make_writes():
    assert {p.stem for p in REPLIES.glob("*.xml")} == set(make.REPLIES)
    for name in make.REPLIES:
        assert stored(name) == make.encoded(name)


def test_each_dialect_has_a_reply():
    assert set(DIALECTS) | set(WITHOUT) == set(make.REPLIES)


@pytest.mark.parametrize("name", WITHOUT)
def test_without_dialect(bench, alice, name):
    reply, decision = bench.ask(alice, "/keyprov", stored(name))
    assert_whole(reply, alice)
    assert decision["response"]["rule"] == "rest"


@pytest.mark.parametrize("name", DIALECTS)
def test_dialect(bench, alice, name):
    """With its dialect a good reply, without it none, and never a key in clear."""
    reply, decision = bench.ask(alice, "/keyprov", stored(name), case=name)
    assert_whole(reply, alice)
    assert decision["reason"] == "ok"
    assert decision["response"]["rule"] == name and decision["response"]["message"] == "KmsKeyProv"
    assert_no_key(reply.body)
    reply, decision = bench.ask(alice, "/keyprov", stored(name), case="elsewhere")
    due = "upstream.wrong_user" if name.startswith("other-user") else "upstream.invalid"
    assert (reply.status, decision["reason"]) == (502, due)
    assert_no_key(reply.body)
    assert_no_key(bench.gate.running.err.encode() + (bench.gate.folder / "decisions.jsonl").read_bytes())


@pytest.mark.parametrize("name", DIALECTS)
def test_a_key_of_no_known_name(bench, alice, name):
    """An element more, in the words of the dialect, is an error, not something to be dropped or passed on."""
    text = stored(name).decode("latin-1")
    end = re.search(r"\n *</(\w+:)?(KmsKeySet|KmsKeyset|KeySet)>", text)
    ssk = make.octets("UserSigningKeySSK").hex()
    more = "<%sBackup>%s</%sBackup>" % (end.group(1) or "", ssk, end.group(1) or "")
    reply, decision = bench.ask(alice, "/keyprov", (text[:end.start()] + more + text[end.start():]).encode("latin-1"), case=name)
    assert (reply.status, decision["reason"]) == (502, "upstream.invalid")
    assert_no_key(reply.body)


@pytest.mark.parametrize("name", DIALECTS)
def test_another_users_keys(bench, alice, name):
    text = stored(name).decode("latin-1")
    users = re.findall(r"UserUri>([^<]*)</", text)
    body = text.replace("UserUri>%s</" % users[1], "UserUri>sip:bob@example.org</").encode("latin-1")
    reply, decision = bench.ask(alice, "/keyprov", body, case=name)
    if DIALECTS[name].get("user_uri") == "ignore":
        assert_whole(reply, alice)
    else:
        assert (reply.status, decision["reason"]) == (502, "upstream.wrong_user")


def error(namespace):
    return ('<KmsResponse%s><KmsError><ErrorCode>17</ErrorCode><ErrorMsg>row 4711</ErrorMsg></KmsError></KmsResponse>'
            % (' xmlns="%s"' % namespace if namespace else "")).encode()


def test_each_rule_looks_through_its_own_dialect(bench, alice):
    """Which rule matches depends on the message, which one sees through the rule's dialect only."""
    reply, decision = bench.ask(alice, "/keyprov", stored("no-namespace"), case="by-message")
    assert_whole(reply, alice)
    assert decision["response"]["rule"] == "keys"
    reply, decision = bench.ask(alice, "/keyprov", stored("default"), case="by-message")
    assert_whole(reply, alice)
    assert decision["response"]["rule"] == "keys"  # the standard's namespace is always read
    reply, decision = bench.ask(alice, "/keyprov", error(""), case="by-message")
    assert (reply.status, decision["response"]["rule"]) == (200, "error") and b"row 4711" not in reply.body
    for body in (stored("placeholder-namespace"), error("TOBEDEFINED"), b"out of order", b""):
        reply, decision = bench.ask(alice, "/keyprov", body, case="by-message")
        assert (reply.status, decision["reason"], decision["response"]["rule"]) == (502, "upstream.invalid", "rest")


@pytest.mark.parametrize("status,kind", [(400, "text/plain"), (403, "text/html"), (500, "application/json"), (503, None)])
def test_errors_as_text(bench, alice, status, kind):
    """What an older KMS says with an error status becomes a KmsError, whatever its dialect."""
    headers = [("Content-Type", kind)] if kind else []
    reply, decision = bench.ask(alice, "/keyprov", b"no keys for alice: row 4711", case="no-namespace", status=status,
                                headers=headers)
    assert (reply.status, decision["reason"]) == (status, "upstream.error")
    check_xsd(reply)
    assert reply.verify(alice.ink, alice.ink_id) and b"row 4711" not in reply.body
    assert reply.response.findtext("%s/%s" % (q("KmsError"), q("ErrorCode"))) == str(status)
