"""Both ways with programs that others wrote: the xmlsec1 program, npm's xml-crypto; python3-xmlsec is in all other tests.
Requests that they sign are accepted, replies and requests that kmsgate signs hold for them, and what is stored of theirs
opens. A byte that differs ends each of it."""
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from lxml import etree

import kms
from browser_driver import npm_folder
from conftest import BUILD, RULES
from kms import NS, q
from scripted import Scripted

HERE = Path(__file__).parent
CASES = HERE.parent / "cases" / "vectors"
MESSAGE = RULES.replace("{ id: default }", "{ id: default, encrypt: { content: message } }")


# --- the two programs ----------------------------------------------------------------------------------------------------

class Xmlsec1:
    """Debian's program, by files."""

    def __init__(self, folder):
        self.folder = folder

    def _run(self, *argv):
        return subprocess.run(["xmlsec1", *map(str, argv)], capture_output=True, timeout=60)

    def _file(self, name, octets):
        path = self.folder / name
        path.write_bytes(octets)
        return path

    def sign(self, user, request):
        root = kms.envelope(request)
        root.append(kms.template(key_name=user.ink_id))
        got = self._run("--sign", "--hmackey:" + user.ink_id, self._file("ink", user.ink), "--id-attr:Id",
                        NS + ":KmsRequest", self._file("template.xml", etree.tostring(root)))
        assert got.returncode == 0, got.stderr
        return got.stdout

    def holds(self, user, signed, element):
        got = self._run("--verify", "--enabled-reference-uris", "same-doc", "--hmackey:" + user.ink_id,
                        self._file("ink", user.ink), "--id-attr:Id", NS + ":" + element, self._file("signed.xml", signed))
        said = got.stdout + got.stderr
        # its word, not only its exit code: that has been 0 for forged messages
        assert (got.returncode == 0) == (b"\nOK\n" in b"\n" + said), said
        return got.returncode == 0

    def decrypt(self, user, reply):
        got = self._run("--decrypt", "--aeskey:" + user.trk_id, self._file("trk", user.trk), self._file("reply.xml", reply))
        assert got.returncode == 0, got.stderr
        return etree.fromstring(got.stdout)


class XmlCrypto:
    """Installed once, by its lock file; only there is it missing where npm or what it asks cannot be reached."""

    def __init__(self):
        self.folder = BUILD / "xml_crypto"

    def install(self):
        npm_folder(BUILD, "xml_crypto")
        return self

    def _run(self, **ask):
        got = subprocess.run(["node", HERE / "xml_crypto" / "main.js", self.folder], input=json.dumps(ask).encode(),
                             capture_output=True, timeout=60)
        assert got.returncode == 0, got.stderr
        return got.stdout

    def sign(self, user, request):
        xml = etree.tostring(kms.envelope(request)).decode()
        return self._run(do="sign", key=user.ink.hex(), name=user.ink_id, xml=xml)

    def holds(self, user, signed, element):
        got = json.loads(self._run(do="verify", key=user.ink.hex(), name="", xml=signed.decode()))
        if got["holds"]:
            assert len(got["signed"]) == 1
            # what it took for signed is what is read
            assert etree.fromstring(got["signed"][0].encode()).tag == q(element)
        return got["holds"]


@pytest.fixture(params=["xmlsec1", "xml-crypto"])
def other(request, tmp_path):
    return Xmlsec1(tmp_path) if request.param == "xmlsec1" else XmlCrypto().install()


@pytest.fixture
def gate(gateway, alice, bob):
    """With time for a slow machine to start the other program, which signs a Time that was read before."""
    return gateway([alice, bob], rules=RULES.replace("{ id: everyone }",
                                                     "{ id: everyone, checks: { time: { past: 60s } } }"))


def changed(octets, old, new):
    assert octets.count(old) == 1, octets
    return octets.replace(old, new)


# --- requests ------------------------------------------------------------------------------------------------------------

def test_requests_they_sign_are_accepted(gate, alice, other):
    url = gate.url("/keyprov")
    reply = gate.post("/keyprov", other.sign(alice, kms.kms_request(kms.fields(alice, url))))
    assert reply.status == 200 and reply.verify(alice.ink, alice.ink_id)
    assert len(reply.keys(alice.trk, alice.trk_id)) == 3
    assert gate.last(1)["key_id"] == alice.ink_id and gate.last(1)["proven"] is True


def test_what_they_signed_and_somebody_changed_is_refused(gate, alice, bob, other):
    url = gate.url("/keyprov")
    good = other.sign(alice, kms.kms_request(kms.fields(alice, url, DeviceId="device-unique")))
    forged = gate.post("/keyprov", changed(good, b"device-unique", b"device-Unique"))
    assert (forged.status, forged.error) == (403, "signature.invalid")
    assert gate.post("/keyprov", good).status == 200 # its twin
    stranger = kms.User(alice.uri)
    stranger.ink_id = alice.ink_id
    other_key = other.sign(stranger, kms.kms_request(kms.fields(alice, url)))
    assert gate.post("/keyprov", other_key).error == "signature.invalid"


