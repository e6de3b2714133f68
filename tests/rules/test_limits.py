"""How much a rules file may hold: the last that goes, and the first that does not, with its place."""
import os
import subprocess
from pathlib import Path

import pytest

BUILD = Path(os.environ.get("TESTED_BUILD", Path(__file__).parents[2] / "build")).resolve()
HEAD = "version: 1\nkms: { uris: [kms.example.org] }\n"
RULE = "requests: [{ id: everyone%s }]\nresponses: [{ id: default%s }]\n"


def many(n, text):
    return ", ".join(text % i for i in range(n))


@pytest.mark.parametrize("make,most,says", [
    (lambda n: "requests: [%s]\nresponses: [{ id: default }]\n" % many(n, "{ id: r%d }"), 2000,
     ":3:11: found 2001 request rules, expected 1 to 2000"),
    (lambda n: "requests: [{ id: everyone }]\nresponses: [%s]\n" % many(n, "{ id: r%d }"), 2000,
     ":4:12: found 2001 response rules, expected 1 to 2000"),
    (lambda n: RULE % ("", "") + "dialects: { %s }\n" % many(n, "d%d: {}"), 2000, ": a mapping of more than 2000 keys"),
    (lambda n: RULE % (", forward: { headers: { %s } }" % many(n, "X-%d: a"), ""), 16,
     ":3:48: found 17 headers, expected at most 16"),
    (lambda n: RULE % (", forward: { headers: { X-A: %s } }" % ("a" * n), ""), 1024,
     ":3:55: a value of more than 1024 bytes"),
    (lambda n: RULE % (", match: { user: [%s] }" % many(n, "sip:u%d"), ""), 1000,
     ":3:43: found a list of 1001, expected at most 1000"),
    (lambda n: RULE % ("", ", match: { status: [%s] }" % ", ".join(str(200 + i) for i in range(n))), 400,
     ":4:45: found 401 statuses, expected 1 to 400"),
], ids=["request rules", "response rules", "dialects", "headers", "a header's value", "users", "statuses"])
def test_limits(tmp_path, make, most, says):
    rules = tmp_path / "rules.yaml"

    def check(n):
        rules.write_text(HEAD + make(n))
        return subprocess.run([BUILD / "kmsgate", "check", rules], capture_output=True, text=True, timeout=120)
    run = check(most)
    assert run.returncode == 0, run.stderr[:1000]
    run = check(most + 1)
    assert run.returncode == 1 and says in run.stderr, run.stderr[:1000]
