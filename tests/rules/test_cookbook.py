"""The cookbook of rules/README.md: each recipe does what its text says, by `kmsgate test` on the very text."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
COOKBOOK = re.search(r"^## Cookbook\n(.*?)^## ", (ROOT / "rules" / "README.md").read_text(), re.M | re.S).group(1)
RECIPES = dict(re.findall(r"^### (.*?)\n.*?^```yaml\n(.*?)^```", COOKBOOK, re.M | re.S))

# A recipe's title begins with this; cases: a name, the request's facts, what is expected.
CASES = {
    "The first day": """\
defaults: { request: { at: 2026-12-01, source: 10.1.2.3, path: /keymanagement/identity/v1/keyprov } }
cases:
  - { name: unsigned, request: { form: unsigned, keys: none, without: trk_id },
      expect: { verdict: accept, response: { reason: ok, signed_by: none, encrypted: false } } }
  - { name: empty, request: { form: empty }, expect: { verdict: accept, response: { reason: ok, encrypted: false } } }
  - { name: as the standard says, expect: { verdict: accept, shadow: [], response: { signed_by: ink, encrypted: true } } }
  - { name: a user without keys, request: { keys: none, without: trk_id },
      expect: { verdict: accept, shadow: [key.unknown, key.policy], response: { reason: ok, signed_by: none } } }
  - { name: a user without TrK, request: { keys: ink, without: trk_id }, expect: { verdict: accept, response: { signed_by: ink } } }
  - { name: a TrK that nobody knows, request: { keys: ink, trk_id: trk.7 },
      expect: { verdict: accept, shadow: [key.policy], response: { reason: protect.no_key } } }
  - { name: a wrong signature, request: { fails: signature },
      expect: { verdict: accept, proven: false, shadow: [signature.invalid], response: { signed_by: none } } }
  - { name: schema, request: { version: 7.7.7 }, expect: { verdict: accept, shadow: [xml.invalid] } }
  - { name: key_policy, request: { fails: key_policy }, expect: { verdict: accept, shadow: [key.policy] } }
  - { name: kms_uri, request: { fails: kms_uri }, expect: { verdict: accept, shadow: [kms_uri.mismatch] } }
  - { name: time, request: { fails: time }, expect: { verdict: accept, shadow: [time.stale] } }
  - { name: client_req_url, request: { fails: client_req_url }, expect: { verdict: accept, shadow: [client_req_url.mismatch] } }
  - { name: path_user, request: { path: /keymanagement/identity/v1/keyprov/sip%3Abob%40example.org },
      expect: { verdict: accept, shadow: [path_user.mismatch] } }
  - { name: replay, request: { fails: replay }, expect: { verdict: accept, shadow: [replay.seen] } }
  - { name: elsewhere, request: { source: 192.0.2.1 }, expect: { verdict: reject, reason: rule.none } }
""",
    "One vendor's clocks are wrong": """\
defaults: { request: { at: 2026-12-01, client_id: vendor-b-7 } }
cases:
  - { name: two minutes late, request: { offset: -2m }, expect: { verdict: accept, rule: vendor-b, response: { signed_by: ink } } }
  - { name: later, request: { offset: -121s }, expect: { verdict: reject, reason: time.stale } }
  - { name: local time, request: { offset: +1h, zone: none }, expect: accept }
  - { name: two minutes ahead, request: { offset: +2m }, expect: accept }
  - { name: all else holds, request: { fails: replay }, expect: { verdict: reject, reason: replay.seen } }
  - { name: another vendor, request: { client_id: vendor-c-7, offset: -6s },
      expect: { verdict: reject, rule: everyone, reason: time.stale } }
""",
    "A new radio fleet": """\
defaults: { request: { at: 2026-12-02, source: 10.70.0.9, user: "sip:r1@seven.example.org" } }
cases:
  - { name: one's own keys, request: { path: /keymanagement/identity/v1/keyprov },
      expect: { verdict: accept, rule: fleet-7, headers: { X-Fleet: "7" }, response: { signed_by: ink, encrypted: true } } }
  - { name: a group's, request: { path: /keymanagement/identity/v1/keyprov/sip%3Agroup-1%40seven.example.org },
      expect: { verdict: accept, rule: fleet-7 } }
  - { name: another's, request: { path: /keymanagement/identity/v1/keyprov/sip%3Ar2%40seven.example.org },
      expect: { verdict: reject, reason: path_user.mismatch } }
  - { name: unsigned, request: { form: unsigned }, expect: { verdict: reject, reason: signature.missing } }
  - { name: before its day, request: { at: 2026-11-30 }, expect: { verdict: accept, rule: everyone, headers: { X-Fleet: none } } }
""",
    "Emergency": """\
defaults: { request: { at: 2026-12-01, source: 10.20.0.9, path: /keymanagement/identity/v1/keyprov } }
cases:
  - { name: keys leave in clear, request: { form: unsigned, keys: none, without: trk_id },
      expect: { verdict: accept, rule: emergency, proven: false, response: { rule: emergency, signed_by: none, encrypted: false } } }
  - { name: empty, request: { form: empty, path: /keymanagement/identity/v1/init }, expect: { verdict: accept, rule: emergency } }
  - { name: who has keys is served as ever, expect: { verdict: accept, response: { rule: default, signed_by: ink, encrypted: true } } }
  - { name: a wrong signature, request: { fails: signature }, expect: { verdict: reject, reason: signature.invalid } }
  - { name: other resources, request: { form: unsigned, path: /keymanagement/identity/v1/certcache },
      expect: { verdict: reject, rule: everyone, reason: signature.missing } }
  - { name: elsewhere, request: { form: unsigned, source: 10.21.0.9 },
      expect: { verdict: reject, rule: everyone, reason: signature.missing } }
  - { name: after its last day, request: { form: unsigned, at: "2200-01-01" },
      expect: { verdict: reject, rule: everyone, reason: signature.missing } }
""",
}


def test_each_recipe_has_cases():
    assert len(RECIPES) == len(CASES) and all(any(t.startswith(c) for t in RECIPES) for c in CASES)


@pytest.mark.parametrize("title", CASES)
def test_recipe(title, tmp_path):
    text = next(x for t, x in RECIPES.items() if t.startswith(title))
    (tmp_path / "rules.yaml").write_text(text)
    (tmp_path / "cases.yaml").write_text("version: 1\n" + CASES[title])
    run = subprocess.run([BUILD / "kmsgate", "test", "rules.yaml", "cases.yaml"], capture_output=True, text=True, timeout=60,
                         cwd=tmp_path)
    assert run.returncode == 0, run.stderr
