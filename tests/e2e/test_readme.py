"""Every command of the READMEs, as a newcomer types them, against the programs that were built."""
import os
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import pytest

import kms
from conftest import BUILD

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SETUP = {"gateway/demo", "tests/run"}  # install packages and build: what runs this test is one of them


def blocks(text):
    """(language and words, code) of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def tree(tmp_path):
    """A fresh copy of what the commands use, with ports of its own: others may be taken where the tests run."""
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    (tmp_path / "build").symlink_to(BUILD)
    return tmp_path


def test_a_first_gateway(tree):
    ports = {port: str(kms.free_port()) for port in ("8080", "9000", "9090")}
    env = {k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}
    background, out = [], []
    try:
        for kind, code in blocks(README):
            if not kind.startswith("sh") or set(re.findall(r"^\S+/\w+", code, re.M)) & SETUP:
                continue
            for port, free in ports.items():
                code = re.sub(r"\b%s\b" % port, free, code)
            if kind == "sh background":
                assert code.count("\n") == 1
                name = "background%d" % len(background)
                argv = [a for word in code.split() for a in (kms.SERVE if word == "serve" else [word])]
                background.append(kms.Process(argv, tree, name, env=env))
                if "serve" in code:
                    health = [BUILD / "kmsgate", "health", "--config", "first/gateway.yaml"]
                    kms.wait_for(lambda: subprocess.run(health, cwd=tree, env=env, capture_output=True).returncode == 0)
                else:
                    kms.wait_for(lambda: "\n" in background[0].out)
                continue
            run = subprocess.run(["bash", "-euc", code], cwd=tree, env=env, capture_output=True, text=True, timeout=120)
            assert run.returncode == 0, code + run.stdout + run.stderr
            out.append(run.stdout)
    finally:
        codes = [p.stop() for p in reversed(background)]
    assert len(background) == 2 and codes[0] == 0, background[1].err
    said = "".join(out)
    assert "2 added" in said and "UserDecryptKey" in said and "proven" in said and '"verdict":"accept"' in said


def test_the_demo_ends_as_told():
    told = re.search(r"<!-- demo -->\n```\n(.*?)^```$", README, re.M | re.S).group(1)
    env = {k: v for k, v in os.environ.items() if not k.startswith("KMSGATE_")}
    run = subprocess.run([BUILD / "kmsgate", "demo"], env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and run.stdout.endswith(told), run.stdout + run.stderr


def test_the_first_rule(tree):
    rules = [code for kind, code in blocks(README) if kind == "yaml" and code.startswith("version:")]
    assert len(rules) == 1
    soon = "until: %d-12-31" % (date.today().year + 1)  # the page's own day is over one day
    (tree / "first.yaml").write_text(re.sub(r"until: \S+", soon, rules[0]))
    run = subprocess.run([BUILD / "kmsgate", "check", "--strict", tree / "first.yaml"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_what_it_costs_is_what_was_measured():
    """Within a tenth: the page says it in round figures."""
    figures = (ROOT / "tests" / "bench" / "README.md").read_text()
    both = int(re.search(r"^both +([\d,]+) ", figures, re.M).group(1).replace(",", ""))
    cpu, rss = re.search(r"^kmsgate +\d+ +\d+ +([\d.]+) .* ([\d.]+) +0$", figures, re.M).groups()
    told = re.search(r"([\d,]+) instructions a signed key request, about (\d+) µs .* and (\d+) MiB", README).groups()
    for measured, said in zip((both, float(cpu), float(rss)), told):
        assert abs(int(said.replace(",", "")) / measured - 1) < 0.1, (measured, said)


def test_links():
    for page in ["README.md", "tests/bench/README.md"] + ["%s/README.md" % f for f in ("gateway", "rules", "docker", "certs")]:
        text = (ROOT / page).read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r'<img src="([^"]+)"', text):
            assert ((ROOT / page).parent / target).exists(), (page, target)
