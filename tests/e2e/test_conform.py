"""`kmsgate conform`: true of the gateway, of an old KMS, and of gateways with one fault each."""
import json
import re
import stat
import xml.etree.ElementTree as ET

import pytest

import strict_kms
import kms


def conform(g, user, url, *more, code=None):
    keys = g.folder / "probe.jsonl"
    keys.write_text("\n".join(user.lines()) + "\n")
    keys.chmod(0o600)
    r = g.run("conform", "--url", url, "--user", user.uri, "--keys", keys, "--kms-uri", "kms.example.org", *more, check=False)
    assert code is None or r.returncode == code, r.stdout + r.stderr
    return r


def results(r):
    return {(c["clause"], c["check"], c["resource"]): c for c in json.loads(r.stdout)["checks"]}


def test_all_hold_for_the_gateway(gateway, alice, tmp_path):
    g = gateway()
    out = tmp_path / "kept"
    r = conform(g, alice, g.public, "--out", out, "--format", "json", code=0)
    x = json.loads(r.stdout)
    assert x["fails"] == x["unknown"] == 0 and x["holds"] == len(x["checks"]) > 45
    assert {c["clause"] for c in x["checks"]} == {"D.2.2", "D.2.2 (1)", "D.2.2 (2)", "D.2.2 (3)", "D.2.2 (4)", "D.2.2 (5)", "D.3", "D.3.1"}
    assert {c["resource"].split("/")[1] for c in x["checks"]} == {"init", "keyprov", "certcache", "cert", "lookup"}
    kept = {p.name for p in out.iterdir()}
    assert {"001-valid.request.xml", "001-valid.response.xml", "001-valid.status"} <= kept
    assert (out / "001-valid.status").read_text() == "HTTP 200\n"
    assert {stat.S_IMODE(p.stat().st_mode) for p in out.iterdir()} == {0o600} and stat.S_IMODE(out.stat().st_mode) == 0o700
    # The gateway saw what was meant: each flaw has its own reason.
    reasons = [d["reason"] for d in g.decisions(len(kept) // 3)]
    for reason in ("signature.invalid", "signature.missing", "signature.profile", "key.unknown", "key.policy", "xml.invalid",
                   "xml.forbidden", "kms_uri.mismatch", "time.stale", "time.future", "client_req_url.mismatch", "replay.seen"):
        assert reason in reasons, reason
    # No key is in what is kept, but wrapped.
    for p in out.iterdir():
        text = p.read_bytes().lower()
        assert alice.ink.hex().encode() not in text and alice.trk.hex().encode() not in text


def test_text_and_junit(gateway, alice):
    g = gateway()
    r = conform(g, alice, g.public, code=0)
    assert r.stdout.startswith("CLAUSE ") and "0 do not, 0 cannot be told" in r.stdout
    assert max(map(len, r.stdout.splitlines())) <= 130
    suite = ET.fromstring(conform(g, alice, g.public, "--format", "junit", code=0).stdout).find("testsuite")
    assert suite.get("failures") == suite.get("skipped") == "0" and int(suite.get("tests")) == len(suite.findall("testcase"))


def test_a_user_without_an_ink(gateway):
    carol = kms.User("sip:carol@example.org", ink=False)
    g = gateway(users=[carol])
    r = results(conform(g, carol, g.public, "--format", "json", code=0))
    assert not any("TrK does not sign" in check for _, check, _ in r)


def test_the_truth_about_an_old_kms(gateway, alice):
    """It takes all and signs nothing."""
    g = gateway()
    r = results(conform(g, alice, g.upstream, "--format", "json", code=1))
    by = {}
    for (clause, check, resource), c in r.items():
        by.setdefault(c["result"], set()).add(check)
    assert "a valid signed request is accepted" in by["holds"] | by["fails"]
    assert "a changed SignatureValue is refused" in by["fails"]
    assert "the same request a second time is refused" in by["fails"]
    assert "it is signed by the key that signed the request" in by["fails"]
    assert "Signature-ID names the key that signs" in by["fails"]


def test_nobody_there(gateway, alice):
    g = gateway(start=False)
    r = conform(g, alice, "http://127.0.0.1:%d" % kms.free_port(), "--format", "json", code=1)
    assert "Connection refused" in r.stderr or "connect" in r.stderr
    assert {c["result"] for c in results(r).values()} == {"unknown"}


@pytest.fixture
def strict(alice):
    made = []

    def make(*switches):
        made.append(strict_kms.Server(alice, switches))
        return made[-1]
    yield make
    for s in made:
        s.close()


def test_another_implementation_holds(gateway, alice, strict):
    """A KMS of its own, by python3-xmlsec: what is refused there is not the gateway's taste."""
    g, s = gateway(start=False), strict()
    r = conform(g, alice, s.url, "--format", "json")
    assert {k: c for k, c in results(r).items() if c["result"] != "holds"} == {}


@pytest.mark.parametrize("switch,check", sorted({
    "any-digest": "a field changed after signing is refused",
    "any-signature": "a changed SignatureValue is refused",
    "any-user": "another user's UserUri under this user's key is refused",
    "unsigned": "a request without signature is refused",
    "any-kms-uri": "another KMS's KmsUri is refused",
    "any-past": "a Time ten minutes ago is refused",
    "any-future": "a Time ten minutes ahead is refused",
    "any-url": "another resource's ClientReqUrl is refused",
    "replays": "the same request a second time is refused",
    "trk-signs": "the TrK does not sign for a user with an InK",
    "any-signature-id": "a Signature-ID that names another key is refused",
    "clear-keys": "its keys are encrypted under the TrK, which TrK-ID names",
    "wrong-signature": "it is signed by the key that signed the request",
    "bare-reply": "it is signed by the key that signed the request",
    "no-signature-id": "Signature-ID names the key that signs",
    "wrong-trk-id": "its keys are encrypted under the TrK, which TrK-ID names",
    "wrong-fields": "UserUri, KmsUri, Time and ClientReqUrl are those of the request",
    "wrong-message": "KmsMessage is what the resource owes",
    "text-errors": "a refusal is a KmsResponse with KmsError",
    "any-trk-id": "an unknown TrK-ID is refused",
    "any-length": "an HMAC cut to 128 bits is refused",
    "any-schema": "a request without KmsUri is refused",
    "any-dtd": "a document type declaration is refused",
    "any-place": "a signature of another request than the one beside it is refused",
    "url-prefix": "a ClientReqUrl that names no resource is refused",
    "last-only": "the same request a second time is refused",
    "init-only": "a changed SignatureValue is refused",
    "bare-errors": "a refusal of what was signed well is signed by the same key",
    "cut-keys": "its keys are encrypted under the TrK, which TrK-ID names",
    "misnamed-keys": "its keys are encrypted under the TrK, which TrK-ID names",
    "untyped-keys": "its keys are encrypted under the TrK, which TrK-ID names",
    "old-time": "UserUri, KmsUri, Time and ClientReqUrl are those of the request",
    "other-user": "UserUri, KmsUri, Time and ClientReqUrl are those of the request"}.items()))
def test_each_fault_is_found_and_no_other(gateway, alice, strict, switch, check):
    g, s = gateway(start=False), strict(switch)
    r = results(conform(g, alice, s.url, "--format", "json", code=1))
    bad = {c for (_, c, _), row in r.items() if row["result"] == "fails"}
    assert check in bad
    also = {"any-signature": {"a signature by another key is refused", "a signature by an unknown key is refused"},
            "any-url": {"another server's ClientReqUrl is refused", "a ClientReqUrl that names no resource is refused"},
            "any-signature-id": {"a signed request without Signature-ID is refused"},
            "any-schema": {"a request with two KmsUri is refused"},
            "bare-reply": {"Signature-ID names the key that signs", "a refusal of what was signed well is signed by the same key"},
            "any-digest": {"a signature of another request than the one beside it is refused"},
            "wrong-signature": {"a refusal of what was signed well is signed by the same key"},
            "init-only": {"a request without signature is refused", "a request without KmsUri is refused",
                          "another KMS's KmsUri is refused", "a Time ten minutes ago is refused",
                          "another resource's ClientReqUrl is refused"}}.get(switch, set())
    assert bad - {check} <= also, bad
    if switch == "init-only":
        assert {resource for (_, _, resource), row in r.items() if row["result"] == "fails"} == \
            {resource for _, _, resource in r} - {"/init"}


def test_who_cannot_judge_has_not_refused(gateway, alice, strict):
    """503 is no word about the request."""
    g, s = gateway(start=False), strict("busy")
    r = results(conform(g, alice, s.url, "--format", "json", code=1))
    row, = [c for c in r.values() if c["result"] != "holds"]
    assert (row["result"], row["check"]) == ("unknown", "the same request a second time is refused")
    assert row["found"].startswith("HTTP 503: it was not judged")


def test_what_does_not_hold_in_text_and_junit(gateway, alice, strict, tmp_path):
    """What was found, in which of the exchanges that were kept; a failure is one for whoever reads JUnit, too."""
    g, s = gateway(start=False), strict("wrong-message")
    text = conform(g, alice, s.url, "--out", tmp_path / "kept", code=1).stdout
    assert re.search(r"\n {28}found \w+, expected Kms\w+ \(\d{3}\)\n", text), text
    assert " exchanges are kept in %s" % (tmp_path / "kept") in text
    suite = ET.fromstring(conform(g, alice, s.url, "--format", "junit", code=1).stdout).find("testsuite")
    failures = suite.findall("testcase/failure")
    assert int(suite.get("failures")) == len(failures) > 0 and "expected Kms" in failures[0].get("message")


def test_what_is_no_kms(gateway, alice):
    """A server of another kind: each check says so, none holds by chance."""
    g = gateway()
    admin = "http://127.0.0.1:%d" % g.admin_port
    r = results(conform(g, alice, admin, "--format", "json", code=1))
    assert any("a body that is not a KmsResponse" in c["found"] for c in r.values()), r


@pytest.mark.parametrize("argv,words", [
    (["--url", "https://kms.example.org/"], "--url: found"), (["--url", "kms.example.org"], "--url: found"),
    (["--url", "https://kms.example.org/keymanagement/identity/v1/init"], "--url: found"),
    (["--format", "xml"], "expected text, json or junit"), (["--cert", "x"], "expected both of them"),
    (["--connect", "nowhere"], "expected HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH")])
def test_wrong_usage(gateway, alice, argv, words):
    g = gateway(start=False)
    url = () if "--url" in argv else ("--url", g.public)
    r = g.run("conform", *url, "--user", alice.uri, "--keys", g.folder / "keys.jsonl", *argv, check=False)
    assert r.returncode == 2 and words in r.stderr, r.stderr


def test_a_folder_that_cannot_be(gateway, alice, tmp_path):
    g = gateway(start=False)
    (tmp_path / "file").write_text("")
    r = conform(g, alice, g.public, "--out", tmp_path / "file", code=1)
    assert "exchanges cannot be kept there: Not a directory" in r.stderr
