"""What rules/README.md shows of `check`, `test`, `explain` and those that read decision logs is what the program prints.

Each ```console block of the reference is a session: lines that begin with `$ ` are run, what stands below is their output.
The folder that they are run in is made here: a gateway's configuration, two rules files, captured requests, a log.
"""
import base64
import hashlib
import hmac
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
README = (ROOT / "rules" / "README.md").read_text()
SESSIONS = re.findall(r"^```console\n(.*?)^```", README, re.M | re.S)
NS = "urn:3gpp:ns:mcsecKMSInterface:1.0"
DS = "http://www.w3.org/2000/09/xmldsig#"
INK = bytes(range(32))
URL = "https://kms.example.org/keymanagement/identity/v1/init"


def request(time, key, client="console-1", hashed=lambda text: text):
    """A SignedKmsRequest of alice's; written in canonical form, so that a hash needs no XML."""
    fields = [("UserUri", "sip:alice@example.org"), ("KmsUri", "kms.example.org"), ("Time", time), ("ClientId", client),
              ("ClientReqUrl", URL), ("Signature-ID", "ink.1.alice")]
    text = '<KmsRequest xmlns="%s" Id="xmldoc" Version="1.1.0">%s</KmsRequest>' % (
        NS, "".join("<%s>%s</%s>" % (n, v, n) for n, v in fields))
    digest = base64.b64encode(hashlib.sha256(hashed(text).encode()).digest()).decode()
    info = ('<SignedInfo%s><CanonicalizationMethod Algorithm="http://www.w3.org/TR/2001/REC-xml-c14n-20010315">'
            '</CanonicalizationMethod><SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#hmac-sha256">'
            '</SignatureMethod><Reference URI="#xmldoc"><DigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha256">'
            '</DigestMethod><DigestValue>' + digest + '</DigestValue></Reference></SignedInfo>')
    mac = base64.b64encode(hmac.new(key, (info % (' xmlns="%s"' % DS)).encode(), hashlib.sha256).digest()).decode()
    return ('<SignedKmsRequest xmlns="%s">%s<Signature xmlns="%s">%s<SignatureValue>%s</SignatureValue><KeyInfo><KeyName>'
            'ink.1.alice</KeyName></KeyInfo></Signature></SignedKmsRequest>' % (NS, text, DS, info % "", mac))


def log():
    checks = dict.fromkeys(["schema", "signature", "key_policy", "kms_uri", "time", "client_req_url", "path_user", "replay"], "pass")

    def line(n, user, **over):
        d = {"time": "2026-11-23T18:00:0%d.000Z" % n, "id": "%032x" % n, "source": "10.1.2.3", "method": "POST",
             "path": URL[23:], "rule": "everyone", "form": "signed", "proven": True, "user": user,
             "checks": dict(checks), "verdict": "accept", "reason": "ok",
             "claims": {"kms_uri": "kms.example.org", "time": "2026-11-23T18:00:0%dZ" % n, "client_req_url": URL},
             "expected_url": URL, "rules": "0" * 64}
        d.update(over)
        return json.dumps(d)

    stale = dict(checks, time="fail", replay="skip")
    return "\n".join([
        line(1, "sip:alice@example.org"),
        line(2, "sip:bob@example.org", verdict="reject", reason="time.stale", checks=stale,
             claims={"kms_uri": "kms.example.org", "time": "2026-11-23T17:59:41Z", "client_req_url": URL}),
        line(3, "sip:carol@example.org", claims={"kms_uri": "kms2.example.org", "time": "2026-11-23T18:00:03Z",
                                                 "client_req_url": URL}),
        line(4, "sip:dave@example.org", checks=dict(checks, key_policy="off")),
    ]) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    f = tmp_path_factory.mktemp("readme")
    for name in ("spec.yaml", "spec.cases.yaml", "rollout.yaml", "rollout.cases.yaml"):
        (f / name).write_text((ROOT / "rules" / name).read_text())
    (f / "gateway.yaml").write_text("listen: [{ address: 127.0.0.1:1 }]\nadmin: 127.0.0.1:2\npublic_url: https://kms.example.org\n"
                                    "upstream: { url: http://127.0.0.1:9 }\nrules: rollout.yaml\nkeys: sqlite:k.db\n"
                                    "master_key: file:master.key\nreplay: memory\ndecisions: none\n")
    (f / "master.key").write_text("7a" * 32)
    (f / "master.key").chmod(0o600)
    (f / "new.yaml").write_text((ROOT / "rules/spec.yaml").read_text().replace("  - id: everyone\n", "  - id: everyone\n    checks: "
                                                                                "{ time: { past: 30s } }\n"))
    keys = f / "keys.jsonl"
    keys.write_text(json.dumps({"user": "sip:alice@example.org", "type": "ink", "id": "ink.1.alice", "key": INK.hex()}) + "\n")
    keys.chmod(0o600)
    subprocess.run([BUILD / "kmsgate", "keys", "import", "--config", f / "gateway.yaml", keys], check=True, capture_output=True)
    (f / "local-time.xml").write_text(request("2026-11-23T20:00:01", INK))
    (f / "hex-key.xml").write_text(request("2026-11-23T18:00:00Z", INK.hex().encode()))
    (f / "crlf.xml").write_text(request("2026-11-23T18:00:00Z", INK, "console\n1", lambda text: text.replace("\n", "\r\n")))
    (f / "decisions.jsonl").write_text(log())
    blocks = re.findall(r"^```yaml\n# (\S+)\n(.*?)^```", README, re.M | re.S)
    for name, text in blocks:
        (f / name).write_text("# %s\n%s" % (name, text))  # as a reader copies it
    return f


def run(folder, command):
    argv = shlex.split(command)
    assert argv[0] == "kmsgate"
    r = subprocess.run([BUILD / "kmsgate", *argv[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
                       timeout=60)
    # both, as a terminal shows them; a rule that explain advises ends in a month
    return re.sub(r"^    until: \d{4}-\d\d-\d\d$", "    until: 2026-12-31", r.stdout, flags=re.M)


def steps(session):
    """(command, output) of each command of a session."""
    return [(c, out) for c, out in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.M)]


@pytest.mark.parametrize("n", range(len(SESSIONS)))
def test_session(folder, n):
    for command, expected in steps(SESSIONS[n]):
        assert run(folder, command) == expected, command


def test_all_are_shown():
    shown = {command.split()[1] for s in SESSIONS for command, _ in steps(s)}
    assert shown >= {"check", "test", "explain", "replay", "advise", "decisions"}


def test_the_language_of_cases_is_complete():
    """Each key that a case may have stands in the reference."""
    section = README[README.index("## Testing rules"):]
    source = "".join(p.read_text() for p in sorted((ROOT / "gateway/study").glob("cases*.c")))
    keys = set(re.findall(r'\{"(\w+)", (?:yaml|read)_\w+,', source))
    assert len(keys) > 35
    assert not [k for k in keys if not re.search(r"`%s`|\b%s:" % (k, k), section)]
