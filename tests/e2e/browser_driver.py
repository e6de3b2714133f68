"""Debian's chromium, driven by playwright-core from npm: installed once, by its lock file."""
import fcntl
import json
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def npm_folder(build, name):
    """Where the packages of tests/e2e/NAME are, installed if they were not yet; skips the test where npm cannot."""
    npm, folder = shutil.which("npm"), build / name
    if not npm or not shutil.which("node"):
        pytest.skip(name + ": there is no npm here")
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several who test at once one installs
        if not (folder / "installed").exists():
            install(npm, folder, name)
    return folder


def install(npm, folder, name):
    for file in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name / file, folder)
    got = subprocess.run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=folder,
                         capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    if got.returncode:
        pytest.skip(name + ": npm cannot install it here: " + (got.stderr.strip().split("\n") or ["?"])[0])
    (folder / "installed").touch()


class Browser:
    def __init__(self, build):
        if not Path("/usr/bin/chromium").exists():
            pytest.skip("browser: Debian's chromium is not installed here")
        self.p = subprocess.Popen(["node", HERE / "browser" / "main.js", npm_folder(build, "browser")], text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, what, **more):
        self.p.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.p.stdin.flush()
        line = self.p.stdout.readline()
        assert line, "the browser has ended"
        answer = json.loads(line)
        assert "failed" not in answer, "%s %s: %s" % (what, more, answer["failed"])
        return answer["ok"] if "ok" in answer else None

    def close(self):
        self.p.stdin.close()
        self.p.wait(60)