def test_requests_of_kmsgate_hold_for_them(gate, alice, tmp_path, other):
    keys = tmp_path / "client.jsonl"
    keys.write_text("\n".join(alice.lines()) + "\n")
    keys.chmod(0o600)
    printed = subprocess.run([BUILD / "kmsgate", "request", "--print", "--url", gate.url("/keyprov"), "--user", alice.uri,
                              "--keys", keys, "--kms-uri", "kms.example.org"], capture_output=True, timeout=60)
    assert printed.returncode == 0, printed.stderr
    signed = printed.stdout.strip()
    assert other.holds(alice, signed, "KmsRequest")
    assert not other.holds(alice, changed(signed, b"<KmsUri>kms.", b"<KmsUri>kmS."), "KmsRequest")


# --- replies -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path,rules", [("/keyprov", RULES), ("/init", RULES), ("/keyprov", MESSAGE)],
                         ids=["keyprov", "init", "whole-message"])
def test_replies_hold_for_them(gateway, alice, other, path, rules):
    g = gateway(rules=rules)
    reply = g.ask(alice, path)
    assert reply.status == 200 and reply.signed
    assert other.holds(alice, reply.body, "KmsResponse")
    assert not other.holds(alice, changed(reply.body, b"<KmsId>kms-01", b"<KmsId>kms-02"), "KmsResponse")
    stranger = kms.User(alice.uri)
    stranger.ink_id = alice.ink_id
    assert not other.holds(stranger, reply.body, "KmsResponse")


def test_refusals_hold_for_them(gate, alice, other):
    reply = gate.ask(alice, "/keyprov", KmsUri="kms.elsewhere.example")
    assert reply.status == 403 and reply.signed
    assert other.holds(alice, reply.body, "KmsResponse")


def test_kept_extensions_hold_for_them(gateway, alice, other):
    """An element of the upstream's that is passed on as it came stands within what is signed, in its own form."""
    upstream = Scripted()
    g = gateway(rules=RULES.replace("{ id: default }", "{ id: default, extensions: keep }"), upstream=upstream.url)
    upstream.says(b"<KmsResponse xmlns='%s' xmlns:x='urn:example:x' xmlns:unused='urn:example:unused'>"
                  b"<KmsMessage><KmsLookup><KmsUri>kms.example.org</KmsUri></KmsLookup></KmsMessage>"
                  b"<x:Surprise b='2' x:a='&gt;' a=\"'\"><y xmlns=''>&#13;</y><x:z/></x:Surprise></KmsResponse>" % NS.encode())
    reply = g.ask(alice, "/lookup/sip%3Abob%40example.org")
    upstream.close()
    assert reply.status == 200, reply.error
    assert reply.response.find("{urn:example:x}Surprise/y").text == "\r"
    assert other.holds(alice, reply.body, "KmsResponse")
    assert not other.holds(alice, changed(reply.body, b'b="2"', b'b="3"'), "KmsResponse")


def test_a_message_opens_by_xmlsec1(gateway, alice, tmp_path):
    """AES-256-GCM of the content under a key that is wrapped under the TrK (RFC 3394)."""
    g = gateway(rules=MESSAGE)
    reply = g.ask(alice, "/keyprov")
    assert b"UserDecryptKey" not in reply.body
    clear = Xmlsec1(tmp_path).decrypt(alice, reply.body)
    found = {etree.QName(e).localname: e.text for e in clear.iter(q("UserDecryptKey"), q("UserSigningKeySSK"),
                                                                  q("UserPubTokenPVT"))}
    assert found == {name: octets.hex().upper() for name, octets in reply.keys(alice.trk, alice.trk_id)} or \
        found == {name: octets.hex() for name, octets in reply.keys(alice.trk, alice.trk_id)}
    assert len(found) == 3


# --- what is stored of others ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["reply-santuario.xml", "reply-xml-crypto.xml"])
def test_stored_replies_open(tmp_path, name):
    keys = tmp_path / "keys.jsonl"
    shutil.copy(CASES / "keys.jsonl", keys)
    keys.chmod(0o600)

    def opened(reply):
        return subprocess.run([BUILD / "kmsgate", "open", "--user", "sip:alice@example.org", "--keys", keys, reply],
                              capture_output=True, text=True, timeout=120)
    good = opened(CASES / name)
    assert good.returncode == 0 and good.stderr == "", good.stderr
    assert good.stdout.count("UserDecryptKey") >= 1
    bad = tmp_path / "bad.xml"
    text = (CASES / name).read_bytes()
    at = text.index(b"</UserUri>") if b"</UserUri>" in text else text.index(b"UserUri>")
    bad.write_bytes(text[:at - 1] + bytes([text[at - 1] ^ 1]) + text[at:])
    forged = opened(bad)
    assert forged.returncode == 1 and "kmsgate: " in forged.stderr
