"""`kmsgate demo`: the story goes as told, fails when it does not, and leaves nothing behind however it ends."""
import os
import pty
import re
import shutil
import signal
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

import kms
from conftest import BUILD

ROOT = Path(__file__).parents[2]
REASONS = ["signature.missing", "signature.invalid", "time.stale", "client_req_url.mismatch", "kms_uri.mismatch", "replay.seen"]


@pytest.fixture
def place(tmp_path):
    """A folder for the demo's own; after the test nothing is in it and nobody works there."""
    d = tmp_path / "t"
    d.mkdir()
    yield d
    kms.wait_for(lambda: not working_in(d), 20)
    assert list(d.iterdir()) == []


def working_in(folder):
    out = []
    for p in Path("/proc").iterdir():
        try:
            if p.name.isdigit() and os.readlink(p / "cwd").startswith(str(folder)):
                out.append(int(p.name))
        except OSError:
            pass
    return out


def environment(place, **more):
    return {**{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TMPDIR": str(place), **more}


def demo(place, *argv, program=BUILD / "kmsgate", **env):
    r = subprocess.run([program, "demo", *argv], capture_output=True, text=True, timeout=120, env=environment(place, **env),
                       stdin=subprocess.DEVNULL)
    assert "ERROR: " not in r.stderr and "runtime error" not in r.stderr, r.stderr
    return r


def test_the_story(place):
    r = demo(place)
    assert r.returncode == 0 and r.stderr == "", r
    lines = r.stdout.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 100, "one screen"
    assert "\x1b" not in r.stdout, "plain when piped"
    assert re.findall(r" 403  (\S+)$", r.stdout, re.M) == REASONS
    assert r.stdout.count("\n  200 ") == 3 and "  proven: UserID and all three keys are those of sip:alice@" in r.stdout
    assert lines[-3].endswith(" brings trk.2.alice and ink.2.alice")
    assert lines[-2].startswith("  200 KmsKeyProv, signed by ink.2.alice, ")
    assert lines[-1].startswith("All steps succeeded. The KMS received the valid requests alone")


@pytest.mark.parametrize("env,colour", [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False),
                                        ({"TERM": "xterm", "NO_COLOR": "1"}, False)])
def test_on_a_terminal(place, env, colour):
    here, there = pty.openpty()
    p = subprocess.Popen([BUILD / "kmsgate", "demo"], stdout=there, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                         env=environment(place, **env))
    os.close(there)
    seen = kms.read_terminal(here)
    assert p.wait(60) == 0 and (b"\x1b[" in seen) == colour, seen
    assert re.sub(rb"\x1b\[[0-9;]*m", b"", seen).count(b" 403  ") == 6


def test_settings_around_it_do_not_matter(place):
    r = demo(place, KMSGATE_UPSTREAM_URL="http://127.0.0.1:1", KMSGATE_RULES="/nonexistent")
    assert r.returncode == 0, r


def heeds_interrupts():
    """A shell starts what runs in the background with SIGINT ignored, and that is inherited."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def kept(place):
    made = []

    def make(start=True):
        made.append(Kept(place))
        return made[-1].started() if start else made[-1]
    yield make
    for k in made:
        if k.p.poll() is None:
            k.p.terminate()
            k.p.wait(60)


class Kept:
    def __init__(self, place):
        self.out = place.parent / "demo.out"
        self.p = subprocess.Popen([BUILD / "kmsgate", "demo", "--keep"], stdout=self.out.open("wb"),
                                  stderr=(place.parent / "demo.err").open("wb"), stdin=subprocess.DEVNULL,
                                  env=environment(place), preexec_fn=heeds_interrupts)

    def started(self):
        kms.wait_for(lambda: "Try:" in self.out.read_text() and self.out.read_text().endswith("keys.jsonl\n"))
        self.text = self.out.read_text()
        return self

    @property
    def err(self):
        return (self.out.parent / "demo.err").read_text()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_keep(place, kept, sig):
    k = kept()
    folder = next(place.iterdir())
    assert str(folder) in k.text and folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "rules.yaml").read_text() == (
        (ROOT / "rules/spec.yaml").read_text() + "    renew: { trk: 90d, ink: 90d }\n")
    assert {f.name for f in folder.iterdir()} >= set(re.search(r"files +(.*)", k.text).group(1).split(", "))
    for secret in ("keys.jsonl", "master.key", "kmsgate.db"):
        assert (folder / secret).stat().st_mode & 0o077 == 0
    command = k.text[k.text.index("Try:\n") + 5:]
    r = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert r.returncode == 0 and "  proven: " in r.stdout and "signed by ink.2.alice" in r.stdout, r
    port = int(re.search(r"console +http://127\.0\.0\.1:(\d+)/", k.text).group(1))
    c = HTTPConnection("127.0.0.1", port, timeout=10)
    c.request("GET", "/readyz")
    assert c.getresponse().status == 200
    assert len(working_in(place)) == 2
    k.p.send_signal(sig)
    assert k.p.wait(60) == 0 and k.err == "", k.err
    assert working_in(place) == [] and list(place.iterdir()) == []


@pytest.mark.parametrize("after", [0.02, 0.2, 1.0, 1.5])
def test_interrupted(place, kept, after):
    k = kept(start=False)
    time.sleep(after)
    if "Try:" in k.out.read_text():
        pytest.skip("this machine is faster than the interruption")
    k.p.send_signal(signal.SIGINT)
    code = k.p.wait(60)
    # the last: it came before there was anything to clear away
    assert (code, "interrupted; all files were removed" in k.err) in ((1, True), (0, False), (-signal.SIGINT, False))
    assert working_in(place) == [] and list(place.iterdir()) == []


def test_killed(place, kept):
    """What cannot be caught still ends the children; only the folder stays."""
    k = kept()
    k.p.kill()
    k.p.wait(60)
    kms.wait_for(lambda: not working_in(place), 20)
    shutil.rmtree(next(place.iterdir()))


@pytest.mark.parametrize("name,told", [("kmsgate", "the gateway ended with 137"),
                                       ("legacy_kms", "the legacy KMS ended with 137")])
def test_a_child_that_ends_is_told(place, kept, name, told):
    k = kept()
    child = next(p for p in working_in(place) if os.readlink("/proc/%d/exe" % p).endswith("/" + name))
    os.kill(child, signal.SIGKILL)
    assert k.p.wait(60) == 1 and told in k.err, k.err


def test_nobody_reads(place):
    p = subprocess.Popen([BUILD / "kmsgate", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(place))
    p.stdout.close()
    assert p.wait(120) == 1 and b"cannot write to standard output" in p.stderr.read()
    p.stderr.close()


@pytest.fixture
def elsewhere(tmp_path):
    """The program in another folder, beside a legacy KMS of the test's making; the source tree is not needed."""
    d = tmp_path / "bin"
    d.mkdir()
    shutil.copy(BUILD / "kmsgate", d / "kmsgate")

    def make(script):
        if script is not None:
            (d / "legacy_kms").write_text("#!/bin/sh\n" + script % {"real": BUILD / "legacy_kms"})
            (d / "legacy_kms").chmod(0o755)
        return d / "kmsgate"
    return make


FAILS = [
    (None, "legacy_kms: expected the legacy KMS there"),
    ('echo "no way" >&2; exit 3\n', "the legacy KMS ended with 3 before it was ready"),
    ('exec %(real)s --fail wrong-rsk "$@"\n', "wrong key: UserDecryptKey"),
    ('exec %(real)s --fail wrong-ssk "$@"\n', "wrong key: UserSigningKeySSK"),
    ('exec %(real)s --fail wrong-user "$@"\n', "demo: /init: KmsError 502"),
    ('exec %(real)s --fail revoked "$@"\n', "demo: /init: the KMS certificate is revoked"),
    ('exec %(real)s --user-sets 0 "$@"\n', "no keys came"),
]


@pytest.mark.parametrize("script,told", FAILS)
def test_a_story_that_goes_wrong_fails(place, elsewhere, script, told):
    r = demo(place, program=elsewhere(script))
    assert r.returncode == 1 and told in r.stderr and r.stderr.startswith("kmsgate: "), r
    assert "All steps succeeded" not in r.stdout
    if script and "no way" in script:
        assert "kmsgate: demo: the legacy KMS: no way\n" in r.stderr


def test_its_twin_elsewhere(place, elsewhere):
    r = demo(place, program=elsewhere('exec %(real)s "$@"\n'))
    assert r.returncode == 0, r


def test_no_folder(place):
    r = demo(place, TMPDIR="/proc/none")
    assert r.returncode == 1 and "/proc/none/kmsgate-demo-" in r.stderr and "cannot be made" in r.stderr, r


def test_wrong_usage(place):
    for argv, told in ((["now"], "unexpected argument `now`"), (["--kep"], "unknown option `--kep`; did you mean `--keep`? See")):
        r = demo(place, *argv)
        assert r.returncode == 2 and "kmsgate: demo: " + told in r.stderr, r


# --- gateway/demo --------------------------------------------------------------------------------------------------------

@pytest.fixture
def script(tmp_path):
    """gateway/demo in a tree where installing and building are told to come out one way or the other."""
    (tmp_path / "gateway").mkdir()
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "gateway/demo", tmp_path / "gateway/demo")

    def run(*argv, install="exit 0", cmake="exit 0", program='echo "ran $*"'):
        for name, text in (("gateway/install-deps", install), ("tools/cmake", cmake)):
            (tmp_path / name).write_text("#!/bin/sh\n%s\n" % text)
            (tmp_path / name).chmod(0o755)
        (tmp_path / "build").mkdir(exist_ok=True)
        (tmp_path / "build/kmsgate").write_text("#!/bin/sh\n%s\n" % program)
        (tmp_path / "build/kmsgate").chmod(0o755)
        env = dict(os.environ, PATH="%s:%s" % (tmp_path / "tools", os.environ["PATH"]))
        return subprocess.run([tmp_path / "gateway/demo", *argv], capture_output=True, text=True, timeout=60, env=env, cwd="/")
    return run


def test_the_script(script):
    for _ in range(2):
        r = script("--keep")
        assert r.returncode == 0 and r.stdout.endswith("\nran demo --keep\n") and r.stderr == "", r
    assert script(program="exit 1").returncode == 1


def test_the_script_tells_why_it_fails(script):
    r = script(install='echo "install-deps: no network" >&2; exit 1')
    assert r.returncode == 1 and "no network" in r.stderr and "gateway/demo: the packages that" in r.stderr, r
    r = script(cmake='echo "error: no compiler" >&2; exit 1')
    assert r.returncode == 1 and "no compiler" in r.stderr and "gateway/demo: the build failed; all of it is in" in r.stderr, r
    for r in (r, script(install="exit 1")):
        assert "ran demo" not in r.stdout
