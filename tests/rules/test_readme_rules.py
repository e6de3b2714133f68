"""Every example of the rule language's reference is a file that `kmsgate check` takes."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = Path(os.environ.get("TESTED_BUILD", ROOT / "build")).resolve()
README = (ROOT / "rules" / "README.md").read_text()
EXAMPLES = [t for t in re.findall(r"^```yaml\n(.*?)^```", README, re.M | re.S) if t.startswith("version:")]


@pytest.mark.parametrize("n", range(len(EXAMPLES)))
def test_example(n, tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(EXAMPLES[n])
    run = subprocess.run([BUILD / "kmsgate", "check", path], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_reference_is_complete():
    """Each key and each lint that the program knows stands in the reference."""
    assert len(EXAMPLES) >= 8
    source = "".join(p.read_text() for p in sorted((ROOT / "gateway/gate").glob("rules*.[ch]")))
    keys = set(re.findall(r'^\s+\{"(\w+)", (?:yaml|read|rules|forward)_\w+,', source, re.M))
    lints = set(re.findall(r'X\([A-Z_]+, "([a-z-]+)"\)', source))
    assert len(keys) > 30 and len(lints) > 10
    missing = [k for k in keys | lints if not re.search(r"\b%s\b" % re.escape(k), README)]
    assert not missing, missing
